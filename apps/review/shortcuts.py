"""The keys that press buttons, and the list of them."""

import streamlit as st

from anodetect.record.reviews import Judgement

KEYS: dict[Judgement, str] = {"normal": "A", "anomalous": "R", "unsure": "U", "bad image": "B"}
HELP = """
| key | |
|---|---|
| N, P | next, previous |
| A | verdict *normal* (accept) |
| R | verdict *anomalous* (reject) |
| U, B | verdict *unsure*, *bad image* |
| Z | take my last verdict back |
| O | heatmap over the image on, off |
| +, − | heatmap more, less opaque |
| ? | this list |
"""
# A key presses the button with that key in Streamlit: Streamlit's own shortcuts have no signs, and
# R is its key to run again. Enter leaves a text field, so that the next key is a shortcut again. A
# verdict is dropped if it comes before the page shows the case that was opened last (by a second
# click, or by a key that was held down): nobody has seen that image.
SCRIPT = """
const keys = {
  n: "next", p: "previous", z: "undo", o: "toggle", "+": "more", "-": "less", "?": "help",
  a: "verdict_normal", r: "verdict_anomalous", u: "verdict_unsure", b: "verdict_bad_image",
};
const field = "input, textarea, select, [contenteditable=true]";
const line = "input[type=text]:not([role=combobox])";
const movers = ".st-key-next button, .st-key-previous button, .st-key-undo button";
const busy = (now) => document.body.setAttribute("aria-busy", now);
function press(event) {
  const target = event.composedPath()[0];
  const typing = target.closest && target.closest(field);
  if (event.key === "Enter" && target.matches && target.matches(line))
    setTimeout(() => target.blur(), 50);
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = document.querySelector(`.st-key-${keys[event.key.toLowerCase()]} button`);
  if (!button) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  button.click();
}
function click(event) {
  const on = (buttons) => event.target.closest && event.target.closest(buttons);
  const verdict = on("[class*=st-key-verdict_] button");
  const is_busy = document.body.getAttribute("aria-busy") === "true";
  if (verdict && is_busy) event.stopImmediatePropagation();
  if (verdict || on(movers)) busy(true);
}
export default function () {  // called whenever the page was drawn
  busy(false);
  // Once, for good: the cleanup of a component runs when another one replaces it.
  if (!window.anodetectKeys) {
    window.anodetectKeys = true;
    window.addEventListener("keydown", press, true);
    window.addEventListener("click", click, true);
  }
  return () => busy(false);
}
"""


def mount(drawn: int) -> None:
    """Have the browser listen for the keys; `drawn` counts how often the page was drawn."""
    st.components.v2.component("anodetect_keys", js=SCRIPT)(data=drawn, key="keys")


@st.dialog("Keys")
def show_help() -> None:
    """Draw the list of keys over the page."""
    st.markdown(HELP)
