"""A denoiser of partly noised images, trained on normal ones.

`anoddpm` compares images with what it makes of them, `ebm` makes an energy of it, and `ncsn` a
score.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anodetect.config import Config
from anodetect.data.channels import MOST
from anodetect.errors import ConfigError
from anodetect.generative import diffusion
from anodetect.generative.linear import LocationGaussian
from anodetect.generative.noise import NoiseSource, random_regions
from anodetect.nn.augment import SLIGHT
from anodetect.nn.inference import autocast
from anodetect.nn.mlp import LocationMLP
from anodetect.nn.state import load_weights, module_state, with_channels_last
from anodetect.nn.training import Training, TrainingBatch
from anodetect.nn.unet import UNet, Widths, check_size
from anodetect.types import Batch, State

PREFIX = "denoiser."  # of the names of its weights in a stored model


class NoiseConfig(Config):
    """The noise that is put on training images."""

    noise: Literal["simplex", "gaussian", "coarse"] = Field(
        default="simplex",
        description="The kind of noise: 'simplex' as in AnoDDPM, 'gaussian' (white), or 'coarse' "
        "(white on cells of 8 pixels, enlarged).",
    )
    unit_variance: bool = Field(
        default=True,
        description="Bring each field of simplex noise to standard deviation 1; without, it keeps "
        "its own of about 0.5, as in the paper.",
    )
    wavelength: PositiveFloat | None = Field(
        default=None,
        description="The wavelength of the first octave of simplex noise, in pixels; none is a "
        "quarter of the image's side.",
    )
    local: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="The share of training images whose noise is confined to a random region, as "
        "an anomaly is.",
    )
    trained_to: int = Field(
        default=250,
        ge=1,
        le=1000,
        description="The largest noise step that is trained, of a schedule of 1000.",
    )


class NetworkConfig(Config):
    """The network and what its output stands for."""

    crop: NonNegativeInt = Field(
        default=0,
        description="The side of the random windows to train on, in pixels of the detector's grid; "
        "0 trains on whole images.",
    )
    prediction: Literal["v", "epsilon"] = Field(
        default="v",
        description="What the network predicts: 'v' (Salimans & Ho, 2022) or the noise 'epsilon' "
        "(Ho et al., 2020).",
    )
    network: Literal["unet", "mlp"] = Field(
        default="unet",
        description="The network: a U-Net ('unet'), or an MLP that sees one location at a time, "
        "for features ('mlp').",
    )
    widths: Widths = Field(
        default=(64, 96, 128),
        description="The channels of each level of the U-Net; of an MLP its width, one entry. "
        "Multiples of 16.",
    )
    stem: PositiveInt = Field(
        default=8,
        description="The side of the squares of pixels that the U-Net works on as one cell; larger "
        "is faster and coarser.",
    )
    blocks: PositiveInt = Field(
        default=1, description="The residual blocks of each level of the U-Net, or of the MLP."
    )
    attention: NonNegativeInt = Field(
        default=0, description="The number of deepest levels of the U-Net with self-attention."
    )
    start: Literal["none", "linear"] = Field(
        default="none",
        description="What an MLP corrects: the noisy image ('none'), or what the best linear "
        "denoiser of single locations makes of it ('linear').",
    )


class DenoiserConfig(NetworkConfig, NoiseConfig):
    """The network and the noise that it is trained with."""


TRAINING = Training(steps=4000, learning_rate=5e-4, augment=SLIGHT)
# Features differ from place to place as much as from image to image: a network that sees single
# locations learns in a minute what a U-Net does not in five.
NETWORK_ON_FEATURES = {
    "crop": 16,
    "network": "mlp",
    "widths": (256,),
    "blocks": 3,
    "start": "linear",
    "pattern": "auto",
    "distance": "auto",
    "pixel_error": "auto",
    "relative": "off",
    "training": {
        "steps": 300,
        "learning_rate": 1e-3,
        "augment": {"rotation": 0, "scale": 0, "shift": 0, "flip": 0},
    },
    "pooling": {"smooth": 1.0},
}
# Gaussian noise, up to larger steps than on pixels.
ON_FEATURES = NETWORK_ON_FEATURES | {
    "noise": "gaussian",
    "local": 0.0,
    "trained_to": 350,
    "scales": (0.0,),
}


class Denoiser(nn.Module):
    """Maps (x_t [N, C, H, W], or whatever `net` takes, t int64 [N]) to x̂_0 of the same shape.

    With a `start` the network's output is a correction of that denoiser's x̂_0. `schedule` has ᾱ_t
    for all steps from 0; None is the linear schedule of 1000.
    """

    def __init__(
        self,
        net: nn.Module,
        prediction: Literal["v", "epsilon"],
        start: LocationGaussian | None = None,
        schedule: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.net, self.prediction, self.start = net, prediction, start
        schedule = diffusion.linear_schedule() if schedule is None else schedule
        self.register_buffer("schedule", schedule, persistent=False)
        self.schedule: Tensor

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        out = self.net(xt, t)
        if self.start is not None:
            linear: Tensor = self.start.denoise(xt, self.schedule[t])
            corrected: Tensor = linear + self.output_scale(t) * out
            return corrected
        if self.prediction == "v":
            return diffusion.x0_from_velocity(xt, out, t, self.schedule)
        return diffusion.x0_from_noise(xt, out, t, self.schedule)

    def output_scale(self, t: Tensor, dims: int = 4) -> Tensor:
        """Return how far x̂_0 moves per unit of network output, [N, 1, 1, 1] for images.

        An error of x̂_0 divided by it is an error of v or of ε.
        """
        a = diffusion.alpha_bar(self.schedule, t, dims)
        return (1 - a).sqrt() if self.prediction == "v" else ((1 - a) / a).sqrt()


# -- Making one ------------------------------------------------------------------------------------


def check(config: DenoiserConfig, size: int) -> None:
    """Raise ConfigError if images of this side, or windows of them, do not fit the network, or if
    they are smaller than the noise."""
    noise_source(config, size)
    check_network(config, size)


def check_network(config: NetworkConfig, size: int) -> None:
    """Raise ConfigError if images of this side, or windows of them, do not fit the network."""
    if config.network == "unet":
        check_size(size, config.widths, config.stem)
        if 0 < config.crop < size:
            check_size(config.crop, config.widths, config.stem, "detector.crop")


def check_pixels(config: NetworkConfig, channels: int, setting: str) -> None:
    """Raise ConfigError if images of so many channels are features, or a network sees one location
    at a time: the setting of this name is for pixels and their neighbours."""
    if channels > MOST or config.network == "mlp":
        raise ConfigError(f"detector.{setting}: it is for pixels, not for features or an mlp")


def check_steps(trained_to: int, name: str, steps: Sequence[int]) -> None:
    """Raise ConfigError if the setting `name` has no steps, or steps that are not trained."""
    if not steps or min(steps) < 1 or max(steps) > trained_to:
        raise ConfigError(
            f"detector.{name}: {list(steps)} must lie in 1 … trained_to ({trained_to})"
        )


def noise_source(config: NoiseConfig, size: int) -> NoiseSource:
    """Return the source of the configured noise for images of this side."""
    return NoiseSource(config.noise, size, unit=config.unit_variance, wavelength=config.wavelength)


def build(
    config: NetworkConfig,
    channels: int,
    device: torch.device,
    fit: Batch | None = None,
    schedule: Tensor | None = None,
) -> Denoiser:
    """Return a denoiser with new weights from torch's global generator.

    A linear start is learned from `fit`; without it, the weights of a stored model are to follow.
    """
    net: nn.Module
    start = None
    if config.network == "unet":
        net = UNet(
            channels,
            channels,
            config.widths,
            stem=config.stem,
            blocks=config.blocks,
            attention=config.attention,
        )
    else:
        net = LocationMLP(channels, channels, config.widths[0], blocks=config.blocks)
        if config.start == "linear":
            start = LocationGaussian(channels) if fit is None else LocationGaussian.learn(fit)
            nn.init.zeros_(net.last.weight)
            nn.init.zeros_(net.last.bias)
    return with_channels_last(Denoiser(net, config.prediction, start, schedule), device)


def state_of(net: Denoiser) -> State:
    """Return the weights as named arrays."""
    return module_state(net, PREFIX)


def load_into(net: Denoiser, state: State) -> Denoiser:
    """Load what `state_of` returned into a network built alike; return it, ready for scoring."""
    return load_weights(net, state, PREFIX)


# -- Training one ----------------------------------------------------------------------------------


class NoisyImages(NamedTuple):
    """Clean images [N, C, H, W], noise of the same shape to put on them, and steps t [N]."""

    x0: Tensor
    noise: Tensor
    t: Tensor


def draw_noise(
    batch: TrainingBatch, config: NoiseConfig, source: NoiseSource, crop: int = 0
) -> NoisyImages:
    """Draw noise for the images of a batch, and t uniform in 1 … trained_to.

    With `crop` the images and their noise are cut to random windows of this side.
    """
    x0, generators = batch.images, batch.generators
    t = random_steps(generators, config.trained_to)
    noise = source(generators, x0.shape[1])

    # Some images have noise only in a region.
    local = torch.cat([torch.rand(1, generator=rng) for rng in generators]) < config.local
    if local.any():
        chosen = [rng for rng, yes in zip(generators, local, strict=True) if yes]
        noise[local] *= random_regions(chosen, x0.shape[-1])

    noise = noise.to(x0.device)
    if 0 < crop < x0.shape[-1]:
        x0, noise = random_windows(torch.stack([x0, noise], 1), crop, generators).unbind(1)
    return NoisyImages(x0, noise, t.to(x0.device))


def random_steps(generators: Sequence[torch.Generator], most: int) -> Tensor:
    """Return t [N], uniform in 1 … `most`, one from each generator."""
    return torch.cat([torch.randint(1, most + 1, (1,), generator=rng) for rng in generators])


def random_windows(x: Tensor, side: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Return a random window [N, ..., side, side] of each of [N, ..., H, W]."""
    height, width = x.shape[-2:]
    windows = []
    for image, rng in zip(x, generators, strict=True):
        row = int(torch.randint(height - side + 1, (), generator=rng))
        column = int(torch.randint(width - side + 1, (), generator=rng))
        windows.append(image[..., row : row + side, column : column + side])
    return torch.stack(windows)


def denoising_loss(
    net: Denoiser, batch: TrainingBatch, config: DenoiserConfig, source: NoiseSource
) -> Tensor:
    """Return the `denoising_error` of a batch with random noise, a scalar."""
    return denoising_error(net, draw_noise(batch, config, source, config.crop))


def denoising_error(net: Denoiser, noisy: NoisyImages, visible: Tensor | None = None) -> Tensor:
    """Return the mean square error of x̂_0 in units of the network's output, a scalar.

    Takes volumes too. Where there are `visible` pixels, bool [N, 1, H, W], the others do not count.
    """
    x0, noise, t = noisy
    with autocast(x0.device):
        predicted = net(diffusion.diffuse(x0, noise, t, net.schedule), t)
    error: Tensor = (predicted - x0) / net.output_scale(t, x0.dim())
    if visible is None:
        return error.square().mean()
    return error.square().mean(1, keepdim=True)[visible].mean()
