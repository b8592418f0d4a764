"""The headline of a DICOM file: whose image it is, and which others belong to it.

All this is known without pydicom, which takes a while to import, and is not needed where no file is
DICOM.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from anodetect.data.patients import STUDY
from anodetect.data.pseudonyms import PATIENT, pseudonym

PROJECTIONS = ("CR", "DX", "RG")  # modalities of the same kind of picture
TOMOGRAPHIC = ("CT", "MR", "PT")  # modalities whose images have a place in the patient
# Values of the image type that say which part of a complex number pixels are.
PARTS = {
    "M": "magnitude", "MAGNITUDE": "magnitude", "M_FFE": "magnitude", "M_SE": "magnitude",
    "P": "phase", "PHASE": "phase", "PHASE MAP": "phase",
    "R": "real", "REAL": "real", "I": "imaginary", "IMAGINARY": "imaginary",
}  # fmt: skip
LOCALIZERS = "DICOM localizers"
# Values of the image type, patterns of the description's words, and what such images are called.
NO_IMAGE_TYPES = (
    (
        "LOCALIZER",
        r"\b(locali[sz]er|topogram|scout|surview|scanogram|survey|loc|lokalisator|ubersicht|"
        r"smartbrain)\b",
        LOCALIZERS,
    ),
    (
        "SCREEN SAVE",
        r"\b(dose (report|record|info|sheet|summary)|rapport de dose|dosis\w+|"
        r"(patient|exam) proto[ck]ol|protokoll|exam summary|(screen|result) ?(save|shot|capture|"
        r"screens))\b",
        "DICOM screen captures and dose reports",
    ),
    (
        "MONITORING",
        r"\b((pre)?monitoring|bolus tracking|calibration|ref scan|phoenix\w*)\b",
        "DICOM reference scans",
    ),
)
DERIVED = "derived DICOM images beside original ones"
COPIES = "second copies of DICOM images"
STRAYS = "single DICOM images in another plane than their series"


@dataclass(frozen=True)
class Headline:
    """The part of a header that says whose image a file is and which others belong to it.

    `series` names what files of one volume have in common, "" for a file that stands alone.
    `instance` names the image, whatever file holds it.
    `patient` is the patient's identifier, which
    `issuer` gave. Without one it is that of the study or series, "" without any, and with
    `names_patient` False. `frames` is 0 for
    a file that is no image, such as a report. `no_image` says what is not to be judged as one, such
    as a localizer or a segmentation. `derived` images were computed from others. `place` is
    a single image's position [3] with the directions of its rows and columns [6], () without them.
    `description` is the pattern of the series' description: its words without numbers. `quantity`
    is the part of a complex number ("magnitude", "phase" …), and `view` and `laterality` are those
    of a radiograph; "" where a file does not say them.
    """

    series: str = ""
    study: str = ""
    instance: str = ""
    issuer: str = ""
    patient: str = ""
    names_patient: bool = True
    frames: int = 1
    no_image: str = ""
    derived: bool = False
    modality: str = ""
    description: str = ""
    maker: str = ""
    place: tuple[float, ...] = ()
    quantity: str = ""
    view: str = ""
    laterality: str = ""

    @property
    def series_uid(self) -> str:
        """Return the part of `series` that does not depend on patient and study."""
        return self.series.partition("\0")[0]

    @property
    def image(self) -> tuple[str, tuple[float, ...]]:
        """Return what copies of an image have in common, in whatever files they are. Some programs
        give all images the same instance: at other places they are no copies."""
        return self.instance, self.place


def headline(path: Path) -> Headline:
    """Read a file's headline. That of a file that cannot be read is empty; reading the file will
    say why."""
    read: Headline = resolve_name("anodetect.data.dicom:headline")(path)
    return read


def no_image_of(kinds: Sequence[str], description: str) -> str:
    """Return what an image is by the values of its type and the description of its series if it is
    not to be learned from or to be judged, such as a localizer, else ""."""
    words = " ".join(words_of(description))
    for kind, pattern, reason in NO_IMAGE_TYPES:
        if kind in kinds or re.search(pattern, words):
            return reason
    return ""


def words_of(description: str) -> list[str]:
    """Return the words of a series' description in lower case, without accents and without numbers
    that stand alone: `t1 mprage 2` is `t1 mprage`."""
    plain = unicodedata.normalize("NFKD", description).encode("ascii", "ignore").decode().lower()
    found = re.findall(r"[a-z][a-z0-9]*", plain)
    return [word for word in found if len(word) > 1 or word.isalpha()]


def is_derived(kinds: Sequence[str], modality: str) -> bool:
    """Return whether an image was computed from others, as the values of its type say. Radiographs
    and photographs call themselves derived when they are only prepared for display."""
    if list(kinds[:1]) != ["DERIVED"]:
        return False
    return list(kinds[1:2]) == ["SECONDARY"] or modality in TOMOGRAPHIC


def group_of(found: Headline, *, keep_identifiers: bool) -> str:
    """Return the patient's pseudonym, or what identifies the patient and, after `^^^`, who gave
    that; of a file that names no patient the same of its study. "" if nothing identifies either."""
    if not found.patient:
        return ""
    prefix = "" if found.names_patient else STUDY
    if keep_identifiers:
        issuer = f"^^^{found.issuer}" if found.issuer else ""
        return f"{prefix}{found.patient}{issuer}"
    return pseudonym(found.issuer, found.patient, prefix=prefix or PATIENT)


def study_of(found: Headline, *, keep_identifiers: bool) -> str:
    """Return the study's pseudonym, or its UID; "" if a file names none."""
    if keep_identifiers or not found.study:
        return found.study
    return pseudonym("", found.study, prefix=STUDY)
