"""The list of cases in the sidebar: its order and filters, the reviewer's progress, and the tables
of images and of patients or lots."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isnan
from typing import Any

import streamlit as st

from anodetect.files import shortened
from anodetect.record.reviews import JUDGEMENTS, Review
from anodetect.record.rows import ScoreRow
from anodetect.stats.agreement import UNDEFINED, Agreement, agreements
from anodetect.words import amount

from . import chips, likeness, peek, unjudged, worklist
from .large import paths_of
from .scores import NOTHING_NEW, Scores
from .session import ReviewSession, thumbnails_of
from .widgets import MISSING, short_cells
from .worklist import Filter, Group, Order

SIGNS = {"normal": "✓", "anomalous": "✗", "unsure": "?", "bad image": "⊘"}
NOVELTY = (
    "Novelty is how unlike a case is all that you have judged; the order is by p-value until you "
    "have judged something."
)
MANY = (
    "Of more than 100 000 rows only pages are read: there is no order by novelty, which would "
    "compare each row with all others, and Threshold looks at a random sample."
)
SEARCHED = "name, patient or lot, study, kind"  # the columns a search looks through
FLAGGED = {"all": None, "yes": True, "no": False}  # the choices of the filter
AROUND = 12  # images listed on either side of the open one
GROUPS_SHOWN = 6
ROW_HEIGHT, GROUP_HEIGHT, TABLE_HEIGHT = 68, 36, 620  # pixels; a picture has 6 less than its row


def go_to(path: str) -> None:
    """Open a case."""
    st.session_state.open = path


# -- Order and filters -----------------------------------------------------------------------------


def choose_rows(session: ReviewSession, blind: bool) -> tuple[Sequence[ScoreRow], Sequence[str]]:
    """Draw the choices of order and filters, and return the rows they leave, in that order, and
    their paths."""
    name = "Filter" if blind else "Sort and filter"
    popover = st.sidebar.popover(name, width="stretch", key="choices")
    order: Order = "name"
    if session.scores.is_large:
        popover.caption(MANY)
    if not blind:
        order = popover.selectbox("Sort by", _orders(session), key="order", bind="query-params")
        if order == "novelty":
            popover.caption(NOVELTY)
    keep = _choose_filter(popover, session.scores, blind)
    chips.draw()

    # From case to case the list stays the same, and finding it takes time: it is found again only
    # when something has changed that it depends on.
    by_verdicts = order in ("disagreement", "novelty") or keep.reviewed != "all" or keep.verdicts
    count = len(session.reviews) if by_verdicts else 0
    key = (session.store.head, count, order, keep, session.reviewer, blind)
    state = st.session_state
    if state.get("listed_for") != key:
        state.listed_for = key
        new = likeness.novelty(session) if order == "novelty" else NOTHING_NEW
        given, reviewer = session.judgements, session.reviewer
        rows = session.scores.listed(given, order, keep, reviewer, blind=blind, novelty=new)
        state.listed, state.listed_paths = rows, paths_of(rows)
    return state.listed, state.listed_paths


def _orders(session: ReviewSession) -> list[Order]:
    """Return the orders to choose from: novelty only where it is known how alike cases are."""
    known = likeness.is_known(session) and not session.scores.is_large
    return [order for order in worklist.ORDERS if known or order != "novelty"]


def _choose_filter(popover: Any, scores: Scores, blind: bool) -> Filter:
    """Draw the filters; a blind list has none that would reveal names, scores or verdicts."""

    def choose_several(key: str, options: Sequence[str]) -> frozenset[str]:
        if len(options) < 2:
            return frozenset()
        label = chips.CONDITIONS[key].label
        return frozenset(popover.multiselect(label, options, key=key, bind="query-params"))

    group_names = scores.blind_group_names if blind else scores.group_names
    if blind and st.session_state.get("groups"):
        known = set(group_names if len(group_names) > 1 else ())
        chosen = [name for name in st.session_state.groups if name in known]
        if chosen != st.session_state.groups:  # a name of an image was chosen before
            st.session_state.groups = chosen

    # A sample of another directory, which has other paths, is none of this one.
    sample = frozenset(st.session_state.audit_sample & scores.by_path.keys())
    only_sample = sample and popover.checkbox(
        f"Only the audit sample ({len(sample)})", key="only_sample", persist_state="session"
    )
    keep = Filter(
        status=choose_several("status", scores.statuses),
        groups=choose_several("groups", group_names),
        reviewed=popover.selectbox(
            "Judged", worklist.PROGRESS, key="reviewed", bind="query-params"
        ),
        paths=sample if only_sample else frozenset(),
    )
    if blind:
        return keep

    flagged = popover.radio(
        "Flagged", list(FLAGGED), horizontal=True, key="flagged", bind="query-params"
    )
    return replace(
        keep,
        search=popover.text_input(
            "Search cases", key="search", bind="query-params", placeholder=SEARCHED
        ),
        flagged=FLAGGED[flagged],
        kinds=choose_several("kinds", scores.kinds),
        verdicts=choose_several("verdicts", JUDGEMENTS),
    )


def draw_progress(session: ReviewSession) -> None:
    """Draw how far the reviewer is, and how much the others' verdicts agree with the reviewer's."""
    total = session.scores.count
    done = sum(session.reviewer in judged for judged in session.judgements.values())
    by_whom = " by you" if session.reviewer else ""
    st.sidebar.progress(done / total, f"{done} of {total} judged{by_whom}")
    unjudged.draw()

    for pair in agreements(session.judgements, session.first_blind):
        if session.reviewer not in pair.readers:
            continue
        other = next(name for name in pair.readers if name != session.reviewer)
        agreed = f"{pair.agreed} of {pair.images} as {shortened(other)} judged"
        text = f"{agreed}; Cohen's κ {_kappa(pair)}"
        if pair.first:
            text += f"; {_kappa(pair.first)} of {pair.first.images} first, blind verdicts"
        st.sidebar.text(text)


def _kappa(pair: Agreement) -> str:
    return f"– ({UNDEFINED})" if isnan(pair.kappa) else f"{pair.kappa:.2f}"


# -- Tables ----------------------------------------------------------------------------------------


def draw_groups(groups: Sequence[Group], place: int, blind: bool) -> None:
    """Draw the patients or lots around the one at `place`; a click opens its first image."""
    start = max(0, min(place - AROUND // 4, len(groups) - GROUPS_SHOWN))
    part = groups[start : start + GROUPS_SHOWN]

    names = [group.name for group in part]
    if blind:  # an image that is of no patient or lot is one by its path
        for n, group in enumerate(part):
            if group.name == group.rows[0].path:
                names[n] = str(start + n + 1)

    shown: dict[str, Sequence[Any]] = {
        "": [_mark(number == place) for number in range(start, start + len(part))],
        "patient or lot": short_cells(names),
        "judged": [f"{group.judged} of {len(group.rows)}" for group in part],
    }
    if any(group.studies for group in part):
        shown["studies"] = [len(group.studies) or None for group in part]
    if not blind:
        shown["p"] = [group.p_value for group in part]
        shown["flag"] = [_flag(group.flagged) for group in part]

    st.caption(f"{amount(len(groups), 'patient or lot', 'patients or lots')} listed")
    paths = [group.rows[0].path for group in part]
    _draw_table(shown, paths, key="groups", alt="Patients or lots", row_height=GROUP_HEIGHT)


def draw_images(
    session: ReviewSession,
    rows: Sequence[ScoreRow],
    paths: Sequence[str],
    path: str,
    blind: bool,
    studies: Sequence[str] = (),
) -> None:
    """Draw the images around the open one; a click opens another. Those of a patient with several
    `studies` have the number of theirs; below the table is whose number each is."""
    place = paths.index(path) if path in paths else 0
    start = max(0, min(place - AROUND, len(rows) - 2 * AROUND))
    part = rows[start : start + 2 * AROUND]
    own = [session.own_verdict(row.path) for row in part]
    hidden = [session.is_hidden(row.path, blind) for row in part]
    small = thumbnails_of(session.scores, part, hidden)

    shown: dict[str, Sequence[Any]] = {
        "": [_mark(row.path == path) for row in part],
        "seen": small.pictures,
        "mine": [_sign(review) for review in own],
    }
    if not blind:
        shown["p"] = [row.p_value for row in part]
        shown["flag"] = [_flag(row.flagged) for row in part]
    # Names can reveal the truth, so a hidden image has a number instead.
    names = [row.path.rpartition("/")[2] for row in part]
    for n, is_hidden in enumerate(hidden):
        if is_hidden:
            names[n] = str(start + n + 1)
    shown["image"] = short_cells(names)
    if len(studies) > 1:
        shown["study"] = [studies.index(row.study) + 1 for row in part]

    st.caption(f"{amount(len(rows), 'case')} listed")
    shown_paths = paths[start : start + 2 * AROUND]
    _draw_table(shown, shown_paths, key="list", alt="Cases", row_height=ROW_HEIGHT)
    peek.draw(session, part, blind, "list-", ROW_HEIGHT)
    if len(studies) > 1 and not blind:
        numbered = [f"{number} {study}" for number, study in enumerate(studies, 1)]
        st.text("Studies: " + ", ".join(numbered))
    if small.pending:
        _wait_for_thumbnails(session, part, blind)


def _mark(is_open: bool) -> str:
    return "▶" if is_open else ""


def _flag(flagged: bool | None) -> str:
    return "⚑" if flagged else ""


def _sign(verdict: Review | None) -> str:
    return SIGNS.get(verdict.verdict, "") if verdict else ""


@st.fragment(run_every=1)
def _wait_for_thumbnails(session: ReviewSession, rows: Sequence[ScoreRow], blind: bool) -> None:
    """Draw the page again when all thumbnails of the list are made."""
    hidden = [session.is_hidden(row.path, blind) for row in rows]
    if not thumbnails_of(session.scores, rows, hidden).pending:
        st.rerun()


def _draw_table(
    shown: Mapping[str, Sequence[Any]], paths: Sequence[str], *, key: str, alt: str, row_height: int
) -> None:
    """Draw a table; a click on its n-th line opens the n-th path."""
    # After a click the table is a new one, which has nothing selected. Else it stays: to make a
    # table takes the browser longer than to draw the rest of the page.
    key = f"{key}-{st.session_state.clicks}"

    def open_chosen() -> None:
        cells = st.session_state[key].selection.cells
        if cells:
            go_to(paths[cells[0][0]])
            st.session_state.view = "Case"
            st.session_state.clicks += 1

    signs = ", ".join(f"{sign} {verdict}" for verdict, sign in SIGNS.items())
    columns = {
        "": st.column_config.TextColumn("", width=20),
        "seen": st.column_config.ImageColumn("", width=ROW_HEIGHT),
        "mine": st.column_config.TextColumn("", width=24, help=signs),
        "p": st.column_config.NumberColumn("p", format="%.3f", width=56),
        "flag": st.column_config.TextColumn("", width=20, help="flagged"),
    }
    st.dataframe(
        shown,
        height=min(TABLE_HEIGHT, (len(paths) + 1) * row_height + 4),
        row_height=row_height,
        hide_index=True,
        key=key,
        on_select=open_chosen,
        selection_mode="single-cell",
        placeholder=MISSING,
        column_config=columns,
        alt=alt,
    )
