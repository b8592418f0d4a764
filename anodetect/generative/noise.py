"""Noise fields: Gaussian, simplex and coarse, for volumes Gaussian with the spectrum of octaves;
one seed per sample.

Simplex noise follows AnoDDPM (Wyatt et al., CVPRW 2022): a slice of 3-D OpenSimplex noise, summed
over octaves k as persistence^k · noise(x / (wavelength / 2^k), y / (wavelength / 2^k), z). The
lattice noise itself is that of the `opensimplex` package (its `noise3`), computed here for whole
tensors at once.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anodetect.errors import ConfigError, nearest

KINDS = ("simplex", "gaussian", "coarse")
CUBE = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)]
CHUNK = 2**14  # points
WRAP = 2**63
PERSISTENCE = 0.8  # of AnoDDPM: what an octave's amplitude is of that of the octave below
FIELDS = 16  # of simplex noise in a bank
LOWEST = 4.0  # cycles per side: the first octave has a wavelength of a quarter of it
# The package's own loops are compiled where numba is installed, and then the fastest. They are
# imported where noise is drawn: most scores need none, and numba takes a second.
COMPILED = find_spec("numba") is not None


def generator(seed: int, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator of its own for one seed (any non-negative integer)."""
    return torch.Generator(device).manual_seed(seed % WRAP)


# -- OpenSimplex, 3-D ------------------------------------------------------------------------------


