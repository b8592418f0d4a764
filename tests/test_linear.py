"""The linear denoiser of locations, from which a network can start."""

import numpy as np
import torch

from anodetect.generative import denoiser, diffusion
from anodetect.generative.denoiser import DenoiserConfig
from anodetect.generative.linear import LocationGaussian
from anodetect.types import Batch

CHANNELS = 5


def correlated(count=200, seed=0):
    """Images [N, 5, 4, 4] of correlated channels; half of each image is foreground."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(CHANNELS, CHANNELS))
    places = rng.normal(size=(count, 4, 4, CHANNELS)) @ mixing.T + np.arange(CHANNELS)
    inside = np.zeros((count, 4, 4), bool)
    inside[:, :2] = True
    images = places.transpose(0, 3, 1, 2).astype(np.float32)
    images[:, :, 2:] = 100.0  # the background
    return Batch(images, inside)


def test_it_is_the_conditional_mean_of_a_joint_gaussian():
    batch = correlated()
    model = LocationGaussian.learn(batch)
    places = batch.images[:, :, :2].transpose(0, 2, 3, 1).reshape(-1, CHANNELS).astype(np.float64)
    mean, covariance = places.mean(0), np.cov(places.T, bias=True)

    a = 0.7
    xt = np.random.default_rng(1).normal(size=(2, CHANNELS, 3, 3)).astype(np.float32)
    found = model.denoise(torch.from_numpy(xt), torch.full((2,), a)).numpy()

    # E[x | x_t] = μ + Cov(x, x_t) Cov(x_t)⁻¹ (x_t − E[x_t])
    gain = a**0.5 * covariance @ np.linalg.inv(a * covariance + (1 - a) * np.eye(CHANNELS))
    flat = xt.transpose(0, 2, 3, 1).reshape(-1, CHANNELS) - a**0.5 * mean
    expected = (mean + flat @ gain.T).reshape(2, 3, 3, CHANNELS).transpose(0, 3, 1, 2)
    assert np.allclose(found, expected, atol=1e-3)


def test_a_network_that_has_not_learned_denoises_as_its_start_does():
    batch = correlated(50)
    config = DenoiserConfig(network="mlp", widths=(16,), start="linear")
    net = denoiser.build(config, CHANNELS, torch.device("cpu"), batch)
    x, t = torch.from_numpy(batch.images[:3]), torch.tensor([10, 100, 200])
    linear = LocationGaussian.learn(batch).denoise(x, diffusion.linear_schedule()[t])
    assert torch.allclose(net(x, t), linear, atol=1e-5)


def test_a_stored_denoiser_keeps_its_start():
    config = DenoiserConfig(network="mlp", widths=(16,), start="linear")
    net = denoiser.build(config, CHANNELS, torch.device("cpu"), correlated(50))
    empty = denoiser.build(config, CHANNELS, torch.device("cpu"))
    loaded = denoiser.load_into(empty, denoiser.state_of(net))
    x, t = torch.from_numpy(correlated(2, seed=1).images), torch.tensor([10, 100])
    assert torch.equal(loaded(x, t), net(x, t))
