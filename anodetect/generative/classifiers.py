"""Classifiers as energies: how well a classifier knows an image, from its logits f(x) [N, K].

    E(x, y) = −f(x)[y],   F(x) = −T log Σ_y exp(−E(x, y) / T)

The best answer argmin_y E(x, y) is the predicted class, and the free energy F is low where any
answer fits. Larger values are more anomalous in all functions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from anodetect.generative.conditional import infer

STEPS, RATE = 200, 1.0  # of the search for a temperature


def free_energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return F [N] of logits [N, K] (Liu et al., "Energy-based out-of-distribution detection",
    NeurIPS 2020, equation 4)."""
    return -temperature * (logits / temperature).logsumexp(1)


def softmax_doubt(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return 1 − max_y p(y | x) [N], from 0 to 1, of logits [N, K] (Hendrycks & Gimpel, "A baseline
    for detecting misclassified and out-of-distribution examples", ICLR 2017).

    It is the sum of the other probabilities, so that nothing is lost where it is close to 0.
    """
    scaled = logits.double() / temperature
    others = scaled.scatter(1, scaled.argmax(1, keepdim=True), -torch.inf)
    return (others.logsumexp(1) - scaled.logsumexp(1)).exp()


def calibrating_temperature(logits: Tensor, classes: Tensor) -> float:
    """Return the temperature at which the probabilities of logits [N, K] explain the true classes
    [N] best (Guo et al., "On calibration of modern neural networks", ICML 2017).

    It is the answer with the lowest energy, E = cross-entropy of f / T, found by gradient descent
    on log T.
    """

    def energy(logits: Tensor, log_temperature: Tensor) -> Tensor:
        scaled = logits[0] / log_temperature[0].exp()
        return F.cross_entropy(scaled, classes)[None]

    start = torch.zeros(1, 1, dtype=torch.float64)
    answer = infer(energy, logits.double()[None], start, steps=STEPS, rate=RATE)
    return float(answer.y.exp())
