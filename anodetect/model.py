"""A model brought to life: configuration, and the path of an image from file to score.

read → preprocess → representation → detector.score → heatmap in the image's own grid

A volume is a series of slices, each an image; where `tiling.dims` is 3, one array that the detector sees in patches.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect import runs, tiling
from anodetect.calibration import Doubles
from anodetect.config import build, merge
from anodetect.data import readers
from anodetect.data.preprocess import Prepared, Preprocess, PreprocessConfig
from anodetect.data.scan import Record, fills_memory
from anodetect.data.volumes import Volume
from anodetect.detectors import DETECTORS, detector_class
from anodetect.errors import AnodetectError, ConfigError, ImageError, RunError, nearest
from anodetect.heatmaps import pool
from anodetect.representations import representation_class
from anodetect.representations.pixels import resize, resize_depth
from anodetect.tiling import TilingConfig
from anodetect.types import Batch, Bools, Expert, Floats, Reporter, Scores, image_seeds

BATCH = 16
LOOK_AHEAD = 3  # batches
PIXELS_AHEAD = 2**26  # 256 MB of float32; a single image may be larger
SECTIONS = ("preprocess", "tiling", "representation", "detector")


# -- Configuration --------------------------------------------------------------------------------------


def resolve(detector: str, representation: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of all sections with defaults filled in; keys without a section go where they exist.

    `representation` "auto" stands for the detector's first.
    """
    dims = _dims(values)
    cls = detector_class(detector, dims)
    suitable = DETECTORS[detector].representations if dims == 2 else ("pixels",)
    if representation == "auto":
        representation = suitable[0]
    seen = representation_class(representation)
    if representation not in suitable:
        raise ConfigError(f"{detector} works on {' and '.join(suitable)} only{' with --dims 3' if dims == 3 else ''}")
    classes = {
        "preprocess": PreprocessConfig,
        "tiling": TilingConfig,
        "representation": seen.Config,
        "detector": cls.Config,
    }
    given: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    values = dict(values)
    preset = _preset(cls, values.pop("preset", None))
    for key, value in values.items():
        if key in SECTIONS:
            if not isinstance(value, Mapping):
                raise ConfigError(f"[{key}] is a section, not a value")
            given[key] = merge(given[key], value)
            continue
        homes = [name for name in SECTIONS if key in classes[name].model_fields]
        if not homes:
            known = [*SECTIONS, *(field for name in SECTIONS for field in classes[name].model_fields)]
            raise ConfigError(f"unknown key {key!r}; {nearest(key, known)}")
        given[homes[-1]] = merge(given[homes[-1]], {key: value})
    _check_dims(dims, given)
    defaults = merge(cls.defaults.get(representation, {}), preset)
    if tile := given["tiling"].get("tile"):  # tiles are not shrunk unless a size is asked for
        defaults = merge(defaults, {"representation": {"size": tile}})
    sections = {name: merge(defaults.get(name, {}), given[name]) for name in SECTIONS}
    built = {name: build(classes[name], sections[name], name) for name in SECTIONS}
    if "members" in cls.Config.model_fields:
        built["detector"] = built["detector"].model_copy(update={"settings": _members(built["detector"], tile)})
    return {name: built[name].model_dump(mode="json") for name in SECTIONS}


def _members(config: Any, tile: int | None) -> dict[str, Any]:
    """An ensemble's settings with the defaults of its members filled in."""
    unknown = set(config.settings) - set(config.members)
    if unknown:
        name = min(unknown)
        raise ConfigError(f"detector.settings: no member {name!r}; {nearest(name, config.members)}")
    settings = {}
    for member in config.members:
        detector, _, representation = member.partition("/")
        if detector == "ensemble":
            raise ConfigError("detector.members: an ensemble in an ensemble says nothing new; name its members")
        asked = config.settings.get(member, {}) | ({"tiling": {"tile": tile}} if tile else {})
        whole = resolve(detector, representation or "auto", asked)
        settings[member] = {section: whole[section] for section in ("representation", "detector")}
    return settings


def create_detector(name: str, settings: Mapping[str, Any], dims: int = 2) -> Any:
    """The detector of this name with these settings; an ensemble can make its members."""
    cls = detector_class(name, dims)
    config = build(cls.Config, settings, "detector")
    return cls(config, _expert) if "members" in cls.Config.model_fields else cls(config)


