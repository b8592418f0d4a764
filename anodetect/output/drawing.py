"""Matplotlib without a window: figures, and colour maps.

Nothing here needs a backend for a screen. A notebook names one in MPLBACKEND that other programs
often do not have, and matplotlib refuses to be imported with a name it does not know. The variable
is therefore put aside during the import. What a user has set for own figures, in a file or in the
same notebook, does not matter either.
"""

import os
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from anodetect.files import as_shown

BACKEND = "MPLBACKEND"

_named = os.environ.pop(BACKEND, None)
try:
    from matplotlib import colormaps, rc_context, rcParamsDefault
    from matplotlib.figure import Figure
finally:
    if _named is not None:
        os.environ[BACKEND] = _named

P = ParamSpec("P")
Drawn = TypeVar("Drawn")
__all__ = ["Figure", "colormaps", "in_own_style", "title_of"]

# Matplotlib's own settings but for those about windows, and what makes SVG the same every time.
STYLE: Any = {
    name: value
    for name, value in rcParamsDefault.items()
    if not name.startswith(("backend", "interactive", "toolbar", "tk.", "webagg."))
}
STYLE |= {"svg.fonttype": "none", "svg.hashsalt": "anodetect", "font.family": "sans-serif"}
STYLE["text.parse_math"] = False  # dollar signs in a name enclose no formula
LONGEST_TITLE = 80  # letters


def in_own_style(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Return the function that draws as `draw` does, whatever settings matplotlib has."""

    @wraps(draw)
    def drawn(*arguments: P.args, **options: P.kwargs) -> Drawn:
        with rc_context(STYLE), warnings.catch_warnings():
            # The browser's fonts have letters that matplotlib's has not.
            warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
            return draw(*arguments, **options)

    return drawn


def title_of(name: str) -> str:
    """Return a name from a file as a text that a figure can hold, in one line."""
    return as_shown(name, LONGEST_TITLE)
