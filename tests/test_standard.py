from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anodetect.config import Pooling, build
from anodetect.imaging import standardise
from anodetect.imaging.choices import Choice, first_of_the_best, planted_auroc, shares_below
from anodetect.imaging.quiet import levels
from anodetect.imaging.standardise import (
    FEWEST_TUNE,
    MICRO_BATCH,
    MapStandardizer,
    StandardizerConfig,
)
from anodetect.types import Batch, PlantedCopies, TrainContext

SIMPLE = Choice("all", "off", "off", "off", "off")
MIDDLE, FULL = SIMPLE._replace(pixel_error="on"), SIMPLE._replace(pattern="on", relative="on")
OPTIONS = {"one": [0], "both": [0, 1]}
CONTEXT = TrainContext(0, "cpu", None)


def scores_of(shift, count=40, noise=1.0):
    """Clean and planted scores whose distributions are `shift` apart; the images' own share is the
    same for all."""
    common = np.random.default_rng(0).normal(size=(4, count))
    values = common + noise * np.random.default_rng(int(100 * shift)).normal(size=(4, count)) / 4
    values[1:] += shift
    return values.astype(np.float32)


def test_a_clearly_better_choice_is_taken():
    choice, auroc = first_of_the_best(
        {SIMPLE: scores_of(0.2), MIDDLE: scores_of(3.0), FULL: scores_of(0.5)}, 0
    )
    assert choice == MIDDLE
    assert auroc[MIDDLE] > 0.95


def test_of_equals_the_simplest_is_taken_even_if_it_is_not_the_best():
    simple = scores_of(0.0)
    lucky = simple.copy()
    lucky[2, 6:17] += 10  # some defects are found, some are lost: better, but by chance
    lucky[1, :5] -= 10
    choice, auroc = first_of_the_best({SIMPLE: simple, MIDDLE: lucky}, 0)
    assert choice == SIMPLE
    assert auroc[MIDDLE] > auroc[SIMPLE]  # or the test would show nothing


def test_ranks_give_the_auroc():
    scores = np.random.default_rng(0).integers(0, 5, (4, 3, 20)).astype(np.float32)  # with ties
    labels = [0] * 20 + [1] * 60
    expected = [roc_auc_score(labels, scores[:, n].ravel()) for n in range(3)]
    assert np.allclose(planted_auroc(scores), expected)


def batch(count, seed=0):
    images = np.random.default_rng(seed).normal(size=(count, 1, 16, 16)).astype(np.float32)
    return Batch(images, np.ones((count, 16, 16), bool))


def copies_of(part, *rows):
    """Copies of some images with a bright square, the same in three copies."""
    defective = part[np.array(rows)]
    images = defective.images.copy()
    images[:, :, 4:8, 4:8] += 4
    return PlantedCopies((Batch(images, defective.foreground),) * 3, np.array(rows))


def squares(part, seeds):
    return np.stack([part.images[:, 0] ** 2, 9 * part.images[:, 0] ** 2], 1).astype(np.float32)


def learned(**settings):
    standard = MapStandardizer(
        build(StandardizerConfig, {"pixel_error": "off", "relative": "off"} | settings, "standard"),
        {"all": range(2)},
    )
    standard.learn(squares, batch(40), CONTEXT)
    return standard


def test_maps_of_any_scale_count_alike():
    standard, part = learned(pooling={"smooth": 0.0}), batch(3, seed=1)
    _, heatmaps = standard.combine(squares(part, None), part)
    assert np.allclose(heatmaps, part.images[:, 0] ** 2 / np.mean(batch(40).images ** 2), rtol=1e-4)


def test_an_image_quieter_than_all_normal_ones_scores_above_most_of_them():
    standard, clean = learned(), batch(200, seed=1)
    normal, _ = standard.combine(squares(clean, None), clean)
    quiet = [Batch(batch(2, seed=2).images * factor, clean.foreground[:2]) for factor in (0.5, 0.1)]
    (some, maps), (more, _) = (standard.combine(squares(part, None), part) for part in quiet)
    assert some.min() > np.percentile(normal, 90)
    assert more.min() > some.max()
    assert maps[0].mean() > np.percentile(
        standard.combine(squares(clean, None), clean)[1].mean((1, 2)), 90
    )


def test_normal_images_are_hardly_ever_too_quiet():
    standard, clean = learned(), batch(400, seed=3)
    heatmaps = standard._finish(squares(clean, None), clean)[1]
    assert np.mean(levels(heatmaps, clean.foreground) < standard.quiet[0]) < 0.01


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_few_normal_images_cannot_tell_what_is_too_quiet(count):
    standard = MapStandardizer(
        StandardizerConfig(pixel_error="off", relative="off"), {"all": range(2)}
    )
    standard.learn(squares, batch(count), CONTEXT)
    normal = batch(100, seed=1)
    scores, heatmaps = standard.combine(squares(normal, None), normal)
    plain, _ = standard._finish(squares(normal, None), normal)
    assert np.array_equal(scores, plain)
    assert np.isfinite(heatmaps).all()


