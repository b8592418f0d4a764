"""Series as faulty programs leave them: read right, or refused for the right reason."""

import numpy as np
import pytest
from pydicom.uid import generate_uid
from test_dicom import AFFINE, instance, other_uids, read, voxels, write_series

from anodetect.commands.channels import wanted_channels
from anodetect.commands.inspect import inspect
from anodetect.data import cards, scan
from anodetect.data.series import series_of
from anodetect.errors import DataError
from anodetect.model.loading import Failed

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.*")


def test_images_with_one_instance_uid_at_several_places_are_no_copies(tmp_path):
    array = voxels()

    def change(number, made):
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"

    write_series(tmp_path / "s", array, change=change)
    (tmp_path / "s/Z").write_bytes((tmp_path / "s/IM004").read_bytes())
    dataset = scan.scan(tmp_path)
    (record,) = dataset.records
    assert len(record.files) == len(series_of(record.path)) == len(array)
    assert [(each.reason, each.count) for each in dataset.passed_over] == [
        ("second copies of DICOM images", 1)
    ]
    assert np.array_equal(read(tmp_path).volume.source.voxels[0], array)


@pytest.mark.parametrize("uid", ["own", None])
def test_slices_with_a_series_uid_of_their_own_are_said(tmp_path, uid):
    def change(number, made):
        if uid is None:
            del made.SeriesInstanceUID
        else:
            made.SeriesInstanceUID = generate_uid()

    write_series(tmp_path / "s", voxels(), change=change)
    write_series(tmp_path / "t", voxels((3, 12, 14)), uids=other_uids(9), change=change)
    notes = [record.note for record in scan.scan(tmp_path).records]
    assert [bool(note) for note in notes] == [True] * 9 + [False] * 3
    assert notes[0].startswith("9 images of this study lie in one orientation, and each has a")

    names = [f"s/IM{number:03}" for number in range(9)] + [
        f"t/IM{number:03}" for number in range(3)
    ]
    (tmp_path / "manifest.csv").write_text("path\n" + "\n".join(names))
    assert [record.note for record in scan.scan(tmp_path).records] == notes
    (tmp_path / "manifest.csv").write_text("path\nt\n")
    with pytest.raises(
        DataError, match=r"'t' holds 3 .* single images; name a file of one of them"
    ):
        scan.scan(tmp_path)
    (tmp_path / "manifest.csv").write_text("path\ns\n")
    with pytest.raises(
        DataError, match=r"holds 9 DICOM .* images; 9 images of this study lie in one"
    ):
        scan.scan(tmp_path)


SHARED = ("1.2.3", "1.2.3.9", "1.2.3.5")


def noted(folder, channels=None):
    """The note of the only study of a folder."""
    wanted = wanted_channels(channels, allow_missing=False)
    (record,) = cards.open_data(folder, channels=wanted).records
    return record.note


def test_notes_of_series_that_are_channels_have_their_names(tmp_path):
    write_series(tmp_path / "p/t1", voxels())
    write_series(tmp_path / "p/t2", voxels(), uids=SHARED)
    write_series(tmp_path / "p/other", voxels(), uids=SHARED, PatientID="SECRET")
    note = noted(tmp_path, "t1=p/t1/*,t2=p/t2/*")
    assert note.startswith("t2: 9 more images with the UID of this series name another patient")

    for file in (tmp_path / "p/other").iterdir():
        file.rename(tmp_path / "p/t2" / f"Z{file.name}")
    (tmp_path / "manifest.csv").write_text("path,channels\n,t1=p/t1;t2=p/t2/IM000\n")
    assert noted(tmp_path) == note


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("missing", ["RescaleSlope", "RescaleIntercept"])
def test_a_series_of_which_some_images_are_not_scaled_is_refused(tmp_path, modality, missing):
    def change(number, made):
        made.RescaleSlope, made.RescaleIntercept = 1, -1024
        if number in (2, 5):
            delattr(made, missing)

    write_series(tmp_path, voxels(), change=change, Modality=modality)
    failed = read(tmp_path)
    assert isinstance(failed, Failed)
    assert failed.error == (
        "2 of 9 images lack RescaleSlope and RescaleIntercept, which the others have; correct "
        "their headers"
    )


