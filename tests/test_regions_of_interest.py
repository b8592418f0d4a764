"""Where images count: a manifest's foreground and a run's region of interest."""

import json
import shutil
from hashlib import sha256

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image

import anodetect
from anodetect.cli import main
from anodetect.commands.rescore import rescore
from anodetect.data.records import Record
from anodetect.errors import ConfigError, DataError, ImageError
from anodetect.imaging.intensities import sample_of
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.imaging.regions import Region, RegionOfInterest, region_of, roi_of
from anodetect.model.loading import Failed, load
from anodetect.model.model import Model
from anodetect.record import directories, runs

SIDE = 64
INSIDE = np.ones((SIDE, SIDE), bool)
INSIDE[:12] = False  # a serial number is burned in above
INSIDE[:, 60:] = False
RNG = np.random.default_rng(0)


class Heard:
    """A reporter that remembers its warnings."""

    def __init__(self):
        self.warnings = []

    def say(self, text): ...
    def progress(self, task, done, total, note=""): ...
    def warn(self, text):
        self.warnings.append(text)


def stamped(path, seed):
    """Burn noise into an image outside its region."""
    pixels = np.array(Image.open(path))
    noise = np.random.default_rng(seed).integers(0, 256, pixels.shape, dtype=np.uint8)
    Image.fromarray(np.where(INSIDE, pixels, noise)).save(path)


# -- Values ----------------------------------------------------------------------------------------


def learned(config, images, region):
    preprocess = Preprocess(PreprocessConfig(**config))
    preprocess.learn([sample_of(image, region=region) for image in images])
    return preprocess


@pytest.mark.parametrize("config", [{}, {"intensity": "image"}, {"foreground": "flat"}])
@pytest.mark.parametrize("exact", [False, True])
def test_nothing_outside_a_region_changes_what_is_learned_or_seen(config, exact):
    region = Region(INSIDE, exact)
    images = RNG.uniform(20, 200, (6, 1, SIDE, SIDE)).astype(np.float32)
    images[:, :, 12:30] = 20
    others = np.where(INSIDE, images, RNG.uniform(-999, 9999, images.shape)).astype(np.float32)
    one, other = (learned(config, each, region) for each in (images, others))
    assert one.state() == other.state()
    for image, changed in zip(images, others, strict=True):
        for found, expected in zip(
            other.apply(changed, region), one.apply(image, region), strict=True
        ):
            assert np.array_equal(found, expected)
        inside = one.apply(image, region)[1]
        assert not (inside & ~INSIDE).any()
        if exact:
            assert np.array_equal(inside, INSIDE)


def test_a_foreground_is_found_inside_the_region_and_not_the_fixture_outside():
    image = np.zeros((1, SIDE, SIDE), np.float32)
    image[0, 20:40, 10:30] = 100
    image[0, :12] = 255  # a large bright fixture
    preprocess = learned({"foreground": "flat"}, [image], Region(INSIDE))
    _, inside = preprocess.apply(image, Region(INSIDE))
    expected = np.zeros((SIDE, SIDE), bool)
    expected[20:40, 10:30] = True
    assert (inside != expected).sum() <= 8  # corners


def test_colours_outside_a_region_do_not_make_a_grey_image_coloured():
    grey = RNG.uniform(0, 255, (1, SIDE, SIDE)).astype(np.float32).repeat(3, 0)
    grey[0, :12] = 255
    region = Region(INSIDE)
    assert not sample_of(grey, region=region).coloured
    preprocess = learned({}, [grey], region)
    assert preprocess.channels == 1
    assert preprocess.apply(grey, region)[0].shape == (1, SIDE, SIDE)
    with pytest.raises(ImageError, match="a colour image"):
        preprocess.apply(grey)


def test_a_region_of_interest_and_a_foreground_are_joined():
    left, upper = np.zeros((8, 9), bool), np.zeros((8, 9), bool)
    left[:, :4], upper[:3] = True, True
    roi = RegionOfInterest("h", left)
    assert region_of((8, 9), None, None) is None
    assert np.array_equal(region_of((8, 9), roi, None).inside, left)
    joined = region_of((8, 9), roi, upper)
    assert np.array_equal(joined.inside, left & upper)
    assert joined.exact
    again = roi_of(json.loads(json.dumps(roi.state())))
    assert again.sha256 == "h"
    assert np.array_equal(again.inside, left)
    with pytest.raises(ImageError, match=r"9×7 pixels, but the region of interest .* has 9×8"):
        region_of((7, 9), roi, None)
    with pytest.raises(ImageError, match="nothing of it"):
        region_of((8, 9), roi, ~left)


