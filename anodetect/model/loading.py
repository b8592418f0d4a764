"""Files read ahead of the model: hashed, decoded and prepared, in bounded memory."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anodetect.data import readers
from anodetect.data.scan import Record, fills_memory
from anodetect.data.volumes import Volume
from anodetect.errors import AnodetectError, ConfigError, ImageError
from anodetect.imaging.preprocess import Prepared, Preprocess, PreprocessConfig
from anodetect.types import Bools, Floats

# An image, the volume it is a slice of, and its number there → what a detector sees of it, and
# where it counts.
Encode = Callable[[Floats, Prepared | None, int], tuple[Floats, Bools]]
BATCH = 16
LOOK_AHEAD = 3  # batches
PIXELS_AHEAD = 2**26  # 256 MB of float32; a single image may be larger


@dataclass(frozen=True)
class Loaded:
    """A record with its image [C, H, W], or a volume's slices [C, D, H, W], or the reason why there
    is none."""

    record: Record
    image: Floats | None = None
    encoded: tuple[Floats, Any] | None = None  # of an image
    volume: Prepared | None = None  # of a volume, and of a slice the one it is of
    sha256: str = ""
    error: str = ""
    elsewhere: bool = False  # another shard's; it was not decoded

    @property
    def is_volume(self) -> bool:
        return self.volume is not None and self.record.slice is None


def load(
    record: Record,
    preprocess: Preprocess | None = None,
    encode: Encode | None = None,
    mine: Callable[[str], bool] | None = None,
) -> Loaded:
    """Read and hash one file, and prepare it; only hash it if its hash is not `mine`. With `encode`
    an image comes with what a detector sees of it."""
    preprocess = preprocess or Preprocess(PreprocessConfig())
    sha256 = ""
    try:
        if record.slice is not None:
            return slice_of(_volume_of(record, preprocess), encode, record)
        source = readers.read_source(record)
        sha256 = source.sha256
        if mine and not mine(sha256):
            return Loaded(record, sha256=sha256, elsewhere=True)
        decoded = source.decode(preprocess.config.component)
        del source  # a file's bytes are not needed beside its voxels
        if isinstance(decoded, Volume):
            prepared = preprocess.prepare(decoded, readers.supplied_foreground(record, decoded))
            return Loaded(record, prepared.slices, None, prepared, sha256)
        return Loaded(record, decoded, encode(decoded, None, 0) if encode else None, sha256=sha256)
    except (
        Exception
    ) as error:  # also one that nobody thought of: a file must not end a night's work
        if isinstance(error, AnodetectError) and not isinstance(error, ImageError):
            raise
        # What was read belongs to the shard of its content, damaged or not; what was not, to that
        # of its name.
        if mine and not sha256 and not mine(readers.digest(record.id.encode())):
            return Loaded(record, elsewhere=True)
        return Loaded(record, sha256=sha256, error=why(error))


def why(error: Exception) -> str:
    """Why a file could not be used, in a line."""
    if isinstance(error, AnodetectError):
        return str(error)
    if isinstance(error, MemoryError):
        return "does not fit into memory"
    return f"please report: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def slice_records(loaded: Loaded, dims: int = 2) -> list[Record]:
    """The records of what there is to learn from: of a volume its slices with enough foreground,
    else the image; in three dimensions the volume."""
    if dims == 3 and loaded.volume is None:
        raise ConfigError(f"--dims 3 is for volumes, and {loaded.record.id} is an image")
    if dims == 3 or not loaded.is_volume or loaded.volume is None:
        return [loaded.record]
    return [replace(loaded.record, slice=int(number)) for number in loaded.volume.numbers]


def slice_of(loaded: Loaded, encode: Encode | None, record: Record) -> Loaded:
    """One slice of a volume as an image."""
    if loaded.volume is None or record.slice is None:
        return replace(loaded, record=record)
    image = np.ascontiguousarray(loaded.volume.slices[:, record.slice])
    encoded = encode(image, loaded.volume, record.slice) if encode else None
    return Loaded(record, image, encoded, loaded.volume, loaded.sha256)


_last: dict[
    str, Loaded
] = {}  # the volume whose slice was read last: slices of a volume are read one after another
_reading = threading.Lock()


def _volume_of(record: Record, preprocess: Preprocess) -> Loaded:
    """The volume of a slice, read once for slices that are asked for in a row."""
    key = f"{record.path} {record.component} {record.foreground} {preprocess.config} {preprocess.axis}"
    with _reading:
        if key not in _last:
            _last.clear()
            _last[key] = load(replace(record, slice=None), preprocess)
        return _last[key]


class _Gate:
    """Lets finished images wait for their turn as long as they are not too many pixels together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self.turn = limit, 0, 0
        self.outside, self.early = (
            0,
            set[int](),
        )  # the first that has not entered, and those after it that have
        self.changed = threading.Condition()

    def enter(self, number: int, pixels: int, *, in_order: bool = False) -> None:
        """Wait until there is room, `in_order` also until all before it have entered, or until it
        is this one's turn: what enters too early would be there beside the one whose turn it is."""

        def may() -> bool:
            room = self.held + pixels <= self.limit and not (in_order and number > self.outside)
            return room or number <= self.turn

        with self.changed:
            self.changed.wait_for(may)
            self.held += pixels
            self.early.add(number)
            while self.outside in self.early:
                self.early.remove(self.outside)
                self.outside += 1
            self.changed.notify_all()

    def call(self, number: int) -> None:
        """From now on it is this one's turn."""
        with self.changed:
            self.turn = number
            self.changed.notify_all()

    def leave(self, pixels: int) -> None:
        with self.changed:
            self.held -= pixels
            self.changed.notify_all()


