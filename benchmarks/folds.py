"""How all groups can calibrate: ways to score new images after K-fold cross-validation, simulated,
and the one that was taken beside today's split, measured.

    python -m benchmarks.folds simulate [--repetitions 200] [--groups 47] [--folds 5]
    python -m benchmarks.folds check [--repetitions 60] [--groups 47] [--folds 5]
    python -m benchmarks.folds measure DATA ... [--splits 20] [--folds 5] [--detector pca]

Calibration images are scored by the model of a fold that has not seen their group. New images may
then be scored in several ways, which are compared here with today's split into 80 % to learn from
and 20 % to calibrate with:

    together   each calibration image is compared with the score that its own fold's model gives the
               new image (cross-conformal, Vovk 2015; CV+, Barber et al. 2021)
    mean       the mean score of all models is compared with the calibration scores
    least      the lowest score of all models (jackknife-minmax, Barber et al. 2021)
    refitted   the score of one more model, that has learned from all groups

For each the table has the mean rate at which new normal images are flagged at 5 %, its standard
deviation over repetitions, and the share of anomalies found.

`check` asks of the one that was taken how often the rate stays below the bound of the statement,
and how often the statement says that the models of folds differ.

`measure` cuts all normal groups of a data set anew for each of the splits: a quarter of them, drawn
at random, are tested on, the others are learned from and calibrated with, as `train --folds 0` and
`--folds K` do. The detector is `pca` on features of the default backbone at every second place,
whose channels are scaled by the fit images alone, or `patchcore`, whose bank are BANK of those
places, drawn at random. The realised rate is the mean over groups of the
share of their images that are flagged, and of all images. Its spread is that over splits; a part of
it is that of the tested groups, which is the same for both ways. With "the card's" groups the test
part is that of the data set, and only the split of the others changes.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from anodetect.commands.normals import Samples, usable_normals
from anodetect.data import cards, split
from anodetect.data.records import Record
from anodetect.model.forms import form_of
from anodetect.model.loading import LoadedImage, Reader
from anodetect.model.model import Model
from anodetect.stats.calibration import Calibration, joined
from anodetect.types import Silent

Doubles = NDArray[np.float64]
Score = Callable[[Doubles], Doubles]
Fit = Callable[[Doubles, np.random.Generator], Score]

FAR = 0.05
SIZES = (1, 2, 3, 6, 12, 24)  # images in groups, by turns
DIMENSIONS, ALIKE, SHIFT = 20, 0.5, 4.0
NEW = 400  # normal images of new groups, and anomalies


# -- Detectors -------------------------------------------------------------------------------------


def nearest(known: Doubles, rng: np.random.Generator) -> Score:
    """Learn a bank of vectors [n, d]; the score is the distance to the nearest (PatchCore)."""

    def score(images: Doubles) -> Doubles:
        squares = (images**2).sum(1)[:, None] + (known**2).sum(1) - 2 * images @ known.T
        return np.sqrt(np.maximum(squares, 0).min(1))

    return score


def residual(known: Doubles, rng: np.random.Generator) -> Score:
    """Learn 8 principal components; the score is what they leave (PCA)."""
    mean = known.mean(0)
    _, _, axes = np.linalg.svd(known - mean, full_matrices=False)

    def score(images: Doubles) -> Doubles:
        centred = images - mean
        return np.linalg.norm(centred - centred @ axes[:8].T @ axes[:8], axis=1)

    return score


def gaussian(known: Doubles, rng: np.random.Generator) -> Score:
    """Learn mean and covariance; the score is the Mahalanobis distance (PaDiM)."""
    mean, precision = known.mean(0), np.linalg.pinv(np.cov(known.T) + 0.01 * np.eye(known.shape[1]))

    def score(images: Doubles) -> Doubles:
        centred = images - mean
        return np.sqrt(np.einsum("nd,de,ne->n", centred, precision, centred))

    return score


def jittery(scale: float) -> Fit:
    """Return a detector that is another one each time it is trained: it sees random projections,
    and multiplies its scores by a random factor, with a standard deviation of `scale`."""

    def fit(known: Doubles, rng: np.random.Generator) -> Score:
        seen = rng.normal(size=(known.shape[1], known.shape[1] // 2)) / np.sqrt(known.shape[1] / 2)
        factor, inner = np.exp(rng.normal() * scale), nearest(known @ seen, rng)
        return lambda images: factor * inner(images @ seen)

    return fit


DETECTORS: dict[str, Fit] = {
    "nearest": nearest,
    "residual": residual,
    "gaussian": gaussian,
    "trained, scores within 2 %": jittery(0.02),
    "trained, scores within 20 %": jittery(0.2),
}


# -- Ways ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Normals:
    """Normal images [n, d] and the number of each one's group [n]."""

    images: Doubles
    groups: NDArray[np.int64]

    def of(self, groups: NDArray[np.int64]) -> "Normals":
        """Return the images of some groups."""
        chosen = np.isin(self.groups, groups)
        return Normals(self.images[chosen], self.groups[chosen])


