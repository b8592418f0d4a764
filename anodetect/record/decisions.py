"""From scores and a calibration to decisions: p-values, q-values, flags, per image and per group.
No torch."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from anodetect.record.directories import GROUP_COLUMNS, Row
from anodetect.stats.calibration import Calibration, Doubles, benjamini_hochberg

LITTLE, UNSEEN = (
    "too little foreground",
    "outside what the model has seen",
)  # why a slice is not scored
# times as many, or as few, slices as a calibration group has: highest scores no longer compare
SLICES_APART = 1.5


def decide(
    rows: pa.Table, calibration: Calibration, *, far: float, fdr: float | None
) -> tuple[pa.Table, pa.Table, float]:
    """The rows with p_value, q_value, flagged and threshold filled in, the rows of groups.csv, and
    the threshold.

    A volume's score is the highest of its slices', so it is compared with the same of each
    calibration group, and an image's with the calibration images. A group's score is its highest,
    compared with the same again. q-values are Benjamini–Hochberg where every image is its own
    group, else Benjamini–Yekutieli.
    """
    rate = far if fdr is None else fdr
    good = is_ok(rows)
    scores, volumes = numbers(rows["score"])[good], is_deep(rows)[good]
    # Numbered in the order in which they come.
    coded = pc.dictionary_encode(
        pa.chunked_array(rows["group"].filter(pa.array(good)), pa.string()).combine_chunks()
    )
    member = np.asarray(coded.indices)
    pooled_calibration = calibration.pooled()
    p = _p_values(scores, volumes, calibration, rate)
    q = benjamini_hochberg(p, dependent=len(coded.dictionary) < len(p))
    flags = (p if fdr is None else q) <= rate + 1e-12
    threshold = (
        calibration.threshold(far) if fdr is None else float(max(scores[~flags], default=-np.inf))
    )
    volume_threshold = pooled_calibration.threshold(far) if fdr is None else threshold
    thresholds = np.where(volumes, volume_threshold, threshold)
    for name, values in (
        ("p_value", p),
        ("q_value", q),
        ("flagged", flags),
        ("threshold", thresholds),
    ):
        every = np.zeros(len(good), values.dtype)
        every[good] = values
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), pa.array(every, mask=~good))
    pooled = np.full(len(coded.dictionary), -np.inf)
    np.maximum.at(pooled, member, scores)
    group_p = pooled_calibration.p_values(pooled, rate)
    group_q = benjamini_hochberg(group_p)
    group_flags = (group_p if fdr is None else group_q) <= rate + 1e-12
    images = np.bincount(member, minlength=len(pooled)).astype(np.int32)
    groups = pa.table(
        [coded.dictionary, images, pooled, group_p, group_q, group_flags], schema=GROUP_COLUMNS
    )
    return rows, groups, float(threshold)


def is_ok(rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows have a score."""
    return np.asarray(pc.equal(rows["status"], "ok"), bool)


def is_deep(rows: pa.Table) -> NDArray[np.bool_]:
    """Which rows are volumes."""
    return numbers(rows["depth"]) > 0


def numbers(column: pa.ChunkedArray) -> Doubles:
    """A column's values, NaN where there is none."""
    return np.asarray(column.cast(pa.float64()).fill_null(np.nan))


def p_values(rows: Sequence[Row], calibration: Calibration, rate: float) -> Doubles:
    """Of rows with a score: an image's among the calibration images, a volume's among pooled
    groups."""
    scores, volumes = [row["score"] for row in rows], [bool(row.get("depth")) for row in rows]
    return _p_values(np.array(scores, np.float64), np.array(volumes, bool), calibration, rate)


def _p_values(
    scores: Doubles, volumes: NDArray[np.bool_], calibration: Calibration, rate: float
) -> Doubles:
    return np.where(
        volumes, calibration.pooled().p_values(scores, rate), calibration.p_values(scores, rate)
    )


def decide_slices(
    slices: Sequence[Row], calibration: Calibration, *, far: float, fdr: float | None
) -> None:
    """Fill in p_value and flagged of the slices that were scored: a slice counts as an image."""
    rate = far if fdr is None else fdr
    scored = [row for row in slices if row["score"] is not None]
    p = calibration.p_values([row["score"] for row in scored], rate)
    decisive = p if fdr is None else benjamini_hochberg(p, dependent=True)
    for row, p_value, flag in zip(scored, p, decisive <= rate + 1e-12, strict=True):
        row |= {"p_value": float(p_value), "flagged": bool(flag)}


def volume_caveats(
    volumes: Sequence[str], slices: Sequence[Row], calibration: Calibration, rate: float
) -> list[str]:
    """What is to be known of the volumes at these paths: slices that were not scored, and decisions
    that cannot be made or are worth less than they seem."""
    found = []
    scored = Counter(row["path"] for row in slices if row["score"] is not None)
    for reason in (LITTLE, UNSEEN):
        if count := sum(row.get("unscored") == reason for row in slices):
            found.append(f"{count} of {len(slices)} slices were not scored (NaN): {reason}")
    groups = calibration.n_groups
    if not volumes or not groups:
        return found
    if calibration.level(rate) != "group":
        found.append(
            f"no volume or patient can be flagged at {rate:g}: {groups} calibration groups reach p-values of "
            f"{1 / (groups + 1):.3f}; slices are flagged one by one"
        )
    usual = float(np.median(list(Counter(calibration.groups).values())))
    count = float(np.median([scored[path] for path in volumes]))
    if not usual / SLICES_APART <= count <= usual * SLICES_APART:
        found.append(
            f"volumes have {count:g} scored slices, calibration groups {usual:g} images: a volume's highest score is "
            "compared with that of a group of another size; calibrate on volumes like these"
        )
    return found


def group_caveats(groups: pa.Table, calibration: Calibration) -> list[str]:
    """What is to be known of the groups, of images alone, in groups.csv."""
    if not calibration.groups or not len(groups):
        return []
    usual = float(np.median(list(Counter(calibration.groups).values())))
    count = float(np.median(numbers(groups["images"])))
    if count <= usual * SLICES_APART:
        return []
    return [
        f"groups have {count:g} images, calibration groups {usual:g}: of so many the highest score is high by chance "
        "alone, and more than the promised share of normal groups is flagged; calibrate on groups like these, or go by "
        "the images"
    ]


def fdr_statement(calibration: Calibration, fdr: float, images: int, groups: int) -> str:
    """What --fdr promises of so many images in so many groups, and what it takes before anything
    can be flagged."""
    if len(calibration.scores) == 0:
        return calibration.statement(fdr)
    finest = calibration.finest_rate(fdr)
    alike = (
        ""
        if groups == images
        else " (Benjamini–Yekutieli, as images of one group may resemble each other)"
    )
    factor = 1.0 if groups == images else float((1 / np.arange(1, images + 1)).sum())
    needed = int(np.ceil(finest * images * factor / fdr - 1e-9))
    reach = f"at least {needed} of {images} images must reach it before any can be flagged"
    optimistic = (
        f" Optimistic: {calibration.n_groups} calibration groups are too few, so images are taken as independent."
        if calibration.level(fdr) == "image"
        else ""
    )
    return (
        f"Among flagged images at most {fdr:.2%} are expected to be normal{alike}. The smallest possible p-value is "
        f"{finest:.4f}, so {reach if needed <= images else f'none of {images} images can be flagged'}.{optimistic}"
    )
