"""How well planted defects rank detectors as real ones do: rank correlation over 15 configurations.

    python -m benchmarks.planted elpv:mono elpv:poly DATA... [--out FILE.json]

No configuration needs training. Planted AUROC is that of tune normals with planted defects against
the same normals without; real AUROC that of labelled test images. Spearman's correlation of the two
has a 95 % interval over resampled images. `elpv:mono` and `elpv:poly` stand for cells with a defect
probability of 1/3 and 2/3 against held-out ones of 0: kinds of defects may be chosen on these. On
all other data nothing is chosen.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import spearmanr

from anodetect.config import build
from anodetect.data import cards
from anodetect.detectors import detector_class
from anodetect.imaging.features import Features, FeaturesConfig
from anodetect.imaging.intensities import sample_of
from anodetect.imaging.pixels import Pixels, PixelsConfig
from anodetect.imaging.planted import CONTRASTS, KINDS, SIZES, Defect, limits_of, plant
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.imaging.representations import Representation, encode_each
from anodetect.model.loading import LoadedImage, load
from anodetect.types import Batch, Bools, Detector, Encoded, Floats, TrainContext
from benchmarks import common

COUNTS = FIT, TUNE, NORMAL, ANOMALOUS = 80, 40, 60, 80  # images, at most
SIDE, PIXELS = 160, 64  # of images as the network and as detectors of pixels see them
RESAMPLES = 300
DOUBTFUL = (1 / 3, 2 / 3)


@dataclass(frozen=True)
class Images:
    """8-bit images [C, H, W]: normal ones to fit, to plant in and to test with, and anomalies."""

    fit: list[Floats]
    tune: list[Floats]
    normal: list[Floats]
    anomalous: list[Floats]


@dataclass(frozen=True)
class Configuration:
    """A detector with settings, and what it sees: pixels, features, or features that are averaged
    over 3 × 3 places or scaled to deviation 1."""

    name: str
    sees: str
    detector: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation of planted and real AUROC over configurations, for one kind of planted
    defect, all kinds, or all but one."""

    data: str
    planted: str
    value: float
    low: float
    high: float


def configurations() -> list[Configuration]:
    """Return what is compared."""
    found = []
    for sees in ("features", "averaged"):
        for memory in (200, 1000):
            for reweight in (0, 9):
                name = f"patchcore {sees} {memory} reweight {reweight}"
                settings = {"memory": memory, "candidates": 4000, "reweight": reweight}
                found.append(Configuration(name, sees, "patchcore", settings))
    settings = {"memory": 1000, "candidates": 4000, "reweight": 0}
    found.append(Configuration("patchcore scaled 1000", "scaled", "patchcore", settings))

    for explained in (0.9, 0.99):
        places: dict[str, Any] = {"subspace": "places", "explained": explained}
        found.append(Configuration(f"pca features {explained}", "features", "pca", places))
    for components in (5, 20, 60):
        images = {"components": components}
        found.append(Configuration(f"pca pixels {components}", "pixels", "pca", images))
    found.append(Configuration("intensity", "pixels", "intensity", {}))
    return found


# -- Images ----------------------------------------------------------------------------------------


def images_of(data: str) -> Images:
    """Return the images of a data set, drawn with a fixed seed."""
    rng = np.random.default_rng(0)
    if data.startswith("elpv:"):
        return doubtful_cells(data.removeprefix("elpv:"), rng, COUNTS)

    dataset = cards.open_data(data)
    training, labelled = dataset.training(), dataset.labelled()
    fit = some(training, FIT + TUNE, rng)
    normal = some([each for each in labelled if each.label == 0], NORMAL, rng)
    anomalous = some([each for each in labelled if each.label == 1], ANOMALOUS, rng)
    read = []
    for records in (fit, normal, anomalous):
        pixels = []
        for record in records:
            loaded = load(record)
            assert isinstance(loaded, LoadedImage)
            pixels.append(loaded.image)
        read.append(pixels)
    return Images(read[0][:-TUNE], read[0][-TUNE:], read[1], read[2])


def doubtful_cells(
    kind: str, rng: np.random.Generator, counts: tuple[int, int, int, int]
) -> Images:
    """Return up to so many cells that are normal, to fit, tune and test with, and so many with a
    defect probability of 1/3 or 2/3, drawn at random."""
    from elpv_dataset.utils import load_dataset

    fit, tune, normal, anomalous = counts
    pixels, probability, kinds = load_dataset()
    own = kinds == kind
    drawn = some(np.flatnonzero(own & (probability == 0)).tolist(), fit + tune + normal, rng)
    doubtful = own & np.isclose(probability[:, None], DOUBTFUL).any(1)
    odd = some(np.flatnonzero(doubtful).tolist(), anomalous, rng)
    parts = drawn[:fit], drawn[fit : fit + tune], drawn[fit + tune :], odd
    return Images(*([pixels[n][None].astype(np.float32) for n in part] for part in parts))


def some(of: Sequence[Any], most: int, rng: np.random.Generator) -> list[Any]:
    """Return up to so many of a sequence, at random."""
    return [of[n] for n in rng.permutation(len(of))[:most]]


# -- Scores ----------------------------------------------------------------------------------------


