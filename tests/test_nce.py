"""Noise-contrastive estimation against known normalisers, and flows against autograd."""

import copy
import math

import numpy as np
import pytest
import torch
from mixtures import Mixture, generator
from torch import nn

from anodetect.config import build
from anodetect.detectors import nce
from anodetect.errors import ConfigError, DataError
from anodetect.generative.contrastive import (
    ContrastiveDensity,
    chance_level,
    contrastive_loss,
    density_loss,
    flow_loss,
)
from anodetect.generative.flows import Flow, log_normal
from anodetect.types import Batch, TrainContext, image_seeds

MIXTURE = Mixture((0.4, 0.6), 0.5)
STEP = 0.1  # of the grid over which densities are added up


def grid(reach=5.0):
    """Points [M, 2] in squares of STEP."""
    line = torch.arange(-reach, reach, STEP)
    return torch.cartesian_prod(line, line)


def random_flow(values=2, couplings=3):
    torch.manual_seed(0)
    flow = Flow(values, 16, couplings)
    for p in flow.parameters():
        nn.init.normal_(p, std=0.3)
    return flow


# -- Flows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [2, 5])
def test_a_flows_log_determinant_is_autograds(values):
    flow = random_flow(values).double()
    y = torch.randn(4, values, generator=generator()).double()
    _, found = flow(y)
    for row, value in zip(y, found, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], row)
        assert value.item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-9)
        assert abs(value.item()) > 1e-3  # or there would be nothing to compare


def test_a_flow_comes_back():
    flow, y = random_flow(5).double(), torch.randn(4, 5, generator=generator()).double()
    z, _ = flow(y)
    assert torch.allclose(flow.inverse(z), y)
    assert not torch.allclose(z, y, atol=0.1)


def test_a_flows_density_sums_to_one_and_its_draws_have_its_moments():
    flow, points = random_flow(), grid(8.0)
    with torch.no_grad():
        density = flow.log_density(points).exp() * STEP**2
        drawn = flow.inverse(torch.randn(20_000, 2, generator=generator()))
    assert density.sum().item() == pytest.approx(1, abs=0.02)
    assert torch.allclose(drawn.mean(0), (density[:, None] * points).sum(0), atol=0.06)


def test_a_new_flow_and_one_without_couplings_are_standard_normal():
    y = torch.randn(4, 3, generator=generator())
    expected = torch.distributions.Normal(0, 1).log_prob(y).sum(1)
    for couplings in (0, 3):
        assert torch.allclose(Flow(3, 16, couplings).log_density(y), expected)


# -- Contrast --------------------------------------------------------------------------------------


class QuarticTilt(nn.Module):
    """g for which N(v; 0, I) · exp(−g(v)) = exp(−Σ v⁴ / 4)."""

    def forward(self, v):
        return (v**4 / 4 - v.square() / 2 - math.log(2 * math.pi) / 2).sum(1, keepdim=True)


def quartic_draws(count, rng):
    """By rejection: exp(−v⁴/4 + v²/2) is e^¼ at most."""
    found = torch.zeros(0)
    while len(found) < 2 * count:
        v = torch.randn(4 * count, generator=rng)
        chance = torch.exp(-(v**4) / 4 + v.square() / 2 - 0.25)
        found = torch.cat([found, v[torch.rand(len(v), generator=rng) < chance]])
    return found[: 2 * count].reshape(count, 2)


@pytest.mark.parametrize("noise_draws", [1, 3])
def test_a_known_normaliser_is_found(noise_draws):
    """∫ exp(−v⁴/4) dv = 4^¼ Γ(¼) / 2; within .03, three standard errors of so many draws."""
    net, rng = ContrastiveDensity(2, 16, blocks=1, couplings=0), generator()
    net.energy = QuarticTilt()
    search = torch.optim.LBFGS([net.slow_log_z], max_iter=50, line_search_fn="strong_wolfe")
    data = quartic_draws(40_000, rng)
    z = torch.randn(noise_draws * len(data), 2, generator=rng)

    def loss():
        search.zero_grad()
        value = density_loss(net, data, z)
        value.backward()
        return value

    search.step(loss)
    expected = 2 * (math.log(4) / 4 + math.lgamma(0.25) - math.log(2))
    assert net.log_z.item() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("couplings", [0, 4])
