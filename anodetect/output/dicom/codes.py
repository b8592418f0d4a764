"""Codes by which DICOM files say what something is: value, scheme, meaning."""

from pydicom.dataset import Dataset

Code = tuple[str, str, str]
AI = ("123110", "DCM", "Artificial Intelligence")
ABNORMAL_STRUCTURE = ("49755003", "SCT", "Morphologically Abnormal Structure")
ABNORMALITY = ("263679003", "SCT", "Abnormality")
ENTIRE_BODY = ("38266002", "SCT", "Entire body")
PEAK, NO_UNITS = ("126031", "DCM", "Peak Value Within ROI"), ("1", "UCUM", "no units")
VOLUME, CUBIC = ("118565006", "SCT", "Volume"), ("mm3", "UCUM", "cubic millimeter")
DEVICE = ("121007", "DCM", "Device")
COMMENT = ("121106", "DCM", "Comment")
PROCESSING = ("109102", "DCM", "Processing Equipment")
PROCEDURE = ("363679005", "SCT", "Imaging procedure")
REPORT_TITLE = ("126000", "DCM", "Imaging Measurement Report")
AREA = ("42798000", "SCT", "Area")
SQUARE, PIXELS = ("mm2", "UCUM", "square millimeter"), ("{pixels}", "UCUM", "pixels")
ILLUSTRATION = ("121200", "DCM", "Illustration of ROI")
SOURCE_IMAGE = ("121322", "DCM", "Source image for image processing operation")
SIDES = {
    "L": ("7771000", "SCT", "Left"),
    "R": ("24028007", "SCT", "Right"),
    "B": ("51440002", "SCT", "Right and left"),
}
SPATIAL_CONCEPT = ("309825002", "SCT", "Spatial and Relational Concept")
# How a header was de-identified: all is removed but UIDs.
DEIDENTIFIED = (
    ("113100", "DCM", "Basic Application Confidentiality Profile"),
    ("113110", "DCM", "Retain UIDs Option"),
)
# For these there is no standard code.
OWN = "99ANODETECT"
SCORE = ("score", OWN, "Anomaly score")
P_VALUE = ("p-value", OWN, "p-value among normal images")
THRESHOLD = ("threshold", OWN, "Score above which images are flagged")
FALSE_ALARMS = ("far", OWN, "False-alarm rate")
FALSE_DISCOVERIES = ("fdr", OWN, "False-discovery rate")
DECISION = ("decision", OWN, "Decision by the score")
FLAGGED = ("flagged", OWN, "Flagged")
NOT_FLAGGED = ("not-flagged", OWN, "Not flagged")
UNDECIDED = ("undecided", OWN, "Not decided")
ABOVE = ("above", OWN, "Above the anomaly threshold")


def coded(code: Code) -> Dataset:
    """Return a code as an item of a sequence of codes."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item
