"""The parts of `ebm` and `jem` against closed forms and brute force."""

import itertools
import math
import os
import signal
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

import anodetect
from anodetect.config import build
from anodetect.detectors import ebm, jem
from anodetect.errors import ConfigError, DataError, Interrupted
from anodetect.generative import denoised_energy, diffusion, joint, labels
from anodetect.generative.chains import (
    BUFFER_BYTES,
    ChainConfig,
    ChainFacts,
    Chains,
    EnergyFacts,
    contrastive_divergence,
    instability,
)
from anodetect.generative.samples import arc, chain_generators
from anodetect.nn.local import LocalNet, receptive_field
from anodetect.nn.training import Trained, TrainingBatch
from anodetect.output import report
from anodetect.record import runs
from anodetect.types import Batch, TrainContext

IMAGES = np.random.default_rng(0).normal(0.2, 0.5, (40, 1, 4, 4)).astype(np.float32)


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed + n) for n in range(count)]


# -- Chains ----------------------------------------------------------------------------------------


def gaussian_energy(x):
    return ((x - 0.2) ** 2).flatten(1).sum(1) / (2 * 0.25)


def chains(**settings):
    return Chains(ChainConfig(**settings), IMAGES)


UNIT = torch.full((400, 1, 1, 1), 0.5)


def test_chains_end_at_the_energys_own_distribution():
    runner = chains(
        chain="short-run",
        informative=False,
        langevin_steps=200,
        langevin_step=0.05,
        temperature=1.0,
    )
    start = torch.zeros(400, 1, 4, 4)
    ends, facts = runner.run(gaussian_energy, start, generators(400), unit=UNIT)
    assert float(ends.mean()) == pytest.approx(0.2, abs=0.02)
    assert float(ends.std()) == pytest.approx(0.5, rel=0.05)
    assert facts.saturated < 0.01
    assert facts.langevin_gradient == pytest.approx(
        1.0, rel=0.2
    )  # of N(0, 1), in units of its deviation


def test_a_chain_from_data_starts_there_and_a_step_is_bounded():
    runner = chains(chain="data", langevin_steps=1, temperature=0.0, proximal=0.01)
    start = torch.full((2, 1, 4, 4), 1.2)
    ends, _ = runner.run(gaussian_energy, start, generators(2), unit=UNIT[:2])
    assert torch.allclose(ends, start - 0.01 * 0.5)


def test_chains_stay_within_the_images_range():
    runner = chains(
        chain="data", langevin_steps=3, langevin_step=1.0, temperature=0.0, proximal=100.0
    )
    uphill = lambda x: -100 * x.flatten(1).sum(1)  # noqa: E731
    ends, facts = runner.run(uphill, torch.zeros(2, 1, 4, 4), generators(2), unit=UNIT[:2])
    room = 0.1 * (IMAGES.max() - IMAGES.min())
    assert torch.allclose(ends, torch.full_like(ends, float(IMAGES.max() + room)))
    assert facts.saturated == 1.0


def test_replayed_chains_go_on_where_they_ended():
    runner = chains(
        chain="replay", buffer=1, renewed=0.0, langevin_steps=1, langevin_step=0.1, temperature=0.0
    )
    start = torch.zeros(1, 1, 4, 4)
    first, _ = runner.run(gaussian_energy, start, generators(1), unit=UNIT[:1])
    second, _ = runner.run(gaussian_energy, start, generators(1), unit=UNIT[:1])
    assert torch.allclose(second - 0.2, 0.9 * (first - 0.2), atol=1e-6)
    renewing = chains(chain="replay", buffer=1, renewed=1.0, langevin_steps=1, temperature=0.0)
    again = [
        renewing.run(gaussian_energy, start, generators(1), unit=UNIT[:1])[0] for _ in range(2)
    ]
    assert torch.equal(*again)


def test_what_ended_on_a_diverged_energy_is_not_replayed():
    runner = chains(chain="replay", buffer=1, renewed=0.0, langevin_steps=1, temperature=0.0)
    start, ends = torch.zeros(1, 1, 4, 4), []
    for returns in (0, 0, 1, 1):
        ends.append(
            runner.run(gaussian_energy, start, generators(1), unit=UNIT[:1], returns=returns)[0]
        )
    assert not torch.equal(ends[1], ends[0])
    assert torch.equal(
        torch.stack(ends[2:]), torch.stack(ends[:2])
    )  # begun anew, from the same generators


