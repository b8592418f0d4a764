"""Radiographs: from where they were taken, which side of the body they show, and which way they
look.

Views are the defined terms of the standard only: any other text of a header may name somebody.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

VIEWS = (
    "AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LAT", "LATERAL",
    "CC", "MLO", "ML", "LM", "LMO", "SIO", "FB", "XCC", "XCCL", "XCCM", "AT", "CV", "RM", "RI",
    "RS",
)  # fmt: skip
# The meanings of codes that stand for a view (CID 4010 and 4014), without case and signs.
MEANINGS = {
    "craniocaudal": "CC",
    "mediolateraloblique": "MLO",
    "mediolateral": "ML",
    "lateromedial": "LM",
    "lateromedialoblique": "LMO",
    "caudocranialfrombelow": "FB",
    "caudocranial": "FB",
    "superolateraltoinferomedialoblique": "SIO",
    "exaggeratedcraniocaudal": "XCC",
    "craniocaudalexaggeratedlaterally": "XCCL",
    "craniocaudalexaggeratedmedially": "XCCM",
    "cleavage": "CV",
    "axillarytail": "AT",
    "anteroposterior": "AP",
    "posteroanterior": "PA",
    "leftlateral": "LL",
    "rightlateral": "RL",
    "lateral": "LATERAL",
}
SIDES = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R", "B": "B", "BOTH": "B"}


def view_of(header: "Dataset") -> str:
    """Return the view of a radiograph, one of VIEWS; "" if it is none of them or not said."""
    named = str(header.get("ViewPosition") or "").strip().upper()
    if named in VIEWS:
        return named
    for code in header.get("ViewCodeSequence") or ():
        meaning = re.sub("[^a-z]", "", str(code.get("CodeMeaning") or "").lower())
        view = MEANINGS.get(meaning.removesuffix("projection"), "")
        if view:
            return view
    return ""


def laterality_of(header: "Dataset") -> str:
    """Return which side of the body an image shows, "L", "R" or "B" (both); "" if it is not
    said."""
    for tag in ("ImageLaterality", "Laterality"):
        side = side_named(str(header.get(tag) or ""))
        if side:
            return side
    return ""


def side_named(text: str) -> str:
    """Return the side that a word names, "" if it names none."""
    return SIDES.get(text.strip().upper(), "")


def looks_left(header: "Dataset") -> bool:
    """Return whether the rows of a mammogram run toward the front of the patient, as those of a
    left breast do: then a right one has been mirrored already."""
    value = header.get("PatientOrientation") or ""
    first = value if isinstance(value, str) else str(value[0])
    return header.get("Modality") == "MG" and first.upper().startswith("A")
