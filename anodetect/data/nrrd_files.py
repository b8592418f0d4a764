"""The bytes of an NRRD as voxels in native units, and where they lie: one file, or a header and its
data beside it."""

import bz2
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nrrd
import numpy as np

from anodetect.data.colours import COUNTS, as_colours
from anodetect.data.geometry import Affine
from anodetect.data.volumes import Volume, checked, volume_shape
from anodetect.errors import ImageError
from anodetect.words import amount

PIECE = 2**20  # bytes to inflate at a time
DATA_FILE = re.compile(rb"^data ?file:[ \t]*(.*?)\s*$", re.MULTILINE | re.IGNORECASE)
DATA_FIELDS = ("data file", "datafile")
NRRD_UNITS = {
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1e3),
    "cm": 10.0,
    **dict.fromkeys(("um", "micron", "microns", "micrometer", "micrometre"), 1e-3),
    "nm": 1e-6,
}
# Kinds of an axis that counts the components of voxels: of colours, and by their ends of others.
NRRD_COLOURS = ("rgb-color", "rgba-color", "3-color", "4-color")
NRRD_VECTORS = ("color", "complex", "gradient", "matrix", "normal", "quaternion", "vector")
NRRD_BYTES = ("unsigned char", "uchar", "uint8", "uint8_t")
# The signs that take x and y to LPS+.
NRRD_SPACES = {
    "left-posterior-superior": (1, 1),
    "lps": (1, 1),
    "right-anterior-superior": (-1, -1),
    "ras": (-1, -1),
    "left-anterior-superior": (1, -1),
    "las": (1, -1),
}


def decode_nrrd(content: bytes, component: int | None = None) -> Volume:
    """Return the volume in the bytes of an NRRD file with its data inside; vectors along the first
    or last axis count as components."""
    stream = io.BytesIO(content)
    header = _header(stream)
    if any(field in header for field in DATA_FIELDS):
        raise ImageError(
            "its data lie in another file; call it .nhdr, or convert to one file with the data "
            "inside"
        )
    text = content[: stream.tell()]
    return _volume(header, text, content[stream.tell() :], component)


def nhdr_data(path: Path, content: bytes) -> str:
    """Return the name of the file with the data of an NRRD header; ImageError if there are
    several."""
    found = DATA_FILE.search(content)
    name = found[1].decode("utf-8", "surrogateescape") if found else ""
    if re.match(r"LIST\b", name) or re.search(r"%\d*d", name):
        raise ImageError("its data lie in several files; convert to one file with the data inside")
    return name


def decode_nhdr(content: bytes, component: int | None = None, data: bytes = b"") -> Volume:
    """Return the volume of an NRRD header whose data lie in another file."""
    header = _header(io.BytesIO(content))
    if not any(field in header for field in DATA_FIELDS):
        raise ImageError("it names no data file; a file with the data inside is called .nrrd")
    for field in DATA_FIELDS:
        header.pop(field, None)  # pynrrd would look for the file
    return _volume(header, content, data, component)


def _header(stream: io.BytesIO) -> Any:
    """Return an NRRD header; ImageError if it is none."""
    try:
        return nrrd.read_header(stream)
    except (nrrd.NRRDError, ValueError):
        raise ImageError("not the header of an NRRD, or a value in it is none") from None


def _volume(header: Any, text: bytes, body: bytes, component: int | None) -> Volume:
    """Return the volume of a header, with its `text`, and the bytes of its data."""
    sizes = [int(size) for size in header["sizes"]]
    axes, affine = nrrd_space(header, _nrrd_units(text))
    in_space = [sizes[axis] for axis in axes]
    others = [size for axis, size in enumerate(sizes) if axis not in axes]
    vectors, coloured = _voxels_are(header, axes, others)
    coloured = coloured and component is None
    volume_shape(tuple(in_space if coloured else in_space + others), component, vectors=vectors)
    _check_inflated(header, body, sizes)

    try:
        array = np.moveaxis(nrrd.read_data(header, io.BytesIO(body)), axes, (0, 1, 2))
    except (nrrd.NRRDError, ValueError):
        raise ImageError("damaged, or not as many voxels as its header says") from None
    if array.dtype.kind not in "uif":
        raise ImageError(f"values of type {array.dtype}; numbers are expected")
    components = array.reshape(*array.shape[:3], -1)
    if coloured:
        return checked(Volume(as_colours(components), affine))
    chosen = components[..., component or 0]
    return checked(Volume(np.asarray(chosen, np.float32)[None], affine))


