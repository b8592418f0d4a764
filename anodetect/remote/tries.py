"""The facts of a file in a store, and requests that are tried again."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from anodetect.errors import StoreError

WAITS = (0.2, 0.5, 1, 2, 4, 8, 15, 30, 60)  # seconds before each further try, about two minutes
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a store: its name, its size in bytes and the time it was written, in seconds since
    1970."""

    key: str
    size: int
    modified: float


def tried(
    url: str,
    call: Callable[[], T],
    problem_of: Callable[[Exception], Exception | None],
    reason_of: Callable[[Exception], str],
) -> T:
    """Return what `call` returns, tried again for what may pass; a StoreError if it does not.

    `problem_of` returns what to raise for an error, None for one that may pass, and `reason_of`
    says it in words.
    """
    waits = iter(WAITS)
    while True:
        try:
            return call()
        except Exception as error:
            problem = problem_of(error)
            wait = next(waits, None)
            if problem is not None:
                raise problem from None
            if wait is None:
                raise StoreError(
                    f"{url}: does not answer ({reason_of(error)}); try again later: a scoring "
                    "goes on with --resume"
                ) from None
        time.sleep(wait * random.uniform(0.5, 1))
