"""Ensemble: several detectors, each with a representation of its own, as one product of experts.

    S(x) = Π_k exp(z_k)^w_k,   z_k = (log s_k(x) − mean) / deviation of log s_k on tune normals

Raw scores have arbitrary scales, so none is ever added to another. Each is turned into a distance
from normal, in deviations of normal images; their product is the score of a product of experts
(Hinton, Neural Computation 2002). Maps are joined in the same way, location by location, on the
ensemble's own grid; outside a member's own foreground the member counts as average (z = 0).

The weights w_k have sum 1. They are proportional to how far defects planted in tune images move
each member's z, d′_k = √2 Φ⁻¹(AUROC_k): for independent Gaussian z this is the best linear
combination (Green & Swets, Signal Detection Theory and Psychophysics, 1966). A member that would
have less than half of an equal share is left out, and not stored; so is one for which the budget
left no step.

`members` are named detector/representation, such as "ebm/features": shapes and brightness are seen
in pixels, texture in features, and which of them matters need not be known. They are trained one
after another in equal shares of the budget, with their own defaults, which `settings` change; then
means and deviations are learned on tune. Larger = more anomalous.

Fails partly where a member finds nothing and planted defects do not show it: it dilutes the
evidence of the others. Cost: that of all members.

Where the channels of images are several files, a member may see one of them, as "ebm/features@t1".
It learns from the images that have it, and counts nothing where it is absent. Since a defect may
show in its channel alone, it is never left out: it has half of an equal share at least.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import ndtri

from anodetect.config import Config
from anodetect.errors import BudgetTooShort, ConfigError, DataError, ImageError
from anodetect.imaging.batch_files import BatchWriter
from anodetect.imaging.choices import planted_auroc
from anodetect.imaging.log_scores import (
    NormalScores,
    exponential,
    moments_of,
    scored_values,
    z_scores,
)
from anodetect.imaging.representations import Expert, check_state
from anodetect.imaging.resize import resize
from anodetect.imaging.standardise import MAX_TUNE, MICRO_BATCH
from anodetect.nn.batching import images_together
from anodetect.nn.state import arrays_under
from anodetect.nn.training import checkpoint_path
from anodetect.record import checkpoint
from anodetect.types import Batch, Bools, Floats, PlantedCopies, Scores, Seeds, State, TrainContext

LEARNED_FROM = 64  # images, for a representation that has something to learn
LEAST_WEIGHT = 1e-3  # of a member's foreground at a place, from which on its map counts there
RESERVE = 0.03  # of a member's share of the budget, for what comes after its training
EVIDENCE = 0.15  # of a member's share of the budget, at most, for scoring planted defects
NORMAL = 0.05  # of a member's share of the budget, at most, for scoring tune images
PART = 4  # images, which are scored between two looks at the clock
HIGHEST_AUROC = 0.999  # a few hundred planted defects cannot tell more
LEAST_SHARE = 0.5  # of an equal weight, from which on a member counts
REASONS = ("divergence", "budget", "steps")  # why a training ended, the worst first

Build = Callable[[str, Mapping[str, Any]], Expert]
Weights = tuple[float, ...]  # of the members, with sum 1


class EnsembleConfig(Config):
    """The members and what is changed in their settings."""

    members: tuple[str, ...] = Field(
        default=("ebm/features", "ebm/pixels"),
        min_length=2,
        description="The members, each as detector/representation and each once; of several "
        "channels, features are of one, as in `ebm/features@t1`.",
    )
    settings: dict[str, dict[str, Any]] = Field(
        default={},
        description="The settings of members, by name, in the sections `representation` and "
        "`detector`; what is not named keeps the member's default.",
    )
    weights: Literal["auto", "equal"] = Field(
        default="auto",
        description="How much each member counts: as planted defects on tune images recommend "
        "('auto'), or all alike ('equal').",
    )


@dataclass(frozen=True)
class MemberTraining:
    """The end of a member's training; `stopped_by` is None for a member that has no steps."""

    step: int
    stopped_by: str | None
    seconds: float


