"""The files below a folder that can be read, and what was passed over."""

import os
from pathlib import Path

from anodetect.data import formats
from anodetect.data.records import Problem
from anodetect.files import is_below, path_text

LINK_OUT = "symbolic link out of the folder"
LINK_TO_FOLDER = "symbolic link to a folder; see --follow-symlinks"


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
