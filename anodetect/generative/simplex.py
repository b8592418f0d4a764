"""OpenSimplex noise in three dimensions, computed for whole tensors at once.

It equals that of the `opensimplex` package (its `noise3`), whose permutation tables and constants
it uses. The package computes it in loops that numba compiles; this module does without numba.
"""

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from anodetect.errors import ConfigError

CUBE = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)]
CHUNK = 2**14  # points at a time, so that the many small steps stay in the processor's cache
# The package's own loops are the fastest where numba is installed. They are imported where noise is
# drawn: most scores need none, and numba takes a second.
NUMBA_INSTALLED = find_spec("numba") is not None


def permutation_table(seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the package's permutation and where its gradients begin, [256] each."""
    from opensimplex.internals import _init

    tables: tuple[NDArray[np.int64], NDArray[np.int64]] = _init(seed)
    return tables


def simplex_planes(x: Tensor, y: Tensor, z: Sequence[float], seeds: Sequence[int]) -> Tensor:
    """Return noise on the grid y [H] × x [W], float32 [B, H, W]: one plane for each depth and seed.

    `z` and `seeds` have B entries each. The package computes it where numba is installed.
    """
    if not NUMBA_INSTALLED:
        depths = torch.tensor(z)[:, None, None]
        return opensimplex3(x.expand(len(seeds), 1, -1), y[:, None], depths, seeds)

    from opensimplex.internals import _noise3a

    planes = []
    for depth, seed in zip(z, seeds, strict=True):
        tables = permutation_table(int(seed))
        planes.append(_noise3a(x.double().numpy(), y.double().numpy(), np.array([depth]), *tables))
    return torch.from_numpy(np.concatenate(planes)).float()


def opensimplex3(x: Tensor, y: Tensor, z: Tensor, seed: int | Sequence[int]) -> Tensor:
    """Return noise at points whose coordinates broadcast against each other, in their shape.

    `seed` is one for all points, or one for each row of the first dimension; other numbers of seeds
    raise ConfigError. Values lie in about [-0.87, 0.87].
    """
    points = torch.stack(torch.broadcast_tensors(x, y, z))  # type: ignore[no-untyped-call]
    shape = points.shape[1:]
    seeds = [seed] if isinstance(seed, int) else list(seed)
    if len(seeds) > 1 and (not shape or shape[0] != len(seeds)):
        raise ConfigError(
            f"opensimplex3: {len(seeds)} seeds for points of shape {tuple(shape)}; give one per row"
        )

    points = points.reshape(3, len(seeds), -1)
    permutation, gradient_index = (table.to(x.device) for table in _tables(seeds))
    step = max(1, CHUNK // len(seeds)) if x.device.type == "cpu" else max(1, points.shape[2])
    parts = torch.split(points, step, dim=2)
    noise = [_lattice_sum(part, permutation, gradient_index) for part in parts]
    return torch.cat(noise, dim=1).reshape(shape)


def _tables(seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the permutations and the gradients' indices of all seeds, int64 [B, 256] each."""
    permutations, starts = zip(*[permutation_table(int(seed)) for seed in seeds], strict=True)
    return torch.from_numpy(np.stack(permutations)), torch.from_numpy(np.stack(starts) // 3)


def _lattice_sum(points: Tensor, permutation: Tensor, gradient_index: Tensor) -> Tensor:
    """Return noise [B, P] at points [3, B, P].

    Each point lies in a tetrahedron or octahedron of a stretched cube. The value is the sum, over
    the vertices of that cell and two extra ones outside it, of (2 − d²)⁴ · gradient·d where d² < 2.
    """
    from opensimplex import constants

    # The cube that a point is in, where in it, and the vector from the cube's origin.
    stretched = points + points.sum(0) * constants.STRETCH_CONSTANT3  # [3, B, P]
    base = stretched.floor()
    inside = stretched - base  # in [0, 1)
    origin = points - (base + base.sum(0) * constants.SQUISH_CONSTANT3)
    base = base.long()
    total = inside.sum(0)
    gradients = torch.tensor(constants.GRADIENTS3, dtype=points.dtype, device=points.device)
    gradients = gradients.reshape(-1, 3).T.contiguous()

    def contribution(offset: Tensor) -> Tensor:
        """Return what the vertices at int64 offsets add; offsets broadcast to [3, B, P]."""
        d = origin - (offset + offset.sum(0).to(points.dtype) * constants.SQUISH_CONSTANT3)
        reach = (2 - d.square().sum(0)).clamp_(min=0)

        vertex = (base + offset) & 0xFF
        index = permutation.gather(1, vertex[0])
        index = permutation.gather(1, (index + vertex[1]) & 0xFF)
        index = gradient_index.gather(1, (index + vertex[2]) & 0xFF)
        slope = torch.stack([gradients[axis].take(index) * d[axis] for axis in range(3)]).sum(0)
        weighted: Tensor = reach.square_().square_() * slope
        return weighted

    # A vertex of the cube belongs to the cell or not by the number of ones in it.
    belongs = (total <= 1, total < 2, total > 1, total >= 2)
    value = torch.zeros_like(total)
    for vertex in CUBE:
        offset = torch.tensor(vertex, device=points.device).reshape(3, 1, 1)
        value += contribution(offset) * belongs[sum(vertex)]
    for offset in _extra_vertices(inside, total):
        value += contribution(offset)
    noise: Tensor = value / constants.NORM_CONSTANT3
    return noise


def _extra_vertices(inside: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two vertices outside the cell, as int64 offsets [3, B, P] from the cube's origin.

    `inside` [3, B, P] is the place in the cube and `total` [B, P] the sum of its coordinates.
    """
    low = _tetrahedron_extras(inside, total)
    middle = _octahedron_extras(inside)
    # The upper tetrahedron is the lower one seen from the opposite corner.
    mirrored = _tetrahedron_extras(1 - inside, 3 - total)
    high = 1 - mirrored[0], 1 - mirrored[1]

    is_low, is_high = total <= 1, total >= 2
    first = torch.where(is_low, low[0], torch.where(is_high, high[0], middle[0]))
    second = torch.where(is_low, low[1], torch.where(is_high, high[1], middle[1]))
    return first, second


def _tetrahedron_extras(inside: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Return the extra vertices of points in the tetrahedron at the cube's origin."""
    order = inside.argsort(dim=0, descending=True, stable=True)
    nearest, farthest = _unit_vectors(order[0]), _unit_vectors(order[2])
    second = inside.gather(0, order[1:2])[0]

    # Of the two axes other than the nearest, the one that comes first.
    axis = torch.arange(3, device=inside.device).reshape(3, *[1] * total.dim())
    others = 1 - nearest
    earlier = others * (axis == others.argmax(0))

    corner_is_near = 1 - total > second
    return (
        torch.where(corner_is_near, nearest - earlier, 1 - farthest),
        torch.where(corner_is_near, nearest - (others - earlier), 1 - 2 * farthest),
    )


def _octahedron_extras(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return the extra vertices of points in the octahedron between the two tetrahedra.

    Three axes pair opposite vertices, (1, 1, 0) with (0, 0, 1) and so on. The two nearest vertices
    of different pairs decide.
    """
    pair_sum = inside.sum(0) - inside  # [3, B, P]: pair k leaves axis k out
    with_two_ones = pair_sum > 1  # the point is nearer to the pair's vertex with two ones
    order = (pair_sum - 1).abs().argsort(dim=0, descending=True, stable=True)
    first, second, third = _unit_vectors(order[0]), _unit_vectors(order[1]), _unit_vectors(order[2])
    first_two = with_two_ones.gather(0, order[0:1])[0]
    second_two = with_two_ones.gather(0, order[1:2])[0]

    # Both vertices on the same side, the upper one: (1, 1, 1) and twice the axis both share; the
    # lower one: the origin and (1, 1, 1) − 2 · (the axis both lack).
    ones = torch.ones_like(first)
    same = (
        torch.where(first_two, ones, 0 * ones),
        torch.where(first_two, 2 * third, ones - 2 * third),
    )

    # One on each side: the axis that the vertex with two ones leaves out, and the axis of the
    # vertex with one.
    upper = torch.where(first_two, first, second)
    lower = torch.where(first_two, second, first)
    mixed = (ones - 2 * upper, 2 * lower)

    same_side = first_two == second_two
    return torch.where(same_side, same[0], mixed[0]), torch.where(same_side, same[1], mixed[1])


def _unit_vectors(axis: Tensor) -> Tensor:
    """Return the unit vectors int64 [3, ...] along axes [...]."""
    return F.one_hot(axis, 3).movedim(-1, 0)
