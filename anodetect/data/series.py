"""Records of files and of DICOM series."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anodetect.data import dicom_head, formats, names
from anodetect.data.dicom_head import Headline
from anodetect.data.records import Record
from anodetect.data.walk import PassedOverCounts
from anodetect.files import is_below, path_text
from anodetect.words import amount

Headlines = Mapping[Path, Headline]
Place = tuple[NDArray[np.float64], NDArray[np.float64]]


def records_of(
    folder: Path, paths: Iterable[Path], passed_over: PassedOverCounts
) -> Iterator[Record]:
    """Yield a record for each file, and one for all files of a DICOM series, which may lie in
    several folders side by side unless names say what is in them.

    DICOM files that are no images to judge, such as reports and localizers, are passed over; so are
    derived images where there are original ones of the same patient, and second copies of an image
    in its series.
    """
    paths = list(paths)
    headlines = {path: dicom_head.headline(path) for path in paths if formats.is_series(path)}
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
    instances: set[tuple[Path, str, tuple[str, tuple[float, ...]]]] = set()
    for path in paths:
        found = headlines.get(path, Headline())
        reason = found.no_image
        if found.derived and (found.issuer, found.patient) in originals:
            reason = reason or dicom_head.DERIVED
        where = _folder_of_series(folder, path) if found.series else path.parent
        copy = where, found.series, found.image
        if found.series and found.instance and copy in instances:
            reason = reason or dicom_head.COPIES

        if reason:
            passed_over.add(path_text(path.relative_to(folder)), reason)
        else:
            instances.add(copy)
            series.setdefault((where, found.series or path.name), []).append(path)

    folders: dict[Path, SeriesCounts] = defaultdict(SeriesCounts)
    for (where, _), files in series.items():
        folders[where].add(headlines.get(files[0], Headline()), len(files))
    for (where, _), files in series.items():
        note = folders[where].note(headlines.get(files[0], Headline()), len(files))
        first, *rest = _without_strays(folder, files, headlines, passed_over)
        record = record_of(folder, first, (first, *rest), headlines.get(first))
        yield replace(record, note=note)


class SeriesCounts:
    """Counts of a folder's files that have one UID of their series, and of images in one
    orientation that are alone in theirs: either may be slices of one volume."""

    def __init__(self) -> None:
        self._sharing: Counter[str] = Counter()  # by the UID
        self._alone: Counter[tuple[str, str, str]] = Counter()  # by study, patient and orientation

    def add(self, found: Headline, count: int) -> None:
        """Count the `count` files of a series, by the headline of one of them."""
        self._sharing[found.series_uid] += count
        if count == 1 and found.place:
            self._alone[_plane_of(found)] += 1

    def note(self, found: Headline, count: int) -> str:
        """Return what is to be known of a series of `count` files, by the headline of one of them;
        "" if nothing is."""
        others = self._sharing[found.series_uid] - count if found.series_uid else 0
        if others > 0:
            return _note_of_others(others)
        return _note_of_apart(self._alone[_plane_of(found)]) if count == 1 else ""


def _counts_of(headlines: Headlines) -> SeriesCounts:
    """Return the counts of a folder with these headlines, as `records_of` has them."""
    series: dict[object, dict[object, Headline]] = {}  # the images of each
    for path, found in headlines.items():
        if found.frames and not found.no_image:
            series.setdefault(found.series or path, {})[_image_of(path, found)] = found
    counts = SeriesCounts()
    for images in series.values():
        counts.add(next(iter(images.values())), len(images))
    return counts


class SeriesNotes:
    """Notes on the series of files, as `records_of` has them, by the headlines of their folders
    alone. `headlines` returns those of a folder, each of which is counted once."""

    def __init__(self, headlines: Callable[[Path], Headlines]) -> None:
        self._headlines = headlines
        self._counts: dict[Path, SeriesCounts] = {}

    def of(self, path: Path, files: Sequence[Path]) -> str:
        """Return what is to be known of the series of a file, which has these `files`; "" if
        nothing is, and for a file of another format, which has none."""
        if not files:
            return ""
        found, folder = self._headlines(path.parent), path.parent
        if folder not in self._counts:
            self._counts[folder] = _counts_of(found)
        return self._counts[folder].note(found.get(path, Headline()), len(files))


def _plane_of(found: Headline) -> tuple[str, str, str]:
    """Return the study, patient and orientation of a single image."""
    return found.study, found.patient, " ".join(f"{value:.2f}" for value in found.place[3:])


def _note_of_apart(count: int) -> str:
    """Return what is to be known of an image, alone in its series, if there are `count` such images
    of its study in one orientation; "" if these are too few to be a volume's."""
    from anodetect.data.dicom_stacks import LEAST_OF_VOLUME  # with pydicom

    if count < LEAST_OF_VOLUME:
        return ""
    return (
        f"{count} images of this study lie in one orientation, and each has a SeriesInstanceUID of "
        "its own, or none; if they are slices of one volume, correct it"
    )


def _note_of_others(count: int) -> str:
    """Return what is to be known of a series beside which `count` images of another patient or
    study have its UID. They may be the other slices of one volume."""
    images = amount(
        count,
        "more image with the UID of this series names another patient or study and is",
        "more images with the UID of this series name another patient or study and are",
    )
    return (
        f"{images} no part of it; if all are slices of one volume, correct PatientID and "
        "StudyInstanceUID"
    )


