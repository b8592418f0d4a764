"""JEM: a classifier of normal images' locations, read as an energy.

    E_p(x) = −log Σ_y exp f_p(x)[y]
    loss = cross-entropy + weight · (E(x⁺) − E(x⁻))                  (Grathwohl et al., ICLR 2020)

f is fully convolutional, so every location p has a free energy of its own, and their map is the
heatmap. x⁻ are the ends of Langevin chains (`generative/chains.py`). Classes y are the normal
images' kinds where there are several; otherwise labels that images give themselves, their
"transformation" or "position" (`generative/labels.py`), whichever a short trial learns better on
tune. With `labels="clusters"` they are the clusters of the fit images (`generative/clusters.py`).
Images of an unknown kind, or of no cluster, count in all terms but cross-entropy.

Known anomalies raise their own energies and lower those of normal images: the setting `margin`
names the loss (`generative/margins.py`).

`objective="contrastive"` needs no chains: the generative term is log f(x)[y] against the other
locations of the batch (HDGE, Liu & Abbeel 2020). The setting `score` is what is standardised on
tune and pooled:

    "free-energy"   softplus of E_p, standardised; one pass; the default
    "gradient"      ‖∂E/∂x_p‖, the approximate mass (Grathwohl et al., section 5.3.3)
    "class"         −log p(y | x) of the true label: of the position, of each of the eight
                    transformations in turn, or of the likeliest kind or cluster, as that of a new
                    image is not known

Larger = more anomalous. It is a baseline here: its free energy says more about how sure the
classifier is of a location than about what is in it. Fails where no label can be learned, which it
refuses; after a minute of training it takes constant solar cells and most degraded magnetic tiles
for normal. Cost: minutes to train, 3 to 6 ms an image.
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
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from anodetect.config import refuse_idle
from anodetect.errors import ConfigError, DataError, Interrupted
from anodetect.generative import clusters, denoiser, diffusion, langevin
from anodetect.generative.chains import (
    ChainConfig,
    Chains,
    choose_chained,
    contrastive_divergence,
    instability,
)
from anodetect.generative.denoiser import NoiseConfig
from anodetect.generative.joint import class_loss, free_energy, hdge_loss, total_energy
from anodetect.generative.labels import (
    PARTS,
    TRANSFORMATIONS,
    assign_labels,
    count_classes,
    label_accuracy,
    label_surprise,
)
from anodetect.generative.margins import Margin, highest_mean, two_class_loss
from anodetect.generative.noise import NoiseSource
from anodetect.imaging.standardise import (
    MICRO_BATCH,
    MapStandardizer,
    StandardizerConfig,
)
from anodetect.nn import single_pass
from anodetect.nn.augment import augmented
from anodetect.nn.checks import check_multiple
from anodetect.nn.device_batches import in_device_batches
from anodetect.nn.inference import autocast, pick_device, to_tensor
from anodetect.nn.local import LocalNet, receptive_field
from anodetect.nn.single_pass import Pass
from anodetect.nn.softplus import Softplus
from anodetect.nn.state import load_weights, module_state, with_channels_last
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

# A stored model has the number of its labels.
LABELS = ("kind", "transformation", "position", "clusters")
TRIAL = Training(steps=100, learning_rate=1e-3)
TRIAL_SHARE = 0.1  # of the budget, at most, for each trial
TRIAL_IMAGES = 64  # of tune, on which a trial is judged
LEARNABLE = 0.1  # of the way from chance to certainty: the least accuracy on tune of a usable label
# Added to the watched loss: a label learned to perfection must not make every fluctuation look like
# a divergence.
CERTAIN = 0.2
ANOMALOUS = 4  # images of a batch for each known anomaly beside them


class JEMConfig(NoiseConfig, ChainConfig, StandardizerConfig):
    """Labels, loss, network and score, beside the settings of noise and chains."""

    labels: Literal["auto", "kind", "transformation", "position", "clusters"] = Field(
        default="auto",
        description="What the network classifies: the 'kind' of the image, its 'transformation', "
        "the 'position' of a location in it, or which of the 'clusters' of normal images it is "
        "in; 'auto' takes kinds where there are several, else what a short trial learns better.",
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
    margin: Margin = Field(
        default="hinge",
        description="The loss for known anomalies (LeCun et al. 2006): 'energy', 'perceptron' or "
        "'hinge'.",
    )
    margin_weight: PositiveFloat = Field(
        default=0.1, description="The weight of the loss for known anomalies."
    )
    margin_width: PositiveFloat = Field(
        default=1.0,
        description="How far 'hinge' wants the energies of the two answers apart, 'normal' and "
        "'anomalous', which are F and −F of an image's free energy.",
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
        self.found: clusters.Clusters | None = None  # among the fit images
        self.positive = Softplus()  # of free energies
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
        fit = self._with_classes(fit, context)
        self.labels = self._choose_labels(fit, tune, context)
        torch.manual_seed(context.seed)  # initial weights
        self.net = self._build(channels, count_classes(self.labels, fit))

        # Training leaves time to score tune images.
        tune, context, reserve = self.standardizer.plan(
            lambda batch, seeds: self._maps(batch), fit, tune, context
        )
        trained = optimize(
            self.net,
            lambda net, batch: self._loss(net, batch, fit, chains, context.anomalies),
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve + time.monotonic() - started,
        )
        self.net = trained.net
        self._standardize(tune, context)
        context.log(trained.facts() | {"labels": self.labels})

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if images [C, H, W] of this shape do not fit the network, the noise or
        the settings of patterns."""
        config, size = self.config, shape[-1]
        denoiser.noise_source(config, size)
        self.standardizer.check(shape[0])
        if config.margin == "energy" and not config.penalty:
            raise ConfigError("margin=energy drives energies apart without end; give a penalty")
        field = receptive_field(config.blocks, config.stem)
        if size < field:
            raise ConfigError(
                f"images of {size} pixels are smaller than the network's receptive field of {field}"
            )
        check_multiple(size, config.stem * PARTS, f"detector.stem × {PARTS}")

    def check_anomalies(self, *, known: bool) -> None:
        """Raise ConfigError if there is a setting for known anomalies, and none are known."""
        if not known:
            names = "margin", "margin_weight", "margin_width"
            reason = "it is for known anomalies; add --known-anomalies, or leave it out"
            refuse_idle(self.config, names, reason)

    def check_kinds(self, count: int) -> None:
        """Raise DataError if kinds are to be classified, and normal images have not several."""
        if self.config.labels == "kind" and count < 2:
            raise DataError(
                "one class: labels=kind needs normal images of several kinds, and JEM would only "
                "be an unconditional energy; use ebm, or labels=auto"
            )

    def clusters(self) -> NDArray[np.int64] | None:
        """Return the cluster of each fit image [N], −1 for none; None if none were looked for."""
        return None if self.found is None else self.found.numbers

    def _build(self, channels: int, classes: int) -> LocalNet:
        config = self.config
        net = LocalNet(channels, classes, config.width, blocks=config.blocks, stem=config.stem)
        return with_channels_last(net, self.device)

    def _loss(
        self,
        net: LocalNet,
        batch: TrainingBatch,
        fit: Batch,
        chains: Chains,
        anomalies: Batch | None = None,
    ) -> Losses:
        config, generators = self.config, batch.generators
        clean, y = assign_labels(self.labels, batch, fit, config.stem)
        x = clean + config.data_noise * langevin.standard_normal(clean, generators)
        with autocast(x.device):
            logits = net(x).float()
        loss = class_loss(logits, y)
        facts: dict[str, float] = {}
        watched = CERTAIN + loss.detach() / math.log(logits.shape[1])  # 1 is chance
        if batch.progress < config.pretraining:
            return Losses(loss, watched)

        if anomalies is not None:
            margin = self._margin_loss(net, -logits.logsumexp(1), anomalies, generators)
            loss, facts = loss + config.margin_weight * margin, {"margin_loss": margin.item()}
        if config.weight == 0:
            return Losses(loss, watched, facts)
        if config.objective == "contrastive":
            contrast = hdge_loss(logits, y, generators[0])
            return Losses(loss + config.weight * contrast, watched, facts)

        # Chains from some of the images, disturbed.
        chained = choose_chained(replace(batch, images=clean))
        if not chained.places:
            return Losses(loss, watched, facts)
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
            loss + config.weight * chained.weight * contrast,
            watched + instability(energy_facts, chain_facts),
            facts | chain_facts._asdict() | energy_facts._asdict(),
        )

    def _margin_loss(
        self,
        net: LocalNet,
        normal: Tensor,
        anomalies: Batch,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """Return the loss of normal images, whose free energies are given [N, h, w], and of some
        known anomalies, a scalar."""
        config, drawing = self.config, generators[::ANOMALOUS]
        rows = [int(torch.randint(len(anomalies), (), generator=rng)) for rng in drawing]
        x = to_tensor(anomalies.images[rows], normal.device)
        x = augmented(x, drawing, config.training.augment)
        x = x + config.data_noise * langevin.standard_normal(x, drawing)

        total = torch.zeros((), device=normal.device)
        for local, anomalous in ((normal, False), (free_energy(net, x), True)):
            energies, margin = highest_mean(local), config.margin_width
            losses = two_class_loss(config.margin, energies, anomalous=anomalous, margin=margin)
            total = total + (losses + config.penalty * energies.square()).mean()
        return total

    # -- Choice of labels --------------------------------------------------------------------------

    def _with_classes(self, fit: Batch, context: TrainContext) -> Batch:
        """Return the fit images, with their clusters as kinds if these are to be classified.

        Raise DataError if there is only one cluster, or kinds are wanted and there are not several.
        """
        self.check_kinds(0 if fit.kinds is None else len(np.unique(fit.kinds[fit.kinds >= 0])))
        if self.config.labels != "clusters":
            return fit

        self.found = found = clusters.level_set_clusters(clusters.describe(fit))
        outside = int((found.numbers < 0).sum())
        context.log({"clusters": found.count, "outside": outside, "persistence": found.persistence})
        if found.count == 1:
            raise DataError(
                f"one component: no two clusters of these {len(fit)} images have peaks of density "
                f"{np.exp(found.least):.2g} times as high as what lies between them; use "
                "labels=auto"
            )
        return replace(fit, kinds=found.numbers)

    def _choose_labels(self, fit: Batch, tune: Batch, context: TrainContext) -> str:
        """Return the kinds where there are several, else the label that a short trial learns best.

        Raise DataError if none can be learned.
        """
        wanted = self.config.labels
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

        rows = np.linspace(0, len(tune) - 1, min(len(tune), TRIAL_IMAGES)).astype(np.int64)
        images = to_tensor(tune.images[rows], self.device)
        accuracy = label_accuracy(trained.net, labels, images, self.config.stem)
        return Trial((accuracy - 1 / classes) / (1 - 1 / classes), trained.stopped_by)

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores and maps; nothing is random, and there is no reconstruction."""
        return Scores(*self.standardizer.combine(self._positive_maps(batch), batch))

    def one_pass(self, shape: Sequence[int]) -> Pass:
        """Return the pass for images of this shape; ConfigError for scores but the free energy."""
        if self.config.score != "free-energy":
            raise ConfigError("detector.score: only 'free-energy' is one pass")

        def score(x: Tensor) -> tuple[Tensor, Tensor]:
            energy = -self.net(x).logsumexp(1)
            enlarged = F.interpolate(energy[:, None], tuple(shape[1:]), mode="bilinear")
            return single_pass.combine(self.standardizer, self.positive.of_tensor(enlarged), x)

        return score

    def _standardize(self, tune: Batch, context: TrainContext) -> None:
        """Learn what maps are on tune normals."""
        if self.config.score == "free-energy":
            self.positive = Softplus.learn(self._maps(tune)[:, 0][tune.foreground])
        self.standardizer.learn(lambda batch, seeds: self._positive_maps(batch), tune, context)

    def _positive_maps(self, batch: Batch) -> Floats:
        """Return the maps of `score`, [N, 1, H, W], free energies as their softplus."""
        maps = self._maps(batch)
        return self.positive(maps) if self.config.score == "free-energy" else maps

    def _maps(self, batch: Batch) -> Floats:
        """Return the quantity `score` at every pixel, [N, 1, H, W]."""
        (maps,) = in_device_batches(
            self._maps_of, batch.images, size=MICRO_BATCH, device=self.device
        )
        return maps

    @torch.no_grad()
    def _maps_of(self, x: Tensor) -> tuple[Tensor]:
        if self.config.score == "gradient":
            _, gradient = langevin.energy_and_gradient(total_energy(self.net), x)
            maps = gradient.square().sum(1).sqrt()
        elif self.config.score == "class":
            maps = label_surprise(self.net, self.labels, x, self.config.stem)
        else:
            maps = free_energy(self.net, x)
        enlarged = F.interpolate(maps[:, None].float(), x.shape[-2:], mode="bilinear")
        return (enlarged,)

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the weights, the labels, and what was learned on tune."""
        state = module_state(self.net, "net.") | self.standardizer.state()
        own = {"labels": np.array([LABELS.index(self.labels)])}
        return state | self.positive.state("middle") | own

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose state this was; the weights tell channels and classes."""
        self.device = pick_device(device)
        channels = state["net.first.weight"].shape[1] // self.config.stem**2
        net = self._build(channels, len(state["net.last.weight"]))
        self.net = load_weights(net, state, "net.")
        self.labels = LABELS[int(state["labels"][0])]
        self.positive = Softplus.from_state(state, "middle")
        self.standardizer.load_state(state)
