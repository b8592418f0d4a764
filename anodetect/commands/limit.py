"""The end of a training: defects are planted in tune images, and the finished model scores them.

They are planted in the pixels that were read, and scored as any image is. So a defect may change
where an image counts, and what becomes -1 and 1, as a real one may.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anodetect.data.records import Record
from anodetect.imaging.planted import SWAP, Defect, Source, plant
from anodetect.model.decoded import DecodedFiles
from anodetect.model.loading import LoadedImage, Reader
from anodetect.model.model import Model
from anodetect.model.planting import as_scaled, limits_in, seed_of, source_of
from anodetect.model.read_ahead import read_ahead
from anodetect.model.scoring import native_map, scores_and_maps
from anodetect.stats.limit import PlantedCell, PlantedTrials
from anodetect.types import Bools, Floats, Reporter

SIZES = (0.01, 0.02, 0.04, 0.08, 0.16)
CONTRASTS = (0.1, 0.2, 0.4, 0.8)
# What is planted by turns for each name, and the contrasts; None: as it was cut out.
SERIES: dict[str, tuple[tuple[str, ...], tuple[float | None, ...]]] = {
    "scratches": (("scratch",), CONTRASTS),
    "spots": (("blob", "lesion"), CONTRASTS),
    "swapped texture": ((SWAP,), (None,)),
}
IMAGES = 8  # for each kind, size and contrast
MOST_SECONDS, LEAST_SECONDS = 30.0, 3.0
SHARE = 0.1  # of the budget
# Maps of planted defects that the choice of a mask's rule looks at: at most, at least, and the
# pixels of all of them together.
MOST_LOOKED_AT, LEAST_LOOKED_AT, MOST_PIXELS = 160, 24, 2**25
LookAt = Callable[[Floats, Bools], None]


@dataclass(frozen=True)
class Trial:
    """One image to score: the place of its kind, size and contrast in the list of all, the number
    of the image, and the defect."""

    cell: int
    image: int
    defect: Defect


@dataclass(frozen=True)
class PlantedTrial:
    """A trial with its image, in which the defect is, and the mask of the defect [H, W]."""

    trial: Trial
    loaded: LoadedImage
    mask: Bools


@dataclass(frozen=True)
class ScoredTrial:
    """A planted trial with its score, and its heatmap on the detector's grid."""

    planted: PlantedTrial
    score: float
    heatmap: Floats


