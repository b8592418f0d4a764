"""A medical volume from a file → voxels in native units and where they lie. NIfTI and NRRD; DICOM
is in dicom.py.

Only as many bytes are decompressed as the header has voxels for, and a header that claims too many
is refused before. What libraries raise on damaged files is left to `readers`, which gives the
reason.
"""

import bz2
import gzip
import io
import logging
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import nrrd
import numpy as np

from anodetect.data.geometry import FLIP_XY, Affine, check_affine
from anodetect.errors import ImageError
from anodetect.types import Floats

MAX_VOXELS = 2**29  # 2 GB of float32
PIECE = 2**20  # bytes to inflate at a time
NIFTI_UNITS = {
    1: 1e3,
    3: 1e-3,
}  # codes of metre and micrometre, in millimetres; others count as millimetres
NRRD_UNITS = {"cm": 10.0, "nm": 1e-6} | {
    name: length
    for names, length in (
        ("m meter metre meters metres", 1e3),
        ("um micron microns micrometer micrometre", 1e-3),
    )
    for name in names.split()
}

# What nibabel mends in a header it says on stderr; what matters here is checked before, and
# refused.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Volume:
    """Voxels float32 [C, I, J, K] in native units, in the source's own order.

    `affine` takes an index (i, j, k, 1) to LPS+ millimetres. `modality` is DICOM's: "CT" values are
    Hounsfield units. `origin` is what a map in the same geometry is written from: a NIfTI header, a
    DICOM `Series`, or None.
    """

    voxels: Floats
    affine: Affine
    modality: str = ""
    origin: Any = None


def decode_nifti(content: bytes, component: int | None = None, *, holes: bool = False) -> Volume:
    """A NIfTI-1 or -2 file's bytes, compressed or not; of a 4-D file the volume number `component`,
    from 0. With `holes` voxels may be NaN, as in maps."""
    stream = _inflated(content)
    kind = nib.Nifti2Image if _header_size(stream) == 540 else nib.Nifti1Image
    stream.seek(0)
    header = kind.header_class.from_fileobj(stream, check=False)
    shape = _volume_shape(header.get_data_shape(), component)
    zooms = np.asarray(header["pixdim"][1:4], float)
    if not (zooms > 0).all():
        raise ImageError(f"voxel spacing {' × '.join(f'{z:g}' for z in zooms)} mm; mend the header")
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        raise ImageError(
            "neither qform nor sform says how the volume lies in the patient; set one of them"
        )
    stream.seek(0)
    image = kind.from_file_map(
        {"header": nib.FileHolder(fileobj=stream), "image": nib.FileHolder(fileobj=stream)}
    )
    array = _voxels(image.dataobj, shape, component)
    unit = NIFTI_UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
    volume = Volume(
        array, FLIP_XY @ np.diag([unit, unit, unit, 1.0]) @ image.affine, origin=image.header
    )
    return volume if holes else checked(volume)


def _inflated(content: bytes) -> Any:
    return (
        gzip.GzipFile(fileobj=io.BytesIO(content))
        if content[:2] == b"\x1f\x8b"
        else io.BytesIO(content)
    )


def _header_size(stream: Any) -> int:
    """348 of a NIfTI-1 file, 540 of a NIfTI-2 file; ImageError if it is neither."""
    start = stream.read(4)
    for size in (int.from_bytes(start, "little"), int.from_bytes(start, "big")):
        if size in (348, 540):
            return size
    raise ImageError("not a NIfTI file")


def _volume_shape(shape: tuple[int, ...], component: int | None) -> tuple[int, int, int]:
    """The three sides, all axes beyond the third in one; ImageError if the component asked for is
    not there."""
    if len(shape) < 3:
        raise ImageError(f"{len(shape)}-D data; a volume has three axes")
    sides, count = shape[:3], int(np.prod(shape[3:], dtype=np.int64))
    if min(shape) < 1:
        raise ImageError(f"an empty volume, {' × '.join(map(str, shape))}")
    if np.prod(sides, dtype=np.float64) > MAX_VOXELS:
        raise ImageError(f"{' × '.join(map(str, sides))} is more than {MAX_VOXELS} voxels")
    if count > 1 and component is None:
        raise ImageError(
            f"{count} volumes in one file; choose one: --set component=0, or a column 'component' in manifest.csv"
        )
    if component is not None and not 0 <= component < count:
        raise ImageError(f"no component {component} in a file of {count} volumes")
    return int(sides[0]), int(sides[1]), int(sides[2])


