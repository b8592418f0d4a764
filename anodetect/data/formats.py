"""The one table of what can be read.

Everything that asks whether a file is an image, which suffixes there are, or how a file is read,
asks this table. A new kind of file is one entry here and one reader.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# "image": [C, H, W]; "volume": a `Volume`; "either": only reading tells, and several files of one
# folder may be the slices of one volume
Content = Literal["image", "volume", "either"]
GZIP = b"\x1f\x8b"


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
    bytes, the number of the component to read (None: the only one) and, where there is one, the
    bytes of the companion, and returns a `Volume`. For "either" it takes the bytes of all files of
    a series and the `Reading`, and returns a `Volume` or an image [C, H, W].

    `companion` is a function "module:name" for a header whose data lie in a second file: it takes
    the header's path and bytes and returns the second file's name, "" if there is none. Both are
    one record.

    A file of an image format is decoded as another image format if its bytes begin with the `magic`
    of that one and not with that of its own. With `under_any_name`, files whose names no format
    claims are recognised by their magic, except those named in `never`. `mask` says whether a
    ground-truth mask may be of this format, and `lossy` that pixels may not be exactly those that
    were saved.
    """

    content: Content
    suffixes: tuple[str, ...]
    reader: str
    mask: bool = True
    lossy: bool = False
    magic: tuple[Magic, ...] = ()
    under_any_name: bool = False
    never: tuple[str, ...] = ()
    companion: str = ""


DICOM_MAGIC = Magic(128, b"DICM")
# How DICOM without a preamble begins: with the length of the meta information or of group 8, or
# with the character set or the image type, whose values stand behind eight bytes.
BARE_DICOM = (
    Magic(0, b"\x02\0\0\0UL\x04\0"),
    Magic(0, b"\x08\0\0\0UL\x04\0"),
    Magic(0, b"\x08\0\0\0\x04\0\0\0"),
    Magic(8, b"ISO_IR "),
    Magic(8, b"ISO 2022 IR"),
    Magic(8, b"ORIGINAL\\"),
    Magic(8, b"DERIVED\\"),
)

FORMATS: dict[str, Format] = {
    "png": Format(
        "image",
        (".png",),
        "anodetect.data.images:decode_png",
        magic=(Magic(0, b"\x89PNG\r\n\x1a\n"),),
    ),
    "jpeg": Format(
        "image",
        (".jpg", ".jpeg", ".jfif", ".jpe"),
        "anodetect.data.images:decode_with_pillow",
        lossy=True,
        magic=(Magic(0, b"\xff\xd8\xff"),),
    ),
    "bmp": Format(
        "image", (".bmp", ".dib"), "anodetect.data.images:decode_bmp", magic=(Magic(0, b"BM"),)
    ),
    "tiff": Format(
        "image",
        (".tif", ".tiff"),
        "anodetect.data.tiff:decode_tiff",
        magic=(
            Magic(0, b"II*\0"),
            Magic(0, b"MM\0*"),
            Magic(0, b"II+\0"),
            Magic(0, b"MM\0+"),
        ),
    ),
    "npy": Format(
        "image",
        (".npy",),
        "anodetect.data.images:decode_npy",
        magic=(Magic(0, b"\x93NUMPY"),),
    ),
    "webp": Format(
        "image",
        (".webp",),
        "anodetect.data.images:decode_webp",
        lossy=True,
        magic=(Magic(8, b"WEBP"),),
    ),
    "jpeg2000": Format(
        "image",
        (".jp2", ".j2k"),
        "anodetect.data.images:decode_jpeg2000",
        lossy=True,
        magic=(Magic(0, b"\0\0\0\x0cjP  \r\n\x87\n"), Magic(0, b"\xff\x4f\xff\x51")),
    ),
    "pnm": Format(
        "image",
        (".pgm", ".ppm", ".pnm", ".pbm"),
        "anodetect.data.images:decode_pnm",
        magic=tuple(Magic(0, b"P%d" % number) for number in range(1, 7)),
    ),
    "gif": Format(
        "image",
        (".gif",),
        "anodetect.data.images:decode_with_pillow",
        magic=(Magic(0, b"GIF8"),),
    ),
    "nifti": Format("volume", (".nii.gz", ".nii"), "anodetect.data.volumes:decode_nifti"),
    "analyze": Format(
        "volume",
        (".hdr",),
        "anodetect.data.volumes:decode_pair",
        companion="anodetect.data.volumes:pair_image",
    ),
    "mgh": Format("volume", (".mgz", ".mgh"), "anodetect.data.volumes:decode_mgh"),
    "nrrd": Format("volume", (".nrrd",), "anodetect.data.nrrd_files:decode_nrrd"),
    "nhdr": Format(
        "volume",
        (".nhdr",),
        "anodetect.data.nrrd_files:decode_nhdr",
        companion="anodetect.data.nrrd_files:nhdr_data",
    ),
    "metaimage": Format(
        "volume",
        (".mha", ".mhd"),
        "anodetect.data.metaimage:decode_metaimage",
        companion="anodetect.data.metaimage:data_name",
    ),
    "dicom": Format(
        "either",
        (".dcm.gz", ".dcm", ".dicom", ".ima"),
        "anodetect.data.dicom:decode",
        mask=False,
        magic=(DICOM_MAGIC, *BARE_DICOM),
        under_any_name=True,
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
    lower, longest = name.lower(), ""
    for each in FORMATS.values():
        if not lower.endswith(each.suffixes):  # all at once, as every file is asked often
            continue
        for suffix in each.suffixes:
            if lower.endswith(suffix) and len(longest) < len(suffix) < len(lower):
                longest = suffix
    return longest or Path(lower).suffix


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
    if found is not None:
        return found

    for each in FORMATS.values():
        if each.under_any_name and path.name not in each.never and _has_bytes(path, each.magic):
            return each
    return None


def image_format_in(content: bytes, named: Format) -> Format:
    """Return the format in which to decode the bytes of a file that is `named` as an image: another
    one where they are of another one, as in a PNG that is called .jpg."""
    if any(magic.matches(content) for magic in named.magic):
        return named
    for each in FORMATS.values():
        if each.content == "image" and any(magic.matches(content) for magic in each.magic):
            return each
    return named


def header_beside(path: Path) -> Path | None:
    """Return the header of the same name beside a file that no format claims; None if there is
    none. The file may then hold the header's data."""
    headers: list[str] = []
    for each in FORMATS.values():
        headers += each.suffixes if each.companion else ()
    stem = path.name
    while Path(stem).suffix:  # "a.raw.gz" belongs to "a.nhdr"
        stem = Path(stem).stem
        for suffix in headers:
            for spelled in (suffix, suffix.upper()):
                header = path.with_name(stem + spelled)
                if header != path and header.is_file():
                    return header
    return None


def _has_bytes(path: Path, magics: tuple[Magic, ...]) -> bool:
    longest = max(magic.offset + len(magic.value) for magic in magics)
    try:
        if not path.is_file():  # reading a pipe would wait
            return False
        with path.open("rb") as file:
            start = file.read(longest)
    except OSError:
        return False
    return any(magic.matches(start) for magic in magics)


def is_series(path: Path) -> bool:
    """Return whether a file may be one of several that are the slices of one volume."""
    found = format_of(path)
    return found is not None and found.content == "either"


def described() -> str:
    """Return what can be read, as a list for messages."""
    names = sorted(suffixes())
    for name, each in FORMATS.items():
        if each.under_any_name:
            names.append(f"{name.upper()} of any other name")
    return ", ".join(names)