# -- A run with a region of interest ---------------------------------------------------------------


@pytest.fixture(scope="module")
def made(synthetic_folder, tmp_path_factory):
    """(folder with stamped images, region of interest, a run trained with it)."""
    base = tmp_path_factory.mktemp("roi")
    folder = shutil.copytree(synthetic_folder, base / "in")
    for number, path in enumerate(sorted((folder / "train").rglob("*.png"))):
        stamped(path, number)
    for number, path in enumerate(sorted((folder / "test").rglob("*.png"))):
        stamped(path, 1000 + number)
    Image.fromarray(INSIDE).save(base / "roi.png")
    anodetect.train(str(folder), "pca", base / "run", roi=base / "roi.png")
    return folder, base / "roi.png", base / "run"


@pytest.fixture(scope="module")
def scored(made, tmp_path_factory):
    """The score directory of that folder."""
    folder, _, run = made
    out = tmp_path_factory.mktemp("scored") / "s"
    formats = ["tiff", "png", "mask", "regions"]
    anodetect.score(run, [str(folder)], out, far=0.2, heatmaps=formats, workers=1)
    return directories.read(out)


def test_a_run_remembers_its_region_and_its_hash(made, scored):
    _, roi, run = made
    state = runs.read(run).header.preprocess["roi"]
    assert state["sha256"] == sha256(roi.read_bytes()).hexdigest()
    assert np.array_equal(Model.load(runs.read(run), "cpu").preprocess.roi.inside, INSIDE)
    assert scored.audit.roi == {"sha256": state["sha256"], "height": SIDE, "width": SIDE}
    html = (scored.path / "report.html").read_text("utf-8")
    assert f"SHA-256 of its mask {state['sha256'][:12]}" in html


def test_heatmaps_are_nan_outside_and_nothing_is_found_there(scored):
    rows = list(scored.each())
    assert len(rows) == 40
    for row in rows:
        heatmap = tifffile.imread(scored.path / row.heatmap)
        assert np.array_equal(np.isnan(heatmap), ~INSIDE)
    masks = sorted(scored.path.rglob("*mask*.png"))
    assert len(masks) == 40
    assert any(np.asarray(Image.open(path))[INSIDE].any() for path in masks)
    assert not any(np.asarray(Image.open(path))[~INSIDE].any() for path in masks)
    regions = json.loads((scored.path / "regions.json").read_text())["annotations"]
    assert regions
    assert min(region["bbox"][1] for region in regions) >= 12


def test_scores_do_not_depend_on_what_lies_outside(made, scored, tmp_path):
    folder, _, run = made
    copy = shutil.copytree(folder / "test", tmp_path / "test")
    for number, path in enumerate(sorted(copy.rglob("*.png"))):
        stamped(path, 5000 + number)
    anodetect.score(run, [str(tmp_path)], tmp_path / "s", heatmaps=[], workers=1)
    again = {row.path: row.score for row in directories.read(tmp_path / "s").each()}
    assert again == {row.path: row.score for row in scored.each()}


def test_the_region_makes_detection_as_good_as_without_stamps(made, synthetic_folder, pca_run):
    folder, _, run = made
    found = anodetect.evaluate(run, str(folder)).as_json()
    clean = anodetect.evaluate(pca_run, str(synthetic_folder)).as_json()
    assert found["image"]["auroc"]["value"] > clean["image"]["auroc"]["value"] - 0.05
    assert found["pixel"]["auroc"] > 0.9
    assert found["masks"]["used"] == 20


def test_the_same_region_is_no_other_and_another_is_said_and_recorded(made, tmp_path):
    folder, roi, run = made
    heard = Heard()
    anodetect.evaluate(run, str(folder), roi=roi, reporter=heard)
    assert not any("region of interest" in text for text in heard.warnings)

    smaller = INSIDE.copy()
    smaller[40:] = False
    Image.fromarray(smaller).save(tmp_path / "smaller.png")
    files = [str(path) for path in sorted((folder / "test/good").iterdir())[:4]]
    out = tmp_path / "s"
    anodetect.score(run, files, out, roi=tmp_path / "smaller.png", reporter=heard, workers=1)
    assert any("another one than this region of interest" in text for text in heard.warnings)
    found = directories.read(out)
    heatmap = tifffile.imread(out / next(found.each()).heatmap)
    assert np.array_equal(np.isnan(heatmap), ~smaller)
    assert np.array_equal(roi_of(found.audit.roi).inside, smaller)
    assert rescore(out, 2) == []


