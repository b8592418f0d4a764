"""Known failures of likelihoods: are degraded images, images of another kind and mixtures
anomalous?

    python -m benchmarks.sanity BENCH

BENCH is the directory of an `anodetect benchmark` of data cards; its runs of seed 0 are looked at.
The first four columns are the share of test normals that, made constant, blurred, inverted or
replaced by noise, score above the 95th percentile of the run's tune normals. The last two are
AUROCs of test normals against those of the other data sets, the mean of one AUROC each, and against
the means of two test normals each.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from anodetect.data import cards
from anodetect.data.records import Record
from anodetect.errors import ImageError
from anodetect.model.loading import LoadedImage, load
from anodetect.model.model import Model
from anodetect.record import runs
from anodetect.types import Floats
from benchmarks import common

IMAGES = 60
ODD = ("constant", "blurred", "inverted", "noise")
PERCENTILE = 95


def some(records: Sequence[Record], most: int = IMAGES) -> list[Floats]:
    """Return so many images at most, evenly spread over the records."""
    rows = np.unique(np.linspace(0, len(records) - 1, most).astype(int))
    return images_of([records[row] for row in rows])


def images_of(records: Iterable[Record]) -> list[Floats]:
    """Return the images of records that can be read."""
    images = []
    for record in records:
        loaded = load(record)
        if isinstance(loaded, LoadedImage):
            images.append(loaded.image)
    return images


def degraded(image: Floats, kind: str, rng: np.random.Generator) -> Floats:
    """Return an image made constant, blurred, inverted or replaced by noise."""
    low, high = image.min(), image.max()
    if kind == "constant":
        return np.full_like(image, image.mean())
    if kind == "blurred":
        sigma = max(image.shape[1:]) / 32
        return ndimage.gaussian_filter(image, (0, sigma, sigma))
    if kind == "inverted":
        return low + high - image
    return rng.uniform(low, high, image.shape).astype(np.float32)


def scores(model: Model, images: Sequence[Floats]) -> list[float]:
    """Return image scores; infinity for an image that is refused as no image of this kind."""
    values = np.full(len(images), np.inf)
    prepared = {}
    for row, image in enumerate(images):
        with suppress(ImageError):
            prepared[row] = model.prepare(image)

    rows = list(prepared)
    for start in range(0, len(rows), model.batch_size):
        chunk = rows[start : start + model.batch_size]
        scored = model.score([images[row] for row in chunk], [prepared[row] for row in chunk])
        values[chunk] = scored.image
    return values.tolist()


def auroc(normal: Sequence[float], odd: Sequence[float]) -> float:
    values = np.minimum([*normal, *odd], np.finfo(np.float32).max)
    return float(roc_auc_score([0] * len(normal) + [1] * len(odd), values))


def matched(image: Floats, channels: int) -> Floats:
    """Return an image of another set with as many channels as this one's."""
    if len(image) == channels:
        return image
    return np.repeat(image.mean(0, keepdims=True), channels, axis=0)


def tune_images(path: Path, data: str) -> list[Floats]:
    """Return some of the images a run was tuned on."""
    by_id = {record.id: record for record in cards.open_data(data).training()}
    manifest = runs.read_manifest(path)
    return some([by_id[row.path] for row in manifest if row.role == "tune"])


def row(path: Path, data: str, normals: Mapping[str, list[Floats]]) -> str:
    """Return the row of a run; `normals` are test normals of every data set."""
    rng = np.random.default_rng(0)
    model, own = Model.load(runs.read(path), "auto"), normals[data]
    cells = [data, f"`{runs.facts(path).detector}`"]

    limit = np.percentile(scores(model, tune_images(path, data)), PERCENTILE)
    for kind in ODD:
        values = np.array(scores(model, [degraded(image, kind, rng) for image in own]))
        cells.append(f"{np.mean(values > limit):.2f}")

    own_scores, channels = scores(model, own), model.preprocess.channels
    others = []
    for name, images in normals.items():
        if name != data:
            odd = scores(model, [matched(image, channels) for image in images])
            others.append(auroc(own_scores, odd))
    cells.append(f"{np.mean(others):.3f}" if others else "–")

    mixtures = [(one + two) / np.float32(2) for one, two in pairwise(own) if one.shape == two.shape]
    cells.append(f"{auroc(own_scores, scores(model, mixtures)):.3f}" if mixtures else "–")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("bench", type=Path)
    bench = parser.parse_args().bench

    data = {}
    for path in sorted((bench / "runs").iterdir()):
        if path.is_dir() and path.name.endswith("-0"):
            data[path] = runs.facts(path).data
    normals = {}
    for name in sorted(set(data.values())):
        labelled = cards.open_data(name).labelled()
        normals[name] = some([record for record in labelled if record.label == 0])

    print(f"| data set | detector | {' | '.join(ODD)} | other sets | mixtures |")
    print("|---|---|" + "---|" * (len(ODD) + 2))
    for path, name in data.items():
        print(row(path, name, normals), flush=True)


if __name__ == "__main__":
    main()
