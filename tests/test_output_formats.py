"""Every format of the table is written, and read back by a library that did not write it."""

import gzip
import io
import json
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

import matplotlib
import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
from imagecodecs import png_decode
from matplotlib.path import Path as Outline
from PIL import Image
from scipy import ndimage
from test_dicom import instance, read, voxels, write_series
from test_volumes import prepared, save_nifti

import anodetect
from anodetect.errors import ConfigError, RunError
from anodetect.output import cases, formats, images, pictures, recorded, volumes
from anodetect.output.about import About
from anodetect.record.rows import ScoreRow
from anodetect.stats.decision import Decision, Rule
from anodetect.stats.mask_rule import pixel_rule

RNG = np.random.default_rng(3)
THRESHOLD = 0.5
SCALE = (0.0, 1.0)
FLAGGED = Decision(Rule(0.05), 7.0, p_value=0.02, flagged=True, threshold=6.0)
ABOUT = About("patient-x", "0" * 64, FLAGGED)
AFFINE = np.array([[-0.8, 0.1, 0, 10], [0.1, 1.1, 0, -20], [0, 0, 2.5, 5], [0, 0, 0, 1]])

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:pydicom.*", "ignore::UserWarning:highdicom.*"
)


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory, monkeypatch):
    """A key for pseudonyms of the tests' own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


def write_image(folder, name, header=None):
    """Write a map of random values, some not scored, in a format; return it and the image."""
    heatmap = RNG.random((20, 24)).astype(np.float32)
    heatmap[3:6, 4:9] = np.nan
    image = RNG.integers(0, 4096, (1, 20, 24)).astype(np.float32)
    rule = pixel_rule(THRESHOLD)
    shown = images.ImageMap(heatmap, image, SCALE, rule, header=header, about=ABOUT)
    return formats.write_files(folder / "a.png", [name], "image", shown), heatmap, image


def write_volume(folder, name, volume):
    heatmap = RNG.random(volume.geometry.sides).astype(np.float32)
    heatmap[2, 3:6, 4:9] = np.nan
    shown = volumes.VolumeMap(heatmap, volume, SCALE, pixel_rule(THRESHOLD), about=ABOUT)
    return formats.write_files(folder / "a", [name], "volume", shown), heatmap


@pytest.fixture
def nifti_volume(tmp_path):
    array = RNG.integers(0, 999, (12, 10, 11)).astype(np.int16)
    return prepared(save_nifti(tmp_path / "source.nii.gz", array, AFFINE))


def tiff_image(folder, request):
    """Against Pillow."""
    (written,), heatmap, _ = write_image(folder, "tiff")
    assert written.kind == "map"
    with Image.open(written.path) as picture:
        assert picture.mode == "F"
        assert np.array_equal(np.asarray(picture), heatmap, equal_nan=True)
    assert np.array_equal(
        formats.map_reader(written.path.name, "image")(written.path), heatmap, equal_nan=True
    )


def png_image(folder, request):
    """Against Pillow: the picture that was drawn, which is grey where the image was not scored."""
    (written,), heatmap, image = write_image(folder, "png")
    assert written.kind == "picture"
    with Image.open(written.path) as picture:
        pixels = np.asarray(picture)
    assert np.array_equal(pixels, pictures.overlay(image, heatmap, SCALE))
    unscored = pixels[np.isnan(heatmap)]
    assert (unscored == unscored[:, :1]).all()


def jpeg_image(folder, request):
    """Against Pillow, which makes the same of the picture that was drawn."""
    (written,), heatmap, image = write_image(folder, "jpeg")
    assert written.kind == "picture" and not written.note
    content = io.BytesIO()
    drawn = Image.fromarray(pictures.overlay(image, heatmap, SCALE))
    drawn.save(content, "jpeg", quality=images.QUALITY)
    with Image.open(written.path) as picture, Image.open(content) as expected:
        assert picture.format == "JPEG"
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


def mask_image(folder, request):
    """Against imagecodecs."""
    (written,), heatmap, _ = write_image(folder, "mask")
    assert written.kind == "mask"
    above = png_decode(written.path.read_bytes())
    assert np.array_equal(above != 0, heatmap > THRESHOLD)
    assert np.array_equal(recorded.read_mask(folder, written.path.name, "image"), above != 0)


def nifti_volume_map(folder, request):
    """Against nibabel: values in the source's order, and the source's affine, bit for bit."""
    volume = request.getfixturevalue("nifti_volume")
    (written,), heatmap = write_volume(folder, "nifti", volume)
    assert written.kind == "map"
    found = nib.load(written.path)
    expected = volume.geometry.to_source(heatmap)
    assert found.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(found.dataobj), expected, equal_nan=True)
    assert np.array_equal(found.affine, nib.load(folder / "source.nii.gz").affine)
    read_back = formats.map_reader(written.path.name, "volume")(written.path)
    assert np.array_equal(read_back, expected, equal_nan=True)


def mask_volume(folder, request):
    """Against nibabel."""
    volume = request.getfixturevalue("nifti_volume")
    (written,), heatmap = write_volume(folder, "mask", volume)
    assert written.kind == "mask"
    found = nib.load(written.path)
    expected = volume.geometry.to_source(heatmap > THRESHOLD)
    assert np.array_equal(np.asarray(found.dataobj), expected)
    assert np.array_equal(recorded.read_mask(folder, written.path.name, "volume"), expected)
    assert np.array_equal(found.affine, nib.load(folder / "source.nii.gz").affine)
    packed = written.path.read_bytes()
    assert len(packed) < len(gzip.decompress(packed))
    assert packed[3:8] == bytes(5)  # gzip's flags and time: neither name nor time of day


def jpeg_volume(folder, request):
    planes_of_volume(folder, request, "jpeg")


def png_volume(folder, request):
    planes_of_volume(folder, request, "png")


def planes_of_volume(folder, request, name):
    """Against Pillow: three planes side by side."""
    volume = request.getfixturevalue("nifti_volume")
    (written,), _ = write_volume(folder, name, volume)
    assert written.kind == "picture"
    with Image.open(written.path) as picture:
        assert picture.size == (
            3 * volumes.PANEL + 2 * volumes.GAP,
            volumes.PANEL + volumes.LINE,
        )
        assert np.asarray(picture).max() > 0


def dicom_volume(folder, request):
    """Against pydicom: each frame lies where the source's slice with these values lies."""
    pytest.importorskip("highdicom")
    volume = read(write_series(folder / "s", voxels())).volume
    written, heatmap = write_volume(folder, "dicom", volume)
    assert [each.kind for each in written] == ["map", "mask", "report"]
    found = pydicom.dcmread(written[0].path)
    values = np.frombuffer(found.FloatPixelData, "<f4").reshape(-1, found.Rows, found.Columns)
    expected = np.nan_to_num(volume.geometry.to_source(heatmap), nan=found.FloatPixelPaddingValue)
    for frame, group in zip(values, found.PerFrameFunctionalGroupsSequence, strict=True):
        position = group.PlanePositionSequence[0].ImagePositionPatient
        index = np.linalg.inv(volume.geometry.affine) @ (*position, 1)
        assert index[1:3] == pytest.approx(0, abs=1e-3)
        assert np.array_equal(frame, expected[round(index[0])])
    above = pydicom.dcmread(written[1].path).pixel_array
    assert (above != 0).sum() == (heatmap > THRESHOLD).sum()
    assert pydicom.dcmread(written[2].path).Modality == "SR"


