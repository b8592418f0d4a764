"""One self-contained HTML file about a score directory, or about several that scored the same
images."""

import base64
import heapq
import io
import itertools
import json
import shlex
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pyarrow import compute as pc

from anodetect.errors import RunError
from anodetect.files import write_atomic
from anodetect.record import directories, reviews
from anodetect.record.directories import ScoreDirectory, failures, picture_of
from anodetect.record.reviews import Review, in_force
from anodetect.record.rows import ScoreRow
from anodetect.stats import metrics
from anodetect.stats.agreement import summary
from anodetect.stats.calibration import Calibration

Doubles = NDArray[np.float64]
NORMAL_COLOUR, ANOMALOUS_COLOUR, REFERENCE_COLOUR = "#3b7dd8", "#d1495b", "#8a8f98"
LINE_COLOURS = ("#d1495b", "#3b7dd8", "#8a8f98", "#e0a030", "#4d9a6a")
ROC_GRID = np.linspace(0, 1, 201)
ROC_RESAMPLES = 300
FLAGGED_ROWS, CASES, PROFILES = 50, 12, 4
SLICED = {
    "axial": "superior_mm",
    "coronal": "posterior_mm",
    "sagittal": "left_mm",
}  # the column slices run along
WATCHED = {
    "loss": "loss",
    "energy_gap": "E(x⁺) − E(x⁻)",
    "energy_scale": "size of energies",
    "langevin_gradient": "Langevin gradient",
    "saturated": "saturated share",
}


def write(folder: Path) -> Path:
    """Write `folder`/report.html, with the verdicts in its reviews.sqlite; see `html`."""
    file = folder / reviews.FILE
    write_atomic(folder / "report.html", html(folder, reviews.read(file) if file.is_file() else ()))
    return folder / "report.html"


def html(folder: Path, reviewed: Sequence[Review]) -> str:
    """The report. `folder` is a score directory, or holds several in scores/ and a results.json
    with a table of `rows` and the `commands` that made them; the first that is no baseline is shown
    in detail. Of the reviews those of its record are shown."""
    if (folder / "audit.json").is_file():
        scored = [directories.read(folder, outputs=False)]
    else:
        found = sorted(folder.glob("scores/*/audit.json"))
        scored = [directories.read(path.parent, outputs=False) for path in found]
    if not scored:
        raise RunError(
            f"{folder}: neither a score directory nor a folder with score directories in scores/"
        )
    results = _results(folder / "results.json")
    main = next((d for d in scored if d.audit["detector"] not in ("pca", "intensity")), scored[0])
    mine = [review for review in reviewed if review.head == main.audit["head"]]
    flagged = {row.path: bool(row.flagged) for row in main.rows} if mine else {}
    text: str = (
        environment()
        .get_template("report.html.j2")
        .render(
            main=main,
            audit=main.audit,
            rows=results.get("rows", []),
            commands=results.get("commands", [shlex.join(main.audit["command"])]),
            roc=_roc(scored),
            histogram=_histogram(main),
            training=_training(main),
            cases=_cases(main),
            profiles=_profiles(main),
            drift=[check for check in main.audit.get("drift", {}).values() if check],
            counts=main.audit["counts"],
            evaluation=main.audit.get("evaluation"),
            failures=failures(main.table),
            flagged=_flagged(main),
            n_rows=len(main.table),
            n_flagged=pc.sum(main.table["flagged"]).as_py() or 0,
            colour_bar=_colour_bar(main),
            review=summary(flagged, in_force(mine)) if mine else None,
            verdicts=_verdicts(main, mine),
            broken=next(reviews.broken(mine, main.audit["head"]), ""),
            chain_end=mine[-1].hash if mine else "",
        )
    )
    return text


def _results(path: Path) -> dict[str, Any]:
    try:
        results: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise RunError(f"{path}: not readable ({error})") from None
    return results


