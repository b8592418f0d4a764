"""Records of files and of DICOM series."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from anodetect.data import dicom, formats
from anodetect.data.records import Record
from anodetect.files import is_below, path_text

Headlines = Mapping[Path, dicom.Headline]


def records_of(folder: Path, paths: Iterable[Path]) -> Iterator[Record]:
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
        found = headlines_of(path.parent, None if path.is_symlink() else path.parent)
    same = [file for file, headline in found.items() if headline.series == name]
    return tuple(sorted({path, *same}))


def headlines_of(folder: Path, root: Path | None) -> Headlines:
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
