"""Every format of the table is read from a file that a library which does not read it has written,
or that was written byte by byte from the format's specification."""

import gzip
import hashlib
import io
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

import anodetect
from anodetect.data import formats, readers
from anodetect.data.records import Record, is_volume
from anodetect.data.scan import scan
from anodetect.data.volumes import Volume
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.model.loading import Failed, load
from anodetect.record import directories
from apps.review import folders

RNG = np.random.default_rng(11)
SPACING, ORIGIN = (0.5, 0.75, 2.0), (-10.0, 20.0, 30.0)  # millimetres, toward L, P and S


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory, monkeypatch):
    """A key for pseudonyms of the tests' own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


# -- One file of each format: its bytes, the array in it, and the matrix to LPS+ millimetres -------


def png():
    array = RNG.integers(0, 65536, (12, 10, 3), dtype=np.uint16)
    return imagecodecs.png_encode(array), np.moveaxis(array, -1, 0), None


def jpeg():
    """Blocks of one value each, which JPEG keeps exactly."""
    array = np.kron(RNG.integers(0, 256, (2, 3)), np.ones((8, 8))).astype(np.uint8)
    return imagecodecs.jpeg8_encode(array, level=100), array[None], None


def bmp():
    array = RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    rows = array[::-1, :, ::-1].tobytes()  # from the last row up, blue first
    head = struct.pack("<2sIII", b"BM", 54 + len(rows), 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, 16, 12, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    return head + info + rows, np.moveaxis(array, -1, 0), None


def tiff():
    array = RNG.normal(size=(12, 10)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "tiff")
    return buffer.getvalue(), array[None], None


def npy():
    array = RNG.integers(-999, 999, (12, 10)).astype("<i2")
    text = f"{{'descr': '<i2', 'fortran_order': False, 'shape': {array.shape}, }}"
    text = text.ljust(117) + "\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
    return head + array.tobytes(), array[None], None


def webp():
    array = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)
    return imagecodecs.webp_encode(array, lossless=True), np.moveaxis(array, -1, 0), None


def jpeg2000():
    """Twelve bits, which are not to be stretched to sixteen."""
    array = RNG.integers(0, 4096, (12, 10), dtype=np.uint16)
    content = imagecodecs.jpeg2k_encode(array, bitspersample=12, level=0, reversible=True)
    return content, array[None], None


def pnm():
    """Ten bits in a binary PGM, which is big-endian."""
    array = RNG.integers(0, 1000, (12, 10)).astype(">u2")
    return b"P5 # grey\n10 12\n999\n" + array.tobytes(), array[None], None


def gif():
    array = RNG.integers(0, 256, (12, 10), dtype=np.uint8)
    return imagecodecs.gif_encode(array), array[None], None


def box():
    """A volume [I, J, K], and where it lies."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    return RNG.integers(0, 999, (8, 9, 10)).astype("<i2"), affine


def nifti():
    """NIfTI-1 in one file. Its axes run toward R, A and S, so x and y have the other sign."""
    array, affine = box()
    rows = np.diag([-1.0, -1, 1, 1]) @ affine
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *array.shape, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 4, 16)  # int16
    struct.pack_into("<8f", head, 76, 1, *SPACING, 0, 0, 0, 0)
    struct.pack_into("<3f", head, 108, 352, 1, 0)  # where the voxels begin, slope, intercept
    head[123] = 2  # millimetres
    struct.pack_into("<2h", head, 252, 0, 1)  # only an sform
    struct.pack_into("<12f", head, 280, *rows[:3].ravel())
    head[344:348] = b"n+1\0"
    return bytes(head) + array.tobytes(order="F"), array[None], affine


def analyze():
    """Analyze 7.5: no directions; rows run from left to right, and the middle voxel is the
    origin."""
    array = box()[0]
    head = bytearray(348)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *array.shape, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 4, 16)  # int16
    struct.pack_into("<8f", head, 76, 1, *SPACING, 0, 0, 0, 0)
    affine = np.diag([SPACING[0], -SPACING[1], SPACING[2], 1.0])  # toward L, A and S
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(array.shape) - 1) / 2)
    return bytes(head), array[None], affine


def mgh():
    """FreeSurfer's, big-endian; directions toward R, A and S, and the place of the middle."""
    array, affine = box()
    middle = affine @ (*(np.array(array.shape) / 2), 1)
    head = bytearray(284)
    struct.pack_into(">7ih", head, 0, 1, *array.shape, 1, 4, 0, 1)  # int16, has directions
    struct.pack_into(">3f", head, 30, *SPACING)
    struct.pack_into(">9f", head, 42, -1, 0, 0, 0, -1, 0, 0, 0, 1)
    struct.pack_into(">3f", head, 78, -middle[0], -middle[1], middle[2])
    return bytes(head) + array.astype(">i2").tobytes(order="F"), array[None], affine


def metaimage():
    pytest.importorskip("SimpleITK")
    array, affine = box()
    lines = [
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        "Offset = {} {} {}".format(*ORIGIN),
        "ElementSpacing = {} {} {}".format(*SPACING),
        "DimSize = 8 9 10",
        "ElementType = MET_SHORT",
        "ElementDataFile = LOCAL",
    ]
    return "\n".join(lines).encode() + b"\n" + array.tobytes(order="F"), array[None], affine


