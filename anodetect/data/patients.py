"""Whose an image is: which identifiers of DICOM files name a patient, and what is to be known where
none does."""

import re
from collections.abc import Iterable, Mapping

from anodetect.words import amount

STUDY = "study-"  # the beginning of the group of files that name no patient
# Identifiers that are the same for any patient. With a number after it, one is a patient's own.
ANYBODY = re.compile(
    r"(anon(ym(ous|e|i[sz]ed|isiert|is[ée]|i[sz]ado|us)?)?|de-?identified|pseudonymi[sz]ed|redacted|"
    r"removed|unknown|unbekannt|inconnu|desconocido|none|null|nil|no[ _-]?(name|id)|n/?a|"
    r"patient([ _-]?id)?|not[ _-]?(given|available)|x+|0{3,}|\W*)[\W_]*",
    re.IGNORECASE,
)


def names_patient(identifier: str) -> bool:
    """Return whether an identifier can be that of one patient: it is not blank, and does not stand
    for any, such as ANONYMOUS."""
    return ANYBODY.fullmatch(identifier.strip(" \0_")) is None


def warning_of(groups: Iterable[str]) -> str:
    """Return what is to be known of files with these groups; "" if all have a patient's name."""
    count = sum(group.startswith(STUDY) for group in groups)
    if not count:
        return ""
    return (
        f"{amount(count, 'file names', 'files name')} no patient (PatientID is blank or stands for "
        "any, such as ANONYMOUS): each study counts as a patient of its own, although one may have "
        "several; a manifest's column group says it"
    )


def line_of_notes(notes: Mapping[str, str]) -> str:
    """Return in one line how many records have a note, and the first of them; `notes` are by the
    records' ids, "" where nothing is to be known. "" if no record has one."""
    noted = [f"{name}: {note}" for name, note in notes.items() if note]
    return f"{amount(len(noted), 'volume')} with a note; the first: {noted[0]}" if noted else ""
