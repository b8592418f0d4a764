"""DICOM files of many frames that are no slices of a volume: with `--frames` each is an image."""

import io
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    EnhancedXAImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    UltrasoundMultiFrameImageStorage,
    XRayAngiographicImageStorage,
)
from test_dicom import instance, own_key
from test_dicom_objects import FLAGGED, NOT_FLAGGED, by_kind, checked, report_in

import anodetect
from anodetect.cli import main
from anodetect.commands.inspect import inspect
from anodetect.commands.rescore import rescore
from anodetect.data.reading import Reading
from anodetect.data.records import Record
from anodetect.errors import ConfigError
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.model.loading import Failed, LoadedVolume, load, slice_image, slice_records
from anodetect.output.about import About
from anodetect.output.formats import write_files
from anodetect.output.pictures import overlay
from anodetect.output.volumes import VolumeMap
from anodetect.record import directories, runs
from anodetect.stats.mask_rule import pixel_rule

assert own_key  # a fixture for all tests of this module
RNG = np.random.default_rng(0)
COUNT, ROWS, COLUMNS = 6, 32, 40
NO_PLACE = dict.fromkeys(
    ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
)
FRAMES = Preprocess(PreprocessConfig(frames=True))


def cine(stored, modality, storage, **tags):
    """A file of frames [F, R, C] or [F, R, C, 3] without a place in the patient."""
    given = NO_PLACE | tags
    made = instance(stored[0].reshape(*stored.shape[1:3], -1)[..., 0], Modality=modality, **given)
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = storage
    made.NumberOfFrames, made.PixelData = len(stored), stored.tobytes()
    if stored.ndim == 4:
        made.SamplesPerPixel, made.PlanarConfiguration = 3, 0
        made.PhotometricInterpretation = tags.get("PhotometricInterpretation", "RGB")
    return made


def grey(dtype="u1"):
    return RNG.integers(0, 200, (COUNT, ROWS, COLUMNS)).astype(dtype)


def angiography():
    return cine(grey(), "XA", XRayAngiographicImageStorage), None


def ultrasound():
    stored = RNG.integers(0, 255, (COUNT, ROWS, COLUMNS, 3)).astype("u1")
    return cine(stored, "US", UltrasoundMultiFrameImageStorage), stored


def nuclear():
    stored = grey("<u2")
    made = cine(stored, "NM", NuclearMedicineImageStorage, PixelSpacing=[2, 3])
    detector = Dataset()
    detector.ImagePositionPatient = [0, 0, 0]
    detector.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    made.DetectorInformationSequence = Sequence([detector])
    return made, stored


def captured():
    storage = MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    return cine(grey(), "OT", storage), None


def enhanced_angiography():
    """Frames with functional groups, none of which says where they lie."""
    stored = grey("<u2")
    made = cine(stored, "XA", EnhancedXAImageStorage)
    made.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    made.PerFrameFunctionalGroupsSequence = Sequence([Dataset() for _ in range(COUNT)])
    return made, stored


def oct_with_places():
    """Sections around an axis, of which each has a plane of its own."""
    stored = grey()
    made = cine(stored, "OPT", "1.2.840.10008.5.1.4.1.1.77.1.5.4")
    made.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    groups = []
    for number in range(COUNT):
        angle = np.pi * number / COUNT
        group, position, orientation, measures = (Dataset() for _ in range(4))
        position.ImagePositionPatient = [0, 0, 0]
        orientation.ImageOrientationPatient = [
            *(f"{value:.8f}" for value in (np.cos(angle), np.sin(angle), 0)), 0, 0, 1,
        ]  # fmt: skip
        measures.PixelSpacing, measures.SliceThickness = [0.01, 0.01], 0.01
        group.PlanePositionSequence = Sequence([position])
        group.PlaneOrientationSequence = Sequence([orientation])
        group.PixelMeasuresSequence = Sequence([measures])
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return made, stored