def draw(rng: np.random.Generator, sizes: Sequence[int]) -> Normals:
    """Return images of groups with so many images each, correlated by ALIKE within groups."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    own, each = (
        rng.normal(size=(len(sizes), DIMENSIONS)),
        rng.normal(size=(len(groups), DIMENSIONS)),
    )
    return Normals(np.sqrt(ALIKE) * own[groups] + np.sqrt(1 - ALIKE) * each, groups)


def flags(calibration: Doubles, groups: NDArray[np.int64], scores: Doubles) -> Doubles:
    """Return which scores have a p-value of FAR or less, as `score` gives it."""
    made = Calibration(calibration, calibration, tuple(map(str, groups.tolist())))
    return np.asarray(made.p_values(scores, FAR) <= FAR + 1e-12)


def together(
    calibration: Doubles, groups: NDArray[np.int64], fold: NDArray[np.int64], scores: Doubles
) -> Doubles:
    """Return which images, with the scores [K, n] of K models, are flagged if each calibration
    image is compared with the score of its own fold's model."""
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    weights = 1 / sizes[number]
    above = np.ones(scores.shape[1])
    for place, own in enumerate(scores):
        mine = fold == place
        above += (calibration[mine, None] >= own).T @ weights[mine]
    return np.asarray(above / (len(sizes) + 1) <= FAR + 1e-12)


def ways(
    normals: Normals, new: Doubles, fit: Fit, folds: int, rng: np.random.Generator
) -> dict[str, Doubles]:
    """Return which of the `new` images are flagged by each way to calibrate."""
    order = rng.permutation(np.unique(normals.groups))
    held = normals.of(order[: max(1, round(0.2 * len(order)))])
    learned = normals.of(order[max(1, round(0.2 * len(order))) :])
    score = fit(learned.images, rng)
    found = {"split of today": flags(score(held.images), held.groups, score(new))}

    calibration = np.zeros(len(normals.images))
    fold, scores = np.zeros(len(normals.images), np.int64), []
    for place in range(folds):
        out = np.isin(normals.groups, order[place::folds])
        score = fit(normals.images[~out], rng)
        calibration[out], fold[out] = score(normals.images[out]), place
        scores.append(score(new))
    by_model, groups = np.array(scores), normals.groups
    found["together"] = together(calibration, groups, fold, by_model)
    found["mean"] = flags(calibration, groups, by_model.mean(0))
    found["least"] = flags(calibration, groups, by_model.min(0))
    found["refitted"] = flags(calibration, groups, fit(normals.images, rng)(new))
    return found


def simulate(repetitions: int, groups: int, folds: int) -> None:
    """Print the table."""
    sizes = [SIZES[place % len(SIZES)] for place in range(groups)]
    print("| detector | way | flagged at .05 | its spread | found |\n|---|---|---|---|---|")
    for name, fit in DETECTORS.items():
        rates: dict[str, list[tuple[float, float]]] = {}
        for seed in range(repetitions):
            rng = np.random.default_rng(seed)
            normals, fresh = draw(rng, sizes), draw(rng, [1] * NEW)
            shift = rng.normal(size=(NEW, DIMENSIONS))
            shift *= SHIFT / np.linalg.norm(shift, axis=1, keepdims=True)
            new = np.concatenate([fresh.images, draw(rng, [1] * NEW).images + shift])
            for way, flagged in ways(normals, new, fit, folds, rng).items():
                rates.setdefault(way, []).append((flagged[:NEW].mean(), flagged[NEW:].mean()))
        for way, pairs in rates.items():
            mean, found = np.mean(pairs, axis=0)
            spread = np.std(pairs, axis=0, ddof=1)[0]
            print(f"| {name} | {way} | {mean:.3f} | {spread:.3f} | {found:.2f} |", flush=True)


