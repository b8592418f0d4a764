"""Small pictures of images and slices for the list, as JPEG in data URIs."""

import io

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anodetect.data.geometry import edges
from anodetect.errors import RunError
from anodetect.output import pictures
from anodetect.output.volumes import place_text
from anodetect.record.directories import ScoreDirectory
from anodetect.record.marks import Place
from anodetect.record.rows import OK, ScoreRow
from anodetect.types import Floats

from .display import Picture, data_uri, factor, reduced
from .loading import or_note, read_image, read_volume

SIDE = 64  # pixels of the longer side in the list
LARGEST = 2**22  # pixels of an image that is read while the page is drawn
QUALITY = 85


def thumbnail(directory: ScoreDirectory, row: ScoreRow, side: int = SIDE) -> str:
    """Return a small picture of an image, whose longer side has so many pixels; "" where it is
    missing."""
    if row.is_volume or row.status != OK:
        return ""
    image = or_note([], "image", lambda: read_image(directory, row))
    return "" if image is None else data_uri(_shrunk(image, 1.0, side), "jpeg")


def is_large(row: ScoreRow) -> bool:
    """Return whether a row's image takes long to read."""
    return row.is_volume or (row.width or 0) * (row.height or 0) > LARGEST


def slice_thumbnail(
    directory: ScoreDirectory, row: ScoreRow, plane: str, index: int, side: int = SIDE
) -> str:
    """Return a small picture of a volume's slice; "" where it is missing. `index` is that of the
    slice in the source, from 0, as slices.parquet has it."""
    small = or_note([], "image", lambda: _slice(directory, row, plane, index, side))
    return "" if small is None else data_uri(small, "jpeg")


def jpeg(directory: ScoreDirectory, row: ScoreRow, place: Place, side: int) -> bytes:
    """Return a picture of an image, or of the slice of a volume at a place, as JPEG whose longer
    side has at most `side` pixels; raise RunError where it cannot be read."""
    notes: list[str] = []

    def read() -> Picture:
        if row.is_volume:
            return _slice(directory, row, place.plane, place.number or 0, side)
        return _shrunk(read_image(directory, row), 1.0, side)

    small = or_note(notes, "image", read)
    if small is None:
        raise RunError(notes[0])
    file = io.BytesIO()
    Image.fromarray(small).save(file, "jpeg", quality=QUALITY)
    return file.getvalue()


def _slice(directory: ScoreDirectory, row: ScoreRow, plane: str, index: int, side: int) -> Picture:
    """Return a small picture of a volume's slice, with the patient's direction at its left and the
    place in millimetres at its foot."""
    volume = read_volume(directory, row)
    geometry = volume.geometry(plane)
    number = geometry.sides[0] - 1 - index if geometry.flipped[0] else index
    _, pixel_height, pixel_width = geometry.spacing

    image = geometry.to_slices(volume.voxels)[:, number]
    small = _shrunk(image, pixel_height / pixel_width, side)
    place = place_text(geometry.centre(number), plane)
    return _marked(small, edges(plane)["left"], place)


def _shrunk(image: Floats, aspect: float, side: int) -> Picture:
    """Return an image [C, H, W] as a small picture [h, w, 3] with square pixels; `aspect` is the
    height of the image's pixels over their width."""
    small = reduced(image, factor(image.shape, side), "mean")
    picture = pictures.grey(small, pictures.contrast(small))

    tall, wide = picture.shape[0] * aspect, picture.shape[1]
    shrink = min(1, side / max(tall, wide))
    size = max(round(wide * shrink), 1), max(round(tall * shrink), 1)
    if size == (wide, picture.shape[0]):
        return picture
    return np.asarray(Image.fromarray(picture).resize(size))


def _marked(picture: Picture, left: str, foot: str) -> Picture:
    """Return a picture with a text at its left and one at its foot."""
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(10)
    for place, text, anchor in (
        ((2, image.height / 2), left, "lm"),
        ((image.width / 2, image.height - 1), foot, "mb"),
    ):
        draw.text(place, text, "white", font, anchor, stroke_width=1, stroke_fill="black")
    return np.asarray(image)
