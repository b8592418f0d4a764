"""The case itself: image, heatmap over it, third panel, and what can be changed about them."""

from base64 import b64encode
from dataclasses import replace
from typing import Any

import streamlit as st

from anodetect.data import geometry
from anodetect.output.volumes import place_text
from anodetect.record.rows import ScoreRow

from . import display, figures, opened, worklist
from .opened import Opened

BY_HAND = "by hand"  # of the windows, the one to set oneself
KEYS = """
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
# What lies under the pointer, in whichever panel. Plotly tells values only of layers of its own,
# three of which would take as long to draw as all the rest; where the pointer is, it tells
# anywhere.
READ = """
const kinds = {"|u1": Uint8Array, "<u2": Uint16Array, "<f4": Float32Array};
const number = (value) => Number.isNaN(value) ? "not scored" : String(Number(value.toPrecision(4)));
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
const decoded = ({name, kind, values}) => ({name, values: new kinds[kind](bytes(values))});
let data, line, layers, plot;
function tell({xvals, yvals}) {
  const x = Math.round(xvals[0]), y = Math.round(yvals[0]);
  if (!(x >= 0 && y >= 0 && x < data.width && y < data.height)) return;
  layers ??= data.layers.map(decoded);  // not before: most cases are judged without
  const place = Math.floor(y / data.block) * data.columns + Math.floor(x / data.block);
  const about = data.block > 1 ? ` (of ${data.block} × ${data.block} pixels)` : "";
  const values = layers.map((layer) => `${layer.name} ${number(layer.values[place])}`);
  line.textContent = [`x ${x}, y ${y}`, ...values].join(" · ") + about;
}
function listen(event) {
  const under = event.target.closest && event.target.closest("[class*=st-key-picture] .js-plotly-plot");
  if (!under || under === plot) return;
  plot = under;
  plot.on("plotly_hover", tell);
}
export default function (component) {  // called for every case; to add a listener again adds nothing
  data = component.data;
  line = component.parentElement.querySelector("output");
  layers = undefined;
  window.addEventListener("mousemove", listen, true);
}
"""
READ_HTML = "<output>Intensity and anomaly value are told here, under the pointer.</output>"
READ_CSS = "output { font-size: 0.875rem; opacity: 0.7; }"


def draw(now: Opened, row: ScoreRow, hidden: bool) -> None:
    view, notes = _slice(now, row, hidden) if row.is_volume else opened.view(now.directory, row)
    for note in notes if not hidden else ():
        st.text(note)
    if view is None:
        st.info(
            "There is no image to show."
            if not hidden
            else "The image cannot be shown; see it with blind mode off."
        )
        return
    # Above the controls it depends on; page.STYLE gives it its height.
    place = st.container(
        key="picture" if not hidden and view.heatmap is not None else "picture_alone"
    )
    under = st.container()
    look = st.session_state.look = _look(now, view, hidden)
    key = "chart"

    def mark() -> None:
        height, width = view.size
        st.session_state[f"region-{row.path}"] = worklist.drawn(
            st.session_state[key].selection, width, height
        )

    names = "Image" if hidden or view.heatmap is None else f"Image, heatmap over it, {look.third}"
    place.plotly_chart(
        figures.case(view, look, hidden=hidden),
        height="stretch",
        key=key,
        on_select=mark,
        selection_mode=("box", "lasso"),
        config={
            "scrollZoom": True,
            "displaylogo": False,
            "modeBarButtonsToAdd": ["select2d", "lasso2d"],
        },
        alt=f"{names}; drag to zoom, double-click to see all; box and lasso mark a region",
    )
    with under:
        _read_out(view, hidden)


def ahead(now: Opened, row: ScoreRow, hidden: bool) -> None:
    """Have the picture of a case ready, as it will look unless the reader chooses otherwise."""
    look, preset = st.session_state.get("look"), st.session_state.get("window", "auto")
    if row.is_volume:
        return
    view, _ = opened.view(now.directory, row)
    if view is not None and look is not None and preset != BY_HAND:
        figures.case(view, replace(look, window=_preset(view, preset)), hidden=hidden)


def _slice(now: Opened, row: ScoreRow, hidden: bool) -> tuple[display.View | None, tuple[str, ...]]:
    """The slice of a volume that the reader scrolled to, at first the one with the highest score."""
    slices = now.scored.slices.get(row.path, [])
    if not slices:
        return None, ("No image: the volume's slices were not recorded; score it again",)
    plane = slices[0].axis
    volume = opened.volume(now.directory, row, plane)
    if volume.geometry is None:
        return None, volume.notes
    flipped = volume.geometry.flipped[0]
    slices = sorted(slices, key=lambda each: -each.slice if flipped else each.slice)
    key, depth = f"slice-{row.path}", len(slices)
    first = (
        depth // 2 if hidden else slices.index(opened.highest(slices))
    )  # where it is highest would tell
    st.session_state.setdefault(key, first + 1)
    number = st.slider("Slice", 1, max(depth, 2), key=key, persist_state="session") - 1
    number = min(number, depth - 1)
    if not hidden:
        chart = figures.profile(slices, number, row.threshold or float("nan"))
        st.plotly_chart(
            chart, key="profile", alt="Score of each slice", config={"displayModeBar": False}
        )
    edges = geometry.edges(plane)
    place = place_text(volume.geometry.centre(number), plane)
    st.caption(
        f"{plane}, {place}; left {edges['left']}, right {edges['right']}, top {edges['top']} of the patient"
    )
    reason = slices[number].unscored
    notes = (f"This slice was not scored: {reason}.",) if reason else ()
    return display.slice_view(volume, number), (*volume.notes, *notes)


def _read_out(view: display.View, hidden: bool) -> None:
    """The line that tells intensity and anomaly value under the pointer."""
    layers = [("intensity", view.intensity)]
    if view.anomaly is not None and not hidden:
        layers.append(("anomaly", view.anomaly))
    height, width = view.size
    data: dict[str, Any] = {
        "height": height,
        "width": width,
        "block": view.told,
        "columns": view.intensity.shape[1],
    }
    data["layers"] = [
        {"name": name, "kind": values.dtype.str, "values": b64encode(values.tobytes()).decode()}
        for name, values in layers
    ]
    st.components.v2.component("anodetect_read", html=READ_HTML, css=READ_CSS, js=READ)(
        data=data, key="read"
    )


def _look(now: Opened, view: display.View, hidden: bool) -> figures.Look:
    """What the reader chose, and the controls to choose with."""
    state, mapped = st.session_state, not hidden and view.heatmap is not None
    columns = st.columns([2, 2, 2, 2, 3] if mapped else [2, 6])
    window = _window(columns[0], view)
    scale = display.scale_of(now.directory.audit)
    if not mapped:
        return figures.Look(window, scale)
    colours = columns[1].selectbox(
        "Colours", display.COLOURS, key="colours", persist_state="session"
    )
    panels = [
        "heatmap",
        *(["reconstruction", "difference"] if view.reconstruction is not None else []),
    ]
    third = columns[2].selectbox("Third panel", panels, key="third", persist_state="session")
    with columns[3]:
        kept: dict[str, Any] = {"persist_state": "session"}
        contours = st.checkbox(
            "Contours", key="contours", help="Around what exceeds the pixel threshold.", **kept
        )
        known = view.mask is not None
        truth = known and st.checkbox(
            "Truth", key="truth", help="The mask that came with the image.", **kept
        )
    columns[4].slider(
        "Heatmap's opacity, %", 0, 100, key="opacity", step=10, persist_state="session"
    )

    def more(by: int) -> None:
        state.opacity = min(max(state.opacity + by, 0), 100)

    def toggle() -> None:
        state.overlay = not state.overlay

    shortcuts = st.container(horizontal=True, gap="small")
    shortcuts.button("Overlay on/off · O", key="toggle", on_click=toggle)
    shortcuts.button("Less opaque · −", key="less", on_click=more, args=(-10,))
    shortcuts.button("More opaque · +", key="more", on_click=more, args=(10,))
    if shortcuts.button("Keys · ?", key="help"):
        _help()
    threshold = now.directory.audit.get("pixel_threshold") if contours else None
    return figures.Look(
        window,
        scale,
        colours,
        state.opacity / 100 if state.overlay else 0,
        third,
        threshold,
        bool(truth),
    )


def _window(column: Any, view: display.View) -> tuple[float, float]:
    """The values to show black and white."""
    preset = column.selectbox(
        "Window", [*view.windows, BY_HAND], key="window", persist_state="session"
    )
    if preset != BY_HAND:
        return _preset(view, preset)
    low, high = view.windows["full range"]
    auto = view.windows["auto"]
    chosen: tuple[float, float] = st.slider(
        "Black and white at", low, max(high, low + 1e-6), auto, key="levels"
    )
    return chosen


def _preset(view: display.View, name: str) -> tuple[float, float]:
    return view.windows.get(
        name, view.windows["auto"]
    )  # an image that is no CT has none of its windows


@st.dialog("Keys")
def _help() -> None:
    st.markdown(KEYS)
