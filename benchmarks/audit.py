"""The cost of scoring a folder beside the model: throughput, start-up, memory.

    python -m benchmarks.audit RUN [--images 1000] [--side 256] [--turns 3] [--many 20000] [--json]
    python -m benchmarks.audit --null [RUN] [--images 1000] [--turns 3] [--json]

Synthetic images in a temporary folder are scored in turns, and the medians are printed: by the bare
model (one model on all cores; images are read and prepared before the clock starts, nothing is
written), by bare models in as many processes on as many threads as `score` uses, and by `score`
with all outputs, without heatmaps, and in one process. The clock of `score` starts when its models
are loaded. Start-up is that of fresh processes, from their first instruction until files are
finished in the journal. Memory is that of fresh processes and all they start, sampled while they
score few images of 64 pixels and --many of them; 0 leaves this out. Use a quiet machine: whatever
else runs disturbs the figures.

With --null a representation and a detector that cost nothing take the place of a model
(`benchmarks.null`), so that reading, writing, rows and statistics are all there is. It prints the
images a second without maps and with all outputs, and the milliseconds of one core that an image
takes in each stage, for three kinds of images. Milliseconds are CPU time, which other work on the
machine disturbs less than it does images a second. The shares of one bare model on all cores are
those of RUN, by default of an `anoddpm` on pixels that is trained for a moment: what it has learned
does not change its speed.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from joblib import cpu_count
from PIL import Image

import anodetect
from anodetect.commands.inputs import collect
from anodetect.data import synthetic
from anodetect.engines import local
from anodetect.model.loading import LoadedImage, load
from anodetect.model.model import Model
from anodetect.output.formats import DEFAULT
from anodetect.record import runs, threads
from benchmarks import common, null

FEW = 1000  # images whose memory is compared with that of many
SMALL = 64  # the side of those images in pixels
STEPS = 20  # of the training of a model whose speed is measured, and nothing else


@dataclass(frozen=True)
class Timing:
    """The time at which a model began and ended, in seconds, and the number of images it scored."""

    start: float
    end: float
    images: int


def bare(run: Path, folder: Path, part: slice = slice(None), count: int | None = None) -> Timing:
    """Score a part of a folder with the model alone, in its own batches, on `count` threads."""
    model = Model.load(runs.read(run), "auto")
    if count:
        threads.limit(count)
    records = collect([str(folder)], folder / "out", False).records
    loaded = [load(record, model.preprocess, model.prepare) for record in records[part]]
    images = [each for each in loaded if isinstance(each, LoadedImage)]

    start = time.time()
    for first in range(0, len(images), model.batch_size):
        chunk = images[first : first + model.batch_size]
        model.score([each.image for each in chunk], [model.prepared(each) for each in chunk])
    return Timing(start, time.time(), len(images))


def speed(timings: Sequence[Timing]) -> float:
    """Return the images a second of models beside each other, from when the last one began to when
    the last one ended."""
    start, end = (max(getattr(each, name) for each in timings) for name in ("start", "end"))
    return sum(each.images for each in timings) / (end - start)


def bare_models(run: Path, folder: Path) -> float:
    """Return the images a second of bare models beside each other, as many and on as many threads
    as `score` has."""
    count, each = local.share(cpu_count(), local.memory())
    parts = [(run, folder, slice(number, None, count), each) for number in range(count)]
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        return speed(pool.starmap(bare, parts))


def command(run: Path, folder: Path, out: Path, *more: str) -> list[str]:
    """Return the command that scores a folder."""
    start = [sys.executable, "-m", "anodetect.cli", "score", str(run), str(folder)]
    return [*start, "--out", str(out), "--json", *more]


def start_up(run: Path, folder: Path, out: Path, *more: str) -> float:
    """Return the seconds from the start of a process until the first files are finished."""
    journal, start = out / "journal.jsonl", time.monotonic()
    process = subprocess.Popen(
        command(run, folder, out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    lines = 0
    while process.poll() is None and lines <= 1:
        time.sleep(0.005)
        lines = journal.read_bytes().count(b"\n") if journal.is_file() else 0
    seconds = time.monotonic() - start
    process.wait()
    return seconds


@dataclass(frozen=True)
class Peak:
    """Peak memory in MB of a process, and of it and those it starts together (pages that they share
    count for each)."""

    process: float
    together: float


def peak(run: Path, folder: Path, out: Path) -> Peak:
    """Return the peak memory of a process that scores a folder."""
    process = subprocess.Popen(
        command(run, folder, out), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    most, tree = 0.0, psutil.Process(process.pid)

    while process.poll() is None:
        try:
            family = (tree, *tree.children(recursive=True))
            most = max(most, sum(each.memory_info().rss for each in family))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.05)
    assert process.stdout is not None
    return Peak(float(json.load(process.stdout)["peak_memory_mb"]), most / 1e6)


def write_images(folder: Path, run: Path, count: int, side: int) -> None:
    """Write synthetic images of as many channels as the run's."""
    channels = runs.read(run).header.preprocess["channels"]
    folder.mkdir()
    for number in range(count):
        image = synthetic.images(1, size=side, channels=channels, seed=number)[0][0]
        picture = image[0] if channels == 1 else np.moveaxis(image, 0, -1)
        Image.fromarray(picture).save(folder / f"{number:06}.png")


