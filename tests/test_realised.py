"""Simulations of what a calibration promises: the realised rate, its bound, and equal sites."""

import re

import numpy as np
import pytest
from scipy import stats

from anodetect.errors import ConfigError
from anodetect.stats import metrics
from anodetect.stats.calibration import Calibration
from anodetect.stats.evaluation import LabelledScore, MeasureByColumn
from anodetect.stats.mask_rule import RegionMeasure
from anodetect.stats.realised import beta_binomial
from benchmarks import promises


def calibration(rng, groups, each=1, alike=0.5):
    group = np.repeat(np.arange(groups), each)
    own, rest = rng.normal(size=groups)[group], rng.normal(size=len(group))
    scores = np.sqrt(alike) * own + np.sqrt(1 - alike) * rest
    return Calibration(scores, scores, tuple(map(str, group.tolist())))


@pytest.mark.parametrize(("groups", "far"), [(60, 0.05), (19, 0.05), (199, 0.013)])
def test_the_rate_of_single_images_is_that_of_an_order_statistic(groups, far):
    realised = calibration(np.random.default_rng(0), groups).realised(far)
    rank = np.floor(far * (groups + 1) + 1e-9)
    assert realised.mean == pytest.approx(rank / (groups + 1))
    assert realised.bound() == pytest.approx(stats.beta(rank, groups + 1 - rank).ppf(0.95))
    counts = stats.betabinom(50, rank, groups + 1 - rank)
    for flagged in (0, 3, 9, 20):
        expected = min(1, 2 * min(counts.cdf(flagged), counts.sf(flagged - 1)))
        assert realised.chance(flagged, 50) == pytest.approx(expected)


def test_the_beta_binomial_distribution_is_scipys():
    for k in (0, 4, 10):
        assert beta_binomial(k, 10, 0.4, 7) == pytest.approx(stats.betabinom(10, 0.4, 7).pmf(k))


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.95])
@pytest.mark.parametrize(("groups", "each"), [(60, 1), (19, 6), (60, 5)])
def test_the_statement_names_the_average_rate_and_a_bound_that_holds(groups, each, alike):
    """Scores are normal, so the rate that a threshold realises is known exactly."""
    rng = np.random.default_rng([groups, each])
    real, said, held = [], [], []
    for _ in range(200):
        drawn = calibration(rng, groups, each, alike)
        realised = drawn.realised(0.05)
        real.append(stats.norm.sf(drawn.threshold(0.05)))
        said.append(realised.mean)
        held.append(real[-1] <= realised.bound())
    difference = np.array(real) - np.array(said)
    assert abs(difference.mean()) <= 3 * difference.std(ddof=1) / np.sqrt(len(difference)) + 1e-9
    assert np.mean(held) >= 0.95 - 2 * np.sqrt(0.05 * 0.95 / len(held))


def test_the_statement_of_sixty_groups():
    text = calibration(np.random.default_rng(0), 60).statement(0.05)
    assert "4.92% on average over calibrations, and at most 10.12% after 19 of 20" in text


def test_the_statement_of_groups_of_several_images_does_not_write_the_promised_rate():
    """The threshold of 19 groups lies above all 114 images: about 1 in 115 is above it."""
    text = calibration(np.random.default_rng(0), 19, 6, 0.0).statement(0.05)
    (average,) = re.findall(r"([\d.]+)% on average", text)
    assert float(average) <= 2


def test_image_ranks_say_what_groups_that_resemble_each_other_realise():
    text = calibration(np.random.default_rng(1), 12, 40, 0.7).statement(0.05)
    (average,) = re.findall(r"([\d.]+)% on average, judging each group by the others", text)
    assert 5 < float(average) < 20


@pytest.mark.parametrize(("sizes", "alike"), [([20] * 12, 0.5), ([1, 5, 25] * 4, 0.9)])
def test_few_groups_state_a_bound_of_images_and_of_groups_with_masks_that_holds(sizes, alike):
    """benchmarks/promises.py does so for more groups, and more often."""
    kinds = {"images": 0, "masks": 0}
    for seed in range(60):
        kinds["masks"] += promises._masks_below_bound(sizes, alike, seed)
        old = promises.sample(np.random.default_rng(seed), sizes, alike)
        known = Calibration(old.scores, old.scores, old.groups)
        assert known.level(0.05) == "image"
        rate = stats.norm.sf(known.threshold(0.05))
        kinds["images"] += rate <= known.realised(0.05).bound()
    assert min(kinds.values()) / 60 >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 60)


def test_the_bound_of_few_groups_is_in_both_statements_and_never_more_than_all():
    measure = RegionMeasure(-9.0, "mass")
    for sizes in ([30], [15, 15], [8, 8, 8]):
        old = promises.sample(np.random.default_rng(1), sizes, 0.5)
        known = Calibration(old.scores, old.scores, old.groups, measure, old.scores)
        for text in (known.statement(0.05), known.mask_statement(0.05)):
            (bound,) = re.findall(r"at most ([\d.]+)% after 19 of 20 calibrations", text)
            assert 0 <= float(bound) <= 100


def test_nothing_is_realised_where_nothing_can_be_flagged():
    with pytest.raises(ConfigError, match="nothing can be flagged"):
        calibration(np.random.default_rng(0), 5).realised(0.01)


# -- Sites -----------------------------------------------------------------------------------------


def warnings_of(seed, sites, *, shift=0.0, groups=60, normal=40):
    """The warnings of an evaluation by site, where the last site's scores are higher by `shift`."""
    rng = np.random.default_rng(seed)
    measure = MeasureByColumn(calibration(rng, groups), 0.05, ["site"], masks=False)
    for site in range(sites):
        moved = shift * (site == sites - 1)
        for label, count in ((0, normal), (1, 10)):
            for number, score in enumerate(rng.normal(1.5 * label + moved, 1, count)):
                name = f"{site}-{label}-{number}"
                measure.add(LabelledScore(name, label, score, name), {"site": str(site)})
    return measure.result().warnings


def without_bootstrap(*arguments):
    """The metrics of images, which warnings only quote."""
    return {"auroc": metrics.Interval(0.5)}


@pytest.mark.parametrize("sites", [2, 8])
def test_sites_that_are_alike_are_seldom_called_different(monkeypatch, sites):
    monkeypatch.setattr(metrics, "image_metrics", without_bootstrap)
    warned = [bool(warnings_of([seed, sites], sites)) for seed in range(100)]
    assert np.mean(warned) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(warned))


def test_a_site_that_is_different_is_named(monkeypatch):
    monkeypatch.setattr(metrics, "image_metrics", without_bootstrap)
    found = 0
    for seed in range(20):
        warned = [text for text in warnings_of(seed, 4, shift=1.5) if "flagged" in text]
        found += any(text.startswith("site 3:") for text in warned)
    assert found >= 18
