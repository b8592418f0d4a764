"""The page to judge on: worklist, one case, verdict."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import streamlit as st

from anodetect.record.reviews import JUDGEMENTS, Judgement
from anodetect.record.rows import ScoreRow
from anodetect.stats.agreement import agreements

from . import opened, picture, worklist
from .opened import Opened, careful, number
from .worklist import Filter

KEYS: dict[Judgement, str] = {"normal": "A", "anomalous": "R", "unsure": "U", "bad image": "B"}
SIGNS = {
    "normal": "✓",
    "anomalous": "✗",
    "unsure": "?",
    "bad image": "⊘",
}  # of verdicts, in the list
AROUND = 12  # rows of the list on either side of the open case
ROW_HEIGHT, LIST_HEIGHT = 44, 600  # pixels
# Keys press buttons; Streamlit's own shortcuts know no signs, and R is its key to run again. Enter
# leaves a field of text, so that the next key is a shortcut again. A verdict that comes before the
# page has shown what was asked for last would be about an image nobody has seen, and is dropped: a
# second click, or a key that was held down.
PRESS = """
const keys = {
  n: "next", p: "previous", z: "undo", o: "toggle", "+": "more", "-": "less", "?": "help",
  a: "verdict_normal", r: "verdict_anomalous", u: "verdict_unsure", b: "verdict_bad_image",
};
const busy = (now) => document.body.setAttribute("aria-busy", now);
function press(event) {
  const target = event.composedPath()[0];
  const typing = target.closest && target.closest("input, textarea, select, [contenteditable=true]");
  if (event.key === "Enter" && target.matches && target.matches("input[type=text]:not([role=combobox])"))
    setTimeout(() => target.blur(), 50);
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = document.querySelector(`.st-key-${keys[event.key.toLowerCase()]} button`);
  if (!button) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  button.click();
}
function click(event) {
  const on = (buttons) => event.target.closest && event.target.closest(buttons);
  const verdict = on("[class*=st-key-verdict_] button");
  if (verdict && document.body.getAttribute("aria-busy") === "true") event.stopImmediatePropagation();
  if (verdict || on(".st-key-next button, .st-key-previous button, .st-key-undo button")) busy(true);
}
export default function () {  // called whenever the page was drawn
  busy(false);
  // Once, and for good: a component that is mounted anew is cleaned up after by the one it replaces.
  if (!window.anodetectKeys) {
    window.anodetectKeys = true;
    window.addEventListener("keydown", press, true);
    window.addEventListener("click", click, true);
  }
  return () => busy(false);
}
"""


def draw(now: Opened) -> None:
    bar = st.sidebar
    blind = bar.toggle(
        "Blind until judged",
        key="blind",
        persist_state="session",
        help="Hides names, scores and maps until you judged.",
    )
    by_group = bool(now.scored.group_names) and bar.toggle(
        "By patient or lot", key="by_group", persist_state="session"
    )
    rows = _listed(now, blind)
    _progress(now)
    if not rows:
        st.info("No image passes the filters; widen them in the sidebar.")
        return
    groups = (
        worklist.grouped(rows, now.scored.groups, now.judgements, now.reviewer) if by_group else []
    )
    rows = [row for group in groups for row in group.rows] or rows
    paths = [row.path for row in rows]
    if st.session_state.open not in now.scored.by_path:
        st.session_state.open = paths[0]
    row = now.scored.by_path[st.session_state.open]
    hidden = blind and now.mine(row.path) is None
    _head(row, paths, hidden)
    _verdicts(now, row, paths, hidden)
    picture.draw(now, row, hidden)
    _remarks(row)
    _known(now, row, hidden)
    with bar:
        if by_group:
            rows = _groups(groups, row, blind)
        _list(now, rows, row.path, blind)
    st.session_state.drawn += 1
    st.components.v2.component("anodetect_keys", js=PRESS)(data=st.session_state.drawn, key="keys")
    following = worklist.beside(paths, row.path, 1)
    picture.ahead(now, now.scored.by_path[following], blind and now.mine(following) is None)


def _listed(now: Opened, blind: bool) -> list[ScoreRow]:
    """The rows that the sidebar's choices leave, in its order."""
    order: worklist.Order = "name"
    bar = st.sidebar.popover(
        "Filter" if blind else "Sort and filter", width="stretch", key="choices"
    )
    if not blind:
        order = bar.selectbox("Sort by", worklist.ORDERS, key="order", persist_state="session")
    keep: dict[str, Any] = {
        "reviewed": bar.selectbox(
            "Reviewed", worklist.PROGRESS, key="reviewed", persist_state="session"
        )
    }
    if not blind:
        keep["search"] = bar.text_input("Search names", key="search", persist_state="session")
        flagged = bar.radio(
            "Flagged", ["all", "yes", "no"], horizontal=True, key="flagged", persist_state="session"
        )
        keep["flagged"] = {"all": None, "yes": True, "no": False}[flagged]
    choices: list[tuple[str, str, Sequence[str]]] = [("Status", "status", now.scored.statuses)]
    choices += [("Patient or lot", "groups", now.scored.group_names)]
    if not blind:
        choices += [("Kind", "kinds", now.scored.kinds), ("My verdict", "verdicts", JUDGEMENTS)]
    for label, name, options in choices:
        if len(options) > 1:
            keep[name] = frozenset(
                bar.multiselect(label, options, key=name, persist_state="session")
            )
    choice: dict[str, Any] = {
        "order": order,
        "keep": Filter(**keep),
        "reviewer": now.reviewer,
        "blind": blind,
    }
    by_verdicts = order == "disagreement" or keep["reviewed"] != "all" or keep.get("verdicts")
    asked = (now.store.head, len(now.everything) if by_verdicts else 0, *choice.values())
    if (
        st.session_state.get("listed_for") != asked
    ):  # from case to case nothing changes, and sorting takes its time
        st.session_state.listed_for = asked
        st.session_state.listed = worklist.worklist(now.directory.rows, now.judgements, **choice)
    listed: list[ScoreRow] = st.session_state.listed
    return listed


