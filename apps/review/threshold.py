"""The page that shows what another false-alarm rate would flag; it changes nothing on record."""

from collections.abc import Sequence
from math import isnan, sqrt
from typing import Any

import streamlit as st

from anodetect.record.rows import ScoreRow
from anodetect.stats.audit_sample import Estimate, Estimates
from anodetect.stats.calibration import Calibration
from anodetect.words import amount

from . import figures, outcome, rates
from .outcome import Outcome, Truth
from .session import ReviewSession
from .widgets import number_text, show_rate

SAMPLE = 50  # cases of either kind in the audit sample


def draw(session: ReviewSession) -> None:
    """Draw the page."""
    st.subheader("What another false-alarm rate would flag")
    st.caption("Only to look at: flags and p-values on record stay as they are.")
    rows, audit = session.scores.sample, session.directory.audit
    if session.scores.is_large:
        st.caption(
            f"All numbers are of a random sample of {len(rows):,} of the {session.scores.count:,} "
            "rows, the same one for everybody; verdicts on other rows do not count here. "
            f"A share of the sample is that of all rows to within {_margin(len(rows)):.1%} (95 %)."
        )
    if not audit.calibration.groups:
        with st.container(border=True):
            st.text(audit.statement)
        return

    left, right = st.columns(2)

    start = min(max(float(f"{100 * audit.rule.rate:.3g}"), rates.LOWEST), rates.HIGHEST)
    choices = rates.with_rate(start)
    if st.session_state.get("far") not in choices:
        st.session_state.far = start
    percent = left.select_slider(
        "False-alarm rate, %", choices, format_func=rates.text, key="far", persist_state="session"
    )

    labelled = any(row.label is not None for row in rows)
    sources: list[Truth] = ["labels", "verdicts"] if labelled else ["verdicts"]
    source = right.radio(
        "Truth from", sources, horizontal=True, key="truth_from", persist_state="session"
    )

    rows = _of_one_kind(rows)
    truth = outcome.truths(rows, session.judgements, source)
    found = outcome.outcome_at(rows, truth, audit.calibration, percent / 100)
    estimates = None
    if source == "verdicts":
        estimates = _audit_sample(session, rows, percent / 100)
    _numbers(found, source, estimates)
    _charts(found, rows, truth, audit.calibration, estimates)


def _margin(count: int) -> float:
    """Return how far a share of a random sample of so many is at most from that of all, in 95 %."""
    return 0.98 / sqrt(count)


