"""Records read on threads ahead of the model, in bounded memory."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from anodetect.data.records import Record, fills_memory
from anodetect.model.loading import Loaded, LoadedImage, LoadedVolume
from anodetect.remote.paths import is_url

BATCH = 16  # images that are scored together
LOOK_AHEAD = 3  # batches
FROM_DISK, FROM_BUCKETS = 2, 16  # threads: a bucket takes long to answer, but answers many at once
PIXELS_AHEAD = 2**26  # 256 MB of float32; a single image may be larger


class MemoryBudget:
    """Lets images that were read wait for their turn as long as they have at most `limit` pixels
    together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self.turn = 0  # the number of the image that the consumer waits for
        self.all_entered = 0  # images with lower numbers have all entered,
        self.entered_early: set[int] = set()  # and these, with higher ones
        self.changed = threading.Condition()

    def enter(self, number: int, pixels: int, *, in_order: bool = False) -> None:
        """Wait until there is room for an image's pixels, or until it is its turn.

        With `in_order` also wait until all images before it have entered. A volume that entered
        earlier would be in memory beside the one whose turn it is.
        """

        def may_enter() -> bool:
            room = self.held + pixels <= self.limit
            too_early = in_order and number > self.all_entered
            return (room and not too_early) or number <= self.turn

        with self.changed:
            self.changed.wait_for(may_enter)
            self.held += pixels
            self.entered_early.add(number)
            while self.all_entered in self.entered_early:
                self.entered_early.remove(self.all_entered)
                self.all_entered += 1
            self.changed.notify_all()

    def call(self, number: int) -> None:
        """Say that the consumer waits for the image with this number."""
        with self.changed:
            self.turn = number
            self.changed.notify_all()

    def leave(self, pixels: int) -> None:
        """Say that this many pixels are no longer held."""
        with self.changed:
            self.held -= pixels
            self.changed.notify_all()


def read_ahead(
    read: Callable[[Record], Loaded], records: Iterable[Record], depth: int = LOOK_AHEAD * BATCH
) -> Iterator[Loaded]:
    """Yield `read(record)` in the order of the records.

    At most `depth` records, and about PIXELS_AHEAD, are read ahead of the consumer, so that memory
    does not grow with the size of the images. A volume is not read before there is room for it, and
    none while the consumer has one of more than PIXELS_AHEAD.
    Slices of a volume are not read before the consumer has got all slices of the one before: each
    volume is decoded once, and only one is in memory.
    """
    budget = MemoryBudget(PIXELS_AHEAD)

    def work(number: int, record: Record) -> Loaded:
        if not fills_memory(record):
            loaded = read(record)
            budget.enter(number, pixels(loaded))
            return loaded

        budget.enter(number, PIXELS_AHEAD, in_order=True)
        loaded = read(record)
        budget.leave(PIXELS_AHEAD - pixels(loaded))  # all of it, if the volume cannot be read
        return loaded

    first, records = _looked_at(records)
    with ThreadPoolExecutor(FROM_BUCKETS if is_url(first) else FROM_DISK) as pool:
        waiting: deque[tuple[int, Future[Loaded]]] = deque()
        try:
            of: str | None = None  # the volume that the records waiting are slices of
            for number, record in enumerate(records):
                if record.slice is not None and record.id != of:
                    while waiting:
                        yield from _next(waiting, budget)
                    of = record.id

                waiting.append((number, pool.submit(work, number, record)))
                if len(waiting) >= depth:
                    yield from _next(waiting, budget)
            while waiting:
                yield from _next(waiting, budget)
        finally:
            for _, future in waiting:
                future.cancel()
            budget.call(2**62)  # so that no thread waits for its turn any more
            pool.shutdown()


def _looked_at(records: Iterable[Record]) -> tuple[Path, Iterator[Record]]:
    """Return where the first of the records lies, and all records."""
    coming = iter(records)
    first = next(coming, None)
    return (Path(), coming) if first is None else (first.path, chain([first], coming))


def _next(waiting: deque[tuple[int, Future[Loaded]]], budget: MemoryBudget) -> Iterator[Loaded]:
    """Yield the next record. What is larger than the budget counts until the consumer asks for
    another one."""
    number, future = waiting.popleft()
    budget.call(number)
    loaded = future.result()
    size = pixels(loaded)
    kept = size if size > PIXELS_AHEAD else 0

    budget.leave(size - kept)
    del future
    yield loaded
    del loaded
    budget.leave(kept)


def pixels(loaded: Loaded) -> int:
    """Return as how many pixels a record counts in memory. A volume counts at least as the whole
    budget, so that volumes are in memory one at a time."""
    if isinstance(loaded, LoadedImage):
        return loaded.image.size
    if isinstance(loaded, LoadedVolume):
        return max(loaded.volume.slices.size, PIXELS_AHEAD)
    return 0


def in_chunks(items: Iterable[Loaded], size: int) -> Iterator[list[Loaded]]:
    """Yield up to `size` items at a time, fewer if they are large; a volume ends its chunk."""
    chunk: list[Loaded] = []
    for item in items:
        chunk.append(item)
        del item  # a volume is not to stay until the next one has been read
        if len(chunk) == size or sum(map(pixels, chunk)) >= PIXELS_AHEAD:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
