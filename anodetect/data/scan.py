"""From a folder, a manifest or a card's name to records: what there is, before any image is read."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path, PurePosixPath

from anodetect.data import dicom
from anodetect.errors import DataError
from anodetect.files import leads_out, path_text

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy"})
VOLUMES = frozenset({".nii", ".nii.gz", ".nrrd"})
SUFFIXES = IMAGES | VOLUMES
LARGE = 2**23  # bytes of a DICOM file, whose frames may be as much as a volume
NORMAL, ANOMALOUS = 0, 1
MANIFEST = "manifest.csv"
COLUMNS = ("path", "split", "label", "kind", "mask", "group", "foreground", "component")


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
class Dataset:
    """Records, and paths under the root that could not be looked into, with the reason."""

    name: str
    root: Path
    records: tuple[Record, ...]
    problems: tuple[tuple[str, str], ...] = ()

    def training(self) -> list[Record]:
        """The normals to learn from."""
        return [r for r in self.records if r.split in ("train", "") and r.label != ANOMALOUS]

    def labelled(self) -> list[Record]:
        """What can be evaluated on: everything labelled outside the train part."""
        return [r for r in self.records if r.split != "train" and r.label is not None]

    def testing(self) -> list[Record]:
        """What is there to score: the test part where there is one, else everything."""
        return [r for r in self.records if r.split == "test"] or list(self.records)


def scan(folder: Path, *, follow_symlinks: bool = False) -> Dataset:
    """Read a folder as a manifest, the MVTec layout or plain images, whichever it is (in this
    order)."""
    if not folder.is_dir():
        raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    if (folder / MANIFEST).is_file():
        dataset = _manifest(folder, follow_symlinks)
    elif _is_mvtec(folder):
        dataset = _mvtec(folder, follow_symlinks)
    else:
        found, problems = walk(folder, follow_symlinks=follow_symlinks)
        dataset = Dataset(
            path_text(folder.name), folder, tuple(_records(folder, found)), tuple(problems)
        )
    if not dataset.records:
        if dataset.problems:
            raise DataError(
                f"{folder}: nothing can be read here; {dataset.problems[0][0]}: {dataset.problems[0][1]}"
            )
        raise DataError(
            f"{folder}: no images here ({', '.join(sorted(SUFFIXES))}, or a manifest.csv)"
        )
    return dataset


def walk(
    folder: Path, *, follow_symlinks: bool = False
) -> tuple[list[Path], list[tuple[str, str]]]:
    """Image files below `folder` in name order, and what was passed over with the reason.

    Symbolic links that lead out of the folder are passed over unless followed; loops are never
    followed.
    """
    root, found = os.path.realpath(folder), []
    problems: list[tuple[str, str]] = []

    def report(error: OSError) -> None:
        where = path_text(os.path.relpath(error.filename, folder))
        problems.append((where, error.strerror or "unreadable"))

    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=follow_symlinks, onerror=report):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders if not follow_symlinks else ():
            if Path(place, name).is_symlink():
                where = path_text(Path(place, name).relative_to(folder))
                problems.append((where, "symbolic link to a folder; see --follow-symlinks"))
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith(".") or not is_readable(path):
                continue
            if path.is_symlink() and not follow_symlinks and not is_below(path, root):
                problems.append(
                    (
                        path_text(path.relative_to(folder)),
                        "symbolic link out of the folder; see --follow-symlinks",
                    )
                )
            else:
                found.append(path)
    return found, problems


def is_readable(path: Path) -> bool:
    """Whether a file is of a kind that can be read, by its name or, of DICOM without one, its
    beginning."""
    return suffix_of(path) in SUFFIXES or dicom.is_dicom(path)


def is_volume(record: Record) -> bool:
    """Whether a record is known to be a volume before it is read; of a single DICOM file only
    reading tells."""
    return record.slice is None and (suffix_of(record.path) in VOLUMES or len(record.files) > 1)


def fills_memory(record: Record) -> bool:
    """Whether a record is a volume, or a DICOM file with so many frames that it may as well be one."""
    if is_volume(record) or record.slice is not None or not record.files:
        return is_volume(record)
    try:
        large = record.path.stat().st_size > LARGE
    except OSError:  # reading it will say so
        return False
    return large and dicom.headline(record.path).frames > 1


def suffix_of(path: Path) -> str:
    """A path's suffix in lower case; ".nii.gz" is one."""
    suffix = path.suffix.lower()
    return f".nii{suffix}" if suffix == ".gz" and path.stem.lower().endswith(".nii") else suffix


