"""The command line. No logic: each command reads its options, makes one call and prints the answer.

Modules are imported by the command that needs them, so that `--help` is quick.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anodetect.commands import options, terminal
from anodetect.commands.stopping import sigterm_as_interrupt
from anodetect.errors import AnodetectError, ConfigError, DataError, Interrupted, one_line
from anodetect.files import printable
from anodetect.words import amount

if TYPE_CHECKING:
    from anodetect.commands.fold_plan import CalibrationPlan
    from anodetect.commands.inputs import Inputs
    from anodetect.data.reading import Reading

STOPPED = "stopped, and nothing is left half-written; give the same command again"
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find anomalies in medical and industrial images after seeing only normal ones.",
)
data_app = typer.Typer(no_args_is_help=True, help="Data cards: what is known of public data sets.")
app.add_typer(data_app, name="data")
backbone_app = typer.Typer(no_args_is_help=True, help="Networks whose features can be modelled.")
app.add_typer(backbone_app, name="backbone")
pacs_app = typer.Typer(no_args_is_help=True, help="Images from a DICOM archive, results to it.")
app.add_typer(pacs_app, name="pacs")
reviews_app = typer.Typer(no_args_is_help=True, help="Verdicts as labels; reader studies.")
app.add_typer(reviews_app, name="reviews")


def emit(result: Any, as_json: bool, text: str) -> None:
    """Print the result on stdout, as JSON or as text."""
    print(_json_text(result) if as_json else printable(text))


def _json_text(result: Any) -> str:
    """Return a result as JSON, which is UTF-8 by its standard. Where stdout has another encoding,
    or a name is no text, letters that are not ASCII are escaped."""
    from anodetect.config import without_nan

    content = without_nan(result)
    text = json.dumps(content, ensure_ascii=False)
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf8sig")
    if utf8 and not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    return json.dumps(content)


def finish(result: dict[str, Any], as_json: bool, text: str) -> None:
    """Print the result, and exit with 1 if some files failed."""
    emit(result, as_json, text)
    if result.get("failures") or (isinstance(result.get("failed"), int) and result["failed"]):
        raise typer.Exit(1)


def _print_version(asked: bool) -> None:
    if asked:
        import anodetect

        print(f"anodetect {anodetect.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that belong to no command."""


@app.command()
def demo(
    out: options.DemoOut = Path("anodetect-demo"),
    quick: options.Quick = False,
    as_json: options.Json = False,
) -> None:
    """Do the main job on real images: train three detectors on intact solar cells, score the rest,
    write a report."""
    from anodetect.commands import demo as command
    from anodetect.commands.texts import results_text

    with terminal.reporting() as reporter:
        result = command.run(out, quick=quick, reporter=reporter)
    emit(result.as_json(), as_json, f"{results_text(result.rows)}\nReport: {result.report}")


@app.command()
def train(
    data: options.TrainingData,
    out: options.Out,
    detector: options.Detector = None,
    config: options.ConfigFile = None,
    set_: options.Assignments = None,
    representation: options.Representation = "auto",
    tile: options.Tile = None,
    overlap: options.Overlap = None,
    axis: options.Axis = None,
    dims: options.Dims = None,
    frames: options.Frames = False,
    flip_right: options.FlipRight = False,
    select: options.Select = None,
    budget: options.Budget = 5.0,
    seed: options.Seed = 0,
    follow_symlinks: options.FollowLinks = False,
    device: options.Device = "auto",
    resume: options.ResumeTraining = False,
    kind_normal: options.KindNormal = None,
    roi: options.Roi = None,
    allow_few: options.AllowFew = False,
    drop_odd: options.DropOdd = None,
    folds: options.Folds = None,
    known_anomalies: options.KnownAnomalies = False,
    channels: options.Channels = None,
    allow_missing: options.AllowMissing = False,
    embed_backbone: options.EmbedBackbone = False,
    each: options.Each = False,
    dry_run: options.DryTraining = False,
    as_json: options.Json = False,
) -> None:
    """Learn what normal looks like."""
    finding: dict[str, Any] = {"follow_symlinks": follow_symlinks, "channels": channels}
    finding |= {"known_anomalies": known_anomalies, "allow_missing": allow_missing}
    from anodetect.config import read_values

    reading = _reading(select, frames, flip_right)
    tiling = {"tile": tile, "overlap": overlap, "dims": dims}
    preprocess = {"axis": axis, "component": reading.component}
    preprocess |= {"frames": frames or None, "flip_right": flip_right or None}
    values = read_values(config, set_ or [], {"tiling": tiling, "preprocess": preprocess})
    if dry_run:
        finding["plan"] = _calibration_plan(detector, folds, drop_odd, allow_few, budget, values)
        _print_inspection(data, kind_normal, as_json, reading=reading, **finding)
        return
    settings: dict[str, Any] = {
        "values": values,
        "representation": representation,
        "budget": budget,
        "seed": seed,
        "device": device,
        "resume": resume,
        "kind_normal": kind_normal or (),
        "roi": roi,
        "allow_few": allow_few,
        "drop_odd": drop_odd,
        "folds": folds,
        "embed_backbone": embed_backbone,
        **finding,
    }
    _run_training(data, detector, out, each, as_json, settings)


