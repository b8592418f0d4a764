"""A scored record beside what is known of it, to be measured."""

from anodetect.data.records import Record
from anodetect.data.truth import is_lossy, read_truth
from anodetect.errors import ImageError
from anodetect.imaging.preprocess import PreparedVolume
from anodetect.stats.evaluation import Evaluation, LabelledScore
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


def mask_warnings(evaluation: Evaluation) -> list[str]:
    """Return what is to be said of masks: that some anomalous images have none that can be used,
    that some mark nearly all of an image, or were compressed with loss. Nothing if there are no
    masks at all."""
    masks = evaluation.masks
    if masks is None or not (masks.in_part or masks.lossy or masks.large):
        return []
    return [masks.statement(SHOWN)]
