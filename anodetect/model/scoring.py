"""Records in, scores out: images in batches of a fixed size, volumes one at a time."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from anodetect.data.scan import Record
from anodetect.errors import AnodetectError
from anodetect.imaging.preprocess import Prepared
from anodetect.model.loading import (
    LOOK_AHEAD,
    Loaded,
    ahead,
    in_chunks,
    load,
    slice_of,
    slice_records,
    why,
)
from anodetect.model.model import Model
from anodetect.stats.calibration import Doubles
from anodetect.types import Floats, Reporter


@dataclass(frozen=True)
class SliceScores:
    """Of a volume's slices that were scored: their numbers [n], scores [n] and highest map values
    [n]."""

    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A record with its score, heatmap in the image's own grid, and what the detector saw and made
    of it.

    A volume's heatmap is [D, H, W], NaN in slices that were not scored; its score is that of its
    most anomalous slice.
    """

    loaded: Loaded
    score: float = float("nan")
    heatmap: Floats | None = None
    grid: tuple[Floats, Floats, Floats | None] | None = (
        None  # image, heatmap, reconstruction on one grid, to be shown
    )
    seconds: float = 0.0
    slices: SliceScores | None = None


def score_records(
    model: Model,
    items: Iterable[Record],
    reporter: Reporter,
    task: str = "score",
    *,
    mine: Callable[[str], bool] | None = None,
    note: Callable[[], str] = lambda: "",
) -> Iterator[Scored]:
    """Score records in order, a fixed number at a time; failed ones come out as they went in, those
    of other shards not at all. `note` is shown beside the progress, of which the end is 0 where it
    is not known."""
    done, total = 0, len(items) if isinstance(items, Sized) else 0
    read = partial(load, preprocess=model.preprocess, encode=model.encode, mine=mine)
    for chunk in in_chunks(ahead(read, items, LOOK_AHEAD * model.batch), model.batch):
        good = [loaded for loaded in chunk if loaded.image is not None and not loaded.is_volume]
        begun = time.monotonic()
        results = iter(_each_scored(model, good) if good else [])
        seconds = (time.monotonic() - begun) / max(len(good), 1)
        for loaded in chunk:
            if loaded.is_volume:
                yield _volume_scored(model, loaded)
            elif loaded.image is not None:
                yield _shown(model, loaded, next(results), seconds)
            elif not loaded.elsewhere:
                yield Scored(loaded)
        done += len(chunk)
        reporter.progress(task, done, total, note())


def _failed(loaded: Loaded, reason: str) -> Loaded:
    return replace(loaded, image=None, encoded=None, volume=None, error=reason)


def _each_scored(model: Model, chunk: Sequence[Loaded]) -> list["Found | str"]:
    """What is found in each image, or why it cannot be scored: one that fails must not take the
    others with it."""
    try:
        return [*_score_chunk(model, chunk)]
    except AnodetectError:
        raise
    except Exception as error:
        return (
            [why(error)]
            if len(chunk) == 1
            else [_each_scored(model, [loaded])[0] for loaded in chunk]
        )


def _shown(model: Model, loaded: Loaded, found: "Found | str", seconds: float) -> Scored:
    """What was found in an image, on its own grid, or why nothing was."""
    if isinstance(found, str) or loaded.image is None:
        return Scored(_failed(loaded, str(found)))
    score, heatmap, reconstruction = found
    full = model.decode(heatmap, loaded.image.shape[1:])
    return Scored(loaded, score, full, model.shown(loaded, heatmap, reconstruction), seconds)


def _volume_scored(model: Model, loaded: Loaded) -> Scored:
    """A volume's score, or why it has none."""
    try:
        return _score_volume(model, loaded)
    except AnodetectError:
        raise
    except Exception as error:
        return Scored(_failed(loaded, why(error)))


def _score_volume(model: Model, loaded: Loaded) -> Scored:
    """Score a volume, as patches or slice by slice."""
    assert loaded.volume is not None
    begun = time.monotonic()
    numbers = loaded.volume.numbers
    if model.tiling.dims == 3:
        scores, heatmap = model.score_volume(loaded.volume)
    else:
        scores, heatmap = _score_slices(model, loaded, loaded.volume)
    peaks = np.array([heatmap[number].max() for number in numbers], np.float64)
    seconds = time.monotonic() - begun
    return Scored(
        loaded, float(scores.max()), heatmap, None, seconds, SliceScores(numbers, scores, peaks)
    )


def _score_slices(model: Model, loaded: Loaded, volume: Prepared) -> tuple[Doubles, Floats]:
    """A volume slice by slice, in the batches images are scored in; as `Model.score_volume`."""
    depth, height, width = volume.geometry.sides
    heatmap = np.full((depth, height, width), np.nan, np.float32)
    scores: list[float] = []
    slices = ahead(
        lambda record: slice_of(loaded, model.encode, record),
        slice_records(loaded),
        2 * model.batch,
    )
    for chunk in in_chunks(slices, model.batch):
        for each, (score, found, _) in zip(chunk, _score_chunk(model, chunk), strict=True):
            scores.append(score)
            heatmap[each.record.slice] = model.decode(found, (height, width))
    return np.array(scores), heatmap


Found = tuple[
    float, Floats, Floats | None
]  # score, heatmap and reconstruction, on the detector's grid


def _score_chunk(model: Model, chunk: Sequence[Loaded]) -> list[Found]:
    images = [loaded.image for loaded in chunk if loaded.image is not None]
    encoded = [loaded.encoded for loaded in chunk if loaded.encoded is not None]
    scores = model.score(images, encoded, [loaded.record.slice for loaded in chunk])
    reconstructions = (
        [None] * len(images) if scores.reconstruction is None else list(scores.reconstruction)
    )
    return list(zip(scores.image.tolist(), scores.heatmap, reconstructions, strict=True))
