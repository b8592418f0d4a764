"""Records in, scores out: images in batches of a fixed size, volumes one at a time.

What comes of a record is a `ScoredImage`, a `ScoredVolume`, or `Failed` with the reason.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from anodetect.data.records import Record
from anodetect.errors import REPORT_IT, AnodetectError, ImageError, one_line
from anodetect.imaging.brain import returned, returned_mask
from anodetect.imaging.regions import Region
from anodetect.imaging.representations import Panels
from anodetect.model.decoded import DecodedFiles
from anodetect.model.input_facts import modality_of
from anodetect.model.loading import (
    Failed,
    Loaded,
    LoadedImage,
    LoadedVolume,
    OtherShards,
    Reader,
    slice_image,
    slice_records,
)
from anodetect.model.model import Model
from anodetect.model.read_ahead import LOOK_AHEAD, in_chunks, read_ahead
from anodetect.types import Floats, Reporter


@dataclass(frozen=True)
class SliceScores:
    """The slices of a volume that were scored: numbers [n], scores [n], highest map values [n]."""

    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]


@dataclass(frozen=True)
class ScoredImage:
    """An image with its score, its heatmap in its own grid [H, W], NaN where it does not count, and
    what to show of it.

    `seconds` is the time the model took for it.
    """

    loaded: LoadedImage
    score: float
    heatmap: Floats
    panels: Panels
    seconds: float

    @property
    def record(self) -> Record:
        return self.loaded.record

    @property
    def sha256(self) -> str:
        return self.loaded.sha256


@dataclass(frozen=True)
class ScoredVolume:
    """A volume with its heatmap [D, H, W], NaN in slices that were not scored, and their scores.

    `score` is that of the most anomalous slice. A brain that was prepared is scored on a grid of
    its own, from which it is `brought_back`.
    """

    loaded: LoadedVolume
    heatmap: Floats
    slices: SliceScores
    seconds: float
    score: float

    @property
    def record(self) -> Record:
        return self.loaded.record

    @property
    def sha256(self) -> str:
        return self.loaded.sha256


Scored = ScoredImage | ScoredVolume | Failed


@dataclass(frozen=True)
class _Found:
    """The score, heatmap and reconstruction of an image on the detector's grid."""

    score: float
    heatmap: Floats
    reconstruction: Floats | None


def score_records(
    model: Model,
    records: Iterable[Record],
    reporter: Reporter,
    task: str = "score",
    *,
    mine: Callable[[str], bool] | None = None,
    note: Callable[[], str] = lambda: "",
    scratch: DecodedFiles | None = None,
    accept_different: bool = False,
    in_source: bool = False,
) -> Iterator[Scored]:
    """Score records in order, a fixed number at a time.

    Files whose hash is not `mine` are left out. `note` is shown beside the progress, whose end is 0
    if it is not known. What `scratch` holds is not decoded again. A file that differs so much from
    what the model has seen that it cannot be judged is `Failed`, unless `accept_different`. With
    `in_source` the maps of brains that were prepared come in their sources' voxels, for files and
    truths; else they stay on the grid that was scored.
    """
    done, total = 0, len(records) if isinstance(records, Sized) else 0
    reader = Reader(
        model.preprocess, model.prepare, mine, scratch, accept_different=accept_different
    )

    def read(record: Record) -> Loaded:
        return _unless_refused(model, reader.read(record), accept_different)

    loaded_records = read_ahead(read, records, LOOK_AHEAD * model.batch_size)

    for chunk in in_chunks(loaded_records, model.batch_size):
        images = [loaded for loaded in chunk if isinstance(loaded, LoadedImage)]
        start = time.monotonic()
        found = iter(_detect_each(model, images))
        seconds = (time.monotonic() - start) / max(len(images), 1)

        done += len(chunk)
        while chunk:  # a volume is not to stay until the next one has been read
            loaded = chunk.pop(0)
            if isinstance(loaded, LoadedImage):
                yield _scored_image(model, loaded, next(found), seconds)
            elif isinstance(loaded, LoadedVolume):
                yield _scored_volume(model, loaded, in_source)
            elif not isinstance(loaded, OtherShards):
                yield loaded
        del loaded
        reporter.progress(task, done, total, note())


