"""Sample: images that a model makes itself, to see what it takes for normal."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anodetect.data.records import Record
from anodetect.errors import AnodetectError, ConfigError, ImageError
from anodetect.files import refuse_unwritable, write_atomic
from anodetect.imaging.planes import split
from anodetect.model.loading import LoadedImage, load
from anodetect.model.model import Model
from anodetect.model.sampling import make_images
from anodetect.output.pictures import Picture, grey, png
from anodetect.output.run_report import MadeImages
from anodetect.record import runs
from anodetect.types import Floats, Samples

SIDE = 128  # of an image in a film strip, in pixels
STATES = 8  # of a chain that are shown
GAP = 4  # pixels
SHOWN = -1.0, 1.0  # what is black and white: scaled images are about there
IN_REPORT = 6  # images


@dataclass(frozen=True)
class SampleResult:
    """The images that were made, `images` of them, in the files of `out`."""

    images: int
    out: Path
    files: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `sample --json` prints."""
        return asdict(self) | {"out": str(self.out), "files": list(self.files)}


def sample(
    run: Path,
    out: Path,
    *,
    count: int = 8,
    start: Path | None = None,
    seed: int = 0,
    device: str = "auto",
) -> SampleResult:
    """Write `count` images that the model of a run makes into the new directory `out`, and
    chains.png, which shows how each came about.

    With `start` chains begin at the image in that file. ConfigError if the model makes no images,
    ImageError if the file holds none.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; choose another --out")
    refuse_unwritable(out)
    model = Model.load(runs.read(run), device)
    made = make_images(model, count, seed=seed, start=None if start is None else _image(start))

    out.mkdir(parents=True)
    files = []
    for number, image in enumerate(made.images, 1):
        files.append(f"sample{number:03d}.png")
        write_atomic(out / files[-1], png(_picture(image, model.preprocess.planes)))
    files.append("chains.png")
    write_atomic(out / files[-1], png(film(made, model.preprocess.planes)))
    return SampleResult(count, out, tuple(files))


def _image(path: Path) -> LoadedImage:
    """Return the image in a file; ImageError if it holds none."""
    loaded = load(Record(path.name, path))
    if isinstance(loaded, LoadedImage):
        return loaded
    raise ImageError(f"{path}: {getattr(loaded, 'error', 'a volume, where an image is expected')}")


def made_by(run: runs.Run) -> MadeImages:
    """Return images that the model of a run makes for its report, or why there are none."""
    try:
        model = Model.load(run, "cpu")
        made = make_images(model, IN_REPORT, seed=0)
    except AnodetectError as error:
        return MadeImages("", str(error))
    picture = film(made, model.preprocess.planes)
    return MadeImages(b64encode(png(picture)).decode(), "", made.between is not None)


def film(made: Samples, planes: Sequence[int] = ()) -> Picture:
    """Return a picture with a row for each chain: its states from left to right, at most STATES of
    them, the last one at the right. Images between two starts are a row of their own, the last.

    Channels with so many `planes` each are beside each other.
    """
    shown = min(STATES, len(made.chain))
    rows = [_row(chain, shown, planes) for chain in made.chain.swapaxes(0, 1)]
    if made.between is not None:
        rows.append(_row(made.between, shown, planes))
    return np.concatenate(rows)[:-GAP, :-GAP]


def _row(images: Floats, shown: int, planes: Sequence[int]) -> Picture:
    """Return so many of the images [T, C, H, W], evenly spread, beside each other."""
    chosen = np.linspace(0, len(images) - 1, shown).round().astype(np.int64)
    return np.concatenate([_panel(image, planes) for image in images[chosen]], 1)


def _panel(image: Floats, planes: Sequence[int]) -> Picture:
    """Return an image [C, H, W] with a white gap to its right and below."""
    size = (SIDE * max(1, len(planes)), SIDE)
    small = Image.fromarray(_picture(image, planes)).resize(size, Image.Resampling.BILINEAR)
    return np.pad(np.asarray(small), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def _picture(image: Floats, planes: Sequence[int]) -> Picture:
    """Return an image [C, H, W] in grey or in its colours, several channels beside each other."""
    return np.concatenate([grey(channel, SHOWN) for channel in split(image, planes)], 1)
