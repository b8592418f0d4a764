"""What scoring a folder costs beside the model: throughput, start-up, memory.

    python -m benchmarks.audit RUN [--images 1000] [--side 256] [--turns 3] [--many 20000] [--json]

Synthetic images in a temporary folder are scored in turns, medians: by the bare model (one model on
all cores; reading and preparing done before the clock starts, nothing written), by bare models in
as many processes on as many threads as `score` uses, and by `score` with all outputs, without
heatmaps, and in one process. The clock of `score` starts when its models are loaded. Start-up is
that of fresh processes, from their first instruction until files are finished in the journal.
Memory is that of fresh processes and all they start, sampled, while they score few images of 64
pixels and --many of them; 0 leaves this out. Disturbed by whatever else runs: use a quiet machine.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from joblib import cpu_count
from PIL import Image

import anodetect
from anodetect.commands.score import collect
from anodetect.data import synthetic
from anodetect.engines import local
from anodetect.model.loading import load
from anodetect.model.model import Model
from anodetect.output.formats import DEFAULT
from anodetect.record import runs, threads

FEW = 1000  # images whose memory that of many is compared with
SMALL = 64  # their side


def bare(
    run: Path, folder: Path, part: slice = slice(None), count: int | None = None
) -> tuple[float, float, int]:
    """When the model alone began and ended, in its own batches, and how many images it scored."""
    model = Model.load(runs.read(run), "auto")
    if count:
        threads.limit(count)
    loaded = [
        load(record, model.preprocess, model.encode)
        for record in collect([str(folder)], folder / "out", False)[1][part]
    ]
    begun = time.time()
    for start in range(0, len(loaded), model.batch):
        chunk = loaded[start : start + model.batch]
        model.score(
            [e.image for e in chunk if e.image is not None], [e.encoded for e in chunk if e.encoded]
        )
    return begun, time.time(), len(loaded)


def speed(times: Sequence[tuple[float, float, int]]) -> float:
    """Images a second of models beside each other, from when the last one began to when the last
    one ended."""
    return sum(count for *_, count in times) / (
        max(end for _, end, _ in times) - max(begun for begun, *_ in times)
    )


def bare_models(run: Path, folder: Path) -> float:
    """Images a second of bare models beside each other, as many and on as many threads as `score`
    has."""
    count, each = local.share(cpu_count(), local.memory())
    with multiprocessing.get_context("spawn").Pool(count) as pool:
        return speed(
            pool.starmap(bare, [(run, folder, slice(n, None, count), each) for n in range(count)])
        )


def command(run: Path, folder: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "anodetect.cli",
        "score",
        str(run),
        str(folder),
        "--out",
        str(out),
        "--json",
        *more,
    ]


def start_up(run: Path, folder: Path, out: Path, *more: str) -> float:
    """Seconds from the start of a process until the first files are finished."""
    journal, begun = out / "journal.jsonl", time.monotonic()
    process = subprocess.Popen(
        command(run, folder, out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (
        journal.is_file() and journal.read_bytes().count(b"\n") > 1
    ):
        time.sleep(0.005)
    seconds = time.monotonic() - begun
    process.wait()
    return seconds


def peak(run: Path, folder: Path, out: Path) -> tuple[float, float]:
    """Peak memory in MB of a process that scores a folder, and of it and those it starts together
    (shared pages counted for each)."""
    process = subprocess.Popen(
        command(run, folder, out), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    most, tree = 0.0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            most = max(
                most, sum(each.memory_info().rss for each in (tree, *tree.children(recursive=True)))
            )
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.05)
    assert process.stdout is not None
    return float(json.load(process.stdout)["peak_memory_mb"]), most / 1e6


def write_images(folder: Path, run: Path, count: int, side: int) -> None:
    """Synthetic images of as many channels as the run's."""
    channels = runs.read(run).header["preprocess"]["channels"]
    folder.mkdir()
    for n in range(count):
        image = synthetic.images(1, size=side, channels=channels, seed=n)[0][0]
        Image.fromarray(image[0] if channels == 1 else np.moveaxis(image, 0, -1)).save(
            folder / f"{n:06}.png"
        )


def throughput(run: Path, scratch: Path, images: int, side: int, turns: int) -> dict[str, float]:
    folder = scratch / "images"
    write_images(folder, run, images, side)
    ways = {
        "score": (DEFAULT, None),
        "score, no heatmaps": ((), None),
        "score, one process": (DEFAULT, 1),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ("bare model", "bare models", *ways)}
    for turn in range(turns):
        speeds["bare model"].append(speed([bare(run, folder)]))
        speeds["bare models"].append(bare_models(run, folder))
        for name, (heatmaps, workers) in ways.items():
            out = scratch / f"{name}{turn}"
            result = anodetect.score(run, [str(folder)], out, heatmaps=heatmaps, workers=workers)
            speeds[name].append(result["images_per_second"])
    middle = {name: median(values) for name, values in speeds.items()}
    told = {f"images per second, {name}": round(value, 1) for name, value in middle.items()}
    return told | {
        f"share of the bare model's, {name}": round(middle[name] / middle["bare model"], 3)
        for name in ways
    }


def starts(run: Path, scratch: Path, side: int) -> dict[str, float]:
    """The median of three, once the disk's cache is warm."""
    result = {}
    for count, what in ((32, "32 images, one process"), (200, "200 images")):
        folder = scratch / f"start{count}"
        write_images(folder, run, count, side)
        seconds = [start_up(run, folder, scratch / f"start{count}-{n}") for n in range(4)]
        result[f"seconds to the first score, {what}"] = round(median(seconds[1:]), 2)
    return result


def memory(run: Path, scratch: Path, many: int) -> dict[str, float]:
    peaks = {}
    for count in (FEW, many):
        write_images(scratch / f"small{count}", run, count, SMALL)
        peaks[count] = peak(run, scratch / f"small{count}", scratch / f"peak{count}")
    told: dict[str, float] = {}
    for place, what in enumerate(("the process", "all processes")):
        told |= {
            f"peak MB, {count} images, {what}": round(each[place]) for count, each in peaks.items()
        }
        told[f"{many} images against {FEW}, {what}"] = round(
            peaks[many][place] / peaks[FEW][place], 3
        )
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        if arguments.turns:
            result |= throughput(
                arguments.run, scratch, arguments.images, arguments.side, arguments.turns
            )
        result |= starts(arguments.run, scratch, arguments.side)
        if arguments.many:
            result |= memory(arguments.run, scratch, arguments.many)
    print(
        json.dumps(result)
        if arguments.json
        else "\n".join(f"{name:>56}  {value}" for name, value in result.items())
    )


if __name__ == "__main__":
    main()