def _of_one_kind(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    """Draw the choice between images and volumes where a directory has both, which have thresholds
    of their own, and return the rows of one kind."""
    volumes = [row for row in rows if row.is_volume]
    if not volumes or len(volumes) == len(rows):
        return list(rows)
    kind = st.radio(
        "Threshold of",
        ["images", "volumes"],
        horizontal=True,
        key="threshold_of",
        persist_state="session",
    )
    return volumes if kind == "volumes" else [row for row in rows if not row.is_volume]


def _audit_sample(session: ReviewSession, rows: Sequence[ScoreRow], far: float) -> Estimates:
    """Draw the offer of a random sample to judge, and return what the verdicts tell with it."""
    head = session.store.head
    count = st.number_input(
        "Random audit sample: so many flagged cases, and as many others",
        1,
        10_000,
        SAMPLE,
        key="sample_size",
        persist_state="session",
        help="Reviewers judge mostly what is flagged, so what they judged says little of the "
        "rest. Only verdicts on a random sample that is judged to its end count, each with the "
        "weight of the cases it stands for; or all, where every case is judged.",
    )
    found = outcome.judged_rates(
        rows, session.judgements, session.directory.audit.calibration, far, head, int(count)
    )

    chosen = outcome.sample_of(rows, head, int(count))
    judged = sum(bool(session.judgements.get(path)) for path in chosen)
    if found.untold:
        st.warning(
            "What was judged was not chosen at random, so the verdicts cannot tell how much of the "
            "batch is found: judge the random audit sample "
            f"({judged} of its {amount(len(chosen), 'case')} judged)."
        )
    else:
        st.caption("Verdicts are weighted by what they stand for; rates are those of this batch.")
    st.button(
        "Go through the audit sample",
        key="open_sample",
        on_click=_open_sample,
        args=(tuple(chosen), int(count) if len(rows) == len(session.scores.sample) else 0),
    )
    return found


def _open_sample(paths: Sequence[str], count: int) -> None:
    """List the audit sample of this size alone on the page of cases."""
    st.session_state.audit_count = count
    st.session_state.audit_sample = frozenset(paths)
    st.session_state.only_sample = True
    st.session_state.page = "Cases"
    st.session_state.open = ""


def _numbers(found: Outcome, source: Truth, estimates: Estimates | None) -> None:
    """Draw the outcome as numbers."""
    columns = st.columns(5)
    columns[0].metric("score threshold", number_text(found.threshold))
    columns[1].metric("flagged", f"{found.flagged} of {found.scored}")
    names = "anomalous found", "normal flagged", "flags that are right"
    if estimates is None:
        rates = found.sensitivity, found.false_alarms, found.precision
        for column, name, rate in zip(columns[2:], names, rates, strict=True):
            show_rate(column, name, rate)
    else:
        weighted = estimates.sensitivity, estimates.false_alarms, estimates.precision
        for column, name, estimate in zip(columns[2:], names, weighted, strict=True):
            _show_estimate(column, name, estimate)
    st.text(found.statement)

    table = {
        f"truth ({source})": ["anomalous", "normal"],
        "flagged": [found.confusion[1, True], found.confusion[0, True]],
        "not flagged": [found.confusion[1, False], found.confusion[0, False]],
    }
    st.dataframe(table, hide_index=True, alt="Confusion table")
    if estimates is None:
        text = "Intervals are 95 % Clopper–Pearson, as if every image were of another patient or "
        st.caption(f"{text}lot.")
    else:
        st.caption(
            "The table counts all verdicts, without weights. Intervals are 95 %, exact within each "
            "sample, as if every case were of another patient or lot."
        )


def _show_estimate(column: Any, name: str, estimate: Estimate) -> None:
    """Draw a weighted rate with its interval into a column."""
    if isnan(estimate.value):
        column.metric(name, "cannot tell")
        return
    interval = f"{estimate.low:.0%}–{estimate.high:.0%}"
    column.metric(name, f"{estimate.value:.0%}", interval, delta_color="off", delta_arrow="off")


def _charts(
    found: Outcome,
    rows: Sequence[ScoreRow],
    truth: Sequence[int | None],
    calibration: Calibration,
    estimates: Estimates | None,
) -> None:
    """Draw the histogram of scores and the ROC curve."""
    left, right = st.container(key="charts").columns(2)
    reference = outcome.reference_for(rows, calibration)
    name = "calibration normals" if reference is calibration else "calibration groups' highest"
    histogram = figures.histogram(rows, reference.scores, found.threshold, name)
    left.plotly_chart(histogram, key="histogram", alt=f"Histogram of scores over the {name}")

    false_alarms, sensitivity = found.false_alarms.value, found.sensitivity.value
    if estimates is not None:
        false_alarms, sensitivity = estimates.false_alarms.value, estimates.sensitivity.value
        if isnan(sensitivity) or isnan(false_alarms):
            right.info("A ROC curve needs verdicts on the audit sample, some normal, some not.")
            return
    curve = outcome.roc(rows, truth, None if estimates is None else estimates.weights)
    if curve is None:
        right.info("A ROC curve needs images known to be normal and images known to be anomalous.")
    else:
        chart = figures.roc(curve, false_alarms, sensitivity)
        right.plotly_chart(chart, key="roc", alt="ROC curve with the operating point")
