"""From several maps of an image to one map and one score.

Each map is divided by its mean on tune normals; then the maps are averaged.

Two choices can be left to how well planted defects on tune images are told from clean ones: whether
a map is divided by its own mean or by each pixel's (`pixel_error`), and whether an image's score is
the peak of the map or the peak over the root of the map's median (`relative`). A third is how many
maps are averaged. `choices` says which one is taken, and `quiet` what happens to maps quieter than
those of normal images. All is learned on tune and then frozen.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from anodetect.config import Config, Pooling
from anodetect.errors import ConfigError
from anodetect.imaging.choices import Choice, simplest_of_the_best
from anodetect.imaging.heatmaps import block_means, counted, finish, pool
from anodetect.imaging.quiet import QuietLimits, levels, quiet_limits, quiet_raised
from anodetect.types import Batch, Bools, Floats, Seeds, State, TrainContext

MICRO_BATCH = 16
MAX_TUNE = 128  # images
FOLDS = 5
RELATIVE = 0.5  # the exponent of the map's median, if the score is relative
# The share of the mean error that is added to each pixel's own: nothing may be divided by zero
# where normals never err.
PIXEL_FLOOR = 0.1

Maps = Callable[[Batch, Seeds], Floats]  # non-negative maps of several kinds, [N, M, H, W]


class StandardizerConfig(Config):
    """The scaling of maps; "auto" leaves a choice to planted defects on tune images."""

    pixel_error: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether a map is divided by the mean of each pixel on normal images ('on') or "
        "by the mean of the whole map ('off'); 'auto' takes what separates planted defects better.",
    )
    relative: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether the score of an image is the peak of its map over the root of the "
        "map's median ('on'), or the peak as `pooling` has it ('off'); 'auto' takes what separates "
        "planted defects better.",
    )
    pooling: Pooling = Field(
        default=Pooling(smooth=2.0), description="How a map becomes an image score."
    )


class MapStandardizer:
    """Learns what maps are on normal images, and makes one map and one score of them.

    The first maps are averaged, as many as the best of `counts`. `error` is what each of them is
    divided by, [M, H, W] or [M, 1, 1]; `quiet` are the limits below which a map is too quiet.
    """

    def __init__(self, config: StandardizerConfig, counts: Sequence[int]) -> None:
        self.config, self.counts = config, counts
        self.pooling = config.pooling
        self.error: Floats
        self.quiet: QuietLimits

    def affordable(
        self, tune: Batch, context: TrainContext, seconds: float
    ) -> tuple[Batch, TrainContext, float]:
        """Return as many tune images, evenly spread, as can be scored in a fifth of the budget, a
        context with planted copies of these, and the seconds that the scoring takes.

        `seconds` is the time for MICRO_BATCH of them. Defects are planted now, if there are choices
        to make. ConfigError if there is too little budget.
        """
        planted = context.planted() if len(self._choices()) > 1 else None
        seconds *= 2 if planted is None else 2 + len(planted.copies)
        limit = math.inf if context.budget is None else max(1.0, 0.2 * context.budget / seconds)
        batches = int(min(math.ceil(MAX_TUNE / MICRO_BATCH), limit))
        possible = np.arange(len(tune)) if planted is None else planted.of
        count = min(len(possible), MAX_TUNE, batches * MICRO_BATCH)
        rows = possible[np.linspace(0, len(possible) - 1, count).astype(np.int64)]

        reserve = 2.0 + 1.2 * seconds * math.ceil(count / MICRO_BATCH)
        if context.budget is not None and reserve > 0.9 * context.budget:
            raise ConfigError(
                f"looking at {count} normal images takes {reserve:.0f} of the budget's "
                f"{context.budget:.0f} seconds, too many to train in the rest: give more minutes, "
                "or settings that score faster"
            )
        own = None if planted is None else planted.among(rows)
        return tune[rows], replace(context, planted=lambda: own), reserve

    def learn(self, maps: Maps, tune: Batch, context: TrainContext) -> None:
        """Learn what normal images' maps are, and make the choices."""
        side = block_side(tune.images.shape[-1], self.config.pooling)
        mean, clean = survey(maps, tune, side)
        flat = _flat(mean, tune.foreground.mean(0))
        choice = self._choose(maps, tune, clean, flat, side, context)

        pixel: Floats = ndimage.gaussian_filter(mean, (0, 1, 1)) + PIXEL_FLOOR * flat
        self.error = (pixel if choice.pixel_error == "on" else flat)[: choice.maps]
        self.pooling = self._pooling(choice)

        level, score = [], []
        for part, values in in_parts(maps, tune):
            scores, heatmaps = self._finish(values, part.foreground)
            level.append(levels(heatmaps, part.foreground))
            score.append(scores)
        self.quiet = quiet_limits(np.concatenate(level), np.concatenate(score), tune.foreground)

    def combine(self, maps: Floats, foreground: Bools) -> tuple[Floats, Floats]:
        """Return image scores [N] and heatmaps [N, H, W] of maps [N, M or more, H, W]."""
        return quiet_raised(*self._finish(maps, foreground), foreground, self.quiet)

    def state(self) -> State:
        """Return everything learned, as named arrays."""
        return {
            "error": self.error,
            "relative": np.array([self.pooling.relative]),
            "quiet": np.array(self.quiet, np.float32),
        }

    def load_state(self, state: State) -> None:
        """Become the standardizer whose `state` this was."""
        self.error, self.quiet = state["error"], QuietLimits(*state["quiet"])
        relative = float(state["relative"][0])
        self.pooling = self.config.pooling.model_copy(update={"relative": relative})

    def _finish(self, maps: Floats, foreground: Bools) -> tuple[Floats, Floats]:
        averaged = (maps[:, : len(self.error)] / self.error).mean(1)
        return finish(averaged, foreground, self.pooling)

    def _pooling(self, choice: Choice) -> Pooling:
        exponent = RELATIVE if choice.relative == "on" else self.config.pooling.relative
        return self.config.pooling.model_copy(update={"relative": exponent})

    def _choices(self) -> list[Choice]:
        """Return all choices that are open to planted defects, the simplest first."""
        pixel_error = _options(self.config.pixel_error)
        relative = _options(self.config.relative)
        choices = [Choice(*each) for each in itertools.product(self.counts, pixel_error, relative)]
        return sorted(choices, key=lambda each: self.counts.index(each.maps) + each.count("on"))

    def _choose(
        self,
        maps: Maps,
        tune: Batch,
        clean: Floats,
        flat: Floats,
        side: int,
        context: TrainContext,
    ) -> Choice:
        """Return the choice that planted defects recommend, the simplest if there are none or too
        few images; log how well each tells them from clean images."""
        first, *others = self._choices()
        planted = context.planted() if others else None
        if planted is None or len(planted) < 2:
            context.log(first._asdict())
            return first

        blocks = []
        for copy in planted.copies:
            blocks.append(survey(maps, copy, side)[1] / flat)
        foreground = tune.foreground[planted.of]
        scores = self._planted_scores(clean[planted.of] / flat, blocks, foreground, side)
        choice, auroc = simplest_of_the_best(scores, context.seed)
        entry = {f"planted_auroc {name}": value for name, value in auroc.items()}
        context.log(entry | choice._asdict())
        return choice

    def _planted_scores(
        self, clean: Floats, planted: Sequence[Floats], foreground: Bools, side: int
    ) -> dict[Choice, Floats]:
        """Return image scores [1 + copies, N] for every open choice: of the clean images and of
        each copy with planted defects.

        Maps are [N, M, h, w] each, in blocks of `side` pixels.
        """
        erode = self.config.pooling.erode
        inside = block_means(counted(foreground, erode).astype(np.float32), side) >= 0.5
        share = block_means(foreground.astype(np.float32), side)
        errors = {"off": np.ones_like(clean), "on": _own_errors(clean, share)}

        scores = {}
        for choice in self._choices():
            error = errors[choice.pixel_error]
            pooling = self._pooling(choice).model_copy(update={"erode": 0})
            pooled = []
            for maps in (clean, *planted):
                averaged = (maps / error)[:, : choice.maps].mean(1)
                pooled.append(pool(averaged, inside, pooling))
            scores[choice] = np.stack(pooled)
        return scores