def _voxels(proxy: Any, shape: tuple[int, int, int], component: int | None) -> Floats:
    """[1, I, J, K] of an array proxy; colour [3, I, J, K]."""
    if proxy.dtype.names:  # RGB24, RGBA32
        array = np.asarray(proxy.get_unscaled()).reshape(*shape, -1, order="F")[..., component or 0]
        return np.stack([array[name] for name in ("R", "G", "B")]).astype(np.float32)
    if proxy.dtype.kind not in "uif":
        raise ImageError(f"values of type {proxy.dtype}; numbers are expected")
    if proxy.ndim > 3 and component is not None:
        place = np.unravel_index(component, proxy.shape[3:], order="F")
        return np.asarray(proxy[(..., *(int(at) for at in place))], np.float32).reshape(1, *shape)
    return np.asarray(proxy, np.float32).reshape(1, *shape)


def decode_nrrd(content: bytes, component: int | None = None) -> Volume:
    """An NRRD file with its data inside; vectors along the first or last axis count as components."""
    stream = io.BytesIO(content)
    header = nrrd.read_header(stream)
    if "data file" in header or "datafile" in header:
        raise ImageError("its data lie in another file; convert to one file with the data inside")
    sizes = [int(size) for size in header["sizes"]]
    axes, affine = _nrrd_space(header, _nrrd_units(content[: stream.tell()]))
    _volume_shape(
        (*(sizes[a] for a in axes), *(s for a, s in enumerate(sizes) if a not in axes)), component
    )
    _check_inflated(header, content[stream.tell() :], sizes)
    array = np.moveaxis(nrrd.read_data(header, stream), axes, (0, 1, 2))
    if array.dtype.kind not in "uif":
        raise ImageError(f"values of type {array.dtype}; numbers are expected")
    sides = array.shape[:3]
    chosen = array.reshape(*sides, -1)[..., component or 0]
    return checked(Volume(np.asarray(chosen, np.float32)[None], affine))


def _nrrd_units(text: bytes) -> list[float]:
    """What lengths along the three directions of space are in millimetres."""
    line = re.search(rb"^space units:(.*)$", text, re.MULTILINE | re.IGNORECASE)
    said = (
        re.sub("\ufffd+", "u", line[1].decode("ascii", "replace")) if line else ""
    )  # pynrrd makes metres of µm
    lengths = [NRRD_UNITS.get(name.strip().lower(), 1.0) for name in re.findall(r'"([^"]*)"', said)]
    return lengths if len(lengths) == 3 else [1.0, 1.0, 1.0]


def _nrrd_space(header: Any, units: list[float]) -> tuple[list[int], Affine]:
    """The axes that lie in space, and the affine to LPS+ millimetres."""
    signs = {
        "left-posterior-superior": (1, 1),
        "right-anterior-superior": (-1, -1),
        "left-anterior-superior": (1, -1),
    }
    short = {
        "LPS": "left-posterior-superior",
        "RAS": "right-anterior-superior",
        "LAS": "left-anterior-superior",
    }
    space = str(header.get("space", ""))
    space = short.get(space.upper(), space.lower())
    if space not in signs or "space directions" not in header:
        raise ImageError(
            "the NRRD does not say how the volume lies in the patient (space, space directions)"
        )
    directions = {
        n: np.asarray(d) for n, d in enumerate(header["space directions"]) if not np.isnan(d).all()
    }
    axes = list(directions)
    if len(axes) != 3:
        raise ImageError(f"{len(axes)} axes lie in space; a volume has three")
    affine = np.eye(4)
    affine[:3, :3] = np.stack(list(directions.values()), axis=1)
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    return axes, np.diag([*signs[space], 1.0, 1.0]) @ np.diag([*units, 1.0]) @ affine


def _check_inflated(header: Any, body: bytes, sizes: list[int]) -> None:
    """ImageError if a compressed body holds more than its header has voxels for, or it is not known
    how to read it."""
    encoding = str(header.get("encoding", ""))
    if encoding in ("raw", "ASCII", "ascii", "text", "txt"):
        return
    if encoding not in ("gzip", "gz", "bzip2", "bz2"):
        raise ImageError(
            f"an NRRD of encoding {encoding!r}; raw, ascii, gzip and bzip2 can be read"
        )
    most, total = int(np.prod(sizes, dtype=np.int64)) * 8, 0
    for piece in _gunzipped(body) if encoding.startswith("g") else _bunzipped(body):
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


def checked(volume: Volume) -> Volume:
    """The volume; ImageError if it lies nowhere, or its values are no numbers."""
    check_affine(volume.affine)
    voxels = volume.voxels
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(voxels.sum(dtype=np.float64))
    if not finite:
        bad = voxels.size - int(np.isfinite(voxels).sum())
        raise ImageError(f"{bad} voxels are NaN or infinite; replace them")
    return volume


def same_grid(one: Volume, other: Volume) -> bool:
    """Whether two volumes have the same sides and lie in the same place, to a hundredth of a
    millimetre."""
    sides = one.voxels.shape[1:]
    return sides == other.voxels.shape[1:] and bool(
        np.allclose(one.affine, other.affine, atol=0.01)
    )
