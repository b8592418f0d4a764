"""Odd normals: which images the others do not explain."""

import shutil
from base64 import b64decode
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from sklearn.decomposition import PCA

import anodetect
from anodetect.commands.odd import leave_out_odd
from anodetect.data import synthetic
from anodetect.data.records import Record
from anodetect.data.split import Roles
from anodetect.errors import ConfigError, DataError, RunError
from anodetect.imaging import odd
from anodetect.imaging.representations import features_installed
from anodetect.model.model import Model
from anodetect.model.settings import resolve
from anodetect.output import run_report
from anodetect.output.pictures import thumbnail
from anodetect.record import directories, runs
from anodetect.record.odd import read_odd
from anodetect.stats.metrics import auroc
from anodetect.types import Batch


def made_places(count, seed=0, channels=6, side=8, rank=4):
    """Images of a subspace with noise, [N, C, side, side]."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(rank, channels * side * side))
    images = rng.normal(size=(count, rank)) @ basis + 0.3 * rng.normal(size=(count, basis.shape[1]))
    return images.reshape(count, channels, side, side).astype(np.float32)


def everywhere(places):
    return np.ones((len(places), *places.shape[2:]), np.float32)


def names(count):
    return np.array([f"g{number:03}" for number in range(count)])


def test_defects_that_resemble_each_other_stand_first():
    places = made_places(200)
    rng = np.random.default_rng(9)
    defect = rng.normal(size=(6, 2, 2)).astype(np.float32)
    odd_rows = np.arange(0, 200, 20)
    for row, (y, x) in zip(odd_rows, rng.integers(7, size=(10, 2)), strict=True):
        places[row, :, y : y + 2, x : x + 2] += 2 * defect

    scores = odd.odd_scores(places, everywhere(places), names(200), seed=0)
    assert auroc(np.isin(np.arange(200), odd_rows).astype(int), scores.astype(float)) > 0.99
    assert np.median(scores) == pytest.approx(1)


def test_the_oddest_are_not_learned_from_the_second_time(monkeypatch):
    places = made_places(100)
    rng = np.random.default_rng(5)
    in_common = rng.normal(size=places.shape[1:])
    own = 0.3 * rng.normal(size=(6, *in_common.shape))
    places[:6] += (in_common + own).astype(np.float32)

    twice = odd.odd_scores(places, everywhere(places), names(100), seed=0)
    monkeypatch.setattr(odd, "SUSPECT", 0.0)
    once = odd.odd_scores(places, everywhere(places), names(100), seed=0)
    assert twice[:6].mean() > 1.5 * once[:6].mean()


def test_an_image_is_not_explained_by_another_of_its_group():
    places = made_places(60, rank=8)
    odd_image = np.random.default_rng(5).normal(size=places.shape[1:])
    places[:8] += 4 * odd_image.astype(np.float32)  # eight pictures of one odd part
    apart, together = names(60), names(60)
    together[:8] = "one lot"

    explained = odd.odd_scores(places, everywhere(places), apart, seed=1)
    alone = odd.odd_scores(places, everywhere(places), together, seed=1)
    assert alone[:8].min() > 1.5 * explained[:8].max()
    assert set(np.argsort(-alone)[:8]) == set(range(8))


def test_residuals_are_those_of_a_library():
    places = made_places(50)
    scaled = odd._Scaled(places, everywhere(places))
    mean, deviation = places.mean((0, 2, 3)), places.std((0, 2, 3))
    flat = ((places - mean[:, None, None]) / deviation[:, None, None]).reshape(50, -1)
    folds = np.arange(50) % 5
    components = odd._components_for(scaled, folds, np.ones(50, bool), seed=0)
    left = np.full_like(flat, np.nan)
    for rows, residuals in odd._residuals(scaled, folds, components):
        left[rows] = residuals.reshape(len(rows), -1)

    for fold in range(5):
        own, others = flat[folds == fold], flat[folds != fold]
        model = PCA(len(others) // 4, svd_solver="full").fit(others)
        expected = own - model.inverse_transform(model.transform(own))
        np.testing.assert_allclose(left[folds == fold], expected, atol=2e-4)


def test_folds_hold_whole_groups_and_the_order_of_images_does_not_matter():
    groups = np.repeat(names(13), 3)
    folds = odd.fold_numbers(groups, seed=3)
    assert set(folds) == set(range(5))
    assert all(len(set(folds[groups == name])) == 1 for name in names(13))

    places, order = made_places(39), np.random.default_rng(2).permutation(39)
    scores = odd.odd_scores(places, everywhere(places), groups, seed=3)
    shuffled = odd.odd_scores(places[order], everywhere(places), groups[order], seed=3)
    np.testing.assert_allclose(shuffled, scores[order], rtol=1e-3)


def test_what_is_no_foreground_does_not_count():
    places = made_places(80)
    share = everywhere(places)
    share[:, :2] = 0
    places[7, :, 0, 0] += 20
    assert np.argmax(odd.odd_scores(places, everywhere(places), names(80), seed=0)) == 7
    scores = odd.odd_scores(places, share, names(80), seed=0)
    assert np.sort(scores)[-8] > scores[7]


def test_two_images_and_equal_images_have_finite_scores():
    two = odd.odd_scores(made_places(2), everywhere(made_places(2)), names(2), seed=0)
    same = np.repeat(made_places(1), 9, 0)
    equal = odd.odd_scores(same, everywhere(same), names(9), seed=0)
    assert np.isfinite(two).all()
    assert np.isfinite(equal).all()


def test_places_are_means_over_blocks_of_any_grid():
    rng = np.random.default_rng(0)
    for side in (5, 8, 32, 37):
        images = rng.normal(size=(3, 2, side, side)).astype(np.float32)
        inside = rng.random((3, side, side)) < 0.5
        places, share = odd.places_of_features(Batch(images, inside))
        grid = min(8, side)
        edges = np.linspace(0, side, grid + 1).astype(int)
        assert places.shape == (3, 2, grid, grid)
        rows, columns = slice(edges[1], edges[2]), slice(edges[-2], edges[-1])
        np.testing.assert_allclose(
            places[..., 1, -1], images[..., rows, columns].mean((-2, -1)), atol=1e-5
        )
        np.testing.assert_allclose(
            share[:, 1, -1], inside[:, rows, columns].mean((-2, -1)), atol=1e-6
        )


def test_pixels_of_a_place_are_its_channels():
    images = np.arange(2 * 64 * 64, dtype=np.float32).reshape(2, 1, 64, 64)
    places, share = odd.places_of_pixels(Batch(images, np.ones((2, 64, 64), bool)))
    assert places.shape == (2, 64, 8, 8)
    np.testing.assert_array_equal(places[1, :, 2, 3], images[1, 0, 16:24, 24:32].ravel())
    assert (share == 1).all()


# -- In a training ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder of 40 normals, five of which have a defect: (folder, names of those)."""
    folder = tmp_path_factory.mktemp("mixed")
    synthetic.write(folder / "made", train=35, test=5, size=64)
    (folder / "all").mkdir()
    for file in (folder / "made/train/good").iterdir():
        shutil.copy(file, folder / "all")
    defects = []
    for file in (folder / "made/test/defect").iterdir():
        defects.append(f"part_{file.name}")
        shutil.copy(file, folder / "all" / defects[-1])
    return folder / "all", defects


