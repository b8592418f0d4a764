"""The frame of the app: which page, which score directory, who is reviewing. PAGES holds every
page; a new page is one entry."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st

from anodetect.commands.review import KEYS, verdict_keys
from anodetect.errors import AnodetectError, RunError
from anodetect.record.reviews import DATABASE
from anodetect.stats import spellings

from . import address, case_list, cases, summary, threshold, training
from .session import ReviewSession, open_session
from .widgets import show_problem

# Narrow margins, and a picture that is as high as the width of the window allows.
STYLE = """<style>
.stMainBlockContainer { padding: 3.75rem 1.5rem 2rem; }
[data-testid="stSidebarUserContent"] { padding: 0 0 1rem; }
.st-key-page button { padding-inline: 0.6rem; }
/* Verdicts differ by their signs, and by colours that the colour-blind tell apart. */
[class*=st-key-verdict_] button { border-width: 2px; }
.st-key-verdict_normal button { border-color: #0072b2; }
.st-key-verdict_anomalous button { border-color: #d55e00; border-radius: 0; }
.st-key-verdict_unsure button { border-color: #cc79a7; border-style: dashed; }
.st-key-verdict_bad_image button { border-color: #808080; border-style: dotted; }
:is(.st-key-picture, .st-key-picture_alone) {
  height: var(--high); min-height: 0; flex: none !important;
}
:is(.st-key-picture, .st-key-picture_alone) .stElementContainer {
  height: var(--high); min-height: 0;
}
.st-key-picture { --high: clamp(12rem, calc((100vw - 30rem) / 3 + 5rem), 72vh); }
.st-key-picture_alone { --high: clamp(12rem, calc(100vw - 30rem), 72vh); }
@media (max-width: 768px) { /* the sidebar is folded away */
  .st-key-picture { --high: calc((100vw - 8rem) / 3 + 5rem); }
  .st-key-picture_alone { --high: min(100vw, 80vh); }
}
</style>"""
SIDEBAR = 360  # pixels
STATE = {
    "open": "",  # path of the open case
    "overlay": True,
    "opacity": 70,  # %
    "problem": "",  # a message to show once
    "notice": "",  # the same, of what was done
    "audit_sample": frozenset(),  # paths of a random sample to judge
    "clicks": 0,  # how often a case was opened from a table
    "told_apart": frozenset(),  # names, and the known ones that they are no spellings of
    "drawn": 0,  # how often a case was drawn
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


PAGES: dict[str, ScorePage | RootPage] = {
    "Cases": ScorePage(cases.draw),
    "Threshold": ScorePage(threshold.draw),
    "Summary": ScorePage(summary.draw),
    "Train": RootPage(training.draw),
}


def main(
    folders: Sequence[Path], roots: Sequence[Path], keys: str = KEYS, data: Path | None = None
) -> None:
    """Draw the app for these score directories and for those that lie in `roots`, the folders it
    may train and score in; `keys` are those of the verdicts, `data` is where images were moved to.
    Errors a user can correct become a
    message in the page."""
    st.set_page_config(page_title="anodetect review", layout="wide", initial_sidebar_state=SIDEBAR)
    st.html(STYLE)
    for name, value in STATE.items():
        st.session_state.setdefault(name, value)

    try:
        st.session_state.verdict_keys = verdict_keys(keys)
        st.session_state.moved_to = data
        _draw(folders, roots)
    except AnodetectError as error:
        show_problem(str(error))


def _draw(folders: Sequence[Path], roots: Sequence[Path]) -> None:
    """Draw the choice of the page, and the page."""
    names = list(PAGES)
    name = st.sidebar.segmented_control(
        "Page", names, default=names[0], required=True, key="page", bind="query-params"
    )
    if st.session_state.problem:
        show_problem(st.session_state.problem)
        st.session_state.problem = ""
    if st.session_state.notice:
        st.container(border=True).text(st.session_state.notice)
        st.session_state.notice = ""

    page = PAGES[name]
    if isinstance(page, RootPage):
        page.draw(roots)
        return

    session = _open(folders, roots)
    if session.scores.count:
        page.draw(session)
        if page.draw is not cases.draw:
            st.sidebar.button(
                "Next unjudged case", key="unjudged", on_click=case_list.open_unjudged
            )
    else:
        st.info("No image was scored here.")


def _open(folders: Sequence[Path], roots: Sequence[Path]) -> ReviewSession:
    """Draw the choice of the score directory and the reviewer's name, and open the directory.

    Raises RunError where there is no directory.
    """
    present = training.search(tuple(roots)).scores if roots else ()
    choices = list(dict.fromkeys([*folders, *present]))
    if not choices:
        raise RunError("no score directory was given; start the app with: anodetect review DIR")

    address.choose_directory(choices)
    folder = st.sidebar.selectbox(
        "Score directory", choices, format_func=str, key="directory", bind="query-params"
    )
    url, moved_to = os.environ.get(DATABASE, ""), st.session_state.moved_to
    session = open_session(folder, url, _reviewer(), moved_to)
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


def _reviewer() -> str:
    """Return the name from the login, where one is configured, else the name in the text field,
    which the page's address keeps."""
    if st.user.get("is_logged_in"):
        return str(st.user.get("email") or st.user.get("name") or "")
    if "is_logged_in" in st.user:
        st.sidebar.button("Log in", on_click=st.login)
        return ""

    name = st.sidebar.text_input(
        "Your name, for the record", key="reviewer", max_chars=100, bind="query-params"
    )
    return str(name).strip()
