"""Boltzmann machines against enumeration, and the detector made of them."""

import math
import os
import signal
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from anodetect.config import build
from anodetect.detectors import rbm
from anodetect.errors import ConfigError, DataError, Interrupted
from anodetect.generative.boltzmann import Boltzmann, Restricted, entropy, log_partition
from anodetect.generative.sampling import every_state
from anodetect.generative.whitening import (
    Whitening,
    all_windows,
    as_map,
    maps_of_windows,
    random_windows,
)
from anodetect.types import Batch, TrainContext

LOG_2_PI = math.log(2 * math.pi)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def scattered(machine, deviation=0.7):
    """Return a machine with random weights, biases and variances."""
    rng = generator(3)
    for parameter in machine.parameters():
        parameter.copy_(deviation * torch.randn(parameter.shape, generator=rng))
    return machine


def gaussian_machine(values=3, units=8, deviation=0.7):
    return scattered(Restricted(values, units, gaussian=True), deviation)


def binary_machine(values=3, units=2, deviation=0.7):
    return scattered(Restricted(values, units, gaussian=False), deviation)


def gaussian_integral(machine, inputs):
    """Return log ∫ exp(−(v − b)²/2σ² + vᵀ a/σ²) dv for inputs a [..., D], in closed form."""
    b, log_variance = machine.value_bias, machine.log_variance
    gained = ((b + inputs).square() - b.square()) * (-log_variance).exp()
    return (gained + log_variance + LOG_2_PI).sum(-1) / 2


def log_weights_of_units(machine):
    """Return log ∫ exp(−E(v, h)) dv of every h, [2^K]."""
    h = every_state(machine.weight.shape[1])
    return h @ machine.unit_bias + gaussian_integral(machine, h @ machine.weight.T)


def numbers_of(states):
    """Return the number of each state [N, K] in `every_state`."""
    return (states @ 2.0 ** torch.arange(states.shape[-1])).long()


def assert_as_often(numbers, log_weights):
    expected = log_weights.detach().double().softmax(0).numpy()
    counts = torch.bincount(numbers.flatten(), minlength=len(expected)).numpy()
    assert stats.chisquare(counts, expected * counts.sum()).pvalue > 0.001


# -- One layer -------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", [gaussian_machine(4, 12), binary_machine(4, 12)])
def test_free_energy_is_the_sum_over_all_units(machine):
    v = torch.randn(5, 4, generator=generator())
    energies = machine.energy(v[:, None], every_state(12))
    assert torch.allclose(machine.free_energy(v), -(-energies).logsumexp(1), rtol=1e-5)


def test_the_energy_is_the_formula():
    machine, v, h = gaussian_machine(2, 2), torch.tensor([0.3, -1.0]), torch.tensor([1.0, 0.0])
    (b, c, w), variance = (
        (machine.value_bias, machine.unit_bias, machine.weight),
        machine.log_variance.exp(),
    )
    expected = sum((v[i] - b[i]) ** 2 / (2 * variance[i]) for i in range(2))
    expected = expected - c[0] - sum(v[i] * w[i, 0] / variance[i] for i in range(2))
    assert machine.energy(v, h).item() == pytest.approx(expected.item(), rel=1e-5)


def test_gaussian_values_integrate_to_the_sum_over_units():
    machine = gaussian_machine(1, 3)

    def density(value):
        return math.exp(-machine.free_energy(torch.tensor([value])).item())

    found, _ = integrate.quad(density, -30, 30, limit=200)
    assert math.log(found) == pytest.approx(log_weights_of_units(machine).logsumexp(0).item())


def test_log_partition_agrees_with_enumeration():
    """Within four of its errors, which are below .05 nats."""
    machine = gaussian_machine(5, 12, deviation=0.8)
    exact = log_weights_of_units(machine).logsumexp(0).item()
    found = log_partition(machine, generator(), chains=500, temperatures=200)
    assert 0 < found.error < 0.05
    assert found.value == pytest.approx(exact, abs=4 * found.error)


