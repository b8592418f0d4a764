"""The way to the next case that the reviewer has not judged, from every page: a button, and the
key J."""

import streamlit as st

# A case on the screen has the key itself; a field that is typed in keeps it.
SCRIPT = """
const typed = "input:not([type=checkbox], [type=radio], [type=range]), textarea, select, " +
  "[contenteditable=true], [role=combobox], [role=dialog]";
function press(event) {
  if (event.key.toLowerCase() !== "j" || event.repeat || event.isComposing) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.composedPath()[0];
  if (target instanceof Element && target.closest(typed)) return;
  if (document.getElementById("viewer")) return;
  document.querySelector(".st-key-unjudged button")?.click();
}
export default function () {
  if (window.anodetectUnjudged) return;  // once, for good
  window.anodetectUnjudged = true;
  addEventListener("keydown", press, true);
}
"""


def draw() -> None:
    """Draw the button in the sidebar, and have the browser listen to the key."""
    st.sidebar.button("Next unjudged · J", key="unjudged", on_click=_open)
    st.components.v2.component("anodetect_unjudged", js=SCRIPT)(key="unjudged_key")


def _open() -> None:
    """Open the page of cases at the next one that the reviewer has not judged."""
    st.session_state.page = "Cases"
    st.session_state.skips = True
    st.session_state.view = "Case"