def dicom_image(folder, request):
    """Against pydicom: the picture that is written as PNG, which the report refers to."""
    pytest.importorskip("highdicom")
    header = instance(voxels((1, 20, 24))[0], ImagePositionPatient=None, Modality="DX")
    written, heatmap, image = write_image(folder, "dicom", header)
    assert [each.kind for each in written] == ["picture", "report"]
    capture, report = (pydicom.dcmread(each.path) for each in written)
    assert np.array_equal(capture.pixel_array, pictures.overlay(image, heatmap, SCALE))
    (referred,) = (item for item in report.ContentSequence if item.ValueType == "IMAGE")
    assert referred.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == capture.SOPInstanceUID


def regions_directory(folder, request):
    """Against matplotlib: the middle of every pixel of a region, and of no other, lies inside."""
    run, data = map(request.getfixturevalue, ("pca_run", "synthetic_folder"))
    out, names = folder / "s", ["mask", "regions"]
    anodetect.score(run, [str(data / "test/defect")], out, far=0.2, heatmaps=names)
    content = json.loads((out / "regions.json").read_text())
    assert content["annotations"]
    for image in content["images"]:
        with Image.open(out / "heatmaps" / f"{image['file_name']}_mask.png") as picture:
            above = np.asarray(picture)
        middles = np.stack(np.meshgrid(*map(np.arange, picture.size)), -1).reshape(-1, 2) + 0.5
        covered = np.zeros(above.shape, bool)
        for marks in content["annotations"]:
            if marks["image_id"] == image["id"]:
                for points in marks["segmentation"]:
                    outline = Outline(np.reshape(points, (-1, 2)), closed=True)
                    covered |= outline.contains_points(middles).reshape(above.shape)
        assert np.array_equal(covered, ndimage.binary_fill_holes(above, np.ones((3, 3))))