def brought_back(scored: ScoredVolume) -> ScoredVolume:
    """Return a volume with its map in the slices of its source; a brain that was prepared has
    others of its own.

    A slice of the source may cross several of those. Its score is that of the one, or between those
    of the two, in which its highest value lies.
    """
    loaded, of, brain = scored.loaded, scored.loaded.volume, scored.loaded.brain
    if brain is None:
        return scored
    geometry = brain.native.geometry(of.geometry.plane)

    def to_source(values: Floats) -> Floats:
        return geometry.to_slices(returned(of.geometry.to_source(values), brain))

    heatmap = to_source(scored.heatmap)
    own = np.full(len(of.scored), np.nan, np.float32)
    own[scored.slices.numbers] = scored.slices.scores
    scores = to_source(np.where(np.isfinite(scored.heatmap), own[:, None, None], np.nan))
    foreground = geometry.to_slices(returned_mask(of.geometry.to_source(of.foreground), brain))

    has_score = np.asarray((foreground & np.isfinite(heatmap)).any((1, 2)))
    if not has_score.any():
        raise ImageError("no voxel of the volume lies in a slice of the brain that was scored")
    volume = replace(
        of,
        source=brain.native,
        geometry=geometry,
        slices=geometry.to_slices(brain.native.voxels),
        foreground=foreground,
        scored=has_score,
        unseen=np.zeros_like(has_score),
    )
    slices = _highest_in(heatmap, scores, volume.numbers)
    return replace(scored, loaded=replace(loaded, volume=volume), heatmap=heatmap, slices=slices)


def _highest_in(heatmap: Floats, scores: Floats, numbers: NDArray[np.int64]) -> SliceScores:
    """Return the highest value of each of some slices of a heatmap [D, H, W], and the score
    [D, H, W] there."""
    peaks, found = np.empty(len(numbers)), np.empty(len(numbers))
    for place, number in enumerate(numbers):
        peak = int(np.nanargmax(heatmap[number]))
        peaks[place] = heatmap[number].ravel()[peak]
        found[place] = scores[number].ravel()[peak]
    return SliceScores(numbers, found, peaks)


def scores_and_maps(model: Model, images: Sequence[LoadedImage]) -> list[tuple[float, Floats]]:
    """Return the scores of images, and their heatmaps on the detector's grid; at most as many as
    are scored together."""
    return [(found.score, found.heatmap) for found in _detect(model, images)]


def native_map(model: Model, loaded: LoadedImage, heatmap: Floats) -> Floats:
    """Return a heatmap of the detector's grid in the image's own [H, W], NaN where the image does
    not count."""
    if loaded.cut_from is not None:
        native = model.decode_slice(heatmap, loaded.cut_from.geometry)
    else:
        native = model.decode(heatmap, loaded.image.shape[1:])
    return _in_region(native, loaded.region)


def _unless_refused(model: Model, loaded: Loaded, accept_different: bool) -> Loaded:
    """Return what was read, or `Failed` if the model cannot judge it."""
    if accept_different or model.seen is None or not model.seen.modalities:
        return loaded
    if isinstance(loaded, LoadedImage | LoadedVolume):
        refused = model.seen.refusal(modality_of(loaded))
        if refused:
            return Failed(loaded.record, loaded.sha256, refused)
    return loaded


def _detect_each(model: Model, images: Sequence[LoadedImage]) -> list[_Found | Failed]:
    """Return what is found in each image, or why it cannot be scored: an image that fails must not
    take the others with it."""
    if not images:
        return []
    try:
        return list(_detect(model, images))
    except Exception as error:
        if isinstance(error, AnodetectError) and not isinstance(error, ImageError):
            raise
        if len(images) == 1:
            return [Failed(images[0].record, images[0].sha256, one_line(error, REPORT_IT))]
        return [_detect_each(model, [image])[0] for image in images]


