"""Which images of a scoring keep their files: maps, pictures, masks and outlines. No torch.

What is kept hangs on an image alone, not on the others of its batch, so it is the same in any
order, in shards and when a scoring is resumed, and anyone who has the record can check it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import compute as pc

from anodetect.errors import ConfigError
from anodetect.record.audit import Scoring
from anodetect.record.rows import AT_ONCE, OK
from anodetect.stats.calibration import DEFAULT_FAR, Calibration
from anodetect.types import Bools

ALL = "all"
BORDERLINE = 2.0  # times the false-alarm rate: images with p-values up to it are borderline


@dataclass(frozen=True)
class Keep:
    """The rule by which files are kept.

    Of images with scores above `threshold`, volumes with scores above `volume_threshold`, and all
    whose label is known; and of one in `sample` others, drawn by the hash of their contents, or of
    none if that is 0.
    """

    threshold: float
    volume_threshold: float
    sample: int = 0

    def keeps(self, score: float, sha256: str, label: int | None, *, is_volume: bool) -> bool:
        """Return whether the files of an image or volume with this score are kept."""
        if label is not None or score > (self.volume_threshold if is_volume else self.threshold):
            return True
        # The first half decides over shards.
        return bool(self.sample) and int(sha256[-16:], 16) % self.sample == 0


def keep_of(text: str, calibration: Calibration, far: float | None) -> Keep | None:
    """Return the rule that `--keep` names, at a false-alarm rate, by default DEFAULT_FAR; None for
    "all". ConfigError if it names none, or where nothing can be flagged."""
    if text == ALL:
        return None
    match = re.fullmatch(r"flagged|sample=([1-9]\d{0,8})", text)
    if match is None:
        raise ConfigError(
            f"--keep {text}: all, flagged or sample=N is expected, for example sample=100 for the "
            "flagged and one in a hundred of the others"
        )
    if not calibration.groups:
        raise ConfigError(
            f"--keep {text}: the run has no calibration images, so nothing is flagged; leave it out"
        )

    rate = DEFAULT_FAR if far is None else far
    rates = (rate, min(1.0, BORDERLINE * rate))
    pooled = calibration.pooled()
    return Keep(
        min(calibration.threshold(each) for each in rates),
        min(pooled.threshold(each) for each in rates),
        int(match[1] or 0),
    )


def kept(rows: pa.Table, scoring: Scoring) -> Bools:
    """Return which rows, of a table of ScoreRow, have a score and keep their files [n]."""
    scored = np.asarray(pc.equal(rows["status"], OK), bool)
    rule = keep_of(scoring.keep, scoring.calibration, scoring.far)
    if rule is None:
        return scored
    found = np.zeros(len(rows), bool)
    for place, (score, sha256, label, depth) in enumerate(_facts(rows)):
        if scored[place]:
            found[place] = rule.keeps(score, sha256, label, is_volume=bool(depth))
    return found


def not_kept(rows: pa.Table, scoring: Scoring) -> int:
    """Return how many rows have a score, but do not keep their files."""
    if scoring.keep == ALL or not scoring.heatmaps:
        return 0
    scored = int(np.asarray(pc.equal(rows["status"], OK), bool).sum())
    return scored - int(kept(rows, scoring).sum())


def _facts(rows: pa.Table) -> Iterator[tuple[float, str, int | None, int | None]]:
    facts = rows.select(["score", "sha256", "label", "depth"])
    for batch in facts.to_batches(max_chunksize=AT_ONCE):
        yield from zip(*(column.to_pylist() for column in batch), strict=True)
