"""manifest.csv: a table that says what each image is."""

import csv
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path, PurePosixPath

from anodetect.data import dicom
from anodetect.data.records import ANOMALOUS, Dataset, Record
from anodetect.data.series import Headlines, headlines_of, series_of
from anodetect.data.walk import LINK_OUT
from anodetect.errors import DataError
from anodetect.files import is_below, leads_out, path_text

MANIFEST = "manifest.csv"
COLUMNS = ("path", "split", "label", "kind", "mask", "group", "foreground", "component")


def read_manifest(folder: Path, follow_symlinks: bool) -> Dataset:
    """Return what manifest.csv lists; DataError names the line that is wrong."""
    records: list[Record] = []
    seen: set[str] = set()
    root = None if follow_symlinks else folder
    headlines = cache(partial(headlines_of, root=root))  # reads each folder once

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
        masks=(folder / row["mask"],) if row["mask"] else (),
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
