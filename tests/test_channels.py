"""Several files as the channels of one image: which belong together, what becomes of them, and what
the record says of them."""

import contextlib
import json
import shlex
from hashlib import sha256
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

import anodetect
from anodetect.cli import app
from anodetect.commands import benchmark, strips
from anodetect.commands.rescore import rescore
from anodetect.data import readers
from anodetect.data.channels import Channels, channels_of, matched, parse_channels
from anodetect.data.joined import join
from anodetect.data.reading import Reading
from anodetect.data.scan import scan
from anodetect.data.volumes import Volume
from anodetect.detectors import DETECTORS
from anodetect.detectors.ensemble import product_of_experts
from anodetect.errors import ConfigError, DataError, ImageError
from anodetect.imaging.intensities import sample_of_channels
from anodetect.imaging.log_scores import NormalScores
from anodetect.imaging.planes import comparable
from anodetect.imaging.planted import Defect
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.imaging.representations import features_installed
from anodetect.model.absences import Absences, absences_of, sets_of
from anodetect.model.forms import form_of
from anodetect.model.loading import Failed, LoadedImage, load
from anodetect.model.model import Model
from anodetect.model.planting import SCALED, in_one_channel
from anodetect.model.settings import create_detector, with_planes
from anodetect.record import directories, runs, verification
from anodetect.types import Batch, Scores, Silent, TrainContext
from benchmarks import channels as made_up

NEEDS_FEATURES = pytest.mark.skipif(
    not features_installed(), reason="the extra `features` is not installed"
)
RNG = np.random.default_rng(0)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
ROWS, COLUMNS, _ = np.mgrid[:12, :14, :6]
HEAD = (ROWS - 5.5) ** 2 / 25 + (COLUMNS - 6.5) ** 2 / 36 < 1
BRAIN = parse_channels("t1=*T1w*,flair=*FLAIR*")
PARTS = parse_channels("rgb=*_rgb*,ir=*_ir*")
SMALL = {"widths": [16], "stem": 4, "training": {"steps": 2}}
TINY = {
    "anoddpm": SMALL | {"prior": "off", "noise": "gaussian", "lambdas": [10]},
    "dae": SMALL,
    "ebm": SMALL | {"contrast": 0, "levels": [240], "scales": [0]},
    "ncsn": SMALL,
    "pca": {"components": 4},
    "intensity": {},
}


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not read")


def found(folder, channels):
    """The paths of every record's channels, None where one is absent, and the problems."""
    dataset = scan(folder, channels=channels)
    records = []
    for record in dataset.records:
        records.append([channel.id or None for channel in record.channels])
    return records, [(each.name, each.reason) for each in dataset.problems]


# -- Which files belong together -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "rest"),
    [
        ("*T1w*", ["sub-01_T1w.nii.gz"], ("sub-01",)),
        ("*t1W*", ["sub-01_T1w_3.nii"], ("sub-01", "3")),
        ("T1w", ["sub-01", "sub-01_T1w.nii.gz"], ("sub-01",)),
        ("T1w", ["T1w.nii.gz"], ()),
        ("T1w", ["sub-01_notT1w.nii.gz"], None),
        ("0001", ["case_17_0001.nii.gz"], ("case_17",)),
        ("*_ir.png", ["a_ir.png"], ("a",)),
        ("ir/*.png", ["lot", "ir", "7.png"], ("7",)),
        ("ir/*.png", ["7.png"], None),
        ("part?_*", ["part3_x.tif"], ("3", "x")),
    ],
)
def test_patterns_fit_names_and_leave_what_wildcards_stand_for(pattern, path, rest):
    match = matched(pattern, path)
    assert (None if match is None else match.rest) == rest


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("t1=*T1w*", "2 to 12 are expected"),
        ("t1=*a*,T1=*b*", "named twice"),
        ("t1=,t2=*b*", "no pattern for t1"),
        ("a b=*c*,t2=*b*", "is no name"),
    ],
)
def test_wrong_channels_are_refused(text, reason):
    with pytest.raises(ConfigError, match=reason):
        parse_channels(text)


def test_bids_sessions_nnunet_cases_and_folders_are_studies(tmp_path):
    bids = tmp_path / "bids"
    touch(
        bids,
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_acq-3d_FLAIR.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz",
        "sub-01/ses-2/dwi/sub-01_ses-2_dwi.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
    )
    dataset = scan(bids, channels=BRAIN)
    assert [record.group for record in dataset.records] == ["sub-01", "sub-01"]
    assert [record.channels[1].id for record in dataset.records] == [
        "sub-01/ses-1/anat/sub-01_ses-1_acq-3d_FLAIR.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz",
    ]
    assert not dataset.problems
    assert not dataset.doubt

    nnunet = tmp_path / "nnunet"
    touch(nnunet, *[f"imagesTr/case_{n}_000{c}.nii.gz" for n in "ab" for c in "01"])
    touch(nnunet, "labelsTr/case_a.nii.gz", "labelsTr/case_b.nii.gz")
    dataset = scan(nnunet, channels=parse_channels("t1=0000,flair=0001"))
    assert [record.id for record in dataset.records] == [
        "imagesTr/case_a_0000.nii.gz",
        "imagesTr/case_b_0000.nii.gz",
    ]
    assert [mask.name for record in dataset.records for mask in record.masks] == [
        "case_a.nii.gz",
        "case_b.nii.gz",
    ]

    folders = tmp_path / "folders"  # as dcm2niix names them: numbers differ
    touch(folders, "p1/3_T1w_sag.nii.gz", "p1/7_ax_FLAIR.nii.gz", "p2/2_T1w.nii.gz")
    touch(folders, "p2/9_FLAIR.nii.gz", "p2/4_T2.nii.gz")
    records, problems = found(folders, BRAIN)
    assert records == [
        ["p1/3_T1w_sag.nii.gz", "p1/7_ax_FLAIR.nii.gz"],
        ["p2/2_T1w.nii.gz", "p2/9_FLAIR.nii.gz"],
    ]
    assert not problems


