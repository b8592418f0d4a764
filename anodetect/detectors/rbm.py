"""RBM: the free energy of a Boltzmann machine on whitened patches of images, or on feature vectors.

    E(v, h) = Σ_i (v_i − b_i)² / 2σ_i² − Σ_j c_j h_j − Σ_ij v_i W_ij h_j / σ_i²
    F(v) = Σ_i (v_i − b_i)² / 2σ_i² − Σ_j softplus(c_j + Σ_i W_ij v_i / σ_i²)

v is what is around a place: a window of `window` × `window` pixels, or the feature vector of the
place, whitened (`generative.whitening`). The h_j are binary units, so that p(v) ∝ exp(−F(v)) is a
mixture of 2^K Gaussians that share all they have (Hinton, "Training products of experts by
minimizing contrastive divergence", Neural Computation 2002). The free energies of all places are
the heatmap. Training places have as much white noise as the whitening allows for, so that a machine
starts at their Gaussian, whose energy is a Mahalanobis distance, and finds anomalies untrained.

The gradient of −log p is that of F on normal places minus that of F at the ends of Gibbs chains,
which begin at normal places (`chain="data"`, CD-k), or where they ended at the step before
("persistent", Tieleman, ICML 2008). With `layers` 2 or 3 further machines are trained one by one
on the units of the one below: a deep belief network (Hinton, Osindero & Teh 2006). With `joint`
they are then trained together as a deep Boltzmann machine, with a mean-field posterior and
persistent chains (Salakhutdinov & Hinton, AISTATS 2009). The map of several layers is an upper
bound of −log p (`generative.boltzmann`).

After training train.jsonl has the mean log-likelihood of tune places, with log Z by annealed
importance sampling, beside that of a Gaussian: a machine that is no better has learned nothing
else. Larger = more anomalous. `sample` makes mosaics of patches, as it knows nothing larger.

Fails on whatever looks like normal patches in the wrong place, and where features are the pixels
around a place also on constant images, whose places are among the likeliest. Cost: two minutes to
train, 52 ms an image on features.
"""

import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anodetect.config import refuse_idle
from anodetect.errors import ConfigError
from anodetect.generative.boltzmann import Boltzmann, Restricted, draw_binary, log_partition
from anodetect.generative.chains import ChainFacts, EnergyFacts, instability
from anodetect.generative.flows import log_normal
from anodetect.generative.noise import generator
from anodetect.generative.samples import chain_generators, samples_of
from anodetect.generative.whitening import (
    LOW,
    ON_FEATURES,
    Whitening,
    WindowsConfig,
    all_windows,
    check_stride,
    check_window,
    energy_maps,
    energy_pass,
    noisy_windows,
    windows_to_learn_from,
)
from anodetect.imaging.standardise import MapStandardizer
from anodetect.nn.inference import pick_device, to_tensor
from anodetect.nn.single_pass import Pass
from anodetect.nn.softplus import Softplus
from anodetect.nn.state import load_weights, module_state
from anodetect.nn.training import Losses, Training, TrainingBatch, optimize
from anodetect.types import Batch, Floats, Samples, Scores, Seeds, State, TrainContext

ANNEALED = {"chains": 100, "temperatures": 200}
SAMPLED = (1, 1, 2, 4, 8, 16, 32, 64, 64, 64, 64)  # Gibbs steps between the states of a chain
# Added to the watched loss, which is a share of 0 to 1 in a machine that learns: the step from one
# layer to the next must not look like a divergence.
UNEXPLAINED = 0.5