def _detect(model: Model, images: Sequence[LoadedImage]) -> list[_Found]:
    prepared = [model.prepared(image) for image in images]
    numbers = [image.record.slice for image in images]
    digests = [image.digest for image in images]
    scores = model.score([image.counted for image in images], prepared, numbers, digests)

    found = []
    for row, score in enumerate(scores.image.tolist()):
        _check_finite(score, scores.heatmap[row])
        reconstruction = None if scores.reconstruction is None else scores.reconstruction[row]
        found.append(_Found(score, scores.heatmap[row], reconstruction))
    return found


def _check_finite(scores: float | NDArray[np.float64], heatmap: Floats) -> None:
    """Raise ImageError for scores or a heatmap with a value that cannot be compared."""
    if not (np.isfinite(scores).all() and np.isfinite(heatmap).all()):
        raise ImageError("the model's score or heatmap is not finite")


def _scored_image(
    model: Model, loaded: LoadedImage, found: _Found | Failed, seconds: float
) -> ScoredImage | Failed:
    """Return what was found in an image on its own grid."""
    if isinstance(found, Failed):
        return found
    heatmap = native_map(model, loaded, found.heatmap)
    panels = model.panels(loaded, found.heatmap, found.reconstruction)
    scored = ScoredImage(loaded, found.score, heatmap, panels, seconds)
    return _as_in_file(scored) if loaded.mirrored else scored


def _as_in_file(scored: ScoredImage) -> ScoredImage:
    """Return what was found in a mirrored image with its columns as the file has them."""
    loaded, panels = scored.loaded, scored.panels
    region = loaded.region
    if region is not None:
        region = replace(region, inside=region.inside[:, ::-1])
    image = np.ascontiguousarray(loaded.image[..., ::-1])
    shown = panels.reconstruction

    return replace(
        scored,
        loaded=replace(loaded, image=image, prepared=None, region=region, mirrored=False),
        heatmap=np.ascontiguousarray(scored.heatmap[:, ::-1]),
        panels=replace(
            panels,
            image=panels.image[..., ::-1],
            heatmap=panels.heatmap[:, ::-1],
            reconstruction=None if shown is None else shown[..., ::-1],
        ),
    )


def _in_region(heatmap: Floats, region: Region | None) -> Floats:
    """Return a heatmap [H, W] that is NaN where its image does not count."""
    if region is None:
        return heatmap
    return np.where(region.inside, heatmap, np.float32(np.nan))


def _scored_volume(model: Model, loaded: LoadedVolume, in_source: bool) -> ScoredVolume | Failed:
    try:
        scored = _score_volume(model, loaded)
        return brought_back(scored) if in_source else scored
    except Exception as error:
        if isinstance(error, AnodetectError) and not isinstance(error, ImageError):
            raise
        return Failed(loaded.record, loaded.sha256, one_line(error, REPORT_IT))


def _score_volume(model: Model, loaded: LoadedVolume) -> ScoredVolume:
    """Score a volume, as patches or slice by slice."""
    start = time.monotonic()
    numbers = loaded.volume.numbers
    if model.tiling.dims == 3:
        scores, heatmap = model.score_volume(loaded.volume)
    else:
        scores, heatmap = _score_slices(model, loaded)

    peaks = np.array([np.nanmax(heatmap[number]) for number in numbers], np.float64)
    _check_finite(scores, peaks.astype(np.float32))
    seconds = time.monotonic() - start
    slices = SliceScores(numbers, scores, peaks)
    return ScoredVolume(loaded, heatmap, slices, seconds, float(scores.max()))


def _score_slices(model: Model, loaded: LoadedVolume) -> tuple[NDArray[np.float64], Floats]:
    """Score a volume slice by slice, in the batches in which images are scored; return the same as
    `Model.score_volume`."""
    geometry = loaded.volume.geometry
    heatmap = np.full(geometry.sides, np.nan, np.float32)
    scores: list[float] = []

    slices = read_ahead(
        lambda record: slice_image(loaded, record, model.prepare),
        slice_records(loaded),
        2 * model.batch_size,
    )
    for chunk in in_chunks(slices, model.batch_size):
        images = [each for each in chunk if isinstance(each, LoadedImage)]
        for image, found in zip(images, _detect(model, images), strict=True):
            scores.append(found.score)
            own = model.decode_slice(found.heatmap, geometry)
            heatmap[image.record.slice] = _in_region(own, image.region)
    return np.array(scores), heatmap
