"""Tickets: what the browser may fetch of a case. A ticket is the case's place in its directory,
encrypted, so that it says nothing about the case, and nobody can make one. It is the same text when
the app has been started anew. The tickets of a hidden case are for its image alone.

Cases are read when they are first asked for, and kept while memory lasts.
"""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from threading import Lock

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from anodetect.errors import RunError
from anodetect.record.directories import ScoreDirectory
from anodetect.record.rows import ScoreRow, SliceRow

from . import loading, progress, slices, state, tiles
from .large import SlicesByPath
from .progress import Progress
from .slices import Sliced
from .tiles import Tiled

KEPT = 2**30  # bytes of cases in memory; the last one is kept however large it is
LARGEST_NUMBER = 100_000  # tickets in memory
# Of a ticket: directory, row, hidden, with a map that was made again.
CONTENT = struct.Struct(">16sQ??")


@dataclass(frozen=True, eq=False)
class Ticket:
    """The case that a ticket is for. Of a `hidden` case nothing is shown that reveals its score."""

    text: str
    directory: ScoreDirectory
    row: ScoreRow
    hidden: bool
    lock: Lock = field(default_factory=Lock, repr=False)  # held while the case is read


@dataclass(frozen=True, eq=False)
class Opened:
    """A score directory that a session has opened, and the numbers of its rows by their paths."""

    directory: ScoreDirectory
    numbers: Mapping[str, int]


class Office:
    """All tickets, and the cases that were read for them."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._lock = Lock()
        self._cipher: AESSIV | None = None
        self._opened: dict[bytes, Opened] = {}
        self._tickets: OrderedDict[str, Ticket] = OrderedDict()
        self._cases: OrderedDict[str, Tiled | Sliced] = OrderedDict()
        self._progress: dict[str, Progress] = {}

    def ticket(self, directory: ScoreDirectory, row: ScoreRow, *, hidden: bool) -> str:
        """Return the ticket for a case; it is the same one each time, until its map is made again:
        then the browser fetches the case anew."""
        audit = directory.audit
        name = "\0".join([str(directory.path), audit.head, audit.root])
        key = sha256(name.encode("utf-8", "surrogateescape")).digest()[:16]
        with self._lock:
            opened = self._opened.get(key)
            if opened is None or opened.directory is not directory:
                opened = self._opened[key] = Opened(directory, directory.numbers)
            again = not hidden and loading.is_made_again(directory, row)
            content = CONTENT.pack(key, opened.numbers[row.path], hidden, again)
            return urlsafe_b64encode(self._sealing().encrypt(content, None)).decode().rstrip("=")

    def find(self, text: str) -> Ticket:
        """Return a ticket by its text; raise RunError where there is none."""
        with self._lock:
            if text not in self._tickets:
                self._tickets[text] = self._read(text)
            self._tickets.move_to_end(text)
            if len(self._tickets) > LARGEST_NUMBER:
                oldest, _ = self._tickets.popitem(last=False)
                self._cases.pop(oldest, None)
            return self._tickets[text]

    def _read(self, text: str) -> Ticket:
        """Return the ticket that a text is; raise RunError for any other text, and where nobody has
        opened its directory."""
        try:
            sealed = urlsafe_b64decode(text + "=" * (-len(text) % 4))
            content = self._sealing().decrypt(sealed, None)
            key, number, hidden, _ = CONTENT.unpack(content)
        except (ValueError, InvalidTag, struct.error):
            raise RunError("there is no such case; open the page again") from None

        opened = self._opened.get(key)
        if opened is None or number >= len(opened.numbers):
            raise RunError("there is no such case; open the page again")
        row = opened.directory.row_at(number)
        return Ticket(text, opened.directory, row, hidden)

    def proof(self, text: str) -> str:
        """Return what is sent along with the thumbnail of a ticket: who names it has had the
        thumbnail. It is the same text when the app has been started anew."""
        with self._lock:
            sealed = self._sealing().encrypt(b"thumbnail", [text.encode()])
        return urlsafe_b64encode(sealed).decode()

    def _sealing(self) -> AESSIV:
        if self._cipher is None:
            self._cipher = AESSIV(state.kept_key())
        return self._cipher

    def case(self, text: str, *, anew: bool = False) -> Tiled | Sliced:
        """Return the case of a ticket, read at most once at a time; `anew` reads a case without an
        image again, since files can be put back. Raises RunError for an unknown ticket."""
        ticket = self.find(text)
        with ticket.lock:
            with self._lock:
                known = self._cases.get(text)
                if known is not None and (known.layers or not anew):
                    self._cases.move_to_end(text)
                    return known

            try:
                with progress.reporting(partial(self._progress.__setitem__, text)):
                    case = _case_of(ticket)
            finally:
                self._progress.pop(text, None)
            with self._lock:
                self._keep(text, case)
            return case

    def progress(self, text: str) -> Progress | None:
        """Return how far the reading of a ticket's case is, None while it is not being read."""
        return self._progress.get(text)

    def image(self, text: str) -> Tiled:
        """Return the image of a ticket; raise RunError for an unknown ticket or a volume."""
        case = self.case(text)
        if isinstance(case, Sliced):
            raise RunError("it is a volume; open the page again")
        return case

    def volume(self, text: str) -> Sliced:
        """Return the volume of a ticket; raise RunError for an unknown ticket or an image."""
        case = self.case(text)
        if isinstance(case, Tiled):
            raise RunError("it is an image; open the page again")
        return case

    def _keep(self, text: str, case: Tiled | Sliced) -> None:
        """Keep a case, and forget those that were not asked for longest."""
        self._cases[text] = case
        self._cases.move_to_end(text)
        total = sum(each.nbytes for each in self._cases.values())
        while total > self._kept and len(self._cases) > 1:
            _, forgotten = self._cases.popitem(last=False)
            total -= forgotten.nbytes


def recorded_slices(directory: ScoreDirectory, path: str) -> Sequence[SliceRow]:
    """Return the slices of a volume, as they were scored; none where they were not recorded."""
    if not (directory.path / "slices.parquet").is_file():
        return ()
    return SlicesByPath(directory.path).get(path, ())


def _case_of(ticket: Ticket) -> Tiled | Sliced:
    """Return the case of a ticket, read from its files."""
    directory, row = ticket.directory, ticket.row
    if not row.is_volume:
        return tiles.tiled(loading.load(directory, row), hidden=ticket.hidden)
    rows = recorded_slices(directory, row.path)
    if not rows:
        return slices.nothing(slices.UNRECORDED)
    volume = loading.load_volume(directory, row, rows[0].axis)
    return slices.sliced(volume, row, rows, hidden=ticket.hidden)


OFFICE = Office()
