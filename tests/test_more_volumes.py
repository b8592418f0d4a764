"""Volumes in a header and a data file, slices with two axes, FreeSurfer, MetaImage, odd names."""

import gzip
import hashlib
import re
import shutil
import struct
import sys

import nibabel as nib
import nrrd
import numpy as np
import pytest

import anodetect
from anodetect.data import cards, formats, readers
from anodetect.data.records import Record
from anodetect.data.scan import scan
from anodetect.data.volumes import decode_nifti
from anodetect.data.walk import walk
from anodetect.errors import DataError, ImageError
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.output import nifti
from anodetect.record import directories

RNG = np.random.default_rng(3)
VOXELS = RNG.integers(0, 900, (9, 10, 12)).astype(np.int16)
AFFINE = np.array([[-0.5, 0, 0, 10.0], [0, -0.75, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1]])
FLIP = np.diag([-1.0, -1, 1, 1])


def decoded(path):
    return readers.read_source(Record(path.name, path)).decode()


def nhdr(folder, data_file, name="a.nhdr", body=None, encoding="raw", lines=()):
    """A detached NRRD header, and its data in a file of this name."""
    text = [
        "NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior",
        "sizes: 9 10 12", "space directions: (0.5,0,0) (0,0.75,0) (0,0,2)",
        "space origin: (1,2,3)", "endian: little", f"encoding: {encoding}",
        f"data file: {data_file}", *lines,
    ]  # fmt: skip
    (folder / name).write_text("\n".join(text) + "\n")
    if body is not None:
        place = folder / data_file
        place.parent.mkdir(exist_ok=True, parents=True)
        place.write_bytes(body)
    return folder / name


BODY = VOXELS.tobytes(order="F")


@pytest.mark.parametrize(
    ("encoding", "body", "lines"),
    [
        ("raw", BODY, ()),
        ("gzip", gzip.compress(BODY), ()),
        ("raw", b"x" * 7 + BODY, ("byte skip: 7",)),
        ("raw", b"x" * 99 + BODY, ("byte skip: -1",)),
        ("raw", b"a line\n" + BODY, ("line skip: 1",)),
    ],
)
def test_an_nrrd_whose_data_lie_beside_it(tmp_path, encoding, body, lines):
    path = nhdr(tmp_path, "a.bin", body=body, encoding=encoding, lines=lines)
    found = decoded(path)
    assert np.array_equal(found.voxels[0], VOXELS)
    assert np.array_equal(found.voxels[0], nrrd.read(str(path))[0])
    assert np.allclose(found.affine[:3, 3], (1, 2, 3))

    source = readers.read_source(Record("a", path))
    assert source.sha256 == hashlib.sha256(path.read_bytes() + body).hexdigest()
    assert [record.id for record in scan(tmp_path).records] == ["a.nhdr"]
    with pytest.raises(DataError, match=r"a\.bin: the data of a\.nhdr; name that file"):
        cards.open_data(str(tmp_path / "a.bin"))


def test_data_that_are_compressed_belong_to_their_header(tmp_path):
    for name in ("a.raw.gz", "a.raw", "A.NHDR.raw", "b.raw"):
        (tmp_path / name).write_bytes(b"0")
    (tmp_path / "a.nhdr").write_bytes(b"0")
    found = {path.name for path in tmp_path.iterdir() if formats.header_beside(path)}
    assert found == {"a.raw.gz", "a.raw"}


def test_data_may_lie_in_a_folder_below(tmp_path):
    assert np.array_equal(decoded(nhdr(tmp_path, "raw/a.bin", body=BODY)).voxels[0], VOXELS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../out.bin", "leads out of the folder"),
        ("/tmp/out.bin", "leads out of the folder"),
        ("C:\\out.bin", "leads out of the folder"),
        ("..\\out.bin", "leads out of the folder"),
        ("raw/../../out.bin", "leads out of the folder"),
        ("nothing.bin", "nothing.bin is missing"),
        ("LIST", "several files"),
        ("a%03d.bin 1 9 1", "several files"),
        ("link.bin", "link out of the folder"),
    ],
)
def test_data_elsewhere_are_refused(tmp_path, name, reason):
    (tmp_path / "in").mkdir()
    (tmp_path / "out.bin").write_bytes(BODY)
    (tmp_path / "in/link.bin").symlink_to(tmp_path / "out.bin")
    path = nhdr(tmp_path / "in", name)
    with pytest.raises(ImageError, match=reason) as caught:
        decoded(path)
    assert "\n" not in str(caught.value)


