"""The detection limit: which planted defects a model finds at a false-alarm rate.

Planted defects are not real ones: what a model finds of them says how small and how faint a change
it notices, not which defects a factory or a disease makes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from anodetect.stats.calibration import Calibration

GOAL = 0.9  # the share that has to be found for a size to be within the limit


@dataclass(frozen=True)
class PlantedCell:
    """The scores of normal images in which defects of one kind, size and contrast were planted.

    `size` is a share of the shorter side of an image or tile. `contrast` is a share of the range of
    an image's values; None where the defect is as it was cut out of another image.
    """

    kind: str
    size: float
    contrast: float | None
    scores: tuple[float, ...]


@dataclass(frozen=True)
class PlantedTrials:
    """All images with planted defects that a model has scored at the end of its training.

    `side` is the median shorter side, in pixels, of the images or tiles. `note` says why fewer
    images than usual were scored, or none; "" if that is not so.
    """

    side: float
    cells: tuple[PlantedCell, ...]
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the trials as JSON values."""
        cells = [asdict(cell) | {"scores": list(cell.scores)} for cell in self.cells]
        return {"side": self.side, "cells": cells, "note": self.note}


@dataclass(frozen=True)
class LimitRow:
    """How many of the `images` with planted defects of a kind, size and contrast were `found`.

    `pixels` is the size in pixels. `share` is the share found, made to rise with the size: larger
    defects of the same contrast are taken to be found no less often (isotonic regression).
    """

    kind: str
    size: float
    pixels: float
    contrast: float | None
    images: int
    found: int
    share: float


@dataclass(frozen=True)
class DetectionLimit:
    """The rows of a detection limit at a false-alarm rate `far`; `note` says what is lacking."""

    far: float
    rows: tuple[LimitRow, ...]
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the limit with its sentence as JSON values."""
        rows = [asdict(row) for row in self.rows]
        sentence = self.statement()
        return {"far": self.far, "rows": rows, "note": self.note, "statement": sentence}

    def statement(self) -> str:
        """Return in one sentence from which size on defects of each kind are found.

        Of each kind the faintest contrast counts at which there is such a size.
        """
        if not self.rows:
            return f"No detection limit: {self.note}."
        found, lost = [], []
        for kind in dict.fromkeys(row.kind for row in self.rows):
            rows = [row for row in self.rows if row.kind == kind]
            within = [row for row in rows if row.share >= GOAL]
            if within:
                first = min(within, key=_faintness)
                contrast = "" if first.contrast is None else f" at contrast {first.contrast:g}"
                found.append(f"{kind} from {first.pixels:.0f} px{contrast}")
            else:
                lost.append(f"{kind} at any size tried (up to {rows[-1].pixels:.0f} px)")

        parts = []
        if found:
            parts.append(f"it finds {GOAL:.0%} of planted {', '.join(found)}")
        if lost:
            parts.append(f"it does not find {GOAL:.0%} of planted {', '.join(lost)}")
        note = f" ({self.note})" if self.note else ""
        return f"At a false-alarm rate of {self.far:.2g} {'; '.join(parts)}{note}."


def detection_limit(trials: PlantedTrials, calibration: Calibration, far: float) -> DetectionLimit:
    """Return the detection limit at a false-alarm rate."""
    note = trials.note
    if trials.cells and calibration.level(far) == "none":
        return DetectionLimit(far, (), f"nothing can be flagged at {far:g}")
    threshold = calibration.threshold(far)

    rows: list[LimitRow] = []
    series = dict.fromkeys((cell.kind, cell.contrast) for cell in trials.cells)
    for kind, contrast in series:
        cells = [each for each in trials.cells if (each.kind, each.contrast) == (kind, contrast)]
        cells.sort(key=lambda each: each.size)
        images = np.array([len(each.scores) for each in cells])
        found = np.array([int(np.sum(np.array(each.scores) > threshold)) for each in cells])
        shares = rising((found / images).tolist(), images.tolist())
        for cell, count, hits, share in zip(cells, images, found, shares, strict=True):
            pixels = cell.size * trials.side
            row = LimitRow(kind, cell.size, pixels, contrast, int(count), int(hits), share)
            rows.append(row)
    return DetectionLimit(far, tuple(rows), note)


def rising(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Return the values that rise, or stay, and differ least from the given ones by weighted
    squares: isotonic regression by pooling adjacent violators (Ayer et al., 1955)."""
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many values
    for value, weight in zip(values, weights, strict=True):
        mean, total, count = float(value), float(weight), 1
        while blocks and blocks[-1][0] >= mean:
            before, own, more = blocks.pop()
            mean = (before * own + mean * total) / (own + total)
            total, count = own + total, count + more
        blocks.append((mean, total, count))

    fitted: list[float] = []
    for mean, _, count in blocks:
        fitted += [mean] * count
    return fitted


def trials_of(content: Mapping[str, Any] | None) -> PlantedTrials | None:
    """Return the trials that `PlantedTrials.as_json` wrote; None for None.

    KeyError, TypeError or ValueError if it wrote something else.
    """
    if content is None:
        return None
    cells = []
    for each in content["cells"]:
        scores = tuple(float(score) for score in each["scores"])
        contrast = None if each["contrast"] is None else float(each["contrast"])
        cells.append(PlantedCell(str(each["kind"]), float(each["size"]), contrast, scores))
    return PlantedTrials(float(content["side"]), tuple(cells), str(content["note"]))


def limit_table(limit: DetectionLimit) -> str:
    """Return a limit as a Markdown table: found of scored images, a column for each size."""
    sizes = sorted({row.size for row in limit.rows})
    pixels = {row.size: row.pixels for row in limit.rows}
    heads = [f"{size:.0%} ({pixels[size]:.0f} px)" for size in sizes]
    lines = [f"| planted | contrast | {' | '.join(heads)} |", "|---|---|" + "---|" * len(sizes)]

    for kind, contrast in dict.fromkeys((row.kind, row.contrast) for row in limit.rows):
        own = [row for row in limit.rows if (row.kind, row.contrast) == (kind, contrast)]
        counts = {row.size: f"{row.found} of {row.images}" for row in own}
        shown = "as cut" if contrast is None else f"{contrast:g}"
        line = " | ".join(counts.get(size, "–") for size in sizes)
        lines.append(f"| {kind} | {shown} | {line} |")
    return "\n".join(lines)


def _faintness(row: LimitRow) -> tuple[float, float]:
    return row.contrast or 0.0, row.pixels
