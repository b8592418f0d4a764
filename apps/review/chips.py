"""The conditions that are in force, as chips that can be taken off one by one or all at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import streamlit as st

from anodetect.files import shortened

LONGEST = 40  # letters of a chip


@dataclass(frozen=True)
class Condition:
    """A choice of the filter: its label, and the value that is no condition."""

    label: str
    none: str | bool | tuple[str, ...]


CONDITIONS: Mapping[str, Condition] = MappingProxyType(
    {
        "only_sample": Condition("Audit sample", none=False),
        "status": Condition("Status", ()),
        "groups": Condition("Patient or lot", ()),
        "kinds": Condition("Kind", ()),
        "verdicts": Condition("My verdict", ()),
        "flagged": Condition("Flagged", "all"),
        "reviewed": Condition("Judged", "all"),
        "search": Condition("Search", ""),
    }
)
BLIND = {"only_sample", "status", "groups", "reviewed"}  # those that a blind list has


def draw() -> None:
    """Draw the chips, if there is any condition. A chip is plain text, whatever it names."""
    texts = _texts()
    if not texts:
        return
    st.session_state.chips = list(texts)
    st.sidebar.multiselect(
        "Filters in force",
        list(texts),
        format_func=texts.__getitem__,
        key="chips",
        on_change=_take_off,
        help="× takes one off; the × at the end takes all off.",
    )


def clear() -> None:
    """Take off all conditions."""
    for key in CONDITIONS:
        _clear(key)


def _take_off() -> None:
    """Take off the conditions whose chips are gone."""
    for key in _texts().keys() - set(st.session_state.chips):
        _clear(key)


def _clear(key: str) -> None:
    if key in st.session_state:
        none = CONDITIONS[key].none
        st.session_state[key] = list(none) if isinstance(none, tuple) else none


def _texts() -> dict[str, str]:
    """Return the text of each chip by the key of its condition."""
    state, texts = st.session_state, {}
    for key, condition in CONDITIONS.items():
        value = state.get(key, condition.none)
        if isinstance(value, list):
            value = tuple(value)
        hidden = state.get("blind") and key not in BLIND
        if hidden or value == condition.none:
            continue
        said = ", ".join(value) if isinstance(value, tuple) else str(value).strip()
        texts[key] = shortened(
            condition.label if value is True else f"{condition.label}: {said}", LONGEST
        )
    return texts
