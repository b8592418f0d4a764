"""The energy of a denoiser f, and chains on it, as plain functions.

    E_t(y) = ½ Σ ‖ε̂_t(y)‖²,   ε̂_t(y) = (y − √ᾱ_t·f(y, t)) / √(1−ᾱ_t)

y has the scale of images at noise step t, where clean ones are √ᾱ_t·x. A step of a chain is `step`
times the gradient in units of √(1−ᾱ_t), the deviation of the noise at t. Chains have noise of their
own if they are given generators, one for each image [N, C, H, W].
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anodetect.generative import diffusion, langevin
from anodetect.generative.chains import ChainFacts, Chains, EnergyFacts, contrastive_divergence
from anodetect.generative.denoiser import Denoiser, NoisyImages
from anodetect.generative.langevin import Energy
from anodetect.nn.inference import autocast
from anodetect.nn.training import TrainingBatch

INVERSION_RATE = 0.2  # of a level's noise, the step of the search for the start of a chain

Generators = Sequence[torch.Generator]


def amplitude(net: Denoiser, t: Tensor) -> Tensor:
    """Return √ᾱ_t, [N, 1, 1, 1]."""
    return diffusion.alpha_bar(net.schedule, t).sqrt()


def without_noise(net: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    """Return f(√ᾱ_t·x, t), what one pass makes of images [N, C, H, W] at step t."""
    restored: Tensor = net(amplitude(net, t) * x, t)
    return restored


def noise_deviation(net: Denoiser, t: Tensor) -> Tensor:
    """Return √(1−ᾱ_t), the deviation of the noise at step t and the unit of a chain's steps.

    It is [N, 1, 1, 1].
    """
    return (1 - diffusion.alpha_bar(net.schedule, t)).sqrt()


def local_energy(net: Denoiser, y: Tensor, t: Tensor) -> Tensor:
    """Return ½ ε̂² at every value of y [N, C, H, W]."""
    with autocast(y.device):
        clean = net(y, t)
    noise: Tensor = (y - amplitude(net, t) * clean) / noise_deviation(net, t)
    return noise.square() / 2


def total_energy(net: Denoiser, t: Tensor) -> Energy:
    """Return the function y [N, C, H, W] → E_t(y) [N]."""
    return lambda y: local_energy(net, y, t).flatten(1).sum(1)


def hessian_vector_product(energy: Energy, x: Tensor, direction: Tensor) -> Tensor:
    """Return ∂²E/∂x² · direction, of the shape of x [N, ...]."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
        (product,) = torch.autograd.grad((gradient * direction).sum(), x)
    return product.detach()


# -- Learning --------------------------------------------------------------------------------------


def contrast_at_levels(
    net: Denoiser,
    noisy: NoisyImages,
    batch: TrainingBatch,
    levels: Sequence[int],
    chains: Chains,
    penalty: float,
) -> tuple[Tensor, EnergyFacts, ChainFacts]:
    """Return contrastive divergence with each image at one of the levels, chosen at random, a
    scalar, and facts about it.

    `noisy` are the images of the batch, each of which gets a chain.
    """
    (x0, noise, noise_step), config, generators = noisy, chains.config, batch.generators
    chosen = [int(torch.randint(len(levels), (), generator=rng)) for rng in generators]
    t = torch.tensor([levels[number] for number in chosen], device=x0.device)
    a, unit = diffusion.alpha_bar(net.schedule, t), noise_deviation(net, t)

    # Normal images get twice the noise of a chain's step: the noise that chains cannot do without
    # must not tell them from images (Grathwohl et al., ICLR 2020).
    normal = a.sqrt() * x0
    deviation = 2 * math.sqrt(2 * config.langevin_step * config.temperature) * unit
    normal = normal + deviation * langevin.standard_normal(normal, generators)

    # Chains start where there is at least as much noise as their level has.
    noise_step = torch.maximum(t, noise_step)
    start = diffusion.diffuse(x0, noise, noise_step, net.schedule)
    start = start * (a / diffusion.alpha_bar(net.schedule, noise_step)).sqrt()
    ends, chain_facts = chains.run(
        total_energy(net, t),
        start,
        generators,
        unit=unit,
        partitions=chosen,
        returns=batch.returns,
    )

    contrast, energy_facts = contrastive_divergence(
        local_energy(net, normal, t).mean((1, 2, 3)),
        local_energy(net, ends, t).mean((1, 2, 3)),
        penalty,
    )
    return contrast, energy_facts, chain_facts


# -- Chains ----------------------------------------------------------------------------------------