def _progress(now: Opened) -> None:
    """How far the reviewer is, and how much a second reader agrees with the others."""
    total = len(now.directory.rows)
    done = sum(now.reviewer in judged for judged in now.judgements.values())
    st.sidebar.progress(
        done / total, f"{done} of {total} reviewed{' by you' if now.reviewer else ''}"
    )
    for pair in agreements(now.judgements):
        if now.reviewer in pair.readers:
            other = next(name for name in pair.readers if name != now.reviewer)
            kappa = "–" if isnan(pair.kappa) else f"{pair.kappa:.2f}"
            told = f"{pair.agreed} of {pair.images} as {other} judged; Cohen's κ {kappa}"
            st.sidebar.text(told)


def _groups(groups: Sequence[worklist.Group], row: ScoreRow, blind: bool) -> list[ScoreRow]:
    """The part of the patients or lots around the open case's; a click opens the first image;
    returns its images."""
    place = next((n for n, group in enumerate(groups) if row in group.rows), 0)
    start = max(0, min(place - AROUND // 4, len(groups) - AROUND // 2))
    part = groups[start : start + AROUND // 2]
    shown: dict[str, Sequence[Any]] = {
        "": ["▶" if group is groups[place] else "" for group in part],
        "patient or lot": [group.name for group in part],
        "judged": [f"{group.judged} of {len(group.rows)}" for group in part],
    }
    if not blind:
        shown |= {
            "p": [group.p_value for group in part],
            "flag": ["⚑" if group.flagged else "" for group in part],
        }
    st.caption(f"{len(groups)} patients or lots listed")
    _choose(shown, [group.rows[0].path for group in part], key="groups", alt="Patients or lots")
    return list(groups[place].rows)


def _list(now: Opened, rows: Sequence[ScoreRow], path: str, blind: bool) -> None:
    """The part of the list around the open case; a click opens another."""
    place = next((n for n, row in enumerate(rows) if row.path == path), 0)
    start = max(0, min(place - AROUND, len(rows) - 2 * AROUND))
    part = rows[start : start + 2 * AROUND]
    mine = [now.mine(row.path) for row in part]
    seen, pending = opened.thumbnails(now.scored, part, [blind and not review for review in mine])
    shown: dict[str, Sequence[Any]] = {
        "": ["▶" if row.path == path else "" for row in part],
        "seen": seen,
        "mine": [SIGNS.get(review.verdict, "") if review else "" for review in mine],
    }
    if not blind:
        shown |= {
            "p": [row.p_value for row in part],
            "flag": ["⚑" if row.flagged else "" for row in part],
        }
    shown["image"] = [
        f"{start + n + 1}"
        if blind and not review
        else row.path.rpartition("/")[2]  # names can give away the truth
        for n, (row, review) in enumerate(zip(part, mine, strict=True))
    ]
    st.caption(f"{len(rows)} {'image' if len(rows) == 1 else 'images'} listed")
    _choose(shown, [row.path for row in part], key="list", alt="Images", row_height=ROW_HEIGHT)
    if pending:
        _await(now, part, blind)


@st.fragment(run_every=1)
def _await(now: Opened, rows: Sequence[ScoreRow], blind: bool) -> None:
    """Draw the page again when all thumbnails of the list are made."""
    if not opened.thumbnails(now.scored, rows, [blind and not now.mine(row.path) for row in rows])[
        1
    ]:
        st.rerun()


def _choose(
    shown: Mapping[str, Sequence[Any]],
    paths: Sequence[str],
    *,
    key: str,
    alt: str,
    row_height: int = 36,
) -> None:
    """A table of whose lines each opens a case."""
    key = f"{key}-{st.session_state.turn}"  # a table of another turn has nothing selected

    def choose() -> None:
        if chosen := st.session_state[key].selection.cells:
            go_to(paths[chosen[0][0]])

    columns = {
        "": st.column_config.TextColumn("", width=20),
        "seen": st.column_config.ImageColumn("", width=50),
        "mine": st.column_config.TextColumn(
            "", width=24, help=", ".join(f"{sign} {v}" for v, sign in SIGNS.items())
        ),
        "p": st.column_config.NumberColumn("p", format="%.3f", width=56),
        "flag": st.column_config.TextColumn("", width=20, help="flagged"),
    }
    st.dataframe(
        shown,
        height=min(LIST_HEIGHT, (len(paths) + 1) * row_height + 4),
        row_height=row_height,
        hide_index=True,
        key=key,
        on_select=choose,
        selection_mode="single-cell",
        column_config=columns,
        alt=alt,
    )


def go_to(path: str) -> None:
    """Open a case."""
    st.session_state.open = path
    st.session_state.turn += 1


def _head(row: ScoreRow, paths: Sequence[str], hidden: bool) -> None:
    place = (
        f"{paths.index(row.path) + 1} of {len(paths)}"
        if row.path in paths
        else "no longer in the list"
    )
    if hidden:
        st.text(f"Image {place}")
        return
    of = f" · {row.group}" if row.group not in ("", row.path) else ""
    st.text(f"{row.path}{of}  ({place})")
    if row.status != "ok":
        st.warning(f"This file was {row.status}:")
        st.text(row.error)
        return
    st.text(
        f"p {number(row.p_value)} · score {number(row.score)} (threshold {number(row.threshold)}; "
        f"larger is more anomalous) · {'flagged' if row.flagged else 'not flagged'}"
    )


def _verdicts(now: Opened, row: ScoreRow, paths: Sequence[str], hidden: bool) -> None:
    """The buttons, with their keys; what they do is done before the page is drawn again."""
    state, path, reviewer = st.session_state, row.path, now.reviewer

    def judge(verdict: Judgement) -> None:
        box = worklist.region(state.get(f"region-{path}", ""), row.width, row.height)
        now.store.add(
            row,
            reviewer,
            verdict,
            comment=state.get(f"comment-{path}", ""),
            region=box,
            blind=hidden,
        )
        go_to(
            path if state.blind else worklist.next_to_judge(paths, path, now.judgements, reviewer)
        )

    def undo() -> None:
        if last := worklist.last_of(now.everything, reviewer):
            now.store.withdraw(last, reviewer)
            go_to(last.path)

    buttons = st.container(
        horizontal=True, gap="small"
    )  # wraps where the window is narrow; no label is cut
    for name, by, key in (("Previous", -1, "P"), ("Next", 1, "N")):
        other = worklist.beside(paths, path, by)
        buttons.button(f"{name} · {key}", key=name.lower(), on_click=go_to, args=(other,))
    for verdict in JUDGEMENTS:
        buttons.button(
            f"{verdict.capitalize()} · {KEYS[verdict]}",
            key=f"verdict_{verdict.replace(' ', '_')}",
            on_click=careful(judge, verdict),
            disabled=not reviewer,
            type="primary",
        )
    buttons.button(
        "Undo · Z",
        key="undo",
        on_click=careful(undo),
        disabled=not reviewer,
        help="Takes your last verdict back by adding a record that says so.",
    )
    if not reviewer:
        st.info("Enter your name in the sidebar to judge.")


def _remarks(row: ScoreRow) -> None:
    comment, region = st.columns([2, 1])
    comment.text_input(
        "Comment, kept with the next verdict", key=f"comment-{row.path}", max_chars=4000
    )
    region.text_input(
        "Region, kept with the next verdict",
        key=f"region-{row.path}",
        help="Draw it with the box or the lasso over the image, or write x,y,width,height in pixels.",
    )


def _known(now: Opened, row: ScoreRow, hidden: bool) -> None:
    """Verdicts on this image: one's own, and those of others once one has judged."""
    judged = now.judgements.get(row.path, {})
    if hidden or now.reviewer not in judged:
        if judged:
            st.caption(f"Verdicts of others: {len(judged)}, shown when you have judged.")
        return
    st.caption("Verdicts")
    for review in judged.values():
        blind = ", blind" if review.blind else ""
        region = f" [region {review.region}]" if review.region else ""
        note = f": {review.comment}" if review.comment else ""
        st.text(
            f"{review.reviewer}: {review.verdict} ({review.time[:19]} UTC{blind}){region}{note}"
        )
    if row.label is not None:
        st.text(
            f"Known beforehand: {'anomalous' if row.label else 'normal'}, {row.kind or 'no kind'}"
        )
