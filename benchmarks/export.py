"""The time of a run and of its ONNX file for an image, on one thread: alone, and in full batches.

    python -m benchmarks.export RUN [--side 256] [--repeats 15] [--json]

Milliseconds of processor time from prepared pixels to a heatmap on the image's own grid, medians.
`score` fills batches of 16 up; `watch` and `serve` score each image alone. Processor time does not
depend on what else runs, but for caches and memory that are shared.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from anodetect.commands.export import INPUT, export
from anodetect.data.records import Record
from anodetect.model.loading import LoadedImage
from anodetect.model.model import Model
from anodetect.model.read_ahead import BATCH
from anodetect.model.scoring import native_map, scores_and_maps
from anodetect.nn.batching import small_batches
from anodetect.nn.onnx_file import session_of
from anodetect.record import runs, threads
from anodetect.types import Floats
from benchmarks import common

ACCEPTED = 0.05  # the tolerance: speed is what is measured here


def core_ms(function: Callable[[], object], repeats: int) -> float:
    """Return the median processor time of several calls in milliseconds, after one that does not
    count."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def scored(model: Model, images: list[Floats]) -> None:
    """Score images as `score` does once they are read."""
    loaded = []
    for image in images:
        record = Record("image", Path("image"))
        loaded.append(LoadedImage(record, "", image, model.prepare(image)))
    for each, (_, heatmap) in zip(loaded, scores_and_maps(model, loaded), strict=True):
        native_map(model, each, heatmap)


def measure(path: Path, side: int, repeats: int) -> dict[str, object]:
    """Return how long an image takes."""
    threads.limit(1)
    run = runs.read(path)
    model = Model.load(run, "cpu")
    model.without_cache()
    low, high = run.header.preprocess["range"]
    rng = np.random.default_rng(0)
    shape = (BATCH, model.preprocess.channels, side, side)
    images = list(rng.uniform(low, high, shape).astype(np.float32))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        comparison = export(path, file, tolerance=ACCEPTED).comparison
        session = session_of(file.read_bytes(), file, 1)
        onnx = core_ms(lambda: session.run(None, {INPUT: images[0][None]}), repeats)
    with small_batches():
        alone = core_ms(lambda: scored(model, images[:1]), repeats)
    batch = core_ms(lambda: scored(model, images), max(3, repeats // 3)) / BATCH
    return {
        "run_alone_ms": round(alone, 2),
        "run_in_batches_ms": round(batch, 2),
        "onnx_alone_ms": round(onnx, 2),
        "largest_difference": comparison.score,
    }


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    common.show(measure(given.run, given.side, given.repeats), given.json)


if __name__ == "__main__":
    main()
