"""JEM: a classifier of normal images' locations, read as an energy.

    E_p(x) = −log Σ_y exp f_p(x)[y]
    loss = cross-entropy + weight · (E(x⁺) − E(x⁻))                  (Grathwohl et al., ICLR 2020)

f is fully convolutional, so every location p has a free energy of its own, and their map is the
heatmap. x⁻ are the ends of Langevin chains (`generative/chains.py`). Classes y are the normal
images' kinds where there are several; otherwise labels that images give themselves, whichever a
short trial learns better on tune:

    "transformation"   which of the eight rotations and reflections was applied (Golan & El-Yaniv,
                       NeurIPS 2018)
    "position"         which of 4 × 4 parts of the image a location is in, for registered images

`objective="contrastive"` needs no chains: the generative term is log f(x)[y] against the other
locations of the batch (HDGE, Liu & Abbeel 2020). The setting `score` is what is standardised on
tune and pooled:

    "free-energy"   softplus of E_p, standardised; one pass; the default
    "gradient"      ‖∂E/∂x_p‖, the approximate mass (Grathwohl et al., section 5.3.3)
    "class"         −log p(y | x) of the true label: of the position, of each of the eight
                    transformations in turn, or of the likeliest kind, as the kind of a new image is
                    not known

Larger = more anomalous. It is a baseline here: its free energy says more about how sure the
classifier is of a location than about what is in it. Fails where no label can be learned, which it
refuses; after a minute of training it takes constant solar cells and most degraded magnetic tiles
for normal. Cost: minutes to train, milliseconds an image.
"""

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from anodetect.errors import ConfigError, DataError, Interrupted
from anodetect.generative import denoiser, diffusion, langevin
from anodetect.generative.chains import (
    ChainConfig,
    Chains,
    choose_chained,
    contrastive_divergence,
    instability,
)
from anodetect.generative.denoiser import NoiseConfig
from anodetect.generative.langevin import Energy
from anodetect.generative.noise import NoiseSource
from anodetect.imaging.standardise import (
    MICRO_BATCH,
    MapStandardizer,
    StandardizerConfig,
    seconds_to_score,
)
from anodetect.nn.batching import in_micro_batches
from anodetect.nn.inference import autocast, pick_device, to_tensor
from anodetect.nn.local import LocalNet, receptive_field
from anodetect.nn.state import module_state, tensors_under
from anodetect.nn.training import (
    Losses,
    StoppedBy,
    Training,
    TrainingBatch,
    checkpoint_path,
    optimize,
)
from anodetect.record import checkpoint
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

LABELS = ("kind", "transformation", "position")  # a stored model has the number of its labels
TRANSFORMATIONS = 8
PARTS = 4  # of the image, along each side
TRIAL = Training(steps=100, learning_rate=1e-3)
TRIAL_SHARE = 0.1  # of the budget, at most, for each trial
TRIAL_IMAGES = 64  # of tune, on which a trial is judged
LEARNABLE = 0.1  # of the way from chance to certainty: the least accuracy on tune of a usable label
# Added to the watched loss: a label learned to perfection must not make every fluctuation look like
# a divergence.
CERTAIN = 0.2
CONTRASTED = 2048  # locations of a batch that are contrasted


