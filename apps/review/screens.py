"""What is drawn. No file name, comment or message is ever drawn as Markdown or HTML: `st.text` and tables show text.

Which case is open, and what is hidden, stands in the session; verdicts stand in the store and nowhere else.
"""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import streamlit as st
from plotly.subplots import make_subplots
from pyarrow import csv, parquet

from anodetect import records
from anodetect.calibration import Calibration
from anodetect.errors import AnodetectError, RunError
from anodetect.records import Row, ScoreDirectory
from anodetect.reviews import DATABASE, JUDGEMENTS, Judgement, Review, in_force

from . import display, worklist
from .store import Store
from .worklist import Filter, Judgements, Rate

SHORTCUTS: dict[Judgement, str | None] = {"normal": "A", "anomalous": None, "unsure": "U", "bad image": "B"}
AROUND = 12  # rows of the list on either side of the open case
HOVER = 320  # pixels of the longer side whose values are told under the pointer
KEYS = """
| key | |
|---|---|
| N, P | next, previous |
| A | verdict *normal* (accept) |
| R | verdict *anomalous* (reject) |
| U, B | verdict *unsure*, *bad image* |
| Z | take my last verdict back |
| O | heatmap over the image on, off |
| +, − | heatmap more, less opaque |
| ? | this list |
"""
# Streamlit's own shortcuts know no signs, and R is its key to run again: these press the buttons of those names.
PRESS = """
const keys = {r: "verdict_anomalous", "+": "more", "-": "less", "?": "help"};
export default function () {
  const press = (event) => {
    const target = event.composedPath()[0];
    const typing = target.closest && target.closest("input, textarea, select, [contenteditable=true]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const button = document.querySelector(`.st-key-${keys[event.key.toLowerCase()]} button`);
    if (!button) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    button.click();
  };
  window.addEventListener("keydown", press, true);
  return () => window.removeEventListener("keydown", press, true);
}
"""


def main(folders: Sequence[Path]) -> None:
    """Draw the app; whatever the user can mend is a message in the page."""
    st.set_page_config(page_title="anodetect review", layout="wide")
    state = st.session_state
    for name, value in {"open": "", "overlay": True, "opacity": 70, "problem": "", "turn": 0}.items():
        state.setdefault(name, value)
    try:
        _draw(folders)
    except AnodetectError as error:
        _problem(str(error))


def _draw(folders: Sequence[Path]) -> None:
    if not folders:
        raise RunError("no score directory was given; start the app with: anodetect review DIR")
    bar = st.sidebar
    numbers = range(len(folders))
    number = bar.selectbox("Score directory", numbers, format_func=lambda n: str(folders[n]), disabled=len(folders) < 2)
    directory = _directory(folders[number])
    store = _store(directory.path, directory.audit["head"], os.environ.get(DATABASE, ""))
    reviewer = _reviewer()
    page = bar.radio("Page", ["Cases", "Threshold", "Summary"], horizontal=True, key="page")
    everything = _reviews(store)
    judgements = in_force(everything)
    if st.session_state.problem:
        _problem(st.session_state.problem)
        st.session_state.problem = ""
    if not directory.rows:
        st.info("No image was scored here.")
    elif page == "Cases":
        _cases(directory, store, judgements, everything, reviewer)
    elif page == "Threshold":
        _threshold(directory, judgements)
    else:
        _summary(directory, store, judgements, everything)


def _problem(text: str) -> None:
    st.error("This needs your attention:")
    st.text(text)


# -- What is read ---------------------------------------------------------------------------------------


def _directory(path: Path) -> ScoreDirectory:
    try:
        stamp = (path / records.AUDIT_FILE).stat().st_mtime_ns
    except (OSError, ValueError):
        stamp = 0  # reading it says what is wrong
    return _read(path, stamp)


@st.cache_resource(max_entries=4, show_spinner="Reading the scores …")
def _read(path: Path, stamp: int) -> ScoreDirectory:  # `stamp` is part of the key: a directory written anew is read
    return records.read(path)


@st.cache_resource(show_spinner=False)
def _store(path: Path, head: str, url: str) -> Store:
    return Store(path, head, url)


@st.cache_resource(max_entries=24, ttl=60, show_spinner=False)  # not for long: files can be put back
def _case(path: Path, head: str, root: str, image: str, _directory: ScoreDirectory, _row: Row) -> display.Case:
    return display.load(_directory, _row)