def test_gibbs_chains_reach_the_joint_distribution_of_a_gaussian_machine():
    machine = gaussian_machine(2, 3)
    v = machine.gibbs(torch.zeros(40_000, 2), generator(), 60).detach()
    log_weights = log_weights_of_units(machine).detach()
    h = torch.bernoulli(machine.units(v), generator=generator(1))
    assert_as_often(numbers_of(h), log_weights)

    shares, means = log_weights.softmax(0), machine.downward(every_state(3)).detach()
    mean = shares @ means
    second = (shares[:, None] * means).T @ means + machine.log_variance.exp().diag()
    assert torch.allclose(v.mean(0), mean, atol=0.06)
    assert torch.allclose(v.T @ v / len(v), second, rtol=0.05, atol=0.1)


def test_gibbs_chains_reach_the_joint_distribution_of_a_binary_machine():
    machine = binary_machine(3, 2, deviation=1.2)
    v = machine.gibbs(torch.zeros(40_000, 3), generator(), 40)
    h = torch.bernoulli(machine.units(v), generator=generator(1)).detach()
    log_weights = -machine.energy(every_state(3)[None], every_state(2)[:, None]).flatten()
    assert_as_often(numbers_of(torch.cat([v, h], 1)), log_weights)


def gradients(machine, loss):
    """Return the gradient of a loss, 0 of parameters that it does not depend on."""
    machine.zero_grad()
    loss.backward()
    found = []
    for parameter in machine.parameters():
        gradient = parameter.grad
        found.append(torch.zeros_like(parameter) if gradient is None else gradient)
    return torch.cat([gradient.flatten() for gradient in found])


def test_a_layer_counts_its_input_as_often_as_it_is_told():
    """Two copies of values and two of units, enumerated as a machine of twice the size."""
    once = binary_machine(2, 2)
    twice = Restricted(2, 2, gaussian=False, up=2, down=2)
    twice.load_state_dict(once.state_dict())
    large = Restricted(4, 4, gaussian=False)
    with torch.no_grad():
        large.weight.copy_(once.weight.repeat(2, 2))
        large.value_bias.copy_(once.value_bias.repeat(2))
        large.unit_bias.copy_(once.unit_bias.repeat(2))
    v, h = every_state(2), every_state(2)
    assert torch.allclose(twice.free_energy(v), large.free_energy(v.repeat(1, 2)), atol=1e-5)
    assert torch.allclose(twice.units(v), large.units(v.repeat(1, 2))[:, :2])
    assert torch.allclose(twice.values(h), large.values(h.repeat(1, 2))[:, :2])


# -- Several layers --------------------------------------------------------------------------------


def deep(units, *, joint, deviation=0.7, values=2):
    return scattered(Boltzmann(values, units, joint=joint), deviation)


def every_pair(first, second):
    """Return all states of two layers, [2^(K₁ + K₂), K₁] and [..., K₂]."""
    both = every_state(first + second)
    return both[:, :first], both[:, first:]


@pytest.mark.parametrize(("deviation", "gap"), [(0.2, 0.01), (1.0, 1.0)])
def test_the_mean_field_bound_of_a_deep_machine_is_above_enumeration(deviation, gap):
    machine = deep([4, 4], joint=True, deviation=deviation)
    v = torch.randn(20, 2, generator=generator())
    exact = -(-machine.energy(v[:, None], every_pair(4, 4))).logsumexp(1)
    bound = machine.free_energy(v, 50)
    assert (bound >= exact - 1e-5).all()
    assert (bound <= exact + gap).all()


def test_the_mean_field_posterior_cannot_be_improved():
    machine, v = deep([3, 2, 3], joint=True), torch.randn(4, 2, generator=generator())
    means = [mean.detach().requires_grad_(True) for mean in machine.mean_field(v, 200)]
    bound = (machine.energy(v, means) - entropy(means)).sum()
    for slope in torch.autograd.grad(bound, means):
        assert slope.abs().max() < 1e-3


def test_sweeps_reach_the_joint_distribution_of_a_deep_machine():
    machine = deep([3, 2], joint=True)
    lowest, top = machine.machines()
    states = [torch.zeros(40_000, 2), torch.zeros(40_000, 3), torch.zeros(40_000, 2)]
    rng = generator()
    with torch.no_grad():
        for _ in range(60):
            states = machine.sweep(states, rng)

    first, second = every_pair(3, 2)
    log_weights = first @ lowest.unit_bias + gaussian_integral(lowest, first @ lowest.weight.T)
    log_weights = log_weights + second @ top.unit_bias + ((first @ top.weight) * second).sum(1)
    assert_as_often(numbers_of(torch.cat(states[1:], 1)), log_weights)
    # The values are drawn last: their mean is that which the units give them.
    expected = log_weights.softmax(0) @ lowest.downward(first)
    assert torch.allclose(states[0].mean(0), expected, atol=0.06)


