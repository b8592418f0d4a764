"""The page around all others: which score directory, who is looking, which page."""

import os
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from anodetect.errors import AnodetectError, RunError
from anodetect.record.reviews import DATABASE

from . import cases, summary, threshold, training
from .opened import open_directory, problem

# Less white around, and a picture as high as the window is wide enough for.
STYLE = """<style>
.stMainBlockContainer { padding: 3.75rem 1.5rem 2rem; }
[data-testid="stSidebarUserContent"] { padding: 0 0 1rem; }
.st-key-page button { padding-inline: 0.6rem; }
:is(.st-key-picture, .st-key-picture_alone) { height: var(--high); min-height: 0; flex: none !important; }
:is(.st-key-picture, .st-key-picture_alone) .stElementContainer { height: var(--high); min-height: 0; }
.st-key-picture { --high: clamp(12rem, calc((100vw - 30rem) / 3 + 5rem), 72vh); }
.st-key-picture_alone { --high: clamp(12rem, calc(100vw - 30rem), 72vh); }
@media (max-width: 768px) { /* the sidebar is folded away */
  .st-key-picture { --high: calc((100vw - 8rem) / 3 + 5rem); }
  .st-key-picture_alone { --high: min(100vw, 80vh); }
}
</style>"""
SIDEBAR = 360  # pixels
PAGES = {"Cases": cases.draw, "Threshold": threshold.draw, "Summary": summary.draw}
TRAIN = "Train"


def main(folders: Sequence[Path], roots: Sequence[Path]) -> None:
    """Draw the app on score directories, and on those in `roots`, the folders it may train and
    score in; whatever the user can mend is a message in the page."""
    st.set_page_config(page_title="anodetect review", layout="wide", initial_sidebar_state=SIDEBAR)
    st.html(STYLE)
    state = st.session_state
    for name, value in {
        "open": "",
        "overlay": True,
        "opacity": 70,
        "problem": "",
        "turn": 0,
        "drawn": 0,
    }.items():
        state.setdefault(name, value)
    try:
        _draw(folders, roots)
    except AnodetectError as error:
        problem(str(error))


def _draw(folders: Sequence[Path], roots: Sequence[Path]) -> None:
    bar = st.sidebar
    names = [*PAGES, TRAIN]
    page = bar.segmented_control(
        "Page", names, default=names[0], required=True, key="page", bind="query-params"
    )
    if st.session_state.problem:
        problem(st.session_state.problem)
        st.session_state.problem = ""
    if page == TRAIN:
        training.draw(roots)
        return
    choices = list(
        dict.fromkeys([*folders, *(training.look(tuple(roots)).scores if roots else ())])
    )
    if not choices:
        raise RunError("no score directory was given; start the app with: anodetect review DIR")
    folder = bar.selectbox(
        "Score directory", choices, format_func=str, key="directory", persist_state="session"
    )
    opened = open_directory(folder, os.environ.get(DATABASE, ""), _reviewer())
    if opened.directory.rows:
        PAGES[page](opened)
    else:
        st.info("No image was scored here.")


def _reviewer() -> str:
    """The name from the login, where one is configured, else what was typed, which the address
    keeps."""
    if st.user.get("is_logged_in"):
        return str(st.user.get("email") or st.user.get("name") or "")
    if "is_logged_in" in st.user:
        st.sidebar.button("Log in", on_click=st.login)
        return ""
    name = st.sidebar.text_input(
        "Your name, for the record", key="reviewer", max_chars=100, bind="query-params"
    )
    return str(name).strip()