def plant_and_score(
    model: Model,
    records: Sequence[Record],
    reporter: Reporter,
    *,
    seed: int,
    budget: float | None,
    scratch: DecodedFiles | None = None,
    look_at: LookAt | None = None,
) -> PlantedTrials:
    """Return the scores of planted defects of all kinds, sizes and contrasts.

    At most 30 seconds are spent, or a tenth of the budget (in seconds) where that is less: then
    there are fewer images for each kind, size and contrast, or none, and the result says so.
    Without records, as where there are no calibration images, nothing is planted. `look_at` is
    handed some of the heatmaps in the images' own grids [H, W], evenly spread, with the masks of
    the defects; LEAST_LOOKED_AT of them, however little time there is.
    """
    cells = empty_cells()
    if model.tiling.dims == 3:
        return PlantedTrials(0.0, (), "it is not measured for --dims 3")
    if not cells or not records:
        return PlantedTrials(0.0, (), "there are no calibration images")

    most = MOST_SECONDS
    if budget is not None:
        most = min(most, max(LEAST_SECONDS, SHARE * budget))
    measuring = Measuring(model, records, seed, scratch)
    seconds = measuring.seconds_of_a_trial(cells)
    rounds = min(IMAGES, int(most / (seconds * len(cells))))
    planned = trials_of_rounds(cells, max(rounds, 1), len(records))
    if rounds == 0:
        if look_at is not None:
            for _ in measuring.looked_at(planned[:: len(planned) // LEAST_LOOKED_AT or 1], look_at):
                pass
        needed = seconds * len(cells)
        return PlantedTrials(
            0.0, (), f"scoring {len(cells)} planted defects takes about {needed:.0f} s, too long"
        )

    scores: list[list[float]] = [[] for _ in cells]
    for done, scored in enumerate(measuring.looked_at(planned, look_at), 1):
        scores[scored.planted.trial.cell].append(scored.score)
        reporter.progress("limit", done, len(planned))
    note = ""
    if rounds < IMAGES:
        note = f"from {rounds} in place of {IMAGES} images each, to save time"
    filled = []
    for cell, found in zip(cells, scores, strict=True):
        if found:
            filled.append(replace(cell, scores=tuple(found)))
    return PlantedTrials(measuring.side, tuple(filled), note)


def empty_cells() -> list[PlantedCell]:
    """Return all kinds, sizes and contrasts to plant, without scores."""
    cells = []
    for name, (_, contrasts) in SERIES.items():
        for contrast in contrasts:
            for size in SIZES:
                cells.append(PlantedCell(name, size, contrast, ()))
    return cells


def trials_of_rounds(cells: Sequence[PlantedCell], rounds: int, images: int) -> list[Trial]:
    """Return the trials of some rounds, each of which has every cell once.

    Their images are evenly spread over all and ascend, so that each is read once.
    """
    trials = []
    for number in range(rounds * len(cells)):
        turn, place = divmod(number, len(cells))
        cell = cells[place]
        kinds, _ = SERIES[cell.kind]
        contrast = np.inf if cell.contrast is None else cell.contrast
        defect = Defect(kinds[turn % len(kinds)], cell.size, contrast)
        trials.append(Trial(place, number * images // (rounds * len(cells)), defect))
    return trials


class Measuring:
    """Plants defects in images and scores them. `sides` are the shorter sides of the images or
    tiles so far."""

    def __init__(
        self, model: Model, records: Sequence[Record], seed: int, scratch: DecodedFiles | None
    ) -> None:
        self.model, self.records, self.seed = model, records, seed
        self.reader = Reader(model.preprocess, scratch=scratch)
        self.sides: list[int] = []

    @property
    def side(self) -> float:
        """The median shorter side of the images or tiles, in pixels."""
        return float(np.median(self.sides)) if self.sides else 0.0

    def seconds_of_a_trial(self, cells: Sequence[PlantedCell]) -> float:
        """Return how long it takes to plant and score an image, among as many as are scored
        together."""
        some = trials_of_rounds(cells, 1, 1)[: self.model.batch_size]
        started = time.monotonic()
        for _ in self.scored(some):
            pass
        return (time.monotonic() - started) / len(some)

    def looked_at(self, trials: Sequence[Trial], look_at: LookAt | None) -> Iterator[ScoredTrial]:
        """Yield each trial with its score, and hand some maps to `look_at`, evenly spread."""
        for number, scored in enumerate(self.scored(trials)):
            mask = scored.planted.mask
            most = max(1, min(MOST_LOOKED_AT, MOST_PIXELS // mask.size))
            if look_at is not None and number % -(-len(trials) // most) == 0:
                look_at(self._map_like(scored), mask)
            yield scored

    def _map_like(self, scored: ScoredTrial) -> Floats:
        """Return the map of a trial in the grid of its mask: that of the image, or of the scaled
        image if it is planted there."""
        loaded, mask = scored.planted.loaded, scored.planted.mask
        if loaded.image.shape[1:] == mask.shape:
            return native_map(self.model, loaded, scored.heatmap)
        return self.model.decode(scored.heatmap, mask.shape)

    def scored(self, trials: Sequence[Trial]) -> Iterator[ScoredTrial]:
        """Yield each trial with its score; those of an image that cannot be scored are left
        out."""
        waiting: list[PlantedTrial] = []
        for planted in self._planted(trials):
            waiting.append(planted)
            if len(waiting) == self.model.batch_size:
                yield from self._scores(waiting)
                waiting = []
        yield from self._scores(waiting)

    def _scores(self, waiting: Sequence[PlantedTrial]) -> Iterator[ScoredTrial]:
        if waiting:
            found = scores_and_maps(self.model, [planted.loaded for planted in waiting])
            for planted, (score, heatmap) in zip(waiting, found, strict=True):
                yield ScoredTrial(planted, score, heatmap)

    def _planted(self, trials: Sequence[Trial]) -> Iterator[PlantedTrial]:
        """Yield each trial with its image, in which the defect is."""
        numbers = list(dict.fromkeys(trial.image for trial in trials))
        records = [self.records[number] for number in numbers]
        before: Source | None = None

        for number, loaded in zip(numbers, read_ahead(self.reader.read, records), strict=True):
            if not isinstance(loaded, LoadedImage):
                continue
            source = source_of(self.model.preprocess, loaded)
            for place, trial in enumerate(trials):
                if trial.image == number:
                    yield self._with_defect(loaded, source, trial, place, before)
            before = source

    def _with_defect(
        self, loaded: LoadedImage, source: Source, trial: Trial, place: int, other: Source | None
    ) -> PlantedTrial:
        """Return a trial with the defect in its image; with tiling its size is a share of the
        tile."""
        shorter = min(source[1].shape)
        side = self.model.tiling.tile or shorter
        self.sides.append(side)
        defect = replace(trial.defect, size=trial.defect.size * side / shorter)
        limits = limits_in(self.model.preprocess, loaded)
        seed = seed_of(self.seed, place)
        made = plant(*source, defect, seed=seed, other=other, limits=limits)
        if self.model.preprocess.named is not None:  # planted in the scaled image
            scaled = as_scaled(self.model.preprocess, loaded, made.image)
            prepared = self.model.prepare_scaled(scaled, source[1])
            return PlantedTrial(trial, replace(loaded, prepared=prepared), made.mask)
        return PlantedTrial(trial, replace(loaded, image=made.image, prepared=None), made.mask)
