"""The parts of `gan` against closed forms and autograd by hand."""

import math
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from anodetect.config import build
from anodetect.detectors import gan
from anodetect.detectors.gan import GAN, GANConfig, GANNet
from anodetect.errors import ConfigError, DataError
from anodetect.generative import adversarial
from anodetect.generative.chains import EnergyFacts
from anodetect.nn.training import TrainingBatch
from anodetect.types import Batch, TrainContext

TINY = {"latents": 4, "width": 16, "blocks": 1, "stem": 4, "critic_stem": 2}


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + n) for n in range(count)]


# -- The gradient penalty --------------------------------------------------------------------------


def wavy(weights):
    """Return E(x) = Σ sin(w·x) of images [N, 1, 2, 2], with four weights."""
    return lambda x: torch.sin(weights * x.flatten(1)).sum(1)


def test_the_slope_is_the_length_of_the_gradient_between_two_images():
    """∂E/∂x_i = w_i cos(w_i x_i), at the place that the image's own generator draws."""
    real, made = torch.randn(2, 3, 1, 2, 2, generator=generators(1)[0])
    weights = torch.tensor([0.5, 1.0, -1.5, 2.0])
    slopes = adversarial.slopes_between(wavy(weights), real, made, generators(3)).detach()
    for n, rng in enumerate(generators(3)):
        share = float(torch.rand(1, generator=rng))
        place = (share * real[n] + (1 - share) * made[n]).flatten()
        assert float(slopes[n]) == pytest.approx(
            float((weights * torch.cos(weights * place)).norm()), rel=1e-5
        )


def test_the_penaltys_gradient_is_that_of_finite_differences():
    real, made = torch.randn(2, 3, 1, 2, 2, generator=generators(1)[0], dtype=torch.float64)
    start = torch.tensor([0.5, 1.0, -1.5, 2.0], dtype=torch.float64)

    def penalty(weights):
        slopes = adversarial.slopes_between(wavy(weights), real, made, generators(3))
        return adversarial.gradient_penalty(slopes)

    weights = start.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(penalty(weights), weights)
    for number in range(4):
        step = 1e-5 * nn.functional.one_hot(torch.tensor(number), 4)
        expected = (penalty(start + step) - penalty(start - step)).detach() / 2e-5
        assert float(found[number]) == pytest.approx(float(expected), rel=1e-4)


def test_a_penalty_is_small_where_the_slope_is_one():
    slopes = torch.tensor([1.0, 1.0])
    assert adversarial.gradient_penalty(slopes) == 0
    assert adversarial.gradient_penalty(slopes + 0.5) == pytest.approx(0.25)
    assert adversarial.gradient_penalty(slopes - 0.5) == pytest.approx(0.25)


def test_a_linear_discriminator_learns_the_difference_of_means():
    """E = w·x: the loss is least at w = −(1 + |δ| / 2λ) · δ / |δ|, δ the difference of means."""
    rng = generators(1)[0]
    real = torch.randn(40, 1, 2, 2, generator=rng) + torch.tensor([[[3.0, 0.0], [0.0, 4.0]]])
    made = torch.randn(40, 1, 2, 2, generator=rng)
    w, weight = torch.full((4,), 0.1, requires_grad=True), 10.0
    energy = lambda x: x.flatten(1) @ w  # noqa: E731
    search = torch.optim.SGD([w], lr=0.02)
    for _ in range(2000):
        slopes = adversarial.slopes_between(energy, real, made, generators(40))
        penalty = weight * adversarial.gradient_penalty(slopes)
        loss = energy(real).mean() - energy(made).mean() + penalty
        search.zero_grad()
        loss.backward()
        search.step()

    difference = (real.mean(0) - made.mean(0)).flatten()
    length = float(difference.norm())
    assert torch.allclose(w, -(1 + length / (2 * weight)) * difference / length, atol=1e-3)


