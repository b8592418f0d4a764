"""The picture of a case at 320 pixels, beside the list, while the pointer or the keyboard is on its
line: the pictures in the list itself are too small to see anything on."""

from collections.abc import Sequence
from secrets import token_urlsafe

import streamlit as st

from anodetect.record.rows import ScoreRow

from . import shelves
from .routes import is_ready, script
from .session import ReviewSession
from .shelves import Shelf
from .tickets import OFFICE


def draw(
    session: ReviewSession, rows: Sequence[ScoreRow], blind: bool, lists: str, row_height: int
) -> None:
    """Have the browser show pictures of these rows, which are the lines of the table whose key
    begins with `lists`; nothing where there is no viewer."""
    if not is_ready():
        return
    text = st.session_state.setdefault("peek_shelf", token_urlsafe(16))
    shelves.put(text, Shelf(session, rows, blind))
    tickets = []
    for row in rows:
        hidden = session.is_hidden(row.path, blind)
        tickets.append(OFFICE.ticket(session.directory, row, hidden=hidden))

    data = {
        "address": "viewer/",
        "shelf": text,
        "tickets": tickets,
        "list": lists,
        "rowHeight": row_height,
    }
    component = st.components.v2.component("anodetect_peek", js=script("peek"))
    component(data=data, key="peek")