def test_a_linked_header_may_have_linked_data(tmp_path):
    (tmp_path / "in").mkdir()
    path = nhdr(tmp_path, "a.bin", body=BODY)
    (tmp_path / "in/a.nhdr").symlink_to(path)
    (tmp_path / "in/a.bin").symlink_to(tmp_path / "a.bin")
    assert np.array_equal(decoded(tmp_path / "in/a.nhdr").voxels[0], VOXELS)


def test_nrrd_and_nhdr_are_not_mixed(tmp_path):
    path = nhdr(tmp_path, "a.bin", body=BODY)
    with pytest.raises(ImageError, match=r"another file; call it \.nhdr"):
        decoded(path.rename(tmp_path / "a.nrrd"))
    nrrd.write(str(tmp_path / "b.nrrd"), VOXELS)
    with pytest.raises(ImageError, match=r"names no data file; .* is called \.nrrd"):
        decoded((tmp_path / "b.nrrd").rename(tmp_path / "b.nhdr"))


# -- Pairs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair, nib.AnalyzeImage])
def test_pairs_are_one_record_and_read_as_nibabel_does(tmp_path, kind):
    image = kind(VOXELS, AFFINE)
    nib.save(image, tmp_path / "a.img")
    (record,) = scan(tmp_path).records
    assert record.id == "a.hdr"
    (passed_over,) = walk(tmp_path).passed_over.all()
    assert (passed_over.first, passed_over.reason) == ("a.img", "data of the header beside them")
    found = readers.read_source(record)
    both = (tmp_path / "a.hdr").read_bytes() + (tmp_path / "a.img").read_bytes()
    assert found.sha256 == hashlib.sha256(both).hexdigest()
    volume = found.decode()
    assert np.array_equal(volume.voxels[0], VOXELS)
    assert np.allclose(volume.affine, FLIP @ nib.load(tmp_path / "a.hdr").affine)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair, nib.AnalyzeImage])
def test_maps_of_pairs_are_single_files_in_the_same_place(tmp_path, kind):
    nib.save(kind(VOXELS, AFFINE), tmp_path / "a.img")
    volume = Preprocess(PreprocessConfig(foreground="all")).prepare(decoded(tmp_path / "a.hdr"))
    with (tmp_path / "map.nii").open("wb") as file:
        nifti.write(file, volume.slices[0], volume, "a map")
    written = nib.load(tmp_path / "map.nii")
    assert np.array_equal(written.get_fdata(), VOXELS)
    assert np.allclose(written.affine, nib.load(tmp_path / "a.hdr").affine)


