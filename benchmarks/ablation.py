"""The worth of each choice in AnoDDPM on pixels: one seed, two minutes of training per row.

    python -m benchmarks.ablation DATA... --out DIR [--budget 2] [--seed 0]

Each row changes one setting of the default. Rows that change only how images are scored use one
run's weights; the others train their own. Maps are standardised and choices made on tune for every
row. Finished rows are kept in DIR and not repeated.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import anodetect
from anodetect.commands.labelled import labelled_score
from anodetect.commands.terminal import reporting
from anodetect.config import build
from anodetect.data import cards
from anodetect.data.records import Dataset, Record
from anodetect.detectors.anoddpm import AnoDDPM, AnoDDPMConfig
from anodetect.errors import ImageError
from anodetect.files import write_atomic
from anodetect.model.loading import LoadedImage, load
from anodetect.model.model import Model
from anodetect.model.planting import Planting
from anodetect.model.scoring import ScoredImage, score_records
from anodetect.record import runs
from anodetect.stats.evaluation import Measure
from anodetect.types import Batch, Floats, Reporter, TrainContext
from benchmarks import common

TRAINED: dict[str, dict[str, Any]] = {
    "default": {},
    "with the Gaussian model": {"prior": "on"},
    "noise: Gaussian": {"noise": "gaussian"},
    "noise: coarse": {"noise": "coarse"},
    "noise everywhere in every image": {"local": 0.0},
    "prediction: epsilon": {"prediction": "epsilon"},
    "t up to 30": {"trained_to": 30},
    "random crops of 64 px": {"crop": 64},
    "images as they are, not turned, moved or mirrored": {
        "training": {"augment": {"rotation": 0, "scale": 0, "shift": 0, "flip": 0}}
    },
    "64 px, stem 4": {"size": 64, "stem": 4, "pooling": {"smooth": 1.0}},
}
# the run whose weights rows are scored with: nothing is left out of it
WEIGHTS = "with the Gaussian model"
SCORED: dict[str, dict[str, Any]] = {
    "all weights of one run": {},
    "λ = 5": {"lambdas": [5]},
    "λ = 20": {"lambdas": [20]},
    "λ = 60": {"lambdas": [60]},
    "λ = 200": {"lambdas": [200]},
    "λ = 10, 60, 200": {"lambdas": [10, 60, 200]},
    "1 noise draw": {"draws": 1},
    "4 noise draws": {"draws": 4},
    "DDIM-10, λ = 20, 1 draw": {"mode": "chain", "lambdas": [20], "draws": 1},
    "single step, λ = 20, 1 draw": {"lambdas": [20], "draws": 1},
    "full chain, λ = 20, 1 draw": {
        "mode": "chain",
        "sampler": "ancestral",
        "lambdas": [20],
        "draws": 1,
    },
    "standardised by each pixel": {"pixel_error": "on"},
    "standardised by the mean": {"pixel_error": "off"},
    "network alone": {"prior": "off"},
    "peak": {"relative": "off"},
    "peak over the root of the median": {"relative": "on"},
    "squared residual": {"residual": "squared"},
    "residual at one scale": {"scales": [0.0]},
    "residual at four scales": {"scales": [0, 1 / 64, 1 / 32, 1 / 16]},
    "no erosion": {"pooling": {"erode": 0, "smooth": 2.0}},
    "erosion 4 px": {"pooling": {"erode": 4, "smooth": 2.0}},
}


STRUCTURAL = "residual: 1 − SSIM"


class Structural(AnoDDPM):
    """AnoDDPM that compares image and reconstruction by 1 − SSIM."""

    def _residuals(self, batch: Batch, seeds: Any) -> tuple[Floats, Floats]:
        config, maps = self.config, []
        for step in config.lambdas:
            self.config = config.model_copy(update={"lambdas": (step,)})
            _, reconstruction = super()._residuals(batch, seeds)
            maps.append(dissimilarity(batch.images.mean(1), reconstruction.mean(1)))
        self.config = config
        return np.stack(maps, 1).astype(np.float32), reconstruction


def dissimilarity(x: Floats, y: Floats, sigma: float = 1.5) -> NDArray[np.floating]:
    """Return 1 − SSIM with a Gaussian window (Wang et al., IEEE TIP 2004) of images [N, H, W] from
    -1 to 1."""

    def mean(a: Floats) -> NDArray[np.floating]:
        return ndimage.gaussian_filter(a, (0, sigma, sigma))

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.02**2, 0.06**2
    return 1 - (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))


def row(run: Path, data: str, detector: AnoDDPM, reporter: Reporter) -> dict[str, Any]:
    """Return metrics on the test part, with a detector that takes the run's weights."""
    stored = runs.read(run)
    model = Model.load(stored, "auto")
    dataset = cards.open_data(data)
    detector.load_state(stored.state, device="auto")
    records = tune_records(run, dataset)
    with tempfile.TemporaryDirectory() as folder:
        rows = np.arange(len(records))
        planting = Planting(model, records, rows, Path(folder), seed=0, budget=None)
        context = TrainContext(0, "auto", run, planted=planting.copies)
        detector.standardize(tune_batch(model, records), context=context)
    model.detector = detector

    items = dataset.labelled()
    measure = Measure(stored.calibration, 0.05, masks=any(record.masks for record in items))
    for scored in score_records(model, items, reporter, "test"):
        if isinstance(scored, ScoredImage):
            item = labelled_score(scored.record, scored.score, scored.heatmap)
            if item is not None:
                measure.add(item)

    evaluation = measure.result()
    result: dict[str, Any] = {"image_auroc": evaluation.image["auroc"].value}
    for name in ("ap", "auroc"):
        result[f"pixel_{name}"] = evaluation.pixel[name].value if evaluation.pixel else None
    return result


