"""Pictures of a case: right values, right places, and nothing from outside."""

import base64
import io
import os
import shutil
from dataclasses import is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import tifffile
from PIL import Image

pytest.importorskip("sqlalchemy", reason="the extra `app` is not installed")

import anodetect
from anodetect.errors import RunError
from anodetect.files import path_of, path_text
from anodetect.output import pictures
from anodetect.record import directories
from anodetect.record.rows import OutputRow, rows_of, to_table
from apps.review import display, loading, thumbnails


@pytest.fixture(scope="module")
def made(pca_run, synthetic_folder, tmp_path_factory):
    """A data set and its scores, which each test may copy and spoil."""
    base = tmp_path_factory.mktemp("display")
    shutil.copytree(synthetic_folder / "test", base / "data/test")
    shutil.copytree(synthetic_folder / "ground_truth", base / "data/ground_truth")
    anodetect.score(pca_run, [str(base / "data")], base / "scores", far=0.2)
    return base


@pytest.fixture
def scored(made, tmp_path):
    """(score directory, a row with a defect), with images and scores of its own."""
    copy = shutil.copytree(made, tmp_path / "copy")
    directory = directories.read(copy / "scores")
    directory = replace(directory, audit=replace(directory.audit, root=str(copy / "data")))
    return directory, next(row for row in directory.rows if row.label == 1)


def test_a_case_is_the_image_its_map_and_its_truth(scored):
    directory, row = scored
    case = loading.load(directory, row)
    file = Path(directory.audit.root) / row.path
    assert (case.image[0] == np.asarray(Image.open(file))).all()
    assert (case.heatmap == tifffile.imread(directory.path / row.heatmap)).all()
    assert case.mask.shape == case.heatmap.shape and 0 < case.mask.mean() < 0.2
    assert case.notes == ()
    assert display.difference(case).shape == (200, 200, 3)


def test_sixteen_bits_stay_sixteen_bits(scored):
    directory, row = scored
    file = Path(directory.audit.root) / row.path
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16).save(file)
    case = loading.load(directory, replace(row, sha256=sha256(file.read_bytes()).hexdigest()))
    assert case.image.max() == 4095 * 16 and len(np.unique(case.image)) == 4096


# -- Sessions share nothing that can be changed ----------------------------------------------------


def changeable(value):
    """Yield every part of a value that somebody could change."""
    if isinstance(value, np.ndarray):
        if value.flags.writeable:
            yield value
    elif isinstance(value, (dict, list, set)):
        yield value
        for part in value.values() if isinstance(value, dict) else value:
            yield from changeable(part)
    elif isinstance(value, (tuple, MappingProxyType)):
        for part in value.values() if isinstance(value, MappingProxyType) else value:
            yield from changeable(part)
    elif is_dataclass(value):
        yield from changeable(tuple(vars(value).values()))


def test_what_is_cached_for_all_sessions_cannot_be_changed(scored):
    directory, row = scored
    view = display.view(loading.load(directory, row))
    assert list(changeable(view)) == []
    folder = Path(directory.audit.root)
    assert list(changeable(loading._masks_of(folder, 0))) == []
    (folder / "manifest.csv").write_text("path,mask\na.png,\n")
    assert list(changeable(loading._read_manifest(folder / "manifest.csv", 0))) == []
    slices = np.zeros((1, 2, 8, 8), np.float32)
    volume = display.VolumeCase(None, slices, slices[0], slices[0] > 0, None, ())
    assert list(changeable(volume)) == []


