"""The bytes of a NIfTI or NRRD file as voxels in native units, and where they lie. DICOM is in
dicom.py.

Only as many bytes are decompressed as the header has voxels for, and a header that claims too many
is refused before. What libraries raise on damaged files is left to `readers`, which gives the
reason.
"""

import bz2
import gzip
import io
import logging
import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np

from anodetect.data.geometry import FLIP_XY, Affine, check_affine
from anodetect.errors import ImageError
from anodetect.types import Floats

MAX_VOXELS = 2**29  # 2 GB of float32
PIECE = 2**20  # bytes to inflate at a time
FIXED_UNITS = ("CT",)  # modalities whose values mean the same in every volume
# Codes of metre and micrometre, in millimetres; other codes count as millimetres.
NIFTI_UNITS = {1: 1e3, 3: 1e-3}
NRRD_UNITS = {
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1e3),
    "cm": 10.0,
    **dict.fromkeys(("um", "micron", "microns", "micrometer", "micrometre"), 1e-3),
    "nm": 1e-6,
}
# The signs that take x and y to LPS+.
NRRD_SPACES = {
    "left-posterior-superior": (1, 1),
    "lps": (1, 1),
    "right-anterior-superior": (-1, -1),
    "ras": (-1, -1),
    "left-anterior-superior": (1, -1),
    "las": (1, -1),
}

# nibabel reports on stderr what it corrects in a header; what matters here is checked before, and
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
    """Return the volume in the bytes of a NIfTI-1 or -2 file, compressed or not; of a 4-D file the
    volume number `component`, from 0. With `holes` voxels may be NaN, as in maps."""
    stream = _inflated(content)
    kind = nib.Nifti2Image if _header_size(stream) == 540 else nib.Nifti1Image
    stream.seek(0)
    header = kind.header_class.from_fileobj(stream, check=False)

    shape = _volume_shape(header.get_data_shape(), component)
    zooms = np.asarray(header["pixdim"][1:4], float)
    if not (zooms > 0).all():
        x, y, z = zooms
        raise ImageError(f"voxel spacing {x:g} × {y:g} × {z:g} mm; correct the header")
    if header["qform_code"] == 0 and header["sform_code"] == 0:
        raise ImageError(
            "neither qform nor sform says how the volume lies in the patient; set one of them"
        )

    stream.seek(0)
    holder = nib.FileHolder(fileobj=stream)
    image = kind.from_file_map({"header": holder, "image": holder})
    array = _voxels(image.dataobj, shape, component)
    unit = NIFTI_UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
    affine = FLIP_XY @ np.diag([unit, unit, unit, 1.0]) @ image.affine
    volume = Volume(array, affine, origin=image.header)
    return volume if holes else checked(volume)


def volumes_in(path: Path) -> int | None:
    """Return how many volumes the header of a NIfTI or NRRD file names; None if it cannot be read
    or the file is of another format."""
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            return int(np.prod(nib.load(path).header.get_data_shape()[3:], dtype=np.int64))
        if name.endswith(".nrrd"):
            header = nrrd.read_header(str(path))
            axes, _ = _nrrd_space(header, [1.0, 1.0, 1.0])
            sizes = [int(size) for size in header["sizes"]]
            return math.prod(size for axis, size in enumerate(sizes) if axis not in axes)
    except Exception:  # decoding the file will say what is wrong with it
        return None
    return None


def _inflated(content: bytes) -> Any:
    """Return a stream of a file's bytes, decompressed where they are gzipped."""
    stream = io.BytesIO(content)
    return gzip.GzipFile(fileobj=stream) if content[:2] == b"\x1f\x8b" else stream


def _header_size(stream: Any) -> int:
    """Return 348 for a NIfTI-1 file, 540 for a NIfTI-2 file; ImageError if it is neither."""
    start = stream.read(4)
    for size in (int.from_bytes(start, "little"), int.from_bytes(start, "big")):
        if size in (348, 540):
            return size
    raise ImageError("not a NIfTI file")


def _volume_shape(shape: tuple[int, ...], component: int | None) -> tuple[int, int, int]:
    """Return the three sides of a volume in an array whose axes beyond the third count components;
    ImageError if it is no volume, too large, or has no such component."""
    if len(shape) < 3:
        raise ImageError(f"{len(shape)}-D data; a volume has three axes")
    sides, count = shape[:3], int(np.prod(shape[3:], dtype=np.int64))
    if min(shape) < 1:
        raise ImageError(f"an empty volume, {' × '.join(map(str, shape))}")
    if np.prod(sides, dtype=np.float64) > MAX_VOXELS:
        raise ImageError(f"{' × '.join(map(str, sides))} is more than {MAX_VOXELS} voxels")

    if count > 1 and component is None:
        raise ImageError(
            f"{count} volumes in one file; choose one: --set component=0, "
            "or a column 'component' in manifest.csv"
        )
    if component is not None and not 0 <= component < count:
        raise ImageError(f"no component {component} in a file of {count} volumes")
    return int(sides[0]), int(sides[1]), int(sides[2])