def _voxels_are(header: Any, axes: list[int], others: list[int]) -> tuple[bool, bool]:
    """Return whether voxels are vectors, by the kind of the axis that is none of the `axes` in
    space and has so many components as `others`, and whether they are colours."""
    kinds = [str(kind).casefold() for kind in header.get("kinds", ())]
    beyond = [kind for axis, kind in enumerate(kinds) if axis not in axes]
    if len(others) != 1 or len(beyond) != 1:
        return False, False
    (count,), (kind,) = others, beyond

    of_bytes = kind.endswith("vector") and header["type"] in NRRD_BYTES
    coloured = count in COUNTS and (kind in NRRD_COLOURS or of_bytes)
    return kind.endswith(NRRD_VECTORS), coloured


def _nrrd_units(text: bytes) -> list[float]:
    """Return the units of the three directions of space in millimetres, from the header's text:
    pynrrd reads µm as metres."""
    line = re.search(rb"^space units:(.*)$", text, re.MULTILINE | re.IGNORECASE)
    if line is None:
        return [1.0, 1.0, 1.0]
    names = re.findall(r'"([^"]*)"', re.sub("\ufffd+", "u", line[1].decode("ascii", "replace")))
    lengths = [NRRD_UNITS.get(name.strip().lower(), 1.0) for name in names]
    return lengths if len(lengths) == 3 else [1.0, 1.0, 1.0]


def nrrd_space(header: Any, units: list[float]) -> tuple[list[int], Affine]:
    """Return the axes that lie in space, and the matrix from their index to LPS+ millimetres."""
    space = str(header.get("space", "")).lower()
    if space not in NRRD_SPACES or "space directions" not in header:
        raise ImageError(
            "the NRRD does not say how the volume lies in the patient (space, space directions)"
        )

    directions = [np.asarray(each) for each in header["space directions"]]
    axes = [axis for axis, each in enumerate(directions) if not np.isnan(each).all()]
    if len(axes) != 3:
        raise ImageError(
            f"{amount(len(axes), 'axis lies', 'axes lie')} in space; a volume has three"
        )

    affine = np.eye(4)
    affine[:3, :3] = np.stack([directions[axis] for axis in axes], axis=1)
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    return axes, np.diag([*NRRD_SPACES[space], 1.0, 1.0]) @ np.diag([*units, 1.0]) @ affine


def _check_inflated(header: Any, body: bytes, sizes: list[int]) -> None:
    """Raise ImageError if a compressed body holds more than its header has voxels for, or is of an
    encoding that cannot be read."""
    encoding = str(header.get("encoding", ""))
    if encoding in ("raw", "ASCII", "ascii", "text", "txt"):
        return
    if encoding not in ("gzip", "gz", "bzip2", "bz2"):
        raise ImageError(
            f"an NRRD of encoding {encoding!r}; raw, ascii, gzip and bzip2 can be read"
        )

    most, total = int(np.prod(sizes, dtype=np.int64)) * 8, 0
    pieces = _gunzipped(body) if encoding.startswith("g") else _bunzipped(body)
    for piece in pieces:
        total += len(piece)
        if total > most:
            raise ImageError("it inflates to more than its header has voxels for")


def _gunzipped(body: bytes) -> Iterator[bytes]:
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
    while body and not inflate.eof:
        yield inflate.decompress(body, PIECE)
        body = inflate.unconsumed_tail


def _bunzipped(body: bytes) -> Iterator[bytes]:
    inflate = bz2.BZ2Decompressor()
    while not inflate.eof and (body or not inflate.needs_input):
        yield inflate.decompress(body, PIECE)
        body = b""
