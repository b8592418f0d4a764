"""What a device makes of a run: batches, precision, copies, processes and training.

    python -m benchmarks.device [RUN] [--device auto] [--images 2000] [--turns 3] [--json]

Synthetic images of 256² in a temporary folder are scored in turns, and medians are printed:

- the bare detector's images a second, and the memory that its batches take of a GPU;
- the U-Net's FLOP/s as a share of a 4096² matrix product's, in 16 bits where the device has them;
- copies to the device from page-locked and from pageable memory, in GB/s;
- `score` without maps and with all outputs, in one process and in as many as it takes by itself;
- steps of training a second, as they are and compiled (--compile, twice: the second time compiled
  code comes from the cache).

Without RUN it is an `anoddpm` on pixels that is trained for a moment. On a processor the figures of
GPUs are left out.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import anodetect
from anodetect.data import synthetic
from anodetect.detectors.anoddpm import AnoDDPM, AnoDDPMConfig
from anodetect.imaging.transfer import copies_of
from anodetect.model.model import Model
from anodetect.nn.batching import LARGER
from anodetect.nn.inference import autocast, pick_device
from anodetect.nn.state import with_channels_last
from anodetect.nn.unet import UNet
from anodetect.output.formats import DEFAULT
from anodetect.record import runs
from anodetect.types import Batch, TrainContext, image_seeds
from benchmarks import common, null
from benchmarks.common import median_seconds

KIND = null.KINDS["256² 8-bit PNG"]
TOGETHER = 16 * LARGER  # images
STEPS = 200  # of training


def trained_for_a_moment(scratch: Path, device: str) -> Path:
    """Return a run whose speed does not depend on what it has learned."""
    null.write_images(scratch / "normal", KIND, null.NORMALS, white=False)
    anodetect.train(
        str(scratch / "normal"),
        "anoddpm",
        scratch / "run",
        values={"training": {"steps": 20}},
        representation="pixels",
        device=device,
    )
    return scratch / "run"


def detector_speed(run: Path, device: torch.device) -> dict[str, Any]:
    """Return the images a second of a run's detector alone, and its peak memory on a GPU."""
    model = Model.load(runs.read(run), str(device))
    shape = (4 * TOGETHER, *model.shape_seen)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    batch = Batch(images, np.ones((len(images), *shape[2:]), bool))
    score = partial(model.detector.score, batch, seeds=image_seeds(list(images)))

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    result: dict[str, Any] = {"detector_images_per_second": len(images) / median_seconds(score)}
    if device.type == "cuda":
        result["detector_peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return result


def unet_share(device: torch.device) -> dict[str, Any]:
    """Return the U-Net's FLOP/s as a share of a large matrix product's."""
    config, size = AnoDDPMConfig(), AnoDDPM.defaults["pixels"]["representation"]["size"]
    net = UNet(1, 1, config.widths, stem=config.stem).eval().requires_grad_(False)
    net = with_channels_last(net, device)
    x = torch.randn(TOGETHER, 1, size, size, device=device)
    t = torch.ones(TOGETHER, dtype=torch.long, device=device)
    side = 4096 if device.type == "cuda" else 2048
    a = torch.randn(side, side, device=device)

    def waiting(function: Any) -> None:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.no_grad(), autocast(device):
        with FlopCounterMode(display=False) as counter:
            net(x, t)
        unet = counter.get_total_flops() / median_seconds(lambda: waiting(lambda: net(x, t)), 15)
        product = 2 * side**3 / median_seconds(lambda: waiting(lambda: a @ a), 15)
    return {"unet_gflops": unet / 1e9, "unet_share_of_matmul": unet / product}


def copying(device: torch.device) -> dict[str, float]:
    """Return GB/s of copies to a GPU, by way of page-locked memory and straight."""
    x, copies = np.zeros((TOGETHER, 1, 1024, 1024), np.float32), copies_of(device)

    def locked() -> None:
        copies.receive(copies.send(x))
        torch.cuda.synchronize(device)

    def pageable() -> None:
        torch.from_numpy(x).to(device)
        torch.cuda.synchronize(device)

    ways = {"page_locked_gb_per_second": locked, "pageable_gb_per_second": pageable}
    return {name: x.nbytes / 1e9 / median_seconds(way) for name, way in ways.items()}


def scoring(run: Path, scratch: Path, device: str, images: int, turns: int) -> dict[str, Any]:
    """Return images a second of `score`."""
    folder = scratch / "images"
    null.write_images(folder, KIND, images, white=True)
    ways = {
        "score_without_maps": ((), None),
        "score_without_maps_one_process": ((), 1),
        "score_all_outputs": (DEFAULT, None),
        "score_all_outputs_one_process": (DEFAULT, 1),
    }

    speeds: dict[str, list[float]] = {}
    for turn in range(turns):
        for name, (heatmaps, workers) in ways.items():
            scored = anodetect.score(
                run,
                [str(folder)],
                scratch / f"{name}{turn}",
                heatmaps=heatmaps,
                workers=workers,
                device=device,
            )
            speeds.setdefault(name, []).append(scored.images_per_second)
    return {name: median(values) for name, values in speeds.items()}


def training_speed(device: str, *, compiled: bool) -> float:
    """Return steps a second of a training of the default `anoddpm`, with all it does at first."""
    size = AnoDDPM.defaults["pixels"]["representation"]["size"]
    pixels, _ = synthetic.images(64, size=size)
    batch = Batch(pixels.astype(np.float32) / 127.5 - 1, np.ones((64, size, size), bool))
    detector = AnoDDPM(
        AnoDDPMConfig.model_validate(
            {"training": {"steps": STEPS, "compile": compiled}, "prior": "off"}
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        detector.fit(batch, batch[:16], context=TrainContext(0, device, Path(folder)))
    return STEPS / (time.perf_counter() - start)


def compiled_twice(device: str) -> dict[str, float]:
    """Return steps a second of compiled trainings in fresh processes: the first with an empty
    cache."""
    code = (
        "from benchmarks.device import training_speed; "
        f"print(training_speed({device!r}, compiled=True))"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder}
        speeds = []
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            speeds.append(float(json.loads(done.stdout)))
    return {"compiled_steps_per_second": speeds[0], "from_the_cache": speeds[1]}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    device = pick_device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        run = arguments.run or trained_for_a_moment(scratch, arguments.device)
        result = detector_speed(run, device) | unet_share(device)
        if device.type == "cuda":
            result |= copying(device)
        result |= scoring(run, scratch, arguments.device, arguments.images, arguments.turns)
    result["training_steps_per_second"] = training_speed(str(device), compiled=False)
    if arguments.compile:
        result |= compiled_twice(str(device))
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
