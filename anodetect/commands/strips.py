"""Pictures that compare detectors: strips of image, truth and the heatmap of each detector."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from anodetect.data import readers
from anodetect.data.records import Dataset, Record
from anodetect.data.split import position
from anodetect.data.truth import read_truth
from anodetect.errors import ImageError
from anodetect.output.pictures import colour, contrast, grey
from anodetect.record import directories

STRIPS = 4  # of a data set
SIDE = 160  # of a panel, in pixels
TITLE_HEIGHT = 24
Pixels = NDArray[np.uint8]  # [H, W, 3]
BLANK: Pixels = np.full((SIDE, SIDE, 3), 235, np.uint8)  # the panel where there is nothing to show


def strips(dataset: Dataset, scored: Sequence[Path]) -> list[Pixels]:
    """Return strips [SIDE, SIDE · panels, 3] of some anomalous test images, chosen by a hash of
    their names, with the heatmaps of the score directories `scored`. Of several channels the first
    is shown.

    An image that cannot be read is left out; its row in the score directories says why.
    """
    anomalous = [record for record in dataset.testing() if record.label == 1]
    with_mask = [record for record in anomalous if record.masks] or anomalous
    with_mask.sort(key=lambda record: position(record.id, "pictures"))

    found = []
    for record in with_mask[:STRIPS]:
        try:
            found.append(_strip(record, scored))
        except ImageError:
            continue
    return found


def _strip(record: Record, scored: Sequence[Path]) -> Pixels:
    image = readers.read_image(record.path)
    panels = [grey(image, contrast(image)), _truth(record, image.shape[1:])]
    panels += [_heatmap(record, path) for path in scored]
    resized = [np.asarray(Image.fromarray(panel).resize((SIDE, SIDE))) for panel in panels]
    return np.concatenate(resized, axis=1)


def _truth(record: Record, shape: tuple[int, ...]) -> Pixels:
    mask = read_truth(record, shape)
    if mask is None:
        return BLANK
    return np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)


def _heatmap(record: Record, path: Path) -> Pixels:
    """Return a record's heatmap in colour, on its model's own fixed scale."""
    scored = directories.read(path)
    row = next((row for row in scored.rows if row.path == record.id), None)
    if not row or not row.heatmap:
        return BLANK
    return colour(tifffile.imread(path / row.heatmap), scored.audit.scale)


def sheet(titles: Sequence[str], rows: Sequence[Pixels]) -> Pixels:
    """Return strips below each other, under the titles of their columns."""
    head = Image.new("RGB", (SIDE * len(titles), TITLE_HEIGHT), "white")
    draw = ImageDraw.Draw(head)
    for column, title in enumerate(titles):
        middle = SIDE * (column + 0.5), TITLE_HEIGHT / 2
        draw.text(middle, title, "black", anchor="mm", font_size=14)
    return np.concatenate([np.asarray(head), *rows])