def _reviews(store: Store) -> list[Review]:
    """All records; those this session has read before are not read again."""
    known: dict[str, list[Review]] = st.session_state.setdefault("reviews", {})
    mine = known.setdefault(f"{store.place}#{store.head}", [])
    mine += store.read(after=len(mine))
    return mine


def _reviewer() -> str:
    """The name from the login, where one is configured, else what was typed."""
    if st.user.get("is_logged_in"):
        return str(st.user.get("email") or st.user.get("name") or "")
    if "is_logged_in" in st.user:
        st.sidebar.button("Log in", on_click=st.login)
        return ""
    return st.sidebar.text_input("Your name, for the record", key="reviewer", max_chars=100).strip()


# -- Cases ----------------------------------------------------------------------------------------------


def _cases(
    directory: ScoreDirectory, store: Store, judgements: Judgements, everything: list[Review], reviewer: str
) -> None:
    blind = st.sidebar.toggle("Blind: hide scores and maps until I judged", key="blind")
    rows = _listed(directory, judgements, reviewer, blind)
    done = sum(reviewer in judgements.get(row["path"], {}) for row in directory.rows)
    total = len(directory.rows)
    st.sidebar.progress(done / total, f"{done} of {total} reviewed{' by you' if reviewer else ''}")
    if not rows:
        st.info("No image passes the filters; widen them in the sidebar.")
        return
    paths = [row["path"] for row in rows]
    by_path = {row["path"]: row for row in directory.rows}
    if st.session_state.open not in by_path:
        st.session_state.open = paths[0]
    row = by_path[st.session_state.open]
    judged = judgements.get(row["path"], {})
    hidden = blind and reviewer not in judged
    left, right = st.columns([3, 1])
    with right:
        _list(rows, row["path"], judgements, reviewer, blind)
    with left:
        _head(row, paths, hidden)
        _verdicts(store, row, paths, judgements, everything, reviewer, hidden)
        _picture(directory, row, hidden)
        _remarks(row)
        _known(row, judged, reviewer, hidden)
    _keyboard()()


def _listed(directory: ScoreDirectory, judgements: Judgements, reviewer: str, blind: bool) -> list[Row]:
    """The rows that the sidebar's choices leave, in its order."""
    rows, bar = directory.rows, st.sidebar
    search = bar.text_input("Search names", key="search")
    reviewed = bar.selectbox("Reviewed", worklist.PROGRESS, key="reviewed")
    status = bar.multiselect("Status", sorted({row["status"] for row in rows}), key="status")
    names = sorted({row["group"] or "" for row in rows})
    groups = bar.multiselect("Group (patient, lot)", names, key="groups") if len(names) < len(rows) else []
    order: worklist.Order = "name"
    kinds: list[str] = []
    flagged, verdicts = "all", list[str]()
    if not blind:
        order = bar.selectbox("Sort by", worklist.ORDERS, key="order")
        flagged = bar.radio("Flagged", ["all", "yes", "no"], horizontal=True, key="flagged")
        kinds = bar.multiselect("Kind", sorted({row["kind"] or "" for row in rows}), key="kinds")
        verdicts = bar.multiselect("My verdict", JUDGEMENTS, key="verdicts")
    keep = Filter(
        status=frozenset(status),
        groups=frozenset(groups),
        kinds=frozenset(kinds),
        verdicts=frozenset(verdicts),
        flagged={"all": None, "yes": True, "no": False}[flagged],
        reviewed=reviewed,
        search=search,
    )
    return worklist.worklist(rows, judgements, order=order, keep=keep, reviewer=reviewer, blind=blind)


def _list(rows: Sequence[Row], path: str, judgements: Judgements, reviewer: str, blind: bool) -> None:
    """The part of the list around the open case; a click opens another."""
    place = next((n for n, row in enumerate(rows) if row["path"] == path), 0)
    start = max(0, min(place - AROUND, len(rows) - 2 * AROUND))
    part = rows[start : start + 2 * AROUND]
    mine = [judgements.get(row["path"], {}).get(reviewer) for row in part]
    shown: dict[str, list[Any]] = {
        "": ["▶" if row["path"] == path else "" for row in part],
        "image": [
            f"{start + n + 1}" if blind and not review else row["path"]  # a name can give away what was known
            for n, (row, review) in enumerate(zip(part, mine, strict=True))
        ],
        "verdict": [review.verdict if review else "" for review in mine],
    }
    if not blind:
        shown["p"] = [row["p_value"] for row in part]
    key = f"list-{st.session_state.turn}"

    def choose() -> None:
        if chosen := st.session_state[key].selection.rows:
            _go(part[chosen[0]]["path"])

    st.caption(f"{len(rows)} images listed")
    st.dataframe(
        shown,
        hide_index=True,
        height=640,
        key=key,
        on_select=choose,
        selection_mode="single-row",
        column_config={"p": st.column_config.NumberColumn("p-value", format="%.3f")},
    )


