"""Score matching against analytic scores, the probability flow, and densities of vectors."""

import math

import numpy as np
import pytest
import torch
from mixtures import Mixture, generator
from scipy.spatial.distance import mahalanobis
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from torch import nn

from anodetect.config import build
from anodetect.detectors import ncsn
from anodetect.errors import ConfigError, DataError
from anodetect.generative import densities, scores
from anodetect.generative.denoiser import Denoiser
from anodetect.generative.linear import LocationGaussian
from anodetect.types import Batch, Sampler, TrainContext, image_seeds

SIGMA = 0.3
MEAN = torch.tensor([0.5, -1.0])
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 0.8]])
MIXTURE = Mixture((0.3, 0.7), 0.4)


def gaussian_draws(count, rng):
    return MEAN + torch.randn(count, 2, generator=rng) @ torch.linalg.cholesky(COVARIANCE).T


def gaussian_score(x, sigma=SIGMA):
    return -(x - MEAN) @ (COVARIANCE + sigma**2 * torch.eye(2)).inverse()


def mixture_score(x):
    return MIXTURE.score(x, SIGMA)


DATA = {"gaussian": (gaussian_draws, gaussian_score), "mixture": (MIXTURE.draws, mixture_score)}


def loss_of(objective, score, x, noise, directions):
    sigma = torch.full((len(x),), SIGMA)
    if objective == "denoising":
        return scores.denoising(score, x, noise, sigma)
    if objective == "sliced":
        return SIGMA**2 * scores.sliced(score, x + SIGMA * noise, directions)
    return SIGMA**2 * scores.exact(score, x + SIGMA * noise)


@pytest.mark.parametrize("objective", ["denoising", "sliced", "exact"])
@pytest.mark.parametrize("data", DATA)
def test_each_objective_finds_the_analytic_score(data, objective):
    """Its mean square error is below 3 % of the score's own mean square."""
    draw, analytic = DATA[data]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 2))
    steps, rng = 400, generator()
    search = torch.optim.Adam(net.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, steps)
    for _ in range(steps):
        x = draw(1024, rng)
        noise, directions = torch.randn(2, *x.shape, generator=rng)
        search.zero_grad()
        loss_of(objective, net, x, noise, directions).mean().backward()
        search.step()
        schedule.step()

    x = draw(4000, rng) + SIGMA * torch.randn(4000, 2, generator=rng)
    with torch.no_grad():
        error = (net(x) - analytic(x)).square().sum(1).mean()
    assert error < 0.03 * analytic(x).square().sum(1).mean()


def wavy(x):
    """A function whose divergence is known: 2 cos(2x) for each value, and 0 across values."""
    return torch.sin(2 * x) + x.flip(1)


def test_exact_is_the_trace_of_the_jacobian_and_half_the_square():
    x = torch.randn(3, 4, generator=generator())
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda y: wavy(y[None])[0], row)
                             for row in x])  # fmt: skip
    trace = jacobians.diagonal(dim1=1, dim2=2).sum(1)
    expected = (trace + wavy(x).square().sum(1) / 2) / 4
    assert torch.allclose(scores.exact(wavy, x), expected, atol=1e-6)


def test_sliced_is_exact_in_the_mean_over_directions():
    x = torch.randn(1, 4, generator=generator()).repeat(20_000, 1)
    directions = torch.randn(x.shape, generator=generator(1))
    found = scores.sliced(wavy, x, directions).mean().item()
    assert found == pytest.approx(scores.exact(wavy, x[:1]).item(), abs=0.05)


@pytest.mark.parametrize("score", [wavy, gaussian_score], ids=["wavy", "true"])
def test_denoising_is_exact_and_a_half(score):
    """For any score, in the mean over data and noise (Vincent 2011)."""
    rng, sigma = generator(), torch.full((100_000,), SIGMA)
    x = gaussian_draws(100_000, rng)
    noise = torch.randn(x.shape, generator=rng)
    by_noise = scores.denoising(score, x, noise, sigma).mean()
    exact = SIGMA**2 * scores.exact(score, x + SIGMA * noise).mean()
    assert by_noise.item() == pytest.approx(exact.item() + 0.5, abs=0.01)


