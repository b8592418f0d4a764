from dataclasses import replace

import numpy as np
import pytest
import torch

from anodetect.data import synthetic
from anodetect.detectors.anoddpm import AnoDDPM, AnoDDPMConfig
from anodetect.generative import diffusion
from anodetect.generative.prior import GaussianPrior
from anodetect.nn.batching import small_batches
from anodetect.types import Batch, TrainContext, image_seeds

SCHEDULE = diffusion.linear_schedule()


def test_schedule_matches_the_paper():
    beta = np.linspace(1e-4, 2e-2, 1000)
    assert SCHEDULE[0] == 1
    assert float(SCHEDULE[250]) == pytest.approx(np.prod(1 - beta[:250]), rel=1e-6)


def test_predictions_invert_each_other():
    x0, noise, t = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8), torch.tensor([1, 30, 300, 900])
    xt = diffusion.diffuse(x0, noise, t, SCHEDULE)
    a = SCHEDULE[t][:, None, None, None]
    v = a.sqrt() * noise - (1 - a).sqrt() * x0
    assert torch.allclose(diffusion.x0_from_velocity(xt, v, t, SCHEDULE), x0, atol=1e-5)
    assert torch.allclose(diffusion.x0_from_noise(xt, noise, t, SCHEDULE)[:3], x0[:3], atol=1e-4)


def test_predictions_of_volumes_invert_each_other_too():
    x0, noise, t = torch.randn(2, 1, 3, 4, 5), torch.randn(2, 1, 3, 4, 5), torch.tensor([30, 300])
    xt = diffusion.diffuse(x0, noise, t, SCHEDULE)
    a = SCHEDULE[t].reshape(2, 1, 1, 1, 1)
    v = a.sqrt() * noise - (1 - a).sqrt() * x0
    for made in (
        diffusion.x0_from_velocity(xt, v, t, SCHEDULE),
        diffusion.x0_from_noise(xt, noise, t, SCHEDULE),
    ):
        assert made.shape == x0.shape
        assert torch.allclose(made, x0, atol=1e-4)


def gaussian_denoiser(mean, variance):
    def denoise(xt, t):
        a = SCHEDULE[t][:, None, None, None]
        return mean + a.sqrt() * variance / (a * variance + 1 - a) * (xt - a.sqrt() * mean)

    return denoise


def test_ancestral_chain_samples_the_gaussian_it_was_given():
    """For x_0 ~ N(m, s²) the exact chain from x_T ~ N(0, 1) ends at N(m, s²)."""
    mean, variance = 0.7, 0.25
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(4000, 1, 1, 1, generator=rng)
    out = diffusion.ancestral(
        gaussian_denoiser(mean, variance),
        start,
        1000,
        lambda t: torch.randn(4000, 1, 1, 1, generator=rng),
        SCHEDULE,
    )
    assert float(out.mean()) == pytest.approx(mean, abs=4 * (variance / 4000) ** 0.5)
    assert float(out.var()) == pytest.approx(variance, rel=0.1)


def test_ddim_maps_quantiles_to_quantiles():
    """The probability-flow map between Gaussians is linear: the k-th deviation of x_t goes to that
    of x_0."""
    mean, variance, start = 0.7, 0.25, 600
    a = SCHEDULE[start]
    deviations = torch.linspace(-2, 2, 9)
    xt = (a.sqrt() * mean + (a * variance + 1 - a).sqrt() * deviations)[:, None, None, None]
    out = diffusion.ddim(gaussian_denoiser(mean, variance), xt, start, start, SCHEDULE).flatten()
    assert torch.allclose(out, mean + variance**0.5 * deviations, atol=0.02)


def test_prior_is_the_posterior_mean_of_its_gaussian():
    """Against the textbook formula with full covariance matrices."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(3, 16)) * [[3], [2], [1]]

    def draw(n):
        values = rng.normal(size=(n, 3)) @ mixing + 0.1 * rng.normal(size=(n, 16)) + 1
        return values.astype(np.float32)

    prior = GaussianPrior.learn(
        draw(3000).reshape(-1, 1, 4, 4),
        draw(3000).reshape(-1, 1, 4, 4),
        torch.randn(3000, 1, 4, 4),
        components=3,
        seed=0,
    )
    xt, a = torch.randn(5, 1, 4, 4), torch.full((5,), 0.6)
    basis, rest = prior.basis.double(), float(prior.rest[0])
    covariance = basis.T @ torch.diag(prior.variance.double() - rest) @ basis + rest * torch.eye(16)
    noise = basis.T @ torch.diag(prior.noise.double() - float(prior.rest[1])) @ basis + float(
        prior.rest[1]
    ) * torch.eye(16)
    gain = 0.6**0.5 * covariance @ torch.linalg.inv(0.6 * covariance + 0.4 * noise)
    mean = prior.mean.double()
    expected = mean + (xt.flatten(1).double() - 0.6**0.5 * mean) @ gain.T
    assert torch.allclose(prior.denoise(xt, a).flatten(1).double(), expected, atol=1e-4)


@pytest.mark.parametrize("rows", [[4, 5, 6, 7], [2, 3], [1, 6], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_the_network_makes_only_maps_that_count(rows, tmp_path):
    pixels, _ = synthetic.images(40, size=32)
    images = Batch(pixels.astype(np.float32) / 127.5 - 1, np.ones((40, 32, 32), bool))
    values = {"widths": [16], "lambdas": [5, 20], "prior": "on", "training": {"steps": 2}}
    off = {"pixel_error": "off", "relative": "off", "components": 10}
    detector = AnoDDPM(AnoDDPMConfig.model_validate(values | off))
    detector.fit(images, images[:12], context=TrainContext(0, "cpu", tmp_path))

    recipe = detector.standardizer.recipe
    errors = np.ones((len(rows), 1, 1), np.float32)
    detector.standardizer.recipe = replace(recipe, rows=rows, error=errors)
    some, seeds = images[:3], image_seeds(list(images.images[:3]))
    maps, last = detector._residuals(some, seeds)
    expected = detector.standardizer.combine(maps, some)

    passes = []
    detector.denoiser.register_forward_hook(lambda *_: passes.append(1))
    found = detector.score(some, seeds=seeds)
    assert np.array_equal(found.image, expected[0])
    assert np.array_equal(found.heatmap, expected[1])
    assert np.array_equal(found.reconstruction, last)
    assert len(passes) == (2 if min(rows) < 2 else 1)  # the last one makes the reconstruction, too

    with small_batches():
        alone = detector.score(some[:1], seeds=seeds[:1])
    assert np.allclose(alone.heatmap, found.heatmap[:1], atol=1e-4 * found.heatmap.max())
