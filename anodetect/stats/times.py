"""When images were acquired: texts of a manifest, compared as times and not as text.

Accepted are times in ISO 8601, with seconds and fractions or without them, and with Z, an offset
from UTC or no zone; dates and times as DICOM writes them, such as 20261125 080000.5; and whole
numbers, such as those of a counter. All texts of a batch must be of one kind: times without a zone
cannot be put between times with one.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from anodetect.errors import DataError

JOINED = re.compile(r"([0-9]{8})([0-9]{6}.*)")  # date and time as DICOM's DT joins them
NAMED_UTC = re.compile(r" ?(UTC|GMT)$")
WHOLE = re.compile(r"[+-]?[0-9]+")
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1)
ADVICE = "write ISO 8601, such as 2026-11-25T08:00:00+01:00, or a counter"


def order_of(acquired: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return a number for each text that sorts as the times do: microseconds, or the numbers that
    the texts are.

    `names` are those of the images, for messages. DataError if a text is missing or is no time and
    no whole number, and if only some times have a zone.
    """
    for text, name in zip(acquired, names, strict=True):
        if not text:
            raise DataError(f"{name} has no 'acquired', others have")

    times = [_time(text) for text in acquired]
    if None in times and all(WHOLE.fullmatch(text) for text in acquired):
        return [int(text) for text in acquired]
    known: list[datetime] = []
    for time, text, name in zip(times, acquired, names, strict=True):
        if time is None:
            raise DataError(f"acquired {text!r} of {name} is not a time that is known; {ADVICE}")
        known.append(time)

    zoned = [time.tzinfo is not None for time in known]
    if any(zoned) and not all(zoned):
        with_zone, without = names[zoned.index(True)], names[zoned.index(False)]
        raise DataError(
            f"acquired has a time zone for {with_zone} and none for {without}; "
            "give all of them one, or none"
        )
    return [_microseconds(time) for time in known]


def _time(text: str) -> datetime | None:
    """Return the time that a text is, None if it is none."""
    text = NAMED_UTC.sub("Z", text.upper())
    joined = JOINED.fullmatch(text)
    if joined:
        text = f"{joined[1]}T{joined[2]}"
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _microseconds(time: datetime) -> int:
    """Return the time since 1970, in UTC where the time has a zone."""
    if time.tzinfo is not None:
        return (time - EPOCH.replace(tzinfo=UTC)) // MICROSECOND
    return (time - EPOCH) // MICROSECOND


def untimed(acquired: Sequence[str], names: Sequence[str]) -> str:
    """Return why a batch cannot be followed in time although some of its images say when they were
    acquired; "" if it can be, and if none says it."""
    if not any(acquired):
        return ""
    try:
        order_of(acquired, names)
    except DataError as error:
        return f"The column acquired is not used, scores are not followed over time: {error}."
    return ""
