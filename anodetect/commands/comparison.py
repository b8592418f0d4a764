"""Detectors compared: means over seeds, intervals, and differences on the same resamples."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect.commands.results import ResultRow
from anodetect.files import as_code
from anodetect.words import amount

METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_aupro", "tpr_at_5_fpr")
COMPARED = ("image_auroc", "pixel_ap", "tpr_at_5_fpr")
RENAMED = {"image_tpr_at_5_fpr": "tpr_at_5_fpr"}  # draws that have another name than their column
COSTS = ("train_seconds", "score_ms_per_image", "peak_memory_mb", "model_mb")
Draws = Mapping[str, NDArray[np.float64]]  # each metric's values over the resampled groups


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; None for what was not measured."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Summary:
    """One detector on one data set, over all seeds."""

    data: str  # as it was asked for
    dataset: str
    detector: str
    representation: str
    seeds: int
    metrics: Mapping[str, Estimate]
    costs: Mapping[str, float]
    draws: Draws = field(repr=False, compare=False)


@dataclass(frozen=True)
class Difference:
    """A detector's metrics minus those of another one, on the same resamples."""

    other: str
    metrics: Mapping[str, Estimate]


def summarise(data: str, rows: Sequence[ResultRow], draws: Sequence[Draws]) -> Summary:
    """Return the means over seeds of one detector on one data set.

    `rows` and `draws` have an entry for each seed. The resamples are the same for every seed, so
    the interval is that of the mean, over seeds, of each resample's value.
    """
    means = {}
    for name in draws[0]:
        means[RENAMED.get(name, name)] = np.mean([each[name] for each in draws], axis=0)

    metrics, costs = {}, {}
    for name in METRICS:
        low, high = np.nanpercentile(means[name], (2.5, 97.5)) if name in means else (None, None)
        values = _column(rows, name)
        metrics[name] = Estimate(None if None in values else float(np.mean(values)), low, high)
    for name in COSTS:
        costs[name] = float(np.mean(_column(rows, name)))

    return Summary(
        data=data,
        dataset=rows[0].dataset,
        detector=rows[0].detector,
        representation=rows[0].representation,
        seeds=len(rows),
        metrics=metrics,
        costs=costs,
        draws=means,
    )


def _column(rows: Sequence[ResultRow], name: str) -> list[Any]:
    return [getattr(row, name) for row in rows]


def differences(summary: Summary, others: Sequence[Summary]) -> list[Difference]:
    """Return a detector's metrics minus those of each other one (paired bootstrap), for the metrics
    that both have."""
    found = []
    for other in others:
        if other.detector == summary.detector:
            continue
        metrics = {}
        for name in COMPARED:
            if name in summary.draws and name in other.draws:
                metrics[name] = _difference(summary, other, name)
        found.append(Difference(other.detector, metrics))
    return found


def _difference(one: Summary, other: Summary, name: str) -> Estimate:
    low, high = np.nanpercentile(one.draws[name] - other.draws[name], (2.5, 97.5))
    own_value, other_value = one.metrics[name].value, other.metrics[name].value
    if own_value is None or other_value is None:
        return Estimate(None, low, high)
    return Estimate(own_value - other_value, low, high)


@dataclass(frozen=True)
class ComparedSummary:
    """A detector on a data set, and its differences from the other detectors there."""

    summary: Summary
    differences: tuple[Difference, ...]

    def as_json(self) -> dict[str, Any]:
        """Return an entry of `summary` as `benchmark --json` has it."""
        content: dict[str, Any] = {
            "data": self.summary.data,
            "detector": self.summary.detector,
            "seeds": self.summary.seeds,
            "dataset": self.summary.dataset,
            "representation": self.summary.representation,
        }
        content |= _as_json(self.summary.metrics)
        content |= self.summary.costs
        content["differences"] = [
            {"other": each.other, **_as_json(each.metrics)} for each in self.differences
        ]
        return content


def compared(summaries: Sequence[Summary]) -> list[ComparedSummary]:
    """Return each summary with its differences from the others on the same data."""
    found = []
    for summary in summaries:
        others = [other for other in summaries if other.data == summary.data]
        found.append(ComparedSummary(summary, tuple(differences(summary, others))))
    return found


def _as_json(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in metrics.items()}


def markdown(summaries: Sequence[Summary], budget: float, seeds: int) -> str:
    """Return a table of all detectors and their differences for each data set."""
    lines = [
        f"{amount(seeds, 'seed')}, at most {budget:g} minutes of training each; "
        "95 % bootstrap intervals over groups.",
        "",
    ]
    titles = [*(name.replace("_", " ") for name in METRICS), "train s", "ms/image", "peak MB"]

    for data in dict.fromkeys(summary.data for summary in summaries):
        entries = [summary for summary in summaries if summary.data == data]
        lines += [
            f"### {as_code(entries[0].dataset)}",
            "",
            f"| detector | sees | {' | '.join(titles)} |",
        ]
        lines.append("|---" * (2 + len(titles)) + "|")
        lines += [_table_row(entry) for entry in entries]
        lines += ["", "Differences on the same resamples:", ""]
        for number, entry in enumerate(entries):
            later = entries[number + 1 :]
            lines += [_difference_line(entry, each) for each in differences(entry, later)]
        lines.append("")
    return "\n".join(lines)


def _table_row(summary: Summary) -> str:
    cells = [summary.detector, summary.representation]
    cells += [_cell(summary.metrics[name]) for name in METRICS]
    cells.append(f"{summary.costs['train_seconds']:.0f}")
    cells.append(f"{summary.costs['score_ms_per_image']:.1f}")
    cells.append(f"{summary.costs['peak_memory_mb']:.0f}")
    return f"| {' | '.join(cells)} |"


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return "–"
    interval = "" if estimate.low is None else f" ({estimate.low:.3f}–{estimate.high:.3f})"
    return f"{estimate.value:.3f}{interval}"


def _difference_line(summary: Summary, difference: Difference) -> str:
    parts = []
    for name, estimate in difference.metrics.items():
        bounds = f"{estimate.low:+.3f} to {estimate.high:+.3f}"
        parts.append(f"{name.replace('_', ' ')} {estimate.value:+.3f} ({bounds})")
    return f"- {summary.detector} − {difference.other}: {', '.join(parts)}"
