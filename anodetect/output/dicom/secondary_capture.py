"""An image with its heatmap over it as a Secondary Capture, for images that have no place in the
patient, such as radiographs."""

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from anodetect.output.dicom import codes
from anodetect.output.dicom.shared import RESEARCH, device, equipment, instance
from anodetect.output.dicom.source import IDENTITY_REMOVED, METHOD, SourceHeaders
from anodetect.output.pictures import Picture

ANY_ORIENTATION = ("L", "F")  # highdicom asks for one; the image's own takes its place


def secondary_capture(picture: Picture, source: SourceHeaders, model: str) -> Dataset:
    """Return a picture [H, W, 3] of the source's one image as a Secondary Capture."""
    import highdicom as hd

    header = source.headers[0]
    capture: Dataset = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=header,
        pixel_array=np.ascontiguousarray(picture),
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        patient_orientation=ANY_ORIENTATION,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        contributing_equipment=[equipment(model)],
        series_description="anodetect anomaly map over the image",
        **instance(source.series_number(4)),
        **device(),
    )
    capture.PatientOrientation = header.get("PatientOrientation") or ""
    capture.Laterality = source.laterality if source.laterality in ("L", "R") else ""
    capture.ImageComments = RESEARCH
    capture.copy_patient_and_study_information(header)
    _refer_to(capture, header)
    source.carry_loss(capture)
    _say_what_pixels_may_name(capture, header)
    return capture


def _refer_to(capture: Dataset, header: Dataset) -> None:
    """Name the image that the capture was made of."""
    image = Dataset()
    image.ReferencedSOPClassUID = header.SOPClassUID
    image.ReferencedSOPInstanceUID = header.SOPInstanceUID
    image.PurposeOfReferenceCodeSequence = [codes.coded(codes.SOURCE_IMAGE)]
    capture.SourceImageSequence = [image]
    capture.DerivationDescription = "heatmap of anomaly values over the image"


def _say_what_pixels_may_name(capture: Dataset, header: Dataset) -> None:
    """Claim that the patient's identity was removed only where the source says that its pixels hold
    no text: they are shown as they are."""
    burned_in = str(header.get("BurnedInAnnotation") or "")
    if burned_in in ("YES", "NO"):
        capture.BurnedInAnnotation = burned_in
    if burned_in == "NO" or capture.get("DeidentificationMethod") != METHOD:
        return
    for tag in IDENTITY_REMOVED:  # removed, since the header has the same elements
        del capture[tag]
    capture.PatientIdentityRemoved = "NO"
