"""A folder or a manifest as records: what there is, before any image is read."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path, PurePosixPath

from anodetect.data import dicom, formats
from anodetect.errors import DataError
from anodetect.files import leads_out, path_text

LARGE = 2**23  # bytes of a DICOM file, whose frames may be as much as a volume
NORMAL, ANOMALOUS = 0, 1
MANIFEST = "manifest.csv"
COLUMNS = ("path", "split", "label", "kind", "mask", "group", "foreground", "component")
LINK_OUT = "symbolic link out of the folder"
LINK_TO_FOLDER = "symbolic link to a folder; see --follow-symlinks"


@dataclass(frozen=True, slots=True)
class Record:
    """One image or volume. `split` is "train", "test" or "" (not said); `label` 0 normal, 1
    anomalous, None unknown.

    `component` is the one to take of a 4-D file. With `slice` the record is that slice of the
    volume alone. `files` are those of a DICOM series, whose `path` is the first of them by name.
    """

    id: str
    path: Path
    split: str = ""
    label: int | None = None
    kind: str = ""
    group: str = ""
    mask: Path | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    foreground: Path | None = None
    component: int | None = None
    slice: int | None = None
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A file or folder that was left out, by its path relative to the root, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """The records below a root, and what there could not be looked into."""

    name: str
    root: Path
    records: tuple[Record, ...]
    problems: tuple[Problem, ...] = ()

    def training(self) -> list[Record]:
        """Return the normals to learn from."""
        return [r for r in self.records if r.split in ("train", "") and r.label != ANOMALOUS]

    def labelled(self) -> list[Record]:
        """Return what can be evaluated on: everything labelled outside the train part."""
        return [r for r in self.records if r.split != "train" and r.label is not None]

    def testing(self) -> list[Record]:
        """Return what there is to score: the test part where there is one, else everything."""
        return [r for r in self.records if r.split == "test"] or list(self.records)


def scan(folder: Path, *, follow_symlinks: bool = False) -> Dataset:
    """Read a folder as a manifest, the MVTec layout or plain images, whichever it is (in this
    order). DataError if there is nothing to read."""
    if not folder.is_dir():
        raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")

    if (folder / MANIFEST).is_file():
        dataset = _manifest(folder, follow_symlinks)
    elif _is_mvtec(folder):
        dataset = _mvtec(folder, follow_symlinks)
    else:
        found, problems = walk(folder, follow_symlinks=follow_symlinks)
        records = tuple(_records(folder, found))
        dataset = Dataset(path_text(folder.name), folder, records, tuple(problems))

    if dataset.records:
        return dataset
    if dataset.problems:
        first = dataset.problems[0]
        raise DataError(f"{folder}: nothing can be read here; {first.name}: {first.reason}")
    raise DataError(f"{folder}: no images here ({formats.described()}, or a {MANIFEST})")


def walk(folder: Path, *, follow_symlinks: bool = False) -> tuple[list[Path], list[Problem]]:
    """Return the files below `folder` that can be read, in name order, and what was passed over.

    Symbolic links that lead out of the folder are passed over unless followed; loops are never
    followed. Names that begin with a dot are left out.
    """
    root = os.path.realpath(folder)
    found: list[Path] = []
    problems: list[Problem] = []
    seen: set[str] = set()

    def report(error: OSError) -> None:
        where = path_text(os.path.relpath(error.filename, folder))
        problems.append(Problem(where, error.strerror or "unreadable"))

    for place, folders, names in os.walk(folder, followlinks=follow_symlinks, onerror=report):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)

        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not follow_symlinks:
            for name in folders:
                if Path(place, name).is_symlink():
                    where = path_text(Path(place, name).relative_to(folder))
                    problems.append(Problem(where, LINK_TO_FOLDER))

        for name in sorted(names):
            path = Path(place, name)
            if name.startswith(".") or formats.format_of(path) is None:
                continue
            if path.is_symlink() and not follow_symlinks and not is_below(path, root):
                where = path_text(path.relative_to(folder))
                problems.append(Problem(where, f"{LINK_OUT}; see --follow-symlinks"))
            else:
                found.append(path)
    return found, problems


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
        large = record.path.stat().st_size > LARGE
    except OSError:  # reading it will say so
        return False
    return large and dicom.headline(record.path).frames > 1


def is_below(path: Path, folder: str | Path) -> bool:
    """Return whether a path, its links followed, lies in a folder. A loop of links lies where its
    name says."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


# -- Records of files and of DICOM series ----------------------------------------------------------


def _records(folder: Path, paths: Iterable[Path]) -> Iterator[Record]:
    """Yield a record for each file, and one for all files of a DICOM series in the same folder."""
    series: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        name = dicom.headline(path).series if formats.is_series(path) else ""
        series.setdefault((path.parent, name or path.name), []).append(path)

    for first, *rest in series.values():
        yield record_of(folder, first, (first, *rest))