def test_levels_are_geometric_and_as_noisy_as_the_schedule_says():
    sigmas = scores.geometric_levels(0.01, 1.0, 10)
    ratios = np.divide(sigmas[1:], sigmas[:-1])
    assert len(sigmas) == 10
    assert sigmas[0] == 0.01
    assert sigmas[-1] == pytest.approx(1.0)
    assert np.allclose(ratios, 100 ** (1 / 9))
    a = scores.schedule_of(sigmas)
    assert a[0] == 1
    assert torch.allclose(((1 - a) / a).sqrt()[1:], torch.tensor(sigmas), rtol=1e-3)


def exact_denoiser(sigmas):
    """The denoiser of the Gaussian of `gaussian_draws` at each place."""
    start = LocationGaussian(2)
    variance, basis = torch.linalg.eigh(COVARIANCE)
    start.mean.copy_(MEAN)
    start.basis.copy_(basis)
    start.variance.copy_(variance)

    class Zero(nn.Module):
        def forward(self, x, t):
            return torch.zeros_like(x)

    return Denoiser(Zero(), "v", start, scores.schedule_of(sigmas))


def test_the_score_of_an_exact_denoiser_is_the_gaussians():
    sigmas = [0.1, 0.5, 2.0]
    net, x = exact_denoiser(sigmas), torch.randn(2, 2, 3, 3, generator=generator())
    for number, sigma in enumerate(sigmas):
        found = scores.denoiser_score(net, x, torch.full((2,), number + 1))
        expected = gaussian_score(x.movedim(1, -1).reshape(-1, 2), sigma)
        assert torch.allclose(found.movedim(1, -1).reshape(-1, 2), expected, rtol=1e-3, atol=1e-4)


def test_the_probability_flow_takes_a_gaussian_to_the_blurred_one():
    """Along a component with variance v, x − μ grows by √((v + σ_L²) / (v + σ_1²))."""
    sigmas = scores.geometric_levels(0.01, 3.0, 20)
    x = gaussian_draws(50, generator())
    end = scores.probability_flow(gaussian_score, x, sigmas)
    variance, basis = torch.linalg.eigh(COVARIANCE)
    growth = ((variance + sigmas[-1] ** 2) / (variance + sigmas[0] ** 2)).sqrt()
    expected = MEAN + ((x - MEAN) @ basis * growth) @ basis.T
    assert torch.allclose(end, expected, rtol=0.02, atol=0.02)


# -- Densities of vectors --------------------------------------------------------------------------


def two_clusters(count=400):
    rng = np.random.default_rng(0)
    away = np.where(rng.random((count, 1)) < 0.3, -4.0, 4.0)
    return rng.normal(size=(count, 3)) @ np.diag([1.0, 0.5, 2.0]) + away


def test_a_mixtures_density_is_scikit_learns():
    vectors = two_clusters()
    own = densities.fit_mixture(vectors, 0)
    theirs = GaussianMixture(len(own.means), reg_covar=densities.RIDGE, random_state=0)
    expected = theirs.fit(vectors).score_samples(vectors)
    assert np.allclose(own.log_density(vectors), expected)


def test_bic_takes_as_many_components_as_there_are():
    assert len(densities.fit_mixture(two_clusters(), 0).means) == 2
    one = np.random.default_rng(0).normal(size=(400, 3))
    assert len(densities.fit_mixture(one, 0).means) == 1


def test_the_distance_of_one_component_is_mahalanobis():
    shear = np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 2]])
    vectors = np.random.default_rng(0).normal(size=(400, 3)) @ shear
    mixture = densities.fit_mixture(vectors, 0)
    covariance = np.cov(vectors.T, bias=True) + densities.RIDGE * np.eye(3)
    inverse = np.linalg.inv(covariance)
    expected = [mahalanobis(row, vectors.mean(0), inverse) for row in vectors[:9]]
    assert np.allclose(mixture.distance(vectors[:9]), expected)


def test_neighbours_distance_is_that_to_the_fifth():
    known, new = two_clusters(), two_clusters(7) + 0.1
    distances, _ = NearestNeighbors(n_neighbors=5).fit(known).kneighbors(new)
    assert np.allclose(densities.Neighbours(known).distance(new), distances[:, -1])


