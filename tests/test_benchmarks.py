"""The scripts in benchmarks/ fit the package as it is."""

import subprocess
import sys
from pathlib import Path

import pytest

from anodetect.imaging.representations import features_installed

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
