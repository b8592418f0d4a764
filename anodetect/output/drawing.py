"""Matplotlib without a window: figures, and colour maps.

Nothing here needs a backend for a screen. A notebook names one in MPLBACKEND that other programs
often do not have, and matplotlib refuses to be imported with a name it does not know. The variable
is therefore put aside during the import.
"""

import os

BACKEND = "MPLBACKEND"

_named = os.environ.pop(BACKEND, None)
try:
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure
finally:
    if _named is not None:
        os.environ[BACKEND] = _named

__all__ = ["Figure", "colormaps", "rc_context"]
