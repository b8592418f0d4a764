"""Padding outside a scanner's circle is air, however low or high it is stored."""

from io import BytesIO

import nibabel as nib
import numpy as np
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from test_dicom import instance, read, write_series

from anodetect.data import dicom, scan
from anodetect.data.volumes import decode_nifti
from anodetect.errors import ImageError
from anodetect.imaging.padding import padding_as_air
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.model.loading import load

N = 72
ROWS, COLUMNS = np.mgrid[:N, :N] - N / 2
BODY = (ROWS**2 / 1.4 + COLUMNS**2) < (N * 0.33) ** 2
LUNGS = ((ROWS - 9) ** 2 + COLUMNS**2 < 60) | ((ROWS + 9) ** 2 + COLUMNS**2 < 60)
RNG = np.random.default_rng(0)
CIRCLE = ROWS**2 + COLUMNS**2 < (N * 0.49) ** 2


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory, monkeypatch):
    """A key for pseudonyms of the tests' own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


def chest(pad, noise=12, slices=6, inside=CIRCLE):
    """A CT [K, R, C] in Hounsfield units."""
    rng = np.random.default_rng(0)
    made = np.full((slices, N, N), -1000.0)
    made[:, BODY] = 40
    made[:, LUNGS & BODY] = -800
    made += rng.normal(0, noise, made.shape)
    made[:, ~inside] = pad
    return np.round(made).astype(np.int16)


def prepared(voxels, **config):
    image = nib.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([-1, -1, 2.5, 1]))
    return Preprocess(PreprocessConfig(**config)).prepare(decode_nifti(image.to_bytes()))


@pytest.mark.parametrize("noise", [3, 12, 40])
@pytest.mark.parametrize("pad", [-1024, -1500, -2000, -2048, -3024, -8192, -32768])
def test_the_foreground_of_a_ct_does_not_depend_on_its_padding(pad, noise):
    usual = prepared(chest(-1024, noise)).share
    found = prepared(chest(pad, noise)).share
    assert np.abs(found - usual).max() < 0.01
    assert abs(float(found[0]) - BODY.mean()) < 0.05


def test_two_paddings_and_an_edge_between_padding_and_air():
    voxels = chest(-3024)
    voxels[:, :2] = -2000
    voxels[:, :, 36][:, :3] = -1777  # resampled
    assert np.abs(prepared(voxels).share - prepared(chest(-1024)).share).max() < 0.01


def test_padding_becomes_the_lowest_value_of_the_rest():
    voxels = chest(-3024)[None].astype(np.float32)
    found = padding_as_air(voxels, hounsfield=False)
    assert found.min() == voxels[voxels >= -1024].min()
    assert np.array_equal(found[voxels >= -1024], voxels[voxels >= -1024])


@pytest.mark.parametrize(
    "voxels",
    [
        np.random.default_rng(1).uniform(-4096, 4095, (1, 4, 30, 30)),  # a phase
        np.random.default_rng(1).normal(0, 900, (1, 4, 30, 30)),
        np.random.default_rng(1).uniform(0, 3000, (1, 4, 30, 30)),  # MRI
        np.full((1, 2, 9, 9), -3024.0),
    ],
)
def test_other_volumes_stay_bit_for_bit(voxels):
    voxels = voxels.astype(np.float32)
    assert padding_as_air(voxels, hounsfield=False) is voxels


def test_a_dicom_ct_is_known_by_its_modality(tmp_path):
    voxels = chest(-2000)
    voxels[:, ~CIRCLE] -= np.arange((~CIRCLE).sum()).astype(np.int16)  # no few values
    tags = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0}
    found = read(write_series(tmp_path / "a", voxels, **tags)).volume
    usual = read(write_series(tmp_path / "b", chest(-1024), **tags)).volume
    assert np.abs(found.share - usual.share).max() < 0.01
    assert found.slices.min() >= -1024


@pytest.mark.parametrize(
    ("stored_pad", "tags"),
    [
        (-2000, {"PixelPaddingValue": -2000}),
        (-2000, {"PixelPaddingValue": 63536}),  # written as unsigned
        (30000, {"PixelPaddingValue": 30000}),
        (30000, {"PixelPaddingValue": 29990, "PixelPaddingRangeLimit": 30010}),
        (30000, {"PixelPaddingValue": 30010, "PixelPaddingRangeLimit": 29990}),
    ],
)
@pytest.mark.parametrize(
    ("modality", "syntax"), [("CT", ExplicitVRLittleEndian), ("MR", ImplicitVRLittleEndian)]
)
def test_dicom_says_which_value_is_padding(tmp_path, stored_pad, tags, modality, syntax):
    voxels = chest(stored_pad)
    rescale = {"RescaleSlope": 1, "RescaleIntercept": -24}

    def mark(number, made):
        for name, value in tags.items():
            made.add_new(name, "US" if value > 32767 else "SS", value)

    folder = write_series(
        tmp_path / "a", voxels, change=mark, Modality=modality, syntax=syntax, **rescale
    )
    found = read(folder)
    inner = voxels[:, CIRCLE] - 24.0
    assert found.volume.source.voxels.min() == inner.min()
    assert found.volume.source.voxels.max() == inner.max()
    if modality == "CT":
        usual = read(write_series(tmp_path / "b", chest(-1000), Modality="CT", **rescale)).volume
        assert np.abs(found.volume.share - usual.share).max() < 0.01


@pytest.mark.parametrize("limit", [None, -8000.0])
@pytest.mark.parametrize("kind", ["Float", "DoubleFloat"])
def test_padding_of_floats_becomes_the_lowest_of_the_others(tmp_path, kind, limit):
    stored = RNG.normal(size=(9, 12, 14)).astype("<f4" if kind == "Float" else "<f8")
    inner = stored[:, 3:].astype(np.float32)
    stored[:, :2], stored[:, 2] = -9999, -9999 if limit is None else -8500
    for number, plane in enumerate(stored):
        made = instance(np.zeros(plane.shape, "<u2"), number=number)
        for tag in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
            delattr(made, tag)
        made.BitsAllocated = 8 * stored.itemsize
        setattr(made, f"{kind}PixelData", plane.tobytes())
        setattr(made, f"{kind}PixelPaddingValue", -9999.0)
        if limit is not None:
            setattr(made, f"{kind}PixelPaddingRangeLimit", limit)
        made.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    (record,) = scan.scan(tmp_path).records
    found = load(record).volume.source.voxels[0]
    assert np.array_equal(found[:, 3:], inner)
    assert (found[:, :3] == inner.min()).all()


def test_padding_of_an_inverted_radiograph_is_dark():
    stored = np.random.default_rng(2).integers(10, 4000, (12, 14)).astype(np.uint16)
    stored[:3] = 0  # the brightest value of MONOCHROME1
    made = instance(
        stored,
        Modality="DX",
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=0,
        ImagePositionPatient=None,
    )
    assert len(decoded(made)) == 1
    assert (decoded(made)[0, :3] == 65535 - int(stored[3:].max())).all()
    stored[:] = 0
    made.PixelData = stored.tobytes()
    with pytest.raises(ImageError, match="all pixels are padding"):
        decoded(made)


def decoded(made):
    buffer = BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return dicom.decode([buffer.getvalue()])