HEALTHY = {"energy_gap": -0.5, "energy_scale": 0.3, "saturated": 0.05}


def instability_of(facts):
    energies = EnergyFacts(facts["energy_gap"], facts["energy_scale"])
    return instability(energies, ChainFacts(1.0, facts["saturated"]))


@pytest.mark.parametrize(
    ("facts", "least"),
    [
        ({"energy_gap": -9.0}, 4.0),
        ({"energy_gap": 9.0}, 4.0),
        ({"energy_scale": 120.0}, 20.0),
        ({"energy_gap": 0.0, "energy_scale": 0.0}, 5.0),
        ({"saturated": 1.0}, 5.0),
    ],
)
def test_collapse_and_flight_of_energies_are_seen(facts, least):
    assert instability_of(HEALTHY | facts) == pytest.approx(least)


def test_healthy_energies_are_not_taken_for_diverged_ones():
    assert instability_of(HEALTHY) == 0
    assert instability_of({"energy_gap": 4.9, "energy_scale": 20.0, "saturated": 0.8}) == 0
    assert instability_of({"energy_gap": 0.001, "energy_scale": 0.001, "saturated": 0.0}) == 0


@pytest.mark.parametrize("name", HEALTHY)
def test_energies_that_are_not_numbers_are_seen(name):
    assert math.isnan(instability_of(HEALTHY | {name: math.nan}))


def test_chains_of_one_shelf_are_not_replayed_on_another():
    config = ChainConfig(chain="replay", buffer=2, renewed=0.0, langevin_steps=1, temperature=0.0)
    runner = Chains(config, IMAGES, partitions=2)
    start, anew = torch.zeros(1, 1, 4, 4), []
    for shelf in (0, 1):
        ends, _ = runner.run(
            gaussian_energy, start, generators(1), unit=UNIT[:1], partitions=[shelf]
        )
        anew.append(ends)
    assert torch.equal(*anew)  # both began anew, from the same generator
    assert set(runner.ends) == {(0, 0), (1, 0)}


def test_what_is_not_finite_is_not_replayed():
    runner = chains(chain="replay", buffer=1)
    runner.run(
        lambda x: (x * math.nan).flatten(1).sum(1),
        torch.zeros(1, 1, 4, 4),
        generators(1),
        unit=UNIT[:1],
    )
    assert not runner.ends


def test_the_buffer_is_bounded_in_memory():
    runner, large = chains(chain="replay"), torch.zeros(16, 64, 256, 256)
    places = {
        place
        for n in range(50)
        for _, place in runner._draw_slots(large, generators(16, n), [0] * 16)
    }
    assert max(places) * 4 * large[0].numel() < BUFFER_BYTES


def test_an_informative_start_has_the_images_moments():
    images = np.random.default_rng(0).normal(0, 0.1, (500, 1, 4, 4)).astype(np.float32)
    images[:, :, 0] += 1
    runner = Chains(ChainConfig(chain="short-run", langevin_steps=1, langevin_step=1e-9), images)
    ends, _ = runner.run(gaussian_energy, torch.zeros(400, 1, 4, 4), generators(400), unit=UNIT)
    assert torch.allclose(ends.mean(0)[0], torch.from_numpy(images.mean(0)[0]), atol=0.03)
    windows, _ = runner.run(gaussian_energy, torch.zeros(400, 1, 2, 2), generators(400), unit=UNIT)
    assert float(windows.std()) == pytest.approx(images.std(), rel=0.05)


@pytest.mark.parametrize("chain", ["data", "replay", "short-run"])
def test_a_chain_does_not_depend_on_its_company(chain):
    start = torch.zeros(4, 1, 4, 4)
    together, _ = chains(chain=chain).run(gaussian_energy, start, generators(4), unit=UNIT[:4])
    alone, _ = chains(chain=chain).run(gaussian_energy, start[3:], generators(4)[3:], unit=UNIT[:1])
    assert torch.allclose(together[3:], alone)


