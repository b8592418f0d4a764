"""The family of energy-based models in two dimensions: one figure for each idea.

    python examples/tour.py [NAME ...] --out DIR [--seed N]

Without a name all figures are drawn, in about half a minute; docs/tour.md explains them. The target
is always p(x) ∝ exp(−E(x)), mostly over points x of the plane, and everything is made by the
package's own functions. Each idea is a function that computes a frozen dataclass of numbers, and
these draw themselves.
"""

import argparse
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from anodetect.errors import nearest
from anodetect.generative import convergence, diffusion, ising, langevin, sampling, scores
from anodetect.generative.chains import contrastive_divergence
from anodetect.generative.contrastive import contrastive_loss
from anodetect.generative.joint import free_energy
from anodetect.generative.langevin import Energy
from anodetect.generative.noise import generator
from anodetect.nn.local import LocalNet
from anodetect.output.drawing import Figure, colormaps, in_own_style
from anodetect.stats.metrics import auroc

EXTENT = 3.5  # the plane is drawn from −3.5 to 3.5 along both axes
FAR = 0.05  # the share of normal points that may be flagged
BLUE, RED, ORANGE, GREEN, INK = "#1f5f99", "#c8324a", "#d98200", "#2f7d4f", "#222b36"
PAPER = "#fafaf7"  # the figures have a background of their own, for light and dark pages
COLOURS = 64  # of a PNG


class Numbers(Protocol):
    """The numbers behind a figure."""

    def draw(self) -> Figure:
        """Return the figure."""


# -- Known distributions, and drawing --------------------------------------------------------------


@dataclass(frozen=True)
class Mixture:
    """Round Gaussians of the same deviation, with weights [K] and centres [K, 2]."""

    weights: Tensor
    centres: Tensor
    deviation: float

    def energy(self, x: Tensor) -> Tensor:
        """Return −log p of points x [N, 2], [N]: an energy whose Z is 1."""
        variance = self.deviation**2
        squares = (x[:, None] - self.centres).square().sum(2)
        log_sum = (self.weights.log() - squares / (2 * variance)).logsumexp(1)
        return math.log(2 * math.pi * variance) - log_sum

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """Return independent points, [count, 2]."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=rng)
        return self.centres[which] + self.deviation * torch.randn(count, 2, generator=rng)

    def mean(self) -> Tensor:
        """Return the mean, [2]."""
        return self.weights @ self.centres

    def blurred(self, sigma: float) -> "Mixture":
        """Return the distribution of points with added noise of deviation σ."""
        return Mixture(self.weights, self.centres, math.hypot(self.deviation, sigma))


def crescent_and_heap(deviation: float = 0.35) -> Mixture:
    """Return what is normal here: a crescent, and a heap in its middle with a third of all
    points."""
    angles = torch.linspace(-0.25, 1.25, 16) * math.pi
    arc = 1.8 * torch.stack([angles.cos(), angles.sin()], 1)
    centres = torch.cat([arc, torch.zeros(1, 2)])
    weights = torch.tensor([2 / 3 / 16] * 16 + [1 / 3])
    return Mixture(weights, centres, deviation)


def uniform_points(count: int, rng: torch.Generator) -> Tensor:
    """Return points anywhere in the plane that is drawn, [count, 2]."""
    return EXTENT * (2 * torch.rand(count, 2, generator=rng) - 1)


def odd_points(
    target: Mixture, count: int, rng: torch.Generator, reach: float = 2 * EXTENT
) -> Tensor:
    """Return points whose energy only one in a thousand normal ones exceeds, no further from the
    centre of the plane than `reach`, [count, 2]."""
    highest = target.energy(target.sample(10_000, rng)).quantile(0.999)
    points = uniform_points(40 * count, rng)
    odd = (target.energy(points) > highest) & (points.norm(dim=1) < reach)
    return points[odd][:count]


def grid(side: int) -> Tensor:
    """Return the points of a grid over the plane, [side², 2], row by row from below."""
    line = torch.linspace(-EXTENT, EXTENT, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)


def auroc_of(normal: Tensor, odd: Tensor) -> float:
    """Return the AUROC of the scores of normal and of odd points, [N] and [M]."""
    labels = np.repeat([0, 1], [len(normal), len(odd)])
    return auroc(labels, torch.cat([normal, odd]).double().numpy())


def panels(*titles: str) -> tuple[Figure, Any]:
    """Return a figure and its axes, one for each title, side by side."""
    width = min(3.1, 10.5 / len(titles))
    size = width * len(titles), width + 0.3
    figure = Figure(figsize=size, facecolor=PAPER, layout="constrained")
    axes = figure.subplots(1, len(titles), squeeze=False)[0]
    for each, title in zip(axes, titles, strict=True):
        each.set_title(title, fontsize=10, color=INK)
        each.set_facecolor(PAPER)
        each.tick_params(labelsize=8)
    return figure, axes


def draw_plane(axes: Any, energy: Energy, depth: float = 8.0, side: int = 81) -> None:
    """Draw an energy, pale where it is low; all that is `depth` above the lowest looks alike."""
    line = np.linspace(-EXTENT, EXTENT, side)
    with torch.no_grad():
        values = energy(grid(side)).reshape(side, side)
    height = (values - values.min()).clamp(max=depth).numpy()

    levels = np.linspace(0, depth, 13)
    axes.contourf(
        line, line, height, levels, cmap=colormaps["YlGnBu"], vmin=-0.1 * depth, vmax=2 * depth
    )
    axes.set(aspect="equal", xticks=[], yticks=[], xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT))


def draw_points(axes: Any, points: Tensor, colour: str = INK, size: float = 3, **how: Any) -> None:
    """Draw points [N, 2]; `how` goes to matplotlib's scatter."""
    axes.scatter(points[:, 0], points[:, 1], s=size, color=colour, **{"linewidths": 0} | how)


