"""The figures of a report as inline SVG; each function returns "" if there is nothing to draw."""

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect.output.bars import score_bars
from anodetect.output.drawing import Figure, in_own_style, title_of
from anodetect.record.rows import SliceRow
from anodetect.stats import metrics
from anodetect.stats.lesions import LesionMetrics

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

NORMAL_COLOUR, ANOMALOUS_COLOUR, REFERENCE_COLOUR = "#3b7dd8", "#d1495b", "#8a8f98"
LINE_COLOURS = ("#d1495b", "#3b7dd8", "#8a8f98", "#e0a030", "#4d9a6a")
ROC_GRID = np.linspace(0, 1, 201)
ROC_RESAMPLES = 300
# The column of slices.parquet along which the slices of a plane follow each other.
PLACES = {"axial": "superior_mm", "coronal": "posterior_mm", "sagittal": "left_mm"}
# What a training logs, and the name of its panel.
PANELS = {
    "loss": "loss",
    "energy_gap": "E(x⁺) − E(x⁻)",
    "energy_scale": "size of energies",
    "langevin_gradient": "Langevin gradient",
    "saturated": "saturated share",
}


@dataclass(frozen=True)
class LabelledScores:
    """The scores [N] that one detector gave to labelled images, with labels [N] (0 normal, 1
    anomalous) and groups [N]."""

    detector: str
    labels: Integers
    scores: Doubles
    groups: Sequence[str]

    @property
    def auroc(self) -> float:
        return metrics.auroc(self.labels, self.scores)


@in_own_style
def histogram(
    scores: Doubles,
    labels: NDArray[np.integer],
    calibration: Doubles,
    threshold: float,
    *,
    of_groups: bool,
) -> str:
    """Draw scores [N] by label (−1 for unknown) over the calibration's, with the threshold.

    `of_groups` says that the calibration scores are those of groups, not of images. Scores beyond
    the axis are counted in its outer bars, which the axis says.
    """
    if len(scores) == 0:
        return ""
    bars = score_bars(scores, calibration)
    edges = bars.edges
    figure, axes = _axes()

    parts = (
        (0, "normal", NORMAL_COLOUR),
        (1, "anomalous", ANOMALOUS_COLOUR),
        (-1, "scored here", NORMAL_COLOUR),
    )
    for label, name, colour in parts:
        part = np.clip(scores[labels == label], edges[0], edges[-1])
        if len(part):
            axes.hist(part, edges, color=colour, alpha=0.6, label=f"{name} ({len(part)})")

    if len(calibration):
        scale = max(1, (labels <= 0).sum()) / len(calibration)
        units = "groups" if of_groups else "normals"
        name = f"calibration {units} ({len(calibration)}), rescaled"
        heights = bars.heights(calibration) * scale
        axes.stairs(heights, edges, color=REFERENCE_COLOUR, linewidth=1.5, label=name)

    if bars.is_logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
    if np.isfinite(threshold):
        line = {"color": "black", "linestyle": "--", "linewidth": 1}
        axes.axvline(threshold, label=f"threshold {threshold:.4g}", **line)
    axes.set_xlabel(bars.axis)
    axes.set_ylabel("images")
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    return _svg(figure)


@in_own_style
def training(steps: Sequence[Mapping[str, Any]]) -> str:
    """Draw what a training logged against the step, a panel each; a line for each member of an
    ensemble."""
    names = [name for name in PANELS if any(step.get(name) is not None for step in steps)]
    if len(steps) < 2 or not names:
        return ""
    members = list(dict.fromkeys(step.get("member", "") for step in steps))
    figure = Figure(figsize=(6.2, 1.2 * len(names)))
    panels = figure.subplots(len(names), sharex=True, squeeze=False)[:, 0]

    for axes, name in zip(panels, names, strict=True):
        for member, style in zip(members, itertools.cycle(("-", "--", ":"))):
            logged = [step for step in steps if step.get("member", "") == member]
            logged = [step for step in logged if step.get(name) is not None]
            numbers, values = [step["step"] for step in logged], [step[name] for step in logged]
            line = {"color": NORMAL_COLOUR, "linewidth": 1, "linestyle": style}
            axes.plot(numbers, values, label=title_of(member), **line)
        _plain(axes)
        axes.set_ylabel(PANELS[name], rotation=0, ha="right", va="center", fontsize=9)
        if name == "energy_gap":
            axes.axhline(0, color=REFERENCE_COLOUR, linewidth=0.8, linestyle=":")

    if len(members) > 1:
        panels[0].legend(fontsize=8, frameon=False, loc="upper right")
    panels[-1].set_xlabel("step")
    return _svg(figure)