def throughput(run: Path, scratch: Path, images: int, side: int, turns: int) -> dict[str, float]:
    """Return images a second of each way to score, and the share of the bare model's."""
    folder = scratch / "images"
    write_images(folder, run, images, side)
    ways = {
        "score": (DEFAULT, None),
        "score, no heatmaps": ((), None),
        "score, one process": (DEFAULT, 1),
    }

    speeds: dict[str, list[float]] = {}
    for turn in range(turns):
        speeds.setdefault("bare model", []).append(speed([bare(run, folder)]))
        speeds.setdefault("bare models", []).append(bare_models(run, folder))
        for name, (heatmaps, workers) in ways.items():
            out = scratch / f"{name}{turn}"
            scored = anodetect.score(run, [str(folder)], out, heatmaps=heatmaps, workers=workers)
            speeds.setdefault(name, []).append(scored.images_per_second)

    middle = {name: median(values) for name, values in speeds.items()}
    result = {f"images per second, {name}": round(value, 1) for name, value in middle.items()}
    for name in ways:
        share = middle[name] / middle["bare model"]
        result[f"share of the bare model's, {name}"] = round(share, 3)
    return result


def ceiling(run: Path | None, scratch: Path, images: int, turns: int) -> dict[str, object]:
    """Return what scoring costs beside the model: images a second of the null detector, shares of
    the bare model's, and the milliseconds of a core in each stage."""
    kind = next(iter(null.KINDS.values()))
    null_run = null.trained(kind, scratch)
    null.write_images(scratch / "images", kind, images, white=True)
    if run is None:
        run = scratch / "anoddpm"
        anodetect.train(
            str(scratch / "normal"),
            "anoddpm",
            run,
            values={"training": {"steps": STEPS}},
            representation="pixels",
        )

    speeds: dict[str, list[float]] = {}
    for turn in range(turns):
        speeds.setdefault("bare", []).append(speed([bare(run, scratch / "images")]))
        for name, scored_run in (("null", null_run), ("model", run)):
            for maps, formats in (("without_maps", ()), ("with_outputs", DEFAULT)):
                out = scratch / f"{name}-{maps}-{turn}"
                scored = anodetect.score(
                    scored_run, [str(scratch / "images")], out, heatmaps=formats
                )
                speeds.setdefault(f"{name}_{maps}", []).append(scored.images_per_second)

    middle = {name: median(values) for name, values in speeds.items()}
    result: dict[str, object] = {}
    for maps in ("without_maps", "with_outputs"):
        result[f"null_{maps}"] = round(middle[f"null_{maps}"], 1)
        result[f"share_{maps}"] = round(middle[f"model_{maps}"] / middle["bare"], 3)
    result["bare"] = round(middle["bare"], 1)
    result["stages"] = costs(images)
    return result


def costs(images: int) -> dict[str, float]:
    """Return the milliseconds of one core that an image takes in each stage, and together, for each
    kind of images; large ones are fewer."""
    found: dict[str, float] = {}
    for name, kind in null.KINDS.items():
        count = max(20, images * 256**2 // kind.side**2)
        without = sum(null.stages(kind, count, ()).values())
        stages = null.stages(kind, count, DEFAULT)
        found |= {f"{name}, {stage}": round(value, 3) for stage, value in stages.items()}
        found[f"{name}, together"] = round(sum(stages.values()), 2)
        found[f"{name}, together without maps"] = round(without, 2)
    return found


def starts(run: Path, scratch: Path, side: int) -> dict[str, float]:
    """Return seconds to the first score: the median of three, once the disk's cache is warm."""
    result = {}
    for count, what in ((32, "32 images, one process"), (200, "200 images")):
        folder = scratch / f"start{count}"
        write_images(folder, run, count, side)
        seconds = [start_up(run, folder, scratch / f"start{count}-{n}") for n in range(4)]
        result[f"seconds to the first score, {what}"] = round(median(seconds[1:]), 2)
    return result


def memory(run: Path, scratch: Path, many: int) -> dict[str, float]:
    """Return the peak memory with FEW and with `many` images, and the ratio."""
    peaks = {}
    for count in (FEW, many):
        write_images(scratch / f"small{count}", run, count, SMALL)
        peaks[count] = peak(run, scratch / f"small{count}", scratch / f"peak{count}")

    result: dict[str, float] = {}
    for field, what in (("process", "the process"), ("together", "all processes")):
        values = {count: getattr(each, field) for count, each in peaks.items()}
        for count, value in values.items():
            result[f"peak MB, {count} images, {what}"] = round(value)
        result[f"{many} images against {FEW}, {what}"] = round(values[many] / values[FEW], 3)
    return result


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    run, side = arguments.run, arguments.side
    if run is None and not arguments.null:
        parser.error("name a RUN, or --null")
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if arguments.null:
            result = ceiling(run, scratch, arguments.images, arguments.turns)
            if not arguments.json:
                stages = result.pop("stages")
                assert isinstance(stages, dict)
                result |= stages
            common.show(result, arguments.json)
            return
        if arguments.turns:
            result |= throughput(run, scratch, arguments.images, side, arguments.turns)
        result |= starts(run, scratch, side)
        if arguments.many:
            result |= memory(run, scratch, arguments.many)
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
