"""False alarms on images that lack some of their channels, made up with numbers alone.

    python -m benchmarks.channels [--detectors intensity,pca] [--plain]

Normal images of three channels share a smooth pattern and have noise of their own. A detector
learns from 200 of them, each also without some channels at random, and from 40 tune images; 200
others set the threshold at a false-alarm rate of 5 %. A row has the share of 400 further normal
images above it, whole and without the channels that the column says. With `--plain` scores are not
brought to the scale of whole images.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from anodetect.model.absences import Absences, learn_absences
from anodetect.model.settings import create_detector
from anodetect.types import Batch, Bools, Detector, Floats, TrainContext
from benchmarks import common

CHANNELS, SIDE = 3, 32
SHARED, NOISE = (0.3, 0.2, -0.3), (0.05, 0.1, 0.2)  # of each channel
SETS = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2))
FAR = 0.05
SMALL = {"widths": [16], "stem": 4, "training": {"steps": 200}}
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "intensity": {},
    "pca": {"components": 20},
    "dae": SMALL,
    "ebm": SMALL | {"contrast": 0, "levels": [240], "scales": [0]},
    "anoddpm": SMALL | {"prior": "off", "noise": "gaussian", "lambdas": [50]},
}


def made(count: int, rng: np.random.Generator) -> Floats:
    """Return normal images [count, CHANNELS, SIDE, SIDE]."""
    shared = ndimage.gaussian_filter(rng.normal(size=(count, SIDE, SIDE)), (0, 3, 3))
    shared /= shared.std()
    planes = []
    for amount, noise in zip(SHARED, NOISE, strict=True):
        planes.append(amount * shared + rng.normal(0, noise, shared.shape))
    return np.stack(planes, 1).astype(np.float32)


def without(images: Floats, lacking: Bools) -> Batch:
    """Return images that lack channels [N, CHANNELS], in whose place there is 0."""
    pixels = np.where(lacking[:, :, None, None], np.float32(0), images)
    return Batch(pixels, np.ones((len(images), SIDE, SIDE), bool), absent=lacking)


def trained(name: str, images: int, rng: np.random.Generator) -> tuple[Detector, Absences]:
    """Return a detector that has learned from so many images, and what it makes of absences."""
    detector = create_detector(name, SETTINGS[name])
    fit, whole = made(images, rng), np.zeros((images, CHANNELS), bool)
    lacking = np.array(whole)
    for row in lacking:
        row[rng.permutation(CHANNELS)[: rng.integers(1, CHANNELS)]] = True
    twice = without(np.concatenate([fit, fit]), np.concatenate([whole, lacking]))
    tune = without(made(40, rng), np.zeros((40, CHANNELS), bool))

    with tempfile.TemporaryDirectory() as folder:
        detector.fit(twice, tune, context=TrainContext(0, "cpu", Path(folder)))
    return detector, learn_absences(detector, tune, (1,) * CHANNELS, 0.0, None)


def false_alarms(
    detector: Detector, absences: Absences | None, images: int, rng: np.random.Generator
) -> list[float]:
    """Return the share of normal images that are flagged, without each of SETS; `absences` bring
    scores to one scale, if given."""

    def scores(count: int, absent: tuple[int, ...]) -> Floats:
        lacking = np.tile(np.isin(np.arange(CHANNELS), absent), (count, 1))
        batch = without(made(count, rng), lacking)
        found = detector.score(batch, seeds=np.arange(count, dtype=np.uint64))
        return (absences.comparable(found, lacking) if absences and absent else found).image

    calibration = np.sort(scores(images, ()))
    threshold = calibration[int(np.ceil((1 - FAR) * (images + 1))) - 1]
    return [float((scores(2 * images, absent) > threshold).mean()) for absent in SETS]


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--detectors", default=",".join(SETTINGS))
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()

    names = ["+".join(str(number + 1) for number in absent) or "none" for absent in SETS]
    print(f"| absent | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for name in arguments.detectors.split(","):
        rng = np.random.default_rng(0)
        detector, absences = trained(name, 200, rng)
        rates = false_alarms(detector, None if arguments.plain else absences, 200, rng)
        print(f"| `{name}` | {' | '.join(f'{rate:.3f}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
