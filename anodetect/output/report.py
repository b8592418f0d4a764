"""One self-contained HTML file about a score directory, or about several that scored the same
images."""

import base64
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from numbers import Real
from pathlib import Path
from urllib.parse import quote

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jinja2 import Environment, PackageLoader
from pydantic import TypeAdapter, ValidationError

from anodetect.data.scan import counted
from anodetect.errors import RunError, one_line
from anodetect.files import is_below, printable, sha256_of, write_atomic
from anodetect.output import figures
from anodetect.output.overview import Overview
from anodetect.record import channel_files, directories, reports, reviews
from anodetect.record.audit import Audit
from anodetect.record.directories import picture_of
from anodetect.record.objects import content_of, parsed
from anodetect.record.reviews import Review, first_blind, in_force
from anodetect.record.rows import ScoreRow, SliceRow, first_problem
from anodetect.stats.agreement import UNDEFINED, summary
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.limit import DetectionLimit, detection_limit, trials_of
from anodetect.words import amount, sentence

APP = "http://127.0.0.1:8501"  # where `anodetect review` serves the app by default
FLAGGED_ROWS, CASES, PROFILES = 50, 12, 4
NAMES = 3  # of what was scored that the title names


@dataclass(frozen=True)
class Case:
    """A row and the picture that was kept of its image: a JPEG in base 64, "" for none."""

    row: ScoreRow
    picture: str


@dataclass(frozen=True)
class Decider:
    """A reviewer, how many verdicts of each kind are in force, and the time of the last one."""

    reviewer: str
    counts: Mapping[str, int]
    last: str


