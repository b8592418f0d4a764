"""Score directories made by hand, without a model: images and maps whose values are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from anodetect.files import sha256_of
from anodetect.record import directories
from anodetect.record.rows import OutputRow, ScoreRow, to_table

OLD = Path(__file__).with_name("data") / "scores-format-2"
SCALE = (0.0, 1.0)


def image_of(number, height=64, width=64):
    """A ramp from left to right with a bright square, in another place on each image."""
    pixels = np.broadcast_to(np.linspace(0, 120, width).astype(np.uint8), (height, width)).copy()
    pixels[10 : 20 + number % 8, 20 + 2 * number % 30 : 40] = 200
    return pixels


def heatmap_of(number, height=64, width=64):
    """A map that rises from left to right, and counts most in the square."""
    values = np.linspace(0, 0.2, width, dtype=np.float32) * np.ones((height, 1), np.float32)
    values[10 : 20 + number % 8, 20 + 2 * number % 30 : 40] = 0.8 + number / 1000
    return values


def write(folder, count, height=64, width=64):
    """Write `count` images below `folder`/images and their score directory, in the order of the
    worklist; return its path."""
    audit = directories.read(OLD).audit
    images, out = folder / "images", folder / "scores"
    images.mkdir(parents=True)
    (out / "heatmaps").mkdir(parents=True)

    rows, outputs = [], []
    for number in range(count):
        name = f"part-{number:03}.png"
        Image.fromarray(image_of(number, height, width)).save(images / name)
        heatmap = f"heatmaps/{name}_heatmap.tiff"
        tifffile.imwrite(out / heatmap, heatmap_of(number, height, width))
        rows.append(
            ScoreRow(
                path=name,
                sha256=sha256_of(images / name),
                group=name,
                score=float(count - number),
                p_value=(number + 1) / (count + 1),
                q_value=1.0,
                flagged=number < 2,
                threshold=count - 1.5,
                heatmap=heatmap,
                width=width,
                height=height,
                model_sha256=audit.model_sha256,
                status="ok",
            )
        )
        digest = sha256_of(out / heatmap)
        outputs.append(OutputRow(name=heatmap, path=name, kind="tiff", sha256=digest))

    tables = directories.Tables(to_table(rows, ScoreRow), outputs=to_table(outputs, OutputRow))
    audit = replace(audit, root=str(images), scale=SCALE, heatmaps=["tiff"])
    directories.write(out, audit, tables)
    return out
