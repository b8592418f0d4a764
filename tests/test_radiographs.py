"""Radiographs: inverted values, views and sides as columns, and right breasts that are mirrored."""

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation
from test_dicom import instance, own_key

import anodetect
from anodetect.commands.inspect import inspect
from anodetect.commands.rescore import rescore
from anodetect.data import scan
from anodetect.data.channels import ChannelFile
from anodetect.data.dicom_views import VIEWS
from anodetect.data.readers import read_source
from anodetect.data.reading import Reading
from anodetect.data.records import Record
from anodetect.errors import ImageError
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.model.loading import load
from anodetect.record import directories, runs

assert own_key  # a fixture for all tests of this module
RNG = np.random.default_rng(0)
NO_PLACE = dict.fromkeys(
    ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
)
ROWS, COLUMNS = 40, 32


def radiograph(stored, modality="MG", number=0, **tags):
    """A radiograph [R, C] of a patient of its own."""
    uids = (f"1.2.{number + 1}", f"1.2.{number + 1}.1", "1.2.3.5")
    made = instance(stored, uids=uids, Modality=modality, **{**NO_PLACE, **tags})
    made.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    return made


def save(folder, name, stored, **tags):
    folder.mkdir(parents=True, exist_ok=True)
    radiograph(stored, **tags).save_as(folder / name, enforce_file_format=True)
    return folder / name


def read(path, **reading):
    (record,) = scan.scan(path.parent).records
    return read_source(record).content(Reading(**reading))


# -- Values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("slope", [1, 3])
def test_a_white_background_becomes_a_dark_one_by_the_bits_that_are_stored(tmp_path, bits, slope):
    stored = RNG.integers(0, 4096, (ROWS, COLUMNS)).astype("<u2")
    tags = {
        "PhotometricInterpretation": "MONOCHROME1",
        "BitsStored": bits,
        "HighBit": bits - 1,
        "RescaleSlope": slope,
        "RescaleIntercept": -100,
    }
    path = save(tmp_path / "a", "a.dcm", stored, modality="CR", **tags)
    expected = (2.0**bits - 1 - stored) * slope - 100
    assert np.array_equal(read(path).pixels[0], expected)


# -- Views and sides -------------------------------------------------------------------------------


def code(meaning):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "SCT", meaning
    return Sequence([item])


STRATA = {
    "CC R": ({"ViewPosition": "CC", "ImageLaterality": "R"}, {"view": "CC", "laterality": "R"}),
    "code": ({"ViewCodeSequence": code("medio-lateral oblique")}, {"view": "MLO"}),
    "projection": ({"ViewCodeSequence": code("cranio-caudal projection")}, {"view": "CC"}),
    "series": ({"Laterality": "L", "ViewPosition": "PA"}, {"view": "PA", "laterality": "L"}),
    "image first": ({"Laterality": "L", "ImageLaterality": "R"}, {"laterality": "R"}),
    "free text": ({"ViewPosition": "SECRET NAME", "ViewCodeSequence": code("SECRET")}, {}),
    "nothing": ({}, {}),
}


@pytest.mark.parametrize("name", STRATA)
def test_view_and_side_of_a_header_are_columns(tmp_path, name):
    tags, expected = STRATA[name]
    save(tmp_path, "a.dcm", RNG.integers(0, 99, (ROWS, COLUMNS)).astype("<u2"), **tags)
    (record,) = scan.scan(tmp_path).records
    (row,) = inspect(str(tmp_path)).rows
    assert row.views == " ".join(expected.values())
    assert record.extra == expected
    assert record.extra.get("view", "CC") in VIEWS


def test_a_manifests_own_columns_go_before_the_header(tmp_path):
    stored = RNG.integers(0, 99, (ROWS, COLUMNS)).astype("<u2")
    save(tmp_path, "a.dcm", stored, ViewPosition="CC", ImageLaterality="R")
    (tmp_path / "manifest.csv").write_text("path,view\na.dcm,spot\n")
    (record,) = scan.scan(tmp_path).records
    assert record.extra == {"view": "spot", "laterality": "R"}


