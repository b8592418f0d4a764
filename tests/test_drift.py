"""Simulations of the promises: false alarms, false discoveries, drift."""

from functools import cache

import numpy as np
import pytest

from anodetect.record.decisions import decide
from anodetect.record.rows import ScoreRow, to_table
from anodetect.stats import drift
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import Rule

REPETITIONS = 500


@cache
def names(side, groups, each):
    return tuple(f"{side}{group}" for group in range(groups) for _ in range(each))


def draw(rng, groups, each=1, alike=0.5, shift=0.0, side="new"):
    """Scores of `groups` × `each` normal images, those of a group correlated by `alike`, and their
    groups."""
    own = rng.normal(size=(groups, 1)) * np.sqrt(alike) + rng.normal(size=(groups, each)) * np.sqrt(
        1 - alike
    )
    return own.ravel() + shift, names(side, groups, each)


def standard_error(values):
    return np.std(values, ddof=1) / np.sqrt(len(values))


def decided(scores, groups, calibration, rule):
    """Flags of images, and of groups in the order in which they come."""
    rows = [
        ScoreRow(path=str(n), group=group, score=float(score), status="ok", model_sha256="")
        for n, (score, group) in enumerate(zip(scores, groups, strict=True))
    ]
    images, pooled, _ = decide(to_table(rows, ScoreRow), calibration, rule)
    return images["flagged"].to_numpy(), pooled["flagged"].to_numpy()


@pytest.mark.parametrize("each", [1, 6])
def test_realised_false_alarms_keep_the_promise_for_images_and_for_groups(each):
    rates = []
    for seed in range(REPETITIONS):
        rng = np.random.default_rng([seed, each])
        scores, groups = draw(rng, 60, each, side="old")
        flags = decided(*draw(rng, 40, each), Calibration(scores, scores, groups), Rule(0.1))
        rates.append([flagged.mean() for flagged in flags])
    for realised in zip(*rates, strict=True):
        assert np.mean(realised) <= 0.1 + 3 * standard_error(realised)
        assert np.mean(realised) > 0.05  # and is not kept by flagging nothing


@pytest.mark.parametrize("each", [1, 4])
def test_realised_false_discoveries_keep_the_promise_for_images_and_for_groups(each):
    shares, found = [], []
    for seed in range(REPETITIONS):
        rng = np.random.default_rng([seed, each, 1])
        scores, groups = draw(rng, 200, each, side="old")
        calibration = Calibration(scores, scores, groups)
        new, new_groups = draw(rng, 60, each)
        odd_groups = rng.random(60) < 0.3
        odd = np.repeat(odd_groups, each)
        flags = decided(new + 5 * odd, new_groups, calibration, Rule(0.2, by_fdr=True))
        pairs = list(zip(flags, (odd, odd_groups), strict=True))
        shares.append([(flag & ~truth).sum() / max(flag.sum(), 1) for flag, truth in pairs])
        found.append([(flag & truth).sum() / max(truth.sum(), 1) for flag, truth in pairs])
    for realised in zip(*shares, strict=True):
        assert np.mean(realised) <= 0.2 + 3 * standard_error(realised)
    assert np.min(np.mean(found, 0)) > 0.8


def fired(
    calibration_groups,
    batch_groups,
    *,
    shift=0.0,
    each=1,
    contaminated=0.0,
    repetitions=REPETITIONS,
):
    """The share of simulated batches the check fires on."""
    count = 0
    for seed in range(repetitions):
        rng = np.random.default_rng([seed, calibration_groups, batch_groups, each])
        scores, groups = draw(rng, calibration_groups, each, side="old")
        batch, batch_names = draw(rng, batch_groups, each, shift=shift)
        batch = np.where(rng.random(len(batch)) < contaminated, batch + 6, batch)
        found = drift.compare(scores, groups, batch, batch_names, seed=seed)
        count += found.fires
    return count / repetitions


@pytest.mark.parametrize(
    ("calibration", "batch", "each", "repetitions"),
    [
        (60, 50, 1, REPETITIONS),
        (100, 1000, 1, REPETITIONS),
        (200, 20_000, 1, 40),
        (40, 20, 5, REPETITIONS),
    ],
)
def test_drift_is_found_and_not_cried(calibration, batch, each, repetitions):
    slack = 0 if repetitions == REPETITIONS else 0.05  # two standard errors and more
    assert fired(calibration, batch, each=each, repetitions=repetitions) <= 0.06 + slack
    assert fired(calibration, batch, each=each, shift=1.0, repetitions=min(60, repetitions)) >= 0.9
    assert fired(calibration, batch, each=each, shift=-1.0, repetitions=min(60, repetitions)) >= 0.9


def test_anomalies_in_a_batch_are_not_a_drift():
    assert fired(100, 200, contaminated=0.3, repetitions=200) <= 0.08


def test_a_batch_that_is_odd_through_and_through_is_reported():
    rng = np.random.default_rng(0)
    scores, groups = draw(rng, 50, side="old")
    far_away = drift.compare(scores, groups, *draw(rng, 50, shift=8))
    assert far_away.fires
    assert far_away.beyond == 1
    assert "calibrate anew" in far_away.text


def test_too_little_to_compare():
    assert drift.compare([1.0], ["a"], [1.0, 2.0], ["b", "c"]) is None
    assert drift.compare([1.0, 2.0], ["a", "b"], [1.0, 2.0], ["c", "c"]) is None
    assert drift.martingale([], [], [1.0], ["a"], ["2026"]) is None


def followed(seed, change):
    rng = np.random.default_rng([seed, int(10 * change)])
    scores, groups = draw(rng, 100, side="old")
    batch, batch_names = draw(rng, 300)
    batch[150:] += change
    order = rng.permutation(len(batch))  # the order of the rows says nothing
    when = [f"{place:04}" for place in order]
    names = [batch_names[place] for place in order]
    return drift.martingale(scores.tolist(), groups, batch[order], names, when, seed=seed)


def test_a_change_in_time_is_found_where_it_happened_and_seldom_where_there_is_none():
    assert np.mean([followed(seed, 0.0).fires for seed in range(200)]) <= 0.05 + 3 * np.sqrt(
        0.05 * 0.95 / 200
    )
    changed = [followed(seed, 1.5) for seed in range(50)]
    assert np.mean([each.fires for each in changed]) >= 0.9
    assert 150 <= np.median([int(each.alarm) for each in changed if each.fires]) < 230
