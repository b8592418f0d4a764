"""Rates from verdicts on some cases: against counting by hand, and by simulation."""

from math import isnan

import numpy as np
import pytest

from anodetect.stats import audit_sample
from anodetect.stats.audit_sample import estimates, random_order, sample
from anodetect.stats.calibration import clopper_pearson

PATHS = [f"{number}.png" for number in range(400)]


def batch(seed, *, prevalence=0.1, hit=0.6, alarm=0.1):
    """Flags and labels of a batch in which anomalous cases are flagged with probability `hit`,
    normal ones with `alarm`."""
    rng = np.random.default_rng(seed)
    labels = rng.random(len(PATHS)) < prevalence
    flags = rng.random(len(PATHS)) < np.where(labels, hit, alarm)
    return flags, labels.astype(int)


def judged_as_people_do(flags, head, count):
    """Every flagged case is judged, and so are the cases of the audit sample."""
    chosen = set(sample(head, PATHS, flags.tolist(), count))
    return [bool(flag) or path in chosen for flag, path in zip(flags, PATHS, strict=True)]


def found_in(flags, labels, judged, head, count, now=None):
    given = [int(label) if seen else None for label, seen in zip(labels, judged, strict=True)]
    now = flags if now is None else now
    order = random_order(head, PATHS)
    return estimates(order, flags.tolist(), now.tolist(), judged, given, count)


def test_with_every_case_judged_rates_are_counted():
    flags, labels = batch(0)
    found = found_in(flags, labels, [True] * len(PATHS), "h", 50)
    assert found.sensitivity.value == pytest.approx(flags[labels == 1].mean())
    assert found.false_alarms.value == pytest.approx(flags[labels == 0].mean())
    assert found.precision.value == pytest.approx(labels[flags].mean())
    for rate in (found.sensitivity, found.false_alarms, found.precision):
        assert rate.low == rate.high == pytest.approx(rate.value)
    assert (found.weights == 1).all() and found.untold == 0


def test_flagged_cases_alone_tell_the_precision_and_nothing_else():
    flags, labels = batch(0)
    found = found_in(flags, labels, flags.tolist(), "h", 50)
    assert isnan(found.sensitivity.value) and isnan(found.false_alarms.value)
    assert found.precision.value == pytest.approx(labels[flags].mean())
    assert found.untold == 50


def test_a_sample_that_is_not_judged_completely_does_not_count():
    flags, labels = batch(0)
    judged = judged_as_people_do(flags, "h", 50)
    place = next(n for n in random_order("h", PATHS) if not flags[n])
    judged[place] = False
    found = found_in(flags, labels, judged, "h", 50)
    assert isnan(found.sensitivity.value) and found.untold == 1


def test_a_verdict_of_the_sample_stands_for_the_cases_it_was_drawn_from():
    flags, labels = batch(1)
    judged = judged_as_people_do(flags, "h", 50)
    found = found_in(flags, labels, judged, "h", 50)
    unflagged = int((~flags).sum())
    chosen = [n for n in random_order("h", PATHS) if not flags[n]][:50]
    missed = labels[chosen].sum()
    hits = labels[flags].sum()
    assert found.sensitivity.value == pytest.approx(hits / (hits + missed * unflagged / 50))
    low, high = clopper_pearson(missed, 50)
    assert found.sensitivity.low == pytest.approx(hits / (hits + high * unflagged))
    assert found.sensitivity.high == pytest.approx(hits / (hits + low * unflagged))
    assert found.weights.sum() == pytest.approx(len(PATHS))


def test_another_threshold_is_told_from_the_same_verdicts():
    flags, labels = batch(2)
    judged = judged_as_people_do(flags, "h", 100)
    stricter = flags & (np.arange(len(PATHS)) % 2 == 0)
    found = found_in(flags, labels, judged, "h", 100, now=stricter)
    hits, others = labels[stricter].sum(), labels[flags & ~stricter].sum()
    chosen = [n for n in random_order("h", PATHS) if not flags[n]][:100]
    missed = labels[chosen].sum() * (~flags).sum() / 100
    assert found.sensitivity.value == pytest.approx(hits / (hits + others + missed))


def test_the_sample_is_the_same_for_everybody_and_another_for_another_record():
    flags = batch(3)[0].tolist()
    assert sample("h", PATHS, flags, 20) == sample("h", PATHS, flags, 20)
    assert sample("h", PATHS, flags, 20) != sample("g", PATHS, flags, 20)
    chosen = sample("h", PATHS, flags, 20)
    assert sum(flags[PATHS.index(path)] for path in chosen) == 20 and len(chosen) == 40


def simulated(count, size=50):
    """How often the interval holds the batch's sensitivity, and the means of the estimate, of the
    share among the judged cases, and of the truth."""
    inside, weighted, naive, truth = [], [], [], []
    for seed in range(count):
        flags, labels = batch(seed)
        judged = judged_as_people_do(flags, str(seed), size)
        rate = found_in(flags, labels, judged, str(seed), size).sensitivity
        true = flags[labels == 1].mean()
        seen = np.array(judged) & (labels == 1)
        inside.append(rate.low - 1e-12 <= true <= rate.high + 1e-12)
        weighted.append(rate.value)
        naive.append(flags[seen].mean())
        truth.append(true)
    return np.mean(inside), np.mean(weighted), np.mean(naive), np.mean(truth)


def test_the_interval_holds_what_is_true_and_counting_does_not():
    inside, weighted, naive, truth = simulated(60)
    assert inside >= 0.9 and abs(weighted - truth) < 0.06
    assert naive > truth + 0.2
    assert audit_sample.UNKNOWN.low == 0 and audit_sample.UNKNOWN.high == 1
