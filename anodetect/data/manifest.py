"""manifest.csv: a table that says what each image is."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from anodetect.data import dicom_head, formats
from anodetect.data.bvalues import names_beside
from anodetect.data.channels import ChannelFile, joined_notes
from anodetect.data.delimited import Line, lines_of
from anodetect.data.manifest_columns import (
    CHANNELS,
    COLUMNS,
    KNOWN,
    PATHS,
    labels_of_kinds,
    listed_channels,
    refuse_like_groups,
    refuse_misspelt,
    refuse_other_names,
    written,
)
from anodetect.data.names import meaning
from anodetect.data.reading import component_of
from anodetect.data.records import ANOMALOUS, NORMAL, Dataset, Record
from anodetect.data.series import Headlines, SeriesNotes, headlines_of, series_of, strata_of
from anodetect.data.volume_headers import volumes_in
from anodetect.data.walk import LINK_OUT
from anodetect.errors import DataError
from anodetect.files import is_below, leads_out, path_text
from anodetect.words import amount

MANIFEST = "manifest.csv"
LABELS: dict[str, int | None] = {
    "0": NORMAL,
    "0.0": NORMAL,
    "1": ANOMALOUS,
    "1.0": ANOMALOUS,
    "false": NORMAL,
    "true": ANOMALOUS,
    "": None,
}
MEANINGS = {"normal": NORMAL, "anomalous": ANOMALOUS}
NOTHING = ("nan", "null", "na", "n/a", "<na>")  # as programs write an empty value
NO_FILE = (*NOTHING, "none", "-")
MAY_BE_EMPTY = {
    "mask": NO_FILE,
    "foreground": NO_FILE,
    "group": NO_FILE,
    "component": NO_FILE,
    "split": NO_FILE,
    "kind": NO_FILE,
    "label": NOTHING,  # "none" and "-" may mean normal
}


FILES = ("path", "mask", "foreground")  # columns that name files
SHOWN = ("group", "kind", "study", "acquired")  # columns that the record has, too
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # but tabs and line ends


def is_manifest(name: str) -> bool:
    """Return whether a file of this name is a manifest, in whatever case it is written."""
    return name.casefold() == MANIFEST


def manifest_of(folder: Path) -> Path | None:
    """Return the manifest.csv of a folder, its name in any case; None if there is none.

    DataError if there are two.
    """
    if not folder.is_dir():
        return None
    try:
        found = [path for path in folder.iterdir() if is_manifest(path.name)]
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or 'unreadable'}") from None

    files = sorted(path for path in found if path.is_file())
    if len(files) > 1:
        names = " and ".join(path.name for path in files)
        raise DataError(f"{folder}: {names}: two manifests; remove one of them")
    return files[0] if files else None


def read_manifest(folder: Path, follow_symlinks: bool, *, known_anomalies: bool = False) -> Dataset:
    """Return what the manifest of a folder lists; DataError names the line that is wrong.

    Anomalous rows of the train part leave a doubt, unless `known_anomalies` are to be learned from.
    """
    file = manifest_of(folder)
    if file is None:
        raise DataError(f"{folder}: no {MANIFEST} here")
    records: list[Record] = []
    seen: set[str] = set()
    doubts: list[str] = []
    root = None if follow_symlinks else folder
    headlines = cache(partial(headlines_of, root=root))  # reads each folder once
    notes = SeriesNotes(headlines)
    names = NamesOnDisk(folder)

    rows = _rows(file, names)
    refuse_like_groups(file, (row["group"] for _, row in rows))
    for where, row in rows:
        identity = path_text(PurePosixPath(row["path"]))
        if identity in seen:
            raise DataError(f"{where}: {row['path']!r} is listed twice")
        seen.add(identity)
        _check_row(folder, row, where, follow_symlinks)
        if row["split"] == "train" and _label_of(row["label"]) == ANOMALOUS:
            doubts.append(_doubt_of_anomaly(row, where))
        records.append(_listed_record(folder, row, where, headlines, notes))

    if known_anomalies:
        doubts = []
    doubts.append(_doubt_of_masks(file, records))
    return Dataset(
        path_text(folder.name),
        folder,
        tuple(records),
        layout=file.name,
        doubt=doubts[0],
        known_anomalies=known_anomalies,
    )


def _doubt_of_anomaly(row: Mapping[str, str], where: str) -> str:
    """Return the doubt that an anomalous row of the train part leaves."""
    kind = f" (kind {row['kind']!r})" if row["kind"] else ""
    return (
        f"{where}: {row['path']!r} is anomalous{kind} but in the train split, which holds normals "
        "only; `train --known-anomalies` keeps such rows apart and learns what is not normal"
    )


def _doubt_of_masks(file: Path, records: Sequence[Record]) -> str:
    """Return the doubt that masks leave of images without a label that would be learned from, "" if
    there are none: they may mark what is anomalous."""
    masked = [r for r in records if r.masks and r.label is None and r.split != "test"]
    if not masked:
        return ""
    images = amount(len(masked), "image has", "images have")
    return (
        f"{file}: {images} a mask, no label and no split 'test' (the first: "
        f"{masked[0].id}); write label 0 (normal) or 1 (anomalous)"
    )


def manifest_rows(file: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a manifest by their images' ids, paths as they are on the disk."""
    rows = _rows(file, NamesOnDisk(file.parent))
    return {path_text(PurePosixPath(row["path"])): row for _, row in rows}


