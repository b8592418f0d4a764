"""Heatmaps as files: float32 TIFF in the image's own grid, and an 8-bit overlay PNG on the model's fixed scale."""

import io
from pathlib import Path

import numpy as np
import tifffile
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from anodetect.files import write_atomic
from anodetect.types import Floats

FORMATS = ("tiff", "png")
COLOURS = "inferno"
Picture = NDArray[np.uint8]


def write_heatmap(stem: Path, kind: str, heatmap: Floats, image: Floats, scale: tuple[float, float]) -> Path:
    """Write one heatmap [H, W] beside the name `stem`; `image` [C, H, W] lies under the overlay."""
    path = stem.with_name(f"{stem.name}_heatmap.{kind}")
    buffer = io.BytesIO()
    if kind == "tiff":
        tifffile.imwrite(buffer, heatmap, compression="zlib", metadata=None)
    else:
        Image.fromarray(overlay(image, heatmap, scale)).save(buffer, "png")
    write_atomic(path, buffer.getvalue())
    return path


def grey(image: Floats, span: tuple[float, float] | None = None) -> Picture:
    """[C, H, W] → RGB bytes [H, W, 3]; `span`: the values shown black and white, else percentiles."""
    low, high = span or tuple(np.percentile(image, (1, 99.5)))
    shown = np.clip((image - low) / max(high - low, 1e-9), 0, 1)
    return np.moveaxis((np.broadcast_to(shown, (3, *image.shape[1:])) * 255).astype(np.uint8), 0, -1)


def colour(heatmap: Floats, scale: tuple[float, float]) -> Picture:
    """A heatmap [H, W] on the model's fixed scale → RGB bytes [H, W, 3]."""
    low, high = scale
    position = np.clip((np.nan_to_num(heatmap, nan=low) - low) / max(high - low, 1e-9), 0, 1)
    return np.asarray(colormaps[COLOURS](position, bytes=True)[..., :3])


def overlay(image: Floats, heatmap: Floats, scale: tuple[float, float]) -> Picture:
    """The image with the heatmap over it, the more opaque the higher the value."""
    low, high = scale
    strength = np.clip((np.nan_to_num(heatmap, nan=low) - low) / max(high - low, 1e-9), 0, 1)
    alpha = (0.85 * strength)[..., None]
    return np.asarray(grey(image) * (1 - alpha) + colour(heatmap, scale) * alpha, np.uint8)


def case_strip(
    image: Floats, heatmap: Floats, reconstruction: Floats | None, scale: tuple[float, float], side: int = 240
) -> bytes:
    """image | overlay | reconstruction as one PNG, `side` pixels each; without a reconstruction two panels."""
    span = tuple(np.percentile(image, (1, 99.5)))
    panels = [grey(image, span), overlay(image, heatmap, scale)]
    if reconstruction is not None:
        panels.append(grey(reconstruction, span))
    resized = [np.asarray(Image.fromarray(panel).resize((side, side), Image.Resampling.BILINEAR)) for panel in panels]
    gap = np.full((side, 6, 3), 255, np.uint8)
    row = [resized[0]] + [part for panel in resized[1:] for part in (gap, panel)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(row, axis=1)).save(buffer, "png")
    return buffer.getvalue()
