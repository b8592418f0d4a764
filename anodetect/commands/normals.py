"""The readable normal images of a data set, which training and calibration begin with."""

from collections.abc import Mapping, Sequence
from functools import partial

from anodetect.data import readers, split
from anodetect.data.scan import Dataset, Record
from anodetect.errors import ConfigError, DataError, ImageError
from anodetect.imaging.preprocess import Preprocess, has_fixed_units
from anodetect.model.loading import ahead, load, slice_records
from anodetect.types import Reporter


def used_rows(
    items: Sequence[Record], role: str, hashes: Mapping[str, str]
) -> list[dict[str, str]]:
    """A row for each file, however many slices of it were used."""
    return [
        {
            "path": r.id,
            "role": role,
            "group": r.group,
            "kind": r.kind,
            "sha256": hashes[r.id],
            "error": "",
        }
        for r in {record.id: record for record in items}.values()
    ]


def usable_normals(
    dataset: Dataset, preprocess: Preprocess, dims: int, reporter: Reporter
) -> tuple[list[Record], dict[str, str], list[tuple[str, str]]]:
    """The readable normals, in two dimensions of volumes their slices, with copies merged into one
    group, all hashes, and what failed. Refuses leaks. The plane that volumes are sliced along
    becomes that of `preprocess`, which also learns whether all have fixed units."""
    normals, testing = dataset.training(), [r for r in dataset.records if r.split == "test"]
    failed = [(each.name, each.reason) for each in dataset.problems]
    hashes: dict[str, str] = {}
    usable = []
    axes: dict[str, str] = {}
    fixed = True
    for done, loaded in enumerate(ahead(partial(load, preprocess=preprocess), normals), start=1):
        if loaded.image is None:
            failed.append((loaded.record.id, loaded.error))
        else:
            usable += slice_records(loaded, dims)
            hashes[loaded.record.id] = loaded.sha256
        if loaded.volume is not None:
            axes.setdefault(loaded.volume.geometry.plane, loaded.record.id)
            fixed &= has_fixed_units(loaded.volume.volume)
        reporter.progress("read", done, len(normals))
    if len(axes) > 1:
        found = ", ".join(f"{axis} ({name})" for axis, name in axes.items())
        raise DataError(
            f"volumes have their finest pixels in different planes: {found}; choose one with --axis"
        )
    if axes:
        preprocess.axis, preprocess.of_volumes, preprocess.fixed_units = (
            next(iter(axes)),
            True,
            fixed,
        )
        if preprocess.config.exported:
            raise ConfigError(
                "exported says how images were made of volumes, but these are volumes; leave it out"
            )
    for record in testing:
        try:
            hashes[record.id] = readers.read_source(record).sha256
        except ImageError:
            continue  # an unreadable test file cannot leak; scoring it will say why
    split.refuse_leaks(usable, testing, hashes)
    if not usable:
        reason = f"; the first: {failed[0][0]}: {failed[0][1]}" if failed else ""
        raise DataError(f"{dataset.root}: no readable normal image among {len(normals)}{reason}")
    usable, copies = split.merge_duplicates(usable, [hashes[record.id] for record in usable])
    if copies:
        reporter.warn(
            f"{copies} images are exact copies of others; copies stay on one side of the split"
        )
    for name, reason in failed:
        reporter.warn(f"left out: {name}: {reason}")
    return usable, hashes, failed
