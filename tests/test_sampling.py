"""Samplers and sums against enumeration, closed forms and scipy; the Ising model as a test bed."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from anodetect.generative import conditional, convergence, ising, sampling
from anodetect.generative.langevin import standard_normal

TEMPERATURES = (1.5, 2.269, 3.5)
# The number of states of the 4 × 4 torus for each energy (Beale, Physical Review Letters 1996).
STATES = {-32: 2, -24: 32, -20: 64, -16: 424, -12: 1728, -8: 6688, -4: 13568, 0: 20524} | {
    4: 13568,
    8: 6688,
    12: 1728,
    16: 424,
    20: 64,
    24: 32,
    32: 2,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def spins(count, side=4):
    return torch.where(torch.rand(count, side, side, generator=generator(9)) < 0.5, 1.0, -1.0)


# -- The Ising model -------------------------------------------------------------------------------


def test_states_of_the_torus_have_the_published_energies():
    energies = ising.energy(sampling.every_state(16, (-1.0, 1.0)).reshape(-1, 4, 4))
    values, counts = energies.unique(return_counts=True)
    assert dict(zip(values.int().tolist(), counts.tolist(), strict=True)) == STATES


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_exact_sums_are_those_of_the_published_states(temperature):
    values, counts = np.array(list(STATES)), np.array(list(STATES.values()))
    weights = counts * np.exp(-values / temperature)
    exact = ising.exact(4, temperature)
    assert exact.log_partition == pytest.approx(math.log(weights.sum()), rel=1e-9)
    assert exact.energy == pytest.approx((weights @ values) / weights.sum() / 16, rel=1e-9)


def flip_one(x, rng):
    """Propose to turn one spin of each lattice, chosen at random."""
    site = torch.randint(x[0].numel(), (len(x), 1), generator=rng)
    y = x.flatten(1).clone()
    y.scatter_(1, site, -y.gather(1, site))
    return sampling.Proposed(y.reshape(x.shape), torch.zeros(len(x)))


def gibbs_sweep(x, rng, temperature):
    return sampling.gibbs(lambda s: ising.energy(s) / temperature, x, rng, values=(-1.0, 1.0))


def metropolis_sweep(x, rng, temperature):
    for _ in range(16):
        x, _ = sampling.metropolis_hastings(
            lambda s: ising.energy(s) / temperature, x, rng, flip_one
        )
    return x


SWEEPS = {"heat bath": ising.heat_bath, "gibbs": gibbs_sweep, "metropolis": metropolis_sweep}


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", SWEEPS)
def test_chains_of_spins_agree_with_enumeration(name, temperature):
    """Energy and magnetisation are within four Monte Carlo errors of the exact ones, and that error
    is small; chains started at random agree with each other."""
    rng, x = generator(1), spins(64)
    energies, magnetisations = [], []
    for sweep in range(220):
        x = SWEEPS[name](x, rng, temperature)
        if sweep >= 20:
            energies.append(ising.energy(x) / 16)
            magnetisations.append(ising.magnetisation(x))

    exact = ising.exact(4, temperature)
    for draws, expected in ((energies, exact.energy), (magnetisations, exact.magnetisation)):
        chains = torch.stack(draws, 1).numpy()
        error = convergence.monte_carlo_error(chains)
        assert error < 0.015
        assert chains.mean() == pytest.approx(expected, abs=4 * error)
        assert convergence.r_hat(chains) < 1.05


def test_log_partition_of_spins_by_annealed_importance_sampling():
    """Within four errors of the exact one, at an error of less than .05 nats."""
    temperature, rng = 2.0, generator(2)
    betas = np.linspace(0, 1 / temperature, 60).tolist()
    annealed = sampling.annealed_importance(
        lambda beta: lambda s: beta * ising.energy(s),
        spins(400),
        lambda s, beta: ising.heat_bath(s, rng, 1 / beta),
        betas,
    )
    found = sampling.log_mean(annealed.log_weights)
    expected = ising.exact(4, temperature).log_partition - 16 * math.log(2)
    assert found.error < 0.05
    assert found.value == pytest.approx(expected, abs=4 * found.error)
    assert float(ising.energy(annealed.ends).mean()) < -16  # ends are of the last distribution


def test_lattices_that_cannot_be_handled_are_refused():
    with pytest.raises(ValueError, match="no chessboard"):
        ising.heat_bath(spins(1, 3), generator(), 1.0)
    with pytest.raises(ValueError, match="too many states"):
        ising.exact(5, 1.0)


# -- Samplers --------------------------------------------------------------------------------------


def test_gibbs_draws_every_state_as_often_as_it_should():
    couplings = torch.tensor([[0.0, 1.0, -2.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    field = torch.tensor([0.3, -1.0, 0.8])
    energy = lambda x: -(x @ field) - ((x @ couplings) * x).sum(1)  # noqa: E731
    expected = (-energy(sampling.every_state(3))).double().softmax(0).numpy()

    x, rng = torch.zeros(40_000, 3), generator()
    for _ in range(20):
        x = sampling.gibbs(energy, x, rng)
    numbers = (x @ torch.tensor([1.0, 2.0, 4.0])).long()
    counts = torch.bincount(numbers, minlength=8).numpy()
    assert stats.chisquare(counts, expected * len(x)).pvalue > 0.001


def test_gibbs_does_not_depend_on_the_company_or_on_the_layout_in_memory():
    energy = lambda x: (x.sum((1, 2)) - 2).square()  # noqa: E731
    x = torch.zeros(4, 3, 2)
    together = sampling.gibbs(energy, x, [generator(n) for n in range(4)])
    alone = sampling.gibbs(energy, x[2:3], [generator(2)])
    turned = sampling.gibbs(energy, x.mT.contiguous().mT, [generator(n) for n in range(4)])
    assert torch.equal(together[2:3], alone)
    assert torch.equal(turned, together)
    assert not x.any()


def test_random_walk_reaches_a_density_of_scipy():
    """Metropolis on Student's t with 5 degrees of freedom: quantiles as scipy's."""
    energy = lambda x: 3 * torch.log1p(x[:, 0].square() / 5)  # noqa: E731
    x, rng = torch.zeros(20_000, 1), generator()
    moved = 0.0
    for _ in range(150):
        x, accepted = sampling.metropolis_hastings(energy, x, rng, sampling.random_walk(2.0))
        moved += float(accepted.float().mean()) / 150
    assert 0.3 < moved < 0.7
    assert stats.kstest(x[:, 0].numpy(), stats.t(5).cdf).pvalue > 0.001


def test_an_asymmetric_proposal_is_corrected():
    """Multiplicative steps on an exponential density: without log q(x|y) − log q(y|x) they would
    sample x⁻¹ exp(−x)."""

    def scaled(x, rng):
        factor = standard_normal(x, rng)
        return sampling.Proposed(x * factor.exp(), factor[:, 0])

    x, rng = torch.ones(20_000, 1), generator()
    for _ in range(100):
        x, _ = sampling.metropolis_hastings(lambda x: x[:, 0], x, rng, scaled)
    assert stats.kstest(x[:, 0].numpy(), stats.expon.cdf).pvalue > 0.001


def test_rejection_draws_a_beta_density_and_knows_its_normaliser():
    energy = lambda x: -(x[:, 0].log() + 3 * (1 - x[:, 0]).log())  # noqa: E731, Beta(2, 4)
    rng = generator()
    uniform = lambda count: torch.rand(count, 1, generator=rng).clamp(1e-6, 1 - 1e-6)  # noqa: E731
    flat = lambda x: torch.zeros(len(x))  # noqa: E731
    bound = math.log(0.25 * 0.75**3)  # the mode is at 1/4

    found = sampling.rejection(energy, uniform, flat, bound, 20_000, rng)
    assert found.draws.shape == (20_000, 1)
    assert stats.kstest(found.draws[:, 0].numpy(), stats.beta(2, 4).cdf).pvalue > 0.001
    assert math.exp(bound) * found.accepted == pytest.approx(1 / 20, rel=0.03)
    with pytest.raises(ValueError, match="too small"):
        sampling.rejection(energy, uniform, flat, bound - 1, 1000, rng)
    with pytest.raises(ValueError, match="too large"):
        sampling.rejection(energy, uniform, flat, bound + 40, 2, rng)


def test_annealing_of_a_gaussian_finds_its_normaliser():
    """From N(0, 1) to exp(−x²/2·.04 + 3x): Z is known in closed form."""
    rng = generator()

    def energy_at(beta):
        precision = 1 + beta * 24
        return lambda x: precision * x[:, 0].square() / 2 - beta * 3 * x[:, 0]

    def step(x, beta):  # the exact conditional: independent draws
        precision = 1 + beta * 24
        return beta * 3 / precision + standard_normal(x, rng) / math.sqrt(precision)

    start = torch.randn(2000, 1, generator=rng)
    betas = np.linspace(0, 1, 30).tolist()
    found = sampling.log_mean(
        sampling.annealed_importance(energy_at, start, step, betas).log_weights
    )
    expected = -math.log(25) / 2 + 9 / 50
    assert found.error < 0.05
    assert found.value == pytest.approx(expected, abs=4 * found.error)


def test_the_error_of_a_log_mean_is_what_repetitions_scatter_by():
    weights = torch.randn(500, 400, generator=generator()) * 0.8
    found = [sampling.log_mean(row) for row in weights]
    scatter = np.std([each.value for each in found])
    assert np.mean([each.error for each in found]) == pytest.approx(scatter, rel=0.1)


# -- Convergence -----------------------------------------------------------------------------------


def autoregressive(shift=0.0, scale=1.0):
    """Return four chains of 250 draws that can be written down again anywhere."""
    noise = (np.sin(78.233 * np.arange(1, 1001)) * 43758.5453) % 1 - 0.5
    chains = np.zeros((4, 250))
    for n in range(1, 250):
        chains[:, n] = 0.7 * chains[:, n - 1] + noise.reshape(4, 250)[:, n]
    chains[3] = scale * chains[3] + shift
    return chains


@pytest.mark.parametrize(
    ("changes", "r_hat", "bulk", "mean", "error"),
    [
        ({}, 1.021569254781141, 155.87228779956664, 153.94573783509264, 0.033116381944334826),
        (
            {"shift": 1.0},
            1.4347378677056373,
            8.33657444204985,
            7.459041540320698,
            0.21752753501395466,
        ),
        (
            {"scale": 3.0},
            1.1749288814419379,
            233.3761810072857,
            237.96819170299273,
            0.04539756841119223,
        ),
    ],
)
def test_convergence_is_judged_as_by_arviz(changes, r_hat, bulk, mean, error):
    """The values are those of arviz-stats 0.8.0: rhat(method="rank"), ess(method="bulk" and
    "mean"), mcse(method="mean")."""
    chains = autoregressive(**changes)
    assert convergence.r_hat(chains) == pytest.approx(r_hat, rel=1e-9)
    assert convergence.bulk_effective_sample_size(chains) == pytest.approx(bulk, rel=1e-9)
    assert convergence.effective_sample_size(chains) == pytest.approx(mean, rel=1e-9)
    assert convergence.monte_carlo_error(chains) == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
def test_an_autoregressive_chain_is_worth_what_theory_says(correlation):
    """N (1 − φ) / (1 + φ) independent draws."""
    rng = np.random.default_rng(0)
    chains = np.zeros((8, 4000))
    chains[:, 0] = rng.normal(size=8) / np.sqrt(1 - correlation**2)
    for n in range(1, 4000):
        chains[:, n] = correlation * chains[:, n - 1] + rng.normal(size=8)
    expected = chains.size * (1 - correlation) / (1 + correlation)
    assert convergence.effective_sample_size(chains) == pytest.approx(expected, rel=0.12)
    assert convergence.r_hat(chains) < 1.01


def test_heavy_tails_and_drifts_are_seen():
    rng = np.random.default_rng(0)
    heavy = rng.standard_cauchy((4, 500))
    assert convergence.r_hat(heavy) < 1.01
    heavy[0] *= 8  # same median, another spread
    assert convergence.r_hat(heavy) > 1.05
    drifting = rng.normal(size=(4, 500)) + np.linspace(0, 2, 500)  # each chain alike
    assert convergence.r_hat(drifting) > 1.05


def test_draws_that_alternate_are_worth_more_than_independent_ones():
    noise = np.random.default_rng(0).normal(size=(2, 50))
    chains = noise + 3 * (-1.0) ** np.arange(50)
    assert convergence.effective_sample_size(chains) == pytest.approx(200)  # 100 · log₁₀ 100


def test_what_cannot_be_judged():
    assert math.isnan(convergence.r_hat(np.ones((2, 10))))
    assert math.isnan(convergence.effective_sample_size(np.ones((2, 10))))
    with pytest.raises(ValueError, match="four draws"):
        convergence.r_hat(np.ones((2, 3)))


# -- Conditional energies --------------------------------------------------------------------------


def test_the_best_answer_of_a_quadratic_energy_is_its_closed_form():
    matrix = torch.tensor([[2.0, -1.0], [0.5, 3.0], [1.0, 1.0]])
    weights = torch.tensor([1.0, 0.2, 3.0])
    energy = lambda x, y: (weights * (y - x @ matrix.T).square()).sum(1)  # noqa: E731
    x = torch.randn(6, 2, generator=generator())
    found = conditional.infer(energy, x, torch.zeros(6, 3), steps=200)
    assert torch.allclose(found.y, x @ matrix.T, atol=1e-4)
    alone = conditional.infer(energy, x[4:5], torch.zeros(1, 3), steps=200)
    assert torch.allclose(alone.y, found.y[4:5])


def two_wells(x, y):
    """Answers are near ±1; the one with the sign of x is better."""
    return (y[:, 0].square() - 1).square() - 0.3 * (x * y)[:, 0] + (y[:, 1] - y[:, 0]).square()


def test_an_answer_is_the_local_minimum_that_scipy_finds():
    x = torch.tensor([[1.0], [-0.7], [0.2]]).double()
    start = torch.tensor([[0.8, 0.6], [0.9, 1.0], [-1.2, -1.0]]).double()
    found = conditional.infer(two_wells, x, start, steps=400)
    for row in range(3):
        by_scipy = optimize.minimize(
            lambda y, x=x[row : row + 1]: two_wells(x, torch.from_numpy(y)[None]).item(),
            start[row].numpy(),
        )
        assert np.allclose(found.y[row].numpy(), by_scipy.x, atol=1e-4)
        assert found.energy[row].item() == pytest.approx(by_scipy.fun, abs=1e-8)


def test_the_best_of_several_starts_is_the_global_minimum():
    x = torch.tensor([[1.0], [-1.0]])
    starts = torch.stack([torch.full((2, 2), value) for value in (-1.5, 0.1, 1.5)])
    found = conditional.infer_from_each(two_wells, x, starts, steps=200)
    assert (found.y[:, 0] * x[:, 0] > 0.9).all()
    assert torch.allclose(found.energy, two_wells(x, found.y))


@pytest.mark.parametrize("rate", [1e-3, 1.0, 1e4])
def test_an_answer_never_fits_worse_than_its_start(rate):
    x, start = torch.ones(50, 1), torch.randn(50, 2, generator=generator())
    found = conditional.infer(two_wells, x, start, steps=30, rate=rate)
    assert (found.energy <= two_wells(x, start)).all()
    assert torch.allclose(found.energy, two_wells(x, found.y))
    assert not found.y.requires_grad