def test_an_overlay_is_the_blend_of_image_and_colours(tmp_path):
    """Against the formula: colours over the image, as opaque as the value is high."""
    places, values = np.mgrid[:256, :256].astype(np.float32)
    image = np.stack([values, values[::-1], 255 - values])
    for planes in (image[:1], image):
        found = pictures.overlay(planes, places, (0, 255), (0, 255)).astype(float)
        colours = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, None, :3]
        opacity = np.round(0.85 * np.arange(256))[:, None, None] / 255
        under = np.moveaxis(np.broadcast_to(planes, image.shape), 0, -1)
        assert np.abs(found - (opacity * colours + (1 - opacity) * under)).max() <= 1


def test_a_map_is_the_file_that_tifffile_writes_and_its_hash_is_that_of_the_file(tmp_path):
    (written,), heatmap, _ = write_image(tmp_path, "tiff")
    content = io.BytesIO()
    tifffile.imwrite(content, heatmap, metadata=None)
    assert written.path.read_bytes() == content.getvalue()
    for name in ("tiff", "png", "mask", "dicom"):
        header = instance(voxels((1, 20, 24))[0], ImagePositionPatient=None, Modality="DX")
        for each in write_image(tmp_path, name, header)[0]:
            assert each.sha256 == sha256(each.path.read_bytes()).hexdigest()


def test_an_image_that_is_too_long_for_a_jpeg_is_shown_smaller_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LONGEST", 10)
    (written,), _, _ = write_image(tmp_path, "jpeg")
    with Image.open(written.path) as picture:
        assert picture.size == (8, 7)
    assert "reduced to 1/3 of their size" in written.note


@pytest.mark.parametrize("planes", [(), (1, 1), (1, 3)])
def test_the_picture_of_a_case_is_what_pillow_makes_of_its_panels(planes):
    """As colours throughout, also where there are none."""
    image = RNG.normal(0, 50, (sum(planes) or 1, 90, 70)).astype(np.float32)
    heatmap, side, gap = RNG.random((90, 70)).astype(np.float32), 40, pictures.STRIP_GAP
    parts = list(pairwise(np.cumsum((0, *(planes or (1,))))))
    expected = Image.new("RGB", (3 * side + 2 * gap, len(parts) * (side + gap) - gap), "white")
    for number, (start, end) in enumerate(parts):
        part, again = image[start:end], image[start:end] + 9
        window = pictures.contrast(part)
        panels = [pictures.grey(part, window), pictures.overlay(part, heatmap, SCALE, window)]
        for place, panel in enumerate([*panels, pictures.grey(again, window)]):
            small = Image.fromarray(panel).resize((side, side), Image.Resampling.BILINEAR)
            expected.paste(small, (place * (side + gap), number * (side + gap)))

    content = io.BytesIO()
    expected.save(content, "jpeg", quality=80)
    found = pictures.case_strip(image, heatmap, image + 9, SCALE, side, planes)
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(found))), np.asarray(Image.open(content))
    )


def test_the_cases_that_are_shown_are_those_with_the_highest_and_the_nearest_scores(tmp_path):
    """Against sorting all of them."""
    scores = RNG.normal(size=500).round(1)  # many are equal
    scores[::50] = np.nan
    shown = cases.Cases(tmp_path, 0.5, SCALE)
    for number, score in enumerate(scores.tolist()):
        shown.admits(f"{number:03}", score)
    known = [(score, f"{number:03}") for number, score in enumerate(scores) if np.isfinite(score)]
    highest = sorted((-score, name) for score, name in known)
    nearest = sorted((abs(score - 0.5), name) for score, name in known)
    found = shown.settle()
    assert list(found.highest) == [name for _, name in highest[:50]]
    assert list(found.borderline) == [name for _, name in nearest[:12]]


CHECKS = {
    ("tiff", "image"): tiff_image,
    ("jpeg", "image"): jpeg_image,
    ("jpeg", "volume"): jpeg_volume,
    ("nifti", "volume"): nifti_volume_map,
    ("png", "image"): png_image,
    ("png", "volume"): png_volume,
    ("mask", "image"): mask_image,
    ("mask", "volume"): mask_volume,
    ("regions", "directory"): regions_directory,
    ("dicom", "image"): dicom_image,
    ("dicom", "volume"): dicom_volume,
}
ENTRIES = [
    (name, source)
    for name, each in formats.FORMATS.items()
    for source in ("image", "volume", "directory")
    if getattr(each, source)
]


