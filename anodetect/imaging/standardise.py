"""From several maps of an image to one map and one score: each divided by what it is on tune
normals, then averaged.

Two choices can be left to how well planted defects on tune images are told from clean ones: whether
a map is divided by its mean or by each pixel's (`pixel_error`), and whether an image's score is the
peak of the map or the peak over the root of the map's median (`relative`). A third is which maps
are averaged. The simplest choice is taken that is within a standard error of the best (Breiman et
al., CART, 1984, section 3.4.3): a few dozen images cannot tell more.

A map that is quieter than any normal image's is as odd as one with a peak: a lens cap is likely,
and easy to reconstruct (Nalisnick et al., "Detecting out-of-distribution inputs using typicality",
2019). Such an image scores above most normal ones, the more so the quieter it is, and its whole map
is raised. All is learned on tune and then frozen.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from anodetect.config import Config, Pooling
from anodetect.errors import ConfigError
from anodetect.imaging.heatmaps import block_means, counted, finish, pool
from anodetect.imaging.planted import plant
from anodetect.types import Batch, Bools, Floats, Seeds, State, TrainContext

MICRO_BATCH = 16
PLANTINGS = 3
MAX_TUNE = 128
FOLDS = 5
RESAMPLES = 200
FEWEST_LEVELS = 10  # tune images that can tell how quiet a normal one may be
HIGH = 95  # percentile of tune scores, from which an image that is too quiet starts
LEAST_SPREAD = 0.02  # of the logarithm of a map's level: two per cent
TINY = 1e-12
RELATIVE = 0.5  # the exponent of the map's median, if any
# of the mean error, added to a pixel's own: where normals never err nothing may divide by zero
PIXEL_FLOOR = 0.1

Maps = Callable[[Batch, Seeds], Floats]  # non-negative maps of several kinds, [N, M, H, W]


class StandardizerConfig(Config):
    """How maps are made comparable; "auto" leaves a choice to planted defects on tune images."""

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
    """Learns what maps are on normal images, and makes one map and one score of them."""

    def __init__(self, config: StandardizerConfig, counts: Sequence[int]) -> None:
        """Averaged are the first so many maps; of several `counts` the best is chosen."""
        self.config, self.counts = config, counts
        # [M, H, W] or [M, 1, 1]: what to divide each map by; M is the number of maps averaged
        self.error: Floats
        self.pooling = config.pooling
        self.quiet: Floats  # [4], of `quiet_limits`

    def affordable(self, tune: Batch, context: TrainContext, seconds: float) -> tuple[Batch, float]:
        """The tune images, evenly spread, that can be scored in a fifth of the budget if
        MICRO_BATCH of them take `seconds`, and how long that is."""
        seconds *= 2 if len(self._choices()) == 1 else 2 + PLANTINGS
        limit = math.inf if context.budget is None else max(1.0, 0.2 * context.budget / seconds)
        count = min(
            len(tune), MAX_TUNE, int(min(math.ceil(MAX_TUNE / MICRO_BATCH), limit)) * MICRO_BATCH
        )
        rows = np.linspace(0, len(tune) - 1, count).astype(np.int64)
        reserve = 2.0 + 1.2 * seconds * math.ceil(count / MICRO_BATCH)
        if context.budget is not None and reserve > 0.9 * context.budget:
            raise ConfigError(
                f"looking at {count} normal images takes {reserve:.0f} of the budget's {context.budget:.0f} seconds, "
                "too many to train in the rest: give more minutes, or settings that score faster"
            )
        return tune[rows], reserve

    def learn(self, maps: Maps, tune: Batch, context: TrainContext) -> None:
        """Learn normal images' maps and make the choices."""
        side = block_side(tune.images.shape[-1], self.config.pooling)
        mean, clean = survey(maps, tune, side)
        weight = tune.foreground.mean(0)
        flat: Floats = np.maximum(
            (mean * weight).sum((1, 2), keepdims=True) / weight.sum(), 1e-6
        ).astype(np.float32)
        choice, *others = self._choices()
        if others and len(tune) >= 2:
            planted = []
            for n in range(PLANTINGS):
                copy = Batch(plant(tune.images, tune.foreground, seed=n), tune.foreground)
                planted.append(survey(maps, copy, side)[1] / flat)
            told = self._planted_scores(clean / flat, planted, tune.foreground, side)
            choice, auroc = simplest_of_the_best(told, context.seed)
            context.log(
                {f"planted_auroc {name_of(each)}": auroc[each] for each in auroc} | choice._asdict()
            )
        pixel: Floats = ndimage.gaussian_filter(mean, (0, 1, 1)) + PIXEL_FLOOR * flat
        self.error = (pixel if choice.pixel_error == "on" else flat)[: choice.maps]
        self.pooling = self._pooling(choice)
        parts = []
        for part, values in in_parts(maps, tune):
            scores, heatmaps = self._finish(values, part.foreground)
            parts.append((levels(heatmaps, part.foreground), scores))
        level, score = (np.concatenate(each) for each in zip(*parts, strict=True))
        self.quiet = quiet_limits(level, score, tune.foreground)

    def combine(self, maps: Floats, foreground: Bools) -> tuple[Floats, Floats]:
        """Maps [N, M or more, H, W] → (image scores [N], heatmaps [N, H, W])."""
        return quiet_raised(*self._finish(maps, foreground), foreground, self.quiet)

    def _finish(self, maps: Floats, foreground: Bools) -> tuple[Floats, Floats]:
        return finish((maps[:, : len(self.error)] / self.error).mean(1), foreground, self.pooling)

    def _choices(self) -> list["Choice"]:
        """All that are open to planted defects, the simplest first."""
        pixel_error, relative = (
            ("off", "on") if setting == "auto" else (setting,)
            for setting in (self.config.pixel_error, self.config.relative)
        )
        every = [Choice(*each) for each in itertools.product(self.counts, pixel_error, relative)]
        return sorted(every, key=lambda each: self.counts.index(each.maps) + each.count("on"))

    def _pooling(self, choice: "Choice") -> Pooling:
        exponent = RELATIVE if choice.relative == "on" else self.config.pooling.relative
        return self.config.pooling.model_copy(update={"relative": exponent})

    def _planted_scores(
        self, clean: Floats, planted: Sequence[Floats], foreground: Bools, side: int
    ) -> dict["Choice", Floats]:
        """Image scores [1 + PLANTINGS, N] of the clean images and of each copy with planted
        defects, for every open choice; maps are [N, M, h, w] each. A pixel's own error is learned
        on the other folds' images, or it would flatter the very images it was learned from."""
        share = block_means(foreground.astype(np.float32), side)  # of each block
        own = np.empty_like(clean)
        for fold in np.array_split(np.arange(len(clean)), min(FOLDS, len(clean))):
            total, weight = (np.delete(values, fold, 0).sum(0) for values in (clean, share))
            own[fold] = total / np.maximum(weight, 1e-6) + PIXEL_FLOOR
        inside = (
            block_means(counted(foreground, self.config.pooling.erode).astype(np.float32), side)
            >= 0.5
        )
        errors = {"off": np.ones_like(clean), "on": own}
        scores = {}
        for choice in self._choices():
            rows, pooling = (
                slice(choice.maps),
                self._pooling(choice).model_copy(update={"erode": 0}),
            )
            maps = [
                (part / errors[choice.pixel_error])[:, rows].mean(1) for part in (clean, *planted)
            ]
            scores[choice] = np.stack([pool(each, inside, pooling) for each in maps])
        return scores

    def state(self) -> State:
        return {
            "error": self.error,
            "relative": np.array([self.pooling.relative]),
            "quiet": self.quiet,
        }

    def load_state(self, state: State) -> None:
        self.error, self.quiet = state["error"], state["quiet"]
        self.pooling = self.config.pooling.model_copy(
            update={"relative": float(state["relative"][0])}
        )


