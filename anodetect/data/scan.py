"""A folder or a manifest as records: what there is, before any image is read."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from anodetect.data import formats, layouts
from anodetect.data.channels import Channels
from anodetect.data.manifest import MANIFEST, manifest_of, read_manifest
from anodetect.data.records import Dataset, PassedOver
from anodetect.data.studies import in_channels
from anodetect.data.walk import unreadable, walk
from anodetect.errors import DataError
from anodetect.files import path_text

RUN = ("model.safetensors", "train.jsonl", MANIFEST)  # files of a run
UNLISTED = "images and masks that the manifest does not list as images"


def scan(
    folder: Path,
    *,
    follow_symlinks: bool = False,
    kind_normal: Collection[str] = (),
    known_anomalies: bool = False,
    channels: Channels | None = None,
) -> Dataset:
    """Read a folder as its manifest says, else as the layout that its names show (see `layouts`).

    `kind_normal` names the folders or kinds that hold normals. With `known_anomalies` the anomalous
    rows of a manifest's train part are to be learned from, too. With `channels` the files of a
    study are one record. Raises DataError if there is nothing to read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")

    if all((folder / name).is_file() for name in RUN):
        raise DataError(f"{folder}: a run of anodetect, not images; its manifest is of others")
    manifest = manifest_of(folder)
    if manifest is not None and kind_normal:
        raise DataError(f"{manifest}: it says what is normal; leave --kind-normal out")
    if manifest is not None:
        listed = read_manifest(folder, follow_symlinks, known_anomalies=known_anomalies)
        dataset = in_channels(_with_unlisted(listed), channels, MANIFEST)
    else:
        if channels is not None and channels.listed:
            raise DataError(
                f"{folder}: the channels {channels.described()} have no patterns of file names; "
                f"list the files of each in a column 'channels' of a {MANIFEST}"
            )
        walked = walk(folder, follow_symlinks=follow_symlinks)
        dataset = layouts.recognise(folder, walked, kind_normal, channels)
        dataset = replace(dataset, channels=channels)

    if dataset.records:
        return dataset
    if dataset.problems:
        first = dataset.problems[0]
        raise DataError(f"{folder}: nothing can be read here; {first.name}: {first.reason}")
    counts = counted(reasons(dataset.passed_over))
    found = f"only {counts}" if counts else f"{formats.described()}, or a {MANIFEST}"
    raise DataError(f"{folder}: no images here ({found})")


def _with_unlisted(dataset: Dataset) -> Dataset:
    """Return a manifest's data set with a count of the images and masks in its folder that it does
    not list as images."""
    listed: set[Path] = set()
    for record in dataset.records:
        listed |= {record.path, *record.all_files()}
    walked = walk(dataset.root)
    for path in walked.files:
        if path not in listed:
            walked.passed_over.add(path_text(path.relative_to(dataset.root)), UNLISTED)
    for path in walked.annotations:
        walked.passed_over.add(path_text(path.relative_to(dataset.root)), unreadable(path))
    return replace(dataset, passed_over=walked.passed_over.all())


def reasons(passed_over: Iterable[PassedOver]) -> Counter[str]:
    """Return how many files were passed over for each reason."""
    counts: Counter[str] = Counter()
    for each in passed_over:
        counts[each.reason] += each.count
    return counts


def counted(reasons: Mapping[str, int]) -> str:
    """Return counts by reason, which may be of one file or of many, the most frequent first; "" if
    there are none."""
    return ", ".join(f"{count} × {reason}" for reason, count in Counter(reasons).most_common())