def test_contrastive_divergence_teaches_the_mean():
    """E(x) = (x − m)²/2 with chains on it: m goes to the mean of the images."""
    m = nn.Parameter(torch.tensor(-0.5))
    optimizer, rng = torch.optim.SGD([m], 0.1), generators(64)
    energy = lambda x: (x - m).square().flatten(1).sum(1) / 2  # noqa: E731
    runner, x = chains(chain="data", langevin_steps=10, temperature=1.0), torch.from_numpy(IMAGES)
    for _ in range(200):
        ends, _ = runner.run(energy, x, rng[: len(x)], unit=torch.ones(len(x), 1, 1, 1))
        loss, facts = contrastive_divergence(energy(x) / 16, energy(ends) / 16, 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert m.item() == pytest.approx(float(x.mean()), abs=0.1)
    assert abs(facts.energy_gap) < 0.5


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match="16 images"):
        Chains(ChainConfig(), IMAGES[:15])


# -- EBM -------------------------------------------------------------------------------------------


class GaussianDenoiser(nn.Module):
    """The exact denoiser of x_0 ~ N(m, s²)."""

    def __init__(self, mean=0.3, variance=0.25):
        super().__init__()
        self.mean, self.variance, self.schedule = mean, variance, diffusion.linear_schedule()

    def forward(self, x, t):
        a = self.schedule[t][:, None, None, None]
        return self.mean + a.sqrt() * self.variance / (a * self.variance + 1 - a) * (
            x - a.sqrt() * self.mean
        )


def test_local_energy_is_half_the_squared_score_of_noisy_images():
    net, t = GaussianDenoiser(), torch.tensor([5, 100, 900])
    x = torch.randn(3, 1, 4, 4)
    a = net.schedule[t][:, None, None, None]
    score = -(x - a.sqrt() * 0.3) / (a * 0.25 + 1 - a)
    assert torch.allclose(
        denoised_energy.local_energy(net, x, t), (1 - a) * score.square() / 2, rtol=1e-3, atol=1e-5
    )


def test_hessian_vector_product_is_the_hessian_times_a_direction():
    energy = lambda x: (x.sin() * x.roll(1, -1).square()).flatten(1).sum(1)  # noqa: E731
    x, direction = torch.randn(1, 1, 2, 3), torch.randn(1, 1, 2, 3)
    hessian = torch.autograd.functional.hessian(lambda v: energy(v).sum(), x).reshape(6, 6)
    assert torch.allclose(
        denoised_energy.hessian_vector_product(energy, x, direction).flatten(),
        hessian @ direction.flatten(),
        atol=1e-5,
    )


def made_ebm(**settings):
    detector = ebm.EBM(build(ebm.EBMConfig, {"local": 0.0, "noise": "gaussian"} | settings, "ebm"))
    detector.net, detector.channels = GaussianDenoiser(), 1
    detector.noise = ebm.denoiser.noise_source(detector.config, 16)
    return detector


def small_ebm(**settings):
    """With a tiny network of random weights."""
    torch.manual_seed(0)
    detector = made_ebm(widths=(16,), stem=1, **settings)
    net = ebm.denoiser.build(detector.config, 1, torch.device("cpu"))
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    detector.net = net.eval().requires_grad_(False)
    return detector


def descent(detector, y, t):
    step, count = detector.config.langevin_step, detector.config.score_steps
    return denoised_energy.descend(detector.net, y, t, step, count)


