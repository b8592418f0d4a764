"""The scripts in benchmarks/ fit the package as it is."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anodetect.detectors import DETECTORS
from anodetect.imaging.representations import REPRESENTATIONS, features_installed
from anodetect.output.formats import DEFAULT

PROJECT = Path(__file__).parents[1]


def test_every_script_can_be_imported():
    names = [path.stem for path in sorted((PROJECT / "benchmarks").glob("*.py"))]
    assert "diffusion" in names
    code = "; ".join(f"import benchmarks.{name}" for name in names)
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=PROJECT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not features_installed(), reason="the extra `features` is not installed")
def test_the_features_benchmark_compares_both_ways():
    from benchmarks.features import extraction

    found = extraction(2, 1)
    assert found["images/s now"] > 0
    assert found["largest difference"] < 2e-3  # of float16, and of nothing else


def test_an_attack_stays_within_its_budget_and_moves_the_score_as_it_is_asked_to():
    from benchmarks.robustness import attacked

    def score(x):
        return (x - 1).square().max()

    image = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    highest = ((image - 1) ** 2).max()
    for towards in (1, -1):
        changed = attacked(score, image, 0.05, towards, seed=0)
        assert np.abs(changed - image).max() <= 0.05 + 1e-6
        moved = ((changed - 1) ** 2).max() - highest
        # To −1.05, or for all that is highest in turn to less than half of the way to −0.95.
        assert moved == pytest.approx(2.05**2 - 4, abs=1e-4) if towards == 1 else moved < -0.1


@pytest.fixture
def null():
    """The benchmark without a model, whose detector is known as long as the test runs."""
    from benchmarks import null as module

    yield module
    del DETECTORS["null"], REPRESENTATIONS["null"]


def test_each_stage_of_scoring_is_timed_and_scoring_is_left_as_it_was(null):
    from anodetect.data import readers

    before = readers.read_source, readers.Source.content
    kind = null.Kind(96, null.write_png)
    found, without = null.stages(kind, 12, DEFAULT), null.stages(kind, 12, ())
    assert (readers.read_source, readers.Source.content) == before
    assert set(found) == {*null.STAGES, "rest"} - {*null.ONCE}
    of_outputs = {"write tiff", "write overlay", "write mask", "regions", "header and window"}
    assert set(found) - set(without) == of_outputs
    assert all(value > 0 for name, value in found.items() if name != "rest")
