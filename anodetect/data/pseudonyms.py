"""Names for patients that say nothing of them: a keyed hash (HMAC-SHA256) of the identifiers,
truncated to 64 bits.

The key is made at first use and lies in the user's configuration folder. With the same key a
patient has the same pseudonym in every run; who has the key can find out which pseudonym an
identifier has, so it stays where the identifiers are. A lost or replaced key gives new pseudonyms,
and old tables can no longer be joined with new ones.
"""

import hmac
import os
import secrets
from functools import cache
from pathlib import Path

from anodetect.errors import ConfigError

KEY_BYTES = 32


def pseudonym(*identifiers: str) -> str:
    """The pseudonym of a patient, from everything that tells one from another."""
    message = "\0".join(identifiers).encode("utf-8", "surrogateescape")
    return "patient-" + hmac.digest(_key(key_file()), message, "sha256").hex()[:16]


def key_file() -> Path:
    """Where the key lies."""
    import typer

    return Path(typer.get_app_dir("anodetect")) / "pseudonym.key"


@cache
def _key(path: Path) -> bytes:
    """The key, made if there is none; ConfigError if it cannot be read or made."""
    try:
        if not path.exists():
            _make(path)
        key = bytes.fromhex(path.read_text("ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: no usable key for pseudonyms ({error}); restore or remove it"
        ) from None
    if len(key) < KEY_BYTES:
        raise ConfigError(
            f"{path}: a key of {len(key)} bytes, {KEY_BYTES} are needed; restore or remove it"
        )
    return key


def _make(path: Path) -> None:
    """A new key that only its owner may read; of several processes that make one at once, the first
    wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was quicker, and its key is the key
    finally:
        draft.unlink(missing_ok=True)