def test_inversions_gradient_is_that_of_the_whole_chain():
    detector = small_ebm(score="inversion", score_steps=3, iterations=1, langevin_step=1.0)
    grads = []

    class Noting:
        def __init__(self, parameters, lr):
            self.parameters = parameters

        def step(self):
            grads.extend(p.grad for p in self.parameters)

    x, t = torch.randn(2, 1, 16, 16), torch.tensor([200, 250])
    energy = denoised_energy.total_energy(detector.net, t)
    unit = denoised_energy.noise_deviation(detector.net, t)
    target = denoised_energy.amplitude(detector.net, t) * x
    rate = denoised_energy.INVERSION_RATE * unit
    z = (detector._noised(x, t, generators(2)) / rate).requires_grad_(True)
    with mock.patch.object(denoised_energy, "autocast", lambda device: nullcontext()):
        with mock.patch.object(torch.optim, "Adam", Noting):
            detector._inverted(x, t, generators(2))
        y = z * rate
        for _ in range(3):
            (slope,) = torch.autograd.grad(energy(y).sum(), y, create_graph=True)
            y = y - detector.config.langevin_step * unit**2 * slope
        assert torch.allclose(y, descent(detector, z.detach() * rate, t)[-1], atol=1e-5)
        (whole,) = torch.autograd.grad((y - target).square().sum() / 2, z)
    straight = (y - target) * rate  # as if the chain were not there
    assert (grads[0] - whole).norm() < 1e-3 * whole.norm() < 1e-2 * (straight - whole).norm()


class Remembering(Chains):
    """Chains that keep what their first run ended with."""

    first = None

    def run(self, *arguments, **options):
        ends, facts = super().run(*arguments, **options)
        self.first = ends if self.first is None else self.first
        return ends, facts


def descend(net, loss, steps=20):
    """Gradient steps on a loss."""
    search = torch.optim.Adam(net.requires_grad_(True).parameters(), 1e-3)
    for _ in range(steps):
        search.zero_grad()
        loss().backward()
        search.step()


def test_ebms_contrast_lowers_normal_images_energy_below_that_of_chains_ends():
    detector, images = small_ebm(levels=[250], penalty=0.0), torch.randn(16, 1, 8, 8)
    net, runner = detector.net, Remembering(detector.config, images.numpy())
    t = torch.full((16,), 250)

    def gap():
        normal = denoised_energy.amplitude(net, t) * images
        low, high = (denoised_energy.local_energy(net, y, t) for y in (normal, runner.first))
        return (low - high).mean().item()

    def contrast():
        return detector._contrast(
            net, TrainingBatch(images, generators(16), 1.0, np.arange(16)), runner
        )[0]

    detector.noise = ebm.denoiser.noise_source(detector.config, 8)
    with mock.patch.object(
        denoised_energy, "autocast", lambda device: nullcontext()
    ):  # slow where so little is computed
        contrast()
        before = gap()
        descend(net, contrast)
        assert gap() < before - 0.01


def test_inversion_comes_nearer_than_the_chain_from_the_image():
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([250, 250])
    detector = made_ebm(score="inversion", score_steps=5, iterations=60)
    nearest, cheap = (
        detector._inverted(x, t, generators(2)),
        detector._short_run(x, t, generators(2)),
    )
    assert (nearest - x).square().mean() < 0.2 * (cheap - x).square().mean()


def test_a_short_run_goes_down_the_energy():
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([100, 100])
    detector = made_ebm(score="reconstruction")
    path = descent(detector, x, t)
    energies = [float(denoised_energy.total_energy(detector.net, t)(y).sum()) for y in path]
    assert all(later < earlier for earlier, later in itertools.pairwise(energies))


def test_images_between_two_starts_are_those_of_chains_without_noise():
    """For a linear denoiser the end is a linear function of the start, the same at every pixel."""
    detector = made_ebm()
    made = detector.interpolate(5, seed=3)
    starts = arc(*detector.noise(chain_generators(3, 2), 1), 5)
    assert made.shape == (5, 1, 16, 16)
    slope, offset = np.polyfit(starts.flatten(), made.flatten(), 1)
    assert np.allclose(made, slope * starts.numpy() + offset, atol=1e-3)
    assert slope > 0.01
    assert np.array_equal(made, detector.interpolate(5, seed=3))
    assert not np.allclose(made, detector.interpolate(5, seed=4), atol=0.01)


def test_chains_that_make_images_have_the_temperature_of_training():
    """For a linear denoiser the noise of chains is added to what they end with without it."""
    cold, warm, hot = (
        made_ebm(temperature=temperature).sample(3, seed=1).images
        for temperature in (0.0, 0.01, 1.0)
    )
    noise = made_ebm().noise(chain_generators(1, 3), 1)
    assert np.allclose(cold, made_ebm()._annealed(torch.zeros_like(noise), noise, None)[-1])
    assert np.std(warm - cold) > 0.01
    assert np.allclose(hot - cold, 10 * (warm - cold), atol=1e-3)


