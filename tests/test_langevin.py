"""Samplers against targets with known moments, and detailed balance where it must hold exactly."""

import math
from functools import partial

import pytest
import torch

from anodetect.generative import langevin

CHAINS = 4000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mixture(x):
    """Two Gaussians in the plane at (±1, 0), weights .3 and .7, deviation .6."""
    centres = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    log_weights = torch.tensor([0.3, 0.7]).log()
    distance = (x[:, None] - centres).square().sum(-1)
    return -torch.logsumexp(log_weights - distance / (2 * 0.36), 1)


MIXTURE_MEAN = torch.tensor([0.4, 0.0])
MIXTURE_VARIANCE = torch.tensor([0.36 + 0.84, 0.36])


def banana(x):
    """x₀ ~ N(0, 1), x₁ | x₀ ~ N(x₀²/2, .5²): mean (0, .5), variances (1, .5 + .25)."""
    return x[:, 0] ** 2 / 2 + (x[:, 1] - x[:, 0] ** 2 / 2) ** 2 / (2 * 0.25)


BANANA_MEAN = torch.tensor([0.0, 0.5])
BANANA_VARIANCE = torch.tensor([1.0, 0.75])

SAMPLERS = {
    "sgld": lambda energy, x, rng: langevin.sgld(energy, x, rng, step=0.01),
    "mala": lambda energy, x, rng: langevin.mala(energy, x, rng, step=0.04)[0],
    "hmc": lambda energy, x, rng: langevin.hmc(energy, x, rng, step=0.15, leapfrogs=8)[0],
}
STEPS = {"sgld": 1200, "mala": 600, "hmc": 80}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    ("energy", "mean", "variance"),
    [(mixture, MIXTURE_MEAN, MIXTURE_VARIANCE), (banana, BANANA_MEAN, BANANA_VARIANCE)],
)
def test_chains_reach_the_target(name, energy, mean, variance):
    """Within .08 of means and 12 % of variances (some four standard errors, and SGLD's bias)."""
    rng = generator()
    x = torch.randn(CHAINS, 2, generator=rng)
    for _ in range(STEPS[name]):
        x = SAMPLERS[name](energy, x, rng)
    assert torch.allclose(x.mean(0), mean, atol=0.08)
    assert torch.allclose(x.var(0), variance, rtol=0.12)


CORRELATED_MEAN = torch.tensor([0.5, -1.0])
CORRELATED = torch.tensor([[1.0, 0.8], [0.8, 1.5]])
PRECISION = CORRELATED.inverse()


def correlated(x, precision=PRECISION):
    away = x - CORRELATED_MEAN
    return (away @ precision * away).sum(1) / 2


@pytest.mark.parametrize("name", SAMPLERS)
def test_chains_reach_a_gaussians_covariance(name):
    """Within .1: some three standard errors of the largest entry."""
    rng = generator()
    x = torch.randn(CHAINS, 2, generator=rng)
    for _ in range(STEPS[name]):
        x = SAMPLERS[name](correlated, x, rng)
    assert torch.allclose(x.mean(0), CORRELATED_MEAN, atol=0.08)
    assert torch.allclose(torch.cov(x.T), CORRELATED, atol=0.1)


def test_annealing_ends_at_the_least_blurred_gaussian():
    sigmas = [4.0, 2.0, 1.0, 0.5]
    precisions = {sigma: (CORRELATED + sigma**2 * torch.eye(2)).inverse() for sigma in sigmas}
    energy_at = lambda sigma: partial(correlated, precision=precisions[sigma])  # noqa: E731
    start = 10 * torch.randn(CHAINS, 2, generator=generator(1))
    x = langevin.annealed(energy_at, start, generator(), sigmas=sigmas, steps=100, step=0.03)
    assert torch.allclose(x.mean(0), CORRELATED_MEAN, atol=0.08)
    assert torch.allclose(torch.cov(x.T), CORRELATED + 0.25 * torch.eye(2), atol=0.1)


