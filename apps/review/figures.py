"""Plotly figures. Texts in them are names of axes and the like, never names of files or people."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from anodetect.output import pictures
from anodetect.record.rows import OK, ScoreRow, SliceRow
from anodetect.types import Bools

from . import display
from .batches import Batch
from .display import Picture, View
from .outcome import Curve

CONTOUR, TRUTH = "#00e5ff", "#7CFC00"
OWN, OTHERS = "#f0e442", "#e69fda"  # regions that reviewers marked
LINE = "#8a8f98"  # colour of lines in charts, visible on white and on black
MARKER = "#d1495b"
GAP = 0.02  # space between panels, as a share of the figure's width

AXIS = {"showgrid": False, "zeroline": False, "constrain": "domain", "automargin": False}
# Fixed margins and modes spare the browser a second drawing: plotly need not compute the margins,
# and Streamlit need not add the modes.
LAYOUT = {
    "showlegend": False,
    "dragmode": "zoom",
    "hoveranywhere": True,
    "clickmode": "none",
    "hovermode": "closest",
}
MARGIN = {"l": 44, "r": 6, "t": 48, "b": 32, "autoexpand": False}
BAR_MARGIN = 78  # pixels on the right where the colour bar stands


@dataclass(frozen=True)
class Appearance:
    """The reader's choices of how a case looks.

    `window` holds the values shown black and white, `scale` the ends of the map's colours.
    `opacity` is that of the map over the image, 0 to 1. `third` names the third panel: "heatmap",
    "reconstruction" or "difference". With `contours` the regions that count are outlined,
    with `truth` the true mask.
    """

    window: tuple[float, float]
    scale: tuple[float, float]
    colours: display.Colours = "inferno"
    opacity: float = 0.7
    third: str = "heatmap"
    contours: bool = False
    truth: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture [H, W, 3] of a case, with its title."""

    title: str
    picture: Picture


@dataclass(frozen=True)
class DrawnPanel:
    """A panel as a browser gets it: its title, and the trace of its picture as names and values."""

    title: str
    trace: tuple[tuple[str, str | float], ...]


@dataclass(frozen=True)
class Line:
    """A line [N, 2] as x, y in pixels of the image; NaN stands between two lines."""

    points: NDArray[np.float64]
    colour: str
    dash: str = "solid"


# -- A case ----------------------------------------------------------------------------------------


def case(
    view: View,
    appearance: Appearance,
    *,
    hidden: bool,
    key: str = "",
    marks: Sequence[Line] = (),
) -> dict[str, Any]:
    """Return the figure of a case: image, heatmap over it and third panel, zoomed together, in
    pixels of the image. Where the map is `hidden` or missing, the image stands alone.

    The browser reports `key` once it has painted the figure. `marks` are drawn over all panels.
    Plotly changes a figure while it reads it, so each call returns one of its own; what takes time
    is cached and cannot be changed. It is a plain dict, which takes less time to make than plotly's
    own figures.
    """
    has_map = view.heatmap is not None and not hidden
    panels, contours = prepare(view, appearance, hidden=hidden)
    width = (1 - GAP * (len(panels) - 1)) / len(panels)

    data, titles = list[dict[str, Any]](), list[dict[str, Any]]()
    layout: dict[str, Any] = LAYOUT | {"meta": key}
    for n, panel in enumerate(panels):
        number = "" if n == 0 else str(n + 1)
        axes = {"xaxis": f"x{number}", "yaxis": f"y{number}"}
        data.append(dict(panel.trace) | axes)
        data += [_trace(line) | axes for line in (*contours, *marks)]

        left = n * (width + GAP)
        layout[f"xaxis{number}"] = _x_axis(view, number, left, left + width)
        layout[f"yaxis{number}"] = _y_axis(view, number)
        titles.append(_title(panel.title, left + width / 2))

    if has_map:
        last = {"xaxis": f"x{len(panels)}", "yaxis": f"y{len(panels)}"}
        data.append(_colour_bar(appearance) | last)
    layout["annotations"] = titles
    layout["margin"] = MARGIN | ({"r": BAR_MARGIN} if has_map else {})
    return {"data": data, "layout": layout}


def overlaid(view: View, appearance: Appearance) -> dict[str, Any]:
    """Return the figure of a case as one picture: the image with the heatmap over it, as opaque as
    the appearance says, and the outlines of what counts."""
    image = pictures.grey(view.image, appearance.window)
    if view.heatmap is not None:
        scale, colours = appearance.scale, appearance.colours
        image = display.overlay(image, view.heatmap, scale, colours, appearance.opacity)
    lines = _contours(view, appearance, view.heatmap is not None)
    data = [_image(image, view), *map(_trace, lines)]
    axes = {"xaxis": _x_axis(view, "", 0.0, 1.0), "yaxis": _y_axis(view, "")}
    margin = {"l": 30, "r": 6, "t": 6, "b": 24}
    return {"data": data, "layout": LAYOUT | axes | {"margin": margin}}