def test_files_of_one_flat_folder_are_paired_by_their_names(tmp_path):
    touch(tmp_path, "part1_rgb.png", "part1_ir.png", "part2_ir.png", "part3_rgb.jpg")
    touch(tmp_path, "part3_ir.png", "notes.png")
    records, problems = found(tmp_path, PARTS)
    assert records == [["part1_rgb.png", "part1_ir.png"], ["part3_rgb.jpg", "part3_ir.png"]]
    assert [name for name, _ in problems] == ["part2_ir.png"]
    assert problems[0][1].startswith("no rgb (*_rgb*)")

    records, problems = found(tmp_path, Channels(PARTS.patterns, allow_missing=True))
    assert records[1] == [None, "part2_ir.png"]
    assert not problems


def test_two_files_of_one_channel_are_a_problem_and_an_unclear_one_an_error(tmp_path):
    touch(tmp_path, "p1/a_T1w.nii.gz", "p1/a_T1w_2.nii.gz", "p1/a_FLAIR.nii.gz")
    touch(tmp_path, "p2/a_FLAIR.nii.gz", "p2/a_T1w.nii.gz", "p1/a_FLAIR_2.nii.gz")
    assert found(tmp_path, BRAIN) == (
        [
            ["p1/a_T1w.nii.gz", "p1/a_FLAIR.nii.gz"],
            ["p1/a_T1w_2.nii.gz", "p1/a_FLAIR_2.nii.gz"],
            ["p2/a_T1w.nii.gz", "p2/a_FLAIR.nii.gz"],
        ],
        [],
    )
    doubled = parse_channels("t1=a_T1w*,flair=*FLAIR")
    _, problems = found(tmp_path, doubled)
    assert problems  # a_T1w_2 has no FLAIR of its name

    with pytest.raises(ConfigError, match="may be t1 or x; make one of the patterns narrower"):
        scan(tmp_path, channels=parse_channels("t1=*T1w*,x=*a_T*"))
    # The pattern with more characters decides between T1 and T1w.
    narrower = parse_channels("any=*T1*,t1=*T1w*")
    with pytest.raises(DataError, match="no any"):
        scan(tmp_path, channels=narrower)


def test_a_manifest_names_the_files_of_each_image(tmp_path):
    touch(tmp_path, "a1.nii.gz", "a2.nii.gz", "b1.nii.gz", "b2.nii.gz")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,channels,group\n,t1=a1.nii.gz;flair=a2.nii.gz,p\n,t1=b1.nii.gz,q\n")
    dataset = scan(tmp_path)
    assert dataset.channels.names == ("t1", "flair")
    (record,) = dataset.records
    assert record.id == "a1.nii.gz"
    assert record.group == "p"
    assert [channel.path.name for channel in record.channels] == ["a1.nii.gz", "a2.nii.gz"]
    assert [each.name for each in dataset.problems] == ["b1.nii.gz"]
    assert dataset.passed_over[0].count == 1  # b2

    turned = scan(tmp_path, channels=parse_channels("flair,t1"))
    assert [channel.name for channel in turned.records[0].channels] == ["flair", "t1"]
    assert turned.records[0].path.name == "a2.nii.gz"
    with pytest.raises(DataError, match="names no channel t2; its column 'channels' has t1, flair"):
        scan(tmp_path, channels=parse_channels("t1,t2"))

    for cell, reason in (
        ("a1.nii.gz", "name=file is expected"),
        ("t1=../x.nii", "leads out of the folder"),
        ("t1=a1.nii.gz;t1=a2.nii.gz", "named twice"),
    ):
        manifest.write_text(f"path,channels\n,{cell}\n")
        with pytest.raises(DataError, match=reason):
            scan(tmp_path)


# -- One array -------------------------------------------------------------------------------------


