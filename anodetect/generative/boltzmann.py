"""Boltzmann machines with layers of binary units over real or binary values.

A restricted machine has the energy, with σ = 1 and without the first square for binary values v,

    E(v, h) = Σ_i (v_i − b_i)² / 2σ_i² − Σ_j c_j h_j − Σ_ij v_i W_ij h_j / σ_i²
    F(v) = −log Σ_h exp(−E(v, h))
         = Σ_i (v_i − b_i)² / 2σ_i² − Σ_j softplus(c_j + Σ_i W_ij v_i / σ_i²)

(Hinton, "A practical guide to training restricted Boltzmann machines", 2010; σ after Cho et al.,
ICANN 2011). Binary values have −Σ b_i v_i in place of the square. Machines on top of one another
are a deep belief network (Hinton, Osindero & Teh, Neural Computation 2006), or, if each layer also
gets input from the one above, a deep Boltzmann machine (Salakhutdinov & Hinton, AISTATS 2009).

Values are [..., D], units [..., K]. Random draws take one generator, or one for each of the rows.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anodetect.generative.langevin import Random, standard_normal, uniform
from anodetect.generative.sampling import LogMean, annealed_importance, log_mean

# The biases of units before training, evenly spread: units that are seldom on learn heavy tails,
# and units that are on as often as off learn clusters.
FIRST_BIASES = -4.0, 0.0
FIRST_SHARE = 0.3  # of the variance of values that units make before training, at most


class Restricted(nn.Module):
    """A restricted Boltzmann machine with D values and K units, its weights W [D, K].

    Untrained it is near a standard normal distribution, or near that of independent binary values.
    Its weights are as large as they may be for that, since from small ones learning hardly begins:
    of whitened values units can only learn what is not in their covariance.
    `up` and `down` say how often the input of units and of values counts: 2 while the layers of a
    deep Boltzmann machine are trained one by one, in place of the layer that is missing there.
    """

    def __init__(
        self, values: int, units: int, *, gaussian: bool, up: int = 1, down: int = 1
    ) -> None:
        super().__init__()
        self.gaussian, self.up, self.down = gaussian, up, down
        biases = torch.linspace(*FIRST_BIASES, units)
        on = biases.sigmoid()
        spread = float((on * (1 - on)).sum())
        deviation = min(values**-0.5, (FIRST_SHARE / spread) ** 0.5)
        weight = deviation * torch.randn(values, units)
        around = torch.zeros(values) if gaussian else biases.mean().expand(values)
        left = math.log(1 - spread * deviation**2)  # of a variance of 1

        self.weight = nn.Parameter(weight)
        self.value_bias = nn.Parameter(around - down * weight @ on)
        self.unit_bias = nn.Parameter(biases)
        self.log_variance = nn.Parameter(torch.full((values,), left)) if gaussian else None

    def upward(self, v: Tensor) -> Tensor:
        """Return Wᵀ(v / σ²), what units get from values."""
        return self.scaled(v) @ self.weight

    def scaled(self, v: Tensor) -> Tensor:
        """Return v / σ²."""
        return v if self.log_variance is None else v * (-self.log_variance).exp()

    def downward(self, h: Tensor) -> Tensor:
        """Return b + W h, what values get from units."""
        return self.value_bias + h @ self.weight.T

    def units(self, v: Tensor) -> Tensor:
        """Return p(h = 1 | v)."""
        return torch.sigmoid(self.unit_bias + self.up * self.upward(v))

    def values(self, h: Tensor) -> Tensor:
        """Return the mean of v given h."""
        around = self.value_bias + self.down * (h @ self.weight.T)
        return around if self.gaussian else torch.sigmoid(around)

    def draw_values(self, mean: Tensor, rng: Random) -> Tensor:
        """Return values with this mean: Gaussian with variance σ², or binary."""
        if self.log_variance is None:
            return draw_binary(mean, rng)
        return mean + (self.log_variance / 2).exp() * standard_normal(mean, rng)

    def gibbs(self, v: Tensor, rng: Random, steps: int = 1) -> Tensor:
        """Return values after so many steps from v to units and back."""
        for _ in range(steps):
            v = self.draw_values(self.values(draw_binary(self.units(v), rng)), rng)
        return v

    def own_energy(self, v: Tensor) -> Tensor:
        """Return the energy of values by themselves, [...]."""
        if self.log_variance is None:
            return -(v @ self.value_bias)
        return (self.scaled((v - self.value_bias).square()) / 2).sum(-1)

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """Return E(v, h), [...]."""
        return self.own_energy(v) - ((self.unit_bias + self.upward(v)) * h).sum(-1)

    def free_energy(self, v: Tensor) -> Tensor:
        """Return F(v), [...]; with `up` copies of the values and `down` copies of the units."""
        inputs = self.unit_bias + self.up * self.upward(v)
        return self.up * self.own_energy(v) - self.down * F.softplus(inputs).sum(-1)


class Boltzmann(nn.Module):
    """One to three machines on top of one another, the lowest with Gaussian values.

    With `joint` they are a deep Boltzmann machine, whose layers have as biases those that their
    units have; otherwise a deep belief network. Of one layer both are the same.
    """

    def __init__(self, values: int, units: Sequence[int], *, joint: bool) -> None:
        super().__init__()
        self.joint = joint
        sizes = [values, *units]
        top = len(units) - 1
        layers = []
        for number, (below, above) in enumerate(pairwise(sizes)):
            # Until all are trained together, input counts twice where another one is to come.
            up = 2 if joint and number < top else 1
            down = 2 if joint and number > 0 else 1
            layers.append(Restricted(below, above, gaussian=number == 0, up=up, down=down))
        self.layers = nn.ModuleList(layers)

    def machines(self) -> list[Restricted]:
        """Return the layers, the lowest first."""
        return [layer for layer in self.layers if isinstance(layer, Restricted)]

    def drawn_below(self, v: Tensor, number: int, rng: Random) -> Tensor:
        """Return what layer `number` has for values, when v are those of the lowest."""
        for layer in self.machines()[:number]:
            v = draw_binary(layer.units(v), rng)
        return v

    # -- Free energy -------------------------------------------------------------------------------

    def free_energy(self, v: Tensor, iterations: int) -> Tensor:
        """Return F(v) of one layer, and of several an upper bound of −log p(v) − log Z, [...]."""
        lowest, *others = self.machines()
        if not others:
            return lowest.free_energy(v)
        means = self.mean_field(v, iterations)
        if self.joint:
            return self.energy(v, means) - entropy(means)
        return self._belief_bound(v, means)

    def mean_field(self, v: Tensor, iterations: int) -> list[Tensor]:
        """Return the means of a factorised posterior of the units, for each layer.

        In a belief network they follow one another upwards; in a deep Boltzmann machine they are
        brought into agreement by so many iterations.
        """
        means = []
        below = v
        for layer in self.machines():
            below = layer.units(below)
            means.append(below)
        if self.joint:
            for _ in range(iterations):
                for number in range(len(means)):
                    means[number] = torch.sigmoid(self._input(number + 1, [v, *means]))
        return means

    def energy(self, v: Tensor, units: Sequence[Tensor]) -> Tensor:
        """Return E(v, h₁ … h_L) of a deep Boltzmann machine, [...]; it is linear in each of h."""
        lowest, *others = self.machines()
        total = lowest.energy(v, units[0])
        for layer, below, above in zip(others, units[:-1], units[1:], strict=True):
            total = total - ((layer.unit_bias + layer.upward(below)) * above).sum(-1)
        return total

    def _input(self, number: int, states: Sequence[Tensor]) -> Tensor:
        """Return what the units of layer `number`, from 1 on, get from below and above.

        `states` are v and the units of all layers.
        """
        machines = self.machines()
        own = machines[number - 1]
        total = own.unit_bias + own.upward(states[number - 1])
        if number < len(machines):
            total = total + states[number + 1] @ machines[number].weight.T
        return total

    def _belief_bound(self, v: Tensor, means: Sequence[Tensor]) -> Tensor:
        """Return the bound of −log p(v) − log Z of the top layer, for the posterior with these
        means.

        It is E_q[−log p(v | h₁)] + … + F_top(mean) − H(q). For two layers it is a bound by Jensen's
        inequality; of a layer between them softplus is taken at the mean, which is near it.
        """
        lowest, *between, top = self.machines()
        assert lowest.log_variance is not None
        mean = means[0]
        error = (v - lowest.downward(mean)).square()
        error = error + (mean * (1 - mean)) @ lowest.weight.square().T
        normaliser = lowest.log_variance + math.log(2 * math.pi)
        total = (lowest.scaled(error) + normaliser).sum(-1) / 2

        for layer, below, above in zip(between, means[:-2], means[1:-1], strict=True):
            inputs = layer.downward(above)
            total = total + (F.softplus(inputs) - below * inputs).sum(-1)
        return total + top.free_energy(means[-2]) - entropy(means[:-1])

    # -- Chains ------------------------------------------------------------------------------------

    def sweep(self, states: Sequence[Tensor], rng: Random) -> list[Tensor]:
        """Return v and the units of a deep Boltzmann machine after a Gibbs sweep, top to bottom."""
        now = list(states)
        for number in range(len(now) - 1, 0, -1):
            now[number] = draw_binary(torch.sigmoid(self._input(number, now)), rng)
        lowest = self.machines()[0]
        now[0] = lowest.draw_values(lowest.downward(now[1]), rng)
        return now

    def chain(self, v: Tensor, rng: Random, steps: Sequence[int]) -> Iterator[Tensor]:
        """Yield the mean of the values that a Gibbs chain from v has after each of `steps` more.

        The chain of a belief network runs in its highest layer.
        """
        machines = self.machines()
        if self.joint:
            states = [v]
            for layer in machines:
                states.append(draw_binary(layer.units(states[-1]), rng))
            for count in steps:
                for _ in range(count):
                    states = self.sweep(states, rng)
                yield machines[0].downward(states[1])
            return

        top = self.drawn_below(v, len(machines) - 1, rng)
        for count in steps:
            top = machines[-1].gibbs(top, rng, count)
            below = top
            if len(machines) == 1:
                below = machines[0].values(machines[0].units(top))
            for layer in reversed(machines[:-1]):
                mean = layer.values(below)
                below = mean if layer.gaussian else draw_binary(mean, rng)
            yield below


def draw_binary(chances: Tensor, rng: Random) -> Tensor:
    """Return 1 with these probabilities, else 0."""
    return (uniform(chances, rng) < chances).to(chances.dtype)


def entropy(means: Sequence[Tensor]) -> Tensor:
    """Return the entropy of independent binary units in nats, [...]: the sum over all layers."""
    total = torch.zeros((), device=means[0].device)
    for mean in means:
        total = total + (torch.special.entr(mean) + torch.special.entr(1 - mean)).sum(-1)
    return total


@torch.no_grad()
def log_partition(
    rbm: Restricted, rng: torch.Generator, *, chains: int, temperatures: int
) -> LogMean:
    """Return log Z of a machine with Gaussian values, by annealed importance sampling.

    It starts at a machine whose units do not see the values, and whose Z is known (Salakhutdinov &
    Murray, ICML 2008). The error is that of `chains` independent runs.
    """
    assert rbm.log_variance is not None
    deviation = (rbm.log_variance / 2).exp()

    def inputs(v: Tensor, beta: float) -> Tensor:
        return beta * (rbm.unit_bias + rbm.upward(v))

    def step(v: Tensor, beta: float) -> Tensor:
        h = draw_binary(torch.sigmoid(inputs(v, beta)), rng)
        return rbm.draw_values(rbm.value_bias + beta * (h @ rbm.weight.T), rng)

    start = torch.zeros(chains, len(deviation), device=deviation.device)
    start = rbm.draw_values(start + rbm.value_bias, rng)
    annealed = annealed_importance(
        lambda beta: lambda v: rbm.own_energy(v) - F.softplus(inputs(v, beta)).sum(-1),
        start,
        step,
        torch.linspace(0, 1, temperatures).tolist(),
    )
    found = log_mean(annealed.log_weights.double().cpu())
    units = rbm.weight.shape[1]
    first = float(torch.log(deviation * (2 * torch.pi) ** 0.5).sum()) + units * math.log(2)
    return LogMean(found.value + first, found.error)