@pytest.mark.parametrize("kind", ["mixture", "neighbours"])
def test_vectors_too_small_and_too_large_are_far(kind):
    normal = np.exp(0.1 * np.random.default_rng(0).normal(size=(200, 4))).astype(np.float32)
    density = densities.VectorDensity.learn(normal, kind, 0)
    again = densities.VectorDensity.from_state(density.state())
    usual = float(np.median(density.distance(normal)))
    for factor in (0.5, 2.0):
        assert density.distance(factor * normal).min() > 3 * usual
        assert np.array_equal(again.distance(factor * normal), density.distance(factor * normal))


# -- NCSN ------------------------------------------------------------------------------------------


SMALL = {"network": "mlp", "widths": [48], "blocks": 1, "scale": 0.0, "levels": 6, "lowest": 0.1}
SMALL |= {"highest": 3.0, "pooling": {"smooth": 0}}
TRAINING = {"steps": 300, "batch": 128, "learning_rate": 1e-2, "ema": 0.98}
TRAINING |= {"augment": {"rotation": 0, "scale": 0, "shift": 0, "flip": 0}}


def small_ncsn(**settings):
    return ncsn.NCSN(build(ncsn.NCSNConfig, SMALL | settings, "ncsn"))


def fitted(folder, images=None, **settings):
    detector = small_ncsn(**{"training": TRAINING} | settings)
    images = MIXTURE.images(400, 0) if images is None else images
    detector.fit(images, MIXTURE.images(20, 1), context=TrainContext(0, "cpu", folder))
    return detector


@pytest.mark.parametrize("objective", ["denoising", "sliced", "exact"])
def test_ncsn_learns_the_scores_of_all_levels_and_samples_from_them(objective, tmp_path):
    detector = fitted(tmp_path, objective=objective, crop=2)  # exact takes 8 passes back
    clean = torch.from_numpy(MIXTURE.images(100, 2).images)
    for sigma in detector.sigmas:
        x = clean + sigma * torch.randn(clean.shape, generator=generator(3))
        found = detector._score(x, sigma).movedim(1, -1).reshape(-1, 2)
        true = MIXTURE.score(x.movedim(1, -1).reshape(-1, 2), sigma)
        assert (found - true).square().mean() < 0.1 * true.square().mean(), sigma

    made = detector.sample(200, seed=0).images
    values = torch.from_numpy(made).movedim(1, -1).reshape(-1, 2)
    known = clean.movedim(1, -1).reshape(-1, 2)
    assert torch.allclose(values.mean(0), known.mean(0), atol=0.12)
    assert torch.allclose(torch.cov(values.T), torch.cov(known.T), atol=0.12)
    left = float((values[:, 0] < 0).float().mean())
    assert left == pytest.approx(float((known[:, 0] < 0).float().mean()), abs=0.06)


def test_the_latent_of_a_gaussian_is_standard_normal():
    detector = small_ncsn(score="latent", levels=20)
    detector.net = exact_denoiser(detector.sigmas)
    # The moments are those of each value: let values be uncorrelated.
    detector.net.start.basis.copy_(torch.eye(2))
    mean, variance = MEAN.reshape(2, 1, 1), detector.net.start.variance.reshape(2, 1, 1)
    detector.moments = torch.stack([mean, variance]).expand(2, 2, 4, 4)
    expected = torch.randn(64, 2, 4, 4, generator=generator())
    x = mean + variance.sqrt() * expected
    z = detector._whitened(scores.probability_flow(detector._score, x, detector.sigmas))
    assert torch.allclose(z, expected, atol=0.1)


def test_sizes_are_the_norm_of_sigma_times_the_score():
    detector = small_ncsn()
    detector.net = exact_denoiser(detector.sigmas)
    images = MIXTURE.images(3, 0)
    sizes, vectors = detector._sizes(images)
    x = torch.from_numpy(images.images).movedim(1, -1).reshape(-1, 2)
    for number, sigma in enumerate(detector.sigmas):
        squares = (sigma * gaussian_score(x, sigma)).square().mean(1).reshape(3, 4, 4)
        assert np.allclose(sizes[:, number], squares.sqrt().numpy(), atol=2e-3)
        assert np.allclose(vectors[:, number], squares.mean((1, 2)).sqrt().numpy(), atol=2e-3)


