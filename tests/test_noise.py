import numpy as np
import opensimplex
import pytest
import torch

from anodetect.errors import ConfigError
from anodetect.generative import noise, simplex


def generators(*seeds):
    return [noise.generator(seed) for seed in seeds]


@pytest.mark.parametrize("seed", [0, 1, 1234, 2**40])
def test_lattice_noise_is_the_packages(seed):
    points = np.random.default_rng(seed).uniform(-40, 40, (1500, 3))
    opensimplex.seed(seed)
    expected = [opensimplex.noise3(*point) for point in points]
    assert (
        np.abs(simplex.opensimplex3(*torch.from_numpy(points.T), seed).numpy() - expected).max()
        < 1e-12
    )


def test_coordinates_broadcast_and_rows_have_their_own_seeds():
    x, y, z = torch.rand(5), torch.rand(4, 1), torch.tensor(0.3)
    one = simplex.opensimplex3(x, y, z, 9)
    assert one.shape == (4, 5)
    both = simplex.opensimplex3(x, y, z.expand(2, 1, 1), [9, 8])
    assert torch.equal(both[0], one)
    assert not torch.equal(both[1], one)
    with pytest.raises(ConfigError, match="one per row"):
        simplex.opensimplex3(x, y, z, [1, 2, 3])


def test_float32_and_chunks_agree_with_float64():
    points = torch.rand(3, 2, 20_000, dtype=torch.float64) * 10
    exact = simplex.opensimplex3(*points, [3, 4])
    assert (simplex.opensimplex3(*points.float(), [3, 4]) - exact).abs().max() < 1e-3
    assert torch.equal(simplex.opensimplex3(*points[:, :1], [3]), exact[:1])


def test_fields_are_octave_sums_of_the_package():
    opensimplex.seed(7)
    field = noise.simplex_fields((16, 16), [7], octaves=3, wavelength=8)[0]
    depth = float(torch.rand((), generator=noise.generator(7)) * 1000)
    row, column = 5, 11
    expected = sum(
        0.8**k * opensimplex.noise3(column * 2**k / 8, row * 2**k / 8, depth) for k in range(3)
    )
    assert float(field[row, column]) == pytest.approx(expected, abs=2e-4)


@pytest.mark.skipif(not simplex.NUMBA_INSTALLED, reason="numba is not installed")
def test_fields_are_the_same_without_numba(monkeypatch):
    compiled = noise.simplex_fields((24, 40), [3, 4])
    monkeypatch.setattr(simplex, "NUMBA_INSTALLED", False)
    assert (noise.simplex_fields((24, 40), [3, 4]) - compiled).abs().max() < 1e-3


def test_regions_cover_any_share_of_the_image():
    masks = noise.random_regions(generators(*range(200)), 32)
    assert masks.shape == (200, 1, 32, 32)
    assert masks.min() >= 0
    assert masks.max() <= 1
    shares = masks.mean((1, 2, 3))
    assert 0.4 < float(shares.mean()) < 0.6
    assert (shares < 0.2).sum() > 20
    assert (shares > 0.8).sum() > 20
    assert torch.equal(noise.random_regions(generators(7), 32)[0], masks[7])


def test_raw_fields_have_the_documented_deviation():
    assert 0.4 < float(noise.simplex_fields((64, 64), range(8)).std()) < 0.55


@pytest.mark.parametrize("kind", noise.KINDS)
def test_sources_are_seeded_per_sample(kind):
    source = noise.NoiseSource(kind, 32)
    fields = source(generators(1, 2, 3), 2)
    assert fields.shape == (3, 2, 32, 32)
    assert torch.equal(source(generators(3, 1), 2), fields[[2, 0]])
    assert not torch.equal(fields[0], fields[1])
    assert not torch.equal(fields[0, 0], fields[0, 1])
    assert float(fields.std((2, 3)).mean()) == pytest.approx(1, abs=0.1)


def test_unknown_kind():
    with pytest.raises(ConfigError, match="did you mean 'simplex'"):
        noise.NoiseSource("simplx", 32)


def test_noise_larger_than_the_image():
    with pytest.raises(ConfigError, match="larger than the image"):
        noise.NoiseSource("simplex", 32, wavelength=33)
