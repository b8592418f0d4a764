"""What is drawn as plotly figures. Texts in them are names of axes and the like, never of files or
people."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from anodetect.output import images as writer
from anodetect.record.rows import ScoreRow, SliceRow
from anodetect.stats.agreement import Rate
from anodetect.types import Bools

from . import display
from .display import Picture, View

CONTOUR, TRUTH = "#00e5ff", "#7CFC00"
MARK = "#8a8f98"  # of lines in charts: seen on white and on black
GAP = 0.02  # between panels, of the figure's width


@dataclass(frozen=True)
class Look:
    """How a case is shown: values in black and white; the map's scale, colours and opacity, 0 to 1;
    the third panel ("heatmap", "reconstruction" or "difference"); where contours are drawn, and
    whether the truth is."""

    window: tuple[float, float]
    scale: tuple[float, float]
    colours: display.Colours = "inferno"
    opacity: float = 0.7
    third: str = "heatmap"
    threshold: float | None = None
    truth: bool = False


@lru_cache(32)
def case(view: View, look: Look, *, hidden: bool) -> dict[str, Any]:
    """Image | heatmap over it | third panel, zoomed together, in pixels of the image; `hidden`: the
    image alone.

    Kept, so that the next case can be drawn ahead; a plain dict, which is quicker to make than
    plotly's figures.
    """
    heatmap = None if hidden else view.heatmap
    panels = _panels(view, look, heatmap is None)
    share = (1 - GAP * (len(panels) - 1)) / len(panels)
    rows, columns = view.size
    data, layout = list[dict[str, Any]](), dict[str, Any]()
    lines = _lines(view, look)
    for n, (title, picture) in enumerate(panels):
        axis = "" if n == 0 else str(n + 1)
        on = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
        dx, dy = columns / picture.shape[1], rows / picture.shape[0]
        if picture.shape[:2] == view.image.shape[1:]:
            dx = dy = view.block  # the last block may reach beyond the image
        place = {"x0": dx / 2 - 0.5, "y0": dy / 2 - 0.5, "dx": dx, "dy": dy}
        data += [
            {"type": "image", "source": display.data_uri(picture), "hoverinfo": "skip"} | place | on
        ]
        data += [line | on for line in lines]
        left = n * (share + GAP)
        x = {"range": [-0.5, columns - 0.5], "domain": [left, left + share], "anchor": f"y{axis}"}
        y = {"range": [rows - 0.5, -0.5], "anchor": f"x{axis}", "showticklabels": n == 0}
        y |= {"scaleanchor": "x", "scaleratio": view.aspect} if n == 0 else {"matches": "y"}
        layout |= {f"xaxis{axis}": x | ({"matches": "x"} if n else {}), f"yaxis{axis}": y}
        layout.setdefault("annotations", []).append(_title(title, left + share / 2))
    for name in [name for name in layout if "axis" in name]:
        layout[name] |= {
            "showgrid": False,
            "zeroline": False,
            "constrain": "domain",
            "automargin": False,
        }
    if heatmap is not None:
        data.append(_colour_bar(look) | {"xaxis": f"x{len(panels)}", "yaxis": f"y{len(panels)}"})
    # Margins that plotly need not find, and modes that Streamlit need not add, spare the browser a
    # second drawing.
    margin = {"l": 44, "r": 6 if heatmap is None else 78, "t": 48, "b": 32, "autoexpand": False}
    layout |= {"margin": margin, "showlegend": False, "dragmode": "zoom", "hoveranywhere": True}
    layout |= {"clickmode": "none", "hovermode": "closest"}
    return {"data": data, "layout": layout}


def _panels(view: View, look: Look, alone: bool) -> list[tuple[str, Picture]]:
    image = writer.grey(view.image, look.window)
    if alone or view.heatmap is None:
        return [("image", image)]
    over = display.overlay(image, view.heatmap, look.scale, look.colours, look.opacity)
    kept = {"reconstruction": view.reconstruction, "difference": view.difference}.get(look.third)
    third = writer.colour(view.heatmap, look.scale, look.colours) if kept is None else kept
    return [
        ("image", image),
        ("heatmap over it", over),
        ("heatmap" if kept is None else look.third, third),
    ]


def _title(text: str, x: float) -> dict[str, Any]:
    place = {
        "x": x,
        "y": 1,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "center",
        "yanchor": "bottom",
    }
    return {"text": text, "showarrow": False} | place


def _lines(view: View, look: Look) -> list[dict[str, Any]]:
    """Contours of the map at the pixel threshold, and of the truth."""
    wanted: list[tuple[Bools | None, str]] = [(view.mask if look.truth else None, TRUTH)]
    if look.threshold is not None and view.heatmap is not None:
        wanted.append((np.nan_to_num(view.heatmap, nan=-np.inf) > look.threshold, CONTOUR))
    drawn = []
    for inside, colour in wanted:
        if inside is not None:
            points = display.outlines(inside, view.block)
            line = {"color": colour, "width": 1.5}
            drawn.append(
                {
                    "type": "scatter",
                    "x": points[:, 0],
                    "y": points[:, 1],
                    "mode": "lines",
                    "line": line,
                }
            )
    return [line | {"hoverinfo": "skip"} for line in drawn]


def _colour_bar(look: Look) -> dict[str, Any]:
    """Nothing but the bar of the model's fixed scale."""
    low, high = look.scale
    bar = {
        "colorscale": display.colour_scale(look.colours),
        "cmin": low,
        "cmax": high,
        "color": [low],
    }
    place = {
        "x": 1,
        "xpad": 10,
        "thickness": 12,
    }  # by pixels: a share of a wide window would leave the margin
    bar |= {"showscale": True, "colorbar": {"title": {"text": "anomaly", "side": "right"}} | place}
    return {
        "type": "scatter",
        "x": [None],
        "y": [None],
        "mode": "markers",
        "marker": bar,
        "hoverinfo": "skip",
    }


