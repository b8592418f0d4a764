"""Heatmaps as files. Images and volumes have formats of their own, and of those asked for each gets
what it has."""

from collections.abc import Sequence
from importlib.util import find_spec

from anodetect.errors import ConfigError, nearest

IMAGE_FILES = ("tiff", "png", "mask")
VOLUME_FILES = ("nifti", "dicom", "png", "mask")
FORMATS = (
    "tiff",
    "nifti",
    "png",
    "mask",
    "regions",
)  # by default; regions of images go to regions.json


def check_formats(formats: Sequence[str]) -> None:
    """ConfigError if there is no such format."""
    for each in formats:
        if each not in (*FORMATS, "dicom"):
            raise ConfigError(
                f"no heatmap format {each!r}; {nearest(each, [*FORMATS, 'dicom', 'none'])}"
            )
    if "dicom" in formats and find_spec("highdicom") is None:
        raise ConfigError("DICOM maps need highdicom: pip install 'anodetect[dicom]'")
