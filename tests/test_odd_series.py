"""Series as faulty programs leave them: read right, or refused for the right reason."""

import numpy as np
import pytest
from pydicom.uid import generate_uid
from test_dicom import AFFINE, other_uids, read, voxels, write_series

from anodetect.data import scan
from anodetect.data.series import series_of
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
