"""A small data set with a known truth: a striped, shaded texture, and planted bright blobs and
scratches."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from anodetect.types import Bools

Images = NDArray[np.uint8]


def images(
    count: int, *, size: int = 64, channels: int = 1, defects: bool = False, seed: int = 0
) -> tuple[Images, Bools]:
    """Return `count` images uint8 [N, C, H, W] and their masks bool [N, H, W], all False without
    defects."""
    rng = np.random.default_rng([seed, size, channels, defects])
    pairs = [_image(rng, size, channels, defects) for _ in range(count)]
    pictures, masks = zip(*pairs, strict=True)
    return np.stack(pictures), np.stack(masks)


def write(
    folder: Path,
    *,
    train: int = 120,
    test: int = 30,
    size: int = 64,
    channels: int = 1,
    seed: int = 0,
) -> None:
    """Write a data set in the MVTec layout: `train` normals, and `test` normals and as many defects
    with masks."""
    parts = {"train/good": (train, False), "test/good": (test, False), "test/defect": (test, True)}

    for offset, (part, (count, defects)) in enumerate(parts.items()):
        pictures, masks = images(
            count, size=size, channels=channels, defects=defects, seed=seed * 10 + offset
        )
        for index, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
            pixels = picture[0] if channels == 1 else np.moveaxis(picture, 0, -1)
            _save(folder / part / f"{index:04d}.png", pixels)
            if defects:
                truth = folder / "ground_truth/defect" / f"{index:04d}_mask.png"
                _save(truth, mask.astype(np.uint8) * 255)


def _image(
    rng: np.random.Generator, size: int, channels: int, defect: bool
) -> tuple[Images, Bools]:
    """Return one image uint8 [C, H, W] and its mask [H, W]."""
    rows, columns = np.mgrid[:size, :size] / size
    shade = 12 * np.sin(2 * np.pi * (rows * rng.uniform(0.3, 0.5) + rng.uniform()))
    stripes = 20 * np.sign(np.sin(2 * np.pi * (8 * columns + rng.uniform(-0.05, 0.05))))
    grain = ndimage.gaussian_filter(rng.normal(size=(size, size)), 0.7) * 8
    picture = 110 + shade + stripes + grain
    mask = _shape(rng, size) if defect else np.zeros((size, size), bool)
    edge = ndimage.gaussian_filter(mask.astype(float), 0.7)
    picture = picture + edge * rng.uniform(80, 120)
    tint = np.linspace(1.0, 0.8, channels)[:, None, None]
    return np.clip(picture[None] * tint, 0, 255).astype(np.uint8), mask


def _shape(rng: np.random.Generator, size: int) -> Bools:
    """Return a blob or a scratch [H, W], about a hundredth to a fiftieth of the image."""
    rows, columns = np.mgrid[:size, :size] / size
    y, x, angle = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0, np.pi)
    along = (rows - y) * np.sin(angle) + (columns - x) * np.cos(angle)
    across = (rows - y) * np.cos(angle) - (columns - x) * np.sin(angle)
    length, width = (0.25, 0.02) if rng.random() < 0.5 else (0.08, 0.06)
    return np.asarray((along / length) ** 2 + (across / width) ** 2 < 1)


def _save(path: Path, array: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
