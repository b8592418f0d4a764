"""Where a labelled image or volume is anomalous, as its mask says."""

from hashlib import sha256
from pathlib import Path

import numpy as np

from anodetect.config import canonical
from anodetect.data import readers
from anodetect.data.annotations import is_annotation, read_annotation
from anodetect.data.geometry import Geometry
from anodetect.data.records import Record
from anodetect.data.volumes import Volume
from anodetect.errors import ImageError
from anodetect.types import Bools

JPEG = b"\xff\xd8\xff"


def read_truth(
    record: Record, shape: tuple[int, ...], grid: tuple[Volume, Geometry] | None = None
) -> Bools | None:
    """Return where any of a record's masks says that it is anomalous, bool [H, W]; None if it has
    no mask. A mask may be a file of annotations, which may not list the image.

    With `grid`, a volume and its geometry, masks are volumes and the truth is returned as [D,
    H, W] in the order of the slices. Raises ImageError if a mask cannot be read or has another
    `shape`.
    """
    truth: Bools | None = None
    mask: Bools | None
    for path in record.masks:
        if is_annotation(path):
            mask = read_annotation(path, record.path, shape)
        else:
            mask = readers.volume_mask(path, *grid) if grid else readers.read_mask(path)
        if mask is None:
            continue
        if mask.shape != shape:
            raise ImageError(f"its size {mask.shape} is not the image's {shape}")
        truth = mask if truth is None else truth | mask
    return truth


def truth_hash(truth: Bools) -> str:
    """Return the SHA-256 of a true mask as hexadecimal digits: of its shape as JSON, and of a byte
    for each pixel, 1 where it is anomalous and 0 elsewhere, row by row."""
    digest = sha256(canonical(list(truth.shape)))
    for part in truth:  # a volume in another order is not copied as a whole
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def is_lossy(record: Record) -> bool:
    """Return whether a mask of the record was compressed with loss, as JPEG is and WebP may be, so
    that pixels are marked from the middle of their values on."""
    return any(_starts_lossy(_start_of(path)) for path in record.masks)


def _starts_lossy(start: bytes) -> bool:
    """Return whether a file that starts so is a JPEG, or a WebP compressed with loss."""
    return start.startswith(JPEG) or start[8:16] == b"WEBPVP8 "


def _start_of(path: Path) -> bytes:
    """Return a file's first 16 bytes, none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError:  # reading the mask says why
        return b""
