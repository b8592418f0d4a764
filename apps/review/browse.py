"""A small browser of the folders that the app may use, to choose one in."""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from anodetect.data import formats
from anodetect.words import amount

from . import folders

COUNTED = 10_000  # files of a folder that are looked at


def draw(roots: Sequence[Path], target: str) -> None:
    """Draw the browser, which writes the chosen folder's path to the state `target`."""
    key = f"browsed_{target}"
    here = st.session_state.setdefault(key, roots[0].absolute())

    with st.popover("Browse", key=f"browse_{target}"):
        st.text(str(here))
        st.caption(_contents(here))
        inside = folders.subfolders(here)
        names = [folder.name for folder in inside]
        buttons = st.container(horizontal=True, gap="small")
        buttons.button("Up", key=f"up_{target}", on_click=_go, args=(key, _above(here, roots)))
        buttons.button("Use this folder", key=f"use_{target}", on_click=_use, args=(target, here))

        st.selectbox(
            "Folders in it",
            [None, *names],
            format_func=lambda name: name or f"– {len(names)} –",
            key=f"inside_{target}",
            on_change=_enter,
            args=(key, target, here),
        )


def _contents(folder: Path) -> str:
    """Return how many images lie directly in a folder."""
    _, names = folders.list_folder(folder)
    looked_at = sorted(names)[:COUNTED]
    count = sum(formats.format_of(folder / name) is not None for name in looked_at)
    more = "more than " if len(names) > COUNTED else ""
    return f"{more}{amount(count, 'image')} directly in this folder"


def _above(here: Path, roots: Sequence[Path]) -> Path:
    """Return the folder above, or from a root the next root."""
    absolute = [root.absolute() for root in roots]
    if here in absolute:
        return absolute[(absolute.index(here) + 1) % len(absolute)]
    return here.parent


def _go(key: str, folder: Path) -> None:
    st.session_state[key] = folder


def _enter(key: str, target: str, here: Path) -> None:
    name = st.session_state[f"inside_{target}"]
    if name in [folder.name for folder in folders.subfolders(here)]:
        st.session_state[key] = here / name
    st.session_state[f"inside_{target}"] = None


def _use(target: str, folder: Path) -> None:
    st.session_state[target] = str(folder)