def environment() -> Environment:
    """Where the package's templates live; everything put into them is escaped."""
    made = Environment(
        loader=PackageLoader("anodetect.output", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = lambda value, digits=3: "–" if value is None else f"{value:.{digits}f}"
    made.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.1f} %"
    return made


def _cases(main: ScoreDirectory) -> dict[str, list[dict[str, Any]]]:
    """Rows of the cases that have a picture, in the order they were chosen."""
    chosen: dict[str, list[str]] = main.audit["cases"]
    by_path = _rows_of(main, {path for paths in chosen.values() for path in paths})
    return {
        name: [
            {"row": by_path[path], "picture": _picture(main, path)}
            for path in paths[:CASES]
            if path in by_path
        ]
        for name, paths in chosen.items()
    }


def _rows_of(main: ScoreDirectory, paths: Set[str]) -> dict[str, ScoreRow]:
    return {row.path: row for row in main.each() if row.path in paths}


def _highest(main: ScoreDirectory, count: int, which: Callable[[ScoreRow], bool]) -> list[ScoreRow]:
    """Return the rows with the highest scores of those with a score for which `which` is true."""
    wanted = (row for row in main.each() if row.score is not None and which(row))
    return heapq.nlargest(count, wanted, key=lambda row: row.score or 0.0)


def _flagged(main: ScoreDirectory) -> list[dict[str, Any]]:
    """The flagged rows with the highest scores, with their pictures where they were kept."""
    rows = _highest(main, FLAGGED_ROWS, lambda row: bool(row.flagged))
    return [{"row": row, "picture": _picture(main, row.path)} for row in rows]


def _verdicts(main: ScoreDirectory, mine: Sequence[Review]) -> list[dict[str, Any]]:
    """Every record in the order of the chain, beside what was scored and the picture, where one was
    kept."""
    by_path = _rows_of(main, {review.path for review in mine})
    taken_back = {review.withdraws for review in mine}
    return [
        {
            "review": review,
            "taken_back": review.number in taken_back,
            "flagged": review.path in by_path and by_path[review.path].flagged,
            "picture": _picture(main, review.path),
        }
        for review in mine
    ]


def _picture(main: ScoreDirectory, path: str) -> str:
    file = picture_of(main.path, path)
    return base64.b64encode(file.read_bytes()).decode() if file.is_file() else ""


# -- Figures ---------------------------------------------------------------------------------------


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "anodetect", "font.family": "sans-serif"}
    ):
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None}, transparent=True
        )
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _axes(width: float = 6.2, height: float = 3.6) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _histogram(main: ScoreDirectory) -> str:
    """Scores of this batch by label, over the calibration normals, with the threshold."""
    scored = main.table.filter(pc.equal(main.table["status"], "ok"))
    if len(scored) == 0:
        return ""
    reference = Calibration.restore(main.audit["calibration"])
    volumes = bool((scored["depth"].fill_null(0).to_numpy() > 0).all())
    calibration = (
        reference.pooled() if volumes else reference
    ).scores  # of volumes the highest score of each group
    scores, labels = scored["score"].to_numpy(), scored["label"].fill_null(-1).to_numpy()
    low = min(scores.min(), calibration.min(initial=np.inf))
    high = max(
        np.percentile(scores, 99), calibration.max(initial=-np.inf)
    )  # the few beyond go into the last bin
    edges = np.linspace(low, high if high > low else low + 1, 41)
    figure, axes = _axes()
    for value, name, colour in (
        (0, "normal", NORMAL_COLOUR),
        (1, "anomalous", ANOMALOUS_COLOUR),
        (-1, "scored here", NORMAL_COLOUR),
    ):
        part = np.minimum(scores[labels == value], edges[-1])
        if len(part):
            axes.hist(part, edges, color=colour, alpha=0.6, label=f"{name} ({len(part)})")
    if len(calibration):
        heights, _ = np.histogram(calibration, edges)
        scale = max(1, (labels <= 0).sum()) / len(calibration)
        axes.stairs(
            heights * scale,
            edges,
            color=REFERENCE_COLOUR,
            linewidth=1.5,
            label=f"calibration {'groups' if volumes else 'normals'} ({len(calibration)}), rescaled",
        )
    threshold = next(iter(scored["threshold"].drop_null().to_pylist()), np.inf)
    if np.isfinite(threshold):
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
        axes.text(threshold, axes.get_ylim()[1], " threshold", va="top", ha="left", fontsize=9)
    axes.set_xlabel("score (larger = more anomalous)")
    axes.set_ylabel("images")
    axes.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.92))
    return _svg(figure)


def _training(main: ScoreDirectory) -> str:
    """What was watched in training, a panel each, against the step; a line for each member of an
    ensemble."""
    steps: list[dict[str, Any]] = main.audit.get("training", [])
    watched = [name for name in WATCHED if any(step.get(name) is not None for step in steps)]
    if len(steps) < 2 or not watched:
        return ""
    members = list(dict.fromkeys(step.get("member", "") for step in steps))
    figure = Figure(figsize=(6.2, 1.2 * len(watched)))
    panels = figure.subplots(len(watched), sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, watched, strict=True):
        for member, line in zip(members, itertools.cycle(("-", "--", ":"))):
            own = [
                step
                for step in steps
                if step.get("member", "") == member and step.get(name) is not None
            ]
            values = [step["step"] for step in own], [step[name] for step in own]
            axes.plot(*values, color=NORMAL_COLOUR, linewidth=1, linestyle=line, label=member)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel(WATCHED[name], rotation=0, ha="right", va="center", fontsize=9)
        axes.tick_params(labelsize=8)
        if name == "energy_gap":
            axes.axhline(0, color=REFERENCE_COLOUR, linewidth=0.8, linestyle=":")
    if len(members) > 1:
        panels[0].legend(fontsize=8, frameon=False)
    panels[-1].set_xlabel("step")
    return _svg(figure)


