"""The one table of what can be written, and the files of one image or volume.

A format is asked for by its name (`--heatmaps tiff,mask`). Images and volumes have writers of their
own; of the formats asked for, each gets what it has, and the end of a scoring counts what it has
not.
"""

import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import IO, TYPE_CHECKING, Any, Literal, cast, get_args

from anodetect.errors import ConfigError, nearest
from anodetect.files import atomic, sha256_of, write_new

if TYPE_CHECKING:  # the command line lists the formats, and must not wait for NumPy
    from anodetect.types import Bools, Floats

# "map": float values; "slices": those of the source's own slices, where the map is resampled;
# "mask": what exceeds the threshold; "picture": colours to look at; "regions": outlines of what
# exceeds the threshold; "report": measurements of it
Kind = Literal["map", "slices", "mask", "picture", "regions", "report"]
EXACT: tuple[Kind, ...] = ("slices", "map")  # files of a map's values, the one that counts first
Source = Literal["image", "volume"]
LEVEL = 4  # of compression, from 1 to 9
SOURCES: tuple[Source, ...] = get_args(Source)


@dataclass(frozen=True)
class Writer:
    """A function "module:name" that writes a format, and the files it may write.

    `endings` maps each kind of file to what is added to the image's name. The function takes an
    `ImageMap` or a `VolumeMap`, and `OutputFiles` to open the files with. It opens none where the
    format does not apply to a source. `readers` are functions "module:name" that read files back:
    those of a map's values as float32 in the grid of the source, those of masks as booleans.
    """

    function: str
    endings: Mapping[Kind, str]
    readers: Mapping[Kind, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """The writers of a format for an image and for a volume; None where there is none.

    `directory` names the one file that a format has for all images of a score directory. `package`
    must be installed, by the extra of this project named `extra`. `note` explains the name. `of`
    names the only files that have it, such as "DICOM".
    """

    image: Writer | None = None
    volume: Writer | None = None
    directory: Mapping[Kind, str] = field(default_factory=dict)
    note: str = ""
    default: bool = True
    package: str = ""
    extra: str = ""
    of: str = ""

    def writer(self, source: Source) -> Writer | None:
        """Return the writer for an image or a volume."""
        return self.image if source == "image" else self.volume

    def has_files_of(self, source: Source) -> bool:
        """Return whether an image or a volume gets a file, or a part of the one of all images."""
        return self.writer(source) is not None or (bool(self.directory) and source == "image")

    def kinds(self) -> set[Kind]:
        """Return the kinds of files that the format may have."""
        found = set(self.directory)
        for writer in (self.image, self.volume):
            if writer is not None:
                found |= set(writer.endings)
        return found


FORMATS: dict[str, Format] = {
    "tiff": Format(
        image=Writer(
            "anodetect.output.images:write_map",
            {"map": "_heatmap.tiff"},
            readers={"map": "anodetect.output.images:read_map"},
        ),
    ),
    "nifti": Format(
        volume=Writer(
            "anodetect.output.nifti:write_map",
            {"map": "_heatmap.nii", "slices": "_heatmap.tiff"},
            readers={
                "map": "anodetect.output.nifti:read_map",
                "slices": "anodetect.output.images:read_stack",
            },
        ),
    ),
    "jpeg": Format(
        image=Writer("anodetect.output.images:write_jpeg", {"picture": "_heatmap.jpg"}),
        volume=Writer("anodetect.output.volumes:write_jpeg", {"picture": "_heatmap.jpg"}),
        note="overlay",
    ),
    "png": Format(
        image=Writer("anodetect.output.images:write_png", {"picture": "_heatmap.png"}),
        volume=Writer("anodetect.output.volumes:write_png", {"picture": "_heatmap.png"}),
        default=False,
        note="overlay without loss, slower",
    ),
    "mask": Format(
        image=Writer(
            "anodetect.output.images:write_mask",
            {"mask": "_mask.png"},
            readers={"mask": "anodetect.output.images:read_mask"},
        ),
        volume=Writer(
            "anodetect.output.nifti:write_mask",
            {"mask": "_mask.nii.gz"},
            readers={"mask": "anodetect.output.nifti:read_mask"},
        ),
    ),
    "regions": Format(directory={"regions": "regions.json"}, note="outlines"),
    "dicom": Format(
        image=Writer(
            "anodetect.output.dicom.files:write_image",
            {"picture": "_capture.dcm", "report": "_report.dcm"},
        ),
        volume=Writer(
            "anodetect.output.dicom.files:write_volume",
            {
                "map": "_heatmap.dcm",
                "mask": "_segmentation.dcm",
                "picture": "_capture.dcm",
                "report": "_report.dcm",
            },
        ),
        default=False,
        package="highdicom",
        extra="dicom",
        of="DICOM",
    ),
}
DEFAULT = tuple(name for name, each in FORMATS.items() if each.default)
# The formats that are written where none are named, now and in records of earlier releases.
DEFAULTS = (frozenset(DEFAULT), frozenset(("tiff", "nifti", "png", "mask", "regions")))


def check_formats(names: Sequence[str]) -> None:
    """Raise ConfigError if there is no format of one of these names, or its package is missing."""
    for name in names:
        wanted = format_named(name)
        if wanted.package and find_spec(wanted.package) is None:
            raise ConfigError(
                f"the heatmap format {name!r} needs {wanted.package}: "
                f"pip install 'anodetect[{wanted.extra}]'"
            )


def format_named(name: str) -> Format:
    """Return the format of this name; ConfigError with the nearest name if there is none."""
    if name == "none":
        raise ConfigError("heatmap format none: it stands for no format at all; name it alone")
    if name not in FORMATS:
        raise ConfigError(f"no heatmap format {name!r}; {nearest(name, [*FORMATS, 'none'])}")
    return FORMATS[name]


def listed() -> str:
    """Return the names of all formats, with a word on those that need one."""
    names = []
    for name, each in FORMATS.items():
        names.append(f"{name} ({each.note})" if each.note else name)
    return ", ".join(names)


def asks_for(names: Sequence[str], kind: Kind) -> bool:
    """Return whether one of the formats has files of this kind."""
    return any(kind in format_named(name).kinds() for name in names)


# -- Writing ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A file that was written: its format's name, where it is, what it shows, what is to be known
    of it, "" for nothing, and its SHA-256."""

    format: str
    path: Path
    kind: Kind
    note: str
    sha256: str


def float_map(written: Sequence[Written]) -> Written | None:
    """Return the file that holds the map's values in the source's grid, of several that of the
    first format in FORMATS; None if there is none."""
    for name in FORMATS:
        found = {each.kind: each for each in written if each.format == name}
        for kind in EXACT:
            if kind in found:
                return found[kind]
    return None


class OutputFiles:
    """Open the files of one format for one image, and remember which were written."""

    def __init__(self, stem: Path, name: str, endings: Mapping[Kind, str]) -> None:
        self.stem, self.name, self.endings = stem, name, endings
        self.written: list[Written] = []

    @contextmanager
    def open(self, kind: Kind, note: str = "") -> Iterator[IO[bytes]]:
        """Open a file that appears under its name only when it is complete; `note` says what is to
        be known of it. What is written to one that ends with .gz is compressed, to the same bytes
        each time."""
        path = self._path(kind)
        with atomic(path, durable=False) as file:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", LEVEL, file, mtime=0) as packed:
                    yield cast(IO[bytes], packed)
            else:
                yield file
        self.written.append(Written(self.name, path, kind, note, sha256_of(path)))

    def write(self, kind: Kind, *content: bytes | memoryview, note: str = "") -> None:
        """Write a file of these bytes, one after the other, which are hashed on the way; `note`
        says what is to be known of it. A process that is killed may leave it half-written; what is
        not in the journal is written again."""
        path, digest = self._path(kind), sha256()
        write_new(path, content)
        for part in content:
            digest.update(part)
        self.written.append(Written(self.name, path, kind, note, digest.hexdigest()))

    def _path(self, kind: Kind) -> Path:
        return self.stem.with_name(self.stem.name + self.endings[kind])

    def remove(self) -> None:
        """Remove the files that were written: without the others of their format they are of no
        use."""
        for each in self.written:
            each.path.unlink(missing_ok=True)


def write_files(stem: Path, names: Sequence[str], source: Source, content: Any) -> list[Written]:
    """Write `content` (an `ImageMap` or a `VolumeMap`) in each of the formats that have files for
    its source, beside the name `stem`. ConfigError if a format does not exist; what its writer
    raises if one cannot be written, of which then no file is left."""
    written: list[Written] = []
    for name in names:
        writer = format_named(name).writer(source)
        if writer is None:
            continue

        files = OutputFiles(stem, name, writer.endings)
        try:
            resolve_name(writer.function)(content, files)
        except BaseException:
            files.remove()
            raise
        written += files.written
    return written


def readable_names(source: Source) -> list[str]:
    """Return the names of the formats whose maps of an image or a volume can be read back."""
    names = []
    for name, each in FORMATS.items():
        writer = each.writer(source)
        if writer is not None and any(kind in writer.readers for kind in EXACT):
            names.append(name)
    return names


def map_reader(name: str, source: Source) -> "Callable[[Path], Floats] | None":
    """Return the function that reads the map in a file of this name; None if there is none."""
    reader: Callable[[Path], Floats] | None = _reader(name, source, EXACT)
    return reader


def mask_reader(name: str, source: Source) -> "Callable[[Path], Bools] | None":
    """Return the function that reads the mask in a file of this name; None if there is none."""
    reader: Callable[[Path], Bools] | None = _reader(name, source, ("mask",))
    return reader


def _reader(name: str, source: Source, kinds: Sequence[Kind]) -> Any:
    """Return the function that reads a file of one of these kinds with the suffix of this name."""
    for each in FORMATS.values():
        writer = each.writer(source)
        for kind, function in (writer.readers if writer else {}).items():
            ending = writer.endings[kind] if writer else ""
            if kind in kinds and Path(name).suffix == Path(ending).suffix:
                return resolve_name(function)
    return None
