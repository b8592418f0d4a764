"""The command line: no logic, each command is one call."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from anodetect.errors import AnodetectError, ConfigError, DataError
from anodetect.output import formats

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find anomalies in medical and industrial images after seeing only normal ones.",
)
data_app = typer.Typer(no_args_is_help=True, help="Data cards: what is known of public data sets.")
app.add_typer(data_app, name="data")

screen = Console(stderr=True)
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout and nothing else.")]
Out = Annotated[Path, typer.Option("--out", help="Directory to write; it must not exist yet.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps …")]
Far = Annotated[
    float, typer.Option(help="False-alarm rate: the share of normal images that may be flagged.")
]
FollowLinks = Annotated[
    bool, typer.Option("--follow-symlinks", help="Also read links that lead out of the folder.")
]


class RichReporter:
    """Bars on a terminal, a plain line now and then otherwise; all on stderr."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bars = Progress(*columns, console=screen, transient=True)
        self.tasks: dict[str, TaskID] = {}
        self.last = 0.0

    def say(self, text: str) -> None:
        screen.print(text, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        screen.print(
            f"warning: {text}", style="yellow", markup=False, highlight=False, soft_wrap=True
        )

    def progress(self, task: str, done: int, total: int, note: str = "") -> None:
        if not screen.is_terminal:
            if time.monotonic() - self.last > 10:
                self.last = time.monotonic()
                self.say(f"{task}: {done}/{total} {note}".rstrip())
            return
        if task not in self.tasks:
            self.bars.start()
            self.tasks[task] = self.bars.add_task(task, total=total, note=note, rate="")
        speed = self.bars.tasks[self.bars.task_ids.index(self.tasks[task])].speed
        rate = f"{speed:.1f}/s" if speed else ""
        self.bars.update(self.tasks[task], completed=done, total=total, note=note, rate=rate)
        if done >= total:
            self.close(task)

    def close(self, task: str) -> None:
        self.bars.remove_task(self.tasks.pop(task))
        if not self.tasks:
            self.bars.stop()

    def stop(self) -> None:
        for task in list(self.tasks):
            self.close(task)


@contextmanager
def reporting() -> Iterator[RichReporter]:
    reporter = RichReporter()
    try:
        yield reporter
    finally:
        reporter.stop()


def emit(result: Any, as_json: bool, text: str) -> None:
    """The result on stdout, as JSON or as text."""
    from anodetect.config import plain

    print(json.dumps(plain(result), ensure_ascii=False) if as_json else text)


def finish(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Emit, and exit with 1 if some files failed."""
    emit(result, as_json, text)
    if result.get("failures") or (isinstance(result.get("failed"), int) and result["failed"]):
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Directory to write.")] = Path(
        "anodetect-demo"
    ),
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Synthetic images and a tiny budget: a check of the installation."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """The main job on real images: train three detectors on intact solar cells, score the rest,
    write a report."""
    from anodetect.commands import demo as module

    with reporting() as reporter:
        result = module.run(out, quick=quick, reporter=reporter)
    emit(result, as_json, f"{table(result['rows'])}\nReport: {result['report']}")


@app.command()
def train(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of normal images, a folder in the MVTec layout or with manifest.csv, or a card's name."
        ),
    ],
    detector: Annotated[str, typer.Option("--detector", "-d", help="See `anodetect detectors`.")],
    out: Out,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, key=value; may be repeated.")
    ] = None,
    representation: Annotated[
        str,
        typer.Option(
            help="What the detector sees: pixels, features, or auto for what suits detector and images."
        ),
    ] = "auto",
    tile: Annotated[
        int | None,
        typer.Option(
            help="Model tiles of this many native pixels instead of the whole image, shrunk."
        ),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of a tile that neighbours have in common.")
    ] = None,
    axis: Annotated[
        str | None,
        typer.Option(
            help="Slices of volumes: axial, coronal, sagittal, or auto for the finest pixels."
        ),
    ] = None,
    dims: Annotated[
        int | None,
        typer.Option(help="Volumes: 2 slice by slice (the default), 3 as patches of voxels."),
    ] = None,
    budget: Annotated[float, typer.Option(help="Minutes of training at most.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1)] = 0,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted training of the same --out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Learn what normal looks like."""
    from anodetect.commands import train as command
    from anodetect.config import merge, parse_assignments, read_toml

    values = merge(read_toml(config) if config else {}, parse_assignments(set_ or []))
    options = {"tile": tile, "overlap": overlap, "dims": dims}
    values = merge(
        values, {"tiling": {name: value for name, value in options.items() if value is not None}}
    )
    values = merge(values, {"preprocess": {"axis": axis}} if axis else {})
    with reporting() as reporter:
        facts = command.train(
            data,
            detector,
            out,
            values=values,
            representation=representation,
            budget=budget,
            seed=seed,
            device=device,
            resume=resume,
            reporter=reporter,
        )
    if facts:  # none from a process that helps another
        finish(facts, as_json, f"{out}: {detector} trained in {facts['train_seconds']:.1f} s")


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    paths: Annotated[
        list[str], typer.Argument(help="Files, folders, or a card's name (its test part).")
    ],
    out: Out,
    far: Far = 0.05,
    fdr: Annotated[
        float | None,
        typer.Option(help="Instead of --far: the false-discovery rate among flagged images."),
    ] = None,
    heatmaps: Annotated[
        str, typer.Option(help=f"Comma-separated: {formats.listed()}, or none.")
    ] = ",".join(formats.DEFAULT),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on where an interrupted scoring of the same --out stopped."
        ),
    ] = False,
    shard: Annotated[
        str, typer.Option(help="i/n: score the i-th of n parts; `anodetect merge` joins them.")
    ] = "1/1",
    sign: Annotated[
        Path | None, typer.Option(help="Sign the record with this Ed25519 private key (PEM).")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local, or ray: on the cluster of RAY_ADDRESS, else this machine.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            help="How many models: processes of this machine, as many as help (1: this process alone); with ray one "
            "for each GPU, else each node."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would be scored.")
    ] = False,
    follow_symlinks: FollowLinks = False,
    keep_identifiers: Annotated[
        bool,
        typer.Option(
            "--keep-identifiers", help="Name DICOM patients as their files do, not by a pseudonym."
        ),
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score images: a table, heatmaps, calibrated p-values, a report, and a record that can be
    verified."""
    from anodetect.commands import score as command

    if dry_run:
        _, items, problems = command.collect(paths, out, follow_symlinks)
        listed = "\n".join(record.id for record in items)
        emit(
            {"would_score": len(items), "problems": len(problems), "paths": [r.id for r in items]},
            as_json,
            listed,
        )
        return
    kinds = (
        [] if heatmaps == "none" else [kind.strip() for kind in heatmaps.split(",") if kind.strip()]
    )
    with reporting() as reporter:
        result = command.score(
            run,
            paths,
            out,
            far=far,
            fdr=fdr,
            heatmaps=kinds,
            follow_symlinks=follow_symlinks,
            keep_identifiers=keep_identifiers,
            resume=resume,
            shard=shard,
            sign=sign,
            device=device,
            engine=engine,
            workers=workers,
            command=_command(),
            reporter=reporter,
        )
    finish(result, as_json, scores_text(result, out))


@app.command()
def merge(
    parts: Annotated[list[Path], typer.Argument(help="The score directories of all shards.")],
    out: Out,
    as_json: Json = False,
) -> None:
    """Join the score directories of all shards; p-values, q-values and flags become those of the
    whole."""
    from anodetect.commands import merge as command

    with reporting() as reporter:
        result = command.merge(parts, out, command=_command(), reporter=reporter)
    finish(result, as_json, scores_text(result, out))


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(help="A score directory.")],
    head: Annotated[
        str | None, typer.Option(help="The chain's head as it was kept elsewhere.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The Ed25519 public key (PEM) that must have signed it.")
    ] = None,
    rescore: Annotated[int, typer.Option(min=0, help="Score this many random files again.")] = 0,
    run: Annotated[Path | None, typer.Option(help="Where the run is now, if it was moved.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Where the images are now, if they were moved.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Check that a score directory is what it was when it was written: exit 0 if it holds, 1 if
    not."""
    from anodetect.record import verification

    verdict = verification.verify(directory, head=head, key=key, run=run)
    problems = list(verdict.problems)
    if rescore and verdict.rows:
        from anodetect.commands.rescore import rescore as score_again

        try:
            problems += score_again(directory, rescore, run_path=run, root=data, device=device)
        except AnodetectError as error:  # what was found before is told all the same
            problems.append(f"nothing was scored again: {error}")
    level = "authenticated" if verdict.authenticated else "internally consistent, not authenticated"
    state = "broken" if problems else level
    lines = [f"{directory}: {state} ({verdict.rows} records, head {verdict.head})"]
    lines += [f"broken: {problem}" for problem in problems] + [
        f"note: {note}" for note in verdict.notes
    ]
    result = {
        "intact": not problems,
        "authenticated": verdict.authenticated and not problems,
        "problems": problems,
        "notes": verdict.notes,
        "rows": verdict.rows,
        "head": verdict.head,
    }
    emit(result, as_json, "\n".join(lines))
    if problems:
        raise typer.Exit(1)


@app.command()
def review(
    directories: Annotated[list[Path] | None, typer.Argument(help="Score directories.")] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="A folder the app may train and score in; may be repeated."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8501,
) -> None:
    """Look at ranked cases in a browser and record verdicts. Verdicts are kept in each directory's
    reviews.sqlite, or in the database whose SQLAlchemy URL is in ANODETECT_REVIEWS."""
    from anodetect.commands import review as command

    screen.print(f"http://127.0.0.1:{port} (Ctrl-C stops it)", highlight=False)
    command.serve(directories or [], port=port, roots=root or [])


@app.command()
def calibrate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    data: Annotated[str, typer.Argument(help="New normal images.")],
    out: Out,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Give frozen weights new calibration normals: a new day, scanner or site."""
    from anodetect.commands import calibrate as command

    with reporting() as reporter:
        facts = command.calibrate(run, data, out, device=device, reporter=reporter)
    finish(
        facts,
        as_json,
        f"{out}: calibrated on {facts['calibration_images']} images in {facts['calibration_groups']} groups",
    )


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    data: Annotated[str, typer.Argument(help="Labelled images; a train part is ignored.")],
    far: Far = 0.05,
    by: Annotated[
        str, typer.Option(help="Also for each value of these comma-separated manifest columns.")
    ] = "",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a run on labelled data."""
    from anodetect.commands import evaluate as command

    with reporting() as reporter:
        columns = [column.strip() for column in by.split(",") if column.strip()]
        result = command.evaluate(run, data, far=far, by=columns, device=device, reporter=reporter)
    finish(result, as_json, evaluation_text(result))


@app.command()
def benchmark(
    data: Annotated[list[str], typer.Argument(help="Labelled data sets, each with a train part.")],
    detectors: Annotated[
        str, typer.Option(help="Comma-separated names; see `anodetect detectors`.")
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Directory; what is finished in it is not repeated.")
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Runs per detector and data set.")] = 3,
    budget: Annotated[float, typer.Option(help="Minutes of training at most, each.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Detectors × data sets × seeds, each in a fresh process, to one table."""
    from anodetect.commands import benchmark as module

    names = [name.strip() for name in detectors.split(",") if name.strip()]
    with reporting() as reporter:
        result = module.run(data, names, out, seeds=seeds, budget=budget, reporter=reporter)
    emit(result, as_json, (out / "results.md").read_text("utf-8"))


@app.command()
def info(
    run: Annotated[Path, typer.Argument(help="A run directory.")], as_json: Json = False
) -> None:
    """The facts of a run."""
    from anodetect.record import runs

    facts = runs.facts(run)
    emit(facts, as_json, (run / "model_card.md").read_text("utf-8"))


@app.command()
def detectors(as_json: Json = False) -> None:
    """What there is to train."""
    from anodetect.detectors import DETECTORS

    entries = [
        {
            "name": name,
            "summary": e.summary,
            "citation": e.citation,
            "cost": e.cost,
            "representations": list(e.representations),
        }
        for name, e in DETECTORS.items()
    ]
    emit(
        {"detectors": entries},
        as_json,
        "\n".join(
            f"{e['name']:<12}{e['summary']}\n{'':<12}{e['citation']}. {e['cost']}" for e in entries
        ),
    )


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(help="A score directory, or a folder of them.")],
    as_json: Json = False,
) -> None:
    """Write report.html again."""
    from anodetect.output import report as module

    path = module.write(directory)
    emit({"report": str(path)}, as_json, str(path))


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """The data sets there is a card for."""
    from anodetect.data import cards

    pages = cards.all_pages().values()
    text = "\n".join(f"{page.card.name:<16}{page.card.title}" for page in pages)
    emit({"cards": [page.card.model_dump(mode="json") for page in pages]}, as_json, text)


@data_app.command("show")
def data_show(name: str, as_json: Json = False) -> None:
    """One data card: purpose, origin, licence, splits, known biases, how to obtain."""
    from anodetect.data import cards

    page = cards.page(name.partition(":")[0])
    lines = [
        f"{key}: {value}"
        for key, value in page.card.model_dump().items()
        if value and key not in ("known_biases", "baselines")
    ]
    lines += [f"known bias: {bias}" for bias in page.card.known_biases]
    lines += [
        f"baseline: {baseline.model_dump(exclude_none=True)}" for baseline in page.card.baselines
    ]
    emit(cards.describe(page), as_json, "\n".join([*lines, "", page.text]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Result rows as a text table."""
    grid = Table(box=None, pad_edge=False)
    for name in (
        "detector",
        "image AUROC (95 % interval)",
        "image AP",
        "pixel AP",
        "train s",
        "ms/image",
        "peak MB",
    ):
        grid.add_column(name, justify="left" if name == "detector" else "right")
    for row in rows:
        low, high = row["image_auroc_low"], row["image_auroc_high"]
        pixel = row["pixel_ap"]
        grid.add_row(
            row["detector"],
            f"{row['image_auroc']:.3f} ({low:.3f}–{high:.3f})",
            f"{row['image_ap']:.3f}",
            "–" if pixel is None else f"{pixel:.3f}",
            f"{row['train_seconds']:.1f}",
            f"{row['score_ms_per_image']:.1f}",
            f"{row['peak_memory_mb']:.0f}",
        )
    console = Console(width=100)
    with console.capture() as capture:
        console.print(grid)
    return capture.get().rstrip()


def scores_text(result: dict[str, Any], out: Path) -> str:
    """A scoring for a reader."""
    speed = (
        f" ({result['images_per_second']:.1f} images/s)" if "images_per_second" in result else ""
    )
    lines = [
        f"{result['scored']} scored, {result['flagged']} flagged, {result['failed']} failed, "
        f"{result['skipped']} skipped{speed}"
    ]
    lines += [f"  {count} × {reason}" for reason, count in result["reasons"].items()]
    lines += [result["statement"], *(check["text"] for check in result["drift"].values() if check)]
    return "\n".join([*lines, f"chain head {result['head']}", f"Report: {out / 'report.html'}"])


def evaluation_text(result: dict[str, Any]) -> str:
    """An evaluation for a reader."""
    point = result["operating_point"]
    lines = [
        f"{result['n_normal']} normal and {result['n_anomalous']} anomalous images in {result['n_groups']} groups"
    ]
    for name, entry in result["image"].items():
        note = f"  ({entry['note']})" if entry["note"] else ""
        lines.append(
            f"image {name:<16}{entry['value']:.3f}  [{entry['low']:.3f}, {entry['high']:.3f}]{note}"
        )
    for name, value in (result["pixel"] or {}).items():
        lines.append(f"pixel {name:<16}{value:.3f}")
    lines.append(
        f"at far {point['far']:g}: threshold {point['threshold']:.4g}, "
        f"finds {point['tpr']:.1%}, false alarms {point['fpr']:.1%}"
    )
    for column, parts in result.get("by", {}).items():
        lines.append(f"by {column}:")
        for value, part in parts.items():
            alarms, auroc = part["false_alarms"], part["image"]["auroc"]
            interval = "" if auroc["low"] is None else f" [{auroc['low']:.3f}, {auroc['high']:.3f}]"
            lines.append(
                f"  {value or 'not given':<18}{part['n_normal']} normal, {part['n_anomalous']} anomalous; "
                f"image AUROC {auroc['value']:.3f}{interval}; "
                f"false alarms {alarms['rate']:.1%} [{alarms['low']:.1%}, {alarms['high']:.1%}]"
            )
    return "\n".join([*lines, result["statement"]])


def _command() -> list[str]:
    from anodetect.files import path_text

    return ["anodetect", *map(path_text, sys.argv[1:])]


def main() -> None:
    """Entry point: one-line errors, exit codes 0, 1, 2 and 130."""
    try:
        app()
    except AnodetectError as error:
        _fail(error, error.exit_code)
    except ImportError as error:
        _fail(ConfigError(f"a package is missing: {error}"), 2)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        _fail(DataError(f"{error.filename or 'the system'}: {error.strerror or error}"), 2)


def _fail(error: Exception, code: int) -> None:
    text = " ".join(str(error).split())
    screen.print(f"anodetect: {text}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
