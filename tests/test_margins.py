"""Losses for right and wrong answers against their formulas and their slopes."""

import numpy as np
import pytest
import torch

from anodetect.generative import margins

RIGHT = torch.tensor([-2.0, -0.3, 0.0, 0.4, 3.0])
WRONG = torch.tensor([1.0, -0.5, 0.0, 0.9, 2.0])


def by_hand(loss, right, wrong, margin):
    """The losses one by one, as LeCun et al. write them, with the answers in a list."""
    values = []
    for e, e_bar in zip(right.tolist(), wrong.tolist(), strict=True):
        values.append(
            {
                "energy": e,
                "perceptron": e - min([e, e_bar]),
                "hinge": max(0.0, margin + e - e_bar),
            }[loss]
        )
    return values


@pytest.mark.parametrize("loss", ["energy", "perceptron", "hinge"])
def test_losses_are_their_formulas(loss):
    found = {
        "energy": margins.energy_loss(RIGHT),
        "perceptron": margins.perceptron_loss(RIGHT, WRONG),
        "hinge": margins.hinge_loss(RIGHT, WRONG, 0.7),
    }[loss]
    assert found.tolist() == pytest.approx(by_hand(loss, RIGHT, WRONG, 0.7))


@pytest.mark.parametrize("loss", ["energy", "perceptron", "hinge"])
@pytest.mark.parametrize("anomalous", [False, True])
def test_an_image_has_two_answers_with_opposite_energies(loss, anomalous):
    right = -RIGHT if anomalous else RIGHT
    found = margins.two_class_loss(loss, RIGHT, anomalous=anomalous, margin=0.7)
    assert found.tolist() == pytest.approx(by_hand(loss, right, -right, 0.7))


@pytest.mark.parametrize(
    ("loss", "slopes"),
    [
        ("energy", [1, 1, 1, 1]),
        ("perceptron", [0, 0, 2, 2]),
        ("hinge", [0, 2, 2, 2]),  # also where the answer is right, but by less than the margin of 1
    ],
)
@pytest.mark.parametrize("anomalous", [False, True])
def test_slopes_push_normal_images_down_and_anomalous_ones_up(loss, slopes, anomalous):
    sign = -1 if anomalous else 1
    energies = (sign * torch.tensor([-1.0, -0.2, 0.2, 1.0])).requires_grad_(True)
    losses = margins.two_class_loss(loss, energies, anomalous=anomalous, margin=1.0)
    (found,) = torch.autograd.grad(losses.sum(), energies)
    assert found.tolist() == [sign * slope for slope in slopes]


def test_an_images_energy_is_the_mean_of_its_highest_places():
    local = torch.from_numpy(np.random.default_rng(0).permuted(np.arange(200.0).reshape(2, 10, 10)))
    expected = [np.sort(each.numpy().ravel())[-5:].mean() for each in local]
    assert margins.highest_mean(local).tolist() == pytest.approx(expected)
    assert margins.highest_mean(local[:, :1, :2]).tolist() == local[:, 0, :2].amax(1).tolist()
