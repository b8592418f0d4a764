"""The page to train and to score on: the runs that exist, forms that start commands in the
background, and the commands' progress."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import streamlit as st

from anodetect.detectors import DETECTORS
from anodetect.errors import AnodetectError, RunError
from anodetect.files import shortened
from anodetect.record import directories
from anodetect.record.checkpoint import MODEL_FILE
from anodetect.record.objects import text_of
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.words import amount

from . import browse, folders, jobs, rates
from .folders import Contents, RunRow
from .jobs import Job
from .widgets import Table, draw_table, duration_text, show_problem, with_message

JOBS_SHOWN, WARNINGS_SHOWN = 5, 5
LARGEST_CARD = 2**20  # bytes of a model card that is shown
CHANNELS_HELP = (
    "Their names with the patterns of file or series names, as t1=*T1w*,flair=*FLAIR*. "
    "Empty, a manifest may name them."
)


def draw(roots: Sequence[Path]) -> None:
    """Draw the page; without roots it says how to name some."""
    if not roots:
        st.info("To train and to score from here, start the app with the folders it may use:")
        st.code("anodetect review DIR --root FOLDER", language=None)
        return

    contents = search(tuple(roots))
    with st.container(key="jobs"):
        _jobs(roots)
    _runs(contents)

    train, score = st.container(key="forms").columns(2, gap="large")
    with train:
        _train_form(roots, contents)
    with score:
        _score_form(roots, contents)


@st.cache_resource(ttl=5, show_spinner="Looking through the folders …")
def search(roots: tuple[Path, ...]) -> Contents:
    """Search the roots, at most every 5 seconds."""
    return folders.search(roots)


# -- Jobs ------------------------------------------------------------------------------------------


@st.fragment(run_every=2)
def _jobs(roots: Sequence[Path]) -> None:
    """Draw the latest jobs, again and again while the page is open."""
    try:
        listed = jobs.all_jobs(roots)[:JOBS_SHOWN]
    except AnodetectError as error:
        show_problem(str(error))
        return
    if not listed:
        return

    st.subheader("Jobs")
    states = {job.folder: jobs.state(job) for job in listed}
    for job in listed:
        _job(job, states[job.folder], roots)

    before = st.session_state.get("job_states", states)
    st.session_state.job_states = states
    for folder, state in states.items():
        if before.get(folder) == "running" and state != "running":
            # Draw the whole page: there may be a new run or score directory to choose.
            search.clear()
            st.rerun()


def _job(job: Job, state: jobs.State, roots: Sequence[Path]) -> None:
    """Draw one job, with the button that cancels or continues it."""
    text, action = st.columns([5, 1])
    progress = jobs.progress(job)
    started = job.started[:16].replace("T", " ")
    text.text(f"{job.subcommand} → {job.out.name}: {state}, started {started} UTC")

    key = job.folder.name
    if state == "running":
        share = min((progress.done or 0) / (progress.total or 1), 1.0)
        text.progress(share)  # whose own text would be Markdown
        text.text(shortened(progress.line) if progress.total else "starting")
        left = jobs.remaining(job, progress, datetime.now(UTC))
        if left is not None:
            text.text(f"about {duration_text(left)} left")
        action.button("Cancel", key=f"cancel-{key}", on_click=with_message(jobs.cancel, job))
        if len(progress.losses) > 1:
            curve = {"step": progress.steps, "loss": progress.losses}
            text.line_chart(curve, x="step", y="loss", height=160, alt="Loss by step")
    elif state == "done":
        _link(action, job)
    else:
        action.button("Go on", key=f"resume-{key}", on_click=with_message(jobs.resume, roots, job))
        text.text(shortened(progress.line))
    for warning in progress.warnings[:WARNINGS_SHOWN]:
        text.text(f"⚠ {shortened(warning)}")
    if len(progress.warnings) > WARNINGS_SHOWN:
        more = len(progress.warnings) - WARNINGS_SHOWN
        are = amount(more, "more warning is", "more warnings are")
        text.caption(f"{are} in its log")


def _link(action: Any, job: Job) -> None:
    """Draw the button that leads from a finished job to what it made, if that is still there."""
    key = job.folder.name
    if job.subcommand == "score" and (job.out / directories.AUDIT_FILE).is_file():
        action.button(
            "Open its cases", key=f"open-{key}", type="primary", on_click=_open_cases, args=(job,)
        )
    if job.subcommand == "train" and (job.out / MODEL_FILE).is_file():
        action.button("Score with it", key=f"use-{key}", on_click=_score_with, args=(job,))


def _open_cases(job: Job) -> None:
    """Open the page of cases at the score directory that a job made."""
    st.session_state.directory = job.out
    st.session_state.page = "Cases"
    st.session_state.open = ""


def _score_with(job: Job) -> None:
    """Choose the run that a job made for the next scoring."""
    st.session_state.score_run = job.out


# -- Runs ------------------------------------------------------------------------------------------


def _runs(contents: Contents) -> None:
    """Draw the table of runs, and the model card of one of them."""
    st.subheader("Runs")
    if not contents.runs:
        st.info("There is no run in these folders yet; train one below.")
        return

    shown, problems = [], []
    for run in contents.runs:
        try:
            changed = (run / MODEL_FILE).stat().st_mtime_ns
            shown.append(_titled(_run_row(run, changed, contents.scores)))
        except (AnodetectError, OSError) as error:
            problems.append(f"{run}: {error}")
    if shown:
        columns: Table = {title: [row[title] for row in shown] for title in shown[0]}
        draw_table(columns, alt="Runs and how they were made")
    for text in problems:
        st.text(text)

    names = [str(run) for run in contents.runs]
    chosen = st.selectbox(
        "Model card of", [None, *names], format_func=lambda name: name or "–", key="card"
    )
    if chosen:
        try:
            card = text_of(Path(chosen) / "model_card.md", LARGEST_CARD)
        except RunError as error:
            show_problem(str(error))
            return
        st.code(card, language=None, wrap_lines=True)


def _titled(row: RunRow) -> dict[str, str | float]:
    """Return a row of the table under the titles of its columns."""
    return {
        "run": row.run,
        "detector": row.detector,
        "image AUROC": row.image_auroc,
        "sees": row.representation,
        "data": row.data,
        "trained, UTC": row.trained,
        "training, s": row.seconds,
        "ended by": row.ended_by,
        "calibration": row.calibration,
    }


@st.cache_resource(ttl=600, show_spinner="Reading the runs …")
def _run_row(run: Path, changed: int, scores: tuple[Path, ...]) -> RunRow:
    """Return a run's row; `changed` is part of the key, so that a new model is read anew."""
    return folders.run_row(run, _measured_auroc(scores))


