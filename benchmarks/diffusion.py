"""Speed of AnoDDPM: scoring against the paper's 250-step chain, training with and without the stem,
and a roofline.

    python -m benchmarks.diffusion [--json] [--skip-reference] [--operators]

Everything is measured in one run on this machine, on the same U-Net and images; medians of several
runs. The chain draws its noise as the single step does. The reference preset's network is timed for
two passes of one image. With --operators only the U-Net's operators are measured, in milliseconds
of one core a pass of 16 images, in turns with torch's own group norm.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from anodetect.data import synthetic
from anodetect.detectors.anoddpm import AnoDDPM, AnoDDPMConfig
from anodetect.generative import denoiser
from anodetect.model.settings import resolve
from anodetect.nn.inference import autocast
from anodetect.nn.norm import GroupNorm
from anodetect.nn.state import with_channels_last
from anodetect.nn.training import TrainingBatch
from anodetect.nn.unet import UNet
from anodetect.types import Batch, TrainContext, image_seeds
from benchmarks import common
from benchmarks.common import median_seconds

IMAGES = 16
CHAIN = 250
SIZE = AnoDDPM.defaults["pixels"]["representation"]["size"]


def no_autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=False)


def images(size: int) -> Batch:
    pixels, _ = synthetic.images(IMAGES, size=size)
    return Batch(pixels.astype(np.float32) / 127.5 - 1, np.ones((IMAGES, size, size), bool))


def detector(batch: Batch, **changes: Any) -> AnoDDPM:
    """Return an AnoDDPM after two steps of training: its speed does not depend on what it has
    learned."""
    values = {"training": {"steps": 2}, "prior": "on", "pixel_error": "off", "relative": "off"}
    made = AnoDDPM(AnoDDPMConfig.model_validate(values | changes))
    with tempfile.TemporaryDirectory() as folder:
        made.fit(batch, batch, context=TrainContext(0, "cpu", Path(folder)))
    return made


def scoring() -> dict[str, Any]:
    """Return seconds an image: the default, one λ with one draw, and the ancestral chain."""
    batch = images(SIZE)
    seeds = image_seeds(list(batch.images))
    variants = {
        "default": detector(batch),
        "one_lambda_one_draw": detector(batch, lambdas=[CHAIN], draws=1),
        "chain": detector(batch, lambdas=[CHAIN], draws=1, mode="chain", sampler="ancestral"),
    }

    seconds = {}
    for name, made in variants.items():
        repeats = 1 if name == "chain" else 5
        score = partial(made.score, batch, seeds=seeds)
        seconds[name] = median_seconds(score, repeats) / IMAGES
    return {
        "score_seconds_per_image": seconds,
        "speedup_default_vs_chain": seconds["chain"] / seconds["default"],
        "speedup_single_vs_chain": seconds["chain"] / seconds["one_lambda_one_draw"],
    }


def reference(default_seconds: float) -> dict[str, Any]:
    """Return the cost of the reference preset: λ passes of its network an image, two of them
    timed."""
    resolved = resolve("anoddpm", "pixels", {"preset": "reference"})
    config = AnoDDPMConfig.model_validate(resolved["detector"])
    size = resolved["representation"]["size"]
    options = {"stem": config.stem, "blocks": config.blocks, "attention": config.attention}
    net = UNet(1, 1, config.widths, **options).eval()

    x, t = torch.randn(1, 1, size, size), torch.ones(1, dtype=torch.long)
    with torch.no_grad():
        seconds = median_seconds(lambda: net(x, t), 2)
    per_image = seconds * config.lambdas[0]
    return {
        "reference_parameters": sum(p.numel() for p in net.parameters()),
        "reference_seconds_per_pass": seconds,
        "reference_seconds_per_image": per_image,
        "speedup_default_vs_reference": per_image / default_seconds,
    }


def training() -> dict[str, Any]:
    """Return images a second in training: the default, and the same U-Net in float32 on single
    pixels instead of blocks.

    On a machine without bfloat16 the default computes in float32 too.
    """
    size, rates = SIZE, {}
    batch = images(size)
    generators = [torch.Generator().manual_seed(n) for n in range(IMAGES)]
    x = torch.from_numpy(batch.images)

    for name, changes in {"default": {}, "float32_without_stem": {"stem": 1}}.items():
        made = detector(batch, **changes)
        net = made.denoiser.train().requires_grad_(True)

        def step(made: AnoDDPM = made, net: Any = net, half: bool = name == "default") -> None:
            net.zero_grad()
            draw = TrainingBatch(x, generators, 0.0, np.arange(len(generators)))
            with mock.patch.object(denoiser, "autocast", autocast if half else no_autocast):
                made._loss(net, draw).backward()

        rates[name] = IMAGES / median_seconds(step, 3)
    return {
        "train_images_per_second": rates,
        "speedup_stem": rates["default"] / rates["float32_without_stem"],
    }


def unet_pass() -> tuple[UNet, torch.Tensor, torch.Tensor]:
    """Return the default U-Net as it scores, and a batch of images with their steps."""
    config = AnoDDPMConfig()
    net = UNet(1, 1, config.widths, stem=config.stem).eval().requires_grad_(False)
    net = with_channels_last(net, torch.device("cpu"))
    x = torch.randn(IMAGES, 1, SIZE, SIZE).to(memory_format=torch.channels_last)
    return net, x, torch.ones(IMAGES, dtype=torch.long)


def roofline() -> dict[str, Any]:
    """Return the FLOP/s of the U-Net's forward pass as a share of a large matrix product's."""
    net, x, t = unet_pass()
    a = torch.randn(2048, 2048)

    with torch.no_grad(), autocast(x.device):
        with FlopCounterMode(display=False) as counter:
            net(x, t)
        unet = counter.get_total_flops() / median_seconds(lambda: net(x, t), 15)
        matmul = 2 * 2048**3 / median_seconds(lambda: a @ a, 15)
    return {
        "unet_gflops": unet / 1e9,
        "matmul_gflops": matmul / 1e9,
        "roofline_share": unet / matmul,
    }


class OperatorTimes(TorchDispatchMode):
    """Adds up the processor time of this thread that each operator takes, in milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        self.times: defaultdict[str, float] = defaultdict(float)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        start = time.thread_time()
        result = func(*args, **(kwargs or {}))
        self.times[func.overloadpacket.__name__] += (time.thread_time() - start) * 1e3
        return result


