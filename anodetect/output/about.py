"""Facts that files state of a scored image or volume beside its map."""

from dataclasses import dataclass

from anodetect.stats.decision import Decision


@dataclass(frozen=True)
class About:
    """The name of the patient in DICOM files, "" to leave what identifies the patient in them; the
    model's SHA-256; and the decision over the image or volume, None if there was none."""

    pseudonym: str = ""
    model: str = ""
    decision: Decision | None = None
