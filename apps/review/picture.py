"""The picture of the open case: image, heatmap over it and third panel, with their controls."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from anodetect.data import geometry
from anodetect.errors import DataError
from anodetect.output.volumes import place_text
from anodetect.record import channel_files, marks
from anodetect.record.marks import WHOLE, Place
from anodetect.record.rows import ScoreRow

from . import address, display, drafts, figures, pointer, regions, screen, shortcuts
from .display import View
from .figures import Appearance, Line
from .regions import Source
from .session import ReviewSession, highest_slice, view_of, volume_of

BY_HAND = "by hand"  # the name of the window that the reader sets
OPACITY_STEP = 10  # %


@dataclass(frozen=True)
class Picture:
    """The picture that is open: what is drawn of it, its place in its source, and the source's
    grid. `view` is None where there is nothing to draw; `notes` say why, and what is missing."""

    view: View | None
    notes: tuple[str, ...]
    place: Place
    source: Source


def draw(session: ReviewSession, row: ScoreRow, hidden: bool) -> Picture:
    """Draw the picture and return it; `hidden` leaves out everything that would reveal the score.

    It is announced to the browser, without whose report no verdict is taken.
    """
    channel = _chosen_channel(row)
    if row.is_volume:
        opened = _slice(session, row, channel, hidden)
    else:
        view, notes = view_of(session.directory, row, channel)
        opened = Picture(view, notes, WHOLE, regions.source_of(row))
    if not hidden:
        for note in opened.notes:
            st.text(note)

    view = opened.view
    if view is None:
        screen.announce_nothing()
        st.info(
            "The image cannot be shown; see it with blind mode off."
            if hidden
            else "There is no image to show, and so there is nothing to judge."
        )
        return opened
    key = screen.announce(row, opened.place, channel)

    # The chart stands above the controls it depends on; page.STYLE sets the height of its place.
    has_map = view.heatmap is not None and not hidden
    chart_place = st.container(key="picture" if has_map else "picture_alone")
    below = st.container()
    appearance = st.session_state.appearance = _appearance(session, view, has_map)
    with chart_place:
        lines = _marked(session, row.path, opened, hidden)
        figure = figures.case(view, appearance, hidden=hidden, key=key, marks=lines)
        _chart(session, row.path, opened, figure, _names(view, appearance, hidden))
    with below:
        pointer.draw(view, hidden, key)
    return opened


def prepare(session: ReviewSession, row: ScoreRow, hidden: bool) -> None:
    """Make the figure of a case before it is opened, with the choices made for the last one."""
    appearance = st.session_state.get("appearance")
    preset = st.session_state.get("window", "auto")
    if row.is_volume or appearance is None or preset == BY_HAND:
        return

    view, _ = view_of(session.directory, row, _channel_of(channel_names(row)))
    if view is not None:
        appearance = replace(appearance, window=_preset(view, preset))
        figures.prepare(view, appearance, hidden=hidden)


def channel_names(row: ScoreRow) -> list[str]:
    """Return the names of a row's channels that are there; none for one file."""
    names = []
    for channel in channel_files.from_text(row.channels):
        if channel.path is not None:
            names.append(channel.name)
    return names


def _channel_of(names: Sequence[str]) -> str:
    """Return the channel that was chosen last, or the first that is there; "" for one file."""
    if not names:
        return ""
    chosen: str = st.session_state.get("channel", names[0])
    return chosen if chosen in names else names[0]


def _chosen_channel(row: ScoreRow) -> str:
    """Draw the choice of a channel, if there are several; return its name, "" for one file."""
    names = channel_names(row)
    if not names:
        return ""
    st.session_state.channel = _channel_of(names)
    chosen: str = st.selectbox("Channel", names, key="channel", persist_state="session")
    return chosen


def _names(view: View, appearance: Appearance, hidden: bool) -> str:
    """Return the names of the panels."""
    if view.heatmap is None or hidden:
        return "Image"
    return f"Image, heatmap over it, {appearance.third}"


def _chart(
    session: ReviewSession, path: str, opened: Picture, figure: dict[str, Any], names: str
) -> None:
    """Draw the chart; a box or outline drawn in it is one more region of the next verdict."""
    key = "chart"

    def keep_regions() -> None:
        if opened.view is None:
            return
        height, width = opened.view.size
        selection = st.session_state[key].selection
        found = regions.from_selection(selection, width, height, opened.place)
        drawn = [str(regions.to_screen(mark, opened.source)) for mark in found]

        draft = drafts.draft_of(session, path)
        present = [part.strip() for part in draft.region.split(";") if part.strip()]
        together = "; ".join(dict.fromkeys(present + drawn))
        drafts.keep(session, path, replace(draft, region=together))

    st.plotly_chart(
        figure,
        height="stretch",
        key=key,
        on_select=keep_regions,
        selection_mode=("box", "lasso"),
        config={
            "scrollZoom": True,
            "displaylogo": False,
            "modeBarButtonsToAdd": ["select2d", "lasso2d"],
        },
        alt=f"{names}; drag to zoom, double-click to see all; box and lasso mark a region",
    )


def _marked(session: ReviewSession, path: str, opened: Picture, hidden: bool) -> list[Line]:
    """Return the outlines of the regions on this picture: the reviewer's own, and, once the
    reviewer has judged, those that others recorded."""
    texts = [(drafts.draft_of(session, path).region, True)]
    if not hidden and session.own_verdict(path) is not None:
        for review in session.judgements.get(path, {}).values():
            if review.reviewer != session.reviewer:
                texts.append((drafts.saved(session, review).region, False))

    lines = []
    for text, own in texts:
        try:
            found = regions.parse(text, opened.source)
        except DataError:
            continue  # the field below shows the text, and no verdict is recorded with it
        for mark in found:
            if mark.place == opened.place:
                on_screen = regions.to_screen(mark, opened.source)
                lines.append(figures.outline_of(on_screen.corners, own))
    return lines