def test_inpainting_never_sees_what_it_hides():
    detector = small_ebm(score="inpaint", hidden=4, score_steps=3)
    x, t = torch.randn(1, 1, 16, 16), torch.tensor([10])
    other = x.clone()
    other[..., 4:8, 8:12] += 3
    made, changed = (detector._inpainted(each, t, generators(1)) for each in (x, other))
    assert torch.allclose(made[..., 4:8, 8:12], changed[..., 4:8, 8:12], atol=1e-5)
    assert not torch.allclose(made, changed, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": []}, "levels"),
        ({"levels": [300]}, "1 … trained_to"),
        ({"score": "inpaint", "network": "mlp"}, "neighbours"),
    ],
)
def test_ebm_settings_that_cannot_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        made_ebm(**settings)


# -- JEM -------------------------------------------------------------------------------------------


def test_a_place_sees_its_receptive_field_and_no_more():
    torch.manual_seed(0)
    net, x = LocalNet(1, 3, 16, blocks=2, stem=2), torch.randn(1, 1, 32, 32)
    slopes = torch.autograd.functional.jacobian(lambda v: net(v)[0, 0, 8, 8], x)[0, 0].abs()
    seen = slopes.nonzero()
    sides = seen.max(0).values - seen.min(0).values + 1
    assert sides.tolist() == [receptive_field(2, 2)] * 2


def test_free_energy_is_minus_the_log_of_the_sum_over_classes():
    net, x = LocalNet(1, 3, 16, blocks=1, stem=2), torch.randn(2, 1, 8, 8)
    expected = -net(x).double().exp().sum(1).log()
    assert torch.allclose(
        joint.free_energy(net, x).double(), expected, atol=2e-2
    )  # bfloat16 where there is


@pytest.mark.parametrize("number", range(labels.TRANSFORMATIONS))
def test_transformations_are_eight_and_come_back(number):
    x = torch.arange(9.0).reshape(1, 3, 3)
    assert torch.equal(labels.transformed_back(labels.transformed(x, number), number), x)
    others = [
        labels.transformed(x, other) for other in range(labels.TRANSFORMATIONS) if other != number
    ]
    assert not any(torch.equal(labels.transformed(x, number), other) for other in others)


def test_positions_are_the_parts_of_the_image():
    expected = np.arange(16).reshape(4, 4).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(labels.positions(torch.zeros(1, 1, 32, 32), 4)[0].numpy(), expected)


def test_contrast_of_places_is_a_share_among_places():
    logits, y = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    rows, own = logits.movedim(1, -1).reshape(-1, 3), y.flatten()
    shares = [math.log(rows[:, own[n]].exp().sum() / rows[n, own[n]].exp()) for n in range(32)]
    assert float(joint.hdge_loss(logits, y, generators(1)[0])) == pytest.approx(
        np.mean(shares) - math.log(32), abs=1e-4
    )


def jem_of(**settings):
    small = {"width": 16, "blocks": 1, "stem": 2, "training": {"steps": 6}}
    return jem.JEM(build(jem.JEMConfig, small | settings, "jem"))


def batch(images, kinds=None):
    return Batch(images.astype(np.float32), np.ones((len(images), *images.shape[2:]), bool), kinds)


def fitted(tmp_path, images, kinds=None, **settings):
    detector = jem_of(**settings)
    half = len(images) // 2
    parts = (
        batch(images[rows], None if kinds is None else kinds[rows])
        for rows in (slice(half), slice(half, None))
    )
    detector.fit(*parts, context=TrainContext(0, "cpu", tmp_path))
    return detector


def pictures(kind, count=48, size=16):
    rng = np.random.default_rng(1)
    images = 0.1 * rng.normal(size=(count, 1, size, size))
    if kind == "ramp":  # has a direction, and the same at every place
        images = (
            0.02 * images + np.linspace(-1, 1, size)[:, None] + rng.uniform(-1, 1, (count, 1, 1, 1))
        )
    if kind == "cross":  # looks the same from every side, and different at every place
        far = np.abs(np.linspace(-1, 1, size))
        images = 0.02 * images + far[:, None] + far
    return images