class JEMConfig(NoiseConfig, ChainConfig, StandardizerConfig):
    """Labels, loss, network and score, beside the settings of noise and chains."""

    labels: Literal["auto", "kind", "transformation", "position"] = Field(
        default="auto",
        description="What the network classifies: the 'kind' of the image, its 'transformation', "
        "or the 'position' of a location in it; 'auto' takes kinds where there are several, else "
        "what a short trial learns better.",
    )
    objective: Literal["sgld", "contrastive"] = Field(
        default="sgld",
        description="The generative term of the loss: 'sgld', with Langevin chains, or "
        "'contrastive', without (HDGE, Liu & Abbeel 2020).",
    )
    score: Literal["free-energy", "gradient", "class"] = Field(
        default="free-energy",
        description="What is scored at each location: the 'free-energy', the norm of its "
        "'gradient', or −log of the probability of the true 'class'.",
    )
    weight: NonNegativeFloat = Field(
        default=0.1, description="The weight of the generative term in the loss."
    )
    penalty: NonNegativeFloat = Field(
        default=1.0,
        description="The weight of squared energies in the generative term, which keeps E(x⁺) − "
        "E(x⁻) above −1 / penalty where chains do not keep up.",
    )
    pretraining: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="The share of training by classification alone, before the generative term.",
    )
    data_noise: NonNegativeFloat = Field(
        default=0.03,
        description="The standard deviation of the noise on training images, on images in [-1, 1].",
    )
    langevin_step: PositiveFloat = Field(
        default=0.05, description="The size of a Langevin step: what the gradient is multiplied by."
    )
    temperature: NonNegativeFloat = Field(
        default=0.001,
        description="The temperature of the chains in training: the variance of a step's noise is "
        "2 × step × temperature; 1 samples the energy's own distribution.",
    )
    width: PositiveInt = Field(default=64, description="The channels of the network.")
    blocks: PositiveInt = Field(
        default=3,
        description="The residual blocks of the network; each widens what a location sees by two "
        "locations.",
    )
    stem: PositiveInt = Field(
        default=4, description="The side of the squares of pixels that are one location."
    )
    training: Training = Field(
        default=Training(steps=2000, learning_rate=5e-4, returns=3),
        description="How the network is trained.",
    )


class Trial(NamedTuple):
    """A label's accuracy on tune, 0 at chance and 1 at certainty, and what ended its training."""

    accuracy: float
    stopped_by: StoppedBy