def test_calibrate_gives_a_run_another_region(made, tmp_path):
    folder, _, run = made
    smaller = INSIDE.copy()
    smaller[:, :8] = False
    Image.fromarray(smaller).save(tmp_path / "roi.png")
    normals = shutil.copytree(folder / "test/good", tmp_path / "normals")
    anodetect.calibrate(run, str(normals), tmp_path / "run", roi=tmp_path / "roi.png")
    assert np.array_equal(
        Model.load(runs.read(tmp_path / "run"), "cpu").preprocess.roi.inside, smaller
    )
    anodetect.calibrate(run, str(normals), tmp_path / "same")
    before, same = (runs.read(path).header.preprocess for path in (run, tmp_path / "same"))
    assert before == same


def test_another_size_is_an_error_by_name(made, tmp_path, capsys):
    folder, _, run = made
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((64, 70), np.uint8)).save(tmp_path / "in/wide.png")
    shutil.copy(next((folder / "test/good").iterdir()), tmp_path / "in/fits.png")
    result = anodetect.score(run, [str(tmp_path / "in")], tmp_path / "s", workers=1)
    assert (result.scored, result.failed) == (1, 1)
    row = next(row for row in directories.read(tmp_path / "s").each() if row.path == "wide.png")
    assert "70×64 pixels, but the region of interest (--roi) has 64×64" in row.error

    Image.fromarray(np.ones((16, 16), bool)).save(tmp_path / "small.png")
    with pytest.raises(DataError, match="64×64 pixels, but the region of interest"):
        anodetect.train(str(folder), "pca", tmp_path / "run", roi=tmp_path / "small.png")


@pytest.mark.parametrize("content", ["none", "text", "black"])
def test_a_region_that_is_none_is_a_usage_error(made, tmp_path, content):
    folder, _, _ = made
    path = tmp_path / "roi.png"
    if content == "text":
        path.write_text("no picture")
    if content == "black":
        Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(path)
    with pytest.raises(ConfigError, match=r"--roi .*roi\.png"):
        anodetect.train(str(folder), "pca", tmp_path / "run", roi=path)


def test_a_volume_has_no_region_of_interest(tmp_path):
    nib.save(nib.Nifti1Image(RNG.random((16, 16, 16)), np.eye(4)), tmp_path / "v.nii")
    preprocess = Preprocess(PreprocessConfig())
    preprocess.roi = RegionOfInterest("h", INSIDE)
    loaded = load(Record("v", tmp_path / "v.nii"), preprocess)
    assert isinstance(loaded, Failed)
    assert "is one of images" in loaded.error


def test_the_command_line_takes_a_region(made, tmp_path, monkeypatch, capsys):
    folder, roi, run = made
    argv = ["anodetect", "evaluate", str(run), str(folder), "--roi", str(roi), "--json"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["n_anomalous"] == 20


# -- A manifest's foreground -----------------------------------------------------------------------


def test_a_manifests_foreground_counts_for_images(made, pca_run, tmp_path):
    folder, _, _ = made
    files = sorted((folder / "test/defect").iterdir())[:3]
    lines = ["path,foreground"]
    for number, path in enumerate(files):
        inside = INSIDE.copy()
        inside[: 12 + 4 * number] = False
        Image.fromarray(inside).save(tmp_path / f"f{number}.png")
        shutil.copy(path, tmp_path / f"{number}.png")
        lines.append(f"{number}.png,f{number}.png")
    Image.fromarray(np.ones((9, 9), bool)).save(tmp_path / "small.png")
    shutil.copy(files[0], tmp_path / "3.png")
    lines.append("3.png,small.png")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))

    def scores(out):
        anodetect.score(pca_run, [str(tmp_path)], out, workers=1)
        return {row.path: row for row in directories.read(out).each()}

    rows = scores(tmp_path / "s")
    assert "the size (9, 9) of its foreground small.png is not" in rows["3.png"].error
    for number in range(3):
        heatmap = tifffile.imread(tmp_path / "s" / rows[f"{number}.png"].heatmap)
        assert np.array_equal(~np.isnan(heatmap), np.array(Image.open(tmp_path / f"f{number}.png")))
        stamped(tmp_path / f"{number}.png", 70 + number)
    again = scores(tmp_path / "t")
    assert [again[f"{n}.png"].score for n in range(3)] == [rows[f"{n}.png"].score for n in range(3)]
