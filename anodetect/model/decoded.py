"""Decoded files in scratch space on the disk, so that a training decodes each file only once.

A training looks at its images several times: to check them, to learn from them, to calibrate with
them. Reading pixels back is much faster than decoding a compressed file again.
"""

import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from anodetect.data.readers import DecodedChannel
from anodetect.data.volumes import Volume
from anodetect.imaging.brain import PreparedBrain
from anodetect.types import Bools, Floats

SCRATCH = 2**31  # bytes of scratch for what is decoded first
SCRATCH_OF_BRAINS = 2**35  # where files are prepared, which takes much longer than to decode them
SPARE = 2**28  # bytes more, for files that are known to be needed a third time
INTEGERS = (np.uint8, np.uint16, np.int16)  # types that may hold the same values in less space


@dataclass(frozen=True)
class Decoded:
    """The content of a file in native units, an image [C, H, W] or a volume, and the foreground
    [H, W] or [I, J, K] that a manifest names for it.

    `pixels` is the hash of the content. `sample_type` is the type of an image's samples, such as
    "uint8"; "" where values have units of their own. With `mirrored` the file has its columns the
    other way round. `channels` are the files of several channels. With `brain` the volume and the
    foreground are those of a brain that was prepared; else it is None.
    """

    sha256: str
    content: Floats | Volume
    foreground: Bools | None = None
    pixels: str = ""
    sample_type: str = ""
    mirrored: bool = False
    channels: tuple[DecodedChannel, ...] = ()
    brain: PreparedBrain | None = None


@dataclass(frozen=True)
class _Array:
    """The place of an array in the scratch file."""

    start: int
    shape: tuple[int, ...]
    dtype: DTypeLike
    column_major: bool


@dataclass(frozen=True)
class _Entry:
    """A decoded file of which the arrays lie in the scratch file; those of `decoded` are empty."""

    decoded: Decoded
    values: _Array
    foreground: _Array | None


class DecodedFiles:
    """Keeps decoded files by their records' ids in a file without a name, of at most `limit` bytes.

    The file lies in `folder`, or in the nearest folder above it that exists, and vanishes with the
    process however that ends. An image is stored as it was decoded; a volume as its voxels, place
    and supplied foreground, without `Volume.origin`, which only writers of maps need. Slices and
    foregrounds are found anew at each reading, because they depend on what was learned meanwhile.
    Values come back bit for bit; they are stored as integers of 8 or 16 bits where these hold them.
    Where the limit is reached, or the disk is full, files are not kept.
    """

    def __init__(self, folder: Path, limit: int = SCRATCH) -> None:
        self.folder, self.limit = folder, limit
        self.wanted: frozenset[str] | None = None  # None if all are
        self.size = 0
        self._file: IO[bytes] | None = None
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "DecodedFiles":
        return self

    def __exit__(self, *error: object) -> None:
        self.limit = 0
        self._entries.clear()
        if self._file is not None:
            self._file.close()

    def keep_only(self, names: Iterable[str]) -> None:
        """Store from now on these files only, in up to SPARE bytes more; what is there stays."""
        if self.limit:
            self.wanted = frozenset(names)
            self.limit += SPARE

    def put(self, name: str, decoded: Decoded) -> None:
        """Store a file's content if there is room and it is wanted."""
        content = decoded.content
        values = content.voxels if isinstance(content, Volume) else content
        if not self.limit or (self.wanted is not None and name not in self.wanted):
            return

        nothing = np.zeros(0, np.float32)
        empty: Floats | Volume = nothing
        if isinstance(content, Volume):
            empty = replace(content, voxels=nothing, origin=None)
        stored, foreground = _smallest(values), decoded.foreground
        needed = stored.nbytes + (0 if foreground is None else foreground.nbytes)

        with self._lock:
            if name in self._entries or self.size + needed > self.limit:
                return
            try:
                place = self._append(stored)
                inside = None if foreground is None else self._append(foreground)
            except OSError:  # no space left, or no right to write here
                self.limit = 0
                return
            brain = decoded.brain
            if brain is not None and isinstance(empty, Volume):
                brain = replace(brain.without_native(), volume=empty, inside=None)
            without = replace(decoded, content=empty, foreground=None, brain=brain)
            self._entries[name] = _Entry(without, place, inside)

    def get(self, name: str) -> Decoded | None:
        """Return a file's content, None if it was not stored."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return None
            values = self._read(entry.values)
            foreground = None if entry.foreground is None else self._read(entry.foreground)

        pixels = values.astype(np.float32, copy=False)
        empty = entry.decoded.content
        content = replace(empty, voxels=pixels) if isinstance(empty, Volume) else pixels
        brain = entry.decoded.brain
        if brain is not None and isinstance(content, Volume):
            brain = replace(brain, volume=content, inside=foreground)
        return replace(entry.decoded, content=content, foreground=foreground, brain=brain)

    def _append(self, array: NDArray[Any]) -> _Array:
        """Write an array to the end of the file, in its own order in memory."""
        if self._file is None:
            folder = self.folder.absolute()
            while not folder.is_dir():
                folder = folder.parent
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, closed by __exit__

        column_major = array.flags.f_contiguous and not array.flags.c_contiguous
        self._file.seek(self.size)
        self._file.write(array.ravel("F" if column_major else "C").view(np.uint8).data)
        place = _Array(self.size, array.shape, array.dtype, column_major)
        self.size += array.nbytes
        return place

    def _read(self, place: _Array) -> NDArray[Any]:
        assert self._file is not None
        flat = np.empty(int(np.prod(place.shape)), place.dtype)
        self._file.seek(place.start)
        self._file.readinto(flat.view(np.uint8))  # type: ignore[attr-defined]
        return flat.reshape(place.shape, order="F" if place.column_major else "C")


def _smallest(values: Floats) -> NDArray[Any]:
    """Return float32 values as the smallest integers that give the same bits again, else as they
    are."""
    low, high = values.min(), values.max()
    for dtype in INTEGERS:
        limits = np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            smaller = values.astype(dtype)
            if np.array_equal(smaller.astype(np.float32).view(np.int32), values.view(np.int32)):
                return smaller
    return values