def gaussian_images(count, seed, stretched=1.0):
    """Images of draws from the Gaussian, which lie so many times as far from its mean."""
    draws = MEAN + stretched * (gaussian_draws(count * 16, generator(seed)) - MEAN)
    images = draws.reshape(count, 4, 4, 2).movedim(-1, 1).numpy()
    return Batch(np.ascontiguousarray(images), np.ones((count, 4, 4), bool))


@pytest.mark.parametrize("image", ["map", "vector", "both"])
def test_images_too_quiet_stand_out_as_those_too_loud_do(image, tmp_path):
    detector, context = small_ncsn(image=image), TrainContext(0, "cpu", tmp_path)
    detector.net = exact_denoiser(detector.sigmas)
    known, tune = gaussian_images(100, 0), gaussian_images(60, 1)
    detector._learn_sizes(known, tune, context)
    detector.standardizer.learn(lambda batch, seeds: detector._departures(batch), tune, context)
    detector._choose_image_score(tune, context)

    def images_scores(stretched):
        images = gaussian_images(20, 2, stretched)
        return detector.score(images, seeds=image_seeds(list(images.images))).image

    normal = images_scores(1.0)
    assert images_scores(3.0).min() > normal.max()
    if image == "map":  # its peak is where normal images are loudest, so it falls a little at first
        assert np.median(images_scores(0.0)) > np.median(normal)
    else:
        assert images_scores(0.1).min() > normal.max()


@pytest.mark.parametrize(
    "settings",
    [
        {"score": "latent"},
        {"density": "neighbours", "image": "vector"},
        {"image": "map"},
        {"objective": "sliced"},
        {"objective": "exact", "crop": 2},
    ],
    ids=str,
)
def test_every_variant_reloads_and_keeps_company(settings, tmp_path):
    detector = fitted(tmp_path, training=TRAINING | {"steps": 5}, **settings)
    images = MIXTURE.images(18, 3)
    together = detector.score(images, seeds=image_seeds(list(images.images)))
    assert np.isfinite(together.image).all()
    last = images[np.array([17])]
    again = small_ncsn(**settings)
    again.load_state(detector.state(), device="cpu")
    alone = again.score(last, seeds=image_seeds(list(last.images)))
    assert np.allclose(alone.image, together.image[17:], rtol=1e-5, atol=0)


def test_samples_are_seeded_and_do_not_depend_on_how_many_there_are(tmp_path):
    detector = fitted(tmp_path, training=TRAINING | {"steps": 5})
    assert isinstance(detector, Sampler)
    three, one = detector.sample(3, seed=1), detector.sample(1, seed=1)
    assert three.chain.shape == (8, 3, 2, 4, 4)  # the start, six levels, and denoised
    assert np.array_equal(three.chain[-1], three.images)
    assert np.allclose(three.images[:1], one.images, atol=1e-4)
    assert not np.allclose(detector.sample(1, seed=2).images, one.images, atol=0.1)

    start = np.full((2, 4, 4), 5.0, np.float32)
    from_start = detector.sample(2, seed=1, start=start).chain
    assert len(from_start) == 5
    assert from_start[0].mean() == pytest.approx(5, abs=0.5)
    assert math.isfinite(from_start[-1].mean())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lowest": 2.0, "highest": 1.0}, "lowest"),
        ({"objective": "exact", "network": "unet", "widths": [16], "stem": 1}, "exact is for 256"),
        ({"network": "unet", "stem": 32}, "not a multiple"),
    ],
)
def test_settings_that_cannot_be(settings, message, tmp_path):
    images = MIXTURE.images(40, 0, side=16)
    with pytest.raises(ConfigError, match=message):
        small_ncsn(**settings).fit(images, images, context=TrainContext(0, "cpu", tmp_path))


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="a score needs 16 images to learn from, there are 15"):
        fitted(tmp_path, MIXTURE.images(15, 0))
