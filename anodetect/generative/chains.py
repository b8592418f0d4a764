"""Langevin chains for training an energy: where they start, how they run, what their ends teach.

    loss = E(x⁺) − E(x⁻) + penalty · (E(x⁺)² + E(x⁻)²)

This is contrastive divergence (Hinton, Neural Computation 2002): x⁺ are normal images, x⁻ the ends
of chains. Where chains start is the setting `chain`:

    "data"       at normal images with noise (as in recovery likelihood, Gao et al., ICLR 2021)
    "replay"     at the ends of earlier chains, some at noise (Du & Mordatch, NeurIPS 2019)
    "short-run"  at noise, every time (Nijkamp et al., NeurIPS 2019)
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from anodetect.config import Config
from anodetect.generative import langevin
from anodetect.generative.langevin import Energy
from anodetect.nn.checks import check_fewest
from anodetect.nn.training import TrainingBatch
from anodetect.types import Floats

BUFFER_BYTES = 2**28  # of a replay buffer, at most
LEARNED_FROM = 100  # images, or up to twice as many, that range and Gaussian are learned from
MARGIN = 0.1  # of the images' range, by which a chain may leave it
# The share of a batch that gets chains: they cost several passes each, and the rest of training
# continues beside them.
CHAINED = 0.25

# Measured in healthy trainings with the default penalties: energies per value or location are 0.02
# to 3 in size and at most 1 apart, and at most 7 % of the values of a chain's end are at a bound.
# Energies that have run away, are the same everywhere, or send every chain to the bounds teach
# nothing, however small their gap. These are the limits that trainings still come back from.
HEALTHY_GAP = 5.0
HEALTHY_SCALE = 1e-4, 100.0
HEALTHY_SATURATION = 0.9
# What a completely collapsed energy adds to the watched loss: more than a divergence monitor's
# limit times a usual loss.
COLLAPSED = 5.0


class ChainConfig(Config):
    """Where chains start and how they run."""

    chain: Literal["data", "replay", "short-run"] = Field(
        default="data",
        description="Where the Langevin chains of training start: 'data' (normal images with "
        "noise), 'replay' (the ends of earlier chains) or 'short-run' (noise).",
    )
    langevin_steps: PositiveInt = Field(
        default=5, description="The steps of each Langevin chain in training."
    )
    langevin_step: PositiveFloat = Field(
        default=0.2, description="The size of a Langevin step: what the gradient is multiplied by."
    )
    temperature: NonNegativeFloat = Field(
        default=0.01,
        description="The temperature of the chains in training: the variance of a step's noise is "
        "2 × step × temperature; 1 samples the energy's own distribution.",
    )
    proximal: PositiveFloat = Field(
        default=1.0, description="The largest change of a value by the gradient of one step."
    )
    buffer: PositiveInt = Field(
        default=10_000,
        description="The number of chains a replay buffer holds, at most as many as fit into 256 "
        "MB. In a short training a large buffer is hardly revisited: some hundred are enough for "
        "minutes.",
    )
    renewed: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="The share of replayed chains that start from noise instead.",
    )
    informative: bool = Field(
        default=True,
        description="Start new chains from a Gaussian with the normal images' own mean and "
        "deviation at each value (Yang & Ji, JEM++, ICCV 2021), instead of uniform noise.",
    )


class ChainFacts(NamedTuple):
    """Facts about the chains of a step, as train.jsonl has them.

    `langevin_gradient` is the root mean square of the gradient along them, `saturated` the share of
    their ends' values that are at the bounds.
    """

    langevin_gradient: float
    saturated: float


class EnergyFacts(NamedTuple):
    """Facts about the energies of a step, as train.jsonl has them.

    `energy_gap` is the mean of normal images minus that of chains' ends, `energy_scale` the root
    mean square of both.
    """

    energy_gap: float
    energy_scale: float


class Slot(NamedTuple):
    """A place in the replay buffer."""

    partition: int
    number: int


class Chains:
    """Starts chains, runs them, and keeps their ends for "replay".

    The replay buffer belongs to this process and is not part of a checkpoint: after a resume it
    starts empty. It has `partitions` of equal size, which do not share chains.
    """

    def __init__(self, config: ChainConfig, images: Floats, *, partitions: int = 1) -> None:
        """Learn the range that chains stay in, and the Gaussian they may start from.

        `images` are [N, C, H, W]; fewer than 16 raise DataError.
        """
        check_fewest(images, "an energy")
        self.config, self.partitions = config, partitions
        sample = torch.from_numpy(images[:: max(1, len(images) // LEARNED_FROM)].copy())
        lowest, highest = float(sample.min()), float(sample.max())
        margin = MARGIN * float(sample.max() - sample.min())
        self.bounds = lowest - margin, highest + margin
        self.mean, self.deviation = sample.mean(0), sample.std(0, correction=0)

        self.ends: dict[Slot, Tensor] = {}
        self.returns = 0

    def run(
        self,
        energy: Energy,
        start: Tensor,
        generators: Sequence[torch.Generator],
        *,
        unit: Tensor | float = 1.0,
        partitions: Sequence[int] | None = None,
        returns: int = 0,
    ) -> tuple[Tensor, ChainFacts]:
        """Run one chain per generator; return their ends [N, C, H, W] and facts about them.

        `start` [N, C, H, W] is where "data" starts. Steps are taken in values divided by `unit`,
        [N, 1, 1, 1] where chains differ. Each chain replays only ends of its own partition. When
        `returns`, the count of training's returns to good weights, has changed, the buffer is
        emptied: its ends are from a diverged energy.
        """
        if returns != self.returns:
            self.ends, self.returns = {}, returns

        config = self.config
        slots = self._draw_slots(start, generators, partitions or [0] * len(generators))
        x = self._start(start, generators, slots)
        norms = []
        for _ in range(config.langevin_steps):
            _, gradient = langevin.energy_and_gradient(lambda y: energy(y * unit), x / unit)
            norms.append(float(gradient.square().mean().sqrt()))
            moved = langevin.langevin_step(
                x / unit,
                gradient,
                generators,
                step=config.langevin_step,
                noise=math.sqrt(2 * config.langevin_step * config.temperature),
                clip=config.proximal / config.langevin_step,
            )
            x = (moved * unit).clamp(*self.bounds)

        if config.chain == "replay":
            self._keep(slots, x)
        lowest, highest = self.bounds
        saturated = ((x <= lowest) | (x >= highest)).float().mean()
        return x, ChainFacts(sum(norms) / len(norms), float(saturated))

    def _draw_slots(
        self, like: Tensor, generators: Sequence[torch.Generator], partitions: Sequence[int]
    ) -> list[Slot]:
        """Draw a slot of the buffer for each chain."""
        bytes_of_one = 4 * like[0].numel()
        size = max(1, min(self.config.buffer, BUFFER_BYTES // bytes_of_one) // self.partitions)
        slots = []
        for partition, rng in zip(partitions, generators, strict=True):
            slots.append(Slot(partition, int(torch.randint(size, (), generator=rng))))
        return slots

    def _start(
        self, start: Tensor, generators: Sequence[torch.Generator], slots: Sequence[Slot]
    ) -> Tensor:
        """Return where chains start, [N, C, H, W]."""
        if self.config.chain == "data":
            return start

        x = torch.stack([self._noise(start[0], rng) for rng in generators])
        if self.config.chain == "replay":
            for n, (slot, rng) in enumerate(zip(slots, generators, strict=True)):
                renewed = float(torch.rand((), generator=rng)) < self.config.renewed
                if slot in self.ends and not renewed:
                    x[n] = resized(self.ends[slot], x.shape[-2:])
        return x.to(start.device)

    def _noise(self, like: Tensor, rng: torch.Generator) -> Tensor:
        """Return the start of a new chain, of the shape [C, H, W] of `like`."""
        if not self.config.informative:
            low, high = self.bounds
            return low + (high - low) * torch.rand(like.shape, generator=rng)

        mean, deviation = self.mean, self.deviation
        if mean.shape != like.shape:
            # Windows may be from anywhere in the image: the moments of values at any place of it.
            variance = deviation.square().mean((1, 2), keepdim=True)
            deviation = (variance + mean.var((1, 2), keepdim=True, correction=0)).sqrt()
            mean = mean.mean((1, 2), keepdim=True)
        return mean + deviation * torch.randn(like.shape, generator=rng)

    def _keep(self, slots: Sequence[Slot], ends: Tensor) -> None:
        """Put the ends of chains into their slots of the buffer, but none that is not finite."""
        for slot, end in zip(slots, ends.cpu(), strict=True):
            if end.isfinite().all():
                self.ends[slot] = end.clone()


def resized(end: Tensor, sides: torch.Size) -> Tensor:
    """Return the end of a chain [C, H, W] with these sides, to continue at another resolution."""
    if end.shape[-2:] == sides:
        return end
    return F.interpolate(end[None], tuple(sides), mode="bilinear", antialias=True)[0]


class ChainedImages(NamedTuple):
    """The images of a batch that get a chain.

    `places` are their places in the batch, `batch` has them alone, and `weight` is what the mean of
    a loss over them is multiplied by: 1 on average.
    """

    places: list[int]
    batch: TrainingBatch
    weight: float


def choose_chained(batch: TrainingBatch, share: float = CHAINED) -> ChainedImages:
    """Choose the images that get a chain, each with probability `share` by its own generator."""
    places = []
    for place, rng in enumerate(batch.generators):
        if float(torch.rand((), generator=rng)) < share:
            places.append(place)

    chosen = replace(
        batch,
        images=batch.images[places],
        generators=[batch.generators[place] for place in places],
        rows=batch.rows[places],
        visible=None if batch.visible is None else batch.visible[places],
    )
    return ChainedImages(places, chosen, len(places) / (share * len(batch.images)))


def contrastive_divergence(
    positive: Tensor, negative: Tensor, penalty: float
) -> tuple[Tensor, EnergyFacts]:
    """Return the loss, a scalar, and facts about the energies.

    `positive` and `negative` are mean energies [N] of normal images and of chains' ends. The loss
    is least where these are ∓1 / (2 · penalty): the penalty bounds how far apart they are driven.
    """
    gap = positive.mean() - negative.mean()
    size = positive.square().mean() + negative.square().mean()
    facts = EnergyFacts(energy_gap=gap.item(), energy_scale=(size / 2).sqrt().item())
    return gap + penalty * size, facts


def instability(energies: EnergyFacts, chains: ChainFacts) -> float:
    """Return how far energies and chains are outside the range that trainings come back from.

    It is 0 inside, and NaN if a fact is NaN. Added to the watched loss, it shows a divergence.
    """
    lowest, highest = HEALTHY_SCALE
    scale = energies.energy_scale
    # In this order of arguments max keeps NaN.
    apart = max(abs(energies.energy_gap) - HEALTHY_GAP, 0.0)
    large = max(scale - highest, 0.0)
    flat = max(1 - scale / lowest, 0.0)
    saturated = max((chains.saturated - HEALTHY_SATURATION) / (1 - HEALTHY_SATURATION), 0.0)
    return apart + large + COLLAPSED * (flat + saturated)
