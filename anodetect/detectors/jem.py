"""JEM: a classifier of normal images' places, read as an energy.

    E_p(x) = −log Σ_y exp f_p(x)[y],   loss = cross-entropy + weight · (E(x⁺) − E(x⁻))     (Grathwohl et al., ICLR 2020)

f is fully convolutional, so every place p has a free energy of its own and their map is the
heatmap. x⁻ are the ends of Langevin chains (`generative/chains.py`). Classes y are the normal
images' kinds where there are several; else labels that images give themselves, whichever a short
trial learns best on tune:

    "transformation"   which of the eight turns and mirrorings was applied (Golan & El-Yaniv, NeurIPS 2018)
    "position"         which of 4 × 4 parts of the image a place is in, for registered images

`objective="contrastive"` needs no chains: the generative term is log f(x)[y] against the other
places of the batch (HDGE, Liu & Abbeel 2020). `score` is what is standardised on tune and pooled:

    "free-energy"   softplus of E_p, standardised; one pass; the default
    "gradient"      ‖∂E/∂x_p‖, the approximate mass (Grathwohl et al., section 5.3.3)
    "class"         −log p(y | x) of the true label: of the position, of each of the eight transformations in turn, or,
                    as nobody knows a new image's kind, of the likeliest kind

Larger = more anomalous.
"""

import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anodetect.errors import ConfigError, DataError, Interrupted
from anodetect.generative import denoiser, diffusion, langevin
from anodetect.generative.chains import ChainConfig, Chains, beyond, contrastive_divergence, some_of
from anodetect.generative.denoiser import NoiseConfig
from anodetect.generative.langevin import Energy
from anodetect.generative.noise import NoiseSource
from anodetect.imaging.standardise import MICRO_BATCH, MapStandardizer, StandardizerConfig
from anodetect.nn.batching import in_micro_batches
from anodetect.nn.inference import autocast, pick_device
from anodetect.nn.local import LocalNet, receptive_field
from anodetect.nn.state import tensors_under
from anodetect.nn.training import Losses, Training, TrainingBatch, checkpoint_path, optimize
from anodetect.record import checkpoint
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

TRANSFORMATIONS = 8
PARTS = 4  # of the image, along each side
TRIAL = Training(steps=100, learning_rate=1e-3)
TRIAL_SHARE = 0.1  # of the budget, at most, for each
LEARNABLE = 0.1  # of the way from chance to certainty, the least a label must be told by on tune
SURE = 0.2
CONTRASTED = 2048  # places of a batch


class JEMConfig(NoiseConfig, ChainConfig, StandardizerConfig):
    """`weight` is that of the generative term, which comes in after the share `pretraining` of
    training; `penalty` that of squared energies in it, which holds E(x⁺) − E(x⁻) above −1 / penalty
    where chains do not keep up; `data_noise` is put on training images. The network has `blocks` of
    `width` channels on pixel squares of side `stem`."""

    labels: Literal["auto", "kind", "transformation", "position"] = "auto"
    objective: Literal["sgld", "contrastive"] = "sgld"
    score: Literal["free-energy", "gradient", "class"] = "free-energy"
    weight: NonNegativeFloat = 0.1
    penalty: NonNegativeFloat = 1.0
    pretraining: float = Field(default=0.2, ge=0, le=1)
    data_noise: NonNegativeFloat = 0.03
    langevin_step: PositiveFloat = 0.05
    temperature: NonNegativeFloat = 0.001
    width: PositiveInt = 64
    blocks: PositiveInt = 3
    stem: PositiveInt = 4
    training: Training = Training(steps=2000, learning_rate=5e-4, returns=3)