# -- Mirrored images -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "mirrored"),
    [
        ({"ImageLaterality": "R"}, True),
        ({"Laterality": "R"}, True),
        ({"ImageLaterality": "L"}, False),
        ({}, False),
        ({"ImageLaterality": "R", "PatientOrientation": ["P", "L"]}, True),
        ({"ImageLaterality": "R", "PatientOrientation": ["A", "R"]}, False),  # done already
    ],
)
def test_a_right_breast_is_mirrored_once(tmp_path, tags, mirrored):
    stored = RNG.integers(0, 99, (ROWS, COLUMNS)).astype("<u2")
    path = save(tmp_path, "a.dcm", stored, **tags)
    found = read(path, flip_right=True)
    assert found.mirrored == mirrored
    assert np.array_equal(found.pixels[0], stored[:, ::-1] if mirrored else stored)
    assert np.array_equal(read(path).pixels[0], stored)


def test_a_manifest_says_the_side_of_images_of_any_format(tmp_path):
    pixels = RNG.integers(0, 255, (ROWS, COLUMNS)).astype("u1")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.png")
    (tmp_path / "manifest.csv").write_text("path,laterality\na.png,right\nb.png,L\n")
    right, left = scan.scan(tmp_path).records
    reading = Reading(flip_right=True)
    assert np.array_equal(read_source(right).decode(reading)[0], pixels[:, ::-1])
    assert np.array_equal(read_source(left).decode(reading)[0], pixels)


def breast(seed, lesion=None):
    """A left breast: bright at the chest wall on the left, dark behind the skin."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, 0 : 1 : COLUMNS * 1j]
    inside = y**2 + x**2 < 0.8
    stored = inside * (900 - 500 * x) + rng.normal(50, 4, inside.shape)
    if lesion:
        row, column = lesion
        stored[row : row + 5, column : column + 5] += 700
    return np.clip(np.round(stored), 0, None).astype("<u2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(base folder, run trained with --flip-right on both sides, run without)"""
    base = tmp_path_factory.mktemp("breasts")
    for seed in range(24):
        side, stored = "LR"[seed % 2], breast(seed)
        stored = stored[:, ::-1].copy() if side == "R" else stored
        tags = {"ImageLaterality": side, "PatientID": f"P{seed}", "ViewPosition": "CC"}
        save(base / "normal", f"{seed:02}.dcm", stored, number=seed, **tags)
    ill = breast(90, lesion=(8, 6))
    for side, stored in (("L", ill), ("R", ill[:, ::-1].copy())):
        tags = {"ImageLaterality": side, "PatientID": f"Q{side}", "ViewPosition": "MLO"}
        save(base / "new", f"{side}.dcm", stored, number=90 + ord(side), **tags)
    values = {"size": 32, "preprocess": {"flip_right": True}}
    anodetect.train(str(base / "normal"), "pca", base / "run", values=values)
    return base