def check(repetitions: int, groups: int, folds: int) -> None:
    """Print the table of bounds and of models that are said to differ."""
    sizes = [SIZES[place % len(SIZES)] for place in range(groups)]
    print("| detector | flagged at .05 | below the bound | said to differ |\n|---|---|---|---|")
    for name, fit in DETECTORS.items():
        rates, below, said = [], 0, 0
        for seed in range(repetitions):
            rng = np.random.default_rng(seed)
            normals, fresh = draw(rng, sizes), draw(rng, [1] * NEW)
            calibration = _calibrated(normals, fit, folds, rng)
            scores = fit(normals.images, rng)(fresh.images)
            rates.append(float((scores > calibration.threshold(FAR)).mean()))
            below += rates[-1] <= calibration.realised(FAR).bound()
            said += "differ" in calibration.of_folds()
        shares = f"{below / repetitions:.2f} | {said / repetitions:.2f}"
        print(f"| {name} | {np.mean(rates):.3f} | {shares} |", flush=True)


def _calibrated(normals: Normals, fit: Fit, folds: int, rng: np.random.Generator) -> Calibration:
    """Return the calibration by models of folds."""
    order = rng.permutation(np.unique(normals.groups))
    parts = []
    for place in range(folds):
        held = normals.of(order[place::folds])
        rest = normals.of(np.setdiff1d(order, order[place::folds]))
        scores = fit(rest.images, rng)(held.images)
        parts.append(Calibration(scores, scores, tuple(map(str, held.groups.tolist()))))
    return joined(parts, None)


# -- Measured --------------------------------------------------------------------------------------

EXPLAINED, TOP = 0.99, 0.01  # as the defaults of `pca` on features
BANK = 1000  # places
EVERY = 2  # places of the grid, each way, that are looked at


@dataclass(frozen=True)
class Encoded:
    """The images of a data set as the backbone sees them: features [n, places, channels], their
    sums [n, channels] and the sums of their products [n, channels, channels] over places, and the
    records [n]."""

    features: NDArray[np.float32]
    sums: Doubles
    products: NDArray[np.float32]
    records: list[Record]


@dataclass(frozen=True)
class Rates:
    """Shares of images that were flagged: normal ones, by groups and one by one, and anomalies."""

    by_group: float
    by_image: float
    found: float


def encode(data: str) -> Encoded:
    """Return the images of a data set: normals to train on first, then those of the test part."""
    dataset = cards.open_data(data)
    form = form_of("pca", "features", {"representation": {"scaled": False}}, None)
    model, samples = Model.create(form.detector, form.representation, form.config), Samples()
    normals = usable_normals(dataset, model.preprocess, 2, Silent(), None, samples)
    model.preprocess.learn(samples.of(normals.records))

    tested = [record for record in dataset.records if record.split == "test"]
    reader, features, records = Reader(model.preprocess, model.prepare), [], []
    for record in [*normals.records, *tested]:
        loaded = reader.read(record)
        if isinstance(loaded, LoadedImage) and loaded.prepared is not None:
            ((seen, inside),) = model.represent([loaded.prepared])
            some = (seen * inside)[:, ::EVERY, ::EVERY]
            features.append(some.reshape(len(some), -1).T.astype(np.float32))
            records.append(record)
    places = np.stack(features)
    products = np.stack([image.T @ image for image in places])
    return Encoded(places, places.sum(1, dtype=np.float64), products, records)


class Subspace:
    """`pca` on features whose channels are scaled by some images, and fitted on them."""

    def __init__(self, data: Encoded, fit: Sequence[int]) -> None:
        count = len(fit) * data.features.shape[1]
        self.features, self.mean = data.features, data.sums[list(fit)].sum(0) / count
        covariance = data.products[list(fit)].sum(0, dtype=np.float64) / count
        covariance -= np.outer(self.mean, self.mean)
        self.scale = 1 / np.sqrt(np.maximum(np.diag(covariance), 1e-12))
        variances, vectors = np.linalg.eigh(covariance * np.outer(self.scale, self.scale))
        shares = np.cumsum(np.maximum(variances[::-1], 0)) / np.maximum(variances, 0).sum()
        self.beside = vectors[:, ::-1][:, 1 + int((shares <= EXPLAINED).sum()) :]

    def scores(self, rows: Sequence[int]) -> Doubles:
        """Return the scores of images: the mean of the highest values of each one's map."""
        count = max(1, round(TOP * self.features.shape[1]))
        beside = (self.scale[:, None] * self.beside).astype(np.float32)
        offset = self.mean.astype(np.float32) @ beside
        found = []
        for row in rows:
            values = np.square(self.features[row] @ beside - offset).sum(1)
            found.append(np.sort(values)[-count:].mean())
        return np.array(found, np.float64)


