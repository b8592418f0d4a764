"""The frame of the app: which page, which score directory, who is reviewing. PAGES holds every
page; a new page is one entry."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import streamlit as st

from anodetect.commands.review import KEYS, verdict_keys
from anodetect.errors import AnodetectError, RunError
from anodetect.record import study
from anodetect.record.reviews import DATABASE
from anodetect.stats import spellings

from . import (
    address,
    batches_page,
    cases,
    comparing,
    logins,
    reading,
    summary,
    threshold,
    training,
    unjudged,
)
from .session import ReviewSession, open_session
from .widgets import show_problem

# Narrow margins.
STYLE = """<style>
.stMainBlockContainer { padding: 3.75rem 1.5rem 2rem; }
[data-testid="stSidebarUserContent"] { padding: 0 0 1rem; }
.st-key-page button { padding-inline: 0.6rem; }
[data-testid=stMetricValue] { font-size: clamp(1.4rem, 1.8vw, 2.25rem); }
[data-testid=stMetricValue] > div { white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 1100px) { /* columns stand below each other where they would be cut off */
  .stMain [data-testid=stHorizontalBlock]:has(> .stColumn) { flex-wrap: wrap; }
  .stMain [data-testid=stHorizontalBlock] > .stColumn { min-width: 10rem; flex: 1 1 10rem; }
  .st-key-forms [data-testid=stHorizontalBlock] > .stColumn { min-width: 100%; }
  .st-key-pair [data-testid=stHorizontalBlock] > .stColumn { min-width: 100%; }
  .st-key-charts [data-testid=stHorizontalBlock] > .stColumn { min-width: 100%; }
}
</style>"""
SIDEBAR = 360  # pixels
STATE = {
    "open": "",  # path of the open case
    "is_blind": False,  # as the page Cases was drawn last
    "problem": "",  # a message to show once
    "audit_sample": frozenset(),  # paths of a random sample to judge
    "audit_count": 0,  # its size: cases of either kind
    "clicks": 0,  # how often a case was opened from a table
    "told_apart": frozenset(),  # names, and the known ones that they are no spellings of
    "skips": False,  # whether the next case to judge is to be opened
}


@dataclass(frozen=True)
class ScorePage:
    """A page about the score directory that is open."""

    draw: Callable[[ReviewSession], None]


@dataclass(frozen=True)
class RootPage:
    """A page about the folders the app may train and score in."""

    draw: Callable[[Sequence[Path]], None]


@dataclass(frozen=True)
class FoldersPage:
    """A page about several score directories, and the folders the app may work in."""

    draw: Callable[[Sequence[Path], Sequence[Path]], None]


CASES = "Cases"
PAGES: dict[str, ScorePage | RootPage | FoldersPage] = {
    CASES: ScorePage(cases.draw),
    "Threshold": ScorePage(threshold.draw),
    "Summary": ScorePage(summary.draw),
    "Compare": FoldersPage(comparing.draw),
    "Batches": FoldersPage(batches_page.draw),
    "Train": RootPage(training.draw),
}


def main(
    folders: Sequence[Path], roots: Sequence[Path], keys: str = KEYS, data: Path | None = None
) -> None:
    """Draw the app for these score directories and for those that lie in `roots`, the folders it
    may train and score in; `keys` are those of the verdicts, `data` is where images were moved to.
    Errors a user can correct become a message in the page."""
    st.set_page_config(page_title="anodetect review", layout="wide", initial_sidebar_state=SIDEBAR)
    st.html(STYLE)
    # A page that is loaded anew may be another one than that with the toggle.
    st.session_state.setdefault("is_blind", st.query_params.get("blind") == "true")
    for name, value in STATE.items():
        st.session_state.setdefault(name, value)

    try:
        st.session_state.verdict_keys = verdict_keys(keys)
        st.session_state.moved_to, st.session_state.roots = data, tuple(roots)
        _draw(folders, roots)
    except AnodetectError as error:
        show_problem(str(error))


def _draw(folders: Sequence[Path], roots: Sequence[Path]) -> None:
    """Draw the choice of the page, and the page. A study that blinds the reviewer leaves only its
    own cases, and no other directory, which could have scores of the same images."""
    control, chooser, field = [st.sidebar.container() for _ in range(3)]
    choices = _choices(folders, roots)
    studied = [folder for folder in choices if (folder / study.FILE).is_file()]
    reviewer = _reviewer(field) if studied else None
    blinding = [folder for folder in studied if _session(folder, reviewer or "").is_blinded]
    name = CASES
    if not blinding:
        name = control.segmented_control(
            "Page", list(PAGES), default=CASES, required=True, key="page", bind="query-params"
        )
    if st.session_state.problem:
        show_problem(st.session_state.problem)
        st.session_state.problem = ""

    page = PAGES[name]
    if not isinstance(page, ScorePage):
        if choices:
            unjudged.draw()
        if isinstance(page, RootPage):
            page.draw(roots)
        else:
            page.draw(choices, roots)
        return

    if reviewer is None:
        reviewer = _reviewer(field)
    session = _open(blinding or choices, reviewer, chooser)
    if session.is_blinded:
        reading.draw(session)
    elif session.scores.count:
        page.draw(session)
        if page.draw is not cases.draw:
            unjudged.draw()
    else:
        st.info("No image was scored here.")


def _choices(folders: Sequence[Path], roots: Sequence[Path]) -> list[Path]:
    """Return the score directories to choose from."""
    present = training.search(tuple(roots)).scores if roots else ()
    return list(dict.fromkeys([*folders, *present]))


def _session(folder: Path, reviewer: str) -> ReviewSession:
    """Return the session of a reviewer, whose name is left out where a study wants it from a login
    and it is not."""
    url, moved_to = os.environ.get(DATABASE, ""), st.session_state.moved_to
    session = open_session(folder, url, reviewer, moved_to)
    plan = session.store.plan
    if plan is not None and plan.login and not st.user.get("is_logged_in"):
        return replace(session, reviewer="")
    return session


def _open(choices: Sequence[Path], reviewer: str, chooser: Any) -> ReviewSession:
    """Draw the choice of the score directory, and open it.

    Raises RunError where there is no directory.
    """
    if not choices:
        raise RunError("no score directory was given; start the app with: anodetect review DIR")

    address.choose_directory(choices)
    folder = chooser.selectbox(
        "Score directory", choices, format_func=str, key="directory", bind="query-params"
    )
    session = _session(folder, reviewer)
    if st.user.get("is_logged_in"):
        return session
    known = spellings.known_spelling(session.reviewer, session.reviewers)
    if not known or (session.reviewer, known) in st.session_state.told_apart:
        return session
    _ask_who(session.reviewer, known)
    return replace(session, reviewer="")


def _ask_who(name: str, known: str) -> None:
    """Draw the question whether a name is another spelling of one that is on record."""

    def take_known() -> None:
        st.session_state.reviewer = known

    def tell_apart() -> None:
        st.session_state.told_apart |= {(name, known)}

    st.sidebar.text(f"Are you {known}, who has verdicts here?")
    st.sidebar.button("Yes", key="same_reviewer", on_click=take_known)
    st.sidebar.button("No, somebody else", key="other_reviewer", on_click=tell_apart)


def _reviewer(field: Any) -> str:
    """Return the name from the login, where one is configured, else the name in the text field,
    which the page's address keeps."""
    if st.user.get("is_logged_in"):
        name = logins.name_of(st.user)
        field.text(f"Logged in as {name}")
        field.button("Log out", on_click=st.logout)
        return name
    if "is_logged_in" in st.user:
        field.button("Log in", on_click=st.login)
        return ""

    name = field.text_input(
        "Your name, for the record", key="reviewer", max_chars=100, bind="query-params"
    )
    return str(name).strip()
