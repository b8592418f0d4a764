import itertools
import re

import numpy as np
import pyarrow as pa
import pytest

from anodetect.errors import ConfigError
from anodetect.record.decisions import group_caveats
from anodetect.record.rows import GroupRow, schema_of
from anodetect.stats.calibration import Calibration, benjamini_hochberg
from anodetect.stats.decision import Rule, statement

RNG = np.random.default_rng(0)


def calibration(scores, groups=None):
    scores = np.asarray(scores, float)
    groups = tuple(str(g) for g in (groups if groups is not None else range(len(scores))))
    return Calibration(scores, scores * 2, groups)


def test_p_values_against_the_formula():
    c = calibration([1, 2, 2, 3], [0, 0, 1, 2])
    # G = 3; at s = 2: group 0 has 1 of 2 images at or above, groups 1 and 2 all.
    assert c.p_values([2.0], 0.5)[0] == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert c.p_values([10.0], 0.5)[0] == pytest.approx(1 / 4)
    assert c.p_values([-1.0], 0.5)[0] == 1


def test_p_is_the_mean_over_drawing_one_image_per_group():
    scores, groups = [0.3, 0.8, 0.5, 0.1, 0.9, 0.4], [0, 0, 1, 1, 1, 2]
    members = [[s for s, g in zip(scores, groups, strict=True) if g == k] for k in range(3)]
    for s in (0.05, 0.35, 0.5, 0.85, 1.0):
        classical = [(1 + sum(x >= s for x in draw)) / 4 for draw in itertools.product(*members)]
        assert calibration(scores, groups).p_values([s], 0.5)[0] == pytest.approx(
            np.mean(classical)
        )


@pytest.mark.parametrize("far", [0.01, 0.05, 0.2, 0.5])
def test_flagged_is_the_same_by_p_value_and_by_threshold(far):
    c = calibration(np.round(RNG.normal(size=200), 1), RNG.integers(0, 70, 200))
    scores = np.round(RNG.normal(size=500) * 2, 1)
    assert np.array_equal(c.p_values(scores, far) <= far + 1e-12, scores > c.threshold(far))


def test_mean_realised_false_alarm_rate_keeps_its_promise():
    far, n = 0.05, 93
    rates = []
    for _ in range(500):
        c = calibration(RNG.normal(size=n))
        rates.append(np.mean(c.p_values(RNG.normal(size=400), far) <= far))
    promised = np.floor(far * (n + 1)) / (n + 1)
    assert abs(np.mean(rates) - promised) < 3 * np.std(rates) / np.sqrt(len(rates))
    assert promised <= far


def test_mean_realised_rate_with_groups_stays_below_twice_the_promise_and_beats_image_ranks():
    """Groups of five images that share most of their score; one image from each new group."""
    far, groups = 0.05, 40
    by_group, by_image = [], []
    for _ in range(500):
        scores = (RNG.normal(size=(groups, 1)) + 0.3 * RNG.normal(size=(groups, 5))).ravel()
        new = RNG.normal(size=200) + 0.3 * RNG.normal(size=200)
        by_group.append(
            np.mean(calibration(scores, np.repeat(range(groups), 5)).p_values(new, far) <= far)
        )
        by_image.append(np.mean(calibration(scores).p_values(new, far) <= far))
    error = 3 * np.std(by_group) / np.sqrt(500)
    assert np.mean(by_group) <= far + error
    assert np.mean(by_group) < np.mean(by_image)


def test_too_few_groups_fall_back_to_images_and_say_so():
    c = calibration(RNG.normal(size=60), np.repeat(range(6), 10))
    assert c.level(0.05) == "image"
    assert "Optimistic" in c.statement(0.05)
    assert "0.1429" in c.statement(0.05)
    assert c.level(0.2) == "group"
    assert c.finest_rate(0.2) == pytest.approx(1 / 7)
    assert c.level(0.001) == "none"
    assert c.threshold(0.001) == np.inf
    assert "Nothing can be flagged" in c.statement(0.001)


def test_without_calibration_images():
    c = calibration([])
    assert np.isnan(c.p_values([1.0], 0.05)).all()
    assert c.threshold(0.05) == np.inf
    assert "no calibration images" in c.statement(0.05)


