"""Learning from images with hidden parts: chains recover these while a model learns.

    x_hidden ~ p(x_hidden | x_visible),   p(x) ∝ exp(−E(x))

After Xie, Zhu & Wu, "Synthesizing dynamic patterns by spatial-temporal generative ConvNet", CVPR
2017. Before a step of training, recovery chains run on the energy as it is: their hidden values
move, and the visible ones are held. Contrastive divergence then learns as if images were complete;
its own chains, which synthesise whole images, hold nothing. Denoising has what was recovered around
it, but its error counts on visible pixels only: a network would learn early recoveries by heart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from anodetect.config import Config
from anodetect.errors import ConfigError, DataError
from anodetect.generative.chains import ChainConfig, choose_chained
from anodetect.generative.denoised_energy import denoised, falling_levels, fill
from anodetect.generative.denoiser import Denoiser, DenoiserConfig, check_pixels
from anodetect.nn.inference import to_tensor
from anodetect.nn.training import Losses, TrainingBatch
from anodetect.types import Batch, Bools, Floats

RECOVERY_STEPS = 10  # of a chain
RECOVERED = 0.1  # share of a batch whose hidden parts are recovered anew at each step
TAUGHT = 0.3  # share of training before the first recovery: random weights recover nothing

LossOfBatch = Callable[[Denoiser, TrainingBatch], Losses]


class IncompleteConfig(Config):
    """The parts of training images that are hidden."""

    incomplete: Annotated[float, Field(ge=0, le=0.9)] | Literal["foreground"] = Field(
        default=0.0,
        description="What is missing in training images, and recovered by Langevin chains: "
        "'foreground' is all that lies outside their foregrounds, which a manifest can name; a "
        "share hides so many squares of every image at random, to see what that costs. For pixels "
        "only.",
    )
    hidden: int = Field(
        default=8,
        ge=1,
        description="The side of the squares that are hidden ('inpaint' and a share in "
        "`incomplete`), in pixels of the detector's grid.",
    )


class RecoveryConfig(DenoiserConfig, ChainConfig, IncompleteConfig):
    """All that recovery chains depend on."""


def check(config: RecoveryConfig, channels: int, stages: int) -> None:
    """Raise ConfigError if what is hidden cannot be recovered: features, or images of which
    training sees windows or several resolutions."""
    if not config.incomplete:
        return
    check_pixels(config, channels, "incomplete")
    for name, wanted in (("coarse_to_fine", stages > 1), ("crop", config.crop > 0)):
        if wanted:
            raise ConfigError(f"detector.incomplete: it does not go together with {name}")


class Recovered:
    """The fit images of a training, whose hidden parts are recovered while it goes on.

    `shown` is what training draws its batches from: images, and as one more channel 1 where they
    are hidden, so that both are turned and moved alike. `batch` has the images alone. At hidden
    places they begin with the mean of what is visible in the image, where the first chain starts;
    each chain goes on where the one before ended, denoised once. These ends belong to this process
    and are not part of a checkpoint, as a replay buffer is not. Where nothing is missing, both are
    the images of `fit` themselves.
    """

    def __init__(self, config: RecoveryConfig, fit: Batch, lowest: int, seed: int) -> None:
        """Hide what is missing. Chains go from `trained_to` down to the noise step `lowest`.
        DataError if nothing is missing that was said to be."""
        self.config, self.batch, self.shown = config, fit, fit.images
        self.levels = falling_levels(config.trained_to, lowest, RECOVERY_STEPS)
        self.hidden = _hidden(config, fit, seed)
        self.bounds = -math.inf, math.inf  # of what is visible
        if self.hidden.any():
            filled = with_means(fit.images, self.hidden)
            self.shown = np.concatenate([filled, self.hidden[:, None]], 1, dtype=np.float32)
            self.batch = replace(fit, images=self.shown[:, :-1])
            self.bounds = float(filled.min()), float(filled.max())

    def before(self, loss: LossOfBatch) -> LossOfBatch:
        """Return the loss of images, with a recovery before it, as one of what is shown."""
        if not self.hidden.any():
            return loss

        def recovering(net: Denoiser, batch: TrainingBatch) -> Losses:
            if batch.progress >= TAUGHT:
                self._recover_some(net, batch)
            images, hidden = batch.images[:, :-1], batch.images[:, -1:]
            return loss(net, replace(batch, images=images, visible=hidden == 0))

        return recovering

    def _recover_some(self, net: Denoiser, batch: TrainingBatch) -> None:
        """Recover some images of a batch anew, as they are before augmentation. The next batch with
        them has what was recovered."""
        chosen = choose_chained(batch, RECOVERED)
        if not chosen.places:
            return
        rows, generators = chosen.batch.rows, chosen.batch.generators
        x = to_tensor(self.batch.images[rows], batch.images.device)
        hidden = torch.from_numpy(self.hidden[rows, None]).to(x.device)

        step, temperature = self.config.langevin_step, self.config.temperature
        ends = fill(net, x, hidden, self.levels, step, generators, temperature)
        with torch.no_grad():
            clean = denoised(net, ends, self.levels[-1]).clamp(*self.bounds)
        x = torch.where(hidden & clean.isfinite(), clean, x)
        self.batch.images[rows] = x.cpu().numpy()


def with_means(images: Floats, hidden: Bools) -> Floats:
    """Return a copy of images [N, C, H, W] that has at hidden places [N, H, W] the mean of what is
    visible in the image, channel by channel."""
    filled = np.array(images)
    for image, gone in zip(filled, hidden, strict=True):
        image[:, gone] = image[:, ~gone].mean(1, keepdims=True)
    return filled


def random_squares(shape: Sequence[int], share: float, side: int, seed: int) -> Bools:
    """Return which places [N, H, W] are hidden where so large a share of each image's squares, as
    on a chessboard, is hidden at random; at least one square stays visible."""
    count, height, width = shape
    rows, columns = -(-height // side), -(-width // side)
    number = min(round(share * rows * columns), rows * columns - 1)

    rng = np.random.default_rng([seed, rows * columns])
    drawn = rng.permuted(np.tile(np.arange(rows * columns) < number, (count, 1)), axis=1)
    squares = drawn.reshape(count, rows, columns).repeat(side, 1).repeat(side, 2)
    return np.asarray(squares[:, :height, :width])


def _hidden(config: IncompleteConfig, fit: Batch, seed: int) -> Bools:
    """Return where fit images are incomplete, [N, H, W]."""
    if isinstance(config.incomplete, str):
        hidden = ~fit.foreground
        if not hidden.any():
            raise DataError(
                "detector.incomplete: nothing lies outside the foregrounds of the images; name "
                "them in the column `foreground` of a manifest"
            )
        return hidden
    return random_squares(fit.foreground.shape, config.incomplete, config.hidden, seed)
