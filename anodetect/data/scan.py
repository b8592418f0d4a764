"""A folder or a manifest as records: what there is, before any image is read."""

from pathlib import Path

from anodetect.data import formats, layouts
from anodetect.data.manifest import MANIFEST, read_manifest
from anodetect.data.records import Dataset
from anodetect.data.series import records_of
from anodetect.data.walk import walk
from anodetect.errors import DataError
from anodetect.files import path_text


def scan(folder: Path, *, follow_symlinks: bool = False) -> Dataset:
    """Read a folder as a manifest, the MVTec layout or plain images, whichever it is (in this
    order). DataError if there is nothing to read."""
    if not folder.is_dir():
        raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")

    if (folder / MANIFEST).is_file():
        dataset = read_manifest(folder, follow_symlinks)
    elif layouts.is_mvtec(folder):
        dataset = layouts.mvtec(folder, follow_symlinks)
    else:
        found, problems = walk(folder, follow_symlinks=follow_symlinks)
        records = tuple(records_of(folder, found))
        dataset = Dataset(path_text(folder.name), folder, records, tuple(problems))

    if dataset.records:
        return dataset
    if dataset.problems:
        first = dataset.problems[0]
        raise DataError(f"{folder}: nothing can be read here; {first.name}: {first.reason}")
    raise DataError(f"{folder}: no images here ({formats.described()}, or a {MANIFEST})")