def exact_belief(machine, v):
    """Return −log p(v) − log Z of the top layer of a deep belief network, [N], enumerated."""
    lowest, *others = machine.machines()
    variance, states = lowest.log_variance.exp(), every_state(lowest.weight.shape[1])
    error = (v[:, None] - lowest.downward(states)).square() / variance
    log_p = -(error + variance.log() + LOG_2_PI).sum(-1) / 2
    if len(others) == 1:
        return -(log_p - others[0].free_energy(states)).logsumexp(1)

    middle, top = others
    above = every_state(middle.weight.shape[1])
    p = middle.values(above)[:, None]
    log_p_states = (states * p.log() + (1 - states) * (1 - p).log()).sum(-1)  # [above, states]
    log_prior = (log_p_states - top.free_energy(above)[:, None]).logsumexp(0)
    return -(log_p + log_prior).logsumexp(1)


@pytest.mark.parametrize(("deviation", "gap"), [(0.1, 0.05), (0.7, 5.0)])
def test_the_bound_of_a_belief_network_is_above_enumeration(deviation, gap):
    machine = deep([5, 4], joint=False, deviation=deviation)
    v = torch.randn(20, 2, generator=generator())
    bound, exact = machine.free_energy(v, 1), exact_belief(machine, v)
    assert (bound >= exact - 1e-5).all()
    assert (bound <= exact + gap).all()


def test_three_layers_of_a_belief_network_are_near_enumeration():
    machine = deep([4, 3, 3], joint=False, deviation=0.15)
    v = torch.randn(20, 2, generator=generator())
    assert torch.allclose(machine.free_energy(v, 1), exact_belief(machine, v), atol=0.1)


@pytest.mark.parametrize("joint", [True, False])
def test_chains_of_several_layers_end_at_the_models_mean(joint):
    machine, rng = deep([3, 2], joint=joint), generator()
    with torch.no_grad():
        *_, last = machine.chain(torch.zeros(40_000, 2), rng, (30, 30))
    lowest, top = machine.machines()
    first, second = every_pair(3, 2)
    if joint:
        log_weights = first @ lowest.unit_bias + gaussian_integral(lowest, first @ lowest.weight.T)
        log_weights = log_weights + second @ top.unit_bias + ((first @ top.weight) * second).sum(1)
    else:
        log_weights = -top.energy(first, second)
    expected = log_weights.softmax(0) @ lowest.downward(first)
    assert torch.allclose(last.mean(0), expected, atol=0.06)


# -- Gradients of training -------------------------------------------------------------------------


def learner_of(machine, rows, places):
    return rbm.Learner(machine, rows, places, generator(9))


def generators(count, seed=0):
    return [generator(seed + number) for number in range(count)]


def gradient_of_training(machine, data, *, number=0, copies=50_000, **settings):
    """Return the gradient that training takes for a layer, the mean over many copies of data [N, D]
    of chains with seeds of their own; energies there are per value."""
    v = data[:, None].expand(-1, copies, -1)
    learner = learner_of(machine, len(data), copies)
    found = detector_of(**settings)._divergence(learner, number, v, generators(len(data)))
    return gradients(machine.machines()[number], found.positive.mean() - found.negative.mean())


def chances_of_states(p):
    """Return the probability of every state, [..., 2^K], of independent units that are on with
    probabilities p [..., K]."""
    states = every_state(p.shape[-1])
    return (p[..., None, :] * states + (1 - p[..., None, :]) * (1 - states)).prod(-1)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_of_contrastive_divergence_is_the_exact_one(steps, joint):
    """The expected gradient of CD-k of the second layer follows from the matrix of transitions
    between all states of the units below it."""
    machine = deep([4, 3], joint=joint, deviation=1.0)
    lowest, top = machine.machines()
    data, states = torch.tensor([[1.0, 0.5], [-0.5, 1.0]]), every_state(4)
    with torch.no_grad():
        starts = chances_of_states(lowest.units(data)).mean(0)
        up = chances_of_states(top.units(states))
        moves = up @ chances_of_states(top.values(every_state(3)))
        ends = starts @ torch.linalg.matrix_power(moves, steps)
    assert (ends - starts).abs().sum() > 0.1

    expected = gradients(top, (starts - ends) @ top.free_energy(states) / 4)
    settings = {"layers": 2, "joint": joint, "chain": "data", "gibbs_steps": steps}
    found = gradient_of_training(machine, data, number=1, **settings)
    assert expected.norm() > 0.05
    assert torch.allclose(found, expected, atol=0.003)