def test_the_density_of_a_mixture_is_found_and_normalised(couplings):
    """In nats; the flow has learned most of it, where there is one."""
    torch.manual_seed(0)
    net, rng = ContrastiveDensity(2, 48, blocks=2, couplings=couplings), generator()
    search = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, 200)
    for _ in range(200):
        data, z = MIXTURE.draws(512, rng), torch.randn(512, 2, generator=rng)
        loss = density_loss(net, data, z)
        search.zero_grad()
        (loss + flow_loss(net, data, z) if couplings else loss).backward()
        search.step()
        schedule.step()

    held_out, points = MIXTURE.draws(4000, rng), grid()
    true = MIXTURE.log_density(held_out)
    with torch.no_grad():
        total = net(points).exp().sum().item() * STEP**2
        divergence = (true - net(held_out)).mean().item()
        of_flow = (true - net.flow.log_density(held_out)).mean().item()
    gaussian = (true - log_normal(held_out)).mean().item()
    assert gaussian > 0.3
    assert total == pytest.approx(1, abs=0.08)
    assert abs(divergence) < 0.1 * gaussian
    assert of_flow == pytest.approx(gaussian) if couplings == 0 else of_flow < 0.5 * gaussian


def test_a_new_density_is_that_of_the_noise():
    net, y = ContrastiveDensity(2, 16, blocks=1, couplings=3), torch.randn(5, 2)
    net.flow = random_flow()
    assert torch.equal(net(y), net.flow.log_density(y))


def test_density_and_flow_learn_from_losses_of_their_own():
    net = ContrastiveDensity(2, 16, blocks=1, couplings=2)
    data, z = MIXTURE.draws(64, generator()), torch.randn(64, 2, generator=generator(1))
    own = [net.slow_log_z, *net.energy.parameters()]

    density_loss(net, data, z).backward()
    assert all(p.grad is None for p in net.flow.parameters())
    assert any(p.grad.abs().sum() > 0 for p in net.energy.parameters())
    net.zero_grad(set_to_none=True)
    flow_loss(net, data, z).backward()
    assert all(p.grad is None for p in own)
    assert any(p.grad.abs().sum() > 0 for p in net.flow.parameters())


class Pinned(nn.Module):
    """g for which q · exp(−g) is the standard normal density, of the q that was given."""

    def __init__(self, flow):
        super().__init__()
        self.flow = copy.deepcopy(flow)

    def forward(self, v):
        return (self.flow.log_density(v) - log_normal(v))[:, None]


def test_the_flow_learns_against_a_density_that_is_held_fixed():
    """Its gradient is that of the likelihood and the loss, where p is known to be standard
    normal."""
    net, flow = ContrastiveDensity(2, 16, blocks=1, couplings=3), random_flow()
    net.flow, net.energy = flow, Pinned(flow)
    data, z = torch.randn(2, 50, 2, generator=generator())
    made = flow.inverse(z)
    ratios = [log_normal(v) - flow.log_density(v) for v in (data, made)]
    told_apart = torch.sigmoid(ratios[0]).log().mean() + torch.sigmoid(-ratios[1]).log().mean()
    loss = (told_apart - flow.log_density(data).mean()) / 2

    weights = list(flow.parameters())
    expected = torch.autograd.grad(loss, weights)
    found = torch.autograd.grad(flow_loss(net, data, z), weights)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert max(gradient.abs().max() for gradient in found) > 0.01


@pytest.mark.parametrize("noise_draws", [1, 3])
def test_what_cannot_be_told_apart_costs_the_chance_level(noise_draws):
    nothing, sure = torch.zeros(5), torch.full((5,), 9.0)
    alike = contrastive_loss(nothing, nothing.repeat(noise_draws))
    assert alike.item() == pytest.approx(chance_level(noise_draws))
    assert contrastive_loss(sure, -sure.repeat(noise_draws)) < 0.001
    assert chance_level(1) == pytest.approx(2 * math.log(2))


# -- The detector ----------------------------------------------------------------------------------

STRETCH = torch.tensor([3.0, 0.5])


def images(count, seed):
    return MIXTURE.images(count, seed, stretch=STRETCH.tolist())


