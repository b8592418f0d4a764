"""The address of the page: the case that is open, and the link that can be sent.

Streamlit keeps the choices of order, filters and mode in the address by itself (`bind`). A case is
there by its path; while its name is hidden, by its number in the blind order of all rows, which
says nothing about it. The address is read once, when the page is loaded: whatever it says later was
written here, and may be older than what the reviewer has done since.
"""

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from anodetect.errors import AnodetectError
from anodetect.record import directories

from . import outcome
from .session import ReviewSession

CASE, SAMPLE, RECORD = "case", "sample", "record"
LARGEST_SAMPLE = 10_000  # cases of either kind
NUMBER = "~"  # before the number of a hidden case
LONGEST_NUMBER = 9  # digits
# The link that is sent is the address without the name: whoever opens it judges as somebody else.
SCRIPT = """
export default function ({ parentElement }) {
  const root = parentElement.querySelector(".link");
  const [button, field, said] = root.children;
  button.onclick = async () => {
    const url = new URL(location.href);
    url.searchParams.delete("reviewer");
    field.value = url.href;
    field.hidden = false;
    field.select();
    try {
      await navigator.clipboard.writeText(url.href);
      said.textContent = "Copied, without your name.";
    } catch { said.textContent = "Copy it from here; it is without your name."; }
  };
}
"""
HTML = (
    '<div class="link"><button type="button">Link to this view</button>'
    '<input readonly hidden aria-label="Link to this view"><span role="status"></span></div>'
)
CSS = """
.link { display: flex; flex-wrap: wrap; gap: 0.4rem; align-items: center; font-size: 0.875rem; }
.link button, .link input { font: inherit; color: inherit; padding: 0.25rem 0.6rem;
  border-radius: 0.5rem; background: var(--st-background-color);
  border: 1px solid color-mix(in srgb, currentColor 35%, transparent); }
.link button { cursor: pointer; }
.link input { flex: 1; min-width: 8rem; }
.link input[hidden] { display: none; }
"""


def choose_directory(choices: Sequence[Path]) -> None:
    """Choose the score directory whose record the address names by the beginning of its head, as a
    report does, which knows no folders."""
    wanted = str(st.query_params.get(RECORD, ""))
    if not wanted or st.session_state.get("recorded") == wanted:
        return
    st.session_state.recorded = wanted
    for folder in choices:
        try:
            head = str(directories.audit_content(folder).get("head", ""))
        except AnodetectError:
            continue
        if head.startswith(wanted):
            st.session_state.directory = folder
            return
    _say("The record that this link names is not open here.")


def restore(session: ReviewSession) -> None:
    """Open the case that the address names, once after the page was loaded."""
    if st.session_state.get("is_restored"):
        return
    st.session_state.is_restored = True
    _restore_sample(session)
    asked = str(st.query_params.get(CASE, ""))
    if not asked:
        return

    path = _named(session, asked)
    if not path:
        _say("The case that this link names is not in this score directory.")
        return
    st.session_state.open = path


def _restore_sample(session: ReviewSession) -> None:
    """List the audit sample alone whose size the address names."""
    count = str(st.query_params.get(SAMPLE, ""))
    if not _is_number(count) or not 0 < int(count) <= LARGEST_SAMPLE:
        return
    rows = session.scores.sample
    if len({row.is_volume for row in rows}) > 1:
        return  # images and volumes have samples of their own
    chosen = outcome.sample_of(rows, session.store.head, int(count))
    st.session_state.audit_sample = frozenset(chosen)
    st.session_state.audit_count = int(count)
    st.session_state.only_sample = True


def _say(text: str) -> None:
    st.container(border=True).text(text)


def _named(session: ReviewSession, asked: str) -> str:
    """Return the path of the case that an address names, "" where there is none."""
    scores = session.scores
    if asked in scores.by_path:
        return asked
    number = asked.removeprefix(NUMBER)
    if asked.startswith(NUMBER) and _is_number(number):
        return scores.path_of_number(int(number))
    return ""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= LONGEST_NUMBER


def keep(session: ReviewSession, path: str, *, hidden: bool) -> None:
    """Write the open case to the address; the slice of a volume is written by the viewer."""
    case = f"{NUMBER}{session.scores.number_of(path)}" if hidden else path
    sample = st.session_state.audit_count if st.session_state.get("only_sample") else 0
    wanted = {
        CASE: case,
        SAMPLE: str(sample or ""),
        RECORD: "",
    }
    for name, text in wanted.items():
        if not text and name in st.query_params:
            del st.query_params[name]
        elif text and st.query_params.get(name) != text:
            st.query_params[name] = text


def draw_link() -> None:
    """Draw the button that copies the link to what is on the screen."""
    component = st.components.v2.component("anodetect_link", html=HTML, css=CSS, js=SCRIPT)
    component(key="link")
