"""Training from coarse to fine: resolution doubles stage by stage, and each finer one fades in.

    loss = (1 − β) · loss at half the resolution + β · loss at the resolution,   β from 0 to 1

After Zhao et al., "Learning energy-based generative models via coarse-to-fine expanding and
sampling", ICLR 2021, where a network gets new layers for each resolution. Here the network is fully
convolutional and the same at all of them. A coarser image has a quarter of the pixels, and a step
on it a quarter of the cost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from anodetect.config import Config
from anodetect.errors import ConfigError
from anodetect.generative.denoiser import DenoiserConfig, check_pixels, noise_source
from anodetect.nn.training import Losses, TrainingBatch
from anodetect.nn.unet import check_size

GROWN = 0.6  # share of training after which it is at the full resolution alone


class GrowthConfig(Config):
    """The resolutions that training goes through."""

    coarse_to_fine: int = Field(
        default=1,
        ge=1,
        le=4,
        description="The number of resolutions that training goes through, each twice as fine as "
        "the one before, which fades out; 1 trains at the full resolution from the start. For "
        "pixels only.",
    )


class Resolution(NamedTuple):
    """A resolution of a step of training: how often images are halved, and the weight of the loss
    there."""

    halvings: int
    weight: float


def check(stages: int, shape: Sequence[int], config: DenoiserConfig) -> None:
    """Raise ConfigError if images [C, H, W] cannot be halved for all stages, or if the coarsest do
    not fit the network or the noise."""
    if stages == 1:
        return
    channels, _, side = shape
    check_pixels(config, channels, "coarse_to_fine")

    coarsest, rest = divmod(side, 2 ** (stages - 1))
    if rest:
        raise ConfigError(
            f"detector.coarse_to_fine: images of {side} pixels cannot be halved {stages - 1} times"
        )
    name = "detector.coarse_to_fine: the side of the coarsest images"
    check_size(coarsest, config.widths, config.stem, name)
    noise_source(config, side).at(coarsest)


def resolutions(progress: float, stages: int) -> list[Resolution]:
    """Return the resolutions of a step, the coarser one first, when a share `progress` of training
    is over.

    There are one or two, and their weights add up to 1. A stage ends with the next one fading in
    over half of its time; from GROWN on the full resolution is alone.
    """
    position = progress / GROWN * (stages - 1)
    if position >= stages - 1:
        return [Resolution(0, 1.0)]

    stage = int(position)
    halvings, faded = stages - 1 - stage, 2 * (position - stage) - 1
    if faded <= 0:
        return [Resolution(halvings, 1.0)]
    return [Resolution(halvings, 1 - faded), Resolution(halvings - 1, faded)]


def grown_loss(
    loss: Callable[[TrainingBatch], Losses], batch: TrainingBatch, stages: int
) -> Losses:
    """Return the loss of a batch at the resolutions of its step, and the facts of the finest."""
    totals, watched = [], []
    facts: Mapping[str, float] = {}
    for halvings, weight in resolutions(batch.progress, stages):
        losses = loss(replace(batch, images=halved(batch.images, halvings)))
        totals.append(weight * losses.total)
        watched.append(weight * losses.watched)
        facts = losses.facts or facts
    return Losses(torch.stack(totals).sum(), torch.stack(watched).sum(), facts)


def halved(images: Tensor, times: int) -> Tensor:
    """Return images [N, C, H, W] halved so many times, by means over squares of pixels."""
    return F.avg_pool2d(images, 2**times) if times else images
