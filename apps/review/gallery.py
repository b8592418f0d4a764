"""The gallery: thumbnails of all listed cases, several of which are judged at once, each with a
record of its own.

The browser fetches what it shows from a shelf (shelves.py). It reports which thumbnails it has
painted, and the record of such a verdict says that a thumbnail was shown, and of a volume which
slice.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from secrets import token_urlsafe

import streamlit as st
from pydantic import TypeAdapter, ValidationError

from anodetect.errors import ConfigError, DataError
from anodetect.record import marks
from anodetect.record.marks import Shown
from anodetect.record.reviews import JUDGEMENTS, Judgement
from anodetect.record.rows import ScoreRow

from . import drafts, receipts, regions, shelves
from .case_list import go_to
from .receipts import UNDO, Done, Receipt
from .routes import script
from .session import ReviewSession
from .shelves import Shelf
from .tickets import OFFICE

COMPONENT = "gallery"


@dataclass(frozen=True)
class Given:
    """A verdict on one case, or UNDO, as the browser sends it; `painted` is what came with the
    thumbnail that was on the screen (shelves.picture), "" if none was."""

    id: str
    ticket: str
    verdict: str
    painted: str = ""


@dataclass(frozen=True)
class Message:
    """A message of the gallery; `open` is the ticket of a case to open, or ""."""

    seq: int
    open: str
    verdicts: list[Given]


_MESSAGES = TypeAdapter(Message)


# -- Drawing ---------------------------------------------------------------------------------------


def draw(session: ReviewSession, rows: Sequence[ScoreRow], blind: bool) -> None:
    """Draw the gallery of listed rows."""
    state = st.session_state
    text = state.setdefault("shelf", token_urlsafe(16))
    shelves.put(text, Shelf(session, rows, blind))

    listed = state.get("listed_for"), state.get("by_group")
    data = {
        "shelf": text,
        "stamp": f"{len(session.reviews)} {hash(listed)}",
        "count": min(len(rows), shelves.MOST),
        "total": len(rows),
        "keys": {key.lower(): verdict for verdict, key in state.verdict_keys.items()},
        "reviewer": session.reviewer,
        "receipts": [asdict(each) for each in receipts.receipts_of(session, blind=blind)],
        "address": "viewer/",
    }

    def receive() -> None:
        try:
            message = _MESSAGES.validate_python(state[COMPONENT].get("sent"))
        except ValidationError:
            return
        _receive(text, message)

    component = st.components.v2.component(
        "anodetect_gallery", js=script("gallery"), isolate_styles=False
    )
    component(data=data, key=COMPONENT, default={"sent": None}, on_sent_change=receive)


# -- Receiving -------------------------------------------------------------------------------------


def _receive(text: str, message: Message) -> None:
    """Record the verdicts of a message, each once, and open the case that it names."""
    shelf = shelves.find(text)
    settled = receipts.settle(shelf.session, message.verdicts, partial(record, shelf), "")
    for done in settled:
        if done.path and not done.receipt.problem:
            drafts.discard(shelf.session, done.path)
    if message.open:
        go_to(OFFICE.find(message.open).row.path)
        st.session_state.view = "Case"


def record(shelf: Shelf, given: Given) -> Done:
    """Record a verdict, or take the last one back, and return what was recorded.

    Raises RunError where the thumbnail was not painted, ConfigError or DataError where there is
    nothing to record.
    """
    session = shelf.session
    if given.verdict == UNDO:
        return replace(receipts.take_back(session, given.id), path="")

    if given.verdict not in JUDGEMENTS:
        raise ConfigError(f"no verdict {given.verdict!r}")
    judgement: Judgement = given.verdict
    ticket = OFFICE.find(given.ticket)
    row = ticket.row
    place = shelves.place_of(shelf, row, ticket.hidden)
    shown = Shown(
        row.path,
        row.sha256 or "",
        place.plane,
        place.slice,
        place.frame,
        painted=shelves.is_proof(given.painted, given.ticket),
        thumbnail=True,
    )
    kept = session.store.add(
        row,
        session.reviewer,
        judgement,
        [shown],
        comment=drafts.draft_of(session, row.path).comment,
        region=_region(session, row),
        blind=ticket.hidden,
        id=given.id,
    )
    return Done(Receipt(given.id, f"{judgement}, record {kept.number}"), row.path)


def _region(session: ReviewSession, row: ScoreRow) -> str:
    """Return the regions that are on record or drawn, which the verdict keeps."""
    text = drafts.draft_of(session, row.path).region
    if text and row.is_volume:
        raise DataError("a volume with regions is judged in its own view")
    return marks.to_text(regions.parse(text, row))
