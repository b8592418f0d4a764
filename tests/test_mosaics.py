"""Siemens mosaics: slices side by side in one picture, read as the volumes they are."""

import re
import struct
import warnings

import numpy as np
import pytest
from pydicom.dataset import Dataset
from test_dicom import instance, own_key

from anodetect.data import scan
from anodetect.data.dicom_mosaic import is_mosaic
from anodetect.data.records import Record
from anodetect.model.loading import Failed, LoadedVolume, load
from anodetect.output.about import About
from anodetect.output.formats import write_files
from anodetect.output.volumes import VolumeMap
from anodetect.stats.mask_rule import pixel_rule

assert own_key  # a fixture for all tests of this module
RNG = np.random.default_rng(0)
COUNT, ROWS, COLUMNS, SIDE = 7, 12, 16, 3
SPACING = 4.0


def csa(**values):
    """A private header (CSA2, SV10) of these numbers."""
    parts = [b"SV10\4\3\2\1", struct.pack("<2I", len(values), 77)]
    for name, numbers in values.items():
        head = struct.pack("<64si4siii", name.encode(), len(numbers), b"FD", 0, 6, 77)
        parts.append(head)
        for number in [*numbers, *[None] * (6 - len(numbers))]:
            text = b"" if number is None else f"{number:.8f}".encode() + b"\0"
            parts.append(struct.pack("<4i", len(text), len(text), 77, len(text)))
            parts.append(text + bytes(-len(text) % 4))
    return b"".join(parts)


def csa1(**values):
    """The same numbers in a header of the first kind, as nibabel's page on it describes it. Its
    first entry has 5 values, which are added to all lengths."""
    parts = [struct.pack("<2I", len(values) + 1, 77)]
    for name, numbers in ({"EchoLinePosition": [64]} | values).items():
        size = 5 if name == "EchoLinePosition" else 6
        parts.append(struct.pack("<64si4siii", name.encode(), len(numbers), b"DS", 3, size, 205))
        for number in [*numbers, *[None] * (size - len(numbers))]:
            text = b"" if number is None else f"{number:.8f}".encode() + b"\0"
            parts.append(struct.pack("<4i", len(text) + 5, 0, 77, 0))
            parts.append(text + bytes(-len(text) % 4))
    return b"".join(parts)