def test_a_header_without_voxels_or_of_another_kind_says_so(tmp_path):
    nib.save(nib.AnalyzeImage(VOXELS, AFFINE), tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    with pytest.raises(ImageError, match=r"data file a\.img is missing"):
        decoded(tmp_path / "a.hdr")
    (tmp_path / "envi.hdr").write_text("ENVI\nsamples = 12\n")
    with pytest.raises(ImageError, match="not an Analyze or NIfTI header"):
        decoded(tmp_path / "envi.hdr")


# -- Slices with two axes --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_nifti_with_two_axes_is_one_slice(tmp_path, kind):
    affine = np.diag([-0.5, -0.75, 3.0, 1.0])
    nib.save(kind(VOXELS[..., 0], affine), tmp_path / "a.nii.gz")
    found = decoded(tmp_path / "a.nii.gz")
    assert found.voxels.shape == (1, 9, 10, 1)
    assert np.array_equal(found.voxels[0, ..., 0], VOXELS[..., 0])
    assert np.allclose(np.diag(found.affine), (0.5, 0.75, 3, 1))


def test_a_missing_third_direction_becomes_a_millimetre(tmp_path):
    image = nib.Nifti1Image(VOXELS[..., 0], np.diag([-0.5, -0.75, 3.0, 1.0]))
    image.header["pixdim"][3] = 0
    image.header["qform_code"] = 0
    for row in ("srow_x", "srow_y", "srow_z"):
        image.header[row][2] = 0
    content = bytearray(image.to_bytes())
    struct.pack_into("<4f", content, 312, 0, 0, 0, 0)  # srow_z
    assert np.allclose(np.diag(decode_nifti(bytes(content)).affine)[2], 1)


def disc(value):
    y, x = np.mgrid[:24, :24] - 12
    return ((x**2 + y**2 < 90) * (value + RNG.normal(0, 9, (24, 24)))).astype(np.int16)


def test_a_model_of_two_axes_writes_maps_with_two_axes(tmp_path):
    for number in range(24):
        place = tmp_path / "data" / f"{number:02d}.nii"
        place.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(disc(400), np.diag([-1.0, -1, 2, 1])), place)
    run = tmp_path / "run"
    anodetect.train(str(tmp_path / "data"), "pca", run, values={"components": 4})
    out = tmp_path / "s"
    result = anodetect.score(run, [str(tmp_path / "data")], out, far=0.25, heatmaps=["nifti"])
    assert result.scored == 24
    row = directories.read(out).rows[0]
    written = nib.load(out / row.heatmap)
    assert written.shape == (24, 24)
    assert np.allclose(written.affine, np.diag([-1.0, -1, 2, 1]))
    assert (row.width, row.height, row.depth) == (24, 24, 1)


# -- FreeSurfer, MetaImage, DICOM ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh"])
def test_freesurfer_is_read_as_nibabel_does(tmp_path, name):
    stack = RNG.normal(size=(9, 10, 12, 2)).astype(np.float32)
    nib.save(nib.MGHImage(stack, AFFINE), tmp_path / name)
    with pytest.raises(ImageError, match="2 volumes in one file"):
        decoded(tmp_path / name)
    source = readers.read_source(Record("a", tmp_path / name, component=1))
    assert np.array_equal(source.decode().voxels[0], stack[..., 1])
    assert np.allclose(source.decode().affine, FLIP @ AFFINE, atol=1e-4)


def test_freesurfer_without_directions_is_refused(tmp_path):
    nib.save(nib.MGHImage(VOXELS.astype(np.float32), AFFINE), tmp_path / "a.mgh")
    content = bytearray((tmp_path / "a.mgh").read_bytes())
    content[28:30] = b"\0\0"
    (tmp_path / "a.mgh").write_bytes(content)
    with pytest.raises(ImageError, match="how the volume lies"):
        decoded(tmp_path / "a.mgh")
    content[4:8] = struct.pack(">i", 2**30)
    (tmp_path / "a.mgh").write_bytes(content)
    with pytest.raises(ImageError, match="more than"):
        decoded(tmp_path / "a.mgh")


BAD_TYPE, CUT = struct.pack(">i", 77), slice(None, -99)


def test_damaged_pairs_and_freesurfer_are_refused_with_the_reason(tmp_path):
    nib.save(nib.MGHImage(VOXELS.astype(np.float32), AFFINE), tmp_path / "a.mgh")
    content = (tmp_path / "a.mgh").read_bytes()
    (tmp_path / "a.mgh").write_bytes(content[:20] + BAD_TYPE + content[24:])
    (tmp_path / "b.mgh").write_bytes(content[CUT])
    nib.save(nib.AnalyzeImage(VOXELS, AFFINE), tmp_path / "c.hdr")
    (tmp_path / "c.img").write_bytes((tmp_path / "c.img").read_bytes()[CUT])
    for name, reason in (("a.mgh", "type (code 77)"), ("b.mgh", "too early"), ("c.hdr", "too ea")):
        with pytest.raises(ImageError, match=re.escape(reason)):
            decoded(tmp_path / name)


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_an_nrrd_of_too_few_voxels_is_refused_with_the_reason(tmp_path, encoding):
    few = BODY[CUT] if encoding == "raw" else gzip.compress(BODY[CUT])
    with pytest.raises(ImageError, match="not as many voxels as its header says"):
        decoded(nhdr(tmp_path, "a.raw", body=few, encoding=encoding))


