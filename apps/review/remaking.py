"""The button that makes a map which was not kept, and how far that is."""

from pathlib import Path

import streamlit as st

from anodetect.errors import AnodetectError
from anodetect.files import shortened
from anodetect.record.rows import ScoreRow

from . import jobs, loading
from .folders import is_in
from .session import ReviewSession
from .widgets import with_message

SECONDS = 2  # between two looks at a job


def draw(session: ReviewSession, row: ScoreRow) -> None:
    """Draw the button for a case without a map, where the app may use its run and its images; else
    the note on the missing map names the command that makes it."""
    lacks = loading.lacks_map(session.directory, row)
    if not lacks or loading.is_made_again(session.directory, row):
        return
    roots: tuple[Path, ...] = st.session_state.get("roots", ())
    try:
        command = jobs.maps_command(roots, session.directory, row.path)
        root = next(each for each in roots if is_in(session.directory.path, each))
        job = _job_of(root, command)
    except AnodetectError:
        return

    running = job is not None and jobs.state(job) == "running"
    with st.container(key="remaking"):
        draw_again = st.fragment(_draw, run_every=SECONDS if running else None)
        draw_again(session, row, root, command, running)


def _draw(
    session: ReviewSession, row: ScoreRow, root: Path, command: list[str], watched: bool
) -> None:
    """Draw whether the map is being made, or the button that has it made. A job that runs is
    `watched`: looked at again and again until it has ended."""
    if loading.is_made_again(session.directory, row):
        st.rerun()
    job = _job_of(root, command)
    if job is not None and jobs.state(job) == "running":
        if not watched:  # it was started by the button
            st.rerun()
        st.text("The map that was not kept is being made.")
        return
    if job is not None:
        st.text(f"The map could not be made: {_reason(job)}")
    st.button(
        "Make the map that was not kept",
        key="remake",
        on_click=with_message(jobs.start, root, command),
    )


def _job_of(root: Path, command: list[str]) -> jobs.Job | None:
    """Return the latest job with this command; None if there is none."""
    for job in jobs.all_jobs([root]):
        if list(job.arguments) == command:
            return job
    return None


def _reason(job: jobs.Job) -> str:
    """Return why a job has ended without a map."""
    failures = (jobs.answer(job) or {}).get("failures") or [jobs.progress(job).line or "it ended"]
    return shortened(str(failures[0]))
