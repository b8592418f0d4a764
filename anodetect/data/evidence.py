"""Which files are drawings on others, as their pixels show.

Files whose folders and names differ in numbers only are a family, such as `img_000` and `img_001`.
A few of each family are read. One whose pixels have two or three values, beside one with many, is
no family of images: it marks something in the others, whatever it is called. So does one of two
files with the same name and other suffixes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from anodetect.data import formats, names, readers
from anodetect.data.records import Record
from anodetect.data.truth_files import NamedFile
from anodetect.data.volumes import Volume
from anodetect.errors import ImageError

LOOKED_AT = 3  # files of a family; of volumes one less
LARGEST = 2**27  # bytes of a file that is read for this
MOST_FAMILIES = 40  # of one folder; with more, names say nothing, and a folder is a family
FEW, MANY = 3, 16  # values that the pixels of a drawing have at most, those of an image at least
FEW_LABELS, MANY_VOXEL_VALUES = 64, 100  # the same of volumes
Family = tuple[str, str, str]  # the pattern of the folders, of the name, and the suffix


def drawings(files: Iterable[NamedFile]) -> set[Path]:
    """Return the files that are drawings on others by their pixels.

    Only images and volumes that may be masks are looked at, and only if there are several families.
    One that is alone in a folder of normal or anomalous images is taken for what its name says.
    """
    files, drawn = list(files), set[Path]()
    for content in ("image", "volume"):
        families = _families(files, content)
        few = FEW if content == "image" else FEW_LABELS
        many = MANY if content == "image" else MANY_VOXEL_VALUES
        named = _alone_and_named(families)

        found, has_images = [], False
        for family, paths in families.items():
            if family in named or len(families) < 2:
                continue
            levels = _levels_of(paths, content)
            has_images = has_images or min(levels) >= many
            if 2 <= max(levels) <= few and min(levels) > 0:
                found.append(family)

        if found and not has_images:
            has_images = any(min(_levels_of(families[each], content)) >= many for each in named)
        if has_images:
            for family in found:
                drawn |= set(families[family])
    return drawn


def paired_masks(files: Iterable[NamedFile]) -> set[Path]:
    """Return the files that are masks of another one with the same name and another suffix, as
    their pixels show: a mask has few values, and its image has more.

    A few pairs of each folder and each two suffixes are read.
    """
    by_name: dict[tuple[tuple[str, ...], str], list[Path]] = {}
    for file in files:
        found = formats.format_named(file.path.name)
        if found is not None and found.content == "image" and found.mask:
            by_name.setdefault((file.folders, file.stem), []).append(file.path)

    pairs: dict[tuple[tuple[str, ...], str, str], list[tuple[Path, Path]]] = {}
    for (folders, _), paths in by_name.items():
        if len(paths) == 2:
            one, other = sorted(paths, key=lambda path: formats.suffix_of(path.name))
            key = folders, formats.suffix_of(one.name), formats.suffix_of(other.name)
            pairs.setdefault(key, []).append((one, other))

    masks: set[Path] = set()
    for found_pairs in pairs.values():
        looked_at = found_pairs[:: max(1, len(found_pairs) // LOOKED_AT)]
        levels = [(_levels(one), _levels(other)) for one, other in looked_at]
        if all(one <= FEW < other for one, other in levels):
            masks |= {one for one, _ in found_pairs}
        elif all(other <= FEW < one for one, other in levels):
            masks |= {other for _, other in found_pairs}
    return masks


def are_drawn(paths: Sequence[Path]) -> bool:
    """Return whether some of these files that were looked at have no more values than a drawing."""
    levels = _levels_of(paths, "image")
    return 0 < min(levels) <= max(levels) <= FEW


def _alone_and_named(families: Iterable[Family]) -> set[Family]:
    """Return the families that are alone in a folder whose name means normal or anomalous."""
    families = list(families)
    counts = Counter(folder for folder, _, _ in families)
    named = set()
    for family in families:
        meanings = {names.meaning(folder) for folder in family[0].split("/")}
        if counts[family[0]] == 1 and meanings & {"normal", "anomalous"}:
            named.add(family)
    return named


def _families(files: Iterable[NamedFile], content: str) -> dict[Family, list[Path]]:
    """Return the images or volumes by their families."""
    families: dict[Family, list[Path]] = {}
    in_folder: dict[str, set[Family]] = {}
    for file in files:
        found = formats.format_named(file.path.name)
        if found is None or found.content != content or not found.mask:
            continue
        folder = pattern("/".join(file.folders))
        family = folder, pattern(file.stem), formats.suffix_of(file.path.name)
        families.setdefault(family, []).append(file.path)
        in_folder.setdefault(folder, set()).add(family)

    for folder, own in in_folder.items():
        if len(own) <= MOST_FAMILIES:
            continue
        for family in own:
            families.setdefault((folder, "", family[2]), []).extend(families.pop(family))
    return families


def pattern(name: str) -> str:
    """Return a name without what tells one file from another: numbers and long hexadecimal
    parts."""
    return re.sub(r"\d+", "#", re.sub(r"[0-9a-fA-F]{8,}", "#", name)).casefold()


def _levels_of(paths: Sequence[Path], content: str) -> list[int]:
    """Return how many values the pixels of some of these files have; [0] if none can be read."""
    count = LOOKED_AT if content == "image" else LOOKED_AT - 1
    levels = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        levels.append(0 if _is_large(path) else _levels(path))
    return levels


def _is_large(path: Path) -> bool:
    """Return whether a file is too large to be read for this."""
    try:
        return path.stat().st_size > LARGEST
    except OSError:  # reading it says why
        return False


def _levels(path: Path) -> int:
    """Return how many values a file's pixels have; of a volume those of its middle, and
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
