"""EBM: an energy made of a denoiser, and Langevin chains on it.

    E_t(x) = ½ Σ ‖ε̂_t(x)‖²,   ε̂_t(x) = (x − √ᾱ_t·f(x, t)) / √(1−ᾱ_t)

f predicts the clean image under x, so that ε̂ is the noise it sees in x: half a squared
reconstruction error, the form of energy that Salimans & Ho ("Should EBMs model the energy or the
score?", 2021) and the normalized autoencoder (Yoon et al., ICML 2021) use. A sum over places has
local energies: their map is the heatmap.

Trained first by denoising, which makes −∇E about the score of noisy normal images and needs no
chain; then also by contrastive divergence (`generative/chains.py`): chains look for places of low
energy that no normal image is at, and their energy is raised. With `contrast=0` there is no second
part, and `score="energy"` is close to the single-step `anoddpm`, but with squares and without a
Gaussian model.

`score` is what is compared with normal images, each as local squares standardised on tune:

    "energy"          E_t(√ᾱ_t·x) itself, one pass for each of `levels`; the default: it costs least and localises best
    "reconstruction"  x minus the end of a short chain down the energy, itself without noise, from x plus noise (Nijkamp
                      et al., NeurIPS 2019)
    "inversion"       x minus the nearest end of such a chain, min_z ‖x − M(z)‖², from x plus noise
    "inpaint"         x minus what chains, without noise too, make of hidden squares while the others are held (Du &
                      Mordatch, NeurIPS 2019)

Larger = more anomalous.
"""

import math
import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from anodetect.errors import ConfigError
from anodetect.generative import denoiser, diffusion, langevin
from anodetect.generative.chains import ChainConfig, Chains, beyond, contrastive_divergence, some_of
from anodetect.generative.denoiser import Denoiser, DenoiserConfig
from anodetect.generative.langevin import Energy
from anodetect.generative.noise import NoiseSource, generator
from anodetect.imaging.standardise import MICRO_BATCH, MapStandardizer, StandardizerConfig
from anodetect.nn.batching import in_micro_batches
from anodetect.nn.filters import gaussian_blur
from anodetect.nn.inference import autocast, pick_device
from anodetect.nn.training import Losses, Training, TrainingBatch, optimize
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

INVERSION_RATE = 0.2  # of a level's noise, the step of the search for z
ON_FEATURES = denoiser.ON_FEATURES | {"levels": (60, 100, 150)}


class EBMConfig(DenoiserConfig, ChainConfig, StandardizerConfig):
    """`levels` are steps t; `scales` the widths of Gaussians, as shares of the side, through which
    ε̂ is also squared; `pretraining` is the share of training without chains, `contrast` the weight
    of contrastive divergence and `penalty` that of squared energies in it. Scores by chains take
    `score_steps` each, and "inversion" `iterations`; "inpaint" hides every other square of `hidden`
    pixels."""

    levels: tuple[int, ...] = (5, 10, 20)
    scales: tuple[Annotated[float, Field(ge=0, le=0.25)], ...] = Field(
        default=(0, 1 / 64), min_length=1
    )
    pretraining: float = Field(default=0.6, ge=0, le=1)
    contrast: NonNegativeFloat = 0.01
    penalty: NonNegativeFloat = 0.1
    score: Literal["energy", "reconstruction", "inversion", "inpaint"] = "energy"
    score_steps: int = Field(default=10, ge=2, le=100)
    iterations: PositiveInt = 20
    hidden: PositiveInt = 8
    training: Training = denoiser.TRAINING.model_copy(update={"returns": 3})