# -- Nothing from outside --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "a/../../secret.png", "/etc/passwd", "..", ".", "", "link.png", "loop", "\0"],
)
def test_paths_that_lead_out_are_refused(tmp_path, name):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_text("secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(RunError):
        loading.inside(root, name)


def test_a_folder_with_a_longer_name_is_outside(tmp_path):
    for name in ("root", "root-secret"):
        (tmp_path / name).mkdir()
    with pytest.raises(RunError, match="leads out"):
        loading.inside(tmp_path / "root", "../root-secret/a.png")
    assert loading.inside(tmp_path / "root", "a/../b.png") == (tmp_path / "root/b.png").resolve()


@pytest.mark.parametrize("path", ["../outside.png", "%2E%2E/outside.png", "test/../../outside.png"])
def test_a_row_cannot_name_an_image_outside_the_root(scored, path):
    directory, row = scored
    outside = Path(directory.audit.root).parent / "outside.png"
    shutil.copy(Path(directory.audit.root) / row.path, outside)
    case = loading.load(directory, replace(row, path=path))
    assert case.image is None
    assert "leads out" in case.notes[0]


def test_a_row_cannot_name_a_heatmap_outside_the_directory(scored):
    directory, row = scored
    shutil.copy(directory.path / row.heatmap, directory.path.parent / "outside.tiff")
    case = loading.load(directory, replace(row, heatmap="../outside.tiff"))
    assert case.heatmap is None and "leads out" in case.notes[0]


@pytest.mark.parametrize(
    "name", ["a b.png", "100%.png", "ü.png", "a\nb.png", "%41.png", "\udcff.png", "\udc80\udc81/x"]
)
def test_escaped_names_are_undone(name):
    assert path_of(path_text(name)) == name


# -- What is missing -------------------------------------------------------------------------------


def relisted(directory, name):
    """A score directory that has recorded a file as it is now."""
    tables = directories.read_tables(directory.path)
    digest = sha256((directory.path / name).read_bytes()).hexdigest()
    outputs = [
        replace(output, sha256=digest) if output.name == name else output
        for output in rows_of(tables.outputs, OutputRow)
    ]
    tables = replace(tables, outputs=to_table(outputs, OutputRow))
    directories.write(directory.path, directory.audit, tables)
    return directories.read(directory.path)


def spoiled(scored, what):
    directory, row = scored
    file, heatmap = Path(directory.audit.root) / row.path, directory.path / row.heatmap
    if what == "moved image":
        file.rename(file.with_name("elsewhere.png"))
    elif what == "changed image":
        shutil.copy(next(file.parent.glob("*9.png")), file)
    elif what == "large image":
        with file.open("r+b") as opened:
            opened.truncate(loading.LARGEST + 1)
    elif what == "missing heatmap":
        heatmap.unlink()
    elif what == "changed heatmap":
        tifffile.imwrite(heatmap, np.zeros((64, 64), np.float32))
    elif what == "no heatmaps":
        row = replace(row, heatmap="")
    elif what == "damaged heatmap":
        heatmap.write_bytes(b"II*\0" + b"x" * 50)
        directory = relisted(directory, row.heatmap)
    else:
        tifffile.imwrite(heatmap, np.zeros((9, 9), np.float32))
        directory = relisted(directory, row.heatmap)
    return loading.load(directory, row)


@pytest.mark.parametrize(
    ("what", "note"),
    [
        ("moved image", "no longer there"),
        ("changed image", "was changed since it was scored"),
        ("large image", "viewer"),
        ("missing heatmap", "is missing"),
        ("changed heatmap", "was changed since it was written"),
        ("no heatmaps", "--heatmaps tiff"),
        ("damaged heatmap", "is damaged"),
        ("other size", "does not have the image's size"),
    ],
)
def test_what_cannot_be_shown_is_said(scored, what, note):
    case = spoiled(scored, what)
    assert (case.image is None) == what.endswith("image")
    assert (case.heatmap is None) != what.endswith("image")
    assert any(note in each for each in case.notes)


def test_a_failed_row_shows_its_image_if_there_is_one(scored):
    directory, row = scored
    case = loading.load(directory, replace(row, status="failed", heatmap="", sha256=None))
    assert case.image is not None and case.notes == ()


# -- Arrays ----------------------------------------------------------------------------------------


def test_the_window_is_black_and_white_at_its_ends():
    image = np.array([[[-2.0, 0, 50, 100, 300]]], np.float32)
    assert pictures.grey(image, (0, 100))[0, :, 0].tolist() == [0, 0, 127, 255, 255]
    assert pictures.grey(np.broadcast_to(image, (3, 1, 5)), (0, 100)).shape == (1, 5, 3)


def test_ct_windows_are_offered_only_for_what_looks_like_ct():
    scan = np.linspace(-1000, 2000, 64 * 64, dtype=np.float32).reshape(1, 64, 64)
    assert display.windows(scan)["brain"] == (0, 80)
    assert display.windows(scan)["lung"] == (-1350, 150)
    photo = np.linspace(0, 255, 64 * 64, dtype=np.float32).reshape(1, 64, 64)
    assert set(display.windows(photo)) == {"auto", "full range"}
    assert display.windows(photo)["full range"] == (0, 255)


def test_colours_are_those_of_the_model_whatever_the_image():
    scale = (1.0, 3.0)
    calm, odd = np.full((2, 2), 1.2, np.float32), np.array([[1.2, 9.0]], np.float32)
    assert (pictures.colour(calm, scale)[0, 0] == pictures.colour(odd, scale)[0, 0]).all()


def test_an_overlay_hides_only_what_is_anomalous():
    picture = np.full((1, 3, 3), 100, np.uint8)
    values = np.array([[0.0, 1.0, np.nan]], np.float32)
    shown = display.overlay(picture, values, (0, 1), "viridis", 1.0)
    assert (shown[0, 0] == 100).all() and (shown[0, 2] == 100).all()
    assert (shown[0, 1] == pictures.colour(values, (0, 1), "viridis")[0, 1]).all()
    assert (display.overlay(picture, values, (0, 1), "viridis", 0.0) == picture).all()


def test_a_small_anomaly_survives_being_reduced():
    values = np.zeros((1000, 700), np.float32)
    values[501, 333] = 7
    values[:100] = np.nan
    block = display.factor(values.shape, 250)
    small = display.reduced(values, block, "max")
    assert (block, small.shape) == (4, (250, 175))
    assert small.max(initial=0, where=~np.isnan(small)) == small[125, 83] == 7
    assert np.isnan(small[:25]).all() and not np.isnan(small[25:]).any()
    assert display.reduced(np.arange(10, dtype=np.float32)[None, None], 5, "mean").tolist() == [
        [[2, 7]]
    ]
    assert display.reduced(values, display.factor((10, 10)), "max") is values


def test_outlines_run_between_the_pixels_on_both_sides_of_the_threshold():
    inside = np.zeros((8, 8), bool)
    inside[2:4, 5:8] = True
    *line, gap = display.outlines(inside)
    assert (line[0] == line[-1]).all() and np.isnan(gap).all()
    assert (np.min(line, 0).tolist(), np.max(line, 0).tolist()) == ([4.5, 1.5], [7.5, 3.5])
    line = display.outlines(inside, 3)[:-1]  # pixels 15 to 23 and 6 to 11 of the image
    assert (np.min(line, 0).tolist(), np.max(line, 0).tolist()) == ([14.5, 5.5], [23.5, 11.5])
    assert np.isnan(display.outlines(np.zeros((8, 8), bool))).all()


def test_a_view_is_small_and_keeps_the_grid():
    image = np.arange(1, dtype=np.float32) + np.zeros((3, 900, 1600), np.float32)
    image[:, 450:, :] = 4095
    heatmap, mask = np.zeros((900, 1600), np.float32), np.zeros((900, 1600), bool)
    heatmap[451, 1001], mask[451, 1001] = 7, True
    view = display.view(display.Case(image, heatmap, heatmap > 0.5, mask, None, None, ("a note",)))
    assert (view.size, view.block, view.image.shape) == ((900, 1600), 3, (3, 300, 534))
    assert view.heatmap[150, 333] == 7 and view.heatmap.sum() == 7
    assert view.found[150, 333] and view.found.sum() == 1
    assert view.windows["full range"] == (0, 4095) and view.notes == ("a note",)
    assert display.view(display.Case(None, heatmap, None, None, None, None, ())) is None


def test_thumbnails_are_small_and_only_of_the_image_that_was_scored(scored):
    directory, row = scored
    picture = thumbnails.thumbnail(directory, row)
    content = base64.b64decode(picture.removeprefix("data:image/jpeg;base64,"))
    assert max(Image.open(io.BytesIO(content)).size) <= thumbnails.SIDE and len(content) < 4000
    for change in (
        {"sha256": "0" * 64},
        {"status": "failed"},
        {"path": "../x.png"},
    ):
        assert thumbnails.thumbnail(directory, replace(row, **change)) == ""
    assert thumbnails.is_large(replace(row, width=90000)) and not thumbnails.is_large(row)


def test_masks_come_from_the_manifest_where_there_is_one(scored):
    directory, row = scored
    root = Path(directory.audit.root)
    Image.fromarray(np.eye(64, dtype=np.uint8)).save(root / "eye.png")
    (root / "manifest.csv").write_text(f"path,mask\n{row.path},eye.png\n")
    assert (loading.load(directory, row).mask == np.eye(64, dtype=bool)).all()
    (root / "manifest.csv").write_text(f"path,mask\n{row.path},../eye.png\n")
    case = loading.load(directory, row)
    assert case.mask is None and "leads out" in case.notes[0]


def test_truth_is_shown_as_it_was_measured(scored):
    directory, row = scored
    root = Path(directory.audit.root)
    mask = next((root / "ground_truth").rglob(f"{Path(row.path).stem}_mask.png"))
    before, mask_folder = loading.load(directory, row).mask, mask.with_name(Path(row.path).stem)
    mask.unlink()
    mask_folder.mkdir()
    halves = before.copy(), before.copy()
    halves[0][:, :32], halves[1][:, 32:] = False, False
    for number, half in enumerate(halves):
        Image.fromarray(half).save(mask_folder / f"{number:03}.png")
    os.utime(root)  # the folder has changed
    assert np.array_equal(loading.load(directory, row).mask, before)

    below = root / Path(row.path).parent
    (below / "Manifest.CSV").write_text(f"path;Mask\n{Path(row.path).name};a.txt\n")
    (below / "a.txt").write_text("0 0.5 0.25 0.5 0.5\n")
    assert np.array_equal(
        np.argwhere(loading.load(directory, row).mask)[[0, -1]], [[0, 16], [31, 47]]
    )
    (below / "Manifest.CSV").write_text(f"path;Mask\n{Path(row.path).name};m.png\n ")
    Image.fromarray(np.eye(63, dtype=bool)).save(below / "m.png")
    case = loading.load(directory, row)
    assert case.mask is None and "not the image's" in case.notes[0]


def test_difference_is_bright_where_the_reconstruction_differs():
    shown, reconstruction = np.zeros((200, 200), np.uint8), np.zeros((200, 200), np.uint8)
    shown[10, 20], reconstruction[30, 40] = 50, 100
    found = display.difference(display.Case(None, None, None, None, reconstruction, shown, ()))
    assert (found[10, 20, 0], found[30, 40, 0], found.max(), (found > 0).sum()) == (
        127,
        255,
        255,
        6,
    )
    assert display.difference(display.Case(None, None, None, None, None, None, ())) is None


def test_pictures_travel_unchanged():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    text = display.data_uri(picture).removeprefix("data:image/png;base64,")
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) == picture).all()
