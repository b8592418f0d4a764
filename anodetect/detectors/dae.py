"""DAE: a denoising autoencoder with coarse noise.

    loss = ‖f(x + σn) − x‖²,   x̂ = f(x),   A_p = mean over channels of |x_p − x̂_p|

Kascenas et al., "Denoising autoencoders for unsupervised anomaly detection in brain MRI", MIDL
2022. f is a U-Net trained to take coarse noise away: n is standard normal on a grid of 16 × 16
cells, enlarged to the image. At scoring the image itself, without noise, is reconstructed in one
pass. Noise as coarse as the lesions matters more than the sampler: one pass beats the published
AnoDDPM by far on brain tumours. Larger = more anomalous.

It finds what differs from normal at the scale of the noise; finer defects pass through. Fails on
blurred images: they lack only fine texture, which the network never had to restore; and on real
data often on constant ones. Cost: a minute or two to train, 4 to 8 ms an
image.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anodetect.config import Config, Pooling
from anodetect.generative.noise import NoiseSource
from anodetect.imaging.heatmaps import finish
from anodetect.nn import single_pass
from anodetect.nn.device_batches import in_device_batches
from anodetect.nn.inference import autocast, pick_device
from anodetect.nn.single_pass import Pass
from anodetect.nn.state import load_weights, module_state
from anodetect.nn.training import Training, TrainingBatch, optimize
from anodetect.nn.unet import UNet, Widths, check_size
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

MICRO_BATCH = 16
NOISE_GRID = 16  # cells of the noise along a side
RESERVE = 0.02  # of the budget: nothing is left to do after training


class DAEConfig(Config):
    """Noise, network and training."""

    noise: PositiveFloat = Field(
        default=0.4,
        description="The standard deviation σ of the noise, on images in [-1, 1]: the paper's 0.2 "
        "on [0, 1].",
    )
    widths: Widths = Field(
        default=(64, 96, 128),
        description="The channels of each level of the U-Net, multiples of 16.",
    )
    stem: PositiveInt = Field(
        default=4,
        description="The side of the squares of pixels that the U-Net works on as one cell; larger "
        "is faster and coarser.",
    )
    blocks: PositiveInt = Field(
        default=1, description="The residual blocks of each level of the U-Net."
    )
    training: Training = Field(default=Training(steps=800), description="How the U-Net is trained.")
    pooling: Pooling = Field(default=Pooling(), description="How a map becomes an image score.")


class DAE:
    """The denoising autoencoder."""

    Config = DAEConfig
    defaults: ClassVar[dict[str, Any]] = {"pixels": {"representation": {"size": 64}}}

    def __init__(self, config: DAEConfig) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.net: nn.Module

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if images [C, H, W] of this shape do not fit the network."""
        check_size(shape[-1], self.config.widths, self.config.stem)

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Train the U-Net to take coarse noise away from fit images."""
        _, channels, size, _ = fit.images.shape
        self.check(fit.images.shape[1:])
        self.device = pick_device(context.device)
        source = NoiseSource("coarse", size, cell=max(1, size // NOISE_GRID))

        def loss(net: nn.Module, batch: TrainingBatch) -> Tensor:
            x = batch.images
            noise = source(batch.generators, channels).to(x.device)
            with autocast(x.device):
                restored = reconstruct(net, x + self.config.noise * noise)
                return (restored - x).square().mean()

        torch.manual_seed(context.seed)  # initial weights
        trained = optimize(
            self._build(channels),
            loss,
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=RESERVE * (context.budget or 0.0),
        )
        self.net = trained.net
        context.log(trained.facts())

    def _build(self, channels: int) -> nn.Module:
        config = self.config
        return UNet(channels, channels, config.widths, stem=config.stem, blocks=config.blocks)

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores, maps and reconstructions; nothing is random."""
        (restored,) = in_device_batches(
            self._restore, batch.images, size=MICRO_BATCH, device=self.device
        )
        weights = batch.channel_weights[:, :, None, None]
        residual: Floats = (np.abs(batch.images - restored) * weights).mean(1)
        return Scores(*finish(residual, batch.foreground, self.config.pooling), restored)

    def one_pass(self, shape: Sequence[int]) -> Pass:
        """Return the pass for images of this shape."""

        def score(x: Tensor) -> tuple[Tensor, Tensor]:
            residual = (x - reconstruct(self.net, x)).abs().mean(1)
            return single_pass.finish(residual, self.config.pooling)

        return score

    @torch.no_grad()
    def _restore(self, x: Tensor) -> tuple[Tensor]:
        """Return x̂ [N, C, H, W] for images of the same shape."""
        with autocast(x.device):
            return (reconstruct(self.net, x).float(),)

    def state(self) -> State:
        """Return the weights of the U-Net."""
        return module_state(self.net)

    def load_state(self, state: State, *, device: str) -> None:
        """Take over the weights; they tell how many channels images have."""
        self.device = pick_device(device)
        channels = state["net.conv_in.conv.weight"].shape[1] // self.config.stem**2
        self.net = load_weights(self._build(channels), state).to(self.device)


def reconstruct(net: nn.Module, x: Tensor) -> Tensor:
    """Return f(x): one pass of the U-Net, at step 0 whatever the noise."""
    out: Tensor = net(x, torch.zeros(len(x), dtype=torch.long, device=x.device))
    return out
