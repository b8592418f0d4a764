"""Tickets: what the browser may fetch of a case. A ticket is a random text that says nothing about
the case; whoever has none gets nothing. The tickets of a hidden case are for its image alone.

Cases are read when they are first asked for, and kept while memory lasts.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from secrets import token_urlsafe
from threading import Lock

from anodetect.errors import RunError
from anodetect.record.directories import ScoreDirectory
from anodetect.record.rows import ScoreRow

from . import loading, tiles
from .tiles import Tiled

KEPT = 2**30  # bytes of cases in memory; the last one is kept however large it is
LARGEST_NUMBER = 100_000  # tickets


@dataclass(frozen=True, eq=False)
class Ticket:
    """The case that a ticket is for. `channel` is "" for an image of one file; of a `hidden` case
    nothing is shown that reveals its score."""

    text: str
    directory: ScoreDirectory
    row: ScoreRow
    channel: str
    hidden: bool
    lock: Lock = field(default_factory=Lock, repr=False)  # held while the case is read


class Office:
    """All tickets, and the cases that were read for them."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._lock = Lock()
        self._texts: OrderedDict[tuple[str, ...], str] = OrderedDict()
        self._tickets: dict[str, Ticket] = {}
        self._cases: OrderedDict[str, Tiled] = OrderedDict()

    def ticket(
        self, directory: ScoreDirectory, row: ScoreRow, channel: str = "", *, hidden: bool
    ) -> str:
        """Return the ticket for a case; it is the same one each time."""
        audit = directory.audit
        key = (str(directory.path), audit.head, audit.root, row.path, channel, str(hidden))
        with self._lock:
            if key in self._texts:
                self._texts.move_to_end(key)
                return self._texts[key]

            text = token_urlsafe(16)
            self._texts[key] = text
            self._tickets[text] = Ticket(text, directory, row, channel, hidden)
            if len(self._texts) > LARGEST_NUMBER:
                _, oldest = self._texts.popitem(last=False)
                del self._tickets[oldest]
                self._cases.pop(oldest, None)
            return text

    def find(self, text: str) -> Ticket:
        """Return a ticket by its text; raise RunError where there is none."""
        with self._lock:
            ticket = self._tickets.get(text)
        if ticket is None:
            raise RunError("there is no such case; open the page again")
        return ticket

    def case(self, text: str, *, anew: bool = False) -> Tiled:
        """Return the case of a ticket, read at most once at a time; `anew` reads a case without an
        image again, since files can be put back. Raises RunError for an unknown ticket."""
        ticket = self.find(text)
        with ticket.lock:
            with self._lock:
                known = self._cases.get(text)
                if known is not None and (known.layers or not anew):
                    self._cases.move_to_end(text)
                    return known

            read = loading.load(ticket.directory, ticket.row, ticket.channel)
            case = tiles.tiled(read, hidden=ticket.hidden)
            with self._lock:
                self._keep(text, case)
            return case

    def _keep(self, text: str, case: Tiled) -> None:
        """Keep a case, and forget those that were not asked for longest."""
        self._cases[text] = case
        self._cases.move_to_end(text)
        total = sum(each.nbytes for each in self._cases.values())
        while total > self._kept and len(self._cases) > 1:
            _, forgotten = self._cases.popitem(last=False)
            total -= forgotten.nbytes


OFFICE = Office()
