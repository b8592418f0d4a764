"""Every detector on the same made-up images: what it finds, and what it takes for normal.

    python examples/gallery.py [NAME ...] --out DIR [--seed N]

Without a name every detector gets a picture, after seconds of training each and minutes in all. A
picture shows a defect with its truth and a normal image, both with the heatmap on the model's own
colour scale, and the reconstruction where there is one. `classifier` needs a classifier first:
examples/classifier.py makes its picture.
"""

import argparse
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

import anodetect
from anodetect.data import scan, synthetic
from anodetect.data.records import ANOMALOUS, Record
from anodetect.data.truth import read_truth
from anodetect.errors import nearest
from anodetect.model.model import Model
from anodetect.model.scoring import ScoredImage, score_records
from anodetect.output.pictures import COLOURS, Picture, colour, contrast, grey, palette
from anodetect.record import runs, threads
from anodetect.types import Silent

IMAGES, TESTED, SIZE = 150, 8, 64
SIDE, GAP, TITLE = 128, 6, 20  # of a panel, between panels and of the line above them, in pixels
SHOWN = 4  # the number of the defect and of the normal image that are shown

AS_THEY_ARE = {"rotation": 0, "scale": 0, "shift": 0, "flip": 0}
SMALL: dict[str, Any] = {"size": SIZE, "widths": [16, 32], "stem": 8}