def draw_odd(axes: Any, points: Tensor) -> None:
    """Draw anomalous points [N, 2] as crosses."""
    draw_points(axes, points, RED, 36, marker="x", linewidths=1.8, zorder=3)


# -- Energy landscape ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Landscape:
    """Energies of normal points and of anomalies. `partition` is ∫ exp(−E), summed on a grid, and
    `flagged` the share of normal points with an energy above the threshold."""

    target: Mixture
    normal: Tensor
    odd: Tensor
    threshold: float
    partition: float

    @property
    def flagged(self) -> float:
        return float((self.target.energy(self.normal) > self.threshold).float().mean())

    def draw(self) -> Figure:
        figure, (left, right) = panels("E(x): pale is low", "energy as a score")
        draw_plane(left, self.target.energy, depth=12)
        draw_points(left, self.normal[:400])
        draw_odd(left, self.odd)
        line = np.linspace(-EXTENT, EXTENT, 161)
        energies = self.target.energy(grid(161)).reshape(161, 161)
        left.contour(line, line, energies, [self.threshold], colors=[ORANGE], linewidths=1.6)

        right.hist(self.target.energy(self.normal), 40, color=BLUE, alpha=0.75, label="normal")
        odd = self.target.energy(self.odd)
        right.plot(odd, torch.full_like(odd, 4), "x", color=RED, mew=1.8, label="anomalous")
        right.axvline(self.threshold, color=ORANGE, label="5 % of normals are above")
        right.set_xlabel("E(x)", fontsize=9)
        right.set_yticks([])
        right.legend(frameon=False, fontsize=8, loc="upper right")
        return figure


def landscape(points: int = 2000, *, seed: int = 0) -> Landscape:
    """Return energies of normal points, with a threshold learned from as many others."""
    target, rng = crescent_and_heap(), generator(seed)
    held_out = target.energy(target.sample(points, rng))
    side = 141
    area = (2 * EXTENT / (side - 1)) ** 2
    return Landscape(
        target,
        normal=target.sample(points, rng),
        odd=torch.tensor([[0.0, -2.3], [2.6, 2.4], [-2.9, -1.5], [-2.3, 2.7]]),
        threshold=float(held_out.quantile(1 - FAR)),
        partition=float((-target.energy(grid(side))).exp().sum()) * area,
    )


# -- Langevin chains -------------------------------------------------------------------------------

Step = Callable[[Tensor], tuple[Tensor, Tensor]]  # x → the next x, and which rows moved


@dataclass(frozen=True)
class LangevinChains:
    """The states of Langevin and of Hamiltonian chains, [T + 1, N, 2]; for each sampler R̂ after so
    many gradients; and the mean of all Hamiltonian draws in the second half of the chains, with its
    standard error, [2] each."""

    target: Mixture
    states: Tensor
    hamiltonian: Tensor
    r_hat: dict[str, dict[int, float]]
    mean: Tensor
    error: Tensor

    def draw(self) -> Figure:
        figure, axes = panels("Langevin chains", "Hamiltonian chains", "do chains agree? R̂ − 1")
        for plane in axes[:2]:
            draw_plane(plane, self.target.energy)
        paths = self.states[:61]
        for number in range(6):
            axes[0].plot(paths[:, number, 0], paths[:, number, 1], color=INK, linewidth=0.8)
        draw_points(axes[0], paths[0, :6], ORANGE, 25, zorder=3)
        draw_points(axes[1], self.hamiltonian[-4:].flatten(0, 1))

        styles = zip(self.r_hat.items(), ("o-", "s--"), (BLUE, GREEN), strict=True)
        for (name, values), style, colour in styles:
            excess = np.array(list(values.values())) - 1
            axes[2].loglog(list(values), excess, style, color=colour, label=name)
        axes[2].axhline(0.01, color=ORANGE, label="converged below")
        axes[2].set_xlabel("gradients a chain", fontsize=9)
        axes[2].legend(frameon=False, fontsize=8, loc="upper right")
        return figure