def permutation_of(seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The package's permutation table and where its gradients begin, [256] each."""
    from opensimplex.internals import _init

    tables: tuple[NDArray[np.int64], NDArray[np.int64]] = _init(seed)
    return tables


def permutations(seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The package's permutation tables and gradient indices for each seed, both int64 [B, 256]."""
    tables = [permutation_of(int(seed)) for seed in seeds]
    return (
        torch.from_numpy(np.stack([perm for perm, _ in tables])),
        torch.from_numpy(np.stack([gradient for _, gradient in tables]) // 3),
    )


def opensimplex3(x: Tensor, y: Tensor, z: Tensor, seed: int | Sequence[int]) -> Tensor:
    """OpenSimplex noise at points whose coordinates broadcast against each other, equal to the
    package's `noise3`.

    `seed` is one for all points, or one for each row of the first dimension. Values lie in about
    [-.87, .87]. Computed a few thousand points at a time, so that the many small steps stay in the
    processor's cache.
    """
    points = torch.stack(torch.broadcast_tensors(x, y, z))  # type: ignore[no-untyped-call]  # [3, ...]
    shape = points.shape[1:]
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if len(seeds) > 1 and (not shape or shape[0] != len(seeds)):
        raise ConfigError(
            f"opensimplex3: {len(seeds)} seeds for points of shape {tuple(shape)}; give one per row"
        )
    points = points.reshape(3, len(seeds), -1)
    tables = tuple(table.to(x.device) for table in permutations(seeds))
    step = max(1, CHUNK // len(seeds)) if x.device.type == "cpu" else max(1, points.shape[2])
    return torch.cat(
        [_lattice_sum(part, *tables) for part in torch.split(points, step, dim=2)], dim=1
    ).reshape(shape)


def _lattice_sum(points: Tensor, perm: Tensor, gradient_index: Tensor) -> Tensor:
    """Noise at points [3, B, P].

    Each point lies in a tetrahedron or octahedron of a stretched cube. The value is the sum, over
    the vertices of that cell and two extra ones outside it, of (2 − d²)⁴ · gradient·d where d² < 2.
    """
    from opensimplex import constants

    stretched = points + points.sum(0) * constants.STRETCH_CONSTANT3  # [3, B, P]
    base = stretched.floor()
    inside = stretched - base  # in [0, 1)
    origin = points - (base + base.sum(0) * constants.SQUISH_CONSTANT3)
    base = base.long()
    total = inside.sum(0)
    gradients = (
        torch.tensor(constants.GRADIENTS3, dtype=points.dtype, device=points.device)
        .reshape(-1, 3)
        .T.contiguous()
    )

    def contribution(offset: Tensor) -> Tensor:  # offset: int64, broadcastable to [3, B, P]
        d = origin - (offset + offset.sum(0).to(points.dtype) * constants.SQUISH_CONSTANT3)
        reach = (2 - d.square().sum(0)).clamp_(min=0)
        vertex = (base + offset) & 0xFF
        index = perm.gather(1, vertex[0])
        index = perm.gather(1, (index + vertex[1]) & 0xFF)
        index = gradient_index.gather(1, (index + vertex[2]) & 0xFF)
        slope = torch.stack([gradients[axis].take(index) * d[axis] for axis in range(3)]).sum(0)
        weighted: Tensor = reach.square_().square_() * slope
        return weighted

    belongs = (total <= 1, total < 2, total > 1, total >= 2)  # by the number of ones in the vertex
    value = torch.zeros_like(total)
    for vertex in CUBE:
        offset = torch.tensor(vertex, device=points.device).reshape(3, 1, 1)
        value += contribution(offset) * belongs[sum(vertex)]
    for offset in extra_vertices(inside, total):
        value += contribution(offset)
    noise: Tensor = value / constants.NORM_CONSTANT3
    return noise


def extra_vertices(inside: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """The two vertices outside the cell that the package adds, as int64 offsets [3, B, P] from the
    cube's origin."""
    low = tetrahedron_extras(inside, total)
    # The upper tetrahedron is the lower one seen from the opposite corner.
    high = tuple(1 - offset for offset in tetrahedron_extras(1 - inside, 3 - total))
    middle = octahedron_extras(inside)
    first, second = (
        torch.where(total <= 1, a, torch.where(total >= 2, b, c))
        for a, b, c in zip(low, high, middle, strict=True)
    )
    return first, second


def one_hot(axis: Tensor) -> Tensor:
    """Axis indices [...] to unit vectors int64 [3, ...]."""
    return F.one_hot(axis, 3).movedim(-1, 0)


def tetrahedron_extras(inside: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    order = inside.argsort(dim=0, descending=True, stable=True)
    nearest, farthest = one_hot(order[0]), one_hot(order[2])
    second = inside.gather(0, order[1:2])[0]
    axis = torch.arange(3, device=inside.device).reshape(3, *[1] * total.dim())
    others = 1 - nearest
    earlier = others * (axis == others.argmax(0))  # of the two other axes, the one that comes first
    corner_is_near = 1 - total > second
    return (
        torch.where(corner_is_near, nearest - earlier, 1 - farthest),
        torch.where(corner_is_near, nearest - (others - earlier), 1 - 2 * farthest),
    )


def octahedron_extras(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Three axes pair opposite vertices (1,1,0)–(0,0,1) …; the two nearest vertices of different
    pairs decide."""
    pair_sum = inside.sum(0) - inside  # [3]: pair k leaves axis k out
    further = pair_sum > 1  # nearer to the vertex with two ones
    order = (pair_sum - 1).abs().argsort(dim=0, descending=True, stable=True)
    first, second, third = (one_hot(order[k]) for k in range(3))
    first_further, second_further = (further.gather(0, order[k : k + 1])[0] for k in range(2))
    same_side = first_further == second_further
    both_ones = torch.ones_like(first)
    # Same side, upper: (1,1,1) and twice the axis both share; lower: the origin and (1,1,1) −
    # 2·(missing axis).
    same = (
        torch.where(first_further, both_ones, 0 * both_ones),
        torch.where(first_further, 2 * third, both_ones - 2 * third),
    )
    upper = torch.where(first_further, first, second)  # left-out axis of the vertex with two ones
    lower = torch.where(first_further, second, first)  # axis of the vertex with one one
    mixed = (both_ones - 2 * upper, 2 * lower)
    return torch.where(same_side, same[0], mixed[0]), torch.where(same_side, same[1], mixed[1])


# -- Fields ----------------------------------------------------------------------------------------


def simplex(
    shape: tuple[int, int],
    seeds: Sequence[int],
    *,
    octaves: int = 6,
    persistence: float = PERSISTENCE,
    wavelength: float | None = None,
) -> Tensor:
    """Raw simplex fields float32 [B, H, W], one seed each, standard deviation about .5 (AnoDDPM,
    section 3.2).

    `wavelength` is that of the first octave in pixels; None is a quarter of the longer side.
    """
    height, width = shape
    wavelength = wavelength or max(shape) / LOWEST
    depth = [float(torch.rand((), generator=generator(int(seed))) * 1000) for seed in seeds]
    fields = torch.zeros(len(seeds), height, width)
    for octave in range(octaves):
        scale = 2**octave / wavelength
        columns, rows = torch.arange(width) * scale, torch.arange(height) * scale
        fields += persistence**octave * _planes(columns, rows, depth, seeds)
    return fields


def _planes(x: Tensor, y: Tensor, z: Sequence[float], seeds: Sequence[int]) -> Tensor:
    """Noise on the grids y × x at depth z, one of each seed, float32 [B, H, W]."""
    if COMPILED:
        from opensimplex.internals import _noise3a

        axes = x.double().numpy(), y.double().numpy()
        planes = [
            _noise3a(*axes, np.array([depth]), *permutation_of(int(s)))
            for depth, s in zip(z, seeds, strict=True)
        ]
        return torch.from_numpy(np.concatenate(planes)).float()
    depths = torch.tensor(z)[:, None, None]
    return opensimplex3(x.expand(len(seeds), 1, -1), y[:, None], depths, seeds)


def unit_variance(fields: Tensor, dims: int = 2) -> Tensor:
    """Fields [..., H, W], or of more `dims`, with mean 0 and standard deviation 1 each."""
    axes = tuple(range(-dims, 0))
    mean = fields.mean(axes, keepdim=True)
    return (fields - mean) / fields.std(axes, keepdim=True).clamp(min=1e-6)


def of_octaves(
    generators: Sequence[torch.Generator], channels: int, sides: tuple[int, int, int]
) -> Tensor:
    """Gaussian fields [N, C, D, H, W] with the spectrum that simplex noise of many octaves has,
    each with mean 0 and standard deviation 1.

    Octave k has the frequencies f = 2^k·f_0 and the amplitude persistence^k, so the power f³·S(f)
    of an octave is proportional to persistence^2k and S(f) to f^(−3 + 2·log₂ persistence); below
    f_0 it is flat. Frequencies are in cycles per side of the patch along each axis, as wavelengths
    are shares of the side in two dimensions, so that noise in flat patches of flat voxels is as
    deep as it is wide. (3-D simplex noise itself takes a thousand times as long, and a bank of it
    minutes, where numba is not installed.)
    """
    cycles = torch.meshgrid(*(torch.fft.fftfreq(side) * side for side in sides), indexing="ij")
    frequency = torch.stack(cycles).square().sum(0).sqrt().clamp(min=LOWEST)
    amplitude = frequency ** (math.log2(PERSISTENCE) - 1.5)
    white = torch.stack([torch.randn((channels, *sides), generator=rng) for rng in generators])
    axes = (-3, -2, -1)
    return unit_variance(
        torch.fft.ifftn(torch.fft.fftn(white, dim=axes) * amplitude, dim=axes).real, dims=3
    )


def regions(generators: Sequence[torch.Generator], size: int) -> Tensor:
    """Random blobs [N, 1, size, size] with soft edges, 1 inside; they cover any share of the image,
    evenly spread.

    Noise multiplied by them is confined to a part of the image, as an anomaly is.
    """
    blobs = NoiseSource("coarse", size, cell=max(1, size // 8))
    masks = []
    for rng in generators:
        share, softness = torch.rand(2, generator=rng)
        level = math.sqrt(2) * torch.erfinv(
            0.98 * (1 - 2 * share)
        )  # a unit normal is above it with probability share
        masks.append(torch.sigmoid((blobs([rng], 1)[0] - level) / (0.02 * 20**softness)))
    return torch.stack(masks)


class NoiseSource:
    """Noise of one kind and size, [N, C, H, W] from N generators.

    Simplex fields are cut from a bank made once, on first use: at a random place, in one of eight
    orientations and with a random sign, so that noise costs no more than a copy.
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
        if (cell if kind == "coarse" else wavelength or 0) > size:
            raise ConfigError(
                f"{kind} noise of {wavelength or cell:g} pixels is larger than the image, {size} pixels"
            )
        self.kind, self.size, self.unit, self.cell = kind, size, unit, cell
        self.wavelength = wavelength or size / LOWEST

    @cached_property
    def bank(self) -> Tensor:
        """Raw simplex fields [FIELDS, 5/4 size, 5/4 size]."""
        side = self.size + self.size // 4
        return simplex((side, side), range(FIELDS), wavelength=self.wavelength)

    def __call__(self, generators: Sequence[torch.Generator], channels: int) -> Tensor:
        return torch.stack([self._one(rng, channels) for rng in generators])

    def _one(self, rng: torch.Generator, channels: int) -> Tensor:
        shape = (channels, self.size, self.size)
        if self.kind == "gaussian":
            return torch.randn(shape, generator=rng)
        if self.kind == "coarse":
            grid = torch.randn(
                (1, channels, self.size // self.cell, self.size // self.cell), generator=rng
            )
            return unit_variance(F.interpolate(grid, size=shape[1:], mode="bilinear")[0])
        fields = torch.stack([self._cut(rng) for _ in range(channels)])
        return unit_variance(fields) if self.unit else fields

    def _cut(self, rng: torch.Generator) -> Tensor:
        field, turn, sign = (int(v) for v in torch.randint(0, 2**31, (3,), generator=rng))
        room = self.bank.shape[-1] - self.size + 1
        row, column = (int(v) for v in torch.randint(0, room, (2,), generator=rng))
        cut = self.bank[field % len(self.bank), row : row + self.size, column : column + self.size]
        cut = torch.rot90(cut, turn % 4)
        cut = cut.T if turn % 8 >= 4 else cut
        return cut if sign % 2 else -cut
