"""The answers of commands as text for a reader."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from anodetect.data.cards import Page
from anodetect.data.scan import counted
from anodetect.words import amount

if TYPE_CHECKING:  # most commands need none of what these import
    from anodetect.commands.maps import MapsResult
    from anodetect.commands.results import EvaluateResult, MergeResult, ResultRow
    from anodetect.record.parts import Part
    from anodetect.record.verification import Verdict
    from anodetect.stats.evaluation import Evaluation
    from anodetect.stats.lesions import LesionMetrics
    from anodetect.stats.metrics import Interval
    from anodetect.stats.reliability import ClassifierReliability

WIDTH = 100  # characters of a line of a table


def scores_text(result: "MergeResult", speed: float | None = None) -> str:
    """Return what `score` and `merge` return, as lines of text; `speed` is in images a second."""
    pace = "" if speed is None else f" ({speed:.1f} images/s)"
    flagged = "nothing decided" if result.flagged is None else f"{result.flagged} flagged"
    lines = [
        f"{result.scored} scored, {flagged}, {result.failed} failed, {result.skipped} skipped{pace}"
    ]

    lines += [f"  {count} × {reason}" for reason, count in result.reasons.items()]
    if result.passed_over:
        lines.append(f"passed over: {counted(result.passed_over)}")
    lines.append(result.statement)
    for check in (result.drift.batch, result.drift.time):
        if check is not None:
            lines.append(check.text)
    lines.append(f"chain head {result.head}")
    lines.append(f"Report: {result.out / 'report.html'}")
    return "\n".join(lines)


def maps_text(result: "MapsResult") -> str:
    """Return what `maps` returns, as lines of text."""
    made = {each.path: each.exact for each in result.files}
    lines = [f"files of {amount(len(made), 'input')} in {result.out}"]
    if not all(made.values()):
        scores = amount(sum(not exact for exact in made.values()), "score is", "scores are")
        lines.append(f"{scores} as recorded but for the last bits, on another machine")
    lines += [f"  {reason}" for reason in result.failures]
    return "\n".join(lines)


def evaluation_text(result: "EvaluateResult") -> str:
    """Return what `evaluate` returns, as lines of text."""
    whole = result.whole
    lines = [
        f"{whole.n_normal} normal and {amount(whole.n_anomalous, 'anomalous image')} "
        f"in {amount(whole.n_groups, 'group')}"
    ]
    for name, interval in whole.image.items():
        note = f"  ({interval.note})" if interval.note else ""
        lines.append(f"image {name:<18}{interval.value:.3f}{_bounds(interval, '  ')}{note}")
    for name, interval in (whole.pixel or {}).items():
        lines.append(f"pixel {name:<18}{interval.value:.3f}")
    if whole.pixel is not None and whole.operating_point is not None:
        lines.append(f"pixel {'dice_at_threshold':<18}{whole.dice_at_threshold:.3f}")
    if whole.masks is not None:
        lines.append(whole.masks.statement())
    if whole.lesions is not None:
        lines += [*_lesion_lines(whole.lesions), whole.mask_statement]

    point = whole.operating_point
    if point is not None:
        lines.append(
            f"at far {point.far:g}: threshold {point.threshold:.4g}, "
            f"finds {point.tpr:.1%}, false alarms {point.fpr:.1%}"
        )
    for column, parts in result.by.items():
        lines.append(f"by {column}:")
        lines += [_part_text(value, part) for value, part in parts.items()]
    if result.classifier is not None:
        lines += _reliability_lines(result.classifier)
    lines.append(whole.statement)
    return "\n".join(lines)


def _lesion_lines(lesions: "LesionMetrics") -> list[str]:
    """Return in words how many lesions masks find, the sensitivity at each number of false regions,
    and Dice by the size of lesions."""
    per, rates = lesions.per, []
    for each in lesions.sensitivities:
        bounds = f" [{each.low:.3f}, {each.high:.3f}]" if math.isfinite(each.low) else ""
        rates.append(f"{each.false_regions:g}: {each.value:.3f}{bounds}")
    unit = "voxels" if per == "volume" else "pixels"
    lines = [
        f"masks find {lesions.found} of {amount(lesions.lesions, 'lesion')}, with "
        f"{lesions.false_regions:.2f} false regions per {per}",
        f"sensitivity at false regions per {per}: {', '.join(rates)}; "
        f"mean {lesions.mean_sensitivity:.3f}",
    ]
    for size in lesions.sizes:
        lines.append(
            f"  {size.name} lesions ({size.smallest} to {size.largest} {unit}): {size.found} of "
            f"{size.lesions} found, mean Dice {size.dice:.3f}"
        )

    return lines


def _reliability_lines(found: "ClassifierReliability") -> list[str]:
    """Return the reliability in words, and the diagram as a line for each bin with images."""
    whole = found.reliability
    lines = [
        f"classifier, {amount(whole.count, 'normal image')} of its classes: accuracy "
        f"{whole.accuracy:.3f}, "
        f"mean confidence {whole.confidence:.3f}, ECE {whole.ece:.3f}; "
        f"best calibrated at temperature {found.temperature:.2f}"
    ]
    for each in whole.bins:
        if each.count:
            lines.append(
                f"  confidence {each.low:.1f} to {each.high:.1f}: {amount(each.count, 'image')}, "
                f"mean {each.confidence:.3f}, correct {each.accuracy:.3f}"
            )

    return lines


def _part_text(value: str, part: "Evaluation") -> str:
    auroc, found, alarms = part.image["auroc"], part.image["tpr_at_5_fpr"], ""
    if part.false_alarms is not None:
        rate, low, high = part.false_alarms.rate, part.false_alarms.low, part.false_alarms.high
        alarms = f"; false alarms {rate:.1%} [{low:.1%}, {high:.1%}]"
    return (
        f"  {value or 'not given':<18}"
        f"{part.n_normal} normal, {part.n_anomalous} anomalous; "
        f"image AUROC {auroc.value:.3f}{_bounds(auroc, ' ')}, "
        f"TPR at 5 % FPR {found.value:.3f}{_bounds(found, ' ')}{alarms}"
    )


def _bounds(interval: "Interval", space: str) -> str:
    """Return a metric's interval in brackets, "" if it has none."""
    if not math.isfinite(interval.low):
        return ""
    return f"{space}[{interval.low:.3f}, {interval.high:.3f}]"


