"""Plotly figures. Texts in them are names of axes and the like, never names of files or people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from anodetect.output import pictures
from anodetect.output.bars import score_bars
from anodetect.record.rows import OK, ScoreRow
from anodetect.types import Bools

from . import display
from .batches import Batch
from .display import Picture, View
from .outcome import Curve

CONTOUR = "#00e5ff"
LINE = "#8a8f98"  # colour of lines in charts, visible on white and on black
MARKER = "#d1495b"

AXIS = {"showgrid": False, "zeroline": False, "constrain": "domain", "automargin": False}
LAYOUT = {"showlegend": False, "dragmode": "zoom", "hovermode": False}


@dataclass(frozen=True)
class Appearance:
    """The looks of a case: `window` holds the values shown black and white, `scale` the ends of the
    map's colours, `opacity` is that of the map over the image, 0 to 1."""

    window: tuple[float, float]
    scale: tuple[float, float]
    opacity: float = 0.7


# -- A case ----------------------------------------------------------------------------------------


def overlaid(view: View, appearance: Appearance) -> dict[str, Any]:
    """Return the figure of a case as one picture: the image with the heatmap over it, as opaque as
    the appearance says, and the outlines of what counts."""
    image = pictures.grey(view.image, appearance.window)
    if view.heatmap is not None:
        image = display.overlay(
            image, view.heatmap, appearance.scale, display.COLOURS[0], appearance.opacity
        )
    data = [_image(image, view)]
    if view.heatmap is not None and view.found is not None:
        data.append(_outline(view.found, view.block))
    rows, columns = view.size
    across = AXIS | {"range": [-0.5, columns - 0.5]}
    down = {"range": [rows - 0.5, -0.5], "scaleanchor": "x", "scaleratio": view.aspect}
    axes = {"xaxis": across, "yaxis": AXIS | down}
    margin = {"l": 44, "r": 6, "t": 6, "b": 24}  # room for four digits
    return {"data": data, "layout": LAYOUT | axes | {"margin": margin}}


def _image(picture: Picture, view: View) -> dict[str, Any]:
    """Return a picture as a trace that covers the image's pixels."""
    rows, columns = view.size
    dx, dy = columns / picture.shape[1], rows / picture.shape[0]
    if picture.shape[:2] == view.image.shape[1:]:
        dx = dy = view.block  # the last block may be larger than what is left of the image
    place = {"x0": dx / 2 - 0.5, "y0": dy / 2 - 0.5, "dx": dx, "dy": dy}
    return {"type": "image", "source": display.data_uri(picture), "hoverinfo": "skip"} | place


def _outline(inside: Bools, block: int) -> dict[str, Any]:
    """Return the outline of a mask as a trace."""
    points = display.outlines(inside, block)
    style = {"color": CONTOUR, "width": 1.5}
    values = {"x": points[:, 0], "y": points[:, 1]}
    return {"type": "scatter", "mode": "lines", "line": style, "hoverinfo": "skip"} | values


# -- Threshold -------------------------------------------------------------------------------------


def histogram(
    rows: Sequence[ScoreRow], calibration: NDArray[np.float64], threshold: float, reference: str
) -> go.Figure:
    """Return the histogram of this batch's scores over that of the scores it is compared with, of
    which `reference` is the name, with a line at the threshold."""
    legend = {"orientation": "h", "y": 1.0, "yanchor": "bottom"}
    figure = go.Figure(layout={"height": 360, "legend": legend, "margin": {"t": 40}})
    scores = np.array([row.score for row in rows if row.status == OK], np.float64)
    bars = score_bars(scores, calibration)

    highest = 0.0
    for values, name in ((scores, "this batch"), (calibration, reference)):
        share = 100 * bars.heights(values) / max(len(values), 1)
        highest = max(highest, float(share.max()))
        steps, line = np.append(share, share[-1]), {"shape": "hv", "width": 1}
        figure.add_scatter(
            x=bars.edges, y=steps, mode="lines", line=line, fill="tozeroy", name=name
        )

    if np.isfinite(threshold):
        figure.add_scatter(
            x=[threshold, threshold],
            y=[0, 1.05 * highest],
            mode="lines",
            line={"dash": "dash", "color": LINE},
            name=f"threshold {threshold:.4g}",
        )
    figure.update_xaxes(title=bars.axis, type="log" if bars.is_logarithmic else "linear")
    figure.update_yaxes(title="% of images", rangemode="tozero")
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
