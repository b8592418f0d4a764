"""What becomes of an image at a noise step, for a Gaussian whose denoiser is known."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import nn

from anodetect.detectors.anoddpm import AnoDDPM, AnoDDPMConfig
from anodetect.generative import restoration
from anodetect.generative.denoiser import Denoiser
from anodetect.generative.linear import LocationGaussian
from anodetect.generative.restoration import RestorationConfig
from anodetect.types import Batch, TrainContext, image_seeds

MEAN, VARIANCE = torch.tensor([0.5, -1.0]), torch.tensor([0.04, 2.0])
LEVEL = 350


def exact():
    """The denoiser of values that are independent at every place, with a variance each."""
    start = LocationGaussian(2)
    start.mean.copy_(MEAN)
    start.variance.copy_(VARIANCE)

    class Zero(nn.Module):
        def forward(self, x, t):
            return torch.zeros_like(x)

    return Denoiser(Zero(), "v", start)


def drawn(count, side=16, seed=0):
    normal = torch.randn(count, 2, side, side, generator=torch.Generator().manual_seed(seed))
    return MEAN[:, None, None] + VARIANCE.sqrt()[:, None, None] * normal


def test_the_flow_makes_noise_of_images_value_by_value():
    """A value k deviations from its mean ends k deviations from that of x_λ."""
    net, x = exact(), drawn(20)
    a = net.schedule[LEVEL]
    deviations = (x - MEAN[:, None, None]) / VARIANCE.sqrt()[:, None, None]
    spread = (a * VARIANCE + 1 - a).sqrt()[:, None, None]
    expected = a.sqrt() * MEAN[:, None, None] + spread * deviations
    settings = RestorationConfig(mode="latent", sampler_steps=40)
    found = restoration.carried(net, x, LEVEL, settings)
    assert torch.allclose(found, expected, atol=0.02)

    whitened = (found - a.sqrt() * MEAN[:, None, None]) / spread
    assert stats.kstest(whitened.flatten().numpy(), "norm").pvalue > 0.001


def test_without_draws_the_mean_of_the_noised_image_is_restored():
    net, x = exact(), drawn(3)
    t = torch.full((3,), LEVEL)
    found = restoration.restored(net, x, LEVEL, RestorationConfig(), ())
    assert torch.equal(found, net(net.schedule[LEVEL].sqrt() * x, t))
    at_once = restoration.restored_at_once(net, x[:1], (20, LEVEL))
    assert torch.allclose(at_once[LEVEL], found[:1], atol=1e-6)


def test_draws_are_averaged():
    net, x = exact(), drawn(3)
    noises = [torch.ones_like(x), -0.5 * torch.ones_like(x)]
    alone = [
        restoration.restored(net, x, LEVEL, RestorationConfig(), [lambda n=n: n]) for n in noises
    ]
    both = restoration.restored(net, x, LEVEL, RestorationConfig(), [lambda n=n: n for n in noises])
    assert torch.allclose(both, (alone[0] + alone[1]) / 2, atol=1e-6)
    assert not torch.allclose(alone[0], alone[1], atol=0.01)


@pytest.mark.parametrize(
    "settings",
    [
        {"lambdas": (5, 20)},
        {"lambdas": (5, 20), "draws": 3},
        {"mode": "chain", "lambdas": (5, 20)},
        {"mode": "chain", "sampler": "ancestral", "lambdas": (6,), "draws": 2},
        {"mode": "latent", "lambdas": (5, 350), "sampler_steps": 6},
        {"mode": "latent", "lambdas": (1,)},
    ],
)
def test_passes_are_those_that_are_counted(settings):
    config, net, x = RestorationConfig(**settings), exact(), drawn(2)
    passes = []
    net.net.register_forward_hook(lambda *_: passes.append(1))
    for step in config.lambdas:
        if config.mode == "latent":
            restoration.carried(net, x, step, config)
    draws = [lambda: torch.zeros_like(x)] * config.draws
    shown = config.lambdas[-1:] if config.mode == "latent" else config.lambdas
    for step in shown:
        restoration.restored(net, x, step, config, draws)
    assert len(passes) == restoration.passes(config)


@pytest.mark.parametrize("steps", [2, 6])
def test_images_are_judged_by_the_noise_that_they_become(steps, tmp_path):
    """Anomalous places lie far out along the narrow component alone."""
    images = drawn(60).numpy()
    odd = drawn(20, seed=1).numpy()
    odd[:, 0, 4:8, 4:8] += 5 * float(VARIANCE[0]) ** 0.5
    normal = drawn(20, seed=2).numpy()

    values = {
        "mode": "latent",
        "lambdas": (LEVEL,),
        "sampler_steps": steps,
        "trained_to": LEVEL,
        "network": "mlp",
        "widths": (16,),
        "start": "linear",
        "noise": "gaussian",
        "local": 0.0,
        "residual": "squared",
        "scales": (0.0,),
        "prior": "off",
        "pixel_error": "off",
        "relative": "off",
        "training": {"steps": 2, "augment": {"flip": 0}},
    }
    detector = AnoDDPM(AnoDDPMConfig.model_validate(values))
    every = np.ones((60, 16, 16), bool)
    fit = Batch(images, every)
    detector.fit(fit, fit[:12], context=TrainContext(0, "cpu", tmp_path))

    tested = Batch(np.concatenate([normal, odd]), every[:40])
    scores = detector.score(tested, seeds=image_seeds(list(tested.images)))
    assert roc_auc_score(np.repeat([0, 1], 20), scores.image) > 0.95
    highest = scores.heatmap[20:].reshape(20, -1).argmax(1)
    rows, columns = np.unravel_index(highest, (16, 16))
    assert np.mean((rows >= 4) & (rows < 8) & (columns >= 4) & (columns < 8)) > 0.8
    assert scores.reconstruction.shape == tested.images.shape

    score_one = detector.one_pass((2, 16, 16))
    found, heatmap = score_one(torch.from_numpy(tested.images[25:26]))
    assert np.allclose(found, scores.image[25], rtol=0.05)
    assert np.allclose(heatmap[0], scores.heatmap[25], atol=0.05 * scores.heatmap[25].max())
