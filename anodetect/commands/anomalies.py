"""Known anomalies in a training: read apart from the normals, and learned from by detectors that
can.

They are never fitted, tuned or calibrated on as normals. Normals of their groups are only fitted
on, so that no promise rests on a patient or a lot that the model knows anomalies of.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from anodetect.commands.normals import LeftOut, Normals, tested, warn_of
from anodetect.data import split
from anodetect.data.records import Dataset, Record
from anodetect.detectors import DETECTORS, entry_named
from anodetect.errors import ConfigError, DataError
from anodetect.imaging.preprocess import Preprocess
from anodetect.model.decoded import DecodedFiles
from anodetect.model.loading import Failed, LoadedImage, Reader
from anodetect.model.read_ahead import read_ahead
from anodetect.types import Reporter
from anodetect.words import amount


def check_can_learn(detector: str, tiling: Mapping[str, Any]) -> None:
    """Raise ConfigError if a detector cannot learn from known anomalies, or not with this
    tiling."""
    if not entry_named(detector).learns_anomalies:
        suitable = " or ".join(name for name in DETECTORS if DETECTORS[name].learns_anomalies)
        raise ConfigError(
            f"--known-anomalies: {detector} learns from normal images alone; take {suitable}, or "
            "leave the option out"
        )
    if tiling["tile"] or tiling["dims"] == 3:
        raise ConfigError(
            "--known-anomalies is for whole images: a tile or patch of an anomalous one may well "
            "be normal; leave out --tile and --dims 3"
        )


def with_anomalies(
    normals: Normals,
    dataset: Dataset,
    preprocess: Preprocess,
    scratch: DecodedFiles,
    reporter: Reporter,
) -> Normals:
    """Return the normals of a data set together with its known anomalies, which are read here.

    DataError if there are none, if one is a volume, or if one has the pixels of a normal image or
    the group, bytes or pixels of a test file.
    """
    wanted = dataset.anomalies()
    if not wanted:
        raise DataError(
            f"{dataset.name}: --known-anomalies, but no row of a manifest.csv has the split train "
            "and the label 1"
        )
    usable: list[Record] = []
    hashes, pixels = dict(normals.hashes), dict(normals.pixels)
    left_out: list[LeftOut] = []
    names = {content: name for name, content in normals.pixels.items()}

    reader = Reader(preprocess, scratch=scratch)
    for loaded in read_ahead(reader.read, wanted):
        if isinstance(loaded, Failed):
            left_out.append(LeftOut(loaded.record.id, loaded.error))
            continue
        if not isinstance(loaded, LoadedImage):
            raise DataError(
                f"{loaded.record.id}: known anomalies have to be images; most slices of an "
                "anomalous volume are normal"
            )
        usable.append(loaded.record)
        hashes[loaded.record.id], pixels[loaded.record.id] = loaded.sha256, loaded.pixels

    testing = tested(dataset)
    split.refuse_leaks(usable, testing, hashes, pixels)
    for record in usable:
        if pixels[record.id] in names:
            raise DataError(
                f"{record.id} is labelled anomalous, and has the same pixels as "
                f"{names[pixels[record.id]]}, which is not; correct one of the labels"
            )
    warn_of(left_out, reporter)
    if not usable:
        known = amount(len(wanted), "known anomaly", "known anomalies")
        raise DataError(f"none of {known} can be read")
    return replace(
        normals,
        hashes=hashes,
        pixels=pixels,
        left_out=[*normals.left_out, *left_out],
        anomalies=usable,
    )


def groups_of_anomalies(normals: Normals, dataset: Dataset) -> set[str]:
    """Return the groups of the normals that known anomalies belong to; copies may have brought
    groups together."""
    anomalous = {record.group for record in normals.anomalies}
    ids = {record.id for record in dataset.training() if record.group in anomalous}
    return {record.group for record in normals.records if record.id in ids}
