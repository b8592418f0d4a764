"""The bytes of a NIfTI, Analyze or FreeSurfer file as voxels in native units, and where they lie.
Other formats have modules of their own: dicom.py, nrrd_files.py and metaimage.py.

Only as many bytes are decompressed as the header has voxels for, and a header that claims too many
is refused before. What libraries raise on damaged files is left to `readers`, which gives the
reason.
"""

import gzip
import io
import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anodetect.data.colours import as_colours, is_coloured_nifti, is_vector_nifti
from anodetect.data.formats import GZIP
from anodetect.data.geometry import FLIP_XY, Affine, Geometry, along, check_affine
from anodetect.data.nifti_forms import note_of_forms, unit_of
from anodetect.data.uneven import Doubles, describe
from anodetect.errors import ImageError
from anodetect.types import Bools, Floats
from anodetect.words import amount

MAX_VOXELS = 2**29  # 2 GB of float32
SURROUNDED = 0.5  # share of a volume's surface that is NaN, from which on NaN is its background
FIXED_UNITS = ("CT",)  # modalities whose values mean the same in every volume
MAGICS, MOST_AXES = (b"n+1", b"ni1", b"n+2", b"ni2"), 7
MGH_START = struct.Struct(">7ih")  # version, four sides, type, degrees of freedom, is it placed

# nibabel reports on stderr what it corrects in a header; what matters here is checked before, and
# refused.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Volume:
    """Voxels float32 [C, I, J, K] in native units, in the source's own order.

    `affine` takes an index (i, j, k, 1) to LPS+ millimetres. `modality` is DICOM's: "CT" values are
    Hounsfield units. `origin` is what a map in the same geometry is written from: a NIfTI header, a
    DICOM `Series`, or None. Where slices along the first axis do not lie at even distances on a
    straight line, `places` [I, 3] are the millimetres of their first voxels, and the affine goes
    from the first to the last of them. If it `is_pictures`, its slices are images that stand for
    themselves, without a place in the patient, and the affine has no more than distances of pixels.
    `note` is what is to be known of its place or its values, for a user to read; "" if nothing is.
    """

    voxels: Floats
    affine: Affine
    modality: str = ""
    origin: Any = None
    places: Doubles | None = None
    is_pictures: bool = False
    note: str = ""

    @property
    def unevenness(self) -> str:
        """Return in words how slices lie where they are not even; else ""."""
        return "" if self.places is None else describe(self.places, self.affine)

    def geometry(self, plane: str = "auto") -> Geometry:
        """Return where voxels lie when the volume is sliced along a plane; see `along`."""
        _, i, j, k = self.voxels.shape
        return along((i, j, k), self.affine, plane, self.places)


def decode_nifti(content: bytes, component: int | None = None, *, holes: bool = False) -> Volume:
    """Return the volume in the bytes of a NIfTI-1 or -2 file, compressed or not; of a 4-D file the
    volume number `component`, from 0; of a 2-D file its one slice. With `holes` voxels may be NaN,
    as in maps, and need not have a place in the patient."""
    import nibabel as nib  # takes a while, and images do not need it

    stream = _inflated(content)
    kind = nib.Nifti2Image if _header_size(stream) == 540 else nib.Nifti1Image
    stream.seek(0)
    return _nifti(kind, {"header": stream, "image": stream}, component, holes=holes)


def _nifti(
    kind: Any, streams: Mapping[str, Any], component: int | None, *, holes: bool = False
) -> Volume:
    """Return the volume of a NIfTI whose header and image are read from `streams`."""
    header = kind.header_class.from_fileobj(streams["header"], check=False)
    if header["magic"].item() not in MAGICS:
        raise ImageError("a header without NIfTI's magic; it is damaged, or of another format")
    if not 1 <= int(header["dim"][0]) <= MOST_AXES:
        raise ImageError(f"a number of axes (dim[0]) that is not 1 to {MOST_AXES}")
    coloured = component is None and is_coloured_nifti(header)
    sides = header.get_data_shape()[: 3 if coloured else None]
    shape = volume_shape(sides, component, vectors=is_vector_nifti(header))
    zooms = np.asarray(header["pixdim"][1:4], float)
    if not (zooms[: min(3, int(header["dim"][0]))] > 0).all():
        x, y, z = zooms
        raise ImageError(f"voxel spacing {x:g} × {y:g} × {z:g} mm; correct the header")
    if header["qform_code"] == 0 and header["sform_code"] == 0 and not holes:
        raise ImageError(
            "neither qform nor sform says how the volume lies in the patient; set one of them"
        )

    _check_header(header, is_single="n+" in str(header["magic"]))

    image = _opened(kind, streams)
    array = _voxels(image.dataobj, shape, component)
    _check_sum(streams["image"])
    unit = unit_of(image.header)
    affine = FLIP_XY @ np.diag([unit, unit, unit, 1.0]) @ _with_thickness(image.affine)
    note = "" if holes else note_of_forms(image.header)
    volume = Volume(array, affine, origin=image.header, note=note)
    return volume if holes else checked(volume)


