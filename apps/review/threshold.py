"""The page that shows what another false-alarm rate would flag; nothing that was recorded changes."""

from typing import Literal

import streamlit as st

from anodetect.stats.calibration import Calibration

from . import figures, worklist
from .opened import Opened, number, rate


def draw(now: Opened) -> None:
    st.subheader("What another false-alarm rate would flag")
    st.caption("Only to look at: flags and p-values on record stay as they are.")
    rows, audit = now.directory.rows, now.directory.audit
    calibration = Calibration.restore(audit["calibration"])
    start = round(100 * (audit["far"] or audit["fdr"]), 1)
    left, right = st.columns(2)
    state = st.session_state
    state.setdefault("far", min(max(start, 0.1), 50.0))
    far = left.slider(
        "False-alarm rate, %",
        0.1,
        50.0,
        step=0.1,
        format="%.1f",
        key="far",
        persist_state="session",
    )
    labelled = any(row.label is not None for row in rows)
    sources: list[Literal["labels", "verdicts"]] = (
        ["labels", "verdicts"] if labelled else ["verdicts"]
    )
    source = right.radio(
        "Truth from", sources, horizontal=True, key="truth_from", persist_state="session"
    )
    truth = worklist.truths(rows, now.judgements, source)
    found = worklist.bench(rows, truth, calibration, far / 100)
    columns = st.columns(5)
    columns[0].metric("score threshold", number(found.threshold))
    columns[1].metric("flagged", f"{found.flagged} of {found.scored}")
    for column, name, value in (
        (columns[2], "anomalous found", found.sensitivity),
        (columns[3], "normal flagged", found.false_alarms),
        (columns[4], "flags that are right", found.precision),
    ):
        rate(column, name, value)
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
    one, other = st.columns(2)
    histogram = figures.histogram(rows, calibration.scores, found.threshold)
    one.plotly_chart(
        histogram, key="histogram", alt="Histogram of scores over the calibration normals"
    )
    if (curve := worklist.roc(rows, truth)) is None:
        other.info("A ROC curve needs images known to be normal and images known to be anomalous.")
    else:
        chart = figures.roc(curve, found.false_alarms, found.sensitivity)
        other.plotly_chart(chart, key="roc", alt="ROC curve with the operating point")
