"""What is written as DICOM says what its source says and what was decided, and other programs read
it."""

import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, JPEGBaseline8Bit
from test_dicom import SECRETS, instance, multiframe, read, voxels, write_series

import anodetect
from anodetect.data.readers import read_image
from anodetect.errors import RunError
from anodetect.output.about import About
from anodetect.output.dicom import files
from anodetect.output.formats import write_files
from anodetect.output.images import ImageMap
from anodetect.output.volumes import VolumeMap
from anodetect.record import directories
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import Decision, Rule, decide, decide_one
from anodetect.stats.mask_rule import pixel_rule

hd = pytest.importorskip("highdicom")
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:pydicom.*", "ignore::UserWarning:highdicom.*"
)
FAR, FDR = Rule(0.05), Rule(0.1, by_fdr=True)
FLAGGED = Decision(FAR, 7.0, p_value=0.02, flagged=True, threshold=6.0)
NOT_FLAGGED = Decision(FAR, 5.0, p_value=0.4, flagged=False, threshold=6.0)
BY_FDR = Decision(FDR, 7.0, p_value=0.02)
UNDECIDED = Decision(FAR, 7.0)
MODEL = "0" * 64
SIDES = (20, 24)


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory, monkeypatch):
    """A key for pseudonyms of the tests' own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


def heatmap_of(shape):
    """Two regions above 0.5, the higher one second, and a part that was not scored."""
    values = np.linspace(0, 0.4, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    values[..., 2:4, 2:5] = 0.6
    values[..., 6:9, 7:10] = 0.9
    values[..., -1, :] = np.nan
    return values


def of_volume(folder, decision=FLAGGED, pseudonym="patient-x", formats=("dicom",), **tags):
    """The files of a series with these tags, by kind: a path and, of DICOM, a data set."""
    volume = read(write_series(folder / "s", voxels(), **tags)).volume
    shown = VolumeMap(
        heatmap_of(volume.geometry.sides),
        volume,
        (0, 1),
        pixel_rule(0.5),
        about=About(pseudonym, MODEL, decision),
    )
    return by_kind(write_files(folder / "a", formats, "volume", shown))


def of_image(folder, decision=FLAGGED, pseudonym="patient-x", **tags):
    """The files of a radiograph with these tags, by kind."""
    return by_kind(write_image(folder, radiograph(**tags), decision, pseudonym))


def write_image(folder, header, decision=FLAGGED, pseudonym="patient-x"):
    image = np.arange(np.prod(SIDES), dtype=np.float32).reshape(1, *SIDES)
    about = About(pseudonym, MODEL, decision)
    shown = ImageMap(heatmap_of(SIDES), image, (0, 1), pixel_rule(0.5), header=header, about=about)
    return write_files(folder / "a", ["dicom"], "image", shown)


def radiograph(**tags):
    made = instance(voxels((1, *SIDES))[0], ImagePositionPatient=None, Modality="CR")
    for tag in ("ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
        delattr(made, tag)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    for tag, value in tags.items():
        setattr(made, tag, value)
    return made


def by_kind(written):
    return {each.kind: pydicom.dcmread(each.path) for each in written if each.path.suffix == ".dcm"}


def checked(dataset, folder):
    """Check a data set with dciodvfy, and let dcmtk dump it, if they are on this machine."""
    if not (shutil.which("dciodvfy") and shutil.which("dcmdump")):
        return
    dataset.save_as(folder / "checked.dcm", enforce_file_format=True)
    command = ["dciodvfy", str(folder / "checked.dcm")]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert not [line for line in said.splitlines() if line.startswith("Error")], said
    command[0] = "dsrdump" if dataset.Modality == "SR" else "dcmdump"
    dumped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not dumped.stderr, dumped.stderr


def report_in(dataset, folder):
    """The content of a report as highdicom reads it from a file."""
    dataset.save_as(folder / "report.dcm", enforce_file_format=True)
    return hd.sr.srread(folder / "report.dcm").content


# -- Structured Report -----------------------------------------------------------------------------


@pytest.mark.parametrize("of", [of_volume, of_image])
@pytest.mark.parametrize(
    ("decision", "verdict", "says"),
    [
        (FLAGGED, "Flagged", "Flagged at a false-alarm rate of 0.05, p = 0.02. Findings: 2."),
        (NOT_FLAGGED, "Not flagged", "Nothing found: not flagged at a false-alarm rate of 0.05"),
        (BY_FDR, "Not decided", "flags depend on all images of a scoring"),
        (UNDECIDED, "Not decided", "the model has no calibration images"),
    ],
)
def test_a_report_claims_what_was_flagged_and_nothing_else(of, decision, verdict, says, tmp_path):
    files = of(tmp_path, decision)
    checked(files["report"], tmp_path)
    content = report_in(files["report"], tmp_path)
    (whole,) = content.get_image_measurement_groups()
    measured = {item.name.meaning: item.value for item in whole.get_measurements()}
    rate = "False-discovery rate" if decision is BY_FDR else "False-alarm rate"
    expected = {
        "Anomaly score": decision.score,
        "p-value among normal images": decision.p_value,
        rate: decision.rule.rate,
        "Score above which images are flagged": decision.threshold,
    }
    assert measured == {name: value for name, value in expected.items() if value is not None}
    evaluated = {item.name.meaning: item.value for item in whole.get_qualitative_evaluations()}
    assert evaluated["Decision by the score"].meaning == verdict

    found = [
        *content.get_volumetric_roi_measurement_groups(),
        *content.get_planar_roi_measurement_groups(),
    ]
    assert len(found) == (2 if decision.flagged else 0)
    texts = [item.TextValue for item in files["report"].ContentSequence[-2:]]
    assert says in texts[0]
    assert texts[1] == "Research use only, not for diagnosis"


def test_what_was_not_flagged_is_called_no_finding_in_the_segmentation(tmp_path):
    segmentation = of_volume(tmp_path, NOT_FLAGGED)["mask"]
    checked(segmentation, tmp_path)
    (segment,) = segmentation.SegmentSequence
    assert segment.SegmentLabel == "above the threshold, not flagged"
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Above the anomaly threshold"
    text = str(segmentation).lower()
    assert "finding" not in text and "abnormal" not in text
    marked = segmentation.pixel_array.sum()
    assert marked == of_volume(tmp_path / "2")["mask"].pixel_array.sum() > 0


@pytest.mark.parametrize("rule", [FAR, Rule(0.3), FDR])
@pytest.mark.parametrize("is_volume", [False, True])
def test_one_image_is_decided_as_among_many(rule, is_volume):
    rng = np.random.default_rng(0)
    groups = tuple(f"g{number // 2}" for number in range(50))
    calibration = Calibration(rng.random(50), rng.random(50), groups)
    scores = rng.random(30) * 1.2
    many = decide(scores, np.full(30, is_volume), np.arange(30), 30, calibration, rule)
    for number, score in enumerate(scores.tolist()):
        one = decide_one(score, calibration, rule, is_volume=is_volume)
        assert one.p_value == many.p_values[number]
        if not rule.by_fdr:
            assert (one.flagged, one.threshold) == (many.flags[number], many.thresholds[number])
    nothing = Calibration(np.zeros(0), np.zeros(0), ())
    assert decide_one(1.0, nothing, rule, is_volume=is_volume) == Decision(rule, 1.0)


# -- Radiographs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [None, [0.5, 0.25]])
def test_a_radiograph_gets_a_capture_and_outlines(spacing, tmp_path):
    header = radiograph(PatientOrientation=["L", "F"])
    if spacing:
        header.PixelSpacing = spacing
    files = by_kind(write_image(tmp_path, header))
    for dataset in files.values():
        checked(dataset, tmp_path)
    capture = files["picture"]
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert capture.PatientOrientation == ["L", "F"]
    assert MODEL in capture.ContributingEquipmentSequence[0].ContributionDescription

    highest, other = report_in(files["report"], tmp_path).get_planar_roi_measurement_groups()
    for group, peak, corners, pixels in (
        (highest, 0.9, (7, 6, 10, 9), 9),
        (other, 0.6, (2, 2, 5, 4), 6),
    ):
        outline = group.roi
        assert (*outline.value.min(0), *outline.value.max(0)) == corners
        assert np.array_equal(outline.value[0], outline.value[-1])
        region = outline.ContentSequence[0].ReferencedSOPSequence[0]
        assert region.ReferencedSOPInstanceUID == header.SOPInstanceUID
        measured = {item.name.meaning: item for item in group.get_measurements()}
        assert measured["Peak Value Within ROI"].value == pytest.approx(peak)
        area = measured["Area"]
        assert area.value == pytest.approx(pixels * (0.125 if spacing else 1))
        assert area.unit.value == ("mm2" if spacing else "{pixels}")


@pytest.mark.parametrize("fdr", [None, 0.3])
def test_the_report_of_a_scored_radiograph_says_what_the_table_says(
    fdr, pca_run, synthetic_folder, tmp_path
):
    (tmp_path / "in").mkdir()
    for number, kind in enumerate(("good", "defect")):
        pixels = read_image(min((synthetic_folder / "test" / kind).iterdir()))[0]
        made = radiograph(PatientID=f"P{number}", SeriesInstanceUID=f"1.2.3.{number}")
        made.Rows, made.Columns = pixels.shape
        made.PixelData = pixels.astype("<i2").tobytes()
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{number}"
        made.save_as(tmp_path / f"in/{kind}.dcm", enforce_file_format=True)

    how = {"fdr": fdr} if fdr else {"far": 0.1}
    how |= {"heatmaps": ["dicom", "png", "nifti"], "accept_different": True}
    result = anodetect.score(pca_run, [str(tmp_path / "in")], tmp_path / "s", **how)
    assert (result.scored, result.failed) == (2, 0)
    scored = directories.read(tmp_path / "s")
    assert "2 images have no file as nifti, which only volumes have" in scored.audit.caveats
    for row in scored.rows:
        stem = tmp_path / "s/heatmaps" / row.path
        content = hd.sr.srread(f"{stem}_report.dcm").content
        (whole,) = content.get_image_measurement_groups()
        measured = {item.name.meaning: item.value for item in whole.get_measurements()}
        assert measured["Anomaly score"] == pytest.approx(row.score)
        assert measured["p-value among normal images"] == pytest.approx(row.p_value)
        found = len(content.get_planar_roi_measurement_groups())
        if fdr:
            assert not found and "Score above which images are flagged" not in measured
        else:
            assert measured["Score above which images are flagged"] == pytest.approx(row.threshold)
            assert bool(found) == row.flagged == ("defect" in row.path)
        capture = pydicom.dcmread(f"{stem}_capture.dcm")
        with Image.open(f"{stem}_heatmap.png") as picture:
            assert np.array_equal(capture.pixel_array, np.asarray(picture))
        assert capture.PatientID == row.group


def test_an_image_that_is_not_dicom_has_no_files_of_dicom(tmp_path):
    assert write_image(tmp_path, None) == []
    assert not list(tmp_path.iterdir())


# -- What the source says --------------------------------------------------------------------------


@pytest.mark.parametrize("of", [of_volume, of_image])
@pytest.mark.parametrize("pseudonym", ["patient-x", ""])
def test_loss_and_side_are_carried_over(of, pseudonym, tmp_path):
    tags = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 12.5,
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    files = of(tmp_path, pseudonym=pseudonym, Laterality="L", **tags)
    for kind, dataset in files.items():
        checked(dataset, tmp_path)
        if kind != "report":
            assert {tag: dataset.get(tag) for tag in tags} == tags
    if "map" in files:
        shared = files["map"].SharedFunctionalGroupsSequence[0]
        assert shared.FrameAnatomySequence[0].FrameLaterality == "L"
        (segment, *_) = files["mask"].SegmentSequence
        (side,) = segment.AnatomicRegionSequence[0].AnatomicRegionModifierSequence
        assert (side.CodeValue, side.CodeMeaning) == ("7771000", "Left")
    else:
        assert files["picture"].Laterality == "L"
    other = of(tmp_path / "2", pseudonym=pseudonym)
    assert {each.get("LossyImageCompression", "00") for each in other.values()} == {"00"}
    assert not any(each.get("Laterality") for each in other.values())


def test_loss_in_one_slice_is_loss(tmp_path):
    def change(number, made):
        if number == 4:
            made.LossyImageCompression, made.LossyImageCompressionMethod = "01", "ISO_15444_1"

    files = of_volume(tmp_path, change=change)
    for kind in ("map", "mask"):
        assert files[kind].LossyImageCompression == "01"
        assert files[kind].LossyImageCompressionMethod == "ISO_15444_1"


def test_loss_that_only_the_way_of_storing_says_is_loss(tmp_path):
    header = radiograph()
    header.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    capture = by_kind(write_image(tmp_path, header))["picture"]
    assert capture.LossyImageCompression == "01"
    assert capture.LossyImageCompressionMethod == "ISO_10918_1"


@pytest.mark.parametrize("of", [of_volume, of_image])
@pytest.mark.parametrize("number", [None, 0, 3, 4001, 123456789])
def test_series_have_numbers_of_their_own_above_the_sources(of, number, tmp_path):
    files = of(tmp_path, **({} if number is None else {"SeriesNumber": number}))
    numbers = [int(dataset.SeriesNumber) for dataset in files.values()]
    assert len(set(numbers)) == len(files)
    assert len({dataset.SeriesInstanceUID for dataset in files.values()}) == len(files)
    assert min(numbers) > (number or 0)
    assert max(numbers) < 2**31


PATIENT = {
    "PatientID": "TAGGED-4711",
    "IssuerOfPatientID": "TAGGED-ISSUER",
    "PatientAge": "057Y",
    "StudyDescription": "Tagged study",
    "AccessionNumber": "TAGGEDACC",
    "StudyDate": "20190807",
    "PatientIdentityRemoved": "NO",
}


@pytest.mark.parametrize("of", [of_volume, of_image])
def test_all_files_say_the_same_of_patient_and_study(of, tmp_path):
    kept = of(tmp_path, pseudonym="", **PATIENT)
    for dataset in kept.values():
        assert {tag: dataset.get(tag) for tag in PATIENT} == PATIENT
        assert dataset.PatientName == SECRETS["PatientName"]
        assert dataset.StudyInstanceUID == "1.2.3"
    named = of(tmp_path / "2", BurnedInAnnotation="NO", **PATIENT)
    for dataset in named.values():
        checked(dataset, tmp_path)
        assert (dataset.PatientID, str(dataset.PatientName)) == ("patient-x", "patient-x^")
        assert "TAGGED" not in str(dataset).upper()
        assert not dataset.StudyDate and "PatientAge" not in dataset
        assert dataset.PatientIdentityRemoved == "YES"
        assert "places and UIDs" in dataset.DeidentificationMethod
        codes = [item.CodeValue for item in dataset.DeidentificationMethodCodeSequence]
        assert codes == ["113100", "113110"]


@pytest.mark.parametrize(("burned_in", "removed"), [(None, "NO"), ("YES", "NO"), ("NO", "YES")])
def test_a_capture_is_called_de_identified_only_if_its_pixels_hold_no_text(
    burned_in, removed, tmp_path
):
    tags = {} if burned_in is None else {"BurnedInAnnotation": burned_in}
    files = of_image(tmp_path, **tags)
    assert files["picture"].PatientIdentityRemoved == removed
    assert ("DeidentificationMethod" in files["picture"]) == (removed == "YES")
    assert files["picture"].get("BurnedInAnnotation") == burned_in
    assert files["report"].PatientIdentityRemoved == "YES"


def test_a_header_that_lacks_something_is_named_without_its_values(tmp_path, monkeypatch):
    header = radiograph()
    del header.StudyInstanceUID
    with pytest.raises(RunError, match=r"^its header lacks StudyInstanceUID$"):
        write_image(tmp_path, header)

    def refuses(*parts):
        raise ValueError("TAGGED^Jane is no number")

    monkeypatch.setattr(files, "secondary_capture", refuses)
    with pytest.raises(RunError, match=r"^its header is not as DICOM has it \(ValueError\)$"):
        write_image(tmp_path, radiograph())


def test_files_of_a_format_that_fails_half_way_are_removed(tmp_path, monkeypatch):
    real = Dataset.save_as

    def save_as(dataset, file, **how):
        if dataset.Modality == "SR":
            raise ValueError("as a library might")
        real(dataset, file, **how)

    monkeypatch.setattr(Dataset, "save_as", save_as)
    with pytest.raises(ValueError, match="might"):
        write_image(tmp_path, radiograph())
    assert not list(tmp_path.iterdir())


# -- Readers ---------------------------------------------------------------------------------------


def world(affine, count):
    """The places of all voxels [n, 3] of a grid, for an affine from an index to RAS+."""
    index = np.stack(np.meshgrid(*map(np.arange, count), indexing="ij"), -1).reshape(-1, 3)
    return nib.affines.apply_affine(affine, index)


def test_highdicom_reads_the_values_and_places_of_the_nifti_map(tmp_path):
    of_volume(tmp_path, formats=("dicom", "nifti"))
    expected = nib.load(tmp_path / "a_heatmap.nii")
    volume = hd.imread(tmp_path / "a_heatmap.dcm").get_volume()
    places = world(np.diag([-1, -1, 1, 1]) @ volume.affine, volume.array.shape)
    index = nib.affines.apply_affine(np.linalg.inv(expected.affine), places)
    assert np.abs(index - index.round()).max() < 1e-3
    values = np.asarray(expected.dataobj)[tuple(index.round().astype(int).T)]
    assert np.array_equal(volume.array.ravel(), np.nan_to_num(values, nan=-1))


def test_simpleitk_reads_by_way_of_dcmqi_what_it_reads_of_the_nifti_map(tmp_path):
    """Its own reader of DICOM (GDCM) knows no pixels of floats. Values are those of nibabel, since
    ITK reads NaN in a NIfTI as 0."""
    sitk = pytest.importorskip("SimpleITK")
    reader = Path(sys.executable).parent / "paramap2itkimage"
    if not reader.exists():
        pytest.skip("dcmqi is not installed")
    of_volume(tmp_path, formats=("dicom", "nifti"))
    command = [str(reader), "--inputDICOM", str(tmp_path / "a_heatmap.dcm")]
    subprocess.run([*command, "--outputDirectory", str(tmp_path)], check=True, capture_output=True)
    (file,) = tmp_path.glob("*.nrrd")
    found, expected = sitk.ReadImage(str(file)), sitk.ReadImage(str(tmp_path / "a_heatmap.nii"))
    assert sorted(found.GetSize()) == sorted(expected.GetSize())
    values = np.nan_to_num(np.asarray(nib.load(tmp_path / "a_heatmap.nii").dataobj), nan=-1)
    for index in np.ndindex(*found.GetSize()):
        place = found.TransformIndexToPhysicalPoint(index)
        there = np.array(expected.TransformPhysicalPointToContinuousIndex(place))
        assert np.abs(there - there.round()).max() < 0.01
        assert values[tuple(there.round().astype(int))] == found[index]


def test_simpleitk_reads_a_capture(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    capture = of_image(tmp_path)["picture"]
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a_capture.dcm")))
    assert np.array_equal(found.reshape(capture.pixel_array.shape), capture.pixel_array)


def test_a_segmentation_has_a_bit_for_each_pixel(tmp_path):
    segmentation = of_volume(tmp_path, NOT_FLAGGED)["mask"]
    count = segmentation.NumberOfFrames * segmentation.Rows * segmentation.Columns
    assert (segmentation.BitsAllocated, segmentation.SegmentationType) == (1, "BINARY")
    assert len(segmentation.PixelData) <= -(-count // 8) + 1


def test_a_multiframe_source_has_one_report_that_refers_to_its_frames(tmp_path):
    (tmp_path / "s").mkdir()
    made = multiframe(voxels(), range(9))
    made.SeriesNumber = 5
    made.save_as(tmp_path / "s/a.dcm", enforce_file_format=True)
    volume = read(tmp_path / "s").volume
    about = About("patient-x", MODEL, FLAGGED)
    heatmap = heatmap_of(volume.geometry.sides)
    shown = VolumeMap(heatmap, volume, (0, 1), pixel_rule(0.5), about=about)
    files = by_kind(write_files(tmp_path / "a", ["dicom"], "volume", shown))
    checked(files["report"], tmp_path)
    assert {int(dataset.SeriesNumber) for dataset in files.values()} == {501, 502, 503}
    evidence = files["report"].CurrentRequestedProcedureEvidenceSequence[0]
    named = [
        item.ReferencedSOPInstanceUID
        for series in evidence.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert named.count(made.SOPInstanceUID) == 1


@pytest.mark.parametrize("named", [None, ""])
def test_a_series_without_a_frame_of_reference_gets_one_that_its_maps_share(tmp_path, named):
    found = of_volume(tmp_path / "a", FrameOfReferenceUID=named)
    spaces = {found[kind].FrameOfReferenceUID for kind in ("map", "mask")}
    again = of_volume(tmp_path / "b", FrameOfReferenceUID=named)["map"].FrameOfReferenceUID
    assert spaces == {again} and again.is_valid
    uids = ("1.2.3", "1.2.3.77", named)
    other = of_volume(tmp_path / "c", uids=uids, FrameOfReferenceUID=named)["map"]
    assert other.FrameOfReferenceUID not in spaces
    for dataset in found.values():
        checked(dataset, tmp_path)

    usual = of_volume(tmp_path / "d")["map"]
    assert usual.FrameOfReferenceUID == "1.2.3.5"
    places = []
    for dataset in (found["map"], usual):
        groups = dataset.PerFrameFunctionalGroupsSequence
        places.append([each.PlanePositionSequence[0].ImagePositionPatient for each in groups])
    assert places[0] == places[1]
