"""The files below a folder that can be read, and what was passed over."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from anodetect.data import formats, names
from anodetect.data.annotations import is_annotation
from anodetect.data.records import PassedOver, Problem
from anodetect.files import is_below, path_text, real_path, walk_down

LINK_OUT = "symbolic link out of the folder"
LINK_TO_FOLDER = "symbolic link to a folder; see --follow-symlinks"
HIDDEN = "hidden"
# Files by which a folder shows that anodetect wrote it.
OWN_FOLDERS = {
    "audit.json": "in score directories of anodetect",
    "journal.jsonl": "in score directories of anodetect",
    "model.safetensors": "in runs of anodetect",
    "train.jsonl": "in runs of anodetect",
}


class PassedOverCounts:
    """Counts files that are passed over, by their folder and the reason."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], PassedOver] = {}

    def add(self, name: str, reason: str, count: int = 1) -> None:
        """Count a file, or `count` files of which `name` is the first, a path below the root."""
        if not count:
            return
        folder = name.rpartition("/")[0] or "."
        before = self._found.get((folder, reason))
        first = before.first if before else name
        total = count + (before.count if before else 0)
        self._found[folder, reason] = PassedOver(folder, reason, total, first)

    def all(self) -> tuple[PassedOver, ...]:
        """Return what was counted, in the order in which it was found."""
        return tuple(self._found.values())


@dataclass
class Walked:
    """The files below a folder that can be read, in name order, and those that may be annotations;
    what could not be looked into; and what was passed over."""

    files: list[Path] = field(default_factory=list)
    annotations: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    passed_over: PassedOverCounts = field(default_factory=PassedOverCounts)


def walk(folder: Path, *, follow_symlinks: bool = False) -> Walked:
    """Return what lies below `folder`, as `walk_files` finds it."""
    found = Walked()
    found.files += walk_files(folder, found, follow_symlinks=follow_symlinks)
    return found


def walk_files(folder: Path, found: Walked, *, follow_symlinks: bool = False) -> Iterator[Path]:
    """Yield the files below `folder` that can be read, in name order, the files of a folder before
    those of the folders in it; what else there is is added to `found`.

    Symbolic links that lead out of the folder are problems unless followed; loops are never
    followed. Hidden files, trash, thumbnails, what anodetect wrote and files of unknown formats are
    passed over.
    """
    root = real_path(folder)
    seen: set[str] = set()

    def report(error: OSError) -> None:
        where = path_text(os.path.relpath(error.filename, folder))
        found.problems.append(Problem(where, error.strerror or "unreadable"))

    below = walk_down(folder, follow_symlinks=follow_symlinks, report=report)
    for place, folders, files in below:
        real = real_path(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)

        own = _own_folder(files)
        if own:
            _pass_over_folder(folder, place, own, found)
            folders.clear()
            continue

        folders.sort()
        for name in _passed_over_folders(folders):
            reason = names.LEFTOVERS.get(name.casefold(), HIDDEN)
            _pass_over_folder(folder, place / name, reason, found)
        if not follow_symlinks:
            for name in folders:
                if (place / name).is_symlink():
                    where = path_text((place / name).relative_to(folder))
                    found.problems.append(Problem(where, LINK_TO_FOLDER))

        for name in sorted(files):
            path = place / name
            if _is_image(folder, root, path, follow_symlinks, found):
                yield path


def _is_image(folder: Path, root: str, path: Path, follow_symlinks: bool, found: Walked) -> bool:
    """Return whether a file can be read as an image or a volume; add any other to what was
    found."""
    where = path_text(path.relative_to(folder))
    if path.name.startswith("."):
        found.passed_over.add(where, HIDDEN)
    elif formats.format_of(path) is None and not is_annotation(path):
        found.passed_over.add(where, unreadable(path))
    elif names.is_own_output(path.name):
        found.passed_over.add(where, "maps and pictures of anodetect")
    elif path.is_symlink() and not follow_symlinks and not is_below(path, root):
        found.problems.append(Problem(where, f"{LINK_OUT}; see --follow-symlinks"))
    elif is_annotation(path):
        found.annotations.append(path)
    else:
        return True
    return False


def unreadable(path: Path) -> str:
    """Return why a file is no image for us, by its suffix where it has a plausible one."""
    if formats.header_beside(path) is not None:
        return "data of the header beside them"
    suffix = path.suffix.lower()
    if suffix[1:].isalpha() and len(suffix) <= 6:
        return f"no image that can be read ({suffix})"
    return "no image that can be read"


def _own_folder(files: list[str]) -> str:
    """Return what a folder with these files is, if anodetect wrote it, else ""."""
    for name, reason in OWN_FOLDERS.items():
        if name in files:
            return reason
    return ""


def _passed_over_folders(folders: list[str]) -> Iterator[str]:
    """Take the folders that are not to be looked into out of a list, and yield them."""
    for name in list(folders):
        if name.startswith(".") or name.casefold() in names.LEFTOVERS:
            folders.remove(name)
            yield name


def _pass_over_folder(folder: Path, place: Path, reason: str, found: Walked) -> None:
    """Count all files below a folder that is passed over."""
    where = path_text(place.relative_to(folder))
    count = sum(len(files) for _, _, files in walk_down(place))
    found.passed_over.add(f"{where}/", reason, count)
