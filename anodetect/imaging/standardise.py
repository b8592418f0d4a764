"""From several maps of an image to one map and one score.

    raw maps → divided by what similar normal patterns have → divided by what normal images have
    → averaged → times the distance to normal patterns → smoothed and pooled

Each map is divided by its mean on tune normals, so that none outweighs the others. Five choices can
be left to how well planted defects on tune images are told from clean ones (`imaging.choices`):

    maps         which of a detector's maps are averaged
    pattern      whether each place of a map is first judged against normal places that look like it
                 (`imaging.patterns`): a rare but normal pattern is no anomaly
    distance     whether the distance to the nearest of these is an expert of its own: the geometric
                 mean of both maps is a product of experts (Hinton, Neural Computation 2002)
    pixel_error  whether each place has an error of its own to be divided by
    relative     whether a score is the peak of a map, or the peak over the root of its median

`imaging.quiet` says what happens to maps quieter than those of normal images. All is learned on fit
and tune and then frozen.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt
from scipy import ndimage

from anodetect.config import Config, Pooling
from anodetect.errors import ConfigError
from anodetect.imaging.choices import Choice, first_of_the_best
from anodetect.imaging.heatmaps import block_means, counted, finish, pool
from anodetect.imaging.patterns import (
    LEAST_CHANNELS,
    as_images,
    choose_patterns,
    similar_patterns,
)
from anodetect.imaging.quiet import QuietLimits, levels, quiet_limits, quiet_raised
from anodetect.types import Batch, Bools, Floats, Seeds, State, TrainContext

MICRO_BATCH = 16
MAX_TUNE = 128  # images
FEWEST_TUNE = 8  # that are looked at however short the budget is
FOLDS = 5
RELATIVE = 0.5  # the exponent of the map's median, if the score is relative
# The share of the mean error that is added to a pattern's or a place's own: nothing may be divided
# by zero where normals never err.
FLOOR = 0.1
SECONDS_A_PATTERN = 0.001  # about, to choose it: a short budget has fewer
FEWEST_PATTERNS = 500

Maps = Callable[[Batch, Seeds], Floats]  # non-negative maps of several kinds, [N, M, H, W]
Switch = Literal["auto", "on", "off"]
Doubles = NDArray[np.float64]


class StandardizerConfig(Config):
    """The scaling of maps; "auto" leaves a choice to planted defects on tune images."""

    pattern: Switch = Field(
        default="off",
        description="Whether each place of a map is divided by what the most similar places of fit "
        "images have, for features ('on', 'off'); 'auto' is 'on' unless planted defects are "
        "separated better without.",
    )
    distance: Switch = Field(
        default="off",
        description="Whether the map is multiplied with the distance to the most similar place of "
        "fit images, for features ('on', 'off'); 'auto' is 'on' unless planted defects are "
        "separated better without.",
    )
    patterns: PositiveInt = Field(
        default=8000,
        description="The number of places of fit images that stand for all of them, where "
        "`pattern` or `distance` needs them; a budget of minutes may leave time for fewer.",
    )
    pixel_error: Switch = Field(
        default="auto",
        description="Whether a map is divided by the mean of each pixel on normal images ('on') or "
        "by the mean of the whole map ('off'); 'auto' takes what separates planted defects better, "
        "and with `pattern` is 'on' unless 'off' does.",
    )
    relative: Switch = Field(
        default="auto",
        description="Whether the score of an image is the peak of its map over the root of the "
        "map's median ('on'), or the peak as `pooling` has it ('off'); 'auto' takes what separates "
        "planted defects better.",
    )
    pooling: Pooling = Field(
        default=Pooling(smooth=2.0), description="How a map becomes an image score."
    )


@dataclass(frozen=True)
class Patterns:
    """Places of fit images: their vectors [P, C], and what M maps have there, [M, P]."""

    vectors: Floats
    errors: Floats


@dataclass(frozen=True)
class Recipe:
    """The way from the maps of an image to one.

    It is the mean of the maps `rows`, each divided by its `error`, [R, H, W] or [R, 1, 1], with an
    axis for images in front where each has its own. With `distance_error` it is multiplied with the
    distance over that.
    """

    rows: list[int]
    error: Floats
    distance_error: Floats | None

    def combined(self, maps: Floats) -> Floats:
        """Return the one map [N, H, W] of stacked maps [N, S, H, W], of which the distance is the
        last."""
        mean: Floats = (maps[:, self.rows] / self.error).mean(1)
        if self.distance_error is None:
            return mean
        product: Floats = np.sqrt(mean * (maps[:, -1] / self.distance_error))
        return product


class MapStandardizer:
    """Learns what maps are on normal images, and makes one map and one score of them.

    `options` says by name which of a detector's maps can be averaged, the preferred ones first. A
    stack of maps has the raw maps, then with `patterns` the divided ones and the distance.
    """

    def __init__(self, config: StandardizerConfig, options: Mapping[str, Sequence[int]]) -> None:
        self.config, self.options = config, options
        self.pooling = config.pooling
        self.patterns: Patterns | None = None
        self.recipe: Recipe
        self.quiet: QuietLimits

    # -- Learning ----------------------------------------------------------------------------------

    def check(self, channels: int) -> None:
        """Raise ConfigError if patterns are needed, and images have too few channels to say what a
        place is like."""
        needed = not self.config.pattern == self.config.distance == "off"
        if needed and channels < LEAST_CHANNELS:
            raise ConfigError(
                "detector.pattern and detector.distance are for features, not for pixels: set both "
                "to 'off', or add --representation features"
            )

    def prepare(self, fit: Batch, context: TrainContext) -> None:
        """Choose the patterns among places of fit images, if any are needed; ConfigError as for
        `check`."""
        self.check(fit.images.shape[1])
        if self.config.pattern == self.config.distance == "off":
            return
        count = self.config.patterns
        if context.budget is not None:
            affordable = int(0.2 * context.budget / SECONDS_A_PATTERN)
            count = min(count, max(FEWEST_PATTERNS, affordable))
        vectors = choose_patterns(fit, count, context.seed)
        self.patterns = Patterns(vectors, np.ones((1, len(vectors)), np.float32))

    def plan(
        self,
        maps: Callable[[Batch, Seeds], object],
        fit: Batch,
        tune: Batch,
        context: TrainContext,
        *,
        more: int = 0,
    ) -> tuple[Batch, TrainContext, float]:
        """Prepare for fit images, and return what `affordable` does for maps that are timed here,
        with the seconds for `more` looks at the tune images."""
        self.prepare(fit, context)
        seconds = seconds_to_score(maps, tune)
        tune, context, reserve = self.affordable(tune, context, seconds)
        return tune, context, reserve + more * seconds * math.ceil(len(tune) / MICRO_BATCH)

    def affordable(
        self, tune: Batch, context: TrainContext, seconds: float
    ) -> tuple[Batch, TrainContext, float]:
        """Return as many tune images, evenly spread, as can be scored in a fifth of the budget, a
        context with planted copies of these, and the seconds that the scoring takes.

        `seconds` is the time for MICRO_BATCH of them. Defects are planted now, if there are choices
        to make. FEWEST_TUNE images are looked at in any case.
        """
        if self.patterns is not None:
            started = monotonic()
            similar_patterns(tune.images[:MICRO_BATCH], self.patterns.vectors)
            seconds += monotonic() - started

        planted = context.planted() if len(self._choices()) > 1 else None
        seconds *= 2 if planted is None else 2 + len(planted.copies)
        most = MAX_TUNE
        if context.budget is not None:
            most = min(most, most_affordable(0.2 * context.budget, seconds))
        possible = np.arange(len(tune)) if planted is None else planted.of
        count = min(len(possible), most)
        rows = possible[np.linspace(0, len(possible) - 1, count).astype(np.int64)]

        reserve = 2.0 + 1.2 * seconds * count / MICRO_BATCH
        own = None if planted is None else planted.among(rows)
        return tune[rows], replace(context, planted=lambda: own), reserve

    def learn(self, maps: Maps, tune: Batch, context: TrainContext) -> None:
        """Learn what normal images' maps are, and make the choices."""
        if self.patterns is not None:
            self.patterns = self._with_errors(self.patterns, maps, tune.images.shape[-1])
        side = block_side(tune.images.shape[-1], self.config.pooling)
        seen = survey(lambda batch, seeds: self._stack(maps(batch, seeds), batch), tune, side)
        choice = self._choose(maps, tune, seen, side, context)

        error = seen.place_errors() if choice.pixel_error == "on" else seen.flat
        rows = self._rows(choice)
        distance_error = error[-1] if choice.distance == "on" else None
        self.recipe = Recipe(rows, error[rows], distance_error)
        self.pooling = self._pooling(choice)
        if choice.pattern == choice.distance == "off":
            self.patterns = None

        level, score = [], []
        for part, values in in_parts(maps, tune):
            scores, heatmaps = self._finish(values, part)
            level.append(levels(heatmaps, part.foreground))
            score.append(scores)
        self.quiet = quiet_limits(np.concatenate(level), np.concatenate(score), tune.foreground)

    def _with_errors(self, patterns: Patterns, maps: Maps, side: int) -> Patterns:
        """Return the patterns with what maps have there, and a floor under it."""
        found = []
        for _, values in in_parts(maps, as_images(patterns.vectors, side)):
            found.append(values.swapaxes(0, 1).reshape(values.shape[1], -1))
        errors = np.concatenate(found, 1)[:, : len(patterns.vectors)]
        floor = FLOOR * errors.mean(1, keepdims=True) + 1e-12
        return Patterns(patterns.vectors, (errors + floor).astype(np.float32))

    def _stack(self, maps: Floats, batch: Batch) -> Floats:
        """Return maps [N, M, H, W], with patterns also divided by those and the distance,
        [N, 2M + 1, H, W]."""
        if self.patterns is None:
            return maps
        similar = similar_patterns(batch.images, self.patterns.vectors)
        divided = np.empty_like(maps)
        for number, errors in enumerate(self.patterns.errors):
            divided[:, number] = maps[:, number] / errors[similar.rows].mean(-1)
        return np.concatenate([maps, divided, similar.distance[:, None]], 1)

    # -- Scoring -----------------------------------------------------------------------------------

    def combine(self, maps: Floats, batch: Batch) -> tuple[Floats, Floats]:
        """Return image scores [N] and heatmaps [N, H, W] of a batch's maps [N, M, H, W]."""
        return quiet_raised(*self._finish(maps, batch), batch.foreground, self.quiet)

    def _finish(self, maps: Floats, batch: Batch) -> tuple[Floats, Floats]:
        one = self.recipe.combined(self._stack(maps, batch))
        return finish(one, batch.foreground, self.pooling)

    def used(self) -> set[int]:
        """Return the numbers of the detector's maps that count."""
        return {row % self._count() for row in self.recipe.rows}

    # -- Choices -----------------------------------------------------------------------------------

    def _choices(self) -> list[Choice]:
        """Return all choices that are open to planted defects, the preferred ones first.

        By pattern and then by place was best on the cells of ELPV whose defects are uncertain, and
        safest elsewhere; by place alone is not preferred.
        """
        place = "off" if self.config.pattern == "off" else "on"
        settings = {
            "pattern": _options(self.config.pattern, preferred="on"),
            "distance": _options(self.config.distance, preferred="on"),
            "pixel_error": _options(self.config.pixel_error, preferred=place),
            "relative": _options(self.config.relative, preferred="off"),
        }
        combinations = itertools.product(self.options, *settings.values())
        choices = [Choice(*each) for each in combinations]
        names = list(self.options)

        def departures(choice: Choice) -> int:
            departed = names.index(choice.maps)
            for name, options in settings.items():
                departed += getattr(choice, name) != options[0]
            return departed

        return sorted(choices, key=departures)

    def _rows(self, choice: Choice) -> list[int]:
        """Return the rows of a stack of maps that a choice averages."""
        first = self._count() if choice.pattern == "on" else 0
        return [first + row for row in self.options[choice.maps]]

    def _count(self) -> int:
        """Return the number of the detector's maps."""
        return 1 + max(max(rows) for rows in self.options.values())

    def _pooling(self, choice: Choice) -> Pooling:
        exponent = RELATIVE if choice.relative == "on" else self.config.pooling.relative
        return self.config.pooling.model_copy(update={"relative": exponent})

    def _choose(
        self, maps: Maps, tune: Batch, seen: "Survey", side: int, context: TrainContext
    ) -> Choice:
        """Return the choice that planted defects recommend, the preferred one if there are none or
        too few images; log how well each tells them from clean images."""
        first, *others = self._choices()
        planted = context.planted() if others else None
        if planted is None or len(planted) < 2:
            context.log(first._asdict())
            return first

        blocks = [seen.blocks[planted.of]]
        for copy in planted.copies:
            found = survey(lambda batch, seeds: self._stack(maps(batch, seeds), batch), copy, side)
            blocks.append(found.blocks)
        scores = self._planted_scores(blocks, seen, tune.foreground[planted.of], side)
        choice, auroc = first_of_the_best(scores, context.seed, planted.kinds())
        entry = {f"planted_auroc {name}": value for name, value in auroc.items()}
        context.log(entry | choice._asdict())
        return choice

    def _planted_scores(
        self, blocks: Sequence[Floats], seen: "Survey", foreground: Bools, side: int
    ) -> dict[Choice, Floats]:
        """Return image scores [1 + copies, N] for every open choice: of the clean images and of
        each copy with planted defects.

        Stacks of maps are [N, S, h, w] each, in blocks of `side` pixels, the clean ones first.
        """
        erode = self.config.pooling.erode
        inside = block_means(counted(foreground, erode).astype(np.float32), side) >= 0.5
        share = block_means(foreground.astype(np.float32), side)
        flat = np.broadcast_to(seen.flat[None], (len(inside), *seen.flat.shape))
        errors = {"off": flat, "on": seen.own_errors(blocks[0], share)}

        scores = {}
        for choice in self._choices():
            error, rows = errors[choice.pixel_error], self._rows(choice)
            distance_error = error[:, -1] if choice.distance == "on" else None
            recipe = Recipe(rows, error[:, rows], distance_error)
            pooling = self._pooling(choice).model_copy(update={"erode": 0})
            pooled = []
            for maps in blocks:
                pooled.append(pool(recipe.combined(maps), inside, pooling))
            scores[choice] = np.stack(pooled)
        return scores

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return everything learned, as named arrays."""
        state: State = {
            "rows": np.array(self.recipe.rows),
            "error": self.recipe.error,
            "relative": np.array([self.pooling.relative]),
            "quiet": np.array(self.quiet, np.float32),
        }
        if self.recipe.distance_error is not None:
            state["distance_error"] = self.recipe.distance_error
        if self.patterns is not None:
            state["patterns.vectors"] = self.patterns.vectors
            state["patterns.errors"] = self.patterns.errors
        return state

    def load_state(self, state: State) -> None:
        """Become the standardizer whose `state` this was."""
        rows = state.get("rows", np.arange(len(state["error"])))
        self.recipe = Recipe(rows.tolist(), state["error"], state.get("distance_error"))
        if "patterns.vectors" in state:
            self.patterns = Patterns(state["patterns.vectors"], state["patterns.errors"])
        self.quiet = QuietLimits(*state["quiet"])
        relative = float(state["relative"][0])
        self.pooling = self.config.pooling.model_copy(update={"relative": relative})

    def check_state(self, shape: Sequence[int]) -> None:
        """Raise ValueError if what was learned of maps does not fit images of this shape
        [c, h, w]."""
        recipe, patterns, sides = self.recipe, self.patterns, tuple(shape[1:])
        errors = [each for each in (recipe.error, recipe.distance_error) if each is not None]
        on_grid = all(each.shape[-2:] in (sides, (1, 1)) for each in errors)
        stacked = self._count() * (1 if patterns is None else 2)
        known = all(0 <= row < stacked for row in recipe.rows)
        if not on_grid or not known or recipe.error.shape[:1] != (len(recipe.rows),):
            raise ValueError("error and rows are not of the maps that there are")
        if patterns is None:
            if recipe.distance_error is not None:
                raise ValueError("patterns.vectors is missing")
            return
        count = len(patterns.vectors)
        if patterns.vectors.shape != (count, shape[0]) or not count:
            raise ValueError("patterns.vectors are not of the channels that there are")
        if patterns.errors.shape != (self._count(), count):
            raise ValueError("patterns.errors are not of the maps that there are")


def most_affordable(budget: float, seconds: float) -> int:
    """Return how many images can be looked at in a budget, where MICRO_BATCH of them take so many
    seconds: whole micro-batches, or at least FEWEST_TUNE images."""
    batches = budget / seconds
    if batches < 1:
        return max(FEWEST_TUNE, int(batches * MICRO_BATCH))
    return int(batches) * MICRO_BATCH


# -- What maps are on normal images ----------------------------------------------------------------


@dataclass(frozen=True)
class Survey:
    """The facts of S maps over a batch.

    `total` and `squares` [S, H, W] are sums over the foregrounds of images, and `count` [H, W] says
    of how many. `flat` [S, 1, 1] is the mean of each map. `blocks` [N, S, h, w] are each image's
    maps averaged over blocks, and 0 outside the foreground.
    """

    total: Doubles
    squares: Doubles
    count: Doubles
    flat: Floats
    blocks: Floats

    def place_errors(self) -> Floats:
        """Return each place's mean [S, H, W], with a floor under it."""
        errors = self.place_means() + FLOOR * self.flat
        return errors.astype(np.float32)

    def place_means(self) -> Doubles:
        """Return each place's mean [S, H, W], smoothed and drawn towards that of the whole map."""
        total = ndimage.gaussian_filter(self.total, (0, 1, 1))
        count = ndimage.gaussian_filter(self.count, 1)
        return self._shrunk(total, count, self.prior_images())

    def own_errors(self, clean: Floats, share: Floats) -> Floats:
        """Return the same in blocks for each image [N, S, h, w], learned from the other folds of
        images; with its own images a fold would be flattered.

        `clean` [N, S, h, w] are the images' blocks, and `share` [N, h, w] is that of foreground.
        """
        own, images = np.empty_like(clean), self.prior_images()
        for fold in np.array_split(np.arange(len(clean)), min(FOLDS, len(clean))):
            total = np.delete(clean, fold, 0).sum(0)
            weight = np.delete(share, fold, 0).sum(0)
            own[fold] = self._shrunk(total, weight, images) + FLOOR * self.flat
        return own

    def _shrunk(self, total: Doubles, count: Doubles, images: Doubles) -> Doubles:
        """Return means [S, H, W] of sums over `count` images, to which `images` are added that are
        like the whole map."""
        shrunk: Doubles = (total + images * self.flat) / (count + images)
        return shrunk

    def prior_images(self) -> Doubles:
        """Return as how many images the mean of a whole map counts at each place, [S, 1, 1].

        It is the variance among images at a place over that among places (empirical Bayes; James &
        Stein, 1961): where places differ by no more than chance, the whole map decides.
        """
        seen = self.count > 1
        if not seen.any():
            return np.full(self.flat.shape, 1e9)
        count = self.count[seen]
        mean = self.total[:, seen] / count
        within = (self.squares[:, seen] / count - mean**2) * count / (count - 1)
        noise = within.mean(1)
        among = mean.var(1) - noise * (1 / count).mean()
        images: Doubles = noise / np.maximum(among, 1e-3 * noise + 1e-12)
        return images[:, None, None]


