"""Input files as records before they are read, and data sets of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from anodetect.data import dicom_head, formats
from anodetect.data.channels import ChannelFile, Channels
from anodetect.data.reading import Component
from anodetect.errors import DataError

LARGE = 2**23  # bytes of a DICOM file, whose frames may be as much as a volume
NORMAL, ANOMALOUS = 0, 1


@dataclass(frozen=True, slots=True)
class Record:
    """One image or volume. `split` is "train", "test" or "" (not said); `label` 0 normal, 1
    anomalous, None unknown.

    What any of the `masks` marks is anomalous. `component` is the one to take of a 4-D file or
    of a series of several volumes. With `slice` the record is that slice of the volume alone.
    `files` are those of a DICOM series, whose `path` is the first of them by name, and `modality`
    and `description` what their header says; `quantity` is the part of a complex number that pixels
    are, such as "phase", "" where that is not known. Of a record whose `channels` are several
    files, `path` and `files` are those of the first that is there. `study` is one of several of
    the group: the pseudonym of a DICOM study, the session of BIDS, "" where that is not known.
    `note` is what is to be known of it beside its content, for a user to read; "" if nothing is.
    """

    id: str
    path: Path
    split: str = ""
    label: int | None = None
    kind: str = ""
    group: str = ""
    masks: tuple[Path, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
    foreground: Path | None = None
    component: Component = None
    slice: int | None = None
    files: tuple[Path, ...] = ()
    modality: str = ""
    description: str = ""
    quantity: str = ""
    channels: tuple[ChannelFile, ...] = ()
    study: str = ""
    note: str = ""

    def all_files(self) -> tuple[Path, ...]:
        """Return every file that the record is read from, but those that headers name."""
        if not self.channels:
            return self.files or (self.path,)
        found: list[Path] = []
        for channel in self.channels:
            if channel.path is not None:
                found += channel.files or (channel.path,)
        return tuple(found)


@dataclass(frozen=True)
class Problem:
    """A file or folder that was left out, by its path relative to the root, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class PassedOver:
    """Files of a folder, by its path relative to the root, that are not looked at for one reason:
    how many, and the path of the first."""

    folder: str
    reason: str
    count: int
    first: str


@dataclass(frozen=True)
class Dataset:
    """The records below a root, what could not be looked into, and what was passed over.

    `layout` says in words how the folder was read. `doubt` says why nothing can be learned from it
    as it stands, and what to do; "" if it can. `categories` are the folders that are data sets of
    their own. With `own_split` the test part is a choice of ours: the folder names none. With
    `known_anomalies` the anomalous rows of a manifest's train part are to be learned from, too.
    `channels` are those of its records, None if each is of one file.
    """

    name: str
    root: Path
    records: tuple[Record, ...]
    problems: tuple[Problem, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()
    layout: str = "a folder of images"
    doubt: str = ""
    categories: tuple[str, ...] = ()
    own_split: bool = False
    known_anomalies: bool = False
    channels: Channels | None = None

    def training(self) -> list[Record]:
        """Return the normals to learn from; DataError if it is not evident which these are."""
        if self.doubt:
            raise DataError(self.doubt)
        return [r for r in self.records if r.split in ("train", "") and r.label != ANOMALOUS]

    def anomalies(self) -> list[Record]:
        """Return the known anomalies to learn from, none unless they were asked for."""
        if not self.known_anomalies:
            return []
        return [r for r in self.records if r.split == "train" and r.label == ANOMALOUS]

    def labelled(self) -> list[Record]:
        """Return what can be evaluated on: everything labelled outside the train part."""
        return [r for r in self.records if r.split != "train" and r.label is not None]

    def testing(self) -> list[Record]:
        """Return what there is to score: the test part where the folder has one, else
        everything."""
        testing = [r for r in self.records if r.split == "test"]
        return list(self.records) if self.own_split else testing or list(self.records)


def named_kinds(records: Iterable[Record]) -> list[str]:
    """Return the kinds that records name, each once, in alphabetical order. An empty kind is not
    known, and no kind of its own."""
    return sorted({record.kind for record in records} - {""})


def is_volume(record: Record) -> bool:
    """Return whether a record is known to be a volume before it is read; of a single DICOM file
    only reading tells."""
    if record.slice is not None:
        return False
    found = formats.format_named(record.path.name)
    return len(record.files) > 1 or (found is not None and found.content == "volume")


def fills_memory(record: Record) -> bool:
    """Return whether a record is a volume, or a DICOM file with so many frames that it may as well
    be one."""
    if is_volume(record) or record.slice is not None or not record.files:
        return is_volume(record)
    try:
        large = record.path.stat().st_size > LARGE or record.path.suffix.lower() == ".gz"
    except OSError:  # reading it will say so
        return False
    return large and dicom_head.headline(record.path).frames > 1