def values_given_units(machine, order=30):
    """Return values v [2^K, Q, 2] and weights [Q] of a quadrature over p(v | h), for every h."""
    places, weights = np.polynomial.hermite_e.hermegauss(order)
    places = torch.tensor(places, dtype=torch.float32)
    weights = torch.tensor(weights / weights.sum(), dtype=torch.float32)
    normal = torch.cartesian_prod(places, places)
    means = machine.downward(every_state(machine.weight.shape[1]))
    v = means[:, None] + (machine.log_variance / 2).exp() * normal
    return v, torch.cartesian_prod(weights, weights).prod(1)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_gradient_of_contrastive_divergence_is_exact_for_gaussian_values(steps):
    """Chains of units have a matrix of transitions, values between them are integrated out."""
    machine = scattered(Boltzmann(2, [3], joint=False), 1.0)
    (lowest,) = machine.machines()
    data = torch.tensor([[1.0, 0.5], [-0.5, 1.0]])
    with torch.no_grad():
        v, weights = values_given_units(lowest)
        moves = torch.einsum("q, hqk -> hk", weights, chances_of_states(lowest.units(v)))
        starts = chances_of_states(lowest.units(data)).mean(0)
        last = starts @ torch.linalg.matrix_power(moves, steps - 1)

    negative = last @ (lowest.free_energy(v) @ weights)
    expected = gradients(lowest, (lowest.free_energy(data).mean() - negative) / 2)
    found = gradient_of_training(machine, data, chain="data", gibbs_steps=steps)
    assert expected.norm() > 0.05
    assert torch.allclose(found, expected, atol=0.01)


def test_long_chains_give_the_gradient_of_the_likelihood():
    """Persistent chains, wherever they start."""
    machine = scattered(Boltzmann(2, [3], joint=False))
    (lowest,) = machine.machines()
    data = torch.tensor([[1.5, 0.5], [-0.5, 1.0]])
    log_z = log_weights_of_units(lowest).logsumexp(0)
    expected = gradients(lowest, (lowest.free_energy(data).mean() + log_z) / 2)
    found = gradient_of_training(machine, data, chain="persistent", gibbs_steps=60)
    assert expected.norm() > 0.1
    assert torch.allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("chain", ["persistent", "data"])
def test_chains_start_where_they_ended_or_at_the_data(chain):
    machine = scattered(Boltzmann(2, [3], joint=False))
    (lowest,) = machine.machines()
    learner, v = learner_of(machine, 2, 50), torch.randn(1, 50, 2, generator=generator(1))
    v = v.expand(2, -1, -1)  # rows with the same data have noise of their own
    before = learner.chain0.clone()
    detector = detector_of(chain=chain, gibbs_steps=2)
    for step in range(3):
        start = before if chain == "persistent" else v
        with torch.no_grad():
            ends = lowest.gibbs(start, generators(2, step), 2)
            energies = lowest.free_energy(ends) / 2
        found = detector._divergence(learner, 0, v, generators(2, step))
        assert torch.equal(learner.chain0, ends)
        assert torch.allclose(found.negative, energies)
        assert torch.allclose(found.positive, lowest.free_energy(v) / 2)
        assert not torch.allclose(ends, before, atol=0.1)
        before = ends
    assert not torch.allclose(ends[0], ends[1], atol=0.1)


def means_by_hand(machine, v, iterations=200):
    """Return the fixed point of the mean-field equations of two layers of two units, a value and a
    unit at a time, for v [2]."""
    lowest, top = machine.machines()
    m1, m2 = [0.5, 0.5], [0.5, 0.5]
    for _ in range(iterations):
        for j in range(2):
            total = lowest.unit_bias[j]
            for i in range(2):
                total = total + v[i] * lowest.weight[i, j] / lowest.log_variance[i].exp()
                total = total + m2[i] * top.weight[j, i]
            m1[j] = float(torch.sigmoid(total))
        for k in range(2):
            total = top.unit_bias[k] + m1[0] * top.weight[0, k] + m1[1] * top.weight[1, k]
            m2[k] = float(torch.sigmoid(total))
    return torch.tensor(m1), torch.tensor(m2)