class RBMConfig(WindowsConfig):
    """The machine, what it sees, and its training."""

    shrinkage: PositiveFloat = Field(
        default=0.001,
        description="What is added to the variance of each component before it is whitened, as a "
        "share of the mean variance.",
    )
    hidden: PositiveInt = Field(default=128, description="The binary units of each layer.")
    layers: int = Field(
        default=1,
        ge=1,
        le=3,
        description="The layers of units; several are a deep belief network, or with `joint` a "
        "deep Boltzmann machine.",
    )
    joint: bool = Field(default=False, description="Train all layers together, after one by one.")
    pretraining: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="With `joint`, the share of training in which layers are trained one by one.",
    )
    mean_field: PositiveInt = Field(
        default=10, description="With `joint`, the iterations of the mean-field posterior."
    )
    chain: Literal["persistent", "data"] = Field(
        default="persistent",
        description="Where the Gibbs chains of training start: where they ended ('persistent'), or "
        "at normal places ('data'); while `joint` trains all layers together, where they ended.",
    )
    gibbs_steps: PositiveInt = Field(
        default=1, description="The steps of each Gibbs chain in training."
    )
    training: Training = Field(
        default=Training(steps=2000, learning_rate=5e-3, returns=3),
        description="How the machine is trained.",
    )


class Learner(nn.Module):
    """The machine, and the values of each of its layers where the persistent chains are.

    Chains are buffers, so that a checkpoint holds them and a return to good weights brings back
    those of the same step.
    """

    def __init__(self, machine: Boltzmann, rows: int, places: int, rng: torch.Generator) -> None:
        super().__init__()
        self.machine = machine
        for number, layer in enumerate(machine.machines()):
            shape = rows, places, len(layer.value_bias)
            mean = layer.value_bias.detach().expand(shape)
            start = layer.draw_values(mean if layer.gaussian else mean.sigmoid(), rng).detach()
            self.register_buffer(f"chain{number}", start)

    def chain(self, number: int, rows: int) -> Tensor:
        """Return where chains of a layer are, [rows, places, D]."""
        return self.get_buffer(f"chain{number}")[:rows]


class Energies(NamedTuple):
    """Energies per value of normal places, and at the ends of chains, [N, S] each."""

    positive: Tensor
    negative: Tensor