def _expert(member: str, settings: Mapping[str, Any]) -> Expert:
    detector, _, representation = member.partition("/")
    seen = representation_class(representation or DETECTORS[detector].representations[0])
    config = build(seen.Config, settings.get("representation", {}), "representation")
    return Expert(seen(config), create_detector(detector, settings.get("detector", {})))


def _dims(values: Mapping[str, Any]) -> int:
    """Of tiling; a value that is no number of dimensions is left to the section's own check."""
    section = values.get("tiling", {})
    return 3 if 3 in (values.get("dims"), section.get("dims") if isinstance(section, Mapping) else None) else 2


def _check_dims(dims: int, given: Mapping[str, Mapping[str, Any]]) -> None:
    """ConfigError if a setting belongs to the other number of dimensions."""
    if dims == 2 and "patch" in given["tiling"]:
        raise ConfigError("patch is of volumes in three dimensions; add --dims 3")
    if dims == 3 and given["tiling"].get("tile"):
        raise ConfigError("--tile is of images and slices; with --dims 3 --set 'patch=[16, 64, 64]' is what it is")
    if dims == 3 and given["representation"]:
        raise ConfigError(f"--dims 3 takes voxels as they are; leave out {', '.join(given['representation'])}")


def _preset(cls: Any, name: str | None) -> Mapping[str, Any]:
    presets: Mapping[str, Any] = getattr(cls, "presets", {})
    if name is not None and name not in presets:
        raise ConfigError(f"{cls.__name__} has no preset {name!r}; {nearest(name, presets)}")
    return {} if name is None else presets[name]


@dataclass
class Model:
    """Everything between an image in native units and its score."""

    preprocess: Preprocess
    tiling: TilingConfig
    representation: Any
    detector: Any

    @classmethod
    def create(cls, detector: str, representation: str, config: Mapping[str, Any]) -> "Model":
        seen = representation_class(representation)
        tiled = build(TilingConfig, config["tiling"], "tiling")
        return cls(
            Preprocess(build(PreprocessConfig, config["preprocess"], "preprocess")),
            tiled,
            seen(build(seen.Config, config["representation"], "representation")),
            create_detector(detector, config["detector"], tiled.dims),
        )

    @classmethod
    def load(cls, run: runs.Run, device: str) -> "Model":
        """RunError if what the run holds is no model, though its hashes fit."""
        try:
            model = cls.create(run.header["detector"], run.header["representation"], run.header["config"])
            model.preprocess.load_state(run.header["preprocess"])
            model.representation.load_state(run.header["representation_state"])
            model.detector.load_state(run.state, device=device)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            raise RunError(f"{run.path}: not a usable model ({type(error).__name__}: {error})") from error
        return model

    def encode(self, image: Floats, of: Prepared | None = None, number: int = 0) -> tuple[Floats, Bools]:
        """What the detector sees of an image, or `of` a volume of the slice `number`; with tiling the scaled image,
        from which tiles are cut."""
        if self.tiling.dims == 3:
            raise ImageError("an image, but the model was trained on volumes in three dimensions (--dims 3)")
        scaled, inside = self.preprocess.apply(image, of, number)
        return (scaled, inside) if self.tiling.tile else self.representation.encode(scaled, inside)

    def encode_volume(self, volume: Prepared) -> tuple[Floats, Bools]:
        """A volume from which patches are cut: scaled [C, D, H, W], and the foreground of slices that have enough of it
        [D, H, W]; with a spacing asked for as many slices, rows and columns as that gives."""
        applied = [self.preprocess.apply(volume.slices[:, n], volume, n) for n in range(len(volume.scored))]
        inside = np.stack([foreground for _, foreground in applied]) & volume.scored[:, None, None]
        depth = self.preprocess.depth(volume.geometry)
        return resize_depth(np.stack([scaled for scaled, _ in applied], axis=1), depth), _masked_to(inside, depth)

    def crops(self, encoded: tuple[Floats, Bools], count: int, rng: np.random.Generator) -> list[tuple[Floats, Bools]]:
        """What to learn from an encoded image: itself, or with tiling `count` random tiles; of a volume patches."""
        if not any(self.tiling.sides):
            return [encoded]
        tiles = tiling.random_crops(*encoded, self.tiling, count, rng)
        return tiles if self.tiling.dims == 3 else [self.representation.encode(*tile) for tile in tiles]

    def score(
        self,
        images: Sequence[Floats],
        encoded: Sequence[tuple[Floats, Bools]],
        numbers: Iterable[int | None] = itertools.repeat(None),
    ) -> Scores:
        """Scores of `images` in native units, of which some are slices with `numbers`; with tiling, of one."""
        seeds = image_seeds(images, numbers)
        if not self.tiling.tile:
            batch = Batch(np.stack([image for image, _ in encoded]), np.stack([inside for _, inside in encoded]))
            return self.detector.score(batch, seeds=seeds)  # type: ignore[no-any-return]
        ((image, inside),) = encoded
        return tiling.score(
            image,
            inside,
            self.tiling,
            seed=int(seeds[0]),
            encode=self.representation.encode,
            detect=lambda batch, seeds: self.detector.score(batch, seeds=seeds),
            decode=self.representation.decode,
        )

    def score_volume(self, volume: Prepared) -> tuple[Doubles, Floats]:
        """Scores of the slices to score [n], and the heatmap [D, H, W] in the volume's own slices, NaN in the others;
        in three dimensions. A slice is pooled as an image is."""
        numbers, (depth, height, width) = volume.numbers, volume.geometry.sides
        seed = int(image_seeds([volume.slices])[0])
        scaled, inside = self.encode_volume(volume)
        found = tiling.volume_heatmap(
            scaled,
            inside,
            self.tiling,
            seed=seed,
            detect=lambda batch, seeds: self.detector.score(batch, seeds=seeds),
        )
        found, inside = resize_depth(found[None], depth)[0], _masked_to(inside, depth)
        scores = pool(found[numbers], inside[numbers], self.detector.config.pooling).astype(np.float64)
        heatmap = np.full((depth, height, width), np.nan, np.float32)
        for number in numbers:
            heatmap[number] = self.decode(found[number], (height, width))
        return scores, heatmap

    def shown(
        self, loaded: "Loaded", heatmap: Floats, reconstruction: Floats | None
    ) -> tuple[Floats, Floats, Floats | None]:
        """Image, heatmap and reconstruction on one grid, for a person to look at."""
        assert loaded.image is not None
        assert loaded.encoded is not None
        if self.tiling.tile:
            return loaded.encoded[0], heatmap, reconstruction
        seen: tuple[Floats, Floats, Floats | None] = self.representation.shown(
            loaded.image, loaded.encoded[0], heatmap, reconstruction
        )
        return seen

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """A heatmap → the image's own grid [H, W]."""
        if any(self.tiling.sides):  # of the image's size, unless that was resampled
            decoded: Floats = resize(heatmap[None], *shape)[0]
        else:
            decoded = self.representation.decode(heatmap, shape)
        return decoded

    @property
    def batch(self) -> int:
        """Images to score at a time: whole large images are scored one by one."""
        return 1 if self.tiling.tile else BATCH


