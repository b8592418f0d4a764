"""EBM: the energy of a denoiser, and Langevin chains on it.

    E_t(x) = ½ Σ ‖ε̂_t(x)‖²,   ε̂_t(x) = (x − √ᾱ_t·f(x, t)) / √(1−ᾱ_t)

f predicts the clean image under x, so that ε̂ is the noise it sees in x. The energy is half a
squared reconstruction error, the form that Salimans & Ho ("Should EBMs model the energy or the
score?", 2021) and the normalized autoencoder (Yoon et al., ICML 2021) use. As a sum over locations
it has local energies, whose map is the heatmap.

It is trained first by denoising, which makes −∇E about the score of noisy normal images and needs
no chain; then also by contrastive divergence (`generative/chains.py`): chains look for places of
low energy that no normal image is at, and their energy is raised. With `contrast=0` there is no
second part, and `score="energy"` is close to `anoddpm` with a single step, but with squares and
without a Gaussian model.

The setting `score` is what is compared with normal images, each as local squares, standardised on
tune:

    "energy"          E_t(√ᾱ_t·x) itself, one pass for each of `levels`; the default, which costs
                      least and localises best
    "reconstruction"  x minus the end of a short chain down the energy, without noise on the way,
                      from x plus noise (Nijkamp et al., NeurIPS 2019)
    "inversion"       x minus the nearest end of such a chain, min_z ‖x − M(z)‖², from x plus noise
    "inpaint"         x minus what chains without noise make of hidden squares while the others are
                      held (Du & Mordatch, NeurIPS 2019)

With `coarse_to_fine` it is trained at several resolutions (`generative/growth.py`), with
`incomplete` on images of which parts are hidden (`generative/recovery.py`).

Larger = more anomalous. Fails on inverted magnetic tiles, which differ little from tiles, and on
mixtures of two normal images. After few steps it notices a blur only by a hair: AUROC .82 to .94
over three seeds after 100 steps on synthetic images, 1.00 on the real sets after minutes.
Cost: minutes to train, 13 ms an image on pixels and 47 ms on features.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from anodetect.errors import ConfigError
from anodetect.generative import denoiser, diffusion, growth, recovery
from anodetect.generative.chains import (
    ChainFacts,
    Chains,
    EnergyFacts,
    choose_chained,
    instability,
)
from anodetect.generative.denoised_energy import (
    amplitude,
    anneal,
    contrast_at_levels,
    descend,
    falling_levels,
    inpaint,
    nearest_end,
    without_noise,
)
from anodetect.generative.denoiser import Denoiser, NoisyImages
from anodetect.generative.growth import GrowthConfig
from anodetect.generative.noise import NoiseSource, generators_of
from anodetect.generative.recovery import Recovered, RecoveryConfig
from anodetect.generative.samples import arc, chain_generators, samples_of
from anodetect.imaging.standardise import MICRO_BATCH, MapStandardizer, StandardizerConfig
from anodetect.nn import single_pass
from anodetect.nn.device_batches import in_device_batches
from anodetect.nn.filters import gaussian_blur
from anodetect.nn.inference import autocast, pick_device
from anodetect.nn.single_pass import Pass
from anodetect.nn.training import Losses, Training, TrainingBatch, optimize
from anodetect.types import Batch, Floats, Samples, Scores, Seeds, State, TrainContext

SAMPLED_LEVELS, SAMPLED_STEPS = 12, 10  # of the chains that make images
ON_FEATURES = denoiser.ON_FEATURES | {"levels": (60, 100, 150)}


class EBMConfig(RecoveryConfig, StandardizerConfig, GrowthConfig):
    """The energy, its training and its score, beside the settings of denoiser and chains."""

    levels: tuple[int, ...] = Field(
        default=(5, 10, 20),
        description="The noise steps t whose energies are used, each in 1 to trained_to.",
    )
    scales: tuple[Annotated[float, Field(ge=0, le=0.25)], ...] = Field(
        default=(0, 1 / 64),
        min_length=1,
        description="The standard deviations of the Gaussians that smooth the difference before it "
        "is squared, as shares of the image's side.",
    )
    pretraining: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="The share of training by denoising alone, before contrastive divergence.",
    )
    contrast: NonNegativeFloat = Field(
        default=0.01,
        description="The weight of contrastive divergence in the loss; 0 is denoising alone.",
    )
    penalty: NonNegativeFloat = Field(
        default=0.1, description="The weight of squared energies in contrastive divergence."
    )
    score: Literal["energy", "reconstruction", "inversion", "inpaint"] = Field(
        default="energy",
        description="What is compared with normal images: the 'energy', or the difference of the "
        "image and what chains make of it ('reconstruction', 'inversion' or 'inpaint').",
    )
    score_steps: int = Field(
        default=10, ge=2, le=100, description="The steps of the chains of a score that uses them."
    )
    iterations: PositiveInt = Field(
        default=20, description="The iterations of the search for the nearest end ('inversion')."
    )
    training: Training = Field(
        default=denoiser.TRAINING.model_copy(update={"returns": 3}),
        description="How the denoiser is trained.",
    )


class EBM:
    """The energy of a denoiser."""

    Config = EBMConfig
    defaults: ClassVar[dict[str, Any]] = {
        "pixels": {"representation": {"size": 128}},
        "features": {"representation": {"neighbours": 3}, "detector": ON_FEATURES},
    }

    def __init__(self, config: EBMConfig) -> None:
        denoiser.check_steps(config.trained_to, "levels", config.levels)
        if config.score == "inpaint" and config.network == "mlp":
            raise ConfigError(
                "detector.score: inpaint needs a network that sees a place's neighbours, not an mlp"
            )
        self.config = config
        self.device = torch.device("cpu")
        self.net: Denoiser
        self.noise: NoiseSource
        self.channels = 1
        self.standardizer = MapStandardizer(
            config, {"energy": range(len(config.levels) * len(config.scales))}
        )

    # -- Training ----------------------------------------------------------------------------------

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if images [C, H, W] of this shape do not fit the network, the noise or
        the settings of patterns."""
        denoiser.check(self.config, shape[-1])
        growth.check(self.config.coarse_to_fine, shape, self.config)
        recovery.check(self.config, shape[0], self.config.coarse_to_fine)
        self.standardizer.check(shape[0])

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Train the denoiser on fit images, then learn what its maps are on tune images."""
        started = time.monotonic()
        _, self.channels, size, _ = fit.images.shape
        self.check(fit.images.shape[1:])
        self.device = pick_device(context.device)
        self.noise = denoiser.noise_source(self.config, size)
        recovered = Recovered(self.config, fit, max(self.config.levels), context.seed)
        fit = recovered.batch
        chains = Chains(self.config, fit.images, partitions=len(self.config.levels))
        torch.manual_seed(context.seed)  # initial weights
        net = denoiser.build(self.config, self.channels, self.device, fit)
        self.net = net.eval().requires_grad_(False)

        # Training leaves time to score tune images.
        self.standardizer.prepare(fit, context)
        seconds = self._seconds_of(tune[:MICRO_BATCH])
        tune, context, reserve = self.standardizer.affordable(tune, context, seconds)
        trained = optimize(
            net.requires_grad_(True),
            recovered.before(lambda net, batch: self._grown_loss(net, batch, chains)),
            recovered.shown,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve + time.monotonic() - started,
            useful_untrained=self.config.start == "linear",
        )
        self.net = trained.net
        self.standardizer.learn(lambda batch, seeds: self._maps(batch, seeds)[0], tune, context)
        context.log(trained.facts())

    def _seconds_of(self, batch: Batch) -> float:
        """Return how long a micro-batch takes to score, from one level and one iteration."""
        config = self.config
        quick = EBM(config.model_copy(update={"levels": config.levels[:1], "iterations": 1}))
        quick.device, quick.net, quick.noise = self.device, self.net, self.noise
        started = time.monotonic()
        quick._maps(batch, np.zeros(len(batch), np.uint64))
        times = config.iterations if config.score == "inversion" else 1
        return (time.monotonic() - started) * len(config.levels) * times

    def _grown_loss(self, net: Denoiser, batch: TrainingBatch, chains: Chains) -> Losses:
        """Return the loss of a batch at the resolutions that training has come to."""
        stages = self.config.coarse_to_fine
        return growth.grown_loss(lambda part: self._loss(net, part, chains), batch, stages)

    def _noisy(self, batch: TrainingBatch) -> NoisyImages:
        """Return the images of a batch with noise to put on them."""
        source = self.noise.at(batch.images.shape[-1])
        return denoiser.draw_noise(batch, self.config, source, self.config.crop)

    def _loss(self, net: Denoiser, batch: TrainingBatch, chains: Chains) -> Losses:
        config = self.config
        denoising = denoiser.denoising_error(net, self._noisy(batch), batch.visible)
        if batch.progress < config.pretraining or config.contrast == 0:
            return Losses(denoising, denoising)

        chained = choose_chained(batch)
        if not chained.places:
            return Losses(denoising, denoising)
        contrast, energies, ends = self._contrast(net, chained.batch, chains)
        # What is watched is the denoising error, comparable from the first step to the last.
        watched = denoising.detach() + instability(energies, ends)
        total = denoising + config.contrast * chained.weight * contrast
        return Losses(total, watched, ends._asdict() | energies._asdict())

    def _contrast(
        self, net: Denoiser, batch: TrainingBatch, chains: Chains
    ) -> tuple[Tensor, EnergyFacts, ChainFacts]:
        """Return contrastive divergence at random levels, a scalar, and facts about it."""
        noisy = self._noisy(batch)
        return contrast_at_levels(
            net, noisy, batch, self.config.levels, chains, self.config.penalty
        )

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores, maps of local energies, and what the image was compared with.

        The last is that of the last level.
        """
        maps, reconstruction = self._maps(batch, seeds)
        return Scores(*self.standardizer.combine(maps, batch), reconstruction)

    def _maps(self, batch: Batch, seeds: Seeds) -> tuple[Floats, Floats]:
        """Return local squares for each level and scale [N, M, H, W], and the last reconstruction.

        The reconstruction is [N, C, H, W].
        """
        arrays = batch.images, seeds, batch.channel_weights
        maps, reconstruction = in_device_batches(
            self._maps_of, *arrays, size=MICRO_BATCH, device=self.device
        )
        return maps, reconstruction

    @torch.no_grad()
    def _maps_of(self, x: Tensor, seeds: Seeds, weights: Tensor) -> tuple[Tensor, Tensor]:
        weights = weights[:, :, None, None]
        reconstruct = {
            "energy": self._denoised,
            "reconstruction": self._short_run,
            "inversion": self._inverted,
            "inpaint": self._inpainted,
        }[self.config.score]

        maps = []
        for level in self.config.levels:
            t = diffusion.steps_for(x, level)
            generators = generators_of(seeds)
            restored = reconstruct(x, t, generators).float()
            for scale in self.config.scales:
                difference = gaussian_blur(x - restored, scale * x.shape[-1])
                maps.append((weights * difference.square()).mean(1))
        return torch.stack(maps, 1), restored

    def one_pass(self, shape: Sequence[int]) -> Pass:
        """Return the pass for images of this shape; ConfigError for scores that need chains."""
        if self.config.score != "energy":
            raise ConfigError("detector.score: chains are many passes; 'energy' is one a level")

        def score(x: Tensor) -> tuple[Tensor, Tensor]:
            maps = []
            for level in self.config.levels:
                t = diffusion.steps_for(x, level)
                restored = without_noise(self.net, x, t)
                for scale in self.config.scales:
                    difference = gaussian_blur(x - restored, scale * shape[-1])
                    maps.append(difference.square().mean(1))
            return single_pass.combine(self.standardizer, torch.stack(maps, 1), x)

        return score

    def _denoised(self, x: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return f(√ᾱ_t·x, t)."""
        with autocast(x.device):
            return without_noise(self.net, x, t)

    def _noised(self, x: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return x_t with new noise."""
        noise = self.noise(generators, x.shape[1]).to(x.device)
        return diffusion.diffuse(x, noise, t, self.net.schedule)

    def _short_run(self, x: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the end of a chain down the energy from x plus noise."""
        step, count = self.config.langevin_step, self.config.score_steps
        states = descend(self.net, self._noised(x, t, generators), t, step, count)
        return states[-1] / amplitude(self.net, t)

    def _inverted(self, x: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the end nearest to x that a chain down the energy can have."""
        config, scale = self.config, amplitude(self.net, t)
        start, steps = self._noised(x, t, generators), (config.langevin_step, config.score_steps)
        return nearest_end(self.net, start, scale * x, t, *steps, config.iterations) / scale

    def _inpainted(self, x: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return x with each square replaced by what chains make of it from its neighbours, which
        go through levels from `trained_to` down to t."""
        config = self.config
        levels = falling_levels(config.trained_to, int(t[0]), config.score_steps)
        return inpaint(self.net, x, config.hidden, levels, config.langevin_step)

    def _levels(self, count: int) -> list[int]:
        """Return so many noise steps from `trained_to` down to the lowest of `levels`."""
        return falling_levels(self.config.trained_to, min(self.config.levels), count)

    # -- Making images -----------------------------------------------------------------------------

    def sample(self, count: int, *, seed: int, start: Floats | None = None) -> Samples:
        """Return the ends of Langevin chains at the temperature of training, which go through
        energies from `trained_to` down to the lowest of `levels`, and are denoised at last.

        Without a `start` they begin at noise (annealed Langevin dynamics, Song & Ermon 2019). At
        temperature 1 their noise, which is white, would stay: the denoiser has learned another one.
        """
        generators = chain_generators(seed, count)
        noise = self.noise(generators, self.channels)
        clean = torch.zeros(noise.shape[1:]) if start is None else torch.from_numpy(start)
        return samples_of(self._annealed(clean.expand_as(noise), noise, generators))

    def interpolate(self, count: int, *, seed: int) -> Floats:
        """Return the ends of short chains without noise from the arc between two draws of noise.

        Such a chain is a generator whose latent is where it starts (Nijkamp et al., NeurIPS 2019).
        """
        first, last = self.noise(chain_generators(seed, 2), self.channels)
        noise = arc(first, last, count)
        return samples_of(self._annealed(torch.zeros_like(noise), noise, None, 1)).images

    @torch.no_grad()
    def _annealed(
        self,
        clean: Tensor,
        noise: Tensor,
        generators: Sequence[torch.Generator] | None,
        count: int = SAMPLED_STEPS,
    ) -> list[Tensor]:
        """Return the states of chains that begin at clean images with noise and take `count` steps
        at each level."""
        clean, noise = clean.to(self.device), noise.to(self.device)
        t = diffusion.steps_for(clean, self.config.trained_to)
        start = diffusion.diffuse(clean, noise, t, self.net.schedule) / amplitude(self.net, t)
        levels, config = self._levels(SAMPLED_LEVELS), self.config
        steps = config.langevin_step, count

        return anneal(self.net, start, levels, *steps, generators, config.temperature)

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the weights and what was learned on tune."""
        own = {"size": np.array([self.noise.size]), "channels": np.array([self.channels])}
        return denoiser.state_of(self.net) | self.standardizer.state() | own

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose state this was."""
        self.device, self.channels = pick_device(device), int(state["channels"][0])
        self.noise = denoiser.noise_source(self.config, int(state["size"][0]))
        net = denoiser.build(self.config, self.channels, self.device)
        self.net = denoiser.load_into(net, state)
        self.standardizer.load_state(state)
