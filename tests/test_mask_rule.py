"""Which regions of maps count: strengths against brute force, promises against simulations."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from anodetect.stats.calibration import Calibration
from anodetect.stats.mask_choice import LEAST_DEFECTS, SHARES, MeasureChoice
from anodetect.stats.mask_rule import (
    STATISTICS,
    MaskRule,
    RegionMeasure,
    measure_of,
    pixel_rule,
    rule_of,
)

LOW = 0.8


def smooth(rng, shape, sigma):
    values = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return (values / values.std()).astype(np.float32)


def strength(values, inside, low, statistic):
    """The strength of the part `inside` of a map [H, W], pixel by pixel."""
    chosen = [float(value) for value in values[inside]]
    if statistic == "peak":
        return max(chosen)
    if statistic == "size":
        return len(chosen) / values.size
    return sum(value - low for value in chosen) / values.size


def regions_one_by_one(heatmap, low, statistic):
    """Each region of a map, of a volume those of each slice, as a mask with its strength."""
    if heatmap.ndim == 3:
        for number, values in enumerate(heatmap):
            for part, own in regions_one_by_one(values, low, statistic):
                region = np.zeros(heatmap.shape, bool)
                region[number] = part
                yield region, own
        return
    labels, count = ndimage.label(np.nan_to_num(heatmap, nan=-np.inf) > low, np.ones((3, 3)))
    for number in range(1, count + 1):
        region = labels == number
        yield region, strength(heatmap, region, low, statistic)


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("shape", [(30, 41), (6, 18, 21)])
def test_regions_strengths_and_masks_against_brute_force(statistic, shape):
    rng = np.random.default_rng(len(shape))
    heatmap = smooth(rng, shape, 1.2)
    heatmap[..., :4, :5] = np.nan
    found = list(regions_one_by_one(heatmap, LOW, statistic))
    measure = RegionMeasure(LOW, statistic)
    regions = measure.regions(heatmap)
    assert len(found) == len(regions.strengths) >= 5
    for region, own in found:
        (number,) = np.unique(regions.labels[region])
        assert regions.strengths[number - 1] == pytest.approx(own)

    least = float(np.median(regions.strengths))
    expected = np.zeros(shape, bool)
    for region, own in found:
        if own > least:
            expected |= region
    assert 0 < expected.sum() < (heatmap > LOW).sum()
    assert np.array_equal(MaskRule(measure, least).mask(heatmap), expected)
    assert not MaskRule(measure, np.inf).mask(heatmap).any()
    if len(shape) == 2:
        assert measure.highest(heatmap) == pytest.approx(max(own for _, own in found))


@pytest.mark.parametrize("seed", range(6))
def test_boxes_and_masks_of_regions_are_those_found_in_the_whole_map(seed):
    heatmap = smooth(np.random.default_rng(seed), (30, 40), 1)
    for low in (heatmap.min() - 1, 0.0, np.quantile(heatmap, 0.97), heatmap.max()):
        regions = RegionMeasure(float(low), "size").regions(heatmap)
        assert regions.boxes() == ndimage.find_objects(regions.labels)
        least = float(np.median(regions.strengths)) if len(regions.strengths) else 0.0
        numbers = 1 + np.flatnonzero(regions.strengths > least)
        assert np.array_equal(regions.stronger(least), np.isin(regions.labels, numbers))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_map_without_regions_is_weaker_than_any_region(statistic):
    measure = RegionMeasure(LOW, statistic)
    heatmap = np.zeros((9, 9), np.float32)
    none = measure.highest(heatmap)
    assert np.isfinite(none)
    heatmap[4, 4] = np.nextafter(np.float32(LOW), np.float32(1), dtype=np.float32) + 1e-4
    assert measure.highest(heatmap) > none
    assert MaskRule(measure, none).mask(heatmap).sum() == 1


def test_the_rule_of_pixels_marks_what_exceeds_a_threshold():
    heatmap = smooth(np.random.default_rng(0), (5, 20, 20), 1)
    rule = pixel_rule(1.1)
    assert np.array_equal(rule.mask(heatmap), heatmap > 1.1)
    assert np.array_equal(rule.regions(heatmap).stronger(rule.least), heatmap > 1.1)
    assert not pixel_rule(np.inf).mask(heatmap).any()


def test_rules_and_measures_come_back_from_json():
    rule = MaskRule(RegionMeasure(0.25, "mass"), 0.5)
    assert rule_of(rule.as_json()) == rule
    assert measure_of(rule.measure.as_json()) == rule.measure
    assert rule_of({"low": None, "statistic": "peak", "least": None}) == pixel_rule(np.inf)
    assert rule_of(None) is None
    with pytest.raises(ValueError, match="'area'"):
        measure_of({"low": 1, "statistic": "area"})


# -- Calibration -----------------------------------------------------------------------------------


def calibration(strengths, groups):
    strengths = np.asarray(strengths, float)
    names = tuple(map(str, groups))
    return Calibration(strengths, strengths, names, RegionMeasure(LOW, "mass"), strengths)


@pytest.fixture(scope="module")
def patients():
    """The strengths of the strongest region in each map of 500 patients with one to eight images.
    The maps of a patient are alike in how bright they are."""
    rng = np.random.default_rng(3)
    measure = RegionMeasure(LOW, "mass")
    sizes = rng.integers(1, 9, 500)
    maps = smooth(rng, (int(sizes.sum()), 16, 16), (0, 1.2, 1.2))
    maps *= np.repeat(np.exp(0.3 * rng.normal(size=500)), sizes)[:, None, None].astype(np.float32)
    highest = np.array([measure.highest(each) for each in maps])
    return np.split(highest, np.cumsum(sizes)[:-1])


def realised(patients, groups, far, repeats, of_images=False):
    """The mean share of new patients, or of their images, that have a region that counts, and the
    error of that mean."""
    rng = np.random.default_rng(groups)
    rates = []
    for _ in range(repeats):
        drawn = rng.permutation(len(patients))
        own = [patients[number] for number in drawn[:groups]]
        names = np.repeat(range(groups), [len(each) for each in own])
        least = calibration(np.concatenate(own), names).mask_rule(far).least
        new = [patients[number] > least for number in drawn[groups:]]
        rates.append(np.mean(np.concatenate(new) if of_images else [each.any() for each in new]))
    return np.mean(rates), 3 * np.std(rates) / np.sqrt(repeats)


@pytest.mark.parametrize(
    ("groups", "far"), [(9, 0.1), (12, 0.1), (19, 0.05), (40, 0.05), (60, 0.2)]
)
def test_so_many_new_groups_at_most_have_a_false_region(patients, groups, far):
    """Groups of unequal sizes, also as few as can promise the rate."""
    rate, error = realised(patients, groups, far, 300)
    assert rate <= far + error
    assert rate >= np.floor(far * (groups + 1)) / (groups + 1) - error  # and not much fewer


def test_few_groups_fall_back_to_images_and_say_that_it_is_optimistic(patients):
    """With images that do not resemble each other the rate of images is kept; with patients it is
    not, and the statement says so."""
    rng = np.random.default_rng(0)
    alone = [rng.choice(np.concatenate(patients), 8) for _ in range(500)]
    rate, error = realised(alone, 6, 0.05, 300, of_images=True)
    assert rate <= 0.05 + error
    few = calibration(rng.normal(size=48), np.repeat(range(6), 8))
    assert few.mask_rule(0.05).least == few.threshold(0.05)
    assert "Optimistic: 6 calibration groups can only promise that at most 14.29%" in (
        few.mask_statement(0.05)
    )
    assert "Optimistic" not in few.mask_statement(0.2)
    assert few.mask_rule(0.001).least == np.inf
    assert "Masks are empty" in few.mask_statement(0.001)


def test_the_share_of_whole_groups_with_a_false_region_is_said_where_images_are_promised(patients):
    """Of 12 whole volumes far more than 5 % have one. The share is that of leaving each out, and
    near what new ones have."""
    shares, rates = [], []
    rng = np.random.default_rng(4)
    for _ in range(40):
        drawn = rng.permutation(len(patients))
        own = [patients[number] for number in drawn[:12]]
        if sum(map(len, own)) < 45:  # each left out, the others must be enough
            continue
        known = calibration(np.concatenate(own), np.repeat(range(12), [len(each) for each in own]))
        marked = []
        for place in range(12):
            rest = np.sort(np.concatenate([own[k] for k in range(12) if k != place]))[::-1]
            marked.append(own[place].max() > rest[int(0.05 * (len(rest) + 1) + 1e-9) - 1])
        assert f": {np.mean(marked):.0%} of new groups, or of volumes" in known.mask_statement(0.05)
        shares.append(np.mean(marked))
        new = [patients[number] for number in drawn[12:]]
        rates.append(np.mean([each.max() > known.mask_rule(0.05).least for each in new]))
    assert len(shares) > 20
    assert np.mean(shares) == pytest.approx(np.mean(rates), abs=0.05)
    assert np.mean(rates) > 0.1


def test_groups_count_by_their_strongest_region():
    own = calibration([1, 5, 2, 2, 3, 0], [0, 0, 1, 1, 2, 3])  # the highest: 5, 2, 3, 0
    assert own.mask_rule(0.2).least == 5  # (0 + 1) / 5
    assert own.mask_rule(0.4).least == 3
    assert own.mask_rule(0.6).least == 2


def test_without_measured_regions_all_pixels_above_a_threshold_count():
    measured = calibration(np.arange(40.0), range(40))
    old = replace(measured, regions=None, strengths=None)
    assert old.mask_rule(0.05) == pixel_rule(old.pixel_threshold(0.05))
    assert "Masks show the pixels above" in old.mask_statement(0.05)
    assert Calibration.restore(old.snapshot()).regions is None
    again = Calibration.restore(measured.snapshot())
    assert again.mask_rule(0.05) == measured.mask_rule(0.05)
    nothing = calibration([], [])
    assert nothing.mask_rule(0.05).least == np.inf
    assert "no masks" in nothing.mask_statement(0.05)


# -- Choice ----------------------------------------------------------------------------------------


def planted_maps(rng, count):
    """Maps with a broad, faint defect each, and its masks."""
    for _ in range(count):
        heatmap, mask = smooth(rng, (32, 32), 1), np.zeros((32, 32), bool)
        row, column = rng.integers(2, 18, 2)
        mask[row : row + 11, column : column + 11] = True
        yield heatmap + 2 * mask.astype(np.float32), mask


def test_the_measure_of_the_highest_mean_dice_is_chosen():
    rng = np.random.default_rng(1)
    clean = [smooth(rng, (32, 32), 1) for _ in range(30)]
    for heatmap in clean:
        heatmap[tuple(rng.integers(0, 32, 2))] = 9  # bright spots that a threshold of pixels obeys
    planted = list(planted_maps(rng, LEAST_DEFECTS))
    choice = MeasureChoice(clean)
    for heatmap, mask in planted:
        choice.add(heatmap, mask)
    chosen = choice.best()
    assert chosen.measure.statistic in ("mass", "size")
    assert chosen.planted == LEAST_DEFECTS

    def mean_dice(measure):
        allowed = 1 - 1  # (allowed + 1) / 31 ≤ .05
        highest = sorted((measure.highest(each) for each in clean), reverse=True)
        rule = MaskRule(measure, highest[allowed])
        dice = []
        for heatmap, mask in planted:
            marked = rule.mask(heatmap)
            dice.append(2 * (marked & mask).sum() / (marked.sum() + mask.sum()))
        return np.mean(dice)

    values = np.concatenate([each.ravel() for each in clean])
    options = {}
    for low in np.float32(np.quantile(values, SHARES)):
        for statistic in STATISTICS:
            options[float(low), statistic] = mean_dice(RegionMeasure(float(low), statistic))
    assert chosen.dice == pytest.approx(max(options.values()))
    assert options[chosen.measure.low, chosen.measure.statistic] == max(options.values())
    by_peak = [value for (_, statistic), value in options.items() if statistic == "peak"]
    assert max(options.values()) > 0.6
    assert max(by_peak) < 0.2


def test_the_usual_measure_is_taken_unless_another_is_clearly_better():
    """Where nothing that is planted shows, the best measure is the best by chance."""
    rng = np.random.default_rng(2)
    choice = MeasureChoice([smooth(rng, (32, 32), 1) for _ in range(30)])
    for _ in range(20):
        mask = np.zeros((32, 32), bool)
        mask[4:8, 4:8] = True
        choice.add(smooth(rng, (32, 32), 1), mask)
    chosen = choice.best()
    assert chosen.measure == RegionMeasure(choice.lows[0.99], "mass")
    assert chosen.dice < 0.1


def test_few_planted_defects_choose_nothing():
    clean = [smooth(np.random.default_rng(0), (32, 32), 1)]
    choice = MeasureChoice(clean)
    choice.add(clean[0], clean[0] > 2)
    chosen = choice.best()
    assert chosen.measure.statistic == "mass"
    assert chosen.measure.low == pytest.approx(np.quantile(clean[0], 0.99))
    assert "too few planted defects" in chosen.sentence()