# -- Rows ------------------------------------------------------------------------------------------


def _rows(file: Path, names: "NamesOnDisk") -> list[tuple[str, dict[str, str]]]:
    """Return where each line stands and its row, every standard column present; `split` is in lower
    case and paths are those of the disk. Without a column `label` kinds give labels."""
    lines = list(map(_with_empty_values, lines_of(file, "path", KNOWN, PATHS)))
    header = lines[0].values if lines else {}
    refuse_misspelt(file, header)
    refuse_other_names(file, [line.values for line in lines])
    labels: dict[str, str] = {}
    if "label" not in header:
        labels = labels_of_kinds(line.values.get("kind", "") for line in lines)

    rows = []
    for line in lines:
        row = dict.fromkeys((*COLUMNS, CHANNELS), "") | line.values
        own = listed_channels(row[CHANNELS], line.where)
        _check_first(row["path"], own, line.where)
        row["path"] = row["path"] or next(iter(own.values()), "")
        for column in FILES:
            row[column] = names.of(row[column])
        row[CHANNELS] = written({name: names.of(path) for name, path in own.items()})
        row["split"] = row["split"].casefold()
        row["label"] = row["label"] or labels.get(row["kind"], "")
        rows.append((line.where, row))
    return rows


def _with_empty_values(line: Line) -> Line:
    """Return a line whose values are empty where a program wrote that there is none."""
    values = dict(line.values)
    for column, nothing in MAY_BE_EMPTY.items():
        if values.get(column, "").casefold() in nothing:
            values[column] = ""
    return replace(line, values=values)


def _check_first(path: str, channels: Mapping[str, str], where: str) -> None:
    """Raise DataError if a line names no file, or another one than the first of its channels."""
    first = next(iter(channels.values()), path)
    if not first:
        raise DataError(f"{where}: no path")
    if path and path != first:
        raise DataError(
            f"{where}: the path is {path!r}, and the first of its channels {first!r}; leave the "
            "path empty"
        )


def _label_of(text: str) -> int | None:
    """Return the label that a manifest's text means, None for none; KeyError if it means
    nothing."""
    folded = text.casefold()
    return LABELS[folded] if folded in LABELS else MEANINGS[meaning(folded)]


