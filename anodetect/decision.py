"""From scores and a calibration to decisions: p-values, q-values, flags, per image and per group. No torch."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from anodetect.calibration import Calibration, Doubles, benjamini_hochberg
from anodetect.records import Row

LITTLE, UNSEEN = "too little foreground", "outside what the model has seen"  # why a slice is not scored
SLICES_APART = 1.5  # times as many, or as few, slices as a calibration group has: highest scores no longer compare


def decide(rows: Sequence[Row], calibration: Calibration, *, far: float, fdr: float | None) -> tuple[list[Row], float]:
    """Fill in p_value, q_value, flagged and threshold of each row; returns the rows of groups.csv and the threshold.

    A volume's score is the highest of its slices', so it is compared with the same of each calibration group, and an
    image's with the calibration images. A group's score is its highest, compared with the same again. q-values are
    Benjamini–Hochberg where every image is its own group, else Benjamini–Yekutieli.
    """
    rate = far if fdr is None else fdr
    good = [row for row in rows if row["status"] == "ok"]
    members: dict[str, list[Row]] = {}
    for row in good:
        members.setdefault(row["group"], []).append(row)
    pooled_calibration = calibration.pooled()
    p = p_values(good, calibration, rate)
    q = benjamini_hochberg(p, dependent=len(members) < len(good))
    flags = (p if fdr is None else q) <= rate + 1e-12
    spared = [row["score"] for row, flag in zip(good, flags, strict=True) if not flag]
    threshold = calibration.threshold(far) if fdr is None else max(spared, default=-np.inf)
    volume_threshold = pooled_calibration.threshold(far) if fdr is None else threshold
    for row, p_value, q_value, flag in zip(good, p, q, flags, strict=True):
        row |= {"p_value": float(p_value), "q_value": float(q_value), "flagged": bool(flag)}
        row["threshold"] = volume_threshold if row.get("depth") else threshold
    pooled = [max(row["score"] for row in group) for group in members.values()]
    group_p = pooled_calibration.p_values(pooled, rate)
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


def p_values(rows: Sequence[Row], calibration: Calibration, rate: float) -> Doubles:
    """Of rows with a score: an image's among the calibration images, a volume's among pooled groups."""
    scores, volumes = [row["score"] for row in rows], [bool(row.get("depth")) for row in rows]
    return np.where(volumes, calibration.pooled().p_values(scores, rate), calibration.p_values(scores, rate))


def decide_slices(slices: Sequence[Row], calibration: Calibration, *, far: float, fdr: float | None) -> None:
    """Fill in p_value and flagged of the slices that were scored: a slice counts as an image."""
    rate = far if fdr is None else fdr
    scored = [row for row in slices if row["score"] is not None]
    p = calibration.p_values([row["score"] for row in scored], rate)
    decisive = p if fdr is None else benjamini_hochberg(p, dependent=True)
    for row, p_value, flag in zip(scored, p, decisive <= rate + 1e-12, strict=True):
        row |= {"p_value": float(p_value), "flagged": bool(flag)}


def volume_caveats(rows: Sequence[Row], slices: Sequence[Row], calibration: Calibration, rate: float) -> list[str]:
    """What is to be known of the volumes among the rows: slices that were not scored, and decisions that cannot be
    made or are worth less than they seem."""
    found = []
    scored = Counter(row["path"] for row in slices if row["score"] is not None)
    for reason in (LITTLE, UNSEEN):
        if count := sum(row.get("unscored") == reason for row in slices):
            found.append(f"{count} of {len(slices)} slices were not scored (NaN): {reason}")
    volumes = [row for row in rows if row.get("depth") and row["status"] == "ok"]
    groups = calibration.n_groups
    if not volumes or not groups:
        return found
    if calibration.level(rate) != "group":
        found.append(
            f"no volume or patient can be flagged at {rate:g}: {groups} calibration groups reach p-values of "
            f"{1 / (groups + 1):.3f}; slices are flagged one by one"
        )
    usual = float(np.median(list(Counter(calibration.groups).values())))
    count = float(np.median([scored[row["path"]] for row in volumes]))
    if not usual / SLICES_APART <= count <= usual * SLICES_APART:
        found.append(
            f"volumes have {count:g} scored slices, calibration groups {usual:g} images: a volume's highest score is "
            "compared with that of a group of another size; calibrate on volumes like these"
        )
    return found


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