class JEM:
    Config = JEMConfig
    defaults: ClassVar[dict[str, Any]] = {"pixels": {"representation": {"size": 128}}}

    def __init__(self, config: JEMConfig) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.net: LocalNet
        self.noise: NoiseSource
        self.schedule: Tensor
        self.labels: str = config.labels
        self.middle, self.spread = 0.0, 1.0  # of the free energy of tune normals' places
        self.standard = MapStandardizer(config, [1])

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        begun = time.monotonic()
        channels, size = fit.images.shape[1], fit.images.shape[-1]
        self._check(size)
        self.device = pick_device(context.device)
        self.noise = denoiser.noise_source(self.config, size)
        self.schedule = diffusion.linear_schedule().to(self.device)
        chains = Chains(self.config, fit.images)
        self.labels = self._choose_labels(fit, tune, context)
        torch.manual_seed(context.seed)  # initial weights
        self.net = self._build(channels, classes(self.labels, fit))
        scored = time.monotonic()
        self._maps(tune[:MICRO_BATCH])
        tune, reserve = self.standard.affordable(tune, context, time.monotonic() - scored)

        def loss(net: nn.Module, draw: TrainingBatch) -> Losses:
            return self._loss(net, draw, fit, chains)

        trained = optimize(
            self.net,
            loss,
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve + time.monotonic() - begun,
        )
        assert isinstance(trained.net, LocalNet)
        self.net = trained.net
        self._settle(tune, context)
        context.log(
            {"step": trained.steps, "stopped_by": trained.stopped_by, "labels": self.labels}
        )

    def _check(self, size: int) -> None:
        config = self.config
        field = receptive_field(config.blocks, config.stem)
        if size < field:
            raise ConfigError(
                f"images of {size} pixels are smaller than the network's receptive field of {field}"
            )
        if size % (config.stem * PARTS):
            raise ConfigError(
                f"representation.size: {size} is not a multiple of {config.stem * PARTS} (stem × {PARTS})"
            )

    def _build(self, channels: int, count: int) -> LocalNet:
        config = self.config
        net = LocalNet(channels, count, config.width, blocks=config.blocks, stem=config.stem)
        return net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    # -- Labels -----------------------------------------------------------------------------------------

    def _choose_labels(self, fit: Batch, tune: Batch, context: TrainContext) -> str:
        """The kinds where there are several; else the labels that a short trial learns best, by how
        far its accuracy on tune is from chance."""
        wanted = self.config.labels
        if wanted == "kind" and fit.kinds is None:
            raise DataError(
                "one class: JEM would only be an unconditional energy; use ebm, or labels=auto"
            )
        if wanted != "auto":
            return wanted
        if fit.kinds is not None:
            return "kind"
        begun = checkpoint_path(context)
        if (
            context.resume and begun.exists()
        ):  # the weights there are for these labels, and another trial may differ
            arrays, _ = checkpoint.read(begun)
            return (
                "transformation"
                if len(arrays["net.last.weight"]) == TRANSFORMATIONS
                else "position"
            )
        trials = {
            labels: self._trial(labels, fit, tune, context)
            for labels in ("transformation", "position")
        }
        above = {labels: accuracy for labels, (accuracy, _) in trials.items()}
        context.log({f"learnable {labels}": value for labels, value in above.items()})
        best = max(above, key=lambda labels: above[labels])
        if above[best] < LEARNABLE and any(by == "budget" for _, by in trials.values()):
            raise ConfigError(
                "--budget leaves too little time to see which labels can be learned; give more, or labels=…"
            )
        if above[best] < LEARNABLE:
            raise DataError(
                "one class: neither an image's orientation nor the position in it can be told from these images, and "
                "JEM would only be an unconditional energy; use ebm"
            )
        return best

    def _trial(
        self, labels: str, fit: Batch, tune: Batch, context: TrainContext
    ) -> tuple[float, str]:
        """Held-out accuracy of a briefly trained classifier, 0 at chance and 1 at certainty, and
        what ended it."""
        torch.manual_seed(context.seed)
        count = classes(labels, fit)
        net = self._build(fit.images.shape[1], count)

        def loss(net: nn.Module, draw: TrainingBatch) -> Tensor:
            x, y = label(labels, draw.images, draw.generators, fit, draw.rows, self.config.stem)
            with autocast(x.device):
                return F.cross_entropy(net(x).float(), y)

        with (
            tempfile.TemporaryDirectory() as scratch
        ):  # the checkpoint of a trial must not be taken for the training's
            aside = replace(
                context,
                workdir=Path(scratch),
                budget=None if context.budget is None else TRIAL_SHARE * context.budget,
                resume=False,
                log=lambda record: None,
                progress=lambda *values: None,
            )
            try:
                trained = optimize(net, loss, fit.images, TRIAL, aside, device=self.device)
            except Interrupted:
                raise Interrupted(
                    "stopped while labels were tried; begin again, or go on with --resume"
                ) from None
        rows = np.linspace(0, len(tune) - 1, min(len(tune), 64)).astype(np.int64)
        images = torch.from_numpy(np.ascontiguousarray(tune.images[rows])).to(self.device)
        # Every image in all transformations, or a few images' chance ones could be guessed by who
        # knows nothing.
        cases: list[tuple[Tensor, Tensor | int]] = [(images, positions(images, self.config.stem))]
        if labels == "transformation":
            cases = [(transformed(images, number), number) for number in range(TRANSFORMATIONS)]
        with torch.no_grad(), autocast(images.device):
            accuracy = np.mean(
                [float((trained.net(x).argmax(1) == y).float().mean()) for x, y in cases]
            )
        return (float(accuracy) - 1 / count) / (1 - 1 / count), trained.stopped_by

    # -- Training ---------------------------------------------------------------------------------------

    def _loss(self, net: nn.Module, draw: TrainingBatch, fit: Batch, chains: Chains) -> Losses:
        config, generators = self.config, draw.generators
        clean, y = label(self.labels, draw.images, generators, fit, draw.rows, config.stem)
        x = clean + config.data_noise * langevin.normal(clean, generators)
        with autocast(x.device):
            logits = net(x).float()
        told = F.cross_entropy(logits, y)
        # 1 is chance. A label learned to perfection must not make every hiccup look like a
        # divergence.
        known = SURE + told.detach() / math.log(logits.shape[1])
        if draw.progress < config.pretraining or config.weight == 0:
            return Losses(told, known)
        if config.objective == "contrastive":
            return Losses(
                told + config.weight * contrast_of_places(logits, y, generators[0]), known
            )
        places, part, weight = some_of(replace(draw, images=clean))
        if not places:
            return Losses(told, known)
        x0, noise, t = denoiser.disturbed(part, config, self.noise)
        start = (
            diffusion.diffuse(x0, noise, t, self.schedule)
            / diffusion.alpha_bar(self.schedule, t).sqrt()
        )
        ends, facts = chains.run(total_energy(net), start, part.generators, returns=draw.returns)
        contrast, more_facts = contrastive_divergence(
            -logits[places].logsumexp(1).mean((1, 2)),
            free_energy(net, ends).mean((1, 2)),
            config.penalty,
        )
        facts |= more_facts
        return Losses(told + config.weight * weight * contrast, known + beyond(facts), facts)

    # -- Scoring ----------------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Image score and map; there is no chance in it, and no reconstruction."""
        return Scores(*self.standard.combine(self._evidence(batch), batch.foreground))

    def _settle(self, tune: Batch, context: TrainContext) -> None:
        if self.config.score == "free-energy":
            inside = self._maps(tune)[:, 0][tune.foreground]
            self.middle, self.spread = float(inside.mean()), max(float(inside.std()), 1e-6)
        self.standard.learn(lambda batch, seeds: self._evidence(batch), tune, context)

    def _evidence(self, batch: Batch) -> Floats:
        """Non-negative maps [N, 1, H, W]."""
        maps = self._maps(batch)
        if self.config.score == "free-energy":
            maps = np.logaddexp(0, (maps - self.middle) / self.spread).astype(np.float32)
        return maps

    def _maps(self, batch: Batch) -> Floats:
        """What `score` says, at every pixel [N, 1, H, W]."""
        (maps,) = in_micro_batches(self._maps_of, batch.images, size=MICRO_BATCH)
        return maps.astype(np.float32)

    @torch.no_grad()
    def _maps_of(self, images: Floats) -> tuple[Floats]:
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        if self.config.score == "gradient":
            _, slope = langevin.gradient(total_energy(self.net), x)
            maps = slope.square().sum(1).sqrt()
        elif self.config.score == "class":
            maps = self._surprise(x)
        else:
            maps = free_energy(self.net, x)
        return (F.interpolate(maps[:, None].float(), x.shape[-2:], mode="bilinear").cpu().numpy(),)

    def _surprise(self, x: Tensor) -> Tensor:
        """−log p of the true label at each place, [N, h, w]."""

        def minus_log_p(x: Tensor) -> Tensor:
            with autocast(x.device):
                logits: Tensor = self.net(x)
            return -logits.float().log_softmax(1)

        if self.labels == "kind":
            return minus_log_p(x).amin(1)
        if self.labels == "position":
            y = positions(x, self.config.stem)
            return minus_log_p(x).gather(1, y[:, None])[:, 0]
        total = torch.zeros(1, device=x.device)
        for number in range(TRANSFORMATIONS):
            total = total + transformed_back(minus_log_p(transformed(x, number))[:, number], number)
        return total / TRANSFORMATIONS

    def state(self) -> State:
        tensors = {
            f"net.{name}": value.detach().cpu().numpy()
            for name, value in self.net.state_dict().items()
        }
        own = {"middle": np.array([self.middle]), "spread": np.array([self.spread])}
        own["labels"] = np.array([LABELS.index(self.labels)])
        return tensors | self.standard.state() | own

    def load_state(self, state: State, *, device: str) -> None:
        self.device = pick_device(device)
        weights = tensors_under(state, "net.")
        channels = weights["first.weight"].shape[1] // self.config.stem**2
        self.net = self._build(channels, len(weights["last.weight"]))
        self.net.load_state_dict(weights)
        self.net.eval().requires_grad_(False)
        self.labels = LABELS[int(state["labels"][0])]
        self.middle, self.spread = float(state["middle"][0]), float(state["spread"][0])
        self.standard.load_state(state)