def test_the_energy_of_an_image_is_the_sum_over_the_root_of_the_number_of_places():
    local = torch.randn(3, 4, 5)
    assert torch.allclose(
        adversarial.image_energy(local), local.flatten(1).sum(1) / math.sqrt(20), atol=1e-5
    )


# -- The watch over the game -----------------------------------------------------------------------


def test_made_images_that_are_all_alike_are_seen():
    real = torch.randn(8, 1, 4, 4)
    assert adversarial.variety(real, 0.5 * real) == pytest.approx(0.5)
    healthy = EnergyFacts(energy_gap=-0.3, energy_scale=0.5)
    collapsed = adversarial.variety(real, real[:1].expand(8, -1, -1, -1))
    assert adversarial.game_instability(healthy, 1.0, collapsed) == pytest.approx(5.0)
    assert adversarial.game_instability(healthy, 1.0, 0.3) == 0
    assert adversarial.game_instability(healthy, 1.0, 1.7) == 0
    away = EnergyFacts(energy_gap=-9.0, energy_scale=120.0)
    assert adversarial.game_instability(away, 1.0, 1.0) > 20
    assert math.isnan(adversarial.game_instability(EnergyFacts(math.nan, 1.0), 1.0, 1.0))


# -- The detector ----------------------------------------------------------------------------------


def made_gan(**settings):
    torch.manual_seed(0)
    detector = GAN(GANConfig.model_validate(TINY | settings))
    detector.grid = 4
    return detector, GANNet(detector.config, 1)


def test_each_player_leaves_the_others_weights_alone():
    """The generator learns in every third step, the others in all, each by its own loss."""
    detector, net = made_gan(critic_steps=3)
    real = torch.randn(4, 1, 16, 16)
    for step in range(1, 7):
        net.zero_grad()
        detector._game(net, TrainingBatch(real, generators(4), 0.0, np.arange(4))).total.backward()
        assert all(p.grad is not None for p in net.critic.parameters())
        assert all((p.grad is not None) == (step % 3 == 0) for p in net.generator.parameters())

    found = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    z = torch.stack([torch.randn(4, 4, 4, generator=rng) for rng in generators(4)])
    made = net.generator(z)
    net.image_energy(made).mean().backward()
    for name, p in net.generator.named_parameters():
        assert torch.allclose(p.grad, found[f"generator.{name}"], atol=1e-5)
    (net.encode(made.detach()) - z).square().mean().backward()
    for name, p in net.encoder.named_parameters():
        assert torch.allclose(p.grad, found[f"encoder.{name}"], atol=1e-5)


def descend(loss, parameters, steps):
    search = torch.optim.Adam(parameters, 3e-3)
    for _ in range(steps):
        search.zero_grad()
        total = loss()
        total.backward()
        search.step()
    return float(total.detach())


def test_the_encoder_finds_what_the_generator_makes():
    """Images that the generator made are encoded almost without a residual, others are not."""
    detector, net = made_gan(latents=2, kappa=0.0)
    z = torch.randn(64, 2, 4, 4, generator=generators(1)[0])
    with torch.no_grad():
        images = net.generator(z)
    variance = float(images.var())
    batch = TrainingBatch(images, generators(64), 0.9, np.arange(64))
    with mock.patch.object(gan, "autocast", lambda device: nullcontext()):
        before = float(detector._encoding(net, batch, variance).total.detach())
        after = descend(
            lambda: detector._encoding(net, batch, variance).total, net.encoder.parameters(), 300
        )
        other = TrainingBatch(-images.flip(2), generators(64), 0.9, np.arange(64))
        assert after < 0.05 < 0.5 * before
        assert float(detector._encoding(net, other, variance).total.detach()) > 10 * after


