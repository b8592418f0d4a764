"""Which files are masks, and which masks belong to an image, as their names say.

A mask lies in a folder that is named for masks (`ground_truth/hole/003_mask.png`), or its name ends
like one (`003_seg.nii.gz`). It belongs to the image of the same kind and name, with or without that
ending, whatever the suffixes and their case. A folder with an image's name holds several masks of
it.
"""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from anodetect.data import formats, names

THE_ONLY = "*"  # the name of a mask that is called only that, beside an `image`
CORE = "core:"  # before a name without words for masks and images
NNUNET_IMAGES = ("imagesTr", "imagesTs", "imagesVal")
PARTS = ("train", "test", "validation")
Key = tuple[str, tuple[str, ...], str]  # the part of the data set, folders of kinds, name


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file with the folders above it, from the root down, and its name without suffix and, in
    lower case, without the ending that makes it a mask."""

    path: Path
    folders: tuple[str, ...]
    stem: str

    @property
    def part(self) -> str:
        """The part of the data set that the folders name, also together with a kind, as in
        `train_good`; "" if they name none."""
        for folder in self.folders:
            if (found := names.part_and_kind(folder)[0] or names.meaning(folder)) in PARTS:
                return found
        return ""

    @property
    def own_part(self) -> str:
        """The part of the data set that a folder names alone, "" if none does."""
        for folder in self.folders:
            if (found := names.meaning(folder)) in PARTS:
                return found
        return ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The folders that tell what images are of, in lower case: not parts, masks or images."""
        kinds = []
        for folder in self.folders:
            if names.meaning(folder) in ("normal", "anomalous", ""):
                kinds.append(_folded(names.part_and_kind(folder)[1]))
        return tuple(kinds)

    @property
    def kinds_with_masks(self) -> tuple[str, ...]:
        """As `kinds`, and what is left of a folder's name such as `bad_masks`: `bad`."""
        kinds = []
        for folder in self.folders:
            meaning = names.meaning(folder)
            name = names.without_masks(folder) if meaning == "mask" else folder
            name = _folded(names.part_and_kind(name)[1])
            if name and meaning in ("normal", "anomalous", "", "mask"):
                kinds.append(name)
        return tuple(kinds)


def named_file(root: Path, path: Path) -> NamedFile:
    """Return what names say of a file below `root`."""
    suffix = formats.suffix_of(path.name)
    stem = path.name[: len(path.name) - len(suffix)] or path.name
    return NamedFile(path, _folders(root, path.parent), stem)


@lru_cache(2**12)
def _folders(root: Path, place: Path) -> tuple[str, ...]:
    """Return the names of the folders from `root` down to `place`, one object for all files."""
    return place.relative_to(root).parts


def is_mask_named(
    file: NamedFile,
    stems: frozenset[str] | set[str],
    with_images: Collection[tuple[str, ...]] = (),
) -> bool:
    """Return whether a file's folders or its name say that it is a mask.

    `stems` are the names without suffix of the files in its folder, in lower case: `left_label` is
    a mask beside `left`, and an image of a label alone. A folder for masks that holds a part of a
    data set, such as `face_mask/train`, is a product, unless folders for images or other parts
    stand beside it: `with_images` are the folders that hold such.
    """
    meanings = [names.meaning(folder) for folder in file.folders]
    for number, meaning in enumerate(meanings):
        is_product = bool({"train", "test"} & set(meanings[number + 1 :]))
        if meaning == "mask" and not (is_product and file.folders[:number] not in with_images):
            return True

    found = names.letters(file.stem)
    if not found or len(stems) < 2:
        return False
    if found[-1] in names.MASK_ENDS:
        return True
    if found[0] in names.MASK_ENDS:
        return any(names.letters(stem)[:1] != found[:1] for stem in stems)
    of = _without_end(file.stem)
    return found[-1] in names.MASK_ENDS_BESIDE and of != file.stem.casefold() and of in stems


def folders_with_images(files: Iterable[NamedFile]) -> set[tuple[str, ...]]:
    """Return the folders that hold, above all masks, a folder for images or a part of the data
    set."""
    found = set()
    for folders in {file.folders for file in files}:
        for number, folder in enumerate(folders):
            meaning = names.meaning(folder)
            if meaning == "mask":
                break
            if meaning in ("image", "train", "test", "validation"):
                found.add(folders[:number])
    return found


def masks_beside(files: Iterable[NamedFile]) -> list[list[NamedFile]]:
    """Return files that may be masks, by folder: one that is named for masks holds parts of a data
    set, as `masks/test`, and so does another folder beside it, as `photos/test`."""
    files = list(files)
    holding: dict[tuple[str, ...], set[str]] = {}
    named: dict[tuple[str, ...], list[NamedFile]] = {}
    for file in files:
        for number, folder in enumerate(file.folders[:-1]):
            below = {names.meaning(each) for each in file.folders[number + 1 :]}
            if not {"train", "test"} & below:
                break
            holding.setdefault(file.folders[:number], set()).add(folder)
            if names.meaning(folder) == "mask":
                named.setdefault(file.folders[: number + 1], []).append(file)

    return [found for folders, found in named.items() if len(holding[folders[:-1]]) > 1]