def _masked_to(foreground: Bools, depth: int) -> Bools:
    """A foreground [D, H, W] with `depth` slices."""
    if len(foreground) == depth:
        return foreground
    resized: Bools = resize_depth(foreground[None].astype(np.float32), depth)[0] >= 0.5
    return resized


# -- Reading --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A record with its image [C, H, W], or a volume's slices [C, D, H, W], or the reason why there is none."""

    record: Record
    image: Floats | None = None
    encoded: tuple[Floats, Any] | None = None  # of an image
    volume: Prepared | None = None  # of a volume, and of a slice the one it is of
    sha256: str = ""
    error: str = ""
    elsewhere: bool = False  # another shard's; it was not decoded

    @property
    def is_volume(self) -> bool:
        return self.volume is not None and self.record.slice is None


@dataclass(frozen=True)
class SliceScores:
    """Of a volume's slices that were scored: their numbers [n], scores [n] and highest map values [n]."""

    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]
    peaks: NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A record with its score, heatmap in the image's own grid, and what the detector saw and made of it.

    A volume's heatmap is [D, H, W], NaN in slices that were not scored; its score is that of its most anomalous slice.
    """

    loaded: Loaded
    score: float = float("nan")
    heatmap: Floats | None = None
    grid: tuple[Floats, Floats, Floats | None] | None = None  # image, heatmap, reconstruction on one grid, to be shown
    seconds: float = 0.0
    slices: SliceScores | None = None


def load(
    record: Record,
    model: Model | None = None,
    mine: Callable[[str], bool] | None = None,
    preprocess: Preprocess | None = None,
) -> Loaded:
    """Read and hash one file, and prepare it for a model; only hash it if its hash is not `mine`.

    What is known of volumes before there is a model is in `preprocess`.
    """
    preprocess = model.preprocess if model else preprocess or Preprocess(PreprocessConfig())
    sha256 = ""
    try:
        if record.slice is not None:
            return _slice(_volume_of(record, preprocess), model, record)
        source = readers.read_source(record)
        sha256 = source.sha256
        if mine and not mine(sha256):
            return Loaded(record, sha256=sha256, elsewhere=True)
        decoded = source.decode(preprocess.config.component)
        del source  # a file's bytes are not needed beside its voxels
        if isinstance(decoded, Volume):
            prepared = preprocess.prepare(decoded, readers.supplied_foreground(record, decoded))
            return Loaded(record, prepared.slices, None, prepared, sha256)
        return Loaded(record, decoded, model.encode(decoded) if model else None, sha256=sha256)
    except Exception as error:  # also one that nobody thought of: a file must not end a night's work
        if isinstance(error, AnodetectError) and not isinstance(error, ImageError):
            raise
        # What was read belongs to the shard of its content, damaged or not; what was not, to that of its name.
        if mine and not sha256 and not mine(readers.digest(record.id.encode())):
            return Loaded(record, elsewhere=True)
        return Loaded(record, sha256=sha256, error=why(error))


def why(error: Exception) -> str:
    """Why a file could not be used, in a line."""
    if isinstance(error, AnodetectError):
        return str(error)
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    return f"please report: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def slice_records(loaded: Loaded, dims: int = 2) -> list[Record]:
    """The records of what there is to learn from: of a volume its slices with enough foreground, else the image; in
    three dimensions the volume."""
    if dims == 3 and loaded.volume is None:
        raise ConfigError(f"--dims 3 is for volumes, and {loaded.record.id} is an image")
    if dims == 3 or not loaded.is_volume or loaded.volume is None:
        return [loaded.record]
    return [replace(loaded.record, slice=int(number)) for number in loaded.volume.numbers]


def _slice(loaded: Loaded, model: Model | None, record: Record) -> Loaded:
    """One slice of a volume as an image."""
    if loaded.volume is None or record.slice is None:
        return replace(loaded, record=record)
    image = np.ascontiguousarray(loaded.volume.slices[:, record.slice])
    encoded = model.encode(image, loaded.volume, record.slice) if model else None
    return Loaded(record, image, encoded, loaded.volume, loaded.sha256)


_last: dict[str, Loaded] = {}  # the volume whose slice was read last: slices of a volume are read one after another
_reading = threading.Lock()


def _volume_of(record: Record, preprocess: Preprocess) -> Loaded:
    """The volume of a slice, read once for slices that are asked for in a row."""
    key = f"{record.path} {record.component} {record.foreground} {preprocess.config} {preprocess.axis}"
    with _reading:
        if key not in _last:
            _last.clear()
            _last[key] = load(replace(record, slice=None), preprocess=preprocess)
        return _last[key]


class _Gate:
    """Lets finished images wait for their turn as long as they are not too many pixels together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self.turn = limit, 0, 0
        self.outside, self.early = 0, set[int]()  # the first that has not entered, and those after it that have
        self.changed = threading.Condition()

    def enter(self, number: int, pixels: int, *, in_order: bool = False) -> None:
        """Wait until there is room, `in_order` also until all before it have entered, or until it is this one's turn:
        what enters too early would be there beside the one whose turn it is."""

        def may() -> bool:
            room = self.held + pixels <= self.limit and not (in_order and number > self.outside)
            return room or number <= self.turn

        with self.changed:
            self.changed.wait_for(may)
            self.held += pixels
            self.early.add(number)
            while self.outside in self.early:
                self.early.remove(self.outside)
                self.outside += 1
            self.changed.notify_all()

    def call(self, number: int) -> None:
        """From now on it is this one's turn."""
        with self.changed:
            self.turn = number
            self.changed.notify_all()

    def leave(self, pixels: int) -> None:
        with self.changed:
            self.held -= pixels
            self.changed.notify_all()