def test_mala_is_in_detailed_balance():
    """p(x) q(y|x) a(x, y) = p(y) q(x|y) a(y, x), with q written out here."""
    rng, step = generator(), 0.3
    x, y = torch.randn(200, 2, generator=rng).double(), torch.randn(200, 2, generator=rng).double()

    def log_flow(a, b):
        drift = a - step * langevin.energy_and_gradient(banana, a).gradient
        log_q = torch.distributions.Normal(drift, math.sqrt(2 * step)).log_prob(b).sum(1)
        ratio = langevin.mala_log_ratio(
            a,
            langevin.energy_and_gradient(banana, a),
            b,
            langevin.energy_and_gradient(banana, b),
            step,
        )
        return -banana(a) + log_q + ratio.clamp(max=0)

    assert torch.allclose(log_flow(x, y), log_flow(y, x), atol=1e-9)


def test_hmc_is_in_detailed_balance():
    """In one dimension the end determines the momentum, so q(y|x) = φ(p) |dp/dy|; both directions
    must agree."""
    energy = lambda x: (x**4 / 4 + torch.sin(3 * x)).flatten(1).sum(1)  # noqa: E731
    x, momentum = torch.randn(100, 1).double(), torch.randn(100, 1).double()
    step, count = 0.15, 3

    def end(x, p):
        return langevin.leapfrog(energy, x, p, step, count)

    def log_flow(x, p):
        y, q = end(x, p)
        change = (end(x, p + 1e-6)[0] - end(x, p - 1e-6)[0]) / 2e-6
        log_q = (-(p**2) / 2 - change.abs().log())[:, 0]
        accept = energy(x) - energy(y) + ((p**2 - q**2) / 2)[:, 0]
        return -energy(x) + log_q + accept.clamp(max=0)

    y, arrived = end(x, momentum)
    back, start = end(y, -arrived)
    assert torch.allclose(back, x, atol=1e-9)
    assert torch.allclose(start, -momentum, atol=1e-9)
    assert torch.allclose(log_flow(x, momentum), log_flow(y, -arrived), atol=1e-6)


def test_hmc_accepts_by_the_change_of_the_hamiltonian():
    """A step too long for the target is refused; a short one hardly ever."""
    x = torch.randn(CHAINS, 2, generator=generator())
    stiff = lambda x: 50 * x.square().sum(1)  # noqa: E731
    assert langevin.hmc(stiff, x / 10, generator(), step=0.01, leapfrogs=5)[1].float().mean() > 0.99
    assert langevin.hmc(stiff, x / 10, generator(), step=0.3, leapfrogs=5)[1].float().mean() < 0.05


def test_annealing_finds_a_mode_that_plain_steps_miss():
    """Narrow modes 8 apart, weights .2 and .8, all chains started in the light one."""
    centres, weights = torch.tensor([[-4.0], [4.0]]), torch.tensor([0.2, 0.8])

    def energy_at(sigma):
        return lambda x: (
            -torch.logsumexp(
                weights.log()
                - (x - centres.T).square() / (2 * (0.04 + sigma**2))
                - math.log(0.04 + sigma**2) / 2,
                1,
            )
        )

    start = torch.full((CHAINS, 1), -4.0)
    sigmas = [8.0, 4.0, 2.0, 1.0, 0.5, 0.2]
    found = langevin.annealed(energy_at, start, generator(), sigmas=sigmas, steps=60, step=0.01)
    assert float((found > 0).float().mean()) == pytest.approx(0.8, abs=0.08)
    plain = langevin.annealed(energy_at, start, generator(), sigmas=[0.2], steps=360, step=0.01)
    assert float((plain > 0).float().mean()) < 0.01


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_chain_does_not_depend_on_its_company(sampler):
    x = torch.randn(5, 2, generator=generator())
    together = sampler(banana, x, [generator(n) for n in range(5)])
    alone = sampler(banana, x[3:4], [generator(3)])
    assert torch.allclose(together[3:4], alone)
    with torch.no_grad():
        assert torch.equal(sampler(banana, x, [generator(n) for n in range(5)]), together)


def test_gradients_are_clipped_and_values_bounded():
    steep = lambda x: 1000 * x.sum(1)  # noqa: E731
    moved = langevin.sgld(steep, torch.zeros(1, 3), generator(), step=1.0, noise=0.0, clip=0.1)
    assert torch.allclose(moved, torch.full((1, 3), -0.1))
    bounded = langevin.sgld(
        steep, torch.zeros(1, 3), generator(), step=1.0, noise=0.0, bounds=(-1, 1)
    )
    assert torch.equal(bounded, torch.full((1, 3), -1.0))