class Masks:
    """The masks of a data set, found by the image they belong to.

    Of `drawn` only pixels say that they are masks: they may lie in a folder of any name beside the
    images'.
    """

    def __init__(self, masks: Iterable[NamedFile], drawn: Iterable[NamedFile] = ()) -> None:
        self._by_key: dict[Key, list[Path]] = {}
        self._drawn: dict[Key, list[Path]] = {}
        for mask in masks:
            for key in _keys(mask):
                self._by_key.setdefault(key, []).append(mask.path)
        for mask in drawn:
            core = names.core(mask.stem)
            shorter = re.sub(r"_[^\W\d_]+$", "", core)  # 003_bw
            for kinds in (mask.kinds, mask.kinds[:-1]):
                for name in {core, shorter}:
                    self._drawn.setdefault((mask.part, kinds, name), []).append(mask.path)

    def of(self, image: NamedFile) -> tuple[Path, ...]:
        """Return the masks of an image; () if there are none.

        Of masks that differ in their format only, the one whose format comes first in the table
        is returned.
        """
        places = [(image.kinds, stem) for stem in _image_stems(image)]
        if image.kinds and formats.is_series(image.path):
            places.append((image.kinds[:-1], image.kinds[-1]))  # of a series' folder
        for kinds, stem in places:
            for part in (image.part, ""):
                found = self._by_key.get((part, kinds, stem))
                if found:
                    return _one_of_each_name(found)

        for kinds in (image.kinds, image.kinds[:-1]):
            found = self._drawn.get((image.part, kinds, names.core(image.stem)))
            if found:
                return _one_of_each_name(found)
        return ()


def _keys(mask: NamedFile) -> list[Key]:
    """Return what a mask may be found by: its own name, and that of its folder."""
    stem = _without_number(_folded(mask.stem))
    keys = []
    for kinds in {mask.kinds, mask.kinds_with_masks}:
        keys.append((mask.part, kinds, stem))
        if _without_end(stem) != stem:
            keys.append((mask.part, kinds, _without_end(stem)))
    if stem in names.MASK_ENDS:
        keys.append((mask.part, mask.kinds, THE_ONLY))
    if names.core(mask.stem):
        keys.append((mask.part, mask.kinds, f"{CORE}{names.core(mask.stem)}"))
    if mask.kinds:
        keys.append((mask.part, mask.kinds[:-1], mask.kinds[-1]))
    return keys


def _image_stems(image: NamedFile) -> list[str]:
    """Return the names under which an image's mask may stand: its own, and that without the MR
    sequence or, in nnU-Net's layout, the channel's number (`case_0000`)."""
    stems = [_folded(image.stem), _without_end(image.stem, names.SEQUENCES)]
    if any(folder in NNUNET_IMAGES for folder in image.folders):
        stems.append(stems[0][: -len("_0000")])
    if stems[0] in ("image", "img", "scan", "volume", *names.SEQUENCES):
        stems.append(THE_ONLY)
    stems.append(f"{CORE}{names.core(image.stem)}")
    return stems


def _without_end(stem: str, ends: frozenset[str] = names.MASK_ENDS | names.MASK_ENDS_BESIDE) -> str:
    """Return a name in lower case without its last word, if that is one of `ends`."""
    lower = _folded(stem)
    end = names.words(lower)[-1:]
    if end and end[0] in ends:
        return lower[: -len(end[0])].rstrip("-_. ") or lower
    return lower


def _without_number(stem: str) -> str:
    """Return a name without the number behind the ending of a mask: `003_mask_2` is `003_mask`."""
    shorter = re.sub(r"[-_. ]?\d+$", "", stem)
    return shorter if _without_end(shorter) != shorter else stem


def _folded(name: str) -> str:
    """Return a name without regard to case and to how accents are put together."""
    return unicodedata.normalize("NFC", name.casefold())


def _one_of_each_name(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return paths in name order; of those that differ in suffix or its case only the first by the
    table of formats."""
    order = formats.suffixes()

    def rank(path: Path) -> tuple[str, int, bool]:
        suffix = formats.suffix_of(path.name)
        place = order.index(suffix) if suffix in order else len(order)
        return str(path)[: -len(suffix)], place, not path.name.endswith(suffix)

    found: dict[str, Path] = {}
    for path in sorted(set(paths), key=rank):
        suffix = formats.suffix_of(path.name)
        found.setdefault(str(path)[: len(str(path)) - len(suffix)], path)
    return tuple(found.values())
