"""Ensemble: several detectors, each with a representation of its own, as one product of experts.

    S(x) = Π_k exp(z_k)^(1/K),   z_k = (log s_k(x) − mean) / deviation of log s_k on tune normals

Raw scores have arbitrary scales, so none is ever added to another: each becomes a distance from
normal in deviations of normal images, and what they are multiplied to is the score of a product of
experts (Hinton, Neural Computation 2002). Maps are joined in the same way, place by place, on the
ensemble's own grid; where a member's own foreground does not reach it says neither.

`members` are named detector/representation, such as "ebm/features": shapes and brightness are seen
in pixels, texture in features, and which of them matters need not be known. Where one member is
blind, the other's evidence is diluted. Members are trained one after another in equal shares of the
budget, with their own defaults, which `settings` change; then means and deviations are learned on
tune. Larger = more anomalous.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from anodetect.config import Config
from anodetect.imaging.batch_files import BatchWriter
from anodetect.imaging.quiet import LEAST_SPREAD, TINY
from anodetect.imaging.representations import Expert
from anodetect.imaging.resize import resize
from anodetect.imaging.standardise import MAX_TUNE, MICRO_BATCH
from anodetect.nn.state import arrays_under
from anodetect.nn.training import checkpoint_path
from anodetect.record import checkpoint
from anodetect.types import Batch, Bools, Floats, Scores, Seeds, State, TrainContext

LEARNED_FROM = 64  # images, for a representation that has something to learn
HIGHEST = 80.0  # of z: what exp still has a float32 for
WITHIN_REACH = (
    1e-3  # weight of a member's foreground at a place, from which on its map says something of it
)
RESERVE = 0.03  # of a member's share of the budget, for what comes after its training


Build = Callable[[str, Mapping[str, Any]], Expert]


class EnsembleConfig(Config):
    """`settings` has the sections `representation` and `detector` of each member's configuration,
    by its name."""

    members: tuple[str, ...] = Field(default=("ebm/features", "ebm/pixels"), min_length=2)
    settings: dict[str, dict[str, Any]] = Field(default={})


class Ensemble:
    Config = EnsembleConfig
    defaults: ClassVar[dict[str, Any]] = {"pixels": {"representation": {"size": 256}}}

    def __init__(self, config: EnsembleConfig, build: Build) -> None:
        self.config = config
        self.experts = [build(name, config.settings.get(name, {})) for name in config.members]
        self.normal = np.ones(
            (len(self.experts), 4)
        )  # of each: mean and deviation of log scores, and of log maps

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        tune = tune[np.linspace(0, len(tune) - 1, min(len(tune), MAX_TUNE)).astype(np.int64)]
        ended: list[Mapping[str, Any]] = []
        files = [
            context.workdir / f"member{number}.safetensors" for number in range(len(self.experts))
        ]
        for number, file in enumerate(files):
            if context.resume and file.exists():
                arrays, facts = checkpoint.read(file)
                self._load_member(number, arrays, context.device)
            else:
                left = (
                    None
                    if context.budget is None
                    else context.budget - sum(each["seconds"] for each in ended)
                )
                share = None if left is None else (1 - RESERVE) * left / (len(files) - number)
                facts = self._fit_member(number, fit, tune, replace(context, budget=share))
                checkpoint.write(file, self._member_state(number), facts)
                checkpoint_path(context).unlink(missing_ok=True)
            ended.append(facts)
        for file in files:
            file.unlink()
        reasons = [facts["stopped_by"] for facts in ended if facts["stopped_by"]]
        worst = next((each for each in ("divergence", "budget", "steps") if each in reasons), None)
        context.log({"step": sum(facts["step"] for facts in ended), "stopped_by": worst})

    def _fit_member(
        self, number: int, fit: Batch, tune: Batch, context: TrainContext
    ) -> dict[str, Any]:
        """Train a member and learn what its scores and maps are on tune; how its training ended."""
        begun = time.monotonic()
        expert, name = self.experts[number], self.config.members[number]
        last: dict[str, Any] = {"step": 0, "stopped_by": None}

        def log(record: Mapping[str, Any]) -> None:
            last.update({key: record[key] for key in last if key in record})
            context.log({"member": name, **record})

        some = range(0, len(fit), max(1, len(fit) // LEARNED_FROM))
        expert.representation.learn((fit.images[row], fit.foreground[row]) for row in some)
        with tempfile.TemporaryDirectory(dir=context.workdir) as scratch:
            seen = [
                encoded(expert, batch, Path(scratch, part))
                for part, batch in (("fit", fit), ("tune", tune))
            ]
            left = (
                None
                if context.budget is None
                else max(0.0, context.budget - (time.monotonic() - begun))
            )
            expert.detector.fit(*seen, context=replace(context, budget=left, log=log))
            scores, places = [], []
            for rows, part in seen[1].parts(MICRO_BATCH):
                scored = expert.detector.score(
                    part, seeds=np.arange(rows.start, rows.stop, dtype=np.uint64)
                )
                scores.append(scored.image)
                places.append(scored.heatmap[part.foreground])
        values = [
            np.log(np.maximum(np.concatenate(each), TINY), dtype=np.float64)
            for each in (scores, places)
        ]
        self.normal[number] = [
            fact for each in values for fact in (each.mean(), max(each.std(), LEAST_SPREAD))
        ]
        return last | {"seconds": time.monotonic() - begun}

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Image score, map, and the reconstruction of the first member that has one and sees
        pixels."""
        joined = [self._joined(part, seeds[rows]) for rows, part in batch.parts(MICRO_BATCH)]
        image, heatmap, reconstructions = (list(each) for each in zip(*joined, strict=True))
        made = [each for each in reconstructions if each is not None]
        return Scores(
            np.concatenate(image), np.concatenate(heatmap), np.concatenate(made) if made else None
        )

    def _joined(self, batch: Batch, seeds: Seeds) -> tuple[Floats, Floats, Floats | None]:
        """Scores [N], maps [N, H, W] and, if there is one, the reconstruction [N, C, H, W]; of few
        images."""
        side = batch.images.shape[-1]
        scores, maps = [], []
        reconstruction = None
        for expert, (middle, deviation, map_middle, map_deviation) in zip(
            self.experts, self.normal, strict=True
        ):
            seen = [
                expert.encode(*each) for each in zip(batch.images, batch.foreground, strict=True)
            ]
            images, inside = (np.stack(each) for each in zip(*seen, strict=True))
            scored = expert.detector.score(Batch(images, inside), seeds=seeds)
            scores.append(standing(scored.image, middle, deviation))
            near = [within(*each, side) for each in zip(scored.heatmap, inside, strict=True)]
            places, known = (np.stack(each) for each in zip(*near, strict=True))
            maps.append(np.where(known, standing(places, map_middle, map_deviation), 0))
            made = scored.reconstruction
            if (
                reconstruction is None
                and made is not None
                and made.shape[1] == batch.images.shape[1]
            ):
                reconstruction = np.stack([resize(each, side, side) for each in made])
        heatmap = np.where(batch.foreground, together(maps), 0).astype(np.float32)
        return together(scores), heatmap, reconstruction

    def state(self) -> State:
        numbers = range(len(self.experts))
        return {
            f"{n}.{name}": array for n in numbers for name, array in self._member_state(n).items()
        }

    def load_state(self, state: State, *, device: str) -> None:
        for number in range(len(self.experts)):
            self._load_member(number, arrays_under(state, f"{number}."), device)

    def _member_state(self, number: int) -> State:
        expert = self.experts[number]
        state = {
            f"seen.{name}": np.asarray(value, np.float32)
            for name, value in expert.representation.state().items()
        }
        state |= {f"detector.{name}": array for name, array in expert.detector.state().items()}
        return state | {"normal": self.normal[number]}

    def _load_member(self, number: int, arrays: State, device: str) -> None:
        expert = self.experts[number]
        expert.representation.load_state(arrays_under(arrays, "seen."))
        expert.detector.load_state(arrays_under(arrays, "detector."), device=device)
        self.normal[number] = arrays["normal"]