def operators(turns: int = 15, shown: int = 8) -> dict[str, Any]:
    """Return the milliseconds of one core that the operators of a pass take, and the FLOP/s of its
    convolutions, of all of it and of a matrix product."""
    torch.set_num_threads(1)
    net, x, t = unet_pass()
    norms = {"now": GroupNorm.forward, "with torch's group norm": nn.GroupNorm.forward}
    times: dict[str, list[dict[str, float]]] = {name: [] for name in norms}
    a, product = torch.randn(2048, 2048), OperatorTimes()

    with torch.no_grad(), autocast(x.device):
        with FlopCounterMode(display=False) as counter:
            net(x, t)
        for _ in range(turns):
            for name, norm in norms.items():
                with mock.patch.object(GroupNorm, "forward", norm), OperatorTimes() as measured:
                    net(x, t)
                times[name].append(measured.times)
        for _ in range(5):
            with product:
                a @ a

    flops, result = counter.get_total_flops() / 1e6, {}
    for name, measurements in times.items():
        names = set().union(*measurements)
        medians = {each: statistics.median(one[each] for one in measurements) for each in names}
        total, largest = sum(medians.values()), sorted(medians, key=lambda each: -medians[each])
        result[name] = {each: round(medians[each], 2) for each in largest[:shown]}
        result[name] |= {"all": round(total, 1), "gflops": round(flops / total)}
        result[name]["convolution_gflops"] = round(flops / medians["convolution"])
    return result | {"matmul_gflops": round(5 * 2 * 2048**3 / product.times["mm"] / 1e6)}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--skip-reference", action="store_true", help="without the 131-million-parameter network"
    )
    parser.add_argument("--operators", action="store_true", help="the U-Net's operators alone")
    arguments = parser.parse_args()
    if arguments.operators:
        common.show(operators(), arguments.json)
        return

    result = scoring() | training() | roofline()
    if not arguments.skip_reference:
        result |= reference(result["score_seconds_per_image"]["default"])
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
