"""Lesions and regions: the FROC curve by hand and by brute force, Dice by size, figures."""

import json

import numpy as np
import pytest
from scipy import ndimage

from anodetect.config import without_nan
from anodetect.output import figures
from anodetect.stats.calibration import Calibration
from anodetect.stats.evaluation import LabelledScore, Measure
from anodetect.stats.lesions import (
    FALSE_REGIONS,
    compare,
    dice_of,
    lesion_metrics,
    metrics_of_json,
)
from anodetect.stats.mask_rule import MaskRule, RegionMeasure

PEAKS = MaskRule(RegionMeasure(0.5, "peak"), 3.5)


def drawn(boxes, shape=(20, 20)):
    """A map with boxes (row, column, side, value)."""
    heatmap = np.zeros(shape, np.float32)
    for row, column, side, value in boxes:
        heatmap[row : row + side, column : column + side] = value
    return heatmap


def made_by_hand():
    """Four images with 4 lesions. From the strongest region down: a lesion at 9, false at 8, a
    lesion at 7, false at 6 and 5, a lesion at 4, false at 3; one lesion has no region."""
    maps = [
        drawn([(0, 0, 3, 9), (10, 10, 2, 8)]),
        drawn([(5, 5, 4, 7), (15, 15, 2, 6), (0, 15, 2, 5)]),
        drawn([(2, 2, 2, 4)]),
        drawn([(8, 8, 2, 3)]),
    ]
    truths = [
        drawn([(0, 0, 3, 1)]) > 0,
        (drawn([(5, 5, 4, 1)]) > 0) | (drawn([(17, 3, 2, 1)]) > 0),
        drawn([(2, 2, 4, 1)]) > 0,
        np.zeros((20, 20), bool),
    ]
    return maps, truths


def test_the_froc_curve_of_a_hand_made_example():
    compared = [
        compare(heatmap, truth, PEAKS, str(number))
        for number, (heatmap, truth) in enumerate(zip(*made_by_hand(), strict=True))
    ]
    found = lesion_metrics(compared, PEAKS)
    assert (found.per, found.images, found.lesions) == ("image", 4, 4)
    # (false regions per image, share found), where the share rises, and the end
    assert found.curve == ((0, 0), (0, 0.25), (0.25, 0.5), (0.75, 0.75), (1, 0.75))
    expected = {0.125: 0.25, 0.25: 0.5, 0.5: 0.5, 1: 0.75, 2: 0.75, 4: 0.75, 8: 0.75}
    assert {each.false_regions: each.value for each in found.sensitivities} == expected
    assert found.mean_sensitivity == pytest.approx(np.mean(list(expected.values())))
    # The mask: all above 3.5.
    assert (found.found, found.false_regions) == (3, 0.75)
    assert "4 groups" in found.note


def test_dice_of_masks_and_of_lesions_by_size():
    maps, truths = made_by_hand()
    compared = [compare(*pair, PEAKS, "a") for pair in zip(maps, truths, strict=True)]
    masks = np.stack(maps) > 3.5
    truth = np.stack(truths)
    assert dice_of(compared) == pytest.approx(
        2 * (masks & truth).sum() / (masks.sum() + truth.sum())
    )
    small, middle, large = lesion_metrics(compared, PEAKS).sizes
    # Lesions of 4 (lost), 9 (exact), 16 (exact) and 16 pixels (4 of them marked).
    assert (small.name, small.smallest, small.largest, small.lesions, small.found) == (
        ("small", 4, 4, 1, 0)
    )
    assert small.dice == 0
    assert (middle.smallest, middle.largest, middle.found) == (9, 9, 1)
    assert middle.dice == 1
    assert (large.lesions, large.found) == (2, 2)
    assert large.dice == pytest.approx((1 + 2 * 4 / (4 + 16)) / 2)


