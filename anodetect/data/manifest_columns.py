"""The columns of a manifest: those that are known, and those of other names that evidently hold
what a known one is to hold, which is an error that says how to call them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from anodetect.data import names
from anodetect.data.channels import check_name
from anodetect.errors import ConfigError, DataError

COLUMNS = ("path", "split", "label", "kind", "mask", "group", "foreground", "component")
CHANNELS = "channels"  # the files of an image, as in "t1=a.nii.gz;flair=b.nii.gz"
KNOWN = (*COLUMNS, CHANNELS, "acquired")
# Names, without signs and in lower case, that people give to the column `path`.
PATHS = (
    "file", "filename", "filepath", "image", "imagename", "imagepath", "imagefile", "img",
    "imgname", "imgpath",
)  # fmt: skip
LABELS = (
    "label", "labels", "target", "targets", "class", "classes", "y", "ytrue", "defect",
    "groundtruth", "gt", "truth", "diagnosis",
)  # fmt: skip
SPLITS = ("set", "subset", "phase", "partition", "fold", "part", "split", "usage")
PARTS = {"train", "test", "validation"}
FLAGS = {"0", "1", "0.0", "1.0", "true", "false"}
ANSWERS = FLAGS | {"yes", "no", "y", "n", "x"}
MOST_CLASSES = 20  # numbers that a column of classes or of counts has at most
SIMILAR = 0.8  # of a misspelt column's name and the name it was meant to be, as difflib counts it
Values = Sequence[Mapping[str, str]]  # of each line by the names of the columns


def refuse_misspelt(file: Path, columns: Iterable[str]) -> None:
    """Raise DataError for a column that looks like one of COLUMNS, if that is not there as well.

    Names are alike if their consonants are the same, a final s left out, or if difflib says so.
    """
    missing = [name for name in COLUMNS if name not in columns]
    for column in columns:
        if column in KNOWN:
            continue
        folded = column.casefold()
        alike = [name for name in missing if _consonants(name) == _consonants(folded)]
        alike += get_close_matches(folded, missing, n=1, cutoff=SIMILAR)
        if alike:
            raise DataError(
                f"{file}: the column {column!r} is not known; did you mean {alike[0]!r}? "
                "If not, give it a name that is less like it"
            )


def _consonants(name: str) -> str:
    return "".join(letter for letter in name.removesuffix("s") if letter not in "aeiouy -_")


def refuse_other_names(file: Path, lines: Values) -> None:
    """Raise DataError for a column of another name whose values are evidently labels, or parts of
    the data set, if the table has no column `label`, or none `split`.

    Without that column images would be learned from that the table calls anomalous or test images.
    """
    header = lines[0] if lines else {}
    for column in header:
        found = {line[column].casefold() for line in lines} - {""}
        if column in KNOWN or not found:
            continue
        if "split" not in header and _answers_for_a_part(column, found):
            raise DataError(
                f"{file}: the column {column!r} says which images are in a part of the data set; "
                "write train (normals to learn from) or test into a column 'split'"
            )
        if "label" not in header:
            _refuse_labels(file, column, found, "kind" in header)
        if "split" not in header and _are_parts(column, found):
            raise DataError(
                f"{file}: the column {column!r} holds parts of the data set; call it 'split', with "
                "train (normals to learn from) and test; if it means something else, add a column "
                "'split'"
            )


def _refuse_labels(file: Path, column: str, found: set[str], has_kind: bool) -> None:
    """Raise DataError if these values of a column are labels, or kinds of which some are normal."""
    meanings = {names.meaning(value) for value in found}
    named = _is_named_for_labels(column)
    flags = found <= FLAGS or _are_classes(found)
    told = meanings == {"normal", "anomalous"} and (named or not found <= ANSWERS)
    if told or (named and flags):
        raise DataError(
            f"{file}: the column {column!r} holds labels; call it 'label' (0 or a word for normal, "
            "1 or a word for anomalous); if it means something else, add a column 'label'"
        )
    if named and not has_kind and ("normal" in meanings or "anomalous" in meanings):
        raise DataError(
            f"{file}: the column {column!r} holds kinds of images; call it 'kind', or add a column "
            "'label' with 0 (normal) and 1 (anomalous)"
        )


def _is_named_for_labels(column: str) -> bool:
    """Return whether a column's name is one of those that people give to labels."""
    words = [word for word in names.words(column) if word not in ("is", "has", "image")]
    about = names.meaning(column) in ("normal", "anomalous")
    return about or "".join(words) in LABELS or "label" in words


def _are_parts(column: str, found: set[str]) -> bool:
    """Return whether values are the names of parts: of a column that is named for them, or two
    different parts."""
    meanings = {names.meaning(value) for value in found}
    named = "".join(names.words(column)) in SPLITS
    return meanings <= PARTS and (named or len(meanings) > 1)


def _answers_for_a_part(column: str, found: set[str]) -> bool:
    """Return whether a column is named for a part of the data set, such as `is_test`, and its
    values say which images are in it."""
    words = [word for word in names.words(column) if word not in ("is", "in", "set", "split")]
    return len(words) == 1 and names.meaning(words[0]) in PARTS and found <= ANSWERS


def _are_classes(found: set[str]) -> bool:
    """Return whether values are a few different whole numbers, as classes have and counts of
    defects."""
    return 1 < len(found) <= MOST_CLASSES and all(
        re.fullmatch(r"\d+(\.0)?", each) for each in found
    )


def labels_of_kinds(kinds: Iterable[str]) -> dict[str, str]:
    """Return the labels that kinds have by their names, where a manifest has no labels: "0" if a
    name means normal, "1" if it means anomalous or stands beside a kind that means normal."""
    meanings = {kind: names.meaning(kind) for kind in kinds if kind}
    has_normal = "normal" in meanings.values()

    labels: dict[str, str] = {}
    for kind, meaning in meanings.items():
        if meaning == "normal":
            labels[kind] = "0"
        elif meaning == "anomalous" or has_normal:
            labels[kind] = "1"
    return labels


def refuse_like_groups(file: Path, groups: Iterable[str]) -> None:
    """Raise DataError for two groups whose names differ only in case or in spaces."""
    found: dict[str, str] = {}
    for group in groups:
        folded = "".join(group.split()).casefold()
        other = found.setdefault(folded, group)
        if other != group:
            raise DataError(
                f"{file}: the groups {other!r} and {group!r} differ only in case or spaces; write "
                "the same group alike, and others with names that are less alike"
            )


def listed_channels(cell: str, where: str) -> dict[str, str]:
    """Return the files in a cell of CHANNELS by the names of the channels; DataError if it is not
    written as it has to be."""
    found: dict[str, str] = {}
    for part in filter(None, map(str.strip, cell.split(";"))):
        name, equals, path = (each.strip() for each in part.partition("="))
        if not equals or not path:
            raise DataError(f"{where}: {part!r} in channels; name=file is expected, as t1=a.nii.gz")
        try:
            check_name(name, found, where)
        except ConfigError as error:
            raise DataError(str(error)) from None
        found[name] = path
    return found


def written(channels: Mapping[str, str]) -> str:
    """Return files by the names of their channels as a cell of CHANNELS."""
    return ";".join(f"{name}={path}" for name, path in channels.items())