def test_the_encoders_loss_is_f_anogans():
    detector, net = made_gan(kappa=0.7)
    x = torch.randn(3, 1, 16, 16)
    batch = TrainingBatch(x, generators(3), 0.9, np.arange(3))
    with mock.patch.object(gan, "autocast", lambda device: nullcontext()):
        losses = detector._encoding(net, batch, 2.0)
    restored = net.generator(net.encode(x))
    hidden = (net.critic.hidden(x) - net.critic.hidden(restored)).square().mean()
    expected = (x - restored).square().mean() / 2.0 + 0.7 * hidden
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-5)
    losses.total.backward()
    assert all(p.grad is None for p in [*net.generator.parameters(), *net.critic.parameters()])
    assert all(p.requires_grad for p in net.parameters())


def test_the_maps_are_energy_and_residual():
    detector, net = made_gan(kappa=0.7)
    detector.net = net.eval().requires_grad_(False)
    x = torch.randn(2, 1, 16, 16)
    with mock.patch.object(gan, "autocast", lambda device: nullcontext()):
        maps, restored = (each.numpy() for each in detector._maps_of(x))
    assert np.allclose(restored, net.generator(net.encode(x)).numpy(), atol=1e-5)
    hidden = (net.critic.hidden(x) - net.critic.hidden(torch.from_numpy(restored))).square()
    coarse = torch.stack([net.local_energy(x), hidden.mean(1)], 1)
    fine = nn.functional.interpolate(coarse, (16, 16), mode="bilinear")
    residual = (x - torch.from_numpy(restored)).square().mean(1)
    assert np.allclose(maps[:, 0], fine[:, 0], atol=1e-5)
    assert np.allclose(maps[:, 1], residual + 0.7 * fine[:, 1], atol=1e-5)


def test_encoded_latents_are_bounded():
    _, net = made_gan()
    latents = net.encode(1e4 * torch.randn(2, 1, 16, 16))
    assert latents.abs().max() <= gan.FARTHEST


def images(count):
    return Batch(np.zeros((count, 1, 16, 16), np.float32), np.ones((count, 16, 16), bool))


@pytest.mark.parametrize(
    ("changes", "count", "error", "message"),
    [
        ({}, 15, DataError, "needs 16 images"),
        ({"stem": 3}, 20, ConfigError, "not a multiple of 3, detector.stem"),
        ({"critic_stem": 3}, 20, ConfigError, "not a multiple of 3, detector.critic_stem"),
        ({"critic_stem": 4}, 20, ConfigError, "receptive field of 20"),
    ],
)
def test_gan_settings_that_cannot_be(changes, count, error, message, tmp_path):
    detector = GAN(GANConfig.model_validate(TINY | changes))
    with pytest.raises(error, match=message):
        detector.fit(images(count), images(count), context=TrainContext(0, "cpu", tmp_path))


def test_gan_refuses_patterns():
    with pytest.raises(ConfigError, match="surroundings"):
        GAN(GANConfig(pattern="on"))


# -- Returns to good weights -----------------------------------------------------------------------


def collapse(net):
    """Let the generator make the same image of all latents."""
    net.generator.net.last.weight.zero_()


def run_away(net):
    """Raise the energies of all images alike, so that their gap stays as it is."""
    net.critic.last.bias += 1e4