@in_own_style
def profiles(volumes: Mapping[str, Sequence[SliceRow]], threshold: float) -> str:
    """Draw the scores along each of the volumes, given by path, with the threshold of slices."""
    if not volumes:
        return ""
    figure = Figure(figsize=(6.2, 1.5 * len(volumes)))
    panels = figure.subplots(len(volumes), sharey=True, squeeze=False)[:, 0]

    for axes, (path, rows) in zip(panels, volumes.items(), strict=True):
        column = PLACES.get(rows[0].axis, "slice")
        places = [getattr(row, column) for row in rows]
        scores = [row.score for row in rows]  # None, a gap in the line, where not scored
        line = {"color": ANOMALOUS_COLOUR, "linewidth": 1, "marker": ".", "markersize": 3}
        axes.plot(places, np.array(scores, np.float64), **line)
        if np.isfinite(threshold):
            axes.axhline(threshold, color="black", linestyle="--", linewidth=0.8)
        _plain(axes)
        axes.set_title(title_of(path), fontsize=8, loc="left")
        toward = f"mm toward {column.removesuffix('_mm')}"
        axes.set_xlabel("frame" if column == "slice" else toward, fontsize=8)

    figure.tight_layout()
    return _svg(figure)


@in_own_style
def roc(detectors: Sequence[LabelledScores]) -> str:
    """Draw ROC curves, best first, with 95 % bootstrap bands."""
    if not detectors:
        return ""
    from sklearn.metrics import roc_curve  # it takes a second, and unlabelled images need none

    figure, axes = _axes(4.2, 3.9)
    best_first = sorted(detectors, key=lambda each: -each.auroc)
    for index, each in enumerate(best_first):
        fpr, tpr, _ = roc_curve(each.labels, each.scores)
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        axes.plot(fpr, tpr, color=colour, label=f"{title_of(each.detector)}  {each.auroc:.3f}")
        band = _roc_band(each)
        if band is not None and len(detectors) <= len(LINE_COLOURS):
            axes.fill_between(ROC_GRID, *band, color=colour, alpha=0.15, linewidth=0)

    axes.plot([0, 1], [0, 1], color=REFERENCE_COLOUR, linewidth=0.8, linestyle=":")
    axes.set_xlabel("false alarms among normal images")
    axes.set_ylabel("anomalous images found")
    axes.legend(frameon=False, fontsize=9, title="AUROC", loc="lower right")
    return _svg(figure)


def _roc_band(detector: LabelledScores) -> tuple[Doubles, Doubles] | None:
    """Return the pointwise 95 % band of the true-positive rate over resampled groups; None with
    fewer than MIN_GROUPS."""
    if len(set(detector.groups)) < metrics.MIN_GROUPS:
        return None
    blocks = metrics.bootstrap_curves(
        detector.labels, detector.scores, detector.groups, resamples=ROC_RESAMPLES
    )
    heights = []
    for hits, alarms in itertools.chain.from_iterable(zip(*each, strict=True) for each in blocks):
        if hits[-1] > 0 and alarms[-1] > 0:
            fpr, tpr = np.append(0, alarms / alarms[-1]), np.append(0, hits / hits[-1])
            heights.append(np.interp(ROC_GRID, fpr, tpr))
    low, high = np.percentile(heights, (2.5, 97.5), axis=0)
    return low, high


@in_own_style
def froc(lesions: LesionMetrics | None) -> str:
    """Draw the FROC curve, with a mark where the masks stand and the intervals that there are."""
    if lesions is None:
        return ""
    figure, axes = _axes(4.2, 3.9)
    alarms, found = (np.array(column) for column in zip(*lesions.curve, strict=True))
    axes.step(alarms, found, where="post", color=ANOMALOUS_COLOUR)
    for each in lesions.sensitivities:
        if np.isfinite(each.low):
            line = {"color": ANOMALOUS_COLOUR, "linewidth": 6, "alpha": 0.2}
            axes.plot([each.false_regions] * 2, [each.low, each.high], **line)

    point = (lesions.false_regions, lesions.found / lesions.lesions)
    axes.plot(*point, "o", color="black", markersize=5, label="masks")
    rates = [each.false_regions for each in lesions.sensitivities]
    axes.set_xscale("symlog", base=2, linthresh=rates[0])
    axes.set_xticks([0, *rates], ["0", "1/8", "1/4", "1/2", "1", "2", "4", "8"])
    axes.set_xlim(0, max(rates[-1], 1.1 * point[0]))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(f"false regions per {lesions.per}")
    axes.set_ylabel("lesions found")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return _svg(figure)


@in_own_style
def colour_bar(low: float, high: float) -> str:
    """Draw the model's fixed colour scale, from its lowest to its highest value."""
    figure = Figure(figsize=(3.2, 0.45))
    axes = figure.subplots()
    ramp = np.linspace(0, 1, 256)[None]
    axes.imshow(ramp, aspect="auto", cmap="inferno", extent=(low, high, 0, 1))
    axes.set_yticks([])
    axes.set_xlabel("anomaly value, the same scale for every image of this model", fontsize=8)
    axes.tick_params(labelsize=8)
    return _svg(figure)


def _axes(width: float = 6.2, height: float = 3.6) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plain(axes: Any) -> None:
    """Make a small panel plain: no frame above and to the right, small numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _svg(figure: Figure) -> str:
    """Return the figure as SVG text that is the same every time."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", bbox_inches="tight", metadata={"Date": None}, transparent=True
    )
    text = buffer.getvalue()
    return text[text.index("<svg") :]
