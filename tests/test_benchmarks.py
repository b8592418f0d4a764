"""The scripts in benchmarks/ fit the package as it is."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def test_every_script_can_be_imported():
    names = [path.stem for path in sorted((PROJECT / "benchmarks").glob("*.py"))]
    assert "diffusion" in names
    code = "; ".join(f"import benchmarks.{name}" for name in names)
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=PROJECT
    )
    assert done.returncode == 0, done.stderr
