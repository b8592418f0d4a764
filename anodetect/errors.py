"""The errors that users see. Every message says what happened and what to do next."""

import json
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from xml.etree import ElementTree

LONGEST_REASON = 200  # letters
REPORT_IT = "please report: "  # before what should not happen


class AnodetectError(Exception):
    """An error that the user can correct. The command line prints it in one line and exits with
    `exit_code`."""

    exit_code = 2


def one_line(error: Exception, unforeseen: str = "") -> str:
    """Return in one short line why something failed: the text of an error of this project, the
    system's reason, or the kind of a library's error, whose text may quote the file.

    After `unforeseen`, which asks for a report, the library's text follows.
    """
    if isinstance(error, AnodetectError):
        return str(error)
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not unforeseen:
        return _kind(error)
    text = " ".join(f"{unforeseen}{type(error).__name__}: {error}".split())
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def _kind(error: Exception) -> str:
    """Return what is wrong with a file that raised this error when it was read."""
    kind = type(error).__name__
    if isinstance(error, UnicodeDecodeError):
        kind = "no text in UTF-8"
    elif isinstance(error, json.JSONDecodeError):
        kind = f"no JSON, see line {error.lineno}, column {error.colno}"
    elif isinstance(error, tomllib.TOMLDecodeError):
        kind = f"no TOML, see {str(error).rpartition('(at ')[2].rstrip(')')}"
    elif isinstance(error, ElementTree.ParseError):
        kind = f"no XML, see line {error.position[0]}"
    elif isinstance(error, KeyError) and error.args:
        kind = f"it lacks {error.args[0]!r}"
    elif type(error) is ValueError:  # of a check of this project
        kind = str(error)
    return kind


class ConfigError(AnodetectError):
    """A configuration key, value or name that does not exist or does not fit."""


class DataError(AnodetectError):
    """Images, manifests or folders that cannot be used as asked."""


class ImageError(DataError):
    """An image that cannot be read or scored. Scoring a folder records the reason and goes on."""


class BudgetTooShort(AnodetectError):  # noqa: N818
    """A budget that leaves no time for the first step of a training that needs it."""


class RunError(AnodetectError):
    """A run or score directory that is missing, incomplete, newer than this release, or altered."""


class StoreError(AnodetectError):
    """A bucket that is not there, does not answer, or does not let us in."""


class DiskFullError(RunError):
    """A file that cannot be written because there is no room for it, on the disk or in a quota."""


class Interrupted(AnodetectError):  # noqa: N818
    """The user or the system stopped it. What was done is kept and can be resumed."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'? Known: …" for an unknown name; only what is known if nothing is
    similar."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(known)}"
