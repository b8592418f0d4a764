"""Words that go with a number."""


def amount(count: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "2 images"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
