"""The keys that press buttons, their list, and the browser's report of what it has painted."""

import streamlit as st

from anodetect.record.reviews import Judgement

from . import screen

HELP = """
| key | |
|---|---|
| N, P | next, previous |
| J | next one that I have not judged |
| {0}, {1} | verdict *normal*, *anomalous* |
| {2}, {3} | verdict *unsure*, *bad image* |
| Z | take my last verdict back |
| O | heatmap over the image on, off |
| +, − | heatmap more, less opaque |
| ? | this list |
"""
# A key presses the button with that key in Streamlit: Streamlit's own shortcuts have no signs, and
# R is its key to run again.
#
# A verdict is refused, with words and a sound, if it comes before the picture of the case that was
# opened last is painted (by a second click, or by a key that was held down): nobody has seen that
# image. The picture carries its key in its layout's `meta`; once its images are decoded and a frame
# was drawn since, the key is reported. The server compares it, and has the last word.
SCRIPT = """
const keys = {
  n: "next", p: "previous", z: "undo", o: "toggle", "+": "more", "=": "more", "-": "less",
  "?": "help", j: "unjudged",
};
const field = "input:not([type=checkbox], [type=radio], [type=range]), textarea, select, " +
  "[contenteditable=true]";
const movers = ".st-key-next button, .st-key-previous button, .st-key-undo button, " +
  ".st-key-unjudged button";
const state = window.anodetect ??= {drawn: -1, painted: "", data: {}};
const busy = (now) => document.body.setAttribute("aria-busy", now);
function refuse(text) {
  let note = document.querySelector("#anodetect-refused");
  if (!note) {
    note = document.body.appendChild(document.createElement("div"));
    note.id = "anodetect-refused";
    note.setAttribute("role", "alert");
    note.style = "position: fixed; z-index: 999999; top: 4rem; left: 50%; " +
      "transform: translateX(-50%); padding: 0.6rem 1rem; border-radius: 0.5rem; " +
      "color: #fff; background: #8a1c2b; font: 1rem sans-serif";
  }
  note.textContent = text;
  note.hidden = false;
  clearTimeout(state.note);
  state.note = setTimeout(() => { note.hidden = true; note.textContent = ""; }, 4000);
  try {  // a short low tone
    const sound = state.sound ??= new AudioContext();
    const tone = sound.createOscillator();
    tone.frequency.value = 220;
    tone.connect(sound.destination);
    tone.start();
    tone.stop(sound.currentTime + 0.12);
  } catch { /* no sound here: the words stand */ }
}
function press(event) {
  const target = event.composedPath()[0];
  const typing = target.closest && target.closest(field);
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const name = {...keys, ...state.data.verdicts}[event.key.toLowerCase()];
  const button = name && document.querySelector(`.st-key-${name} button`);
  if (!button) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  button.click();
}
function click(event) {
  const on = (buttons) => event.target.closest && event.target.closest(buttons);
  const verdict = on("[class*=st-key-verdict_] button");
  if (verdict && !verdict.disabled) {
    const is_busy = document.body.getAttribute("aria-busy") === "true";
    const key = state.data.key;
    if (is_busy || !key || state.painted !== key) {
      event.stopImmediatePropagation();
      event.preventDefault();
      refuse(key || is_busy ? "Not recorded: the image is not here yet."
        : "Not recorded: this case has no image on the screen.");
      return;
    }
  }
  if (verdict || on(movers)) { state.since = state.drawn; busy(true); }
}
async function decoded(plot) {
  const images = [...plot.querySelectorAll(".imagelayer image")];
  const sources = images.map((image) => image.href.baseVal);
  if (!sources.length || !sources.every(Boolean)) return false;
  const probes = sources.map((source) => Object.assign(new Image(), {src: source}).decode());
  return Promise.all(probes).then(() => true, () => false);
}
async function watch(report) {  // until the picture with the key of this case is painted
  const key = state.data.key, turn = state.turn = (state.turn ?? 0) + 1;
  const frame = () => new Promise(requestAnimationFrame);
  while (key && state.turn === turn) {
    const plots = [...document.querySelectorAll("[class*=st-key-picture] .js-plotly-plot")];
    const plot = plots.find((each) => each.layout?.meta === key);
    if (plot && await decoded(plot)) {
      await frame();
      await frame();
      if (state.turn !== turn) return;
      state.painted = key;
      document.body.setAttribute("data-painted", key);
      report("painted", key);
      return;
    }
    await frame();
  }
}
export default function (component) {  // called whenever the page was drawn
  const {drawn, key, reported} = component.data;
  state.data = component.data;
  // Streamlit forgets the report while another page is open.
  if (reported !== key) state.painted = "";
  if (drawn !== state.drawn) {
    state.drawn = drawn;
    busy(false);
  }
  if (state.painted !== key) watch(component.setStateValue);
  // Once, for good: the cleanup of a component runs when another one replaces it.
  if (!state.listens) {
    state.listens = true;
    window.addEventListener("keydown", press, true);
    window.addEventListener("click", click, true);
  }
  return () => { if (!document.querySelector(movers)) busy(false); };
}
"""


def button_key(verdict: Judgement) -> str:
    """Return the name of a verdict's button."""
    return f"verdict_{verdict.replace(' ', '_')}"


def mount(head: str, drawn: int, keys: dict[Judgement, str]) -> None:
    """Have the browser listen for the keys and report what it has painted; `drawn` counts how often
    the page was drawn."""
    verdicts = {key.lower(): button_key(verdict) for verdict, key in keys.items()}

    sent = {"drawn": drawn, "key": screen.announced_key(), "verdicts": verdicts}

    def draw() -> None:
        data = sent | {"reported": screen.reported()}
        component = st.components.v2.component("anodetect_keys", js=SCRIPT)
        component(
            data=data,
            key=screen.COMPONENT,
            default={"painted": ""},
            on_painted_change=lambda: None,
        )

    screen.draw_reporter(draw, head)


@st.dialog("Keys")
def show_help(keys: dict[Judgement, str]) -> None:
    """Draw the list of keys over the page."""
    st.markdown(HELP.format(*keys.values()))
