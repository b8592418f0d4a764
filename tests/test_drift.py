"""Simulations of the promises: false alarms, false discoveries, drift."""

import re
import shutil
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from itertools import chain

import numpy as np
import pytest
from scipy import stats

import anodetect
from anodetect.errors import DataError
from anodetect.record import directories
from anodetect.record.decisions import decide
from anodetect.record.rows import ScoreRow, to_table
from anodetect.stats import drift
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import Rule
from anodetect.stats.times import order_of, untimed
from anodetect.types import Silent

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


def of_sizes(rng, sizes, alike, side, shift=0.0):
    """Scores of groups with so many images each, correlated by `alike`, and their groups."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    own, each = rng.normal(size=len(sizes))[group], rng.normal(size=len(group))
    scores = np.sqrt(alike) * own + np.sqrt(1 - alike) * each + shift
    return scores, [f"{side}{number}" for number in group]


@pytest.mark.parametrize(
    ("calibration", "batch", "alike"),
    [
        pytest.param([1] * 60, [25] * 20, 0.5, id="single parts against lots"),
        pytest.param([25] * 60, [1] * 50, 0.5, id="lots against single parts"),
        pytest.param([1, 5, 25] * 20, [1, 1, 30] * 17, 0.3, id="mixed"),
        pytest.param([30] * 5, [30] * 3, 0.9, id="few tight lots"),
        pytest.param([30] * 5, [1] * 50, 0.9, id="few tight lots against single parts"),
        pytest.param([1] * 4, [1] * 200, 0.0, id="few single parts"),
    ],
)
def test_drift_is_not_cried_where_groups_differ_in_size(calibration, batch, alike):
    """At most 5 % of 300 batches, within two standard errors; a shift is found where there are
    groups enough."""
    fires = []
    for seed in range(300):
        rng = np.random.default_rng([seed, len(batch), len(calibration)])
        old, new = of_sizes(rng, calibration, alike, "old"), of_sizes(rng, batch, alike, "new")
        found = drift.compare(*old, *new, seed=seed)
        fires.append(found is not None and found.fires)
    assert np.mean(fires) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / len(fires))
    if min(len(calibration), len(batch)) < 50:
        return

    for shift in (-1.0, 1.0):
        seen = 0
        for seed in range(40):
            rng = np.random.default_rng([seed, len(batch)])
            old = of_sizes(rng, calibration, alike, "old")
            seen += drift.compare(*old, *of_sizes(rng, batch, alike, "new", shift)).fires
        assert seen >= 0.9 * 40


@pytest.mark.parametrize("digits", [0, 1, 8])
def test_the_comparison_of_single_images_is_scipys_rank_sum_test_below_the_cut(digits):
    rng = np.random.default_rng(digits)
    old, new = rng.normal(size=60).round(digits), rng.normal(0.3, 1, 40).round(digits)
    cut = np.sort(old)[56]  # the 95th percentile of 60
    expected = stats.mannwhitneyu(
        new[new < cut], old[old < cut], method="asymptotic", use_continuity=True
    )
    found = drift.compare(old, names("old", 60, 1), new, names("new", 40, 1))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.beyond == np.mean(new > cut)


def test_too_many_above_the_cut_are_judged_by_the_beta_binomial_distribution():
    """Of 30 calibration images two are at the cut or above it."""
    for count in (16, 20, 30):
        expected = stats.betabinom(30, 2, 29).sf(count - 1)
        assert drift._chance_of_beyond(count / 30, 30, 30) == pytest.approx(expected)


def test_the_smallest_shift_is_found_nine_times_out_of_ten():
    for groups, batch in ((60, 20), (200, 200)):
        shift = drift.smallest_shift(groups, batch)
        for sign in (-1, 1):
            assert fired(groups, batch, shift=sign * shift, repetitions=150) >= 0.9 - 0.05
        assert shift < 1.3
    assert fired(60, 20, shift=drift.smallest_shift(60, 20) / 3, repetitions=150) < 0.5


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
    assert drift.martingale([1.0, 2.0], ["a", "a"], ["2026", "2027"]) is None
    few = drift.compare(range(9), range(9), [20.0, 21.0], ["a", "b"])
    assert not few.fires and few.beyond == 1
    assert few.p_value == pytest.approx(1 / 55)  # two of eleven are above all others
    assert "too few groups to see one" in few.text


def followed(seed, change, anomalous=0.0, start=0.0):
    """The martingale of 300 images, of which the second half is changed, some are anomalous and all
    are higher by `start` than the calibration images were."""
    rng = np.random.default_rng([seed, int(10 * change)])
    batch, batch_names = draw(rng, 300)
    batch[150:] += change
    batch += start + 6 * (rng.random(300) < anomalous)
    order = rng.permutation(len(batch))  # the order of the rows says nothing
    when = [f"{place:04}" for place in order]
    names = [batch_names[place] for place in order]
    return drift.martingale(batch[order], names, when, seed=seed)


def test_a_change_in_time_is_found_where_it_happened_and_seldom_where_there_is_none():
    assert np.mean([followed(seed, 0.0).fires for seed in range(200)]) <= 0.05 + 3 * np.sqrt(
        0.05 * 0.95 / 200
    )
    changed = [followed(seed, 1.5) for seed in range(50)]
    assert np.mean([each.fires for each in changed]) >= 0.9
    assert 150 <= np.median([int(each.alarm) for each in changed if each.fires]) < 230


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param({"anomalous": 0.3}, id="anomalies spread evenly"),
        pytest.param({"start": 2.0}, id="different from the first image on"),
        pytest.param({"anomalous": 0.3, "start": -2.0}, id="both"),
    ],
)
def test_what_does_not_change_in_time_is_not_called_a_change(batch):
    fires = [followed(seed, 0.0, **batch).fires for seed in range(200)]
    assert np.mean(fires) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)


@pytest.mark.parametrize("block", [1, 2, 7, 4096])
@pytest.mark.parametrize("kind", ["normal", "tied", "rising", "falling"])
def test_p_values_over_time_are_those_of_counting_all_scores_before(monkeypatch, block, kind):
    """To the last bit, and no list grows with the number of scores."""
    monkeypatch.setattr(drift, "BLOCK", block)
    scores = np.random.default_rng(5).normal(size=300)
    scores = {
        "normal": scores,
        "tied": scores.round(0),
        "rising": np.sort(scores),
        "falling": -np.sort(scores),
    }[kind].tolist()
    reference, ours, theirs = drift._Ordered(), np.random.default_rng(1), np.random.default_rng(1)
    for place, score in enumerate(scores):
        above = sum(other > score for other in scores[:place])
        equal = scores[:place].count(score)
        expected = (above + theirs.uniform() * (equal + 1)) / (place + 1)
        assert drift._next_p_value(reference, score, ours) == expected
    assert list(chain.from_iterable(reference.blocks)) == sorted(scores)
    assert max(map(len, reference.blocks)) < 2 * block


def test_images_of_the_same_time_have_no_order():
    """Rows stand in the order of their paths, and a folder of a lot may lie behind another's."""
    fires = []
    for seed in range(100):
        scores = np.sort(np.random.default_rng(seed).normal(size=200))
        days = [f"2026-11-{25 + number % 2}" for number in range(200)]
        fires.append(drift.martingale(scores, names("new", 200, 1), days, seed=seed).fires)
    assert np.mean(fires) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 100)


