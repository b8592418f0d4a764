"""Noise fields, one generator per sample: Gaussian, simplex and coarse; octave noise for volumes.

Simplex noise follows AnoDDPM (Wyatt et al., CVPRW 2022): a slice of 3-D OpenSimplex noise, summed
over octaves k as persistence^k · noise(x / (wavelength / 2^k), y / (wavelength / 2^k), z).
"""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from anodetect.errors import ConfigError, nearest
from anodetect.generative.simplex import simplex_planes
from anodetect.types import Seeds

KINDS = ("simplex", "gaussian", "coarse")
SEED_LIMIT = 2**63  # seeds of a torch generator are below it
PERSISTENCE = 0.8  # amplitude of an octave, relative to the octave below (AnoDDPM)
BANK_FIELDS = 16  # fields of simplex noise in a bank
LOWEST_FREQUENCY = 4.0  # cycles per side: the first octave's wavelength is a quarter of the side
DEEPEST = 1000  # slices of 3-D noise are at a random depth from 0 to this


def generator(seed: int) -> torch.Generator:
    """Return a generator with this seed, any non-negative integer."""
    return torch.Generator().manual_seed(seed % SEED_LIMIT)


def generators_of(seeds: Seeds) -> list[torch.Generator]:
    """Return a generator for each of the seeds of images."""
    return [generator(int(seed)) for seed in seeds]


def simplex_fields(
    shape: tuple[int, int],
    seeds: Sequence[int],
    *,
    octaves: int = 6,
    wavelength: float | None = None,
) -> Tensor:
    """Return raw simplex fields float32 [B, H, W], one for each seed (AnoDDPM, section 3.2).

    Their standard deviation is about 0.5. `wavelength` is that of the first octave in pixels, None
    for a quarter of the longer side.
    """
    height, width = shape
    wavelength = wavelength or max(shape) / LOWEST_FREQUENCY
    depths = [float(torch.rand((), generator=generator(int(seed))) * DEEPEST) for seed in seeds]

    fields = torch.zeros(len(seeds), height, width)
    for octave in range(octaves):
        scale = 2**octave / wavelength
        columns, rows = torch.arange(width) * scale, torch.arange(height) * scale
        fields += PERSISTENCE**octave * simplex_planes(columns, rows, depths, seeds)
    return fields


def octave_noise(
    generators: Sequence[torch.Generator], channels: int, sides: tuple[int, int, int]
) -> Tensor:
    """Return Gaussian fields [N, C, D, H, W] with the spectrum of simplex noise of many octaves.

    Each has mean 0 and standard deviation 1. Octave k has the frequencies f = 2^k·f_0 and the
    amplitude persistence^k, so the power f³·S(f) of an octave is proportional to persistence^2k and
    S(f) to f^(−3 + 2·log₂ persistence); below f_0 it is flat. Frequencies are in cycles per side of
    the patch along each axis, as wavelengths are shares of the side in two dimensions, so that
    noise in flat patches of flat voxels is as deep as it is wide. (3-D simplex noise itself takes a
    thousand times as long, and a bank of it minutes, where numba is not installed.)
    """
    cycles = torch.meshgrid(*[torch.fft.fftfreq(side) * side for side in sides], indexing="ij")
    frequency = torch.stack(cycles).square().sum(0).sqrt().clamp(min=LOWEST_FREQUENCY)
    amplitude = frequency ** (math.log2(PERSISTENCE) - 1.5)

    axes = (-3, -2, -1)
    white = torch.stack([torch.randn((channels, *sides), generator=rng) for rng in generators])
    fields = torch.fft.ifftn(torch.fft.fftn(white, dim=axes) * amplitude, dim=axes).real
    return unit_variance(fields, dims=3)


def unit_variance(fields: Tensor, dims: int = 2) -> Tensor:
    """Return fields with mean 0 and standard deviation 1 each, over their last `dims` axes."""
    axes = tuple(range(-dims, 0))
    mean = fields.mean(axes, keepdim=True)
    return (fields - mean) / fields.std(axes, keepdim=True).clamp(min=1e-6)


