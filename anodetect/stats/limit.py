"""The detection limit: which planted defects a model finds at a false-alarm rate.

Planted defects are not real ones: what a model finds of them says how small and how faint a change
it notices, not which defects a factory or a disease makes.

Few images are scored for each size and contrast, so shares of single cells are unsteady. Larger and
stronger defects of a kind are taken to be found no less often: the shares are those that are most
likely under this order, which are the isotonic regression of the counts over size and contrast
(Robertson, Wright & Dykstra, Order Restricted Statistical Inference, 1988, sections 1.4 and 1.5).

Intervals are those of shares drawn from each cell's Beta(found + 1/2, missed + 1/2) and brought
into the same order (Dunson & Neelon, Biometrics 2003).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect.stats.calibration import Calibration, Doubles
from anodetect.words import amount

GOAL = 0.9  # the share that has to be found for a size to be within the limit
DRAWS = 100  # of all shares, for intervals
INTERVAL = (2.5, 97.5)  # percent


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
    """The number of `images` with planted defects of one kind, size and contrast, and of those
    `found`.

    `pixels` is the size in pixels. `share` is the share found, made to rise with size and contrast,
    and `low` to `high` its 95 % interval.
    """

    kind: str
    size: float
    pixels: float
    contrast: float | None
    images: int
    found: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class KindLimit:
    """The size from which on defects of a kind are found, at the faintest contrast with such a
    size.

    `pixels` and the ends of its 95 % interval are sizes that were tried, None for a larger one than
    these. `largest` is the largest size tried, in pixels; `trials` counts the images of this kind.
    """

    kind: str
    contrast: float | None
    pixels: float | None
    low: float | None
    high: float | None
    largest: float
    trials: int

    def text(self) -> str:
        """Return the limit in words."""
        if self.pixels is None:
            return f"{self.kind} at any size tried (up to {self.largest:.0f} px)"
        contrast = "" if self.contrast is None else f" at contrast {self.contrast:g}"
        more = f"above {self.largest:.0f}"
        low, high = (more if end is None else f"{end:.0f}" for end in (self.low, self.high))
        return f"{self.kind} from {self.pixels:.0f} px ({low} to {high}){contrast}"


@dataclass(frozen=True)
class LimitTable:
    """A limit as a table of texts: a line for each kind and contrast, a column for each size."""

    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class DetectionLimit:
    """The rows of a detection limit at a false-alarm rate `far`, and what they mean for each kind;
    `note` says what is lacking."""

    far: float
    rows: tuple[LimitRow, ...]
    kinds: tuple[KindLimit, ...] = ()
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the limit with its sentence as JSON values."""
        return {
            "far": self.far,
            "rows": [asdict(row) for row in self.rows],
            "kinds": [asdict(kind) for kind in self.kinds],
            "note": self.note,
            "statement": self.statement(),
        }

    def statement(self) -> str:
        """Return in one sentence from which size on defects of each kind are found, with 95 %
        intervals, and in how many trials."""
        if not self.rows:
            return f"No detection limit: {self.note}."
        found = [kind.text() for kind in self.kinds if kind.pixels is not None]
        lost = [kind.text() for kind in self.kinds if kind.pixels is None]

        parts = []
        if found:
            parts.append(f"it finds {GOAL:.0%} of planted {', '.join(found)}")
        if lost:
            parts.append(f"it does not find {GOAL:.0%} of planted {', '.join(lost)}")
        trials = amount(sum(kind.trials for kind in self.kinds), "trial")
        note = f"{trials}, {self.note}" if self.note else trials
        if found:
            note += "; 95% intervals in brackets"
        return f"At a false-alarm rate of {self.far:.2g} {'; '.join(parts)} ({note})."

    def table(self) -> LimitTable:
        """Return the shares found, made to rise with size and contrast, each with how many of how
        many images it comes from."""
        pixels = {row.size: row.pixels for row in self.rows}
        sizes = sorted(pixels)
        heads = ("planted", "contrast", *(f"{size:.0%} ({pixels[size]:.0f} px)" for size in sizes))

        lines = []
        for kind, contrast in dict.fromkeys((row.kind, row.contrast) for row in self.rows):
            texts = {}
            for row in self.rows:
                if (row.kind, row.contrast) == (kind, contrast):
                    texts[row.size] = f"{row.share:.0%} ({row.found} of {row.images})"
            shown = "as cut" if contrast is None else f"{contrast:g}"
            lines.append((kind, shown, *(texts.get(size, "–") for size in sizes)))
        return LimitTable(heads, tuple(lines))