def world(shape, affine):
    """A function of the place in millimetres that is linear, and so interpolated exactly."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    return (place @ [0.5, -0.25, 0.125] + 7)[None].astype(np.float32)


def test_a_volume_on_another_grid_is_interpolated_at_the_same_places():
    first = Volume(np.zeros((1, 8, 9, 6), np.float32), AFFINE)
    finer = AFFINE @ np.diag([0.4, 0.5, 0.7, 1])
    finer[:3, :3] = finer[:3, :3] @ np.array([[1, 0.02, 0], [-0.02, 1, 0], [0, 0, 1]])
    finer[:3, 3] = [-4, -4, -4]
    other = Volume(world((30, 30, 15), finer), finer)
    joined = join(["t1", "flair"], [first, other])
    assert joined.notes == ("", "resampled to the grid of t1, 100% of which it covers")
    assert np.allclose(joined.pixels.voxels[1], world((8, 9, 6), AFFINE)[0], atol=1e-3)
    assert np.array_equal(joined.pixels.affine, AFFINE)

    half = Volume(other.voxels[:, :13], finer)  # it ends inside the first
    joined = join(["t1", "flair"], [first, half])
    values = joined.pixels.voxels[1]
    beyond = values == half.voxels.min()
    assert 0.2 < beyond.mean() < 0.9
    assert np.allclose(values[~beyond], world((8, 9, 6), AFFINE)[0][~beyond], atol=0.7)

    away = Volume(other.voxels, finer + np.array([[0, 0, 0, 900]] + [[0] * 4] * 3))
    with pytest.raises(ImageError, match="flair: it lies elsewhere in the patient"):
        join(["t1", "flair"], [first, away])


def test_the_same_grid_in_another_order_keeps_every_value():
    voxels = RNG.normal(size=(1, 4, 5, 6)).astype(np.float32)
    flip = np.array([[0, -1, 0, 3], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    turned = Volume(voxels[:, ::-1].transpose(0, 2, 1, 3), AFFINE @ flip)
    joined = join(["a", "b"], [Volume(voxels, AFFINE), turned])
    assert joined.notes == ("", "")
    assert np.array_equal(joined.pixels.voxels, np.concatenate([voxels, voxels]))


def test_images_keep_their_colours_and_absent_channels_are_nan():
    grey, colours = np.full((3, 8, 8), 5.0, np.float32), RNG.random((3, 8, 8), np.float32)
    joined = join(["ir", "rgb", "uv"], [grey, colours, None])
    assert joined.planes == (1, 3, 1)
    assert np.array_equal(joined.pixels[:4], np.concatenate([grey[:1], colours]))
    assert np.isnan(joined.pixels[4]).all()
    with pytest.raises(ImageError, match="rgb: 9×8 pixels, but ir has 8×8"):
        join(["ir", "rgb"], [grey, np.zeros((1, 8, 9), np.float32)])


# -- Values ----------------------------------------------------------------------------------------


def learned(images, planes, **config):
    preprocess = Preprocess(PreprocessConfig(**config))
    preprocess.named = Channels({f"c{number}": "" for number in range(len(planes))}, True)
    preprocess.learn([sample_of_channels(image, planes) for image in images])
    return preprocess


def test_a_window_for_each_channel_is_that_of_all_of_its_planes(tmp_path):
    images = RNG.random((20, 4, 16, 16), np.float32)
    images[:, 3] = 1000 * images[:, 3] + 500
    windows = [[0.5, 0.5], [1000, 400]]
    preprocess = learned(images, [3, 1], window=windows, foreground="all")
    again = Preprocess(PreprocessConfig(window=windows, foreground="all"))
    again.load_state(json.loads(json.dumps(preprocess.state())))
    for made in (preprocess, again):
        scaled, _ = made.apply(images[1])
        expected = [(images[1, :3] - 0.25) * 4 - 1, (images[1, 3:] - 800) / 200 - 1]
        assert np.allclose(scaled, np.clip(np.concatenate(expected), -1.5, 1.5), atol=1e-5)
        voxels = np.repeat(images[1][:, None], 9, axis=1)
        prepared = made.prepare(Volume(voxels, np.diag([5.0, 1, 1, 1])))
        assert prepared.spans == (*[(0.25, 0.75)] * 3, (800, 1200))


@pytest.mark.parametrize(
    ("window", "channels", "problem"),
    [("[40, 400]", True, "2 channels need a level and a width each"),
     ("[[40, 400]]", True, "2 channels need a level and a width each"),
     ("[[40, 400], [1, 2]]", True, ""),
     ("[[40, 400], [1, 2]]", False, "several windows are for several channels")],
)  # fmt: skip
def test_windows_are_as_many_as_channels(parts, tmp_path, window, channels, problem):
    options = {"channels": "rgb=*_rgb*,ir=*_ir*"} if channels else {}
    values = {"size": 24, "preprocess": {"window": json.loads(window)}}
    raised = pytest.raises(ConfigError, match=problem) if problem else contextlib.nullcontext()
    with raised:
        anodetect.train(
            str(parts / "good"), "intensity", tmp_path / "run", values=values, **options
        )


def test_each_channel_has_its_own_range_and_an_absent_one_is_background():
    images = RNG.random((20, 3, 16, 16), np.float32)
    images[:, 1] = 1000 * images[:, 1] + 500
    images[0, 2] = np.nan
    preprocess = learned(images, [1, 1, 1])
    again = Preprocess(PreprocessConfig())
    again.load_state(json.loads(json.dumps(preprocess.state())))

    for made in (preprocess, again):
        scaled, inside = made.apply(images[0])
        low, high = np.percentile(images[:, 1], (1, 99.5))
        assert np.allclose(made.ranges[1], (low, high), rtol=0.02)
        share = (images[0, 1] - made.ranges[1][0]) / np.ptp(made.ranges[1])
        assert np.allclose(scaled[1], np.clip(2 * share - 1, -1.5, 1.5), atol=1e-5)
        assert (scaled[2] == 0).all()  # no flat background here
        assert inside.all()


def test_a_foreground_is_found_in_all_channels_whatever_their_units():
    image = np.zeros((2, 32, 32), np.float32)
    image[0, 8:24, 8:20] = 1000
    image[1, 8:24, 12:24] = 1  # a thousandth of the other channel
    preprocess = learned([image] * 3, [1, 1])
    _, inside = preprocess.apply(image)
    assert (inside != image.any(0)).sum() <= 8  # but for the corners, which are rounded
    assert np.array_equal(comparable(image), image / image.max((1, 2), keepdims=True))

    absent = image.copy()
    absent[0] = np.nan
    scaled, inside = preprocess.apply(absent)
    assert (inside != (image[1] > 0)).sum() <= 4
    assert (scaled[0] == -1).all()


# -- From files to records -------------------------------------------------------------------------


def save_parts(folder, count, defect=False):
    """Parts in colour and in infrared; a defect shows in the infrared alone."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[:24, :24]
    for number in range(count):
        rgb = RNG.integers(90, 110, (24, 24, 3)) + (x > 11)[..., None] * [60, 20, 0]
        ir = 9000 + 80 * x + RNG.integers(0, 200, (24, 24))
        if defect:
            ir = ir + 20000 * ((y - 12) ** 2 + (x - 12) ** 2 < 16)
        Image.fromarray(rgb.astype(np.uint8)).save(folder / f"part{number}_rgb.png")
        Image.fromarray(ir.astype(np.uint16)).save(folder / f"part{number}_ir.png")
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    save_parts(folder / "good", 24)
    save_parts(folder / "bad", 3, defect=True)
    save_parts(folder / "new", 3)
    run = folder / "run"
    anodetect.train(
        str(folder / "good"), "pca", run, values={"size": 24}, channels="rgb=*_rgb*,ir=*_ir*"
    )
    return folder