def with_defects(
    images: list[Floats], scaled: list[Encoded], kind: str, preprocess: Preprocess
) -> list[Encoded]:
    """Return scaled images with a defect of one kind in each, of any size and contrast."""
    made = []
    for number, (image, (_, inside)) in enumerate(zip(images, scaled, strict=True)):
        rng = np.random.default_rng([KINDS.index(kind), number])
        size, contrast = (np.exp(rng.uniform(*np.log(limits))) for limits in (SIZES, CONTRASTS))
        before = images[number - 1], scaled[number - 1][1]
        defect, limits = Defect(kind, float(size), float(contrast)), limits_of("uint8")
        planted = plant(image, inside, defect, seed=number, other=before, limits=limits)
        made.append((preprocess.apply(planted.image)[0], inside))
    return made


def views(images: Images) -> dict[str, list[Batch]]:
    """Return fit, clean and planted tune images (one batch for each kind), normal and anomalous
    ones, for each way to see them."""
    preprocess = Preprocess(PreprocessConfig())
    preprocess.learn(map(sample_of, images.fit))
    parts = []
    for part in (images.fit, images.tune, images.normal, images.anomalous):
        parts.append([preprocess.apply(image) for image in part])
    planted = [with_defects(images.tune, parts[1], kind, preprocess) for kind in KINDS]
    parts = [*parts[:2], *planted, *parts[2:]]

    features = Features(FeaturesConfig(size=SIDE, scaled=False))
    features.without_cache()
    seen = {
        "features": [batch_of(features, part) for part in parts],
        "pixels": [batch_of(Pixels(PixelsConfig(size=PIXELS)), part) for part in parts],
    }
    raw = seen["features"]
    mean = raw[0].images.mean((0, 2, 3), keepdims=True)
    deviation = raw[0].images.std((0, 2, 3), keepdims=True) + 1e-6
    seen["scaled"], seen["averaged"] = [], []
    for batch in raw:
        seen["scaled"].append(Batch((batch.images - mean) / deviation, batch.foreground))
        averaged = ndimage.uniform_filter(batch.images, (0, 0, 3, 3), mode="constant")
        seen["averaged"].append(Batch(averaged, batch.foreground))
    return seen


def batch_of(representation: Representation, scaled: list[Encoded]) -> Batch:
    """Return images as a detector sees them."""
    seen: list[Floats] = []
    foregrounds: list[Bools] = []
    for image, inside in encode_each(representation, scaled):
        seen.append(image)
        foregrounds.append(inside)
    return Batch(np.stack(seen), np.stack(foregrounds))


def wins(seen: list[Batch], detector: Detector) -> list[NDArray[np.float64]]:
    """Return, for each kind of planted defect and at last for real ones, whether each anomalous
    image scores above each normal one [normal, anomalous], with 1/2 for equal scores."""
    with tempfile.TemporaryDirectory() as folder:
        context = TrainContext(0, "cpu", Path(folder))
        detector.fit(seen[0], seen[1], context=context)
    scores = []
    for batch in seen[1:]:
        scores.append(detector.score(batch, seeds=np.zeros(len(batch), np.uint64)).image)
    clean, *planted, normal, anomalous = scores
    pairs = [(clean, each) for each in planted] + [(normal, anomalous)]
    return [(b > a[:, None]) + 0.5 * (b == a[:, None]) for a, b in pairs]


# -- Correlations ----------------------------------------------------------------------------------


def correlations(data: str, found: list[list[NDArray[np.float64]]]) -> list[Correlation]:
    """Return the correlations over configurations, given the `wins` of each."""
    rng = np.random.default_rng(0)
    tune, (normal, anomalous) = len(found[0][0]), found[0][-1].shape
    aurocs = [np.array([[each.mean() for each in own] for own in found])]
    for _ in range(RESAMPLES):
        same, rows = rng.integers(tune, size=tune), rng.integers(normal, size=normal)
        columns = rng.integers(anomalous, size=anomalous)
        again = []
        for own in found:
            planted = [each[np.ix_(same, same)].mean() for each in own[:-1]]
            again.append([*planted, own[-1][np.ix_(rows, columns)].mean()])
        aurocs.append(np.array(again))

    kinds = {kind: [number] for number, kind in enumerate(KINDS)}
    everything = list(range(len(KINDS)))
    sets = kinds | {"all": everything}
    for number, kind in enumerate(KINDS):
        sets[f"all but {kind}"] = [n for n in everything if n != number]

    rows_found = []
    for name, chosen in sets.items():
        values = [spearmanr(each[:, chosen].mean(1), each[:, -1]).statistic for each in aurocs]
        low, high = np.nanpercentile(values[1:], (2.5, 97.5))
        rows_found.append(Correlation(data, name, float(values[0]), float(low), float(high)))
    return rows_found


def main() -> None:
    """Print the correlations of each data set."""
    parser = common.parser(__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results = []
    for data in arguments.data:
        seen = views(images_of(data))
        found = []
        for each in configurations():
            cls = detector_class(each.detector)
            detector = cls(build(cls.Config, each.settings, each.name))
            found.append(wins(seen[each.sees], detector))
            values = " ".join(f"{own.mean():.2f}" for own in found[-1])
            print(f"{Path(data).name:<16}{each.name:<36}{values}", flush=True)
        rows = correlations(Path(data).name, found)
        for row in rows:
            print(
                f"{row.data:<16}{row.planted:<20}{row.value:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
            )
        results += [asdict(row) for row in rows]
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
