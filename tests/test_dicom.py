"""DICOM in and out: order, geometry, values, privacy, and bad input; written with pydicom, checked
by others."""

import gzip
import hmac
import re
import shutil
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import platformdirs
import pydicom
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from platformdirs import windows
from platformdirs.macos import MacOS
from platformdirs.unix import Unix
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SegmentationStorage,
    generate_uid,
)
from scipy import ndimage
from test_volumes import LESION, head, rotation, write_nifti

import anodetect
from anodetect.commands.normals import usable_normals
from anodetect.commands.rescore import rescore
from anodetect.data import dicom, dicom_codecs, dicom_head, pseudonyms, records, scan
from anodetect.data.records import Record, fills_memory
from anodetect.data.series import identified, record_of, series_of
from anodetect.data.walk import walk
from anodetect.errors import ConfigError, DataError
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.model.loading import Failed, LoadedImage, LoadedVolume, load
from anodetect.model.model import Model
from anodetect.model.read_ahead import read_ahead
from anodetect.output.dicom.findings import find_findings
from anodetect.output.formats import write_files
from anodetect.output.volumes import VolumeMap
from anodetect.record import directories, runs
from anodetect.record.runs import read as read_run
from anodetect.stats.mask_rule import pixel_rule
from anodetect.types import Silent

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:pydicom.*", "ignore::UserWarning:highdicom.*"
)
RNG = np.random.default_rng(0)
SECRETS = {
    "PatientName": "Tagged^Jane",
    "PatientID": "TAGGED-4711",
    "PatientBirthDate": "19610203",
    "PatientAddress": "Tagged Street 1",
    "OtherPatientIDs": "TAGGED-0815",
    "AccessionNumber": "TAGGEDACC",
    "ReferringPhysicianName": "Tagged^Doctor",
    "InstitutionName": "Tagged Hospital",
    "OperatorsName": "Tagged^Operator",
    "StudyDate": "20190807",
    "StudyTime": "112233",
    "StudyID": "TAGGEDSTUDY",
    "StudyDescription": "Tagged study",
    "SeriesDescription": "Tagged series",
    "PatientComments": "Tagged comment",
    "DeviceSerialNumber": "TAGGED-77",
}
AFFINE = np.eye(4)
AFFINE[:3, :3] = rotation([0.2, -0.1, 0.15]) @ np.array([[0, 0, 0.8], [0, 0.9, 0], [3.0, 0, 0]])
AFFINE[:3, 3] = [-20, -17, 30]


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory, monkeypatch):
    """A key for pseudonyms of the tests' own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


def instance(stored, affine=AFFINE, number=0, *, uids=None, syntax=ExplicitVRLittleEndian, **tags):
    """One slice [R, C] of a series whose index (slice, row, column) goes to LPS+ by `affine`."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID = CTImageStorage if tags.get("Modality") == "CT" else MRImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = uids or (
        "1.2.3",
        "1.2.3.4",
        "1.2.3.5",
    )
    made.Modality, made.PatientSex, made.ImageType = "MR", "F", ["ORIGINAL", "PRIMARY"]
    made.Rows, made.Columns = stored.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * stored.itemsize
    made.HighBit, made.PixelRepresentation = 8 * stored.itemsize - 1, int(stored.dtype.kind == "i")
    rows, columns = affine[:3, 1], affine[:3, 2]
    made.PixelSpacing = [f"{np.linalg.norm(rows):.8f}", f"{np.linalg.norm(columns):.8f}"]
    directions = [*(columns / np.linalg.norm(columns)), *(rows / np.linalg.norm(rows))]
    made.ImageOrientationPatient = [f"{value:.10f}" for value in directions]
    made.ImagePositionPatient = [f"{value:.8f}" for value in affine[:3, 3] + number * affine[:3, 0]]
    made.SliceThickness, made.InstanceNumber = 3, number + 1
    made.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    for name, value in (SECRETS | tags).items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def write_series(folder, voxels, order=None, change=lambda number, made: None, **tags):
    """A series [K, R, C], its files named in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in enumerate(range(len(voxels)) if order is None else order):
        made = instance(voxels[number], number=int(number), **tags)
        change(number, made)
        made.save_as(folder / f"IM{name:03}", enforce_file_format=True)
    return folder


def series(folder):
    (record,) = scan.scan(folder).records
    return record


def read(folder, **config):
    loaded = load(series(folder), Preprocess(PreprocessConfig(least_foreground=0, **config)))
    return loaded


def voxels(shape=(9, 12, 14), dtype=np.int16):
    low = -900 if np.dtype(dtype).kind == "i" else 0
    return RNG.integers(low, 250 if np.dtype(dtype).itemsize == 1 else 3000, shape).astype(dtype)


# -- Order and place -------------------------------------------------------------------------------


def test_slices_are_ordered_by_position_whatever_their_names_and_lie_where_they_say(tmp_path):
    array = voxels()
    straight = read(write_series(tmp_path / "a", array)).volume
    shuffled = read(write_series(tmp_path / "b", array, order=RNG.permutation(len(array)))).volume
    for volume in (straight, shuffled):
        assert np.array_equal(volume.source.voxels[0], array)
        assert np.allclose(volume.geometry.affine, AFFINE, atol=1e-6)
        assert np.allclose(
            volume.geometry.position(volume.geometry.inside((4, 5, 6))), (AFFINE @ (4, 5, 6, 1))[:3]
        )


def test_a_series_that_runs_the_other_way_is_the_same_volume(tmp_path):
    array = voxels()
    back = AFFINE.copy()
    back[:3, 0], back[:3, 3] = -AFFINE[:3, 0], (AFFINE @ (len(array) - 1, 0, 0, 1))[:3]
    (tmp_path / "a").mkdir()
    for number, stored in enumerate(array[::-1]):
        instance(stored, back, number).save_as(
            tmp_path / "a" / f"{number}.dcm", enforce_file_format=True
        )
    assert np.array_equal(read(tmp_path / "a").volume.source.voxels[0], array)


@settings(max_examples=15, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 5)] * 3),
    order=st.permutations(range(8)),
    backwards=st.booleans(),
    data=st.data(),
)
def test_a_marked_voxel_of_an_oblique_series_comes_back_at_its_place(
    tmp_path_factory, angles, spacing, order, backwards, data
):
    """Whatever the order of files and the direction they were acquired in: same value, same
    millimetres, as NIfTI."""
    affine = np.eye(4)
    affine[:3, :3] = (
        rotation(angles)
        @ np.eye(3)[:, [2, 1, 0]]
        @ np.diag([-1 if backwards else 1, 1, 1])
        @ np.diag(spacing)
    )
    affine[:3, 3] = [12.5, -40, 7]
    array = RNG.integers(0, 99, (8, 9, 10)).astype(np.int16)
    place = tuple(data.draw(st.integers(0, side - 1)) for side in array.shape)
    array[place] = 500
    contents = []
    for number in order:
        buffer = BytesIO()
        instance(array[number], affine, number).save_as(buffer, enforce_file_format=True)
        contents.append(buffer.getvalue())
    volume = Preprocess(PreprocessConfig(least_foreground=0)).prepare(
        dicom.decode(dicom.in_order(contents))
    )
    path = tmp_path_factory.mktemp("oblique") / "a.nii"
    write_nifti(path, volume.slices[0].copy(), volume, "copy")
    back = nib.load(path)
    (index,) = np.argwhere(np.asarray(back.dataobj) == 500)
    world = np.diag([-1, -1, 1, 1]) @ back.affine @ (*index, 1)
    assert np.allclose(world, affine @ (*place, 1), atol=1e-3)


def test_a_lone_slice_without_thickness_is_seen_as_it_was_taken(tmp_path):
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, 2], [0, 2, 0], [1, 0, 0]]
    instance(voxels((1, 24, 20))[0], affine, SliceThickness=None).save_as(
        tmp_path / "a.dcm", enforce_file_format=True
    )
    loaded = read(tmp_path)
    assert isinstance(loaded, LoadedVolume), loaded
    assert (loaded.volume.geometry.plane, loaded.volume.geometry.sides) == ("axial", (1, 24, 20))


@pytest.mark.parametrize("tilt", [0.0, 0.25])
def test_a_tilted_gantry_has_no_qform(tmp_path, tilt):
    """Which cannot say it; the sform does."""
    affine = AFFINE.copy()
    affine[:3, 0] += tilt * AFFINE[:3, 1]
    (tmp_path / "s").mkdir()
    for number, stored in enumerate(voxels()):
        instance(stored, affine, number).save_as(
            tmp_path / "s" / f"{number}.dcm", enforce_file_format=True
        )
    volume = read(tmp_path / "s").volume
    write_nifti(tmp_path / "a.nii", volume.slices[0].copy(), volume, "copy")
    found = nib.load(tmp_path / "a.nii")
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ found.get_sform(), affine, atol=1e-4)
    assert (found.header["sform_code"], found.header["qform_code"]) == (1, 0 if tilt else 1)
    assert np.allclose(found.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), atol=1e-4)


def test_a_real_scan_is_the_same_as_nifti_and_as_dicom(shared_data, tmp_path):
    path = shared_data / "lgg_volumes/lgg053_flair.nii.gz"
    other = load(Record(path.name, path)).volume
    array, affine = (
        other.source.voxels[0].transpose(2, 1, 0).astype(np.int16),
        other.source.affine[:, [2, 1, 0, 3]],
    )
    for name, number in enumerate(RNG.permutation(len(array))):
        instance(array[number], affine, int(number)).save_as(
            tmp_path / f"{name}.dcm", enforce_file_format=True
        )
    found = read(tmp_path).volume
    assert np.array_equal(found.slices, other.slices)
    assert np.array_equal(found.foreground, other.foreground)
    for place in ((0, 0, 0), (5, 100, 37)):
        assert np.allclose(
            found.geometry.position(place), other.geometry.position(place), atol=1e-4
        )


def test_series_in_one_folder_are_told_apart_and_patients_are_groups(tmp_path):
    write_series(tmp_path / "a", voxels())
    for number, made in enumerate(voxels()):
        other = instance(made, number=number, uids=("1.2.4", "1.2.4.4", "1.2.4.5"), PatientID="B")
        other.save_as(tmp_path / "a" / f"X{number}", enforce_file_format=True)
    one, other = scan.scan(tmp_path).records
    assert (one.id, len(one.files), other.id, len(other.files)) == ("a/IM000", 9, "a/X0", 9)
    assert one.group != other.group
    assert one.group.startswith("patient-")
    assert identified(other).group == "B"


def other_uids(number):
    return tuple(f"1.2.{number}.{last}" for last in (3, 4, 5))


def listed(folder, *names):
    (folder / "manifest.csv").write_text("\n".join(["path", *names]))
    return scan.scan(folder).records


def test_a_manifest_folder_of_two_series_is_refused(tmp_path):
    write_series(tmp_path / "a", voxels())
    instance(voxels()[0], uids=other_uids(9)).save_as(tmp_path / "a/Z0", enforce_file_format=True)
    with pytest.raises(
        DataError,
        match=r"line 2: the folder 'a' holds 2 DICOM series.*; name a file of one of them",
    ):
        listed(tmp_path, "a")
    assert [len(record.files) for record in listed(tmp_path, "a/IM003", "a/Z0")] == [9, 1]
    multiframe(voxels(), range(9)).save_as(tmp_path / "a/Z0", enforce_file_format=True)
    with pytest.raises(DataError, match="holds 2 DICOM series"):
        listed(tmp_path, "a")


def test_what_is_no_image_beside_a_listed_series_is_passed_over(tmp_path):
    write_series(tmp_path / "a", voxels())
    report = instance(
        voxels()[0], Rows=None, Columns=None, PixelData=None, ImagePositionPatient=None
    )
    report.save_as(tmp_path / "a/A", enforce_file_format=True)  # before the series by name
    mask = instance(voxels()[0], ImagePositionPatient=None)
    mask.SOPClassUID = mask.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    mask.save_as(tmp_path / "a/Z", enforce_file_format=True)
    (record,) = listed(tmp_path, "a")
    assert [file.name for file in record.files] == [f"IM{number:03}" for number in range(9)]
    remove(*range(9))(tmp_path / "a")
    assert "no pixels" in load(listed(tmp_path, "a")[0]).error


def test_hidden_files_and_links_out_of_the_folder_are_no_part_of_a_series(tmp_path):
    array = voxels()
    write_series(tmp_path / "in/a", array[:7])
    (tmp_path / "out").mkdir()
    for number, name in ((7, "in/a/.hidden.dcm"), (8, "out/x.dcm")):
        instance(array[number], number=number).save_as(tmp_path / name, enforce_file_format=True)
    (tmp_path / "in/a/x.dcm").symlink_to(tmp_path / "out/x.dcm")
    (walked,) = scan.scan(tmp_path / "in").records
    assert len(walked.files) == 7
    assert series_of(walked.path) == walked.files
    for name in ("a", "a/IM002"):
        assert set(listed(tmp_path / "in", name)[0].files) == set(walked.files)
    followed = scan.scan(tmp_path / "in", follow_symlinks=True).records[0].files
    assert len(followed) == 8


def test_headers_of_a_listed_folder_are_read_once(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    for number in range(12):
        made = instance(voxels()[0], uids=other_uids(number))
        made.save_as(tmp_path / f"a/{number:02}.dcm", enforce_file_format=True)
    read, real = [], dicom.headline
    monkeypatch.setattr(dicom, "headline", lambda path: read.append(path) or real(path))
    records = listed(tmp_path, *(f"a/{number:02}.dcm" for number in range(12)))
    assert [len(record.files) for record in records] == [1] * 12
    assert len(read) <= 3 * 12


def test_a_large_file_of_many_frames_waits_until_there_is_room(tmp_path, monkeypatch):
    """As a volume does, so that two are not in memory at once; an image of that size does not."""
    multiframe(voxels(), range(9)).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    instance(voxels()[0]).save_as(tmp_path / "b.dcm", enforce_file_format=True)
    several, single, gone = (
        Record(name, tmp_path / name, files=(tmp_path / name,)) for name in ("a.dcm", "b.dcm", "c")
    )
    assert not fills_memory(several)  # small as it is
    monkeypatch.setattr(records, "LARGE", 100)
    assert [fills_memory(record) for record in (several, single, gone)] == [
        True,
        False,
        False,
    ]
    assert not fills_memory(replace(several, slice=2))
    at_once, most = [], []

    def slowly(record):
        at_once.append(record)
        most.append(len(at_once))
        time.sleep(0.1)
        at_once.pop()
        return load(record)

    for loaded in read_ahead(slowly, [several] * 4):
        assert isinstance(loaded, LoadedVolume)
    assert max(most) == 1


def multiframe(array, order):
    """An enhanced MR image whose frames stand in another order than their places."""
    made = instance(array[0])
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    made.NumberOfFrames = len(array)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = made.PixelSpacing, 3
    orientation.ImageOrientationPatient = made.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = (
        Sequence([measures]),
        Sequence([orientation]),
    )
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for number in order:
        own, position, value = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = instance(array[0], number=int(number)).ImagePositionPatient
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = int(number) + 1, 0, "US"
        own.PlanePositionSequence, own.PixelValueTransformationSequence = (
            Sequence([position]),
            Sequence([value]),
        )
        groups.append(own)
    made.PerFrameFunctionalGroupsSequence = Sequence(groups)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(made, name)
    made.PixelData = array[order].astype("<i2").tobytes()
    return made


def test_frames_of_a_multiframe_image_are_ordered_and_scaled_one_by_one(tmp_path):
    array = voxels()
    multiframe(array, RNG.permutation(len(array))).save_as(
        tmp_path / "a.dcm", enforce_file_format=True
    )
    volume = read(tmp_path).volume
    assert np.array_equal(
        volume.source.voxels[0], array * (1 + np.arange(len(array)))[:, None, None]
    )
    assert np.allclose(volume.geometry.affine, AFFINE, atol=1e-6)


def private_places(made):
    """Give each frame a private group that holds a second place, spacing and scale, as some
    scanners do."""
    for group in made.PerFrameFunctionalGroupsSequence:
        private = Dataset()
        private.ImagePositionPatient, private.PixelSpacing = [7.0, 7.0, 7.0], [9.0, 9.0]
        private.ImageOrientationPatient = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        private.RescaleSlope, private.RescaleIntercept = 100, 100
        group.add_new(0x20050014, "LO", "Philips MR Imaging DD 005")
        group.add_new(0x2005140F, "SQ", Sequence([private]))


def measures_of_each_frame(made):
    """Let each frame repeat the measures and the orientation that all share."""
    shared = made.SharedFunctionalGroupsSequence[0]
    for group in made.PerFrameFunctionalGroupsSequence:
        group.PixelMeasuresSequence = shared.PixelMeasuresSequence
        group.PlaneOrientationSequence = shared.PlaneOrientationSequence
    made.SharedFunctionalGroupsSequence = Sequence([Dataset()])


def without_shared_groups(made):
    measures_of_each_frame(made)
    del made.SharedFunctionalGroupsSequence


@pytest.mark.parametrize("change", [private_places, measures_of_each_frame, without_shared_groups])
def test_the_place_and_values_of_frames_are_those_of_their_macros(tmp_path, change):
    array = voxels()
    made = multiframe(array, RNG.permutation(len(array)))
    change(made)
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    volume = read(tmp_path).volume
    assert np.allclose(volume.geometry.affine, AFFINE, atol=1e-6)
    expected = array * (1 + np.arange(len(array)))[:, None, None]
    assert np.array_equal(volume.source.voxels[0], expected)


@pytest.mark.parametrize(("spacing", "digits"), [(0.625, 1), (4.4, 0), (0.11, 2)])
def test_positions_may_be_rounded(tmp_path, spacing, digits):
    array = voxels()

    def change(number, made):
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.ImagePositionPatient = [0, 0, round(number * spacing, digits)]

    write_series(tmp_path / "s", array, change=change)
    volume = read(tmp_path).volume
    assert np.array_equal(volume.source.voxels[0], array)
    step = np.linalg.norm(volume.source.affine[:3, 0])
    assert step == pytest.approx(spacing, abs=10.0**-digits / 8)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([0, 1, 2, 3, 5, 6, 7, 8, 9], "jumps from 1 to 2 mm between 3.0 and 5.0 mm"),
        ([0, 2, 4, 6, 8, 9, 10, 11, 12], "slices lie 1 to 2 mm apart"),
    ],
)
def test_rounding_does_not_hide_uneven_slices(tmp_path, places, said):
    def change(number, made):
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.ImagePositionPatient = [0, 0, places[number]]

    write_series(tmp_path / "s", voxels(), change=change)
    assert said in read(tmp_path).volume.source.unevenness


@pytest.mark.parametrize("start", [132, "bare"])
def test_files_without_a_preamble_are_read(tmp_path, start):
    array, folder = voxels(), tmp_path / "s"
    write_series(folder, array)
    for path in sorted(folder.iterdir()):
        made = pydicom.dcmread(path)
        path.unlink()
        named = folder / f"{path.name}.dcm"
        if start == "bare":
            del made.file_meta
            made.preamble = None
            made.save_as(named, implicit_vr=True, little_endian=True)
        else:
            made.save_as(named, enforce_file_format=True)
            named.write_bytes(named.read_bytes()[start:])
    assert np.array_equal(read(tmp_path).volume.source.voxels[0], array)


@pytest.mark.parametrize("start", ["whole", "no preamble", "implicit", "explicit"])
@pytest.mark.parametrize("name", ["{}", "{}.img", "{}.IMG", "1.2.840.{}", "{}.dcm.gz", "{}.001"])
def test_dicom_is_known_by_its_bytes_under_any_name(tmp_path, name, start):
    array = voxels()
    for number in range(len(array)):
        made, path = instance(array[number], number=number), tmp_path / name.format(number)
        made.save_as(path, enforce_file_format=True)
        content = path.read_bytes()
        if start == "no preamble":
            content = content[132:]
        elif start != "whole":
            buffer, made.preamble = BytesIO(), None
            del made.file_meta
            made.save_as(buffer, implicit_vr=start == "implicit", little_endian=True)
            content = buffer.getvalue()
            assert content[:2] == b"\x08\0"
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert np.array_equal(read(tmp_path).volume.source.voxels[0], array)


@pytest.mark.parametrize("more", [b"\0" * 512, b"\xff" * 11])
def test_what_stands_behind_a_file_does_not_matter(tmp_path, more):
    array = voxels()
    for path in write_series(tmp_path / "s", array).iterdir():
        path.write_bytes(path.read_bytes() + more)
    loaded = read(tmp_path)
    assert isinstance(loaded, LoadedVolume), loaded.error
    assert np.array_equal(loaded.volume.source.voxels[0], array)


def test_more_pixels_than_there_are_rows_and_columns_are_refused_by_their_number(tmp_path):
    def change(number, made):
        made.PixelData += b"\0" * 64

    write_series(tmp_path / "s", voxels(), change=change)
    assert re.search(r"\d+ bytes of pixels, \d+ are expected", read(tmp_path).error)


# -- Values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_pixels_may_stand_in_the_high_bits(tmp_path, dtype):
    array = voxels(dtype=dtype) // 2

    def change(number, made):
        made.BitsStored, made.HighBit = 12, 15
        made.PixelData = (array[number] << 4).astype(array.dtype.newbyteorder("<")).tobytes()

    write_series(tmp_path / "s", array, change=change)
    assert np.array_equal(read(tmp_path).volume.source.voxels[0], array)


def test_a_ct_without_hounsfield_units_is_refused(tmp_path):
    stored = voxels(dtype=np.uint16)
    write_series(tmp_path / "a", stored, Modality="CT")
    assert "no Hounsfield units" in read(tmp_path / "a").error
    native = stored.astype(np.int16) - 1024  # as they are, though the header does not say so
    write_series(tmp_path / "b", native, Modality="CT")
    assert np.array_equal(read(tmp_path / "b").volume.source.voxels[0], native)


def test_hounsfield_units_signs_and_monochrome1(tmp_path):
    array = voxels()
    ct = read(
        write_series(tmp_path / "ct", array, Modality="CT", RescaleSlope=2, RescaleIntercept=-1024)
    )
    assert np.array_equal(ct.volume.source.voxels[0], 2 * array - 1024)
    assert ct.volume.span is None  # every CT on the same scale
    white = voxels(dtype=np.uint16)
    inverted = read(
        write_series(tmp_path / "w", white, PhotometricInterpretation="MONOCHROME1", BitsStored=12)
    )
    assert np.array_equal(inverted.volume.source.voxels[0], 4095 - white.astype(int))


@pytest.mark.parametrize("tags", [{"Modality": "CT"}, {"RescaleType": "HU"}])
def test_monochrome1_leaves_hounsfield_units_alone(tmp_path, tags):
    array = voxels()
    tags |= {
        "PhotometricInterpretation": "MONOCHROME1",
        "RescaleSlope": 2,
        "RescaleIntercept": -1024,
    }
    assert np.array_equal(
        read(write_series(tmp_path, array, **tags)).volume.source.voxels[0], 2 * array - 1024
    )


def test_monochrome1_leaves_hounsfield_units_of_frames_alone(tmp_path):
    array, order = voxels(), np.arange(9)
    made = multiframe(array, order)
    made.PhotometricInterpretation = "MONOCHROME1"
    for group in made.PerFrameFunctionalGroupsSequence:
        group.PixelValueTransformationSequence[0].RescaleType = "HU"
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert np.array_equal(
        read(tmp_path).volume.source.voxels[0], array * (1 + order)[:, None, None]
    )


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_headers_do_not_keep_the_bytes_of_their_files(syntax):
    buffer = BytesIO()
    instance(voxels()[0], syntax=syntax).save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    before = sys.getrefcount(content)
    (header,) = dicom.decode([content]).origin.headers
    assert sys.getrefcount(content) == before
    assert header.Rows == 12 and header.buffer is None


ENCODERS = {
    JPEGLosslessSV1: lambda a: imagecodecs.ljpeg_encode(a, bitspersample=16),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", level=0),
    HTJ2KLossless: imagecodecs.htj2k_encode,
}


@pytest.mark.parametrize("syntax", ENCODERS)
def test_compressed_pixels_are_what_was_compressed(tmp_path, syntax):
    array = voxels(dtype=np.uint16)

    def compress(number, made):
        made.file_meta.TransferSyntaxUID = syntax
        made.PixelData = encapsulate([ENCODERS[syntax](array[number])])
        made["PixelData"].is_undefined_length = True

    assert np.array_equal(
        read(write_series(tmp_path, array, change=compress)).volume.source.voxels[0], array
    )


def test_rle_is_what_was_compressed(tmp_path):
    array = voxels(dtype=np.uint16)
    write_series(tmp_path, array, change=lambda number, made: made.compress(RLELossless))
    assert np.array_equal(read(tmp_path).volume.source.voxels[0], array)


def test_a_radiograph_is_an_image(tmp_path):
    stored = voxels((20, 30), np.uint16)
    lacking = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient"))
    instance(stored, Modality="DX", **lacking).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    loaded = read(tmp_path)
    assert isinstance(loaded, LoadedImage)
    assert np.array_equal(loaded.image[0], stored)


# -- Bad input -------------------------------------------------------------------------------------


def remove(*numbers):
    def after(folder):
        for number in numbers:
            (folder / f"IM{number:03}").unlink()

    return after


def bomb(folder):
    """A deflated data set of many zeros."""
    path = folder / "IM000"
    buffer = BytesIO()
    made = instance(voxels()[0], syntax=DeflatedExplicitVRLittleEndian)
    made.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    start = 144 + int.from_bytes(content[140:144], "little")
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = b"".join(pack.compress(bytes(2**24)) for _ in range(2)) + pack.flush()
    remove(*range(1, 9))(folder)
    path.write_bytes(content[:start] + packed)


def cut(folder):
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-60])


def place(number):
    return [f"{value:.8f}" for value in AFFINE[:3, 3] + number * AFFINE[:3, 0]]


BAD = {
    "double": ({3: {"ImagePositionPatient": place(2)}}, None, "1 of 9 images lies at the place"),
    "turned": (
        {3: {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}},
        None,
        "2 volumes in one series",
    ),
    "sizes": (
        {3: {"Rows": 6, "Columns": 28}},
        None,
        "2 volumes in one series: 'size 28x6', 'size 14x12'",
    ),
    "spacings": (
        {3: {"PixelSpacing": [1, 1]}},
        None,
        "in one series: 'pixels 0.8x0.9 mm', 'pixels 1x1 mm'",
    ),
    "zero": ({n: {"PixelSpacing": [0, 1]} for n in range(9)}, None, "pixel spacing 0 × 1 mm"),
    "negative": ({n: {"PixelSpacing": [-1, 1]} for n in range(9)}, None, "pixel spacing -1 × 1 mm"),
    "skewed": (
        {n: {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]} for n in range(9)},
        None,
        "perpendicular",
    ),
    "length": ({}, cut, "276 bytes of pixels, 336 are expected"),
    "long": (
        {n: {"PixelData": bytes(600)} for n in range(9)},
        None,
        "600 bytes of pixels, 336 are expected",
    ),
    "bomb": ({}, bomb, "it inflates to more than"),
    "frames": (
        {3: {"FrameOfReferenceUID": "1.2.4711"}},
        None,
        "frames of reference in one series (FrameOfReferenceUID)",
    ),
    "constant": ({n: {"PixelData": bytes(336)} for n in range(9)}, None, "the same value"),
    "many": ({0: {"Rows": 65535, "Columns": 65535}}, remove(*range(1, 9)), "voxels"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_series_are_refused_with_the_reason(tmp_path, monkeypatch, name):
    monkeypatch.setattr(dicom, "MAX_VOXELS", 2**22)
    changes, after, reason = BAD[name]

    def change(number, made):
        for tag, value in changes.get(number, {}).items():
            setattr(made, tag, value)

    write_series(tmp_path / "s", voxels(), change=change)
    if after:
        after(tmp_path / "s")
    assert reason in read(tmp_path).error
    assert "\n" not in read(tmp_path).error


NOT_DESCRIBED = {
    "PhotometricInterpretation": ("PhotometricInterpretation", None, "is missing"),
    "SamplesPerPixel": ("SamplesPerPixel", None, "is missing"),
    "BitsStored": ("BitsStored", None, "is missing"),
    "PixelRepresentation": ("PixelRepresentation", None, "is missing"),
    "more bits": ("BitsStored", 20, "20 bits stored of 16"),
    "unknown colours": ("PhotometricInterpretation", "HSV", "is none of MONOCHROME1, "),
    "colours": ("SamplesPerPixel", 4, "MONOCHROME2 with 4 samples per pixel; it has 1"),
    "no palette": ("PhotometricInterpretation", "PALETTE COLOR", "without RedPaletteColor"),
}


@pytest.mark.parametrize("name", NOT_DESCRIBED)
def test_pixels_that_are_not_described_are_refused_with_the_reason(tmp_path, name):
    tag, value, reason = NOT_DESCRIBED[name]
    write_series(tmp_path / "s", voxels(), **{tag: value})
    assert reason in read(tmp_path).error


def cut_off():
    whole = imagecodecs.jpegls_encode(SQUARE)
    return [whole[: len(whole) // 2]], JPEGLSLossless, {}


def signed_only_in_the_stream():
    signed = SQUARE.view(np.int16) - 1000
    frame = imagecodecs.jpeg2k_encode(signed, level=0, codecformat="j2k")
    return [frame], JPEG2000Lossless, {}


def of_fewer_bits():
    return [imagecodecs.jpeg8_encode(SQUARE.astype(np.uint8))], JPEGBaseline8Bit, {}


def too_few_frames():
    return [imagecodecs.jpegls_encode(SQUARE)], JPEGLSLossless, {"NumberOfFrames": 2}


SQUARE = RNG.integers(0, 2000, (64, 64)).astype(np.uint16)
ODD_STREAMS = {
    cut_off: "compressed pixels that are damaged or cut off",
    signed_only_in_the_stream: "compressed pixels below 0 in an image that says it has none",
    of_fewer_bits: "pixels that are not as the header says",
    too_few_frames: "pixels that are not as the header says, or too few frames",
}


@pytest.mark.parametrize("kind", ODD_STREAMS)
def test_compressed_pixels_that_do_not_fit_are_refused_with_the_reason(tmp_path, kind):
    found, syntax, tags = kind()
    made = instance(SQUARE, syntax=syntax, ImagePositionPatient=None, Modality="XA", **tags)
    made.PixelData = encapsulate(found)
    made["PixelData"].is_undefined_length = True
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert ODD_STREAMS[kind] in read(tmp_path, frames=True).error


def test_a_slice_whose_header_is_cut_off_is_a_failed_row(tmp_path):
    write_series(tmp_path, voxels())
    content = (tmp_path / "IM004").read_bytes()
    storage = content.rindex(b"1.2.840.10008.5.1.4.1.1.4")  # the second, behind the preamble's
    for kept in (storage + 15, storage + 200):
        (tmp_path / "IM004").write_bytes(content[:kept])
        _, cut = scan.scan(tmp_path).records
        error = load(cut).error
        assert error.startswith("no pixels") and error.endswith("it may be cut off")


def test_a_rescale_is_one_number(tmp_path):
    write_series(tmp_path / "s", voxels(), RescaleSlope=[1, 2], RescaleIntercept=0)
    assert read(tmp_path).error == "RescaleSlope is not a number; correct the header"


@pytest.mark.parametrize(
    "tags", [{"RescaleSlope": None}, {"RescaleSlope": ""}, {"RescaleIntercept": ""}]
)
def test_half_a_rescale_is_none(tmp_path, tags):
    both = {"RescaleSlope": 2, "RescaleIntercept": -1024}

    def change(number, made):
        for tag, value in (both | tags).items():
            setattr(made, tag, value or None)

    array = voxels((9, 12, 14), np.uint16)
    write_series(tmp_path / "mr", array, change=change)
    write_series(tmp_path / "ct", array, change=change, Modality="CT")
    assert np.array_equal(read(tmp_path / "mr").volume.source.voxels[0], array)
    assert "no Hounsfield units" in read(tmp_path / "ct").error


def test_a_modality_lut_may_begin_at_the_lowest_value_there_is(tmp_path):
    table = Dataset()
    table.add_new("LUTDescriptor", "SS", [0, -(2**15), 16])  # of 2**16 entries
    table.ModalityLUTType = "US"
    table.add_new("LUTData", "OW", np.arange(2**16, dtype="<u2")[::-1].tobytes())
    array = voxels()
    write_series(tmp_path / "s", array, ModalityLUTSequence=Sequence([table]))
    assert np.array_equal(read(tmp_path).volume.source.voxels[0], 2**15 - 1 - array.astype(float))


@pytest.mark.parametrize("what", ["PatientID", "IssuerOfPatientID", "StudyInstanceUID"])
def test_images_of_several_patients_or_studies_are_no_volume(tmp_path, what):
    """Also if a program gave all of them the same series, and they lie side by side."""
    array = voxels()

    def change(number, made):
        setattr(made, what, "1.2.3.99" if number > 4 else "1.2.3.98")

    write_series(tmp_path, array, change=change)
    found = scan.scan(tmp_path).records
    assert [len(each.files) for each in found] == [5, 4]
    assert [each.files for each in found] == [series_of(each.path) for each in found]
    assert what == "StudyInstanceUID" or found[0].group != found[1].group
    first = load(found[0], Preprocess(PreprocessConfig(least_foreground=0))).volume.source
    assert np.array_equal(first.voxels[0], array[:5])


@pytest.mark.parametrize(
    "tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"]
)
def test_a_reason_does_not_quote_the_header(tmp_path, tag):
    buffer = BytesIO()
    made = instance(
        voxels()[0], RescaleSlope="1.25", RescaleIntercept=0, PixelSpacing=["1.125", "1.125"]
    )
    made.save_as(buffer, enforce_file_format=True)
    value = made[tag].value
    first = str(value if tag == "RescaleSlope" else value[0]).encode()
    content = buffer.getvalue().replace(first, b"TAGGED^TAGGED^TAGGED"[: len(first)])
    (tmp_path / "a.dcm").write_bytes(content)
    found = load(Record("a", tmp_path / "a.dcm", files=(tmp_path / "a.dcm",)))
    assert isinstance(found, Failed)
    assert "TAG" not in found.error and "please report" not in found.error
    assert tag == "RescaleSlope" or f"{tag} is not a number" in found.error


def test_what_is_no_image_is_refused_with_the_reason(tmp_path):
    pdf = instance(voxels()[0], Rows=None, Columns=None, PixelData=None)
    pdf.SOPClassUID = pdf.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    unknown = instance(voxels()[0], syntax="1.2.3.4.5.6")
    empty = instance(voxels()[0], PixelData=None)
    nowhere = instance(voxels()[0], ImagePositionPatient=None)
    for name, (made, reason) in {
        "pdf": (pdf, "no pixels (Encapsulated PDF Storage)"),
        "syntax": (unknown, "a transfer syntax that cannot be decoded (1.2.3.4.5.6)"),
        "empty": (empty, "no pixels (MR Image Storage)"),
        "nowhere": (nowhere, "no place in the patient"),
    }.items():
        (tmp_path / name).mkdir()
        made.save_as(
            tmp_path / name / "a.dcm",
            enforce_file_format=True,
            implicit_vr=False,
            little_endian=True,
        )
        path = tmp_path / name / "a.dcm"
        assert reason in load(record_of(tmp_path, path, (path,))).error
    (tmp_path / "text.dcm").write_text("not DICOM " * 30)
    (record,) = (r for r in scan.scan(tmp_path).records if r.id == "text.dcm")
    assert load(record).error == "not a DICOM file (no DICM prefix)"


def test_a_compressed_image_that_claims_another_size_is_not_decoded(tmp_path):
    big = imagecodecs.jpegls_encode(np.zeros((200, 200), np.uint16))

    def swap(number, made):
        made.file_meta.TransferSyntaxUID = JPEGLSLossless
        made.PixelData = encapsulate([big])
        made["PixelData"].is_undefined_length = True

    assert "(200, 200)" in read(write_series(tmp_path, voxels(dtype=np.uint16), change=swap)).error
    for encode in (ENCODERS[JPEGLosslessSV1], ENCODERS[JPEG2000Lossless], ENCODERS[HTJ2KLossless]):
        assert dicom_codecs.codestream_sides(encode(np.zeros((21, 34), np.uint16))) == (21, 34)


def test_pydicoms_own_odd_files_load_or_are_refused():
    found = walk(Path(pydicom.__file__).parent / "data/test_files").files
    outcomes = [load(record_of(path.parent, path, (path,))) for path in found]
    assert len(outcomes) > 80
    reasons = [each.error for each in outcomes if isinstance(each, Failed)]
    assert all(reasons)
    assert not any("\n" in each or each.startswith("please report") for each in reasons)
    assert sum(isinstance(each, LoadedImage | LoadedVolume) for each in outcomes) > 50


# -- Pseudonyms ------------------------------------------------------------------------------------


def test_a_pseudonym_stays_with_its_key_and_goes_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    first = pseudonyms.pseudonym("", "4711")
    assert first == pseudonyms.pseudonym("", "4711") != pseudonyms.pseudonym("", "4712")
    assert pseudonyms.pseudonym("a", "b") != pseudonyms.pseudonym("ab", "")
    key = pseudonyms.key_file()
    assert key.stat().st_mode & 0o777 == 0o600
    old = key.read_text()
    key.unlink()
    pseudonyms._key.cache_clear()
    assert pseudonyms.pseudonym("", "4711") != first
    key.write_text(old)
    pseudonyms._key.cache_clear()
    assert pseudonyms.pseudonym("", "4711") == first
    key.write_text("short")
    pseudonyms._key.cache_clear()
    with pytest.raises(ConfigError, match="restore or remove it"):
        pseudonyms.pseudonym("", "4711")
    pseudonyms._key.cache_clear()


@pytest.mark.parametrize("xdg", [False, True])
@pytest.mark.parametrize(
    ("system", "directories", "folder"),
    [
        ("linux", Unix, "home/.config/anodetect"),
        ("darwin", MacOS, "home/Library/Application Support/anodetect"),
        ("win32", windows.Windows, "roaming/anodetect"),
    ],
)
def test_the_key_lies_in_the_folder_for_settings_of_each_system(
    system, directories, folder, xdg, tmp_path, monkeypatch
):
    """And an existing key is used: the folders are those of earlier releases."""
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platformdirs, "PlatformDirs", directories)
    monkeypatch.setattr(windows, "get_win_folder", windows.get_win_folder_from_env_vars)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "roaming"))
    monkeypatch.delenv("XDG_CONFIG_HOME")
    if xdg:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    if xdg and system == "linux":
        folder = "xdg/anodetect"
    key = tmp_path / folder / "pseudonym.key"
    assert pseudonyms.key_file() == key
    key.parent.mkdir(parents=True)
    key.write_text("00" * 32)
    digest = hmac.digest(bytes(32), b"\0004711", "sha256").hex()
    assert pseudonyms.pseudonym("", "4711") == f"patient-{digest[:16]}"


# -- The whole way ---------------------------------------------------------------------------------

SHAPE = (6, 40, 44)


def write_patient(folder, patient, rng, lesion=None, order=None):
    volume, _ = head(SHAPE, rng=rng, lesion=lesion)
    uids = (generate_uid(), generate_uid(), generate_uid())
    return write_series(
        folder, volume.round().astype(np.int16), order, uids=uids, PatientID=patient
    )


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))
        base, rng = tmp_path_factory.mktemp("dicom"), np.random.default_rng(1)
        for number in range(24):
            write_patient(base / "normal" / f"s{number:02}", f"TAGGED-N{number}", rng)
        anodetect.train(str(base / "normal"), "pca", base / "run", values={"size": 32})
        write_patient(base / "new" / "s", "TAGGED-4711", rng, LESION, rng.permutation(SHAPE[0]))
        anodetect.score(
            base / "run",
            [str(base / "new")],
            base / "out",
            far=0.2,
            heatmaps=["nifti", "dicom", "png", "mask"],
        )
        anodetect.score(
            base / "run",
            [str(base / "new")],
            base / "kept",
            far=0.2,
            heatmaps=["dicom"],
            keep_identifiers=True,
        )
    return base


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_output_names_the_patient(scored):
    from anodetect.output import report

    report.write(scored / "out")
    tagged = [b"TAGGED", b"Tagged", *(str(value).encode() for value in SECRETS.values())]
    for folder in ("out", "run"):
        for path, content in contents(scored / folder).items():
            assert not any(secret in content for secret in tagged), path
            assert "tagged" not in path.name.lower()
    (row,) = directories.read(scored / "out").rows
    assert row.group.startswith("patient-")
    assert {r.group[:8] for r in runs.read_manifest(scored / "run")} == {"patient-"}


def test_a_model_of_volumes_decides_how_all_are_scaled(scored, tmp_path, monkeypatch):
    """Of CT alone by the model's range, of others or of both by their own; whatever a scored volume
    says it is."""
    array = voxels((6, 40, 44))
    ct, mr = (
        write_series(tmp_path / name / "s", array, Modality=name, uids=other_uids(name == "MR"))
        for name in ("CT", "MR")
    )
    shutil.copytree(tmp_path / "CT", tmp_path / "both")
    shutil.copytree(mr, tmp_path / "both/t")
    volumes = [read(folder.parent).volume.source for folder in (ct, mr)]
    for name, fixed in (("CT", True), ("MR", False), ("both", False)):
        preprocess, again, older = (Preprocess(PreprocessConfig()) for _ in range(3))
        mixed = replace(scan.scan(tmp_path / name), doubt="")  # as a manifest may list them
        usable_normals(mixed, preprocess, 2, Silent())
        again.load_state(preprocess.state())
        assert [again.prepare(volume).span is None for volume in volumes] == [fixed, fixed]
        older.load_state(
            {key: value for key, value in preprocess.state().items() if key != "fixed_units"}
        )
        assert [older.prepare(volume).span is None for volume in volumes] == [True, False]
    assert Model.load(read_run(scored / "run"), "cpu").preprocess.fixed_units is False

    def says(model, *rest, **named):
        raise DataError(f"fixed: {model.preprocess.fixed_units}")

    for number in range(4):
        write_series(
            tmp_path / f"new/{number}", voxels((6, 40, 44)), Modality="CT", uids=other_uids(number)
        )
    monkeypatch.setattr("anodetect.commands.calibrate.calibrate_model", says)
    with pytest.raises(DataError, match="fixed: False"):
        anodetect.calibrate(scored / "run", str(tmp_path / "new"), tmp_path / "again")


def test_a_model_of_images_takes_each_volume_for_what_it_says(tmp_path):
    made = instance(voxels((20, 30)), ImagePositionPatient=None, Modality="DX")
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    preprocess = Preprocess(PreprocessConfig())
    usable_normals(scan.scan(tmp_path), preprocess, 2, Silent())
    assert preprocess.fixed_units is None


def test_reasons_of_failed_rows_do_not_name_the_patient(scored, tmp_path):
    for number, (name, changes) in enumerate(
        {
            "frames": {"FrameOfReferenceUID": "1.2.4711"},
            "sizes": {"Rows": 6, "Columns": 28},
            "empty": {"PixelData": b""},
        }.items()
    ):

        def change(at, made, changes=changes):
            for tag, value in changes.items() if at == 3 else ():
                setattr(made, tag, value)

        uids = ("1.2.815", f"1.2.815.{number}", "1.2.815.9")
        write_series(tmp_path / "new" / name, voxels(), change=change, uids=uids)
    result = anodetect.score(scored / "run", [str(tmp_path / "new")], tmp_path / "s", far=0.2)
    assert result.failed == 3
    tagged = [
        b"TAGGED",
        b"Tagged",
        b"1.2.815",
        b"1.2.4711",
        *(str(value).encode() for value in SECRETS.values()),
    ]
    for path, content in contents(tmp_path / "s").items():
        assert not any(secret in content for secret in tagged), path


def test_identifiers_are_kept_on_demand(scored):
    (row,) = directories.read(scored / "kept").rows
    assert row.group == "TAGGED-4711"
    found = pydicom.dcmread(scored / "kept" / row.heatmap)
    assert str(found.PatientName) == "Tagged^Jane"


def places(found):
    return [
        np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        for group in found.PerFrameFunctionalGroupsSequence
    ]


def test_dicom_maps_lie_on_the_source_and_hold_the_values_of_the_nifti_map(scored):
    (row,) = directories.read(scored / "out").rows
    values = np.asarray(
        nib.load(scored / "out" / row.heatmap).dataobj
    )  # [K, R, C], in the order of positions
    sources = [pydicom.dcmread(path) for path in (scored / "new/s").iterdir()]
    stem = scored / "out/heatmaps" / f"{row.path}"
    for name, expected in (
        ("heatmap", values),
        ("segmentation", np.asarray(nib.load(f"{stem}_mask.nii.gz").dataobj)),
    ):
        found = pydicom.dcmread(f"{stem}_{name}.dcm")
        assert found.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
        assert found.StudyInstanceUID == sources[0].StudyInstanceUID
        assert "esearch use only" in found.ContentDescription
        assert found.Manufacturer == "anodetect"
        assert row.model_sha256.encode() in Path(f"{stem}_{name}.dcm").read_bytes()
        referenced = {
            i.ReferencedSOPInstanceUID
            for i in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        }
        assert referenced == {source.SOPInstanceUID for source in sources}
        along = AFFINE[:3, 0] / np.linalg.norm(AFFINE[:3, 0]) ** 2
        sums = np.zeros(
            expected.shape, np.float32
        )  # of all segments; empty planes of one may be left out
        for frame, place in zip(
            found.pixel_array.reshape(-1, *expected.shape[1:]), places(found), strict=True
        ):
            number = round(float((place - AFFINE[:3, 3]) @ along))
            assert np.allclose(place, AFFINE[:3, 3] + number * AFFINE[:3, 0], atol=1e-3)
            sums[number] += frame
        assert np.array_equal(sums, np.nan_to_num(expected, nan=-1))
    assert (
        found.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName
        == "anodetect"
    )
    assert LESION[0] in [round(float((p - AFFINE[:3, 3]) @ along)) for p in places(found)]


@pytest.mark.parametrize(
    ("heatmaps", "ending"),
    [
        (("png", "dicom", "nifti"), "_heatmap.nii"),
        (("dicom", "png"), "_heatmap.dcm"),
        (("mask", "png"), ""),
    ],
)
def test_the_heatmap_of_a_volume_is_its_nifti_else_its_parametric_map(
    scored, tmp_path, heatmaps, ending
):
    anodetect.score(
        scored / "run",
        [str(scored / "new")],
        tmp_path / "s",
        far=0.2,
        heatmaps=heatmaps,
    )
    (row,) = directories.read(tmp_path / "s").rows
    assert row.error == ""
    assert row.heatmap == (f"heatmaps/{row.path}{ending}" if ending else "")


def test_maps_of_a_model_of_three_dimensions_are_written_alike(scored, tmp_path):
    values = {"dims": 3, "patch": [4, 32, 32], "widths": [16], "training": {"steps": 2}}
    anodetect.train(str(scored / "normal"), "anoddpm", tmp_path / "run", values=values)
    anodetect.score(
        tmp_path / "run",
        [str(scored / "new")],
        tmp_path / "out",
        far=0.2,
        heatmaps=["nifti", "dicom"],
    )
    (row,) = directories.read(tmp_path / "out").rows
    expected = np.asarray(nib.load(tmp_path / "out" / row.heatmap).dataobj)
    found = pydicom.dcmread(f"{tmp_path / 'out/heatmaps' / row.path}_heatmap.dcm")
    along = AFFINE[:3, 0] / np.linalg.norm(AFFINE[:3, 0]) ** 2
    numbers = [round(float((place - AFFINE[:3, 3]) @ along)) for place in places(found)]
    assert sorted(numbers) == list(range(len(expected)))
    assert np.array_equal(found.pixel_array, np.nan_to_num(expected[numbers], nan=-1))

    # A model of three dimensions needs even slices: one is missing, and maps come back to the rest.
    shutil.copytree(scored / "new", tmp_path / "new")
    for path in (tmp_path / "new/s").iterdir():
        position = np.array(pydicom.dcmread(path).ImagePositionPatient, float)
        if round(float((position - AFFINE[:3, 3]) @ along)) == 3:
            path.unlink()
    anodetect.score(tmp_path / "run", [str(tmp_path / "new")], tmp_path / "uneven", far=0.2)
    (row,) = directories.read(tmp_path / "uneven").rows
    assert "perhaps a slice is missing" in row.differs
    assert row.differs.endswith("resampled for the model to even slices 3 mm apart")
    own = tifffile.imread(tmp_path / "uneven" / row.heatmap)
    assert own.shape == (len(expected) - 1, *expected.shape[1:]) and np.isfinite(own).any()


@pytest.mark.parametrize("change", [None, private_places, measures_of_each_frame])
def test_a_multiframe_source_gets_its_map_by_position_too(scored, tmp_path, change):
    volume, _ = head(SHAPE, lesion=LESION)
    order = np.array([2, 0, 1, 4, 5, 3])  # not its own inverse
    made = multiframe(volume.round().astype(np.int16), order)
    for group in made.PerFrameFunctionalGroupsSequence:
        group.PixelValueTransformationSequence[0].RescaleSlope = 1
    if change:
        change(made)
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    anodetect.score(
        scored / "run",
        [str(tmp_path / "a.dcm")],
        tmp_path / "s",
        far=0.2,
        heatmaps=["nifti", "dicom"],
    )
    (row,) = directories.read(tmp_path / "s").rows
    assert row.error == ""
    values = np.asarray(nib.load(tmp_path / "s" / row.heatmap).dataobj)
    found = pydicom.dcmread(tmp_path / "s/heatmaps/a.dcm_heatmap.dcm")
    along = AFFINE[:3, 0] / np.linalg.norm(AFFINE[:3, 0]) ** 2
    groups = found.PerFrameFunctionalGroupsSequence
    for frame, place, group in zip(found.pixel_array, places(found), groups, strict=True):
        number = round(float((place - AFFINE[:3, 3]) @ along))
        assert np.array_equal(frame, np.nan_to_num(values[number], nan=-1))
        referred = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert referred.ReferencedSOPInstanceUID == made.SOPInstanceUID
        assert referred.ReferencedSOPClassUID == EnhancedMRImageStorage
        assert order[referred.ReferencedFrameNumber - 1] == number
    (files,) = found.ReferencedSeriesSequence
    (file,) = files.ReferencedInstanceSequence
    assert file.ReferencedSOPInstanceUID == made.SOPInstanceUID


def test_the_report_measures_each_finding_in_its_segment(scored):
    """Against the maps as NIfTI, and components counted by hand."""
    (row,) = directories.read(scored / "out").rows
    stem = scored / "out/heatmaps" / row.path
    values, mask = (
        np.asarray(nib.load(f"{stem}_{name}").dataobj) for name in ("heatmap.nii", "mask.nii.gz")
    )
    report, segmentation = (
        pydicom.dcmread(f"{stem}_{name}.dcm") for name in ("report", "segmentation")
    )
    groups = [
        item
        for item in report.ContentSequence[-3].ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "125007"
    ][1:]  # after the decision
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    assert len(groups) == min(count, 20) >= 1
    voxel = np.prod(np.linalg.norm(AFFINE[:3, :3], axis=0))
    expected = sorted(
        ((values[parts == n].max(), (parts == n).sum() * voxel) for n in range(1, count + 1)),
        reverse=True,
    )
    for number, (group, (peak, size)) in enumerate(zip(groups, expected, strict=False), start=1):
        said = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in group.ContentSequence}
        numbers = {
            name: float(item.MeasuredValueSequence[0].NumericValue)
            for name, item in said.items()
            if item.ValueType == "NUM"
        }
        assert numbers == pytest.approx({"Peak Value Within ROI": peak, "Volume": size}, rel=1e-4)
        assert said["Tracking Identifier"].TextValue == f"finding {number}"
        segment = segmentation.SegmentSequence[number - 1]
        assert segment.TrackingUID == said["Tracking Unique Identifier"].UID
        assert segment.TrackingID == f"finding {number}"
        assert said["Algorithm Name"].TextValue == "anodetect"
        assert row.model_sha256 in said["Algorithm Parameters"].TextValue
        referenced = said["Referenced Segment"].ReferencedSOPSequence[0]
        assert referenced.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
        assert referenced.ReferencedSegmentNumber == number
    assert report.ContentSequence[-1].TextValue == "Research use only, not for diagnosis"
    assert report.StudyInstanceUID == segmentation.StudyInstanceUID
    assert row.flagged
    assert report.ContentSequence[-2].TextValue.startswith("Flagged at a false-alarm rate of 0.2")


def test_without_findings_the_segmentation_is_empty(scored, tmp_path):
    volume = read(scored / "new/s").volume
    heatmap = np.ones(volume.geometry.sides, np.float32)
    shown = VolumeMap(heatmap, volume, (0, 1), pixel_rule(2))
    written = write_files(tmp_path / "x", ["dicom"], "volume", shown)
    assert [(each.path.name, each.kind) for each in written] == [
        ("x_heatmap.dcm", "map"),
        ("x_segmentation.dcm", "mask"),
        ("x_report.dcm", "report"),
    ]
    assert not pydicom.dcmread(written[1].path).pixel_array.any()


def test_findings_beyond_the_first_share_a_segment(scored):
    volume = read(scored / "new/s").volume
    heatmap = np.zeros(volume.geometry.sides, np.float32)
    heatmap[:, ::2, ::2] = RNG.random(heatmap[:, ::2, ::2].shape)
    heatmap[1::2] = 0
    segments, found = find_findings(heatmap, heatmap > 0.5, volume)
    assert len(found) == 20
    assert [finding.peak for finding in found] == pytest.approx(np.sort(heatmap.ravel())[::-1][:20])
    assert np.array_equal(segments > 0, heatmap > 0.5)
    assert segments.max() == 21
    assert heatmap[segments == 21].max() <= found[-1].peak
    nothing, found = find_findings(heatmap, heatmap > 2, volume)
    assert not found
    assert not nothing.any()


@pytest.mark.parametrize("kind", ["heatmap", "segmentation", "report"])
def test_dicom_maps_pass_independent_checkers(scored, kind):
    path = next((scored / "out/heatmaps").rglob(f"*_{kind}.dcm"))
    if not (shutil.which("dciodvfy") and shutil.which("dcmdump")):
        pytest.skip("no dciodvfy (dicom3tools) and dcmdump (dcmtk) on this machine")
    checked = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    assert not [line for line in checked.stderr.splitlines() if line.startswith("Error")]
    kinds = {
        "heatmap": "ParametricMap",
        "segmentation": "Segmentation",
        "report": "ComprehensiveSR",
    }
    assert kinds[kind] in checked.stderr
    dumped = subprocess.run(
        ["dcmdump", "+P", "SOPClassUID", str(path)], capture_output=True, text=True, check=True
    )
    assert "Storage" in dumped.stdout
    if kind == "report":
        text = subprocess.run(["dsrdump", str(path)], capture_output=True, text=True, check=True)
        assert 'TEXT:(,,"Tracking Identifier")="finding 1"' in text.stdout
        assert not text.stderr


@pytest.mark.parametrize("kind", ["heatmap", "segmentation"])
def test_dcmqi_reads_the_values_and_places_of_the_nifti_maps(scored, tmp_path, kind):
    tools = Path(sys.executable).parent
    reader = {"heatmap": "paramap2itkimage", "segmentation": "segimage2itkimage"}[kind]
    if not (tools / reader).exists():
        pytest.skip("dcmqi is not installed")
    path = next((scored / "out/heatmaps").rglob(f"*_{kind}.dcm"))
    command = [str(tools / reader), "--inputDICOM", str(path), "--outputDirectory", str(tmp_path)]
    subprocess.run([*command, "-t", "nifti"], check=True, capture_output=True)

    (row,) = directories.read(scored / "out").rows
    name = {"heatmap": "heatmap.nii", "segmentation": "mask.nii.gz"}[kind]
    expected = nib.as_closest_canonical(nib.load(f"{scored / 'out/heatmaps' / row.path}_{name}"))
    values = np.nan_to_num(np.asarray(expected.dataobj), nan=-1)
    found = np.full_like(values, -1 if kind == "heatmap" else 0)
    for file in tmp_path.glob("*.nii.gz"):
        image = nib.as_closest_canonical(nib.load(file))
        content = np.asarray(image.dataobj)
        marked = np.argwhere(content != (-1 if kind == "heatmap" else 0))
        places = nib.affines.apply_affine(image.affine, marked)
        index = nib.affines.apply_affine(np.linalg.inv(expected.affine), places)
        assert np.abs(index - index.round()).max() < 0.01  # a file may hold a part of the planes
        i, j, k = index.round().astype(int).T
        found[i, j, k] = content[tuple(marked.T)] if kind == "heatmap" else 1
    assert np.array_equal(found, values)


def test_a_format_that_a_source_has_not_is_said(scored, tmp_path):
    volume, _ = head(SHAPE)
    nib.save(
        nib.Nifti1Image(volume.transpose(2, 1, 0), np.diag([-1.0, -1, 4, 1])), tmp_path / "a.nii"
    )
    result = anodetect.score(
        scored / "run",
        [str(tmp_path / "a.nii")],
        tmp_path / "s",
        far=0.2,
        heatmaps=["dicom", "png"],
    )
    assert (result.scored, result.failed) == (1, 0)
    read = directories.read(tmp_path / "s")
    assert "1 volume has no file as dicom, which only files of DICOM have" in read.audit.caveats
    assert not [text for text in read.audit.caveats if "png" in text]
    assert "only files of DICOM have" in (tmp_path / "s/report.html").read_text()


def test_rescoring_finds_a_series_by_its_first_file(scored):
    assert rescore(scored / "out", 1) == []
    row = directories.read(scored / "out").rows[0]
    assert row.path == "s/IM000"
    assert dicom.headline(scored / "new/s/IM000").series


def test_what_a_model_cannot_judge_is_refused_unless_that_is_wanted(scored, tmp_path):
    """The model has seen MR; a CT of the same size is refused, and another series is named."""
    rng = np.random.default_rng(7)
    scale = {"RescaleSlope": 1, "RescaleIntercept": 0}
    for place, tags in (
        ("ct", {"Modality": "CT"} | scale),
        ("other", {"SeriesDescription": "t2 SAG 3"}),
    ):
        write_patient(tmp_path / "in" / place, "TAGGED-7", rng)
        for file in (tmp_path / "in" / place).iterdir():
            made = pydicom.dcmread(file)
            for name, value in tags.items():
                setattr(made, name, value)
            made.save_as(file)

    anodetect.score(scored / "run", [str(tmp_path / "in")], tmp_path / "out", far=0.2)
    rows = {row.path.split("/")[0]: row for row in directories.read(tmp_path / "out").rows}
    assert rows["ct"].status == "failed"
    assert rows["ct"].error.startswith("a CT image, and the model has seen MR")
    assert rows["other"].status == "ok"

    anodetect.score(
        scored / "run", [str(tmp_path / "in")], tmp_path / "all", far=0.2, accept_different=True
    )
    accepted = directories.read(tmp_path / "all")
    rows = {row.path.split("/")[0]: row for row in accepted.rows}
    assert accepted.audit.accept_different
    assert (rows["ct"].status, rows["ct"].error) == ("ok", "")
    assert rows["ct"].differs.startswith("a CT image, and the model has seen MR")


def test_what_hospitals_export_beside_images_is_passed_over(tmp_path):
    """A localizer, a dose report, a derived map and a presentation state are counted by reason."""
    write_series(tmp_path / "p1/axial", voxels())
    write_series(tmp_path / "p2/axial", voxels(), PatientID="P2", uids=other_uids(2))
    others = {
        "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "topogram": {"SeriesDescription": "Topogram 0.6"},
        "dose": {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"], "Modality": "OT"},
        "adc": {"ImageType": ["DERIVED", "PRIMARY", "ADC"]},
        "state": {"Modality": "PR"},
        "contours": {"Modality": "RTSTRUCT"},
    }
    for number, (name, tags) in enumerate(others.items()):
        write_series(tmp_path / "p1" / name, voxels()[:1], uids=other_uids(10 + number), **tags)
    dataset = scan.scan(tmp_path)
    assert [record.id.split("/")[:2] for record in dataset.records] == [
        ["p1", "axial"],
        ["p2", "axial"],
    ]
    assert scan.reasons(dataset.passed_over) == {
        "DICOM localizers": 2,
        "DICOM screen captures and dose reports": 1,
        dicom_head.DERIVED: 1,
        "DICOM reports and notes": 1,
        "DICOM contours and doses": 1,
    }


def test_a_set_of_derived_images_alone_is_read(tmp_path):
    write_series(tmp_path / "a", voxels(), ImageType=["DERIVED", "PRIMARY", "AXIAL"])
    assert len(scan.scan(tmp_path).records) == 1


def test_modalities_are_not_mixed(tmp_path):
    write_series(tmp_path / "a", voxels(), Modality="CT")
    write_series(tmp_path / "b", voxels(), Modality="MR", uids=other_uids(2))
    with pytest.raises(DataError, match=r"ct \(1\), mr \(1\); choose one with --kind-normal ct"):
        scan.scan(tmp_path).training()
    (record,) = scan.scan(tmp_path, kind_normal=["CT"]).training()
    assert record.path.parent.name == "a"
