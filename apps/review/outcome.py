"""The outcome that another false-alarm rate would have: what it would flag, and how that fits the
truth where it is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from anodetect.record.rows import OK, ScoreRow
from anodetect.stats import audit_sample
from anodetect.stats.agreement import Judgements, Rate, consensus
from anodetect.stats.audit_sample import Estimates
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


def reference_for(rows: Sequence[ScoreRow], calibration: Calibration) -> Calibration:
    """Return what these rows are compared with: volumes with the pooled calibration groups, images
    with the calibration images."""
    scored = [row.is_volume for row in rows if row.status == OK]
    return calibration.pooled() if scored and all(scored) else calibration


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

    reference = reference_for(rows, calibration)
    return Outcome(
        far=far,
        threshold=reference.threshold(far),
        flagged=int(flags.sum()),
        scored=len(scored),
        statement=reference.statement(far),
        sensitivity=Rate(found, found + missed),
        false_alarms=Rate(alarms, alarms + passed),
        precision=Rate(found, found + alarms, chosen=found + alarms < int(flags.sum())),
        confusion=confusion,
    )


def sample_of(rows: Sequence[ScoreRow], head: str, count: int) -> list[str]:
    """Return the paths of the random audit sample of a record with this head: `count` of its
    flagged rows and `count` of the others."""
    scored = [row for row in rows if row.status == OK]
    flags = [bool(row.flagged) for row in scored]
    return list(audit_sample.sample(head, [row.path for row in scored], flags, count))


def judged_rates(
    rows: Sequence[ScoreRow],
    judgements: Judgements,
    calibration: Calibration,
    far: float,
    head: str,
    count: int,
) -> Estimates:
    """Return what the verdicts tell of all scored rows at the false-alarm rate `far`, from random
    samples of `count` flagged and `count` other ones; the weights are those of all `rows`."""
    places = [n for n, row in enumerate(rows) if row.status == OK]
    scored = [rows[n] for n in places]
    scores = np.array([row.score for row in scored], np.float64)
    volumes = np.array([row.is_volume for row in scored], bool)
    flags = p_values(scores, volumes, calibration, far) <= far + TOLERANCE

    given = [judgements.get(row.path, {}) for row in scored]
    found = audit_sample.estimates(
        audit_sample.random_order(head, [row.path for row in scored]),
        [bool(row.flagged) for row in scored],
        flags.tolist(),
        [bool(each) for each in given],
        [consensus(each) for each in given],
        count,
    )
    weights = np.zeros(len(rows))
    weights[places] = found.weights
    return replace(found, weights=weights)


def roc(
    rows: Sequence[ScoreRow],
    truth: Sequence[int | None],
    weights: NDArray[np.float64] | None = None,
) -> Curve | None:
    """Return the ROC curve over all thresholds, each row with its weight, 1 by default; None unless
    there are images of both kinds."""
    scores, labels, counts = [], [], []
    for n, (row, known) in enumerate(zip(rows, truth, strict=True)):
        weight = 1.0 if weights is None else float(weights[n])
        if row.status == OK and known is not None and weight > 0:
            scores.append(row.score)
            labels.append(known)
            counts.append(weight)
    if not 0 < sum(labels) < len(labels):
        return None

    values = np.array(scores, np.float64)
    order = np.argsort(-values)
    ranked, anomalous = values[order], np.array(labels)[order]
    each = np.array(counts)[order]
    ends = np.append(np.diff(ranked) != 0, True)  # equal scores are flagged together

    found = np.cumsum(anomalous * each)[ends]
    alarms = np.cumsum((1 - anomalous) * each)[ends]
    return Curve(
        false_alarms=np.append(0, alarms) / alarms[-1], sensitivity=np.append(0, found) / found[-1]
    )
