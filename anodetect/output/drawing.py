"""Matplotlib without a window: figures, and colour maps.

Nothing here needs a backend for a screen. A notebook names one in MPLBACKEND that other programs
often do not have, and matplotlib refuses to be imported with a name it does not know. The variable
is therefore put aside during the import. What a user has set for own figures, in a file or in the
same notebook, does not matter either.
"""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

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
__all__ = ["Figure", "colormaps", "in_own_style"]

# Matplotlib's own settings but for those about windows, and what makes SVG the same every time.
STYLE: Any = {
    name: value
    for name, value in rcParamsDefault.items()
    if not name.startswith(("backend", "interactive", "toolbar", "tk.", "webagg."))
}
STYLE |= {"svg.fonttype": "none", "svg.hashsalt": "anodetect", "font.family": "sans-serif"}


def in_own_style(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """Return the function that draws as `draw` does, whatever settings matplotlib has."""

    @wraps(draw)
    def drawn(*arguments: P.args, **options: P.kwargs) -> Drawn:
        with rc_context(STYLE):
            return draw(*arguments, **options)

    return drawn