@dataclass(frozen=True)
class Recipe:
    """A representation, and settings with which a detector learns something in seconds. With
    `two_lights` the images show a scene in two lights, in the first two of their channels."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    representation: str = "pixels"
    two_lights: bool = False


def steps(count: int) -> dict[str, Any]:
    """Return the settings for so many steps of training on images as they are."""
    rates = {"learning_rate": 2e-3, "warmup": 10, "augment": AS_THEY_ARE}
    return {"training": {"steps": count} | rates}


RECIPES = {
    "anoddpm": Recipe(SMALL | steps(100) | {"components": 40}),
    "ebm": Recipe(SMALL | steps(100) | {"pretraining": 0.9}),
    "ncsn": Recipe(SMALL | steps(100)),
    "nce": Recipe({"size": SIZE, "window": 4, "width": 32, "places": 16} | steps(100)),
    "jem": Recipe({"size": SIZE, "width": 32, "stem": 2, "labels": "position"} | steps(200)),
    "vq": Recipe(SMALL | {"stem": 4, "codes": 32, "code_values": 8, "width": 32} | steps(150)),
    "rbm": Recipe({"size": SIZE, "hidden": 32, "places": 16} | steps(100)),
    "gan": Recipe({"size": SIZE, "width": 32, "blocks": 2} | steps(100)),
    "translate": Recipe({"size": SIZE, "widths": [32], "stem": 4} | steps(80), two_lights=True),
    "ensemble": Recipe({"members": ["pca/pixels", "patchcore/features"]}, "auto"),
    "dae": Recipe(SMALL | steps(100)),
    "pca": Recipe({"size": SIZE}),
    "patchcore": Recipe({"memory": 1000}, "features"),
    "padim": Recipe({"channels": 20}, "features"),
    "intensity": Recipe({"size": SIZE}),
}


# -- Images ----------------------------------------------------------------------------------------


def write_images(folder: Path, seed: int, *, two_lights: bool) -> None:
    """Write normal images to learn from, and normal and defective ones to look at."""
    if not two_lights:
        synthetic.write(folder, train=IMAGES, test=TESTED, size=SIZE, seed=seed)
        return

    parts = {"train/good": IMAGES, "test/good": TESTED, "test/defect": TESTED}
    for number, (part, count) in enumerate(parts.items()):
        defects = part == "test/defect"
        scenes, masks = synthetic.two_lights(
            count, size=SIZE, defects=defects, seed=10 * seed + number
        )
        for index, (scene, mask) in enumerate(zip(scenes, masks, strict=True)):
            _save(folder / part / f"{index:04d}.png", np.moveaxis(scene, 0, -1))
            if defects:
                _save(folder / "ground_truth/defect" / f"{index:04d}_mask.png", mask)


def _save(file: Path, pixels: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


# -- Pictures --------------------------------------------------------------------------------------


def train(name: str, folder: Path, seed: int) -> None:
    """Write images into a new `folder`, and train a detector on the normal ones."""
    recipe = RECIPES[name]
    write_images(folder / "images", seed, two_lights=recipe.two_lights)
    anodetect.train(
        str(folder / "images"),
        name,
        folder / "run",
        values=recipe.settings,
        representation=recipe.representation,
        seed=seed,
    )


def picture(name: str, folder: Path) -> Picture:
    """Return what the detector that was trained in `folder` makes of a defect and a normal
    image."""
    run = runs.read(folder / "run")
    records = scan.scan(folder / "images").testing()
    defects = [record for record in records if record.label == ANOMALOUS]
    normals = [record for record in records if record.label != ANOMALOUS]
    chosen = [defects[SHOWN], normals[SHOWN]]

    panels: list[Picture] = []
    for scored in score_records(Model.load(run, "cpu"), chosen, Silent()):
        if not isinstance(scored, ScoredImage):
            raise RuntimeError(f"{scored.record.id} was not scored")
        panels += _panels(scored, run.header.scale, two_lights=RECIPES[name].two_lights)
    return np.concatenate(panels, 1)[:, :-GAP]


def _panels(scored: ScoredImage, scale: tuple[float, float], *, two_lights: bool) -> list[Picture]:
    """Return the panels of an image, each under its title."""
    seen = scored.panels
    window = contrast(seen.image[:2])
    lights = seen.image[:2, None] if two_lights else [seen.image]
    names = ["by day", "by night"] if two_lights else [_kind(scored.record)]
    panels = [_panel(name, grey(light, window)) for name, light in zip(names, lights, strict=True)]

    mask = read_truth(scored.record, scored.heatmap.shape)
    if mask is not None and mask.any():
        panels.append(_panel("truth", grey(mask[None].astype(np.float32), (0, 1))))
    panels.append(_panel("heatmap", colour(seen.heatmap, scale)))
    if seen.reconstruction is not None:
        restored = seen.reconstruction[1:2] if two_lights else seen.reconstruction
        title = "night, from day" if two_lights else "reconstruction"
        panels.append(_panel(title, grey(restored, window)))
    return panels


def _kind(record: Record) -> str:
    return "defect" if record.label == ANOMALOUS else "normal"


def _panel(title: str, content: Picture) -> Picture:
    """Return a picture under its title, with a white gap at its right."""
    panel = Image.new("RGB", (SIDE + GAP, TITLE + SIDE), "white")
    panel.paste(
        Image.fromarray(content).resize((SIDE, SIDE), Image.Resampling.BILINEAR), (0, TITLE)
    )
    middle = SIDE / 2, TITLE / 2
    ImageDraw.Draw(panel).text(middle, title, "black", anchor="mm", font_size=13)
    return np.asarray(panel)


def png(pixels: Picture) -> bytes:
    """Return a picture as a small PNG, of 128 greys and every second colour of heatmaps."""
    greys = np.linspace(0, 255, 128).astype(np.uint8)[:, None].repeat(3, 1)
    colours = Image.new("P", (1, 1))
    colours.putpalette(np.concatenate([greys, palette(COLOURS)[::2]]).tobytes())

    small = io.BytesIO()
    reduced = Image.fromarray(pixels).quantize(palette=colours, dither=Image.Dither.NONE)
    reduced.save(small, "PNG", optimize=True)
    return small.getvalue()


# -- Command ---------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pictures of the detectors named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    parser.add_argument("--out", type=Path, required=True, help="the folder of the pictures")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in RECIPES:
            parser.error(f"{name!r}: {nearest(name, list(RECIPES))}")

    threads.limit(1)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names or RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            train(name, Path(folder), given.seed)
            content = png(picture(name, Path(folder)))
        (given.out / f"{name}.png").write_bytes(content)
        print(given.out / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