def encoded(expert: Expert, batch: Batch, stem: Path) -> Batch:
    """Write all images as a member sees them to files; return them as a batch of memory maps."""
    writer = BatchWriter(stem, len(batch))
    for row in range(len(batch)):
        writer.append(*expert.encode(batch.images[row], batch.foreground[row]))
    return writer.batch(batch.kinds)


def within(heatmap: Floats, inside: Bools, side: int) -> tuple[Floats, Bools]:
    """A member's map [h, w] on a grid of this side, and where the member has any evidence. Only
    what is in its own foreground is interpolated: the zeros outside are no evidence, and would deny
    what is beside them."""
    weight = resize(inside[None].astype(np.float32), side, side)[0]
    known: Bools = weight > WITHIN_REACH
    values: Floats = resize((heatmap * inside)[None], side, side)[0] / np.where(known, weight, 1)
    return values, known


def standing(values: Floats, middle: float, deviation: float) -> Floats:
    """z: the logarithm of scores or maps, in deviations of normal ones."""
    z: Floats = ((np.log(np.maximum(values, TINY)) - middle) / deviation).astype(np.float32)
    return z


def together(standings: Sequence[Floats]) -> Floats:
    """Members' z as one positive value, [K, ...] → [...]."""
    joined: Floats = np.exp(
        np.clip(np.mean(standings, 0, dtype=np.float64), -HIGHEST, HIGHEST)
    ).astype(np.float32)
    return joined
