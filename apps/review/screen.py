"""The pictures on the reviewer's screen, as the browser itself reports them.

A page announces the picture that it sends, and gets a key for it: a random text, which says nothing
about the case. The picture carries the key, and the browser reports the key of a picture once it is
painted (shortcuts.py). A picture that was never painted thus has no key that could be reported, and
the report of another picture does not fit. Every part of the page that paints a case has to report
in this way before the case can be judged.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from secrets import token_hex

import streamlit as st

from anodetect.errors import RunError
from anodetect.record.marks import WHOLE, Place, Shown
from anodetect.record.rows import ScoreRow

from .store import NOT_SHOWN

COMPONENT = "keys"  # the component whose state `painted` is the key of the painted picture


@dataclass(frozen=True)
class Announced:
    """A picture that was sent to the browser, and its key; `channel` is that of the image."""

    key: str
    shown: Shown
    channel: str = ""


def announce(row: ScoreRow, place: Place, channel: str = "") -> str:
    """Return the key of a picture that is sent now; it stays the same while the picture does."""
    shown = Shown(row.path, row.sha256 or "", place.plane, place.slice, place.frame)
    before: Announced | None = st.session_state.get("announced")
    if before is not None and (before.shown, before.channel) == (shown, channel):
        return before.key
    st.session_state.announced = Announced(token_hex(8), shown, channel)
    return str(st.session_state.announced.key)


def announce_nothing() -> None:
    """Say that the case that is open has no picture."""
    st.session_state.announced = None


def announced_key() -> str:
    """Return the key of the picture that was announced last, "" for none."""
    announced: Announced | None = st.session_state.get("announced")
    return "" if announced is None else announced.key


def announced_place() -> Place:
    """Return the place of the picture that was announced last, that of an image for none."""
    announced: Announced | None = st.session_state.get("announced")
    return WHOLE if announced is None else announced.shown.place


def reported() -> str:
    """Return the key that the browser reported last, "" for none."""
    state = st.session_state.get(COMPONENT)
    return "" if state is None else str(state.get("painted") or "")


def collect(head: str) -> None:
    """Note the announced picture as painted if the browser has reported it."""
    announced: Announced | None = st.session_state.get("announced")
    if announced is not None and reported() == announced.key:
        painted = replace(announced.shown, painted=True)
        _note_opening(painted.case)
        _painted().setdefault((head, painted.case), set()).add(painted)


def painted(head: str, row: ScoreRow) -> list[Shown]:
    """Return the pictures of a row that were painted in this session, the open one last.

    Raises RunError unless the picture that is open now is one of them.
    """
    collect(head)
    announced: Announced | None = st.session_state.get("announced")
    if announced is None or announced.key != reported() or announced.shown.case != row.path:
        raise RunError(NOT_SHOWN)
    others = _painted().get((head, row.path), set()) - {replace(announced.shown, painted=True)}
    return [*others, replace(announced.shown, painted=True)]


def _note_opening(path: str) -> None:
    """Note since when a case is on the screen."""
    known = st.session_state.get("on_screen")
    if known is None or known[0] != path:
        st.session_state.on_screen = path, time.monotonic()


def seconds_open() -> float | None:
    """Return for how long the case that was painted last is on the screen; None for none."""
    known: tuple[str, float] | None = st.session_state.get("on_screen")
    return None if known is None else time.monotonic() - known[1]


def channel() -> str:
    """Return the channel that the announced picture shows, "" for one file."""
    announced: Announced | None = st.session_state.get("announced")
    return "" if announced is None else announced.channel


def _painted() -> dict[tuple[str, str], set[Shown]]:
    """Return the pictures that were painted in this session, by directory and case."""
    pictures: dict[tuple[str, str], set[Shown]] = st.session_state.setdefault("painted", {})
    return pictures


@st.fragment
def draw_reporter(draw: Callable[[], None], head: str) -> None:
    """Draw the component that reports. Only this is drawn anew when it does, not the page."""
    draw()
    collect(head)