def test_scales_that_change_nothing_may_be_missing(tmp_path):
    def change(number, made):
        if number % 2:
            made.RescaleSlope, made.RescaleIntercept = 1, 0

    array = voxels()
    write_series(tmp_path, array, change=change)
    assert np.array_equal(read(tmp_path).volume.source.voxels[0], array)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [({"PixelData": b""}, "0 bytes of pixels, 336 are expected"),
     ({"Rows": 0}, "an empty image, 14 × 0 pixels")],
)  # fmt: skip
def test_images_without_pixels_say_why(tmp_path, tags, reason):
    write_series(tmp_path, voxels(), **tags)
    assert read(tmp_path).error == reason


def test_directions_of_few_digits_have_the_length_one(tmp_path):
    array, places = voxels(), np.arange(9)[:, None] * [0, -1.5, 1.5]

    def change(number, made):
        made.ImageOrientationPatient = [1, 0, 0, 0, 0.7, 0.7]
        made.ImagePositionPatient = places[number].tolist()

    write_series(tmp_path, array, change=change)
    source = read(tmp_path).volume.source
    assert np.array_equal(source.voxels[0], array)
    spacing = np.linalg.norm(AFFINE[:3, :3], axis=0)
    expected = np.outer([0, 0.5**0.5, 0.5**0.5], spacing[1])[:, 0]
    assert np.allclose(source.affine[:3, 1], expected)
    assert source.unevenness == ""


# -- Values that may not mean the same -------------------------------------------------------------


def write_depths(folder, change=lambda number, made: None, **tags):
    """A series of unsigned values, of which two slices were reduced to 8 bits."""
    folder.mkdir(parents=True)
    for number, stored in enumerate(voxels(dtype=np.uint16)):
        plane = (stored >> 4).astype(np.uint8) if number in (2, 5) else stored
        made = instance(plane, number=number, **tags)
        change(number, made)
        made.save_as(folder / f"IM{number}", enforce_file_format=True)


DEPTHS = (
    "2 images of 8 bits and 7 images of 16 bits in one series, and no scale or unit says that "
    "their values mean the same; if they do not, store all with the same bits"
)


def test_slices_of_several_bit_depths_are_said(tmp_path):
    write_depths(tmp_path / "s")
    assert read(tmp_path).volume.source.note == DEPTHS
    (line,) = (line for line in inspect(str(tmp_path)).summary if "with a note" in line)
    assert line == f"1 volume with a note; the first: s/IM0: {DEPTHS}"


SCALES = {
    "scaled": {"RescaleSlope": 16, "RescaleIntercept": 0},
    "one unit": {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": "normalized"},
    "unit of PET": {"Modality": "PT", "Units": "BQML"},
    "Hounsfield": {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024},
}


@pytest.mark.parametrize("name", SCALES)
def test_what_makes_bit_depths_comparable_leaves_nothing_to_say(tmp_path, name):
    write_depths(tmp_path / "s", **SCALES[name])
    assert read(tmp_path).volume.source.note == ""


def test_only_slices_of_the_volume_that_is_chosen_count(tmp_path):
    def echo(number, made):
        made.EchoTime = 10 if made.BitsStored == 16 else 20
        made.ImagePositionPatient = instance(voxels()[0], number=number % 3).ImagePositionPatient

    stored = voxels((3, 12, 14), np.uint16)
    for number, plane in enumerate([*stored, *(stored >> 4).astype(np.uint8)]):
        made = instance(plane, number=number)
        echo(number, made)
        made.save_as(tmp_path / f"IM{number}", enforce_file_format=True)
    for component in ("echo 10 ms", "echo 20 ms"):
        assert read(tmp_path, component=component).volume.source.note == ""


@pytest.mark.parametrize("tag", ["RescaleType", "Units"])
def test_slices_with_values_of_several_units_are_said(tmp_path, tag):
    def change(number, made):
        made.RescaleSlope, made.RescaleIntercept = 1 + number, 0
        setattr(made, tag, "BQML" if number < 4 else "CNTS")

    write_series(tmp_path / "s", voxels(), change=change, Modality="PT")
    assert read(tmp_path).volume.source.note == (
        "its images have values of 2 units (RescaleType, Units); those of different slices may not "
        "be comparable"
    )
