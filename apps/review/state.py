"""The state that the app keeps for its user from start to start, outside of folders with data."""

import os
import sys
import tempfile
from pathlib import Path

import platformdirs

KEY, KEY_BYTES = "tickets.key", 32


def folder() -> Path:
    """Return this user's own folder: $XDG_STATE_HOME/anodetect or ~/.local/state/anodetect on
    Linux, its like elsewhere."""
    if sys.platform == "darwin":  # where platformdirs would follow $XDG_STATE_HOME
        return Path.home() / "Library" / "Application Support" / "anodetect"
    return Path(platformdirs.user_state_path("anodetect", appauthor=False))


def kept_key() -> bytes:
    """Return the secret that tickets are sealed with, the same one at every start; make it at the
    first one. Where it cannot be kept, return one for this process alone."""
    fresh = os.urandom(KEY_BYTES)
    try:
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=folder(), delete=False) as file:  # for the owner alone
            file.write(fresh)
        try:
            os.link(file.name, folder() / KEY)  # whole, and never over another process's
        except FileExistsError:
            pass
        finally:
            Path(file.name).unlink()
        kept = (folder() / KEY).read_bytes()
    except OSError:
        return fresh
    return kept if len(kept) == KEY_BYTES else fresh