def _check_header(header: Any, *, is_single: bool) -> None:
    """Raise ImageError if a NIfTI header says nothing valid of its values, of where they stand, or
    of its directions. In a single file they stand behind the header and four more bytes."""
    from nibabel.spatialimages import HeaderDataError

    try:
        size = header.get_data_dtype().itemsize
    except (HeaderDataError, KeyError):
        size = 0
    if not size:
        raise ImageError(f"values of an unknown type (code {int(header['datatype'])})")
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isinf(slope) or (np.isfinite(slope) and not np.isfinite(inter)):
        raise ImageError("scl_slope or scl_inter is no number; correct the header")

    start, least = float(header["vox_offset"]), int(header["sizeof_hdr"]) + 4
    if is_single and not start >= least:
        raise ImageError(
            f"voxels that begin at byte {start:g}, inside the header; correct vox_offset"
        )
    try:
        header.get_best_affine()
    except ValueError:
        raise ImageError("the quaternion of its qform is no rotation; correct the header") from None


def _opened(kind: Any, streams: Mapping[str, Any]) -> Any:
    """Return nibabel's image of a kind, whose voxels have not been read yet."""
    import nibabel as nib

    holders = {}
    for name, stream in streams.items():
        stream.seek(0)
        holders[name] = nib.FileHolder(fileobj=stream)
    return kind.from_file_map(holders)


def _with_thickness(affine: Affine) -> Affine:
    """Return the affine of a slice, whose third direction may be missing, with one of length 1."""
    if affine[:3, 2].any():
        return affine
    across = np.cross(affine[:3, 0], affine[:3, 1])
    filled = affine.copy()
    filled[:3, 2] = across / (np.linalg.norm(across) or 1.0)
    return filled


# -- Analyze ---------------------------------------------------------------------------------------


def pair_image(path: Path, content: bytes) -> str:
    """Return the name of the file with the voxels of an Analyze or NIfTI header; "" for a header of
    another kind."""
    try:
        _header_size(io.BytesIO(content))
    except ImageError:
        return ""
    stem = path.name[: -len(path.suffix)]
    for suffix in (".IMG", ".img"):
        if path.with_name(stem + suffix).is_file():
            return stem + suffix
    return f"{stem}.img"


def decode_pair(content: bytes, component: int | None = None, image: bytes = b"") -> Volume:
    """Return the volume of a header and the file with its voxels: Analyze 7.5 or a NIfTI pair.

    Analyze does not say which side is left: rows are taken to run from the patient's left to the
    right (LAS), as nibabel and SPM do.
    """
    import nibabel as nib

    try:
        size = _header_size(io.BytesIO(content))
    except ImageError:
        raise ImageError("not an Analyze or NIfTI header") from None
    streams = {"header": io.BytesIO(content), "image": io.BytesIO(image)}
    if size == 540:
        return _nifti(nib.Nifti2Pair, streams, component)
    if content[344:347] == b"ni1":
        return _nifti(nib.Nifti1Pair, streams, component)

    kind = nib.Spm2AnalyzeImage
    header = kind.header_class.from_fileobj(streams["header"], check=False)
    shape = volume_shape(header.get_data_shape(), component)
    if not (np.asarray(header["pixdim"][1:4], float) > 0).all():
        raise ImageError("voxel spacing is not above 0; correct the header")
    opened = _opened(kind, streams | {"mat": io.BytesIO()})  # SPM keeps directions there
    array = _voxels(opened.dataobj, shape, component)
    return checked(Volume(array, FLIP_XY @ opened.affine))


# -- FreeSurfer ------------------------------------------------------------------------------------


def decode_mgh(content: bytes, component: int | None = None) -> Volume:
    """Return the volume in the bytes of an MGH or MGZ file."""
    import nibabel as nib
    from nibabel.freesurfer.mghformat import data_type_codes

    stream = _inflated(content)
    start = stream.read(MGH_START.size)
    if len(start) < MGH_START.size:
        raise ImageError("damaged or unreadable (it ends too early)")
    version, *sides, frames, code, _, placed = MGH_START.unpack(start)
    if version != 1:
        raise ImageError("not an MGH file")
    if code not in data_type_codes.value_set("code"):
        raise ImageError(f"values of an unknown type (code {code})")
    shape = volume_shape((*sides, frames), component)
    if placed != 1:
        raise ImageError("it does not say how the volume lies in the patient (no RAS directions)")

    image = _opened(nib.MGHImage, {"image": stream})
    array = _voxels(image.dataobj, shape, component)
    _check_sum(stream)
    return checked(Volume(array, FLIP_XY @ image.affine))


# -- What they have in common ----------------------------------------------------------------------


def _inflated(content: bytes) -> Any:
    """Return a stream of a file's bytes, decompressed where they are gzipped."""
    stream = io.BytesIO(content)
    return gzip.GzipFile(fileobj=stream) if content.startswith(GZIP) else stream


