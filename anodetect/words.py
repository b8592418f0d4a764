"""Numbers and lists in words."""

from collections.abc import Sequence

NAMED = 5  # names that a message lists


def amount(count: float, one: str, many: str = "") -> str:
    """Return a number with its noun: "1 image", "2 images"; `many` is the noun, and what follows
    it, of other numbers than 1 where that is not `one` with an s: "1 file is", "2 files are"."""
    number = f"{count:g}" if isinstance(count, float) else f"{count}"
    return f"{number} {one}" if count == 1 else f"{number} {many or one + 's'}"


def first_of(names: Sequence[str], most: int = NAMED) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
