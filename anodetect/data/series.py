"""Records of files and of DICOM series."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from anodetect.data import dicom, formats
from anodetect.data.records import Record
from anodetect.data.walk import PassedOverCounts
from anodetect.files import is_below, path_text

Headlines = Mapping[Path, dicom.Headline]


def records_of(
    folder: Path, paths: Iterable[Path], passed_over: PassedOverCounts
) -> Iterator[Record]:
    """Yield a record for each file, and one for all files of a DICOM series in the same folder.

    DICOM files that are no images to judge, such as reports and localizers, are passed over; so are
    derived images where there are original ones of the same patient.
    """
    paths = list(paths)
    headlines = {path: dicom.headline(path) for path in paths if formats.is_series(path)}
    if not headlines:
        for path in paths:
            yield record_of(folder, path, (path,))
        return
    originals = {
        (each.issuer, each.patient)
        for each in headlines.values()
        if not each.derived and not each.no_image
    }

    series: dict[tuple[Path, str], list[Path]] = {}
    for path in paths:
        found = headlines.get(path, dicom.Headline())
        reason = found.no_image
        if found.derived and (found.issuer, found.patient) in originals:
            reason = reason or dicom.DERIVED
        if reason:
            passed_over.add(path_text(path.relative_to(folder)), reason)
        else:
            series.setdefault((path.parent, found.series or path.name), []).append(path)

    for first, *rest in series.values():
        yield record_of(folder, first, (first, *rest), headlines.get(first))


def record_of(
    folder: Path, path: Path, files: tuple[Path, ...], found: dicom.Headline | None = None
) -> Record:
    """Return the record of a file or of a series' `files`, its id relative to `folder`. A DICOM
    file's group is its patient's pseudonym, any other's its own id; what is `found` in its header
    is read if it is not given."""
    name = path_text(path.relative_to(folder))
    if found is None and not formats.is_series(path):
        return Record(id=name, path=path, group=name)
    found = found or dicom.headline(path)
    group = dicom.group_of(found, keep_identifiers=False) or name
    return Record(
        id=name,
        path=path,
        files=files,
        group=group,
        modality=found.modality,
        description=found.description,
    )


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
