"""AnoDDPM: add noise up to a step λ, let a denoiser that knows only normal images take it away,
compare.

    x_λ = √ᾱ_λ·x + √(1−ᾱ_λ)·ε,   x̂ = denoised x_λ,   A = |x − x̂|            (Wyatt et al., CVPRW 2022)

`mode="chain"` walks back from λ step by step, as the paper does; `mode="single"` (default) predicts
x̂_0 from x_λ in one pass for each of several small λ, a hundred times faster. What the network's
output F stands for is `prediction`:

    "v"          x̂_0 = √ᾱ·x_t − √(1−ᾱ)·F          (Salimans & Ho, ICLR 2022)
    "epsilon"    x̂_0 = (x_t − √(1−ᾱ)·F) / √ᾱ      (Ho et al., NeurIPS 2020)

With `draws=0` (default) the probe is the mean of x_λ, √ᾱ_λ·x, without a random part: the denoiser,
trained on noisy images, takes everything for noise that is small and unlike a normal image. The
limit of many draws for a denoiser linear in the noise; it localises better than a few draws and
needs one pass per λ.

The difference is compared at several scales, |G_s ∗ (x − x̂)| with Gaussians G_s of growing width,
since what is coherent over a region weighs more than the same amount of noise. Beside the network's
x̂ stands that of the exact denoiser of a Gaussian model of the normals, hard to beat where images
are registered. How these maps become one map and one score is `generative/standard.py`'s business;
whether the Gaussian's are among them (`prior`) is left to planted defects there. Everything is
learned on fit and tune and then frozen. Larger = more anomalous.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from anodetect.generative import denoiser, diffusion
from anodetect.generative.denoiser import Denoiser, DenoiserConfig
from anodetect.generative.noise import NoiseSource, generator
from anodetect.generative.prior import GaussianPrior
from anodetect.imaging.standardise import MICRO_BATCH, MapStandardizer, StandardizerConfig
from anodetect.nn.augment import Augment
from anodetect.nn.batching import in_micro_batches
from anodetect.nn.filters import gaussian_blur
from anodetect.nn.inference import autocast, pick_device
from anodetect.nn.state import tensors_under
from anodetect.nn.training import Training, TrainingBatch, optimize
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

PRIOR_NOISE_FIELDS = 256
# The paper's own settings: a day of training on a GPU, minutes for an image. Its network has 131
# million parameters, this one, of MONAI's blocks, 120. The paper has no image score: smoothing and
# pooling are this package's.
REFERENCE = {
    "representation": {"size": 256},
    "detector": {
        "unit_variance": False,
        "local": 0.0,
        "prediction": "epsilon",
        "mode": "chain",
        "sampler": "ancestral",
        "lambdas": (250,),
        "trained_to": 800,
        "draws": 1,
        "residual": "squared",
        "scales": (0.0,),
        "crop": 0,
        "widths": (128, 128, 256, 256, 512, 512),
        "stem": 1,
        "blocks": 2,
        "attention": 3,
        "prior": "off",
        "pixel_error": "off",
        "relative": "off",
        "training": {
            "steps": 300_000,
            "batch": 1,
            "learning_rate": 1e-4,
            "ema": 0.9999,
            "augment": Augment().model_dump(),
        },
        "pooling": {"smooth": 1.0},
    },
}
ON_FEATURES = denoiser.ON_FEATURES | {
    "lambdas": (60, 100, 150),
    "residual": "squared",
    "prior": "off",
}


class AnoDDPMConfig(DenoiserConfig, StandardizerConfig):
    """Scoring: `lambdas` are steps; `draws` noise draws per λ, 0 for none; `scales` the widths of
    the residual's Gaussians as shares of the side; `components` the size of the Gaussian model;
    "auto" leaves a choice to planted defects."""

    mode: Literal["single", "chain"] = "single"
    sampler: Literal["ddim", "ancestral"] = "ddim"
    sampler_steps: PositiveInt = 10
    lambdas: tuple[int, ...] = (5, 10, 20)
    draws: NonNegativeInt = 0
    residual: Literal["absolute", "squared"] = "absolute"
    scales: tuple[Annotated[float, Field(ge=0, le=0.25)], ...] = Field(
        default=(0, 1 / 64), min_length=1
    )
    components: PositiveInt = 120
    prior: Literal["auto", "on", "off"] = "auto"
    training: Training = denoiser.TRAINING


class AnoDDPM:
    Config = AnoDDPMConfig
    defaults: ClassVar[dict[str, Any]] = {
        "pixels": {"representation": {"size": 128}},
        "features": {"detector": ON_FEATURES},
    }
    presets: ClassVar[dict[str, Any]] = {"reference": REFERENCE}

    def __init__(self, config: AnoDDPMConfig) -> None:
        denoiser.check_steps(config.trained_to, "lambdas", config.lambdas)
        self.config = config
        self.device = torch.device("cpu")
        self.denoiser: Denoiser
        self.prior: GaussianPrior | None = None
        self.noise: NoiseSource
        self.channels = 1
        self.own = own = len(config.lambdas) * len(
            config.scales
        )  # maps of the network; the prior has as many
        self.standard = MapStandardizer(
            config, {"off": [own], "on": [2 * own], "auto": [own, 2 * own]}[config.prior]
        )

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        begun = time.monotonic()
        _, channels, size, _ = fit.images.shape
        self.channels = channels
        denoiser.check(self.config, size)
        self.device = pick_device(context.device)
        self.noise = denoiser.noise_source(self.config, size)
        if self.config.prior != "off":
            self.prior = self._learn_prior(fit, tune, channels, context).to(self.device)
        torch.manual_seed(context.seed)  # initial weights
        self.denoiser = denoiser.build(self.config, channels, self.device)
        seconds = self._passes() * self._seconds_of_a_pass(tune[:MICRO_BATCH])
        tune, reserve = self.standard.affordable(tune, context, seconds)
        reserve += time.monotonic() - begun
        trained = optimize(
            self.denoiser,
            self._loss,
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve,
        )
        assert isinstance(trained.net, Denoiser)
        self.denoiser = trained.net
        self.settle(tune, context=context)
        context.log({"step": trained.steps, "stopped_by": trained.stopped_by})

    def _passes(self) -> int:
        """Passes through the network that scoring takes."""
        steps = {"ddim": self.config.sampler_steps, "ancestral": 1000}[self.config.sampler]
        each = (
            min(step, steps) if self.config.mode == "chain" else 1 for step in self.config.lambdas
        )
        return sum(each) * max(1, self.config.draws)

    @torch.no_grad()
    def _seconds_of_a_pass(self, batch: Batch) -> float:
        rows = np.arange(MICRO_BATCH) % len(batch)
        x = torch.from_numpy(np.ascontiguousarray(batch.images[rows])).to(self.device)
        begun = time.monotonic()
        out = self.denoiser(x, self._at(x, self.config.lambdas[0]))
        for scale in self.config.scales:
            gaussian_blur(x - out, scale * x.shape[-1])
        float(out.sum())  # waits for devices that work on their own
        return time.monotonic() - begun

    def _learn_prior(
        self, fit: Batch, tune: Batch, channels: int, context: TrainContext
    ) -> GaussianPrior:
        fields = self.noise([generator(seed) for seed in range(PRIOR_NOISE_FIELDS)], channels)
        return GaussianPrior.learn(
            fit.images, tune.images, fields, components=self.config.components, seed=context.seed
        )

    def _loss(self, net: nn.Module, draw: TrainingBatch) -> Tensor:
        assert isinstance(net, Denoiser)
        return denoiser.denoising_loss(net, draw, self.config, self.noise)

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Image score, map and reconstruction: the mean x̂ over draws at the last λ."""
        residuals, reconstruction = self._residuals(batch, seeds)
        return Scores(*self.standard.combine(residuals, batch.foreground), reconstruction)

    def _residuals(self, batch: Batch, seeds: Seeds) -> tuple[Floats, Floats]:
        """|G ∗ (x − x̂)| for each λ and scale [N, M, H, W], first the network's, then the prior's
        if there is one, and the reconstruction [N, C, H, W]."""
        residuals, reconstruction = in_micro_batches(
            self._residuals_of, batch.images, seeds, size=MICRO_BATCH
        )
        return residuals.astype(np.float32), reconstruction.astype(np.float32)

    @torch.no_grad()
    def _residuals_of(self, images: Floats, seeds: Seeds) -> tuple[Floats, Floats]:
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        network, linear = [], []
        for step in self.config.lambdas:
            draws = [
                self._reconstruct(x, step, self._generators(seeds, draw))
                for draw in range(self.config.draws)
            ]
            mean = torch.stack(draws or [self._reconstruct(x, step, None)]).mean(0).float()
            network += self._compare(x - mean)
            if self.prior is not None:
                a = self.denoiser.schedule[self._at(x, step)]
                linear += self._compare(
                    x - self.prior.denoise(a.sqrt()[:, None, None, None] * x, a)
                )
        return torch.stack(network + linear, 1).cpu().numpy(), mean.cpu().numpy()

    def _compare(self, difference: Tensor) -> list[Tensor]:
        """The size of x − x̂ [N, C, H, W] at each scale, [N, H, W]."""
        smooth = [
            gaussian_blur(difference, scale * difference.shape[-1]) for scale in self.config.scales
        ]
        return [
            (s.abs() if self.config.residual == "absolute" else s.square()).mean(1) for s in smooth
        ]

    def _reconstruct(
        self, x: Tensor, step: int, generators: Sequence[torch.Generator] | None
    ) -> Tensor:
        """x̂_0 from x_step; the generators give all noise, of which there is none without them."""

        def fresh(at: int = 0) -> Tensor:
            return (
                torch.zeros_like(x)
                if generators is None
                else self.noise(generators, x.shape[1]).to(x.device)
            )

        net = self.denoiser
        xt = diffusion.diffuse(x, fresh(), self._at(x, step), net.schedule)
        with autocast(x.device):
            if self.config.mode == "single":
                predicted: Tensor = net(xt, self._at(x, step))
                return predicted
            if self.config.sampler == "ddim":
                return diffusion.ddim(
                    net, xt, step, min(step, self.config.sampler_steps), net.schedule
                )
            return diffusion.ancestral(net, xt, step, fresh, net.schedule)

    @staticmethod
    def _at(x: Tensor, step: int) -> Tensor:
        return torch.full((len(x),), step, device=x.device)

    @staticmethod
    def _generators(seeds: Seeds, draw: int) -> list[torch.Generator]:
        return [generator(int(seed) ^ draw) for seed in seeds]

    def settle(self, tune: Batch, *, context: TrainContext) -> None:
        """Learn normal images' error and make the choices. Apart from training, so that settings of
        scoring can be compared on the same weights."""
        self.standard.learn(lambda batch, seeds: self._residuals(batch, seeds)[0], tune, context)
        if len(self.standard.error) == self.own:
            self.prior = None

    def state(self) -> State:
        tensors = denoiser.to_tensors(self.denoiser)
        if self.prior is not None:
            tensors |= {f"prior.{name}": value for name, value in self.prior.state_dict().items()}
        own = {"size": np.array([self.noise.size]), "channels": np.array([self.channels])}
        return (
            {name: value.detach().cpu().numpy() for name, value in tensors.items()}
            | self.standard.state()
            | own
        )

    def load_state(self, state: State, *, device: str) -> None:
        self.device, self.channels = pick_device(device), int(state["channels"][0])
        self.noise = denoiser.noise_source(self.config, int(state["size"][0]))
        self.denoiser = denoiser.from_state(state, self.config, self.channels, self.device)
        if prior := tensors_under(state, "prior."):
            self.prior = GaussianPrior(*prior["basis"].shape)
            self.prior.load_state_dict(prior)
            self.prior.to(self.device)
        self.standard.load_state(state)