META = "ObjectType = Image\nNDims = 3\nElementSpacing = {1}\nTransformMatrix = {2}\nDimSize = {0}\n"
BAD_META = {
    "sides": (("9 ten 12", "1 1 1", "1 0 0 0 1 0 0 0 1"), "DimSize is not whole numbers"),
    "spacing": (("9 10 12", "0 1 1", "1 0 0 0 1 0 0 0 1"), "a voxel spacing of zero"),
    "directions": (("9 10 12", "1 1 1", "0 0 0 0 0 0 0 0 0"), r"\(TransformMatrix\)"),
    "voxels": (("9 10 13", "1 1 1", "1 0 0 0 1 0 0 0 1"), "not as many voxels as its header"),
}


@pytest.mark.parametrize("name", BAD_META)
def test_a_metaimage_that_cannot_be_read_is_refused_with_the_reason(tmp_path, name):
    pytest.importorskip("SimpleITK")
    fields, reason = BAD_META[name]
    end = "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "a.mha").write_bytes((META.format(*fields) + end).encode() + BODY)
    with pytest.raises(ImageError, match=reason):
        decoded(tmp_path / "a.mha")


def test_metaimage_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    (tmp_path / "a.mha").write_bytes(b"ObjectType = Image\nNDims = 3\n")
    with pytest.raises(ImageError, match=r"pip install 'anodetect\[registration\]'"):
        decoded(tmp_path / "a.mha")


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd"])
def test_metaimage_is_read_as_simpleitk_does(tmp_path, name, compressed):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(VOXELS.T)
    image.SetSpacing((0.5, 0.75, 2))
    image.SetOrigin((1, 2, 3))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / name), compressed)
    (record,) = scan(tmp_path).records
    found = readers.read_source(record).decode()
    assert np.array_equal(found.voxels[0], VOXELS)
    for index in ((0, 0, 0), (3, 2, 5)):
        place = image.TransformIndexToPhysicalPoint(index)
        assert np.allclose((found.affine @ (*index, 1))[:3], place)


def test_metaimage_of_two_axes_and_of_several_components(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS[..., 0].T), str(tmp_path / "a.mha"))
    assert np.array_equal(decoded(tmp_path / "a.mha").voxels[0, ..., 0], VOXELS[..., 0])
    both = np.stack([VOXELS.T, VOXELS.T + 1], -1)  # [K, J, I, 2]
    sitk.WriteImage(sitk.GetImageFromArray(both, isVector=True), str(tmp_path / "b.mha"))
    source = readers.read_source(Record("b", tmp_path / "b.mha", component=1))
    assert np.array_equal(source.decode().voxels[0], VOXELS + 1)
    with pytest.raises(ImageError, match="each voxel has 2 components; choose one: --select 0"):
        decoded(tmp_path / "b.mha")


# -- Vectors and colours ---------------------------------------------------------------------------


def write_vectors(path, array):
    """Write voxels [I, J, K, C] that have components as SimpleITK does."""
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0, 3), isVector=True)
    sitk.WriteImage(image, str(path))
    return path


def write_nrrd(path, array, kind, first):
    directions = np.vstack([np.full((1, 3), np.nan), np.diag([1.0, 2, 3])])
    kinds = [kind, "space", "space", "space"]
    if first:
        array = np.moveaxis(array, -1, 0)
    else:
        directions, kinds = np.roll(directions, -1, axis=0), [*kinds[1:], kind]
    header = {"space": "LPS", "space origin": [0, 0, 0], "kinds": kinds}
    nrrd.write(str(path), array, header | {"space directions": directions})
    return path