def record_of(folder: Path, path: Path, files: tuple[Path, ...]) -> Record:
    """Return the record of a file or of a series' `files`, its id relative to `folder`. A DICOM
    file's group is its patient's pseudonym, any other's its own id."""
    name = path_text(path.relative_to(folder))
    if not formats.is_series(path):
        return Record(id=name, path=path, group=name)
    group = dicom.group_of(dicom.headline(path), keep_identifiers=False) or name
    return Record(id=name, path=path, files=files, group=group)


Headlines = Mapping[Path, dicom.Headline]


def series_of(path: Path, headlines: Callable[[Path], Headlines] | None = None) -> tuple[Path, ...]:
    """Return the files of the DICOM series that a file belongs to, in its folder; () for a file of
    another format. A file that cannot be read stands alone.

    `headlines` returns those of a folder; by default they are read.
    """
    if not formats.is_series(path):
        return ()
    name = dicom.headline(path).series
    if not name:
        return (path,)

    if headlines is not None:
        found = headlines(path.parent)
    else:
        # A link stands for files that may be links as well.
        found = _headlines(path.parent, None if path.is_symlink() else path.parent)
    same = [file for file, headline in found.items() if headline.series == name]
    return tuple(sorted({path, *same}))


def _headlines(folder: Path, root: Path | None) -> Headlines:
    """Return those of a folder's DICOM files in name order. As in `walk`, hidden files are left
    out and, with a `root`, links out of it."""
    found: dict[Path, dicom.Headline] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.is_file() or not formats.is_series(file):
            continue
        if root and file.is_symlink() and not is_below(file, root):
            continue
        found[file] = dicom.headline(file)
    return found


def identified(record: Record) -> Record:
    """Return the record with what identifies the patient in place of the pseudonym."""
    if not record.files:
        return record
    found = dicom.headline(record.path)
    if record.group != dicom.group_of(found, keep_identifiers=False):
        return record  # named by a manifest
    return replace(record, group=dicom.group_of(found, keep_identifiers=True))


# -- MVTec layout ----------------------------------------------------------------------------------


def _is_mvtec(folder: Path) -> bool:
    return (folder / "train" / "good").is_dir() or (folder / "test" / "good").is_dir()


def _mvtec(folder: Path, follow_symlinks: bool) -> Dataset:
    """Return what lies in train/good and in the folders of test, with the masks of
    ground_truth."""
    records: list[Record] = []
    problems: list[Problem] = []
    parts = [("train", "good")]
    parts += [("test", kind) for kind in _subfolders(folder / "test")]

    for split, kind in parts:
        base, place = folder / split / kind, f"{split}/{path_text(kind)}"
        if not base.is_dir():
            continue
        if not follow_symlinks and not is_below(base, folder):
            problems.append(Problem(place, LINK_TO_FOLDER))
            continue

        found, passed_over = walk(base, follow_symlinks=follow_symlinks)
        problems += [Problem(f"{place}/{each.name}", each.reason) for each in passed_over]
        label = NORMAL if kind == "good" else ANOMALOUS
        masks = _masks(folder, kind) if label else {}
        for record in _records(folder, found):
            mask = _mask_of(record.path.name, masks)
            if mask and not follow_symlinks and not is_below(mask, folder):
                problems.append(Problem(path_text(mask.relative_to(folder)), LINK_OUT))
                mask = None
            known = replace(record, split=split, label=label, kind=path_text(kind), mask=mask)
            records.append(known)

    return Dataset(path_text(folder.name), folder, tuple(records), tuple(problems))


def _subfolders(folder: Path) -> list[str]:
    try:
        children = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or 'unreadable'}") from None
    return [child.name for child in children if child.is_dir() and not child.name.startswith(".")]


def mvtec_mask(folder: Path, kind: str, name: str) -> Path | None:
    """Return the truth of test/`kind`/`name`, if there is one: ground_truth/`kind`/`name`_mask or
    `name`, in any format that masks may have, the suffix in upper or lower case."""
    return _mask_of(name, _masks(folder, kind))


def _masks(folder: Path, kind: str) -> dict[tuple[str, str], Path]:
    """Return the masks of a kind by their names without suffix and their suffixes."""
    masks: dict[tuple[str, str], Path] = {}
    place = folder / "ground_truth" / kind
    try:
        children = sorted(place.iterdir()) if place.is_dir() else []
    except OSError as error:
        raise DataError(f"{place}: {error.strerror or 'unreadable'}") from None

    for path in children:
        suffix, found = formats.suffix_of(path.name), formats.format_named(path.name)
        if found is None or not found.mask:
            continue
        stem = path.name[: -len(suffix)]
        if (stem, suffix) not in masks or path.name.endswith(suffix):
            masks[stem, suffix] = path  # of names that differ in case, that in lower case
    return masks


def _mask_of(name: str, masks: Mapping[tuple[str, str], Path]) -> Path | None:
    """Return the mask of an image's name: of several, the one whose format comes first in the
    table."""
    suffix = formats.suffix_of(name)
    stem = name[: len(name) - len(suffix)]
    for each in formats.suffixes():
        for mark in ("_mask", ""):
            path = masks.get((stem + mark, each))
            if path is not None and path.is_file():
                return path
    return None


