"""The page to judge on: the list of cases, one case, its verdicts."""

from collections.abc import Sequence
from itertools import chain

import streamlit as st

from anodetect.record.reviews import JUDGEMENTS, Judgement
from anodetect.record.rows import OK, ScoreRow

from . import case_list, picture, regions, shortcuts, worklist
from .case_list import go_to
from .session import ReviewSession
from .widgets import number_text, with_message


def draw(session: ReviewSession) -> None:
    """Draw the page."""
    blind = st.sidebar.toggle(
        "Blind until judged",
        key="blind",
        persist_state="session",
        help="Hides names, scores and maps until you judged.",
    )
    by_group = bool(session.scores.group_names) and st.sidebar.toggle(
        "By patient or lot", key="by_group", persist_state="session"
    )
    rows = case_list.choose_rows(session, blind)
    case_list.draw_progress(session)
    if not rows:
        st.info("No image passes the filters; widen them in the sidebar.")
        return

    groups = list[worklist.Group]()
    if by_group:
        recorded = session.scores.groups
        groups = worklist.grouped(rows, recorded, session.judgements, session.reviewer)
        rows = list(chain.from_iterable(group.rows for group in groups))
    paths = [row.path for row in rows]
    if st.session_state.open not in session.scores.by_path:
        st.session_state.open = paths[0]
    row = session.scores.by_path[st.session_state.open]
    hidden = session.is_hidden(row.path, blind)

    _draw_facts(row, paths, hidden)
    _draw_buttons(session, row, paths, hidden)
    picture.draw(session, row, hidden)
    _draw_remarks(row)
    _draw_verdicts(session, row, hidden)

    with st.sidebar:
        if groups:
            place = worklist.place_of(groups, row.path)
            case_list.draw_groups(groups, place, blind)
            rows = list(groups[place].rows)
        studies = groups[place].studies if groups else ()
        case_list.draw_images(session, rows, row.path, blind, studies)

    st.session_state.drawn += 1
    shortcuts.mount(st.session_state.drawn)
    following = worklist.neighbour(paths, row.path, 1)
    next_row = session.scores.by_path[following]
    picture.prepare(session, next_row, session.is_hidden(following, blind))


def _draw_facts(row: ScoreRow, paths: Sequence[str], hidden: bool) -> None:
    """Draw the case's name and place in the list, and its scores, as far as they are not hidden."""
    place = "no longer in the list"
    if row.path in paths:
        place = f"{paths.index(row.path) + 1} of {len(paths)}"
    if hidden:
        st.text(f"Image {place}")
        return

    names = [row.path]
    names += [name for name in dict.fromkeys((row.group, row.study)) if name not in ("", row.path)]
    st.text(f"{' · '.join(names)}  ({place})")
    if row.status != OK:
        st.warning(f"This file was {row.status}:")
        st.text(row.error)
        return

    p, score, threshold = map(number_text, (row.p_value, row.score, row.threshold))
    decision = {True: "flagged", False: "not flagged", None: "not decided: there is no calibration"}
    st.text(
        f"p {p} · score {score} (threshold {threshold}; larger is more anomalous) · "
        f"{decision[row.flagged]}"
    )
    if row.differs:
        st.warning("Unlike what the model has seen; its p-value may not hold:")
        st.text(row.differs)


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
            f"{verdict.capitalize()} · {shortcuts.KEYS[verdict]}",
            key=f"verdict_{verdict.replace(' ', '_')}",
            on_click=with_message(_judge, session, row, paths, hidden, verdict),
            disabled=not session.reviewer,
            type="primary",
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
    state, path = st.session_state, row.path
    session.store.add(
        row,
        session.reviewer,
        verdict,
        comment=state.get(f"comment-{path}", ""),
        region=regions.parse(state.get(f"region-{path}", ""), row.width, row.height),
        blind=hidden,
    )
    if not state.blind:
        path = worklist.next_to_judge(paths, path, session.judgements, session.reviewer)
    go_to(path)


def _undo(session: ReviewSession) -> None:
    """Withdraw the reviewer's last verdict, and open its case."""
    last = worklist.last_of(session.reviews, session.reviewer)
    if last is not None:
        session.store.withdraw(last, session.reviewer)
        go_to(last.path)


def _draw_remarks(row: ScoreRow) -> None:
    """Draw the fields for the comment and the region of the next verdict."""
    comment, region = st.columns([2, 1])
    comment.text_input(
        "Comment, kept with the next verdict", key=f"comment-{row.path}", max_chars=4000
    )
    region.text_input(
        "Region, kept with the next verdict",
        key=f"region-{row.path}",
        help="Draw it with the box or the lasso over the image, "
        "or write x,y,width,height in pixels.",
    )


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
