"""A volume's heatmap as files, and a picture of it in three planes.

The formats that lie in the source's grid are written by nifti.py and the package dicom.
"""

import io
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anodetect.data.geometry import FRAMES, OPPOSITE, PLANES, edges
from anodetect.imaging.planes import split
from anodetect.imaging.preprocess import PreparedVolume
from anodetect.output.about import About
from anodetect.output.formats import OutputFiles
from anodetect.output.pictures import Picture, below_each_other, overlay
from anodetect.stats.mask_rule import MaskRule
from anodetect.types import Bools, Floats

PANEL, GAP, LINE = 280, 6, 18  # pixels: a plane's side, between planes, a line of text
SAVED_AS: dict[str, dict[str, int]] = {"jpeg": {"quality": 85}, "png": {}}


@dataclass(frozen=True)
class VolumeMap:
    """All that is written about a volume: its heatmap [D, H, W], NaN where not scored, the volume,
    the ends of the colour scale, and the rule of masks.

    `window` are the values that are black and white in pictures; None for each plane's own
    contrast. `about` is what DICOM files say beside the map. With `exact_grid` a NIfTI map keeps a
    sheared grid, which many readers do not open.
    """

    heatmap: Floats
    volume: PreparedVolume
    scale: tuple[float, float]
    rule: MaskRule
    window: tuple[float, float] | None = None
    about: About = field(default_factory=About)
    exact_grid: bool = False

    @cached_property
    def mask(self) -> Bools:
        """Where the heatmap has regions that count [D, H, W]; never where it is NaN."""
        return self.rule.mask(self.heatmap)


def write_jpeg(shown: VolumeMap, files: OutputFiles) -> None:
    """Write a picture of the volume in three planes as a JPEG."""
    files.write("picture", picture(shown.heatmap, shown.volume, shown.scale, shown.window))


def write_png(shown: VolumeMap, files: OutputFiles) -> None:
    """Write a picture of the volume in three planes as a PNG."""
    content = picture(shown.heatmap, shown.volume, shown.scale, shown.window, "png")
    files.write("picture", content)


# -- Picture ---------------------------------------------------------------------------------------


def picture(
    heatmap: Floats,
    volume: PreparedVolume,
    scale: tuple[float, float],
    window: tuple[float, float] | None = None,
    kind: str = "jpeg",
) -> bytes:
    """Return axial, coronal and sagittal slices through the highest value of a heatmap [D, H, W],
    the heatmap over the image, with the patient's directions at the edges and the slice's place in
    millimetres, as a PNG or JPEG; of pictures only the one with the highest value. All planes have
    the same window, by default each its own. Several channels are below each other."""
    number = int(max(volume.numbers, key=lambda each: np.nanmax(heatmap[each])))
    row, column = divmod(int(np.nanargmax(heatmap[number])), heatmap.shape[2])
    highest = volume.geometry.source_index((number, row, column))

    gap = np.full((PANEL + LINE, GAP, 3), 255, np.uint8)
    rows = []
    for voxels in split(volume.source.voxels, volume.planes):
        panels: list[Picture] = []
        for plane in [FRAMES] if volume.is_pictures else list(PLANES):
            panels += [gap, _panel(plane, voxels, heatmap, volume, scale, window, highest)]
        rows.append(np.concatenate(panels[1:], axis=1))

    buffer = io.BytesIO()
    Image.fromarray(below_each_other(rows)).save(buffer, kind, **SAVED_AS[kind])
    return buffer.getvalue()


def _panel(
    plane: str,
    voxels: Floats,
    heatmap: Floats,
    volume: PreparedVolume,
    scale: tuple[float, float],
    window: tuple[float, float] | None,
    voxel: tuple[float, float, float],
) -> Picture:
    """Return one plane of voxels [c, I, J, K] through one of them (i, j, k) on a black square, a
    line of text below it."""
    geometry = volume.source.geometry(plane)
    number = round(geometry.inside(voxel)[0])
    image = geometry.to_slices(voxels)[:, number]
    values = geometry.to_slices(volume.geometry.to_source(heatmap))[number]
    for axis in (1, 2):
        image, values = geometry.evened(image, axis), geometry.evened(values, axis)

    _, row, column = geometry.even_spacing
    height, width = values.shape[0] * row, values.shape[1] * column
    zoom = PANEL / max(height, width)
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    coloured = Image.fromarray(overlay(image, values, scale, window))
    shown = coloured.resize(size, Image.Resampling.BILINEAR)

    canvas = Image.new("RGB", (PANEL, PANEL + LINE), "black")
    canvas.paste(shown, ((PANEL - size[0]) // 2, (PANEL - size[1]) // 2))
    _write_texts(canvas, plane, place_text(geometry.centre(number), plane))
    return np.asarray(canvas)


def _write_texts(canvas: Image.Image, plane: str, place: str) -> None:
    """Write the letters of the patient's directions at the edges of a plane, and below it what it
    is and where it lies."""
    draw, letters, font = ImageDraw.Draw(canvas), edges(plane), ImageFont.load_default(13)
    anchors = {
        "left": (3.0, PANEL / 2, "lm"),
        "right": (PANEL - 3.0, PANEL / 2, "rm"),
        "top": (PANEL / 2, 2.0, "mt"),
        "bottom": (PANEL / 2, PANEL - 2.0, "mb"),
    }
    for edge, (x, y, anchor) in anchors.items():
        draw.text((x, y), letters[edge], "white", font, anchor, stroke_width=1, stroke_fill="black")

    draw.rectangle((0, PANEL, PANEL, PANEL + LINE), "white")
    text = place if plane == FRAMES else f"{plane}, {place}"
    draw.text((PANEL / 2, PANEL + 2), text, "black", font, "mt")


def place_text(centre: tuple[float, float, float], plane: str) -> str:
    """Return where a slice lies in the patient along its plane's axis, such as "12 mm S"; of
    pictures, which have no place, the number of the frame."""
    if plane == FRAMES:
        return f"frame {round(centre[2]) + 1}"
    letter = PLANES[plane][0]
    value = centre["LPS".index(letter)]
    return f"{abs(value):.0f} mm {letter if value >= 0 else OPPOSITE[letter]}"
