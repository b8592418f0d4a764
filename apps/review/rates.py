"""False-alarm rates to choose from: in percent, in even steps of their logarithm."""

LOWEST, HIGHEST = 0.1, 50.0
STEPS = 24  # in a factor of ten


def _spaced() -> list[float]:
    """Return rates from LOWEST to HIGHEST with two digits each."""
    found = {LOWEST, HIGHEST, 1.0, 2.0, 5.0, 10.0, 20.0}
    for step in range(3 * STEPS):
        rate = float(f"{LOWEST * 10 ** (step / STEPS):.2g}")
        if rate < HIGHEST:
            found.add(rate)
    return sorted(found)


PERCENT = _spaced()


def with_rate(percent: float) -> list[float]:
    """Return the rates with one more among them, if it lies between the ends."""
    if not LOWEST <= percent <= HIGHEST:
        return PERCENT
    return sorted({*PERCENT, percent})


def text(percent: float) -> str:
    """Return a rate as text, without zeros at its end."""
    return f"{percent:g}"