def test_what_is_mostly_background_is_not_called_quiet():
    standard, rim = learned(), batch(4, seed=2)
    faint = Batch(rim.images * 0.1, np.broadcast_to(np.arange(16) < 2, (4, 16, 16)))
    scores, _ = standard.combine(squares(faint, None), faint)
    assert np.array_equal(scores, standard._finish(squares(faint, None), faint)[0])


@pytest.mark.parametrize(
    "settings", [{}, {"pixel_error": "on", "relative": "on", "pooling": {"top": 0.1}}]
)
def test_a_stored_standard_is_the_same(settings):
    standard, part = learned(**settings), batch(5, seed=4)
    other = MapStandardizer(standard.config, standard.options)
    other.load_state({name: array.copy() for name, array in standard.state().items()})
    before, after = (each.combine(squares(part, None), part) for each in (standard, other))
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    assert other.pooling == standard.pooling


def test_only_what_the_budget_affords_is_looked_at():
    standard = MapStandardizer(StandardizerConfig(pooling=Pooling()), {"all": [0]})
    copies = copies_of(batch(100), *range(0, 100, 2))
    context = TrainContext(0, "cpu", None, budget=60.0, planted=lambda: copies)
    part, own, seconds = standard.affordable(batch(100), context, 1.0)
    assert len(part) == len(own.planted()) == 2 * MICRO_BATCH
    for row, image in zip(own.planted().of, own.planted().copies[0].images, strict=True):
        assert np.array_equal(image[:, 8:], part.images[row][:, 8:])

    # Without planted copies there is time for more.
    context = TrainContext(0, "cpu", None, budget=40.0)
    part, _, seconds = standard.affordable(batch(100), context, 1.0)
    assert (
        len(part) == 4 * MICRO_BATCH
    )  # a fifth of 40 s, a surveying and the last look for each 16
    assert seconds < 0.3 * 40
    part, _, _ = standard.affordable(batch(100), replace(context, budget=10.0), 5.0)
    assert len(part) == FEWEST_TUNE  # in any case
    assert len(standard.affordable(batch(100), CONTEXT, 1.0)[0]) == 100


def test_a_plan_times_the_maps_and_leaves_time_for_more_looks(monkeypatch):
    timed = []

    def seconds_to_score(maps, tune):
        timed.append(len(tune))
        return 1.5

    monkeypatch.setattr(standardise, "seconds_to_score", seconds_to_score)
    standard = MapStandardizer(StandardizerConfig(pooling=Pooling()), {"all": [0]})
    context = TrainContext(0, "cpu", None, budget=60.0)
    part, _, seconds = standard.plan(squares, batch(9), batch(100), context, more=2)
    expected, _, without = standard.affordable(batch(100), context, 1.5)
    assert timed == [100]
    assert np.array_equal(part.images, expected.images)
    assert seconds == pytest.approx(without + 2 * 1.5 * len(part) / MICRO_BATCH)


def test_planted_copies_decide_and_without_them_the_simplest_is_taken():
    clean = batch(40)

    def maps(part, seeds):
        """Only the second kind of map shows the bright squares."""
        noise = np.abs(part.images[:, 0])
        return np.stack([1 / (1 + noise), noise**4], 1).astype(np.float32)

    def learned_with(planted):
        log = []
        context = TrainContext(0, "cpu", None, log=log.append, planted=lambda: planted)
        standard = MapStandardizer(StandardizerConfig(pixel_error="off", relative="off"), OPTIONS)
        standard.learn(maps, clean, context)
        return standard.recipe.rows, log

    assert learned_with(copies_of(clean, *range(0, 40, 3)))[0] == [0, 1]
    assert learned_with(PlantedCopies((clean,) * 3, np.arange(40)))[0] == [0]  # nothing is planted
    rows, log = learned_with(None)
    assert rows == [0]
    assert log == [SIMPLE._replace(maps="one")._asdict()]


def test_copies_among_some_rows_are_those_of_these_images():
    copies = copies_of(batch(10), 1, 4, 6, 9)
    few = copies.among(np.array([0, 4, 5, 9]))
    assert few.of.tolist() == [1, 3]
    for whole, part in zip(copies.copies, few.copies, strict=True):
        assert np.array_equal(part.images, whole.images[[1, 3]])
    assert len(copies.among(np.array([0, 2]))) == 0


def test_what_one_kind_of_defects_shows_does_not_decide_for_all():
    """The second option finds one kind of four; which kind real defects are of is not known."""
    rng = np.random.default_rng(0)
    simple = rng.normal(size=(4, 40)).astype(np.float32)
    other = simple + 0.01 * rng.normal(size=simple.shape).astype(np.float32)
    kinds = np.tile(np.arange(4), (3, 10))
    other[1:][kinds == 2] += 10
    scores = {SIMPLE: simple, FULL: other}
    assert first_of_the_best(scores, 0)[0] == FULL
    assert first_of_the_best(scores, 0, kinds)[0] == SIMPLE

    other[1:] += 10  # all kinds are found
    assert first_of_the_best(scores, 0, kinds)[0] == FULL


def test_the_share_below_gives_the_auroc():
    scores = np.random.default_rng(0).integers(0, 5, (4, 20)).astype(np.float32)  # with ties
    assert np.isclose(shares_below(scores).mean(), planted_auroc(scores))