def odd_in_fit(run, defects):
    """The defects among the fit images of a run, and those it left out."""
    rows = runs.read_manifest(run)
    return {row.path for row in rows if row.role in ("fit", "odd") and row.path in defects}


@pytest.fixture(scope="module")
def listed(mixed):
    out = mixed[0].parent / "run"
    result = anodetect.train(str(mixed[0]), "pca", out, values={"size": 32})
    return out, result


@pytest.mark.skipif(not features_installed(), reason="the extra `features` is not installed")
def test_a_training_lists_the_defects_among_its_images_first(listed, mixed):
    run, result = listed
    found = result.as_json()["odd"]
    assert found["seen_as"] == "features"
    fit_images = result.facts.training.fit_images
    assert found["looked_at"] == found["fit_images"] == fit_images
    assert [image["rank"] for image in found["images"]] == list(range(1, 11))
    inside = odd_in_fit(run, mixed[1])
    assert len(inside) >= 2
    assert {image["path"] for image in found["images"][: len(inside)]} == inside
    assert "picture" not in found["images"][0]

    kept = read_odd(run)
    assert kept.as_json() == found
    picture = imagecodecs.jpeg_decode(b64decode(kept.images[0].picture))
    assert picture.shape == (64, 64, 3)
    assert odd_in_fit(run, mixed[1]) == {
        row.path for row in runs.read_manifest(run) if row.role == "fit" and row.path in mixed[1]
    }, "listed, but not left out"


def test_the_list_is_covered_by_the_hashes_of_the_run(listed, tmp_path):
    run = shutil.copytree(listed[0], tmp_path / "run")
    (run / "odd.json").write_text(
        (run / "odd.json").read_text().replace('"rank": 1,', '"rank": 9,')
    )
    with pytest.raises(RunError, match="altered"):
        runs.read(run)

    (run / "odd.json").unlink()  # it holds pictures, which are not for everyone
    assert runs.read(run)
    assert read_odd(run) is None
    assert "Odd normals" not in run_report.html(runs.read(run))


def test_the_report_of_a_run_shows_them(listed):
    page = run_report.write(runs.read(listed[0])).read_text()
    kept = read_odd(listed[0])
    assert all(image.picture in page for image in kept.images if image.picture)
    assert "None was left out" in page
    assert runs.read(listed[0])