def ahead(
    function: Callable[[Record], Loaded], items: Iterable[Record], depth: int = LOOK_AHEAD * BATCH
) -> Iterator[Loaded]:
    """Map in order on two threads, at most `depth` items and about PIXELS_AHEAD ahead of the consumer, so that memory
    stays flat however large the images are. A volume is not even read before there is room for it."""
    gate = _Gate(PIXELS_AHEAD)

    def work(number: int, item: Record) -> Loaded:
        if not fills_memory(item):
            loaded = function(item)
            gate.enter(number, pixels(loaded))
            return loaded
        gate.enter(number, PIXELS_AHEAD, in_order=True)
        loaded = function(item)
        gate.leave(PIXELS_AHEAD - pixels(loaded))  # it is not there if it could not be read
        return loaded

    with ThreadPoolExecutor(2) as pool:
        waiting: deque[tuple[int, Future[Loaded]]] = deque()
        try:
            for number, item in enumerate(items):
                waiting.append((number, pool.submit(work, number, item)))
                if len(waiting) >= depth:
                    yield _next(waiting, gate)
            while waiting:
                yield _next(waiting, gate)
        finally:
            for _, future in waiting:
                future.cancel()
            gate.call(2**62)  # whoever still waits at the gate may go home
            pool.shutdown()
            _last.clear()  # nobody asks for its slices any more