def test_a_run_repeats_its_channels_and_finds_what_one_of_them_shows(parts, tmp_path):
    header = runs.read(parts / "run").header
    assert channels_of(header.preprocess["named"]).names == ("rgb", "ir")
    assert header.preprocess["channels"] == 4
    scores = {}
    for name in ("bad", "new"):
        anodetect.score(parts / "run", [str(parts / name)], tmp_path / name)
        scores[name] = [row.score for row in directories.read(tmp_path / name).rows]
    assert min(scores["bad"]) > max(scores["new"])

    row = directories.read(tmp_path / "bad").rows[0]
    assert row.path == "part0_rgb.png"
    assert (row.height, row.width) == (24, 24)
    lines = ""
    for listed in json.loads(row.channels):
        content = (parts / "bad" / listed["path"]).read_bytes()
        assert listed["sha256"] == sha256(content).hexdigest()
        lines += f"{listed['name']} {listed['sha256']}\n"
    assert row.sha256 == sha256(lines.encode()).hexdigest()
    assert verification.verify(tmp_path / "bad").intact
    assert rescore(tmp_path / "bad", 2) == []
    with Image.open(next((tmp_path / "bad" / "cases").iterdir())) as picture:
        assert picture.size == (3 * 200 + 2 * 6, 2 * 200 + 6)  # a row for each channel


def test_rows_say_why_a_study_cannot_be_scored(parts, tmp_path):
    data = save_parts(tmp_path / "data", 2)
    (data / "part0_ir.png").unlink()
    Image.new("L", (9, 9)).save(data / "part1_ir.png")
    Image.new("L", (9, 9)).save(data / "other.png")
    result = anodetect.score(parts / "run", [str(data)], tmp_path / "out")
    rows = {row.path: row for row in directories.read(tmp_path / "out").rows}
    assert result.failed == 2
    assert rows["part0_rgb.png"].error.startswith("no ir (*_ir*)")
    assert rows["part1_rgb.png"].error.startswith("ir: 9×9 pixels, but rgb has 24×24")
    with pytest.raises(ConfigError, match="several channels"):
        anodetect.score(parts / "run", [str(data / "other.png")], tmp_path / "one")


def test_a_changed_channel_does_not_pass_for_the_one_that_was_scored(parts, tmp_path):
    data = save_parts(tmp_path / "data", 1)
    anodetect.score(parts / "run", [str(data)], tmp_path / "out")
    Image.new("I;16", (24, 24)).save(data / "part0_ir.png")
    (problem,) = rescore(tmp_path / "out", 1)
    assert "is not the one that was scored" in problem


def save_brain(folder, number, bright=0.0):
    """T1 of 12 × 14 × 6 voxels, and FLAIR with half as many slices."""
    t1 = HEAD * (100 + RNG.normal(0, 3, HEAD.shape))
    flair = HEAD * (700 + RNG.normal(0, 20, HEAD.shape))
    flair[4:7, 5:8, 2:4] += bright
    folder.mkdir(parents=True, exist_ok=True)
    thick = AFFINE @ np.diag([1, 1, 2, 1])
    thick[2, 3] = 1.5
    for name, values, affine in (
        ("T1w", t1, AFFINE),
        ("FLAIR", flair.reshape(12, 14, 3, 2).mean(3), thick),
    ):
        image = nib.Nifti1Image(values.astype(np.float32), affine)
        nib.save(image, folder / f"sub-{number:02}_{name}.nii")


def test_volumes_are_scored_on_the_grid_of_the_first_channel(tmp_path):
    for number in range(10):
        save_brain(tmp_path / "healthy" / f"sub-{number:02}" / "anat", number)
    save_brain(tmp_path / "new" / "sub-77" / "anat", 77, bright=700)
    run, out = tmp_path / "run", tmp_path / "out"
    values = {"size": 16, "axis": "axial"}
    anodetect.train(
        str(tmp_path / "healthy"), "pca", run, values=values, channels="t1=T1w,flair=FLAIR"
    )
    anodetect.score(run, [str(tmp_path / "new")], out, heatmaps=["nifti", "png"])
    (row,) = directories.read(out).rows
    assert row.status == "ok", row.error
    assert (row.width, row.height, row.depth) == (12, 14, 6)
    assert "flair resampled to the grid of t1" in row.differs
    assert row.group == "sub-77"

    heatmap = nib.load(out / row.heatmap)
    assert np.allclose(heatmap.affine, AFFINE)
    values = np.nan_to_num(heatmap.get_fdata())
    i, j, k = np.unravel_index(values.argmax(), values.shape)
    assert 4 <= i < 7
    assert 5 <= j < 8
    assert 1 <= k < 5


