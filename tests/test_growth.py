"""Training from coarse to fine: which resolutions count when, and what they are."""

import math

import numpy as np
import pytest
import torch

from anodetect.config import build
from anodetect.detectors.ebm import EBM, EBMConfig
from anodetect.errors import ConfigError
from anodetect.generative.chains import ChainConfig, Chains
from anodetect.generative.growth import GROWN, grown_loss, halved, resolutions
from anodetect.generative.noise import NoiseSource
from anodetect.nn.training import Losses, TrainingBatch
from anodetect.types import Batch, TrainContext


def weight_of(halvings, progress, stages):
    return dict(resolutions(progress, stages)).get(halvings, 0.0)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_training_begins_coarse_and_ends_fine_without_a_jump(stages):
    shares = np.linspace(0, 0.999, 2000)
    weights = np.array([[weight_of(h, p, stages) for h in range(stages)] for p in shares])
    assert np.allclose(weights.sum(1), 1)
    assert weights[0, -1] == 1
    assert (weights[shares >= GROWN, 0] == 1).all()
    assert np.allclose(weights.max(0), 1, atol=0.01)  # each is alone at some time
    # A weight moves from 0 to 1 in half of a stage.
    fastest = 2 * max(1, stages - 1) / GROWN * (shares[1] - shares[0])
    assert np.abs(np.diff(weights, axis=0)).max() <= fastest + 1e-9
    mean_halvings = weights @ np.arange(stages)
    assert (np.diff(mean_halvings) <= 1e-9).all()


def test_a_finer_resolution_fades_in_linearly():
    """Two resolutions: the finer one appears after half of the time until GROWN."""
    for share in (0.0, 0.25, 0.5, 0.75, 0.99):
        (coarse, weight), (fine, other) = resolutions(GROWN * (0.5 + share / 2 + 1e-6), 2)
        assert (coarse, fine) == (1, 0)
        assert other == pytest.approx(share, abs=1e-4)
        assert weight == pytest.approx(1 - share, abs=1e-4)


def batch_of(images, progress):
    generators = [torch.Generator().manual_seed(n) for n in range(len(images))]
    return TrainingBatch(images, generators, progress, np.arange(len(images)))


def test_the_loss_is_the_weighted_mean_of_those_at_both_resolutions():
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def loss(batch):
        value = batch.images.square().mean()
        return Losses(value, value + 1, {"side": float(batch.images.shape[-1])})

    found = grown_loss(loss, batch_of(images, GROWN * 0.75), 2)
    coarse = images.reshape(2, 1, 4, 2, 4, 2).mean((3, 5))
    mean = (coarse.square().mean() + images.square().mean()) / 2
    assert found.total.item() == pytest.approx(mean.item(), rel=1e-5)
    assert found.watched.item() == pytest.approx(mean.item() + 1, rel=1e-5)
    assert found.facts == {"side": 8.0}
    assert torch.equal(halved(images, 1), coarse) or torch.allclose(halved(images, 1), coarse)

    alone = grown_loss(loss, batch_of(images, 0.0), 1)
    assert torch.equal(alone.total, images.square().mean())


def test_noise_of_halved_images_has_half_the_wavelength():
    source = NoiseSource("simplex", 64, wavelength=20)
    assert source.at(64) is source
    assert source.at(16) is source.at(16)
    assert (source.at(16).size, source.at(16).wavelength) == (16, 5)


def test_replayed_chains_continue_at_another_resolution():
    images = np.random.default_rng(0).normal(size=(16, 1, 8, 8)).astype(np.float32)
    config = ChainConfig(
        chain="replay", buffer=1, renewed=0.0, langevin_steps=1, langevin_step=1e-9, temperature=0.0
    )
    chains, rng = Chains(config, images), [torch.Generator().manual_seed(0)]
    energy = lambda x: x.flatten(1).sum(1)  # noqa: E731
    coarse, _ = chains.run(energy, torch.zeros(1, 1, 4, 4), rng)
    fine, _ = chains.run(energy, torch.zeros(1, 1, 8, 8), rng)
    assert fine.shape == (1, 1, 8, 8)
    assert torch.corrcoef(torch.stack([halved(fine, 1), coarse]).flatten(1))[0, 1] > 0.9


def ebm(**settings):
    small = {"widths": [16], "stem": 4, "levels": [240], "local": 0.0, "noise": "gaussian"}
    return EBM(build(EBMConfig, small | settings, "ebm"))


def test_steps_go_from_coarse_images_to_whole_ones(tmp_path):
    """The last steps see the full resolution alone, and scores are of the full resolution."""
    images = np.random.default_rng(0).normal(size=(20, 1, 32, 32)).astype(np.float32)
    batch = Batch(images, np.ones((20, 32, 32), bool))
    detector, sides = ebm(coarse_to_fine=3, training={"steps": 12}), []
    loss = detector._loss

    def noting(net, part, chains):
        sides.append((round(12 * part.progress), part.images.shape[-1]))
        return loss(net, part, chains)

    detector._loss = noting
    detector.fit(batch, batch, context=TrainContext(0, "cpu", tmp_path))
    assert sides[0] == (0, 8)
    assert {side for step, side in sides if step >= math.ceil(12 * GROWN)} == {32}
    assert [side for _, side in sides] != sorted(side for _, side in sides)  # two at some steps
    assert {side for _, side in sides} == {8, 16, 32}
    scores = detector.score(batch, seeds=np.zeros(20, np.uint64))
    assert scores.heatmap.shape == (20, 32, 32)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"coarse_to_fine": 4}, (1, 16, 16), "coarsest images: 2 is not a multiple of 4"),
        ({"coarse_to_fine": 4, "stem": 1}, (1, 36, 36), "36 pixels cannot be halved 3 times"),
        ({"coarse_to_fine": 2, "noise": "coarse"}, (1, 8, 8), "coarse noise of 8 pixels"),
        ({"coarse_to_fine": 2}, (152, 32, 32), "for pixels, not for features"),
        ({"coarse_to_fine": 2, "network": "mlp"}, (152, 32, 32), "for pixels, not for features"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, shape, message):
    with pytest.raises(ConfigError, match=message):
        ebm(**settings).check(shape)
