"""What scoring a folder costs beside the model: throughput, start-up, memory.

    python benchmarks/audit.py RUN [--images 1000] [--side 256] [--turns 3] [--json]

Synthetic images in a temporary folder are scored by the bare model (reading and preparing done before the clock starts,
nothing written) and by `anodetect score` in turns; medians. Memory is that of fresh processes that score a twentieth of
the images and all of them; `--turns 0` measures nothing else.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from anodetect import runs, scoring
from anodetect.data import synthetic
from anodetect.model import Model, load


def bare(run: Path, folder: Path) -> float:
    """Images a second of the model alone, in its own batches."""
    model = Model.load(runs.read(run), "auto")
    loaded = [load(record, model) for record in scoring.collect([str(folder)], folder / "out", False)[1]]
    begun = time.monotonic()
    for start in range(0, len(loaded), model.batch):
        chunk = loaded[start : start + model.batch]
        model.score([e.image for e in chunk if e.image is not None], [e.encoded for e in chunk if e.encoded])
    return len(loaded) / (time.monotonic() - begun)


def peak(run: Path, folder: Path, out: Path) -> float:
    """Peak memory in MB of a process that scores a folder."""
    command = [sys.executable, "-m", "anodetect.cli", "score", str(run), str(folder), "--out", str(out), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["peak_memory_mb"])


def write_images(folder: Path, run: Path, count: int, side: int) -> None:
    """Synthetic images of as many channels as the run's."""
    channels = runs.read(run).header["preprocess"]["channels"]
    folder.mkdir()
    for n in range(count):
        image = synthetic.images(1, size=side, channels=channels, seed=n)[0][0]
        Image.fromarray(image[0] if channels == 1 else np.moveaxis(image, 0, -1)).save(folder / f"{n:06}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch, name) for name in ("all", "some")}
        write_images(folders["all"], arguments.run, arguments.images, arguments.side)
        write_images(folders["some"], arguments.run, arguments.images // 20, arguments.side)
        speeds: dict[str, list[float]] = {"bare model": [], "score": [], "score, no heatmaps": []}
        first = []
        for turn in range(arguments.turns):
            speeds["bare model"].append(bare(arguments.run, folders["all"]))
            for name, heatmaps in (("score", scoring.FORMATS), ("score, no heatmaps", ())):
                out = Path(scratch, f"{name}{turn}")
                result = scoring.score(arguments.run, [str(folders["all"])], out, heatmaps=heatmaps)
                speeds[name].append(result["images_per_second"])
                first.append(result["seconds_to_first"])
        few, many = (peak(arguments.run, folders[name], Path(scratch, f"peak-{name}")) for name in ("some", "all"))
    result: dict[str, float] = {}
    if arguments.turns:
        speed = {name: median(values) for name, values in speeds.items()}
        result = {f"images per second, {name}": round(value, 1) for name, value in speed.items()}
        result["share of the bare model's"] = round(speed["score"] / speed["bare model"], 3)
        result["share without heatmaps"] = round(speed["score, no heatmaps"] / speed["bare model"], 3)
        result["seconds before the first score, modules loaded"] = round(min(first), 2)
    result[f"peak MB, {arguments.images // 20} images"] = round(few)
    result[f"peak MB, {arguments.images} images"] = round(many)
    print(json.dumps(result) if arguments.json else "\n".join(f"{name:>48}  {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
