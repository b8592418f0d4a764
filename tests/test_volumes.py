"""Volumes: every voxel finds its way back, whatever the source's geometry, and bad ones are refused
with a reason."""

import bz2
import gc
import gzip
import math
import shutil
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes
from PIL import Image, ImageDraw
from scipy import ndimage

import anodetect
from anodetect.commands.rescore import rescore
from anodetect.data import geometry, readers, scan
from anodetect.data.records import Record
from anodetect.data.series import series_of
from anodetect.data.volumes import MAX_VOXELS, Volume, decode_nifti
from anodetect.data.walk import walk
from anodetect.engines import worker
from anodetect.errors import ConfigError, DataError, ImageError, Interrupted, RunError
from anodetect.imaging.bias import remove_bias
from anodetect.imaging.foreground import otsu, volume_foreground
from anodetect.imaging.preprocess import PreparedVolume, Preprocess, PreprocessConfig
from anodetect.model.loading import Failed, LoadedImage, LoadedVolume, load
from anodetect.model.model import Model
from anodetect.output import nifti, volumes
from anodetect.record import directories, runs, verification
from anodetect.record.rows import SliceRow, to_table
from anodetect.record.runs import read as read_run
from anodetect.stats.calibration import Calibration
from anodetect.types import Silent

RNG = np.random.default_rng(0)
RAS_TO_LPS = np.diag([-1, -1, 1, 1])


def rotation(angles):
    a, b, c = angles
    x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return x @ y @ z