def test_a_batch_that_differs_from_its_first_image_on_is_told_so_in_another_sentence():
    rng = np.random.default_rng(0)
    scores, groups = draw(rng, 60)
    when = [str(number) for number in range(60)]
    same = drift.martingale(scores, groups, when)
    other = drift.martingale(scores, groups, when, differs=True)
    assert not same.fires and not other.fires
    assert (
        other.text == f"{same.text} As far as can be seen, this batch is different from its "
        "first image on."
    )


# -- Times of acquisition --------------------------------------------------------------------------

MIDNIGHT = datetime(2024, 10, 27, tzinfo=UTC)  # in this night clocks of Berlin go back by an hour


def in_zone(*hours):
    """Write times with these offsets from UTC, in turn."""

    def write(time, number):
        return time.astimezone(timezone(timedelta(hours=hours[number % len(hours)]))).isoformat()

    return write


def berlin(time, number):
    return in_zone(2 if time < MIDNIGHT + timedelta(hours=1) else 1)(time, 0)


WAYS = {
    "UTC": lambda time, n: time.isoformat(),
    "Z": lambda time, n: f"{time:%Y-%m-%dT%H:%M:%S}Z",
    "small letters": lambda time, n: f"{time:%Y-%m-%dt%H:%M:%S}z",
    "UTC in words": lambda time, n: f"{time:%Y-%m-%d %H:%M:%S} UTC",
    "end of summer time": berlin,
    "two sites": in_zone(9, -5),
    "no zone": lambda time, n: time.replace(tzinfo=None).isoformat(),
    "no seconds": lambda time, n: f"{time:%Y-%m-%d %H:%M}",
    "fractions of any length": lambda time, n: f"{time:%Y-%m-%dT%H:%M:%S}.{'0' * (n % 9)}1+00:00",
    "space before the zone": lambda time, n: f"{time:%Y-%m-%d %H:%M:%S} +00:00",
    "DICOM, two columns": lambda time, n: f"{time:%Y%m%d %H%M%S}.5",
    "DICOM, joined": lambda time, n: f"{time:%Y%m%d%H%M%S}.123456+0000",
    "DICOM, digits alone": lambda time, n: f"{time:%Y%m%d%H%M%S}",
    "counter": lambda time, n: str(n + 1),
    "seconds since 1970": lambda time, n: f"{time.timestamp():.0f}",
}