MADE = {
    each.__name__: each
    for each in (
        angiography, ultrasound, nuclear, captured, enhanced_angiography, oct_with_places,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_frames_are_refused_unless_they_are_asked_for(tmp_path, name):
    made, stored = MADE[name]()
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    record = Record("a.dcm", tmp_path / "a.dcm", files=(tmp_path / "a.dcm",))
    failed = load(record)
    assert isinstance(failed, Failed)
    assert "--frames" in failed.error

    loaded = load(record, FRAMES)
    assert isinstance(loaded, LoadedVolume), loaded.error
    expected = np.frombuffer(made.PixelData, made.pixel_array.dtype) if stored is None else stored
    expected = expected.reshape(COUNT, ROWS, COLUMNS, -1)
    for number, part in enumerate(slice_records(loaded)):
        image = slice_image(loaded, part, None)
        assert image.cut_from is None
        assert np.array_equal(image.image, np.moveaxis(expected[number], -1, 0))
    assert number == COUNT - 1
    spacing = (2.0, 3.0) if name == "nuclear" else (1.0, 1.0)
    assert loaded.volume.geometry.spacing[1:] == spacing


def ybr_to_rgb(ybr):
    """PS3.3, C.7.6.3.1.2: full range."""
    y, blue, red = np.moveaxis(ybr.astype(np.float64), -1, 0)
    rgb = [
        y + 1.402 * (red - 128),
        y - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
        y + 1.772 * (blue - 128),
    ]
    return np.clip(np.stack(rgb, -1), 0, 255)


@pytest.mark.parametrize("kind", ["YBR_FULL", "YBR_FULL_422", "planes", "PALETTE COLOR", "grey"])
def test_colours_of_frames_are_those_that_are_shown(tmp_path, kind):
    stored = RNG.integers(0, 255, (COUNT, ROWS, COLUMNS, 3)).astype("u1")
    stored[:, :, 1::2, 1:] = stored[:, :, ::2, 1:]  # two pixels have one colour in 4:2:2
    made = cine(stored, "US", UltrasoundMultiFrameImageStorage)
    expected = ybr_to_rgb(stored)
    if kind == "YBR_FULL_422":
        pairs = (
            stored[:, :, ::2, 0],
            stored[:, :, 1::2, 0],
            stored[:, :, ::2, 1],
            stored[:, :, ::2, 2],
        )
        made.PixelData = np.stack(pairs, -1).tobytes()
    if kind.startswith("YBR"):
        made.PhotometricInterpretation = kind
    if kind == "planes":
        made.PixelData = np.ascontiguousarray(np.moveaxis(stored, -1, 1)).tobytes()
        made.PlanarConfiguration, expected = 1, stored
    if kind == "PALETTE COLOR":
        made = cine(stored[..., 0], "US", UltrasoundMultiFrameImageStorage)
        made.PhotometricInterpretation = kind
        table = RNG.integers(0, 256, (256, 3))
        for colour, values in zip(("Red", "Green", "Blue"), table.T, strict=True):
            setattr(made, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
            data = (values * 257).astype("<u2").tobytes()
            setattr(made, f"{colour}PaletteColorLookupTableData", data)
        expected = table[stored[..., 0]] * 257
    if kind == "grey":
        made = cine(stored[..., 0], "XA", XRayAngiographicImageStorage)
        made.PhotometricInterpretation = "MONOCHROME1"
        expected = 255 - stored[..., :1].astype(np.int64)

    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    loaded = load(Record("a", tmp_path / "a.dcm", files=(tmp_path / "a.dcm",)), FRAMES)
    found = np.moveaxis(loaded.volume.slices, 0, -1)
    assert np.abs(found - expected).max() <= 1  # a colour is rounded to whole numbers


def test_colours_of_compressed_frames_are_those_that_pillow_shows(tmp_path):
    stored = np.zeros((COUNT, ROWS, COLUMNS, 3), np.uint8)
    stored[..., 0] = np.linspace(20, 230, COLUMNS)
    stored[..., 1] = np.linspace(200, 10, ROWS)[:, None]
    stored[:, :, :, 2] = 30 * np.arange(COUNT)[:, None, None]
    parts, expected = [], []
    for frame in stored:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "jpeg", quality=90, subsampling="4:2:2")
        parts.append(buffer.getvalue())
        with Image.open(buffer) as picture:
            expected.append(np.asarray(picture))

    made = cine(stored, "US", UltrasoundMultiFrameImageStorage)
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made.PhotometricInterpretation = "YBR_FULL_422"
    made.PixelData = encapsulate(parts)
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    loaded = load(Record("a", tmp_path / "a.dcm", files=(tmp_path / "a.dcm",)), FRAMES)
    assert isinstance(loaded, LoadedVolume), loaded.error
    found = np.moveaxis(loaded.volume.slices, 0, -1)
    assert np.abs(found - np.stack(expected)).max() <= 2
    assert np.abs(found - stored).max() < 60  # and not blue and red for luminance


def test_slices_of_a_volume_stay_a_volume(tmp_path):
    made = cine(grey(), "MR", "1.2.840.10008.5.1.4.1.1.4.1")
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    failed = load(Record("a", tmp_path / "a.dcm", files=(tmp_path / "a.dcm",)), FRAMES)
    assert "no place in the patient" in failed.error


# -- A run on frames -------------------------------------------------------------------------------


def vessel(seed, lesion=None):
    """Frames of one patient: a band that moves; a `lesion` is a bright square in that frame."""
    rng = np.random.default_rng(seed)
    stored = rng.normal(60, 3, (COUNT, ROWS, COLUMNS))
    for number in range(COUNT):
        stored[number, 10 + number : 14 + number] += 60
    if lesion is not None:
        stored[lesion, 22:28, 24:30] += 120
    return np.clip(np.round(stored), 0, 255).astype("u1")


def write(folder, name, seed, lesion=None, **tags):
    folder.mkdir(parents=True, exist_ok=True)
    uids = ("1.2.9", f"1.2.9.{seed + 1}", "1.2.10")
    stored = vessel(seed, lesion)
    made = cine(stored, "XA", XRayAngiographicImageStorage, uids=uids, PatientID=f"P{seed}", **tags)
    made.save_as(folder / name, enforce_file_format=True)
    return stored


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of new files, run trained on frames)"""
    base = tmp_path_factory.mktemp("frames")
    for seed in range(10):
        write(base / "normal", f"{seed}.dcm", seed)
    write(base / "new", "clear.dcm", 50)
    write(base / "new", "ill.dcm", 51, lesion=4)
    single = vessel(51, lesion=4)[4]
    one = instance(single, uids=("1.2.9", "1.2.9.99", "1.2.10"), Modality="XA", **NO_PLACE)
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = XRayAngiographicImageStorage
    one.save_as(base / "new/one.dcm", enforce_file_format=True)
    values = {"size": 32, "preprocess": {"frames": True}}
    anodetect.train(str(base / "normal"), "pca", base / "run", values=values)
    return base / "new", base / "run"


@pytest.fixture(scope="module")
def scored(made, tmp_path_factory):
    new, run = made
    out = tmp_path_factory.mktemp("scored") / "s"
    anodetect.score(run, [str(new)], out, heatmaps=["nifti", "png", "mask", "tiff"], workers=1)
    return directories.read(out)


def test_a_run_remembers_that_frames_are_images(made, scored):
    _, run = made
    assert runs.read(run).header.config["preprocess"]["frames"] is True
    rows = {row.path: row for row in scored.each()}
    assert rows["clear.dcm"].depth == COUNT
    assert rows["ill.dcm"].score > rows["clear.dcm"].score
    slices = {
        each.slice: each for each in directories.read_slices(scored.path) if each.path == "ill.dcm"
    }
    assert sorted(slices) == list(range(COUNT))
    assert max(slices, key=lambda number: slices[number].score) == 4
    assert {each.axis for each in slices.values()} == {"frames"}


def test_a_frame_has_the_score_of_the_same_image_in_a_file_of_its_own(scored):
    rows = {row.path: row for row in scored.each()}
    (frame,) = [
        each
        for each in directories.read_slices(scored.path)
        if each.path == "ill.dcm" and each.slice == 4
    ]
    assert rows["one.dcm"].depth is None
    assert rows["one.dcm"].score == pytest.approx(frame.score, rel=1e-5)


def test_the_map_has_the_frames_of_the_file_and_claims_no_place(scored):
    rows = {row.path: row for row in scored.each()}
    file = nib.load(scored.path / rows["ill.dcm"].heatmap)
    assert file.shape == (COUNT, ROWS, COLUMNS)
    assert (file.header["qform_code"], file.header["sform_code"]) == (0, 0)
    values = np.asarray(file.dataobj)
    number, row, column = np.unravel_index(values.argmax(), values.shape)
    assert number == 4
    assert 20 <= row < 30
    assert 22 <= column < 32
    with Image.open(next(scored.path.glob("heatmaps/*ill*_heatmap.png"))) as picture:
        assert picture.width < 300  # one frame, not three planes
    assert rescore(scored.path, 3) == []


def test_dicom_files_refer_to_the_most_anomalous_frame(made, tmp_path):
    pytest.importorskip("highdicom")
    new, run = made
    out = tmp_path / "s"
    anodetect.score(run, [str(new / "ill.dcm")], out, heatmaps=["dicom"], workers=1)
    (row,) = directories.read(out).each()
    assert not row.error
    capture = pydicom.dcmread(next(out.glob("heatmaps/*_capture.dcm")))
    report = pydicom.dcmread(next(out.glob("heatmaps/*_report.dcm")))
    source = pydicom.dcmread(new / "ill.dcm")
    (image,) = capture.SourceImageSequence
    assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert image.ReferencedFrameNumber == 5
    assert capture.pixel_array.shape == (ROWS, COLUMNS, 3)
    assert report.Modality == "SR"
    evidence = str(report.CurrentRequestedProcedureEvidenceSequence)
    assert source.SOPInstanceUID in evidence
    assert "Frame Number" not in evidence


@pytest.mark.parametrize("decision", [FLAGGED, NOT_FLAGGED])
@pytest.mark.parametrize("pseudonym", ["patient-x", ""])
def test_dicom_files_show_every_frame_with_a_finding(tmp_path, decision, pseudonym):
    pytest.importorskip("highdicom")
    write(tmp_path, "a.dcm", 3, SeriesNumber=4)
    path = tmp_path / "a.dcm"
    prepared = load(Record("a", path, files=(path,)), FRAMES).volume
    heatmap = np.full((COUNT, ROWS, COLUMNS), 0.1, np.float32)
    heatmap[1, 4:8, 5:9], heatmap[4, 20:24, 30:35], heatmap[4, 2:5, 2:6] = 0.7, 0.9, 0.6
    shown = VolumeMap(
        heatmap, prepared, (0, 1), pixel_rule(0.5), about=About(pseudonym, "0" * 64, decision)
    )
    files = by_kind(write_files(tmp_path / "m", ["dicom"], "volume", shown))
    for dataset in files.values():
        checked(dataset, tmp_path)
    assert {int(dataset.SeriesNumber) for dataset in files.values()} == {403, 404}

    capture, source = files["picture"], pydicom.dcmread(path)
    (image,) = capture.SourceImageSequence
    assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
    report = report_in(files["report"], tmp_path)
    outlines = [item for item in everything(report) if item.get("ValueType") == "SCOORD"]
    if decision is NOT_FLAGGED:
        assert image.ReferencedFrameNumber == 5
        assert capture.pixel_array.shape == (ROWS, COLUMNS, 3)
        assert not outlines
        return

    assert image.ReferencedFrameNumber == capture.PageNumberVector == [2, 5]
    for shown_frame, number in zip(capture.pixel_array, (1, 4), strict=True):
        expected = overlay(prepared.slices[:, number], heatmap[number], (0, 1), None)
        assert np.array_equal(shown_frame, expected)
    found = []
    for outline in outlines:
        (referenced,) = outline.ContentSequence[0].ReferencedSOPSequence
        assert referenced.ReferencedSOPInstanceUID == source.SOPInstanceUID
        column, row = np.reshape(outline.GraphicData, (-1, 2)).min(0)
        found.append((referenced.ReferencedFrameNumber, round(row), round(column)))
    assert found == [(5, 20, 30), (2, 4, 5), (5, 2, 2)]  # the strongest first


def everything(items):
    """Yield all items of a report's content."""
    for item in items:
        yield item
        yield from everything(item.get("ContentSequence") or ())


# -- Tomograms of nuclear medicine -----------------------------------------------------------------


def tomogram(stored, spacing, vector=None, times=None):
    """A reconstructed tomogram, whose detector has the place of its first slice."""
    made = cine(stored, "NM", NuclearMedicineImageStorage, PixelSpacing=[2, 3])
    made.ImageType = ["ORIGINAL", "PRIMARY", "RECON GATED TOMO" if times else "RECON TOMO"]
    made.SliceThickness, made.SpacingBetweenSlices = 5, spacing
    made.SliceVector = vector or [number + 1 for number in range(len(stored))]
    if times:
        made.TimeSlotVector = times
    detector = Dataset()
    detector.ImagePositionPatient = [-30, 20, 7]
    detector.ImageOrientationPatient = [1, 0, 0, 0, 0.6, 0.8]
    made.DetectorInformationSequence = Sequence([detector])
    return made


@pytest.mark.parametrize("spacing", [4.0, -4.0])
def test_a_tomogram_of_nuclear_medicine_is_the_volume_that_itk_reads(tmp_path, spacing):
    stored = grey("<u2")
    made = tomogram(stored, spacing)
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    record = Record("a", tmp_path / "a.dcm", files=(tmp_path / "a.dcm",))
    source = load(record).volume.source
    normal = np.cross([1, 0, 0], [0, 0.6, 0.8])
    for number in range(COUNT):
        (index,) = np.argwhere([np.array_equal(each, stored[number]) for each in source.voxels[0]])
        place = source.affine @ (index[0], 0, 0, 1)
        assert np.allclose(place[:3], [-30, 20, 7] + number * spacing * normal, atol=1e-4)
    if spacing > 0:
        image = SimpleITK.ReadImage(str(tmp_path / "a.dcm"))
        for index in ((0, 0, 0), (3, 4, 5)):
            place = source.affine @ (*index[::-1], 1)
            assert np.allclose(image.TransformIndexToPhysicalPoint(index), place[:3], atol=1e-4)

    pictures = load(record, FRAMES).volume
    assert pictures.is_pictures  # if that was asked for


def test_a_gated_tomogram_has_times_and_one_without_a_place_is_refused(tmp_path):
    stored = grey("<u2")
    made = tomogram(stored, 4.0, vector=[1, 2, 3, 1, 2, 3], times=[1, 1, 1, 2, 2, 2])
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    record = Record("a", tmp_path / "a.dcm", files=(tmp_path / "a.dcm",))
    assert "'time 1', 'time 2'" in load(record).error
    second = load(replace(record, component="time 2")).volume.source
    assert np.array_equal(second.voxels[0], stored[3:])
    del made.DetectorInformationSequence[0].ImagePositionPatient
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "frames without a place in the patient" in load(record).error


def test_maps_of_a_tomogram_refer_to_its_frames(tmp_path):
    pytest.importorskip("highdicom")
    made = tomogram(grey("<u2"), -4.0)
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    prepared = load(Record("a", tmp_path / "a.dcm", files=(tmp_path / "a.dcm",))).volume
    heatmap = RNG.uniform(0, 1, prepared.geometry.sides).astype(np.float32)
    about = About("patient-x", "0" * 64, FLAGGED)
    shown = VolumeMap(heatmap, prepared, (0, 1), pixel_rule(0.99), about=about)
    files = by_kind(write_files(tmp_path / "m", ["dicom"], "volume", shown))
    for dataset in files.values():
        checked(dataset, tmp_path)
    values = prepared.geometry.to_source(heatmap)
    frames = zip(
        files["map"].pixel_array, files["map"].PerFrameFunctionalGroupsSequence, strict=True
    )
    for frame, group in frames:
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        index = np.linalg.inv(prepared.source.affine) @ (*place, 1)
        assert np.array_equal(frame, values[round(index[0])])
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        assert image.ReferencedSOPInstanceUID == made.SOPInstanceUID
        number = image.ReferencedFrameNumber
        assert np.array_equal(
            prepared.source.voxels[0, round(index[0])], made.pixel_array[number - 1]
        )


def files_of_frames(folder, made):
    """A map of the frames of a file as images, and the DICOM files of it."""
    path = folder / "a.dcm"
    made.save_as(path, enforce_file_format=True)
    prepared = load(Record("a", path, files=(path,)), FRAMES).volume
    assert prepared.is_pictures
    heatmap = RNG.uniform(0, 1, prepared.geometry.sides).astype(np.float32)
    about = About("patient-x", "0" * 64, NOT_FLAGGED)
    shown = VolumeMap(heatmap, prepared, (0, 1), pixel_rule(0.99), about=about)
    return heatmap, by_kind(write_files(folder / "m", ["dicom"], "volume", shown))


@pytest.mark.parametrize("spacing", [4.0, -4.0])
def test_frames_that_have_places_have_a_parametric_map_too(tmp_path, spacing):
    pytest.importorskip("highdicom")
    made = tomogram(grey("<u2"), spacing, vector=[3, 1, 2, 6, 5, 4])
    heatmap, files = files_of_frames(tmp_path, made)
    assert set(files) == {"map", "picture", "report"}
    for dataset in files.values():
        checked(dataset, tmp_path)
    found = files["map"]
    assert found.FrameOfReferenceUID == made.FrameOfReferenceUID
    groups, across = found.PerFrameFunctionalGroupsSequence, np.array([0, -0.8, 0.6])
    for frame, group in zip(found.pixel_array, groups, strict=True):
        (image,) = group.DerivationImageSequence[0].SourceImageSequence
        assert image.ReferencedSOPInstanceUID == made.SOPInstanceUID
        number = image.ReferencedFrameNumber - 1
        assert np.array_equal(frame, heatmap[number])
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        expected = (-30, 20, 7) + (made.SliceVector[number] - 1) * spacing * across
        assert np.allclose(place, expected)


@pytest.mark.parametrize(
    ("vector", "times"), [([1, 2, 3] * 2, [1, 1, 1, 2, 2, 2]), ([1, 2, 3, 4, 5, 5], None)]
)
def test_frames_at_the_same_places_have_no_parametric_map(tmp_path, vector, times):
    pytest.importorskip("highdicom")
    made = tomogram(grey("<u2"), 4.0, vector=vector, times=times)
    _, files = files_of_frames(tmp_path, made)
    assert set(files) == {"picture", "report"}


def test_a_region_of_interest_masks_frames(made, tmp_path):
    new, run = made
    inside = np.ones((ROWS, COLUMNS), bool)
    inside[:, 20:] = False
    Image.fromarray(inside).save(tmp_path / "roi.png")
    out = tmp_path / "s"
    anodetect.score(run, [str(new)], out, roi=tmp_path / "roi.png", workers=1)
    rows = {row.path: row for row in directories.read(out).each()}
    values = np.asarray(nib.load(out / rows["ill.dcm"].heatmap).dataobj)
    assert np.array_equal(np.isnan(values), np.broadcast_to(~inside, values.shape))


def test_what_a_folder_holds_is_looked_at_as_it_would_be_read(made, monkeypatch, capsys):
    new, _ = made
    (row,) = inspect(str(new)).rows
    assert "--frames" in row.problem
    (row,) = inspect(str(new), reading=Reading(frames=True)).rows
    assert not row.problem
    assert row.sizes == f"{COLUMNS}×{ROWS}"
    monkeypatch.setattr(
        "sys.argv", ["anodetect", "data", "inspect", str(new), "--frames", "--json"]
    )
    with pytest.raises(SystemExit):
        main()
    assert not json.loads(capsys.readouterr().out)["rows"][0]["problem"]


def test_frames_are_no_volume_in_three_dimensions(made, tmp_path):
    new, _ = made
    values = {"frames": True, "dims": 3}
    with pytest.raises(ConfigError, match="is for volumes"):
        anodetect.train(str(new), "anoddpm", tmp_path / "run", values=values)


def test_a_manifest_may_name_the_foreground_of_frames(tmp_path):
    stored = write(tmp_path, "a.dcm", 1, syntax=ExplicitVRLittleEndian)
    inside = np.zeros((ROWS, COLUMNS), bool)
    inside[4:30, 4:30] = True
    Image.fromarray(inside).save(tmp_path / "f.png")
    record = Record(
        "a", tmp_path / "a.dcm", files=(tmp_path / "a.dcm",), foreground=tmp_path / "f.png"
    )
    loaded = load(record, FRAMES)
    assert np.array_equal(loaded.volume.region.inside, inside)
    assert np.array_equal(loaded.volume.slices[0], stored)
