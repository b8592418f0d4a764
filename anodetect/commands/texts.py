"""The answers of commands as text for a reader."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from anodetect.data.cards import Page
from anodetect.data.scan import counted

if TYPE_CHECKING:  # most commands need none of what it imports
    from anodetect.record.verification import Verdict

WIDTH = 100  # characters of a line of a table


def scores_text(result: Mapping[str, Any], out: Path) -> str:
    """Return what `score` and `merge` answer, as lines of text."""
    speed = ""
    if "images_per_second" in result:
        speed = f" ({result['images_per_second']:.1f} images/s)"
    lines = [
        f"{result['scored']} scored, {result['flagged']} flagged, {result['failed']} failed, "
        f"{result['skipped']} skipped{speed}"
    ]

    lines += [f"  {count} × {reason}" for reason, count in result["reasons"].items()]
    if result["passed_over"]:
        lines.append(f"passed over: {counted(result['passed_over'])}")
    lines.append(result["statement"])
    lines += [check["text"] for check in result["drift"].values() if check]
    lines.append(f"chain head {result['head']}")
    lines.append(f"Report: {out / 'report.html'}")
    return "\n".join(lines)


def evaluation_text(result: Mapping[str, Any]) -> str:
    """Return what `evaluate` answers, as lines of text."""
    lines = [
        f"{result['n_normal']} normal and {result['n_anomalous']} anomalous images "
        f"in {result['n_groups']} groups"
    ]
    for name, entry in result["image"].items():
        note = f"  ({entry['note']})" if entry["note"] else ""
        lines.append(f"image {name:<18}{entry['value']:.3f}{_bounds(entry, '  ')}{note}")
    for name, value in (result["pixel"] or {}).items():
        lines.append(f"pixel {name:<18}{value:.3f}")
    if "masks" in result:
        lines.append(result["masks"]["statement"])

    point = result["operating_point"]
    lines.append(
        f"at far {point['far']:g}: threshold {point['threshold']:.4g}, "
        f"finds {point['tpr']:.1%}, false alarms {point['fpr']:.1%}"
    )
    for column, parts in result.get("by", {}).items():
        lines.append(f"by {column}:")
        lines += [_part_text(value, part) for value, part in parts.items()]
    lines.append(result["statement"])
    return "\n".join(lines)


def _part_text(value: str, part: Mapping[str, Any]) -> str:
    alarms, auroc = part["false_alarms"], part["image"]["auroc"]
    return (
        f"  {value or 'not given':<18}"
        f"{part['n_normal']} normal, {part['n_anomalous']} anomalous; "
        f"image AUROC {auroc['value']:.3f}{_bounds(auroc, ' ')}; "
        f"false alarms {alarms['rate']:.1%} [{alarms['low']:.1%}, {alarms['high']:.1%}]"
    )


def _bounds(entry: Mapping[str, Any], space: str) -> str:
    """Return a metric's interval in brackets, "" if it has none."""
    if not math.isfinite(entry["low"]):
        return ""
    return f"{space}[{entry['low']:.3f}, {entry['high']:.3f}]"


def results_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of a result table as text."""
    grid = Table(box=None, pad_edge=False)
    grid.add_column("detector")
    metrics = ("image AUROC (95 % interval)", "image AP", "pixel AP")
    for name in (*metrics, "train s", "ms/image", "peak MB"):
        grid.add_column(name, justify="right")

    for row in rows:
        low, high, pixel_ap = row["image_auroc_low"], row["image_auroc_high"], row["pixel_ap"]
        grid.add_row(
            row["detector"],
            f"{row['image_auroc']:.3f} ({low:.3f}–{high:.3f})",
            f"{row['image_ap']:.3f}",
            "–" if pixel_ap is None else f"{pixel_ap:.3f}",
            f"{row['train_seconds']:.1f}",
            f"{row['score_ms_per_image']:.1f}",
            f"{row['peak_memory_mb']:.0f}",
        )
    return drawn(grid)


def card_text(page: Page) -> str:
    """Return a data card: its facts, a line each, and then its page."""
    lines = []
    for key, value in page.card.model_dump().items():
        if value and key not in ("known_biases", "sources", "baselines"):
            lines.append(f"{key}: {value}")
    lines += [f"known bias: {bias}" for bias in page.card.known_biases]
    lines += [f"source: {source}" for source in page.card.sources]
    for baseline in page.card.baselines:
        lines.append(f"baseline: {baseline.model_dump(exclude_none=True)}")
    return "\n".join([*lines, "", page.text])


def drawn(grid: Table) -> str:
    """Return a table as text, in lines of at most WIDTH characters."""
    console = Console(width=WIDTH, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(grid)
    return capture.get().rstrip()


def verdict_text(verdict: "Verdict", directory: Path) -> str:
    """Return what `verify` prints."""
    state = "internally consistent, not authenticated"
    if verdict.authenticated:
        state = "authenticated"
    if not verdict.intact:
        state = "broken"
    lines = [f"{directory}: {state} ({verdict.rows} records, head {verdict.head})"]
    lines += [f"broken: {problem}" for problem in verdict.problems]
    lines += [f"note: {note}" for note in verdict.notes]
    return "\n".join(lines)