def _go(path: str) -> None:
    st.session_state.open = path
    st.session_state.turn += 1  # a list of another turn has nothing selected


def _head(row: Row, paths: Sequence[str], hidden: bool) -> None:
    place = f"{paths.index(row['path']) + 1} of {len(paths)}" if row["path"] in paths else "no longer in the list"
    st.text(f"Image {place}" if hidden else f"{row['path']}  ({place})")
    if hidden:
        return
    if row["status"] != "ok":
        st.warning(f"This file was {row['status']}:")
        st.text(row["error"] or "")
        return
    st.text(
        f"p {_number(row['p_value'])} · score {_number(row['score'])} (threshold {_number(row['threshold'])}; "
        f"larger is more anomalous) · {'flagged' if row['flagged'] else 'not flagged'}"
    )


def _verdicts(
    store: Store,
    row: Row,
    paths: Sequence[str],
    judgements: Judgements,
    everything: Sequence[Review],
    reviewer: str,
    hidden: bool,
) -> None:
    """The buttons, with their keys; what they do is done before the page is drawn again."""
    state, path = st.session_state, row["path"]
    comment_key, region_key = f"comment-{path}", f"region-{path}"

    def judge(verdict: Judgement) -> None:
        box = worklist.region(state.get(region_key, ""), row["width"], row["height"])
        store.add(row, reviewer, verdict, comment=state.get(comment_key, ""), region=box, blind=hidden)
        _go(path if state.blind else worklist.next_to_judge(paths, path, judgements, reviewer))

    def undo() -> None:
        if last := worklist.last_of(everything, reviewer):
            store.withdraw(last, reviewer)
            _go(last.path)

    buttons = st.container(horizontal=True, gap="small")  # wraps where the window is narrow; no label is cut
    for name, by, key in (("Previous", -1, "P"), ("Next", 1, "N")):
        other = worklist.beside(paths, path, by)
        buttons.button(name, key=name.lower(), shortcut=key, on_click=_go, args=(other,))
    for verdict in JUDGEMENTS:
        buttons.button(
            "Anomalous · R" if verdict == "anomalous" else verdict.capitalize(),
            key=f"verdict_{verdict.replace(' ', '_')}",
            shortcut=SHORTCUTS[verdict],
            on_click=_careful(judge, verdict),
            disabled=not reviewer,
            type="primary",
        )
    buttons.button(
        "Undo",
        key="undo",
        shortcut="Z",
        on_click=_careful(undo),
        disabled=not reviewer,
        help="Takes your last verdict back by adding a record that says so.",
    )
    if not reviewer:
        st.info("Enter your name in the sidebar to judge.")


def _remarks(row: Row) -> None:
    comment, region = st.columns([2, 1])
    comment.text_input("Comment, kept with the next verdict", key=f"comment-{row['path']}", max_chars=4000)
    region.text_input("Region: x, y, width, height, pixels", key=f"region-{row['path']}", max_chars=60)