def _next(waiting: "deque[tuple[int, Future[Loaded]]]", gate: _Gate) -> Loaded:
    number, future = waiting.popleft()
    gate.call(number)
    loaded = future.result()
    gate.leave(pixels(loaded))
    return loaded


def pixels(loaded: Loaded) -> int:
    """What an image counts for in memory; a volume fills it, so that volumes are there one at a time."""
    if loaded.image is None:
        return 0
    return max(loaded.image.size, PIXELS_AHEAD) if loaded.is_volume else loaded.image.size


def score_records(
    model: Model,
    items: Iterable[Record],
    reporter: Reporter,
    task: str = "score",
    *,
    mine: Callable[[str], bool] | None = None,
    note: Callable[[], str] = lambda: "",
) -> Iterator[Scored]:
    """Score records in order, a fixed number at a time; failed ones come out as they went in, those of other shards
    not at all. `note` is shown beside the progress, of which the end is 0 where it is not known."""
    done, total = 0, len(items) if isinstance(items, Sized) else 0
    for chunk in _chunks(ahead(lambda r: load(r, model, mine), items, LOOK_AHEAD * model.batch), model.batch):
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
    """What is found in each image, or why it cannot be scored: one that fails must not take the others with it."""
    try:
        return [*_score_chunk(model, chunk)]
    except AnodetectError:
        raise
    except Exception as error:
        return [why(error)] if len(chunk) == 1 else [_each_scored(model, [loaded])[0] for loaded in chunk]


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
    return Scored(loaded, float(scores.max()), heatmap, None, seconds, SliceScores(numbers, scores, peaks))


def _score_slices(model: Model, loaded: Loaded, volume: Prepared) -> tuple[Doubles, Floats]:
    """A volume slice by slice, in the batches images are scored in; as `Model.score_volume`."""
    depth, height, width = volume.geometry.sides
    heatmap = np.full((depth, height, width), np.nan, np.float32)
    scores: list[float] = []
    slices = ahead(lambda record: _slice(loaded, model, record), slice_records(loaded), 2 * model.batch)
    for chunk in _chunks(slices, model.batch):
        for each, (score, found, _) in zip(chunk, _score_chunk(model, chunk), strict=True):
            scores.append(score)
            heatmap[each.record.slice] = model.decode(found, (height, width))
    return np.array(scores), heatmap


Found = tuple[float, Floats, Floats | None]  # score, heatmap and reconstruction, on the detector's grid


def _score_chunk(model: Model, chunk: Sequence[Loaded]) -> list[Found]:
    images = [loaded.image for loaded in chunk if loaded.image is not None]
    encoded = [loaded.encoded for loaded in chunk if loaded.encoded is not None]
    scores = model.score(images, encoded, [loaded.record.slice for loaded in chunk])
    reconstructions = [None] * len(images) if scores.reconstruction is None else list(scores.reconstruction)
    return list(zip(scores.image.tolist(), scores.heatmap, reconstructions, strict=True))


def _chunks(items: Iterator[Loaded], size: int) -> Iterator[list[Loaded]]:
    """Up to `size` items at a time, fewer where they are large; a volume ends them."""
    chunk: list[Loaded] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size or sum(map(pixels, chunk)) >= PIXELS_AHEAD:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
