"""The page that shows what another false-alarm rate would flag; it changes nothing on record."""

from collections.abc import Sequence

import streamlit as st

from anodetect.record.rows import ScoreRow
from anodetect.stats.calibration import Calibration

from . import figures, outcome
from .outcome import Outcome, Truth
from .session import ReviewSession
from .widgets import number_text, show_rate


def draw(session: ReviewSession) -> None:
    """Draw the page."""
    st.subheader("What another false-alarm rate would flag")
    st.caption("Only to look at: flags and p-values on record stay as they are.")
    rows, audit = session.directory.rows, session.directory.audit
    if not audit.calibration.groups:
        st.info(audit.statement)
        return
    left, right = st.columns(2)

    start = round(100 * audit.rule.rate, 1)
    st.session_state.setdefault("far", min(max(start, 0.1), 50.0))
    percent = left.slider(
        "False-alarm rate, %",
        0.1,
        50.0,
        step=0.1,
        format="%.1f",
        key="far",
        persist_state="session",
    )

    labelled = any(row.label is not None for row in rows)
    sources: list[Truth] = ["labels", "verdicts"] if labelled else ["verdicts"]
    source = right.radio(
        "Truth from", sources, horizontal=True, key="truth_from", persist_state="session"
    )

    calibration = audit.calibration
    truth = outcome.truths(rows, session.judgements, source)
    found = outcome.outcome_at(rows, truth, calibration, percent / 100)
    _numbers(found, source)
    _charts(found, rows, truth, calibration)


def _numbers(found: Outcome, source: Truth) -> None:
    """Draw the outcome as numbers."""
    columns = st.columns(5)
    columns[0].metric("score threshold", number_text(found.threshold))
    columns[1].metric("flagged", f"{found.flagged} of {found.scored}")
    show_rate(columns[2], "anomalous found", found.sensitivity)
    show_rate(columns[3], "normal flagged", found.false_alarms)
    show_rate(columns[4], "flags that are right", found.precision)
    st.text(found.statement)

    table = {
        f"known ({source})": ["anomalous", "normal"],
        "flagged": [found.confusion[1, True], found.confusion[0, True]],
        "not flagged": [found.confusion[1, False], found.confusion[0, False]],
    }
    st.dataframe(table, hide_index=True, alt="Confusion table")
    st.caption(
        "Intervals are 95 % Clopper–Pearson, as if every image were of another patient or lot."
    )


def _charts(
    found: Outcome, rows: Sequence[ScoreRow], truth: Sequence[int | None], calibration: Calibration
) -> None:
    """Draw the histogram of scores and the ROC curve."""
    left, right = st.columns(2)
    histogram = figures.histogram(rows, calibration.scores, found.threshold)
    left.plotly_chart(
        histogram, key="histogram", alt="Histogram of scores over the calibration normals"
    )

    curve = outcome.roc(rows, truth)
    if curve is None:
        right.info("A ROC curve needs images known to be normal and images known to be anomalous.")
    else:
        chart = figures.roc(curve, found.false_alarms, found.sensitivity)
        right.plotly_chart(chart, key="roc", alt="ROC curve with the operating point")