@pytest.mark.parametrize(("name", "source"), ENTRIES)
def test_a_format_is_read_back_as_it_was_written(name, source, tmp_path, request):
    CHECKS[name, source](tmp_path, request)


@pytest.mark.parametrize(("name", "source"), [e for e in ENTRIES if e[1] != "directory"])
def test_files_are_named_as_the_table_says(name, source, tmp_path, request):
    if source == "image":
        header = instance(voxels((1, 20, 24))[0], ImagePositionPatient=None)
        written, *_ = write_image(tmp_path, name, header)
    elif name == "dicom":
        pytest.importorskip("highdicom")
        volume = read(write_series(tmp_path / "s", voxels())).volume
        written, *_ = write_volume(tmp_path, name, volume)
    else:
        written, *_ = write_volume(tmp_path, name, request.getfixturevalue("nifti_volume"))
    endings = formats.FORMATS[name].writer(source).endings
    stem = "a.png" if source == "image" else "a"
    assert [each.path.name for each in written] == [stem + endings[each.kind] for each in written]
    assert {each.format for each in written} == {name}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".writing.")]


def test_an_unknown_format_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'tiff'"):
        write_image(tmp_path, "tif")
    with pytest.raises(ConfigError, match="did you mean 'mask'"):
        formats.check_formats(["maks"])
    assert not list(tmp_path.iterdir())


def test_a_format_is_asked_for_by_kind():
    assert formats.asks_for(["png", "tiff"], "map")
    assert not formats.asks_for(["png", "mask"], "map")
    assert formats.asks_for(formats.DEFAULT, "regions")
    assert formats.format_named("regions").has_files_of("image")
    assert not formats.format_named("regions").has_files_of("volume")
    assert not formats.format_named("tiff").has_files_of("volume")
    assert formats.readable_names("volume") == ["nifti"]
    assert formats.map_reader("x_heatmap.png", "image") is None
    assert formats.mask_reader("x_heatmap.tiff", "image") is None


def test_a_small_file_that_says_it_is_huge_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LARGEST_COMPRESSED", 2**12)
    row = ScoreRow(path="a", group="a", status="ok", model_sha256="", heatmap="a.tiff")
    values = np.zeros((64, 64), np.float32)
    for compression, reads in ((None, True), ("zlib", False)):
        tifffile.imwrite(tmp_path / "a.tiff", values, compression=compression)
        if reads:
            assert np.array_equal(recorded.read_map(tmp_path, row), values)
            continue
        with pytest.raises(RunError, match=r"a.tiff is damaged \(OverflowError\)"):
            recorded.read_map(tmp_path, row)


@pytest.mark.parametrize(
    ("name", "depth"), [("a_heatmap.tiff", None), ("a_heatmap.nii", 3), ("a_heatmap.tiff", 3)]
)
def test_a_recorded_map_that_cannot_be_read_is_one_line(tmp_path, name, depth):
    row = ScoreRow(path="a", group="a", status="ok", model_sha256="", heatmap=name, depth=depth)
    with pytest.raises(RunError, match=rf"^{name} is missing"):
        recorded.read_map(tmp_path, row)
    for content in (b"", b"II*\0", b"\0" * 400, RNG.bytes(2000)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RunError, match=rf"^{name} is damaged") as caught:
            recorded.read_map(tmp_path, row)
        assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match="leads out"):
        recorded.read_map(tmp_path, replace(row, heatmap=f"../{name}"))
    assert recorded.read_map(tmp_path, replace(row, heatmap="")) is None
    with pytest.raises(RunError, match="no file of a mask"):
        recorded.read_mask(tmp_path, name, recorded.source_of(row))


def test_a_format_whose_package_is_missing_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"highdicom: pip install 'anodetect\[dicom\]'"):
        formats.check_formats(["dicom"])
    formats.check_formats(formats.DEFAULT)


def test_a_format_added_to_the_table_is_written(tmp_path, monkeypatch):
    """The table is all there is to change."""
    monkeypatch.setitem(
        formats.FORMATS,
        "bytes",
        formats.Format(image=formats.Writer(f"{__name__}:write_bytes", {"map": ".bin"})),
    )
    written, heatmap, _ = write_image(tmp_path, "bytes")
    assert [(each.format, each.kind) for each in written] == [("bytes", "map")]
    assert written[0].path.read_bytes() == heatmap.tobytes()


def write_bytes(shown, files):
    with files.open("map") as file:
        file.write(shown.heatmap.tobytes())
