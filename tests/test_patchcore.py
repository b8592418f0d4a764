"""PatchCore: a memory by greedy k-centre, distances, and the reweighting of the paper."""

import numpy as np
import pytest

import anodetect
from anodetect.config import build
from anodetect.detectors import current_name, detector_class, entry_named
from anodetect.detectors.patchcore import PatchCore, PatchCoreConfig
from anodetect.errors import ConfigError
from anodetect.imaging import coreset
from anodetect.imaging.coreset import k_centre
from anodetect.imaging.representations import encode_each, features_installed
from anodetect.model.model import Model
from anodetect.model.settings import create_detector, resolve
from anodetect.types import Batch, TrainContext

RNG = np.random.default_rng(0)
CONTEXT = TrainContext(0, "cpu", None)
RAW = {"smooth": 0.0, "top": 0.01, "erode": 0}


def greedy(vectors, count, first):
    """The definition, with all distances: each time the vector furthest from those taken."""
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    rows = [first]
    while len(rows) < count:
        rows.append(int(distances[rows].min(0).argmax()))
    return rows


@pytest.mark.parametrize("furthest", [1, 8, 40, 1000])
@pytest.mark.parametrize("shape", [(60, 3), (200, 16)])
def test_k_centre_is_the_greedy_choice(shape, furthest, monkeypatch):
    monkeypatch.setattr(coreset, "FURTHEST", furthest)
    monkeypatch.setattr(coreset, "PART", 33)
    vectors = 100 + RNG.normal(size=shape).astype(np.float32)
    rows = k_centre(vectors, 50, seed=3)
    assert rows.tolist() == greedy(vectors, 50, rows[0])


def test_k_centre_takes_each_row_once_and_all_if_there_are_few():
    vectors = np.repeat(RNG.normal(size=(10, 4)).astype(np.float32), 5, axis=0)
    assert len(set(k_centre(vectors, 30, seed=0).tolist())) == 30
    assert len({tuple(vectors[row]) for row in k_centre(vectors, 10, seed=0)}) == 10
    assert k_centre(vectors, 50, seed=0).tolist() == list(range(50))


def test_a_rare_pattern_is_covered():
    """One vector in a thousand is far from all others: a random choice of 20 misses it."""
    vectors = RNG.normal(size=(1000, 8)).astype(np.float32)
    vectors[77] += 30
    assert 77 in k_centre(vectors, 20, seed=0)[:2]


def fitted(**settings):
    """A detector fitted on two images of noise, and three images to score, the third unlike."""
    images = RNG.normal(size=(3, 4, 6, 6)).astype(np.float32)
    images[2, :, 2, 3] += 3
    everywhere = np.ones((3, 6, 6), bool)
    detector = PatchCore(build(PatchCoreConfig, {"pooling": RAW} | settings, "detector"))
    normal = Batch(images[:2], everywhere[:2])
    detector.fit(normal, normal, context=CONTEXT)
    return detector, Batch(images, everywhere)


def test_a_map_has_the_distance_to_the_nearest_of_the_memory():
    detector, batch = fitted(memory=40, reweight=0)
    assert detector.memory.shape == (40, 4)
    scores = detector.score(batch, seeds=np.arange(3, dtype=np.uint64))
    places = batch.images[2].reshape(4, 36).T
    distances = np.linalg.norm(places[:, None] - detector.memory[None], axis=2).min(1) / 2
    assert np.allclose(scores.heatmap[2].ravel(), distances, atol=1e-4)
    assert np.isclose(scores.image[2], distances.max(), atol=1e-4)


def test_an_images_score_is_that_of_equation_7():
    detector, batch = fitted(memory=40, reweight=5)
    scores = detector.score(batch, seeds=np.arange(3, dtype=np.uint64))
    for image, score in zip(batch.images, scores.image, strict=True):
        places = image.reshape(4, 36).T
        distances = np.linalg.norm(places[:, None] - detector.memory[None], axis=2)
        place = distances.min(1).argmax()
        nearest = detector.memory[distances[place].argmin()]
        neighbours = np.argsort(np.linalg.norm(detector.memory - nearest, axis=1))[:5]
        exponentials = np.exp(np.linalg.norm(places[place] - detector.memory[neighbours], axis=1))
        weight = 1 - np.exp(distances[place].min()) / exponentials.sum()
        assert np.isclose(score, weight * distances[place].min() / 2, rtol=1e-3)


def test_what_is_no_foreground_makes_no_score():
    detector, batch = fitted(memory=40)
    inside = batch.foreground.copy()
    inside[2, 2, 3] = False
    whole = detector.score(batch, seeds=np.arange(3, dtype=np.uint64))
    part = detector.score(Batch(batch.images, inside), seeds=np.arange(3, dtype=np.uint64))
    assert part.image[2] < whole.image[2]
    assert part.image[:2].tolist() == whole.image[:2].tolist()


def test_the_old_name_is_that_of_the_new_detector():
    assert current_name("knn") == "patchcore"
    assert detector_class("knn") is PatchCore
    assert entry_named("knn").baseline
    settings = resolve("knn", "features", {})
    assert settings["representation"]["neighbours"] == 3
    assert settings["detector"]["reweight"] == 9


def test_a_run_of_the_old_detector_is_scored_as_it_was():
    """Its settings do not know the reweighting, and its features no neighbours."""
    old = {"memory": 40, "pooling": RAW}
    detector = create_detector("knn", old)
    assert detector.config.reweight == 0
    sections = {
        "preprocess": {},
        "tiling": {},
        "representation": {"size": 64},
        "detector": old,
    }
    if features_installed():
        model = Model.create("knn", "features", sections)
        assert model.representation.config.neighbours == 1
        assert model.representation.config.scaled


@pytest.mark.skipif(not features_installed(), reason="the extra `features` is not installed")
def test_neighbours_are_averaged_on_each_layers_own_grid():
    from anodetect.imaging.features import Features, FeaturesConfig

    image = RNG.normal(size=(1, 64, 64)).astype(np.float32)
    inside = np.ones((64, 64), bool)
    plain = Features(build(FeaturesConfig, {"size": 64, "scaled": False}, "representation"))
    plain.learn([])
    averaged = Features(
        build(FeaturesConfig, {"size": 64, "scaled": False, "neighbours": 3}, "representation")
    )
    averaged.learn([])
    ((one, _),) = encode_each(plain, [(image, inside)])
    ((other, _),) = encode_each(averaged, [(image, inside)])
    # The finer layer has 40 channels on the grid itself.
    middle = np.mean([one[:40, y, x] for y in (3, 4, 5) for x in (2, 3, 4)], axis=0)
    assert np.allclose(other[:40, 4, 3], middle, atol=1e-5)
    corner = sum(one[:40, y, x] for y in (0, 1) for x in (0, 1)) / 9  # zeros beyond the edge
    assert np.allclose(other[:40, 0, 0], corner, atol=1e-5)


def test_a_memory_larger_than_its_candidates_is_refused():
    shape = (1, 64, 64)
    with pytest.raises(ConfigError, match="99 locations are fewer than the 100"):
        create_detector("patchcore", {"memory": 100, "candidates": 99}).check(shape)
    create_detector("patchcore", {"memory": 100, "candidates": 100}).check(shape)


def test_training_says_the_new_name(tmp_path, synthetic_folder, monkeypatch):
    if not features_installed():
        pytest.skip("the extra `features` is not installed")
    values = {"size": 64, "memory": 50, "candidates": 200}
    trained = anodetect.train(str(synthetic_folder), "knn", tmp_path / "run", values=values)
    assert trained.facts.detector == "patchcore"
