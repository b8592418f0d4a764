"""The page to judge on: the list of cases, one case, its verdicts."""

from collections.abc import Sequence

import streamlit as st

from anodetect.record import marks
from anodetect.record.reviews import JUDGEMENTS, Judgement
from anodetect.record.rows import OK, ScoreRow

from . import (
    address,
    case_list,
    chips,
    drafts,
    focus,
    gallery,
    known,
    picture,
    regions,
    remaking,
    routes,
    screen,
    shortcuts,
    similar,
    viewing,
    worklist,
)
from .case_list import SIGNS, go_to
from .facts import facts_of
from .large import paths_of
from .picture import Picture
from .session import ReviewSession, volume_of
from .widgets import with_message

CASE, GALLERY = "Case", "Gallery"  # the views


def draw(session: ReviewSession) -> None:
    """Draw the page."""
    address.restore(session)
    focus.mount()
    blind = st.sidebar.toggle(
        "Blind until judged",
        key="blind",
        bind="query-params",
        help="Hides names, scores and maps until you judged.",
    )
    st.session_state.is_blind = blind  # other pages do not know the toggle
    by_group = session.scores.has_groups and st.sidebar.toggle(
        "By patient or lot", key="by_group", bind="query-params"
    )
    rows, paths = case_list.choose_rows(session, blind)
    case_list.draw_progress(session)
    if not rows:
        st.info("No image passes the filters; widen them in the sidebar.")
        st.button("Clear all filters", key="clear", on_click=chips.clear)
        return

    groups: worklist.Groups | None = None
    if by_group:
        groups = session.scores.grouped(rows, session.judgements, session.reviewer)
        rows, paths = groups.rows, paths_of(groups.rows)
    row = _opened(session, paths)
    hidden = session.is_hidden(row.path, blind)
    in_gallery = _chosen_view() == GALLERY
    if in_gallery:
        screen.announce_nothing()
        gallery.draw(session, rows, blind)
    else:
        draw_case(session, row, paths, blind)
        if not hidden:
            remaking.draw(session, row)
        _draw_verdicts(session, row, hidden)
        similar.draw(session, row, blind)

    address.keep(session, row.path, hidden=hidden)
    with st.sidebar:
        if groups:
            place = groups.place_of(row.path)
            case_list.draw_groups(groups, place, blind)
            rows = groups[place].rows
            paths = paths_of(rows)
        studies = groups[place].studies if groups else ()
        case_list.draw_images(session, rows, paths, row.path, blind, studies)
        address.draw_link()

    if not in_gallery:
        prepare(session, row, paths, blind)


def draw_case(session: ReviewSession, row: ScoreRow, paths: Sequence[str], blind: bool) -> None:
    """Draw a case with all that it takes to judge it; `paths` are the listed ones, in order."""
    if routes.is_ready():
        _draw_in_viewer(session, row, paths, blind)
    else:
        _draw_plainly(session, row, paths, session.is_hidden(row.path, blind))


def prepare(session: ReviewSession, row: ScoreRow, paths: Sequence[str], blind: bool) -> None:
    """Listen for keys and make the next figure, where there is no viewer. This comes last in a
    page, since it takes time."""
    if routes.is_ready():
        return
    st.session_state.drawn += 1
    shortcuts.mount(session.store.head, st.session_state.drawn, st.session_state.verdict_keys)
    following = worklist.neighbour(paths, row.path, 1)
    next_row = session.scores.by_path[following]
    picture.prepare(session, next_row, session.is_hidden(following, blind))


def _chosen_view() -> str:
    """Draw the choice between one case and the gallery, and return it; without the viewer's
    addresses there is no gallery."""
    if not routes.is_ready():
        return CASE
    return str(
        st.sidebar.segmented_control(
            "View", [CASE, GALLERY], default=CASE, required=True, key="view", bind="query-params"
        )
    )


def _opened(session: ReviewSession, paths: Sequence[str]) -> ScoreRow:
    """Return the row of the case to draw: that of the address, the next one to judge, the one that
    was open, or the first listed."""
    state = st.session_state
    if state.open not in session.scores.by_path:
        state.open = paths[0]
        if session.own_verdict(paths[0]) is None:
            state.skips = False
    if state.skips:
        go_to(worklist.next_to_judge(paths, state.open, session.judgements, session.reviewer))
        state.skips = False
    return session.scores.by_path[state.open]