# -- Energies --------------------------------------------------------------------------------------


def free_energy(net: nn.Module, x: Tensor) -> Tensor:
    """−logsumexp of the logits at each place, [N, h, w]."""
    with autocast(x.device):
        logits: Tensor = net(x)
    return -logits.float().logsumexp(1)


def total_energy(net: nn.Module) -> Energy:
    """x [N, C, H, W] → E(x) [N], the sum over places."""
    return lambda x: free_energy(net, x).sum((1, 2))


def contrast_of_places(logits: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """−log of f(x)[y]'s share among all places of the batch, for some of them (HDGE)."""
    places = torch.randperm(y.numel(), generator=rng)[:CONTRASTED].to(y.device)
    rows = logits.movedim(1, -1).flatten(0, 2)[places]
    own = y.flatten()[places]
    return (rows.logsumexp(0)[own] - rows.gather(1, own[:, None])[:, 0]).mean() - math.log(
        len(places)
    )


# -- Labels ----------------------------------------------------------------------------------------


LABELS = ("kind", "transformation", "position")


def classes(labels: str, fit: Batch) -> int:
    if labels == "kind":
        assert fit.kinds is not None
        return int(fit.kinds.max()) + 1
    return TRANSFORMATIONS if labels == "transformation" else PARTS**2


def label(
    labels: str,
    x: Tensor,
    generators: list[torch.Generator],
    batch: Batch,
    rows: NDArray[np.int64],
    stem: int,
) -> tuple[Tensor, Tensor]:
    """Images as they are to be told apart [N, C, H, W], and each place's class [N, h, w]."""
    side = x.shape[-1] // stem
    if labels == "position":
        return x, positions(x, stem)
    if labels == "kind":
        assert batch.kinds is not None
        y = torch.from_numpy(batch.kinds[rows]).to(x.device)
    else:
        numbers = [int(torch.randint(TRANSFORMATIONS, (), generator=rng)) for rng in generators]
        x = torch.stack(
            [transformed(image, number) for image, number in zip(x, numbers, strict=True)]
        )
        y = torch.tensor(numbers, device=x.device)
    return x, y[:, None, None].expand(-1, side, side)


def positions(x: Tensor, stem: int) -> Tensor:
    side = x.shape[-1] // stem
    part = torch.arange(side, device=x.device) * PARTS // side
    return (PARTS * part[:, None] + part).expand(len(x), -1, -1)


def transformed(x: Tensor, number: int) -> Tensor:
    """[..., H, W] turned by a multiple of 90°, and mirrored first where `number` is 4 or more."""
    return torch.rot90(x.mT if number >= 4 else x, number % 4, (-2, -1))


def transformed_back(x: Tensor, number: int) -> Tensor:
    x = torch.rot90(x, -(number % 4), (-2, -1))
    return x.mT if number >= 4 else x