def _check_row(folder: Path, row: Mapping[str, str], where: str, follow_symlinks: bool) -> None:
    """Raise DataError if a row's values are not what its columns hold."""
    named = [row[column] for column in FILES]
    for name in (*named, *listed_channels(row[CHANNELS], where).values()):
        _check_inside(folder, name, where, follow_symlinks)

    _check_texts(row, where)
    if row["split"] not in ("train", "test", ""):
        raise DataError(
            f"{where}: split {row['split']!r} is neither 'train' nor 'test'; "
            "write train for normals to learn from, test for all others"
        )
    try:
        _label_of(row["label"])
    except KeyError:
        raise DataError(
            f"{where}: label {row['label']!r} is neither 0 (normal) nor 1 (anomalous), nor a word "
            "for one of them"
        ) from None
    _check_component(folder / row["path"], row["component"], where)


def _check_texts(row: Mapping[str, str], where: str) -> None:
    """Raise DataError for a control character in a value that the record has, too, whose tables
    people print on terminals."""
    for column in SHOWN:
        value = row.get(column, "")
        if CONTROL.search(value):
            raise DataError(
                f"{where}: {column} {value!r} holds a control character; write it without"
            )


def _check_component(path: Path, component: str, where: str) -> None:
    """Raise DataError if a component is no number, or its file does not hold several volumes. In a
    DICOM series, and where b-values stand beside a file, components have names, too."""
    if not component or (path.exists() and (path.is_dir() or formats.is_series(path))):
        return
    if not component.isdecimal():
        names = names_beside(path)
        if names and component.casefold() not in names:
            raise DataError(f"{where}: component {component!r} is none of {', '.join(names[:8])}")
        if not names:
            raise DataError(f"{where}: component {component!r} is not a number from 0 on")
        return

    found = formats.format_named(path.name)
    if found is not None and found.content == "image":
        raise DataError(
            f"{where}: {path.name} is an image; only a 4-D volume has components, "
            "leave the column empty"
        )
    count = volumes_in(path)
    if count == 1:
        raise DataError(
            f"{where}: {path.name} holds one volume and no components; leave the column empty"
        )
    if count is not None and int(component) >= count:
        volumes = amount(count, "volume")
        raise DataError(f"{where}: no component {component} in a file of {volumes}")


def _check_inside(folder: Path, name: str, where: str, follow_symlinks: bool) -> None:
    """Raise DataError if a path of a manifest leads out of its folder, or is a pattern."""
    windows = PureWindowsPath(name)
    absolute = "\\" in name and bool(windows.drive or windows.root)
    if leads_out(name) or absolute:
        raise DataError(f"{where}: {name!r} leads out of the folder; paths are relative to it")
    if ("*" in name or "?" in name) and not (folder / name).exists():
        raise DataError(f"{where}: {name!r} is a pattern; list each file in a line of its own")
    if not follow_symlinks and not is_below(folder / name, folder):
        raise DataError(f"{where}: {name!r} is a {LINK_OUT}; see --follow-symlinks")


