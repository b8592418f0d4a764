"""Windows of images as vectors, and their whitening.

    v = (x − μ) V (λ + ε)^−½,   Cov[x] = V diag(λ) Vᵀ,   ε = shrinkage · mean of λ

With white noise of variance ε on x all components of v have variance 1. Without ε those that hardly
vary would be as large as the rest, and most of them are noise.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from anodetect.errors import ConfigError, DataError
from anodetect.generative.langevin import Random, standard_normal
from anodetect.generative.samples import chain_generators
from anodetect.imaging.standardise import MICRO_BATCH, MapStandardizer, StandardizerConfig
from anodetect.nn import single_pass
from anodetect.nn.device_batches import in_device_batches
from anodetect.nn.single_pass import Pass
from anodetect.nn.softplus import Softplus
from anodetect.nn.state import load_weights, module_state
from anodetect.types import Batch, Bools, Floats, State

PREFIX = "whitening."  # of the names of its numbers in a stored model
LEARNED_FROM = 60_000  # windows, about, that stand for all
LOW = 5  # percentile of energies on tune, from which on a place stands out
# The defaults where a window is one place of features.
ON_FEATURES = {
    "window": 1,
    "stride": 1,
    "pattern": "auto",
    "distance": "auto",
    "relative": "off",
    "pooling": {"smooth": 1.0},
}


class WindowsConfig(StandardizerConfig):
    """The windows of images that a detector models."""

    window: PositiveInt = Field(
        default=8,
        description="The side of the windows that are modelled, in pixels of the detector's grid.",
    )
    stride: PositiveInt = Field(
        default=2, description="The distance between the windows of an image that are scored."
    )
    places: PositiveInt = Field(
        default=64, description="The random places of each image of a training step."
    )


class Whitening(nn.Module):
    """The map from vectors [..., D] to whitened ones and back; all of it is in buffers."""

    mean: Tensor
    basis: Tensor
    scale: Tensor
    noise: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.eye(size))  # a component in each column
        self.register_buffer("scale", torch.ones(size))  # (λ + ε)^½
        self.register_buffer("noise", torch.zeros(size))  # (ε / (λ + ε))^½

    @classmethod
    def learn(cls, vectors: Tensor, shrinkage: float) -> "Whitening":
        """Return the whitening of vectors [M, D]."""
        centred = vectors.double()
        mean = centred.mean(0)
        centred = centred - mean
        variance, basis = torch.linalg.eigh(centred.T @ centred / len(centred))
        variance = variance.clamp(min=0)
        shrunk = variance + shrinkage * variance.mean().clamp(min=1e-12)

        whitening = cls(len(mean))
        whitening.mean.copy_(mean)
        whitening.basis.copy_(basis)
        whitening.scale.copy_(shrunk.sqrt())
        whitening.noise.copy_((1 - variance / shrunk).sqrt())
        return whitening

    def forward(self, x: Tensor) -> Tensor:
        """Return v of x, [..., D]."""
        whitened: Tensor = (x - self.mean) @ self.basis / self.scale
        return whitened

    def back(self, v: Tensor) -> Tensor:
        """Return x of v, [..., D]."""
        return self.mean + (v * self.scale) @ self.basis.T

    def noisy(self, x: Tensor, rng: Random) -> Tensor:
        """Return v of x with white noise on it, [..., D]: its components have variance 1."""
        v: Tensor = self(x)
        return v + self.noise * standard_normal(v, rng)

    def state(self) -> State:
        """Return its numbers as named arrays."""
        return module_state(self, PREFIX)

    @classmethod
    def from_state(cls, state: State, device: torch.device) -> "Whitening":
        """Return the one whose state this was, on a device."""
        whitening = cls(len(state[PREFIX + "mean"])).to(device)
        return load_weights(whitening, state, PREFIX)


def check_window(side: int, shape: Sequence[int]) -> None:
    """Raise ConfigError if images [C, H, W] of this shape are smaller than a window."""
    if min(shape[1:]) < side:
        raise ConfigError(
            f"detector.window: images of {min(shape[1:])} pixels are smaller than a window of "
            f"{side}"
        )


def check_stride(stride: int, side: int) -> None:
    """Raise ConfigError if there are pixels between windows."""
    if stride > side:
        raise ConfigError(
            f"detector.stride: {stride} is larger than the window ({side}), so pixels between "
            "windows would not be seen"
        )


def windows_to_learn_from(fit: Batch, side: int, seed: int) -> Tensor:
    """Return random windows of all images, as vectors [M, D]; DataError if there are too few places
    to learn a whitening from."""
    channels, height, width = fit.images.shape[1:]
    size, places = channels * side**2, len(fit) * (height // side) * (width // side)
    if places < 2 * size:
        raise DataError(
            f"windows of {size} values need {2 * size} places that do not overlap, these images "
            f"have {places}: take a smaller detector.window or more images"
        )

    each = -(-LEARNED_FROM // len(fit))
    found = []
    for number, rng in enumerate(chain_generators(seed, len(fit))):
        one = fit[number : number + 1]
        images = torch.from_numpy(one.images.copy())
        found.append(random_windows(images, one.foreground, side, each, [rng])[0])
    return torch.cat(found)


def random_windows(
    images: Tensor, foreground: Bools, side: int, count: int, rngs: Sequence[torch.Generator]
) -> Tensor:
    """Return `count` random windows of each image [N, C, H, W], as vectors [N, count, C·side²].

    Their middle is in the foreground [N, H, W]; anywhere if an image has none there.
    """
    windows = images.unfold(2, side, 1).unfold(3, side, 1)  # [N, C, h, w, side, side], a view
    height, width = windows.shape[2:4]
    middle = side // 2
    inside = torch.from_numpy(np.ascontiguousarray(foreground))
    inside = inside[:, middle : middle + height, middle : middle + width]

    found = []
    for image, allowed, rng in zip(windows, inside, rngs, strict=True):
        places = (allowed if allowed.any() else ~allowed).flatten().nonzero()[:, 0]
        chosen = places[torch.randint(len(places), (count,), generator=rng)]
        taken = image[:, chosen // width, chosen % width]  # [C, count, side, side]
        found.append(taken.transpose(0, 1).flatten(1))
    return torch.stack(found)


def noisy_windows(
    whitening: Whitening,
    images: Tensor,
    foreground: Bools,
    config: WindowsConfig,
    rngs: Sequence[torch.Generator],
) -> Tensor:
    """Return random windows of images [N, C, H, W], whitened and with white noise, [N, places,
    D]."""
    x = random_windows(images, foreground, config.window, config.places, rngs)
    return whitening.noisy(x, rngs)


def all_windows(images: Tensor, side: int, stride: int) -> tuple[Tensor, int]:
    """Return the windows of images [N, C, H, W] every `stride` pixels, [N, L, C·side²], and how
    many there are in a row.

    Images are continued below and to the right by less than a stride, so that all pixels are in.
    """
    height, width = images.shape[2:]
    below, right = -(height - side) % stride, -(width - side) % stride
    padded = F.pad(images, (0, right, 0, below), mode="replicate")
    vectors = F.unfold(padded, side, stride=stride).transpose(1, 2)
    return vectors, (width + right - side) // stride + 1


def as_map(values: Tensor, columns: int, side: int, stride: int, shape: Sequence[int]) -> Tensor:
    """Return values of windows [N, L] as maps [N, H, W], each around the middle of its window."""
    maps = values.reshape(len(values), 1, -1, columns)
    if stride > 1:
        maps = F.interpolate(maps, scale_factor=stride, mode="bilinear")
    height, width = shape
    before = (side - stride) // 2
    rim = (before, width + side, before, height + side)
    return F.pad(maps, rim, mode="replicate")[:, 0, :height, :width]


def maps_of_windows(
    function: Callable[[Tensor], Tensor], images: Tensor, side: int, stride: int
) -> Tensor:
    """Return what a function of vectors [L, D] says of the windows of images, as maps [N, H, W].

    Images are taken one at a time, as their windows are many.
    """
    maps = []
    for image in images:
        x, columns = all_windows(image[None], side, stride)
        maps.append(as_map(function(x[0])[None], columns, side, stride, image.shape[1:]))
    return torch.cat(maps)


# -- An energy of windows --------------------------------------------------------------------------


def energy_maps(
    energy: Callable[[Tensor], Tensor], batch: Batch, config: WindowsConfig, device: torch.device
) -> Floats:
    """Return the energy around every pixel of images, [N, 1, H, W], where `energy` has that of
    windows [L, D], [L], and is a detector's method."""

    @torch.no_grad()
    def maps_of(x: Tensor) -> tuple[Tensor]:
        return (maps_of_windows(energy, x, config.window, config.stride)[:, None],)

    owner = getattr(energy, "__self__", energy)
    (maps,) = in_device_batches(maps_of, batch.images, size=MICRO_BATCH, device=device, owner=owner)
    return maps


def energy_pass(
    energy: Callable[[Tensor], Tensor],
    config: WindowsConfig,
    positive: Softplus,
    standardizer: MapStandardizer,
) -> Pass:
    """Return the pass of a detector with one map, the softplus of the energy of windows."""

    def score(x: Tensor) -> tuple[Tensor, Tensor]:
        maps = maps_of_windows(energy, x, config.window, config.stride)
        return single_pass.combine(standardizer, positive.of_tensor(maps[:, None]), x)

    return score
