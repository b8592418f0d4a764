"""Export: a run as one ONNX file, compared with the run before it is written.

run → graph → ONNX → scores of both on the same images → metadata → file
"""

import json
import math
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anodetect.data import cards
from anodetect.data.records import Record, is_volume
from anodetect.errors import ConfigError, DataError, RunError, one_line
from anodetect.files import write_atomic
from anodetect.imaging.inference import half_type
from anodetect.model.graph import Graph, made_image
from anodetect.model.loading import LoadedImage, Reader
from anodetect.model.model import Model
from anodetect.model.scoring import native_map, scores_and_maps
from anodetect.nn.batching import small_batches
from anodetect.nn.onnx_file import INSTALL_ONNX, check_runtime, session_of
from anodetect.record import environment, runs, threads
from anodetect.record.runs import Run
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.types import Floats
from anodetect.words import amount

FORMAT = 1  # of the metadata
PREFIX = "anodetect."  # of their keys
OPSET = 18
IMAGES = 64
TOLERANCE = 1e-3
INPUT, OUTPUTS = "image", ("score", "p_value", "heatmap")


@dataclass(frozen=True)
class Compared:
    """An image that run and file were compared on: its hash (of the file's bytes; of a made image
    its number), and its score by the run."""

    image: str
    score: float


@dataclass(frozen=True)
class Comparison:
    """The differences between the scores of a run and of its ONNX file.

    `images` says where they are from: "made", or what `--data` named. Differences of `score` and
    `heatmap` are the largest, as shares of the run's score and of the highest value of its map;
    `p_value` is the largest difference of p-values, and `flags` counts the images that only one of
    both flags. Times are medians in milliseconds, on `threads` threads.
    """

    images: str
    count: int
    score: float
    heatmap: float
    p_value: float
    flags: int
    tolerance: float
    run_ms: float
    onnx_ms: float
    threads: int
    compared: tuple[Compared, ...]


@dataclass(frozen=True)
class ExportResult:
    """A written ONNX file, with its size in bytes and the comparison with its run."""

    file: Path
    bytes: int
    comparison: Comparison

    def as_json(self) -> dict[str, Any]:
        """Return what `export --json` prints."""
        comparison = asdict(self.comparison)
        del comparison["compared"]
        return {"file": str(self.file), "bytes": self.bytes, "comparison": comparison}

    def text(self) -> str:
        """Return it in words."""
        found = self.comparison
        return (
            f"{self.file}: {self.bytes / 1e6:.1f} MB; on {amount(found.count, 'image')} "
            f"({found.images}) scores differ from the run's by {found.score:.1e} at most, maps by "
            f"{found.heatmap:.1e}, {amount(found.flags, 'flag')}; {found.onnx_ms:.1f} ms an image, "
            f"the run {found.run_ms:.1f} ms"
        )


def export(
    run_path: Path | str,
    file: Path | str,
    *,
    data: str = "",
    far: float = DEFAULT_FAR,
    tolerance: float = TOLERANCE,
    follow_symlinks: bool = False,
) -> ExportResult:
    """Write the model of a run as an ONNX file: from decoded pixels to score, p-value and heatmap.

    Both score the same images, up to IMAGES of `data`; without it made ones. RunError, and no file,
    if a score differs by more than the share `tolerance`. `far` decides the level of p-values and
    the threshold in the metadata. ConfigError for a model that cannot be one graph, or a file that
    is there already.
    """
    run_path, file = Path(run_path), Path(file)
    _check(file, tolerance)
    run = runs.read(run_path)
    run.calibration.level(far)  # refuses an impossible rate before any work
    model = Model.load(run, "cpu")
    model.without_cache()
    graph = Graph(model, run.header.detector, run.calibration, far).eval()

    content = _traced(graph, run)
    images = _images_of(run, model, data, follow_symlinks)
    comparison = _compared(run, model, content, images, far, tolerance, data or "made")
    if not comparison.score <= tolerance:  # also NaN
        halves = half_type(torch.device("cpu")) is not None
        why = " (the run computes in bfloat16 here, the file in float32)" if halves else ""
        raise RunError(
            f"the exported model's scores differ by {comparison.score:.1e} from the run's, more "
            f"than the tolerance of {tolerance:g}{why}; nothing was written"
        )
    finished = _with_metadata(content, _metadata(run, model, comparison, far))
    write_atomic(file, finished)
    return ExportResult(file, len(finished), comparison)


def _check(file: Path, tolerance: float) -> None:
    """Raise ConfigError if the file is there, a package is missing, or the tolerance is none."""
    check_runtime()
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ConfigError(f"writing ONNX files needs onnx: {INSTALL_ONNX}") from None
    if file.exists():
        raise ConfigError(f"{file} exists; choose another name")
    if not 0 < tolerance < 1:
        raise ConfigError(f"--tolerance {tolerance:g}: a share between 0 and 1 is expected")


