"""The focus on the page of cases: a field that has taken its text or choice gives it back, so that
the next key is the case's."""

import streamlit as st

# Streamlit leaves the focus in a text field after Enter, and in the field of a choice after a
# click on one of its options; a picture that takes a press of the mouse leaves it where it was.
# Keys would then be typed there. A field keeps the focus while its list is open, and while it is
# itself what was clicked. Who came with Tab keeps it until Enter or Escape.
SCRIPT = """
const typed = "input:not([type=checkbox], [type=radio], [type=range]), textarea, select, " +
  "[contenteditable=true], [role=combobox]";
function isOpen(field) {  // the list of a choice
  return field.closest("[aria-expanded=true]") || field.querySelector("[aria-expanded=true]");
}
function isOwn(target, field) {  // clicked to write into it
  if (!(target instanceof Element) || field.matches("[role=combobox]")) return false;
  return field.contains(target) || target.closest("label")?.control === field;
}
let tabbed = false;  // the focus was brought by the keyboard
function release(event) {
  if (event.isComposing) return;
  if (event.type === "pointerup") tabbed = false;
  if (event.key === "Tab") tabbed = true;
  if (event.type === "change" && (tabbed || !event.target.matches?.("select"))) return;
  const ends = event.key === "Enter" || event.key === "Escape";
  const isText = event.target.matches?.("textarea, [contenteditable=true]");
  if (event.type === "keydown" && !(ends && (!isText || event.key === "Escape" || event.ctrlKey ||
    event.metaKey))) return;
  const give = () => {  // Streamlit takes the text or choice first
    const field = document.activeElement;
    if (!field || !field.matches(typed) || isOpen(field)) return;
    if (["pointerup", "click"].includes(event.type) && isOwn(event.target, field)) return;
    const around = field.closest("[role=dialog]");  // which Escape is to close
    if (around) around.tabIndex = -1;
    around ? around.focus() : field.blur();
  };
  if (event.type === "keydown") {  // at once, but after all who listen below the window
    addEventListener("keydown", give, {once: true});
    setTimeout(() => removeEventListener("keydown", give), 0);
  }
  for (const milliseconds of [0, 50]) setTimeout(give, milliseconds);  // lists close late
}
export default function () {
  if (window.anodetectFocus) return;  // once, for good
  window.anodetectFocus = true;
  for (const type of ["keydown", "pointerup", "click", "change"])
    addEventListener(type, release, true);
}
"""


def mount() -> None:
    """Have the browser give the focus back."""
    st.components.v2.component("anodetect_focus", js=SCRIPT)(key="focus")