def _careful(action: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    """The action as a callback whose failure becomes a message in the page."""

    def run() -> None:
        try:
            action(*arguments)
        except AnodetectError as error:
            st.session_state.problem = str(error)

    return run


def _known(row: Row, judged: dict[str, Review], reviewer: str, hidden: bool) -> None:
    """Verdicts on this image: one's own, and those of others once one has judged."""
    own = judged.get(reviewer)
    if hidden or own is None:
        if others := len(judged):
            st.caption(f"{others} other verdicts, shown when you have judged.")
        return
    st.caption("Verdicts")
    for review in judged.values():
        blind = ", blind" if review.blind else ""
        note = f": {review.comment}" if review.comment else ""
        st.text(f"{review.reviewer}: {review.verdict} ({review.time[:19]} UTC{blind}){note}")
    if row["label"] is not None:
        st.text(f"Known beforehand: {'anomalous' if row['label'] else 'normal'}, {row['kind'] or 'no kind'}")


# -- The picture ----------------------------------------------------------------------------------------


def _picture(directory: ScoreDirectory, row: Row, hidden: bool) -> None:
    audit = directory.audit
    case = _case(directory.path, audit["head"], audit.get("root", ""), row["path"], directory, row)
    for note in case.notes if not hidden else ():
        st.text(note)
    if case.image is None:
        st.info(
            "There is no image to show." if not hidden else "The image cannot be shown; see it with blind mode off."
        )
        return
    place = st.container()  # above the controls it depends on
    window, colours, third, contours, truth = _controls(case, hidden)
    figure = _figure(directory, case, window, colours, third, contours, truth, hidden)
    names = "Image" if hidden else f"Image, heatmap over it, {third}"
    place.plotly_chart(
        figure,
        key="picture",
        config={"scrollZoom": True, "displaylogo": False},
        alt=f"{names}; drag to zoom, double-click to see all",
    )


def _controls(case: display.Case, hidden: bool) -> tuple[tuple[float, float], display.Colours, str, bool, bool]:
    """What the reader chose: window, colours, third panel, contours, truth."""
    assert case.image is not None
    presets = display.windows(case.image)
    state = st.session_state
    columns = st.columns([2, 2, 2, 2, 3])
    preset = columns[0].selectbox("Window", [*presets, "by hand"], key="window")
    window = presets.get(preset, presets["auto"])
    if preset == "by hand":
        low, high = presets["full range"]
        window = st.slider("Black and white at", low, max(high, low + 1e-6), window, key="levels")
    if hidden or case.heatmap is None:
        return window, "inferno", "heatmap", False, False
    colours = columns[1].selectbox("Colours", display.COLOURS, key="colours")
    panels = ["heatmap", *(["reconstruction", "difference"] if case.reconstruction is not None else [])]
    third = columns[2].selectbox("Third panel", panels, key="third")
    with columns[3]:
        contours = st.checkbox("Contours", key="contours", help="Around what exceeds the pixel threshold.")
        truth = case.mask is not None and st.checkbox("Truth", key="truth", help="The mask that came with the image.")
    with columns[4]:
        st.slider("Heatmap's opacity, %", 0, 100, key="opacity", step=10)

    def more(by: int) -> None:
        state.opacity = min(max(state.opacity + by, 0), 100)

    def toggle() -> None:
        state.overlay = not state.overlay

    shortcuts = st.container(horizontal=True, gap="small")
    shortcuts.button("Overlay on/off", key="toggle", shortcut="O", on_click=toggle)
    shortcuts.button("Less opaque · −", key="less", on_click=more, args=(-10,))
    shortcuts.button("More opaque · +", key="more", on_click=more, args=(10,))
    if shortcuts.button("Keys · ?", key="help"):
        _help()
    return window, colours, third, contours, truth


@st.dialog("Keys")
def _help() -> None:
    st.markdown(KEYS)


def _keyboard() -> Callable[[], Any]:
    return st.components.v2.component("anodetect_keys", js=PRESS)


def _figure(
    directory: ScoreDirectory,
    case: display.Case,
    window: tuple[float, float],
    colours: display.Colours,
    third: str,
    contours: bool,
    truth: bool,
    hidden: bool,
) -> go.Figure:
    """Image | heatmap over it | third panel, zoomed together, in pixels of the image."""
    assert case.image is not None
    height, width = case.image.shape[1:]
    block = display.factor(case.image.shape)
    small = display.grey(display.reduced(case.image, block, "mean"), window)
    panels: list[tuple[str, display.Picture, float, float]] = [("image", small, block, block)]
    scale = display.scale_of(directory.audit)
    heatmap = None if hidden else case.heatmap
    if heatmap is not None:
        values = display.reduced(heatmap, block, "max")
        opacity = st.session_state.opacity / 100 if st.session_state.overlay else 0
        panels.append(("heatmap over it", display.overlay(small, values, scale, colours, opacity), block, block))
        kept = {"reconstruction": case.reconstruction, "difference": display.difference(case)}.get(third)
        if kept is None:
            panels.append(("heatmap", display.coloured(values, scale, colours), block, block))
        else:
            picture = kept if kept.ndim == 3 else np.repeat(kept[..., None], 3, -1)
            panels.append((third, picture, width / kept.shape[1], height / kept.shape[0]))
    figure = make_subplots(1, len(panels), subplot_titles=[name for name, *_ in panels], horizontal_spacing=0.02)
    told = _under_the_pointer(case.image, heatmap)
    for column, (_, picture, dx, dy) in enumerate(panels, start=1):
        source = display.data_uri(picture)
        centre = {"x0": dx / 2 - 0.5, "y0": dy / 2 - 0.5, "dx": dx, "dy": dy}
        figure.add_trace(go.Image(source=source, hoverinfo="skip", **centre), 1, column)
        figure.add_trace(told, 1, column)
        for wanted, field, level, colour in (
            (contours, heatmap, directory.audit.get("pixel_threshold"), "#00e5ff"),
            (truth, None if case.mask is None else case.mask.astype(np.float32), 0.5, "#7CFC00"),
        ):
            if wanted and field is not None and level is not None:
                figure.add_trace(_lines(display.outlines(field, level), colour), 1, column)
    if heatmap is not None:
        bar = {"colorscale": display.colour_scale(colours), "cmin": scale[0], "cmax": scale[1], "color": [scale[0]]}
        bar |= {"showscale": True, "colorbar": {"title": {"text": "anomaly", "side": "right"}, "thickness": 12}}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", marker=bar, hoverinfo="skip"), 1, len(panels))
    figure.update_xaxes(matches="x", range=[-0.5, width - 0.5], showgrid=False, constrain="domain")
    figure.update_yaxes(matches="y", range=[height - 0.5, -0.5], showgrid=False, constrain="domain")
    figure.update_yaxes(scaleanchor="x", scaleratio=1, col=1)
    figure.update_layout(height=380, margin={"l": 10, "r": 10, "t": 30, "b": 10}, showlegend=False, dragmode="zoom")
    figure.update_layout(uirevision=st.session_state.turn)  # the zoom stays while the case does
    return figure


def _under_the_pointer(image: np.ndarray[Any, Any], heatmap: display.Floats | None) -> go.Heatmap:
    """An invisible layer that tells intensity and anomaly value; of large images those of blocks of pixels."""
    block = display.factor(image.shape, HOVER)
    intensity = display.reduced(image.mean(0), block, "mean")
    place = {"x0": (block - 1) / 2, "y0": (block - 1) / 2, "dx": block, "dy": block}
    clear = {"colorscale": [(0, "rgba(0,0,0,0)"), (1, "rgba(0,0,0,0)")], "showscale": False}
    about = "" if block == 1 else f" (of {block} × {block} pixels)"
    text = "x %{x:.0f}, y %{y:.0f}<br>intensity %{customdata:.4~g}"
    if heatmap is not None:
        text += "<br>anomaly %{z:.4~g}"
    values = intensity if heatmap is None else display.reduced(heatmap, block, "max")
    return go.Heatmap(z=values, customdata=intensity, hovertemplate=f"{text}{about}<extra></extra>", **place, **clear)


def _lines(outlines: Sequence[np.ndarray[Any, Any]], colour: str) -> go.Scatter:
    """All outlines as one trace, a gap between each two."""
    gap = np.full((1, 2), np.nan)
    points = np.concatenate([part for outline in outlines for part in (outline, gap)] or [gap])
    line = {"color": colour, "width": 1.5}
    return go.Scatter(x=points[:, 0], y=points[:, 1], mode="lines", line=line, hoverinfo="skip")


# -- Threshold ------------------------------------------------------------------------------------------


def _threshold(directory: ScoreDirectory, judgements: Judgements) -> None:
    """What another false-alarm rate would flag; nothing that was recorded changes."""
    st.subheader("What another false-alarm rate would flag")
    st.caption("Only to look at: flags and p-values on record stay as they are.")
    rows, audit = directory.rows, directory.audit
    calibration = Calibration.restore(audit["calibration"])
    start = round(100 * (audit["far"] or audit["fdr"]), 1)
    left, right = st.columns(2)
    rate = left.slider("False-alarm rate, %", 0.1, 50.0, min(max(start, 0.1), 50.0), 0.1, key="far")
    labelled = any(row["label"] is not None for row in rows)
    sources: list[Literal["verdicts", "labels"]] = ["verdicts", "labels"] if labelled else ["verdicts"]
    source = right.radio("Truth from", sources, horizontal=True, key="truth_from")
    truth = worklist.truths(rows, judgements, source)
    found = worklist.bench(rows, truth, calibration, rate / 100)
    columns = st.columns(5)
    columns[0].metric("score threshold", _number(found.threshold))
    columns[1].metric("flagged", f"{found.flagged} of {found.scored}")
    for column, name, value in (
        (columns[2], "anomalous found", found.sensitivity),
        (columns[3], "normal flagged", found.false_alarms),
        (columns[4], "flags that are right", found.precision),
    ):
        _rate(column, name, value)
    st.text(found.statement)
    table = {
        f"known ({source})": ["anomalous", "normal"],
        "flagged": [found.confusion[1, True], found.confusion[0, True]],
        "not flagged": [found.confusion[1, False], found.confusion[0, False]],
    }
    st.dataframe(table, hide_index=True)
    st.caption("Intervals are 95 % Clopper–Pearson, as if every image were of another patient or lot.")
    one, other = st.columns(2)
    one.plotly_chart(_histogram(rows, calibration.scores, found.threshold), key="histogram", alt="Histogram of scores")
    if (curve := worklist.roc(rows, truth)) is None:
        other.info("A ROC curve needs images known to be normal and images known to be anomalous.")
    else:
        other.plotly_chart(_roc(curve, found), key="roc", alt="ROC curve with the operating point")


def _histogram(rows: Sequence[Row], calibration: np.ndarray[Any, Any], threshold: float) -> go.Figure:
    figure = go.Figure(layout={"barmode": "overlay", "height": 360, "legend": {"orientation": "h"}})
    scores = [row["score"] for row in rows if row["status"] == "ok"]
    for values, name in ((scores, "this batch"), (calibration, "calibration normals")):
        figure.add_trace(go.Histogram(x=values, name=name, histnorm="percent", opacity=0.6, nbinsx=50))
    if np.isfinite(threshold):
        figure.add_vline(threshold, line_dash="dash", annotation_text="threshold")
    figure.update_xaxes(title="score (larger = more anomalous)")
    figure.update_yaxes(title="% of images")
    return figure


def _roc(curve: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]], found: worklist.Bench) -> go.Figure:
    figure = go.Figure(layout={"height": 360, "showlegend": False})
    figure.add_trace(go.Scatter(x=curve[0], y=curve[1], mode="lines", name="ROC"))
    point = {"x": [found.false_alarms.value], "y": [found.sensitivity.value]}
    figure.add_trace(go.Scatter(**point, mode="markers", marker={"size": 12, "symbol": "x"}, name="operating point"))
    figure.update_xaxes(title="false alarms among normal images", range=[-0.02, 1.02])
    figure.update_yaxes(title="anomalous images found", range=[-0.02, 1.02])
    return figure