def is_below(path: Path, folder: str | Path) -> bool:
    """Whether a path, its links followed, lies in a folder; a loop of links lies nowhere else."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _records(folder: Path, paths: Iterable[Path], **known: object) -> Iterator[Record]:
    """A record for each file, and one for all files of a DICOM series in the same folder."""
    series: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        name = dicom.headline(path).series if dicom.is_dicom(path) else ""
        series.setdefault((path.parent, name or path.name), []).append(path)
    for first, *rest in series.values():
        yield record_of(folder, first, (first, *rest), **known)


def record_of(folder: Path, path: Path, files: tuple[Path, ...], **known: object) -> Record:
    """The record of a file or of a series' `files`, its id relative to `folder`. A DICOM file's
    group is its patient's pseudonym, any other's its own id."""
    name = path_text(path.relative_to(folder))
    if not dicom.is_dicom(path):
        return Record(id=name, path=path, **{"group": name, **known})  # type: ignore[arg-type]
    group = dicom.group_of(dicom.headline(path), keep_identifiers=False) or name
    return Record(id=name, path=path, files=files, **{"group": group, **known})  # type: ignore[arg-type]


Headlines = Mapping[Path, dicom.Headline]


def series_of(path: Path, headlines: Callable[[Path], Headlines] | None = None) -> tuple[Path, ...]:
    """The files of the DICOM series a file belongs to, in its folder, of which `headlines` tells;
    () of other files. ImageError does not occur: what cannot be read stands alone."""
    if not dicom.is_dicom(path):
        return ()
    name = dicom.headline(path).series
    if not name:
        return (path,)
    # A link stands for files that may be links as well.
    found = (
        headlines(path.parent)
        if headlines
        else _headlines(path.parent, None if path.is_symlink() else path.parent)
    )
    return tuple(sorted({path, *(file for file, each in found.items() if each.series == name)}))


def _headlines(folder: Path, root: Path | None) -> Headlines:
    """Of a folder's DICOM files in name order; as in `walk` without hidden ones and, with a `root`,
    links out of it."""
    return {
        file: dicom.headline(file)
        for file in sorted(folder.iterdir())
        if not file.name.startswith(".")
        and file.is_file()
        and dicom.is_dicom(file)
        and not (root and file.is_symlink() and not is_below(file, root))
    }


def identified(record: Record) -> Record:
    """The record with what identifies the patient in place of the pseudonym."""
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
    records, problems = [], []
    for split, kind in [
        ("train", "good"),
        *(("test", kind) for kind in _subfolders(folder / "test")),
    ]:
        base = folder / split / kind
        if not base.is_dir():
            continue
        if not follow_symlinks and not is_below(base, folder):
            problems.append(
                (f"{split}/{path_text(kind)}", "symbolic link to a folder; see --follow-symlinks")
            )
            continue
        found, trouble = walk(base, follow_symlinks=follow_symlinks)
        problems += [(f"{split}/{path_text(kind)}/{name}", reason) for name, reason in trouble]
        label = NORMAL if kind == "good" else ANOMALOUS
        for record in _records(folder, found, split=split, label=label, kind=path_text(kind)):
            mask = mvtec_mask(folder, kind, record.path.name) if label else None
            if mask and not follow_symlinks and not is_below(mask, folder):
                problems.append(
                    (path_text(mask.relative_to(folder)), "symbolic link out of the folder")
                )
                mask = None
            records.append(replace(record, mask=mask))
    return Dataset(path_text(folder.name), folder, tuple(records), tuple(problems))


def _subfolders(folder: Path) -> list[str]:
    try:
        children = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or 'unreadable'}") from None
    return [child.name for child in children if child.is_dir() and not child.name.startswith(".")]


def mvtec_mask(folder: Path, kind: str, name: str) -> Path | None:
    """The truth of test/`kind`/`name`, if there is one."""
    stem = name.removesuffix(suffix_of(Path(name)))
    masks = (
        f"{stem}{mark}{suffix}" for suffix in (".png", ".nii.gz", ".nii") for mark in ("_mask", "")
    )
    candidates = (folder / "ground_truth" / kind / mask for mask in masks)
    return next((path for path in candidates if path.is_file()), None)


# -- Manifest --------------------------------------------------------------------------------------


def _manifest(folder: Path, follow_symlinks: bool) -> Dataset:
    file = folder / MANIFEST
    records: list[Record] = []
    seen: set[str] = set()
    headlines = cache(
        partial(_headlines, root=None if follow_symlinks else folder)
    )  # each folder's once
    for where, row in _rows(file):
        name = row["path"]
        identity = path_text(PurePosixPath(name))
        if identity in seen:
            raise DataError(f"{where}: {name!r} is listed twice")
        seen.add(identity)
        for column in ("path", "mask", "foreground"):
            _check_inside(folder, row[column], where, follow_symlinks)
        if row["split"] not in ("train", "test", ""):
            raise DataError(f"{where}: split {row['split']!r} is neither 'train' nor 'test'")
        if row["label"] not in ("0", "1", ""):
            raise DataError(
                f"{where}: label {row['label']!r} is neither 0 (normal) nor 1 (anomalous)"
            )
        if row["component"] and not row["component"].isdecimal():
            raise DataError(f"{where}: component {row['component']!r} is not a number from 0 on")
        label = int(row["label"]) if row["label"] else None
        if row["split"] == "train" and label == ANOMALOUS:
            raise DataError(
                f"{where}: {name!r} is anomalous but in the train split, which holds normals only"
            )
        path, files = _listed(folder / name, where, headlines)
        pseudonym = dicom.group_of(dicom.headline(path), keep_identifiers=False) if files else ""
        records.append(
            Record(
                id=identity,
                path=path,
                split=row["split"],
                label=label,
                kind=row["kind"],
                group=row["group"] or pseudonym or identity,
                mask=folder / row["mask"] if row["mask"] else None,
                foreground=folder / row["foreground"] if row["foreground"] else None,
                component=int(row["component"]) if row["component"] else None,
                files=files,
                extra={key: value for key, value in row.items() if key not in COLUMNS},
            )
        )
    return Dataset(path_text(folder.name), folder, tuple(records))


def _listed(
    path: Path, where: str, headlines: Callable[[Path], Headlines]
) -> tuple[Path, tuple[Path, ...]]:
    """The file that stands for what a manifest lists, and the files of its DICOM series: a listed
    folder's only one, or those that belong with a listed file."""
    if not path.is_dir():
        return path, series_of(path, headlines) if path.is_file() else ()
    found = headlines(path)
    if not found:
        raise DataError(f"{where}: the folder {path.name!r} holds no DICOM series")
    images = [file for file, each in found.items() if each.frames] or list(found)[
        :1
    ]  # reading it will say what it is
    count = len({found[file].series or file for file in images})
    if count > 1:
        raise DataError(
            f"{where}: the folder {path.name!r} holds {count} DICOM series or single images; name a file of one of them"
        )
    return images[0], series_of(images[0], headlines)


