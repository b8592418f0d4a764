"""Groups are judged by calibration groups of their own size, or by a bound."""

from itertools import combinations

import numpy as np
import pytest

from anodetect.record.decisions import volume_caveats
from anodetect.record.rows import SliceRow, to_table
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import Rule, decide
from anodetect.stats.group_size import (
    Comparison,
    comparison,
    group_p_values,
    volume_comparison,
)

RATE = 0.05


def test_p_is_the_mean_over_all_ways_of_drawing_as_many_images():
    rng = np.random.default_rng(0)
    groups = [rng.normal(size=size).round(1) for size in (3, 4, 5, 4, 6)]
    scores = np.array([-5, -0.3, 0.2, 0.5, 1.0, 3.0])
    for size in (1, 2, 3):
        for score, p in zip(
            scores, group_p_values(scores, np.full(6, size), groups, 0.2), strict=True
        ):
            reached = [np.mean([max(d) >= score for d in combinations(g, size)]) for g in groups]
            assert p == pytest.approx((1 + sum(reached)) / 6)


@pytest.mark.parametrize(
    ("size", "sizes", "expected"),
    [
        (25, [1, 5, 25] * 40, Comparison(1, 25, 40)),
        (5, [1, 5, 25] * 40, Comparison(1, 5, 80)),
        (60, [1, 5, 25] * 40, Comparison(3, 20, 40)),
        (2, [1] * 100, Comparison(2, 1, 100)),
        (21, [20] * 40, Comparison(1, 21, 40)),  # a tenth fewer are enough
        (30, [1] * 19, Comparison(1, 30, 0)),  # no bound below 1
    ],
)
def test_which_calibration_groups_a_group_is_compared_with(size, sizes, expected):
    assert comparison(size, sizes, RATE) == expected


def drawn(rng, size, alike):
    return np.sqrt(alike) * rng.normal() + np.sqrt(1 - alike) * rng.normal(size=size)


@pytest.mark.parametrize("alike", [0.0, 0.5])
def test_groups_of_any_size_are_flagged_as_often_as_promised(alike):
    """Calibration groups of 1, 5 and 25 images, new ones also of 60; 1 500 of each size. Compared
    with whole calibration groups, 17 to 28 % of those of 60 are flagged at 5 %."""
    rng = np.random.default_rng(1)
    new = np.repeat([1, 5, 25, 60], 10)
    flagged, before = [], []
    for _ in range(150):
        parts = [drawn(rng, size, alike) for size in [1, 5, 25] * 40]
        names = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        scores = np.concatenate(parts)
        calibration = Calibration(scores, scores, tuple(map(str, names.tolist())))
        images = np.concatenate([drawn(rng, size, alike) for size in new])
        batch = images, np.zeros(len(images), bool), np.repeat(np.arange(len(new)), new), len(new)
        flagged.append(decide(*batch, calibration, Rule(RATE)).groups.flags)
        before.append(decide(*batch, calibration, Rule(RATE), by_size=False).groups.flags)
    rates = np.mean(flagged, 0).reshape(4, 10).mean(1)
    assert rates.max() <= RATE + 3 * np.sqrt(RATE * (1 - RATE) / 1500)
    assert rates[:3].min() >= 0.03  # and not by flagging nothing
    assert np.mean(before, 0).reshape(4, 10).mean(1)[3] > 0.12


def test_groups_of_one_volume_and_of_records_of_release_0_2_are_compared_with_whole_groups():
    rng = np.random.default_rng(2)
    scores = rng.normal(size=120)
    calibration = Calibration(scores, scores, tuple(str(place // 2) for place in range(120)))
    new = rng.normal(size=10)
    for volumes, groups, by_size in (
        (np.ones(10, bool), np.arange(10), True),
        (np.zeros(10, bool), np.arange(10) // 5, False),
    ):
        count = groups.max() + 1
        found = decide(new, volumes, groups, count, calibration, Rule(RATE), by_size=by_size)
        highest = new.reshape(count, -1).max(1)
        expected = calibration.pooled().p_values(highest, RATE)
        assert np.allclose(found.groups.p_values, expected)


@pytest.mark.parametrize(
    ("volumes", "slices", "sizes", "expected"),
    [
        (1, 60, [20] * 60, Comparison(1, 60, 60)),  # as its volume is
        (3, 60, [20] * 60, Comparison(3, 20, 60)),
        (3, 60, [20, 60] * 30, Comparison(1, 60, 30)),
        (3, 63, [60] * 30, Comparison(1, 63, 30)),  # a tenth fewer are enough
        (3, 60, [60] * 5 + [20] * 55, Comparison(3, 20, 60)),  # five are too few
        (3, 60, [60] * 9, Comparison(1, 60, 9)),  # too few, but finer than three parts
    ],
)
def test_how_a_group_of_several_volumes_is_compared(volumes, slices, sizes, expected):
    assert volume_comparison(volumes, slices, sizes, RATE) == expected


@pytest.mark.parametrize(("each", "exact"), [(1, False), (3, True)])
def test_patients_of_several_volumes_are_flagged_at_most_as_often_as_promised(each, exact):
    """Volumes of 10 slices that resemble their neighbours; calibration patients have one volume or
    three, new ones 1 to 4. Compared with whole patients, 18 % of those of 4 are flagged at 5 %."""
    rng, counts = np.random.default_rng(3), np.repeat([1, 2, 3, 4], 10)

    def patients(volumes):
        own = np.repeat(rng.normal(size=len(volumes)), volumes)
        walk = rng.normal(size=(len(own), 10)).cumsum(1) / np.sqrt(np.arange(1, 11))
        return 0.5 * own[:, None] + walk, np.repeat(np.arange(len(volumes)), volumes)

    flagged, before = [], []
    for _ in range(100):
        scores, of = patients(np.full(80, each))
        names = tuple(str(number) for number in np.repeat(of, 10))
        calibration = Calibration(scores.ravel(), scores.ravel(), names)
        new, groups = patients(counts)
        batch = new.max(1), np.ones(len(new), bool), groups, len(counts), calibration, Rule(RATE)
        flagged.append(decide(*batch, slices=np.full(len(new), 10)).groups.flags)
        before.append(decide(*batch, by_size=False).groups.flags)

    rates = np.mean(flagged, 0).reshape(4, 10).mean(1)
    assert rates.max() <= RATE + 3 * np.sqrt(RATE * (1 - RATE) / 1000)
    assert rates[2] > 0.025 or not exact
    assert exact or np.mean(before, 0).reshape(4, 10).mean(1)[3] > 0.12


def test_patients_of_several_volumes_that_can_only_be_bounded_are_said():
    place = {"axis": "axial", "left_mm": 0, "posterior_mm": 0, "superior_mm": 0, "foreground": 1}
    slices = []
    for number in range(40):
        path = "vw"[number % 2]
        slices.append(SliceRow(path=path, group="a", slice=number // 2, score=0.5, **place))
    table, volumes = to_table(slices, SliceRow), {"v": "a", "w": "a"}
    scores, names = np.arange(1200.0), tuple(str(place // 20) for place in range(1200))
    calibration = Calibration(scores, scores, names)
    (text,) = volume_caveats(volumes, table, calibration, RATE)
    assert text.startswith("1 patient has several volumes") and "is 0.033" in text
    assert volume_caveats({"v": "a", "w": "b"}, table, calibration, RATE) == []
