"""What likelihoods are known to get wrong: are degraded images, images of another kind and mixtures
anomalous?

    python -m benchmarks.sanity BENCH

BENCH is the directory of an `anodetect benchmark` of data cards; its runs of seed 0 are looked at.
The first four columns are the share of test normals that, made constant, blurred, inverted or
replaced by noise, score above the 95th percentile of the run's tune normals. The last two are
AUROCs of test normals against those of the other data sets, the mean of one AUROC each, and against
the means of two test normals each.
"""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from anodetect.data import cards
from anodetect.data.scan import Record
from anodetect.errors import ImageError
from anodetect.model.loading import load
from anodetect.model.model import Model
from anodetect.record import runs
from anodetect.types import Floats

IMAGES = 60
ODD = ("constant", "blurred", "inverted", "noise")
PERCENTILE = 95


def some(records: Sequence[Record]) -> list[Floats]:
    """Images, evenly spread over the records."""
    rows = np.unique(np.linspace(0, len(records) - 1, IMAGES).astype(int))
    return [
        loaded.image
        for loaded in map(load, (records[row] for row in rows))
        if loaded.image is not None
    ]


def degraded(image: Floats, kind: str, rng: np.random.Generator) -> Floats:
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
    """Image scores; an image that is refused as no image of this kind at all scores highest."""
    values = np.full(len(images), np.inf)
    encoded = {}
    for row, image in enumerate(images):
        with suppress(ImageError):
            encoded[row] = model.encode(image)
    rows = iter(encoded)
    while some_rows := list(islice(rows, model.batch)):
        scored = model.score(
            [images[row] for row in some_rows], [encoded[row] for row in some_rows]
        )
        values[some_rows] = scored.image
    return values.tolist()


def auroc(plain: Sequence[float], odd: Sequence[float]) -> float:
    values = np.minimum([*plain, *odd], np.finfo(np.float32).max)
    return float(roc_auc_score([0] * len(plain) + [1] * len(odd), values))


def matched(image: Floats, channels: int) -> Floats:
    """An image of another set with as many channels as this one's."""
    return (
        np.repeat(image.mean(0, keepdims=True), channels, axis=0)
        if len(image) != channels
        else image
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", type=Path)
    bench = parser.parse_args().bench
    found = [
        path
        for path in sorted((bench / "runs").iterdir())
        if path.is_dir() and path.name.endswith("-0")
    ]
    data = {path: runs.facts(path)["data"] for path in found}
    normals = {
        name: some([record for record in cards.open_data(name).labelled() if record.label == 0])
        for name in sorted(set(data.values()))
    }
    print(f"| data set | detector | {' | '.join(ODD)} | other sets | mixtures |")
    print("|---|---|" + "---|" * (len(ODD) + 2))
    for path in found:
        facts, rng = runs.facts(path), np.random.default_rng(0)
        model, own = Model.load(runs.read(path), "auto"), normals[data[path]]
        by_id = {record.id: record for record in cards.open_data(data[path]).training()}
        tune = some(
            [by_id[row["path"]] for row in runs.read_manifest(path) if row["role"] == "tune"]
        )
        limit = np.percentile(scores(model, tune), PERCENTILE)
        shares = [
            np.mean(np.array(scores(model, [degraded(i, kind, rng) for i in own])) > limit)
            for kind in ODD
        ]
        plain, channels = scores(model, own), model.preprocess.channels
        others = [
            auroc(plain, scores(model, [matched(image, channels) for image in normals[name]]))
            for name in normals
            if name != data[path]
        ]
        mixtures = [(one + two) / 2 for one, two in pairwise(own) if one.shape == two.shape]
        cells = [f"{share:.2f}" for share in shares]
        cells += [f"{np.mean(others):.3f}" if others else "–"]
        cells += [f"{auroc(plain, scores(model, mixtures)):.3f}" if mixtures else "–"]
        print(f"| {data[path]} | `{facts['detector']}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