def test_jems_contrast_lowers_normal_images_energy_below_that_of_chains_ends():
    detector = jem_of(
        labels="position", penalty=0.0, local=0.0, noise="gaussian", pretraining=0.0, weight=1.0
    )
    normal = batch(pictures("cross", count=16))
    images, runner = torch.from_numpy(normal.images), Remembering(detector.config, normal.images)
    torch.manual_seed(0)
    net = detector._build(1, 16)
    detector.noise, detector.schedule = (
        jem.denoiser.noise_source(detector.config, 16),
        diffusion.linear_schedule(),
    )

    def gap():
        return (
            joint.free_energy(net, images).mean() - joint.free_energy(net, runner.first).mean()
        ).item()

    def contrast():
        return detector._loss(
            net, TrainingBatch(images, generators(16), 1.0, np.arange(16)), normal, runner
        ).total

    with mock.patch.object(
        jem.F, "cross_entropy", return_value=torch.tensor(0.0)
    ):  # the generative term alone
        contrast()
        before = gap()
        descend(net, contrast)
    assert gap() < before - 0.01


@pytest.mark.parametrize(
    "detector", [jem_of(labels="position"), made_ebm(widths=(16,), stem=1)], ids=["jem", "ebm"]
)
def test_too_few_images_to_learn_an_energy_from_are_refused(tmp_path, detector):
    few = batch(pictures("cross", count=15))
    with pytest.raises(DataError, match="an energy needs 16 images to learn from, there are 15"):
        detector.fit(few, few, context=TrainContext(0, "cpu", tmp_path))


