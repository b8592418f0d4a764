"""A denoiser of partly noised images, trained on normal ones. `anoddpm` compares images with what
it makes of them; `ebm` makes an energy of it."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anodetect.config import Config
from anodetect.errors import ConfigError
from anodetect.generative import diffusion
from anodetect.generative.noise import NoiseSource, regions
from anodetect.nn.augment import Augment
from anodetect.nn.inference import autocast
from anodetect.nn.mlp import LocationMLP
from anodetect.nn.state import tensors_under
from anodetect.nn.training import Training, TrainingBatch
from anodetect.nn.unet import UNet, Widths, check_size
from anodetect.types import State


class NoiseConfig(Config):
    """`wavelength` is that of the first octave of simplex noise in pixels, None for a quarter of
    the side; `local` the share of images whose noise is confined to a random region; `trained_to`
    the largest step, of a schedule of 1000."""

    noise: Literal["simplex", "gaussian", "coarse"] = "simplex"
    unit_variance: bool = True
    wavelength: PositiveFloat | None = None
    local: float = Field(default=0.8, ge=0, le=1)
    trained_to: int = Field(default=250, ge=1, le=1000)


class DenoiserConfig(NoiseConfig):
    """`crop` is the side of the random windows to train on, 0 for whole images; `widths` are the
    U-Net's channels per level, `stem` the side of the pixel blocks it works on, `attention` the
    number of its deepest levels with self-attention; of an MLP, `widths` has one entry."""

    crop: NonNegativeInt = 0
    prediction: Literal["v", "epsilon"] = "v"
    network: Literal["unet", "mlp"] = "unet"
    widths: Widths = (64, 96, 128)
    stem: PositiveInt = 8
    blocks: PositiveInt = 1
    attention: NonNegativeInt = 0


TRAINING = Training(
    steps=4000, learning_rate=5e-4, augment=Augment(rotation=10, scale=0.1, shift=0.05, flip=0.5)
)
# Features are as different from place to place as from image to image: Gaussian noise up to larger
# steps, and a network that sees single locations, which learns in a minute what a U-Net does not in
# five.
ON_FEATURES = {
    "noise": "gaussian",
    "local": 0.0,
    "trained_to": 350,
    "crop": 16,
    "network": "mlp",
    "widths": (512,),
    "blocks": 3,
    "scales": (0.0,),
    "pixel_error": "off",
    "relative": "off",
    "training": {
        "steps": 1200,
        "learning_rate": 1e-3,
        "augment": {"rotation": 0, "scale": 0, "shift": 0, "flip": 0},
    },
    "pooling": {"smooth": 1.0},
}


class Denoiser(nn.Module):
    """(x_t [N,C,H,W], or whatever `net` takes, t [N]) → x̂_0."""

    def __init__(self, net: nn.Module, prediction: Literal["v", "epsilon"]) -> None:
        super().__init__()
        self.net, self.prediction = net, prediction
        self.register_buffer("schedule", diffusion.linear_schedule(), persistent=False)
        self.schedule: Tensor

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        out = self.net(xt, t)
        if self.prediction == "v":
            return diffusion.x0_from_velocity(xt, out, t, self.schedule)
        return diffusion.x0_from_noise(xt, out, t, self.schedule)

    def scale(self, t: Tensor, dims: int = 4) -> Tensor:
        """What one unit of network output is in x̂_0, [N, 1, 1, 1] for images: an error in these
        units is one of v or of ε."""
        a = diffusion.alpha_bar(self.schedule, t, dims)
        return (1 - a).sqrt() if self.prediction == "v" else ((1 - a) / a).sqrt()


def check(config: DenoiserConfig, size: int) -> None:
    """ConfigError if images of this side, or windows of them, do not fit the network."""
    if config.network == "unet":
        for side in {size, min(size, config.crop or size)}:
            check_size(side, config.widths, config.stem)


def check_steps(trained_to: int, name: str, steps: Sequence[int]) -> None:
    """ConfigError if the setting `name` has no steps, or some outside those that are trained."""
    if not steps or min(steps) < 1 or max(steps) > trained_to:
        raise ConfigError(
            f"detector.{name}: {list(steps)} must lie in 1 … trained_to ({trained_to})"
        )


def noise_source(config: NoiseConfig, size: int) -> NoiseSource:
    return NoiseSource(config.noise, size, unit=config.unit_variance, wavelength=config.wavelength)


def build(config: DenoiserConfig, channels: int, device: torch.device) -> Denoiser:
    net: nn.Module
    if config.network == "unet":
        size = {"stem": config.stem, "blocks": config.blocks, "attention": config.attention}
        net = UNet(channels, channels, config.widths, **size)
    else:
        net = LocationMLP(channels, channels, config.widths[0], blocks=config.blocks)
    return Denoiser(net, config.prediction).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def disturbed(
    draw: TrainingBatch, config: NoiseConfig, source: NoiseSource, crop: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, or windows of them of side `crop`, noise to put on, and t uniform in 1 … trained_to."""
    x0, generators = draw.images, draw.generators
    t = random_steps(generators, config.trained_to)
    noise = source(generators, x0.shape[1])
    local = torch.cat([torch.rand(1, generator=rng) for rng in generators]) < config.local
    if local.any():
        chosen = [rng for rng, yes in zip(generators, local, strict=True) if yes]
        noise[local] *= regions(chosen, x0.shape[-1])
    noise = noise.to(x0.device)
    if 0 < crop < x0.shape[-1]:
        x0, noise = windows(torch.stack([x0, noise], 1), crop, generators).unbind(1)
    return x0, noise, t.to(x0.device)


def denoising_loss(
    net: Denoiser, draw: TrainingBatch, config: DenoiserConfig, source: NoiseSource
) -> Tensor:
    """Mean square error of x̂_0 in units of the network's output."""
    return restoration_error(net, *disturbed(draw, config, source, config.crop))


def random_steps(generators: Sequence[torch.Generator], most: int) -> Tensor:
    """t uniform in 1 … `most`, one from each generator."""
    return torch.cat([torch.randint(1, most + 1, (1,), generator=rng) for rng in generators])


def restoration_error(net: Denoiser, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Mean square error of x̂_0 in units of the network's output, of images or volumes with `noise`
    put on."""
    with autocast(x0.device):
        predicted = net(diffusion.diffuse(x0, noise, t, net.schedule), t)
    error: Tensor = (predicted - x0) / net.scale(t, x0.dim())
    return error.square().mean()


def windows(x: Tensor, side: int, generators: Sequence[torch.Generator]) -> Tensor:
    """A random window of each of [N, ..., H, W], [N, ..., side, side]."""
    cut = []
    for each, rng in zip(x, generators, strict=True):
        row, column = (
            int(torch.randint(room - side + 1, (), generator=rng)) for room in each.shape[-2:]
        )
        cut.append(each[..., row : row + side, column : column + side])
    return torch.stack(cut)


def to_tensors(net: Denoiser) -> dict[str, Tensor]:
    return {f"denoiser.{name}": value for name, value in net.state_dict().items()}


def from_state(
    state: State, config: DenoiserConfig, channels: int, device: torch.device
) -> Denoiser:
    return restore(build(config, channels, device), state)


def restore(net: Denoiser, state: State) -> Denoiser:
    """The weights of `to_tensors` into a network built alike."""
    net.load_state_dict(tensors_under(state, "denoiser."))
    return net.eval().requires_grad_(False)
