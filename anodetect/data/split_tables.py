"""Tables that data sets come with, which say what is learned from and what is tested with.

VisA has `split_csv/1cls.csv` beside its categories, Real-IAD `realiad_jsons/<category>.json`.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from anodetect.data.records import ANOMALOUS, NORMAL
from anodetect.errors import DataError, one_line
from anodetect.files import path_text
from anodetect.remote.paths import is_url

REAL_IAD = '"normal_class"'  # in every table of it


@dataclass(frozen=True)
class Entry:
    """An image as a table describes it."""

    split: str
    label: int
    kind: str


@dataclass(frozen=True)
class SplitTable:
    """A table by the images' paths relative to the data set; `layout` is the data set's name."""

    name: str
    layout: str
    entries: Mapping[str, Entry]


def find(root: Path) -> SplitTable | None:
    """Return the table that belongs to the category in `root`, None if there is none; DataError if
    it cannot be read. Tables above the category are looked for on a disk alone."""
    for path, layout, read in _candidates(root.absolute()):
        if (is_url(root) and not path.is_relative_to(root)) or not path.is_file():
            continue
        try:
            entries = dict(read(path, root.absolute().name))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            raise DataError(f"{path}: not a table of {layout} ({one_line(error)})") from None
        if entries:
            return SplitTable(path.name, layout, entries)
    return None


def _candidates(root: Path):  # type: ignore[no-untyped-def]
    """Yield where a table may be, the name of the data set, and its reader."""
    for folder in (root, root.parent):
        yield folder / "split_csv" / "1cls.csv", "VisA", _visa
    for folder in (root, *root.parents[:2]):
        for below in ("", "realiad_jsons", "realiad_jsons/realiad_jsons"):
            yield folder / below / f"{root.name}.json", "Real-IAD", _real_iad


def _visa(path: Path, category: str) -> Iterator[tuple[str, Entry]]:
    """Yield the images of a category: `object, split, label, image, mask` are the columns."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            if row["object"] == category:
                label = NORMAL if row["label"] == "normal" else ANOMALOUS
                name = row["image"].removeprefix(f"{category}/")
                yield path_text(name), Entry(row["split"], label, row["label"])


def _real_iad(path: Path, category: str) -> Iterator[tuple[str, Entry]]:
    """Yield the images of a category's `train` and `test` lists; none of another JSON file, which
    may be called as a folder is."""
    text = path.read_text("utf-8", errors="replace")
    if REAL_IAD not in text:
        return
    content = json.loads(text)
    normal = content["meta"]["normal_class"]
    for split in ("train", "test"):
        for row in content[split]:
            kind = row["anomaly_class"]
            label = NORMAL if kind == normal else ANOMALOUS
            name = row["image_path"].removeprefix(f"{category}/")
            yield path_text(name), Entry(split, label, kind)