def test_stopping_a_trial_leaves_no_checkpoint(tmp_path):
    assign_labels = jem.assign_labels

    def stop_and_assign(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return assign_labels(*arguments)

    detector, images = jem_of(), pictures("cross").astype(np.float32)
    everywhere = np.ones((48, 16, 16), bool)
    both = Batch(images, everywhere), Batch(images, everywhere)
    stopping = mock.patch.object(jem, "assign_labels", side_effect=stop_and_assign)
    with stopping, pytest.raises(Interrupted, match="labels were tried"):
        detector.fit(*both, context=TrainContext(0, "cpu", tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_resumed_training_keeps_its_labels_whatever_another_trial_would_say(tmp_path):
    images, found = batch(pictures("noise")), {"transformation": 0.9, "position": 0.5}
    trial = mock.patch.object(
        jem.JEM, "_trial", lambda self, labels, *others: jem.Trial(found[labels], "steps")
    )
    detector, calls = jem_of(pretraining=1.0), []

    def stop_at_three(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return jem.JEM._loss(detector, *arguments)

    detector._loss = stop_at_three
    with trial, pytest.raises(Interrupted, match="step 3"):
        detector.fit(images, images, context=TrainContext(0, "cpu", tmp_path))
    found["transformation"] = 0.1
    again, whole = jem_of(pretraining=1.0), jem_of(pretraining=1.0, labels="transformation")
    with trial:
        again.fit(images, images, context=TrainContext(0, "cpu", tmp_path, resume=True))
    whole.fit(images, images, context=TrainContext(0, "cpu", tmp_path / "whole"))
    assert all(np.array_equal(array, again.state()[name]) for name, array in whole.state().items())


@pytest.mark.parametrize("answer", range(labels.TRANSFORMATIONS))
def test_who_knows_nothing_is_at_chance_in_a_trial_of_few_images(tmp_path, answer):
    logits = nn.functional.one_hot(torch.tensor(answer), labels.TRANSFORMATIONS)[
        None, :, None, None
    ].float()
    guessing = Trained(lambda x: logits.expand(len(x), -1, 8, 8), 100, "steps")
    images, detector = batch(pictures("noise", count=2)), jem_of()
    with mock.patch.object(jem, "optimize", return_value=guessing):
        above, _ = detector._trial(
            "transformation", images, images, TrainContext(0, "cpu", tmp_path)
        )
    assert above == 0


@pytest.mark.parametrize(("kind", "labels"), [("ramp", "transformation"), ("cross", "position")])
def test_labels_are_those_that_can_be_told(tmp_path, kind, labels):
    assert fitted(tmp_path, pictures(kind)).labels == labels


def test_several_kinds_are_the_classes(tmp_path):
    detector = fitted(tmp_path, pictures("noise"), np.arange(48) % 3)
    assert detector.labels == "kind"
    assert detector.net.last.out_channels == 3


def test_too_little_time_to_tell_is_not_taken_for_one_class(tmp_path):
    images = batch(pictures("noise"))
    with pytest.raises(ConfigError, match="too little time"):
        jem_of().fit(images, images, context=TrainContext(0, "cpu", tmp_path, budget=0.01))


def test_one_class_is_refused_where_nothing_can_be_told(tmp_path):
    flat = np.random.default_rng(0).normal(size=(48, 1, 1, 1)) * np.ones((1, 1, 16, 16))
    with pytest.raises(DataError, match=r"one class.*use ebm"):
        fitted(tmp_path, flat)
    with pytest.raises(DataError, match=r"one class.*use ebm"):
        fitted(tmp_path, flat, labels="kind")
    with pytest.raises(DataError, match=r"one class.*use ebm"):
        fitted(tmp_path, flat, np.where(np.arange(48) % 3, -1, 0), labels="kind")


def test_kinds_that_are_not_known_change_nothing_in_the_class_loss():
    torch.manual_seed(0)
    logits, y = torch.randn(6, 3, 4, 4), torch.randint(3, (6, 4, 4))
    known = torch.tensor([0, 2, 3])
    y_some = torch.full_like(y, -1)
    y_some[known] = y[known]
    loss = joint.class_loss(logits.requires_grad_(True), y_some)
    expected = nn.functional.cross_entropy(logits[known], y[known])
    assert torch.allclose(loss, expected)
    (slopes,) = torch.autograd.grad(loss, logits)
    assert set(slopes.flatten(1).abs().sum(1).nonzero()[:, 0].tolist()) == set(known.tolist())

    nothing = joint.class_loss(logits, torch.full_like(y, -1))
    (slopes,) = torch.autograd.grad(nothing, logits)
    assert nothing.item() == 0
    assert not slopes.any()


def test_the_contrast_of_places_without_a_label_is_that_of_their_sums():
    torch.manual_seed(0)
    logits, y = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    y[0] = -1
    rows, own = logits.movedim(1, -1).reshape(-1, 3).double().exp(), y.flatten()
    shares = []
    for n in range(32):
        column = rows.sum(1) if own[n] < 0 else rows[:, own[n]]
        shares.append(math.log(column.sum() / column[n]))
    assert float(joint.hdge_loss(logits, y, generators(1)[0])) == pytest.approx(
        np.mean(shares) - math.log(32), abs=1e-4
    )


@pytest.mark.parametrize("objective", ["sgld", "contrastive"])
def test_images_of_unknown_kind_teach_the_energy(objective):
    detector = jem_of(labels="kind", pretraining=0.0, objective=objective)
    normal = batch(pictures("noise", count=16), np.arange(16) % 2)
    unknown = batch(normal.images, np.full(16, -1))
    images = torch.from_numpy(normal.images)
    torch.manual_seed(0)
    net = detector._build(1, 2).requires_grad_(True)
    detector.noise = jem.denoiser.noise_source(detector.config, 16)
    detector.schedule = diffusion.linear_schedule()
    for progress, learns in (
        (0.5, True),
        (-1.0, False),
    ):  # below `pretraining` there are classes alone
        one = TrainingBatch(images, generators(16), progress, np.arange(16))
        net.zero_grad()
        chains_of = Chains(detector.config, normal.images)
        detector._loss(net, one, unknown, chains_of).total.backward()
        assert bool(net.first.weight.grad.any()) == learns


def test_kinds_of_some_images_are_enough(tmp_path):
    kinds = np.where(np.arange(48) % 3, -1, np.arange(48) % 2)
    detector = fitted(tmp_path, pictures("noise"), kinds)
    assert detector.labels == "kind"
    assert detector.net.last.out_channels == 2


def two_products(count=48):
    """Images of two products in turn: stripes and a plain face, each with noise of its own."""
    images = pictures("noise", count)
    images[::2, :, :, ::2] += 1
    return images


def test_clusters_of_images_are_the_classes(tmp_path):
    detector = fitted(tmp_path, two_products(), labels="clusters")
    assert detector.labels == "clusters"
    assert detector.net.last.out_channels == 2
    numbers = detector.clusters()
    assert set(numbers[::2]) | set(numbers[1::2]) == {0, 1}
    assert len(set(numbers[::2])) == len(set(numbers[1::2])) == 1

    again = jem_of(labels="clusters", score="class")
    again.load_state(detector.state(), device="cpu")
    assert (again.labels, again.clusters()) == ("clusters", None)
    scores = again.score(batch(two_products(4)), seeds=np.zeros(4, np.uint64))
    assert np.isfinite(scores.image).all()


def test_one_cluster_is_refused(tmp_path):
    with pytest.raises(DataError, match="one component: no two clusters of these 24 images"):
        fitted(tmp_path, pictures("noise"), labels="clusters")


@pytest.mark.parametrize("margin", ["energy", "perceptron", "hinge"])
def test_known_anomalies_get_higher_energies_than_normal_images(margin):
    settings = {"weight": 0.0, "penalty": 0.0, "pretraining": 0.0}
    detector = jem_of(labels="position", margin=margin, **settings)
    normal = batch(pictures("cross", count=16))
    odd = batch(-pictures("cross", count=3))
    images, others = torch.from_numpy(normal.images), torch.from_numpy(odd.images)
    torch.manual_seed(0)
    net = detector._build(1, 16)
    one = TrainingBatch(images, generators(16), 0.5, np.arange(16))

    def gap():
        energies = [joint.free_energy(net, each).mean() for each in (images, others)]
        return (energies[1] - energies[0]).item()

    with mock.patch.object(jem, "class_loss", return_value=torch.tensor(0.0)):
        before = gap()
        descend(net, lambda: detector._loss(net, one, normal, None, odd).total)
    assert gap() > before + 0.01


def test_energies_without_bounds_are_refused():
    with pytest.raises(ConfigError, match="give a penalty"):
        jem_of(margin="energy", penalty=0.0).check((1, 32, 32))


def test_images_smaller_than_the_receptive_field_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="receptive field of 36"):
        fitted(tmp_path, pictures("ramp"), blocks=3, stem=4)


def test_kinds_in_a_manifest_are_the_classes_and_training_is_in_the_report(tmp_path, save_png):
    rows = ["path,split,label,kind"]
    for n in range(60):
        picture = np.random.default_rng(n).integers(60, 200, (32, 32)).astype(np.uint8)
        picture[:, :: 2 + n % 2] = 30  # two kinds, striped differently
        save_png(f"data/{n:02d}.png", picture)
        rows.append(
            f"{n:02d}.png,{'train' if n < 50 else 'test'},0,{'wide' if n % 2 else 'narrow'}"
        )
    (tmp_path / "data/manifest.csv").write_text("\n".join(rows))
    small = {
        "size": 32,
        "width": 16,
        "blocks": 1,
        "stem": 2,
        "pretraining": 0.2,
        "training": {"steps": 60},
    }
    anodetect.train(str(tmp_path / "data"), "jem", tmp_path / "run", values=small)
    log = runs.read_log(tmp_path / "run")
    assert log[-2]["labels"] == "kind"
    assert any("energy_gap" in record for record in log)
    anodetect.score(tmp_path / "run", [str(tmp_path / "data")], tmp_path / "scores", heatmaps=())
    html = report.write(tmp_path / "scores").read_text()
    assert "Langevin gradient" in html
    assert "saturated share" in html


def test_the_penalty_bounds_how_far_energies_are_driven_apart():
    energies = torch.zeros(2, 1, requires_grad=True)
    search = torch.optim.SGD([energies], lr=0.1)
    for _ in range(200):
        search.zero_grad()
        contrastive_divergence(energies[0], energies[1], 2.0)[0].backward()
        search.step()
    assert torch.allclose(energies[:, 0], torch.tensor([-0.25, 0.25]), atol=1e-4)
