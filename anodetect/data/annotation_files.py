"""Which annotation files mark which images, as their names and their contents say.

A file of one image (LabelMe, Pascal VOC, YOLO) is found as a mask is: by its name, beside the image
or in a folder named for masks, labels or annotations. A COCO file lists images by their names; one
that has the name of a folder in its own, as `instances_train2017.json` has, is of the images below.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anodetect.data import names
from anodetect.data.annotations import (
    Coco,
    CocoImage,
    folded,
    marks_image,
    parsed,
    parts_in_common,
)
from anodetect.data.records import Problem
from anodetect.data.truth_files import Masks, NamedFile, named_file
from anodetect.files import path_text


@dataclass
class Annotated:
    """The annotation files of images, those that mark something (`of`, by the image's path); all
    that are annotation files (`used`); and names that fit several images (`unclear`)."""

    of: dict[Path, tuple[Path, ...]] = field(default_factory=dict)
    used: set[Path] = field(default_factory=set)
    unclear: list[Problem] = field(default_factory=list)
    _tested: dict[Path, dict[Path, bool]] = field(default_factory=dict)

    def note(self, image: NamedFile, path: Path, marks: bool, source: Path) -> None:
        """Note that a file lists an image, and whether it marks something there. `source` is the
        file, or the folder of files of one image each."""
        self.used.add(path)
        if image.part == "test":
            self._tested.setdefault(source, {})[image.path] = marks
        if marks:
            self.of[image.path] = (*self.of.get(image.path, ()), path)

    def unmarked(self) -> set[Path]:
        """Return the images of a test part that are listed and not marked, by a file or a folder of
        files that marks other images of that part."""
        found: set[Path] = set()
        for listed in self._tested.values():
            if any(listed.values()):
                found |= listed.keys() - self.of.keys()
        return found


def find_annotations(
    root: Path, images: Sequence[NamedFile], candidates: Iterable[Path]
) -> Annotated:
    """Return which of the candidates, files of text or JSON below `root`, mark which images."""
    found = Annotated()
    files = [named_file(root, path) for path in candidates]
    if not files:
        return found

    by_name = Masks(files)
    own: set[Path] = set()
    for image in images:
        for path in by_name.of(image):
            own.add(path)
            marks = marks_image(path)
            if marks is not None:
                found.note(image, path, marks, path.parent)

    listed = _by_name(images)
    folders = {folder for image in images for folder in image.folders}
    for file in files:
        if file.path.suffix.lower() != ".json" or not _may_list(file, images):
            continue
        if file.path in own and not isinstance(parsed(file.path), Coco):
            continue
        coco = parsed(file.path)
        if isinstance(coco, Coco):
            _note_listed(root, found, file, coco, listed, _named_in(file, folders))
    return found


def _may_list(file: NamedFile, images: Sequence[NamedFile]) -> bool:
    """Return whether a file lies where a COCO file may: at the root, beside images, or in a folder
    that is named for annotations."""
    if not file.folders or any(names.meaning(folder) == "mask" for folder in file.folders):
        return True
    return any(image.folders[: len(file.folders)] == file.folders for image in images)


def _by_name(images: Sequence[NamedFile]) -> dict[str, list[NamedFile]]:
    by_name: dict[str, list[NamedFile]] = {}
    for image in images:
        by_name.setdefault(folded(image.path.name), []).append(image)
    return by_name


def _note_listed(
    root: Path,
    found: Annotated,
    file: NamedFile,
    coco: Coco,
    images: dict[str, list[NamedFile]],
    folders: set[str],
) -> None:
    """Note the images that a COCO file lists and marks. `folders` are those that its name names:
    an image is of one of them, if its entry does not give its folder."""
    found.used.add(file.path)
    for name, entries in coco.images.items():
        nearby = [image for image in images.get(name, ()) if _is_of(file, image)]
        below = [image for image in nearby if not folders or folders & set(image.folders)]
        for entry in entries:
            fitting = _best(entry, below)
            if not fitting:
                told = [image for image in nearby if parts_in_common(entry.name, image.path) > 1]
                fitting = _best(entry, told)
            if len(fitting) > 1:
                where = path_text(file.path.relative_to(root))
                reason = f"{entry.name} is the name of several images; give their folders too"
                found.unclear.append(Problem(where, reason))
            elif fitting:
                marks = bool(entry.problem) or not entry.drawing.is_empty
                found.note(fitting[0], file.path, marks, file.path)


def _is_of(file: NamedFile, image: NamedFile) -> bool:
    """Return whether an image is of the part and the kinds that an annotation file's folders
    name."""
    same_part = file.part in ("", image.part)
    return same_part and image.kinds[: len(file.kinds)] == file.kinds


def _named_in(file: NamedFile, folders: Iterable[str]) -> set[str]:
    """Return the folders of images whose name is part of a file's name, between its signs."""
    named = set()
    for folder in folders:
        edge = r"[-_. ]"
        pattern = rf"(^|{edge}){re.escape(folder)}($|{edge})"
        if re.search(pattern, file.stem, re.IGNORECASE):
            named.add(folder)
    return named


def _best(entry: CocoImage, images: Sequence[NamedFile]) -> list[NamedFile]:
    """Return the images that an entry names, by as many parts of their paths as possible."""
    depths = [parts_in_common(entry.name, image.path) for image in images]
    most = max(depths, default=0)
    return [image for image, depth in zip(images, depths, strict=True) if depth == most]