@pytest.fixture(scope="module")
def scored(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored") / "s"
    formats = ["tiff", "png", "mask", "regions"]
    anodetect.score(made / "run", [str(made / "new")], out, heatmaps=formats, workers=1)
    return directories.read(out)


def test_maps_of_mirrored_images_lie_as_the_file_does(made, scored):
    assert runs.read(made / "run").header.config["preprocess"]["flip_right"] is True
    rows = {row.path: row for row in scored.each()}
    left, right = (tifffile.imread(scored.path / rows[f"{side}.dcm"].heatmap) for side in "LR")
    assert np.allclose(right, left[:, ::-1], rtol=1e-5)
    assert rows["L.dcm"].score == pytest.approx(rows["R.dcm"].score, rel=1e-5)
    row, column = np.unravel_index(left.argmax(), left.shape)
    assert 6 <= row < 15
    assert 4 <= column < 13
    overlays = {side: next(scored.path.glob(f"heatmaps/{side}*_heatmap.png")) for side in "LR"}
    left, right = (np.asarray(Image.open(overlays[side])).astype(int) for side in "LR")
    assert np.abs(right - left[:, ::-1]).max() <= 1
    assert np.abs(right - left).max() > 50
    assert rescore(scored.path, 2) == []


def test_a_region_is_drawn_on_a_left_breast_and_hides_markers_of_both_sides(made, tmp_path):
    inside = np.ones((ROWS, COLUMNS), bool)
    inside[:6, 24:] = False  # where the letters are burned in, far from the chest wall
    Image.fromarray(inside).save(tmp_path / "roi.png")
    for side in "LR":
        marked = breast(91)
        marked[1:5, 26:30] = 4000
        marked = marked[:, ::-1].copy() if side == "R" else marked
        tags = {"ImageLaterality": side, "PatientID": f"M{side}"}
        save(tmp_path / "in", f"{side}.dcm", marked, number=ord(side), **tags)
    clean = breast(91)
    save(tmp_path / "in", "clean.dcm", clean, number=7, ImageLaterality="L", PatientID="M")

    out = tmp_path / "s"
    anodetect.score(made / "run", [str(tmp_path / "in")], out, roi=tmp_path / "roi.png", workers=1)
    rows = {row.path: row for row in directories.read(out).each()}
    first, *others = [row.score for row in rows.values()]
    assert others == pytest.approx([first] * 2, rel=1e-5)
    heatmap = tifffile.imread(out / rows["R.dcm"].heatmap)
    assert np.array_equal(np.isnan(heatmap), ~inside[:, ::-1])


def test_channels_of_one_image_lie_the_same_way_round(tmp_path):
    stored = RNG.integers(0, 99, (ROWS, COLUMNS)).astype("<u2")
    low = save(tmp_path, "low.dcm", stored, ImageLaterality="R")
    high = save(tmp_path, "high.dcm", stored, number=1)  # it does not say the side
    turned = {"ImageLaterality": "R", "PatientOrientation": ["A", "R"]}
    done = save(tmp_path, "done.dcm", stored, number=2, **turned)

    def content(other):
        files = [ChannelFile(path.stem, path.name, path, (path,)) for path in (low, other)]
        record = Record("low.dcm", low, files=(low,), channels=tuple(files))
        return read_source(record).content(Reading(flip_right=True))

    both = content(high)
    assert both.mirrored
    assert np.array_equal(both.pixels, np.stack([stored[:, ::-1]] * 2))
    with pytest.raises(ImageError, match="low lies the other way round than another channel"):
        content(done)


def test_a_manifests_foreground_lies_as_the_file_does(made, tmp_path):
    stored = breast(3)[:, ::-1].copy()
    path = save(tmp_path, "a.dcm", stored, ImageLaterality="R")
    inside = np.zeros((ROWS, COLUMNS), bool)
    inside[:, 20:] = True
    Image.fromarray(inside).save(tmp_path / "f.png")
    record = Record("a", path, files=(path,), foreground=tmp_path / "f.png")
    loaded = load(record, Preprocess(PreprocessConfig(flip_right=True)))
    assert np.array_equal(loaded.region.inside, inside[:, ::-1])
    assert np.array_equal(loaded.counted[0], (stored * inside)[:, ::-1])


def test_results_by_view_and_side(made, tmp_path):
    for number, path in enumerate(sorted((made / "new").iterdir())):
        target = tmp_path / "test/lesion" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        good = breast(70 + number)
        tags = {"ImageLaterality": "L", "PatientID": f"G{number}", "ViewPosition": "CC"}
        save(tmp_path / "test/good", f"g{number}.dcm", good, number=200 + number, **tags)
    found = anodetect.evaluate(made / "run", str(tmp_path), by=["view", "laterality"]).as_json()
    assert set(found["by"]["view"]) == {"CC", "MLO"}
    assert set(found["by"]["laterality"]) == {"L", "R"}
