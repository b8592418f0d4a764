"""The line that shows intensity and anomaly value under the pointer."""

from base64 import b64encode
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from .display import View

# The script shows the values under the pointer in whichever panel it is. Plotly shows values only
# of layers of its own, three of which would take as long to draw as everything else; it reports the
# place of the pointer anywhere.
SCRIPT = """
const kinds = {"|u1": Uint8Array, "<u2": Uint16Array, "<f4": Float32Array};
const number = (value) =>
  Number.isNaN(value) ? "not scored" : String(Number(value.toPrecision(4)));
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
const decoded = ({name, kind, values}) => ({name, values: new kinds[kind](bytes(values))});
let data, first, line, layers, plot;
function tell({xvals, yvals}) {
  if (plot.layout?.meta !== data.key) return;  // the picture of another case, still on the screen
  const x = Math.round(xvals[0]), y = Math.round(yvals[0]);
  if (!(x >= 0 && y >= 0 && x < data.width && y < data.height)) return;
  layers ??= data.layers.map(decoded);  // not earlier: most cases are judged without the pointer
  const place = Math.floor(y / data.block) * data.columns + Math.floor(x / data.block);
  const about = data.block > 1 ? ` (of ${data.block} × ${data.block} pixels)` : "";
  const values = layers.map((layer) => `${layer.name} ${number(layer.values[place])}`);
  line.textContent = [`x ${x}, y ${y}`, ...values].join(" · ") + about;
}
function listen(event) {
  const chart = "[class*=st-key-picture] .js-plotly-plot";
  const under = event.target.closest && event.target.closest(chart);
  if (!under || under === plot) return;
  plot = under;
  plot.on("plotly_hover", tell);
}
export default function (component) {  // called for every case; a listener is added only once
  const is_new = component.data.key !== data?.key;
  data = component.data;
  line = component.parentElement.querySelector("output");
  first ??= line.textContent;
  if (is_new) line.textContent = first;
  layers = undefined;
  window.addEventListener("mousemove", listen, true);
}
"""
HTML = "<output>Intensity and anomaly value under the pointer are shown here.</output>"
CSS = "output { font-size: 0.875rem; opacity: 0.7; }"


def draw(view: View, hidden: bool, key: str) -> None:
    """Draw the line for a view; where the map is hidden, it shows the intensity alone.

    `key` is that of the picture: values are shown only under the pointer over this one.
    """
    layers = [_layer("intensity", view.intensity)]
    if view.anomaly is not None and not hidden:
        layers.append(_layer("anomaly", view.anomaly))

    height, width = view.size
    data: dict[str, Any] = {
        "key": key,
        "height": height,
        "width": width,
        "block": view.hover_block,
        "columns": view.intensity.shape[1],
        "layers": layers,
    }
    component = st.components.v2.component("anodetect_read", html=HTML, css=CSS, js=SCRIPT)
    component(data=data, key="read")


def _layer(name: str, values: NDArray[np.generic]) -> dict[str, str]:
    """Return values as the script reads them: their NumPy type and their bytes in base64."""
    encoded = b64encode(values.tobytes()).decode()
    return {"name": name, "kind": values.dtype.str, "values": encoded}
