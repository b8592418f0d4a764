"""The outcome that another false-alarm rate would have: what it would flag, and how that fits the
truth where it is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anodetect.record.rows import OK, ScoreRow
from anodetect.stats.agreement import Judgements, Rate, consensus
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import TOLERANCE, p_values

Truth = Literal["labels", "verdicts"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a false-alarm rate. The rates are over images whose truth is known."""

    far: float
    threshold: float
    flagged: int
    scored: int
    statement: str
    sensitivity: Rate  # flagged images among the anomalous ones
    false_alarms: Rate  # flagged images among the normal ones
    precision: Rate  # anomalous images among the flagged ones
    confusion: Mapping[tuple[int, bool], int]  # (truth, flagged) → images


@dataclass(frozen=True)
class Curve:
    """A ROC curve: at each threshold the share of normal and of anomalous images that are flagged,
    both rising from 0 to 1."""

    false_alarms: NDArray[np.float64]
    sensitivity: NDArray[np.float64]


def truths(rows: Sequence[ScoreRow], judgements: Judgements, source: Truth) -> list[int | None]:
    """Return for each row 0 (normal), 1 (anomalous) or None (unknown), from the labels known
    beforehand or from the verdicts so far."""
    if source == "labels":
        return [row.label for row in rows]
    return [consensus(judgements.get(row.path, {})) for row in rows]


def outcome_at(
    rows: Sequence[ScoreRow], truth: Sequence[int | None], calibration: Calibration, far: float
) -> Outcome:
    """Return the outcome of the false-alarm rate `far`, 0 < far < 1.

    `truth` has one value for each row, as `truths` returns them.
    """
    scored = [(row, known) for row, known in zip(rows, truth, strict=True) if row.status == OK]
    scores = np.array([row.score for row, _ in scored], np.float64)
    volumes = np.array([row.is_volume for row, _ in scored], bool)
    flags = p_values(scores, volumes, calibration, far) <= far + TOLERANCE

    confusion = dict.fromkeys(product((0, 1), (False, True)), 0)
    for (_, known), flag in zip(scored, flags, strict=True):
        if known is not None:
            confusion[known, bool(flag)] += 1
    found, missed = confusion[1, True], confusion[1, False]
    alarms, passed = confusion[0, True], confusion[0, False]

    only_volumes = bool(scored) and bool(volumes.all())
    return Outcome(
        far=far,
        threshold=(calibration.pooled() if only_volumes else calibration).threshold(far),
        flagged=int(flags.sum()),
        scored=len(scored),
        statement=calibration.statement(far),
        sensitivity=Rate(found, found + missed),
        false_alarms=Rate(alarms, alarms + passed),
        precision=Rate(found, found + alarms, chosen=found + alarms < int(flags.sum())),
        confusion=confusion,
    )


def roc(rows: Sequence[ScoreRow], truth: Sequence[int | None]) -> Curve | None:
    """Return the ROC curve over all thresholds; None unless there are images of both kinds."""
    scores, labels = [], []
    for row, known in zip(rows, truth, strict=True):
        if row.status == OK and known is not None:
            scores.append(row.score)
            labels.append(known)
    if not 0 < sum(labels) < len(labels):
        return None

    values = np.array(scores, np.float64)
    order = np.argsort(-values)
    ranked, anomalous = values[order], np.array(labels)[order]
    ends = np.append(np.diff(ranked) != 0, True)  # equal scores are flagged together

    found, alarms = np.cumsum(anomalous)[ends], np.cumsum(1 - anomalous)[ends]
    return Curve(
        false_alarms=np.append(0, alarms) / alarms[-1], sensitivity=np.append(0, found) / found[-1]
    )
