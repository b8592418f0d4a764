"""A model brought to life: configuration, and the path of an image from file to score.

read → preprocess → representation → detector.score → heatmap in the image's own grid
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from anodetect import runs, tiling
from anodetect.config import build, merge
from anodetect.data import readers
from anodetect.data.preprocess import Preprocess, PreprocessConfig
from anodetect.data.scan import Record
from anodetect.detectors import DETECTORS, detector_class
from anodetect.errors import ConfigError, ImageError, nearest
from anodetect.representations import representation_class
from anodetect.tiling import TilingConfig
from anodetect.types import Batch, Bools, Floats, Reporter, Scores, image_seeds

BATCH = 16
LOOK_AHEAD = 3  # batches
SECTIONS = ("preprocess", "tiling", "representation", "detector")


# -- Configuration --------------------------------------------------------------------------------------


def resolve(detector: str, representation: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of all sections with defaults filled in; keys without a section go where they exist.

    `representation` "auto" stands for the detector's first.
    """
    cls = detector_class(detector)
    suitable = DETECTORS[detector].representations
    if representation == "auto":
        representation = suitable[0]
    seen = representation_class(representation)
    if representation not in suitable:
        raise ConfigError(f"{detector} works on {' and '.join(suitable)} only")
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
    defaults = merge(cls.defaults.get(representation, {}), preset)
    if tile := given["tiling"].get("tile"):  # tiles are not shrunk unless a size is asked for
        defaults = merge(defaults, {"representation": {"size": tile}})
    sections = {name: merge(defaults.get(name, {}), given[name]) for name in SECTIONS}
    return {name: build(classes[name], sections[name], name).model_dump(mode="json") for name in SECTIONS}


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
        detector_type = detector_class(detector)
        return cls(
            Preprocess(build(PreprocessConfig, config["preprocess"], "preprocess")),
            build(TilingConfig, config["tiling"], "tiling"),
            seen(build(seen.Config, config["representation"], "representation")),
            detector_type(build(detector_type.Config, config["detector"], "detector")),
        )

    @classmethod
    def load(cls, run: runs.Run, device: str) -> "Model":
        model = cls.create(run.header["detector"], run.header["representation"], run.header["config"])
        model.preprocess.load_state(run.header["preprocess"])
        model.representation.load_state(run.header["representation_state"])
        model.detector.load_state(run.state, device=device)
        return model

    def encode(self, image: Floats) -> tuple[Floats, Bools]:
        """What the detector sees of an image; with tiling the scaled image, from which tiles are cut."""
        scaled, inside = self.preprocess.apply(image)
        return (scaled, inside) if self.tiling.tile else self.representation.encode(scaled, inside)

    def crops(self, encoded: tuple[Floats, Bools], count: int, rng: np.random.Generator) -> list[tuple[Floats, Bools]]:
        """What to learn from an encoded image: itself, or with tiling `count` random tiles."""
        if not self.tiling.tile:
            return [encoded]
        tiles = tiling.random_crops(*encoded, self.tiling, count, rng)
        return [self.representation.encode(*tile) for tile in tiles]

    def score(self, images: Sequence[Floats], encoded: Sequence[tuple[Floats, Bools]]) -> Scores:
        """Scores of `images` in native units; with tiling, of one."""
        seeds = image_seeds(images)
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
        return heatmap if self.tiling.tile else self.representation.decode(heatmap, shape)

    @property
    def batch(self) -> int:
        """Images to score at a time: whole large images are scored one by one."""
        return 1 if self.tiling.tile else BATCH


# -- Reading --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A record with its image, or the reason why there is none."""

    record: Record
    image: Floats | None = None
    encoded: tuple[Floats, Any] | None = None
    sha256: str = ""
    error: str = ""


@dataclass(frozen=True)
class Scored:
    """A record with its score, heatmap in the image's own grid, and what the detector saw and made of it."""

    loaded: Loaded
    score: float = float("nan")
    heatmap: Floats | None = None
    grid: tuple[Floats, Floats, Floats | None] | None = None  # image, heatmap, reconstruction on one grid, to be shown
    seconds: float = 0.0


def load(record: Record, model: Model | None = None) -> Loaded:
    """Read and hash one file, and prepare it for a model."""
    try:
        content = readers.read_bytes(record.path)
        image = readers.decode_image(content, record.path.suffix)
        encoded = model.encode(image) if model else None
        return Loaded(record, image, encoded, readers.digest(content))
    except ImageError as error:
        return Loaded(record, error=str(error))


def ahead(
    function: Callable[[Record], Loaded], items: Iterable[Record], depth: int = LOOK_AHEAD * BATCH
) -> Iterator[Loaded]:
    """Map in order on two threads, at most `depth` items ahead of the consumer, so that memory stays flat."""
    with ThreadPoolExecutor(2) as pool:
        waiting: deque[Future[Loaded]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def score_records(model: Model, items: Sequence[Record], reporter: Reporter, task: str = "score") -> Iterator[Scored]:
    """Score records in order, a fixed number at a time; failed ones come out as they went in."""
    done = 0
    for chunk in _chunks(ahead(lambda record: load(record, model), items, LOOK_AHEAD * model.batch), model.batch):
        good = [loaded for loaded in chunk if loaded.image is not None]
        begun = time.monotonic()
        results = iter(_score_chunk(model, good) if good else [])
        seconds = (time.monotonic() - begun) / max(len(good), 1)
        for loaded in chunk:
            if loaded.image is None:
                yield Scored(loaded)
            else:
                score, heatmap, reconstruction = next(results)
                full = model.decode(heatmap, loaded.image.shape[1:])
                yield Scored(loaded, score, full, model.shown(loaded, heatmap, reconstruction), seconds)
        done += len(chunk)
        reporter.progress(task, done, len(items))


def _score_chunk(model: Model, chunk: Sequence[Loaded]) -> list[tuple[float, Floats, Floats | None]]:
    images = [loaded.image for loaded in chunk if loaded.image is not None]
    scores = model.score(images, [loaded.encoded for loaded in chunk if loaded.encoded is not None])
    reconstructions = [None] * len(images) if scores.reconstruction is None else list(scores.reconstruction)
    return list(zip(scores.image.tolist(), scores.heatmap, reconstructions, strict=True))


def _chunks(items: Iterator[Loaded], size: int) -> Iterator[list[Loaded]]:
    chunk: list[Loaded] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
