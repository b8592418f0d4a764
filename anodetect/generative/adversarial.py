"""An energy against a generator: Wasserstein distance with a gradient penalty.

    loss = √P · (E(x⁺) − E(x⁻)) + weight · (‖∇ √P·E(x̃)‖₂ − 1)²,   x̃ = u·x⁺ + (1−u)·x⁻

Gulrajani et al., "Improved training of Wasserstein GANs", NeurIPS 2017, with the critic −√P·E. E is
the mean of the energies of P locations. √P times it is their sum over √P, which has a slope of
about 1 where the energy of each location, independent of the others, has.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from anodetect.generative.chains import ChainFacts, EnergyFacts, instability
from anodetect.generative.langevin import Energy


def image_energy(local: Tensor) -> Tensor:
    """Return √P times the mean of the energies of P locations [N, h, w], for each image [N]."""
    return math.sqrt(local[0].numel()) * local.mean((1, 2))


def slopes_between(
    energy: Energy, real: Tensor, made: Tensor, generators: Sequence[torch.Generator]
) -> Tensor:
    """Return ‖∇E‖₂ [N] at a random place between each two images, differentiable."""
    shares = torch.cat([torch.rand(1, generator=rng) for rng in generators]).to(real)
    between = torch.lerp(made, real, shares.reshape(-1, *[1] * (real.dim() - 1)))
    with torch.enable_grad():
        between = between.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(energy(between).sum(), between, create_graph=True)
    slopes: Tensor = gradient.flatten(1).norm(dim=1)
    return slopes


def gradient_penalty(slopes: Tensor) -> Tensor:
    """Return the mean of (‖∇E‖₂ − 1)² over slopes [N], a scalar."""
    return (slopes - 1).square().mean()


def variety(real: Tensor, made: Tensor) -> float:
    """Return how much made images [N, ...] differ from each other, as a share of how much real ones
    do; 1 for a single image."""
    if len(made) < 2:
        return 1.0
    spread = float(made.detach().var(0).mean().sqrt())
    return spread / max(float(real.var(0).mean().sqrt()), 1e-6)


def game_instability(energies: EnergyFacts, slope: float, varied: float) -> float:
    """Return what `chains.instability` does for a generator in place of chains: it has collapsed
    where its images are all alike."""
    return instability(energies, ChainFacts(slope, saturated=max(1 - varied, 0.0)))


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Let gradients pass through modules to their inputs, but not to their weights."""
    for module in modules:
        module.requires_grad_(False)
    try:
        yield
    finally:
        for module in modules:
            module.requires_grad_(True)
