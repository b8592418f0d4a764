"""Every metric against a reference written here, from its definition."""

import math

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_curve

from anodetect.stats import metrics
from anodetect.stats.calibration import Calibration
from anodetect.stats.evaluation import LabelledScore, Measure
from anodetect.stats.joined_groups import JoinedGroups

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 60)
SCORES = np.round(RNG.normal(size=60) + LABELS, 1)  # rounded: there are ties


def reference_auroc(labels, scores):
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels == 1] for b in scores[labels == 0]]
    return np.mean(pairs)


def reference_ap(labels, scores):
    total, last = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        recall, precision = labels[chosen].sum() / labels.sum(), labels[chosen].mean()
        total, last = total + (recall - last) * precision, recall
    return total


def test_image_metrics():
    assert metrics.auroc(LABELS, SCORES) == pytest.approx(reference_auroc(LABELS, SCORES))
    assert metrics.average_precision(LABELS, SCORES) == pytest.approx(reference_ap(LABELS, SCORES))
    rates = [
        np.mean(SCORES[LABELS == 0] >= t)
        for t in sorted(set(SCORES))
        if np.mean(SCORES[LABELS == 1] >= t) >= 0.95
    ]
    assert metrics.fpr_at_95_tpr(LABELS, SCORES) == pytest.approx(min(rates))


def reference_tpr_at_5_fpr(labels, scores):
    rates = [0.0]
    for threshold in set(scores):
        if np.mean(scores[labels == 0] >= threshold) <= 0.05:
            rates.append(np.mean(scores[labels == 1] >= threshold))
    return max(rates)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_tpr_at_5_fpr_against_its_definition_and_scikit_learn(decimals):
    labels = np.arange(200) % 2
    scores = np.round(np.random.default_rng(decimals).normal(size=200) + 2 * labels, decimals)
    value = metrics.tpr_at_5_fpr(labels, scores)
    assert value == pytest.approx(reference_tpr_at_5_fpr(labels, scores))
    fpr, tpr, _ = roc_curve(labels, scores)  # without the points that are on a line with others
    assert value >= tpr[fpr <= 0.05].max()
    assert value <= np.interp(0.05, fpr, tpr) + 1e-12


def test_tpr_at_5_fpr_by_hand():
    """Of 20 normal images one may lie above the threshold: 5 %. Those with scores 1 to 20, and
    anomalous ones above, between and level with them."""
    labels = np.array([0] * 20 + [1] * 4)
    normal = np.arange(1.0, 21.0)

    def rate(*anomalous):
        return metrics.tpr_at_5_fpr(labels, np.array([*normal, *anomalous]))

    assert rate(30, 19.5, 19.5, 3) == 0.75
    assert rate(20, 20, 20, 20) == 1  # level with the one that may be flagged
    assert rate(30, 19, 19, 19) == 0.25  # level with a second one, which they cannot be told from
    assert rate(1, 2, 3, 4) == 0
    tied = np.array([7.0] * 20 + [7.0] * 3 + [8.0])
    assert metrics.tpr_at_5_fpr(labels, tied) == 0.25
    assert metrics.tpr_at_5_fpr(labels[1:], np.array([*normal[1:], 30, 19.5, 19.5, 3])) == 0.25


def test_energies_far_outside_zero_and_one_are_not_squashed():
    labels, scores = np.array([0, 0, 1, 1]), np.array([1e4, 2e4, 3e4, 4e4])
    assert metrics.auroc(labels, scores) == 1
    assert metrics.auroc(labels, -scores) == 0


def auroc_interval(labels, scores, groups):
    return metrics.image_metrics(labels, scores, [str(group) for group in groups])["auroc"]


@pytest.mark.parametrize("labels", [np.zeros(20, int), np.ones(20, int)])
def test_one_class_is_nan_and_says_so(labels):
    for interval in metrics.image_metrics(
        labels, SCORES[:20], [str(n) for n in range(20)]
    ).values():
        assert math.isnan(interval.value)
        assert "one class" in interval.note


def test_bootstrap_curves_of_weight_one_are_the_curves_themselves():
    """A draw with known weights, by repetition of rows, gives what the exact metrics give."""
    groups = np.arange(60) // 2
    ((found, alarms),) = metrics.bootstrap_curves(
        LABELS, SCORES, [f"{g:02d}" for g in groups], resamples=5, seed=3
    )
    weights = np.random.default_rng(3).multinomial(30, np.full(30, 1 / 30), 5)
    areas = (
        metrics._area(found, alarms),
        metrics._step_area(found, alarms),
        metrics._fpr_at(found, alarms),
        metrics._tpr_at(found, alarms),
    )
    for n, drawn in enumerate(weights):
        rows = np.repeat(np.arange(60), drawn[groups])
        labels, scores = LABELS[rows], SCORES[rows]
        exact = (
            metrics.auroc(labels, scores),
            metrics.average_precision(labels, scores),
            metrics.fpr_at_95_tpr(labels, scores),
            metrics.tpr_at_5_fpr(labels, scores),
        )
        assert [area[n] for area in areas] == pytest.approx(exact)


