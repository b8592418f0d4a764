"""Small networks and what surrounds them."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from anodetect.nn.augment import SLIGHT, Augment, augmented
from anodetect.nn.mlp import TIME_CHANNELS, LocationMLP, timestep_embedding
from anodetect.nn.norm import GroupNorm, use_fast_norms
from anodetect.nn.softplus import Softplus
from anodetect.nn.state import load_weights, module_state, with_channels_last
from anodetect.nn.unet import UNet


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def ramps(size=32):
    """An image whose two channels hold its pixels' own x and y in [-1, 1], and so tell where each
    came from."""
    line = (torch.arange(size) + 0.5) * 2 / size - 1
    return torch.stack(torch.meshgrid(line, line, indexing="xy"))[None]


def test_without_changes_images_stay_as_they_are():
    images = torch.randn(2, 1, 8, 8)
    assert augmented(images, generators(0, 1), Augment()) is images


def test_a_flip_mirrors():
    images = torch.randn(3, 1, 9, 8)
    flipped = augmented(images, generators(0, 1, 2), Augment(flip=1.0))
    assert torch.allclose(flipped, images.flip(-1), atol=1e-5)


def test_changes_stay_within_what_was_asked_for():
    config = Augment(rotation=20, scale=0.2, shift=0.1)
    angles, sizes, shifts = [], [], []
    for seed in range(200):
        out = augmented(ramps(), generators(seed), config)[0]
        inner = out[:, 8:24, 8:24]  # nothing is mirrored in here
        along_x, along_y = (
            (inner[:, 8, 9] - inner[:, 8, 8]) * 16,
            (inner[:, 9, 8] - inner[:, 8, 8]) * 16,
        )
        assert float(along_x @ along_y) == pytest.approx(0, abs=1e-3)  # no shear
        angles.append(math.degrees(math.atan2(along_x[1], along_x[0])))
        sizes.append(float(along_x.norm()))
        shifts.append(out[:, 15:17, 15:17].mean((1, 2)).abs().max().item())
    assert 15 < max(map(abs, angles)) <= 20.01
    assert 1 / 1.201 <= min(sizes) < 0.9
    assert 1.1 < max(sizes) <= 1.201
    assert 0.08 < max(shifts) <= 0.101


def test_an_images_change_is_its_own():
    images = torch.randn(3, 1, 16, 16)
    config = SLIGHT
    together = augmented(images, generators(4, 5, 6), config)
    alone = augmented(images[1:2], generators(5), config)
    assert torch.allclose(alone[0], together[1])
    assert not torch.allclose(together[0], images[0], atol=0.1)


def test_a_location_mlp_sees_one_location():
    torch.manual_seed(0)
    net = LocationMLP(5, 3, 16, blocks=2)
    x, t = torch.randn(2, 5, 4, 6), torch.tensor([3, 70])
    out = net(x, t)
    assert out.shape == (2, 3, 4, 6)
    x[1, :, 2, 5] += 1
    changed = (net(x, t) != out).any(1)
    assert changed.nonzero().tolist() == [[1, 2, 5]]
    assert not torch.equal(net(x, t + 50), net(x, t))


def test_steps_are_embedded_as_monai_does():
    from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

    steps = torch.tensor([1, 20, 350, 999])
    assert torch.equal(timestep_embedding(steps), get_timestep_embedding(steps, TIME_CHANNELS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 32, 5, 4), (2, 16, 8, 8), (2, 16, 3, 4, 5)])
def test_a_group_norm_is_torchs_whatever_the_layout(dtype, shape):
    torch.manual_seed(0)
    norm = GroupNorm(8, shape[1])
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    x = (torch.randn(shape) * 2 + 1).to(dtype).to(memory_format=layout).requires_grad_(True)

    exact = x.detach().double().requires_grad_(True)
    expected = nn.functional.group_norm(
        exact, 8, norm.weight.double(), norm.bias.double(), norm.eps
    )
    out = norm(x)
    assert out.dtype == dtype and out.is_contiguous(memory_format=layout)
    last_bits = 4 * torch.finfo(dtype).eps
    assert torch.allclose(out.double(), expected, rtol=last_bits, atol=last_bits)

    direction = torch.randn(shape).to(dtype)
    (gradient,) = torch.autograd.grad(out, x, direction)
    (exact_gradient,) = torch.autograd.grad(expected, exact, direction.double())
    assert torch.allclose(gradient.double(), exact_gradient, rtol=0.02, atol=0.02)


def test_a_unet_has_fast_norms_with_the_weights_of_torchs():
    net = UNet(1, 1, (16, 32), stem=2, attention=1)
    kinds = {type(module) for module in net.modules() if isinstance(module, nn.GroupNorm)}
    assert kinds == {GroupNorm}

    norms = nn.Sequential(nn.GroupNorm(2, 4), nn.Sequential(nn.GroupNorm(2, 6, eps=1e-3)))
    nn.init.normal_(norms[1][0].weight)
    before = {name: value.clone() for name, value in norms.state_dict().items()}
    use_fast_norms(norms)
    assert norms[1][0].eps == 1e-3
    assert all(torch.equal(before[name], value) for name, value in norms.state_dict().items())


@pytest.mark.parametrize(("percentile", "bend"), [(None, 3.0), (25, 0.75)])
def test_a_softplus_of_arrays_is_that_of_tensors_and_is_stored_under_its_name(percentile, bend):
    values = np.array([[0, 1, 2, 9], [0, 1, 2, 9]], np.float32)
    learned = Softplus.learn(values, percentile)
    assert learned == (bend, pytest.approx(values.std()))
    expected = np.log1p(np.exp((values - bend) / values.std()))
    assert np.allclose(learned(values), expected, rtol=1e-6)
    assert np.allclose(learned.of_tensor(torch.from_numpy(values)).numpy(), expected, rtol=1e-5)
    assert learned(values).dtype == np.float32

    state = learned.state("middle")
    assert list(state) == ["middle", "spread"]
    assert Softplus.from_state(state, "middle") == learned


def test_equal_values_have_a_softplus():
    assert Softplus.learn(np.ones(3, np.float32)) == (1.0, 1e-6)


def test_weights_loaded_from_arrays_are_ready_to_score():
    net, other = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout()) for _ in range(2))
    again = load_weights(other.train(), module_state(net, "net."), "net.")
    assert again is other
    assert not again.training
    assert not any(weight.requires_grad for weight in again.parameters())
    assert torch.equal(again[0].weight, net[0].weight)


def test_weights_have_channels_last():
    net = with_channels_last(nn.Conv2d(3, 4, 3), torch.device("cpu"))
    assert net.weight.is_contiguous(memory_format=torch.channels_last)
    assert not net.weight.is_contiguous()
