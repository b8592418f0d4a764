"""Cases like the open one, by what the run's network sees where it finds something."""

import streamlit as st

from anodetect.errors import RunError
from anodetect.files import shortened
from anodetect.record.rows import ScoreRow

from . import likeness
from .case_list import SIGNS, go_to
from .session import ReviewSession, thumbnails_of
from .widgets import number_text

COUNT = 8  # cases that are shown
SIDE = 240  # pixels of a picture's longer side


def draw(session: ReviewSession, row: ScoreRow, blind: bool) -> None:
    """Draw the cases that are most like a row, as far as they are not hidden; nothing for a hidden
    row, or where `anodetect alike` has not been run."""
    if session.is_hidden(row.path, blind) or not likeness.is_known(session):
        return
    with st.expander("More like this", key="similar"):
        try:
            known = likeness.vectors(session)
        except RunError as error:
            st.text(str(error))
            return
        found = [] if known is None else known.nearest(row.path, 4 * COUNT)
        known_paths = session.scores.by_path  # the file is no part of the record
        shown = []
        for path, cosine in found:
            if path in known_paths and not session.is_hidden(path, blind):
                shown.append((path, cosine))
        shown = shown[:COUNT]
        if not shown:
            st.text("Nothing is known of this case; run again: anodetect alike DIR")
            return
        _draw(session, shown)


def _draw(session: ReviewSession, shown: list[tuple[str, float]]) -> None:
    rows = [session.scores.by_path[path] for path, _ in shown]
    pictures = thumbnails_of(session.scores, rows, [False] * len(rows), SIDE).pictures
    line = st.container(horizontal=True)  # it breaks where the window ends
    for each, picture, (path, cosine) in zip(rows, pictures, shown, strict=True):
        with line.container(width=SIDE):
            if picture:
                st.image(picture, width=SIDE)
            own = session.own_verdict(path)
            sign = "" if own is None else f"{SIGNS[own.verdict]} "
            st.text(f"{sign}{cosine:.2f} · p {number_text(each.p_value)}")
            st.button(
                shortened(path.rpartition("/")[2], 24),
                key=f"similar-{shown.index((path, cosine))}",
                on_click=go_to,
                args=(path,),
            )