def _without_strays(
    folder: Path, files: list[Path], headlines: Headlines, passed_over: PassedOverCounts
) -> list[Path]:
    """Return the files of a series without single images in other planes than its volume, which are
    counted as passed over."""
    from anodetect.data.dicom_stacks import LEAST_OF_VOLUME, strays_among  # with pydicom

    if len(files) <= LEAST_OF_VOLUME:
        return files
    places = _places([headlines[path] for path in files])
    strays = strays_among(places)
    for number in strays:
        passed_over.add(path_text(files[number].relative_to(folder)), dicom_head.STRAYS)
    return [path for number, path in enumerate(files) if number not in strays]


def _places(found: Iterable[Headline]) -> list[Place]:
    """Return the positions and directions of single images; none if one of them has none."""
    places = [np.array(each.place) for each in found]
    if not all(len(place) for place in places):
        return []
    return [(place[:3], place[3:]) for place in places]


def uneven_slices(record: Record) -> str:
    """Return in words how the slices of a record's DICOM series lie where they are not even, by the
    headers of its single images; "" for any other record."""
    if not record.files and not record.channels:
        return ""
    from anodetect.data.dicom_stacks import unevenness_of  # with pydicom

    several = [record.files]
    if record.channels:
        several = [channel.files for channel in record.channels]
    notes: dict[str, None] = {}
    for files in several:
        if len(files) > 2:
            notes[unevenness_of(_places(map(dicom_head.headline, files)))] = None
    return "; ".join(note for note in notes if note)


def _folder_of_series(folder: Path, path: Path) -> Path:
    """Return the folder below which a file's series lies: its own, or the one above where no name
    on the way says what its images are, such as `test` or `good`."""
    parts = path.parent.relative_to(folder).parts
    if not parts or any(names.meaning(part) for part in parts):
        return path.parent
    return path.parent.parent


def record_of(
    folder: Path, path: Path, files: tuple[Path, ...], found: Headline | None = None
) -> Record:
    """Return the record of a file or of a series' `files`, its id relative to `folder`. A DICOM
    file's group is its patient's pseudonym, any other's its own id; what is `found` in its header
    is read if it is not given."""
    name = path_text(path.relative_to(folder))
    if found is None and not formats.is_series(path):
        return Record(id=name, path=path, group=name)
    found = found or dicom_head.headline(path)
    group = dicom_head.group_of(found, keep_identifiers=False) or name

    return Record(
        id=name,
        path=path,
        files=files,
        group=group,
        modality=found.modality,
        description=found.description,
        quantity=found.quantity,
        extra=strata_of(found),
        study=dicom_head.study_of(found, keep_identifiers=False),
    )


def strata_of(found: Headline) -> dict[str, str]:
    """Return by their columns' names the strata that a radiograph's header says: its view and which
    side of the body it shows."""
    strata = {"view": found.view, "laterality": found.laterality}
    return {name: value for name, value in strata.items() if value}


def series_of(
    path: Path, headlines: Callable[[Path], Headlines] | None = None, root: Path | None = None
) -> tuple[Path, ...]:
    """Return the files of the DICOM series that a file belongs to, in its folder and, with a
    `root`, in those beside it as `records_of` finds them; () for a file of another format. A file
    that cannot be read stands alone.

    `headlines` returns those of a folder; by default they are read.
    """
    if not formats.is_series(path):
        return ()
    own = dicom_head.headline(path)
    if not own.series:
        return (path,)

    folders = [path.parent]
    if root is not None and _folder_of_series(root, path) != path.parent:
        beside = (each for each in path.parent.parent.iterdir() if each.is_dir())
        folders = sorted({path.parent, *beside})

    files = {_image_of(path, own): path}  # one of each image
    for folder in folders:
        if headlines is not None:
            found = headlines(folder)
        else:
            # A link stands for files that may be links as well.
            found = headlines_of(folder, None if path.is_symlink() else folder)
        for file, each in found.items():
            if each.series == own.series:
                files.setdefault(_image_of(file, each), file)
    return tuple(sorted(files.values()))


def _image_of(path: Path, found: Headline) -> object:
    """Return what copies of a file's image have in common; the path if nothing names the image."""
    return found.image if found.instance else path


def headlines_of(folder: Path, root: Path | None) -> Headlines:
    """Return those of a folder's DICOM files in name order. As in `walk`, hidden files are left
    out and, with a `root`, links out of it."""
    found: dict[Path, Headline] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or not file.is_file() or not formats.is_series(file):
            continue
        if root and file.is_symlink() and not is_below(file, root):
            continue
        found[file] = dicom_head.headline(file)
    return found


def identified(record: Record) -> Record:
    """Return the record with what identifies patient and study in place of pseudonyms."""
    if not record.files:
        return record
    found = dicom_head.headline(record.path)
    record = replace(record, study=dicom_head.study_of(found, keep_identifiers=True))
    if record.group != dicom_head.group_of(found, keep_identifiers=False):
        return record  # its group was named by a manifest
    return replace(record, group=dicom_head.group_of(found, keep_identifiers=True))