@pytest.mark.skipif(not features_installed(), reason="the extra `features` is not installed")
def test_the_oddest_are_left_out_on_request(mixed, listed, tmp_path):
    values = {"size": 64, "memory": 200}
    result = anodetect.train(
        str(mixed[0]), "patchcore", tmp_path / "run", values=values, drop_odd=0.1
    )
    facts, before = result.facts.training, listed[1].facts.training
    assert (facts.odd_left_out, facts.fit_images) == (3, before.fit_images - 3)
    rows = runs.read_manifest(tmp_path / "run")
    odd_rows = [row for row in rows if row.role == "odd"]
    assert {row.path for row in odd_rows} == {
        image.path for image in result.odd.images if image.left_out
    }
    assert all("--drop-odd" in row.error and row.sha256 for row in odd_rows)
    for role in ("tune", "calibrate"):
        assert [row for row in rows if row.role == role] == [
            row for row in runs.read_manifest(listed[0]) if row.role == role
        ], "a promise holds for normals as they come"
    assert "3 images" in (tmp_path / "run/model_card.md").read_text()

    anodetect.score(tmp_path / "run", [str(mixed[0])], tmp_path / "scores", heatmaps=())
    assert directories.read(tmp_path / "scores").audit.facts["odd_left_out"] == 3


def test_pictures_are_small_and_keep_their_shape():
    image = np.linspace(0, 60_000, 300 * 500, dtype=np.float32).reshape(1, 300, 500)
    picture = imagecodecs.jpeg_decode(thumbnail(image, 160))
    assert picture.shape == (96, 160, 3)
    assert picture[0].max() < 10
    assert picture[-1].min() > 245


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        (0.0, ConfigError, "share below 1"),
        (2.5, ConfigError, "share below 1"),
        (float("nan"), ConfigError, "share below 1"),
        (float("inf"), ConfigError, "share below 1"),
        (15.0, DataError, "would leave 13 of 28"),
        (0.9, DataError, "at least half"),
    ],
)
def test_numbers_that_cannot_be_left_out_are_refused(mixed, tmp_path, wanted, error, message):
    with pytest.raises(error, match=message):
        anodetect.train(str(mixed[0]), "pca", tmp_path / "run", drop_odd=wanted)
    assert not (tmp_path / "run.partial").exists()


def test_slices_of_volumes_are_listed_but_not_left_out():
    slices = [Record("scan.nii", Path("scan.nii"), slice=number) for number in range(30)]
    model = Model.create("pca", "pixels", resolve("pca", "pixels", {}))
    with pytest.raises(ConfigError, match="odd volumes"):
        leave_out_odd(model, Roles(slices, [], []), None, 2.0, seed=0, device="cpu", few=False)


def test_without_the_extra_pixels_are_compared(mixed, monkeypatch, tmp_path):
    monkeypatch.setattr("anodetect.model.odd.features_installed", lambda: False)
    values = {"size": 32}
    result = anodetect.train(str(mixed[0]), "pca", tmp_path / "run", values=values)
    assert result.odd.seen_as == "pixels"
    assert "as pixels" in result.odd.sentence()
    assert np.isfinite([image.score for image in result.odd.images]).all()


def test_a_search_without_time_says_how_many_it_compared(mixed, monkeypatch, tmp_path):
    monkeypatch.setattr("anodetect.commands.odd.SECONDS", 0.0)
    values = {"size": 32}
    result = anodetect.train(str(mixed[0]), "pca", tmp_path / "run", values=values)
    assert (result.odd.looked_at, len(result.odd.images)) == (16, 10), "one batch"
    assert "16 of 28 images were compared" in result.odd.sentence()


def test_of_many_images_a_sample_is_compared(mixed, monkeypatch, tmp_path):
    monkeypatch.setattr("anodetect.model.odd.LOOKED_AT", 6)
    for detector, values in (("pca", {"size": 32}), ("patchcore", {"size": 64, "memory": 99})):
        out = tmp_path / detector
        result = anodetect.train(str(mixed[0]), detector, out, values=values)
        assert result.odd.looked_at == len(result.odd.images) <= 6


@pytest.mark.skipif(not features_installed(), reason="the extra `features` is not installed")
def test_of_many_images_all_are_compared_in_parts_before_some_are_left_out(
    mixed, monkeypatch, tmp_path
):
    monkeypatch.setattr("anodetect.model.odd.LOOKED_AT", 15)
    values = {"size": 32}
    result = anodetect.train(str(mixed[0]), "pca", tmp_path / "run", values=values, drop_odd=3)
    assert (result.odd.looked_at, result.odd.fit_images) == (28, 28)
    left_out = {image.path for image in result.odd.images if image.left_out}
    assert left_out <= set(mixed[1])


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), 0.0])
def test_a_budget_that_is_no_number_is_refused(mixed, tmp_path, budget):
    with pytest.raises(ConfigError, match=f"--budget {budget}: minutes above 0"):
        anodetect.train(str(mixed[0]), "pca", tmp_path / "run", budget=budget)
