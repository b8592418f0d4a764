"""Parts that several pages draw. A file name, comment or message is never drawn as Markdown or
HTML: `st.text` and tables show it as text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from anodetect.errors import AnodetectError
from anodetect.files import as_shown
from anodetect.stats.agreement import Rate

MISSING = "–"  # in a cell of a table without a value
Table = Mapping[str, Sequence[Any]]  # the columns of a table by their titles


def draw_table(columns: Table, **options: Any) -> Any:
    """Draw a table by its columns, with long names and texts shortened, and MISSING where there is
    no value; `options` and the result are those of `st.dataframe`."""
    shown = {as_shown(name): short_cells(values) for name, values in columns.items()}
    return st.dataframe(shown, hide_index=True, placeholder=MISSING, **options)


def short_cells(values: Sequence[Any]) -> list[Any]:
    """Return the cells of a column, texts as pages show them."""
    return [as_shown(value) if isinstance(value, str) else value for value in values]


def show_problem(text: str) -> None:
    """Draw a message about something the user can correct."""
    st.error("This needs your attention:")
    st.text(text)


def with_message(action: Callable[..., object], *arguments: Any) -> Callable[[], None]:
    """Return the action as a callback whose failure becomes a message in the page."""

    def run() -> None:
        try:
            action(*arguments)
        except AnodetectError as error:
            st.session_state.problem = str(error)

    return run


def show_rate(column: Any, name: str, rate: Rate) -> None:
    """Draw a share with its interval into a column."""
    if not rate.total:
        column.metric(name, "–")
        return
    if rate.chosen:
        said = f"of the first {rate.total} judged"
        column.metric(name, f"{rate.hits}", said, delta_color="off", delta_arrow="off")
        return
    low, high = rate.interval
    interval = f"{rate.hits} of {rate.total}; {low:.0%}–{high:.0%}"
    column.metric(name, f"{rate.value:.0%}", interval, delta_color="off", delta_arrow="off")


def number_text(value: float | None) -> str:
    """Return a number with four digits, "–" where it is missing or not finite."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.4g}"


def duration_text(seconds: float) -> str:
    """Return a duration in the unit that fits it: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