def _voxels(proxy: Any, shape: tuple[int, int, int], component: int | None) -> Floats:
    """Return the voxels of an array proxy [1, I, J, K]; of colours [3, I, J, K]."""
    if proxy.dtype.names:  # RGB24, RGBA32
        array = np.asarray(proxy.get_unscaled()).reshape(*shape, -1, order="F")[..., component or 0]
        return np.stack([array[name] for name in ("R", "G", "B")]).astype(np.float32)
    if proxy.dtype.kind not in "uif":
        raise ImageError(f"values of type {proxy.dtype}; numbers are expected")
    if proxy.ndim > 3 and component is not None:
        place = np.unravel_index(component, proxy.shape[3:], order="F")
        chosen = proxy[(..., *map(int, place))]
        return np.asarray(chosen, np.float32).reshape(1, *shape)
    return np.asarray(proxy, np.float32).reshape(1, *shape)


def decode_nrrd(content: bytes, component: int | None = None) -> Volume:
    """Return the volume in the bytes of an NRRD file with its data inside; vectors along the first
    or last axis count as components."""
    stream = io.BytesIO(content)
    header = nrrd.read_header(stream)
    if "data file" in header or "datafile" in header:
        raise ImageError("its data lie in another file; convert to one file with the data inside")

    sizes = [int(size) for size in header["sizes"]]
    axes, affine = _nrrd_space(header, _nrrd_units(content[: stream.tell()]))
    in_space = [sizes[axis] for axis in axes]
    others = [size for axis, size in enumerate(sizes) if axis not in axes]
    _volume_shape((*in_space, *others), component)
    _check_inflated(header, content[stream.tell() :], sizes)

    array = np.moveaxis(nrrd.read_data(header, stream), axes, (0, 1, 2))
    if array.dtype.kind not in "uif":
        raise ImageError(f"values of type {array.dtype}; numbers are expected")
    sides = array.shape[:3]
    chosen = array.reshape(*sides, -1)[..., component or 0]
    return checked(Volume(np.asarray(chosen, np.float32)[None], affine))


def _nrrd_units(text: bytes) -> list[float]:
    """Return the units of the three directions of space in millimetres, from the header's text:
    pynrrd reads µm as metres."""
    line = re.search(rb"^space units:(.*)$", text, re.MULTILINE | re.IGNORECASE)
    if line is None:
        return [1.0, 1.0, 1.0]
    names = re.findall(r'"([^"]*)"', re.sub("\ufffd+", "u", line[1].decode("ascii", "replace")))
    lengths = [NRRD_UNITS.get(name.strip().lower(), 1.0) for name in names]
    return lengths if len(lengths) == 3 else [1.0, 1.0, 1.0]


def _nrrd_space(header: Any, units: list[float]) -> tuple[list[int], Affine]:
    """Return the axes that lie in space, and the matrix from their index to LPS+ millimetres."""
    space = str(header.get("space", "")).lower()
    if space not in NRRD_SPACES or "space directions" not in header:
        raise ImageError(
            "the NRRD does not say how the volume lies in the patient (space, space directions)"
        )

    directions = [np.asarray(each) for each in header["space directions"]]
    axes = [axis for axis, each in enumerate(directions) if not np.isnan(each).all()]
    if len(axes) != 3:
        raise ImageError(f"{len(axes)} axes lie in space; a volume has three")

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


def checked(volume: Volume) -> Volume:
    """Return the volume; ImageError if it has no place in space, or its values are no numbers."""
    check_affine(volume.affine)
    voxels = volume.voxels
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(voxels.sum(dtype=np.float64))
    if not finite:
        bad = voxels.size - int(np.isfinite(voxels).sum())
        raise ImageError(f"{bad} voxels are NaN or infinite; replace them")
    return volume


def same_grid(one: Volume, other: Volume) -> bool:
    """Return whether two volumes have the same sides and lie in the same place, to a hundredth of a
    millimetre."""
    if one.voxels.shape[1:] != other.voxels.shape[1:]:
        return False
    return bool(np.allclose(one.affine, other.affine, atol=0.01))
