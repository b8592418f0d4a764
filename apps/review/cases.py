"""The page to judge on: the list of cases, one case, its verdicts."""

from collections.abc import Sequence

import streamlit as st

from anodetect.record.rows import ScoreRow
from anodetect.words import amount, sentence

from . import (
    address,
    case_list,
    chips,
    focus,
    gallery,
    known,
    remaking,
    routes,
    similar,
    viewing,
    worklist,
)
from .case_list import go_to
from .large import paths_of
from .session import ReviewSession

CASE, GALLERY = "Case", "Gallery"  # the views


def draw(session: ReviewSession) -> None:
    """Draw the page."""
    address.restore(session)
    focus.mount()
    blind = st.sidebar.toggle(
        "Blind until judged",
        key="blind",
        bind="query-params",
        help="Hides the name, scores and heatmap of a case until you have judged it.",
    )
    st.session_state.is_blind = blind  # other pages do not know the toggle
    by_group = session.scores.has_groups and st.sidebar.toggle(
        "By patient or lot", key="by_group", bind="query-params"
    )
    rows, paths = case_list.choose_rows(session, blind)
    case_list.draw_progress(session)
    if not rows:
        st.info("No case passes the filters; change them in the sidebar.")
        st.button("Clear all filters", key="clear", on_click=chips.clear)
        return

    groups: worklist.Groups | None = None
    if by_group:
        groups = session.scores.grouped(rows, session.judgements, session.reviewer)
        rows, paths = groups.rows, paths_of(groups.rows)
    row = _opened(session, paths)
    hidden = session.is_hidden(row.path, blind)
    in_gallery = _chosen_view() == GALLERY
    if in_gallery:
        gallery.draw(session, rows, blind)
    else:
        draw_case(session, row, paths, blind)
        if not hidden:
            remaking.draw(session, row)
        _draw_verdicts(session, row, hidden)
        similar.draw(session, row, blind)

    address.keep(session, row.path, hidden=hidden)
    with st.sidebar:
        if groups:
            place = groups.place_of(row.path)
            case_list.draw_groups(groups, place, blind)
            rows = groups[place].rows
            paths = paths_of(rows)
        studies = groups[place].studies if groups else ()
        case_list.draw_images(session, rows, paths, row.path, blind, studies)
        address.draw_link()


def draw_case(session: ReviewSession, row: ScoreRow, paths: Sequence[str], blind: bool) -> None:
    """Draw a case with all that it takes to judge it; `paths` are the listed ones, in order."""
    if not routes.is_ready():
        viewing.draw_missing()
        return
    if not session.is_blinded:
        _draw_known(session, row, session.is_hidden(row.path, blind))
    viewing.draw(session, row, paths, blind)


def _chosen_view() -> str:
    """Draw the choice between one case and the gallery, and return it; without the viewer's
    addresses there is no gallery."""
    if not routes.is_ready():
        return CASE
    return str(
        st.sidebar.segmented_control(
            "View", [CASE, GALLERY], default=CASE, required=True, key="view", bind="query-params"
        )
    )


def _opened(session: ReviewSession, paths: Sequence[str]) -> ScoreRow:
    """Return the row of the case to draw: that of the address, the next one to judge, the one that
    was open, or the first listed."""
    state = st.session_state
    if state.open not in session.scores.by_path:
        state.open = paths[0]
        if session.own_verdict(paths[0]) is None:
            state.skips = False
    if state.skips:
        go_to(worklist.next_to_judge(paths, state.open, session.judgements, session.reviewer))
        state.skips = False
    return session.scores.by_path[state.open]


def _draw_known(session: ReviewSession, row: ScoreRow, hidden: bool) -> None:
    """Draw the strip that opens: what is to be known of the batch. What scores say is left out
    while the case is hidden."""
    notes = [note for note in session.scores.notes if not (hidden and note.of_scores)]
    serious = sum(note.serious for note in notes)
    title = f"To know: {amount(serious, 'warning')}"

    icon = ":material/warning:" if serious else ":material/info:"
    with st.expander(title, icon=icon, key="known"):
        for note in notes:
            st.text(f"{'⚠ ' if note.serious else ''}{sentence(note.text)}")
        slices = () if hidden else session.scores.slices.get(row.path, ())
        if slices:
            found = known.in_volume(slices)
            st.text(f"This volume: {found}; below the picture marks say where regions count.")
        if row.differs and not hidden:
            st.text(f"⚠ This file is unlike what the model has seen: {row.differs}")


def _draw_verdicts(session: ReviewSession, row: ScoreRow, hidden: bool) -> None:
    """Draw the verdicts on the image; those of others only when the reviewer has judged."""
    judged = session.judgements.get(row.path, {})
    if hidden or session.reviewer not in judged:
        if judged:
            st.caption(f"Verdicts of others: {len(judged)}, shown once you have judged.")
        return

    st.caption("Verdicts")
    for review in judged.values():
        blind = ", blind" if review.blind else ""
        region = f" [region {review.region}]" if review.region else ""
        comment = f": {review.comment}" if review.comment else ""
        time = f"{review.time[:19].replace('T', ' ')} UTC{blind}"
        st.text(f"{review.reviewer}: {review.verdict} ({time}){region}{comment}")

    if row.label is not None:
        label = "anomalous" if row.label else "normal"
        kind = f" ({row.kind})" if row.kind not in (None, "", label) else ""
        st.text(f"Truth, known beforehand: {label}{kind}")
