"""Odd normals: which images the others do not explain."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from anodetect.imaging import odd
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
    flat = made_places(50).reshape(50, -1)
    folds = np.arange(50) % 5
    left = odd._residuals(flat, folds, np.ones(50, bool), seed=0)
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
