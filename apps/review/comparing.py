"""The page that shows two scorings of the same images side by side."""

import os
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from anodetect.files import shortened
from anodetect.record.reviews import DATABASE
from anodetect.record.rows import ScoreRow
from anodetect.words import amount

from . import comparison, display, figures
from .case_list import go_to
from .comparison import WHICH, Pair
from .facts import facts_of
from .figures import Appearance
from .session import ReviewSession, highest_slice, open_session, view_of, volume_of
from .widgets import Table, draw_table

HEIGHT = 440  # pixels of a picture
PANEL = "heatmap over the image"
OPACITIES = {PANEL: 0.7, "image": 0.0, "heatmap": 1.0}
SHOWN = 200  # pairs in the table


def draw(choices: Sequence[Path], roots: Sequence[Path]) -> None:
    """Draw the page for two of these score directories."""
    st.subheader("Two scorings, side by side")
    if st.session_state.is_blind:
        st.info("This page shows scores: switch off *Blind until judged* on the page Cases first.")
        return
    if len(choices) < 2:
        st.info("Two score directories are needed: name both when the app is started.")
        return

    left, right = st.columns(2)
    first = left.selectbox("First", choices, format_func=str, key="compare_first")
    others = [folder for folder in choices if folder != first]
    second = right.selectbox("Second", others, format_func=str, key="compare_second")
    url, moved_to = os.environ.get(DATABASE, ""), st.session_state.moved_to
    sessions = open_session(first, url, "", moved_to), open_session(second, url, "", moved_to)

    large = [each for each in sessions if each.scores.is_large]
    if large:
        _say_too_large(large[0])
        return
    pairs = comparison.matched(*(each.directory.rows for each in sessions))
    if not pairs:
        st.info("These two have no image in common: none with the same contents.")
        return
    draw_table(_counts(pairs), alt="How often the two flag alike")
    which = st.radio("Show", WHICH, horizontal=True, key="compare_which", index=1)
    kept = comparison.listed(pairs, which)
    if not kept:
        st.info("There is no such image.")
        return
    _draw_pair(sessions, kept[_choose(kept)])


def _say_too_large(session: ReviewSession) -> None:
    """Say why this score directory is not compared."""
    st.info(
        f"This page puts every row of two score directories side by side, which it does up to "
        f"100 000 rows each. This one has {session.scores.count}; compare parts of it, scored with "
        "--shard, or what `anodetect evaluate` says of each:"
    )
    st.text(str(session.directory.path))


def _counts(pairs: Sequence[Pair]) -> dict[str, list[str | int]]:
    found = comparison.counts(pairs)
    return {
        "images": [*found],
        "in both": [each.images for each in found.values()],
        "both flag": [each.both for each in found.values()],
        "only the first": [each.only_first for each in found.values()],
        "only the second": [each.only_second for each in found.values()],
        "neither": [each.neither for each in found.values()],
        "p (McNemar)": [f"{each.p_value:.2g}" for each in found.values()],
    }


def _choose(kept: Sequence[Pair]) -> int:
    """Draw the pairs as a table in which one is chosen, and return its place."""
    part = kept[:SHOWN]
    shown: Table = {
        "image": [pair.first.path for pair in part],
        "p of the first": [pair.first.p_value for pair in part],
        "p of the second": [pair.second.p_value for pair in part],
        "flags": [_flags(pair) for pair in part],
        "truth": [_label(pair) for pair in part],
    }
    number = st.column_config.NumberColumn(format="%.4f")
    columns = {"p of the first": number, "p of the second": number}
    more = ", those farthest apart first; choose one" if len(kept) > 1 else ""
    st.caption(f"{amount(len(kept), 'image')}{more}")
    table = draw_table(
        shown,
        height=min(220, 36 * (len(part) + 1) + 3),
        key=f"compare-{len(kept)}-{kept[0].first.path}",
        on_select="rerun",
        selection_mode="single-row",
        column_config=columns,
        alt="Images that both have scored",
    )
    rows: list[int] = table.selection.rows
    return min(rows[0], len(part) - 1) if rows else 0


def _flags(pair: Pair) -> str:
    names = {(True, True): "both", (True, False): "first", (False, True): "second"}
    return names.get(pair.flags, "")


def _label(pair: Pair) -> str:
    return "" if pair.label is None else "anomalous" if pair.label else "normal"


def _draw_pair(sessions: tuple[ReviewSession, ReviewSession], pair: Pair) -> None:
    """Draw an image as both have it, in the same window."""
    first = _view(sessions[0], pair.first)
    window = None if first is None else first.windows["auto"]
    st.radio("Picture", list(OPACITIES), horizontal=True, key="compare_panel")
    columns = st.container(key="pair").columns(2)
    sides = zip(columns, ("First", "Second"), sessions, (pair.first, pair.second), strict=True)
    for column, name, session, row in sides:
        with column:
            _draw_side(name, session, row, window)


def _draw_side(
    name: str, session: ReviewSession, row: ScoreRow, window: display.Window | None
) -> None:
    """Draw an image as one scoring has it, with its facts and a way to the case."""
    audit = session.directory.audit
    st.text(f"{name}: {audit.run} · {audit.detector}")
    st.text(shortened(facts_of(row, [row.path], hidden=False).lines[0]))
    view = _view(session, row)
    if view is None:
        st.info("There is no image to show.")
        return

    opacity = OPACITIES[st.session_state.get("compare_panel", PANEL)]
    look = Appearance(window or view.windows["auto"], audit.scale, opacity=opacity)
    st.plotly_chart(
        figures.overlaid(view, look),
        height=HEIGHT,
        key=f"compare-{name}",
        config={"scrollZoom": True, "displaylogo": False},
        alt=f"{name}: {st.session_state.compare_panel}",
    )
    st.button("Open as a case", key=f"open-{name}", on_click=_open, args=(session, row))


def _open(session: ReviewSession, row: ScoreRow) -> None:
    """Open the case of a row on the page Cases."""
    st.session_state.directory = session.directory.path
    st.session_state.page = "Cases"
    go_to(row.path)


def _view(session: ReviewSession, row: ScoreRow) -> display.View | None:
    """Return what is drawn of a row: of a volume the slice with the highest score."""
    if not row.is_volume:
        return view_of(session.directory, row)
    slices = session.scores.slices.get(row.path, ())
    if not slices:
        return None
    volume = volume_of(session.directory, row, slices[0].axis)
    if volume.geometry is None:
        return None
    ordered = sorted(slices, key=lambda each: each.slice, reverse=volume.geometry.flipped[0])
    return display.slice_view(volume, ordered.index(highest_slice(ordered)))