def test_several_files_and_one_are_not_mixed_up(parts, tmp_path, pca_run):
    data = save_parts(tmp_path / "data", 1)
    (record,) = scan(data, channels=PARTS).records
    assert isinstance(load(record), Failed)  # a preprocessing that expects one file
    preprocess = Preprocess(PreprocessConfig())
    preprocess.named = PARTS
    loaded = load(record, preprocess)
    assert isinstance(loaded, LoadedImage)
    assert loaded.image.shape == (4, 24, 24)
    assert np.array_equal(loaded.leading, readers.read_image(data / "part0_rgb.png"))

    manifest = tmp_path / "data" / "manifest.csv"
    manifest.write_text("path,channels\n,rgb=part0_rgb.png;ir=part0_ir.png\n")
    anodetect.score(pca_run, [str(data)], tmp_path / "out")
    (row,) = directories.read(tmp_path / "out").rows
    assert row.error == "2 files as channels, but the model was trained on single files"


@pytest.fixture
def in_process(monkeypatch):
    """Lets `benchmark` call its commands without new processes."""

    def call(*arguments):
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    monkeypatch.setattr(benchmark, "_call", call)


def bench(folder, out, **options):
    given = {"seeds": 1, "budget": 1.0, "reporter": Silent(), **options}
    return benchmark.run([str(folder)], ["intensity"], out, **given)


def test_a_benchmark_takes_channels_by_option_and_by_manifest(tmp_path, in_process):
    lines = ["path,channels,split,label"]
    for part, count in (("train/good", 20), ("test/good", 12), ("test/bad", 12)):
        save_parts(tmp_path / "data" / part, count, defect=part.endswith("bad"))
        for n in range(count):
            files = f"ir={part}/part{n}_ir.png;rgb={part}/part{n}_rgb.png"
            lines.append(f",{files},{part[: part.index('/')]},{int(part.endswith('bad'))}")

    channels = "ir=*_ir*,rgb=*_rgb*"
    (row,) = bench(tmp_path / "data", tmp_path / "b", channels=channels).rows
    assert row.image_auroc == 1
    page = (tmp_path / "b" / "benchmark.html").read_text()
    assert page.count("data:image/png;base64,") == strips.STRIPS
    assert bench(tmp_path / "data", tmp_path / "b", channels=channels).rows == (row,)
    for other in ("rgb=*_rgb*,ir=*_ir*", None):
        with pytest.raises(ConfigError, match=r"trained on images of ir \+ rgb; give its"):
            bench(tmp_path / "data", tmp_path / "b", channels=other)
    with pytest.raises(ConfigError, match="2 to 12 are expected"):
        bench(tmp_path / "data", tmp_path / "none", channels="ir=*_ir*")
    assert not (tmp_path / "none").exists()

    (tmp_path / "data" / "manifest.csv").write_text("\n".join(lines))
    for _ in range(2):
        (listed,) = bench(tmp_path / "data", tmp_path / "m").rows
        assert listed.image_auroc == 1


def test_a_dry_run_knows_channels_without_making_a_model(parts, tmp_path, monkeypatch):
    data = save_parts(tmp_path / "data", 2)
    monkeypatch.setattr(Model, "load", lambda *given: pytest.fail("a model was made"))
    arguments = ["score", parts / "run", data, "--out", tmp_path / "out", "--dry-run", "--json"]
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["paths"] == ["part0_rgb.png", "part1_rgb.png"]


# -- Missing channels ------------------------------------------------------------------------------


def test_what_is_absent_adds_nothing_to_a_mean_over_channels():
    images = RNG.normal(size=(2, 4, 5, 5)).astype(np.float32)
    absent = np.array([[False] * 4, [False, True, False, True]])
    batch = Batch(images, np.ones((2, 5, 5), bool), absent=absent)
    mean = (images * batch.channel_weights[:, :, None, None]).mean(1)
    assert np.allclose(mean[0], images[0].mean(0), atol=1e-6)
    assert np.allclose(mean[1], images[1, [0, 2]].mean(0), atol=1e-6)
    assert np.array_equal(batch[1:].absent, absent[1:])
    whole = Batch(images, batch.foreground)
    assert np.array_equal(
        (images * whole.channel_weights[:, :, None, None]).mean(1), images.mean(1)
    )


@pytest.mark.parametrize("name", [name for name in DETECTORS if DETECTORS[name].leaves_out])
def test_the_residual_of_an_absent_channel_does_not_show(name, tmp_path):
    """A model of channels that have nothing to do with each other: with a channel absent, maps are
    about those of a model without it, whatever stands in it."""
    rng = np.random.default_rng(1)
    images = rng.normal(0, 0.1, (40, 2, 32, 32)).astype(np.float32)
    inside = np.ones((40, 32, 32), bool)
    detector = create_detector(name, TINY[name])
    detector.fit(Batch(images, inside), Batch(images[:8], inside[:8]), context=tiny(tmp_path))

    some = images[:3].copy()
    some[:, 1, 8:24, 8:24] = 1.4  # where a channel is absent its values mean nothing
    absent = np.array([[False, True]] * 3)
    seeds = np.arange(3, dtype=np.uint64)
    shown = detector.score(Batch(some, inside[:3]), seeds=seeds).heatmap
    left_out = detector.score(Batch(some, inside[:3], absent=absent), seeds=seeds).heatmap
    inner, outer = np.s_[:, 12:20, 12:20], np.s_[:, :4, :4]
    assert shown[inner].mean() > 1.3 * shown[outer].mean()
    assert left_out[inner].mean() < 0.7 * shown[inner].mean()


