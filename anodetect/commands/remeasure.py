"""Measure the pixels of a score directory again, from its maps and the true masks. No torch."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from anodetect.commands.labelled import content_of, labelled_score
from anodetect.data.readers import read_source
from anodetect.data.records import Record
from anodetect.data.scan import scan
from anodetect.data.truth import read_truth, truth_hash
from anodetect.data.volumes import Volume
from anodetect.errors import DataError, ImageError
from anodetect.output import recorded
from anodetect.record import directories
from anodetect.record.directories import StoredRows
from anodetect.record.rows import ScoreRow
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.evaluation import Measure
from anodetect.stats.mask_use import MaskUse, use_of
from anodetect.types import Bools
from anodetect.words import amount


@dataclass
class Remeasured:
    """The `measure` of labelled images with their pixels, as scoring measured them; None where that
    is not possible, and `why`. `others` are the paths of images whose true mask is not the one that
    was recorded, `unhashed` counts masks of which no hash was recorded, and `unread` those that are
    not there or cannot be read."""

    measure: Measure | None = None
    why: str = ""
    others: list[str] = field(default_factory=list)
    unhashed: int = 0
    unread: int = 0

    def compare(self, row: ScoreRow, mask: Bools) -> None:
        """Compare a true mask with the hash that was recorded of it."""
        if not row.truth_sha256:
            self.unhashed += 1
        elif truth_hash(mask) != row.truth_sha256:
            self.others.append(row.path)


def measure_pixels(scored: StoredRows, data: Path | None) -> Remeasured:
    """Measure the pixels of a score directory's labelled images by the masks in the folder `data`.
    Those of volumes are not measured again; their true masks alone are compared.

    RunError if a map is damaged.
    """
    if data is None:
        return Remeasured(why="--data FOLDER says where the images and their masks are")
    has_volumes = any(row.is_volume and row.label is not None for row in scored.each_scored())
    try:
        records = {record.id: record for record in scan(data, follow_symlinks=True).records}
    except (DataError, OSError) as error:
        return Remeasured(why=f"their masks cannot be found: {error}")
    if has_volumes:
        return _masks_alone(scored, records)
    try:
        return _measured(scored, data, records)
    except (DataError, OSError) as error:
        return Remeasured(why=f"their masks cannot be found: {error}")


def _masks_alone(scored: StoredRows, records: dict[str, Record]) -> Remeasured:
    """Compare the true masks of labelled images and volumes with their hashes."""
    found = Remeasured(why="those of volumes are not measured again")
    slices = directories.slice_table(scored.path)
    axes = dict(zip(slices["path"].to_pylist(), slices["axis"].to_pylist(), strict=True))
    for row in scored.each_scored():
        record = records.get(row.path)
        if row.label is None:
            continue
        if not row.truth_sha256:
            found.unhashed += record is not None and bool(record.masks)
            continue
        try:
            mask = None if record is None else _truth(record, row, axes.get(row.path, "auto"))
        except (ImageError, OSError):
            mask = None
        if mask is None:
            found.unread += 1
        else:
            found.compare(row, mask)
    return found


def _truth(record: Record, row: ScoreRow, axis: str) -> Bools | None:
    """Return the true mask of an image, or of a volume in the order of its slices along `axis`;
    None without one. ImageError if it cannot be read."""
    if not row.is_volume:
        return read_truth(record, (row.height or 0, row.width or 0))
    source = read_source(record).decode()
    if not isinstance(source, Volume):
        raise ImageError("it is no volume")
    geometry = source.geometry(axis)
    return read_truth(record, geometry.sides, (source, geometry))


def _measured(scored: StoredRows, data: Path, records: dict[str, Record]) -> Remeasured:
    """Measure labelled images whose records in `data` are known by their paths."""
    audit, found = scored.audit, Remeasured()
    without_map, unknown = 0, list[str]()
    measure = Measure(audit.calibration, audit.far or DEFAULT_FAR, masks=True)
    for row in scored.each_scored():
        if row.label is None or row.score is None:
            continue
        record = records.get(row.path)
        if record is None or record.label != row.label:
            unknown.append(row.path)
            continue

        heatmap = recorded.read_map(scored.path, row)
        without_map += heatmap is None
        item = labelled_score(replace(record, group=row.group), row.score, heatmap)
        if item is None:
            continue
        measure.add(replace(item, content=content_of(row)))
        if item.mask is not None:
            found.compare(row, item.mask)

    masks = use_of(measure.masks)
    known = audit.evaluation.masks if audit.evaluation and audit.evaluation.masks else MaskUse()
    lost = [name for name in masks.missing if name not in known.missing]
    if without_map:
        images = amount(without_map, "labelled image has", "labelled images have")
        found.why = f"{images} no float map"
        return found
    for one, many, names in (
        ("image with its label is", "images with their label are", unknown),
        ("mask is", "masks are", lost),
    ):
        if names:
            found.why = f"{amount(len(names), one, many)} not in {data}, first of {names[0]}"
            return found
    found.measure = measure
    return found