def detection_limit(trials: PlantedTrials, calibration: Calibration, far: float) -> DetectionLimit:
    """Return the detection limit at a false-alarm rate."""
    if trials.cells and calibration.level(far) == "none":
        return DetectionLimit(far, (), note=f"nothing can be flagged at {far:g}")
    threshold = calibration.threshold(far)

    rows: list[LimitRow] = []
    kinds: list[KindLimit] = []
    for name in dict.fromkeys(cell.kind for cell in trials.cells):
        cells = [cell for cell in trials.cells if cell.kind == name]
        own, limit = _limit_of_kind(cells, threshold, trials.side)
        rows += own
        kinds.append(limit)
    return DetectionLimit(far, tuple(rows), tuple(kinds), trials.note)


def _limit_of_kind(
    cells: Sequence[PlantedCell], threshold: float, side: float
) -> tuple[list[LimitRow], KindLimit]:
    """Return the rows of one kind, by contrast and size, and its limit."""
    contrasts = sorted({cell.contrast for cell in cells}, key=lambda contrast: contrast or 0.0)
    sizes = sorted({cell.size for cell in cells})
    images, found = (np.zeros((len(contrasts), len(sizes)), int) for _ in range(2))
    for cell in cells:
        place = contrasts.index(cell.contrast), sizes.index(cell.size)
        images[place] = len(cell.scores)
        found[place] = np.sum(np.array(cell.scores) > threshold)

    rng = np.random.default_rng(0)
    drawn = rng.beta(found + 0.5, images - found + 0.5, (DRAWS, *images.shape))
    shares = isotonic((found / np.maximum(images, 1))[None], images)[0]
    drawn = isotonic(drawn, images)
    low, high = np.percentile(drawn, INTERVAL, axis=0)
    low, high = np.minimum(low, shares), np.maximum(high, shares)

    rows = []
    for row, column in zip(*np.nonzero(images), strict=True):
        place = row, column
        rows.append(
            LimitRow(
                kind=cells[0].kind,
                size=sizes[column],
                pixels=sizes[column] * side,
                contrast=contrasts[row],
                images=int(images[place]),
                found=int(found[place]),
                share=float(shares[place]),
                low=float(low[place]),
                high=float(high[place]),
            )
        )

    faintest = _faintest(shares)
    first = _first_within(shares[faintest])
    ends = np.percentile(_first_within(drawn[:, faintest]), INTERVAL, method="nearest")
    tried: list[float | None] = [size * side for size in sizes]
    tried.append(None)
    limit = KindLimit(
        kind=cells[0].kind,
        contrast=contrasts[faintest],
        pixels=tried[int(first)],
        low=tried[int(min(ends[0], first))],
        high=tried[int(max(ends[1], first))],
        largest=sizes[-1] * side,
        trials=int(images.sum()),
    )
    return rows, limit


def _faintest(shares: Doubles) -> int:
    """Return the row of the faintest contrast at which the goal is reached, the last one where it
    is never reached."""
    reached = np.flatnonzero(_first_within(shares) < shares.shape[1])
    return int(reached[0]) if len(reached) else len(shares) - 1


def _first_within(shares: Doubles) -> NDArray[np.intp]:
    """Return the number of the first size [...] at which the share found [..., sizes] reaches the
    goal; the number of sizes where none does."""
    within: NDArray[np.intp] = np.sum(shares < GOAL - 1e-9, axis=-1)
    return within


def isotonic(values: Doubles, weights: NDArray[np.int64]) -> Doubles:
    """Return the values [N, rows, columns] that fall neither along rows nor along columns and
    differ least from the given ones by squares, weighted with `weights` [rows, columns].

    It is max_U min_L of the mean over U ∩ L, where U are the sets that hold with a cell all larger
    ones, L those that hold all smaller ones, and both hold the cell (Robertson et al., theorem
    1.4.4). The sets are counted out, so rows and columns have to be few.
    """
    rows, columns = weights.shape
    above = []
    for starts in combinations_with_replacement(range(columns, -1, -1), rows):
        above.append(np.arange(columns) >= np.array(starts)[:, None])
    upper = np.array(above).reshape(len(above), -1)
    both = (upper[:, None] & ~upper[None]).reshape(-1, rows * columns)  # each U with each L

    flat, weight = values.reshape(len(values), -1), weights.reshape(-1).astype(float)
    total = both @ weight
    sums = both @ (flat * weight).T
    means = np.full(sums.shape, np.inf)
    np.divide(sums, total[:, None], out=means, where=total[:, None] > 0)
    means = means.reshape(len(upper), len(upper), -1)

    fitted = np.empty_like(flat)
    for cell in range(rows * columns):
        holds = upper[:, cell]
        least = means[holds][:, ~holds].min(1)
        fitted[:, cell] = np.where(np.isinf(least), -np.inf, least).max(0)
    return fitted.reshape(values.shape)


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
    """Return a limit as a Markdown table; see `DetectionLimit.table`."""
    table = limit.table()
    rule = "|" + "---|" * len(table.heads)
    rows = [f"| {' | '.join(line)} |" for line in (table.heads, *table.lines)]
    return "\n".join([rows[0], rule, *rows[1:]])