def _traced(graph: Graph, run: Run) -> bytes:
    """Return the ONNX file of a graph, for images of any size; ConfigError if ONNX has no
    operations for it."""
    example = torch.from_numpy(_made(run, 0, graph.channels))[None]
    sides = {INPUT: {2: "height", 3: "width"}, "heatmap": {0: "height", 1: "width"}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an exporter that traces, which is wanted here
                torch.onnx.export(
                    graph,
                    (example,),
                    file,
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=[INPUT],
                    output_names=list(OUTPUTS),
                    dynamic_axes=sides,
                )
        except (torch.onnx.OnnxExporterError, RuntimeError, TypeError) as error:
            raise ConfigError(f"the run cannot be one graph: {one_line(error)}") from None
        return file.read_bytes()


# -- Comparison ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoredByRun:
    """An image as it was compared, with what the run made of it in so many seconds."""

    name: str
    image: Floats
    score: float
    heatmap: Floats
    seconds: float


def _made(run: Run, number: int, channels: int) -> Floats:
    """Return a made image whose values are those that the run has learned."""
    low, high = run.header.preprocess["range"]
    return made_image(number, channels, low, high)


def _images_of(run: Run, model: Model, data: str, follow_symlinks: bool) -> Iterator[ScoredByRun]:
    """Yield images with what the run makes of them: of `data` where it is named, else made ones."""
    if not data:
        for number in range(IMAGES):
            image = _made(run, number, model.preprocess.channels)
            yield _scored(model, str(number), image)
        return

    dataset = cards.open_data(data, follow_symlinks=follow_symlinks)
    records = [record for record in dataset.testing() if not is_volume(record)]
    reader, count = Reader(model.preprocess), 0
    for record in records[:: max(1, len(records) // IMAGES)][:IMAGES]:
        loaded = reader.read(record)
        if isinstance(loaded, LoadedImage) and loaded.region is None:
            count += 1
            image = model.preprocess.in_model_channels(loaded.image)
            yield _scored(model, loaded.sha256, image)
    if not count:
        raise DataError(f"{data}: no image that the run can score")


def _scored(model: Model, name: str, image: Floats) -> ScoredByRun:
    began = time.monotonic()
    loaded = LoadedImage(Record(name, Path(name)), name, image, model.prepare(image))
    with small_batches():
        ((score, heatmap),) = scores_and_maps(model, [loaded])
    own = native_map(model, loaded, heatmap)
    return ScoredByRun(name, image, score, own, time.monotonic() - began)


def _compared(
    run: Run,
    model: Model,
    content: bytes,
    images: Iterator[ScoredByRun],
    far: float,
    tolerance: float,
    source: str,
) -> Comparison:
    """Return how the file's scores, maps and p-values differ from those of the run."""
    session = session_of(content, run.path, threads.in_use())
    compared, scores, maps, chances, flags = [], [0.0], [0.0], [0.0], 0
    seconds: list[tuple[float, float]] = []
    for each in images:
        began = time.monotonic()
        score, p_value, heatmap = session.run(list(OUTPUTS), {INPUT: each.image[None]})
        seconds.append((each.seconds, time.monotonic() - began))

        p = float(run.calibration.p_values([each.score], far)[0])
        scores.append(abs(float(score[0]) - each.score) / max(abs(each.score), 1e-12))
        highest = max(float(np.abs(each.heatmap).max()), 1e-12)
        maps.append(float(np.abs(heatmap - each.heatmap).max()) / highest)
        chances.append(abs(float(p_value[0]) - p))
        flags += (float(p_value[0]) <= far) != (p <= far)
        compared.append(Compared(each.name, each.score))

    run_ms, onnx_ms = (np.median(seconds, axis=0) * 1000).tolist()
    return Comparison(
        images=source,
        count=len(compared),
        score=_worst(scores),
        heatmap=_worst(maps),
        p_value=_worst(chances),
        flags=flags,
        tolerance=tolerance,
        run_ms=round(run_ms, 3),
        onnx_ms=round(onnx_ms, 3),
        threads=threads.in_use(),
        compared=tuple(compared),
    )


def _worst(values: list[float]) -> float:
    """Return the largest value, infinity if one is not a number."""
    return math.inf if any(math.isnan(each) for each in values) else max(values)


# -- Metadata --------------------------------------------------------------------------------------


def _metadata(run: Run, model: Model, comparison: Comparison, far: float) -> Mapping[str, Any]:
    """Return what the file says of itself, by key; every value becomes JSON.

    Of calibration images there are scores and weights, and no names.
    """
    calibration, types = run.calibration, model.preprocess.sample_types
    level = calibration.level(far)
    weights, units = calibration.weights(level)
    return {
        "format": FORMAT,
        "versions": environment.facts(),
        "model_sha256": run.model_sha256,
        "detector": run.header.detector,
        "representation": run.header.representation,
        "config": run.header.config,
        "input": {
            "channels": model.preprocess.channels,
            "sample_type": types.reference,
            "factors": dict(types.factors),
            "range": run.header.preprocess["range"],
        },
        "calibration": {
            "far": far,
            "level": level,
            "threshold": calibration.threshold(far),
            "scores": calibration.scores.tolist(),
            "weights": weights.tolist(),
            "units": units,
            "statement": calibration.statement(far),
        },
        "colour_scale": run.header.scale,
        "comparison": asdict(comparison),
    }


def _with_metadata(content: bytes, values: Mapping[str, Any]) -> bytes:
    """Return an ONNX file with metadata."""
    import onnx

    from anodetect.config import without_nan

    model = onnx.load_from_string(content)
    model.producer_name = "anodetect"
    for name, value in values.items():
        model.metadata_props.add(key=PREFIX + name, value=json.dumps(without_nan(value)))
    onnx.checker.check_model(model)
    finished: bytes = model.SerializeToString()
    return finished