@pytest.mark.parametrize("spoil", [collapse, run_away])
def test_a_game_that_is_lost_returns_to_good_weights(spoil, tmp_path):
    """From step 60 on the net is spoiled, until training has returned to the weights of step 50."""
    rng = np.random.default_rng(0)
    known = Batch(0.5 * rng.normal(size=(20, 1, 16, 16)).astype(np.float32), images(20).foreground)
    quick = {
        "steps": 90,
        "batch": 64,
        "augment": {"rotation": 0, "scale": 0, "shift": 0, "flip": 0},
    }
    detector = GAN(build(GANConfig, TINY | {"pretraining": 0.99, "training": quick}, "gan"))
    steps, entries = [], []

    def game(net, batch):
        steps.append(batch.returns)
        if len(steps) >= 60 and not batch.returns:
            with torch.no_grad():
                spoil(net)
        return GAN._game(detector, net, batch)

    detector._game = game
    detector.fit(known, known, context=TrainContext(0, "cpu", tmp_path, log=entries.append))
    (returned,) = [entry for entry in entries if "returned_to_step" in entry]
    assert returned == {"returned_to_step": 50, "rate_factor": pytest.approx(0.3)}
    assert 60 <= steps.index(1) < 80
    last = [entry for entry in entries if "variety" in entry][-1]
    assert last["variety"] > 0.1
    assert last["energy_scale"] < 10

    z = torch.stack([torch.randn(4, 4, 4, generator=rng) for rng in generators(20)])
    made = detector.net.generator(z)
    assert adversarial.variety(torch.from_numpy(known.images), made) > 0.1
    assert detector.net.local_energy(made).abs().max() < 10


# -- Images that it makes --------------------------------------------------------------------------

LINEAR = np.array(
    [[0.9, 0.3, 0.0, 0.0], [0.0, 0.7, -0.4, 0.0], [0.2, 0.0, 1.1, 0.1], [0, 0, 0, 0.5]]
)
WANTED = np.array([0.5, -1.0, 0.25, 2.0])  # the image with the least energy
STIFF = 20.0  # of the energy


class LinearNet:
    """A generator x = A z of images of 2 × 2 pixels, the energy STIFF/2 · |x − WANTED|², and the
    encoder that inverts the generator."""

    matrix = torch.tensor(LINEAR, dtype=torch.float32)

    def generator(self, z):
        return (z.flatten(1) @ self.matrix.T).reshape(-1, 1, 2, 2)

    def encode(self, x):
        return (x.flatten(1) @ torch.linalg.inv(self.matrix).T)[..., None, None]

    def image_energy(self, x):
        wanted = torch.tensor(WANTED, dtype=torch.float32)
        return STIFF / 2 * (x.flatten(1) - wanted).square().sum(1)


@pytest.mark.parametrize("start", [None, np.array([[[1.0, 0.0], [-0.5, 1.0]]], np.float32)])
def test_chains_of_latents_are_the_autoregression_that_a_linear_generator_gives(start):
    """With |z|²/2 + E(A z) = zᵀHz/2 − gᵀz + …, a step is z ← (1 − sH) z + s g + √(2s) noise, whose
    mean and covariance after T steps are sums of geometric series."""
    detector = GAN(GANConfig.model_validate(TINY))
    detector.net, detector.grid = LinearNet(), 1
    made = detector.sample(10_000, seed=0, start=start)
    assert len(made.chain) == gan.STATES + 1 + (start is not None)
    assert made.chain.shape[1:] == (10_000, 1, 2, 2)

    s, count, one = gan.LANGEVIN_STEP, gan.STATES, np.eye(4)
    curvature, pull = one + STIFF * LINEAR.T @ LINEAR, STIFF * LINEAR.T @ WANTED
    step = one - s * curvature
    whole = np.linalg.matrix_power(step, count)
    before, spread = np.zeros(4), one
    if start is not None:
        before, spread = np.linalg.solve(LINEAR, start.flatten()), 0 * one
        assert np.allclose(made.chain[:2], start, atol=1e-5)
    mean = whole @ before + (one - whole) @ np.linalg.solve(curvature, pull)
    noise = 2 * s * (one - whole @ whole) @ np.linalg.inv(one - step @ step)
    covariance = LINEAR @ (whole @ spread @ whole + noise) @ LINEAR.T

    found = made.images.reshape(10_000, 4)
    error = np.sqrt(np.diag(covariance) / 10_000)
    assert (np.abs(found.mean(0) - LINEAR @ mean) < 4 * error).all()
    assert np.allclose(np.cov(found.T), covariance, atol=0.05 * np.diag(covariance).max())
