"""Numbers, lists and sentences in words."""

import re
from collections.abc import Sequence

NAMED = 5  # names that a message lists
PLAIN = re.compile(r"[a-z]+(-[a-z]+)* ")  # a first word that is no name of a file


def amount(count: float, one: str, many: str = "") -> str:
    """Return a number with its noun: "1 image", "2 images"; `many` is the noun, and what follows
    it, of other numbers than 1 where that is not `one` with an s: "1 file is", "2 files are"."""
    number = f"{count:g}" if isinstance(count, float) else f"{count}"
    return f"{number} {one}" if count == 1 else f"{number} {many or one + 's'}"


def first_of(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def sentence(text: str) -> str:
    """Return a text that begins with a capital, unless a name stands first, and has a full stop."""
    if PLAIN.match(text):
        text = text[0].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) or not text else f"{text}."