class Ensemble:
    """A product of experts."""

    Config = EnsembleConfig
    defaults: ClassVar[dict[str, Any]] = {"pixels": {"representation": {"size": 256}}}

    def __init__(self, config: EnsembleConfig, build: Build) -> None:
        """Make the members: `build` takes a member's name and settings."""
        self.config = config
        self.experts = [build(name, config.settings.get(name, {})) for name in config.members]
        self.normal = [NormalScores(1.0, 1.0, 1.0, 1.0) for _ in self.experts]
        self.weights: Weights = equal_weights(len(self.experts))

    # -- Training ----------------------------------------------------------------------------------

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if a member is named twice."""
        members = self.config.members
        for number, name in enumerate(members):
            if name in members[:number]:
                raise ConfigError(
                    f"detector.members: {name!r} is named twice, and would learn the same again"
                )

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Train one member after another; a resumed training starts with the first unfinished.
        DataError if all tune images lack a channel."""
        whole = np.arange(len(tune)) if tune.absent is None else np.flatnonzero(~tune.absent.any(1))
        if len(whole) == 0:
            raise DataError("no image that members are compared on has all channels")
        rows = whole[np.linspace(0, len(whole) - 1, min(len(whole), MAX_TUNE)).astype(np.int64)]
        tune, context = tune[rows], replace(context, planted=partial(among, context.planted, rows))
        count = len(self.experts)
        files = [context.workdir / f"member{number}.safetensors" for number in range(count)]

        ended: list[MemberTraining] = []
        evidence: dict[int, Floats] = {}
        spent = 0.0
        for number, file in enumerate(files):
            if context.resume and file.exists():
                arrays, facts = checkpoint.read(file)
                evidence[number] = arrays.pop("evidence")
                self._load_member(number, arrays, context.device)
                _drop_older(checkpoint_path(context), file)
                ended.append(MemberTraining(**facts))
                spent += ended[-1].seconds
                continue

            # An equal share of what is left of the budget.
            share = None
            if context.budget is not None:
                share = (1 - RESERVE) * (context.budget - spent) / (count - number)
            own, started = replace(context, budget=share), time.monotonic()
            try:
                member, evidence[number] = self._fit_member(number, fit, tune, own)
            except BudgetTooShort:
                spent += time.monotonic() - started
                if number == count - 1 and not evidence:
                    raise
                context.log({"member": self.config.members[number], "left_out": "budget"})
                continue
            arrays = self._member_state(number) | {"evidence": evidence[number]}
            checkpoint.write(file, arrays, asdict(member))
            checkpoint_path(context).unlink(missing_ok=True)
            ended.append(member)
            spent += member.seconds

        self.weights = self._choose_weights(evidence, context)
        reasons = {member.stopped_by for member in ended}
        if len(evidence) < count:
            reasons.add("budget")
        worst = next((reason for reason in REASONS if reason in reasons), None)
        context.log({"step": sum(member.step for member in ended), "stopped_by": worst})

    def _fit_member(
        self, number: int, fit: Batch, tune: Batch, context: TrainContext
    ) -> tuple[MemberTraining, Floats]:
        """Train a member, and learn what its scores and maps are on tune. Return how that went, and
        z of tune images and their planted copies, [1 + copies, N].

        Of few images scores and maps are learned on each half of them, as a member sees it that has
        learned from the other half.
        """
        started = time.monotonic()
        expert, name = self.experts[number], self.config.members[number]
        step = 0
        stopped_by: str | None = None

        def log(entry: Mapping[str, Any]) -> None:
            nonlocal step, stopped_by
            step = entry.get("step", step)
            stopped_by = entry.get("stopped_by", stopped_by)
            context.log({"member": name, **entry})

        expert.representation.run_on(context.device)
        rows = np.flatnonzero(~expert.lacks(fit))
        some = rows[:: max(1, len(rows) // LEARNED_FROM)]
        expert.representation.learn(
            (expert.part(fit.images[row]), fit.foreground[row]) for row in some
        )
        with tempfile.TemporaryDirectory(dir=context.workdir) as scratch:
            seen_fit = encoded(expert, fit, Path(scratch, "fit"), rows)
            seen_tune = encoded(expert, tune, Path(scratch, "tune"))
            left = None
            if context.budget is not None:
                left = max(0.0, context.budget - (time.monotonic() - started))
            seen_planted = cache(partial(encoded_copies, expert, context.planted, Path(scratch)))
            own = replace(context, budget=left, log=log, planted=seen_planted)
            if context.few:
                self.normal[number] = normal_scores_of_halves(expert, seen_fit, own)
            expert.detector.fit(seen_fit, seen_tune, context=own)
            budget = math.inf if context.budget is None else context.budget
            if not context.few:
                self.normal[number] = normal_scores(expert, seen_tune, NORMAL * budget)
            evidence = np.zeros((1, 0), np.float32)
            if self.config.weights == "auto" and not context.few:
                evidence = self._evidence(number, seen_tune, seen_planted(), EVIDENCE * budget)
        return MemberTraining(step, stopped_by, time.monotonic() - started), evidence

    def _evidence(
        self, number: int, tune: Batch, planted: PlantedCopies | None, seconds: float
    ) -> Floats:
        """Return a member's z [1 + copies, N] of tune images and of their planted copies, of none
        without copies. After so many `seconds` the images that are left have z = NaN."""
        if planted is None:
            return np.zeros((1, 0), np.float32)
        batches = (tune[planted.of], *planted.copies)
        z = np.full((len(batches), len(planted)), np.nan, np.float32)

        for rows in parts_in_time(len(planted), seconds):
            seeds = np.arange(rows.start, rows.stop, dtype=np.uint64)
            for copy, batch in enumerate(batches):
                scored = self.experts[number].detector.score(batch[rows], seeds=seeds)
                normal = self.normal[number]
                z[copy, rows] = z_scores(scored.image, normal.mean, normal.deviation)
        return z

    def _choose_weights(self, evidence: Mapping[int, Floats], context: TrainContext) -> Weights:
        """Return the weights that planted defects recommend among the members that have any
        `evidence`, equal ones if there is too little; log how well each member, and all together,
        tell them from clean images."""
        trained = sorted(evidence)
        z: Floats = np.stack([evidence[number] for number in trained])
        known = ~np.isnan(z).any((0, 1))
        if known.sum() < 2 or len(trained) == 1:
            return self._of_all(equal_weights(len(trained)), trained)

        auroc = [float(planted_auroc(each)) for each in z[:, :, known]]
        kept = [self.experts[number].planes is not None for number in trained]
        weights = self._of_all(proportional_weights(auroc, kept), trained)
        entry: dict[str, Any] = {}
        for number, value in zip(trained, auroc, strict=True):
            entry[f"planted_auroc {self.config.members[number]}"] = value
        together = product_of_experts(z[:, :, known], [weights[number] for number in trained])
        entry["planted_auroc together"] = float(planted_auroc(together))
        entry |= {"planted": int(known.sum()), "weights": self._described(weights)}
        context.log(entry)
        return weights

    def _of_all(self, weights: Weights, trained: Sequence[int]) -> Weights:
        """Return the weights of trained members with 0 for the others."""
        own = dict(zip(trained, weights, strict=True))
        return tuple(own.get(number, 0.0) for number in range(len(self.experts)))

    def _described(self, weights: Weights) -> str:
        """Return the members that count in words, with their weights where these differ."""
        parts = []
        for name, weight in zip(self.config.members, weights, strict=True):
            if weight == 1:
                return name
            if weight > 0:
                parts.append(f"{weight:.2g} {name}")
        return " + ".join(parts)

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores, maps, and reconstructions by the first member that has any.

        That member has to see images as they are, with as many channels.
        """
        size = images_together(MICRO_BATCH, *[expert.detector for expert in self.experts])
        parts = [self._score_part(part, seeds[rows]) for rows, part in batch.parts(size)]
        restored = [part.reconstruction for part in parts if part.reconstruction is not None]
        return Scores(
            np.concatenate([part.image for part in parts]),
            np.concatenate([part.heatmap for part in parts]),
            np.concatenate(restored) if restored else None,
        )

    def _score_part(self, batch: Batch, seeds: Seeds) -> Scores:
        """Return the scores of a few images."""
        channels, side = batch.images.shape[1], batch.images.shape[-1]
        image_z, map_z = [], []
        reconstruction = None
        weights = [weight for weight in self.weights if weight > 0]
        for expert, normal, weight in zip(self.experts, self.normal, self.weights, strict=True):
            if weight == 0:
                continue
            seen = encoded_in_memory(expert, batch)
            scored = expert.detector.score(seen, seeds=seeds)
            image_z.append(z_scores(scored.image, normal.mean, normal.deviation))
            map_z.append(map_z_scores(scored.heatmap, seen.foreground, normal, side))

            restored = scored.reconstruction
            if reconstruction is None and restored is not None and restored.shape[1] == channels:
                reconstruction = np.stack([resize(image, side, side) for image in restored])

        product = product_of_experts(self._shared(np.stack(map_z), batch), weights)
        heatmap = np.where(batch.foreground, product, 0).astype(np.float32)
        image = product_of_experts(self._shared(np.stack(image_z), batch), weights)
        return Scores(image, heatmap, reconstruction)

    def _shared(self, z: Floats, batch: Batch) -> Floats:
        """Return z of the members that count [K, N, ...], 0 where the channel of one is absent, and
        as much more of the others; ImageError if nothing is left of an image."""
        if batch.absent is None:
            return z
        counted = self._counted()
        present = ~np.stack([self.experts[number].lacks(batch) for number in counted])
        left = np.array([self.weights[number] for number in counted]) @ present
        if not left.all():
            raise ImageError("none of the channels that count is there")
        factors = (present / left).astype(np.float32)
        shared: Floats = z * factors.reshape(*factors.shape, *[1] * (z.ndim - 2))
        return shared

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the weights and the states of the members that count, each under its number."""
        state: State = {"weights": np.array(self.weights)}
        for number in self._counted():
            for name, array in self._member_state(number).items():
                state[f"{number}.{name}"] = array
        return state

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose state this was."""
        if "weights" in state:  # in older runs all members count alike
            self.weights = tuple(state["weights"].tolist())
        for number in self._counted():
            self._load_member(number, arrays_under(state, f"{number}."), device)

    def check_state(self, shape: Sequence[int]) -> None:
        """Raise ValueError if the arrays of a member do not fit what it sees of images with the
        channels of this shape."""
        if len(self.weights) != len(self.experts):
            raise ValueError(f"{len(self.weights)} weights are of other members than there are")
        for number in self._counted():
            expert = self.experts[number]
            planes = shape[0] if expert.planes is None else expert.planes[1] - expert.planes[0]
            check_state(expert.detector, expert.representation.shape_of(planes))

    def _counted(self) -> list[int]:
        """Return the numbers of the members that have a weight."""
        return [number for number, weight in enumerate(self.weights) if weight > 0]

    def _member_state(self, number: int) -> State:
        expert = self.experts[number]
        state: State = {"normal": np.array(self.normal[number])}
        for name, value in expert.representation.state().items():
            state[f"seen.{name}"] = np.asarray(value, np.float32)
        for name, array in expert.detector.state().items():
            state[f"detector.{name}"] = array
        return state

    def _load_member(self, number: int, arrays: State, device: str) -> None:
        expert = self.experts[number]
        expert.representation.run_on(device)
        expert.representation.load_state(arrays_under(arrays, "seen."))
        expert.detector.load_state(arrays_under(arrays, "detector."), device=device)
        self.normal[number] = NormalScores(*arrays["normal"].tolist())


# -- What members see and say ----------------------------------------------------------------------


def encoded(
    expert: Expert, batch: Batch, stem: Path, rows: NDArray[np.int64] | None = None
) -> Batch:
    """Write images as a member sees them to files, those in `rows` or all; return them as a batch
    of memory maps."""
    rows = np.arange(len(batch)) if rows is None else rows
    writer = BatchWriter(stem, len(rows))
    images = ((batch.images[row], batch.foreground[row]) for row in rows)
    for row, (image, foreground) in zip(rows, expert.encode_each(images), strict=True):
        writer.append(image, foreground, _lacking(expert, batch, int(row)))
    return writer.batch(None if batch.kinds is None else batch.kinds[rows])


def _lacking(expert: Expert, batch: Batch, row: int) -> Bools | None:
    """Return which channels an image lacks of those that a member sees together, None if none."""
    return None if batch.absent is None or expert.planes is not None else batch.absent[row]


def among(
    planted: Callable[[], PlantedCopies | None], rows: NDArray[np.int64]
) -> PlantedCopies | None:
    """Return the planted copies of some tune images, if there are any."""
    copies = planted()
    return None if copies is None else copies.among(rows)


def encoded_copies(
    expert: Expert, planted: Callable[[], PlantedCopies | None], folder: Path
) -> PlantedCopies | None:
    """Write planted copies as a member sees them to files in a folder; return them as memory
    maps."""
    found = planted()
    if found is None or len(found) == 0:
        return None
    copies = []
    for number, copy in enumerate(found.copies):
        copies.append(encoded(expert, copy, folder / f"planted{number}"))
    return replace(found, copies=tuple(copies))


def encoded_in_memory(expert: Expert, batch: Batch) -> Batch:
    """Return a few images as a member sees them."""
    images, foregrounds = [], []
    for seen, inside in expert.encode_each(zip(batch.images, batch.foreground, strict=True)):
        images.append(seen)
        foregrounds.append(inside)
    absent = None if expert.planes is not None else batch.absent
    return Batch(np.stack(images), np.stack(foregrounds), absent=absent)


def parts_in_time(count: int, seconds: float) -> Iterator[slice]:
    """Yield the rows of a few of `count` images at a time, in a mixed order that is always the
    same, until so many `seconds` are over; the first of them in any case."""
    starts = np.random.default_rng(0).permutation(np.arange(0, count, PART))
    until = time.monotonic() + seconds
    for number, start in enumerate(starts.tolist()):
        if number and time.monotonic() > until:
            return
        yield slice(start, min(start + PART, count))


def normal_scores(expert: Expert, tune: Batch, seconds: float = math.inf) -> NormalScores:
    """Return what the scores and maps of a trained member are on tune, as it sees it, or on as
    much of it as can be scored in so many seconds."""
    scores, places = scored_values(expert.detector, tune, parts_in_time(len(tune), seconds))
    return moments_of([scores], [places])


def normal_scores_of_halves(expert: Expert, fit: Batch, context: TrainContext) -> NormalScores:
    """Return what a member's scores and maps are on each half of fit, as it sees them when it has
    learned from the other half."""
    scores, places = [], []
    for first in (0, 1):
        learned_from, other = fit[first::2], fit[1 - first :: 2]
        expert.detector.fit(learned_from, learned_from, context=context)
        parts = parts_in_time(len(other), math.inf)
        own, own_places = scored_values(expert.detector, other, parts)
        scores.append(own)
        places.append(own_places)
    return moments_of(scores, places)


def map_z_scores(heatmaps: Floats, foreground: Bools, normal: NormalScores, side: int) -> Floats:
    """Return z of a member's maps [N, h, w], on a grid of this side, [N, side, side].

    It is 0 where the member has no evidence.
    """
    maps = []
    for heatmap, inside in zip(heatmaps, foreground, strict=True):
        values, known = resized_inside(heatmap, inside, side)
        z = z_scores(values, normal.map_mean, normal.map_deviation)
        maps.append(np.where(known, z, 0))
    return np.stack(maps)


def resized_inside(heatmap: Floats, inside: Bools, side: int) -> tuple[Floats, Bools]:
    """Return a map [h, w] on a grid of this side, and where on it there is evidence.

    Only what is in the foreground is interpolated: the zeros outside are no evidence, and would
    lower what is beside them.
    """
    weight = resize(inside[None].astype(np.float32), side, side)[0]
    known: Bools = weight > LEAST_WEIGHT
    values: Floats = resize((heatmap * inside)[None], side, side)[0] / np.where(known, weight, 1)
    return values, known


def _drop_older(checkpoint_file: Path, member: Path) -> None:
    """Remove the checkpoint of a member that was finished after it, and killed before it went."""
    written = member.stat().st_mtime_ns
    if checkpoint_file.exists() and checkpoint_file.stat().st_mtime_ns < written:
        checkpoint_file.unlink()


def equal_weights(count: int) -> Weights:
    """Return the same weight for each of so many members."""
    return (1 / count,) * count


def proportional_weights(auroc: Sequence[float], kept: Sequence[bool] = ()) -> Weights:
    """Return weights proportional to d′ of members with these AUROCs, but for less than LEAST_SHARE
    of an equal weight 0, or that share for members that are to be `kept`; equal ones if no member
    is better than chance."""
    departures = np.maximum(ndtri(np.clip(auroc, 0.0, HIGHEST_AUROC)), 0)
    if not departures.any():
        return equal_weights(len(auroc))
    shares = departures / departures.sum()
    least = LEAST_SHARE / len(auroc)
    shares[shares < least] = 0
    if any(kept):
        shares = np.maximum(shares, np.where(kept, least, 0))
    weights: list[float] = (shares / shares.sum()).tolist()
    return tuple(weights)


def product_of_experts(z: Floats, weights: Sequence[float]) -> Floats:
    """Return Π_k exp(z_k)^w_k of members' z, [K, ...] → [...]."""
    return exponential(np.tensordot(np.asarray(weights), z, 1))