def _draw_plainly(
    session: ReviewSession, row: ScoreRow, paths: Sequence[str], hidden: bool
) -> None:
    """Draw a case without the viewer: facts, buttons, pictures, and the fields for remarks."""
    viewing.draw_missing()
    _draw_facts(row, paths, hidden)
    strip = st.container()
    _draw_buttons(session, row, paths, hidden)
    opened = picture.draw(session, row, hidden)
    if not session.is_blinded:
        with strip:
            _draw_known(session, row, opened, hidden)
    _draw_remarks(session, row, opened)


def _draw_in_viewer(
    session: ReviewSession, row: ScoreRow, paths: Sequence[str], blind: bool
) -> None:
    """Draw a case in the viewer, which has its own buttons and fields."""
    screen.announce_nothing()  # the viewer reports with each verdict what it has painted
    if not session.is_blinded:
        _draw_known(session, row, None, session.is_hidden(row.path, blind))
    viewing.draw(session, row, paths, blind)


def _draw_facts(row: ScoreRow, paths: Sequence[str], hidden: bool) -> None:
    """Draw the case's name and place in the list, and its scores, as far as they are not hidden."""
    facts = facts_of(row, paths, hidden)
    st.text(facts.title)
    for line in facts.lines:
        st.text(line)
    if facts.warning:
        st.warning(facts.warning)
        st.text(facts.reason)


def _draw_known(
    session: ReviewSession, row: ScoreRow, opened: Picture | None, hidden: bool
) -> None:
    """Draw the strip that opens: what is to be known of the batch, and what is flagged in the open
    picture, if there is one. What scores say is left out while the case is hidden."""
    notes = [note for note in session.scores.notes if not (hidden and note.of_scores)]
    serious = sum(note.serious for note in notes)
    title = f"To know: {serious} warning{'' if serious == 1 else 's'}"
    if opened is not None and not hidden and row.status == OK:
        title += f" · {_found(session, row, opened).text}"

    icon = ":material/warning:" if serious else ":material/info:"
    with st.expander(title, icon=icon, key="known"):
        for note in notes:
            st.text(f"{'⚠ ' if note.serious else ''}{note.text}")
        if row.differs and not hidden:
            st.text(f"⚠ This file is unlike what the model has seen: {row.differs}")


def _found(session: ReviewSession, row: ScoreRow, opened: Picture) -> known.Found:
    """Return the findings in the case that is open."""
    regions_here = None if opened.view is None else opened.view.found
    slices, marked = list(session.scores.slices.get(row.path, ())), tuple[int, ...]()
    geometry = opened.source.geometry
    if geometry is not None:
        slices.sort(key=lambda each: each.slice, reverse=geometry.flipped[0])
        volume = volume_of(session.directory, row, geometry.plane)
        marked = volume.slices_with_regions
    return known.found_in(row, slices, regions_here, marked)


# -- Judging ---------------------------------------------------------------------------------------


def _draw_buttons(
    session: ReviewSession, row: ScoreRow, paths: Sequence[str], hidden: bool
) -> None:
    """Draw the buttons that move and judge. Streamlit runs their actions before it draws the page
    again."""
    # The container breaks its line where the window is narrow, so that no label is cut.
    buttons = st.container(horizontal=True, gap="small")
    for name, step, key in (("Previous", -1, "P"), ("Next", 1, "N")):
        path = worklist.neighbour(paths, row.path, step)
        buttons.button(f"{name} · {key}", key=name.lower(), on_click=go_to, args=(path,))

    for verdict in JUDGEMENTS:
        buttons.button(
            f"{SIGNS[verdict]} {verdict.capitalize()} · {st.session_state.verdict_keys[verdict]}",
            key=shortcuts.button_key(verdict),
            on_click=with_message(_judge, session, row, paths, hidden, verdict),
            disabled=not session.reviewer,
        )
    buttons.button(
        "Undo · Z",
        key="undo",
        on_click=with_message(_undo, session),
        disabled=not session.reviewer,
        help="Takes your last verdict back by adding a record that says so.",
    )
    if not session.reviewer:
        st.info("Enter your name in the sidebar to judge.")


def _judge(
    session: ReviewSession, row: ScoreRow, paths: Sequence[str], hidden: bool, verdict: Judgement
) -> None:
    """Record a verdict and open the next case; in blind mode the same case, now with its scores."""
    _record(session, row, hidden, verdict)
    path = row.path
    if not st.session_state.blind or session.is_blinded:
        path = worklist.next_to_judge(paths, path, session.judgements, session.reviewer)
    go_to(path)