def tiny(folder):
    return TrainContext(seed=0, device="cpu", workdir=folder)


def test_copies_of_fit_images_lack_some_channels_but_never_all():
    preprocess = Preprocess(PreprocessConfig())
    preprocess.planes = (3, 1, 1)
    rng = np.random.default_rng(0)
    none = np.zeros(5, bool)
    drawn = {tuple(preprocess.fewer_channels(none, rng).tolist()) for _ in range(100)}
    expected = set()
    for rgb, ir, uv in np.ndindex(2, 2, 2):
        if 0 < rgb + ir + uv < 3:
            expected.add((bool(rgb),) * 3 + (bool(ir), bool(uv)))
    assert drawn == expected
    assert preprocess.fewer_channels(np.array([True] * 4 + [False]), rng) is None


def test_a_model_with_missing_channels_scores_what_is_there(tmp_path):
    good = save_parts(tmp_path / "good", 24)
    (good / "part3_ir.png").unlink()
    (good / "part4_rgb.png").unlink()
    run = tmp_path / "run"
    options = {"channels": "rgb=*_rgb*,ir=*_ir*", "allow_missing": True}
    with pytest.raises(ConfigError, match="nce sees all channels of a pixel at once"):
        anodetect.train(str(good), "nce", run, representation="pixels", **options)
    trained = anodetect.train(str(good), "pca", run, values={"size": 24}, **options)
    assert trained.failures == ()
    assert runs.read(run).header.absences["planes"] == [3, 1]

    bad = save_parts(tmp_path / "bad", 4, defect=True)
    for number in (0, 1):
        (bad / f"part{number}_ir.png").unlink()  # what is left is normal
    (bad / "part2_rgb.png").unlink()
    anodetect.score(run, [str(bad)], tmp_path / "out")
    rows = {row.path: row for row in directories.read(tmp_path / "out").rows}
    assert {row.status for row in rows.values()} == {"ok"}
    assert rows["part0_rgb.png"].differs == "ir is absent"
    assert json.loads(rows["part2_ir.png"].channels)[0] == {
        "name": "rgb",
        "path": None,
        "sha256": None,
    }
    normal = max(rows["part0_rgb.png"].score, rows["part1_rgb.png"].score)
    assert min(rows["part2_ir.png"].score, rows["part3_rgb.png"].score) > normal
    assert anodetect.verify(tmp_path / "out").intact
    assert rescore(tmp_path / "out", 4) == []
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "From the top: rgb, ir (absent)" in page


@pytest.mark.parametrize("name", ["intensity", "pca", "dae", "anoddpm"])
def test_normal_images_that_lack_channels_are_flagged_about_as_often_as_others(name):
    rng = np.random.default_rng(0)
    detector, absences = made_up.trained(name, 100, rng)
    assert max(made_up.false_alarms(detector, absences, 100, rng)) < 0.3
    assert max(made_up.false_alarms(detector, None, 100, rng)) > 0.5


def test_scores_without_channels_have_the_moments_of_whole_ones():
    whole, own = NormalScores(1.0, 0.5, -1.0, 0.2), NormalScores(3.0, 0.25, 2.0, 0.4)
    absences = Absences((3, 1), whole, {(0,): own})
    absences = absences_of(json.loads(json.dumps(absences.state())))
    lacking = np.array([[False] * 4, [True] * 3 + [False]])
    image = np.exp([3.5, 3.5]).astype(np.float32)
    heatmap = np.exp(np.full((2, 2, 2), 2.4, np.float32))
    heatmap[:, 0] = 0  # outside the foreground
    found = absences.comparable(Scores(image, heatmap), lacking)
    assert found.image[0] == image[0]
    assert np.array_equal(found.heatmap[0], heatmap[0])
    assert np.log(found.image[1]) == pytest.approx(1 + 0.5 * 2, abs=1e-5)
    assert np.allclose(found.heatmap[1], [[0, 0], [np.exp(-0.8)] * 2])
    with pytest.raises(ImageError, match="1 channel is absent"):
        absences.comparable(Scores(image, heatmap), lacking[:, ::-1])


@pytest.mark.parametrize(
    ("channels", "count", "largest"), [(2, 2, 1), (4, 14, 3), (6, 62, 5), (7, 28, 2), (12, 12, 1)]
)
def test_sets_of_channels_that_may_be_absent(channels, count, largest):
    found = sets_of(channels)
    assert len(set(found)) == len(found) == count
    assert max(map(len, found)) == largest


# -- Members that see one channel ------------------------------------------------------------------


def test_a_defect_is_planted_in_one_channel():
    source = RNG.normal(size=(5, 24, 24)).astype(np.float32), np.ones((24, 24), bool)
    changed = set()
    for seed in range(20):
        defect = Defect("shift", 0.3, 0.5)
        planted = in_one_channel((3, 1, 1), source, defect, seed, source, SCALED)
        changed.add(tuple((planted != source[0]).any((1, 2)).tolist()))
    assert changed == {
        (True,) * 3 + (False,) * 2,
        (False,) * 3 + (True, False),
        (False,) * 4 + (True,),
    }


def test_a_channel_of_noise_counts_less_but_is_kept(tmp_path):
    _, x = np.mgrid[:24, :24]
    good = tmp_path / "good"
    good.mkdir()
    for number in range(60):
        smooth = 100 + 60 * np.sin(x / 4) + RNG.normal(0, 2, (24, 24))
        Image.fromarray(smooth.astype(np.uint8)).save(good / f"{number}_a.png")
        Image.fromarray(RNG.integers(0, 255, (24, 24), np.uint8)).save(good / f"{number}_b.png")
    members = ["pca/pixels@a", "pca/pixels@b"]
    values = {"size": 24, "members": members}
    anodetect.train(str(good), "ensemble", tmp_path / "run", values=values, channels="a,b")
    clear, noisy = Model.load(runs.read(tmp_path / "run"), "cpu").detector.weights
    assert 0.19 < noisy < 0.4 < clear


