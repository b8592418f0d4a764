"""The viewer in the page: what it is sent, and what is done with what it sends back.

The viewer is a component in the browser (viewer/). It moves from case to case by itself, since it
has its neighbours already, and says so afterwards; verdicts come with a name of their own each, so
that one that is sent twice is recorded once. `seq` counts the viewer's messages: it takes no orders
from a page that was drawn before its last one arrived.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from secrets import token_hex

import streamlit as st
from pydantic import TypeAdapter, ValidationError

from anodetect.errors import AnodetectError, ConfigError
from anodetect.files import printable
from anodetect.output import pictures
from anodetect.record import marks
from anodetect.record.marks import Shown
from anodetect.record.reviews import JUDGEMENTS, Judgement
from anodetect.record.rows import ScoreRow

from . import display, drafts, receipts, regions, routes, slices, worklist
from .case_list import go_to
from .facts import facts_of
from .receipts import UNDO, Done, Receipt
from .session import ReviewSession
from .tickets import OFFICE, Ticket

COMPONENT = "viewer"
BEHIND, AHEAD, UNJUDGED = 6, 12, 6  # cases that the viewer is told of beside the open one
RECEIPTS = 100  # the last ones, that the viewer is told of


# -- Messages --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """A case as the viewer knows it before it fetches its image; see types.ts."""

    ticket: str
    label: str
    title: str
    facts: list[str]
    warnings: list[str]
    hidden: bool
    stays: bool
    verdict: str
    comment: str
    region: str
    others: str


@dataclass(frozen=True)
class Verdict:
    """A verdict, or UNDO, as the viewer sends it; `ticket` is that of its case, `painted` that of
    the case which was on the screen, for so many `seconds`. `places` are the slices of a volume
    that were, such as "axial 12"."""

    id: str
    ticket: str
    verdict: str
    painted: str = ""
    comment: str = ""
    region: str = ""
    seconds: float | None = None
    places: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Message:
    """A message of the viewer; `open` is the ticket of the case on the screen, or "" where the next
    case is chosen here."""

    seq: int
    open: str
    verdicts: list[Verdict]


_MESSAGES = TypeAdapter(Message)


def message_of(value: object) -> Message | None:
    """Return a message as the browser sent it; None where there is none, or where it is damaged."""
    if value is None:
        return None
    try:
        return _MESSAGES.validate_python(value)
    except ValidationError:
        return None


# -- Drawing ---------------------------------------------------------------------------------------


def draw_missing() -> None:
    """Say how the viewer is made, which was not built, or how it is served."""
    if not routes.served():
        st.info("Cases are drawn by the viewer, which `anodetect review DIR` serves.")
        return
    st.warning("The viewer was not built when this was installed: nothing can be judged here.")
    st.text(f"To build it: python {Path(__file__).with_name('viewer') / 'build.py'}")


def draw(session: ReviewSession, row: ScoreRow, paths: Sequence[str], blind: bool) -> None:
    """Draw the viewer with a case; `paths` are the listed ones, in order."""
    around, unjudged = _neighbours(session, row, paths, blind)
    by_path = {}
    for path in dict.fromkeys([row.path, *around, *unjudged]):
        by_path[path] = _card(session, session.scores.by_path[path], paths, blind)

    state = st.session_state
    last = receipts.receipts_of(session, blind=blind)[-RECEIPTS:]
    data = {
        "session": state.setdefault("viewer_session", token_hex(8)),
        "seq": state.get("viewer_seq", 0),
        "open": by_path[row.path].ticket,
        "cards": [asdict(card) for card in by_path.values()],
        "order": [by_path[path].ticket for path in around],
        "unjudged": [by_path[path].ticket for path in unjudged],
        "receipts": [asdict(receipt) for receipt in last],
        "keys": {key.lower(): verdict for verdict, key in state.verdict_keys.items()},
        "reviewer": session.reviewer,
        "address": "viewer/",
        "palettes": _palettes(),
    }

    def receive() -> None:
        message = message_of(state[COMPONENT].get("sent"))
        if message is not None:
            _receive(session, paths, blind, message)

    component = st.components.v2.component(
        "anodetect_viewer", js=routes.script("viewer"), isolate_styles=False
    )
    component(data=data, key=COMPONENT, default={"sent": None}, on_sent_change=receive)


def _neighbours(
    session: ReviewSession, row: ScoreRow, paths: Sequence[str], blind: bool
) -> tuple[list[str], list[str]]:
    """Return the listed paths around a row, itself among them, and those to judge after it."""
    around = [row.path, *paths[:AHEAD]]  # of a case that the list leaves out, its beginning is next
    if row.path in paths:
        place = paths.index(row.path)
        around = list(paths[max(place - BEHIND, 0) : place + AHEAD + 1])
    if blind and not session.is_blinded:
        return around, []  # after a verdict the case stays, with its scores
    judged, reviewer = session.judgements, session.reviewer
    return around, worklist.to_judge(paths, row.path, judged, reviewer, UNJUDGED)


def _card(session: ReviewSession, row: ScoreRow, paths: Sequence[str], blind: bool) -> Card:
    """Return the card of a row."""
    hidden = session.is_hidden(row.path, blind)
    facts = facts_of(row, paths, hidden)
    own, draft = session.own_verdict(row.path), drafts.draft_of(session, row.path)
    number = str(paths.index(row.path) + 1) if row.path in paths else ""

    return Card(
        ticket=OFFICE.ticket(session.directory, row, hidden=hidden),
        label=number if hidden else printable(row.path),
        title=facts.title,
        facts=list(facts.lines),
        warnings=[f"{facts.warning} {facts.reason}"] if facts.warning else [],
        hidden=hidden,
        stays=hidden and not session.is_blinded,
        verdict="" if own is None else own.verdict,
        comment=draft.comment,
        region=draft.region,
        others="" if hidden else _others_regions(session, row.path),
    )


def _others_regions(session: ReviewSession, path: str) -> str:
    """Return the regions that others have recorded on a case, "" until the reviewer has judged."""
    if session.own_verdict(path) is None:
        return ""
    found = []
    for review in session.judgements.get(path, {}).values():
        region = drafts.saved(session, review).region
        if review.reviewer != session.reviewer and region:
            found.append(region)
    return "; ".join(found)


@st.cache_data(show_spinner=False)
def _palettes() -> dict[str, str]:
    """Return the colours of each map as the viewer reads them."""
    return {name: b64encode(pictures.palette(name).tobytes()).decode() for name in display.COLOURS}


# -- Receiving -------------------------------------------------------------------------------------


def _receive(session: ReviewSession, paths: Sequence[str], blind: bool, message: Message) -> None:
    """Record the verdicts of a message, and open the case that it names, or the next one."""
    state = st.session_state
    path = state.open

    def record(verdict: Verdict) -> Done:
        return _record(session, paths, blind, verdict)

    settled = receipts.settle(session, message.verdicts, record, path)
    if settled:
        path = settled[-1].path
    for verdict, done in zip(message.verdicts, settled, strict=True):
        if not done.receipt.problem:
            _settle_draft(session, verdict, done)
    if message.seq < state.get("viewer_seq", 0):
        return  # a later message was faster
    if message.open:
        try:
            path = OFFICE.find(message.open).row.path
        except AnodetectError as error:
            state.problem = str(error)
    state.viewer_seq = message.seq
    go_to(path)


def _record(session: ReviewSession, paths: Sequence[str], blind: bool, verdict: Verdict) -> Done:
    """Record a verdict, or take the last one back.

    Raises ConfigError, DataError or RunError where it cannot be recorded.
    """
    store, reviewer = session.store, session.reviewer
    if verdict.verdict == UNDO:
        return receipts.take_back(session, verdict.id)

    if verdict.verdict not in JUDGEMENTS:
        raise ConfigError(f"no verdict {verdict.verdict!r}")
    judgement: Judgement = verdict.verdict
    ticket = OFFICE.find(verdict.ticket)
    row = ticket.row
    region, region_mm = _regions(ticket, verdict.region)
    record = store.add(
        row,
        reviewer,
        judgement,
        _shown(ticket, verdict),
        comment=verdict.comment,
        region=region,
        region_mm=region_mm,
        blind=ticket.hidden,
        id=verdict.id,
        seconds=verdict.seconds,
    )
    path = row.path
    if not blind or session.is_blinded:
        path = worklist.next_to_judge(paths, path, session.judgements, reviewer)
    return Done(Receipt(verdict.id, f"{judgement}, record {record.number}"), path)


def _regions(ticket: Ticket, text: str) -> tuple[str, str]:
    """Return the regions of a case in their normal form, and those of a volume in millimetres;
    raise DataError where one does not lie in it."""
    if not ticket.row.is_volume:
        found = regions.parse(text, ticket.row)
        return marks.to_text(found), ""
    geometries = OFFICE.volume(ticket.text).geometries
    found = regions.parse_volume(text, geometries)
    return marks.to_text(found), regions.volume_millimetres(found, geometries)


def _shown(ticket: Ticket, verdict: Verdict) -> list[Shown]:
    """Return the pictures of a case that the browser has painted: the image, or slices."""
    row, is_painted = ticket.row, verdict.painted == verdict.ticket
    if not row.is_volume:
        return [Shown(row.path, row.sha256 or "", painted=is_painted)]
    places = slices.painted(OFFICE.volume(ticket.text), verdict.places)
    shown = []
    for place in places:
        shown.append(
            Shown(row.path, row.sha256 or "", place.plane, place.slice, place.frame, is_painted)
        )
    return shown


def _settle_draft(session: ReviewSession, verdict: Verdict, done: Done) -> None:
    """Discard the draft of a case that was judged; make one of what a verdict said that was taken
    back."""
    if verdict.verdict != UNDO:
        drafts.discard(session, OFFICE.find(verdict.ticket).row.path)
        return
    last = session.own_verdict(done.path)
    if last is not None and not drafts.is_unsaved(session, done.path):
        drafts.keep(session, done.path, drafts.saved(session, last))
