"""A scored record beside what is known of it, to be measured."""

from collections.abc import Iterable

from anodetect.data.records import Record
from anodetect.data.truth import is_lossy, read_truth
from anodetect.errors import ImageError
from anodetect.imaging.preprocess import PreparedVolume
from anodetect.record.audit import Scoring
from anodetect.record.rows import ScoreRow
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.stats.evaluation import Evaluation, LabelledScore, Measure
from anodetect.stats.mask_use import SHOWN
from anodetect.types import Bools, Floats


def labelled_score(
    record: Record,
    score: float,
    heatmap: Floats | None,
    volume: PreparedVolume | None = None,
    *,
    is_volume: bool = False,
) -> LabelledScore | None:
    """Return a record's score and heatmap with its label and mask; None if it has no label.

    `volume` is needed to read a volume's mask. The result's `problem` says why a mask cannot be
    used. Without `heatmap` the mask is not read.
    """
    if record.label is None:
        return None

    mask: Bools | None = None
    problem = ""
    if heatmap is not None:
        grid = None if volume is None else (volume.source, volume.geometry)
        try:
            mask = read_truth(record, heatmap.shape, grid)
        except ImageError as error:
            problem = str(error)
    is_volume = is_volume or volume is not None
    return LabelledScore(
        record.id,
        record.label,
        score,
        record.group,
        is_volume,
        heatmap,
        mask,
        problem,
        lossy=is_lossy(record),
    )


def measure_of(rows: Iterable[ScoreRow], scoring: Scoring) -> Measure:
    """Return the measure of the labelled rows of a scoring, without their pixels."""
    measure = Measure(scoring.calibration, scoring.far or DEFAULT_FAR, masks=False)
    for row in rows:
        if row.score is not None and row.label is not None:
            scored = LabelledScore(
                row.path,
                row.label,
                row.score,
                row.group,
                is_volume=row.is_volume,
                content=content_of(row),
            )
            measure.add(scored)
    return measure


def content_of(row: ScoreRow) -> str:
    """Return the hash that copies of a file have in common: that of its pixels, where a record has
    it; older ones have that of its bytes alone."""
    return row.pixels_sha256 or row.sha256 or ""


def mask_warnings(evaluation: Evaluation) -> list[str]:
    """Return what is to be said of masks: that some anomalous images have none that can be used,
    that some mark nearly all of an image, or were compressed with loss. Nothing if there are no
    masks at all."""
    masks = evaluation.masks
    if masks is None or not (masks.in_part or masks.lossy or masks.large):
        return []
    return [masks.statement(SHOWN)]
