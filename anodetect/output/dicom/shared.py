"""Attributes that all DICOM files of a scoring have, and the program that they name."""

from importlib.metadata import version
from typing import Any

from pydicom.uid import generate_uid

from anodetect.output.dicom import codes

CREATOR = "anodetect^software"  # a name has two parts
RESEARCH = "Research use only, not for diagnosis"


def equipment(model: str) -> Any:
    """Return this program with the model as the equipment that contributed to a Parametric Map,
    which has no other place for an algorithm."""
    import highdicom as hd

    return hd.ContributingEquipment(
        manufacturer="anodetect",
        purpose_of_reference=hd.sr.CodedConcept(*codes.PROCESSING),
        manufacturer_model_name="anodetect",
        software_versions=version("anodetect"),
        contribution_description=(
            f"anomaly detection (artificial intelligence) by the model with SHA-256 {model}"
        ),
    )


def instance(series_number: int) -> dict[str, Any]:
    """Return the attributes of a new file in a series of its own."""
    return {
        "series_instance_uid": generate_uid(),
        "series_number": series_number,
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": "anodetect",
    }


def device() -> dict[str, Any]:
    """Return the attributes of the program that made a file."""
    return {
        "manufacturer_model_name": "anodetect",
        "software_versions": version("anodetect"),
        "device_serial_number": "none",
    }


def algorithm(model: str) -> Any:
    """Return this program with the model as the algorithm of a report's measurements."""
    import highdicom as hd

    return hd.sr.AlgorithmIdentification(
        name="anodetect",
        version=version("anodetect"),
        parameters=[f"model SHA-256: {model}"],
        family=hd.sr.CodedConcept(*codes.AI),
        manufacturer="anodetect",
    )
