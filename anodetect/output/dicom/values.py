"""Values of a source's header as DICOM defines them: scanners write dates, times and other values
that readers and writers of maps refuse."""

import re
from copy import copy
from datetime import date

from pydicom.dataelem import DataElement

SEXES = ("M", "F", "O")
UTF8 = "ISO_IR 192"


def conforming(element: DataElement) -> DataElement:
    """Return a copy of an attribute with its value as DICOM defines it, empty where that is not
    possible. Dates and times of ACR-NEMA, with points and colons, become those of DICOM, and text
    of any character set that is named becomes UTF-8."""
    kept = copy(element)
    if element.keyword == "SpecificCharacterSet":
        kept.value = UTF8 if element.value else element.value
    elif element.VR == "PN" and element.VM == 1:
        kept.value = str(element.value)  # decoded, as all other text is
    elif element.keyword == "PatientSex" and element.value not in SEXES:
        kept.value = ""
    elif element.VR == "DA" and element.VM == 1:
        kept.value = _date(str(element.value))
    elif element.VR == "TM" and element.VM == 1:
        kept.value = _time(str(element.value))
    return kept


def _date(text: str) -> str:
    """Return a date as YYYYMMDD, "" if it is none."""
    found = re.fullmatch(r"(\d{4})[.\-/]?(\d\d)[.\-/]?(\d\d)", text.strip())
    if not found:
        return ""
    try:
        date(int(found[1]), int(found[2]), int(found[3]))
    except ValueError:  # no day of the calendar
        return ""
    return f"{found[1]}{found[2]}{found[3]}"


def _time(text: str) -> str:
    """Return a time as HHMMSS.FFFFFF, or the first parts of it; "" if it is none."""
    found = re.fullmatch(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(\.\d{1,6})?\d*)?)?", text.strip())
    if not found:
        return ""
    hour, minute, second, fraction = found[1], found[2] or "", found[3] or "", found[4] or ""
    if int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 60:
        return ""
    return f"{hour}{minute}{second}{fraction}"
