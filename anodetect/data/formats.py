"""The one table of what can be read.

Everything that asks whether a file is an image, which suffixes there are, or how a file is read,
asks this table. A new kind of file is one entry here and one reader.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# "image": [C, H, W]; "volume": a `Volume`; "either": only reading tells, and several files of one
# folder may be the slices of one volume
Content = Literal["image", "volume", "either"]


@dataclass(frozen=True)
class Magic:
    """Bytes at a place in a file by which its format is recognised, whatever its name."""

    offset: int
    value: bytes

    def matches(self, content: bytes) -> bool:
        """Return whether the bytes of a file are of this format."""
        return content[self.offset : self.offset + len(self.value)] == self.value


@dataclass(frozen=True)
class Format:
    """One kind of input file.

    `suffixes` are in lower case. `reader` is a function "module:name". For an image it takes the
    file's bytes and returns an array [H, W], [H, W, C] or [C, H, W]. For a volume it takes the
    bytes and the number of the component to read (None: the only one) and returns a `Volume`. For
    "either" it takes the bytes of all files of a series and returns a `Volume` or an image [C, H,
    W].

    With `magic`, files whose name has no suffix, or a number for one, are recognised by their
    bytes, except those named in `never`. `mask` says whether a ground-truth mask may be of this
    format, and `lossy` that pixels are not exactly those that were saved.
    """

    content: Content
    suffixes: tuple[str, ...]
    reader: str
    mask: bool = True
    lossy: bool = False
    magic: Magic | None = None
    never: tuple[str, ...] = ()


DICOM_MAGIC = Magic(128, b"DICM")

FORMATS: dict[str, Format] = {
    "png": Format("image", (".png",), "anodetect.data.images:decode_png"),
    "jpeg": Format(
        "image", (".jpg", ".jpeg"), "anodetect.data.images:decode_with_pillow", lossy=True
    ),
    "bmp": Format("image", (".bmp",), "anodetect.data.images:decode_with_pillow"),
    "tiff": Format("image", (".tif", ".tiff"), "anodetect.data.images:decode_tiff"),
    "npy": Format("image", (".npy",), "anodetect.data.images:decode_npy"),
    "nifti": Format("volume", (".nii.gz", ".nii"), "anodetect.data.volumes:decode_nifti"),
    "nrrd": Format("volume", (".nrrd",), "anodetect.data.volumes:decode_nrrd"),
    "dicom": Format(
        "either",
        (".dcm", ".dicom", ".ima"),
        "anodetect.data.dicom:decode",
        mask=False,
        magic=DICOM_MAGIC,
        never=("DICOMDIR",),
    ),
}


def suffixes() -> list[str]:
    """Return all suffixes in the order of the table."""
    found: list[str] = []
    for each in FORMATS.values():
        found += each.suffixes
    return found


def suffix_of(name: str) -> str:
    """Return a file name's suffix in lower case: the longest one that the table has (".nii.gz"),
    else what follows the last dot."""
    lower = name.lower()
    for suffix in sorted(suffixes(), key=len, reverse=True):
        if lower.endswith(suffix) and len(lower) > len(suffix):
            return suffix
    return Path(lower).suffix


def format_named(name: str) -> Format | None:
    """Return the format that a file's name tells; None if it tells none."""
    suffix = suffix_of(name)
    for each in FORMATS.values():
        if suffix in each.suffixes:
            return each
    return None


def format_of(path: Path) -> Format | None:
    """Return the format of a file, by its name or else by its bytes; None if it cannot be read."""
    found = format_named(path.name)
    if found is not None or not re.fullmatch(r"(\.\d+)?", suffix_of(path.name)):
        return found

    for each in FORMATS.values():
        if each.magic and path.name not in each.never and _has_bytes(path, each.magic):
            return each
    return None


def _has_bytes(path: Path, magic: Magic) -> bool:
    try:
        if not path.is_file():  # reading a pipe would wait
            return False
        with path.open("rb") as file:
            return magic.matches(file.read(magic.offset + len(magic.value)))
    except OSError:
        return False


def is_series(path: Path) -> bool:
    """Return whether a file may be one of several that are the slices of one volume."""
    found = format_of(path)
    return found is not None and found.content == "either"


def described() -> str:
    """Return what can be read, as a list for messages."""
    names = sorted(suffixes())
    for name, each in FORMATS.items():
        if each.magic:
            names.append(f"{name.upper()} without a suffix")
    return ", ".join(names)
