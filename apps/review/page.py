"""The page around all others: which score directory, who is looking, which page."""

import os
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from anodetect.errors import AnodetectError, RunError
from anodetect.reviews import DATABASE

from . import cases, summary, threshold
from .opened import open_directory, problem

# Less white around, and a picture as high as the window is wide enough for.
STYLE = """<style>
.stMainBlockContainer { padding: 3rem 1.5rem 2rem; }
[data-testid="stSidebarUserContent"] { padding-bottom: 1rem; }
.st-key-picture { height: clamp(18rem, calc((100vw - 25rem) / 3 + 4rem), 72vh); }
.st-key-blind_picture { height: clamp(18rem, calc(100vw - 25rem), 72vh); }
</style>"""
SIDEBAR = 340  # pixels
PAGES = {"Cases": cases.draw, "Threshold": threshold.draw, "Summary": summary.draw}


def main(folders: Sequence[Path]) -> None:
    """Draw the app; whatever the user can mend is a message in the page."""
    st.set_page_config(page_title="anodetect review", layout="wide", initial_sidebar_state=SIDEBAR)
    st.html(STYLE)
    state = st.session_state
    for name, value in {"open": "", "overlay": True, "opacity": 70, "problem": "", "turn": 0}.items():
        state.setdefault(name, value)
    try:
        _draw(folders)
    except AnodetectError as error:
        problem(str(error))


def _draw(folders: Sequence[Path]) -> None:
    if not folders:
        raise RunError("no score directory was given; start the app with: anodetect review DIR")
    bar = st.sidebar
    names = list(PAGES)
    page = bar.segmented_control("Page", names, default=names[0], required=True, key="page", bind="query-params")
    numbers = range(len(folders))
    number = bar.selectbox("Score directory", numbers, format_func=lambda n: str(folders[n]), key="directory")
    opened = open_directory(folders[number], os.environ.get(DATABASE, ""), _reviewer())
    if st.session_state.problem:
        problem(st.session_state.problem)
        st.session_state.problem = ""
    if opened.directory.rows:
        PAGES[page](opened)
    else:
        st.info("No image was scored here.")


def _reviewer() -> str:
    """The name from the login, where one is configured, else what was typed, which the address keeps."""
    if st.user.get("is_logged_in"):
        return str(st.user.get("email") or st.user.get("name") or "")
    if "is_logged_in" in st.user:
        st.sidebar.button("Log in", on_click=st.login)
        return ""
    name = st.sidebar.text_input("Your name, for the record", key="reviewer", max_chars=100, bind="query-params")
    return str(name).strip()