RGB = RNG.integers(0, 256, (9, 10, 12, 3)).astype(np.uint8)
RGBA = np.concatenate([RGB, np.full_like(RGB[..., :1], 255)], -1)
SEVERAL = ("a.mha", "a.mhd", "a.nrrd", "a.nii.gz")


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("alpha", [None, 0, 255])
def test_colours_of_a_volume_are_read_as_colours(tmp_path, name, alpha):
    array = RGBA.copy()
    array[..., 3] = alpha or 0
    write_vectors(tmp_path / name, RGB if alpha is None else array)
    (record,) = scan(tmp_path).records
    found = readers.read_source(record).decode()
    assert np.array_equal(found.voxels, np.moveaxis(RGB, -1, 0))
    one = readers.read_source(Record("a", record.path, component=1)).decode()
    assert np.array_equal(one.voxels, RGB[None, ..., 1])


@pytest.mark.parametrize("name", SEVERAL)
def test_a_volume_that_is_partly_transparent_is_refused(tmp_path, name):
    array = RGBA.copy()
    array[2, 3, 4, 3] = 254
    with pytest.raises(ImageError, match="partly transparent; flatten it"):
        decoded(write_vectors(tmp_path / name, array))


@pytest.mark.parametrize("name", SEVERAL)
def test_vectors_that_are_no_colours_are_called_so(tmp_path, name):
    path = write_vectors(tmp_path / name, RGB.astype(np.float32))
    with pytest.raises(ImageError, match="each voxel has 3 components; choose one: --select 0"):
        decoded(path)
    one = readers.read_source(Record("a", path, component=2)).decode()
    assert np.array_equal(one.voxels, RGB[None, ..., 2])


KINDS = {
    ("RGB-color", np.uint16): "", ("vector", np.uint8): "", ("3-color", np.float32): "",
    ("3-vector", np.int16): "each voxel has 3 components", ("list", np.uint8): "3 volumes in one",
    ("HSV-color", np.uint8): "each voxel has 3 components", ("???", np.uint8): "3 volumes in one",
}  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_the_kind_of_an_nrrds_axis_says_what_it_counts(tmp_path, kind, dtype, first):
    path = write_nrrd(tmp_path / "a.nrrd", RGB.astype(dtype), kind, first)
    if KINDS[kind, dtype]:
        with pytest.raises(ImageError, match=KINDS[kind, dtype]):
            decoded(path)
    else:
        assert np.array_equal(decoded(path).voxels, np.moveaxis(RGB, -1, 0))


def test_a_nifti_of_colours_by_its_type_may_not_be_transparent(tmp_path):
    kind = np.dtype([(name, "u1") for name in "RGBA"])
    stored = RGBA.copy().view(kind)[..., 0]
    nib.save(nib.Nifti1Image(stored, AFFINE), tmp_path / "a.nii")
    assert np.array_equal(decoded(tmp_path / "a.nii").voxels, np.moveaxis(RGB, -1, 0))
    stored["A"][0, 0, 0] = 7
    nib.save(nib.Nifti1Image(stored, AFFINE), tmp_path / "a.nii")
    with pytest.raises(ImageError, match="partly transparent"):
        decoded(tmp_path / "a.nii")


def test_metaimage_whose_data_lie_elsewhere_is_refused(tmp_path):
    for name, reason in (("../a.raw", "leads out"), ("LIST", "several"), ("no.raw", "missing")):
        text = f"ObjectType = Image\nNDims = 3\nDimSize = 9 9 9\nElementDataFile = {name}\n"
        (tmp_path / "a.mhd").write_text(text)
        with pytest.raises(ImageError, match=reason):
            decoded(tmp_path / "a.mhd")


def test_dicom_is_found_under_any_name_that_no_other_format_claims(tmp_path):
    start = bytes(128) + b"DICM"
    for name in ("IM0001", "a.123", "a.MR_1", "scan.v2.final", "a.bak"):
        (tmp_path / name).write_bytes(start)
        assert formats.is_series(tmp_path / name)
    for name in ("a.txt", "DICOMDIR"):
        (tmp_path / name).write_bytes(b"nothing" if name == "a.txt" else start)
        assert formats.format_of(tmp_path / name) is None
    shutil.copy(tmp_path / "a.123", tmp_path / "a.png")
    assert formats.format_of(tmp_path / "a.png") is formats.FORMATS["png"]