class NamesOnDisk:
    """Finds the files below a folder that a manifest names, which may have been written on another
    system: with backslashes, with letters and accents put together otherwise (NFC, NFD), or in
    another case, if only one file has such a name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._composed: dict[Path, dict[str, str]] = {}
        self._folded: dict[Path, dict[str, list[str]]] = {}

    def of(self, name: str) -> str:
        """Return a path as it is on the disk, or as it is given if there is no such file."""
        if not name or leads_out(name) or (self.folder / name).exists():
            return name
        windows = PureWindowsPath(name)
        if "\\" in name and not (windows.drive or windows.root):
            name = windows.as_posix()
            if leads_out(name) or (self.folder / name).exists():
                return name

        place = self.folder
        for part in PurePosixPath(name).parts:
            found = part if (place / part).exists() else self._alike(place, part)
            place = place / found
        return place.relative_to(self.folder).as_posix() if place.exists() else name

    def _alike(self, place: Path, name: str) -> str:
        """Return the only name in a folder that is spelt like this one, by accents put together
        otherwise or else in another case; the name itself if there is none or there are several."""
        if place not in self._composed:
            self._read_names(place)
        composed = unicodedata.normalize("NFC", name)
        if composed in self._composed[place]:
            return self._composed[place][composed]
        folded = self._folded[place].get(composed.casefold(), [])
        return folded[0] if len(folded) == 1 else name

    def _read_names(self, place: Path) -> None:
        """Note the names in a folder; none if it cannot be read."""
        try:
            children = [child.name for child in place.iterdir()]
        except OSError:
            children = []
        self._composed[place] = {unicodedata.normalize("NFC", name): name for name in children}

        self._folded[place] = {}
        for composed, name in self._composed[place].items():
            self._folded[place].setdefault(composed.casefold(), []).append(name)


# -- Records ---------------------------------------------------------------------------------------


def _listed_record(
    folder: Path,
    row: Mapping[str, str],
    where: str,
    headlines: Callable[[Path], Headlines],
    notes: SeriesNotes,
) -> Record:
    """Return the record of a row that was checked."""
    identity = path_text(PurePosixPath(row["path"]))
    path, files = listed_files(folder / row["path"], where, headlines)
    found = dicom_head.headline(path) if files else dicom_head.Headline()
    pseudonym = dicom_head.group_of(found, keep_identifiers=False)
    own = {key: value for key, value in row.items() if key not in (*COLUMNS, CHANNELS)}
    extra = strata_of(found) | own
    channels, known = [], {}
    for name, listed in listed_channels(row[CHANNELS], where).items():
        place, series = listed_files(folder / listed, where, headlines)
        channels.append(ChannelFile(name, path_text(PurePosixPath(listed)), place, series))
        known[name] = notes.of(place, series)

    return Record(
        id=identity,
        path=path,
        split=row["split"],
        label=_label_of(row["label"]),
        kind=row["kind"],
        group=row["group"] or pseudonym or identity,
        masks=masks_at(folder / row["mask"]) if row["mask"] else (),
        foreground=folder / row["foreground"] if row["foreground"] else None,
        component=component_of(row["component"]),
        files=files,
        extra=extra,
        channels=tuple(channels),
        study=dicom_head.study_of(found, keep_identifiers=False) if files else row.get("study", ""),
        note=joined_notes(known) if channels else notes.of(path, files),
    )


def masks_at(path: Path) -> tuple[Path, ...]:
    """Return a mask, or of a folder all masks in it, without links out of it."""
    if not path.is_dir():
        return (path,)
    found = []
    for file in sorted(path.iterdir()):
        is_mask = formats.format_named(file.name) is not None and not file.name.startswith(".")
        if is_mask and is_below(file, path):
            found.append(file)
    return tuple(found)


def listed_files(
    path: Path, where: str, headlines: Callable[[Path], Headlines]
) -> tuple[Path, tuple[Path, ...]]:
    """Return the file that stands for what a manifest lists, and the files of its DICOM series: a
    listed folder's only one, or those that belong with a listed file. `headlines` returns those of
    a folder. DataError, after `where` it is listed, if a folder holds no series, or several."""
    if not path.is_dir():
        return path, series_of(path, headlines) if path.is_file() else ()

    found = headlines(path)
    if not found:
        raise DataError(f"{where}: the folder {path.name!r} holds no DICOM series")
    images = [file for file, headline in found.items() if headline.frames]
    images = images or list(found)[:1]  # reading it will say what it is
    count = len({found[file].series or file for file in images})
    if count > 1:
        note = SeriesNotes(headlines).of(images[0], series_of(images[0], headlines))
        raise DataError(
            f"{where}: the folder {path.name!r} holds {count} DICOM series or single images; "
            f"{note or 'name a file of one of them'}"
        )
    return images[0], series_of(images[0], headlines)
