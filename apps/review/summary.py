"""The page that shows how far the review is, and exports its record."""

from collections.abc import Sequence
from math import isnan, nan

import streamlit as st

from anodetect.stats.agreement import UNDEFINED, Agreement
from anodetect.words import amount

from . import export, studies
from .session import ReviewSession
from .widgets import MISSING, Table, draw_table, show_problem, show_rate


def draw(session: ReviewSession) -> None:
    """Draw the page."""
    studies.draw(session)
    found = session.scores.summary(session.judgements, session.first_blind)
    st.subheader("Where the review stands")
    columns = st.columns(3)
    columns[0].metric("cases judged", f"{found.reviewed} of {found.images}")
    show_rate(columns[1], "judged flags that are right", found.precision)
    columns[2].metric("disagreements", len(found.disagreements))

    left, right = st.columns(2)
    by_reviewer: Table = {
        "reviewer": list(found.by_reviewer),
        "cases judged": list(found.by_reviewer.values()),
    }
    with left:
        draw_table(by_reviewer, alt="Cases by reviewer")
    verdicts: Table = {"verdict": list(found.verdicts), "times": list(found.verdicts.values())}
    with right:
        draw_table(verdicts, alt="Verdicts and how often they were given")

    for warning in found.warnings:
        st.text(f"⚠ {warning}")
    if found.agreements:
        _agreements(found.agreements)
    if found.disagreements:
        _disagreements(session, found.disagreements)
    _record(session)


def _agreements(pairs: Sequence[Agreement]) -> None:
    """Draw the table of every two readers' agreement: of their last verdicts, and of their first,
    blind ones."""
    st.subheader("Agreement")
    first = [pair.first for pair in pairs]
    shown: Table = {
        "reviewers": [" and ".join(pair.readers) for pair in pairs],
        "cases in common": [pair.images for pair in pairs],
        "agreed": [pair.agreed for pair in pairs],
        "Cohen's κ": [pair.kappa for pair in pairs],
        "first, blind": [each.images if each else 0 for each in first],
        "κ of first, blind": [each.kappa if each else nan for each in first],
    }

    number = st.column_config.NumberColumn(format="%.2f")
    kappa = {"Cohen's κ": number, "κ of first, blind": number}
    draw_table(shown, column_config=kappa, alt="Agreement of every two reviewers")
    st.caption(
        "First, blind verdicts count as they were given, even if they were changed later; the last "
        "ones are of reviewers who had seen the scores and each other's verdicts."
    )
    for reason in _reasons(pairs):
        st.caption(reason)


def _reasons(pairs: Sequence[Agreement]) -> list[str]:
    """Return why some pairs of readers have no κ, a sentence each."""
    both = [each for pair in pairs for each in (pair, pair.first) if each is not None]
    reasons = []
    if any(isnan(each.kappa) for each in both):
        reasons.append(f"{MISSING} in a column of κ: it is {UNDEFINED}.")
    if any(pair.first is None for pair in pairs):
        reasons.append(
            f"{MISSING} beside 0 first, blind cases: there is none on which both reviewers gave "
            "their first verdict blind."
        )
    return reasons


def _disagreements(session: ReviewSession, paths: Sequence[str]) -> None:
    """Draw the table of the images on which readers differ, with each reader's verdict."""
    st.subheader("Disagreements")
    judged = [session.judgements[path] for path in paths]
    readers = sorted(set().union(*judged))

    shown: dict[str, Sequence[str]] = {"image": paths}
    for reader in readers:
        shown[f"verdict of {reader}"] = [
            each[reader].verdict if reader in each else "" for each in judged
        ]
    draw_table(shown, alt="Images with differing verdicts")


def _record(session: ReviewSession) -> None:
    """Draw the state of the chain of reviews, and the buttons that export it."""
    st.subheader("The record")
    problems = session.store.verify()
    if problems:
        show_problem(problems[0])
    end = session.reviews[-1].hash if session.reviews else session.store.head
    state = "broken" if problems else "unbroken"
    st.text(f"{amount(len(session.reviews), 'record')}, {state}; the chain ends with {end}")
    st.text(
        "Keep this end of the chain elsewhere, anew after each export; later it shows whether "
        f"verdicts were changed or cut off: anodetect verify DIR --reviews {end}"
    )

    def html_file() -> str:
        # The report's libraries take a second to import, which no other page needs.
        from anodetect.output import report

        return report.html(session.directory.path, session.reviews, st.context.url or report.APP)

    table = export.reviews_table(session.reviews)
    buttons = st.container(horizontal=True, gap="small")
    buttons.download_button(
        "Export CSV",
        export.csv_file(table),
        "reviews.csv",
        "text/csv",
        key="csv",
        on_click="ignore",
    )
    buttons.download_button(
        "Export Parquet",
        export.parquet_file(table),
        "reviews.parquet",
        key="parquet",
        on_click="ignore",
    )
    buttons.download_button(
        "Export HTML report", html_file, "report.html", "text/html", key="html", on_click="ignore"
    )
