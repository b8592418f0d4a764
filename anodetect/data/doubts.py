"""Doubts: why nothing is learned from a folder as it stands, and what to do.

Each function returns the doubt in words, "" if there is none.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from anodetect.data import names
from anodetect.data.annotations import is_annotation
from anodetect.data.named_images import Image
from anodetect.data.records import is_volume
from anodetect.words import amount, first_of

WHAT_TO_DO = "name what is normal with --kind-normal NAME, or list the images in a manifest.csv"


def of_kinds(images: Sequence[Image], part: str) -> str:
    """Return why it is not evident which of these images are normal, "" if it is: a name means
    anomalous and none normal, or normal names stand beside unknown ones.

    In the train part anomalous images beside normal ones are no doubt: they are not learned from.
    """
    named: dict[str, list[str]] = {"normal": [], "anomalous": [], "": []}
    counts = Counter((image.meaning, image.kind or ".") for image in images)
    for (meaning, kind), count in sorted(counts.items()):
        named[meaning].append(f"{kind} ({count})")
    normal, anomalous, unknown = named["normal"], named["anomalous"], named[""]

    where = f"in {part}, " if part else ""
    if normal and unknown:
        return (
            f"{where}{first_of(unknown)} stands beside {first_of(normal)}, and nothing says "
            f"whether it is normal; {WHAT_TO_DO}"
        )
    if anomalous and not (part and normal):
        return f"{where}{first_of(anomalous)} means anomalous; {WHAT_TO_DO}"
    return ""


def of_name(root: Path) -> str:
    """Return the doubt that a folder's own name leaves."""
    meaning = names.meaning(root.absolute().name)
    if meaning == "anomalous":
        return f"the name {root.absolute().name!r} means anomalous; {WHAT_TO_DO}"
    if meaning == "mask":
        return f"the name {root.absolute().name!r} means masks, not images; {WHAT_TO_DO}"
    return ""


def of_numbers(images: Iterable[Image]) -> str:
    """Return the doubt that folders such as 0 and 1, or class_1 and class_2, leave: they look like
    labels wherever they stand beside each other."""
    for found in _beside_each_other(images):
        prefixes = {name.rstrip("0123456789") for name in found}
        if len(found) < 2 or len(prefixes) > 1:
            continue
        last = names.letters(min(prefixes))[-1:]
        if found == {"0", "1"} or last in [["class"], ["label"], ["cls"], ["y"]]:
            labels = first_of(sorted(found)) if len(found) > 2 else " and ".join(sorted(found))
            return f"folders {labels} look like labels, normal and anomalous; {WHAT_TO_DO}"
    return ""


def of_parts(images: Iterable[Image]) -> str:
    """Return the doubt that folders such as cells_train and cells_test leave: by their ends they
    are parts of a data set, which are to be called train and test."""
    for found in _beside_each_other(images):
        ends: dict[str, set[str]] = {}
        for name in sorted(found):
            *before, end = names.words(name) or [""]
            if names.meaning(end) in ("train", "test"):
                ends.setdefault(" ".join(before), set()).add(names.meaning(end))
        if {"train", "test"} in ends.values():
            parts = first_of(sorted(found))
            return f"folders {parts} look like parts of a data set; call them train and test"
    return ""


def _beside_each_other(images: Iterable[Image]) -> Collection[set[str]]:
    """Return the names of the folders in each folder."""
    children: dict[tuple[str, ...], set[str]] = {}
    for image in images:
        for depth, folder in enumerate(image.file.folders):
            children.setdefault(image.file.folders[:depth], set()).add(folder)
    return children.values()


def of_file_names(images: Iterable[Image]) -> str:
    """Return the doubt that files called `NG_001` leave in a folder whose name says nothing."""
    counts: Counter[str] = Counter()
    for image in images:
        words = names.letters(image.file.stem)
        if not image.meaning and len(words) <= 2 and names.meaning(" ".join(words)) == "anomalous":
            counts[" ".join(words)] += 1
    if not counts:
        return ""
    found = first_of([f"{name} ({count})" for name, count in counts.most_common()])
    return f"files are called {found}, which means anomalous; {WHAT_TO_DO}"


def of_marks(images: Sequence[Image]) -> str:
    """Return the doubt that some images leave that have masks, where others have none. What is
    outlined in an annotation is anomalous without a doubt."""
    marked = 0
    for image in images:
        outlined = any(is_annotation(path) for path in image.masks)
        marked += image.marked and not image.meaning and not outlined
    if not 0 < marked < len(images):
        return ""
    return (
        f"masks mark something in {marked} of {len(images)} images, which may be anomalous; "
        f"{WHAT_TO_DO}"
    )


def of_contents(images: Iterable[Image]) -> str:
    """Return the doubt that pictures beside volumes leave: previews are no images to learn from."""
    counts = Counter("volumes" if is_volume(image.record) else "pictures" for image in images)
    if len(counts) < 2:
        return ""
    pictures = amount(counts["pictures"], "single image")
    return (
        f"{pictures} beside {amount(counts['volumes'], 'volume')}; put them into folders of "
        "their own, or list what is normal in a manifest.csv"
    )


def of_several(kinds: Counter[str]) -> str:
    """Return the doubt that several kinds of volumes leave, "" if there is one kind."""
    if len(kinds) < 2:
        return ""
    found = first_of([f"{kind or 'others'} ({count})" for kind, count in sorted(kinds.items())])
    first = min(kind for kind in kinds if kind)
    word = first.split()[-1]
    alone = [kind for kind in kinds if word in kind.split()] == [first]
    name = word if alone else f"'{first}'"
    return f"several kinds of images: {found}; choose one with --kind-normal {name}"