class JEM:
    """The free energy of a classifier of locations."""

    Config = JEMConfig
    defaults: ClassVar[dict[str, Any]] = {"pixels": {"representation": {"size": 128}}}

    def __init__(self, config: JEMConfig) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.net: LocalNet
        self.noise: NoiseSource
        self.schedule: Tensor
        self.labels: str = config.labels
        self.middle, self.spread = 0.0, 1.0  # mean and deviation of the free energy on tune
        self.standardizer = MapStandardizer(config, {"free energy": [0]})

    # -- Training ----------------------------------------------------------------------------------

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Choose the labels, train the network, then learn what its maps are on tune images."""
        started = time.monotonic()
        channels, size = fit.images.shape[1], fit.images.shape[-1]
        self.check(fit.images.shape[1:])
        self.device = pick_device(context.device)
        self.noise = denoiser.noise_source(self.config, size)
        self.schedule = diffusion.linear_schedule().to(self.device)
        chains = Chains(self.config, fit.images)
        self.labels = self._choose_labels(fit, tune, context)
        torch.manual_seed(context.seed)  # initial weights
        self.net = self._build(channels, count_classes(self.labels, fit))

        # Training leaves time to score tune images.
        self.standardizer.prepare(fit, context)
        seconds = seconds_to_score(lambda batch, seeds: self._maps(batch), tune)
        tune, context, reserve = self.standardizer.affordable(tune, context, seconds)
        trained = optimize(
            self.net,
            lambda net, batch: self._loss(net, batch, fit, chains),
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve + time.monotonic() - started,
        )
        self.net = trained.net
        self._standardize(tune, context)
        context.log(
            {"step": trained.steps, "stopped_by": trained.stopped_by, "labels": self.labels}
        )

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if images [C, H, W] of this shape do not fit the network, the noise or
        the settings of patterns."""
        config, size = self.config, shape[-1]
        denoiser.noise_source(config, size)
        self.standardizer.check(shape[0])
        field = receptive_field(config.blocks, config.stem)
        if size < field:
            raise ConfigError(
                f"images of {size} pixels are smaller than the network's receptive field of {field}"
            )
        multiple = config.stem * PARTS
        if size % multiple:
            raise ConfigError(
                f"representation.size: {size} is not a multiple of {multiple} (stem × {PARTS})"
            )

    def _build(self, channels: int, classes: int) -> LocalNet:
        config = self.config
        net = LocalNet(channels, classes, config.width, blocks=config.blocks, stem=config.stem)
        return net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def _loss(self, net: LocalNet, batch: TrainingBatch, fit: Batch, chains: Chains) -> Losses:
        config, generators = self.config, batch.generators
        clean, y = assign_labels(self.labels, batch, fit, config.stem)
        x = clean + config.data_noise * langevin.standard_normal(clean, generators)
        with autocast(x.device):
            logits = net(x).float()
        cross_entropy = F.cross_entropy(logits, y)
        watched = CERTAIN + cross_entropy.detach() / math.log(logits.shape[1])  # 1 is chance
        if batch.progress < config.pretraining or config.weight == 0:
            return Losses(cross_entropy, watched)

        if config.objective == "contrastive":
            contrast = hdge_loss(logits, y, generators[0])
            return Losses(cross_entropy + config.weight * contrast, watched)

        # Chains from some of the images, disturbed.
        chained = choose_chained(replace(batch, images=clean))
        if not chained.places:
            return Losses(cross_entropy, watched)
        x0, noise, t = denoiser.draw_noise(chained.batch, config, self.noise)
        amplitude = diffusion.alpha_bar(self.schedule, t).sqrt()
        start = diffusion.diffuse(x0, noise, t, self.schedule) / amplitude
        ends, chain_facts = chains.run(
            total_energy(net), start, chained.batch.generators, returns=batch.returns
        )

        contrast, energy_facts = contrastive_divergence(
            -logits[chained.places].logsumexp(1).mean((1, 2)),
            free_energy(net, ends).mean((1, 2)),
            config.penalty,
        )
        return Losses(
            cross_entropy + config.weight * chained.weight * contrast,
            watched + instability(energy_facts, chain_facts),
            chain_facts._asdict() | energy_facts._asdict(),
        )

    # -- Choice of labels --------------------------------------------------------------------------

    def _choose_labels(self, fit: Batch, tune: Batch, context: TrainContext) -> str:
        """Return the kinds where there are several, else the label that a short trial learns best.

        Raise DataError if none can be learned, or kinds are wanted and there are none.
        """
        wanted = self.config.labels
        if wanted == "kind" and fit.kinds is None:
            raise DataError(
                "one class: JEM would only be an unconditional energy; use ebm, or labels=auto"
            )
        if wanted != "auto":
            return wanted
        if fit.kinds is not None:
            return "kind"

        # The weights of a checkpoint are for the labels they were trained with, and another trial
        # may find others.
        path = checkpoint_path(context)
        if context.resume and path.exists():
            arrays, _ = checkpoint.read(path)
            classes = len(arrays["net.last.weight"])
            return "transformation" if classes == TRANSFORMATIONS else "position"

        trials = {}
        for labels in ("transformation", "position"):
            trials[labels] = self._trial(labels, fit, tune, context)
        context.log({f"learnable {labels}": trials[labels].accuracy for labels in trials})
        best = max(trials, key=lambda labels: trials[labels].accuracy)
        if trials[best].accuracy >= LEARNABLE:
            return best

        if any(trial.stopped_by == "budget" for trial in trials.values()):
            raise ConfigError(
                "--budget leaves too little time to see which labels can be learned; "
                "give more, or labels=…"
            )
        raise DataError(
            "one class: neither an image's orientation nor the position in it can be told from "
            "these images, and JEM would only be an unconditional energy; use ebm"
        )

    def _trial(self, labels: str, fit: Batch, tune: Batch, context: TrainContext) -> Trial:
        """Train a classifier briefly on fit and judge it on tune."""
        torch.manual_seed(context.seed)
        classes = count_classes(labels, fit)
        net = self._build(fit.images.shape[1], classes)

        def loss(net: LocalNet, batch: TrainingBatch) -> Tensor:
            x, y = assign_labels(labels, batch, fit, self.config.stem)
            with autocast(x.device):
                return F.cross_entropy(net(x).float(), y)

        # In a folder of its own: its checkpoint must not be taken for the training's.
        with tempfile.TemporaryDirectory() as scratch:
            budget = None if context.budget is None else TRIAL_SHARE * context.budget
            apart = TrainContext(context.seed, context.device, Path(scratch), budget)
            try:
                trained = optimize(net, loss, fit.images, TRIAL, apart, device=self.device)
            except Interrupted:
                raise Interrupted(
                    "stopped while labels were tried; begin again, or go on with --resume"
                ) from None

        accuracy = self._accuracy(trained.net, labels, tune)
        return Trial((accuracy - 1 / classes) / (1 - 1 / classes), trained.stopped_by)

    def _accuracy(self, net: LocalNet, labels: str, tune: Batch) -> float:
        """Return the share of locations of some tune images that are classified correctly."""
        count = min(len(tune), TRIAL_IMAGES)
        rows = np.linspace(0, len(tune) - 1, count).astype(np.int64)
        images = to_tensor(tune.images[rows], self.device)

        cases: list[tuple[Tensor, Tensor | int]] = [(images, positions(images, self.config.stem))]
        if labels == "transformation":
            # Every image in all transformations: the random ones of a few images could be guessed
            # without having learned anything.
            numbers = range(TRANSFORMATIONS)
            cases = [(transformed(images, number), number) for number in numbers]
        accuracies = []
        with torch.no_grad(), autocast(images.device):
            for x, y in cases:
                accuracies.append(float((net(x).argmax(1) == y).float().mean()))
        return float(np.mean(accuracies))

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores and maps; nothing is random, and there is no reconstruction."""
        return Scores(*self.standardizer.combine(self._positive_maps(batch), batch))

    def _standardize(self, tune: Batch, context: TrainContext) -> None:
        """Learn what maps are on tune normals."""
        if self.config.score == "free-energy":
            inside = self._maps(tune)[:, 0][tune.foreground]
            self.middle, self.spread = float(inside.mean()), max(float(inside.std()), 1e-6)
        self.standardizer.learn(lambda batch, seeds: self._positive_maps(batch), tune, context)

    def _positive_maps(self, batch: Batch) -> Floats:
        """Return the maps of `score`, [N, 1, H, W], free energies as their softplus."""
        maps = self._maps(batch)
        if self.config.score == "free-energy":
            maps = np.logaddexp(0, (maps - self.middle) / self.spread).astype(np.float32)
        return maps

    def _maps(self, batch: Batch) -> Floats:
        """Return the quantity `score` at every pixel, [N, 1, H, W]."""
        (maps,) = in_micro_batches(self._maps_of, batch.images, size=MICRO_BATCH)
        return maps

    @torch.no_grad()
    def _maps_of(self, images: Floats) -> tuple[Floats]:
        x = to_tensor(images, self.device)
        if self.config.score == "gradient":
            _, gradient = langevin.energy_and_gradient(total_energy(self.net), x)
            maps = gradient.square().sum(1).sqrt()
        elif self.config.score == "class":
            maps = self._surprise(x)
        else:
            maps = free_energy(self.net, x)
        enlarged = F.interpolate(maps[:, None].float(), x.shape[-2:], mode="bilinear")
        return (enlarged.cpu().numpy(),)

    def _surprise(self, x: Tensor) -> Tensor:
        """Return −log p of the true label at each location, [N, h, w]."""
        if self.labels == "kind":
            return self._minus_log_p(x).amin(1)
        if self.labels == "position":
            y = positions(x, self.config.stem)
            return self._minus_log_p(x).gather(1, y[:, None])[:, 0]

        total = torch.zeros(1, device=x.device)
        for number in range(TRANSFORMATIONS):
            minus_log_p = self._minus_log_p(transformed(x, number))[:, number]
            total = total + transformed_back(minus_log_p, number)
        return total / TRANSFORMATIONS

    def _minus_log_p(self, x: Tensor) -> Tensor:
        """Return −log p of each class at each location, [N, classes, h, w]."""
        with autocast(x.device):
            logits: Tensor = self.net(x)
        return -logits.float().log_softmax(1)

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the weights, the labels, and what was learned on tune."""
        state = module_state(self.net, "net.") | self.standardizer.state()
        return state | {
            "middle": np.array([self.middle]),
            "spread": np.array([self.spread]),
            "labels": np.array([LABELS.index(self.labels)]),
        }

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose state this was; the weights tell channels and classes."""
        self.device = pick_device(device)
        weights = tensors_under(state, "net.")
        channels = weights["first.weight"].shape[1] // self.config.stem**2
        self.net = self._build(channels, len(weights["last.weight"]))
        self.net.load_state_dict(weights)
        self.net.eval().requires_grad_(False)
        self.labels = LABELS[int(state["labels"][0])]
        self.middle, self.spread = float(state["middle"][0]), float(state["spread"][0])
        self.standardizer.load_state(state)


# -- Energies --------------------------------------------------------------------------------------


def free_energy(net: LocalNet, x: Tensor) -> Tensor:
    """Return −logsumexp of the logits at each location, [N, h, w]."""
    with autocast(x.device):
        logits: Tensor = net(x)
    return -logits.float().logsumexp(1)


def total_energy(net: LocalNet) -> Energy:
    """Return the function x [N, C, H, W] → E(x) [N], the sum over locations."""
    return lambda x: free_energy(net, x).sum((1, 2))


def hdge_loss(logits: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """Return −log of the share of f(x)[y] among locations of the batch, a scalar (HDGE).

    It is a mean over random locations. `logits` are [N, classes, h, w], `y` is [N, h, w].
    """
    chosen = torch.randperm(y.numel(), generator=rng)[:CONTRASTED].to(y.device)
    rows = logits.movedim(1, -1).flatten(0, 2)[chosen]
    own = y.flatten()[chosen]
    all_locations = rows.logsumexp(0)[own]
    own_location = rows.gather(1, own[:, None])[:, 0]
    return (all_locations - own_location).mean() - math.log(len(chosen))


# -- Labels ----------------------------------------------------------------------------------------


def count_classes(labels: str, fit: Batch) -> int:
    """Return how many classes a label has."""
    if labels == "kind":
        assert fit.kinds is not None
        return int(fit.kinds.max()) + 1
    return TRANSFORMATIONS if labels == "transformation" else PARTS**2


def assign_labels(
    labels: str, batch: TrainingBatch, fit: Batch, stem: int
) -> tuple[Tensor, Tensor]:
    """Return the images to classify [N, C, H, W] and the class of each location, int64 [N, h, w].

    With transformations as labels the images are transformed at random.
    """
    x = batch.images
    if labels == "position":
        return x, positions(x, stem)

    if labels == "kind":
        assert fit.kinds is not None
        y = torch.from_numpy(fit.kinds[batch.rows]).to(x.device)
    else:
        numbers = [int(torch.randint(TRANSFORMATIONS, (), generator=g)) for g in batch.generators]
        pairs = zip(x, numbers, strict=True)
        x = torch.stack([transformed(image, number) for image, number in pairs])
        y = torch.tensor(numbers, device=x.device)
    side = x.shape[-1] // stem
    return x, y[:, None, None].expand(-1, side, side)


def positions(x: Tensor, stem: int) -> Tensor:
    """Return the number of the part of the image that each location is in, int64 [N, h, w]."""
    side = x.shape[-1] // stem
    part = torch.arange(side, device=x.device) * PARTS // side
    return (PARTS * part[:, None] + part).expand(len(x), -1, -1)


def transformed(x: Tensor, number: int) -> Tensor:
    """Return images [..., H, W] rotated by `number` · 90°, transposed before from 4 on."""
    return torch.rot90(x.mT if number >= 4 else x, number % 4, (-2, -1))


def transformed_back(x: Tensor, number: int) -> Tensor:
    """Return images [..., H, W] as they were before `transformed`."""
    x = torch.rot90(x, -(number % 4), (-2, -1))
    return x.mT if number >= 4 else x