def seconds_to_score(maps: Callable[[Batch, Seeds], object], tune: Batch) -> float:
    """Return how long it takes to make the maps of MICRO_BATCH images."""
    part = tune[:MICRO_BATCH]
    started = monotonic()
    maps(part, np.arange(len(part), dtype=np.uint64))
    return monotonic() - started


def refuse_patterns(config: StandardizerConfig, detector: str) -> None:
    """Raise ConfigError if a detector that sees no place alone is to judge places by patterns."""
    if config.pattern != "off":
        raise ConfigError(
            f"detector.pattern: {detector} judges a place by its surroundings, which patterns lack"
        )


def survey(maps: Maps, batch: Batch, side: int) -> Survey:
    """Return what maps are over a batch; blocks have `side` pixels a side."""
    total: Doubles = np.zeros(1)
    squares: Doubles = np.zeros(1)
    blocks = []
    for part, values in in_parts(maps, batch):
        inside = values * part.foreground[:, None]
        total = total + inside.sum(0, dtype=np.float64)
        squares = squares + np.square(inside, dtype=np.float64).sum(0)
        blocks.append(block_means(inside, side))

    count = batch.foreground.sum(0).astype(np.float64)
    flat = total.sum((1, 2), keepdims=True) / max(1.0, float(count.sum()))
    flat = np.maximum(flat, 1e-6).astype(np.float32)
    return Survey(total, squares, count, flat, np.concatenate(blocks))


def in_parts(maps: Maps, batch: Batch) -> Iterator[tuple[Batch, Floats]]:
    """Yield MICRO_BATCH images at a time, with their maps."""
    for rows, part in batch.parts(MICRO_BATCH):
        yield part, maps(part, np.arange(rows.start, rows.stop, dtype=np.uint64))


def block_side(size: int, pooling: Pooling) -> int:
    """Return the side of blocks about as wide as the smoothing, which they stand for where maps are
    compared: they are cheap, and small to keep."""
    side = max(1, round(2 * pooling.smooth))
    while size % side:
        side -= 1
    return side


def _options(setting: str, preferred: str) -> tuple[str, ...]:
    """Return what a setting leaves open, the preferred value first."""
    if setting != "auto":
        return (setting,)
    return ("on", "off") if preferred == "on" else ("off", "on")
