"""Comments and regions that are not recorded yet. They stay with their case, whichever others are
opened meanwhile, until they are recorded or discarded."""

from dataclasses import dataclass

import streamlit as st

from anodetect.record.reviews import Review

from .session import ReviewSession


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


def discard(session: ReviewSession, path: str) -> None:
    """Forget the draft for a case, if there is one."""
    _drafts().pop(_key(session, path), None)


def is_unsaved(session: ReviewSession, path: str) -> bool:
    """Return whether the draft for a case says something else than the record does."""
    return draft_of(session, path) != saved(session, session.own_verdict(path))


def _key(session: ReviewSession, path: str) -> tuple[str, str, str]:
    return session.store.head, session.reviewer, path


def _drafts() -> dict[tuple[str, str, str], Draft]:
    drafts: dict[tuple[str, str, str], Draft] = st.session_state.setdefault("drafts", {})
    return drafts
