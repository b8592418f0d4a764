"""The page to train and to score on: what runs there are, and commands in the background with their
progress."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from anodetect.detectors import DETECTORS
from anodetect.errors import AnodetectError
from anodetect.stats.calibration import DEFAULT_FAR

from . import jobs
from .jobs import Job
from .opened import careful, problem


def draw(roots: Sequence[Path]) -> None:
    if not roots:
        st.info("To train and to score from here, start the app with the folders it may use:")
        st.code("anodetect review DIR --root FOLDER", language=None)
        return
    found = look(tuple(roots))
    with st.container(key="jobs"):
        _jobs(roots)
    _runs(found)
    train, score = st.columns(2, gap="large")
    with train:
        _train(roots, found)
    with score:
        _score(roots, found)


@st.cache_resource(ttl=5, show_spinner="Looking through the folders …")
def look(roots: tuple[Path, ...]) -> jobs.Found:
    return jobs.look(roots)


# -- Jobs ------------------------------------------------------------------------------------------


@st.fragment(run_every=2)
def _jobs(roots: Sequence[Path]) -> None:
    """The latest jobs; drawn again and again while the page is open."""
    try:
        listed = jobs.listed(roots)[:5]
    except AnodetectError as error:
        problem(str(error))
        return
    if not listed:
        return
    st.subheader("In the background")
    states = {job.folder: jobs.state(job) for job in listed}
    for job in listed:
        _job(job, states[job.folder], roots)
    before = st.session_state.get("job_states", states)
    st.session_state.job_states = states
    if any(
        before.get(folder) == "running" and state != "running" for folder, state in states.items()
    ):
        look.clear()
        st.rerun()  # the whole page: there may be a new run or score directory to choose


def _job(job: Job, state: jobs.State, roots: Sequence[Path]) -> None:
    what, action = st.columns([5, 1], vertical_alignment="center")
    now = jobs.progress(job)
    begun = job.started[:16].replace("T", " ")
    what.text(f"{job.command[4]} → {job.out.name}: {state}, begun {begun} UTC")
    root = next((root for root in roots if job.folder.is_relative_to(root)), roots[0])
    key = job.folder.name
    if state == "running":
        what.progress(
            min((now.done or 0) / (now.total or 1), 1.0), now.line if now.total else "starting"
        )
        action.button("Cancel", key=f"cancel-{key}", on_click=careful(jobs.cancel, job))
        if len(now.losses) > 1:
            steps, losses = zip(*now.losses, strict=True)
            what.line_chart(
                {"step": steps, "loss": losses}, x="step", y="loss", height=160, alt="Loss by step"
            )
    elif state != "done":
        action.button("Go on", key=f"resume-{key}", on_click=careful(jobs.resume, root, job))
        what.text(now.line)


# -- Runs ------------------------------------------------------------------------------------------


def _runs(found: jobs.Found) -> None:
    st.subheader("Runs")
    if not found.runs:
        st.info("There is no run in these folders yet; train one below.")
        return
    rows, problems = [], []
    for run in found.runs:
        try:
            rows.append(_facts(run, (run / "model.safetensors").stat().st_mtime_ns, found.scores))
        except (AnodetectError, OSError) as error:
            problems.append(f"{run}: {error}")
    if rows:
        st.dataframe(rows, hide_index=True, alt="Runs and how they were made")
    for text in problems:
        st.text(text)
    names = {str(run): run for run in found.runs}
    chosen = st.selectbox(
        "Model card of", [None, *names], format_func=lambda name: name or "–", key="card"
    )
    if chosen and (names[chosen] / "model_card.md").is_file():
        st.code(
            (names[chosen] / "model_card.md").read_text("utf-8", "replace"),
            language=None,
            wrap_lines=True,
        )


@st.cache_resource(ttl=600, show_spinner="Reading the runs …")
def _facts(run: Path, stamp: int, scores: tuple[Path, ...]) -> dict[str, Any]:
    return jobs.facts(run, _measured(scores))


@st.cache_resource(ttl=60, show_spinner=False)
def _measured(scores: tuple[Path, ...]) -> dict[str, str]:
    return jobs.measured(scores)


# -- Forms -----------------------------------------------------------------------------------------


def _train(roots: Sequence[Path], found: jobs.Found) -> None:
    st.subheader("Train")
    with st.form("train", border=False):
        data = _folder("Folder of normal images", found.images, "train_data")
        summaries = "\n".join(f"- {name}: {entry.summary}" for name, entry in DETECTORS.items())
        detector = st.selectbox("Detector", list(DETECTORS), help=summaries)
        budget = st.number_input("Minutes at most", 0.1, 1440.0, 5.0, 1.0)
        root = st.selectbox(
            "Write into", roots, format_func=str, key="train_root", disabled=len(roots) < 2
        )
        name = st.text_input("Name of the run", "run-1", max_chars=100)
        if st.form_submit_button("Train", type="primary"):
            out = Path(root).absolute() / name.strip()
            _begin(
                root,
                lambda: jobs.train_command(roots, data or "", detector, out, budget=budget),
                out,
            )


def _score(roots: Sequence[Path], found: jobs.Found) -> None:
    st.subheader("Score")
    if not found.runs:
        st.info("Scoring needs a run.")
        return
    with st.form("score", border=False):
        run = st.selectbox("Run", found.runs, format_func=str)
        data = _folder("Folder of images to score", found.images, "score_data")
        far = st.number_input("False-alarm rate, %", 0.1, 50.0, 100 * DEFAULT_FAR, 1.0)
        root = st.selectbox(
            "Write into", roots, format_func=str, key="score_root", disabled=len(roots) < 2
        )
        name = st.text_input("Name of the score directory", "scores-1", max_chars=100)
        if st.form_submit_button("Score", type="primary"):
            out = Path(root).absolute() / name.strip()
            _begin(
                root,
                lambda: jobs.score_command(roots, str(run), data or "", out, far=far / 100),
                out,
            )


def _folder(label: str, folders: Sequence[Path], key: str) -> str | None:
    """A folder to choose or to write."""
    names = [str(folder) for folder in folders]
    told = "Choose one, or write a path."
    chosen: str | None = st.selectbox(label, names, key=key, accept_new_options=True, help=told)
    return chosen


def _begin(root: Path, arguments: Any, out: Path) -> None:
    try:
        jobs.start(Path(root), arguments(), out)
    except AnodetectError as error:
        problem(str(error))
        return
    st.rerun()
