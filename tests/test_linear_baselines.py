"""PCA of features against scikit-learn, PaDiM against Gaussians written out here."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn import decomposition

import anodetect
from anodetect.detectors import padim as padim_module
from anodetect.detectors.padim import PaDiM
from anodetect.imaging.representations import features_installed
from anodetect.model.settings import create_detector, resolve
from anodetect.record import runs
from anodetect.types import Batch, TrainContext

RAW = {"smooth": 0.0, "top": 0.01, "erode": 0}
MAXIMUM = {"smooth": 0.0, "top": 1e-6, "erode": 0}


def features(count, seed=0, channels=12, side=10):
    """Correlated channels far from 0, each image with some places outside its foreground."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(channels, channels))
    mixing *= np.geomspace(1, 0.01, channels)
    images = 5 + np.einsum(
        "kc,nkhw->nchw", mixing.T, rng.normal(size=(count, channels, side, side))
    )
    return Batch(images.astype(np.float32), rng.random((count, side, side)) > 0.2)


def fitted(name, batch, log=lambda entry: None, **settings):
    detector = create_detector(name, settings)
    detector.fit(batch, batch, context=TrainContext(3, "cpu", None, log=log))
    return detector


def scored(detector, batch):
    return detector.score(batch, seeds=np.arange(len(batch), dtype=np.uint64))


@pytest.mark.parametrize("explained", [0.5, 0.95, 0.99])
def test_the_subspace_of_places_is_that_of_scikit_learn(explained):
    fit, test = features(15), features(4, seed=1)
    logged = []
    pca = fitted(
        "pca",
        fit,
        logged.append,
        subspace="places",
        explained=explained,
        pooling=RAW | {"top": 0.1},
    )
    places = fit.images.transpose(0, 2, 3, 1)[fit.foreground]
    expected = decomposition.PCA(explained, svd_solver="full").fit(places.astype(np.float64))
    assert len(pca.basis) == expected.n_components_
    assert logged[0]["components"] == expected.n_components_
    assert logged[0]["explained"] == pytest.approx(expected.explained_variance_ratio_.sum())

    rows = test.images.transpose(0, 2, 3, 1).reshape(-1, 12)
    residual = rows - expected.inverse_transform(expected.transform(rows))
    maps = np.where(test.foreground, np.square(residual).mean(1).reshape(4, 10, 10), 0)
    scores = scored(pca, test)
    assert np.allclose(scores.heatmap, maps, rtol=1e-4, atol=1e-6)
    for n, inside in enumerate(test.foreground):
        highest = np.sort(maps[n][inside])[-round(0.1 * inside.sum()) :]
        assert scores.image[n] == pytest.approx(highest.mean(), rel=1e-4)


def test_something_is_left_beside_the_subspace_however_much_it_explains():
    """Without a limit all three channels would be kept, and every distance would be 0."""
    fit = features(5, channels=3)
    pca = fitted("pca", fit, subspace="places", explained=0.9999999)
    assert len(pca.basis) == 2
    assert scored(pca, fit).image.min() > 0


def test_pca_is_of_images_on_pixels_and_of_places_on_features():
    assert resolve("pca", "pixels", {})["detector"]["subspace"] == "images"
    on_features = resolve("pca", "features", {})["detector"]
    assert (on_features["subspace"], on_features["pooling"]["top"]) == ("places", 0.01)
    old = {"components": 4, "max_images": 50, "pooling": RAW}  # of a run before there were places
    assert fitted("pca", features(20), **old).basis.shape == (4, 12 * 10 * 10)


def test_without_a_representation_pca_takes_pixels(pca_run):
    assert runs.facts(pca_run).representation == "pixels"


@pytest.mark.skipif(not features_installed(), reason="the extra `features` is not installed")
@pytest.mark.parametrize("name", ["pca", "padim"])
def test_a_run_on_features_is_trained_and_scored(name, synthetic_folder, tmp_path):
    values = {"representation": {"size": 64}}
    trained = anodetect.train(
        str(synthetic_folder), name, tmp_path / "run", representation="features", values=values
    )
    assert trained.facts.representation == "features"
    evaluated = anodetect.evaluate(tmp_path / "run", str(synthetic_folder))
    assert evaluated.whole.image["auroc"].value > 0.8


# -- PaDiM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "channels"), [(40, 12), (40, 5), (6, 12), (1, 3)])
def test_padim_is_the_mahalanobis_distance_of_each_place(count, channels, monkeypatch):
    monkeypatch.setattr(padim_module, "PLACES_AT_ONCE", 33)
    fit, test = features(count), features(3, seed=1)
    padim = fitted("padim", fit, channels=channels, pooling=MAXIMUM)
    assert len(set(padim.channels.tolist())) == channels
    expected = np.zeros((3, 10, 10))
    for y, x in np.ndindex(10, 10):
        values = fit.images[:, padim.channels, y, x].astype(np.float64)
        covariance = np.zeros((channels, channels))
        if count > 1:
            covariance = np.cov(values.T)
        inverse = np.linalg.inv(covariance + 0.01 * np.eye(channels))
        for n in range(3):
            place = test.images[n, padim.channels, y, x]
            expected[n, y, x] = mahalanobis(place, values.mean(0), inverse)

    scores = scored(padim, test)
    assert np.allclose(scores.heatmap, np.where(test.foreground, expected, 0), rtol=1e-3)
    assert np.allclose(scores.image, scores.heatmap.max((1, 2)))


def test_padim_says_that_there_are_fewer_images_than_channels():
    logged = []
    fitted("padim", features(12), logged.append, channels=12)
    fitted("padim", features(13), logged.append, channels=12)
    assert "fewer images (12) than a covariance of 12 channels needs" in logged[0]["note"]
    assert "note" not in logged[1]


def test_padim_chooses_channels_by_its_seed():
    fit, chosen = features(5), set()
    for seed in range(4):
        padim = create_detector("padim", {"channels": 4})
        padim.fit(fit, fit, context=TrainContext(seed, "cpu", None))
        chosen.add(tuple(padim.channels))
    assert len(chosen) > 1
    assert all(len(channels) == 4 for channels in chosen)


def test_padim_keeps_the_lower_triangles_alone():
    padim = fitted("padim", features(20), channels=6)
    state = padim.state()
    assert state["whitening"].shape == (100, 21)
    other = PaDiM(padim.config)
    other.load_state(state, device="cpu")
    assert np.array_equal(other.whitening, padim.whitening)
    assert state["whitening"].dtype == state["mean"].dtype == np.float32
