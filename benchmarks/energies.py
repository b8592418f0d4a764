"""Speed of the energy detectors, side by side in one run on this machine.

    python -m benchmarks.energies [--json]

Images/s of `jem` and `ebm` at their defaults against `anoddpm`, with its Gaussian model (prior=on)
and without (prior=off), each on pixels; and a training step with K Langevin steps against K + 2
forward and backward passes of the same network. Medians of several runs.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from anodetect.data import synthetic
from anodetect.detectors import detector_class
from anodetect.detectors.ebm import EBM
from anodetect.detectors.jem import JEM
from anodetect.generative.chains import ChainedImages, Chains
from anodetect.nn.inference import autocast
from anodetect.nn.training import TrainingBatch
from anodetect.types import Batch, TrainContext, image_seeds
from benchmarks import common
from benchmarks.common import median_seconds

IMAGES = 32
# A Gaussian model has half as many components as images: here all 120 of `anoddpm`.
LEARNED_FROM = 240
SIZE = 128
TRAINING_BATCH = 16
PRIORS = ("on", "off")  # of `anoddpm`; its default leaves the choice to planted defects


def images(count: int) -> Batch:
    pixels, _ = synthetic.images(count, size=SIZE)
    return Batch(pixels.astype(np.float32) / 127.5 - 1, np.ones((count, SIZE, SIZE), bool))


def made(name: str, batch: Batch, **settings: str) -> Any:
    """Return a detector after two steps of training: with the `prior` given, its speed does not
    depend on what it has learned."""
    cls = detector_class(name)
    detector = cls(cls.Config.model_validate({"training": {"steps": 2}} | settings))
    with tempfile.TemporaryDirectory() as folder:
        detector.fit(batch, batch[:IMAGES], context=TrainContext(0, "cpu", Path(folder)))
    return detector


def step_ratio(detector: JEM | EBM, batch: Batch) -> float:
    """Return the time of a training step in which every image has a chain, in units of (K + 2)
    forward and backward passes."""
    module = sys.modules[type(detector).__module__]
    net: Any = detector.net.requires_grad_(True)
    x = torch.from_numpy(batch.images[:TRAINING_BATCH])
    chains = Chains(detector.config, batch.images)

    def step() -> None:
        generators = [torch.Generator().manual_seed(n) for n in range(len(x))]
        draw = TrainingBatch(x, generators, 1.0, np.arange(len(x)))
        with mock.patch.object(
            module,
            "choose_chained",
            lambda batch: ChainedImages(list(range(len(batch.images))), batch, 1.0),
        ):
            detector._loss(net, draw, *extra).total.backward()
        net.zero_grad()

    def one_pass() -> None:
        with autocast(x.device):
            out = net(x) if isinstance(detector, JEM) else net(x, torch.full((len(x),), 10))
        out.square().mean().backward()
        net.zero_grad()

    extra = (batch, chains) if isinstance(detector, JEM) else (chains,)
    return median_seconds(step) / median_seconds(one_pass) / (detector.config.langevin_steps + 2)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    learned_from, facts = images(LEARNED_FROM), {}
    batch = learned_from[:IMAGES]
    seeds = image_seeds(list(batch.images))
    detectors = {}
    for prior in PRIORS:
        detectors[f"anoddpm prior={prior}"] = made("anoddpm", learned_from, prior=prior)
    for name in ("ebm", "jem"):
        detectors[name] = made(name, learned_from)

    rates = {}
    for name, detector in detectors.items():
        rates[name] = IMAGES / median_seconds(partial(detector.score, batch, seeds=seeds))
        facts[f"images_per_second {name}"] = round(rates[name], 1)
    for name in ("ebm", "jem"):
        for prior in PRIORS:
            faster = rates[name] / rates[f"anoddpm prior={prior}"]
            facts[f"faster_than_anoddpm prior={prior} {name}"] = round(faster, 2)
        facts[f"step_over_passes {name}"] = round(step_ratio(detectors[name], batch), 2)
    common.show(facts, arguments.json)


if __name__ == "__main__":
    main()
