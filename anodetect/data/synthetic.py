"""Small data sets with a known truth: a striped, shaded texture with planted bright blobs and
scratches, and scenes in two lights with discs that one of the lights does not show."""

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


def two_lights(
    count: int, *, size: int = 64, defects: bool = False, seed: int = 0
) -> tuple[Images, Bools]:
    """Return `count` scenes uint8 [N, 3, H, W], each by day in channel 0 and by night in channel 1,
    and the masks bool [N, H, W] of what only one of the two shows.

    A scene has discs on uneven ground, and a defect is one more disc, in either light. No light by
    itself tells it from the others. Channel 2 is empty.
    """
    rng = np.random.default_rng([seed, size, defects])
    pairs = [_scene(rng, size, defects) for _ in range(count)]
    pictures, masks = zip(*pairs, strict=True)
    return np.stack(pictures), np.stack(masks)


def _scene(rng: np.random.Generator, size: int, defect: bool) -> tuple[Images, Bools]:
    """Return one scene uint8 [3, H, W] and the mask [H, W] of its defect."""
    reflectance = 0.5 + 0.05 * _smooth(rng, size, size / 6)
    for _ in range(rng.integers(4, 8)):
        reflectance = _with(reflectance, _disc(rng, size), rng.uniform(0.2, 0.9))

    by_day = by_night = reflectance
    mask = np.zeros((size, size), bool)
    if defect:
        mask = _disc(rng, size)
        here = reflectance[mask].mean()
        value = rng.uniform(0.2, 0.9)
        while abs(value - here) < 0.2:
            value = rng.uniform(0.2, 0.9)
        if rng.random() < 0.5:
            by_day = _with(reflectance, mask, value)
        else:
            by_night = _with(reflectance, mask, value)

    # The sun stands at the left, the lamp at the top, and the lamp's light is weaker.
    rise, run = np.gradient(_smooth(rng, size, size / 10) * size / 10)
    day = by_day * (1 + 0.08 * run)
    night = 0.05 + 0.7 * by_night**1.5 * (1 + 0.08 * rise)
    lights = np.stack([day, night, np.zeros_like(day)])
    lights[:2] += 0.01 * rng.normal(size=(2, size, size))
    return np.clip(255 * lights, 0, 255).astype(np.uint8), mask


def _smooth(rng: np.random.Generator, size: int, width: float) -> NDArray[np.float64]:
    """Return a random field [H, W] with deviation 1 that changes over `width` pixels."""
    field = ndimage.gaussian_filter(rng.normal(size=(size, size)), width, mode="wrap")
    return np.asarray(field / field.std())


def _disc(rng: np.random.Generator, size: int) -> Bools:
    """Return a disc [H, W] with a radius of 5 to 13 % of the side."""
    rows, columns = np.mgrid[:size, :size] / size
    y, x = rng.uniform(0.1, 0.9, 2)
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 < rng.uniform(0.05, 0.13) ** 2)


def _with(reflectance: NDArray[np.float64], disc: Bools, value: float) -> NDArray[np.float64]:
    """Return a reflectance [H, W] that is `value` on a disc with soft edges."""
    edge = ndimage.gaussian_filter(disc.astype(float), 0.7)
    return np.asarray(reflectance * (1 - edge) + value * edge)


def _save(path: Path, array: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
