"""The page of a reader or adjudicator in a study: the cases that are theirs, blind, in an order of
their own, and nothing else until the study is complete."""

from collections.abc import Sequence

import streamlit as st

from . import case_list, cases, worklist
from .large import paths_of
from .session import ReviewSession

NO_NAME = "This is a reader study: its cases are shown to those who take part in it."
NO_PART = "This name has no part in this reader study. Its plan names who reads, and how."
LOGIN = "This reader study takes names from a login alone; configure one, or log in."
ALL_READ = (
    "You have read all your cases. Scores, maps and others' verdicts are shown when the study is "
    "complete; until then you may look again, and change a verdict that was not adjudicated."
)
NOTHING = (
    "There is nothing for you to adjudicate now: on your cases that all their readers have read "
    "they agree."
)


def draw(session: ReviewSession) -> None:
    """Draw the page for a reviewer whom a study blinds."""
    plan = session.store.plan
    role = None if plan is None else plan.role_of(session.reviewer)
    if plan is None or role is None:
        if session.reviewer:
            st.info(NO_PART)
        else:
            st.info(LOGIN if plan is not None and plan.login else NO_NAME)
        return

    rows = session.to_read
    paths = paths_of(rows)
    read = sum(session.own_verdict(path) is not None for path in paths)
    with st.sidebar:
        st.text(f"{plan.name or 'Reader study'}: {session.reviewer}, {role}")
        st.progress(read / max(len(rows), 1), f"{read} of {len(rows)} read")
    if not rows:
        st.info(NOTHING)
        return
    if read == len(rows):
        st.info(ALL_READ)

    st.session_state.blind = True  # so that nothing that was drawn names a case
    if st.session_state.open not in paths:
        st.session_state.open = _first(session, paths)
    row = session.scores.by_path[st.session_state.open]
    cases.draw_case(session, row, paths, blind=True)
    with st.sidebar:
        case_list.draw_images(session, rows, paths, row.path, blind=True)


def _first(session: ReviewSession, paths: Sequence[str]) -> str:
    """Return the first case that is not read, or the first."""
    unread = worklist.to_judge(paths, "", session.judgements, session.reviewer, 1)
    return unread[0] if unread else paths[0]