def _check_sum(stream: Any) -> None:
    """Raise BadGzipFile if a compressed stream that has been read to its end holds other bytes than
    were compressed. What stands behind it does not matter."""
    try:
        stream.read(1)
    except gzip.BadGzipFile as error:
        if str(error).startswith("Not a gzipped file"):
            return
        raise


def _header_size(stream: Any) -> int:
    """Return 348 for a NIfTI-1 file, 540 for a NIfTI-2 file; ImageError if it is neither."""
    start = stream.read(4)
    for size in (int.from_bytes(start, "little"), int.from_bytes(start, "big")):
        if size in (348, 540):
            return size
    raise ImageError("not a NIfTI file")


def volume_shape(
    shape: tuple[int, ...], component: int | None, *, vectors: bool = False
) -> tuple[int, int, int]:
    """Return the three sides of a volume in an array whose axes beyond the third count volumes, or
    the components of `vectors`; an array with two axes is one slice. ImageError if it is no volume,
    too large, has several and none is chosen, or has no such component."""
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) < 3:
        raise ImageError(f"{len(shape)}-D data; a volume has three axes")
    sides, count = shape[:3], int(np.prod(shape[3:], dtype=np.int64))
    if min(shape) < 1:
        raise ImageError(f"an empty volume, {' × '.join(map(str, shape))}")
    if np.prod(sides, dtype=np.float64) > MAX_VOXELS:
        raise ImageError(f"{' × '.join(map(str, sides))} is more than {MAX_VOXELS} voxels")

    if count > 1 and component is None:
        what = f"each voxel has {count} components" if vectors else f"{count} volumes in one file"
        raise ImageError(f"{what}; choose one: --select 0, or a column 'component' in manifest.csv")
    if component is not None and not 0 <= component < count:
        raise ImageError(f"no component {component} in a file of {amount(count, 'volume')}")
    return int(sides[0]), int(sides[1]), int(sides[2])


def _voxels(proxy: Any, shape: tuple[int, int, int], component: int | None) -> Floats:
    """Return the voxels of an array proxy [1, I, J, K]; of colours [3, I, J, K]. EOFError if there
    are not as many."""
    try:
        return _array(proxy, shape, component)
    except gzip.BadGzipFile:
        raise
    except OSError:  # so nibabel says that it read fewer bytes
        raise EOFError from None


def _array(proxy: Any, shape: tuple[int, int, int], component: int | None) -> Floats:
    if proxy.dtype.names:  # RGB24, RGBA32
        array = np.asarray(proxy.get_unscaled()).reshape(*shape, -1, order="F")[..., component or 0]
        return as_colours(np.stack([array[name] for name in proxy.dtype.names], axis=-1))
    if proxy.dtype.kind not in "uif":
        raise ImageError(f"values of type {proxy.dtype}; numbers are expected")
    if proxy.ndim > 3 and component is not None:
        place = np.unravel_index(component, proxy.shape[3:], order="F")
        chosen = proxy[(..., *map(int, place))]
        return np.asarray(chosen, np.float32).reshape(1, *shape)
    if np.prod(proxy.shape[3:]) > 1:  # and none was chosen: colours
        return as_colours(np.asarray(proxy.get_unscaled()).reshape(*shape, -1))
    return np.asarray(proxy, np.float32).reshape(1, *shape)


def checked(volume: Volume) -> Volume:
    """Return the volume, with the lowest of its values where NaN surrounds it, as where a brain was
    cut out; ImageError if it has no place in space, or its values are no numbers."""
    check_affine(volume.affine)
    voxels = volume.voxels
    with np.errstate(invalid="ignore", over="ignore"):
        finite = np.isfinite(voxels.sum(dtype=np.float64))
    if finite:
        return volume

    holes = np.isnan(voxels)
    if _surrounds(holes) and np.isfinite(voxels[~holes].sum(dtype=np.float64)):
        return replace(volume, voxels=np.where(holes, voxels[~holes].min(), voxels))
    bad = voxels.size - int(np.isfinite(voxels).sum())
    raise ImageError(f"{amount(bad, 'voxel is', 'voxels are')} NaN or infinite; replace them")


def _surrounds(holes: Bools) -> bool:
    """Return whether holes [C, I, J, K] take up most of a volume's surface, and not all of the
    volume."""
    share = 0.0
    for axis in (1, 2, 3):
        share += float(np.take(holes, [0, -1], axis).mean()) / 3
    return share >= SURROUNDED and not bool(holes.all())


def same_grid(one: Volume, other: Volume) -> bool:
    """Return whether two volumes of even slices have the same sides and lie in the same place, to a
    hundredth of a millimetre."""
    if one.voxels.shape[1:] != other.voxels.shape[1:] or one.places is not other.places:
        return False
    return bool(np.allclose(one.affine, other.affine, atol=0.01))