# -- Manifest --------------------------------------------------------------------------------------


def _manifest(folder: Path, follow_symlinks: bool) -> Dataset:
    """Return what manifest.csv lists; DataError names the line that is wrong."""
    records: list[Record] = []
    seen: set[str] = set()
    root = None if follow_symlinks else folder
    headlines = cache(partial(_headlines, root=root))  # reads each folder once

    for where, row in _rows(folder / MANIFEST):
        identity = path_text(PurePosixPath(row["path"]))
        if identity in seen:
            raise DataError(f"{where}: {row['path']!r} is listed twice")
        seen.add(identity)
        _check_row(folder, row, where, follow_symlinks)
        records.append(_listed_record(folder, row, where, headlines))

    return Dataset(path_text(folder.name), folder, tuple(records))


def _check_row(folder: Path, row: Mapping[str, str], where: str, follow_symlinks: bool) -> None:
    """Raise DataError if a row's values are not what its columns hold."""
    for column in ("path", "mask", "foreground"):
        _check_inside(folder, row[column], where, follow_symlinks)

    if row["split"] not in ("train", "test", ""):
        raise DataError(f"{where}: split {row['split']!r} is neither 'train' nor 'test'")
    if row["label"] not in ("0", "1", ""):
        raise DataError(f"{where}: label {row['label']!r} is neither 0 (normal) nor 1 (anomalous)")
    if row["component"] and not row["component"].isdecimal():
        raise DataError(f"{where}: component {row['component']!r} is not a number from 0 on")
    if row["split"] == "train" and row["label"] == str(ANOMALOUS):
        raise DataError(
            f"{where}: {row['path']!r} is anomalous but in the train split, "
            "which holds normals only"
        )


def _listed_record(
    folder: Path,
    row: Mapping[str, str],
    where: str,
    headlines: Callable[[Path], Headlines],
) -> Record:
    """Return the record of a row that was checked."""
    identity = path_text(PurePosixPath(row["path"]))
    path, files = _listed_files(folder / row["path"], where, headlines)
    pseudonym = dicom.group_of(dicom.headline(path), keep_identifiers=False) if files else ""
    extra = {key: value for key, value in row.items() if key not in COLUMNS}

    return Record(
        id=identity,
        path=path,
        split=row["split"],
        label=int(row["label"]) if row["label"] else None,
        kind=row["kind"],
        group=row["group"] or pseudonym or identity,
        mask=folder / row["mask"] if row["mask"] else None,
        foreground=folder / row["foreground"] if row["foreground"] else None,
        component=int(row["component"]) if row["component"] else None,
        files=files,
        extra=extra,
    )


def _listed_files(
    path: Path, where: str, headlines: Callable[[Path], Headlines]
) -> tuple[Path, tuple[Path, ...]]:
    """Return the file that stands for what a manifest lists, and the files of its DICOM series: a
    listed folder's only one, or those that belong with a listed file."""
    if not path.is_dir():
        return path, series_of(path, headlines) if path.is_file() else ()

    found = headlines(path)
    if not found:
        raise DataError(f"{where}: the folder {path.name!r} holds no DICOM series")
    images = [file for file, headline in found.items() if headline.frames]
    images = images or list(found)[:1]  # reading it will say what it is
    count = len({found[file].series or file for file in images})
    if count > 1:
        raise DataError(
            f"{where}: the folder {path.name!r} holds {count} DICOM series or single images; "
            "name a file of one of them"
        )
    return images[0], series_of(images[0], headlines)


def manifest_rows(file: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a manifest.csv by their images' ids, as they stand there."""
    return {path_text(PurePosixPath(row["path"])): row for _, row in _rows(file)}


def _rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where each line stands and its row, every standard column present and stripped."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or ()
            if "path" not in columns:
                expected = ", ".join(COLUMNS)
                raise DataError(f"{file}: no column 'path' (columns: {expected} and any others)")
            if len(set(columns)) < len(columns):
                raise DataError(f"{file}: a column name occurs twice")

            for number, row in enumerate(reader, start=2):
                where = f"{file}, line {number}"
                if None in row or None in row.values():
                    raise DataError(f"{where}: not as many fields as the header has")
                stripped = {name: value.strip() for name, value in row.items()}
                yield where, dict.fromkeys(COLUMNS, "") | stripped
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: {error}") from None


def _check_inside(folder: Path, name: str, where: str, follow_symlinks: bool) -> None:
    """Raise DataError if a path of a manifest leads out of its folder."""
    if leads_out(name):
        raise DataError(f"{where}: {name!r} leads out of the folder")
    if "\0" in name:
        raise DataError(f"{where}: the path holds a NUL character")
    if not follow_symlinks and not is_below(folder / name, folder):
        raise DataError(f"{where}: {name!r} is a {LINK_OUT}; see --follow-symlinks")
