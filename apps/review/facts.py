"""The texts about a case that stand beside its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from anodetect.files import as_shown
from anodetect.record.rows import FAILED, OK, SKIPPED, ScoreRow

from .widgets import number_text

DECISIONS = {True: "flagged", False: "not flagged", None: "not decided: there is no calibration"}


@dataclass(frozen=True)
class Facts:
    """The name of a case with its place in the list, lines about its score, and a warning with its
    reason; both are "" where there is nothing to warn of."""

    title: str
    lines: tuple[str, ...] = ()
    warning: str = ""
    reason: str = ""


def facts_of(row: ScoreRow, paths: Sequence[str], hidden: bool) -> Facts:
    """Return the facts of a case; those of a `hidden` one name neither it nor its score."""
    place = "no longer in the list"
    if row.path in paths:
        place = f"{paths.index(row.path) + 1} of {len(paths)}"
    if hidden:
        return Facts(f"Case {place}")

    names = [row.path]
    names += [name for name in dict.fromkeys((row.group, row.study)) if name not in ("", row.path)]
    title = f"{' · '.join(map(as_shown, names))}  ({place})"
    if row.status != OK:
        status = row.status if row.status in (FAILED, SKIPPED) else "not scored"
        return Facts(title, (), f"This file was {status}:", row.error)

    p, score, threshold = map(number_text, (row.p_value, row.score, row.threshold))
    line = (
        f"p {p} · score {score} (threshold {threshold}; larger is more anomalous) · "
        f"{DECISIONS[row.flagged]}"
    )
    differs = "Unlike what the model has seen; its p-value may not hold:" if row.differs else ""
    return Facts(title, (line,), differs, row.differs)