class Bank:
    """`patchcore`, of which the bank are places of some images that are drawn at random."""

    def __init__(self, data: Encoded, fit: Sequence[int]) -> None:
        rng, rows = np.random.default_rng(len(fit)), np.array(fit)
        self.features = data.features
        places = data.features.shape[1]
        drawn = rng.choice(len(rows) * places, min(BANK, len(rows) * places), replace=False)
        self.known = data.features[rows[drawn // places], drawn % places]
        self.squares = np.square(self.known).sum(1)

    def scores(self, rows: Sequence[int]) -> Doubles:
        """Return the scores of images: the highest distance of a place to the bank."""
        found = []
        for row in rows:
            own = self.features[row]
            nearest = (self.squares - 2 * own @ self.known.T).min(1) + np.square(own).sum(1)
            found.append(np.sqrt(max(float(nearest.max()), 0.0)))
        return np.array(found, np.float64)


class Learned(Protocol):
    """A detector that has learned from some images."""

    def scores(self, rows: Sequence[int]) -> Doubles: ...


MEASURED: dict[str, Callable[[Encoded, Sequence[int]], Learned]] = {
    "pca": Subspace,
    "patchcore": Bank,
}


def rows_of(records: Sequence[Record]) -> list[int]:
    """Return the rows that `measure_split` has written into records."""
    return [int(record.id) for record in records]


def judged(
    data: Encoded, calibration: Calibration, model: Learned, normal: list[int], bad: list[int]
) -> Rates:
    """Return how often images are flagged at FAR."""
    flagged = calibration.p_values(model.scores([*normal, *bad]), FAR) <= FAR + 1e-12
    of_normals, of_bad = flagged[: len(normal)], flagged[len(normal) :]
    groups = np.array([data.records[row].group for row in normal])
    shares = [of_normals[groups == name].mean() for name in np.unique(groups)]
    return Rates(float(np.mean(shares)), float(of_normals.mean()), float(of_bad.mean()))


def measure_split(
    data: Encoded,
    detector: str,
    learned: list[int],
    normal: list[int],
    bad: list[int],
    seed: int,
    folds: int,
) -> tuple[Rates, Rates]:
    """Return how often images are flagged after `train --folds 0`, and after `--folds`."""
    numbered, learn = [], MEASURED[detector]
    for row in learned:  # the split goes by the hash of the name of a group
        group = f"{data.records[row].group} {seed}"
        numbered.append(replace(data.records[row], id=str(row), group=group))

    found, cut = [], split.assign_folds(numbered, folds)
    today = split.assign(numbered)
    for roles, parts in ((today, [today]), (cut, list(cut.folds))):
        scores, groups = [], []
        for part in parts:
            model = learn(data, rows_of(part.fit))
            scores.append(model.scores(rows_of(part.calibrate)))
            groups += [record.group for record in part.calibrate]
        kept = learn(data, rows_of(roles.fit))
        together = np.concatenate(scores)
        calibration = Calibration(together, together, tuple(groups))
        found.append(judged(data, calibration, kept, normal, bad))
    return found[0], found[1]


def measure(names: Sequence[str], detector: str, splits: int, folds: int) -> None:
    """Print the table of all data sets."""
    print("| data | tested | way | flagged, by groups | spread | by images | spread | found |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        data = encode(name)
        bad = [row for row, record in enumerate(data.records) if record.label == 1]
        normal = [row for row, record in enumerate(data.records) if record.label != 1]
        own = [row for row in normal if data.records[row].split == "test"]
        groups = sorted({data.records[row].group for row in normal})
        for tested in ("drawn", "the card's"):
            found = []
            for seed in range(splits):
                drawn = set(np.random.default_rng(seed).permutation(groups)[: len(groups) // 4])
                new = own
                if tested == "drawn":
                    new = [row for row in normal if data.records[row].group in drawn]
                learned = sorted(set(normal) - set(new))
                found.append(measure_split(data, detector, learned, new, bad, seed, folds))
            for place, way in enumerate(("0", str(folds))):
                pairs = [pair[place] for pair in found]
                print(_line(Path(name).name, tested, way, pairs), flush=True)


def _line(data: str, tested: str, way: str, found: Sequence[Rates]) -> str:
    groups = np.array([each.by_group for each in found])
    images = np.array([each.by_image for each in found])
    share = np.mean([each.found for each in found])
    return (
        f"| {data} | {tested} | `--folds {way}` | {groups.mean():.3f} | {groups.std(ddof=1):.3f} | "
        f"{images.mean():.3f} | {images.std(ddof=1):.3f} | {share:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["simulate", "check", "measure"])
    parser.add_argument("data", nargs="*", metavar="DATA")
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--groups", type=int, default=47)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--detector", choices=MEASURED, default="pca", help="to be measured")
    options = parser.parse_args()
    if options.what == "measure":
        measure(options.data, options.detector, options.splits, options.folds)
        return
    command = check if options.what == "check" else simulate
    command(options.repetitions, options.groups, options.folds)


if __name__ == "__main__":
    main()
