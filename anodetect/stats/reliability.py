"""The reliability of a classifier, which should be right as often as it says: diagram and ECE."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10


@dataclass(frozen=True)
class ConfidenceBin:
    """The images with a confidence above `low` and up to `high`: how many, their mean confidence,
    and the share that was classified correctly; NaN where there are none."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Reliability:
    """The reliability of `count` images: the bins of the diagram, the share that was classified
    correctly, the mean confidence, and the expected calibration error, all from 0 to 1."""

    bins: tuple[ConfidenceBin, ...]
    count: int
    accuracy: float
    confidence: float
    ece: float

    def as_json(self) -> dict[str, Any]:
        """Return the reliability with its bins, of which only those with images are there."""
        bins = [asdict(each) for each in self.bins if each.count]
        return asdict(self) | {"bins": bins}


@dataclass(frozen=True)
class ClassifierReliability:
    """The reliability of a classifier, and the temperature at which its probabilities would explain
    these images best."""

    reliability: Reliability
    temperature: float

    def as_json(self) -> dict[str, Any]:
        """Return the reliability with the temperature."""
        return self.reliability.as_json() | {"temperature": self.temperature}


def reliability(
    confidences: NDArray[np.floating[Any]], correct: NDArray[np.bool_], bins: int = BINS
) -> Reliability:
    """Return the reliability of images with these confidences [N], from 0 to 1, of which some were
    classified correctly [N].

    The expected calibration error is that of Guo et al., "On calibration of modern neural
    networks", ICML 2017, equation 3, in bins of equal width:

        ECE = Σ_b n_b / N · |accuracy_b − confidence_b|

    ValueError if there are no images.
    """
    if not len(confidences):
        raise ValueError("no images")
    edges = np.linspace(0, 1, bins + 1)
    where = np.searchsorted(edges[1:-1], confidences)

    found, error = [], 0.0
    for number, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        inside = where == number
        count = int(inside.sum())
        if not count:
            found.append(ConfidenceBin(low, high, 0, float("nan"), float("nan")))
            continue
        confidence = float(confidences[inside].mean(dtype=np.float64))
        accuracy = float(correct[inside].mean())
        error += count / len(confidences) * abs(accuracy - confidence)
        found.append(ConfidenceBin(low, high, count, confidence, accuracy))

    return Reliability(
        tuple(found),
        len(confidences),
        float(correct.mean()),
        float(confidences.mean(dtype=np.float64)),
        error,
    )
