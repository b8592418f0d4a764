"""Windows of images as vectors, and their whitening.

    v = (x − μ) V (λ + ε)^−½,   Cov[x] = V diag(λ) Vᵀ,   ε = shrinkage · mean of λ

With white noise of variance ε on x all components of v have variance 1. Without ε those that hardly
vary would be as large as the rest, and most of them are noise.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anodetect.generative.langevin import Random, standard_normal


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


def random_windows(
    images: Tensor, foreground: Tensor, side: int, count: int, rngs: Sequence[torch.Generator]
) -> Tensor:
    """Return `count` random windows of each image [N, C, H, W], as vectors [N, count, C·side²].

    Their middle is in the foreground [N, H, W]; anywhere if an image has none there.
    """
    windows = images.unfold(2, side, 1).unfold(3, side, 1)  # [N, C, h, w, side, side], a view
    height, width = windows.shape[2:4]
    middle = side // 2
    inside = foreground[:, middle : middle + height, middle : middle + width]

    found = []
    for image, allowed, rng in zip(windows, inside.cpu(), rngs, strict=True):
        places = (allowed if allowed.any() else ~allowed).flatten().nonzero()[:, 0]
        chosen = places[torch.randint(len(places), (count,), generator=rng)]
        taken = image[:, chosen // width, chosen % width]  # [C, count, side, side]
        found.append(taken.transpose(0, 1).flatten(1))
    return torch.stack(found)


def all_windows(images: Tensor, side: int, stride: int) -> tuple[Tensor, int]:
    """Return the windows of images [N, C, H, W] every `stride` pixels, [N, L, C·side²], and how
    many there are in a row.

    Images are continued below and to the right by less than a stride, so that all pixels are in.
    """
    height, width = images.shape[2:]
    below, right = -(height - side) % stride, -(width - side) % stride
    padded = F.pad(images, (0, right, 0, below), mode="replicate")
    vectors = F.unfold(padded, side, stride=stride).mT
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