class RBM:
    """The free energy of a Boltzmann machine."""

    Config = RBMConfig
    defaults: ClassVar[dict[str, Any]] = {
        "pixels": {"representation": {"size": 128}},
        "features": {
            "representation": {"neighbours": 3},
            "detector": ON_FEATURES | {"hidden": 256},
        },
    }

    def __init__(self, config: RBMConfig) -> None:
        if config.joint and config.layers == 1:
            raise ConfigError("detector.joint: a deep Boltzmann machine needs layers=2 or 3")
        if config.joint and config.pretraining == 0:
            reason = "layers that learn together have persistent chains; leave it out"
            refuse_idle(config, ["chain"], reason)
        check_stride(config.stride, config.window)
        self.config = config
        self.device = torch.device("cpu")
        self.net: Boltzmann
        self.whitening: Whitening
        self.shape = (1, 1, 1)  # C, H, W of images
        self.positive = Softplus()
        self.standardizer = MapStandardizer(config, {"free energy": [0]})

    # -- Training ----------------------------------------------------------------------------------

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Learn the whitening, train the machine, then learn what its maps are on tune images."""
        started = time.monotonic()
        self.check(fit.images.shape[1:])
        channels, height, width = fit.images.shape[1:]
        self.shape, self.device = (channels, height, width), pick_device(context.device)
        vectors = windows_to_learn_from(fit, self.config.window, context.seed)
        self.whitening = Whitening.learn(vectors, self.config.shrinkage).to(self.device)
        torch.manual_seed(context.seed)  # initial weights
        self.net = self._build(vectors.shape[1])
        config, rng = self.config, generator(context.seed)
        learner = Learner(self.net, config.training.batch, config.places, rng)

        # Training leaves time to score tune images.
        tune, context, reserve = self.standardizer.plan(
            lambda batch, seeds: self._free_energies(batch), fit, tune, context
        )
        trained = optimize(
            learner,
            lambda net, batch: self._loss(net, batch, fit),
            fit.images,
            config.training,
            context,
            device=self.device,
            reserve=reserve + time.monotonic() - started,
            useful_untrained=True,
        )
        self.net = trained.net.machine
        self._standardize(tune, context)
        self._log_likelihood(tune, context)
        context.log(trained.facts())

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if images [C, H, W] of this shape are smaller than a window, or do not
        fit the settings of patterns."""
        self.standardizer.check(shape[0])
        check_window(self.config.window, shape)

    def _build(self, values: int) -> Boltzmann:
        config = self.config
        units = [config.hidden] * config.layers
        return Boltzmann(values, units, joint=config.joint).to(self.device)

    def _loss(self, net: Learner, batch: TrainingBatch, fit: Batch) -> Losses:
        config, machine = self.config, net.machine
        foreground, rngs = fit.foreground[batch.rows], batch.generators
        v = noisy_windows(self.whitening, batch.images, foreground, config, rngs)

        number = self._learning(batch.progress)
        if number < config.layers:
            energies = self._divergence(net, number, v, rngs)
        else:
            energies = self._joint_divergence(net, v, rngs)
        gap = energies.positive.mean() - energies.negative.mean()
        scale = (energies.positive.square() + energies.negative.square()).mean() / 2

        facts = EnergyFacts(gap.item(), scale.sqrt().item())
        layer = min(number, config.layers - 1)
        with torch.no_grad():
            below = machine.drawn_below(v, layer, rngs)
            share = unexplained(machine.machines()[layer], below)
        watched = UNEXPLAINED + share + instability(facts, ChainFacts(0.0, 0.0))
        return Losses(gap, watched, facts._asdict() | {"unexplained": float(share)})

    def _learning(self, progress: float) -> int:
        """Return the number of the layer that learns, or the count of layers where all do."""
        layers = self.config.layers
        if not self.config.joint:
            return int(progress * layers)
        one_by_one = self.config.pretraining
        return layers if progress >= one_by_one else int(progress / one_by_one * layers)

    def _divergence(
        self, net: Learner, number: int, v: Tensor, rngs: list[torch.Generator]
    ) -> Energies:
        """Return free energies per value of one layer: of normal places v [N, S, D], and at the
        ends of Gibbs chains."""
        layer = net.machine.machines()[number]
        with torch.no_grad():
            below = net.machine.drawn_below(v, number, rngs)
            kept = net.chain(number, len(v))
            start = kept if self.config.chain == "persistent" else below
            ends = layer.gibbs(start, rngs, self.config.gibbs_steps)
            kept.copy_(ends)
        size = below.shape[-1]
        return Energies(layer.free_energy(below) / size, layer.free_energy(ends) / size)

    def _joint_divergence(self, net: Learner, v: Tensor, rngs: list[torch.Generator]) -> Energies:
        """Return energies per value of the whole machine: of normal places with the means of their
        posterior, and of persistent chains."""
        machine = net.machine
        with torch.no_grad():
            means = machine.mean_field(v, self.config.mean_field)
            kept = [net.chain(number, len(v)) for number in range(self.config.layers)]
            top = machine.machines()[-1]
            chances = torch.sigmoid(top.unit_bias + top.upward(kept[-1]))
            states = [*kept, draw_binary(chances, rngs)]
            for _ in range(self.config.gibbs_steps):
                states = machine.sweep(states, rngs)
            for buffer, state in zip(kept, states[:-1], strict=True):
                buffer.copy_(state)

        ends, *units = states
        size = v.shape[-1]
        return Energies(machine.energy(v, means) / size, machine.energy(ends, units) / size)

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores and maps; nothing is random, and there is no reconstruction."""
        return Scores(*self.standardizer.combine(self._positive_maps(batch), batch))

    def one_pass(self, shape: Sequence[int]) -> Pass:
        """Return the pass for images of this shape; ConfigError for several layers."""
        config = self.config
        if config.layers > 1:
            raise ConfigError("detector.layers: the posterior of several layers is many passes")
        return energy_pass(self._free_energy, config, self.positive, self.standardizer)

    def _standardize(self, tune: Batch, context: TrainContext) -> None:
        """Learn what maps are on tune normals."""
        self.positive = Softplus.learn(self._free_energies(tune)[:, 0][tune.foreground], LOW)
        self.standardizer.learn(lambda batch, seeds: self._positive_maps(batch), tune, context)

    def _positive_maps(self, batch: Batch) -> Floats:
        """Return the softplus of standardised free energies, [N, 1, H, W]."""
        return self.positive(self._free_energies(batch))

    def _free_energies(self, batch: Batch) -> Floats:
        """Return the free energy around every pixel, [N, 1, H, W]."""
        return energy_maps(self._free_energy, batch, self.config, self.device)

    def _free_energy(self, x: Tensor) -> Tensor:
        """Return the free energy of windows [L, D], [L]."""
        return self.net.free_energy(self.whitening(x), self.config.mean_field)

    @torch.no_grad()
    def _log_likelihood(self, tune: Batch, context: TrainContext) -> None:
        """Log the mean log-likelihood of tune places with noise, whitened, in nats, and that under
        a Gaussian."""
        if self.config.layers > 1:
            return
        config, rngs = self.config, chain_generators(context.seed, len(tune))
        images = to_tensor(tune.images, self.device)
        v = noisy_windows(self.whitening, images, tune.foreground, config, rngs)

        found = log_partition(self.net.machines()[0], generator(context.seed), **ANNEALED)
        energy = self.net.free_energy(v, config.mean_field).mean()
        entry = {
            "log_likelihood": -float(energy) - found.value,
            "log_likelihood_error": found.error,
            "log_likelihood_of_a_gaussian": float(log_normal(v.flatten(0, 1)).mean()),
        }
        context.log(entry)

    # -- Making images -----------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, count: int, *, seed: int, start: Floats | None = None) -> Samples:
        """Return mosaics of patches, each the mean of the values at the end of its own Gibbs chain.

        Without a `start` chains begin at white noise, so at patches of a Gaussian.
        """
        chains = []
        for rng in chain_generators(seed, count):
            image = torch.zeros(self.shape) if start is None else torch.from_numpy(start.copy())
            x, _ = all_windows(image[None].to(self.device), self.config.window, self.config.window)
            v = self.whitening(x[0])
            if start is None:
                v = torch.randn(v.shape, generator=rng).to(self.device)
            states = [v, *self.net.chain(v, rng, SAMPLED)]
            chains.append(torch.stack([self._mosaic(state) for state in states]))
        return samples_of(list(torch.stack(chains, 1)))

    def _mosaic(self, v: Tensor) -> Tensor:
        """Return the image [C, H, W] of the whitened patches [L, D] side by side."""
        (_, height, width), side = self.shape, self.config.window
        whole = -(-height // side) * side, -(-width // side) * side
        image = F.fold(self.whitening.back(v).T[None], whole, side, stride=side)
        return image[0, :, :height, :width]

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the weights, the whitening, and what was learned on tune."""
        networks = module_state(self.net, "net.") | self.whitening.state()
        own = {"shape": np.array(self.shape)} | self.positive.state("low")
        return networks | self.standardizer.state() | own

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose state this was."""
        self.device = pick_device(device)
        channels, height, width = state["shape"].tolist()
        self.shape = channels, height, width
        self.positive = Softplus.from_state(state, "low")

        self.whitening = Whitening.from_state(state, self.device)
        self.net = load_weights(self._build(len(self.whitening.mean)), state, "net.")
        self.standardizer.load_state(state)

    def check_state(self, shape: Sequence[int]) -> None:
        """Raise ValueError if the machine is none of images of this shape."""
        if self.shape != tuple(shape):
            raise ValueError(f"the machine is of images {list(self.shape)}")


def unexplained(layer: Restricted, v: Tensor) -> Tensor:
    """Return the share of the variance of values [..., D] that is not in the means that their own
    units give them, a scalar: 1 of a machine whose units say nothing."""
    error = (v - layer.values(layer.units(v))).square().mean()
    variance = (v - v.flatten(0, -2).mean(0)).square().mean()
    return error / variance.clamp(min=1e-6)