def test_the_gradient_of_a_deep_machine_is_that_of_enumeration():
    """Two values and two layers of two units: E over all states of the mean-field posterior of the
    data, minus E over the model's own distribution, whose gradient is that of −log Z."""
    machine = deep([2, 2], joint=True, deviation=1.0)
    lowest, top = machine.machines()
    data = torch.tensor([[1.0, 0.5], [-0.5, 1.0]])
    first, second = every_pair(2, 2)
    with torch.no_grad():
        posteriors = []
        for v in data:
            m1, m2 = means_by_hand(machine, v)
            posteriors.append(chances_of_states(torch.cat([m1, m2])))

    positive = (torch.stack(posteriors) * machine.energy(data[:, None], (first, second))).sum(1)
    own = gaussian_integral(lowest, first @ lowest.weight.T) + first @ lowest.unit_bias
    log_z = (own + second @ top.unit_bias + ((first @ top.weight) * second).sum(1)).logsumexp(0)
    expected = gradients(machine, (positive.mean() + log_z) / 2)

    v = data[:, None].expand(-1, 50_000, -1)
    detector = detector_of(layers=2, joint=True, mean_field=50, gibbs_steps=60)
    energies = detector._joint_divergence(learner_of(machine, 2, 50_000), v, generators(2))
    found = gradients(machine, energies.positive.mean() - energies.negative.mean())
    assert expected.norm() > 0.1
    assert torch.allclose(found, expected, atol=0.02)


def test_chains_of_a_deep_machine_go_on_from_their_ends_whatever_the_data_is():
    machine = deep([3, 2], joint=True)
    detector = detector_of(layers=2, joint=True, gibbs_steps=1)
    ends = []
    for shift in (0.0, 5.0):
        learner, seen = learner_of(machine, 2, 50), []
        for step in range(2):
            v = shift + torch.randn(2, 50, 2, generator=generator(step))
            detector._joint_divergence(learner, v, generators(2, step))
            seen.append([learner.chain0.clone(), learner.chain1.clone()])
        ends.append(seen)
    for of_data, of_other in zip(*ends, strict=True):
        assert all(torch.equal(*pair) for pair in zip(of_data, of_other, strict=True))

    # With the noise of its second step, a chain that starts elsewhere ends elsewhere.
    elsewhere = learner_of(machine, 2, 50)
    detector._joint_divergence(elsewhere, v, generators(2, 1))
    assert not torch.allclose(elsewhere.chain0, ends[0][1][0], atol=0.1)


# -- Windows ---------------------------------------------------------------------------------------


def test_whitened_vectors_with_noise_have_unit_covariance():
    mixing = torch.randn(6, 6, generator=generator()) * torch.tensor([3.0, 1, 1, 0.1, 0.01, 0])
    x = torch.randn(50_000, 6, generator=generator(1)) @ mixing.T + 5
    whitening = Whitening.learn(x, 0.01)
    assert torch.allclose(torch.cov(whitening.noisy(x, generator()).T), torch.eye(6), atol=0.03)
    assert torch.allclose(whitening.back(whitening(x)), x, atol=1e-3)
    assert whitening(x).var(0).min() < 0.5  # what hardly varies is not blown up


def test_random_windows_are_of_the_foreground():
    images = torch.arange(2 * 2 * 81.0).reshape(2, 2, 9, 9)
    inside = np.zeros((2, 9, 9), bool)
    inside[0, 4, 5] = True  # the second image has none
    found = random_windows(images, inside, 3, 40, [generator(), generator(1)])
    assert found.shape == (2, 40, 18)
    assert torch.equal(found[0], images[0, :, 3:6, 4:7].flatten().expand(40, -1))
    assert len(found[1].unique(dim=0)) > 20
    alone = random_windows(images[1:], inside[1:], 3, 40, [generator(1)])
    assert torch.equal(alone[0], found[1])


