"""The objects that are taken by DIMSE, their transfer syntaxes, and the answer to each."""

import logging
from collections.abc import Callable
from typing import Any

from pydicom.uid import (
    JPEG2000,
    BreastTomosynthesisImageStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    MRImageStorage,
    NuclearMedicineImageStorage,
    OphthalmicTomographyImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from anodetect.errors import DiskFullError, ImageError, RunError

IMAGES = (
    CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage,
    MRImageStorage, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage,
    PositronEmissionTomographyImageStorage, EnhancedPETImageStorage,
    LegacyConvertedEnhancedPETImageStorage, ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation, DigitalXRayImageStorageForProcessing,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing, BreastTomosynthesisImageStorage,
    NuclearMedicineImageStorage, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage, XRayRadiofluoroscopicImageStorage,
    OphthalmicTomographyImageStorage, SecondaryCaptureImageStorage,
)  # fmt: skip
PLAIN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
# The deflated syntax is not among them: a small object of it may become very large.
COMPRESSED = [
    JPEGLosslessSV1, JPEGLossless, JPEG2000Lossless, JPEG2000, JPEGLSLossless, JPEGLSNearLossless,
    RLELossless, HTJ2KLossless, JPEGBaseline8Bit, JPEGExtended12Bit,
]  # fmt: skip

# The status of an answer to C-STORE (PS3.4, table B.2-1)
SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000

# It logs identifiers of patients.
logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


def keeper(keep: Callable[[bytes], None]) -> Callable[[Any], int]:
    """Return the handler of objects that come by C-STORE: it hands each to `keep` as a file, and
    answers that it is stored only when `keep` has returned."""

    def handle(event: Any) -> int:
        try:
            keep(event.encoded_dataset())
        except ImageError:
            return CANNOT_UNDERSTAND
        except (DiskFullError, RunError, OSError, MemoryError):
            return OUT_OF_RESOURCES
        return SUCCESS

    return handle