@NEEDS_FEATURES
def test_a_few_images_of_several_channels(tmp_path):
    good, options = save_parts(tmp_path / "good", 5), {"channels": "rgb=*_rgb*,ir=*_ir*"}
    run = tmp_path / "run"
    values = {"representation": {"size": 32}, "detector": {"memory": 100, "candidates": 400}}
    with pytest.raises(ConfigError, match="each of a few images has to have all channels"):
        missing = {"allow_missing": True, "allow_few": True}
        anodetect.train(str(good), "patchcore", run, values=values, **options, **missing)
    anodetect.train(str(good), "patchcore", run, values=values, allow_few=True, **options)
    ensemble = Model.load(runs.read(run), "cpu").detector
    assert min(normal.mean for normal in ensemble.normal) > np.log(1e-3)  # of images not learned
    for name, defect in (("bad", True), ("new", False)):
        data = save_parts(tmp_path / name, 3, defect=defect)
        anodetect.score(run, [str(data)], tmp_path / f"{name}-scores")
    bad, new = (
        [row.score for row in directories.read(tmp_path / f"{name}-scores").rows]
        for name in ("bad", "new")
    )
    assert min(bad) > max(new)

    for channel in ("rgb", "ir"):
        (good / f"part4_{channel}.png").unlink()
        (good / f"part3_{channel}.png").unlink()
    with pytest.raises(DataError, match="3 normal images are too few for several channels"):
        out = tmp_path / "three"
        anodetect.train(str(good), "patchcore", out, values=values, allow_few=True, **options)


# -- Mirrored images -------------------------------------------------------------------------------


def test_all_channels_of_a_right_side_are_mirrored(tmp_path):
    """A part and its mirror image, which a manifest calls a right one, are judged alike."""
    data = save_parts(tmp_path / "data", 1, defect=True)
    for name in ("rgb", "ir"):
        pixels = np.asarray(Image.open(data / f"part0_{name}.png"))
        Image.fromarray(np.ascontiguousarray(pixels[:, ::-1])).save(data / f"part1_{name}.png")
    lines = ["path,channels,laterality", ",rgb=part0_rgb.png;ir=part0_ir.png,L"]
    lines.append(",rgb=part1_rgb.png;ir=part1_ir.png,R")
    (data / "manifest.csv").write_text("\n".join(lines))

    left, right = scan(data).records
    content = readers.read_source(right).content(Reading(flip_right=True))
    assert content.mirrored
    assert np.array_equal(content.pixels, readers.read_source(left).decode())
    assert not readers.read_source(left).content(Reading(flip_right=True)).mirrored

    values = {"size": 24, "preprocess": {"flip_right": True}}
    good = save_parts(tmp_path / "good", 22)
    options = {"values": values, "channels": "rgb=*_rgb*,ir=*_ir*"}
    anodetect.train(str(good), "pca", tmp_path / "run", **options)
    anodetect.score(tmp_path / "run", [str(data)], tmp_path / "out")
    one, other = directories.read(tmp_path / "out").rows
    assert other.score == pytest.approx(one.score, rel=1e-5)
    maps = [tifffile.imread(tmp_path / "out" / row.heatmap) for row in (one, other)]
    assert np.allclose(maps[1], maps[0][:, ::-1], rtol=1e-4)
    with Image.open(next((tmp_path / "out" / "cases").iterdir())) as picture:
        assert picture.height == 2 * 200 + 6  # a row for each channel
    assert rescore(tmp_path / "out", 2) == []


# -- Features --------------------------------------------------------------------------------------


@NEEDS_FEATURES
def test_forms_of_several_channels():
    missing = Channels(BRAIN.patterns, allow_missing=True)
    assert form_of("pca", "auto", {}, BRAIN).representation == "pixels"
    form = form_of("patchcore", "auto", {}, missing)
    assert form.detector == "ensemble"
    assert form.config["detector"]["members"] == [
        "patchcore/features@t1",
        "patchcore/features@flair",
    ]
    assert form.config["detector"]["weights"] == "auto"
    placed = with_planes(form.config, ("t1", "flair"), (3, 1))["detector"]["settings"]
    assert placed["patchcore/features@t1"]["planes"] == [0, 3]
    assert placed["patchcore/features@flair"]["planes"] == [3, 4]
    resolved = Model.create("ensemble", "pixels", with_planes(form.config, ("t1", "flair"), (3, 1)))
    assert [expert.planes for expert in resolved.detector.experts] == [(0, 3), (3, 4)]

    members = {"members": ["pca/pixels", "ebm/features"]}
    with pytest.raises(ConfigError, match="features are of one channel; ebm/features@t1"):
        form_of("ensemble", "auto", {"detector": members}, BRAIN)
    with pytest.raises(ConfigError, match="no channel 'flair'; Known: t1, t2x"):
        with_planes(form.config, ("t1", "t2x"), (1, 1))


