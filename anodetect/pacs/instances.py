"""One DICOM object as it arrives: who it is, or why it is not taken. Nothing of it is trusted."""

import io
import re
from dataclasses import dataclass
from typing import Any

import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

from anodetect.errors import ImageError

UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
LONGEST_UID = 64
SUFFIX = ".dcm"
META = 4096  # the bytes in which a file says how it is written
DEFLATED = DeflatedExplicitVRLittleEndian.encode()
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "NumberOfSeriesRelatedInstances",
]  # fmt: skip


@dataclass(frozen=True)
class Instance:
    """The UIDs of an object's study, series, class and its own, all in the form of UIDs; and of how
    many objects it says that its series consists, None if it does not say."""

    study: str
    series: str
    storage: str
    instance: str
    expected: int | None

    @property
    def file_name(self) -> str:
        return self.instance + SUFFIX


def is_uid(text: str) -> bool:
    """Return whether a text has the form of a UID: digits and single dots, at most 64 of them. Such
    a text is a safe name of a file or folder."""
    return len(text) <= LONGEST_UID and UID.fullmatch(text) is not None


def instance_of(content: bytes) -> Instance:
    """Return who an object is; ImageError, which quotes nothing of it, if it cannot be told."""
    if DEFLATED in content[:META]:  # pydicom would inflate it, however large it becomes
        raise ImageError("deflated")
    try:
        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=TAGS)
        return _checked(header)
    except ImageError:
        raise
    except Exception:  # pydicom raises any kind of error on damaged files
        raise ImageError("not a readable DICOM object") from None


def _checked(header: Any) -> Instance:
    """Return the UIDs of a header; ImageError if one is missing or has no form of a UID."""
    found = {}
    for tag in TAGS[:4]:
        found[tag] = str(header.get(tag, ""))
        if not is_uid(found[tag]):
            raise ImageError(f"{tag} is missing or no UID")

    expected = str(header.get("NumberOfSeriesRelatedInstances", ""))
    return Instance(
        study=found["StudyInstanceUID"],
        series=found["SeriesInstanceUID"],
        storage=found["SOPClassUID"],
        instance=found["SOPInstanceUID"],
        expected=int(expected) if expected.isascii() and expected.isdecimal() else None,
    )
