"""Copies of tune images with planted defects, as a detector sees them.

A defect is planted in the pixels that were read, before they are scaled and encoded, so that pixels
and features are judged by the same defects. With tiling it is planted in the scaled tile that the
detector sees: elsewhere in the image it would not be seen. The foreground is always that of the
clean image: a copy differs from it by the defect and by nothing else. (Where a foreground is found
in the image itself, a real defect at its rim may change what counts.)

Where members of an ensemble see one of several channels each, a defect is planted in one channel,
drawn at random: what each member counts is decided by defects that show in one channel only.

It is done when a detector first asks for copies, so that one without choices to make loses no time.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from anodetect.data.records import Record
from anodetect.errors import DataError
from anodetect.imaging.batch_files import BatchWriter
from anodetect.imaging.planes import absent
from anodetect.imaging.planted import (
    KINDS,
    SWAP,
    Defect,
    Source,
    ValueLimits,
    draw_defect,
    limits_of,
    plant,
)
from anodetect.imaging.preprocess import CLIP, Preprocess
from anodetect.imaging.resize import resize
from anodetect.model.decoded import DecodedFiles
from anodetect.model.encoding import Rows, crop_count, crop_places
from anodetect.model.loading import LoadedImage, Reader
from anodetect.model.model import Model
from anodetect.types import Bools, Encoded, Floats, PlantedCopies

PLANTINGS = 3  # copies of each image
MAX_PLANTED = 128  # images
LEAST_PLANTED = 16  # images, however little time there is
SHARE = 0.1  # of the budget
SCALED = ValueLimits(-CLIP, CLIP)


class Planting:
    """Plants defects in tune images, once and when it is first asked to.

    `records` are those of all tune images, `starts` the first row of each in the batch `tune`. All
    randomness comes from `seed`, which has also placed the crops. At most a tenth of the budget (in
    seconds) is used, or what 16 images take.
    """

    def __init__(
        self,
        model: Model,
        records: Sequence[Record],
        starts: Rows,
        folder: Path,
        *,
        seed: int,
        budget: float | None,
        scratch: DecodedFiles | None = None,
    ) -> None:
        self.model, self.records, self.starts = model, records, starts
        self.folder, self.seed, self.budget = folder, seed, budget
        self.reader = Reader(model.preprocess, scratch=scratch)
        self.copies: Callable[[], PlantedCopies | None] = cache(self._copies)

    def _copies(self) -> PlantedCopies | None:
        """Return copies of evenly spread tune images, in files in `folder`; None of volumes that
        are modelled in three dimensions."""
        if self.model.tiling.dims == 3:
            return None
        numbers = self._affordable(spread(len(self.records), MAX_PLANTED))
        writers = []
        for copy in range(PLANTINGS):
            writers.append(BatchWriter(self.folder / f"planted{copy}", len(numbers)))

        rows = []
        for number in numbers.tolist():
            row, lacking, planted = self._planted(number)
            for writer, (image, foreground) in zip(writers, planted, strict=True):
                writer.append(image, foreground, lacking)
            rows.append(row)
        copies = []
        for copy, writer in enumerate(writers):
            copies.append(writer.batch(self._kinds(numbers, copy)))
        return PlantedCopies(tuple(copies), np.array(rows, np.int64))

    def _kinds(self, numbers: Rows, copy: int) -> Rows:
        """Return the kind of the defect in a copy of each image, as a place in `planted.KINDS`."""
        kinds = []
        for number in numbers.tolist():
            defect = draw_defect(seed_of(self.seed, number, copy))
            kinds.append(KINDS.index(defect.kind))
        return np.array(kinds, np.int64)

    def _affordable(self, numbers: Rows) -> Rows:
        """Return as many of these records' numbers, evenly spread, as there is time for."""
        if self.budget is None or len(numbers) <= LEAST_PLANTED:
            return numbers
        self._planted(int(numbers[0]))  # the first one may take longer
        started = time.monotonic()
        self._planted(int(numbers[-1]))
        seconds = time.monotonic() - started
        count = max(LEAST_PLANTED, int(SHARE * self.budget / max(seconds, 1e-6)))
        return numbers[spread(len(numbers), count)]

    def _planted(self, number: int) -> tuple[int, Bools | None, list[Encoded]]:
        """Return the row of a tune image in its batch, which channels it lacks, if it may lack any,
        and its planted copies."""
        loaded = self._read(number)
        lacking = absent(loaded.image) if self.model.preprocess.named else None
        if any(self.model.tiling.sides):
            row, prepared = self._planted_tiles(loaded, number)
        else:
            row, prepared = int(self.starts[number]), self._planted_copies(loaded, number)
        return row, lacking, list(self.model.represent(prepared))

    def _planted_copies(self, loaded: LoadedImage, number: int) -> list[Encoded]:
        """Return copies of an image, prepared with the foreground of the clean one."""
        model, preprocess = self.model, self.model.preprocess
        _, inside = preprocess.apply(loaded.image, loaded.of, loaded.record.slice or 0)
        source = source_of(preprocess, loaded)

        copies = []
        for copy in range(PLANTINGS):
            seed = seed_of(self.seed, number, copy)
            defect = draw_defect(seed)
            other = self._other(number, copy, loaded) if defect.kind == SWAP else None
            limits = limits_in(preprocess, loaded)
            planted = in_one_channel(self._planes(), source, defect, seed, other, limits)
            scaled = as_scaled(preprocess, loaded, planted)
            copies.append(model.prepare_scaled(scaled, inside))
        return copies

    def _planted_tiles(self, loaded: LoadedImage, number: int) -> tuple[int, list[Encoded]]:
        """Return the row of one of an image's tiles in the batch, and its prepared copies."""
        model = self.model
        count = crop_count(math.prod(model.tiling.sides), len(self.records))
        tiles = model.crops(model.prepared(loaded), count, crop_places(self.seed, number))
        chosen = number % len(tiles)
        image, foreground = tiles[chosen]
        other = tiles[chosen - 1]

        copies = []
        for copy in range(PLANTINGS):
            seed = seed_of(self.seed, number, copy)
            defect = draw_defect(seed)
            source = image, foreground
            planted = in_one_channel(self._planes(), source, defect, seed, other, SCALED)
            copies.append(model.prepare_crop(planted, foreground))
        return int(self.starts[number]) + chosen, copies

    def _planes(self) -> tuple[int, ...]:
        """Return the planes of each channel in which a defect may lie alone, () if it lies in
        all."""
        return self.model.preprocess.planes if self.model.sees_channels_alone else ()

    def _read(self, number: int) -> LoadedImage:
        """Return a tune image; DataError if it cannot be read any more."""
        record = self.records[number]
        loaded = self.reader.read(record)
        if isinstance(loaded, LoadedImage):
            return loaded
        reason = getattr(loaded, "error", "is no image")
        raise DataError(f"{record.id}: {reason}")

    def _other(self, number: int, copy: int, loaded: LoadedImage) -> Source | None:
        """Return another tune image to cut a patch from; None for a slice or a frame, since
        another file of many would have to be read for it."""
        count = len(self.records)
        if loaded.record.slice is not None or count == 1:
            return None
        rng = np.random.default_rng([self.seed, number, copy])
        other = self._read((number + int(rng.integers(1, count))) % count)
        return source_of(self.model.preprocess, other)