@NEEDS_FEATURES
def test_features_see_each_channel_alone_and_an_absent_one_counts_nothing(tmp_path):
    good = save_parts(tmp_path / "good", 22)
    (good / "part5_rgb.png").unlink()
    run, options = tmp_path / "run", {"channels": "rgb=*_rgb*,ir=*_ir*", "allow_missing": True}
    values = {"representation": {"size": 32}, "detector": {"memory": 100, "candidates": 400}}
    anodetect.train(str(good), "patchcore", run, values=values, **options)
    bad = save_parts(tmp_path / "bad", 3, defect=True)
    (bad / "part0_ir.png").unlink()
    anodetect.score(run, [str(bad)], tmp_path / "out")
    scores = {row.path: row.score for row in directories.read(tmp_path / "out").rows}
    assert min(scores["part1_rgb.png"], scores["part2_rgb.png"]) > scores["part0_rgb.png"]

    # The joint score is the mean of standardised logarithms of those that are there.
    ensemble = Model.load(runs.read(run), "cpu").detector
    z = np.array([[2.0, 2.0], [6.0, 6.0]], np.float32)  # [K, N]
    lacking = np.array([[False] * 4, [False, False, False, True]])
    batch = Batch(np.zeros((2, 4, 8, 8), np.float32), np.ones((2, 8, 8), bool), absent=lacking)
    joined = product_of_experts(ensemble._shared(z, batch), ensemble.weights)
    assert np.allclose(joined, np.exp([4.0, 2.0]))


# -- The page --------------------------------------------------------------------------------------


def section_of(page, title):
    """The text of a page's section."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text("utf-8")
    return text.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_commands_of_the_page_run(tmp_path, monkeypatch):
    """On made-up heads of four sequences, with a detector that is quicker."""
    for folder, number in [*[("study", number) for number in range(10)], ("new", 10)]:
        subject = tmp_path / folder / f"sub-{number:02}"
        subject.mkdir(parents=True)
        for level, name in enumerate(("T1w", "T1ce", "T2w", "FLAIR"), 1):
            voxels = 100 * level * HEAD + RNG.normal(0, 2, HEAD.shape) * HEAD
            image = nib.Nifti1Image(voxels.astype(np.float32), AFFINE)
            nib.save(image, subject / f"sub-{number:02}_{name}.nii.gz")

    monkeypatch.chdir(tmp_path)
    lines = section_of("volumes.md", "Several sequences as channels").splitlines()
    commands = [line for line in lines if line.startswith("anodetect ")]
    assert len(commands) == 2
    for command in commands:
        quicker = command.replace("-d anoddpm", "-d pca --set size=16 --axis axial")
        done = CliRunner().invoke(app, shlex.split(quicker)[1:])
        assert done.exit_code == 0, done.output
    (row,) = directories.read(tmp_path / "scores" / "today").rows
    assert [each["name"] for each in json.loads(row.channels)] == ["t1", "t1c", "t2", "flair"]
    assert row.path == "sub-10/sub-10_T1w.nii.gz"


def test_the_viewer_has_the_planes_and_windows_of_each_channel(parts, tmp_path):
    pytest.importorskip("streamlit", reason="the extra `app` is not installed")
    from apps.review import display, loading, routes, thumbnails, tickets

    data = save_parts(tmp_path / "data", 1)
    anodetect.score(parts / "run", [str(data)], tmp_path / "out")
    directory = directories.read(tmp_path / "out")
    (row,) = directory.rows
    files = {name: readers.read_image(data / f"part0_{name}.png") for name in ("rgb", "ir")}

    ticket = tickets.OFFICE.ticket(directory, row, hidden=False)
    text, case = routes.describe(ticket), tickets.OFFICE.image(ticket)
    sent = np.frombuffer(case.layers["image"].tile(0, 0, 0), text.layers["image"].kind)
    planes = sent.reshape(-1, 24, 24)
    assert [(each.name, each.start, each.count) for each in text.channels] == [
        ("rgb", 0, 3),
        ("ir", 3, 1),
    ]
    for channel in text.channels:
        own = planes[channel.start : channel.start + channel.count]
        assert np.array_equal(own, files[channel.name])
        assert channel.windows == display.windows(files[channel.name])
    assert text.windows == text.channels[0].windows and "heatmap" in text.layers

    # Where one picture stands for the image, it is that of the first channel.
    shown = display.view(loading.load(directory, row))
    assert np.array_equal(shown.image, files["rgb"])
    assert thumbnails.thumbnail(directory, row).startswith("data:image/jpeg")

    (data / "part0_ir.png").unlink()
    case = loading.load(directory, row)
    assert case.image is None
    assert "part0_ir.png is no longer there" in case.notes[0]


@pytest.mark.parametrize("values", [{"exported": [99, 200]}, {"frames": True}])
def test_settings_that_channels_exclude_are_refused_before_files_are_looked_for(tmp_path, values):
    with pytest.raises(ConfigError, match=rf"preprocess\.{next(iter(values))}"):
        anodetect.train(
            str(tmp_path / "no such folder"),
            "pca",
            tmp_path / "run",
            values=values,
            channels="t1=*T1w*,t2=*T2w*",
        )


def test_several_bit_depths_of_a_channel_are_said(tmp_path):
    data, warned = save_parts(tmp_path / "data", 20), []
    for number in range(8):
        path = data / f"part{number}_ir.png"
        Image.fromarray((readers.read_image(path)[0] // 257).astype(np.uint8)).save(path)

    class Notes(Silent):
        def warn(self, text):
            warned.append(text)

    run = tmp_path / "run"
    anodetect.train(str(data), "intensity", run, channels="rgb=*_rgb*,ir=*_ir*", reporter=Notes())
    (said,) = [text for text in warned if text.startswith("channel ")]
    assert said == (
        "channel ir: 12 files of uint16 and 8 files of uint8; values are taken as they are, so "
        "save all in one type if they do not mean the same"
    )