@lru_cache(32)
def prepare(
    view: View, appearance: Appearance, *, hidden: bool
) -> tuple[tuple[DrawnPanel, ...], tuple[Line, ...]]:
    """Return the panels and contours of a case as they are drawn. They are cached, so that the next
    case can be drawn before it is asked for."""
    has_map = view.heatmap is not None and not hidden
    panels = []
    for panel in _panels(view, appearance, has_map):
        trace = _image(panel.picture, view)
        panels.append(DrawnPanel(panel.title, tuple(trace.items())))
    return tuple(panels), tuple(_contours(view, appearance, has_map))


def _panels(view: View, appearance: Appearance, has_map: bool) -> list[Panel]:
    """Return the panels from left to right."""
    image = Panel("image", pictures.grey(view.image, appearance.window))
    if view.heatmap is None or not has_map:
        return [image]

    over = display.overlay(
        image.picture, view.heatmap, appearance.scale, appearance.colours, appearance.opacity
    )
    kept = {"reconstruction": view.reconstruction, "difference": view.difference}
    third = kept.get(appearance.third)
    if third is not None:
        last = Panel(appearance.third, third)
    else:
        heatmap = pictures.colour(view.heatmap, appearance.scale, appearance.colours)
        last = Panel("heatmap", heatmap)
    return [image, Panel("heatmap over it", over), last]


def _image(picture: Picture, view: View) -> dict[str, Any]:
    """Return a picture as a trace that covers the image's pixels."""
    rows, columns = view.size
    dx, dy = columns / picture.shape[1], rows / picture.shape[0]
    if picture.shape[:2] == view.image.shape[1:]:
        dx = dy = view.block  # the last block may be larger than what is left of the image
    place = {"x0": dx / 2 - 0.5, "y0": dy / 2 - 0.5, "dx": dx, "dy": dy}
    return {"type": "image", "source": display.data_uri(picture), "hoverinfo": "skip"} | place


def _x_axis(view: View, number: str, left: float, right: float) -> dict[str, Any]:
    """Return the x axis of a panel; all panels follow the first one's."""
    columns = view.size[1]
    axis = {"range": [-0.5, columns - 0.5], "domain": [left, right], "anchor": f"y{number}"}
    return AXIS | axis | ({"matches": "x"} if number else {})


def _y_axis(view: View, number: str) -> dict[str, Any]:
    """Return the y axis of a panel, which runs down; all panels follow the first one's."""
    rows = view.size[0]
    axis = {"range": [rows - 0.5, -0.5], "anchor": f"x{number}", "showticklabels": not number}
    first = {"scaleanchor": "x", "scaleratio": view.aspect}
    return AXIS | axis | ({"matches": "y"} if number else first)


def _title(text: str, x: float) -> dict[str, Any]:
    """Return a panel's title, centred at x."""
    place = {"x": x, "y": 1, "xref": "paper", "yref": "paper"}
    anchor = {"xanchor": "center", "yanchor": "bottom"}
    return {"text": text, "showarrow": False} | place | anchor


def _contours(view: View, appearance: Appearance, has_map: bool) -> list[Line]:
    """Return the outlines of the truth, and those of the regions that count."""
    lines = []
    if appearance.truth and view.mask is not None and has_map:
        lines.append(_outline(view.mask, view.block, TRUTH))
    if appearance.contours and view.found is not None and has_map:
        lines.append(_outline(view.found, view.block, CONTOUR))
    return lines


def _outline(inside: Bools, block: int, colour: str) -> Line:
    """Return the outline of a mask."""
    points = display.outlines(inside, block)
    points.setflags(write=False)
    return Line(points, colour)


def _trace(line: Line) -> dict[str, Any]:
    """Return a line as a trace."""
    style = {"color": line.colour, "width": 1.5, "dash": line.dash}
    values = {"x": line.points[:, 0], "y": line.points[:, 1]}
    return {"type": "scatter", "mode": "lines", "line": style, "hoverinfo": "skip"} | values


def outline_of(corners: Sequence[tuple[int, int]], own: bool) -> Line:
    """Return the closed outline of a region that a reviewer marked; `corners` are those of pixels
    as they are shown."""
    points = np.array([*corners, corners[0]], np.float64) - 0.5
    return Line(points, OWN) if own else Line(points, OTHERS, "dash")