# -- Volumes ---------------------------------------------------------------------------------------


def _slice(session: ReviewSession, row: ScoreRow, channel: str, hidden: bool) -> Picture:
    """Draw the choice of a volume's slice, and return it.

    The choice starts at the slice with the highest score, or at the middle one where scores are
    hidden.
    """
    slices = session.scores.slices.get(row.path, [])
    nowhere = WHOLE, regions.source_of(row)
    if not slices:
        reason = "No image: the volume's slices were not recorded; score it again"
        return Picture(None, (reason,), *nowhere)
    plane = slices[0].axis
    volume = volume_of(session.directory, row, plane)
    if volume.geometry is None:
        return Picture(None, volume.notes, *nowhere)

    downward = volume.geometry.flipped[0]
    ordered = sorted(slices, key=lambda each: each.slice, reverse=downward)
    depth, key = len(ordered), address.slice_key(row.path)
    start = depth // 2 if hidden else ordered.index(highest_slice(ordered))
    st.session_state.setdefault(key, start + 1)
    st.session_state[key] = min(st.session_state[key], depth)  # an address may say anything
    chosen = st.slider("Slice", 1, max(depth, 2), key=key, persist_state="session")
    number = min(chosen, depth) - 1

    if not hidden:
        chart = figures.profile(ordered, number, row.threshold or float("nan"))
        st.plotly_chart(
            chart, key="profile", alt="Score of each slice", config={"displayModeBar": False}
        )
    st.caption(_where(volume.geometry, number))

    notes = volume.notes
    if ordered[number].unscored:
        notes += (f"This slice was not scored: {ordered[number].unscored}.",)
    place = marks.place_of(plane, marks.source_number(volume.geometry, number))
    source = regions.source_of(row, volume.geometry)
    return Picture(display.slice_view(volume, number, channel), notes, place, source)


def _where(shown: geometry.Geometry, number: int) -> str:
    """Return where a slice lies and which directions of the patient are at its edges; of a picture
    the number of its frame."""
    place = place_text(shown.centre(number), shown.plane)
    if shown.plane == geometry.FRAMES:
        return place
    edges = geometry.edges(shown.plane)
    return (
        f"{shown.plane}, {place}; left {edges['left']}, right {edges['right']}, "
        f"top {edges['top']} of the patient"
    )


# -- Controls --------------------------------------------------------------------------------------


def _appearance(session: ReviewSession, view: View, has_map: bool) -> Appearance:
    """Draw the controls, and return the reader's choices."""
    columns = st.columns([2, 2, 2, 2, 3] if has_map else [2, 6])
    window = _window(columns[0], view)
    scale = session.directory.audit.scale
    if not has_map:
        return Appearance(window, scale)

    colours = columns[1].selectbox(
        "Colours", display.COLOURS, key="colours", persist_state="session"
    )
    panels = ["heatmap"]
    if view.reconstruction is not None:
        panels += ["reconstruction", "difference"]
    third = columns[2].selectbox("Third panel", panels, key="third", persist_state="session")

    contours = columns[3].checkbox(
        "Contours",
        key="contours",
        help="Around the regions of the heatmap that count.",
        persist_state="session",
    )
    truth = view.mask is not None and columns[3].checkbox(
        "Truth", key="truth", help="The mask that came with the image.", persist_state="session"
    )
    columns[4].slider(
        "Heatmap's opacity, %", 0, 100, key="opacity", step=OPACITY_STEP, persist_state="session"
    )
    _buttons()

    state = st.session_state
    return Appearance(
        window=window,
        scale=scale,
        colours=colours,
        opacity=state.opacity / 100 if state.overlay else 0,
        third=third,
        contours=contours,
        truth=bool(truth),
    )


def _buttons() -> None:
    """Draw the buttons that change the overlay, and the one that shows the keys."""
    buttons = st.container(horizontal=True, gap="small")
    buttons.button("Overlay on/off · O", key="toggle", on_click=_toggle_overlay)
    buttons.button("Less opaque · −", key="less", on_click=_add_opacity, args=(-OPACITY_STEP,))
    buttons.button("More opaque · +", key="more", on_click=_add_opacity, args=(OPACITY_STEP,))
    if buttons.button("Keys · ?", key="help"):
        shortcuts.show_help(st.session_state.verdict_keys)


def _toggle_overlay() -> None:
    st.session_state.overlay = not st.session_state.overlay


def _add_opacity(percent: int) -> None:
    st.session_state.opacity = min(max(st.session_state.opacity + percent, 0), 100)


def _window(column: Any, view: View) -> display.Window:
    """Draw the choice of the window, and return the values shown black and white."""
    preset = column.selectbox(
        "Window", [*view.windows, BY_HAND], key="window", persist_state="session"
    )
    if preset != BY_HAND:
        return _preset(view, preset)

    low, high = view.windows["full range"]
    auto = view.windows["auto"]
    chosen: display.Window = st.slider(
        "Black and white at", low, max(high, low + 1e-6), auto, key="levels"
    )
    return chosen


def _preset(view: View, name: str) -> display.Window:
    """Return a window by its name; "auto" where the image has none of that name."""
    return view.windows.get(name, view.windows["auto"])