def test_bootstrap_resamples_groups():
    by_group = auroc_interval(LABELS, SCORES, np.arange(60) // 3)
    assert by_group.low < by_group.value < by_group.high
    copies = auroc_interval(np.repeat(LABELS, 10), np.repeat(SCORES, 10), np.arange(600) // 10)
    alone = auroc_interval(LABELS, SCORES, range(60))
    assert copies.high - copies.low == pytest.approx(
        alone.high - alone.low, rel=0.15
    )  # copies are no evidence


def test_bootstrap_interval_covers_the_truth():
    """For two normals one deviation apart the AUROC is Φ(1/√2) = .760; 95 % intervals should mostly
    hold it."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        labels = np.repeat([0, 1], 40)
        interval = auroc_interval(labels, rng.normal(size=80) + labels, range(80))
        hits += interval.low <= 0.760 <= interval.high
    assert hits >= 85


def test_copies_are_resampled_as_one_whatever_their_groups():
    """Five copies of 60 images, each in a group of its own, have the interval of the 60; the
    metrics of pixels and lesions, too. Copies of copies are joined, in any order."""
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], 30)
    scores, maps = rng.normal(size=60) + labels, rng.normal(size=(60, 8, 8)).astype(np.float32)
    masks = np.zeros((60, 8, 8), bool)
    masks[30:, 2:4, 2:4] = True
    maps += masks
    reference = np.sort(rng.normal(size=60))
    known = Calibration(reference, reference, tuple(map(str, range(60))))

    def measured(copies, contents=True, order=1):
        measure = Measure(known, 0.05, masks=True)
        for number in range(60 * copies)[::order]:
            image, copy = number % 60, number // 60
            item = LabelledScore(
                f"{copy}/{image}",
                int(labels[image]),
                scores[image],
                f"{copy:02}/{image:02}",
                heatmap=maps[image],
                mask=masks[image],
                content=str(image) if contents else "",
            )
            measure.add(item)
        return measure.result()

    once, copied, apart = measured(1), measured(5), measured(5, contents=False)
    assert (once.n_groups, copied.n_groups, apart.n_groups) == (60, 60, 300)
    assert copied.n_normal == 150
    for name in ("auroc", "ap"):
        for part in ("image", "pixel"):
            before, now = getattr(once, part)[name], getattr(copied, part)[name]
            assert now.value == pytest.approx(before.value)
            assert [now.low, now.high] == pytest.approx([before.low, before.high], abs=1e-9)
    own, wrong = copied.image["auroc"], apart.image["auroc"]
    assert wrong.high - wrong.low < 0.6 * (own.high - own.low)
    for before, now in zip(once.lesions.sensitivities, copied.lesions.sensitivities, strict=True):
        assert [now.low, now.high] == pytest.approx([before.low, before.high])
    assert measured(5, order=-1).image["auroc"].low == pytest.approx(own.low)


def test_groups_are_joined_over_several_copies():
    joined = JoinedGroups()
    for group, content in (("c", "1"), ("b", "1"), ("d", "2"), ("a", "3"), ("d", "3"), ("b", "2")):
        joined.add(group, content)
    joined.add("e", "")
    assert {name: joined.of(name) for name in "abcde"} == dict.fromkeys("abcd", "a") | {"e": "e"}


def test_bootstrap_is_refused_below_ten_groups():
    interval = auroc_interval(LABELS, SCORES, np.arange(60) % 9)
    assert math.isnan(interval.low)
    assert "9 groups" in interval.note


def test_pixels_are_resampled_the_same_in_whichever_order_they_were_added():
    rng = np.random.default_rng(1)
    images = [(rng.normal(size=(8, 8)), rng.random((8, 8)) > 0.9, f"g{n:02d}") for n in range(12)]
    draws = []
    for order in (images, images[::-1]):
        counts = metrics.PixelCounts()
        for heatmap, mask, group in order:
            counts.add(heatmap, mask, group)
        draws.append(counts.curves().intervals(resamples=20)["ap"].draws)
    assert np.allclose(*draws, rtol=1e-9)


def test_resamples_with_one_class_are_left_out_and_counted():
    labels = np.array([1] * 3 + [0] * 9)
    interval = auroc_interval(labels, np.arange(12.0)[::-1], range(12))
    assert "left out" in interval.note
    assert interval.value == 1


# -- Pixels ----------------------------------------------------------------------------------------


def pictures(count=6, size=24):
    rng = np.random.default_rng(3)
    maps, masks = [], []
    for n in range(count):
        mask = np.zeros((size, size), bool)
        if n % 3:
            mask[4:10, 3 : 6 + n] = True
            mask[15:17, 15:17] = n % 2
        maps.append((rng.normal(size=(size, size)) + 1.5 * mask).astype(np.float32))
        masks.append(mask)
    return maps, masks


def measured(maps, masks):
    counts = metrics.PixelCounts()
    for n, (heatmap, mask) in enumerate(zip(maps, masks, strict=True)):
        counts.add(heatmap, mask, str(n))
    return counts.curves()


def reference_aupro(maps, masks, limit=0.3):
    regions = []
    for heatmap, mask in zip(maps, masks, strict=True):
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [heatmap[labelled == k] for k in range(1, count + 1)]
    normal = np.concatenate([heatmap[~mask] for heatmap, mask in zip(maps, masks, strict=True)])
    thresholds = np.sort(np.concatenate([heatmap.ravel() for heatmap in maps]))[::-1]
    fpr = np.array([0.0] + [np.mean(normal >= t) for t in thresholds])
    pro = np.array(
        [0.0] + [np.mean([np.mean(region >= t) for region in regions]) for t in thresholds]
    )
    grid = np.linspace(0, limit, 20001)
    return np.trapezoid(np.interp(grid, fpr, pro), grid) / limit


def test_pixel_metrics_against_references():
    maps, masks = pictures()
    values, labels = (
        np.concatenate([m.ravel() for m in maps]),
        np.concatenate([m.ravel() for m in masks]).astype(int),
    )
    got = measured(maps, masks).measure()
    assert got["auroc"] == pytest.approx(reference_auroc(labels, values), abs=5e-4)
    assert got["ap"] == pytest.approx(reference_ap(labels, values), abs=3e-3)
    assert got["aupro"] == pytest.approx(reference_aupro(maps, masks), abs=3e-3)
    dice = [
        2 * labels[values >= t].sum() / ((values >= t).sum() + labels.sum())
        for t in np.unique(values)
    ]
    assert got["dice_best"] == pytest.approx(max(dice), abs=2e-3)


def test_pixels_that_were_not_scored_do_not_count():
    maps, masks = pictures()
    holes = [m.copy() for m in maps]
    for heatmap in holes:
        heatmap[:, 20:] = np.nan
    cut = measured([m[:, :20] for m in maps], [m[:, :20] for m in masks]).measure()
    assert measured(holes, masks).measure() == pytest.approx(cut)


def test_bins_are_in_the_order_of_the_values():
    values = np.sort(np.concatenate([RNG.normal(size=500) * 10.0**k for k in range(-6, 6)])).astype(
        np.float32
    )
    bins = metrics._bin(values)
    assert (np.diff(bins) >= 0).all()
    edges = metrics._lower_edge(bins)
    assert (edges <= values).all()
    assert (np.abs(edges - values) <= np.abs(values) * 2.0**-8).all()


def test_pixel_metrics_of_one_class_are_nan():
    curves = measured([np.zeros((8, 8), np.float32)], [np.zeros((8, 8), bool)])
    assert all(math.isnan(value) for value in curves.measure().values())


def test_pixel_intervals_hold_the_value():
    maps, masks = pictures(24)
    intervals = measured(maps, masks).intervals(resamples=100)
    assert all(i.low <= i.value <= i.high for name, i in intervals.items())


def test_many_images_are_merged_on_the_way(monkeypatch):
    maps, masks = pictures(4, 12)
    monkeypatch.setattr(metrics, "MERGE_AT", 2000)
    counts = metrics.PixelCounts()
    for n in range(300):
        counts.add(maps[n % 4], masks[n % 4], str(n % 4))
    assert sum(len(part[0]) for part in counts.parts) < 4000  # 43,200 values were added
    assert counts.curves().measure() == pytest.approx(measured(maps, masks).measure())


def test_lesions_found_at_one_false_positive_per_volume():
    """Three lesions of falling height and two false spots: what a low enough threshold finds, and
    no lower one may."""
    mask, heatmap = np.zeros((4, 20, 20), bool), np.zeros((4, 20, 20), np.float32)
    for number, (place, height) in enumerate([((1, 2), 5.0), ((1, 8), 3.0), ((3, 14), 1.0)]):
        where = np.s_[place[0], place[1] : place[1] + 3, 3 * number : 3 * number + 2]
        mask[where], heatmap[where] = True, height
    heatmap[0, 15, 15], heatmap[2, 2, 18] = 4.0, 2.0
    heatmap[0, 0, 0] = np.nan
    assert metrics.lesion_sensitivity([heatmap], [mask])[:2] == (2, 3)
    assert metrics.lesion_sensitivity([heatmap], [mask], 0.0)[:2] == (1, 3)
    assert metrics.lesion_sensitivity([heatmap], [mask], 2.0)[:2] == (3, 3)
    assert metrics.lesion_sensitivity([heatmap] * 2, [mask, ~mask & False], 1.0)[:2] == (1, 3)
    nothing = (
        np.random.default_rng(0).random((4, 20, 20)).astype(np.float32)
    )  # parts that grow together find nothing
    assert metrics.lesion_sensitivity([nothing], [mask])[0] <= 1
