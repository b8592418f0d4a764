"""The outcome of the verdicts that browsers send, the viewer's and the gallery's.

Each verdict has an id, and is recorded once however often it is sent: this process remembers the
receipts, and the store knows ids from before a new start. Streamlit starts the next drawing of a
page before the last one has ended, so that two threads can have the same message; and it ends a
thread wherever Streamlit's state is read, so that a record is noted here at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Protocol, TypeVar

from anodetect.errors import AnodetectError, ConfigError
from anodetect.record.reviews import Review

from . import worklist
from .session import ReviewSession

UNDO = "undo"
KEPT = 1000  # receipts of a reviewer's last verdicts


@dataclass(frozen=True)
class Receipt:
    """The outcome of a verdict: its record, or the problem that kept it from being recorded."""

    id: str
    text: str
    problem: bool = False


@dataclass(frozen=True)
class Done:
    """The outcome of a verdict, and the path of the case to open after it. A receipt that names the
    case `named` has the text `unnamed` while that one is hidden."""

    receipt: Receipt
    path: str
    named: str = ""
    unnamed: str = ""


class Sent(Protocol):
    """A verdict, or UNDO, as a browser sends it."""

    @property
    def id(self) -> str: ...


V = TypeVar("V", bound=Sent)

_done: dict[tuple[str, str], dict[str, Done]] = {}  # by score directory and reviewer, then by ids
_recording = Lock()


def receipts_of(session: ReviewSession, *, blind: bool) -> list[Receipt]:
    """Return the receipts of the reviewer's last verdicts, none of which names a case that is
    hidden now."""
    with _recording:
        all_done = list(_done_of(session).values())
    found = []
    for done in all_done:
        is_hidden = done.named and session.is_hidden(done.named, blind)
        found.append(replace(done.receipt, text=done.unnamed) if is_hidden else done.receipt)
    return found


def settle(
    session: ReviewSession, sent: Sequence[V], record: Callable[[V], Done], path: str
) -> list[Done]:
    """Record each verdict with `record`, unless it is recorded, and return what became of it.
    Where one could not be recorded the case stays open that was: `path` at first."""
    found = []
    with _recording:
        kept = _done_of(session)
        for each in sent:
            known = kept.get(each.id)
            if known is None or known.receipt.problem:
                try:
                    known = record(each)
                except AnodetectError as error:
                    known = Done(Receipt(each.id, str(error), problem=True), path)
                kept[each.id] = known
            path = known.path
            found.append(known)
        for old in list(kept)[:-KEPT]:
            del kept[old]
    return found


def _done_of(session: ReviewSession) -> dict[str, Done]:
    return _done.setdefault((session.store.head, session.reviewer), {})


def take_back(session: ReviewSession, id: str) -> Done:
    """Take the reviewer's last verdict back, once for this id; ConfigError where there is none."""
    last = _taken_back(session, id)
    record = session.store.withdraw(last, session.reviewer, id)
    text = f"took back {last.verdict} on {last.path}, record {record.number}"
    unnamed = f"took back {last.verdict}, record {record.number}"
    return Done(Receipt(id, text), last.path, last.path, unnamed)


def _taken_back(session: ReviewSession, id: str) -> Review:
    """Return the verdict that an undo takes back: the one that it has taken back, if it was
    recorded already, else the reviewer's last one. Raises ConfigError where there is none."""
    all_reviews = session.store.read()
    done = session.store.find(id)
    if done is not None and done.withdraws is not None:
        return next(each for each in all_reviews if each.number == done.withdraws)
    last = worklist.last_of(all_reviews, session.reviewer)
    if last is None:
        raise ConfigError("there is no verdict of yours to take back")
    return last