def profile(slices: Sequence[SliceRow], number: int, threshold: float) -> go.Figure:
    """The score of each slice of a volume, in order, and where slice `number` and the threshold
    stand."""
    figure = go.Figure(
        layout={"height": 150, "showlegend": False, "margin": {"t": 10, "b": 10, "l": 10, "r": 10}}
    )
    scores = [row.score for row in slices]  # None where a slice was not scored: a gap in the line
    figure.add_trace(go.Scatter(x=list(range(1, len(scores) + 1)), y=scores, mode="lines+markers"))
    figure.add_vline(number + 1, line_width=2, line_color=MARK)
    if np.isfinite(threshold):
        figure.add_hline(
            threshold,
            line_dash="dash",
            line_color=MARK,
            annotation={"text": "threshold", "yanchor": "bottom", "x": 0, "xanchor": "left"},
        )
    figure.update_xaxes(title="slice")
    figure.update_yaxes(title="score")
    return figure


# -- Threshold -------------------------------------------------------------------------------------


def histogram(
    rows: Sequence[ScoreRow], calibration: NDArray[np.float64], threshold: float
) -> go.Figure:
    """Scores of this batch over those of the calibration normals, with the threshold."""
    figure = go.Figure(
        layout={
            "barmode": "overlay",
            "height": 360,
            "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom"},
            "margin": {"t": 40},
        }
    )
    scores = np.array([row.score for row in rows if row.status == "ok"])
    edges = np.histogram_bin_edges(np.concatenate([scores, calibration]), 50)
    centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    for values, name in ((scores, "this batch"), (calibration, "calibration normals")):
        share = 100 * np.histogram(values, edges)[0] / max(len(values), 1)
        figure.add_trace(go.Bar(x=centres, y=share, width=width, name=name, opacity=0.6))
    if np.isfinite(threshold):
        figure.add_vline(threshold, line_dash="dash", line_color=MARK, annotation_text="threshold")
    figure.update_xaxes(title="score (larger = more anomalous)")
    figure.update_yaxes(title="% of images")
    return figure


def roc(
    curve: tuple[NDArray[np.float64], NDArray[np.float64]], alarms: Rate, found: Rate
) -> go.Figure:
    """The curve, and where on it the threshold stands."""
    figure = go.Figure(layout={"height": 360, "showlegend": False, "margin": {"t": 40}})
    figure.add_trace(go.Scatter(x=curve[0], y=curve[1], mode="lines", name="ROC"))
    marker = {"size": 12, "symbol": "x", "color": "#d1495b"}
    figure.add_trace(
        go.Scatter(
            x=[alarms.value], y=[found.value], mode="markers", marker=marker, name="this rate"
        )
    )
    figure.update_xaxes(title="share of normal images flagged", range=[-0.02, 1.02])
    figure.update_yaxes(title="share of anomalous images flagged", range=[-0.02, 1.02])
    return figure