@pytest.mark.parametrize("way", WAYS)
def test_times_are_compared_as_times_in_whatever_way_they_are_written(way):
    """120 images two minutes apart; texts would stand in another order where offsets differ, and
    numbers where they have more digits."""
    times = [MIDNIGHT + timedelta(minutes=2 * n) for n in range(120)]
    texts = [WAYS[way](time, n) for n, time in enumerate(times)]
    order = order_of(texts, names("image", 120, 1))
    assert order == sorted(order) and len(set(order)) == 120
    assert untimed(texts, texts) == ""


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["2024-10-27T08:00Z", "2024-10-27T09:00"], "time zone for a and none for b"),
        (["2024-10-27", "2024-10-27T09:00+01:00"], "time zone for b and none for a"),
        (["unknown", "unknown"], "'unknown' of a is not a time that is known; write ISO 8601"),
        (["27.10.2024 08:00", "28.10.2024 08:00"], "'27.10.2024 08:00' of a is not a time"),
        (["10/27/2024 8:00 AM", "10/27/2024 9:00 AM"], "'10/27/2024 8:00 AM' of a is not a time"),
        (["2024-10-27", "27 Oct"], "'27 Oct' of b is not a time"),
        (["2024-10-27", "17"], "'17' of b is not a time"),
        (["45592.5", "45593.25"], "'45592.5' of a is not a time"),
        (["2024-02-30", "2024-02-31"], "'2024-02-30' of a is not a time"),
        (["2024-10-27", ""], "b has no 'acquired', others have"),
    ],
)
def test_texts_that_have_no_order_in_time_are_named_and_never_sorted(texts, reason):
    with pytest.raises(DataError, match=re.escape(reason)):
        order_of(texts, ["a", "b"])
    with pytest.raises(DataError, match=re.escape(reason)):
        drift.martingale([1.0, 2.0], ["a", "b"], texts)
    assert reason in untimed(texts, ["a", "b"])


def test_nothing_is_said_where_no_image_says_when_it_was_taken():
    assert untimed(["", ""], ["a", "b"]) == untimed([], []) == ""


@pytest.mark.parametrize("way", ["two sites", "end of summer time", "counter", "DICOM, joined"])
def test_a_change_is_noticed_whatever_the_clocks(way):
    """The lamp ages in the second half. Sorted as text, the two halves would be mixed."""
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(0, 1, 60), rng.normal(1.5, 1, 60)])
    times = [MIDNIGHT + timedelta(minutes=2 * n) for n in range(120)]
    texts = [WAYS[way](time, n) for n, time in enumerate(times)]
    found, plain = (
        drift.martingale(scores.tolist(), names("new", 120, 1), when)
        for when in (texts, [time.isoformat() for time in times])
    )
    assert found.fires and found.peak == plain.peak
    assert texts.index(found.alarm) == [time.isoformat() for time in times].index(plain.alarm) > 60


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["unknown"], "'unknown' of"),
        (["2024-10-27T08:00Z", "2024-10-27T09:00"], "time zone for"),
        (["2024-10-27", ""], "has no 'acquired'"),
        (["2024-10-27T08:00:00.5+02:00"], ""),
    ],
)
def test_a_scoring_says_before_and_after_that_times_are_not_used(
    pca_run, synthetic_folder, tmp_path, texts, reason
):
    folder = shutil.copytree(synthetic_folder / "test/good", tmp_path / "images")
    files = sorted(file.name for file in folder.iterdir())
    lines = [f"{name},{texts[n % len(texts)]}" for n, name in enumerate(files)]
    (folder / "manifest.csv").write_text("\n".join(["path,acquired", *lines]))
    said = []

    class Heard(Silent):
        def warn(self, text):
            said.append(text)

        def progress(self, *arguments):
            said.append("scoring")

    out = tmp_path / "s"
    anodetect.score(pca_run, [str(folder)], out, heatmaps=(), reporter=Heard())
    audit = directories.read(out).audit
    about = [text for text in said if "column acquired is not used" in text]
    if not reason:
        assert not about and audit.drift.time is not None
        return
    assert len(about) == 2 and reason in about[0]
    assert said.index(about[0]) < said.index("scoring")
    assert about[1] in audit.caveats and audit.drift.time is None
    assert "column acquired is not used" in (out / "report.html").read_text("utf-8")