def _colour_bar(appearance: Appearance) -> dict[str, Any]:
    """Return a trace that draws nothing but the bar of the model's fixed colour scale."""
    low, high = appearance.scale
    # The padding is in pixels: a share of a wide window would leave the margin.
    bar = {"title": {"text": "anomaly", "side": "right"}, "x": 1, "xpad": 10, "thickness": 12}
    marker = {
        "colorscale": display.colour_scale(appearance.colours),
        "cmin": low,
        "cmax": high,
        "color": [low],
        "showscale": True,
        "colorbar": bar,
    }
    nothing = {"type": "scatter", "x": [None], "y": [None], "mode": "markers"}

    return nothing | {"marker": marker, "hoverinfo": "skip"}


def profile(slices: Sequence[SliceRow], number: int, threshold: float) -> go.Figure:
    """Return the chart of the scores of a volume's slices, in order, with lines at slice `number`,
    counted from 0, and at the threshold."""
    margin = {"t": 10, "b": 10, "l": 10, "r": 10}
    figure = go.Figure(layout={"height": 150, "showlegend": False, "margin": margin})
    # A slice that was not scored has None, which leaves a gap in the line.
    scores = [row.score for row in slices]
    figure.add_trace(go.Scatter(x=list(range(1, len(scores) + 1)), y=scores, mode="lines+markers"))

    figure.add_vline(number + 1, line_width=2, line_color=LINE)
    if np.isfinite(threshold):
        label = {"text": "threshold", "yanchor": "bottom", "x": 0, "xanchor": "left"}
        figure.add_hline(threshold, line_dash="dash", line_color=LINE, annotation=label)

    figure.update_xaxes(title="slice")
    figure.update_yaxes(title="score")
    return figure


# -- Threshold -------------------------------------------------------------------------------------


def histogram(
    rows: Sequence[ScoreRow], calibration: NDArray[np.float64], threshold: float, reference: str
) -> go.Figure:
    """Return the histogram of this batch's scores over that of the scores it is compared with, of
    which `reference` is the name, with a line at the threshold."""
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom"}
    layout = {"barmode": "overlay", "height": 360, "legend": legend, "margin": {"t": 40}}
    figure = go.Figure(layout=layout)

    scores = np.array([row.score for row in rows if row.status == OK])
    edges = np.histogram_bin_edges(np.concatenate([scores, calibration]), 50)
    centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    for values, name in ((scores, "this batch"), (calibration, reference)):
        share = 100 * np.histogram(values, edges)[0] / max(len(values), 1)
        figure.add_trace(go.Bar(x=centres, y=share, width=width, name=name, opacity=0.6))

    if np.isfinite(threshold):
        figure.add_vline(threshold, line_dash="dash", line_color=LINE, annotation_text="threshold")
    figure.update_xaxes(title="score (larger = more anomalous)")
    figure.update_yaxes(title="% of images")
    return figure


def shares(batches: Sequence[Batch], far: float | None) -> go.Figure:
    """Return the share of flagged images of each batch with its interval, a colour for each model;
    the false-alarm rate `far` is a line, None for no common one."""
    models = list(dict.fromkeys(batch.model for batch in batches))
    figure = go.Figure(layout={"height": 260, "margin": {"l": 44, "r": 6, "t": 8, "b": 32}})
    for number, model in enumerate(models, start=1):
        own = [batch for batch in batches if batch.model == model and batch.share.scored]
        values = [batch.share.value for batch in own]
        figure.add_scatter(
            x=[batch.ended for batch in own],
            y=values,
            mode="lines+markers",
            name=f"model {number}: {model[:8]}",
            error_y={
                "array": [batch.share.high - batch.share.value for batch in own],
                "arrayminus": [batch.share.value - batch.share.low for batch in own],
            },
        )
    if far is not None:
        figure.add_hline(far, line={"dash": "dot", "color": LINE})
    figure.update_yaxes(title="flagged", tickformat=".0%", rangemode="tozero")
    return figure


def roc(curve: Curve, false_alarms: float, sensitivity: float) -> go.Figure:
    """Return the ROC curve with a mark where the threshold stands."""
    figure = go.Figure(layout={"height": 360, "showlegend": False, "margin": {"t": 40}})
    figure.add_trace(
        go.Scatter(x=curve.false_alarms, y=curve.sensitivity, mode="lines", name="ROC")
    )

    figure.add_trace(
        go.Scatter(
            x=[false_alarms],
            y=[sensitivity],
            mode="markers",
            marker={"size": 12, "symbol": "x", "color": MARKER},
            name="this rate",
        )
    )
    figure.update_xaxes(title="share of normal images flagged", range=[-0.02, 1.02])
    figure.update_yaxes(title="share of anomalous images flagged", range=[-0.02, 1.02])
    return figure
