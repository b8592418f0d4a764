"""Which share of real anomalies among normals stands in the first tenth of the list of odd normals.

    python -m benchmarks.odd [--seeds 10] [--tiles ../shared/data/magnetic_tile]

Of each data set 70 % of the normals to train on are drawn, as many as are fitted on, and anomalies
are mixed in as 5 % of them. Images are given as EfficientNet-Lite0 features. What the method does
was chosen on monocrystalline and polycrystalline cells of ELPV with a defect probability of 1/3 and
2/3 (`elpv mono, doubtful`); the other rows were only measured.
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anodetect.imaging.features import Features, FeaturesConfig
from anodetect.imaging.odd import odd_scores, places_of_features
from anodetect.imaging.representations import encode_each
from anodetect.stats.metrics import auroc
from anodetect.types import Batch, Floats
from benchmarks import common

NORMALS, ANOMALIES, FIRST = 0.7, 0.05, 0.1  # shares


@dataclass(frozen=True)
class Pool:
    """Images that can be mixed: places [N, C, h, w], label [N] (0 normal, 1 anomalous) and
    group [N]."""

    places: Floats
    labels: NDArray[np.int64]
    groups: NDArray[np.str_]


@dataclass(frozen=True)
class Found:
    """The share of anomalies in the first tenth of the list over seeds, and the mean AUROC."""

    data: str
    images: int
    anomalies: int
    mean: float
    low: float
    high: float
    auroc: float


def places(images: Iterable[NDArray[np.uint8]]) -> Floats:
    """Return the features of 8-bit grey images on the grid of places."""
    features = Features(FeaturesConfig(scaled=False))
    features.learn([])
    found = []
    scaled = ((image.astype(np.float32)[None] / 127.5 - 1) for image in images)
    pairs = ((image, np.ones(image.shape[1:], bool)) for image in scaled)
    for encoded, inside in encode_each(features, pairs):
        found.append(places_of_features(Batch(encoded[None], inside[None]))[0][0])
    return np.stack(found)


def cells() -> dict[str, Pool]:
    """Return normal cells of both kinds, with the defective and with the doubtful ones."""
    from elpv_dataset.utils import load_dataset

    images, probability, kinds = load_dataset()
    doubtful = (probability > 0) & (probability < 1)
    pools = {}
    for kind in ("mono", "poly"):
        of_kind = np.flatnonzero(kinds == kind)
        every = places(images[of_kind])
        for name, anomalous in (("doubtful", doubtful), ("defective", probability == 1)):
            keep = ((probability == 0) | anomalous)[of_kind]
            rows = of_kind[keep]
            labels = anomalous[rows].astype(np.int64)
            pools[f"elpv {kind}, {name}"] = Pool(every[keep], labels, rows.astype(str))
    return pools


def tiles(folder: Path) -> Pool:
    """Return the normal tiles to train on and the defective ones."""
    from PIL import Image

    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row["split"] == "train" or row["label"] == "1"]
    images = (np.asarray(Image.open(folder / row["path"]).convert("L")) for row in rows)
    labels = np.array([int(row["label"]) for row in rows])
    return Pool(places(images), labels, np.array([row["group"] for row in rows]))


def measure(name: str, pool: Pool, seeds: int) -> Found:
    """Return what is found of anomalies that are mixed in anew with each seed."""
    shares, areas = [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        normal = rng.permutation(np.flatnonzero(pool.labels == 0))
        normal = normal[: int(NORMALS * len(normal))]
        anomalous = rng.permutation(np.flatnonzero(pool.labels == 1))
        anomalous = anomalous[: round(ANOMALIES * len(normal))]

        rows = rng.permutation(np.concatenate([normal, anomalous]))
        labels, chosen = pool.labels[rows], pool.places[rows]
        share = np.ones((len(rows), *chosen.shape[2:]), np.float32)
        scores = odd_scores(chosen, share, pool.groups[rows], seed)
        first = np.argsort(-scores, kind="stable")[: round(FIRST * len(rows))]
        shares.append(labels[first].sum() / labels.sum())
        areas.append(auroc(labels, scores.astype(np.float64)))

    mean, low, high = np.mean(shares), np.min(shares), np.max(shares)
    area = float(np.mean(areas))
    return Found(name, len(rows), len(anomalous), float(mean), float(low), float(high), area)


def main() -> None:
    """Measure and print a line for each data set."""
    parser = common.parser(__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tiles", type=Path, default=Path("../shared/data/magnetic_tile"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    pools = cells() | {"magnetic tile": tiles(arguments.tiles)}
    found = [measure(name, pool, arguments.seeds) for name, pool in pools.items()]
    if arguments.json:
        print(json.dumps([asdict(each) for each in found]))
        return
    for each in found:
        print(
            f"{each.data:<22}{each.anomalies} of {each.images}: {each.mean:.2f} "
            f"({each.low:.2f}–{each.high:.2f}) in the first tenth; AUROC {each.auroc:.3f}"
        )


if __name__ == "__main__":
    main()
