"""Measure the pixels of a score directory again, from its maps and the true masks. No torch."""

from dataclasses import replace
from pathlib import Path

from anodetect.commands.labelled import content_of, labelled_score
from anodetect.data.scan import scan
from anodetect.errors import DataError
from anodetect.output import recorded
from anodetect.record.directories import ScoreDirectory
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.evaluation import Measure
from anodetect.stats.mask_use import MaskUse, use_of
from anodetect.words import amount


def measure_pixels(scored: ScoreDirectory, data: Path | None) -> tuple[Measure | None, str]:
    """Return the measure of a score directory's labelled rows with their pixels, as scoring
    measured them, by the masks in the folder `data`; or None, and why that is not possible.

    RunError if a map is damaged.
    """
    if data is None:
        return None, "--data FOLDER says where the images and their masks are"
    if any(row.is_volume and row.label is not None for row in scored.scored()):
        return None, "those of volumes are not measured again"
    try:
        measure, missing = _measured(scored, data)
    except (DataError, OSError) as error:
        return None, f"their masks cannot be found: {error}"
    return (None, missing) if missing else (measure, "")


def _measured(scored: ScoreDirectory, data: Path) -> tuple[Measure, str]:
    """Return the measure of labelled images, and what is missing of them, "" if nothing is."""
    audit, without_map, unknown = scored.audit, 0, list[str]()
    records = {record.id: record for record in scan(data, follow_symlinks=True).records}
    measure = Measure(audit.calibration, audit.far or DEFAULT_FAR, masks=True)
    for row in scored.scored():
        if row.label is None or row.score is None:
            continue
        record = records.get(row.path)
        if record is None or record.label != row.label:
            unknown.append(row.path)
            continue

        heatmap = recorded.read_map(scored.path, row)
        without_map += heatmap is None
        item = labelled_score(replace(record, group=row.group), row.score, heatmap)
        if item is not None:
            measure.add(replace(item, content=content_of(row)))

    evaluation, masks = audit.evaluation, use_of(measure.masks)
    known = evaluation.masks if evaluation and evaluation.masks else MaskUse()
    lost = [name for name in masks.missing if name not in known.missing]
    if without_map:
        images = amount(without_map, "labelled image has", "labelled images have")
        return measure, f"{images} no float map"
    for one, many, names in (
        ("image with its label is", "images with their label are", unknown),
        ("mask is", "masks are", lost),
    ):
        if names:
            return measure, f"{amount(len(names), one, many)} not in {data}, first of {names[0]}"
    return measure, ""