class Choice(NamedTuple):
    """How maps become a score: how many of them, and what is "on" or "off"."""

    maps: int
    pixel_error: str
    relative: str


def name_of(choice: Choice) -> str:
    return "/".join(map(str, choice))


def simplest_of_the_best(
    scores: Mapping[Choice, Floats], seed: int
) -> tuple[Choice, dict[Choice, float]]:
    """The first choice whose planted AUROC is within a standard error of the best one's, and all
    AUROCs. The error is that of the difference, over resampled images; `scores` are [1 + PLANTINGS,
    N], clean first, the simplest choice first."""
    auroc = {choice: float(planted_auroc(values)) for choice, values in scores.items()}
    best = max(auroc, key=lambda each: auroc[each])
    count = scores[best].shape[1]
    resamples = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    again = {choice: planted_auroc(values[:, resamples]) for choice, values in scores.items()}
    error = {choice: (again[best] - values).std() for choice, values in again.items()}
    return next(each for each in scores if auroc[best] - auroc[each] <= error[each]), auroc


def planted_auroc(scores: Floats) -> NDArray[np.float64]:
    """AUROC of the rows after the first against the first, by ranks, of scores [1 + PLANTINGS, ...,
    N]: [...]."""
    from scipy.stats import rankdata  # here, because scoring is to begin at once

    rows, *_, count = scores.shape
    ranks = rankdata(
        np.moveaxis(scores, 0, -1).swapaxes(-1, -2).reshape(*scores.shape[1:-1], -1), axis=-1
    )
    odd = (rows - 1) * count
    total = ranks[..., count:].sum(-1) - odd * (odd + 1) / 2
    value: NDArray[np.float64] = total / (odd * count)
    return value


