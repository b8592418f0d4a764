"""Pictures are black and white where the run or the DICOM file says, against pydicom."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_voi_lut
from test_dicom import instance, multiframe, read, voxels, write_series

from anodetect.data import dicom
from anodetect.data.dicom_window import window_of
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.model.display import display_window
from anodetect.model.loading import LoadedImage
from anodetect.output.pictures import overlay, stretched

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.*")
WINDOW = {"WindowCenter": 300, "WindowWidth": 400}


def header(**tags):
    return instance(voxels((1, 9, 9), np.uint16)[0], **tags)


def shown_by_pydicom(made, values):
    """The values as pydicom shows them with the header's window or table, from 0 to 255."""
    shown = np.asarray(apply_voi_lut(values, made, prefer_lut=False), float)
    return 255 * (shown - shown.min()) / np.ptp(shown)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT"])
def test_a_window_is_that_of_pydicom(function):
    made = header(**WINDOW, **({"VOILUTFunction": function} if function else {}))
    values = np.arange(-100, 800)
    expected = shown_by_pydicom(made, values)
    assert np.abs(stretched(values.astype(np.float32), window_of(made)) - expected).max() <= 1.01


def test_the_first_of_several_windows_counts():
    made = header(WindowCenter=[40, 600], WindowWidth=[80, 2800])
    assert window_of(made) == window_of(header(WindowCenter=40, WindowWidth=80))


def test_a_table_is_the_window_in_which_it_rises():
    made, item = header(), Dataset()
    table = np.concatenate([np.zeros(50), np.linspace(0, 65535, 201), np.full(49, 65535)])
    item.LUTDescriptor, item.LUTData = [300, 100, 16], table.astype(int).tolist()
    made.VOILUTSequence = [item]
    values = np.arange(0, 500)
    low, high = window_of(made)
    assert (low, high) == (153, 349)
    expected = shown_by_pydicom(made, values)
    assert np.abs(stretched(values.astype(np.float32), (low, high)) - expected).max() <= 5.1


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 2, "RescaleIntercept": -50}])
def test_the_window_of_an_image_whose_lowest_values_are_white_is_mirrored(
    signed, rescale, tmp_path
):
    """The picture is that of pydicom, inverted, as a viewer shows it."""
    stored = voxels((1, 30, 30), np.int16 if signed else np.uint16)[0]
    made = instance(stored, ImagePositionPatient=None, Modality="CR", **WINDOW, **rescale)
    made.PhotometricInterpretation = "MONOCHROME1"
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    native = dicom.decode([(tmp_path / "a.dcm").read_bytes()])
    window = window_of(dicom.header_of(tmp_path / "a.dcm"))
    slope, intercept = rescale.get("RescaleSlope", 1), rescale.get("RescaleIntercept", 0)
    values = stored.astype(float) * slope + intercept
    expected = 255 - shown_by_pydicom(made, values)
    assert np.abs(stretched(native[0], window) - expected).max() <= 1.01


def test_a_frame_has_the_window_of_its_functional_group():
    made = multiframe(voxels(), range(9))
    for tag, value in WINDOW.items():
        setattr(made, tag, value)
    for number, group in enumerate(made.PerFrameFunctionalGroupsSequence[:3]):
        window = Dataset()
        window.WindowCenter, window.WindowWidth = 10 * (number + 1), 11
        group.FrameVOILUTSequence = [window]
    assert window_of(made, 1) == (14.5, 24.5)
    shared = Dataset()
    shared.WindowCenter, shared.WindowWidth = 100, 11
    made.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [shared]
    assert window_of(made, 5) == (94.5, 104.5)


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"WindowCenter": 40},
        {"WindowCenter": 40, "WindowWidth": 0},
        {"WindowCenter": "", "WindowWidth": ""},
        {"VOILUTSequence": [Dataset()]},
    ],
)
def test_what_is_no_window_is_none(tags):
    assert window_of(header(**tags)) is None


def test_pictures_have_the_runs_window_before_the_files_and_that_before_the_models(tmp_path):
    windowed = read(write_series(tmp_path / "a", voxels(), **WINDOW))
    plain = read(write_series(tmp_path / "b", voxels(), uids=("1.2.4", "1.2.4.4", "1.2.4.5")))
    own, asked = Preprocess(PreprocessConfig()), Preprocess(PreprocessConfig(window=(40, 80)))
    assert display_window(own, windowed) == (100.0, 499.0)
    assert display_window(own, plain) == plain.volume.span
    assert display_window(asked, read(tmp_path / "a", window=(40, 80))) == (0.0, 80.0)

    image, made = LoadedImage(None, "", np.zeros((1, 9, 9), np.float32)), header(**WINDOW)
    own.range = (3.0, 7.0)
    assert display_window(own, image, made) == (100.0, 499.0)
    assert display_window(own, image) == (3.0, 7.0)
    assert display_window(asked, image, made) == (0.0, 80.0)
    assert display_window(Preprocess(PreprocessConfig(intensity="image")), image) is None


def test_an_overlay_shows_the_window_it_is_given():
    image = np.arange(100, dtype=np.float32).reshape(1, 10, 10)
    nothing = np.zeros((10, 10), np.float32)
    picture = overlay(image, nothing, (0, 1), (20, 60))[..., 0].ravel()
    assert np.array_equal(picture == 0, np.arange(100) <= 20)
    assert np.array_equal(picture == 255, np.arange(100) >= 60)
