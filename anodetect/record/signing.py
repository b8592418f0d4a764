"""The signed end of the verdicts of one session of the review app: one process, one file."""

import os
from pathlib import Path
from secrets import token_hex
from threading import Lock

from anodetect.record.reviews import SIGNING_KEY, Review, SignedEnd, sign_end
from anodetect.record.signatures import private_key

SESSION = token_hex(8)
_lock = Lock()
_last: dict[str, int] = {}  # the number of the last signed review, by the head of the record


def sign(folder: Path, review: Review) -> None:
    """Sign a review, as the end of the chain, if the app was started with a key. ConfigError or
    RunError if it cannot be signed; the review stays recorded."""
    file = os.environ.get(SIGNING_KEY, "")
    if not file:
        return
    with _lock:  # the sessions of browsers are threads
        if review.number > _last.get(review.head, 0):
            end = SignedEnd(
                head=review.head, number=review.number, end=review.hash, time=review.time
            )
            sign_end(folder, SESSION, end, private_key(Path(file)))
            _last[review.head] = review.number