def random_regions(generators: Sequence[torch.Generator], size: int) -> Tensor:
    """Return random blobs [N, 1, size, size], 1 inside and 0 outside, with soft edges.

    They cover any share of the image, evenly spread. Noise multiplied by them is confined to a part
    of the image, as an anomaly is.
    """
    blobs = NoiseSource("coarse", size, cell=max(1, size // 8))
    masks = []
    for rng in generators:
        share, softness = torch.rand(2, generator=rng)
        # A standard normal variable is above this level with probability `share`.
        level = math.sqrt(2) * torch.erfinv(0.98 * (1 - 2 * share))
        height = blobs([rng], 1)[0] - level
        masks.append(torch.sigmoid(height / (0.02 * 20**softness)))
    return torch.stack(masks)


class NoiseSource:
    """Draws noise of one kind for images of one size.

    "gaussian" is white, "coarse" is white on a grid of `cell` pixels and enlarged, "simplex" is cut
    from a bank of fields made once, on first use: at a random place, in one of eight orientations
    and with a random sign, so that it costs no more than a copy. `wavelength` is that of the first
    octave of simplex noise in pixels, None for a quarter of the side; without `unit` its fields
    keep their own standard deviation of about 0.5. Raise ConfigError for an unknown kind, or where
    a cell or wavelength is larger than the image.
    """

    def __init__(
        self,
        kind: str,
        size: int,
        *,
        unit: bool = True,
        wavelength: float | None = None,
        cell: int = 8,
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"noise {kind!r}; {nearest(kind, KINDS)}")
        widest = cell if kind == "coarse" else wavelength or 0
        if widest > size:
            raise ConfigError(
                f"{kind} noise of {widest:g} pixels is larger than the image, {size} pixels"
            )

        self.kind, self.size, self.unit, self.cell = kind, size, unit, cell
        self.wavelength = wavelength or size / LOWEST_FREQUENCY
        self.others: dict[int, NoiseSource] = {}

    def at(self, size: int) -> "NoiseSource":
        """Return the source of the same noise for images that were resized to this size."""
        if size == self.size:
            return self
        if size not in self.others:
            self.others[size] = NoiseSource(
                self.kind,
                size,
                unit=self.unit,
                wavelength=self.wavelength * size / self.size,
                cell=self.cell,
            )
        return self.others[size]

    def __call__(self, generators: Sequence[torch.Generator], channels: int) -> Tensor:
        """Return noise [N, channels, size, size], a sample from each generator."""
        return torch.stack([self._sample(rng, channels) for rng in generators])

    def _sample(self, rng: torch.Generator, channels: int) -> Tensor:
        size = self.size
        if self.kind == "gaussian":
            return torch.randn((channels, size, size), generator=rng)

        if self.kind == "coarse":
            cells = size // self.cell
            grid = torch.randn((1, channels, cells, cells), generator=rng)
            return unit_variance(F.interpolate(grid, size=(size, size), mode="bilinear")[0])

        fields = torch.stack([self._cut(rng) for _ in range(channels)])
        return unit_variance(fields) if self.unit else fields

    @cached_property
    def bank(self) -> Tensor:
        """Raw simplex fields [BANK_FIELDS, 5/4 size, 5/4 size]."""
        side = self.size + self.size // 4
        return simplex_fields((side, side), range(BANK_FIELDS), wavelength=self.wavelength)

    def _cut(self, rng: torch.Generator) -> Tensor:
        """Return a window [size, size] of a field of the bank, turned and negated at random."""
        field, turn, sign = torch.randint(0, 2**31, (3,), generator=rng).tolist()
        room = self.bank.shape[-1] - self.size + 1
        row, column = torch.randint(0, room, (2,), generator=rng).tolist()

        cut = self.bank[field % len(self.bank), row : row + self.size, column : column + self.size]
        cut = torch.rot90(cut, turn % 4)
        cut = cut.T if turn % 8 >= 4 else cut
        return cut if sign % 2 else -cut
