"""An image with its heatmap over it as a Secondary Capture, for images that have no place in the
patient, such as radiographs."""

from collections.abc import Sequence

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MultiFrameTrueColorSecondaryCaptureImageStorage

from anodetect.output.dicom import codes
from anodetect.output.dicom.shared import RESEARCH, device, equipment, instance
from anodetect.output.dicom.source import IDENTITY_REMOVED, METHOD, SourceHeaders
from anodetect.output.pictures import Picture

ANY_ORIENTATION = ("L", "F")  # highdicom asks for one; the image's own takes its place


def secondary_capture(
    pictures: Sequence[Picture], source: SourceHeaders, model: str, frames: Sequence[int] = ()
) -> Dataset:
    """Return pictures [H, W, 3] of the source's one image, or of its `frames`, numbered from 1, as
    a Secondary Capture; several as one of many frames, whose page numbers are those of the source's
    frames."""
    import highdicom as hd

    header = source.headers[0]
    capture: Dataset = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=header,
        pixel_array=np.ascontiguousarray(pictures[0]),
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
    _refer_to(capture, header, frames)
    source.carry_loss(capture)
    _say_what_pixels_may_name(capture, header)
    if len(pictures) > 1:
        _add_frames(capture, pictures, frames)
    return capture


def _add_frames(capture: Dataset, pictures: Sequence[Picture], frames: Sequence[int]) -> None:
    """Make a capture of one picture one of several."""
    storage = MultiFrameTrueColorSecondaryCaptureImageStorage
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = storage
    content = np.stack(pictures).tobytes()
    capture.PixelData = content + bytes(len(content) % 2)
    capture.NumberOfFrames = len(pictures)
    capture.FrameIncrementPointer = tag_for_keyword("PageNumberVector")
    capture.PageNumberVector = list(frames)
    if "BurnedInAnnotation" not in capture:  # must be said, and nobody looked
        capture.BurnedInAnnotation = "YES"


def _refer_to(capture: Dataset, header: Dataset, frames: Sequence[int]) -> None:
    """Name the image that the capture was made of, or its frames."""
    image = Dataset()
    image.ReferencedSOPClassUID = header.SOPClassUID
    image.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frames:
        image.ReferencedFrameNumber = list(frames)
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