def _run_training(
    data: str,
    detector: str | None,
    out: Path,
    each: bool,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Train a run, or with `each` one for each of several data sets, and print what came of it."""
    from anodetect.commands import train as command

    with terminal.reporting() as reporter:
        if detector is None:
            detector = _detector_or_default(None, settings["allow_few"])
            reporter.say(f"no --detector given: {detector}, as docs/detectors.md recommends")
        if each:
            results = command.train_each(data, detector, out, reporter=reporter, **settings)
            _print_runs(results, out, as_json)
            return
        result = command.train(data, detector, out, reporter=reporter, **settings)
    if result is not None:  # none from a process that helps another
        seconds = result.facts.training.train_seconds
        finish(result.as_json(), as_json, f"{out}: {detector} trained in {seconds:.1f} s")


def _calibration_plan(
    detector: str | None,
    folds: int | None,
    drop_odd: float | None,
    allow_few: bool,
    budget: float | None,
    values: Mapping[str, Any],
) -> "CalibrationPlan":
    """Return what decides what a training calibrates with."""
    from anodetect.commands.fold_plan import CalibrationPlan
    from anodetect.imaging.tiling import tile_of

    name = _detector_or_default(detector, allow_few)
    return CalibrationPlan(name, folds, drop_odd is not None, allow_few, budget, tile_of(values))


def _detector_or_default(detector: str | None, allow_few: bool) -> str:
    """Return a detector's name, by default the one that is recommended."""
    from anodetect.detectors import FOR_FEW, RECOMMENDED

    return detector or (FOR_FEW if allow_few else RECOMMENDED)


def _reading(select: str | None, frames: bool, flip_right: bool) -> "Reading":
    """Return how files are to be read."""
    from anodetect.data.reading import Reading, component_of

    return Reading(component_of(select or ""), frames, flip_right)


def _print_runs(results: Mapping[str, Any], out: Path, as_json: bool) -> None:
    runs = {name: each.as_json() if each else {} for name, each in results.items()}
    emit({"runs": runs}, as_json, f"{out}: {', '.join(runs)} trained")


def _print_inspection(
    data: str, kind_normal: list[str] | None, as_json: bool, **options: Any
) -> None:
    from anodetect.commands import inspect as command

    inspection = command.inspect(data, kind_normal=kind_normal or (), **options)
    emit(inspection.as_json(), as_json, command.inspection_text(inspection))


def _print_inputs(inputs: "Inputs", as_json: bool) -> None:
    """Print what would be scored."""
    names = [record.id for record in inputs.records]
    listed = {
        "would_score": len(names),
        "problems": len(inputs.problems),
        "passed_over": inputs.passed_over,
        "paths": names,
    }
    emit(listed, as_json, "\n".join(names))


@app.command()
def score(
    run: options.Run,
    paths: options.Paths,
    out: options.ScoreOut,
    far: options.ScoreFar = None,
    fdr: options.Fdr = None,
    heatmaps: options.Heatmaps = options.DEFAULT_HEATMAPS,
    resume: options.ResumeScoring = False,
    shard: options.Shard = "1/1",
    sign: options.Sign = None,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    dry_run: options.DryRun = False,
    follow_symlinks: options.FollowLinks = False,
    keep_identifiers: options.KeepIdentifiers = False,
    accept_different: options.AcceptDifferent = False,
    roi: options.Roi = None,
    exact_grid: options.ExactGrid = False,
    keep: options.Keep = "all",
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Score images: a table, heatmaps, calibrated p-values, a report, and a record that can be
    verified."""
    from anodetect.commands import score as command
    from anodetect.commands.texts import scores_text

    settings: dict[str, Any] = {
        "far": far,
        "fdr": fdr,
        "heatmaps": [] if heatmaps == "none" else _names(heatmaps),
        "follow_symlinks": follow_symlinks,
        "keep_identifiers": keep_identifiers,
        "accept_different": accept_different,
        "roi": roi,
        "exact_grid": exact_grid,
        "keep": keep,
        "resume": resume,
        "shard": shard,
        "sign": sign,
        "device": device,
        "engine": engine,
        "workers": workers,
        "command": _command_line(),
    }
    with terminal.reporting() as reporter:
        if dry_run:
            inputs = command.would_score(run, paths, out, reporter=reporter, **settings)
            _print_inputs(inputs, as_json)
            return
        result = command.score(run, paths, out, reporter=reporter, **settings)
    finish(result.as_json(), as_json, scores_text(result, result.images_per_second))


@app.command()
def maps(
    directory: options.ScoreDirectory,
    paths: options.MapPaths,
    out: options.MapsOut = None,
    run: options.MovedRun = None,
    data: options.MovedData = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Make the maps, masks, pictures and outlines again that `score --keep` did not keep."""
    from anodetect.commands import maps as command
    from anodetect.commands.texts import maps_text

    with terminal.reporting() as reporter:
        result = command.maps(
            directory, paths, out=out, run=run, data=data, device=device, reporter=reporter
        )
    finish(result.as_json(), as_json, maps_text(result))


@app.command()
def merge(parts: options.Parts, out: options.Out, as_json: options.Json = False) -> None:
    """Join the score directories of all shards; p-values, q-values and flags become those of the
    whole."""
    from anodetect.commands import merge as command
    from anodetect.commands.texts import scores_text

    with terminal.reporting() as reporter:
        result = command.merge(parts, out, command=_command_line(), reporter=reporter)
    finish(result.as_json(), as_json, scores_text(result))


@app.command()
def verify(
    directory: options.ScoreDirectory,
    head: options.Head = None,
    key: options.PublicKey = None,
    reviews: options.KeptReviews = None,
    row: options.OneRow = None,
    rows: options.SomeRows = None,
    rescore: options.Rescore = 0,
    run: options.MovedRun = None,
    data: options.ImagesAndMasks = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Check that a score directory is what it was when it was written: its record, its verdicts and
    its report. Exit 0 if they hold, 1 if not."""
    from anodetect.commands import verify as command
    from anodetect.commands.texts import verdict_text

    verdict = command.verify(
        directory,
        head=head,
        key=key,
        reviews=reviews,
        row=row,
        rows=rows,
        run=run,
        rescore=rescore,
        data=data,
        device=device,
    )
    emit(verdict.as_json(), as_json, verdict_text(verdict, directory))
    if not verdict.intact:
        raise typer.Exit(1)


@app.command()
def forget(
    directory: options.ScoreDirectory,
    group: options.ForgottenGroup,
    sign: options.Sign = None,
    as_json: options.Json = False,
) -> None:
    """Erase the rows, files and verdicts of a patient or lot from a score directory; its record
    keeps hashed gaps and gets a new head."""
    from anodetect.commands import forget as command

    result = command.forget(directory, group, sign=sign)
    emit(result.as_json(), as_json, result.text())


@app.command()
def review(
    directories: options.ScoreDirectories = None,
    root: options.Roots = None,
    port: options.Port = 8501,
    sign: options.SignVerdicts = None,
    keys: options.VerdictKeys = "1234",
    data: options.MovedData = None,
    browser: options.OpensBrowser = True,
) -> None:
    """Look at ranked cases in a browser and record verdicts. Verdicts are kept in each directory's
    reviews.sqlite, or in the database whose SQLAlchemy URL is in ANODETECT_REVIEWS."""
    from anodetect.commands import review as command

    with terminal.reporting() as reporter:
        command.serve(
            directories or [],
            port=port,
            roots=root or [],
            sign=sign,
            keys=keys,
            data=data,
            opens=browser and sys.stdout.isatty(),
            reporter=reporter,
        )


@app.command()
def watch(
    run: options.Run,
    folder: options.WatchedFolder,
    out: options.WatchOut,
    far: options.Far = 0.05,
    heatmaps: options.WatchHeatmaps = "none",
    hours: options.CloseHours = 1.0,
    count: options.CloseCount = 10_000,
    alarm: options.AlarmCommand = "",
    webhook: options.Webhook = "",
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Score the images that appear in a folder as they come, into records that are closed by the
    hour or by count, until SIGTERM or Ctrl-C. Started again it goes on; nothing is lost or done
    twice."""
    import shlex

    from anodetect.commands import watch as command

    with terminal.reporting() as reporter:
        result = command.watch(
            run,
            folder,
            out,
            far=far,
            heatmaps=[] if heatmaps == "none" else _names(heatmaps),
            closing=command.Closing(hours, count),
            alarm=shlex.split(alarm),
            webhook=webhook,
            device=device,
            command=_command_line(),
            reporter=reporter,
        )
    finish(result.as_json(), as_json, result.text())


@app.command()
def serve(
    run: options.Run,
    host: options.ServeHost = "127.0.0.1",
    port: options.ServePort = 8600,
    far: options.Far = 0.05,
    device: options.Device = "auto",
) -> None:
    """Answer images that are sent by POST with score, p-value, flag, regions and map. On another
    address than this machine's own a token is needed, in ANODETECT_SERVE_TOKEN."""
    from anodetect.commands import serve as command

    with terminal.reporting() as reporter:
        command.serve(run, host=host, port=port, far=far, device=device, reporter=reporter)


@app.command()
def calibrate(
    run: options.Run,
    data: options.NewNormals,
    out: options.Out,
    roi: options.Roi = None,
    follow_symlinks: options.FollowLinks = False,
    kind_normal: options.KindNormal = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Give frozen weights new calibration normals: a new day, scanner or site."""
    from anodetect.commands import calibrate as command

    with terminal.reporting() as reporter:
        result = command.calibrate(
            run,
            data,
            out,
            follow_symlinks=follow_symlinks,
            kind_normal=kind_normal or (),
            device=device,
            roi=roi,
            reporter=reporter,
        )
    images = amount(result.facts.calibration_images, "image")
    groups = amount(result.facts.calibration_groups, "group")
    finish(result.as_json(), as_json, f"{out}: calibrated on {images} in {groups}")


@app.command()
def evaluate(
    run: options.Run,
    data: options.LabelledData,
    far: options.Far = 0.05,
    by: options.By = "",
    roi: options.Roi = None,
    follow_symlinks: options.FollowLinks = False,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Measure a run on labelled data."""
    from anodetect.commands import evaluate as command
    from anodetect.commands.texts import evaluation_text

    with terminal.reporting() as reporter:
        result = command.evaluate(
            run,
            data,
            far=far,
            by=_names(by),
            roi=roi,
            follow_symlinks=follow_symlinks,
            device=device,
            reporter=reporter,
        )
    finish(result.as_json(), as_json, evaluation_text(result))


@app.command()
def benchmark(
    data: options.BenchmarkData,
    detectors: options.DetectorNames,
    out: options.BenchmarkOut,
    seeds: options.Seeds = 3,
    budget: options.BudgetEach = 5.0,
    follow_symlinks: options.FollowLinks = False,
    channels: options.Channels = None,
    allow_missing: options.AllowMissing = False,
    as_json: options.Json = False,
) -> None:
    """Train and measure detectors × data sets × seeds, each in a fresh process, for one table."""
    from anodetect.commands import benchmark as command

    with terminal.reporting() as reporter:
        result = command.run(
            data,
            _names(detectors),
            out,
            seeds=seeds,
            budget=budget,
            follow_symlinks=follow_symlinks,
            channels=channels,
            allow_missing=allow_missing,
            reporter=reporter,
        )
    emit(result.as_json(), as_json, (out / "results.md").read_text("utf-8"))


@app.command()
def info(run: options.Run, as_json: options.Json = False) -> None:
    """Show the facts of a run: its data, detector, settings and calibration."""
    from anodetect.record import runs
    from anodetect.record.objects import text_of

    emit(runs.facts(run).as_json(), as_json, text_of(run / "model_card.md"))


@app.command()
def detectors(name: options.DetectorName = None, as_json: options.Json = False) -> None:
    """List what there is to train; with a name, list every setting of that detector."""
    from anodetect.commands import detectors as command

    if name is None:
        listed = command.listing()
        content = {"detectors": [each.as_json() for each in listed]}
        emit(content, as_json, command.listing_text(listed))
    else:
        described = command.describe(name)
        emit(described.as_json(), as_json, command.description_text(described))


@app.command()
def report(
    directory: options.ReportDirectory,
    sign: options.Sign = None,
    as_json: options.Json = False,
) -> None:
    """Write report.html: again that of a score directory, or that of a run."""
    from anodetect.commands import report as command

    path = command.report(directory, sign=sign)
    emit({"report": str(path)}, as_json, str(path))


@app.command()
def sample(
    run: options.Run,
    out: options.Out,
    count: options.SampleCount = 8,
    start: options.Start = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Let a model make images, to see what it takes for normal."""
    from anodetect.commands import sample as command

    result = command.sample(run, out, count=count, start=start, seed=seed, device=device)
    images = amount(result.images, "image")
    last = f"{out}: {images}, and how they came about in {result.files[-1]}"
    emit(result.as_json(), as_json, last)


@app.command()
def export(
    run: options.Run,
    onnx: options.OnnxFile,
    data: options.ComparedData = "",
    far: options.Far = 0.05,
    tolerance: options.Tolerance = 0.001,
    follow_symlinks: options.FollowLinks = False,
    as_json: options.Json = False,
) -> None:
    """Write a run as one ONNX file, from decoded pixels to score, p-value and heatmap, once its
    scores are those of the run."""
    from anodetect.commands import export as command

    result = command.export(
        run, onnx, data=data, far=far, tolerance=tolerance, follow_symlinks=follow_symlinks
    )
    emit(result.as_json(), as_json, result.text())


@data_app.command("inspect")
def data_inspect(
    data: options.InspectedData,
    follow_symlinks: options.FollowLinks = False,
    kind_normal: options.KindNormal = None,
    channels: options.Channels = None,
    allow_missing: options.AllowMissing = False,
    html: options.Html = None,
    frames: options.Frames = False,
    flip_right: options.FlipRight = False,
    select: options.Select = None,
    as_json: options.Json = False,
) -> None:
    """Say what a folder holds: what would be learned from, tested with and passed over."""
    reading = _reading(select, frames, flip_right)
    finding: dict[str, Any] = {"follow_symlinks": follow_symlinks, "page": html}
    finding |= {"channels": channels, "allow_missing": allow_missing}
    _print_inspection(data, kind_normal, as_json, reading=reading, **finding)


@data_app.command("list")
def data_list(as_json: options.Json = False) -> None:
    """List the data sets that there is a card for."""
    from anodetect.data import cards

    pages = cards.all_pages().values()
    text = "\n".join(f"{page.card.name:<16}{page.card.title}" for page in pages)
    emit({"cards": [page.card.model_dump(mode="json") for page in pages]}, as_json, text)


@data_app.command("show")
def data_show(name: options.CardName, as_json: options.Json = False) -> None:
    """Show one data card: purpose, origin, licence, splits, known biases, how to obtain."""
    from anodetect.commands.texts import card_text
    from anodetect.data import cards

    page = cards.page(name.partition(":")[0])
    emit(cards.describe(page), as_json, card_text(page))


@backbone_app.command("list")
def backbone_list(as_json: options.Json = False) -> None:
    """List the backbones that can be named, and those that were fetched."""
    from dataclasses import asdict

    from anodetect.commands import backbone as command

    listed = command.listing()
    content = {"backbones": [asdict(each) for each in listed]}
    emit(content, as_json, command.listing_text(listed))


@backbone_app.command("get")
def backbone_get(
    name: options.BackboneName,
    revision: options.Revision = "main",
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Fetch a network from the hub of Hugging Face; its size and licence are said first."""
    from dataclasses import asdict

    from anodetect.commands import backbone as command

    with terminal.reporting() as reporter:
        offered = command.offer(name, revision)
        reporter.say(offered.text())
        if not yes and not typer.confirm("Fetch it?", err=True):
            raise ConfigError(f"backbone {name}: not fetched")
        known = command.fetch(offered, reporter)
    emit(asdict(known), as_json, f"{name}: fetched; --set backbone={name} uses it")


@reviews_app.command("export")
def reviews_export(
    directory: options.ScoreDirectory,
    out: options.Out,
    form: options.ReviewsForm = "manifest",
    join_normals: options.JoinNormals = False,
    as_json: options.Json = False,
) -> None:
    """Write the verdicts in force as labels, and the regions that reviewers marked as masks, to a
    new folder that evaluate, calibrate and train read."""
    from anodetect.commands import reviews as command
    from anodetect.commands import study

    if form == "study":
        exported = study.export(directory, out)
        emit(exported.as_json(), as_json, exported.text())
        return
    with terminal.reporting() as reporter:
        result = command.export(directory, form, out, join_normals=join_normals, reporter=reporter)
    emit(result.as_json(), as_json, result.text())


@app.command()
def alike(
    directory: options.ScoreDirectory,
    run: options.MovedRun = None,
    data: options.MovedData = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Compute which scored images are like one another by the run's features, for "More like this"
    in the review app: alike.parquet beside the record."""
    from anodetect.commands import alike as command

    with terminal.reporting() as reporter:
        result = command.alike_of(
            directory, run_path=run, data=data, device=device, reporter=reporter
        )
    emit(result.as_json(), as_json, result.text())


@reviews_app.command("plan")
def reviews_plan(
    directory: options.ScoreDirectory,
    reader: options.Readers,
    adjudicator: options.Adjudicators = None,
    viewer: options.Viewers = None,
    each: options.ReadersEach = 2,
    sample: options.StudySample = None,
    seed: options.StudySeed = 0,
    name: options.StudyName = "",
    login: options.ByLogin = False,
    as_json: options.Json = False,
) -> None:
    """Write the plan of a reader study beside the scores: who reads which case, blind and in an
    order of their own, and who adjudicates. The review app then keeps to it."""
    from anodetect.commands import study

    planned = study.plan(
        directory,
        name=name,
        readers=reader,
        adjudicators=adjudicator or [],
        viewers=viewer or [],
        each=each,
        sample=sample,
        seed=seed,
        login=login,
    )
    emit(planned.as_json(), as_json, planned.text())


@pacs_app.command("pull")
def pacs_pull(
    archive: options.Archive,
    out: options.PulledFolder,
    modality: options.Modality = "",
    description: options.Description = "",
    since: options.Since = "",
    until: options.Until = "",
    patients: options.Patients = None,
    retrieve: options.Retrieve = "get",
    aet: options.OwnTitle = "ANODETECT",
    host: options.OwnHost = "127.0.0.1",
    port: options.OwnPort = 11112,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_ca: options.TlsCa = None,
    as_json: options.Json = False,
) -> None:
    """Fetch series into a folder that `train` and `score` read: manifest.csv and one folder a
    series. The same command again fetches only what is missing."""
    from anodetect.commands import pacs as command

    own = command.own_side(aet, host, port, retrieve, (tls_cert, tls_key, tls_ca))
    with terminal.reporting() as reporter:
        result = command.pull(
            archive,
            out,
            modality=modality,
            description=description,
            since=since,
            until=until,
            patients=patients,
            own=own,
            reporter=reporter,
        )
    emit(result.as_json(), as_json, command.pulled_text(result))
    if result.incomplete:
        raise typer.Exit(1)


@pacs_app.command("push")
def pacs_push(
    directory: options.ScoreDirectory,
    archive: options.Archive,
    aet: options.OwnTitle = "ANODETECT",
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_ca: options.TlsCa = None,
    as_json: options.Json = False,
) -> None:
    """Send the DICOM objects of a score directory to an archive, each once. They must carry the
    identifiers of their scans: score with --heatmaps dicom --keep-identifiers."""
    from anodetect.commands import pacs as command

    own = command.own_side(aet, tls=(tls_cert, tls_key, tls_ca))
    with terminal.reporting() as reporter:
        result = command.push(directory, archive, own=own, reporter=reporter)
    finish(result.as_json(), as_json, command.pushed_text(result))


@pacs_app.command("listen")
def pacs_listen(
    run: options.Run,
    out: options.NodeFolder,
    to: options.PushTo = "",
    watch: options.Watch = None,
    quiet: options.Quiet = 30.0,
    count: options.CountOf = False,
    allow: options.Allow = None,
    aet: options.OwnTitle = "ANODETECT",
    host: options.OwnHost = "127.0.0.1",
    port: options.OwnPort = 11112,
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    tls_ca: options.TlsCa = None,
    heatmaps: options.Heatmaps = "dicom,png",
    keep_identifiers: options.KeepIdentifiers = False,
    far: options.ScoreFar = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:
    """Score every series that is sent to this node, and push its results to an archive, until
    SIGTERM or Ctrl-C. Started again it goes on; nothing is lost or done twice."""
    from anodetect.commands import listen as command
    from anodetect.commands.pacs import own_side

    own = own_side(aet, host, port, tls=(tls_cert, tls_key, tls_ca))
    with terminal.reporting() as reporter:
        result = command.listen(
            run,
            out,
            to=to,
            watch=watch,
            quiet=quiet,
            count=count,
            allowed=allow or [],
            own=own,
            heatmaps=_names(heatmaps),
            keep_identifiers=keep_identifiers,
            far=far,
            device=device,
            command=_command_line(),
            reporter=reporter,
        )
    finish(result.as_json(), as_json, result.text())


def _names(text: str) -> list[str]:
    """Return the names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _command_line() -> list[str]:
    """Return the command as the record keeps it."""
    from anodetect.files import path_text

    return ["anodetect", *map(path_text, sys.argv[1:])]


def main() -> None:
    """Run the command line. Errors are printed in one line; exit codes are 0, 1, 2 and 130."""
    terminal.replace_what_cannot_be_printed()
    try:
        with sigterm_as_interrupt():
            app()
    except AnodetectError as error:
        _fail(error, error.exit_code)
    except KeyboardInterrupt:
        _fail(Interrupted(STOPPED), Interrupted.exit_code)
    except SystemExit as leave:
        if leave.code == Interrupted.exit_code:  # what typer makes of a KeyboardInterrupt
            _fail(Interrupted(STOPPED), Interrupted.exit_code)
        raise
    except ImportError as error:
        _fail(ConfigError(f"a package is missing or damaged: {error.name or 'unknown'}"), 2)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        _fail(DataError(f"{error.filename or _place_of_error()}: {one_line(error)}"), 2)


def _place_of_error() -> str:
    """Return where the system failed that names no file: often the working folder was removed."""
    try:
        Path.cwd()
    except OSError:
        return "the working folder is gone, change to another one"
    return "the system"


def _fail(error: Exception, code: int) -> None:
    terminal.print_error(f"anodetect: {' '.join(str(error).split())}")
    sys.exit(code)


if __name__ == "__main__":
    main()
