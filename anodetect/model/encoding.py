"""All training images as a detector sees them, in files that are mapped into memory."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anodetect.data.records import Record
from anodetect.errors import DataError
from anodetect.imaging.batch_files import BatchWriter
from anodetect.imaging.planes import absent
from anodetect.model.loading import Failed, Loaded, LoadedImage, LoadedVolume
from anodetect.model.model import Model
from anodetect.model.read_ahead import LOOK_AHEAD, in_chunks, read_ahead
from anodetect.types import Batch, Bools, Encoded

Rows = NDArray[np.int64]

CROPS = 2000  # random tiles or patches to learn from, at most, but at least one of each image
CROP_PIXELS = 2**26  # and at most as many pixels of them


def encode_all(
    model: Model,
    read: Callable[[Record], Loaded],
    records: Sequence[Record],
    stem: Path,
    seed: int,
    kinds: Sequence[str],
    *,
    dropout: bool = False,
) -> tuple[Batch, Rows]:
    """Return the images of records, or random tiles or patches of them, as the detector sees them,
    and the first row of each record [number of records].

    The arrays are written to files whose names begin with `stem`. `read` gives images as they are
    prepared for the detector. With more than one of `kinds` the batch has the number of each
    image's kind, -1 for others. With `dropout` a copy without some of its channels follows each
    image. Raises DataError if an image cannot be read.
    """
    count = crop_count(math.prod(model.tiling.sides), len(records))
    writer = BatchWriter(stem, len(records) * count * (2 if dropout else 1))
    numbers: list[int] = []
    starts: list[int] = []

    loaded_records = read_ahead(read, records, LOOK_AHEAD * model.batch_size)
    for chunk in in_chunks(loaded_records, model.batch_size):
        prepared: list[Encoded] = []
        lacking: list[Bools | None] = []
        for loaded in chunk:
            places = crop_places(seed, len(starts))
            starts.append(len(numbers))
            kind = kinds.index(loaded.record.kind) if loaded.record.kind in kinds else -1
            lacks = _lacking(model, loaded)
            for crop in model.crops(_prepared(model, loaded), count, places):
                made = [(model.prepare_crop(*crop), lacks)]
                if dropout:
                    made += _without_some(model, *made[0], places)
                for encoded, own in made:
                    prepared.append(encoded)
                    lacking.append(own)
                    numbers.append(kind)
        for (image, foreground), own in zip(model.represent(prepared), lacking, strict=True):
            writer.append(image, foreground, own)

    batch = writer.batch(np.array(numbers, np.int64) if len(kinds) > 1 else None)
    return batch, np.array(starts, np.int64)


def crop_places(seed: int, number: int) -> np.random.Generator:
    """Return what draws the places of the crops of a record with this number among all records."""
    return np.random.default_rng([seed, number])


def crop_count(pixels: int, images: int) -> int:
    """Return how many tiles or patches of so many pixels to take of each image; 1 without them."""
    return max(1, min(CROPS, CROP_PIXELS // pixels) // images) if pixels else 1


def _lacking(model: Model, loaded: Loaded) -> Bools | None:
    """Return which planes an image or volume lacks [C], None if its channels are one file."""
    if model.preprocess.named is None:
        return None
    if isinstance(loaded, LoadedVolume):
        return absent(loaded.volume.slices)
    return absent(loaded.image) if isinstance(loaded, LoadedImage) else None


def _without_some(
    model: Model, encoded: Encoded, lacking: Bools | None, rng: np.random.Generator
) -> list[tuple[Encoded, Bools | None]]:
    """Return a copy of an image that lacks more of its channels, and which planes it lacks; none of
    an image that has but one."""
    image, foreground = encoded
    before = np.zeros(len(image), bool) if lacking is None else lacking
    after = model.preprocess.fewer_channels(before, rng)
    if after is None:
        return []
    value = np.float32(model.preprocess.absent_value)
    fewer = np.where(after.reshape(-1, *[1] * (image.ndim - 1)), value, image)
    return [((fewer, foreground), after)]


def _prepared(model: Model, loaded: Loaded) -> Encoded:
    if isinstance(loaded, LoadedVolume):
        return model.encode_volume(loaded.volume)
    if isinstance(loaded, LoadedImage):
        return model.prepared(loaded)
    reason = loaded.error if isinstance(loaded, Failed) else "belongs to another shard"
    raise DataError(f"{loaded.record.id}: {reason}")
