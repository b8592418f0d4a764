"""Statistics against packages by others, and against slow code that shares nothing with ours.

crepes (conformal prediction) and statsmodels come with the extra `dev`. Without them the tests that
need them are skipped, and SciPy and the slow code still say the same.
"""

import numpy as np
import pytest
from scipy import stats

from anodetect.stats import drift
from anodetect.stats.agreement import cohens_kappa
from anodetect.stats.calibration import Calibration, benjamini_hochberg, clopper_pearson
from anodetect.stats.fold_check import fold_p_value

RNG = np.random.default_rng(25)
P_VALUES = [
    RNG.uniform(size=40) ** 3,
    np.round(RNG.uniform(size=200) ** 2 + 0.005, 2).clip(0, 1),  # with ties
    np.array([0.01]),
    np.ones(7),
]


@pytest.mark.parametrize("p_values", P_VALUES)
@pytest.mark.parametrize("dependent", [False, True])
def test_q_values_are_those_of_scipy_and_of_statsmodels(p_values, dependent):
    q_values = benjamini_hochberg(p_values, dependent=dependent)
    expected = stats.false_discovery_control(p_values, method="by" if dependent else "bh")
    assert q_values == pytest.approx(expected, abs=1e-12)
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    method = "fdr_by" if dependent else "fdr_bh"
    rejected, corrected, _, _ = multitest.multipletests(p_values, 0.1, method=method)
    assert q_values == pytest.approx(corrected, abs=1e-12)
    assert ((q_values <= 0.1 + 1e-12) == rejected).all()


@pytest.mark.parametrize("digits", [1, 15])
def test_p_values_of_single_images_are_those_of_crepes(digits):
    crepes = pytest.importorskip("crepes")
    known, new = np.round(RNG.normal(size=93), digits), np.round(RNG.normal(size=200), digits)
    classifier = crepes.ConformalClassifier().fit(known)
    expected = classifier.predict_p(new[:, None], smoothing=False)[:, 0]
    calibration = Calibration(known, known, tuple(map(str, range(93))))
    assert calibration.p_values(new, 0.05) == pytest.approx(expected, abs=1e-12)


def test_p_values_of_groups_are_the_mean_of_those_of_crepes_over_draws():
    """Of one image of each group, as in the formula; drawn 2 000 times."""
    crepes = pytest.importorskip("crepes")
    sizes, new = [1, 2, 3, 5] * 6, RNG.normal(size=9)
    names = np.repeat([f"{place:02}" for place in range(24)], sizes)
    known, starts = RNG.normal(size=len(names)), np.cumsum([0, *sizes[:-1]])
    drawn = []
    for _ in range(2000):
        chosen = known[starts + (RNG.random(24) * sizes).astype(int)]
        classifier = crepes.ConformalClassifier().fit(chosen)
        drawn.append(classifier.predict_p(new[:, None], smoothing=False)[:, 0])
    found = Calibration(known, known, tuple(names.tolist())).p_values(new, 0.05)
    assert found == pytest.approx(np.mean(drawn, axis=0), abs=0.01)


@pytest.mark.parametrize(("hits", "total"), [(0, 5), (3, 20), (20, 20), (57, 400)])
def test_intervals_of_shares_are_those_of_scipy_and_of_statsmodels(hits, total):
    found = clopper_pearson(hits, total)
    interval = stats.binomtest(hits, total).proportion_ci()
    assert found == pytest.approx((interval.low, interval.high), abs=1e-9)
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    expected = proportion.proportion_confint(hits, total, method="beta")
    assert found == pytest.approx(expected, abs=1e-9)


def test_kappa_is_that_of_statsmodels():
    raters = pytest.importorskip("statsmodels.stats.inter_rater")
    first = RNG.choice(["normal", "anomalous", "unsure"], 120)
    second = np.where(RNG.random(120) < 0.7, first, RNG.choice(["normal", "anomalous"], 120))
    kinds = sorted(set(first) | set(second))
    table = [[((first == a) & (second == b)).sum() for b in kinds] for a in kinds]
    expected = raters.cohens_kappa(np.array(table)).kappa
    assert cohens_kappa(list(zip(first, second, strict=True))) == pytest.approx(expected)


def test_the_check_of_folds_is_the_test_of_kruskal_and_wallis():
    folds = np.repeat(np.arange(1, 6), 12)
    scores = np.round(RNG.normal(size=60) + 0.2 * folds, 1)
    expected = stats.kruskal(*[scores[folds == place] for place in range(1, 6)]).pvalue
    found = fold_p_value(scores, tuple(map(str, range(60))), folds)
    assert found == pytest.approx(expected)


def test_the_martingale_is_the_mean_over_all_paths_of_bets():
    """The simple jumper of Vovk et al. (2021), written out: each of 3ⁿ ways to jump among the bets
    −1, 0 and 1 has a probability, and a product of 1 + ε (p − ½)."""
    scores, jump = RNG.normal(size=6).tolist(), drift.JUMP
    follower, rng = drift.Follower(np.random.default_rng(4)), np.random.default_rng(4)
    p_values = []
    for place, score in enumerate(scores):
        above = sum(other > score for other in scores[:place])
        p_values.append((above + rng.uniform()) / (place + 1))

    def value(path):
        chance, capital, before = 1.0, 1.0, None
        for bet, p in zip(path, p_values, strict=False):
            stays = 1 / 3 if before is None else (1 - jump) * (bet == before) + jump / 3
            chance, before = chance * stays, bet
            capital *= 1 + bet * (p - 0.5)
        return chance * capital

    peaks = []
    for length in range(1, 7):
        paths = np.stack(np.meshgrid(*[[-1, 0, 1]] * length), -1).reshape(-1, length)
        peaks.append(sum(value(path) for path in paths.tolist()))
    for score, expected in zip(scores, np.maximum.accumulate([1.0, *peaks])[1:], strict=True):
        follower.add(score)
        assert follower.peak == pytest.approx(expected)
