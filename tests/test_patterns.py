"""Maps are judged against what normal places that look alike have."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from anodetect.errors import ConfigError
from anodetect.imaging.patterns import NEIGHBOURS, as_images, choose_patterns, similar_patterns
from anodetect.imaging.standardise import FLOOR, MapStandardizer, StandardizerConfig
from anodetect.types import Batch, PlantedCopies, TrainContext

CHANNELS, SIDE = 12, 8
CONTEXT = TrainContext(0, "cpu", None)
QUIET = {"pixel_error": "off", "relative": "off", "pooling": {"smooth": 0.0}}


def vectors(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, CHANNELS)).astype(np.float32)


def images(count, seed=0):
    shape = (count, CHANNELS, SIDE, SIDE)
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return Batch(values, np.ones((count, SIDE, SIDE), bool))


def test_the_nearest_patterns_are_those_of_brute_force():
    memory, batch = vectors(40), images(3, seed=1)
    similar = similar_patterns(batch.images, memory)
    places = batch.images.transpose(0, 2, 3, 1).reshape(-1, CHANNELS)
    distances = cdist(places, memory)

    expected = np.argsort(distances, 1)[:, :NEIGHBOURS]
    assert np.array_equal(similar.rows.reshape(-1, NEIGHBOURS), expected)
    nearest = distances.min(1) / CHANNELS**0.5
    assert np.allclose(similar.distance.ravel(), nearest, rtol=1e-4)


def test_an_image_has_the_same_neighbours_alone_and_in_company():
    memory, batch = vectors(40), images(5, seed=1)
    together = similar_patterns(batch.images, memory)
    alone = similar_patterns(batch.images[3:4], memory)
    assert np.array_equal(together.distance[3], alone.distance[0])
    assert np.array_equal(together.rows[3], alone.rows[0])


def test_patterns_come_from_the_foreground_and_cover_a_rare_one():
    batch = images(20)
    batch.foreground[:, : SIDE // 2] = False
    batch.images[:, :, : SIDE // 2] = 50.0  # the background, far from all else
    batch.images[7, :, -1, -1] = 20.0  # one rare normal place
    chosen = choose_patterns(batch, 15, seed=0)
    assert chosen.shape == (15, CHANNELS)
    assert chosen.max() == 20.0


def test_patterns_fill_images_and_keep_their_order():
    memory = vectors(SIDE * SIDE + 3)
    batch = as_images(memory, SIDE)
    places = batch.images.transpose(0, 2, 3, 1).reshape(-1, CHANNELS)
    assert batch.images.shape == (2, CHANNELS, SIDE, SIDE)
    assert np.array_equal(places[: len(memory)], memory)
    assert np.array_equal(places[-1], memory[-1])


# -- In the standardizer ---------------------------------------------------------------------------


def energy(batch, seeds):
    """A map that is large where the first channel is, [N, 1, h, w]."""
    return 1 + np.square(batch.images[:, :1])


def learned(fit, tune, context=CONTEXT, **settings):
    standard = MapStandardizer(StandardizerConfig(**QUIET | settings), {"energy": [0]})
    standard.prepare(fit, context)
    standard.learn(energy, tune, context)
    return standard


def test_a_map_is_divided_by_that_of_the_nearest_patterns_and_multiplied_with_their_distance():
    fit, tune, new = images(10), images(10, seed=1), images(2, seed=2)
    standard = learned(fit, tune, pattern="on", distance="on", patterns=30)
    assert standard.patterns is not None
    memory = standard.patterns.vectors

    def by_hand(batch):
        places = batch.images.transpose(0, 2, 3, 1).reshape(-1, CHANNELS)
        distances = cdist(places, memory)
        nearest = np.argsort(distances, 1)[:, :NEIGHBOURS]
        own = 1 + memory[:, 0] ** 2
        own = own + FLOOR * own.mean()
        divided = (1 + places[:, 0] ** 2) / own[nearest].mean(1)
        return divided, distances.min(1) / CHANNELS**0.5

    divided, distance = by_hand(new)
    normal, usual = (values.mean() for values in by_hand(tune))
    expected = np.sqrt(divided / normal * distance / usual)
    _, heatmaps = standard.combine(energy(new, None), new)
    assert np.allclose(heatmaps.ravel(), expected, rtol=1e-3)


def test_a_rare_normal_pattern_is_no_longer_anomalous():
    fit, tune = images(40), images(20, seed=1)
    for batch in (fit, tune):
        batch.images[::4, :, 2, 2] = 6.0  # a quarter of the images have a print
    plain = learned(fit, tune, pattern="off", distance="off")
    judged = learned(fit, tune, pattern="on", distance="on", patterns=60)

    def print_over_rest(standard):
        _, heatmaps = standard.combine(energy(tune, None), tune)
        return heatmaps[0, 2, 2] / heatmaps[0].mean()

    assert print_over_rest(plain) > 10
    assert print_over_rest(judged) < 2


@pytest.mark.parametrize("useful", [True, False])
def test_planted_defects_decide_whether_patterns_count(useful):
    """Where similar places have the same error, it is right to divide by it; where the error of
    places says which are defects, it is wrong to take it away."""
    fit, tune = images(60), images(40, seed=1)
    for batch in (fit, tune):
        batch.images[::3, :, 2, 2] += 6.0
    defects = tune.images.copy()
    if useful:
        defects[:, 1, 5, 5] += 9.0  # far from all patterns, and of no energy of its own
        defects[:, 0, 5, 5] = 2.5
    else:
        defects[:, :, 2, 2] = fit.images[0, :, 2, 2]  # the print itself is the defect
    copies = PlantedCopies((Batch(defects, tune.foreground),), np.arange(len(tune)))
    context = TrainContext(0, "cpu", None, planted=lambda: copies)
    standard = learned(fit, tune, context, pattern="auto", distance="auto", patterns=200)
    assert (standard.patterns is not None) == useful


def test_a_stored_standard_with_patterns_is_the_same():
    fit, tune, new = images(10), images(10, seed=1), images(2, seed=2)
    standard = learned(fit, tune, pattern="on", distance="on", patterns=30, pixel_error="on")
    other = MapStandardizer(standard.config, standard.options)
    other.load_state({name: array.copy() for name, array in standard.state().items()})
    for before, after in zip(
        standard.combine(energy(new, None), new), other.combine(energy(new, None), new), strict=True
    ):
        assert np.array_equal(before, after)


def test_pixels_are_no_patterns():
    grey = Batch(images(4).images[:, :1], images(4).foreground)
    standard = MapStandardizer(StandardizerConfig(pattern="on"), {"energy": [0]})
    with pytest.raises(ConfigError, match="for features, not for pixels"):
        standard.prepare(grey, CONTEXT)


def test_places_alike_share_an_error_and_places_apart_have_their_own():
    def errors(spread):
        levels = 1 + spread * np.random.default_rng(0).random((1, 1, SIDE, SIDE))

        def noisy(batch, seeds):
            return levels + 0.3 * np.abs(batch.images[:, :1])

        tune = images(30, seed=3)
        settings = StandardizerConfig(**QUIET | {"pixel_error": "on"})
        standard = MapStandardizer(settings, {"energy": [0]})
        standard.learn(noisy, tune, CONTEXT)
        return standard.recipe.error[0]

    assert errors(0.0).std() / errors(0.0).mean() < 0.02
    assert errors(5.0).std() / errors(5.0).mean() > 0.1