def _profiles(main: ScoreDirectory) -> str:
    """Scores along the volumes with the highest ones, a panel each, with the threshold of slices."""
    slices = directories.read_slices(main.path)
    volumes = _highest(main, PROFILES, lambda row: row.is_volume)
    if not slices or not volumes:
        return ""
    figure = Figure(figsize=(6.2, 1.5 * len(volumes)))
    panels = figure.subplots(len(volumes), sharey=True, squeeze=False)[:, 0]
    threshold = Calibration.restore(main.audit["calibration"]).threshold(
        main.audit["far"] or main.audit["fdr"]
    )
    for axes, volume in zip(panels, volumes, strict=True):
        rows = [row for row in slices if row.path == volume.path]
        direction = SLICED[rows[0].axis]
        scores = [np.nan if row.score is None else row.score for row in rows]
        axes.plot(
            [getattr(row, direction) for row in rows],
            scores,
            color=ANOMALOUS_COLOUR,
            linewidth=1,
            marker=".",
            markersize=3,
        )
        if np.isfinite(threshold):
            axes.axhline(threshold, color="black", linestyle="--", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(volume.path, fontsize=8, loc="left")
        axes.tick_params(labelsize=8)
        axes.set_xlabel(f"mm toward {direction.removesuffix('_mm')}", fontsize=8)
    figure.tight_layout()
    return _svg(figure)


def _roc(scored: Sequence[ScoreDirectory]) -> str:
    """ROC curves, best first; the first one with its 95 % bootstrap band."""
    curves = []
    for directory in scored:
        ok = pc.equal(directory.table["status"], "ok")
        known = directory.table.filter(pc.and_(ok, pc.is_valid(directory.table["label"])))
        labels, scores = known["label"].to_numpy().astype(np.int64), known["score"].to_numpy()
        if 0 < labels.sum() < len(labels):
            name, groups = directory.audit["detector"], known["group"].to_pylist()
            curves.append((metrics.auroc(labels, scores), name, labels, scores, groups))
    if not curves:
        return ""
    from sklearn.metrics import roc_curve  # it takes a second, and unlabelled images need none

    figure, axes = _axes(4.2, 3.9)
    curves.sort(key=lambda curve: -curve[0])
    for index, (value, name, labels, scores, groups) in enumerate(curves):
        fpr, tpr, _ = roc_curve(labels, scores)
        colour = LINE_COLOURS[index % len(LINE_COLOURS)]
        axes.plot(fpr, tpr, color=colour, label=f"{name}  {value:.3f}")
        band = _roc_band(labels, scores, groups)
        if band is not None and len(curves) <= len(LINE_COLOURS):
            axes.fill_between(ROC_GRID, *band, color=colour, alpha=0.15, linewidth=0)
    axes.plot([0, 1], [0, 1], color=REFERENCE_COLOUR, linewidth=0.8, linestyle=":")
    axes.set_xlabel("false alarms among normal images")
    axes.set_ylabel("anomalous images found")
    axes.legend(frameon=False, fontsize=9, title="AUROC", loc="lower right")
    return _svg(figure)


def _roc_band(
    labels: NDArray[np.int64], scores: Doubles, groups: Sequence[str]
) -> tuple[Doubles, Doubles] | None:
    """Pointwise 95 % band of the true-positive rate, over resampled groups."""
    if len(set(groups)) < metrics.MIN_GROUPS:
        return None
    heights = [
        np.interp(ROC_GRID, np.append(0, alarms / alarms[-1]), np.append(0, found / found[-1]))
        for block in metrics.bootstrap_curves(labels, scores, groups, resamples=ROC_RESAMPLES)
        for found, alarms in zip(*block, strict=True)
        if found[-1] > 0 and alarms[-1] > 0
    ]
    low, high = np.percentile(heights, (2.5, 97.5), axis=0)
    return low, high


def _colour_bar(main: ScoreDirectory) -> str:
    figure = Figure(figsize=(3.2, 0.45))
    axes = figure.subplots()
    low, high = main.audit["scale"]
    axes.imshow(
        np.linspace(0, 1, 256)[None], aspect="auto", cmap="inferno", extent=(low, high, 0, 1)
    )
    axes.set_yticks([])
    axes.set_xlabel("anomaly value, the same scale for every image of this model", fontsize=8)
    axes.tick_params(labelsize=8)
    return _svg(figure)