@st.composite
def affines(draw):
    """Rotated, sheared, mirrored and permuted, of any spacing."""
    angle = st.floats(-math.pi, math.pi)
    spacing = np.array([draw(st.floats(0.3, 6)) for _ in range(3)])
    shear = np.eye(3) + np.triu(np.full((3, 3), draw(st.floats(-0.3, 0.3))), 1)
    mirrors = np.diag([draw(st.sampled_from([-1, 1])) for _ in range(3)])
    affine = np.eye(4)
    affine[:3, :3] = rotation([draw(angle) for _ in range(3)]) @ shear @ mirrors @ np.diag(spacing)
    affine[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    return affine[:, [*draw(st.permutations([0, 1, 2])), 3]]


shapes = st.tuples(*[st.integers(8, 12)] * 3)


def save_nifti(path, array, affine, **header):
    """`affine` is NIfTI's own, RAS+."""
    image = nib.Nifti1Image(array, affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def prepared(path, **config):
    loaded = load(
        Record(path.name, path), Preprocess(PreprocessConfig(least_foreground=0, **config))
    )
    assert isinstance(loaded, LoadedVolume), loaded
    return loaded.volume


def write_nifti(path, values, volume, description):
    with path.open("wb") as file:
        nifti.write(file, values, volume, description)


def error_of(path, **record):
    loaded = load(Record(path.name, path, **record))
    return loaded.error if isinstance(loaded, Failed) else ""


# -- Geometry --------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(affines(), shapes, st.sampled_from([*geometry.PLANES, "auto"]), st.data())
def test_every_voxel_finds_its_way_back(affine, shape, plane, data):
    space = geometry.along(shape, affine, plane)
    source = np.arange(np.prod(shape)).reshape(shape)
    slices = space.to_slices(source)
    assert slices.shape == space.sides
    assert np.array_equal(space.to_source(slices), source)
    place = tuple(data.draw(st.integers(0, side - 1)) for side in space.sides)
    index = space.source_index(place)
    assert slices[place] == source[index]
    assert space.inside(index) == place
    assert np.allclose(space.position(place), (affine @ (*index, 1))[:3])


@settings(max_examples=60, deadline=None)
@given(affines(), st.sampled_from([*geometry.PLANES]))
def test_slices_rows_and_columns_run_where_the_plane_says(affine, plane):
    space = geometry.along((9, 10, 11), affine, plane)
    toward = "".join(
        # nibabel's own letters, of the axes as they come out; its codes are of RAS+ affines
        aff2axcodes(RAS_TO_LPS @ affine)[axis]
        if not flipped
        else geometry.OPPOSITE[aff2axcodes(RAS_TO_LPS @ affine)[axis]]
        for axis, flipped in zip(space.axes, space.flipped, strict=True)
    )
    assert toward == geometry.PLANES[plane]


@settings(max_examples=15, deadline=None)
@given(affine=affines(), shape=shapes, data=st.data())
def test_a_marked_voxel_comes_back_in_the_same_voxel_of_the_file(
    tmp_path_factory, affine, shape, data
):
    folder = tmp_path_factory.mktemp("marked")
    array = RNG.integers(50, 100, shape).astype(np.int16)
    place = tuple(data.draw(st.integers(0, side - 1)) for side in shape)
    array[place] = 2000
    volume = prepared(save_nifti(folder / "a.nii.gz", array, affine))
    write_nifti(folder / "b.nii", volume.slices[0].copy(), volume, "copy")
    back = nib.load(folder / "b.nii")
    assert np.array_equal(np.asarray(back.dataobj), array)
    assert np.argwhere(np.asarray(back.dataobj) == 2000).tolist() == [list(place)]
    assert np.array_equal(back.affine, nib.load(folder / "a.nii.gz").affine)


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_what_places_voxels_is_copied_bit_by_bit_and_nothing_else(tmp_path, kind, endian):
    header = kind.header_class(endianness=endian)
    image = kind(RNG.integers(0, 99, (10, 11, 12)).astype(np.int16), None, header)
    image.set_sform(np.diag([-2, 1.5, 3, 1]) + 0.1 * np.eye(4)[[1, 0, 2, 3]], 3)
    image.set_qform(np.diag([-2, 1.5, 3, 1.0]), 1)
    image.header.set_xyzt_units("mm", "msec")
    image.header["descrip"], image.header["aux_file"] = b"Jane Doe", b"doe.txt"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    nib.save(image, tmp_path / "a.nii")
    volume = prepared(tmp_path / "a.nii")
    write_nifti(tmp_path / "b.nii", np.zeros(volume.geometry.sides, np.float32), volume, "map")
    before, after = nib.load(tmp_path / "a.nii").header, nib.load(tmp_path / "b.nii").header
    for name in nifti.PLACED:
        assert before[name].tobytes() == after[name].tobytes(), name
    assert after.get_data_dtype().newbyteorder("=") == np.float32
    assert not after.extensions
    assert b"doe" not in (tmp_path / "b.nii").read_bytes().lower()


def test_auto_takes_the_plane_with_the_finest_pixels_and_axial_where_equal():
    assert geometry.along((9, 9, 9), np.diag([1.0, 1, 5, 1])).plane == "axial"
    assert geometry.along((9, 9, 9), np.diag([1.0, 4, 1, 1])).plane == "coronal"
    assert geometry.along((9, 9, 9), np.diag([3.0, 1, 1, 1])).plane == "sagittal"
    assert geometry.along((9, 9, 9), np.eye(4)).plane == "axial"
    assert (
        geometry.along((1, 64, 64), np.diag([1.0, 2, 2, 1])[:, [2, 1, 0, 3]]).plane == "axial"
    )  # not of 64 × 1
    assert geometry.along((64, 64, 7), np.diag([2.0, 2, 1, 1])).plane == "axial"
    assert (
        geometry.along((7, 7, 7), np.diag([1.0, 4, 1, 1])).plane == "coronal"
    )  # nothing better to be had
    assert geometry.edges("axial") == {"left": "R", "right": "L", "top": "A", "bottom": "P"}


def test_slices_of_the_volumes_are_the_slices_of_the_set(shared_data):
    source = shared_data / "lgg_volumes/lgg053_flair.nii.gz"
    volume = prepared(source)
    for png in sorted((shared_data / "lgg_flair/test").glob("*/lgg053_*.png"))[:6]:
        number = int(png.stem.split("_")[1])
        image = readers.read_image(png)[0]
        likeness = [np.corrcoef(image.ravel(), each.ravel())[0, 1] for each in volume.slices[0]]
        assert np.nanargmax(likeness) == number
        assert likeness[number] > 0.999


# -- Reading ---------------------------------------------------------------------------------------


def test_nrrd_and_nifti_of_the_same_volume_are_the_same(tmp_path):
    array = RNG.integers(-500, 500, (10, 11, 12)).astype(np.int16)
    affine = rotation([0.2, -0.1, 0.4]) @ np.diag([1, 2, 3])
    whole = np.eye(4)
    whole[:3, :3], whole[:3, 3] = affine, [5, 6, 7]
    save_nifti(tmp_path / "a.nii", array, RAS_TO_LPS @ whole)
    space = {
        "space": "left-posterior-superior",
        "space directions": affine.T,
        "space origin": [5, 6, 7],
    }
    for encoding in ("raw", "gzip"):
        nrrd.write(str(tmp_path / "a.nrrd"), array, space | {"encoding": encoding})
        one, other = prepared(tmp_path / "a.nii"), prepared(tmp_path / "a.nrrd")
        assert np.array_equal(one.slices, other.slices)
        assert np.allclose(one.geometry.affine, other.geometry.affine, atol=1e-4)


SPACES = {
    "left-posterior-superior": (1, 1, 1), "LPS": (1, 1, 1), "right-anterior-superior": (-1, -1, 1),
    "RAS": (-1, -1, 1), "left-anterior-superior": (1, -1, 1), "LAS": (1, -1, 1),
}  # fmt: skip


@pytest.mark.parametrize("space", SPACES)
def test_an_nrrd_lies_where_its_space_says(tmp_path, space):
    directions = rotation([0.2, -0.1, 0.4]) @ np.diag([1, 2, 3])
    header = {"space": space, "space directions": directions.T, "space origin": [5, 6, 7]}
    nrrd.write(str(tmp_path / "a.nrrd"), flat(), header)
    found = prepared(tmp_path / "a.nrrd").geometry.affine
    assert np.allclose(found[:3, 3], np.multiply(SPACES[space], [5, 6, 7]))
    assert np.allclose(found[:3, :3], np.diag(SPACES[space]) @ directions)


@pytest.mark.parametrize("first", [True, False])
def test_one_component_of_an_nrrd(tmp_path, first):
    """An axis that lies nowhere in space holds components."""
    array, directions = (
        flat((3, 10, 11, 12)),
        np.vstack([np.full((1, 3), np.nan), np.diag([1.0, 2, 3])]),
    )
    if not first:
        array, directions = np.moveaxis(array, 0, -1), np.roll(directions, -1, axis=0)
    header = {"space": "LPS", "space directions": directions, "space origin": [0, 0, 0]}
    nrrd.write(str(tmp_path / "a.nrrd"), array, header)
    assert b"none" in (tmp_path / "a.nrrd").read_bytes()[:600]
    assert "3 volumes in one file; choose one" in error_of(tmp_path / "a.nrrd")
    assert "no component 3" in error_of(tmp_path / "a.nrrd", component=3)
    found = load(Record("a", tmp_path / "a.nrrd", component=2)).volume
    assert np.array_equal(found.source.voxels[0], array[2] if first else array[..., 2])
    assert np.allclose(found.source.affine, np.diag([1, 2, 3, 1]))


def test_an_nrrd_that_lies_nowhere_or_has_its_data_elsewhere_is_refused(tmp_path):
    path = tmp_path / "a.nrrd"
    nrrd.write(
        str(path),
        flat(),
        {"space": "scanner-xyz", "space directions": np.eye(3), "space origin": [0] * 3},
    )
    assert "does not say how the volume lies in the patient" in error_of(path)
    nrrd.write(str(path), flat(), {"spacings": [1, 1, 1]})
    assert "does not say how the volume lies in the patient" in error_of(path)
    header = {"space": "LPS", "space directions": np.eye(3), "space origin": [0] * 3}
    nrrd.write(str(tmp_path / "b.nhdr"), flat(), header, detached_header=True)
    path.write_bytes((tmp_path / "b.nhdr").read_bytes())
    assert "its data lie in another file" in error_of(path)
    nrrd.write(str(path), flat(), header | {"encoding": "raw"})
    path.write_bytes(path.read_bytes().replace(b"encoding: raw", b"encoding: hex"))
    assert "an NRRD of encoding 'hex'; raw, ascii, gzip and bzip2 can be read" in error_of(path)


UNITS = {"meter": 1000, "micron": 0.001, "mm": 1, "unknown": 1}


@pytest.mark.parametrize("unit", UNITS)
def test_lengths_of_a_nifti_are_millimetres_inside_and_its_own_in_maps(tmp_path, unit):
    affine = np.diag([-1.0, -1, 3, 1])
    affine[:3, 3] = [20, 30, -40]
    small = np.diag([1 / UNITS[unit]] * 3 + [1]) @ affine
    image = nib.Nifti1Image(flat((20, 21, 12)), small)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    volume = prepared(tmp_path / "a.nii")
    assert volume.geometry.spacing == pytest.approx((3, 1, 1))
    assert np.allclose(volume.geometry.affine, RAS_TO_LPS @ affine, atol=1e-4)
    write_nifti(tmp_path / "b.nii", volume.slices[0].copy(), volume, "copy")
    before, after = nib.load(tmp_path / "a.nii"), nib.load(tmp_path / "b.nii")
    assert np.array_equal(before.affine, after.affine)
    assert before.header["xyzt_units"] == after.header["xyzt_units"]


@pytest.mark.parametrize(
    ("unit", "length"), [("m", 1000), ("µm", 0.001), ("um", 0.001), ("mm", 1), ("furlong", 1)]
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_lengths_of_an_nrrd_are_millimetres_inside(tmp_path, unit, length, encoding):
    header = {
        "space": "RAS",
        "space directions": np.diag([1, 2, 3]) / length,
        "space origin": [5 / length, 0, 0],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), flat(), header)
    line = f'space units: "{unit}" "{unit}" "{unit}"\n'.encode(encoding)
    (tmp_path / "a.nrrd").write_bytes(
        (tmp_path / "a.nrrd").read_bytes().replace(b"encoding:", line + b"encoding:", 1)
    )
    found = prepared(tmp_path / "a.nrrd").geometry.affine
    assert np.allclose(
        found, np.diag([-1, -2, 3, 1]) + np.outer([1, 0, 0, 0], [0, 0, 0, -5]), atol=1e-6
    )


def test_one_component_of_a_4d_file(tmp_path):
    array = RNG.integers(0, 99, (10, 11, 12, 3)).astype(np.int16)
    path = save_nifti(tmp_path / "a.nii.gz", array, np.eye(4))
    assert "3 volumes in one file; choose one" in error_of(path)
    assert "no component 3" in error_of(path, component=3)
    one = load(Record("a", path, component=2)).volume.source.voxels
    assert np.array_equal(one[0], array[..., 2])
    assert np.array_equal(prepared(path, component=2).source.voxels, one)


def test_scaled_and_signed_values_are_native_ones(tmp_path):
    array = RNG.integers(-1000, 3000, (10, 11, 12)).astype(np.int16)
    image = nib.Nifti1Image(array, np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nib.save(image, tmp_path / "a.nii")
    expected = nib.load(tmp_path / "a.nii").get_fdata()
    assert np.allclose(prepared(tmp_path / "a.nii").source.voxels[0], expected)
    assert expected.min() < -400


def flat(shape=(10, 11, 12)):
    return RNG.integers(0, 99, shape).astype(np.float32)


def header_with(content, offset, values):
    """A NIfTI-1 file with other bytes in its header."""
    return content[:offset] + values.tobytes() + content[offset + values.nbytes :]


def bad_volumes(folder):
    array = flat()
    plain = save_nifti(folder / "plain.nii", array, np.eye(4)).read_bytes()
    packed = gzip.compress(plain)
    holes = array.copy()
    holes[3, 3, 3] = np.nan
    srow = np.zeros((3, 4), np.float32)
    srow[:2, 0] = srow[2, 2] = srow[0, 1] = srow[1, 1] = 1
    huge = np.array([3, 30000, 30000, 30000], np.int16)
    return {
        "nan.nii": (
            save_nifti(folder / "x.nii", holes, np.eye(4)).read_bytes(),
            "1 voxel is NaN or infinite",
        ),
        "constant.nii": (
            save_nifti(folder / "x.nii", array * 0 + 3, np.eye(4)).read_bytes(),
            "the same value, 3",
        ),
        "truncated.nii.gz": (packed[: len(packed) // 2], "damaged or unreadable"),
        "sum.nii.gz": (packed[:-8] + bytes(4) + packed[-4:], "its compression is damaged"),
        "unended.nii.gz": (packed[:-3], "it ends too early"),
        "cut.nii": (plain[:-100], "damaged or unreadable (it ends too early)"),
        "offset.nii": (header_with(plain, 108, np.zeros(1, np.float32)), "begin at byte 0, inside"),
        "offset2.nii": (
            header_with(nib.Nifti2Image(array, np.eye(4)).to_bytes(), 168, np.array([352])),
            "begin at byte 352, inside",
        ),
        "bits.nii": (header_with(plain, 70, np.ones(2, np.int16)), "an unknown type (code 1)"),
        "type.nii": (header_with(plain, 70, np.full(2, 999, np.int16)), "type (code 999)"),
        "slope.nii": (header_with(plain, 112, np.full(2, np.inf, np.float32)), "is no number"),
        "inter.nii": (
            header_with(plain, 112, np.array([2, np.nan], np.float32)),
            "is no number",
        ),
        "quaternion.nii": (
            header_with(
                header_with(plain, 252, np.array([1, 0], np.int16)), 256, np.ones(3, np.float32)
            ),
            "the quaternion of its qform is no rotation",
        ),
        "empty.nii.gz": (b"", "the file is empty"),
        "magic.nii": (header_with(plain, 344, np.zeros(1, np.int32)), "without NIfTI's magic"),
        "axes.nii": (header_with(plain, 40, np.array([9], np.int16)), "axes (dim[0]) that is not"),
        "no axes.nii": (header_with(plain, 40, np.zeros(1, np.int16)), "(dim[0]) that is not 1"),
        "text.nii": (b"no volume at all" * 40, "not a NIfTI file"),
        "spacing.nii": (
            header_with(plain, 80, np.zeros(1, np.float32)),
            "voxel spacing 0 × 1 × 1 mm",
        ),
        "negative.nii": (
            header_with(plain, 84, -np.ones(1, np.float32)),
            "voxel spacing 1 × -1 × 1 mm",
        ),
        "affine.nii": (header_with(plain, 280, srow), "the affine cannot be inverted"),
        "zero.nii": (
            header_with(plain, 280, np.zeros((3, 4), np.float32)),
            "a voxel spacing of zero",
        ),
        "nowhere.nii": (header_with(plain, 252, np.zeros(2, np.int16)), "neither qform nor sform"),
        "bomb.nii.gz": (
            gzip.compress(header_with(plain, 40, huge)),
            f"is more than {MAX_VOXELS} voxels",
        ),
        "none.nii": (
            header_with(plain, 40, np.array([3, 10, 0, 12], np.int16)),
            "an empty volume, 10 × 0 × 12",
        ),
        "flat.nii": (
            save_nifti(folder / "x.nii", flat((10,)), np.eye(4)).read_bytes(),
            "1-D data",
        ),
        "small.nii": (
            save_nifti(folder / "x.nii", flat((9, 5, 5)), np.eye(4)).read_bytes(),
            "slices of 9 × 5 pixels",
        ),
        "text.nrrd": (b"NRRD0004\nno header", "not the header of an NRRD"),
    }


def test_bad_volumes_are_refused_with_the_reason(tmp_path):
    for name, (content, reason) in bad_volumes(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        found = error_of(tmp_path / name)
        assert reason in found, (name, found)
        assert "\n" not in found


def test_a_gzip_bomb_is_not_inflated(tmp_path):
    content = save_nifti(tmp_path / "a.nii", flat(), np.eye(4)).read_bytes()
    bomb = gzip.compress(content + bytes(2**26))
    (tmp_path / "a.nii.gz").write_bytes(bomb)
    assert np.array_equal(decode_nifti(bomb).voxels, decode_nifti(content).voxels)
    nrrd.write(
        str(tmp_path / "a.nrrd"),
        flat(),
        {"space": "LPS", "space directions": np.eye(3), "space origin": [0] * 3},
    )
    text, body = (tmp_path / "a.nrrd").read_bytes().split(b"\n\n", 1)
    body = gzip.decompress(body)
    for name, compress in (("gzip", gzip.compress), ("bzip2", bz2.compress)):
        start = text.replace(b"encoding: gzip", f"encoding: {name}".encode()) + b"\n\n"
        (tmp_path / "a.nrrd").write_bytes(start + compress(body))
        assert not error_of(tmp_path / "a.nrrd")
        (tmp_path / "a.nrrd").write_bytes(start + compress(body + bytes(2**24)))
        assert "inflates to more than its header has voxels for" in error_of(tmp_path / "a.nrrd")


def test_nibabels_own_odd_files_load_or_are_refused():
    found = walk(Path(nib.__file__).parent).files
    outcomes = [load(Record(path.name, path, files=series_of(path))) for path in found]
    assert len(outcomes) > 8
    reasons = [each.error for each in outcomes if isinstance(each, Failed)]
    assert all(reasons)
    assert not any("\n" in each or each.startswith("please report") for each in reasons)
    assert any("a mosaic of 48 slices" in each for each in reasons)  # made smaller for a test
    assert sum(isinstance(each, LoadedImage | LoadedVolume) for each in outcomes) >= 3


def test_a_healthy_brain_of_one_millimetre_comes_back_voxel_for_voxel(tmp_path):
    folder = Path(find_spec("nilearn").submodule_search_locations[0]) / "datasets/data"
    path = folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    volume = load(Record(path.name, path)).volume
    assert volume.geometry.plane == "axial"
    assert volume.geometry.spacing == (1, 1, 1)
    assert 0.15 < volume.foreground.mean() < 0.3  # a brain without its skull
    write_nifti(tmp_path / "a.nii", volume.slices[0], volume, "copy")
    source, back = nib.load(path), nib.load(tmp_path / "a.nii")
    assert np.array_equal(source.affine, back.affine)
    assert np.array_equal(source.get_fdata(dtype=np.float32), np.asarray(back.dataobj))


# -- Pictures --------------------------------------------------------------------------------------


def turned(world, codes):
    """An array [x, y, z] toward LPS+ of 2 × 1 × 1.5 mm, its middle at 0, stored with axes that run
    toward `codes`."""
    affine = np.diag([2, 1, 1.5, 1.0])
    affine[:3, 3] = -(np.array(world.shape) - 1) * [2, 1, 1.5] / 2
    axes = ["LPS".index(code if code in "LPS" else geometry.OPPOSITE[code]) for code in codes]
    array, placed = world.transpose(axes), affine[:, [*axes, 3]]
    for axis, code in enumerate(codes):
        if code not in "LPS":
            array = np.flip(array, axis)
            placed[:3, 3] += placed[:3, axis] * (array.shape[axis] - 1)
            placed[:3, axis] *= -1
    return Volume(np.ascontiguousarray(array[None], np.float32), placed)


LETTERS = {  # as a radiologist expects them: left, right, top, bottom
    "axial": "RLAP",
    "coronal": "RLSI",
    "sagittal": "APSI",
}


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PIR", "SLA"])
def test_pictures_show_a_marker_on_the_side_of_its_letter(monkeypatch, codes):
    """One at the patient's left, anterior and toward the head."""
    world = np.zeros((24, 49, 32), np.float32)
    world[17:19, 12:15, 22:24], world[18, 12, 22] = 1, 2
    volume = Preprocess(PreprocessConfig(foreground="all", least_foreground=0)).prepare(
        turned(world, codes)
    )
    heatmap = np.ascontiguousarray(volume.slices[0])
    drawn = []

    def text(self, place, said, *rest, **options):
        drawn.append((place, said))

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    found = np.asarray(
        Image.open(BytesIO(volumes.picture(heatmap, volume, (0.0, 1.0), kind="png"))).convert("L"),
        int,
    )
    side = volumes.PANEL
    for number, (plane, letters) in enumerate(LETTERS.items()):
        assert "".join(geometry.edges(plane).values()) == letters
        bright = np.argwhere(found[:side, number * (side + volumes.GAP) :][:, :side] > 100)
        row, column = bright.mean(0) / side - 0.5
        left, right, top, bottom = (letter in "LAS" for letter in letters)
        assert (column < -0.05, column > 0.05, row < -0.05, row > 0.05) == (
            left,
            right,
            top,
            bottom,
        ), plane
        written = drawn[5 * number : 5 * number + 5]
        at = {letter: (x / side, y / side) for (x, y), letter in written[:4]}
        ends = [at[letter] for letter in letters]
        assert ends[0][0] < 0.1 and ends[1][0] > 0.9 and ends[2][1] < 0.1 and ends[3][1] > 0.9
        expected = {"axial": "10 mm S", "coronal": "12 mm A", "sagittal": "13 mm L"}[plane]
        assert written[4][1] == f"{plane}, {expected}"


def test_places_are_said_toward_the_side_they_lie_on():
    for plane, (toward, away) in {"axial": "SI", "coronal": "PA", "sagittal": "LR"}.items():
        assert volumes.place_text((12.0, 12.0, 12.0), plane) == f"12 mm {toward}"
        assert volumes.place_text((-12.0, -12.0, -12.0), plane) == f"12 mm {away}"


# -- Preprocessing ---------------------------------------------------------------------------------


def head(shape=(6, 40, 44), lesion=None, rng=RNG, bright=100):
    """[D, H, W]: an ellipsoid with texture before a dark background."""
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    inside = (axes[0] * 0.7) ** 2 + (axes[1] / 0.8) ** 2 + (axes[2] / 0.7) ** 2 < 1
    volume = np.where(
        inside, bright + 8 * rng.normal(size=shape), 3 * np.abs(rng.normal(size=shape))
    )
    if lesion is not None:
        volume[lesion] += 0.9 * bright
    return volume.clip(0).astype(np.float32), inside


def test_otsus_threshold_parts_two_classes():
    values = np.concatenate([RNG.normal(10, 2, 5000), RNG.normal(60, 5, 1000)]).astype(np.float32)
    assert 14 < otsu(values) < 45


@pytest.mark.parametrize("shape", [(6, 40, 44), (5, 300, 280)])
def test_the_foreground_is_the_head_with_its_holes(shape):
    volume, inside = head(shape)
    cavity = np.s_[
        2:4, shape[1] // 2 - 3 : shape[1] // 2 + 3, shape[2] // 2 - 3 : shape[2] // 2 + 3
    ]
    volume[cavity] = 0
    found = volume_foreground(volume[None])
    overlap = 2 * (found & inside).sum() / (found.sum() + inside.sum())
    assert overlap > 0.95
    assert found[cavity].all()


def test_a_few_voxels_beside_nothing_are_a_foreground():
    volume = np.zeros((1, 12, 64, 64), np.float32)
    volume[0, 5:8, 20:28, 30:38] = 1  # less than the share that is cut off as too bright
    found = volume_foreground(volume)
    assert found.sum() > 0.9 * volume.sum() and not found[volume[0] == 0].any()
    with pytest.raises(ImageError, match="no foreground"):
        volume_foreground(np.zeros_like(volume))


def test_intensity_of_a_volume_is_its_own_but_hounsfield_units_are_everyones(tmp_path):
    from dataclasses import replace

    volume, _ = head()
    one = prepared(
        save_nifti(tmp_path / "a.nii", volume.transpose(2, 1, 0), np.eye(4)), axis="axial"
    )
    ten = prepared(
        save_nifti(tmp_path / "b.nii", 10 * volume.transpose(2, 1, 0), np.eye(4)), axis="axial"
    )
    preprocess = Preprocess(PreprocessConfig(axis="axial"))
    scaled, _ = preprocess.apply(one.slices[:, 2], one, 2)
    assert np.allclose(scaled, preprocess.apply(ten.slices[:, 2], ten, 2)[0], atol=1e-4)
    assert preprocess.prepare(replace(one.source, modality="CT")).span is None
    window = Preprocess(PreprocessConfig(axis="axial", window=(40, 400)))
    assert window.prepare(one.source).span == (-160, 240)


def test_slow_changes_of_brightness_are_evened_out():
    volume, inside = head((6, 60, 64))
    ramp = np.linspace(0.5, 1.5, 64, dtype=np.float32)
    found = remove_bias((volume * ramp)[None], inside, 8.0, (4.0, 1.0, 1.0))[0]
    left, right = (
        found[inside & np.pad(np.ones((6, 60, 20), bool), ((0, 0), (0, 0), at))]
        for at in ((8, 36), (36, 8))
    )
    assert (volume * ramp)[inside & (ramp > 1.2)].mean() > 1.6 * (volume * ramp)[
        inside & (ramp < 0.8)
    ].mean()
    assert abs(left.mean() / right.mean() - 1) < 0.15


# -- The whole way ---------------------------------------------------------------------------------

DEPTH = 6


def write_patients(folder, count, *, lesion=None, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        volume, _ = head(rng=rng, lesion=lesion, bright=50 * (1 + number % 3))
        affine = np.diag([-1.0, -1.0, 4.0, 1.0])
        affine[:3, 3] = [22, 20, -12]
        save_nifti(folder / f"p{number:02}.nii.gz", volume.transpose(2, 1, 0), affine)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = write_patients(tmp_path_factory.mktemp("volumes") / "normal", 30)
    out = tmp_path_factory.mktemp("runs") / "volumes"
    anodetect.train(str(folder), "pca", out, values={"size": 32})
    return out


LESION = np.s_[3, 18:22, 16:20]


@pytest.fixture(scope="module")
def scored(run, tmp_path_factory):
    folder = write_patients(tmp_path_factory.mktemp("new") / "new", 3, seed=1)
    write_patients(folder / "ill", 2, lesion=LESION, seed=2)
    out = tmp_path_factory.mktemp("scores") / "s"
    anodetect.score(run, [str(folder)], out, far=0.2)
    return folder, out


def test_each_slice_of_a_normal_volume_is_an_image_and_its_patient_a_group(run):
    calibration = read_run(run).calibration
    assert len(calibration.scores) == DEPTH * calibration.n_groups
    gc.collect()  # the last volume that was read does not stay in memory
    assert not any(type(each) is PreparedVolume for each in gc.get_objects())
    assert runs.facts(run).training.fit_images % DEPTH == 0
    assert read_run(run).header.preprocess["axis"] == "axial"
    rows = runs.read_manifest(run)
    assert len(rows) == len({row.path for row in rows}) == 30


def test_lesions_are_found_where_they_are(scored):
    folder, out = scored
    rows = {row.path: row for row in directories.read(out).rows}
    assert {row.depth for row in rows.values()} == {DEPTH}
    ill = [row for path, row in rows.items() if path.startswith("ill/")]
    well = [row for path, row in rows.items() if not path.startswith("ill/")]
    assert min(row.score for row in ill) > max(row.score for row in well)
    assert all(row.flagged for row in ill)
    heatmap = nib.load(out / ill[0].heatmap)
    assert np.array_equal(heatmap.affine, nib.load(folder / ill[0].path).affine)
    values = np.asarray(heatmap.dataobj)
    i, j, k = np.unravel_index(np.nanargmax(values), values.shape)
    assert k == 3
    assert 16 <= j <= 23
    assert 14 <= i <= 21


def test_the_profile_says_where_each_slice_lies(scored):
    _, out = scored
    slices = pq.read_table(out / "slices.parquet").to_pylist()
    mine = [row for row in slices if row["path"] == "ill/p00.nii.gz"]
    assert [row["slice"] for row in mine] == list(range(DEPTH))
    assert [row["superior_mm"] for row in mine] == pytest.approx(
        [-12 + 4 * k for k in range(DEPTH)]
    )
    assert mine[0]["left_mm"] == pytest.approx(-22 + 43 / 2)  # x runs to the left from -22 mm
    assert max(mine, key=lambda row: row["score"])["slice"] == 3
    row = next(row for row in directories.read(out).rows if row.path == "ill/p00.nii.gz")
    assert row.score == max(each["score"] for each in mine)


def test_a_volume_is_compared_with_pooled_calibration_groups(run, scored):
    calibration = read_run(run).calibration
    peaks = [
        max(s for s, g in zip(calibration.scores, calibration.groups, strict=True) if g == name)
        for name in sorted(set(calibration.groups))
    ]
    for row in directories.read(scored[1]).rows:
        expected = (1 + sum(peak >= row.score for peak in peaks)) / (len(peaks) + 1)
        assert row.p_value == pytest.approx(expected)
    slices = [row for row in directories.read_slices(scored[1]) if row.score is not None]
    assert [row.p_value for row in slices] == pytest.approx(
        calibration.p_values([r.score for r in slices], 0.2)
    )


def test_a_slice_scores_alike_whatever_else_is_scored(run, scored):
    folder, out = scored
    model = Model.load(read_run(run), "cpu")
    loaded = load(Record("x", folder / "p01.nii.gz"), model.preprocess, model.prepare)
    rows = [row for row in directories.read_slices(out) if row.path == "p01.nii.gz"]
    alone = load(Record("x", folder / "p01.nii.gz", slice=2), model.preprocess, model.prepare)
    found = model.score([alone.image], [alone.prepared], [2])
    assert np.isclose(found.image[0], rows[2].score, rtol=1e-5)
    assert loaded.volume.geometry.sides == (DEPTH, 40, 44)


def test_directories_of_volumes_verify_merge_and_score_again(run, scored, tmp_path):
    folder, out = scored
    assert anodetect.verify(out).intact
    assert rescore(out, 3) == []
    for part in ("1/2", "2/2"):
        anodetect.score(run, [str(folder)], tmp_path / part[0], far=0.2, shard=part)
    anodetect.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "m")
    for name in ("scores.parquet", "slices.parquet", "groups.parquet", "groups.csv"):
        assert (tmp_path / "m" / name).read_bytes() == (out / name).read_bytes(), name


def test_an_interrupted_scoring_of_volumes_goes_on_to_the_same_tables(
    run, scored, tmp_path, monkeypatch
):
    folder, out = scored
    real = worker.score_records

    def stops(*arguments, **options):
        for number, each in enumerate(real(*arguments, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(worker, "score_records", stops)
    with pytest.raises(Interrupted):
        anodetect.score(run, [str(folder)], tmp_path / "s", far=0.2, workers=1)
    monkeypatch.setattr(worker, "score_records", real)
    with pytest.raises(RunError, match="another identifiers"):
        anodetect.score(
            run, [str(folder)], tmp_path / "s", far=0.2, resume=True, keep_identifiers=True
        )
    anodetect.score(run, [str(folder)], tmp_path / "s", far=0.2, resume=True)
    for name in ("scores.parquet", "slices.parquet", "groups.parquet", "groups.csv"):
        assert (tmp_path / "s" / name).read_bytes() == (out / name).read_bytes(), name


def test_volumes_on_two_processes_give_the_same_slices(run, scored, tmp_path):
    folder, out = scored
    anodetect.score(run, [str(folder)], tmp_path / "s", far=0.2, workers=2)
    for one, other in zip(
        directories.read_slices(tmp_path / "s"), directories.read_slices(out), strict=True
    ):
        assert one.score == pytest.approx(other.score, rel=1e-5)
        assert replace(one, score=0.0) == replace(other, score=0.0)
    assert anodetect.verify(tmp_path / "s").intact
    assert rescore(tmp_path / "s", 2) == []


def test_an_edited_slice_is_noticed(scored, tmp_path):
    copy = shutil.copytree(scored[1], tmp_path / "copy")
    slices = directories.read_slices(copy)
    slices[3] = replace(slices[3], flagged=not slices[3].flagged)
    pq.write_table(to_table(slices, SliceRow), copy / "slices.parquet")
    problems = verification.verify(copy).problems
    assert "slices.parquet was changed" in problems
    assert any(text.startswith(f"slice {slices[3].slice} of {slices[3].path}") for text in problems)


def test_slices_without_enough_foreground_are_not_scored_and_said_so(run, tmp_path):
    volume, _ = head()
    volume[:2] = 1
    volume[:2, 0, 0] = 0
    path = save_nifti(tmp_path / "a.nii", volume.transpose(2, 1, 0), np.diag([-1.0, -1, 4, 1]))

    notes = []

    class Notes(Silent):
        def warn(self, text):
            notes.append(text)

    anodetect.score(run, [str(path)], tmp_path / "s", far=0.2, reporter=Notes())
    assert "2 of 6 slices were not scored (NaN): too little foreground" in notes
    values = np.asarray(nib.load(tmp_path / "s/heatmaps/a.nii_heatmap.nii").dataobj)
    assert np.isnan(values[:, :, :2]).all()
    assert np.isfinite(values[:, :, 2:]).all()
    assert [row.score is None for row in directories.read_slices(tmp_path / "s")] == [True] * 2 + [
        False
    ] * 4


def test_truth_and_foreground_from_a_manifest(run, tmp_path):
    write_patients(tmp_path, 2, lesion=LESION, seed=3)
    truth = np.zeros((DEPTH, 40, 44), np.uint8)
    truth[LESION] = 1
    reference = nib.load(tmp_path / "p00.nii.gz")
    save_nifti(tmp_path / "t.nii.gz", truth.transpose(2, 1, 0), reference.affine)
    inside = np.zeros((44, 40, DEPTH), np.uint8)
    inside[8:36, 8:32] = 1
    save_nifti(tmp_path / "f.nii.gz", inside, reference.affine)
    save_nifti(tmp_path / "wrong.nii.gz", inside[:-1], reference.affine)
    lines = [
        "path,label,mask,foreground",
        "p00.nii.gz,1,t.nii.gz,f.nii.gz",
        "p01.nii.gz,1,t.nii.gz,",
    ]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    result = anodetect.evaluate(run, str(tmp_path), far=0.2)
    point = result.whole.operating_point
    assert point.threshold == read_run(run).calibration.pooled().threshold(0.2)
    assert point.tpr == 1
    assert result.whole.pixel["ap"].value > 0.15
    assert load(scan.scan(tmp_path).records[0]).volume.foreground.sum() == inside.sum()
    (tmp_path / "manifest.csv").write_text("path,foreground\np00.nii.gz,wrong.nii.gz")
    assert "does not lie on the same grid" in load(scan.scan(tmp_path).records[0]).error


@pytest.mark.parametrize("config", [{"foreground": "all"}, {}])
def test_a_foreground_from_a_manifest_is_what_the_detector_sees(tmp_path, config):
    """Also where all pixels would be foreground, by setting or because images fill their frame."""
    array, inside = flat((20, 21, 10)), np.zeros((20, 21, 10), np.uint8)
    inside[3:15, 4:16] = 1
    path = save_nifti(tmp_path / "a.nii", array, np.diag([1.0, 1, 3, 1]))
    mask = save_nifti(tmp_path / "f.nii", inside, np.diag([1.0, 1, 3, 1]))
    preprocess = Preprocess(PreprocessConfig(**config))
    assert not preprocess.flat_background
    volume = load(Record("a", path, foreground=mask), preprocess).volume
    _, found = preprocess.apply(volume.slices[:, 2], volume, 2)
    assert found.sum() == 144 and np.array_equal(found, volume.foreground[2])
    plain = load(Record("a", path), preprocess).volume
    assert preprocess.apply(plain.slices[:, 2], plain, 2)[1].all()


def test_slices_as_images_and_volumes_fit_together(tmp_path):
    """A model of PNG slices scores volumes."""
    rng = np.random.default_rng(5)
    for number in range(30):
        volume, _ = head(rng=rng)
        Image.fromarray(volume[3].clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
    anodetect.train(
        str(tmp_path), "pca", tmp_path / "run", values={"size": 32, "refuse_unseen": False}
    )
    folder = write_patients(tmp_path / "new", 1, lesion=LESION, seed=6)
    anodetect.score(tmp_path / "run", [str(folder)], tmp_path / "s", far=0.2)
    assert max(directories.read_slices(tmp_path / "s"), key=lambda row: row.score).slice == 3
    assert not directories.read(tmp_path / "s").rows[0].differs


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    """A model that has seen slices 2 and 3 only, of heads of brightness 90 to 110, scaled as they
    are."""
    folder, rng = tmp_path_factory.mktemp("middle"), np.random.default_rng(11)
    for number in range(40):
        volume, _ = head(rng=rng, bright=90 + number / 2)
        Image.fromarray(volume[2 + number % 2].clip(0, 255).astype(np.uint8)).save(
            folder / f"{number}.png"
        )
    anodetect.train(str(folder), "pca", folder / "run", values={"size": 32, "intensity": "dataset"})
    return folder / "run"


def test_slices_outside_what_the_model_has_seen_are_not_scored_and_said_so(middle, tmp_path):
    affine, notes = np.diag([-1.0, -1, 4, 1]), []
    volume, _ = head(rng=np.random.default_rng(12), lesion=LESION)  # the outer slices are smaller
    volume[2] *= 1.5
    path = save_nifti(tmp_path / "a.nii", volume.transpose(2, 1, 0), affine)

    class Notes(Silent):
        def warn(self, text):
            notes.append(text)

    anodetect.score(middle, [str(path)], tmp_path / "s", far=0.2, reporter=Notes())
    unseen = [
        row.unscored == "outside what the model has seen"
        for row in directories.read_slices(tmp_path / "s")
    ]
    assert unseen == [
        True,
        True,
        True,
        False,
        True,
        True,
    ]  # the lesion of slice 3 is no reason to leave it out
    assert "5 of 6 slices were not scored (NaN): outside what the model has seen" in notes
    values = np.asarray(nib.load(tmp_path / "s/heatmaps/a.nii_heatmap.nii").dataobj)
    assert np.isnan(values).all((0, 1)).tolist() == unseen
    (row,) = directories.read(tmp_path / "s").rows
    assert row.score == directories.read_slices(tmp_path / "s")[3].score
    assert row.differs.startswith("most of its slices lie outside what the model has seen")
    assert any(row.differs in text for text in notes)
    assert anodetect.verify(tmp_path / "s").intact
    dark = save_nifti(tmp_path / "dark.nii", 0.3 * volume.transpose(2, 1, 0), affine)
    assert (
        "no slice is like those the model has learned from"
        in load(Record("x", dark), Model.load(read_run(middle), "cpu").preprocess).error
    )


def test_what_slices_are_like_is_learned_from_fit_and_tune_images_alone(middle):
    model, folder = Model.load(read_run(middle), "cpu"), middle.parent
    shares, brightness = [], []
    for row in runs.read_manifest(middle):
        if row.role in ("fit", "tune"):
            scaled, inside = model.preprocess.apply(readers.read_image(folder / row.path))
            shares.append(inside.mean())
            brightness.append(np.median(scaled[0][inside]))
    for found, values in zip(model.preprocess.trait_limits, (shares, brightness), strict=True):
        margin = 0.1 * (max(values) - min(values))
        assert found == pytest.approx((min(values) - margin, max(values) + margin), abs=1e-6)


@pytest.mark.parametrize("tile", [0, 32])
def test_maps_of_resampled_slices_come_back_in_the_source_grid(tmp_path, tile):
    folder = write_patients(tmp_path / "normal", 8)
    values = {"spacing": 0.8, "bias": 30.0, "size": 32, "tile": tile} | (
        {"size": 16} if tile else {}
    )
    anodetect.train(str(folder), "pca", tmp_path / "run", values=values)
    ill = write_patients(tmp_path / "ill", 1, lesion=LESION, seed=9)
    anodetect.score(tmp_path / "run", [str(ill)], tmp_path / "s", far=0.2)
    values = np.asarray(nib.load(tmp_path / "s/heatmaps/p00.nii.gz_heatmap.nii").dataobj)
    assert values.shape == (44, 40, DEPTH)
    assert np.isfinite(values[:, :, 3]).all()
    if tile:  # trained on too little to be good at it
        return
    i, j, k = np.unravel_index(np.nanargmax(values), values.shape)
    assert k == 3
    assert 14 <= i <= 21
    assert 16 <= j <= 23


def test_volumes_are_scaled_as_the_images_were_that_a_model_learned_from(tmp_path):
    rng = np.random.default_rng(7)
    for number in range(20):
        volume, _ = head(rng=rng)
        top = np.percentile(volume, 99)
        Image.fromarray((volume[3] * 200 / top).clip(0, 200).astype(np.uint8)).save(
            tmp_path / f"{number}.png"
        )
    anodetect.train(
        str(tmp_path), "pca", tmp_path / "run", values={"size": 32, "exported": [99, 200]}
    )
    model = Model.load(read_run(tmp_path / "run"), "cpu")
    new, _ = head(rng=rng)
    path = save_nifti(tmp_path / "new.nii", 7 * new.transpose(2, 1, 0), np.diag([-1.0, -1, 4, 1]))
    as_image = (new[3] * 200 / np.percentile(new, 99)).clip(0, 200)[None]
    expected, inside = model.preprocess.apply(as_image)
    volume = load(Record("x", path), model.preprocess, model.prepare).volume
    found, also = model.preprocess.apply(volume.slices[:, 3], volume, 3)
    assert np.allclose(found, expected, atol=1e-4)
    assert np.array_equal(inside, also)
    write_patients(tmp_path / "v", 20)
    with pytest.raises(ConfigError, match=r"p\d+\.nii\.gz is a volume; leave it out"):
        anodetect.train(str(tmp_path / "v"), "pca", tmp_path / "r", values={"exported": [99, 200]})


def test_slices_of_the_real_volumes_come_out_as_the_images_of_the_set(shared_data):
    """Pixel for pixel, scaled and cut where the set's images were: the 99.5th percentile of voxels
    above 20 is 255."""
    preprocess = Preprocess(PreprocessConfig(exported=(99.5, 255), exported_above=20))
    preprocess.range, preprocess.flat_background = (0.0, 255.0), True
    for name in ("lgg051", "lgg052", "lgg053", "lgg054", "lgg055"):
        path = shared_data / f"lgg_volumes/{name}_flair.nii.gz"
        volume = load(Record(name, path), preprocess).volume
        pngs = sorted((shared_data / "lgg_flair/test").glob(f"*/{name}_*.png"))
        assert pngs
        for png in pngs:
            number = int(png.stem.split("_")[1])
            image = readers.read_image(png)
            found, inside = preprocess.apply(volume.slices[:, number], volume, number)
            assert np.array_equal(np.floor((found + 1) * 127.5 + 1e-3), image)
            assert (
                inside == preprocess.apply(image)[1]
            ).mean() > 0.96  # a rim of one grey level, cut off in the image


def test_volumes_of_different_planes_are_not_mixed(tmp_path):
    for number, affine in enumerate([np.diag([1.0, 1, 4, 1])] * 20 + [np.diag([4.0, 1, 1, 1])]):
        save_nifti(tmp_path / f"{number}.nii", head(shape=(9, 10, 11))[0], affine)
    with pytest.raises(DataError, match="choose one with --axis"):
        anodetect.train(str(tmp_path), "pca", tmp_path / "run")
    with pytest.raises(ConfigError, match="axis"):
        anodetect.train(str(tmp_path), "pca", tmp_path / "run", values={"axis": "oblique"})


def test_pooled_calibration_is_exact_for_one_volume_per_group():
    calibration = Calibration(np.arange(12.0), np.arange(12.0), tuple("aaabbbcccddd"))
    assert calibration.pooled().p_values([5.5], 0.2) == pytest.approx([3 / 5])


def cut_out(scaled):
    """A head without air around it, scaled to mean 0 or not; and where the head is."""
    values, inside = head()
    if scaled:
        values = (values - values[inside].mean()) / values[inside].std()
    return values, inside


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("outside", [0, np.nan])
def test_what_surrounds_a_head_that_was_cut_out_is_background(tmp_path, scaled, outside):
    values, inside = cut_out(scaled)
    shown = np.where(inside, values, np.float32(outside))
    nib.save(nib.Nifti1Image(shown, np.diag([5.0, 1, 1, 1])), tmp_path / "a.nii")
    (record,) = scan.scan(tmp_path).records
    loaded = load(record, Preprocess(PreprocessConfig()))
    assert isinstance(loaded, LoadedVolume), loaded.error
    found = loaded.volume.foreground
    expected = loaded.volume.geometry.to_slices(ndimage.binary_fill_holes(inside))
    overlap = 2 * (found & expected).sum() / (found.sum() + expected.sum())
    assert overlap > 0.9


def test_nan_inside_a_volume_is_refused(tmp_path):
    values, inside = cut_out(scaled=True)
    values[tuple(np.argwhere(inside)[len(np.argwhere(inside)) // 2])] = np.nan
    shown = np.where(inside, values, np.float32(0))
    nib.save(nib.Nifti1Image(shown, np.diag([5.0, 1, 1, 1])), tmp_path / "a.nii")
    (record,) = scan.scan(tmp_path).records
    assert "1 voxel is NaN" in load(record, Preprocess(PreprocessConfig())).error


def test_true_masks_of_volumes_have_hashes_that_verify_compares(run, tmp_path):
    """In the order of slices, whatever the order of axes in the file of the mask."""
    data = tmp_path / "data"
    write_patients(data / "test" / "good", 2, seed=5)
    write_patients(data / "test" / "ill", 2, lesion=LESION, seed=6)
    marked = np.zeros((DEPTH, 40, 44), np.uint8)
    marked[LESION] = 1
    for number in range(2):
        image = nib.load(data / f"test/ill/p{number:02}.nii.gz")
        truth = data / "ground_truth" / "ill" / f"p{number:02}.nii.gz"
        truth.parent.mkdir(parents=True, exist_ok=True)
        save_nifti(truth, marked.transpose(2, 1, 0), image.affine)
    out = tmp_path / "s"
    anodetect.score(run, [str(data)], out, far=0.2, workers=1)
    rows = {row.path: row for row in directories.read(out).rows}
    hashes = {row.truth_sha256 for path, row in rows.items() if "/ill/" in path}
    assert hashes == {sha256(b"[6,40,44]" + marked.tobytes()).hexdigest()}
    assert {row.truth_sha256 for path, row in rows.items() if "/good/" in path} == {""}

    verdict = anodetect.verify(out, data=data)
    assert verdict.problems == ()
    said = "pixel metrics and their resamples: those of volumes are not measured again"
    assert said in verdict.not_looked_at
    save_nifti(truth, 1 - marked.transpose(2, 1, 0), image.affine)
    (problem,) = anodetect.verify(out, data=data).problems
    assert problem.endswith("that pixels were measured with: test/ill/p01.nii.gz")
    truth.unlink()
    verdict = anodetect.verify(out, data=data)
    assert verdict.problems == ()
    assert "true masks: 1 not there or not readable" in verdict.not_looked_at