def in_parts(maps: Maps, batch: Batch) -> Iterator[tuple[Batch, Floats]]:
    """MICRO_BATCH images at a time, with their maps."""
    for rows, part in batch.parts(MICRO_BATCH):
        yield part, maps(part, np.arange(rows.start, rows.stop, dtype=np.uint64))


def survey(maps: Maps, batch: Batch, side: int) -> tuple[Floats, Floats]:
    """The mean of each map over a batch [M, H, W], and each image's maps averaged over blocks [N,
    M, h, w]; both over the foreground, and 0 outside."""
    total, blocks = np.zeros(1), []
    for part, values in in_parts(maps, batch):
        inside = values * part.foreground[:, None]
        total = total + inside.sum(0, dtype=np.float64)
        blocks.append(block_means(inside, side))
    mean: Floats = (total / np.maximum(batch.foreground.sum(0), 1)).astype(np.float32)
    return mean, np.concatenate(blocks)


def quiet_limits(level: Floats, scores: Floats, foreground: Bools) -> Floats:
    """Of the `levels` and scores [N] of normal images: the lowest level, the spread of levels, a
    high score, the least share of foreground."""
    spread = max(float(level.std()), LEAST_SPREAD)
    lowest = level.min() - spread if len(level) >= FEWEST_LEVELS else -np.inf
    share = foreground.mean(axes_of(foreground)).min()
    return np.array([lowest, spread, np.percentile(scores, HIGH), share], np.float32)


def quiet_raised(
    scores: Floats, heatmaps: Floats, foreground: Bools, limits: Floats
) -> tuple[Floats, Floats]:
    """Scores [N] and heatmaps, of images or of patches of volumes, raised where a map is quieter
    than the `limits`."""
    lowest, spread, high, share = limits
    below = (lowest - levels(heatmaps, foreground)) / spread
    whole = (
        foreground.mean(axes_of(foreground)) >= share
    )  # of a tile at an image's rim there is too little to tell
    raised = np.where((below > 0) & whole, np.maximum(scores, high * (1 + below)), scores).astype(
        np.float32
    )
    factor: Floats = (raised / np.maximum(scores, TINY)).astype(np.float32)
    return raised, heatmaps * np.expand_dims(factor, axes_of(foreground))


def levels(heatmaps: Floats, foreground: Bools) -> Floats:
    """The logarithm of each map's mean over the foreground, [N]."""
    axes = axes_of(foreground)
    mean = heatmaps.sum(axes, dtype=np.float64) / np.maximum(foreground.sum(axes), 1)
    level: Floats = np.log(np.maximum(mean, TINY)).astype(np.float32)
    return level


def axes_of(maps: Bools) -> tuple[int, ...]:
    """All but the first."""
    return tuple(range(1, maps.ndim))


def block_side(size: int, pooling: Pooling) -> int:
    """Blocks about as wide as the smoothing, which they stand for where maps are compared: cheap,
    and small to keep."""
    return next(
        side for side in range(max(1, round(2 * pooling.smooth)), 0, -1) if size % side == 0
    )
