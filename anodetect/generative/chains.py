"""Langevin chains for training an energy: where they start, how they run, what is learned from
their ends.

    loss = E(x⁺) − E(x⁻) + penalty · (E(x⁺)² + E(x⁻)²)         (contrastive divergence, Hinton, Neural Computation 2002)

x⁺ are normal images, x⁻ the ends of chains. Where chains start is called `chain`:

    "data"       at normal images with noise put on (as in recovery likelihood, Gao et al., ICLR 2021)
    "replay"     at the ends of earlier chains, a share of them anew (Du & Mordatch, NeurIPS 2019)
    "short-run"  at noise, every time (Nijkamp et al., NeurIPS 2019): the normals' own Gaussian by default, see
                 `informative`
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from anodetect.config import Config
from anodetect.errors import DataError
from anodetect.generative import langevin
from anodetect.generative.langevin import Energy
from anodetect.nn.training import TrainingBatch
from anodetect.types import Floats

BUFFER_BYTES = 2**28
LEARNED_FROM = 100  # images, or up to twice as many
FEWEST = 16  # images
# of a batch: chains cost several passes each, and the rest of training goes on beside them
CHAINED = 0.25
# What trainings come back from. Measured in healthy ones, with the default penalties: energies per
# value or place 0.02 to 3 in size and at most 1 apart, and hardly a value of a chain's end at its
# bounds (7 % at most). Energies that have run away, are the same everywhere, or send every chain to
# the bounds are none to learn from, however small their gap.
HEALTHY_GAP = 5.0
HEALTHY_SCALE = 1e-4, 100.0
SATURATED = 0.9
# what a wholly collapsed energy adds to the loss that is watched: more than DIVERGED times a usual
# one
COLLAPSED = 5.0
MARGIN = 0.1  # of the images' range, by which a chain may leave it


Place = tuple[int, int]  # shelf and number


class ChainConfig(Config):
    """`langevin_steps` of size `langevin_step` at a `temperature`; `proximal` bounds what a step's
    gradient changes in a value. A replay buffer has `buffer` places, or as many as 256 MB hold; a
    share `renewed` of chains begins anew: at the normals' own Gaussian, value by value, where
    `informative` (Yang & Ji, JEM++, ICCV 2021), else at uniform noise. In a short training a large
    buffer is hardly ever revisited: a few hundred places are enough for minutes."""

    chain: Literal["data", "replay", "short-run"] = "data"
    langevin_steps: PositiveInt = 5
    langevin_step: PositiveFloat = 0.2
    temperature: NonNegativeFloat = 0.01
    proximal: PositiveFloat = 1.0
    buffer: PositiveInt = 10_000
    renewed: float = Field(default=0.05, ge=0, le=1)
    informative: bool = True


class Chains:
    """Begins chains, runs them, and keeps their ends for "replay".

    The buffer is this process's own and not part of a checkpoint: after a resume it fills anew.
    """

    def __init__(self, config: ChainConfig, images: Floats, *, shelves: int = 1) -> None:
        """`images` [N, C, H, W] give the range that chains stay in and the Gaussian they may begin
        at."""
        if len(images) < FEWEST:
            raise DataError(
                f"an energy needs {FEWEST} images to learn from, there are {len(images)}"
            )
        self.config, self.shelves = config, shelves
        sample = torch.from_numpy(images[:: max(1, len(images) // LEARNED_FROM)].copy())
        room = MARGIN * float(sample.max() - sample.min())
        self.bounds = float(sample.min()) - room, float(sample.max()) + room
        self.mean, self.deviation = sample.mean(0), sample.std(0, correction=0)
        self.ends: dict[Place, Tensor] = {}
        self.returns = 0

    def run(
        self,
        energy: Energy,
        start: Tensor,
        generators: Sequence[torch.Generator],
        *,
        unit: Tensor | float = 1.0,
        shelves: Sequence[int] | None = None,
        returns: int = 0,
    ) -> tuple[Tensor, dict[str, float]]:
        """Ends [N, C, H, W] of one chain per generator, and facts about them. `start` is where
        "data" begins; a step is taken in values divided by `unit`, [N, 1, 1, 1] where chains
        differ. A chain is replayed only with others of its shelf, and, by the number of `returns`
        to good weights so far, none that ended on a diverged energy."""
        if returns != self.returns:
            self.ends, self.returns = {}, returns
        places = list(
            zip(shelves or [0] * len(generators), self._places(start, generators), strict=True)
        )
        x = self._begin(start, generators, places)
        config, norms = self.config, []
        for _ in range(config.langevin_steps):
            _, slope = langevin.gradient(lambda y: energy(y * unit), x / unit)
            norms.append(float(slope.square().mean().sqrt()))
            moved = langevin.move(
                x / unit,
                slope,
                generators,
                step=config.langevin_step,
                noise=math.sqrt(2 * config.langevin_step * config.temperature),
                clip=config.proximal / config.langevin_step,
            )
            x = (moved * unit).clamp(*self.bounds)
        if config.chain == "replay":
            ends = zip(places, x.cpu(), strict=True)
            self.ends |= {place: end.clone() for place, end in ends if end.isfinite().all()}
        saturated = ((x <= self.bounds[0]) | (x >= self.bounds[1])).float().mean()
        return x, {"langevin_gradient": sum(norms) / len(norms), "saturated": float(saturated)}

    def _places(self, like: Tensor, generators: Sequence[torch.Generator]) -> list[int]:
        room = max(
            1, min(self.config.buffer, BUFFER_BYTES // (4 * like[0].numel())) // self.shelves
        )
        return [int(torch.randint(room, (), generator=rng)) for rng in generators]

    def _begin(
        self, start: Tensor, generators: Sequence[torch.Generator], places: Sequence[Place]
    ) -> Tensor:
        if self.config.chain == "data":
            return start
        new = torch.stack([self._anew(start[0], rng) for rng in generators])
        if self.config.chain == "replay":
            for n, (place, rng) in enumerate(zip(places, generators, strict=True)):
                renewed = float(torch.rand((), generator=rng)) < self.config.renewed
                if place in self.ends and not renewed:
                    new[n] = self.ends[place]
        return new.to(start.device)

    def _anew(self, like: Tensor, rng: torch.Generator) -> Tensor:
        if not self.config.informative:
            low, high = self.bounds
            return low + (high - low) * torch.rand(like.shape, generator=rng)
        mean, deviation = self.mean, self.deviation
        if mean.shape != like.shape:  # of windows nobody knows where in the image they are from
            mean, deviation = mean.mean((1, 2), keepdim=True), sample_deviation(mean, deviation)
        return mean + deviation * torch.randn(like.shape, generator=rng)


def sample_deviation(mean: Tensor, deviation: Tensor) -> Tensor:
    """The deviation of values at any place of an image, [C, 1, 1], from the mean and deviation at
    each [C, H, W]."""
    return (
        deviation.square().mean((1, 2), keepdim=True) + mean.var((1, 2), keepdim=True, correction=0)
    ).sqrt()


def some_of(draw: TrainingBatch) -> tuple[list[int], TrainingBatch, float]:
    """The images of a batch that get a chain, each with the chance CHAINED by its own generator:
    their places, a draw of them alone, and the weight of their mean, 1 on average."""
    places = [
        n for n, rng in enumerate(draw.generators) if float(torch.rand((), generator=rng)) < CHAINED
    ]
    generators = [draw.generators[n] for n in places]
    part = replace(draw, images=draw.images[places], generators=generators, rows=draw.rows[places])
    return places, part, len(places) / (CHAINED * len(draw.images))


def beyond(facts: Mapping[str, float]) -> float:
    """By how much energies and chains have left the range that trainings come back from: what to
    watch for divergence."""
    low, high = HEALTHY_SCALE
    gap, scale, saturated = facts["energy_gap"], facts["energy_scale"], facts["saturated"]
    apart = max(abs(gap) - HEALTHY_GAP, 0.0)  # in this order NaN stays NaN, here and below
    large = max(scale - high, 0.0)
    flat = max(1 - scale / low, 0.0)
    stuck = max((saturated - SATURATED) / (1 - SATURATED), 0.0)
    return apart + large + COLLAPSED * (flat + stuck)


def contrastive_divergence(
    positive: Tensor, negative: Tensor, penalty: float
) -> tuple[Tensor, dict[str, float]]:
    """The loss from mean energies [N] of normal images and of chains' ends, and facts about them.
    It is least where these are ∓1 / (2 · penalty): the penalty bounds how far apart they are
    driven."""
    gap = positive.mean() - negative.mean()
    size = positive.square().mean() + negative.square().mean()
    return gap + penalty * size, {
        "energy_gap": gap.item(),
        "energy_scale": (size / 2).sqrt().item(),
    }
