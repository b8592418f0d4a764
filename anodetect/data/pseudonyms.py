"""Pseudonyms of patients: a keyed hash (HMAC-SHA256) of the identifiers, truncated to 64 bits.

The key is made at first use and lies in the user's configuration folder. With the same key a
patient has the same pseudonym in every run. With the key one can find out which pseudonym an
identifier has, so the key stays where the identifiers are. A lost or replaced key gives new
pseudonyms, and old tables can no longer be joined with new ones.
"""

import hmac
import os
import secrets
import sys
from functools import cache
from pathlib import Path

import platformdirs

from anodetect.errors import ConfigError, one_line
from anodetect.files import ON_WINDOWS

APPLICATION = "anodetect"
KEY_BYTES = 32
PATIENT = "patient-"


def pseudonym(*identifiers: str, prefix: str = PATIENT) -> str:
    """Return the pseudonym of a patient, from everything that distinguishes patients; of something
    else with another `prefix`."""
    message = "\0".join(identifiers).encode("utf-8", "surrogateescape")
    return prefix + hmac.digest(_key(key_file()), message, "sha256").hex()[:16]


def key_file() -> Path:
    """Return where the key lies: $XDG_CONFIG_HOME or ~/.config on Linux, ~/Library/Application
    Support on macOS, %APPDATA% on Windows."""
    if sys.platform == "darwin":  # where platformdirs would follow $XDG_CONFIG_HOME
        folder = Path.home() / "Library" / "Application Support" / APPLICATION
    else:
        folder = platformdirs.user_config_path(APPLICATION, appauthor=False, roaming=True)
    return folder / "pseudonym.key"


@cache
def _key(path: Path) -> bytes:
    """Return the key, which is made if there is none; ConfigError if it cannot be read or made."""
    try:
        if not path.exists():
            _make_key(path)
        key = bytes.fromhex(path.read_text("ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: no usable key for pseudonyms ({one_line(error)}); restore or remove it"
        ) from None
    if len(key) < KEY_BYTES:
        raise ConfigError(
            f"{path}: a key of {len(key)} bytes, {KEY_BYTES} are needed; restore or remove it"
        )
    return key


def _make_key(path: Path) -> None:
    """Make a key that only its owner may read; of several processes that make one at once, the
    first wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        if ON_WINDOWS:
            draft.rename(path)  # replaces nothing there, and needs no links
        else:
            os.link(draft, path)
    except FileExistsError:
        pass  # another process was quicker, and its key is the key
    finally:
        draft.unlink(missing_ok=True)
