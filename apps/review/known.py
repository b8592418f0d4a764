"""The things to know when a case is judged: what the decisions promise, what the terminal warned
of, and what is flagged in the case. Nothing that would reveal a hidden score is said of a hidden
case.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from scipy import ndimage

from anodetect.record.audit import Audit
from anodetect.record.failures import Failure
from anodetect.record.rows import SliceRow
from anodetect.types import Bools
from anodetect.words import amount

FEW = 50  # images from which a model has learned little
BUDGET = "budget"  # the end of a training that had no more time


@dataclass(frozen=True)
class Note:
    """One thing to know; `serious` if it speaks against trusting the scores, `of_scores` if it says
    what the scores of the batch are like."""

    text: str
    serious: bool = False
    of_scores: bool = False


@dataclass(frozen=True)
class Found:
    """The findings in a volume, as the reviewer sees them; slices are counted from 1 in the order
    of the screen."""

    flagged_slices: tuple[int, ...]
    slices: int
    slices_with_regions: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        flagged = f": {ranges(self.flagged_slices)}" if self.flagged_slices else ""
        parts = [f"{len(self.flagged_slices)} of {amount(self.slices, 'slice')} flagged{flagged}"]
        if self.slices_with_regions:
            what = "slice" if len(self.slices_with_regions) == 1 else "slices"
            where = ranges(self.slices_with_regions)
            parts.append(f"regions of the heatmap count on {what} {where}")
        return " · ".join(parts)


def of_batch(audit: Audit, unlike: Sequence[Failure], files: int) -> tuple[Note, ...]:
    """Return what is to be known of all cases of a score directory of so many files, the serious
    first; `unlike` are the ways in which files differ from what the model has seen."""
    level = audit.calibration.level(audit.rule.rate) if audit.calibration.groups else "none"
    notes = [Note(audit.statement, serious=level != "group")]
    for check in (audit.drift.batch, audit.drift.time):
        if check is not None:
            notes.append(Note(check.text, serious=check.fires, of_scores=True))
    notes += [Note(caveat, serious=True, of_scores=True) for caveat in audit.caveats]
    notes += _of_training(audit.facts)

    if unlike:
        of = f"of {amount(files, 'file')}"
        differing = amount(sum(each.count for each in unlike), f"{of} differs", f"{of} differ")
        text = f"{differing} from what the model has seen; most often: {unlike[0].reason}"
        notes.append(Note(text, serious=True))
    return tuple(sorted(notes, key=lambda note: not note.serious))


def _of_training(facts: Mapping[str, object]) -> list[Note]:
    """Return what is to be known of the model's training; `facts` are those of the run."""
    notes = []
    images = facts.get("fit_images")
    if isinstance(images, int):
        few = images < FEW
        text = f"The model has learned from {amount(images, 'normal image')}"
        notes.append(Note(text + (", which is little." if few else "."), serious=few))
    if dropped := facts.get("dropped"):
        notes.append(Note(f"Too few images for every part of the data: {dropped}", serious=True))
    if facts.get("stopped_by") == BUDGET:
        steps = f" after {facts['steps']} steps" if facts.get("steps") else ""
        text = f"The training was ended{steps} by its budget, not by its own end."
        notes.append(Note(text, serious=True))

    return notes


def in_volume(slices: Sequence[SliceRow]) -> str:
    """Return which slices of a volume are flagged, numbered as on the screen: those of a plane from
    the right, the front or below on."""
    along = {"axial": "superior_mm", "coronal": "posterior_mm", "sagittal": "left_mm"}
    ordered = sorted(slices, key=attrgetter(along.get(slices[0].axis, "slice")))
    flagged = [number for number, each in enumerate(ordered, start=1) if each.flagged]
    return Found(tuple(flagged), len(ordered)).text


def regions_text(found: Bools, block: int) -> str:
    """Return how many regions of an image's heatmap count. Each pixel of `found` [h, w] stands for
    `block` × `block` of the image, between which regions that lie so close cannot be told apart."""
    count = int(ndimage.label(found)[1])
    about = "about " if block > 1 and count else ""
    one, many = "region of the heatmap counts", "regions of the heatmap count"
    return f"{about}{amount(count, one, many)}"


def ranges(numbers: Sequence[int]) -> str:
    """Return rising numbers as "3–17, 20"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in parts)
