"""Layouts of folders that tell by names what is normal, and where masks are."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from anodetect.data import formats
from anodetect.data.records import ANOMALOUS, NORMAL, Dataset, Problem, Record
from anodetect.data.series import records_of
from anodetect.data.walk import LINK_OUT, LINK_TO_FOLDER, walk
from anodetect.errors import DataError
from anodetect.files import is_below, path_text


def is_mvtec(folder: Path) -> bool:
    return (folder / "train" / "good").is_dir() or (folder / "test" / "good").is_dir()


def mvtec(folder: Path, follow_symlinks: bool) -> Dataset:
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
        for record in records_of(folder, found):
            mask = _mask_of(record.path.name, masks)
            if mask and not follow_symlinks and not is_below(mask, folder):
                problems.append(Problem(path_text(mask.relative_to(folder)), LINK_OUT))
                mask = None
            found_masks = (mask,) if mask else ()
            known = replace(
                record, split=split, label=label, kind=path_text(kind), masks=found_masks
            )
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