def tune_records(run: Path, dataset: Dataset) -> list[Record]:
    """Return the records of the tune images of a run."""
    by_id = {record.id: record for record in dataset.training()}
    return [by_id[entry.path] for entry in runs.read_manifest(run) if entry.role == "tune"]


def tune_batch(model: Model, records: list[Record]) -> Batch:
    """Return images as the run's detector sees them; ImageError if one cannot be read."""
    images, foregrounds = [], []
    prepared = []
    for record in records:
        loaded = load(record, model.preprocess)
        if not isinstance(loaded, LoadedImage):
            raise ImageError(f"{record.id}: no image, or not readable any more")
        prepared.append(model.prepared(loaded))
    for image, foreground in model.represent(prepared):
        images.append(image)
        foregrounds.append(foreground)
    return Batch(np.stack(images), np.stack(foregrounds))


def variant(run: Path, name: str) -> AnoDDPM:
    """Return the detector of a row."""
    trained_with = dict(runs.read(run).header.config["detector"])
    changes = {} if name in TRAINED else {"prior": "auto"} | SCORED.get(name, {})
    config = build(AnoDDPMConfig, trained_with | changes, name)
    return Structural(config) if name == STRUCTURAL else AnoDDPM(config)


def slug(data: str, name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in f"{Path(data).name}-{name}")


def finished(data: str, name: str, arguments: argparse.Namespace, reporter: Reporter) -> Any:
    """Return a row's metrics on one data set; train and score what is not done yet."""
    done = arguments.out / f"{slug(data, name)}.json"
    if done.exists():
        return json.loads(done.read_text())

    reporter.say(f"{data}: {name}")
    trained = name if name in TRAINED else WEIGHTS
    run = arguments.out / slug(data, trained)
    if not run.exists():
        anodetect.train(
            data,
            "anoddpm",
            run,
            representation="pixels",
            values=TRAINED[trained],
            budget=arguments.budget,
            seed=arguments.seed,
            reporter=reporter,
        )
    result = row(run, data, variant(run, name), reporter)
    write_atomic(done, json.dumps(result))
    return result


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    table: dict[str, list[str]] = {}
    with reporting() as reporter:
        for data in arguments.data:
            for name in [*TRAINED, *SCORED, STRUCTURAL]:
                result = finished(data, name, arguments, reporter)
                values = ["–" if value is None else f"{value:.3f}" for value in result.values()]
                table.setdefault(name, []).append(" / ".join(values))

    print(f"| | {' | '.join(Path(data).name for data in arguments.data)} |")
    print("|---|" + "---|" * len(arguments.data))
    for name, cells in table.items():
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
