"""The images of a folder whose names say nothing, as records that are made when they are asked for.

A folder is read by its layout, for which all that is known of each file is in memory together. Of
very many files that is too much, and mostly there is nothing to be known: the images are of one
format, called alike but for their numbers, and have no masks. `list_plain` tells such folders name
by name, keeps nothing but names, and leaves all others to the layouts.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from anodetect.data import formats, names, split_tables
from anodetect.data.evidence import MOST_FAMILIES, pattern
from anodetect.data.manifest import manifest_of
from anodetect.data.named_images import DEPTHS
from anodetect.data.records import Record
from anodetect.data.walk import Walked, walk_files
from anodetect.files import path_of, path_text

MANY = 20_000  # files from which on a folder is listed without the layouts
BLOCK = 512  # names that are kept as one text
APART = "/"  # between them
# Words of names by which a file may be a mask, a small copy or no picture.
TELLING = names.MASK_ENDS | names.MASK_ENDS_BESIDE | names.SMALL | names.POINTS


class Listing(Sequence[Record]):
    """Records of files below `root`, each a group of its own, in the order in which their names
    were added."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: list[str] = []
        self._blocks: list[str] = []
        self._starts: list[int] = []
        self._count = 0
        self._order: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def add(self, folder: str, found: Sequence[str]) -> None:
        """Add files by their names as `path_text` in a folder, "" or one that ends with a slash."""
        for start in range(0, len(found), BLOCK):
            some = found[start : start + BLOCK]
            self._folders.append(folder)
            self._blocks.append(APART.join(some))
            self._starts.append(self._count)
            self._count += len(some)

    def __len__(self) -> int:
        return self._count

    def ids(self) -> Iterator[str]:
        """Yield the ids of all records."""
        for folder, block in zip(self._folders, self._blocks, strict=True):
            for name in block.split(APART):
                yield folder + name

    def __iter__(self) -> Iterator[Record]:
        return map(self._record, self.ids())

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...
    def __getitem__(self, place: int | slice) -> Record | list[Record]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(self._count))]
        if not -self._count <= place < self._count:
            raise IndexError(place)
        place %= self._count
        block = bisect_right(self._starts, place) - 1
        name = self._blocks[block].split(APART)[place - self._starts[block]]
        return self._record(self._folders[block] + name)

    def _record(self, name: str) -> Record:
        return Record(id=name, path=self.root / path_of(name), group=name)

    def get(self, name: str) -> Record | None:
        """Return the record with this id, None if there is none."""
        if self._order is None:
            hashes = np.fromiter(map(hash, self.ids()), np.int64, self._count)
            order = np.argsort(hashes)
            self._order = hashes[order], order
        hashes, order = self._order
        first = int(np.searchsorted(hashes, hash(name)))
        while first < self._count and hashes[first] == hash(name):
            record = self[int(order[first])]
            if record.id == name:
                return record
            first += 1
        return None

    def without(self, left_out: set[str]) -> "Listing":
        """Return the records but those with these ids."""
        rest = Listing(self.root)
        for folder, block in zip(self._folders, self._blocks, strict=True):
            found = [name for name in block.split(APART) if folder + name not in left_out]
            rest.add(folder, found)
        return rest


def list_plain(
    root: Path, *, follow_symlinks: bool = False, many: int | None = None
) -> tuple[Listing, Walked] | None:
    """Return the images below a folder, and what else there is; None if there are fewer than
    `many`, or if a layout may have more to say of them."""
    if manifest_of(root) is not None or split_tables.find(root) is not None:
        return None
    listing, walked, plain = Listing(root), Walked(), _Plain()
    files = walk_files(root, walked, follow_symlinks=follow_symlinks)
    for place, found in groupby(files, attrgetter("parent")):
        folders = place.relative_to(root).parts
        if not _say_nothing(folders):
            return None
        found_names = []
        for path in found:
            if not plain.takes(path.name, folders):
                return None
            found_names.append(path_text(path.name))
        below = "".join(f"{path_text(name)}/" for name in folders)
        listing.add(below, found_names)

    least = MANY if many is None else many
    if len(listing) < least or walked.annotations or plain.count_families() > 1:
        return None
    return listing, walked


class _Plain:
    """Files of one format that are called alike, as far as they were looked at."""

    def __init__(self) -> None:
        self.suffix = ""
        self.families: dict[str, set[str]] = {}

    def takes(self, name: str, folders: tuple[str, ...]) -> bool:
        """Return whether a file is called as those before it, and its name says nothing."""
        if not self.suffix:
            found = formats.format_named(name)
            if found is None or found.content != "image":
                return False
            self.suffix = name[len(name) - len(formats.suffix_of(name)) :]
        stem = name.removesuffix(self.suffix)
        if stem in ("", name):
            return False

        own = self.families.setdefault(_folder_pattern(folders), set())
        if len(own) <= MOST_FAMILIES:
            own.add(pattern(stem))
        return not _tells(re.sub(r"\d+", "0", stem))

    def count_families(self) -> int:
        """Return how many families of files there are, of which pixels may say that one draws on
        another; names that are all different are one family."""
        return sum(1 if len(own) > MOST_FAMILIES else len(own) for own in self.families.values())


@lru_cache(2**14)
def _tells(stem: str) -> bool:
    """Return whether a name, in which all numbers are 0, has a word by which it may be no image."""
    return not TELLING.isdisjoint(names.letters(stem))


@lru_cache(2**12)
def _folder_pattern(folders: tuple[str, ...]) -> str:
    return pattern("/".join(folders))


def _say_nothing(folders: Iterable[str]) -> bool:
    """Return whether the names of folders do not say what is in them."""
    for name in folders:
        telling = names.meaning(name) not in ("", "image")
        if telling or name.casefold() in DEPTHS or name.startswith("sub-"):
            return False
    return True
