"""The reliability of a classifier on images whose class is known: normal ones whose kind is one."""

import numpy as np

from anodetect.data.records import NORMAL
from anodetect.model.model import Model
from anodetect.model.scoring import Scored, ScoredImage
from anodetect.stats.reliability import ClassifierReliability, reliability
from anodetect.types import Floats, HasClasses


class KnownClasses:
    """Collects what a classifier makes of normal images whose kind is the name of a class. Other
    detectors, images in tiles and volumes have none."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.numbers: dict[str, int] = {}
        if isinstance(model.detector, HasClasses) and not any(model.tiling.sides):
            self.numbers = {name: number for number, name in enumerate(model.detector.classes)}
        self.logits: list[Floats] = []
        self.true: list[int] = []

    def add(self, scored: Scored) -> None:
        """Add an image if its class is known."""
        detector, record = self.model.detector, scored.record
        if not isinstance(scored, ScoredImage) or not isinstance(detector, HasClasses):
            return
        if record.label != NORMAL or record.kind not in self.numbers:
            return
        seen, _ = next(self.model.represent([self.model.prepared(scored.loaded)]))
        self.logits.append(detector.logits(seen[None]))
        self.true.append(self.numbers[record.kind])

    def result(self) -> ClassifierReliability | None:
        """Return how reliable the classifier is; None if no class was known."""
        detector = self.model.detector
        if not self.true or not isinstance(detector, HasClasses):
            return None
        import torch

        from anodetect.generative.classifiers import calibrating_temperature

        logits, true = np.concatenate(self.logits), np.array(self.true)
        probabilities = detector.probabilities(logits)
        correct = probabilities.argmax(1) == true
        best = calibrating_temperature(torch.from_numpy(logits), torch.from_numpy(true))
        return ClassifierReliability(reliability(probabilities.max(1), correct), best)