def results_text(rows: Sequence["ResultRow"]) -> str:
    """Return the rows of a result table as text."""
    grid = Table(box=None, pad_edge=False)
    grid.add_column("detector")
    metrics = ("image AUROC (95 % interval)", "image AP", "pixel AP")
    for name in (*metrics, "train s", "ms/image", "peak MB"):
        grid.add_column(name, justify="right")

    for row in rows:
        pixel_ap = row.pixel_ap
        grid.add_row(
            row.detector,
            f"{row.image_auroc:.3f} ({row.image_auroc_low:.3f}–{row.image_auroc_high:.3f})",
            f"{row.image_ap:.3f}",
            "–" if pixel_ap is None else f"{pixel_ap:.3f}",
            f"{row.train_seconds:.1f}",
            f"{row.score_ms_per_image:.1f}",
            f"{row.peak_memory_mb:.0f}",
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
    checked = str(directory)
    if verdict.row or verdict.numbers:
        which = f"row {verdict.row}" if verdict.row else f"rows {verdict.numbers}"
        checked = f"{directory}, {which}"
    lines = [f"{checked}: {'intact' if verdict.intact else 'broken'}"]
    for name in ("record", "verdicts", "report"):
        part: Part = getattr(verdict, name)
        lines.append(f"{name + ':':<10}{part.state}: {part.why}")
    if verdict.head:
        lines.append(f"head {verdict.head}, {amount(verdict.rows, 'row')}")
        when = verdict.ended or "an unknown day"
        lines.append(f"of {verdict.root or 'unknown images'}, scored by {verdict.run} until {when}")

    lines += [f"broken: {problem}" for problem in verdict.problems]
    lines += [f"not covered: {each}" for each in verdict.not_looked_at]
    lines += [f"note: {note}" for note in verdict.notes]
    return "\n".join(lines)