def _record(session: ReviewSession, row: ScoreRow, hidden: bool, verdict: Judgement) -> None:
    """Record a verdict on the case that is open, with the comment and the regions of its draft.

    Raises RunError if the browser has not painted the case, DataError if a region is none of it.
    """
    shown = screen.painted(session.store.head, row)
    drafts.read_fields(session, row.path)
    draft = drafts.draft_of(session, row.path)
    place = shown[-1].place
    geometry = None
    if place.plane:
        geometry = volume_of(session.directory, row, place.plane).geometry
    source = regions.source_of(row, geometry)
    found = regions.parse(draft.region, source, place)

    session.store.add(
        row,
        session.reviewer,
        verdict,
        shown,
        comment=draft.comment,
        region=marks.to_text(found),
        region_mm=regions.millimetres(found, source),
        blind=hidden,
        seconds=screen.seconds_open(),
    )
    drafts.discard(session, row.path)


def _undo(session: ReviewSession) -> None:
    """Withdraw the reviewer's last verdict, say so, and open its case; its comment and regions are
    a draft again."""
    last = worklist.last_of(session.reviews, session.reviewer)
    if last is None:
        st.session_state.notice = "There is no verdict of yours to take back."
        return

    session.store.withdraw(last, session.reviewer)
    if not drafts.is_unsaved(session, last.path):
        drafts.keep(session, last.path, drafts.saved(session, last))
    name = "this case" if st.session_state.blind else last.path
    st.session_state.notice = (
        f"Taken back: {last.verdict}, which you recorded at {last.time[11:19]} UTC on {name}."
    )
    go_to(last.path)


def _draw_remarks(session: ReviewSession, row: ScoreRow, opened: Picture) -> None:
    """Draw the fields for the comment and the regions of the next verdict. They hold the case's
    draft, whichever case was open before."""
    path = row.path
    drafts.show_in_fields(session, path)

    comment, region = st.columns([2, 1])
    comment.text_input(
        "Comment, kept with the next verdict",
        key=drafts.field_key("comment", path),
        max_chars=4000,
        on_change=drafts.read_fields,
        args=(session, path),
    )
    where = f"{opened.place}: x,y,width,height" if opened.place.plane else "x,y,width,height"
    region.text_input(
        "Region, kept with the next verdict",
        key=drafts.field_key("region", path),
        on_change=drafts.read_fields,
        args=(session, path),
        help="Draw it with the box or the lasso over the image, "
        f"or write {where} in pixels of the source; several are separated by a semicolon.",
    )
    _draw_unsaved(session, row)


def _draw_unsaved(session: ReviewSession, row: ScoreRow) -> None:
    """Draw what can be done with a comment or regions that are not recorded yet, here and on other
    cases."""
    waiting = drafts.unsaved(session)
    if row.path in waiting:
        buttons = st.container(horizontal=True, gap="small", vertical_alignment="center")
        buttons.caption("Comment and region are not recorded yet.")
        own = session.own_verdict(row.path)
        if own is not None:
            hidden = session.is_hidden(row.path, st.session_state.blind)
            verdict = next(each for each in JUDGEMENTS if each == own.verdict)
            buttons.button(
                f"Record with my verdict, {verdict}",
                key="record_draft",
                on_click=with_message(_record, session, row, hidden, verdict),
            )
        buttons.button("Discard", key="discard", on_click=drafts.discard, args=(session, row.path))

    others = len(waiting) - (row.path in waiting)
    if others:
        st.caption(f"Comments or regions on other cases that are not recorded yet: {others}")


def _draw_verdicts(session: ReviewSession, row: ScoreRow, hidden: bool) -> None:
    """Draw the verdicts on the image; those of others only when the reviewer has judged."""
    judged = session.judgements.get(row.path, {})
    if hidden or session.reviewer not in judged:
        if judged:
            st.caption(f"Verdicts of others: {len(judged)}, shown when you have judged.")
        return

    st.caption("Verdicts")
    for review in judged.values():
        blind = ", blind" if review.blind else ""
        region = f" [region {review.region}]" if review.region else ""
        comment = f": {review.comment}" if review.comment else ""
        time = f"{review.time[:19]} UTC{blind}"
        st.text(f"{review.reviewer}: {review.verdict} ({time}){region}{comment}")

    if row.label is not None:
        label = "anomalous" if row.label else "normal"
        st.text(f"Known beforehand: {label}, {row.kind or 'no kind'}")
