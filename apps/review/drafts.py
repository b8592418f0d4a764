"""Comments and regions that are not recorded yet. They stay with their case, whichever others are
opened meanwhile, until they are recorded or discarded."""

from dataclasses import dataclass, replace
from hashlib import sha256
from secrets import token_bytes

import streamlit as st

from anodetect.errors import DataError
from anodetect.record import marks
from anodetect.record.reviews import Review

from . import screen
from .session import ReviewSession

NAMES = "comment", "region"  # the fields
SALT = token_bytes(16)  # of this process, so that nobody finds a name by its hash


@dataclass(frozen=True)
class Draft:
    """The comment and the regions for the next verdict on a case, as text."""

    comment: str = ""
    region: str = ""


def saved(session: ReviewSession, review: Review | None) -> Draft:
    """Return what a verdict says, which the next one says again unless it is changed. Regions that
    an older release recorded of a volume name no slice, and are left out."""
    if review is None:
        return Draft()
    has_no_place = review.shown is None and session.scores.by_path[review.path].is_volume
    return Draft(review.comment, "" if has_no_place else review.region)


def draft_of(session: ReviewSession, path: str) -> Draft:
    """Return the draft for a case; without one, what the reviewer's own verdict says."""
    kept: Draft | None = _drafts().get(_key(session, path))
    return saved(session, session.own_verdict(path)) if kept is None else kept


def keep(session: ReviewSession, path: str, draft: Draft) -> None:
    """Keep the draft for a case."""
    _drafts()[_key(session, path)] = draft


def field_key(name: str, path: str) -> str:
    """Return the key of the field that shows the comment or the region of a case. The browser gets
    it, so it does not name the case, which may be hidden."""
    return f"{name}-{sha256(SALT + path.encode()).hexdigest()[:16]}"


def show_in_fields(session: ReviewSession, path: str) -> None:
    """Have the fields of a case show its draft."""
    draft = draft_of(session, path)
    st.session_state.in_fields = draft
    for name in NAMES:
        st.session_state[field_key(name, path)] = getattr(draft, name)


def read_fields(session: ReviewSession, path: str) -> None:
    """Keep what the reviewer has written into the fields of a case since they were drawn. A click
    can arrive together with the last word of a comment, and before it."""
    draft, drawn = draft_of(session, path), st.session_state.get("in_fields", Draft())
    for name in NAMES:
        written = st.session_state.get(field_key(name, path))
        if written is not None and written != getattr(drawn, name):
            draft = replace(draft, **{name: _with_place(written) if name == "region" else written})
    keep(session, path, draft)


def _with_place(region: str) -> str:
    """Return regions in their normal form, those without a place at that of the picture that is
    open; a text that is none as it is."""
    try:
        return marks.to_text(marks.parse(region, screen.announced_place()))
    except DataError:
        return region


def discard(session: ReviewSession, path: str) -> None:
    """Forget the draft for a case, if there is one, and what stands in its fields."""
    _drafts().pop(_key(session, path), None)
    for name in NAMES:
        st.session_state.pop(field_key(name, path), None)


def is_unsaved(session: ReviewSession, path: str) -> bool:
    """Return whether the draft for a case says something else than the record does."""
    return draft_of(session, path) != saved(session, session.own_verdict(path))


def unsaved(session: ReviewSession) -> list[str]:
    """Return the cases of this score directory with something that is not recorded yet."""
    paths = []
    for head, reviewer, path in _drafts():
        is_own = (head, reviewer) == (session.store.head, session.reviewer)
        if is_own and is_unsaved(session, path):
            paths.append(path)
    return paths


def _key(session: ReviewSession, path: str) -> tuple[str, str, str]:
    return session.store.head, session.reviewer, path


def _drafts() -> dict[tuple[str, str, str], Draft]:
    drafts: dict[tuple[str, str, str], Draft] = st.session_state.setdefault("drafts", {})
    return drafts
