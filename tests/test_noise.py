import numpy as np
import opensimplex
import pytest
import torch

from anodetect.errors import ConfigError
from anodetect.generative import noise


@pytest.mark.parametrize("seed", [0, 1, 1234, 2**40])
def test_lattice_noise_is_the_packages(seed):
    points = np.random.default_rng(seed).uniform(-40, 40, (1500, 3))
    opensimplex.seed(seed)
    expected = [opensimplex.noise3(*point) for point in points]
    x, y, z = torch.from_numpy(points.T)[:, None]
    assert np.abs(noise.opensimplex3(x, y, z, [seed])[0].numpy() - expected).max() < 1e-12


def test_float32_and_chunks_agree_with_float64():
    points = torch.rand(3, 2, 20_000, dtype=torch.float64) * 10
    exact = noise.opensimplex3(*points, [3, 4])
    assert (noise.opensimplex3(*points.float(), [3, 4]) - exact).abs().max() < 1e-3
    assert torch.equal(noise.opensimplex3(*points[:, :1], [3]), exact[:1])


def test_fields_are_octave_sums_of_the_package():
    opensimplex.seed(7)
    field = noise.simplex((16, 16), [7], octaves=3, wavelength=8)[0]
    depth = float(torch.rand((), generator=noise.generator(7)) * 1000)
    row, column = 5, 11
    expected = sum(0.8**k * opensimplex.noise3(column * 2**k / 8, row * 2**k / 8, depth) for k in range(3))
    assert float(field[row, column]) == pytest.approx(expected, abs=2e-4)


def test_raw_fields_have_the_documented_deviation():
    assert 0.4 < float(noise.simplex((64, 64), range(8)).std()) < 0.55


@pytest.mark.parametrize("kind", noise.KINDS)
def test_sources_are_seeded_per_sample(kind):
    source = noise.NoiseSource(kind, 32)
    fields = source([1, 2, 3], 2)
    assert fields.shape == (3, 2, 32, 32)
    assert torch.equal(source([3, 1], 2), fields[[2, 0]])
    assert not torch.equal(fields[0], fields[1])
    assert not torch.equal(fields[0, 0], fields[0, 1])
    assert float(fields.std((2, 3)).mean()) == pytest.approx(1, abs=0.1)


def test_unknown_kind():
    with pytest.raises(ConfigError, match="did you mean 'simplex'"):
        noise.NoiseSource("simplx", 32)
