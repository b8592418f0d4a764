"""The page of batches over time: shares of flags, drift, calibrations, and what verdicts say of the
flags; and the command that calibrates anew."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from anodetect.errors import AnodetectError
from anodetect.record.reviews import DATABASE

from . import batches, figures, folders, jobs, training
from .batches import Batch, Found
from .widgets import draw_table, show_problem


def draw(choices: Sequence[Path], roots: Sequence[Path]) -> None:
    """Draw the page for these score directories."""
    st.subheader("Batches over time")
    times = tuple(batches.changed(folder) for folder in choices)
    found = _read(tuple(choices), times, os.environ.get(DATABASE, ""))
    for problem in found.problems:
        st.text(problem)
    if not found.batches:
        st.info("There is no score directory; name several, or their folder with --root.")
        return

    rates = {batch.far for batch in found.batches}
    chart = figures.shares(found.batches, next(iter(rates)) if len(rates) == 1 else None)
    st.plotly_chart(
        chart,
        key="shares",
        alt="Share of flagged images in each batch, with its interval",
        config={"displayModeBar": False},
    )
    draw_table(_table(found), alt="Batches and what they say")
    st.caption(
        "⚠ Drift was found, or the whole interval of the share of flags lies above the false-alarm "
        "rate. ↕ The share differs from that of this model's batches before. Images count as "
        "independent. Both say *look*, not *why*: a batch full of anomalies is marked, too."
    )
    _draw_checks(found)
    _draw_calibrate(found, roots)


@st.cache_resource(max_entries=8, show_spinner="Reading the batches …")
def _read(paths: tuple[Path, ...], times: tuple[tuple[int, ...], ...], url: str) -> Found:
    """Return the batches; `times` are part of the key, so that what has changed is read anew."""
    return batches.all_of(paths, url)


def _table(found: Found) -> dict[str, list[str | int | None]]:
    """Return the batches under the titles of the table's columns."""
    shown, names = found.batches, _names(found)
    signs = []
    for batch, jumped in zip(shown, found.jumped, strict=True):
        signs.append(("⚠" if batch.warns else "") + ("↕" if jumped else ""))

    return {
        "": [*signs],
        "batch": [names[batch.folder] for batch in shown],
        "scored": [batch.ended[:16].replace("T", " ") for batch in shown],
        "images": [_images(batch) for batch in shown],
        "flagged": [_share(batch) for batch in shown],
        "promised": ["by FDR" if batch.far is None else f"{batch.far:.1%}" for batch in shown],
        "drift p": ["–" if each.drift_p is None else f"{each.drift_p:.2g}" for each in shown],
        "run": [f"{batch.run} · {batch.model[:6]}" for batch in shown],
        "calibration groups": [batch.calibration_groups for batch in shown],
        "flags that are right": [_precision(batch) for batch in shown],
    }


def _names(found: Found) -> dict[Path, str]:
    return batches.names_of([batch.folder for batch in found.batches])


def _images(batch: Batch) -> str:
    """Return how many images were scored, and how many could not be."""
    failed = f", {batch.failed} failed" if batch.failed else ""
    return f"{batch.share.scored}{failed}"


def _share(batch: Batch) -> str:
    share = batch.share
    if not share.scored:
        return "–"
    return f"{share.value:.1%} ({share.low:.1%}–{share.high:.1%})"


def _precision(batch: Batch) -> str:
    """Return the precision of a batch's flags as text: with an interval only where it means all of
    them."""
    rate = batch.precision
    if not rate.total:
        return "–"
    if rate.chosen:
        return f"{rate.hits} of the first {rate.total} judged"
    low, high = rate.interval
    return f"{rate.value:.0%} ({low:.0%}–{high:.0%}), {rate.hits} of {rate.total}"


def _draw_checks(found: Found) -> None:
    """Draw what the drift checks said, of each batch that one fired for."""
    names = _names(found)
    for batch in found.batches:
        texts = [batch.drift] * batch.drift_fires + [batch.change] * batch.change_fires
        for text in texts:
            st.text(f"{names[batch.folder]}: {text}")


# -- Calibrate anew --------------------------------------------------------------------------------


def _draw_calibrate(found: Found, roots: Sequence[Path]) -> None:
    """Draw the form that prepares the command which gives a run new calibration normals."""
    st.subheader("Calibrate anew")
    st.caption(
        "The model stays as it is and gets new p-values, from normal images of the new day, "
        "scanner or supplier. They must be chosen without regard to their scores: cases that were "
        "judged because they were flagged will not do, those of a random audit sample will (page "
        "Threshold, then `anodetect reviews export`)."
    )
    latest, names = list(reversed(found.batches)), _names(found)
    batch = st.selectbox(
        "Run of the batch",
        latest,
        format_func=lambda each: names[each.folder],
        key="calibrate_batch",
    )
    contents = training.search(tuple(roots)).images if roots else ()
    data = st.selectbox(
        "Folder of new normal images",
        [str(folder) for folder in contents],
        key="calibrate_data",
        accept_new_options=True,
        index=None,
        placeholder="Choose one, or write a path.",
    )
    run = Path(batch.run_path)
    root = _root_of(run, roots)
    out = (root or run.parent) / st.text_input(
        "Name of the new run", f"{run.name}-anew", max_chars=100, key="calibrate_name"
    )
    command = jobs.calibrate_arguments(str(run), data or "NORMALS", out)
    st.code(shlex.join(["anodetect", *command]), language=None, wrap_lines=True)
    if root is None:
        st.text("To start it from here, start the app with the run's folder as --root.")
        return
    if st.button("Calibrate", key="calibrate", disabled=not data):
        _start(root, roots, str(run), data or "", out)


def _root_of(run: Path, roots: Sequence[Path]) -> Path | None:
    """Return the root that a run lies in; None for none."""
    return next((root.absolute() for root in roots if folders.is_in(run, root)), None)


def _start(root: Path, roots: Sequence[Path], run: str, data: str, out: Path) -> None:
    """Start the calibration as a job; a refusal becomes a message in the page."""
    try:
        jobs.start(root, jobs.calibrate_command(roots, run, data, out))
    except AnodetectError as error:
        show_problem(str(error))
        return
    st.text("Started; the Train page shows how far it is.")
