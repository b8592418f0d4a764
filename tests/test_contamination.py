"""Anomalies among normals to calibrate with."""

import re

import numpy as np
import pytest
from PIL import Image

import anodetect
from anodetect.stats.contamination import suspects
from anodetect.types import Silent


def reported(earlier, new, share=0.0, *, images=1, runs=300):
    """The share of simulated sets that are reported: `earlier` and `new` groups of one normal
    distribution, with so many images each; a `share` of the new ones are anomalies."""
    known = [f"o{n // images}" for n in range(earlier * images)]
    groups = [f"n{n // images}" for n in range(new * images)]
    anomalies = round(share * new) * images
    count = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        before = np.repeat(rng.normal(size=earlier), images)
        scores = np.repeat(rng.normal(size=new), images)
        scores[:anomalies] += 8
        found = suspects(scores, groups, before, known)
        count += bool(found)
        assert not found or set(groups[:anomalies]) <= set(found)
    return count / runs


@pytest.mark.parametrize(("earlier", "new", "images"), [(60, 60, 1), (200, 60, 1), (200, 60, 3)])
def test_sets_without_anomalies_are_rarely_reported(earlier, new, images):
    """The rate is at most .01; of 300 sets 9 are more than 3 standard deviations above that."""
    assert reported(earlier, new, images=images) <= 0.027


@pytest.mark.parametrize(("earlier", "new"), [(220, 60), (150, 100), (120, 200)])
def test_a_twentieth_of_strong_anomalies_is_found(earlier, new):
    assert reported(earlier, new, 0.05, runs=100) >= 0.9


def test_the_bound_is_exact():
    """Three of 60 above all of n have the probability C(60, 3) / C(60 + n, 3): for n = 214 it is
    above .01, for 216 below."""
    new, names = np.append(np.linspace(0, 1, 57), [5, 7, 6]), [f"n{n}" for n in range(60)]
    for n, expected in ((214, []), (216, ["n58", "n59", "n57"])):
        chance = np.prod([(60 - k) / (60 + n - k) for k in range(3)])
        assert (chance <= 0.01) == bool(expected)
        before = np.linspace(0, 1, n)
        assert suspects(new, names, before, [f"o{k}" for k in range(n)]) == expected


def test_a_place_where_everything_looks_odder_is_not_reported():
    rng = np.random.default_rng(0)
    before, new = rng.normal(size=200), rng.normal(size=60) + 2
    names = [f"n{n}" for n in range(60)]
    assert (new > before.max()).sum() >= 3
    assert suspects(new, names, before, [f"o{n}" for n in range(200)]) == []


class Heard(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def write(folder, count, *, spots=0, seed=0):
    """Write noise; the first images have a bright spot."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    for number in range(count):
        pixels = rng.normal(100, 10, (32, 32))
        if number < spots:
            pixels[8:14, 8:14] += 120
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
    return str(folder)


def test_calibrate_warns_of_anomalies(tmp_path):
    def calibrate(run, data, out):
        heard = Heard()
        anodetect.calibrate(tmp_path / run, data, tmp_path / out, reporter=heard)
        return [text for text in heard.warnings if "look odder" in text]

    anodetect.train(write(tmp_path / "in", 20), "intensity", tmp_path / "run")
    assert calibrate("run", write(tmp_path / "many", 60, seed=1), "first") == []
    assert calibrate("first", write(tmp_path / "clean", 20, seed=2), "second") == []
    (said,) = calibrate("first", write(tmp_path / "mixed", 20, spots=4, seed=3), "third")
    assert " of these 20 images, one of each group, look odder" in said
    named = re.findall(r"\d{3}\.png", said)  # the oddest first
    assert len(named) == 3 and set(named) < {"000.png", "001.png", "002.png", "003.png"}
