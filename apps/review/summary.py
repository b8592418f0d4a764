"""The page that says where the review stands, and hands out its record."""

import io
from collections.abc import Sequence

import streamlit as st
from pyarrow import csv, parquet

from anodetect.record import directories
from anodetect.stats.agreement import Agreement, summary

from . import worklist
from .opened import Opened, problem, rate


def draw(now: Opened) -> None:
    flagged = {row.path: bool(row.flagged) for row in now.directory.rows}
    found = summary(flagged, now.judgements)
    st.subheader("Where the review stands")
    columns = st.columns(3)
    columns[0].metric("reviewed", f"{found.reviewed} of {found.images}")
    rate(columns[1], "flags judged that are anomalous", found.precision)
    columns[2].metric("disagreements", len(found.disagreements))
    one, other = st.columns(2)
    by_reviewer = {"reviewer": list(found.by_reviewer), "images": list(found.by_reviewer.values())}
    one.dataframe(by_reviewer, hide_index=True, alt="Images by reviewer")
    verdicts = {"verdict": list(found.verdicts), "times": list(found.verdicts.values())}
    other.dataframe(verdicts, hide_index=True, alt="Verdicts and how often they were given")
    if found.agreements:
        _agreements(found.agreements)
    if found.disagreements:
        st.subheader("Disagreements")
        _disagreements(now, found.disagreements)
    _record(now)


def _agreements(pairs: Sequence[Agreement]) -> None:
    st.subheader("Agreement")
    shown = {
        "readers": [" and ".join(pair.readers) for pair in pairs],
        "images in common": [pair.images for pair in pairs],
        "agreed": [pair.agreed for pair in pairs],
        "Cohen's κ": [pair.kappa for pair in pairs],
    }
    kappa = {"Cohen's κ": st.column_config.NumberColumn(format="%.2f")}
    st.dataframe(shown, hide_index=True, column_config=kappa, alt="Agreement of every two readers")


def _disagreements(now: Opened, paths: Sequence[str]) -> None:
    """The images on which readers differ, and what each of them said."""
    judged = [now.judgements[path] for path in paths]
    shown: dict[str, Sequence[str]] = {"image": paths}
    for reader in sorted({name for each in judged for name in each}):
        shown[f"verdict of {reader}"] = [
            each[reader].verdict if reader in each else "" for each in judged
        ]
    st.dataframe(shown, hide_index=True, alt="Images with differing verdicts")


def _record(now: Opened) -> None:
    st.subheader("The record")
    problems = now.store.verify()
    if problems:
        problem(problems[0])
    end = now.everything[-1].hash if now.everything else now.store.head
    st.text(
        f"{len(now.everything)} records, {'broken' if problems else 'unbroken'}; their chain ends with {end}"
    )
    table = worklist.table(now.everything)
    as_csv, as_parquet = io.BytesIO(), io.BytesIO()
    csv.write_csv(directories.without_formulas(table), as_csv)
    parquet.write_table(table, as_parquet)

    def as_html() -> str:
        from anodetect.output import (
            report,
        )  # with its libraries, which take a second that no other page needs

        return report.html(now.directory.path, now.everything)

    buttons = st.container(horizontal=True, gap="small")
    buttons.download_button(
        "Export CSV", as_csv.getvalue(), "reviews.csv", "text/csv", key="csv", on_click="ignore"
    )
    buttons.download_button(
        "Export Parquet", as_parquet.getvalue(), "reviews.parquet", key="parquet", on_click="ignore"
    )
    buttons.download_button(
        "Export HTML report", as_html, "report.html", "text/html", key="html", on_click="ignore"
    )
