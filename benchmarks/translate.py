"""What detectors find in scenes where only one of two lights shows the defect.

    python -m benchmarks.translate [--steps 300] [--size 32] [--seed 0] [--only NAME,...]

Scenes are those of `synthetic.two_lights`: 200 normal ones to fit, 24 to tune, 100 normal ones and
100 with a defect to test. `pca` and `intensity` see both lights; `translate` translates daylight
into lamplight, at its defaults but for the steps of training: from pairs, without pairs from lights
of different scenes, and without pairs into the negative of the lamplight. A row each with image
AUROC and its 95 % interval over images, pixel AP, and seconds.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anodetect.data import synthetic
from anodetect.detectors.translate import TranslateConfig
from anodetect.generative.translation import LinearPart
from anodetect.imaging.heatmaps import finish
from anodetect.model.settings import create_detector
from anodetect.stats import metrics
from anodetect.types import Batch, Scores, TrainContext, image_seeds
from benchmarks import common

TEST = 100
HEAD = """\
| detector | image AUROC | pixel AP | training, s | ms/image |
|---|---|---|---|---|"""


@dataclass(frozen=True)
class Case:
    """A detector with its settings, and the images that it sees."""

    title: str
    detector: str
    settings: dict[str, Any]
    mixed: bool = False  # whether the two lights of a fit image are of different scenes
    negative: bool = False  # whether lamplight is inverted


CASES = {
    "intensity": Case("`intensity`", "intensity", {}),
    "pca": Case("`pca`", "pca", {}),
    "paired": Case("`translate`", "translate", {}),
    "unpaired": Case("`translate`, `paired=false`", "translate", {"paired": False}, mixed=True),
    "negative": Case(
        "`translate`, `paired=false`, into a negative",
        "translate",
        {"paired": False},
        mixed=True,
        negative=True,
    ),
}


@dataclass(frozen=True)
class Line:
    """A line through values of daylight and lamplight, and no network; without pairs of values the
    line that gives both the same mean and deviation."""

    paired: bool

    def score(self, fit: Batch, batch: Batch) -> Scores:
        """Return scores and maps of the residual, pooled as `translate` pools."""
        pairs = replace(fit, images=fit.images[:, :2])
        line = LinearPart.learn(pairs, paired=self.paired)
        source, target = torch.from_numpy(batch.images).split(1, 1)[:2]
        residual = (target - line.line(source, paired=self.paired)).abs()[:, 0].numpy()
        return Scores(*finish(residual, batch.foreground, TranslateConfig().pooling))


@dataclass(frozen=True)
class Scenes:
    """Images as a detector sees them, and the masks [N, H, W] of their defects."""

    batch: Batch
    masks: np.ndarray[Any, np.dtype[np.bool_]]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="lines," + ",".join(CASES))
    arguments = parser.parse_args()

    print(HEAD)
    if "lines" in arguments.only:
        for line in (Line(paired=True), Line(paired=False)):
            print(row_of_line(line, arguments.size), flush=True)
    for name in arguments.only.replace("lines,", "").split(","):
        print(row(CASES[name], arguments.size, arguments.steps, arguments.seed), flush=True)


def scenes(case: Case, count: int, size: int, seed: int, *, defects: bool = False) -> Scenes:
    """Return scenes in two lights, as a case has them."""
    pictures, masks = synthetic.two_lights(count, size=size, defects=defects, seed=seed)
    images = pictures.astype(np.float32) / 127.5 - 1
    if case.negative:
        images[:, 1] *= -1
    return Scenes(Batch(images, np.ones_like(masks)), masks)


def row(case: Case, size: int, steps: int, seed: int) -> str:
    """Train a detector, score the test scenes, and return its row."""
    settings = dict(case.settings)
    if case.detector == "translate":
        settings["training"] = {"steps": steps}
    detector = create_detector(case.detector, settings)
    fit = scenes(case, 200, size, 0).batch
    if case.mixed:
        images = fit.images.copy()
        images[:, 1] = np.roll(images[:, 1], 1, axis=0)
        fit = replace(fit, images=images)

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        context = TrainContext(seed, "cpu", Path(folder))
        detector.fit(fit, scenes(case, 24, size, 1).batch, context=context)
    trained = time.monotonic()

    test = tests(case, size)
    scored = detector.score(test.batch, seeds=image_seeds(list(test.batch.images)))
    milliseconds = 1000 * (time.monotonic() - trained) / len(test.batch)
    return cells(case.title, scored, test, f"{trained - started:.0f}", f"{milliseconds:.1f}")


def row_of_line(line: Line, size: int) -> str:
    """Return the row of a line, for lights as they are."""
    case, title = CASES["paired"], "a line through pairs of values"
    test = tests(case, size)
    scored = line.score(scenes(case, 200, size, 0).batch, test.batch)
    return cells(title if line.paired else "equal means and deviations", scored, test, "–", "–")


def tests(case: Case, size: int) -> Scenes:
    """Return the test scenes, the normal ones first."""
    clean, odd = scenes(case, TEST, size, 2), scenes(case, TEST, size, 3, defects=True)
    images = np.concatenate([clean.batch.images, odd.batch.images])
    masks = np.concatenate([clean.masks, odd.masks])
    return Scenes(Batch(images, np.ones_like(masks)), masks)


def cells(title: str, scored: Scores, test: Scenes, *times: str) -> str:
    """Return the row of a table."""
    labels = np.repeat([0, 1], TEST)
    groups = [str(number) for number in range(2 * TEST)]
    auroc = metrics.image_metrics(labels, scored.image.astype(np.float64), groups)["auroc"]
    truth = test.masks.ravel().astype(np.int64)
    pixel = metrics.average_precision(truth, scored.heatmap.ravel().astype(np.float64))
    found = [title, f"{auroc.value:.3f} ({auroc.low:.3f}–{auroc.high:.3f})", f"{pixel:.3f}", *times]
    return "| " + " | ".join(found) + " |"


if __name__ == "__main__":
    main()