def chains(count: int = 100, steps: int = 1600, *, seed: int = 0) -> LangevinChains:
    """Return chains that start anywhere in the plane; Hamiltonian ones with as many gradients."""
    target, rng = crescent_and_heap(deviation=0.5), generator(seed)
    start = uniform_points(count, rng)
    langevin_step = partial(langevin.mala, target.energy, rng=rng, step=0.12)
    trajectory = partial(langevin.hmc, target.energy, rng=rng, step=0.3, leapfrogs=8)
    states = run(langevin_step, start, steps)  # with two gradients each
    hamiltonian = run(trajectory, start, 2 * steps // 9)  # with nine

    half = hamiltonian[len(hamiltonian) // 2 :]
    errors = [convergence.monte_carlo_error(half[:, :, axis].T) for axis in (0, 1)]
    return LangevinChains(
        target,
        states,
        hamiltonian,
        {"Langevin (MALA)": r_hats(states, 2), "Hamiltonian": r_hats(hamiltonian, 9)},
        half.mean((0, 1)),
        torch.tensor(errors, dtype=torch.float32),
    )


def run(step: Step, x: Tensor, steps: int) -> Tensor:
    """Return the states of chains from x [N, 2] on, [steps + 1, N, 2]."""
    states = [x]
    for _ in range(steps):
        x, _ = step(x)
        states.append(x)
    return torch.stack(states)


def r_hats(states: Tensor, gradients: int) -> dict[int, float]:
    """Return R̂ of the first coordinate after half as many steps again and again, by gradients.

    The first half of a chain is its way there and does not count.
    """
    found, until = {}, len(states)
    while until >= 16:
        found[until * gradients] = convergence.r_hat(states[until // 2 : until, :, 0].T)
        until //= 2
    return found


# -- Annealing -------------------------------------------------------------------------------------

SIGMAS = (4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.5, 0.3)


@dataclass(frozen=True)
class Annealing:
    """The states of annealed chains after the steps at each noise level, [L, N, 2], the ends of
    plain chains [N, 2], and the share of each that is in the mode on the right."""

    target: Mixture
    states: Tensor
    plain: Tensor

    def share(self, ends: Tensor) -> float:
        """Return the share of points on the right."""
        return float((ends[:, 0] > 0).float().mean())

    def draw(self) -> Figure:
        shown = (1, 4, 7)
        titles = [f"after the steps at σ = {SIGMAS[number]:g}" for number in shown]
        figure, axes = panels(*titles, "share in the mode on the right")
        for number, plane in zip(shown, axes[:3], strict=True):
            draw_plane(plane, self.target.blurred(SIGMAS[number]).energy)
            draw_points(plane, self.states[number, :400])

        shares = [
            self.share(self.plain),
            self.share(self.states[-1]),
            float(self.target.weights[1]),
        ]
        axes[3].bar(["plain", "annealed", "true"], shares, color=[RED, BLUE, ORANGE], width=0.6)
        axes[3].set_ylim(0, 1)
        for place, share in enumerate(shares):
            axes[3].text(place, share + 0.02, f"{share:.2f}", ha="center", fontsize=9, color=INK)
        return figure


def annealing(count: int = 1000, steps: int = 120, *, seed: int = 0) -> Annealing:
    """Return chains on two distant modes, with and without levels of noise; `steps` at each."""
    weights, centres = torch.tensor([0.2, 0.8]), torch.tensor([[-2.0, -1.0], [2.0, 1.0]])
    target, rng = Mixture(weights, centres, 0.4), generator(seed)
    start = uniform_points(count, rng)
    size = 0.01

    states, x = [], start
    for sigma in SIGMAS:
        x = langevin.annealed(
            lambda level: target.blurred(level).energy,
            x,
            rng,
            sigmas=[sigma],
            steps=steps,
            step=size * (sigma / SIGMAS[-1]) ** 2,
        )
        states.append(x)

    plain = start
    for _ in range(steps * len(SIGMAS)):
        plain = langevin.sgld(target.energy, plain, rng, step=size)
    return Annealing(target, torch.stack(states), plain)


# -- Gibbs sampling --------------------------------------------------------------------------------

TEMPERATURES = (1.5, 2.3, 4.0)


@dataclass(frozen=True)
class Gibbs:
    """Ising lattices at three temperatures, and the magnetisation of small ones: summed over all
    states, and by Gibbs sampling with its standard error."""

    lattices: list[Tensor]
    exact: list[float]
    sampled: list[float]
    errors: list[float]

    def draw(self) -> Figure:
        titles = [f"T = {temperature:g}" for temperature in TEMPERATURES]
        figure, axes = panels(*titles, "|m| of 4 × 4 spins")
        for lattice, plane in zip(self.lattices, axes[:3], strict=True):
            plane.imshow(lattice.numpy(), cmap="YlGnBu", vmin=-1.5, vmax=2, interpolation="nearest")
            plane.set(xticks=[], yticks=[])

        axes[3].plot(TEMPERATURES, self.exact, "o-", color=ORANGE, ms=9, label="all 65 536 states")
        axes[3].plot(TEMPERATURES, self.sampled, "x", color=INK, mew=1.8, label="Gibbs sampling")
        axes[3].set_xlabel("temperature T", fontsize=9)
        axes[3].set_ylim(0, 1.05)
        axes[3].legend(frameon=False, fontsize=8, loc="upper right")
        return figure


def gibbs(count: int = 200, sweeps: int = 200, *, seed: int = 0) -> Gibbs:
    """Return samples of Ising lattices; `count` small ones and one of 64 × 64 spins."""
    rng = generator(seed)
    lattices, exact, sampled, errors = [], [], [], []
    for temperature in TEMPERATURES:
        small = torch.ones(count, 4, 4)
        picture = 2.0 * torch.randint(2, (1, 64, 64), generator=rng) - 1
        draws = []
        for _ in range(sweeps):
            picture = ising.heat_bath(picture, rng, temperature)
            small = ising.heat_bath(small, rng, temperature)
            draws.append(ising.magnetisation(small))

        kept = torch.stack(draws[sweeps // 4 :], 1).numpy()  # [N, T]
        lattices.append(picture[0])
        exact.append(ising.exact(4, temperature).magnetisation)
        sampled.append(float(kept.mean()))
        errors.append(convergence.monte_carlo_error(kept))
    return Gibbs(lattices, exact, sampled, errors)


# -- Contrastive divergence, score matching, noise-contrastive estimation --------------------------

NOISE = 1.3  # deviation of the noise of noise-contrastive estimation


class Ring(nn.Module):
    """E(x) = a (|x|² − r)²; parameters log a, r and, for noise-contrastive estimation, log Z."""

    def __init__(self, a: float, r: float) -> None:
        super().__init__()
        self.log_a = nn.Parameter(torch.tensor(math.log(a)))
        self.r = nn.Parameter(torch.tensor(r))
        self.log_z = nn.Parameter(torch.zeros(()))

    def energy(self, x: Tensor) -> Tensor:
        """Return E of points [N, 2], [N]."""
        return self.log_a.exp() * (x.square().sum(1) - self.r).square()

    def score(self, x: Tensor) -> Tensor:
        """Return −∂E/∂x, [N, 2]."""
        away = x.square().sum(1, keepdim=True) - self.r
        return -4 * self.log_a.exp() * away * x

    def exact_log_z(self) -> float:
        """Return log ∫ exp(−E) = log(π/2 √(π/a) (1 + erf(r √a)))."""
        a, r = math.exp(self.log_a.item()), self.r.item()
        return math.log(math.pi / 2 * math.sqrt(math.pi / a) * (1 + math.erf(r * math.sqrt(a))))


def noise_energy(x: Tensor) -> Tensor:
    """Return |x|² / 2σ² of points [N, 2], the energy of the noise, [N]."""
    return x.square().sum(1) / (2 * NOISE**2)


LOG_Z_NOISE = math.log(2 * math.pi * NOISE**2)
Loss = Callable[[Ring, Tensor], Tensor]


def path_of(loss: Loss, data: Tensor, steps: int) -> tuple[Ring, Tensor]:
    """Minimise a loss over data from a wrong ring; return the model, and (r, a) after each step,
    [steps + 1, 2]."""
    model = Ring(a=0.6, r=0.8)
    search = torch.optim.Adam(model.parameters(), lr=0.05)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(search, steps)
    path = [torch.stack([model.r, model.log_a.exp()]).detach()]

    for _ in range(steps):
        search.zero_grad()
        loss(model, data).backward()
        search.step()
        rate.step()
        path.append(torch.stack([model.r, model.log_a.exp()]).detach())
    return model, torch.stack(path)


def divergence_loss(model: Ring, x: Tensor, rng: torch.Generator) -> Tensor:
    """Return contrastive divergence with chains of ten steps from the data (CD-10)."""
    ends = x
    for _ in range(10):
        ends, _ = langevin.mala(model.energy, ends, rng, step=0.03)
    return contrastive_divergence(model.energy(x), model.energy(ends), penalty=0)[0]


def matching_loss(model: Ring, x: Tensor) -> Tensor:
    """Return exact score matching."""
    return scores.exact(model.score, x).mean()


def noise_contrastive_loss(model: Ring, x: Tensor, noise: Tensor) -> Tensor:
    """Return the loss of telling data from noise by log p(x) − log q(x)."""

    def log_ratio(x: Tensor) -> Tensor:
        return noise_energy(x) + LOG_Z_NOISE - model.energy(x) - model.log_z

    return contrastive_loss(log_ratio(x), log_ratio(noise))


@dataclass(frozen=True)
class Estimators:
    """Points of a ring, where (r, a) goes in three trainings, [steps + 1, 2] each, and log Z by
    name, each with its standard error or 0."""

    truth: Ring
    data: Tensor
    paths: dict[str, Tensor]
    log_z: dict[str, sampling.LogMean]

    def draw(self) -> Figure:
        figure, axes = panels("data and true energy", "parameters in training", "log Z")
        draw_plane(axes[0], self.truth.energy)
        draw_points(axes[0], self.data[:400])

        lines = zip(self.paths.items(), (BLUE, RED, GREEN), ("-", "--", ":"), strict=True)
        for (name, path), colour, style in lines:
            axes[1].plot(path[:, 0], path[:, 1], style, color=colour, label=name)
        axes[1].plot(self.truth.r.item(), self.truth.log_a.exp().item(), "*", color=ORANGE, ms=14)
        axes[1].set_xlabel("r", fontsize=9)
        axes[1].set_ylabel("a", fontsize=9)
        axes[1].legend(frameon=False, fontsize=8, loc="upper left")

        for row, (value, error) in enumerate(self.log_z.values()):
            axes[2].errorbar(value, row, xerr=2 * error, fmt="o", color=BLUE)
        axes[2].axvline(self.truth.exact_log_z(), color=ORANGE)
        axes[2].set_yticks(range(len(self.log_z)), list(self.log_z), fontsize=8)
        axes[2].set_ylim(-0.6, len(self.log_z) - 0.4)
        return figure


def estimators(count: int = 2000, steps: int = 250, *, seed: int = 0) -> Estimators:
    """Return three ways to learn a ring of energy from draws of it, and three to find its log Z."""
    rng, truth = generator(seed), Ring(a=2.0, r=1.5).requires_grad_(False)
    a, r = math.exp(truth.log_a.item()), truth.r.item()
    bound = r / (2 * NOISE**2) + 1 / (16 * a * NOISE**4)  # the largest E_noise − E

    def draw_noise(count: int) -> Tensor:
        return NOISE * torch.randn(count, 2, generator=rng)

    drawn = sampling.rejection(truth.energy, draw_noise, noise_energy, bound, count, rng)
    data, noise = drawn.draws, draw_noise(count)

    model, by_noise = path_of(partial(noise_contrastive_loss, noise=noise), data, steps)
    paths = {
        "contrastive divergence": path_of(partial(divergence_loss, rng=rng), data, steps)[1],
        "score matching": path_of(matching_loss, data, steps)[1],
        "noise-contrastive": by_noise,
    }

    accepted = math.log(drawn.accepted)
    relative = math.sqrt((1 - drawn.accepted) / count)
    log_z = {
        "noise-\ncontrastive": sampling.LogMean(model.log_z.item(), 0.0),
        "rejection": sampling.LogMean(LOG_Z_NOISE + bound + accepted, relative),
        "annealed\nimportance": annealed_log_z(truth, noise, rng),
    }
    return Estimators(truth, data, paths, log_z)


def annealed_log_z(ring: Ring, noise: Tensor, rng: torch.Generator) -> sampling.LogMean:
    """Return log Z by annealed importance sampling from the noise to the ring."""

    def energy_at(beta: float) -> Energy:
        return lambda x: (1 - beta) * noise_energy(x) + beta * ring.energy(x)

    def step(x: Tensor, beta: float) -> Tensor:
        return langevin.mala(energy_at(beta), x, rng, step=0.03)[0]

    betas = torch.linspace(0, 1, 51).tolist()
    weights = sampling.annealed_importance(energy_at, noise, step, betas).log_weights
    ratio = sampling.log_mean(weights)
    return sampling.LogMean(LOG_Z_NOISE + ratio.value, ratio.error)


# -- Product of experts ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian with mean [2] and precision, the inverse of its covariance, [2, 2]."""

    mean: Tensor
    precision: Tensor

    def energy(self, x: Tensor) -> Tensor:
        """Return −log p of points [N, 2], [N]."""
        away = x - self.mean
        log_z = math.log(2 * math.pi) - float(self.precision.logdet()) / 2
        return (away @ self.precision * away).sum(1) / 2 + log_z


def ridge(mean: Sequence[float], degrees: float) -> Gaussian:
    """Return a long and thin Gaussian in this direction."""
    angle = math.radians(degrees)
    along = torch.tensor([math.cos(angle), math.sin(angle)])
    across = torch.tensor([-math.sin(angle), math.cos(angle)])
    precision = along.outer(along) / 1.8**2 + across.outer(across) / 0.35**2
    return Gaussian(torch.tensor(mean), precision)


@dataclass(frozen=True)
class Product:
    """Two experts, chains on the sum of their energies [N, 2], and three points: what only the
    first takes for normal, what only the second does, and what both do."""

    experts: tuple[Gaussian, Gaussian]
    ends: Tensor
    points: Tensor

    def exact(self) -> Gaussian:
        """Return the product, with the sum of precisions."""
        first, second = self.experts
        precision = first.precision + second.precision
        weighted = first.precision @ first.mean + second.precision @ second.mean
        return Gaussian(torch.linalg.solve(precision, weighted), precision)

    def energy(self, x: Tensor) -> Tensor:
        """Return the sum of energies, [N]."""
        return self.experts[0].energy(x) + self.experts[1].energy(x)

    def mixture_energy(self, x: Tensor) -> Tensor:
        """Return −log of the mean of the experts' densities, [N]."""
        energies = torch.stack([expert.energy(x) for expert in self.experts])
        return math.log(2) - (-energies).logsumexp(0)

    def draw(self) -> Figure:
        first, second = self.experts
        energies = {
            "expert 1": first.energy,
            "expert 2": second.energy,
            "product: E₁ + E₂": self.energy,
            "mixture: ½ p₁ + ½ p₂": self.mixture_energy,
        }
        figure, axes = panels(*energies)
        for plane, energy in zip(axes, energies.values(), strict=True):
            draw_plane(plane, energy)
            draw_points(plane, self.points, RED, 20, zorder=3)
            for point, name in zip(self.points.tolist(), "ABC", strict=True):
                place = point[0] + 0.15, point[1] + 0.15
                plane.text(*place, name, color=RED, fontsize=11, weight="bold")
        draw_points(axes[2], self.ends[:300])
        return figure


def product(count: int = 1000, steps: int = 200, *, seed: int = 0) -> Product:
    """Return chains on a product of experts that start anywhere in the plane."""
    rng = generator(seed)
    experts = ridge([-0.3, -0.2], 35), ridge([0.6, 0.3], -60)
    x = uniform_points(count, rng)
    points = torch.tensor([[-2.0, -1.4], [1.5, -1.3], [0.45, 0.35]])
    both = Product(experts, x, points)
    for _ in range(steps):
        x, _ = langevin.hmc(both.energy, x, rng, step=0.15, leapfrogs=6)
    return Product(experts, x, points)


# -- JEM -------------------------------------------------------------------------------------------

KINDS = torch.tensor([[0.0, 1.7], [-1.5, -0.9], [1.5, -0.9]])  # centres of three kinds of normals


def logits_of(net: LocalNet, x: Tensor) -> Tensor:
    """Return the logits [N, classes] of points [N, 2]: images of one pixel with two channels."""
    logits: Tensor = net(x[:, :, None, None])
    return logits[:, :, 0, 0].float()


def energy_of(net: LocalNet) -> Energy:
    """Return E(x) = −log Σ_y exp f(x)[y] as a function of points."""
    return lambda x: free_energy(net, x[:, :, None, None])[:, 0, 0]


def unsure(net: LocalNet, x: Tensor) -> Tensor:
    """Return −log max_y p(y|x) of points [N, 2], [N]."""
    return -logits_of(net, x).log_softmax(1).amax(1)


@dataclass(frozen=True)
class JEM:
    """A classifier of three kinds of normal points, and one that was trained as an energy too."""

    normal: Tensor
    odd: Tensor
    classifier: LocalNet
    joint: LocalNet

    def scores(self) -> dict[str, Energy]:
        """Return three scores of points by name."""
        return {
            "classifier: −log max p(y|x)": partial(unsure, self.classifier),
            "classifier: free energy": energy_of(self.classifier),
            "JEM: free energy": energy_of(self.joint),
        }

    def auroc(self) -> list[float]:
        """Return how well each of them tells odd points from normal ones."""
        found = []
        with torch.no_grad():
            for score in self.scores().values():
                found.append(auroc_of(score(self.normal), score(self.odd)))
        return found

    def accuracy(self) -> float:
        """Return the share of normal points whose kind JEM names."""
        nearest = torch.cdist(self.normal, KINDS).argmin(1)
        with torch.no_grad():
            return float((logits_of(self.joint, self.normal).argmax(1) == nearest).float().mean())

    def draw(self) -> Figure:
        figure, axes = panels(*self.scores())
        rows = zip(axes, self.scores().values(), self.auroc(), strict=True)
        for plane, score, area in rows:
            with torch.no_grad():
                depth = float(score(grid(41)).max() - score(grid(41)).min())
            draw_plane(plane, score, depth=depth)
            draw_points(plane, self.normal[:300])
            draw_points(plane, self.odd[:40], RED, 14, marker="x", linewidths=1)
            plane.set_xlabel(f"AUROC {area:.2f}", fontsize=10)
        return figure


def jem(count: int = 1000, steps: int = 150, *, seed: int = 0) -> JEM:
    """Return classifiers of the same points, without and with contrastive divergence."""
    rng = generator(seed)
    kinds = torch.arange(count) % 3
    target = Mixture(torch.full((3,), 1 / 3), KINDS, 0.4)
    points = KINDS[kinds] + target.deviation * torch.randn(count, 2, generator=rng)
    nets = []
    for weight in (0.0, 1.0):
        torch.manual_seed(seed)
        net = LocalNet(2, 3, 32, blocks=1, stem=1)
        train_classifier(net, points, kinds, weight, steps, rng)
        nets.append(net.requires_grad_(False))
    return JEM(target.sample(count, rng), odd_points(target, count, rng), *nets)


def train_classifier(
    net: LocalNet, x: Tensor, y: Tensor, weight: float, steps: int, rng: torch.Generator
) -> None:
    """Train on points x [N, 2] of kinds y [N] with the loss of JEM."""
    search = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=rng)
        loss = F.cross_entropy(logits_of(net, x[rows]), y[rows])
        if weight:
            ends = descent(energy_of(net), uniform_points(len(rows), rng), 10, rng, noise=0.05)
            energy = energy_of(net)
            loss = loss + weight * contrastive_divergence(energy(x[rows]), energy(ends), 0.1)[0]

        search.zero_grad()
        loss.backward()
        search.step()


def descent(energy: Energy, x: Tensor, steps: int, rng: torch.Generator, *, noise: float) -> Tensor:
    """Return the ends of Langevin chains of low temperature, which stay in the plane."""
    for _ in range(steps):
        bounds = -EXTENT, EXTENT
        x = langevin.sgld(energy, x, rng, step=0.2, noise=noise, clip=10, bounds=bounds)
    return x


# -- Short-run chains ------------------------------------------------------------------------------

SHORT = 15  # steps
START = 1.5  # deviation of the noise that chains start from


def wreath() -> Mixture:
    """Return small Gaussians in a circle."""
    angles = torch.linspace(0, 2 * math.pi, 25)[:-1]
    centres = 1.8 * torch.stack([angles.cos(), angles.sin()], 1)
    return Mixture(torch.full((24,), 1 / 24), centres, 0.25)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Return 2 E|a − b| − E|a − a′| − E|b − b′| of points [N, 2] and [M, 2] (Székely & Rizzo)."""
    across, within = torch.cdist(a, b).mean(), torch.cdist(a, a).mean() + torch.cdist(b, b).mean()
    return float(2 * across - within)


@dataclass(frozen=True)
class ShortRun:
    """Fresh normal points; an energy learned with short chains; where these start, end, and go in
    twenty times as many steps; and a line of starts with the ends of their chains."""

    target: Mixture
    energy: Energy
    normal: Tensor
    starts: Tensor
    ends: Tensor
    later: Tensor
    line: Tensor
    line_ends: Tensor

    def draw(self) -> Figure:
        titles = f"after {SHORT} steps", f"after {20 * SHORT} steps", "from a line of starts"
        figure, axes = panels(*titles)
        shown = self.ends[:400], self.later[:400], self.line_ends
        for plane, points in zip(axes, shown, strict=True):
            draw_plane(plane, self.energy, depth=2)
            draw_points(plane, points)

        for plane, points in zip(axes, (self.ends, self.later), strict=False):
            distance = energy_distance(points, self.normal)
            plane.set_xlabel(f"distance to the data {distance:.3f}", fontsize=10)
        draw_points(axes[2], self.line, ORANGE)
        return figure


def short_run(count: int = 1000, steps: int = 300, *, seed: int = 0) -> ShortRun:
    """Learn an energy with chains from noise that are always as short, and run them."""
    rng, target = generator(seed), wreath()
    data = target.sample(2000, rng)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def energy(x: Tensor) -> Tensor:
        values: Tensor = net(x)[:, 0]
        return values

    search = torch.optim.Adam(net.parameters(), lr=5e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(search, steps)
    for _ in range(steps):
        x = data[torch.randint(len(data), (256,), generator=rng)]
        ends = descent(energy, START * torch.randn(256, 2, generator=rng), SHORT, rng, noise=0)
        search.zero_grad()
        contrastive_divergence(energy(x), energy(ends), penalty=0.01)[0].backward()
        search.step()
        rate.step()

    net.requires_grad_(False)
    starts = START * torch.randn(count, 2, generator=rng)
    ends = descent(energy, starts, SHORT, rng, noise=0)
    later = descent(energy, ends, 19 * SHORT, rng, noise=0)
    line = torch.lerp(
        torch.tensor([-2.4, 0.1]), torch.tensor([2.4, 0.6]), torch.linspace(0, 1, 60)[:, None]
    )
    line_ends = descent(energy, line, SHORT, rng, noise=0)
    normal = target.sample(count, rng)
    return ShortRun(target, energy, normal, starts, ends, later, line, line_ends)


# -- Partial diffusion -----------------------------------------------------------------------------

LEVELS = (5, 20, 50, 100, 150, 250, 400, 600)
DRAWS = 5


@dataclass(frozen=True)
class Partial:
    """Normal and odd points, what partial diffusion makes of the odd ones by level, [M, 2], and how
    well the distance between the two tells them from normal ones, by method and level."""

    target: Mixture
    odd: Tensor
    restored: dict[int, Tensor]
    auroc: dict[str, list[float]]

    def draw(self) -> Figure:
        shown = 20, 100, 400
        figure, axes = panels(*[f"noise up to step {level}" for level in shown], "AUROC by level")
        odd = self.odd[:14]
        for level, plane in zip(shown, axes[:3], strict=True):
            draw_plane(plane, self.target.energy)
            draw_odd(plane, odd)
            for start, end in zip(odd, self.restored[level], strict=False):
                arrow = {"arrowstyle": "->", "color": INK, "shrinkA": 0, "shrinkB": 0}
                plane.annotate("", end.tolist(), start.tolist(), arrowprops=arrow)

        styles = zip(self.auroc.items(), ("o:", "o-", "s--"), (BLUE, BLUE, GREEN), strict=True)
        for (name, values), style, colour in styles:
            axes[3].semilogx(LEVELS, values, style, color=colour, markersize=4, label=name)
        axes[3].set_xlabel("step of 1000", fontsize=9)
        axes[3].set_ylim(0.35, 1.02)
        axes[3].legend(frameon=False, fontsize=8, loc="lower center")
        return figure


def exact_denoiser(target: Mixture, schedule: Tensor) -> diffusion.Denoise:
    """Return E[x_0 | x_t] of images of one pixel with two channels, by Tweedie's formula."""

    def denoise(xt: Tensor, t: Tensor) -> Tensor:
        a = float(schedule[t[0]])
        sigma = math.sqrt((1 - a) / a)
        y = xt.flatten(1) / math.sqrt(a)
        gradient = langevin.energy_and_gradient(target.blurred(sigma).energy, y).gradient
        return (y - sigma**2 * gradient)[:, :, None, None]

    return denoise


def partial_diffusion(count: int = 500, *, seed: int = 0) -> Partial:
    """Return what an exact denoiser makes of normal points, and of odd ones among them."""
    rng, target = generator(seed), crescent_and_heap(deviation=0.2)
    schedule = diffusion.linear_schedule()
    denoise = exact_denoiser(target, schedule)
    points = torch.cat([target.sample(count, rng), odd_points(target, count, rng, reach=2.3)])
    x = points[:, :, None, None]

    restored = {}
    found: dict[str, list[float]] = {"noise and back": [], f"mean of {DRAWS}": [], "no noise": []}
    for level in LEVELS:
        t = diffusion.steps_for(x, level)
        distances = []
        for _ in range(DRAWS):
            noisy = diffusion.diffuse(x, langevin.standard_normal(x, rng), t, schedule)
            back = diffusion.ddim(denoise, noisy, level, min(20, level), schedule).flatten(1)
            distances.append((back - points).norm(dim=1))
        once = denoise(diffusion.diffuse(x, torch.zeros_like(x), t, schedule), t).flatten(1)

        restored[level] = back[count:]
        by_method = distances[0], torch.stack(distances).mean(0), (once - points).norm(dim=1)
        for values, score in zip(found.values(), by_method, strict=True):
            values.append(auroc_of(score[:count], score[count:]))
    return Partial(target, points[count:], restored, found)


# -- Command ---------------------------------------------------------------------------------------


@in_own_style
def png(numbers: Numbers) -> bytes:
    """Return the figure of numbers as a PNG of few colours, the same bytes every time."""
    drawn, small = io.BytesIO(), io.BytesIO()
    numbers.draw().savefig(drawn, format="png", dpi=110)
    picture = Image.open(drawn).convert("RGB").quantize(COLOURS)
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()


IDEAS: dict[str, Callable[..., Numbers]] = {
    "landscape": landscape,
    "chains": chains,
    "annealing": annealing,
    "gibbs": gibbs,
    "estimators": estimators,
    "product": product,
    "jem": jem,
    "short-run": short_run,
    "partial": partial_diffusion,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the figures named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(IDEAS))
    parser.add_argument("--out", type=Path, required=True, help="the folder of the figures")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in IDEAS:
            parser.error(f"{name!r}: {nearest(name, list(IDEAS))}")

    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names or IDEAS:
        file = given.out / f"{name}.png"
        file.write_bytes(png(IDEAS[name](seed=given.seed)))
        print(file)


if __name__ == "__main__":
    main()