def test_against_brute_force_over_thresholds_with_intervals():
    """Random maps and truths of 15 groups, of images and of volumes; every threshold by itself."""
    rng = np.random.default_rng(0)
    for shape in ((24, 24), (4, 16, 16)):
        rule = MaskRule(RegionMeasure(0.7, "mass"), 0.01)
        volume = len(shape) == 3
        compared, regions, lesions = [], [], 0
        around = np.ones((3,) * len(shape))
        for number in range(30):
            heatmap = ndimage.gaussian_filter(rng.normal(size=shape), 1.2).astype(np.float32)
            heatmap /= heatmap.std()
            truth = ndimage.gaussian_filter(rng.normal(size=shape), 1.5) > 0.25 / len(shape)
            truth &= number % 3 > 0
            group = str(number % 15)
            compared.append(compare(heatmap, truth, rule, group, is_volume=volume))
            regions.append((rule.regions(heatmap), *ndimage.label(truth, around)))
            lesions += regions[-1][2]
        found = lesion_metrics(compared, rule)
        assert found.per == ("volume" if volume else "image")

        strengths = np.concatenate([each.strengths for each, _, _ in regions])
        points = {}
        for threshold in np.append(np.unique(strengths), np.inf):
            hit = wrong = 0
            for each, truth, _ in regions:
                mask = np.append(False, each.strengths >= threshold)[each.labels]
                joined, count = ndimage.label(mask, around)
                for number in range(1, count + 1):
                    wrong += not truth[joined == number].any()
                hit += len(np.unique(truth[mask & (truth > 0)]))
            points[float(threshold)] = (wrong / 30, hit / lesions)
        kept = [point for own, point in points.items() if own > rule.least]
        assert kept[0] == (found.false_regions, found.found / found.lesions)
        for each in found.sensitivities:
            best = max(share for wrong, share in points.values() if wrong <= each.false_regions)
            assert each.value == pytest.approx(best)
            assert each.low <= each.value <= each.high
        assert set(found.curve) <= {(0.0, 0.0), *points.values()}


def test_pixels_of_images_that_are_not_scored_do_not_count_and_voxels_do():
    heatmap = np.full((3, 8, 8), np.nan, np.float32)
    heatmap[1] = 0
    truth = np.zeros((3, 8, 8), bool)
    truth[0, :2, :2] = truth[1, 5:7, 5:7] = True
    whole = compare(heatmap, truth, PEAKS, "a", is_volume=True)
    assert (whole.missing, [lesion.size for lesion in whole.lesions]) == (8, [4, 4])
    flat = compare(heatmap[0], truth[0], PEAKS, "a")
    assert (flat.missing, flat.lesions) == (0, ())


def test_measures_hand_on_lesions_and_json_comes_back():
    strengths = np.arange(40.0) / 10
    groups = tuple(map(str, range(40)))
    calibration = Calibration(strengths, strengths, groups, PEAKS.measure, strengths)
    measure = Measure(calibration, 0.1, masks=True)
    for number, (heatmap, truth) in enumerate(zip(*made_by_hand(), strict=True)):
        label = int(truth.any())
        mask = truth if label else None
        item = LabelledScore(str(number), label, 1.0, str(number), heatmap=heatmap, mask=mask)
        measure.add(item)
    assert measure.rule.least == pytest.approx(3.6)
    result = measure.result()
    content = json.loads(json.dumps(without_nan(result.as_json())))
    again = metrics_of_json(content["lesions"])
    assert again.curve == result.lesions.curve
    assert again.sizes == result.lesions.sizes
    assert [each.value for each in again.sensitivities] == [
        each.value for each in result.lesions.sensitivities
    ]
    assert np.isnan(again.sensitivities[0].low)
    assert content["pixel"]["dice_at_threshold"] == pytest.approx(dice_of(measure.compared))
    assert [each["false_regions"] for each in content["lesions"]["sensitivities"]] == list(
        FALSE_REGIONS
    )
    assert "false regions per image" in figures.froc(again)
    assert figures.froc(None) == ""
    assert metrics_of_json(None) is None


def test_without_calibration_or_lesions_there_are_no_lesion_metrics():
    nothing = Measure(Calibration(np.zeros(0), np.zeros(0), ()), 0.05, masks=True)
    maps, truths = made_by_hand()
    nothing.add(LabelledScore("a", 1, 1.0, "a", heatmap=maps[0], mask=truths[0]))
    assert nothing.result().lesions is None
    assert lesion_metrics([compare(maps[3], truths[3], PEAKS, "a")], PEAKS) is None