def manifest_rows(file: Path) -> dict[str, dict[str, str]]:
    """The rows of a manifest.csv by their images' ids, as they stand there."""
    return {path_text(PurePosixPath(row["path"])): row for _, row in _rows(file)}


def _rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) for each line, every standard column present and stripped."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if "path" not in (reader.fieldnames or ()):
                raise DataError(
                    f"{file}: no column 'path' (columns: {', '.join(COLUMNS)} and any others)"
                )
            if len(set(reader.fieldnames or ())) < len(reader.fieldnames or ()):
                raise DataError(f"{file}: a column name occurs twice")
            for number, row in enumerate(reader, start=2):
                if None in row or None in row.values():
                    raise DataError(f"{file}, line {number}: not as many fields as the header has")
                yield (
                    f"{file}, line {number}",
                    dict.fromkeys(COLUMNS, "") | {k: v.strip() for k, v in row.items()},
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: {error}") from None


def _check_inside(folder: Path, name: str, where: str, follow_symlinks: bool) -> None:
    if leads_out(name):
        raise DataError(f"{where}: {name!r} leads out of the folder")
    if "\0" in name:
        raise DataError(f"{where}: the path holds a NUL character")
    if not follow_symlinks and not is_below(folder / name, folder):
        raise DataError(
            f"{where}: {name!r} is a symbolic link out of the folder; see --follow-symlinks"
        )
