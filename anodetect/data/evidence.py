"""Which files are drawings on others, as their pixels show.

Files whose folders and names differ in numbers only are a family, such as `img_000` and `img_001`.
A few of each family are read. One whose pixels have two or three values, beside one with many, is
no family of images: it marks something in the others, whatever it is called.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from anodetect.data import formats, readers
from anodetect.data.records import Record
from anodetect.data.truth_files import NamedFile
from anodetect.data.volumes import Volume
from anodetect.errors import ImageError

LOOKED_AT = 3  # files of a family; of volumes one less
MOST_FAMILIES = 40  # of one folder; with more, names say nothing, and a folder is a family
FEW, MANY = 3, 16  # values that the pixels of a drawing have at most, those of an image at least
FEW_LABELS, MANY_VOXEL_VALUES = 64, 100  # the same of volumes
Family = tuple[str, str, str]  # the pattern of the folders, of the name, and the suffix


def drawings(files: Iterable[NamedFile]) -> set[Path]:
    """Return the files that are drawings on others by their pixels.

    Only images and volumes that may be masks are looked at, and only if there are several families.
    """
    drawn: set[Path] = set()
    for content in ("image", "volume"):
        families = _families(files, content)
        if len(families) < 2:
            continue
        levels = {family: _levels_of(paths, content) for family, paths in families.items()}
        many = MANY if content == "image" else MANY_VOXEL_VALUES
        if not any(min(each) >= many for each in levels.values()):
            continue

        few = FEW if content == "image" else FEW_LABELS
        for family, each in levels.items():
            if 2 <= max(each) <= few and min(each) > 0:
                drawn |= set(families[family])
    return drawn


def _families(files: Iterable[NamedFile], content: str) -> dict[Family, list[Path]]:
    """Return the images or volumes by their families."""
    families: dict[Family, list[Path]] = {}
    in_folder: dict[str, set[Family]] = {}
    for file in files:
        found = formats.format_named(file.path.name)
        if found is None or found.content != content or not found.mask:
            continue
        folder = _pattern("/".join(file.folders))
        family = folder, _pattern(file.stem), formats.suffix_of(file.path.name)
        families.setdefault(family, []).append(file.path)
        in_folder.setdefault(folder, set()).add(family)

    for folder, own in in_folder.items():
        if len(own) <= MOST_FAMILIES:
            continue
        for family in own:
            families.setdefault((folder, "", family[2]), []).extend(families.pop(family))
    return families


def _pattern(name: str) -> str:
    """Return a name without what tells one file from another: numbers and long hexadecimal
    parts."""
    return re.sub(r"\d+", "#", re.sub(r"[0-9a-fA-F]{8,}", "#", name)).casefold()


def _levels_of(paths: Sequence[Path], content: str) -> list[int]:
    """Return how many values the pixels of some of these files have; [0] if none can be read."""
    count = LOOKED_AT if content == "image" else LOOKED_AT - 1
    chosen = paths[:: max(1, len(paths) // count)][:count]
    return [_levels(path) for path in chosen]


def _levels(path: Path) -> int:
    """Return how many values a file's pixels have; of a volume those of its middle, with more than
    MANY_VOXEL_VALUES if they are no whole numbers. 0 if it cannot be read."""
    try:
        decoded = readers.read_source(Record(path.name, path)).decode()
    except (ImageError, OSError, ValueError, MemoryError):
        return 0
    if not isinstance(decoded, Volume):
        return len(np.unique(decoded))

    quarter = decoded.voxels.shape[-1] // 4
    values = np.unique(decoded.voxels[..., quarter : decoded.voxels.shape[-1] - quarter])
    whole = bool((values == np.round(values)).all())
    return len(values) if whole else MANY_VOXEL_VALUES
