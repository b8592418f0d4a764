"""PatchCore of anomalib beside `patchcore`, on the same features of the same images.

    python3 -m venv ENV && ENV/bin/pip install torch torchvision anomalib
    python -m benchmarks.anomalib_patchcore DATA --python ENV/bin/python --out DIR [--memory 4000]

anomalib does not fit into the project's environment, so it runs in its own. The features of the
images that `patchcore` learns from, and of the labelled test images, are written to DIR once. Both
learn from these and keep `--memory` vectors. anomalib's choice makes a pass over all places for
each vector that it takes; `--places` gives both so many random places of each image, to save time.
"""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import anodetect
from anodetect.commands.labelled import labelled_score
from anodetect.data import cards
from anodetect.data.records import Record
from anodetect.imaging.resize import resize
from anodetect.model.encoding import encode_all
from anodetect.model.loading import LoadedImage, Reader, load
from anodetect.model.model import Model
from anodetect.model.settings import create_detector, resolve
from anodetect.record import runs
from anodetect.stats import metrics
from anodetect.types import Batch, Floats, TrainContext, image_seeds
from benchmarks import common

THEIRS = Path(__file__).with_name("anomalib_side.py")


@dataclass(frozen=True)
class Found:
    """Findings of a detector: image scores [N], maps [N, h, w], how many vectors it keeps `among`
    how many, and the seconds that its fit took."""

    name: str
    among: str
    seconds: float
    scores: Floats
    maps: Floats


def export(data: str, out: Path, places: int | None) -> None:
    """Write the features of the fit images, or of some places of each, and of the labelled test
    images."""
    out.mkdir(parents=True, exist_ok=True)
    values = {"memory": 100, "candidates": 1000}  # the run is needed for its fit part alone
    anodetect.train(data, "patchcore", out / "run", values=values)
    model, dataset = Model.load(runs.read(out / "run"), "cpu"), cards.open_data(data)
    by_id = {record.id: record for record in dataset.training()}
    fit = [by_id[row.path] for row in runs.read_manifest(out / "run") if row.role == "fit"]

    read = Reader(model.preprocess, model.prepare).read
    encode_all(model, read, dataset.labelled(), out / "test", 0, [])
    batch, _ = encode_all(model, read, fit, out / "fit", 0, [])
    if places is not None:
        some = some_places(batch, places)
        np.save(out / "fit-images.npy", some.images)
        np.save(out / "fit-inside.npy", some.foreground)


def some_places(batch: Batch, count: int) -> Batch:
    """Return random places of each image, as images [N, C, count, 1]."""
    rng = np.random.default_rng(0)
    images = []
    for image in batch.images:
        places = image.reshape(len(image), -1)
        images.append(places[:, rng.permutation(places.shape[1])[:count], None])
    chosen = np.stack(images)
    return Batch(chosen, np.ones((len(chosen), *chosen.shape[2:]), bool))


def exported(out: Path, name: str) -> Batch:
    """Return exported features as a batch."""
    images = np.load(out / f"{name}-images.npy", mmap_mode="r")
    return Batch(images, np.load(out / f"{name}-inside.npy"))


def ours(out: Path, memory: int) -> Found:
    """Fit and score `patchcore` on the exported features."""
    fit, test = exported(out, "fit"), exported(out, "test")
    settings = resolve("patchcore", "features", {"memory": memory})["detector"]
    detector = create_detector("patchcore", settings)
    start = time.perf_counter()
    detector.fit(fit, fit, context=TrainContext(0, "cpu", out))
    seconds = time.perf_counter() - start

    scores = detector.score(test, seeds=image_seeds(list(test.images)))
    among = f"{memory} of {min(settings['candidates'], fit.foreground.size)}"
    return Found("patchcore", among, seconds, scores.image, scores.heatmap)


def theirs(out: Path, python: str, memory: int) -> Found:
    """Let anomalib fit and score in its own environment."""
    subprocess.run([python, str(THEIRS), str(out), "--memory", str(memory)], check=True)
    with np.load(out / "anomalib.npz") as found:
        among = f"{found['memory']} of {found['candidates']}"
        name = f"anomalib {found['version']}"
        return Found(name, among, float(found["seconds"]), found["scores"], found["maps"])


def row(found: Found, records: Sequence[Record]) -> str:
    """Return a row of the table, with pixels measured on each image's own grid."""
    labels, scores = np.array([record.label for record in records]), found.scores.astype(np.float64)
    pixels = metrics.PixelCounts()
    for record, score, heatmap in zip(records, scores, found.maps, strict=True):
        loaded = load(record)
        if not isinstance(loaded, LoadedImage):
            raise SystemExit(f"{record.id}: cannot be read as an image")
        own = resize(heatmap[None], *loaded.image.shape[1:])[0]
        item = labelled_score(record, float(score), own)
        if item is None or (item.label == 1 and item.mask is None):
            continue
        mask = np.zeros(own.shape, bool) if item.mask is None else item.mask
        pixels.add(own, mask, item.group)

    measured = (
        f"{metrics.auroc(labels, scores):.4f}",
        f"{metrics.tpr_at_5_fpr(labels, scores):.3f}",
        f"{pixels.curves().measure()['ap']:.4f}",
    )
    return f"| {found.name} | {found.among} | {found.seconds:.0f} | {' | '.join(measured)} |"


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("data")
    parser.add_argument("--python", help="that of anomalib's environment; without it, ours alone")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--memory", type=int, default=4000)
    parser.add_argument("--places", type=int)
    arguments = parser.parse_args()

    if not (arguments.out / "fit-images.npy").exists():
        export(arguments.data, arguments.out, arguments.places)
    records = cards.open_data(arguments.data).labelled()
    print("| | vectors | chosen in, s | image AUROC | TPR at 5 % FPR | pixel AP |")
    print("|---|---|---|---|---|---|")
    print(row(ours(arguments.out, arguments.memory), records), flush=True)
    if arguments.python:
        print(row(theirs(arguments.out, arguments.python, arguments.memory), records))


if __name__ == "__main__":
    main()
