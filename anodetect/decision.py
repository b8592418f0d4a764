"""From scores and a calibration to decisions: p-values, q-values, flags, per image and per group. No torch."""

from collections.abc import Sequence

import numpy as np

from anodetect.calibration import Calibration, benjamini_hochberg
from anodetect.records import Row


def decide(rows: Sequence[Row], calibration: Calibration, *, far: float, fdr: float | None) -> tuple[list[Row], float]:
    """Fill in p_value, q_value, flagged and threshold of each row; returns the rows of groups.csv and the threshold.

    q-values are Benjamini–Hochberg where every image is its own group, else Benjamini–Yekutieli. A group's
    score is its highest image score, compared with the same on the calibration groups.
    """
    rate = far if fdr is None else fdr
    good = [row for row in rows if row["status"] == "ok"]
    members: dict[str, list[Row]] = {}
    for row in good:
        members.setdefault(row["group"], []).append(row)
    p = calibration.p_values([row["score"] for row in good], rate)
    q = benjamini_hochberg(p, dependent=len(members) < len(good))
    flags = (p if fdr is None else q) <= rate + 1e-12
    spared = [row["score"] for row, flag in zip(good, flags, strict=True) if not flag]
    threshold = calibration.threshold(far) if fdr is None else max(spared, default=-np.inf)
    for row, p_value, q_value, flag in zip(good, p, q, flags, strict=True):
        row |= {"p_value": float(p_value), "q_value": float(q_value), "flagged": bool(flag), "threshold": threshold}
    pooled = [max(row["score"] for row in group) for group in members.values()]
    group_p = calibration.pooled().p_values(pooled, rate)
    group_q = benjamini_hochberg(group_p)
    group_flags = (group_p if fdr is None else group_q) <= rate + 1e-12
    groups: list[Row] = [
        {
            "group": name,
            "images": len(group),
            "score": s,
            "p_value": float(pv),
            "q_value": float(qv),
            "flagged": bool(f),
        }
        for (name, group), s, pv, qv, f in zip(members.items(), pooled, group_p, group_q, group_flags, strict=True)
    ]
    return groups, float(threshold)


def fdr_statement(calibration: Calibration, fdr: float, images: int) -> str:
    """What --fdr promises and what it takes before anything can be flagged, in one sentence."""
    if len(calibration.scores) == 0:
        return calibration.statement(fdr)
    finest = calibration.finest_rate(fdr)
    needed = int(np.ceil(finest * images / fdr - 1e-9))
    return (
        f"Among flagged images at most {fdr:.2%} are expected to be normal. The smallest possible p-value is "
        f"{finest:.4f}, so at least {needed} of {images} images must reach it before any can be flagged."
    )