@pytest.mark.parametrize("far", [0, 1, -0.1, 5])
def test_impossible_rates(far):
    with pytest.raises(ConfigError):
        calibration([1, 2]).threshold(far)


def test_pixel_threshold_is_exceeded_in_at_most_far_of_the_calibration_images():
    c = calibration(RNG.normal(size=99))
    assert np.mean(c.peaks > c.pixel_threshold(0.05)) <= 0.05


def test_nan_scores_have_no_p_value():
    assert np.isnan(calibration(range(30)).p_values([np.nan], 0.1)).all()


def test_q_values_reject_what_the_step_up_procedure_rejects():
    for _ in range(50):
        p, q = RNG.uniform(size=20) ** 3, 0.2
        ordered = np.sort(p)
        below = np.flatnonzero(ordered <= q * np.arange(1, 21) / 20)
        cut = ordered[below[-1]] if len(below) else -1
        assert np.array_equal(benjamini_hochberg(p) <= q, p <= cut)
    assert (benjamini_hochberg(p, dependent=True) >= benjamini_hochberg(p)).all()


def test_false_discovery_rate_is_kept():
    shares = []
    for _ in range(500):
        c = calibration(RNG.normal(size=400))
        truth = np.arange(200) < 60
        q = benjamini_hochberg(c.p_values(RNG.normal(size=200) + 4 * truth, 0.1))
        rejected = q <= 0.1
        shares.append((rejected & ~truth).sum() / max(rejected.sum(), 1))
    assert np.mean(shares) <= 0.1 + 3 * np.std(shares) / np.sqrt(500)


@pytest.mark.parametrize(("images", "groups"), [(100, 100), (100, 25), (30, 10)])
def test_the_fdr_statement_says_how_many_images_must_reach_the_finest_p_value(images, groups):
    """Against the procedure itself: with as many at the finest p-value some are flagged, with one
    fewer none is."""
    c, fdr = calibration(range(199)), 0.1
    text = statement(c, Rule(fdr, by_fdr=True), images, groups)
    needed = int(re.search(r"at least (\d+) of", text)[1])
    for count, any_flagged in ((needed, True), (needed - 1, False)):
        p = np.where(np.arange(images) < count, 1 / 200, 1.0)
        assert (benjamini_hochberg(p, dependent=groups < images) <= fdr).any() == any_flagged
    assert ("Benjamini–Yekutieli" in text) == (groups < images)


def test_the_fdr_statement_says_when_nothing_can_be_flagged_and_when_it_is_optimistic():
    few = calibration(range(10), "abcdeabcde")  # five groups
    assert "none of 50 images can be flagged" in statement(few, Rule(0.1, by_fdr=True), 50, 10)
    assert "Optimistic: 5 calibration groups" in statement(few, Rule(0.1, by_fdr=True), 50, 50)
    assert "Optimistic" not in statement(calibration(range(30)), Rule(0.1, by_fdr=True), 50, 50)


def test_lots_of_more_images_than_calibration_groups_have_are_flagged_too_often_and_that_is_said():
    def groups(*sizes):
        names = [str(n) for n in range(len(sizes))]
        empty = [None] * len(sizes)
        return pa.table([names, sizes, empty, empty, empty, empty], schema=schema_of(GroupRow))

    single = calibration(range(100))
    (said,) = group_caveats(groups(20, 20, 5), single, 0.05)
    assert "groups have 20 images, calibration groups 1" in said
    assert "20 times those of 1 image, an upper bound, of which the smallest is 0.198" in said
    assert group_caveats(groups(1, 1, 5), single, 0.05) == []
    lots = calibration(range(100), [n // 20 for n in range(100)])
    assert group_caveats(groups(20, 20, 25), lots, 0.05) == []
    assert group_caveats(groups(1, 2), lots, 0.05) == []
    flagged = []
    for _ in range(500):  # what it warns of
        c = calibration(RNG.normal(size=99))
        flagged.append(c.pooled().p_values([RNG.normal(size=20).max()], 0.05)[0] <= 0.05)
    assert np.mean(flagged) > 0.5


def test_pooled_takes_each_groups_highest():
    pooled = calibration([1, 5, 2], ["a", "a", "b"]).pooled()
    assert pooled.scores.tolist() == [5, 2]
    assert pooled.groups == ("a", "b")