def move(
    net: Denoiser,
    y: Tensor,
    t: Tensor,
    step: float,
    generators: Generators | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Take a step from y down the energy; with `generators` a Langevin step at a temperature."""
    unit = noise_deviation(net, t)
    _, gradient = langevin.energy_and_gradient(total_energy(net, t), y)
    moved = y - step * unit**2 * gradient
    if generators is None:
        return moved

    deviation = math.sqrt(2 * step * temperature) * unit
    return moved + deviation * langevin.standard_normal(y, generators)


def descend(net: Denoiser, y: Tensor, t: Tensor, step: float, count: int) -> list[Tensor]:
    """Return all states of a chain of `count` steps from y [N, C, H, W] down the energy."""
    states = [y]
    for _ in range(count):
        states.append(move(net, states[-1], t, step))
    return states


def nearest_end(
    net: Denoiser, y: Tensor, target: Tensor, t: Tensor, step: float, count: int, iterations: int
) -> Tensor:
    """Return the end nearest to `target` [N, C, H, W] that such a chain can have, as far as so many
    iterations of a search for its start find it; they begin at y.

    The chain is differentiated one step at a time, from its stored states: this takes the memory of
    one step.
    """
    energy, unit = total_energy(net, t), noise_deviation(net, t)
    rate = INVERSION_RATE * unit
    z = y / rate  # so that a step of the search fits its level
    search = torch.optim.Adam([z], lr=1.0)
    for _ in range(iterations):
        states = descend(net, z * rate, t, step, count)
        # The gradient of ½‖M(z) − target‖² at the chain's end, carried back to its start.
        pull = states[-1] - target
        for state in reversed(states[:-1]):
            pull = pull - step * unit**2 * hessian_vector_product(energy, state, pull)
        z.grad = pull * rate
        search.step()
    return descend(net, z * rate, t, step, count)[-1]


def anneal(
    net: Denoiser,
    x: Tensor,
    levels: Sequence[int],
    step: float,
    count: int,
    generators: Generators | None = None,
    temperature: float = 1.0,
) -> list[Tensor]:
    """Take `count` steps at each of the levels, noise steps from high to low (annealed Langevin
    dynamics, Song & Ermon, NeurIPS 2019), with `generators` at a temperature.

    Return x, what it is after each level, and at last what the denoiser makes of that, each of them
    [N, C, H, W] at the scale of clean images.
    """
    states = [x]
    for level in levels:
        t = diffusion.steps_for(x, level)
        y = amplitude(net, t) * states[-1]
        for _ in range(count):
            y = move(net, y, t, step, generators, temperature)
        states.append(y / amplitude(net, t))

    states.append(denoised(net, states[-1], levels[-1]))
    return states


def denoised(net: Denoiser, x: Tensor, level: int) -> Tensor:
    """Return what the denoiser makes of x [N, C, H, W], at the scale of clean images, in which
    there is as much noise as at a noise step."""
    t = diffusion.steps_for(x, level)
    with autocast(x.device):
        clean: Tensor = net(amplitude(net, t) * x, t)
    return clean.float()


def fill(
    net: Denoiser,
    x: Tensor,
    hidden: Tensor,
    levels: Sequence[int],
    step: float,
    generators: Generators | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Return clean images x whose hidden values have taken a step at each of the levels, while the
    others were held (Du & Mordatch, NeurIPS 2019).

    At one level, and temperature 1, many small steps sample the conditional distribution of what is
    hidden. `hidden` is bool and has the shape of x, or one that expands to it.
    """
    for level in levels:
        t = diffusion.steps_for(x, level)
        scale = amplitude(net, t)
        moved = move(net, scale * x, t, step, generators, temperature)
        x = torch.where(hidden, moved / scale, x)
    return x


def inpaint(net: Denoiser, x: Tensor, side: int, levels: Sequence[int], step: float) -> Tensor:
    """Return x with each square of this side replaced by what chains make of it from its
    neighbours.

    The squares of a chessboard are hidden in turn, the black ones and the white ones. Chains start
    from zeros and have no noise.
    """
    rows = torch.arange(x.shape[-2], device=x.device)[:, None] // side
    columns = torch.arange(x.shape[-1], device=x.device) // side
    black = (rows + columns) % 2 == 1

    restored = torch.zeros_like(x)
    for hidden in (black, ~black):
        start = torch.where(hidden, torch.zeros_like(x), x)
        restored = torch.where(hidden, fill(net, start, hidden, levels, step), restored)
    return restored


def falling_levels(highest: int, lowest: int, count: int) -> list[int]:
    """Return `count` noise steps from the highest to the lowest, evenly spread."""
    levels: list[int] = torch.linspace(highest, lowest, count).round().long().tolist()
    return levels
