"""The bytes of a MetaImage (.mha, or .mhd with its data beside it) as voxels, read by SimpleITK."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anodetect.data.colours import COUNTS, as_colours
from anodetect.data.geometry import Affine
from anodetect.data.volumes import Volume, checked, volume_shape
from anodetect.errors import ImageError

FIELD = re.compile(rb"^\s*(\w+)\s*=[ \t]*(.*?)\s*$")
HEADER = 2**16  # bytes that a header has at most
INSIDE = "LOCAL"  # the value of ElementDataFile where the data follow the header
DATA_FILE = "ElementDataFile"
BYTES = "MET_UCHAR"  # how types of whole numbers of 8 bits begin, without a sign


def data_name(path: Path, content: bytes) -> str:
    """Return the name of the file with the data, "" if they are inside; ImageError if there are
    several."""
    name = _fields(content).get(DATA_FILE, "")
    if re.match(r"LIST\b", name) or re.search(r"%\d*d", name):
        raise ImageError("its data lie in several files; convert to one file with the data inside")
    return "" if name.upper() == INSIDE else name


def decode_metaimage(content: bytes, component: int | None = None, data: bytes = b"") -> Volume:
    """Return the volume in the bytes of a MetaImage; where voxels have several components, in
    colours or of one of them. ImageError without SimpleITK."""
    try:
        import SimpleITK as sitk  # noqa: N813, its usual name
    except ImportError:
        raise ImageError(
            "MetaImage needs SimpleITK: pip install 'anodetect[registration]'"
        ) from None

    fields = _fields(content)
    if DATA_FILE not in fields or "DimSize" not in fields:
        raise ImageError("not a MetaImage (no DimSize or ElementDataFile)")
    sides = _whole_numbers(fields, "DimSize")
    (channels,) = _whole_numbers(fields, "ElementNumberOfChannels") or (1,)
    sides = sides if len(sides) > 2 else (*sides, 1)
    is_bytes = fields.get("ElementType", "").startswith(BYTES)
    coloured = component is None and is_bytes and channels in COUNTS
    shape = volume_shape(sides if coloured else (*sides, channels), component, vectors=channels > 1)

    with tempfile.TemporaryDirectory() as folder:
        try:
            image = sitk.ReadImage(str(_written(Path(folder), content, data)))
        except RuntimeError as error:
            raise ImageError(_reason_in(error)) from None
    array = np.asarray(sitk.GetArrayFromImage(image))
    array = array[..., None] if channels == 1 else array
    reversed_axes = np.moveaxis(array, -1, 0).T  # the first side first, channels last
    components = reversed_axes.reshape(*shape, -1)
    if coloured:
        return checked(Volume(as_colours(components), _affine(image)))
    voxels = np.asarray(components[..., component or 0], np.float32)
    return checked(Volume(voxels[None], _affine(image)))


def _fields(content: bytes) -> dict[str, str]:
    """Return what a header says, by the names of its fields; the data file is the last one."""
    fields: dict[str, str] = {}
    for line in content[:HEADER].split(b"\n"):
        found = FIELD.match(line)
        if found is None:
            break
        name = found[1].decode("ascii", "replace")
        fields[name] = found[2].decode("utf-8", "surrogateescape")
        if name == DATA_FILE:
            break
    return fields


def _whole_numbers(fields: Mapping[str, str], name: str) -> tuple[int, ...]:
    """Return the whole numbers of a field, () without it; ImageError if they are none."""
    try:
        return tuple(int(part) for part in fields.get(name, "").split())
    except ValueError:
        raise ImageError(f"{name} is not whole numbers; correct the header") from None


def _reason_in(error: RuntimeError) -> str:
    """Return what ITK's error means, which may quote the file."""
    said = str(error).lower()
    if "spacing" in said:
        return "a voxel spacing of zero; correct the header"
    if "direction" in said:
        return "directions that are none (TransformMatrix); correct the header"
    return "damaged, or not as many voxels as its header says"


def _written(folder: Path, content: bytes, data: bytes) -> Path:
    """Write a header, and its data if they are not inside, into a folder, as SimpleITK reads
    files only."""
    if not data:
        path = folder / "volume.mha"
        path.write_bytes(content)
        return path

    lines = []
    for line in content.split(b"\n"):
        found = FIELD.match(line)
        is_name = found is not None and found[1] == DATA_FILE.encode()
        lines.append(DATA_FILE.encode() + b" = data" if is_name else line)
    (folder / "data").write_bytes(data)
    path = folder / "volume.mhd"
    path.write_bytes(b"\n".join(lines))
    return path


def _affine(image: Any) -> Affine:
    """Return the matrix from an index to LPS+ millimetres, which are ITK's; of a slice the third
    direction is one of length 1."""
    count = image.GetDimension()
    if count > 3:
        raise ImageError(f"{count}-D data; a volume has three axes")
    directions = np.eye(3)
    directions[:count, :count] = np.array(image.GetDirection()).reshape(count, count)
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag([*image.GetSpacing(), 1.0][:3])
    affine[:count, 3] = image.GetOrigin()
    return affine