SMALL = {
    "window": 1,
    "stride": 1,
    "width": 48,
    "places": 16,
    "pooling": {"smooth": 0},
}
TRAINING = {"steps": 200, "batch": 32, "learning_rate": 3e-3, "ema": 0.98}


def small_nce(**settings):
    values = SMALL | {"training": TRAINING} | settings
    if values.get("noise") != "gaussian":
        values = {"couplings": 2} | values
    return nce.NCE(build(nce.NCEConfig, values, "nce"))


def fitted(folder, known=None, log=lambda entry: None, **settings):
    detector = small_nce(**settings)
    known = images(400, 0) if known is None else known
    detector.fit(known, images(100, 1), context=TrainContext(0, "cpu", folder, log=log))
    return detector


@pytest.mark.parametrize("noise", ["gaussian", "flow"])
def test_log_densities_are_those_of_places_in_their_own_units(noise, tmp_path):
    entries = []
    detector = fitted(tmp_path, log=entries.append, noise=noise, shrinkage=1e-4)
    new = images(50, 2)
    values = torch.from_numpy(new.images).movedim(1, -1).reshape(-1, 2)
    true = MIXTURE.log_density(values / STRETCH) - STRETCH.log().sum()
    found = detector.log_density(new).reshape(-1)
    assert found.mean() == pytest.approx(true.mean().item(), abs=0.05)
    assert np.corrcoef(found, true.numpy())[0, 1] > 0.95

    (logged,) = [entry for entry in entries if "log_likelihood" in entry]
    whitened = true.mean().item() + detector.whitening.scale.log().sum().item()
    assert logged["log_likelihood"] == pytest.approx(whitened, abs=0.1)
    assert logged["log_likelihood"] > logged["log_likelihood_of_a_gaussian"] + 0.05
    assert logged["log_z"] == pytest.approx(logged["log_z_drawn"], abs=0.05)


def test_what_varies_less_than_the_noise_is_left_to_the_gaussian(tmp_path):
    """The third value of a place hardly varies, so its density is that of the noise."""
    known = images(100, 0)
    third = 1e-3 * np.random.default_rng(0).normal(size=(100, 1, 4, 4))
    known = Batch(np.concatenate([known.images, third], 1, dtype=np.float32), known.foreground)
    detector = small_nce(training={"steps": 1}, shrinkage=1e-3)
    detector.fit(known, known[:20], context=TrainContext(0, "cpu", tmp_path))
    assert detector.learned == 2

    odd = Batch(known.images[:1].copy(), known.foreground[:1])
    odd.images[:, 2] += 0.2
    change = detector.log_density(known[:1]) - detector.log_density(odd)
    noise = float(detector.whitening.scale[0])
    assert change == pytest.approx(np.full((1, 4, 4), 0.02 / noise**2), rel=0.1)


@pytest.mark.parametrize("noise", ["gaussian", "flow"])
def test_every_form_reloads_and_keeps_company(noise, tmp_path):
    quick = TRAINING | {"steps": 5}
    detector = fitted(tmp_path, noise=noise, training=quick)
    new = images(18, 3)
    together = detector.score(new, seeds=image_seeds(list(new.images)))
    assert np.isfinite(together.image).all()
    last = new[np.array([17])]
    again = small_nce(noise=noise, training=quick)
    again.load_state(detector.state(), device="cpu")
    alone = again.score(last, seeds=image_seeds(list(last.images)))
    assert np.allclose(alone.image, together.image[17:], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 5}, "images of 4 pixels are smaller than a window of 5"),
        ({"stride": 2}, "stride: 2 is larger than the window"),
        ({"pattern": "on"}, "for features, not for pixels"),
        ({"noise": "gaussian", "couplings": 3}, "couplings: only a flow has any"),
    ],
)
def test_settings_that_cannot_be(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        fitted(tmp_path, **settings)


def test_single_values_and_too_few_places_are_refused(tmp_path):
    grey = Batch(images(20, 0).images[:, :1], np.ones((20, 4, 4), bool))
    with pytest.raises(ConfigError, match="single values"):
        fitted(tmp_path, grey)
    with pytest.raises(DataError, match="need 64 places that do not overlap, these images have 20"):
        fitted(tmp_path, images(20, 0), window=4)