def mosaic(stored, number=0, *, sign=1, private=csa, count=True, **tags):
    """A file of slices [K, R, C] side by side; they run with or against the normal."""
    tiles = np.zeros((SIDE * SIDE, ROWS, COLUMNS), stored.dtype)
    tiles[:COUNT] = stored
    whole = tiles.reshape(SIDE, SIDE, ROWS, COLUMNS).swapaxes(1, 2)
    tags = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]} | tags
    made = instance(whole.reshape(SIDE * ROWS, SIDE * COLUMNS).copy(), number=0, **tags)
    made.InstanceNumber, made.AcquisitionNumber = number + 1, number + 1
    made.SpacingBetweenSlices = SPACING
    normal = np.cross(*np.array(made.ImageOrientationPatient, float).reshape(2, 3)) * sign
    values = {"NumberOfImagesInMosaic": [COUNT]} if count else {}
    if private:
        block = made.private_block(0x29, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", private(**values, SliceNormalVector=normal.tolist()))
    return made


def volume():
    return RNG.integers(0, 2000, (COUNT, ROWS, COLUMNS)).astype("<u2")


def read(folder, component=None):
    (record,) = scan.scan(folder).records
    return load(Record(record.id, record.path, files=record.files, component=component))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_mosaic_is_a_volume_where_nibabel_places_it(tmp_path, sign):
    stored = volume()
    made = mosaic(stored, sign=sign)
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    loaded = read(tmp_path)
    assert isinstance(loaded, LoadedVolume), loaded.error

    with warnings.catch_warnings():  # that it is experimental
        warnings.simplefilter("ignore")
        from nibabel.nicom.dicomwrappers import MosaicWrapper

        wrapper = MosaicWrapper(made)
    found, expected = loaded.volume.source, wrapper.affine.copy()  # (row, column, slice) to LPS
    assert wrapper.image_shape == (ROWS, COLUMNS, COUNT)
    corner = np.array([[0, 0, 0, 1], [ROWS - 1, COLUMNS - 1, COUNT - 1, 1]])
    ends = []
    for row, column, number, one in corner:
        (index,) = np.argwhere([np.array_equal(each, stored[number]) for each in found.voxels[0]])
        ends.append(found.affine @ (index[0], row, column, one))
    assert np.allclose(ends, corner @ expected.T, atol=1e-4)
    assert sorted(map(bytes, found.voxels[0])) == sorted(map(bytes, stored.astype(np.float32)))


@pytest.mark.parametrize("sign", [1, -1])
def test_both_kinds_of_private_header_say_the_same(tmp_path, sign):
    stored, found = volume(), []
    for kind in (csa, csa1):
        (tmp_path / kind.__name__).mkdir()
        made = mosaic(stored, sign=sign, private=kind)
        made.save_as(tmp_path / kind.__name__ / "a.dcm", enforce_file_format=True)
        found.append(read(tmp_path / kind.__name__).volume.source)
    assert np.array_equal(found[0].voxels, found[1].voxels)
    assert np.allclose(found[0].affine, found[1].affine)


def test_mosaics_of_a_series_are_the_times_of_a_volume(tmp_path):
    stored = [volume(), volume()]
    for number, each in enumerate(stored):
        mosaic(each, number).save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    failed = read(tmp_path)
    assert isinstance(failed, Failed)
    assert "2 volumes in one series: 'acquisition 1', 'acquisition 2'" in failed.error
    second = read(tmp_path, "acquisition 2").volume.source.voxels[0]
    assert np.array_equal(second, stored[1])


def test_the_scanners_own_count_will_do(tmp_path):
    stored = volume()
    made = mosaic(stored, count=False, ImageType=["ORIGINAL", "PRIMARY", "M"])
    block = made.private_block(0x19, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "US", COUNT)
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert np.array_equal(read(tmp_path).volume.source.voxels[0], stored)


BAD = {
    "no private header": (
        lambda: mosaic(volume(), private=None),
        "how many there are; export it again as enhanced DICOM or in single slices, or with its",
    ),
    "no count": (lambda: mosaic(volume(), count=False), "private header .* how many"),
    "no place": (lambda: mosaic(volume(), ImagePositionPatient=None), "no place in the patient"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mosaic_that_does_not_say_where_slices_lie_is_no_picture(tmp_path, name):
    make, reason = BAD[name]
    make().save_as(tmp_path / "a.dcm", enforce_file_format=True)
    failed = read(tmp_path)
    assert isinstance(failed, Failed)
    assert re.search(reason, failed.error), failed.error


def test_frames_that_call_themselves_a_mosaic_are_none():
    made = mosaic(volume())
    assert is_mosaic(made)
    made.NumberOfFrames = COUNT
    assert not is_mosaic(made)


@pytest.mark.parametrize("kind", [csa, csa1])
@pytest.mark.parametrize("kept", [0, 3, 30, 100, 150, 200])
def test_a_private_header_that_is_cut_off_is_none(tmp_path, kind, kept):
    def cut(**values):
        return kind(**values)[:kept]

    mosaic(volume(), private=cut).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "how many there are" in read(tmp_path).error


def test_a_damaged_private_header_is_no_reason_of_a_library(tmp_path):
    made = mosaic(volume(), private=None)
    block = made.private_block(0x29, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", b"SV10\4\3\2\1\xff\xff")
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "how many there are" in read(tmp_path).error


def test_a_map_of_a_mosaic_has_its_slices_and_places(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    made = mosaic(volume())
    (tmp_path / "s").mkdir()
    made.save_as(tmp_path / "s/a.dcm", enforce_file_format=True)
    prepared = read(tmp_path / "s").volume
    heatmap = RNG.uniform(0, 1, prepared.geometry.sides).astype(np.float32)
    stem = tmp_path / "map"
    shown = VolumeMap(
        heatmap, prepared, (0, 1), pixel_rule(0.9), about=About("patient-1", "0" * 64)
    )
    write_files(stem, ["dicom", "nifti"], "volume", shown)
    found = pydicom.dcmread(f"{stem}_heatmap.dcm")
    assert found.NumberOfFrames == COUNT
    expected, affine = prepared.geometry.to_source(heatmap), prepared.source.affine
    groups = found.PerFrameFunctionalGroupsSequence
    for frame, group in zip(found.pixel_array, groups, strict=True):
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        number = round(float((np.linalg.inv(affine) @ (*place, 1))[0]))
        assert np.allclose(place, affine[:3, 3] + number * affine[:3, 0], atol=1e-3)
        assert np.array_equal(frame, expected[number])


def united(stored, *, places=True, **tags):
    """A file of United Imaging of slices [K, R, C] side by side, in as many rows as needed, that
    lists the place of each."""
    down = -(-COUNT // SIDE) - 1  # of 6 slices 2 rows of 3
    count = down * SIDE
    tiles = stored[:count].reshape(down, SIDE, ROWS, COLUMNS).swapaxes(1, 2)
    kind = {"ImageType": ["ORIGINAL", "PRIMARY", "M", "VFRAME"]}
    made = instance(tiles.reshape(down * ROWS, SIDE * COLUMNS).copy(), number=0, **kind | tags)
    block = made.private_block(0x65, "Image Private Header", create=True)
    items = []
    for number in range(count if places else 0):
        items.append(Dataset())
        items[-1].ImagePositionPatient = instance(stored[0], number=number).ImagePositionPatient
    block.add_new(0x51, "SQ", items)
    return made, count


def test_a_mosaic_that_lists_the_place_of_each_slice_is_the_series_of_these_slices(tmp_path):
    stored = volume()
    made, count = united(stored)
    for name in ("mosaic", "slices"):
        (tmp_path / name).mkdir()
    made.save_as(tmp_path / "mosaic/a.dcm", enforce_file_format=True)
    for number in range(count):
        one = instance(stored[number], number=number)
        one.save_as(tmp_path / f"slices/{number}.dcm", enforce_file_format=True)
    found, expected = (read(tmp_path / name).volume.source for name in ("mosaic", "slices"))
    assert np.array_equal(found.voxels, expected.voxels) and len(found.voxels[0]) == count
    assert np.allclose(found.affine, expected.affine, atol=1e-6)


def no_list():
    return united(volume(), places=False)[0]


def named_by_software_xa(nested):
    """A file whose image type hides that it is a mosaic: only a private attribute says it, of the
    file or in its functional group."""
    made = mosaic(volume(), private=None, ImageType=["ORIGINAL", "PRIMARY", "M", "NONE"])
    group = made
    if nested:
        made.PerFrameFunctionalGroupsSequence = [Dataset()]
        outer = made.PerFrameFunctionalGroupsSequence[0]
        group = Dataset()
        outer.private_block(0x21, "SIEMENS MR SDI 02", create=True).add_new(0xFE, "SQ", [group])
    block = group.private_block(0x21, "SIEMENS MR SDI 02", create=True)
    block.add_new(0x75, "CS", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    return made


HIDDEN = {
    "file": lambda: named_by_software_xa(nested=False),
    "group": lambda: named_by_software_xa(nested=True),
    "no list": no_list,
}


@pytest.mark.parametrize("name", HIDDEN)
def test_a_mosaic_that_does_not_call_itself_one_is_no_picture(tmp_path, name):
    HIDDEN[name]().save_as(tmp_path / "a.dcm", enforce_file_format=True)
    failed = read(tmp_path)
    assert isinstance(failed, Failed)
    assert "private header that says how many there are" in failed.error
    advice = "an enhanced file holds it" if name == "group" else "export it again as enhanced"
    assert advice in failed.error
