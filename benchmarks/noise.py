"""Simplex noise: this package against the `opensimplex` package, with and without numba, and its
share of training.

    python -m benchmarks.noise [--json]

One batch is 16 fields of 256 × 256 pixels and 6 octaves; medians of several runs. Pure Python is
timed on fewer points, in a process where numba may not compile, and scaled. Needs numba: pip
install 'anodetect[numba]'.
"""

import os
import statistics
import subprocess
import sys

import numpy as np
import opensimplex
import torch
from opensimplex.internals import _noise3a

from anodetect.generative import noise, simplex
from benchmarks import common
from benchmarks.common import median_seconds

FIELDS, SIDE, OCTAVES = 16, 256, 6
PURE_SIDE = 40


def package_fields(side: int, fields: int, octaves: int) -> None:
    """Draw the same sums of octaves with the `opensimplex` package."""
    for seed in range(fields):
        tables = simplex.permutation_table(seed)
        for octave in range(octaves):
            axis = np.arange(side) * 2**octave / 64
            _noise3a(axis, axis, np.array([seed + 0.5]), *tables)


def pure_python_seconds() -> float:
    """Return the seconds for one batch, scaled from a smaller one."""
    code = (
        "import time; from benchmarks import noise; start = time.perf_counter();"
        f"noise.package_fields({PURE_SIDE}, 1, {OCTAVES}); print(time.perf_counter() - start)"
    )
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    times = []
    for _ in range(3):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        times.append(float(done.stdout))
    return statistics.median(times) * FIELDS * (SIDE / PURE_SIDE) ** 2


def max_abs_difference(points: int = 2000) -> float:
    """Return the largest difference between `opensimplex3` in float64 and the package's `noise3`,
    over several seeds."""
    worst = 0.0
    for seed in (0, 1, 12345):
        opensimplex.seed(seed)
        at = np.random.default_rng(seed).uniform(-50, 50, (points, 3))
        expected = np.array([opensimplex.noise3(*point) for point in at])
        x, y, z = torch.from_numpy(at.T)
        ours = simplex.opensimplex3(x, y, z, seed).numpy()
        worst = max(worst, float(np.abs(ours - expected).max()))
    return worst


def share_of_training_step() -> float:
    """Return the time to draw the noise of a batch over that of a whole training step of the
    default AnoDDPM."""
    from anodetect.detectors.anoddpm import AnoDDPM
    from anodetect.generative import denoiser
    from anodetect.nn.training import TrainingBatch

    config = AnoDDPM.Config()
    size, batch = AnoDDPM.defaults["pixels"]["representation"]["size"], config.training.batch
    source = noise.NoiseSource("simplex", size)
    net = denoiser.build(config, 1, torch.device("cpu"))
    images = torch.randn(batch, 1, size, size)
    generators = [torch.Generator().manual_seed(n) for n in range(batch)]

    def step() -> None:
        net.zero_grad()
        draw = TrainingBatch(images, generators, 0.0, np.arange(len(generators)))
        denoiser.denoising_loss(net, draw, config, source).backward()

    return median_seconds(lambda: source(generators, 1)) / median_seconds(step)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json

    ours = median_seconds(
        lambda: noise.simplex_fields((SIDE, SIDE), range(FIELDS), octaves=OCTAVES)
    )
    pure = pure_python_seconds()
    speedup_vs_numba = None
    if simplex.NUMBA_INSTALLED:
        numba = median_seconds(lambda: package_fields(SIDE, FIELDS, OCTAVES))
        speedup_vs_numba = numba / ours
    result = {
        "seconds": ours,
        "uses": "numba" if simplex.NUMBA_INSTALLED else "torch",
        "max_abs_difference": max_abs_difference(),
        "speedup_vs_pure_python": pure / ours,
        "speedup_vs_numba": speedup_vs_numba,
        "share_of_training_step": share_of_training_step(),
    }
    common.show(result, as_json)


if __name__ == "__main__":
    main()