# -- Summary --------------------------------------------------------------------------------------------


def _summary(directory: ScoreDirectory, store: Store, judgements: Judgements, everything: Sequence[Review]) -> None:
    found = worklist.summary(directory.rows, judgements)
    st.subheader("Where the review stands")
    columns = st.columns(3)
    columns[0].metric("reviewed", f"{found.reviewed} of {found.images}")
    _rate(columns[1], "flags judged that are anomalous", found.precision)
    columns[2].metric("disagreements", len(found.disagreements))
    one, other = st.columns(2)
    one.dataframe({"reviewer": list(found.by_reviewer), "images": list(found.by_reviewer.values())}, hide_index=True)
    other.dataframe({"verdict": list(found.verdicts), "times": list(found.verdicts.values())}, hide_index=True)
    if found.agreements:
        st.subheader("Agreement")
        pairs = found.agreements
        shown: dict[str, list[Any]] = {
            "readers": [" and ".join(pair.readers) for pair in pairs],
            "images in common": [pair.images for pair in pairs],
            "agreed": [pair.agreed for pair in pairs],
            "Cohen's κ": [pair.kappa for pair in pairs],
        }
        st.dataframe(shown, hide_index=True)
    if found.disagreements:
        st.subheader("Disagreements")
        st.dataframe({"image": found.disagreements}, hide_index=True)
    st.subheader("The record")
    problems = store.verify()
    if problems:
        _problem(problems[0])
    end = everything[-1].hash if everything else store.head
    st.text(f"{len(everything)} records, {'broken' if problems else 'unbroken'}; their chain ends with {end}")
    table = worklist.table(everything)
    as_csv, as_parquet = io.BytesIO(), io.BytesIO()
    csv.write_csv(records.without_formulas(table), as_csv)
    parquet.write_table(table, as_parquet)
    st.download_button("Export CSV", as_csv.getvalue(), "reviews.csv", "text/csv", key="csv", on_click="ignore")
    st.download_button("Export Parquet", as_parquet.getvalue(), "reviews.parquet", key="parquet", on_click="ignore")


def _rate(column: Any, name: str, rate: Rate) -> None:
    if not rate.total:
        column.metric(name, "–")
        return
    low, high = rate.interval
    column.metric(name, f"{rate.value:.0%}", f"{rate.hits} of {rate.total}; {low:.0%}–{high:.0%}", delta_color="off")


def _number(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.4g}"
