"""Batches of one model over time: whether the share that is flagged stays what it was."""

from collections.abc import Sequence
from dataclasses import dataclass

from anodetect.stats.calibration import clopper_pearson


@dataclass(frozen=True)
class FlaggedShare:
    """The share of flagged images in a batch and its 95 % interval; NaN for an empty batch. With
    `above` the whole interval lies above the false-alarm rate that was promised."""

    flagged: int
    scored: int
    low: float
    high: float
    above: bool

    @property
    def value(self) -> float:
        return self.flagged / self.scored if self.scored else float("nan")


def flagged_share(flagged: int, scored: int, far: float | None) -> FlaggedShare:
    """Return the share of `flagged` among `scored` images (which count as independent), judged by
    the promised rate `far`, None where flags keep a false-discovery rate."""
    low, high = clopper_pearson(flagged, scored)
    return FlaggedShare(flagged, scored, low, high, far is not None and scored > 0 and low > far)


def jumps(shares: Sequence[FlaggedShare]) -> list[bool]:
    """Return for each batch whether its share differs from that of all before it together which did
    not differ themselves: whether the two intervals have nothing in common. The first one has
    nothing to differ from."""
    found, flagged, scored = list[bool](), 0, 0
    for share in shares:
        low, high = clopper_pearson(flagged, scored)
        jumped = bool(scored and share.scored) and (share.low > high or share.high < low)
        found.append(jumped)
        if not jumped:
            flagged, scored = flagged + share.flagged, scored + share.scored
    return found