def nhdr():
    content, array, affine = nrrd()
    text = content.split(b"\n\n")[0] + b"\ndata file: voxels.raw\n"
    return text, array[None] if array.ndim == 3 else array, affine


def nrrd():
    array, affine = box()
    lines = [
        "NRRD0004",
        "type: short",
        "dimension: 3",
        "space: left-posterior-superior",
        "sizes: 8 9 10",
        f"space directions: ({SPACING[0]},0,0) (0,{SPACING[1]},0) (0,0,{SPACING[2]})",
        "space origin: ({},{},{})".format(*ORIGIN),
        "endian: little",
        "encoding: gzip",
    ]
    head = "\n".join(lines).encode() + b"\n\n"
    return head + gzip.compress(array.tobytes(order="F")), array[None], affine


def dicom():
    """One slice of a CT, Explicit VR Little Endian, as PS3.5 lays it out."""
    array = RNG.integers(0, 4096, (9, 10)).astype("<u2")
    meta = _element(2, 1, b"OB", b"\0\1") + _element(2, 2, b"UI", b"1.2.840.10008.5.1.4.1.1.2")
    meta += _element(2, 3, b"UI", b"1.2.3.4") + _element(2, 16, b"UI", b"1.2.840.10008.1.2.1")
    body = [
        _element(0x08, 0x16, b"UI", b"1.2.840.10008.5.1.4.1.1.2"),
        _element(0x08, 0x18, b"UI", b"1.2.3.4"),
        _element(0x08, 0x60, b"CS", b"MR"),
        _element(0x10, 0x20, b"LO", b"someone"),
        _element(0x18, 0x50, b"DS", f"{SPACING[2]}".encode()),
        _element(0x20, 0x0D, b"UI", b"1.2.3"),
        _element(0x20, 0x0E, b"UI", b"1.2.3.5"),
        _element(0x20, 0x32, b"DS", "\\".join(map(str, ORIGIN)).encode()),
        _element(0x20, 0x37, b"DS", b"1\\0\\0\\0\\1\\0"),
        _element(0x28, 0x02, b"US", struct.pack("<H", 1)),
        _element(0x28, 0x04, b"CS", b"MONOCHROME2"),
        _element(0x28, 0x10, b"US", struct.pack("<H", 9)),
        _element(0x28, 0x11, b"US", struct.pack("<H", 10)),
        _element(0x28, 0x30, b"DS", f"{SPACING[1]}\\{SPACING[0]}".encode()),
        _element(0x28, 0x100, b"US", struct.pack("<H", 16)),
        _element(0x28, 0x101, b"US", struct.pack("<H", 12)),
        _element(0x28, 0x102, b"US", struct.pack("<H", 11)),
        _element(0x28, 0x103, b"US", struct.pack("<H", 0)),
        _element(0x7FE0, 0x10, b"OW", array.tobytes()),
    ]
    head = bytes(128) + b"DICM" + _element(2, 0, b"UL", struct.pack("<I", len(meta))) + meta
    affine = np.eye(4)  # of an index (slice, row, column)
    affine[:3, :3] = np.array([[0, 0, SPACING[0]], [0, SPACING[1], 0], [SPACING[2], 0, 0]])
    affine[:3, 3] = ORIGIN
    return head + b"".join(body), array[None, None], affine


def _element(group, number, kind, value):
    if len(value) % 2:
        value += b"\0" if kind in (b"UI", b"OB") else b" "
    if kind in (b"OB", b"OW"):
        length = struct.pack("<HI", 0, len(value))
    else:
        length = struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind + length + value


MAKERS = {
    "png": png,
    "jpeg": jpeg,
    "bmp": bmp,
    "tiff": tiff,
    "npy": npy,
    "webp": webp,
    "jpeg2000": jpeg2000,
    "pnm": pnm,
    "gif": gif,
    "nifti": nifti,
    "analyze": analyze,
    "mgh": mgh,
    "nrrd": nrrd,
    "nhdr": nhdr,
    "metaimage": metaimage,
    "dicom": dicom,
}


# What Pillow calls the formats.
PILLOW = {"jpeg2000": "JPEG2000", "pnm": "PPM"}


def of_suffix(content, suffix):
    return gzip.compress(content) if suffix.endswith((".gz", ".mgz")) else content


def write_companion(name, path, array):
    """Write the data of a header beside it, and return their bytes."""
    if name == "analyze":
        companion = path.with_suffix(".IMG" if path.suffix.isupper() else ".img")
        content = array.tobytes(order="F")
    elif name == "nhdr":
        companion, content = path.with_name("voxels.raw"), gzip.compress(array.tobytes(order="F"))
    else:
        return b""
    companion.write_bytes(content)
    return content