@pytest.mark.parametrize(
    ("side", "stride", "size"), [(5, 1, 17), (8, 2, 33), (4, 4, 18), (1, 1, 7)]
)
def test_a_window_is_mapped_to_its_middle(side, stride, size):
    images = torch.zeros(1, 1, size, size)
    middle = size // 2
    images[0, 0, middle, middle] = 1
    vectors, columns = all_windows(images, side, stride)
    assert vectors.shape == (1, columns**2, side**2)
    assert vectors.sum() > 0
    # The windows' own middles, as a map, are where they are in the image.
    weight = torch.exp(-((torch.arange(side) - (side - 1) / 2).square()) / 4)
    values = (vectors.reshape(1, -1, side, side) * weight * weight[:, None]).sum((2, 3))
    found = as_map(values, columns, side, stride, (size, size))[0]
    assert found.shape == (size, size)
    rows = torch.arange(size, dtype=torch.float32)
    assert (found.sum(0) @ rows / found.sum()).item() == pytest.approx(middle, abs=0.6 * stride)
    assert (found.sum(1) @ rows / found.sum()).item() == pytest.approx(middle, abs=0.6 * stride)


def test_windows_cover_an_image_of_any_size():
    images = torch.randn(1, 2, 19, 13, generator=generator())
    vectors, columns = all_windows(images, 4, 3)
    flat = as_map(torch.ones(vectors.shape[:2]), columns, 4, 3, (19, 13))
    assert torch.equal(flat, torch.ones(1, 19, 13))
    assert torch.equal(vectors[0, 0], images[0, :, :4, :4].flatten())
    assert torch.equal(vectors[0, columns], images[0, :, 3:7, :4].flatten())


def test_maps_of_windows_are_those_of_each_image():
    images = torch.randn(3, 2, 9, 9, generator=generator())
    found = maps_of_windows(lambda x: x.sum(1), images, 1, 1)
    assert torch.allclose(found, images.sum(1), atol=1e-6)


# -- The detector ----------------------------------------------------------------------------------

CENTRES = np.array([[2.0, 1.0], [-2.0, 1.0]], np.float32)


def clusters(count, seed=0):
    """Return images whose places are from one of two Gaussians, and nothing is between them."""
    rng = np.random.default_rng(seed)
    chosen = CENTRES[rng.integers(2, size=(count, 12, 12))]
    images = (chosen + 0.3 * rng.normal(size=chosen.shape)).astype(np.float32)
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return Batch(images, np.ones((count, 12, 12), bool))


def detector_of(**settings):
    values = {"window": 1, "stride": 1, "hidden": 8, "places": 128, "gibbs_steps": 3} | settings
    quick = {"steps": 300, "batch": 4, "warmup": 10, "learning_rate": 0.03}
    values["training"] = quick | settings.get("training", {})
    return rbm.RBM(build(rbm.RBMConfig, values, "rbm"))


def trained(folder, *, log=lambda entry: None, **settings):
    detector = detector_of(**settings)
    context = TrainContext(0, "cpu", folder, log=log)
    detector.fit(clusters(32), clusters(12, seed=1), context=context)
    return detector


def free_energy(detector, places):
    x = torch.tensor(places, dtype=torch.float32)
    return detector.net.free_energy(detector.whitening(x), 20)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"chain": "data", "gibbs_steps": 3},
        {"layers": 2},
        {"layers": 3},
        {"layers": 2, "joint": True},
        {"layers": 3, "joint": True, "pretraining": 0.0},
    ],
    ids=str,
)
def test_every_form_learns_that_nothing_is_between_two_clusters(settings, tmp_path):
    """A Gaussian would say the opposite: the middle is its mode. Samples are in the clusters."""
    detector = trained(tmp_path, **settings)
    first, second, between, beyond = free_energy(
        detector, [[2.0, 1.0], [-2.0, 1.0], [0.0, 1.0], [2.0, 3.0]]
    ).tolist()
    assert max(first, second) < between - 1
    assert max(first, second) < beyond - 1

    made = detector.sample(4, seed=0).images
    distance = np.abs(np.abs(made[:, 0]) - 2) + np.abs(made[:, 1] - 1)
    assert np.mean(distance < 1) > 0.8
    assert 0.2 < np.mean(made[:, 0] > 0) < 0.8


