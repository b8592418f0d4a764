"""The vectors by which the cases of a score directory are alike, where `anodetect alike` has
written them, and how new a case is to a reviewer."""

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from anodetect.record import alike
from anodetect.record.alike import Alike

from .session import ReviewSession


def is_known(session: ReviewSession) -> bool:
    """Return whether there are vectors beside the record."""
    return (session.directory.path / alike.FILE).exists()


def vectors(session: ReviewSession) -> Alike | None:
    """Return the vectors, None where there are none of this record; RunError if they cannot be
    read."""
    file = session.directory.path / alike.FILE
    return _vectors(session.directory.path, session.directory.audit.head, file.stat().st_mtime_ns)


@st.cache_resource(max_entries=4, show_spinner=False)
def _vectors(folder: Path, head: str, changed: int) -> Alike | None:
    """Return the vectors; `changed` is part of the key, so that new ones are read."""
    return alike.read(folder, head)


def novelty(session: ReviewSession) -> Mapping[str, float]:
    """Return the novelty of each case to the reviewer, by path; {} as long as nothing was judged
    that has a vector. Raises RunError if the vectors cannot be read."""
    known = vectors(session)
    if known is None:
        return {}
    judged = [path for path, given in session.judgements.items() if session.reviewer in given]
    values = known.novelty(judged)
    return {} if values is None else dict(zip(known.paths, values.tolist(), strict=True))