CASES = []
for title, entry in formats.FORMATS.items():
    CASES += [pytest.param(title, ending, id=f"{title}-{ending[1:]}") for ending in entry.suffixes]
    if entry.under_any_name:
        CASES.append(pytest.param(title, "", id=f"{title}-no suffix"))
        CASES.append(pytest.param(title, ".17", id=f"{title}-number"))
        CASES.append(pytest.param(title, ".mr_export", id=f"{title}-unknown suffix"))


@pytest.mark.parametrize(("name", "suffix"), CASES)
@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_a_file_is_found_and_read_as_it_was_written(name, suffix, change, tmp_path):
    content, array, affine = MAKERS[name]()
    content = of_suffix(content, suffix)
    path = tmp_path / ("a" + change(suffix))
    path.write_bytes(content)
    companion = write_companion(name, path, array)

    (record,) = scan(tmp_path).records
    assert record.path == path
    source = readers.read_source(record)
    assert source.sha256 == hashlib.sha256(content + companion).hexdigest()
    decoded = source.decode()
    if affine is None:
        assert formats.format_of(path).content == "image"
        assert not is_volume(record)
        assert np.array_equal(readers.read_image(path), array)
        assert np.array_equal(decoded, array)
    else:
        assert isinstance(decoded, Volume)
        assert np.array_equal(decoded.voxels, array)
        assert np.allclose(decoded.affine, affine, atol=1e-6)
        decoded = decoded.voxels
    assert decoded.dtype == np.float32


@pytest.mark.parametrize(("name", "suffix"), CASES)
def test_the_review_app_offers_a_folder_of_such_files(name, suffix, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/notes.txt").write_text("not an image")
    assert folders.search([tmp_path]).images == ()
    (tmp_path / f"set/a{suffix}").write_bytes(of_suffix(MAKERS[name]()[0], suffix))
    assert folders.search([tmp_path]).images == (tmp_path / "set",)


@pytest.mark.parametrize(("name", "suffix"), CASES)
def test_a_truncated_file_is_refused_with_a_reason(name, suffix, tmp_path):
    content, array, _ = MAKERS[name]()
    content = of_suffix(content, suffix)
    path = tmp_path / f"a{suffix}"
    if formats.FORMATS[name].companion and name != "metaimage":
        path.write_bytes(content)
        write_companion(name, path, array[:, :-3])
    else:
        path.write_bytes(content[: len(content) * 2 // 3])
    (record,) = scan(tmp_path).records
    loaded = load(record, Preprocess(PreprocessConfig()))
    assert isinstance(loaded, Failed)
    assert loaded.error
    assert "\n" not in loaded.error


def test_truncated_files_are_rows_with_a_reason(pca_run, tmp_path):
    folder = tmp_path / "cut"
    folder.mkdir()
    for name, make in MAKERS.items():
        content = b"NDims = 3\n" if name == "metaimage" else make()[0]
        suffix = formats.FORMATS[name].suffixes[-1]
        (folder / f"{name}{suffix}").write_bytes(content[: len(content) * 2 // 3])
    result = anodetect.score(pca_run, [str(folder)], tmp_path / "s", far=0.2)
    assert result.failed == len(MAKERS) == len(formats.FORMATS)
    rows = directories.read(tmp_path / "s").rows
    assert {row.status for row in rows} == {"failed"}
    assert all(row.error for row in rows)


@pytest.mark.parametrize("name", [n for n, f in formats.FORMATS.items() if f.content == "image"])
@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_masks_of_the_mvtec_layout_may_be_of_any_image_format(name, change, tmp_path):
    truth = np.zeros((24, 32), np.uint8)
    truth[5:14, 9:20] = 255
    path = tmp_path / "ground_truth/hole" / ("2_mask" + change(formats.FORMATS[name].suffixes[0]))
    for folder in (tmp_path / "test/good", tmp_path / "test/hole", path.parent):
        folder.mkdir(parents=True)
    (tmp_path / "test/hole/2.PNG").write_bytes(imagecodecs.png_encode(truth))
    if name == "npy":
        with path.open("wb") as file:
            np.save(file, truth)
    else:
        Image.fromarray(truth).save(path, PILLOW.get(name, name))

    (record,) = scan(tmp_path).records
    assert record.masks == (path,)
    assert np.array_equal(readers.read_mask(path), truth > 0)


def test_a_format_added_to_the_table_is_found_and_read(tmp_path, monkeypatch):
    """The table is all there is to change."""
    added = formats.Format("image", (".square",), f"{__name__}:read_square")
    monkeypatch.setitem(formats.FORMATS, "square", added)
    (tmp_path / "a.Square").write_bytes(bytes(range(100)))
    (record,) = scan(tmp_path).records
    assert np.array_equal(readers.read_source(record).decode()[0].ravel(), np.arange(100))
    assert ".square" in formats.described()


def read_square(content):
    return np.frombuffer(content, np.uint8).reshape(10, 10)


def test_names_tell_the_format():
    assert formats.suffix_of("A.NII.GZ") == ".nii.gz"
    assert formats.suffix_of("archive.tar.gz") == ".gz"
    assert formats.suffix_of(".png") == formats.suffix_of("a") == ""
    assert formats.format_named("notes.txt") is None
    assert is_volume(Record("a", path=Path("a.nrrd")))