class EBM:
    Config = EBMConfig
    defaults: ClassVar[dict[str, Any]] = {
        "pixels": {"representation": {"size": 128}},
        "features": {"detector": ON_FEATURES},
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
        self.standard = MapStandardizer(config, [len(config.levels) * len(config.scales)])

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        begun = time.monotonic()
        _, self.channels, size, _ = fit.images.shape
        denoiser.check(self.config, size)
        self.device = pick_device(context.device)
        self.noise = denoiser.noise_source(self.config, size)
        chains = Chains(self.config, fit.images, shelves=len(self.config.levels))
        torch.manual_seed(context.seed)  # initial weights
        net = denoiser.build(self.config, self.channels, self.device)
        self.net = net.eval().requires_grad_(False)
        tune, reserve = self.standard.affordable(
            tune, context, self._seconds_of(tune[:MICRO_BATCH])
        )

        def loss(net: nn.Module, draw: TrainingBatch) -> Losses:
            assert isinstance(net, Denoiser)
            return self._loss(net, draw, chains)

        trained = optimize(
            net.requires_grad_(True),
            loss,
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve + time.monotonic() - begun,
        )
        assert isinstance(trained.net, Denoiser)
        self.net = trained.net
        self.standard.learn(lambda batch, seeds: self._maps(batch, seeds)[0], tune, context)
        context.log({"step": trained.steps, "stopped_by": trained.stopped_by})

    def _seconds_of(self, batch: Batch) -> float:
        """What scoring a micro-batch takes, from one level and one iteration."""
        config = self.config
        self.config = config.model_copy(update={"levels": config.levels[:1], "iterations": 1})
        begun = time.monotonic()
        self._maps(batch, np.zeros(len(batch), np.uint64))
        self.config = config
        times = config.iterations if config.score == "inversion" else 1
        return (time.monotonic() - begun) * len(config.levels) * times

    # -- Training ---------------------------------------------------------------------------------------

    def _loss(self, net: Denoiser, draw: TrainingBatch, chains: Chains) -> Losses:
        config = self.config
        denoising = denoiser.denoising_loss(net, draw, config, self.noise)
        if draw.progress < config.pretraining or config.contrast == 0:
            return Losses(denoising, denoising)
        places, part, weight = some_of(draw)
        if not places:
            return Losses(denoising, denoising)
        contrast, facts = self._contrast(net, part, chains)
        # The denoising error stays comparable from the first step to the last.
        total = denoising + config.contrast * weight * contrast
        return Losses(total, denoising.detach() + beyond(facts), facts)

    def _contrast(
        self, net: Denoiser, draw: TrainingBatch, chains: Chains
    ) -> tuple[Tensor, dict[str, float]]:
        """Contrastive divergence at random levels."""
        config = self.config
        x0, noise, more = denoiser.disturbed(draw, config, self.noise, config.crop)
        levels = [
            int(torch.randint(len(config.levels), (), generator=rng)) for rng in draw.generators
        ]
        t = torch.tensor([config.levels[level] for level in levels], device=x0.device)
        a, unit = diffusion.alpha_bar(net.schedule, t), deviation(net, t)
        normal = a.sqrt() * x0
        # Chains start where there is more noise than a level has; normal images get twice the noise
        # of a chain's step (Grathwohl et al.: what chains cannot do without must not tell them from
        # images).
        more = torch.maximum(t, more)
        start = diffusion.diffuse(x0, noise, more, net.schedule)
        start = start * (a / diffusion.alpha_bar(net.schedule, more)).sqrt()
        shake = 2 * math.sqrt(2 * config.langevin_step * config.temperature) * unit
        shaken = normal + shake * langevin.normal(normal, draw.generators)
        ends, facts = chains.run(
            total_energy(net, t),
            start,
            draw.generators,
            unit=unit,
            shelves=levels,
            returns=draw.returns,
        )
        places = (1, 2, 3)
        contrast, more_facts = contrastive_divergence(
            local_energy(net, shaken, t).mean(places),
            local_energy(net, ends, t).mean(places),
            config.penalty,
        )
        return contrast, facts | more_facts

    # -- Scoring ----------------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Image score, map of local energies, and what was compared with the image at the last
        level."""
        maps, reconstruction = self._maps(batch, seeds)
        return Scores(*self.standard.combine(maps, batch.foreground), reconstruction)

    def _maps(self, batch: Batch, seeds: Seeds) -> tuple[Floats, Floats]:
        """Local squares for each level and scale [N, M, H, W], and the reconstruction [N, C, H, W]."""
        maps, reconstruction = in_micro_batches(
            self._maps_of, batch.images, seeds, size=MICRO_BATCH
        )
        return maps.astype(np.float32), reconstruction.astype(np.float32)

    @torch.no_grad()
    def _maps_of(self, images: Floats, seeds: Seeds) -> tuple[Floats, Floats]:
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        compare = {
            "energy": self._denoised,
            "reconstruction": self._short_run,
            "inversion": self._inverted,
            "inpaint": self._inpainted,
        }[self.config.score]
        maps = []
        for level in self.config.levels:
            t = torch.full((len(x),), level, device=x.device)
            made = compare(x, t, [generator(int(seed)) for seed in seeds]).float()
            maps += [
                gaussian_blur(x - made, scale * x.shape[-1]).square().mean(1)
                for scale in self.config.scales
            ]
        return torch.stack(maps, 1).cpu().numpy(), made.cpu().numpy()

    def _denoised(self, x: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        with autocast(x.device):
            made: Tensor = self.net(self._amplitude(t) * x, t)
        return made

    def _noised(self, x: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return diffusion.diffuse(
            x, self.noise(generators, x.shape[1]).to(x.device), t, self.net.schedule
        )

    def _short_run(self, x: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return self._path(self._noised(x, t, generators), t)[-1] / self._amplitude(t)

    def _inverted(self, x: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The chain is differentiated a step at a time, from its stored places: the memory of one
        step."""
        energy, unit = total_energy(self.net, t), deviation(self.net, t)
        aim, rate = self._amplitude(t) * x, INVERSION_RATE * unit
        z = self._noised(x, t, generators) / rate  # so that a step of the search fits its level
        search = torch.optim.Adam([z], lr=1.0)
        for _ in range(self.config.iterations):
            path = self._path(z * rate, t)
            pull = (
                path[-1] - aim
            )  # the gradient of ½‖M(z) − x‖² at the chain's end, carried back to its beginning
            for y in reversed(path[:-1]):
                pull = pull - self.config.langevin_step * unit**2 * curvature(energy, y, pull)
            z.grad = pull * rate
            search.step()
        return self._path(z * rate, t)[-1] / self._amplitude(t)

    def _inpainted(self, x: Tensor, t: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Chains from no content at all, through levels from `trained_to` down to t."""
        rows, columns = torch.meshgrid(
            *(torch.arange(side, device=x.device) for side in x.shape[-2:]), indexing="ij"
        )
        odd = (rows // self.config.hidden + columns // self.config.hidden) % 2 == 1
        made = torch.zeros_like(x)
        for hidden in (odd, ~odd):
            guess = torch.where(hidden, torch.zeros_like(x), x)
            for level in (
                torch.linspace(self.config.trained_to, int(t[0]), self.config.score_steps)
                .round()
                .long()
            ):
                now = level.to(x.device).expand(len(x))
                guess = self._down(self._amplitude(now) * guess, now) / self._amplitude(now)
                guess = torch.where(hidden, guess, x)
            made = torch.where(hidden, guess, made)
        return made

    def _path(self, y: Tensor, t: Tensor) -> list[Tensor]:
        """All places of a chain from y down the energy."""
        path = [y]
        for _ in range(self.config.score_steps):
            path.append(self._down(path[-1], t))
        return path

    def _down(self, y: Tensor, t: Tensor) -> Tensor:
        """A step down the energy, without noise."""
        _, slope = langevin.gradient(total_energy(self.net, t), y)
        return y - self.config.langevin_step * deviation(self.net, t) ** 2 * slope

    def _amplitude(self, t: Tensor) -> Tensor:
        return diffusion.alpha_bar(self.net.schedule, t).sqrt()

    def state(self) -> State:
        own = {"size": np.array([self.noise.size]), "channels": np.array([self.channels])}
        tensors = {
            name: value.detach().cpu().numpy()
            for name, value in denoiser.to_tensors(self.net).items()
        }
        return tensors | self.standard.state() | own

    def load_state(self, state: State, *, device: str) -> None:
        self.device, self.channels = pick_device(device), int(state["channels"][0])
        self.noise = denoiser.noise_source(self.config, int(state["size"][0]))
        self.net = denoiser.from_state(state, self.config, self.channels, self.device)
        self.standard.load_state(state)


# -- The energy ------------------------------------------------------------------------------------


def deviation(net: Denoiser, t: Tensor) -> Tensor:
    """√(1−ᾱ_t), the noise's deviation at level t and the unit of a chain's steps, [N, 1, 1, 1]."""
    return (1 - diffusion.alpha_bar(net.schedule, t)).sqrt()


def local_energy(net: Denoiser, x: Tensor, t: Tensor) -> Tensor:
    """½ ε̂² at every value of x [N, C, H, W]."""
    with autocast(x.device):
        clean = net(x, t)
    noise: Tensor = (x - diffusion.alpha_bar(net.schedule, t).sqrt() * clean) / deviation(net, t)
    return noise.square() / 2


def total_energy(net: Denoiser, t: Tensor) -> Energy:
    """x [N, C, H, W] → E_t(x) [N]."""
    return lambda x: local_energy(net, x, t).flatten(1).sum(1)


def curvature(energy: Energy, x: Tensor, direction: Tensor) -> Tensor:
    """∂²E/∂x² · direction, [N, ...]."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
        (product,) = torch.autograd.grad((slope * direction).sum(), x)
    return product.detach()
