"""High resolution: random crops to learn from, a sliding window to score with.

No detector knows of it. With tiling an image is not shrunk to the detector's grid; the detector
sees tiles of it, `tile` native pixels wide. Overlapping tiles are blended (MONAI's sliding window)
so that a map shows no seams: the outermost quarter of an overlap does not count, where networks see
the padding. An image's score is that of its most anomalous tile, so that a small defect counts as
much in a large image as in a small one. A larger image has more tiles, so calibrate with images of
the size to be scored.

With `dims` 3 the same is done with volumes and patches of voxels: the detector sees patches and
gives maps of them, and `Model` pools the map of the whole volume.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from anodetect.config import Config
from anodetect.errors import ConfigError
from anodetect.types import Batch, Bools, Floats, Scores, Seeds

if TYPE_CHECKING:
    from torch import Tensor

WINDOWS = 16  # tiles or patches scored at a time: one micro-batch of the detectors
EMPTY = 0.1  # a crop with a smaller share of foreground is drawn again, a few times
DRAWS = 10  # of a crop's place

# Takes tiles with their foregrounds.
Encode = Callable[[Iterable[tuple[Floats, Bools]]], Iterable[tuple[Floats, Bools]]]
Decode = Callable[[Floats, tuple[int, int]], Floats]
Detect = Callable[[Batch, Seeds], Scores]


class TilingConfig(Config):
    """The tiles that large images are cut into, and the patches of volumes."""

    tile: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="The side of a tile in native pixels, up to 4096; 0 scores each image whole.",
    )
    overlap: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="The share of its side, from 0 to below 1, in which a tile or patch overlaps "
        "its neighbour.",
    )
    dims: Literal[2, 3] = Field(
        default=2,
        description="2 models images and slices of volumes; 3 models volumes, patch by patch.",
    )
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        default=(16, 64, 64),
        description="The slices, rows and columns of a patch in voxels, with --dims 3.",
    )

    @property
    def sides(self) -> tuple[int, ...]:
        """The sides of a tile or patch; zeros if there are none."""
        return self.patch if self.dims == 3 else (self.tile, self.tile)


def tile_of(values: Mapping[str, Any]) -> int:
    """Return the side of a tile that settings ask for, with or without their section; 0 for none,
    and for one that is no whole number, which is refused when settings are resolved."""
    section = values.get("tiling", {})
    tile = values.get("tile") or (section.get("tile") if isinstance(section, Mapping) else None)
    return tile if isinstance(tile, int) else 0


def refuse_large_tile(tile: int, sides: Iterable[float]) -> None:
    """Raise ConfigError if a tile is larger than every image. `sides` are the widths and heights of
    all images in pixels."""
    largest = max(sides, default=tile)
    if tile > largest:
        raise ConfigError(
            f"--tile {tile}: every image is smaller, with sides of at most {largest:.0f} pixels; "
            "leave --tile out, so that images are modelled whole, or take smaller tiles"
        )


def pad(image: Floats, foreground: Bools, sides: tuple[int, ...]) -> tuple[Floats, Bools]:
    """Return an image [C, H, W] and its foreground [H, W], or a volume and its, at least as large
    as one tile.

    The image is mirrored at its far borders; what is added is background.
    """
    more = tuple((0, max(0, side - has)) for side, has in zip(sides, foreground.shape, strict=True))
    if not any(after for _, after in more):
        return image, foreground
    return np.pad(image, ((0, 0), *more), mode="symmetric"), np.pad(foreground, more)


def random_crops(
    image: Floats, foreground: Bools, config: TilingConfig, count: int, rng: np.random.Generator
) -> list[tuple[Floats, Bools]]:
    """Return up to `count` tiles [C, tile, tile] or patches [C, D, H, W] with their foreground.

    They lie at random places that are not mostly background. There are no more than half
    overlapping ones would be, so that a small image is not repeated.
    """
    image, foreground = pad(image, foreground, config.sides)
    fitted = list(zip(foreground.shape, config.sides, strict=True))
    room = [has - side + 1 for has, side in fitted]
    enough = math.prod(math.ceil(2 * (has - side) / side) + 1 for has, side in fitted)

    crops = []
    for _ in range(min(count, enough)):
        for _ in range(DRAWS):
            starts = rng.integers(room)
            window = tuple(map(slice, starts, starts + config.sides))
            if foreground[window].mean() >= EMPTY:
                break
        crops.append((image[:, *window], foreground[window]))
    return crops


def blending_weights(config: TilingConfig) -> Floats:
    """Return the weights of a tile's pixels [tile, tile].

    They are 1 inside, fall smoothly over the middle half of the overlap, and are next to nothing at
    the rim.
    """
    rim = np.minimum(np.arange(config.tile), np.arange(config.tile)[::-1]) + 0.5
    overlap = max(1, round(config.tile * config.overlap))
    position = np.clip((rim - overlap / 4) / (overlap / 2), 0, 1)
    ramp = np.maximum(position**2 * (3 - 2 * position), 1e-6)
    return np.minimum(ramp[:, None], ramp).astype(np.float32)


def score(
    image: Floats,
    foreground: Bools,
    config: TilingConfig,
    *,
    seed: int,
    encode: Encode,
    detect: Detect,
    decode: Decode,
) -> Scores:
    """Return the scores of one image [C, H, W]: image [1], heatmap [1, H, W], reconstruction [1, C,
    H, W] or None.

    Tile k draws its noise from (`seed`, k). Memory holds the image, its map and one micro-batch of
    tiles.
    """
    # Imported here, because most images need no tiles.
    import torch
    from monai.inferers.utils import sliding_window_inference

    _, height, width = image.shape
    image, foreground = pad(image, foreground, config.sides)
    tile_scores: list[float] = []  # of tiles with some foreground
    places = itertools.count()

    def windows(stack: "Tensor") -> "Tensor":
        """Take tiles [n, C + 1, tile, tile], the last plane their foreground; return maps and
        reconstructions [n, 1 or 1 + C, tile, tile]."""
        tiles = list(encode((tile[:-1], tile[-1] > 0.5) for tile in stack.numpy()))
        batch = Batch(
            np.stack([tile for tile, _ in tiles]), np.stack([inside for _, inside in tiles])
        )
        scores = detect(batch, _seeds(seed, places, len(tiles)))
        for tile, tile_score in zip(stack, scores.image, strict=True):
            if tile[-1].any():
                tile_scores.append(float(tile_score))

        planes = scores.heatmap[:, None]
        if scores.reconstruction is not None:
            planes = np.concatenate([planes, scores.reconstruction], 1)
        return torch.from_numpy(_decoded(planes, decode, (config.tile, config.tile)))

    stack = torch.from_numpy(np.concatenate([image, foreground[None].astype(np.float32)]))[None]
    weights = torch.from_numpy(blending_weights(config))
    whole = sliding_window_inference(
        stack, config.tile, WINDOWS, windows, config.overlap, roi_weight_map=weights
    )

    blended = np.asarray(whole)[:, :, :height, :width]
    heatmap = np.where(foreground[None, :height, :width], blended[:, 0], 0).astype(np.float32)
    reconstruction = blended[:, 1:] if blended.shape[1] > 1 else None
    return Scores(np.array([max(tile_scores, default=0.0)], np.float32), heatmap, reconstruction)


def volume_heatmap(
    image: Floats, foreground: Bools, config: TilingConfig, *, seed: int, detect: Detect
) -> Floats:
    """Return the heatmap [D, H, W] of a volume [C, D, H, W], from those of its patches, blended
    with Gaussian weights.

    It is 0 outside the foreground; a patch without any is not looked at. Patch k draws its noise
    from (`seed`, k). Memory holds the volume, its map, the sum of weights and one micro-batch.
    """
    import torch
    from monai.inferers import SlidingWindowInferer

    depth, height, width = foreground.shape
    image, foreground = pad(image, foreground, config.patch)
    places = itertools.count()

    def windows(stack: "Tensor", where: list[Any]) -> "Tensor":
        """Take patches [n, C, d, h, w] and their places; return maps [n, 1, d, h, w]."""
        seeds = _seeds(seed, places, len(stack))
        inside = np.stack([foreground[tuple(place[2:])] for place in where])
        filled = inside.any((1, 2, 3))

        maps = np.zeros((len(stack), 1, *config.patch), np.float32)
        if filled.any():
            batch = Batch(stack.numpy()[filled], inside[filled])
            maps[filled, 0] = detect(batch, seeds[filled]).heatmap
        return torch.from_numpy(maps)

    slide = SlidingWindowInferer(
        config.patch, WINDOWS, config.overlap, mode="gaussian", with_coord=True
    )
    whole = slide(torch.from_numpy(image)[None], windows)
    heatmap: Floats = np.asarray(whole)[0, 0] * foreground
    return heatmap[:depth, :height, :width]


def _decoded(planes: Floats, decode: Decode, shape: tuple[int, int]) -> Floats:
    """Return planes [n, c, h, w] on the detector's grid in that of a tile, [n, c, *shape]."""
    return np.stack([np.stack([decode(plane, shape) for plane in tile]) for tile in planes])


def _seeds(seed: int, places: Iterator[int], count: int) -> Seeds:
    """Return a seed for each of the next `count` tiles."""
    states = []
    for _ in range(count):
        sequence = np.random.SeedSequence([seed, next(places)])
        states.append(sequence.generate_state(1, np.uint64))
    return np.concatenate(states)
