"""From a folder, a manifest or a card's name to records: what there is, before any image is read."""

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from anodetect.errors import DataError
from anodetect.files import path_text

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npy"})
VOLUMES = frozenset({".nii", ".nii.gz", ".nrrd"})
SUFFIXES = IMAGES | VOLUMES
NORMAL, ANOMALOUS = 0, 1
MANIFEST = "manifest.csv"
COLUMNS = ("path", "split", "label", "kind", "mask", "group", "foreground", "component")


@dataclass(frozen=True)
class Record:
    """One image or volume. `split` is "train", "test" or "" (not said); `label` 0 normal, 1 anomalous, None unknown.

    `component` is the one to take of a 4-D file. With `slice` the record is that slice of the volume alone.
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
    """Read a folder as a manifest, the MVTec layout or plain images, whichever it is (in this order)."""
    if not folder.is_dir():
        raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    if (folder / MANIFEST).is_file():
        dataset = _manifest(folder, follow_symlinks)
    elif _is_mvtec(folder):
        dataset = _mvtec(folder, follow_symlinks)
    else:
        found, problems = walk(folder, follow_symlinks=follow_symlinks)
        dataset = Dataset(
            path_text(folder.name), folder, tuple(_plain(folder, path) for path in found), tuple(problems)
        )
    if not dataset.records:
        if dataset.problems:
            raise DataError(f"{folder}: nothing can be read here; {dataset.problems[0][0]}: {dataset.problems[0][1]}")
        raise DataError(f"{folder}: no images here ({', '.join(sorted(SUFFIXES))}, or a manifest.csv)")
    return dataset


def walk(folder: Path, *, follow_symlinks: bool = False) -> tuple[list[Path], list[tuple[str, str]]]:
    """Image files below `folder` in name order, and what was passed over with the reason.

    Symbolic links that lead out of the folder are passed over unless followed; loops are never followed.
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
            if name.startswith(".") or suffix_of(path) not in SUFFIXES:
                continue
            if path.is_symlink() and not follow_symlinks and not is_below(path, root):
                problems.append(
                    (path_text(path.relative_to(folder)), "symbolic link out of the folder; see --follow-symlinks")
                )
            else:
                found.append(path)
    return found, problems


def suffix_of(path: Path) -> str:
    """A path's suffix in lower case; ".nii.gz" is one."""
    suffix = path.suffix.lower()
    return f".nii{suffix}" if suffix == ".gz" and path.stem.lower().endswith(".nii") else suffix


def is_below(path: Path, folder: str | Path) -> bool:
    """Whether a path, its links followed, lies in a folder; a loop of links lies nowhere else."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _plain(folder: Path, path: Path, **known: object) -> Record:
    name = path_text(path.relative_to(folder))
    return Record(id=name, path=path, **{"group": name, **known})  # type: ignore[arg-type]


# -- MVTec layout ---------------------------------------------------------------------------------------


def _is_mvtec(folder: Path) -> bool:
    return (folder / "train" / "good").is_dir() or (folder / "test" / "good").is_dir()


def _mvtec(folder: Path, follow_symlinks: bool) -> Dataset:
    records, problems = [], []
    for split, kind in [("train", "good"), *(("test", kind) for kind in _subfolders(folder / "test"))]:
        base = folder / split / kind
        if not base.is_dir():
            continue
        found, trouble = walk(base, follow_symlinks=follow_symlinks)
        problems += [(f"{split}/{kind}/{name}", reason) for name, reason in trouble]
        label = NORMAL if kind == "good" else ANOMALOUS
        for path in found:
            mask = mvtec_mask(folder, kind, path.name) if label else None
            records.append(_plain(folder, path, split=split, label=label, kind=kind, mask=mask))
    return Dataset(path_text(folder.name), folder, tuple(records), tuple(problems))


def _subfolders(folder: Path) -> list[str]:
    try:
        children = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or 'unreadable'}") from None
    return [child.name for child in children if child.is_dir() and not child.name.startswith(".")]


def mvtec_mask(folder: Path, kind: str, name: str) -> Path | None:
    """The truth of test/`kind`/`name`, if there is one."""
    stem = Path(name).stem
    candidates = (folder / "ground_truth" / kind / mask for mask in (f"{stem}_mask.png", f"{stem}.png"))
    return next((path for path in candidates if path.is_file()), None)


# -- Manifest -------------------------------------------------------------------------------------------


def _manifest(folder: Path, follow_symlinks: bool) -> Dataset:
    file = folder / MANIFEST
    records: list[Record] = []
    seen: set[str] = set()
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
            raise DataError(f"{where}: label {row['label']!r} is neither 0 (normal) nor 1 (anomalous)")
        if row["component"] and not row["component"].isdecimal():
            raise DataError(f"{where}: component {row['component']!r} is not a number from 0 on")
        label = int(row["label"]) if row["label"] else None
        if row["split"] == "train" and label == ANOMALOUS:
            raise DataError(f"{where}: {name!r} is anomalous but in the train split, which holds normals only")
        records.append(
            Record(
                id=identity,
                path=folder / name,
                split=row["split"],
                label=label,
                kind=row["kind"],
                group=row["group"] or identity,
                mask=folder / row["mask"] if row["mask"] else None,
                foreground=folder / row["foreground"] if row["foreground"] else None,
                component=int(row["component"]) if row["component"] else None,
                extra={key: value for key, value in row.items() if key not in COLUMNS},
            )
        )
    return Dataset(path_text(folder.name), folder, tuple(records))


def manifest_masks(file: Path) -> dict[str, str]:
    """For each image's id its mask in a manifest.csv, as it stands there."""
    return {path_text(PurePosixPath(row["path"])): row["mask"] for _, row in _rows(file) if row["mask"]}


def _rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) for each line, every standard column present and stripped."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            if "path" not in (reader.fieldnames or ()):
                raise DataError(f"{file}: no column 'path' (columns: {', '.join(COLUMNS)} and any others)")
            if len(set(reader.fieldnames or ())) < len(reader.fieldnames or ()):
                raise DataError(f"{file}: a column name occurs twice")
            for number, row in enumerate(reader, start=2):
                if None in row or None in row.values():
                    raise DataError(f"{file}, line {number}: not as many fields as the header has")
                yield f"{file}, line {number}", dict.fromkeys(COLUMNS, "") | {k: v.strip() for k, v in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: {error}") from None


def _check_inside(folder: Path, name: str, where: str, follow_symlinks: bool) -> None:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise DataError(f"{where}: {name!r} leads out of the folder")
    if "\0" in name:
        raise DataError(f"{where}: the path holds a NUL character")
    if not follow_symlinks and not is_below(folder / name, folder):
        raise DataError(f"{where}: {name!r} is a symbolic link out of the folder; see --follow-symlinks")