def ahead(
    function: Callable[[Record], Loaded], items: Iterable[Record], depth: int = LOOK_AHEAD * BATCH
) -> Iterator[Loaded]:
    """Map in order on two threads, at most `depth` items and about PIXELS_AHEAD ahead of the
    consumer, so that memory stays flat however large the images are. A volume is not even read
    before there is room for it."""
    gate = _Gate(PIXELS_AHEAD)

    def work(number: int, item: Record) -> Loaded:
        if not fills_memory(item):
            loaded = function(item)
            gate.enter(number, pixels(loaded))
            return loaded
        gate.enter(number, PIXELS_AHEAD, in_order=True)
        loaded = function(item)
        gate.leave(PIXELS_AHEAD - pixels(loaded))  # it is not there if it could not be read
        return loaded

    with ThreadPoolExecutor(2) as pool:
        waiting: deque[tuple[int, Future[Loaded]]] = deque()
        try:
            for number, item in enumerate(items):
                waiting.append((number, pool.submit(work, number, item)))
                if len(waiting) >= depth:
                    yield _next(waiting, gate)
            while waiting:
                yield _next(waiting, gate)
        finally:
            for _, future in waiting:
                future.cancel()
            gate.call(2**62)  # whoever still waits at the gate may go home
            pool.shutdown()
            _last.clear()  # nobody asks for its slices any more


def _next(waiting: "deque[tuple[int, Future[Loaded]]]", gate: _Gate) -> Loaded:
    number, future = waiting.popleft()
    gate.call(number)
    loaded = future.result()
    gate.leave(pixels(loaded))
    return loaded


def pixels(loaded: Loaded) -> int:
    """What an image counts for in memory; a volume fills it, so that volumes are there one at a
    time."""
    if loaded.image is None:
        return 0
    return max(loaded.image.size, PIXELS_AHEAD) if loaded.is_volume else loaded.image.size


def in_chunks(items: Iterator[Loaded], size: int) -> Iterator[list[Loaded]]:
    """Up to `size` items at a time, fewer where they are large; a volume ends them."""
    chunk: list[Loaded] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size or sum(map(pixels, chunk)) >= PIXELS_AHEAD:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