def in_parts(maps: Maps, batch: Batch) -> Iterator[tuple[Batch, Floats]]:
    """Yield MICRO_BATCH images at a time, with their maps."""
    for rows, part in batch.parts(MICRO_BATCH):
        yield part, maps(part, np.arange(rows.start, rows.stop, dtype=np.uint64))


def survey(maps: Maps, batch: Batch, side: int) -> tuple[Floats, Floats]:
    """Return the mean of each map over a batch [M, H, W], and each image's maps averaged over
    blocks [N, M, h, w].

    Both are over the foreground, and 0 outside it.
    """
    total, blocks = np.zeros(1), []
    for part, values in in_parts(maps, batch):
        inside = values * part.foreground[:, None]
        total = total + inside.sum(0, dtype=np.float64)
        blocks.append(block_means(inside, side))
    mean: Floats = (total / np.maximum(batch.foreground.sum(0), 1)).astype(np.float32)
    return mean, np.concatenate(blocks)


def block_side(size: int, pooling: Pooling) -> int:
    """Return the side of blocks about as wide as the smoothing, which they stand for where maps are
    compared: they are cheap, and small to keep."""
    side = max(1, round(2 * pooling.smooth))
    while size % side:
        side -= 1
    return side


def _options(setting: str) -> tuple[str, ...]:
    return ("off", "on") if setting == "auto" else (setting,)


def _flat(mean: Floats, weight: Floats) -> Floats:
    """Return the mean of each map [M, 1, 1], given that of its pixels [M, H, W] and how often each
    is foreground [H, W]."""
    means = (mean * weight).sum((1, 2), keepdims=True) / weight.sum()
    flat: Floats = np.maximum(means, 1e-6).astype(np.float32)
    return flat


def _own_errors(clean: Floats, share: Floats) -> Floats:
    """Return what each image's maps [N, M, h, w] are divided by if `pixel_error` is "on".

    It is the mean of the other folds' images over the foreground, whose `share` of each block is
    [N, h, w]. With its own images a fold would be flattered.
    """
    own = np.empty_like(clean)
    for fold in np.array_split(np.arange(len(clean)), min(FOLDS, len(clean))):
        total = np.delete(clean, fold, 0).sum(0)
        weight = np.delete(share, fold, 0).sum(0)
        own[fold] = total / np.maximum(weight, 1e-6) + PIXEL_FLOOR
    return own
