"""The lists that the gallery's browser fetches from: what is shown of each case, and its thumbnail.

A *shelf* is the list of one page, as it was drawn last, under a text that nobody can guess.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hmac import compare_digest
from threading import Lock, Semaphore

from anodetect.errors import RunError
from anodetect.record import marks
from anodetect.record.marks import Place
from anodetect.record.rows import OK, ScoreRow

from . import thumbnails
from .session import ReviewSession, highest_slice
from .tickets import OFFICE
from .widgets import number_text

MOST = 100_000  # cells; a browser draws no list that is much higher
PAGE = 200  # items that are sent at a time
SIDE = 480  # pixels of a thumbnail
KEPT = 2**27  # bytes of thumbnails in memory
SHELVES = 200


@dataclass(frozen=True)
class Item:
    """A case as the gallery shows it; see shelf.ts."""

    ticket: str
    label: str
    facts: str
    flagged: bool
    verdict: str


@dataclass(frozen=True)
class Shelf:
    """The list of one page, as it was drawn last."""

    session: ReviewSession
    rows: Sequence[ScoreRow]
    blind: bool


_lock = Lock()
_shelves: OrderedDict[str, Shelf] = OrderedDict()
_pictures: OrderedDict[str, bytes] = OrderedDict()  # by ticket
_large = Semaphore(2)  # large images that are read at a time


def put(text: str, shelf: Shelf) -> None:
    """Put a list under a text; those that were not drawn longest are forgotten."""
    with _lock:
        _shelves[text] = shelf
        _shelves.move_to_end(text)
        while len(_shelves) > SHELVES:
            _shelves.popitem(last=False)


def find(text: str) -> Shelf:
    with _lock:
        shelf = _shelves.get(text)
    if shelf is None:
        raise RunError("there is no such list; open the page again")
    return shelf


def items(text: str, start: int, count: int) -> list[Item]:
    """Return what is shown of listed cases; raise RunError where there is no such list."""
    shelf = find(text)
    found = []
    for place in range(start, min(start + min(count, PAGE), len(shelf.rows), MOST)):
        found.append(_item(shelf, shelf.rows[place], place))
    return found


def _item(shelf: Shelf, row: ScoreRow, place: int) -> Item:
    session = shelf.session
    hidden = session.is_hidden(row.path, shelf.blind)
    own = session.own_verdict(row.path)
    facts = ""
    if not hidden:
        facts = f"p {number_text(row.p_value)}" if row.status == OK else row.status
    return Item(
        ticket=OFFICE.ticket(session.directory, row, hidden=hidden),
        label=f"Case {place + 1}" if hidden else row.path,
        facts=facts,
        flagged=bool(row.flagged) and not hidden,
        verdict="" if own is None else own.verdict,
    )


def picture(text: str, ticket: str) -> bytes:
    """Return the thumbnail of a case as JPEG; raise RunError where there is none. The proof of its
    ticket is sent along."""
    shelf = find(text)
    case = OFFICE.find(ticket)
    with _lock:
        if ticket in _pictures:
            _pictures.move_to_end(ticket)
            return _pictures[ticket]

    row = case.row
    if thumbnails.is_large(row):
        with _large:
            found = thumbnails.jpeg(case.directory, row, place_of(shelf, row, case.hidden), SIDE)
    else:
        found = thumbnails.jpeg(case.directory, row, marks.WHOLE, SIDE)
    with _lock:
        _pictures[ticket] = found
        total = sum(map(len, _pictures.values()))
        while total > KEPT and len(_pictures) > 1:
            total -= len(_pictures.popitem(last=False)[1])
    return found


def place_of(shelf: Shelf, row: ScoreRow, hidden: bool) -> Place:
    """Return which picture stands for a case: of a volume the slice with the highest score, or the
    middle one while scores are hidden."""
    if not row.is_volume:
        return marks.WHOLE
    slices = shelf.session.scores.slices.get(row.path)
    if not slices:
        raise RunError("the volume's slices were not recorded; score it again")
    shown = slices[len(slices) // 2] if hidden else highest_slice(slices)
    return marks.place_of(shown.axis, shown.slice)


def is_proof(text: str, ticket: str) -> bool:
    """Return whether a text came with the thumbnail of a case, from this start of the app or one
    before."""
    return compare_digest(text.encode(), OFFICE.proof(ticket).encode())