# -- Images that were read -------------------------------------------------------------------------


def source_of(preprocess: Preprocess, loaded: LoadedImage) -> Source:
    """Return an image to plant a defect in, with its foreground: in native units, or scaled if its
    channels are several files, whose units differ."""
    if preprocess.named is not None:
        return preprocess.apply(loaded.image, loaded.of, loaded.record.slice or 0)
    return loaded.image, native_foreground(preprocess, loaded)


def in_one_channel(
    planes: tuple[int, ...],
    source: Source,
    defect: Defect,
    seed: int,
    other: Source | None,
    limits: ValueLimits,
) -> Floats:
    """Return an image [C, H, W] with a defect in one of its channels, which have so many `planes`
    each, or in all of it without these."""
    if not planes:
        return plant(*source, defect, seed=seed, other=other, limits=limits).image
    image, inside = source
    number = int(np.random.default_rng([seed, 2]).integers(len(planes)))
    start = sum(planes[:number])
    part = slice(start, start + planes[number])
    patch = None if other is None else (other[0][part], other[1])

    made = plant(image[part], inside, defect, seed=seed, other=patch, limits=limits)
    planted = np.array(image)
    planted[part] = made.image
    return planted


def as_scaled(preprocess: Preprocess, loaded: LoadedImage, planted: Floats) -> Floats:
    """Return the image of `source_of` with a defect in it, scaled. Where a channel is absent, no
    defect can be seen."""
    if preprocess.named is not None:
        lacking = absent(loaded.image)[:, None, None]
        return np.where(lacking, np.float32(preprocess.absent_value), planted)
    scaled, _ = preprocess.apply(planted, loaded.of, loaded.record.slice or 0)
    return scaled


def limits_in(preprocess: Preprocess, loaded: LoadedImage) -> ValueLimits:
    """Return the values that an image of `source_of` can have: those of the type of its file, which
    may have been scaled to that of the other images, or scaled values."""
    if preprocess.named is not None:
        return SCALED
    factor = preprocess.sample_types.factors.get(loaded.sample_type, 1.0)
    return limits_of(loaded.sample_type, factor)


def native_foreground(preprocess: Preprocess, loaded: LoadedImage) -> Bools:
    """Return the foreground of an image on its own grid [H, W]."""
    _, inside = preprocess.apply(loaded.image, loaded.of, loaded.record.slice or 0)
    shape = loaded.image.shape[1:]
    if inside.shape == shape:
        return inside
    height, width = shape
    native: Bools = resize(inside[None].astype(np.float32), height, width)[0] >= 0.5
    return native


def seed_of(seed: int, *numbers: int) -> int:
    """Return a seed for the defect with these numbers."""
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0])


def spread(count: int, most: int) -> Rows:
    """Return up to `most` of the numbers 0 to `count` − 1, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)
