"""The results of a reader study on the summary page."""

from collections.abc import Sequence

import streamlit as st

from anodetect.commands.study import lines, number, share
from anodetect.record import readings
from anodetect.record.readings import ReadingRow, Results
from anodetect.record.rows import to_table
from anodetect.stats.readings import ReaderResult

from . import export
from .session import ReviewSession
from .widgets import Table, draw_table


def draw(session: ReviewSession) -> None:
    """Draw where a study stands, and its results so far; nothing where there is no study."""
    plan = session.store.plan
    if plan is None:
        return
    rows = session.directory.rows
    found = _results(plan.hash, session.store.head, len(session.reviews), session)
    st.subheader("Reader study")
    if plan.name:
        st.text(plan.name)
    st.text(lines(found)[0])

    _draw_readers(found)
    if found.pairs:
        _draw_pairs(found)
    st.caption(
        "Sensitivity and specificity count decided verdicts on cases whose truth is known. "
        "Intervals are 95 %, over patients or lots."
    )
    table = to_table(readings.table(plan, rows, session.reviews), ReadingRow)
    st.download_button(
        "Export readings",
        export.csv_file(table),
        "readings.csv",
        "text/csv",
        key="readings",
        on_click="ignore",
    )
    st.text(f"Plan {plan.hash}")


@st.cache_resource(max_entries=4, show_spinner="Resampling the readings …")
def _results(plan: str, head: str, count: int, _session: ReviewSession) -> Results:
    """Return the results of a study; with a new verdict they are computed anew."""
    known = _session.store.plan
    assert known is not None
    return readings.results(known, _session.directory.rows, _session.reviews)


def _draw_readers(found: Results) -> None:
    """Draw a table of the readers, and of what the study came to."""
    results: Sequence[ReaderResult] = [*found.readers, found.outcome]
    cases = [found.to_read.get(each.reader, found.cases) for each in results]
    shown: Table = {
        "reader": [each.reader or "outcome of the study" for each in results],
        "read": [f"{each.read} of {n}" for each, n in zip(results, cases, strict=True)],
        "sensitivity": [share(each.sensitivity) for each in results],
        "specificity": [share(each.specificity) for each in results],
        "undecided": [each.undecided for each in results],
        "seconds a case": [_seconds(each) for each in results],
    }
    draw_table(shown, alt="Readers and how they read")


def _seconds(result: ReaderResult) -> str:
    times = result.times
    return f"{times.median:.0f} ({times.low:.0f}–{times.high:.0f})" if times.total else "–"


def _draw_pairs(found: Results) -> None:
    """Draw a table of every two readers' agreement."""
    shown: Table = {
        "readers": [" and ".join(pair.readers) for pair in found.pairs],
        "cases in common": [pair.cases for pair in found.pairs],
        "agreed": [pair.agreed for pair in found.pairs],
        "Cohen's κ": [number(pair.kappa, 2) for pair in found.pairs],
    }
    draw_table(shown, alt="Agreement of every two readers in the study")