@dataclass(frozen=True)
class Results:
    """The content of results.json about several directories: a table of `rows`, and the `commands`
    that made them."""

    rows: tuple[Mapping[str, float | str | None], ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A review beside the picture of its image; whether a later one took it back, the number of the
    one by the same reader that counts in its place (0 for none), and whether the image was
    flagged."""

    review: Review
    taken_back: bool
    superseded_by: int
    flagged: bool
    picture: str


def write(folder: Path, key: Ed25519PrivateKey | None = None) -> Path:
    """Write `folder`/report.html, with the verdicts in its reviews.sqlite, and return its path; see
    `html`. That of a score directory gets a note of its hash, signed with `key` if there is one.

    RunError if a report is to be signed of a record that is not what was written.
    """
    file = folder / reviews.FILE
    written = reviews.read(file) if file.is_file() else []
    if not (folder / directories.AUDIT_FILE).is_file():
        write_atomic(folder / reports.REPORT, html(folder, written))
        return folder / reports.REPORT

    if key is not None:
        directories.refuse_changed(folder)
    page, audit = html(folder, written), directories.read_audit(folder)
    start = audit.verdicts_start
    own = [review.hash for review in written if review.head == start]
    return reports.write(folder, page, head=audit.head, verdicts=own[-1] if own else start, key=key)


def html(folder: Path, reviewed: Sequence[Review], app: str = APP) -> str:
    """Return the report.

    `folder` is a score directory, or holds several in scores/ and a results.json with a table of
    `rows` and the `commands` that made them. The first that is no baseline is shown in detail. Of
    the reviews those of its record are shown. Cases are links into the review app at `app`.
    RunError if there is nothing to report.
    """
    folders = _directories(folder)
    audits = {each: directories.read_audit(each) for each in folders}
    shown = next((each for each in folders if not audits[each].baseline), folders[0])
    start = audits[shown].verdicts_start
    own = [review for review in reviewed if review.head == start]
    scored = [
        _overview(each, audit, own if each == shown else []) for each, audit in audits.items()
    ]
    main = scored[folders.index(shown)]
    results = _results(folder / "results.json")

    page = environment().get_template("report.html.j2")
    text: str = page.render(
        audit=main.audit,
        app=app.rstrip("/"),
        scored=_scored(main.audit),
        rows=results.rows,
        commands=results.commands or _commands(main),
        counts=main.audit.counts,
        passed_over=counted(main.audit.passed_over),
        evaluation=main.audit.evaluation,
        limit=_limit(main),
        drift=[check for check in (main.audit.drift.batch, main.audit.drift.time) if check],
        # figures
        histogram=_histogram(main),
        roc=_roc(scored),
        froc=figures.froc(main.audit.evaluation.lesions if main.audit.evaluation else None),
        mask_statement=main.audit.calibration.mask_statement(main.audit.far or DEFAULT_FAR),
        training=figures.training(main.audit.training),
        profiles=_profiles(main),
        colour_bar=figures.colour_bar(*main.audit.scale),
        # images
        cases=_cases(main),
        flagged=_flagged(main),
        failures=main.failures.listed(),
        differences=main.differences.listed(),
        n_rows=main.count,
        n_flagged=main.n_flagged,
        decided=bool(main.audit.calibration.groups),
        # reviews
        review=summary(main.flags, in_force(own), first_blind(own)) if own else None,
        verdicts=_verdicts(main, own),
        undefined=UNDEFINED,
        broken=next(reviews.broken(own, start), ""),
        chain_end=own[-1].hash if own else "",
        # the two sheets that are printed, of a score directory alone
        sheets=main.path == folder,
        cautions=_cautions(main),
        deciders=_deciders(own),
        judgements=reviews.JUDGEMENTS,
    )
    return text


def _overview(path: Path, audit: Audit, reviewed: Sequence[Review]) -> Overview:
    """Read what is shown of the rows of a score directory and of those that were reviewed."""
    paths = {*audit.cases.highest, *audit.cases.borderline, *(each.path for each in reviewed)}
    return Overview(
        path, audit, paths, flagged=FLAGGED_ROWS, volumes=PROFILES, flags=bool(reviewed)
    )


def _scored(audit: Audit) -> str:
    """Return what was scored as the title names it: data sets, folders and files; in records of
    older releases the folder that all lie in."""
    names = [name for name in audit.names if name] or [Path(audit.root).name or "images"]
    if len(names) == 1:
        return names[0]
    last = names[-1] if len(names) <= NAMES else f"{len(names) - NAMES + 1} more"
    return f"{', '.join(names[: min(len(names), NAMES) - 1])} and {last}"


def _cautions(main: Overview) -> list[str]:
    """Return the caveats of a record, and what its drift checks say if they fire."""
    checks = (main.audit.drift.batch, main.audit.drift.time)
    fired = [check.text for check in checks if check is not None and check.fires]
    return [*main.audit.caveats, *fired]


def _deciders(reviewed: Sequence[Review]) -> list[Decider]:
    """Return who has verdicts in force, those with the most first."""
    own: dict[str, list[Review]] = {}
    for by_reviewer in in_force(reviewed).values():
        for reviewer, review in by_reviewer.items():
            own.setdefault(reviewer, []).append(review)

    found = []
    for reviewer, given in sorted(own.items(), key=lambda item: (-len(item[1]), item[0])):
        counts = Counter(review.verdict for review in given)
        found.append(Decider(reviewer, counts, max(review.time for review in given)))
    return found


def _commands(main: Overview) -> list[str]:
    """Return the command that a directory was scored by; [] if it was scored from Python."""
    return [shlex.join(main.audit.command)] if main.audit.command else []


@cache
def environment() -> Environment:
    """Return what renders the package's templates. Everything put into them is escaped, and texts
    are printable: no name turns the direction of what stands beside it."""
    templates = Environment(
        loader=PackageLoader("anodetect.output", "templates"),
        autoescape=True,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.tests["known"] = _is_known
    templates.filters["amount"] = amount
    templates.filters["number"] = _number
    templates.filters["percent"] = _percent
    templates.filters["sentence"] = sentence
    templates.filters["time"] = _time
    templates.filters["truth"] = _truth
    templates.filters["channel_names"] = _channel_names
    templates.filters["case_link"] = partial(quote, safe="")
    return templates


def _finalized(value: object) -> object:
    return printable(value) if type(value) is str else value  # not Markup, such as figures


def _is_known(value: object) -> bool:
    return isinstance(value, Real) and not np.isnan(float(value))


def _number(value: object, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if _is_known(value) else "–"


def _truth(row: ScoreRow) -> str:
    """Return the kind of an image or, without one, its label; a dash where it is not known."""
    if row.label is None:
        return row.kind or "–"
    return row.kind or ("anomalous" if row.label else "normal")


def _time(text: str) -> str:
    """Return a time in UTC of a record, such as 2026-01-31T08:00:00+00:00, without its zone."""
    return text[:19].replace("T", " ")


def _channel_names(row: ScoreRow) -> str:
    """Return the names of a row's channels in the order of their pictures."""
    names = []
    for channel in channel_files.from_text(row.channels):
        names.append(channel.name if channel.path is not None else f"{channel.name} (absent)")
    return ", ".join(names)


def _percent(value: object) -> str:
    return f"{100 * float(value):.1f} %" if isinstance(value, Real) and _is_known(value) else "–"


# -- Files -----------------------------------------------------------------------------------------


def _directories(folder: Path) -> list[Path]:
    """Return the score directory, or those in its scores/, in the order of their names."""
    if (folder / directories.AUDIT_FILE).is_file():
        return [folder]
    files = sorted(folder.glob(f"scores/*/{directories.AUDIT_FILE}"))
    if not files:
        raise RunError(
            f"{folder}: neither a score directory nor a folder with score directories in scores/"
        )
    return [file.parent for file in files]


def _results(path: Path) -> Results:
    """Return what results.json says; nothing if there is none. RunError if it is damaged."""
    if not path.exists():
        return Results()
    try:
        # A metric that could not be measured is NaN.
        return TypeAdapter(Results).validate_python(parsed(content_of(path), nan=True))
    except ValidationError as error:
        raise RunError(f"{path}: {first_problem(error)}") from None
    except ValueError as error:
        raise RunError(f"{path}: not readable ({one_line(error)})") from None


def _picture(main: Overview, path: str) -> str:
    """Return the picture of an image in base64, "" if there is none, or another one than was
    written."""
    file = picture_of(main.path, path)
    recorded = main.picture_hashes.get(file.relative_to(main.path).as_posix(), "")
    if not file.is_file() or not is_below(file, main.path) or sha256_of(file) != recorded:
        return ""
    return base64.b64encode(file.read_bytes()).decode()


# -- Images ----------------------------------------------------------------------------------------


def _cases(main: Overview) -> dict[str, list[Case]]:
    """Return the cases that have a picture, in the order they were chosen, by why they were."""
    chosen, rows = asdict(main.audit.cases), main.by_path
    cases: dict[str, list[Case]] = {}
    for name, paths in chosen.items():
        shown = [path for path in paths[:CASES] if path in rows]
        cases[name] = [Case(rows[path], _picture(main, path)) for path in shown]
    return cases


def _flagged(main: Overview) -> list[Case]:
    """Return the flagged rows with the highest scores, with their pictures where they were kept."""
    return [Case(row, _picture(main, row.path)) for row in main.flagged.rows]


def _verdicts(main: Overview, reviewed: Sequence[Review]) -> list[Verdict]:
    """Return every review in the order of the chain."""
    rows = main.by_path
    taken_back = {review.withdraws for review in reviewed}
    counting = in_force(reviewed)
    verdicts = []
    for review in reviewed:
        flagged = review.path in rows and bool(rows[review.path].flagged)
        picture = _picture(main, review.path)
        last = counting.get(review.path, {}).get(review.reviewer)
        later = 0
        if last is not None and review.verdict in reviews.JUDGEMENTS:
            later = last.number if last.number != review.number else 0
        verdicts.append(Verdict(review, review.number in taken_back, later, flagged, picture))
    return verdicts


# -- Figures ---------------------------------------------------------------------------------------


def _limit(main: Overview) -> DetectionLimit | None:
    """Return the detection limit at the false-alarm rate of this scoring, the default one where it
    had none; None where nothing was planted."""
    try:
        planted = trials_of(main.audit.facts.get("planted"))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{main.path}: scores of planted defects ({one_line(error)})") from None
    if planted is None:
        return None
    rule = main.audit.rule
    return detection_limit(
        planted, main.audit.calibration, DEFAULT_FAR if rule.by_fdr else rule.rate
    )


def _histogram(main: Overview) -> str:
    """Draw the scores of this batch; of volumes alone beside the highest score of each group."""
    volumes, calibration = main.only_volumes, main.audit.calibration
    return figures.histogram(
        main.scores,
        main.labels,
        (calibration.pooled() if volumes else calibration).scores,
        main.threshold,
        of_groups=volumes,
    )


def _roc(scored: Sequence[Overview]) -> str:
    """Draw the ROC curves of the directories with both normal and anomalous images."""
    detectors = []
    for each in scored:
        known = each.labels >= 0
        labels = each.labels[known].astype(np.int64)
        if 0 < labels.sum() < len(labels):
            scores, name = each.scores[known], each.audit.detector
            detectors.append(figures.LabelledScores(name, labels, scores, each.groups))
    return figures.roc(detectors)


def _profiles(main: Overview) -> str:
    """Draw the slices of the volumes with the highest scores."""
    slices: dict[str, list[SliceRow]] = {row.path: [] for row in main.volumes.rows}
    for each in directories.read_slices(main.path):
        if each.path in slices:
            slices[each.path].append(each)

    threshold = main.audit.calibration.threshold(main.audit.rule.rate)
    return figures.profiles({path: rows for path, rows in slices.items() if rows}, threshold)