def test_the_likelihood_that_is_logged_is_above_a_gaussians_and_below_the_truth(tmp_path):
    entries = []
    detector = trained(tmp_path, log=entries.append)
    (found,) = [entry for entry in entries if "log_likelihood" in entry]
    assert found["log_likelihood"] > found["log_likelihood_of_a_gaussian"] + 0.5

    # The entropy of two clusters that do not overlap, whitened and with the noise of training.
    scale = detector.whitening.scale.numpy()
    added = (detector.whitening.noise.numpy() * scale) ** 2
    truth = -math.log(2) - np.log(2 * np.pi * math.e * (0.09 + added)).sum() / 2
    truth += np.log(scale).sum()
    assert found["log_likelihood"] < truth + 0.1
    assert found["log_likelihood"] > truth - 0.5


def chains_seen(detector, *, stop_at=0):
    """Let a detector list where the chains of each step of training start and end, [(start, end)];
    the signal to stop comes in the step `stop_at`."""
    seen = []

    def loss(net, *arguments):
        if len(seen) + 1 == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        start = net.chain0.clone()
        losses = rbm.RBM._loss(detector, net, *arguments)
        seen.append((start, net.chain0.clone()))
        return losses

    detector._loss = loss
    return seen


def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path):
    """Persistent chains are in the checkpoint, and go on where they were."""
    images = clusters(32), clusters(12, seed=1)
    whole, parts, again = (detector_of(training={"steps": 12}) for _ in range(3))
    of_whole, of_again = chains_seen(whole), chains_seen(again)
    of_parts = chains_seen(parts, stop_at=5)
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole.fit(*images, context=TrainContext(0, "cpu", tmp_path / "whole"))
    with pytest.raises(Interrupted, match="step 5"):
        parts.fit(*images, context=TrainContext(0, "cpu", tmp_path / "parts"))
    again.fit(*images, context=TrainContext(0, "cpu", tmp_path / "parts", resume=True))

    found = of_parts + of_again
    assert len(found) == len(of_whole) == 12
    for (start, end), (expected_start, expected_end) in zip(found, of_whole, strict=True):
        assert torch.equal(start, expected_start)
        assert torch.equal(end, expected_end)
    for (_, end), (start, _) in pairwise(found):
        assert torch.equal(start, end)
    assert not torch.allclose(of_again[0][0], of_parts[0][0], atol=0.1)  # no new chains
    assert all(np.array_equal(array, again.state()[name]) for name, array in whole.state().items())


def test_mosaics_begin_at_the_image_that_is_given(tmp_path):
    detector = detector_of(window=5, stride=2, training={"steps": 2})
    detector.fit(clusters(32), clusters(12, seed=1), context=TrainContext(0, "cpu", tmp_path))
    image = clusters(1, seed=7).images[0]
    made = detector.sample(2, seed=0, start=image)
    assert made.chain.shape == (12, 2, 2, 12, 12)
    assert np.allclose(made.chain[0], image, atol=1e-3)
    assert not np.allclose(made.images[0], image, atol=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"joint": True}, "needs layers=2 or 3"),
        (
            {"layers": 2, "joint": True, "pretraining": 0.0, "chain": "data"},
            "detector.chain: layers that learn together",
        ),
        ({"window": 4, "stride": 5}, "larger than the window"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        detector_of(**settings)


def test_layers_that_learn_one_by_one_first_may_have_chains_from_data():
    settings = {"layers": 2, "joint": True, "chain": "data"}
    assert detector_of(**settings, pretraining=0.5).config.chain == "data"
    detector_of(**settings | {"chain": "persistent"}, pretraining=0.0)


def test_images_that_cannot_be_learned_from_are_refused(tmp_path):
    context = TrainContext(0, "cpu", tmp_path)
    with pytest.raises(ConfigError, match="12 pixels are smaller than a window of 13"):
        detector_of(window=13).fit(clusters(32), clusters(4), context=context)
    with pytest.raises(DataError, match="need 144 places"):
        detector_of(window=6).fit(clusters(32), clusters(4), context=context)


def test_the_watched_share_is_one_without_units_and_less_with_them():
    v = torch.randn(1000, 2, generator=generator())
    machine = Restricted(2, 1, gaussian=True)
    with torch.no_grad():
        machine.weight.zero_()
        machine.value_bias.zero_()
    assert rbm.unexplained(machine, v).item() == pytest.approx(1, abs=0.01)
    with torch.no_grad():
        machine.weight.copy_(torch.tensor([[2.0], [0.0]]))
        machine.value_bias.copy_(torch.tensor([-1.0, 0.0]))
        machine.unit_bias.zero_()
    assert rbm.unexplained(machine, v).item() < 0.9