@st.cache_resource(ttl=60, show_spinner=False)
def _measured_auroc(scores: tuple[Path, ...]) -> Mapping[str, str]:
    return folders.measured_auroc(scores)


# -- Forms -----------------------------------------------------------------------------------------


def _train_form(roots: Sequence[Path], contents: Contents) -> None:
    """Draw the fields of a training, and the button that starts it."""
    st.subheader("Train")
    data = _folder("Folder of normal images", roots, contents.images, "train_data")
    summaries = [f"- {name}: {entry.summary}" for name, entry in DETECTORS.items()]
    detector = st.selectbox("Detector", list(DETECTORS), help="\n".join(summaries))
    budget = st.number_input("Minutes of training at most", 0.1, 1440.0, 5.0, 1.0)
    channels = st.text_input("Channels, if an image has several files", help=CHANNELS_HELP)
    missing = st.checkbox("An image may lack some of its channels")
    root = _root(roots, "train_root")
    name = _name("Name of the run", root, Path(data or "").name, detector)

    if st.button("Train", type="primary", key="start_train"):
        out = root.absolute() / name
        _start(
            root,
            lambda: jobs.train_command(
                roots,
                data or "",
                detector,
                out,
                budget=budget,
                channels=channels,
                allow_missing=missing,
            ),
        )


def _score_form(roots: Sequence[Path], contents: Contents) -> None:
    """Draw the fields of a scoring, and the button that starts it."""
    st.subheader("Score")
    if not contents.runs:
        st.info("Scoring needs a run.")
        return

    run = st.selectbox("Run", contents.runs, format_func=str, key="score_run")
    data = _folder("Folder of images to score", roots, contents.images, "score_data")
    far = st.select_slider(
        "False-alarm rate, %",
        rates.PERCENT,
        100 * DEFAULT_FAR,
        format_func=rates.text,
        key="score_far",
    )
    root = _root(roots, "score_root")
    name = _name("Name of the score directory", root, Path(data or "").name, "by", run.name)

    if st.button("Score", type="primary", key="start_score"):
        out = root.absolute() / name
        _start(
            root,
            lambda: jobs.score_command(roots, str(run), data or "", out, far=far / 100),
        )


def _name(label: str, root: Path, *parts: str) -> str:
    """Draw the field of a name, which suggests one that is free, and return the name."""
    suggested = folders.suggested_name(root.absolute(), *parts)
    key = f"{label}-{suggested}"  # another suggestion is another field
    return str(st.text_input(label, suggested, max_chars=100, key=key)).strip()


def _folder(label: str, roots: Sequence[Path], choices: Sequence[Path], key: str) -> str | None:
    """Draw the field where a folder is chosen, written or browsed for, and return its text."""
    names = [str(folder) for folder in choices]
    browsed = st.session_state.get(key)
    if browsed and browsed not in names:
        names.append(browsed)
    advice = "Choose one, write a path, or browse."
    chosen: str | None = st.selectbox(label, names, key=key, accept_new_options=True, help=advice)
    browse.draw(roots, key)
    return chosen


def _root(roots: Sequence[Path], key: str) -> Path:
    """Draw the choice of the root to write into, and return it."""
    return Path(
        st.selectbox("Write into", roots, format_func=str, key=key, disabled=len(roots) < 2)
    )


def _start(root: Path, command: Callable[[], list[str]]) -> None:
    """Start a job and draw the page again; a refusal becomes a message in the page."""
    try:
        jobs.start(root, command())
    except AnodetectError as error:
        show_problem(str(error))
        return
    st.rerun()
