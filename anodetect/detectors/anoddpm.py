"""AnoDDPM: add noise up to a step λ, let a denoiser that knows only normal images take it away, compare.

    x_λ = √ᾱ_λ·x + √(1−ᾱ_λ)·ε,   x̂ = denoised x_λ,   A = |x − x̂|            (Wyatt et al., CVPRW 2022)

`mode="chain"` walks back from λ step by step, as the paper does; `mode="single"` (default) predicts x̂_0 from
x_λ in one pass for each of several small λ, which loses nothing and is a hundred times faster. What the
network's output F stands for is `prediction`:

    "gaussian"   x̂_0 = W(x_t) + c(t)·F, W the exact denoiser of a Gaussian model of the normals, c its error
    "v"          x̂_0 = √ᾱ·x_t − √(1−ᾱ)·F          (Salimans & Ho, ICLR 2022)
    "epsilon"    x̂_0 = (x_t − √(1−ᾱ)·F) / √ᾱ      (Ho et al., NeurIPS 2020)

With `draws=0` (default) the probe is the mean of x_λ, √ᾱ_λ·x, without a random part: the denoiser, trained on
noisy images, takes everything for noise that is small and unlike a normal image. The limit of many draws for
a denoiser linear in the noise; it localises better than a few draws and needs one pass per λ.

Each λ's map is divided by the error it has on tune normals, so that maps of different λ can be averaged:
by the error at each pixel where that tells planted defects on tune images better from clean ones, else by
its mean. Everything is learned on fit and tune and then frozen. Larger = more anomalous.
"""

import math
import time
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from anodetect.batching import in_micro_batches
from anodetect.config import Config, Pooling
from anodetect.errors import ConfigError
from anodetect.generative import diffusion
from anodetect.generative.defects import plant
from anodetect.generative.noise import NoiseSource
from anodetect.generative.prior import GaussianPrior
from anodetect.heatmaps import finish
from anodetect.nn.inference import autocast, pick_device
from anodetect.nn.unet import UNet, Widths, check_size
from anodetect.training import Training, optimize
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

MICRO_BATCH = 16
PLANTINGS = 3
MAX_TUNE = 192
PRIOR_NOISE_FIELDS = 256


class AnoDDPMConfig(Config):
    """`lambdas` and `trained_to` are steps of a schedule of 1000; `draws` are noise draws per λ, 0 for
    none; `widths` are the
    U-Net's channels per level and `stem` the side of the pixel blocks it works on; `components` the size of
    the Gaussian model; `pixel_error` the division by each pixel's own error on tune normals."""

    noise: Literal["simplex", "gaussian", "coarse"] = "simplex"
    unit_variance: bool = True
    prediction: Literal["gaussian", "v", "epsilon"] = "gaussian"
    mode: Literal["single", "chain"] = "single"
    sampler: Literal["ddim", "ancestral"] = "ddim"
    sampler_steps: PositiveInt = 10
    lambdas: tuple[int, ...] = (5, 10)
    trained_to: int = 30
    draws: NonNegativeInt = 0
    widths: Widths = (64, 96, 128)
    stem: PositiveInt = 4
    blocks: PositiveInt = 1
    components: PositiveInt = 120
    pixel_error: Literal["auto", "on", "off"] = "auto"
    training: Training = Training(steps=800)
    pooling: Pooling = Pooling()


class Denoiser(nn.Module):
    """(x_t [N,C,H,W], t [N]) → x̂_0, by a U-Net and, for prediction "gaussian", a Gaussian prior."""

    def __init__(self, config: AnoDDPMConfig, channels: int, prior: GaussianPrior | None) -> None:
        super().__init__()
        self.prediction, self.prior = config.prediction, prior
        inputs = 2 * channels if prior else channels
        self.unet = UNet(inputs, channels, config.widths, stem=config.stem, blocks=config.blocks)
        self.register_buffer("schedule", diffusion.linear_schedule(), persistent=False)
        self.schedule: Tensor

    def forward(self, xt: Tensor, t: Tensor) -> Tensor:
        return self.parts(xt, t)[0]

    def parts(self, xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """x̂_0 and the scale of one unit of network output in it, [N, 1, 1, 1]: dividing by it makes the loss's
        weight even over t (for "v" and "epsilon" it gives exactly the usual loss on v and on ε)."""
        a = self.schedule[t][:, None, None, None]
        if self.prior is not None:
            with torch.autocast(xt.device.type, enabled=False):  # a matrix product in bfloat16 would cost the residual
                start, scale = self.prior.denoise(xt, self.schedule[t])
            return start + scale * self.unet(torch.cat([start, xt - start], 1), t), scale
        out = self.unet(xt, t)
        if self.prediction == "v":
            return diffusion.x0_from_velocity(xt, out, t, self.schedule), (1 - a).sqrt()
        return diffusion.x0_from_noise(xt, out, t, self.schedule), ((1 - a) / a).sqrt()


class AnoDDPM:
    Config = AnoDDPMConfig
    representation: ClassVar[dict[str, Any]] = {"size": 64}

    def __init__(self, config: AnoDDPMConfig) -> None:
        if not config.lambdas or min(config.lambdas) < 1 or max(config.lambdas) > config.trained_to:
            raise ConfigError(
                f"detector.lambdas: {list(config.lambdas)} must lie in 1 … trained_to ({config.trained_to})"
            )
        if not 1 <= config.trained_to <= 1000:
            raise ConfigError(f"detector.trained_to: {config.trained_to} must lie in 1 … 1000")
        self.config = config
        self.device = torch.device("cpu")
        self.denoiser: Denoiser
        self.noise: NoiseSource
        self.error: Floats  # [L, H, W] or [L, 1, 1]: what to divide each λ's map by

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        begun = time.monotonic()
        _, channels, size, _ = fit.images.shape
        check_size(size, self.config.widths, self.config.stem)
        self.device = pick_device(context.device)
        self.noise = self._noise_source(size)
        prior = self._learn_prior(fit, tune, channels, context) if self.config.prediction == "gaussian" else None
        torch.manual_seed(context.seed)  # initial weights
        denoiser = Denoiser(self.config, channels, prior).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.denoiser = denoiser.to(self.device)
        tune, reserve = self._plan(tune, context)
        reserve += time.monotonic() - begun
        trained = optimize(
            denoiser,
            self._loss,
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve,
        )
        assert isinstance(trained.net, Denoiser)
        self.denoiser = trained.net
        self.error = self._tune_error(tune, context)
        context.log({"step": trained.steps, "stopped_by": trained.stopped_by, "pixel_error": self.error.shape[-1] > 1})

    def _plan(self, tune: Batch, context: TrainContext) -> tuple[Batch, float]:
        """The tune images that can be scored in a fifth of the budget, and the seconds to keep for it."""
        first = tune[:MICRO_BATCH]
        begun = time.monotonic()
        self._residuals(first, np.zeros(len(first), np.uint64))
        seconds = (time.monotonic() - begun) * (1 + (PLANTINGS if self.config.pixel_error == "auto" else 0))
        limit = math.inf if context.budget is None else max(1.0, 0.2 * context.budget / seconds)
        batches = int(min(math.ceil(MAX_TUNE / MICRO_BATCH), limit))
        tune = tune[: batches * MICRO_BATCH]
        return tune, 1.0 + 1.2 * seconds * math.ceil(len(tune) / MICRO_BATCH)

    def _learn_prior(self, fit: Batch, tune: Batch, channels: int, context: TrainContext) -> GaussianPrior:
        fields = self.noise(range(PRIOR_NOISE_FIELDS), channels)
        return GaussianPrior.learn(
            fit.images, tune.images, fields, components=self.config.components, seed=context.seed
        )

    def _loss(self, net: nn.Module, x0: Tensor, rng: torch.Generator) -> Tensor:
        """Mean square error of x̂_0 in units of the network's output, t uniform in 1 … trained_to."""
        assert isinstance(net, Denoiser)
        t = torch.randint(1, self.config.trained_to + 1, (len(x0),), generator=rng).to(x0.device)
        seeds = torch.randint(2**62, (len(x0),), generator=rng)
        noise = self.noise(seeds.tolist(), x0.shape[1]).to(x0.device)
        with autocast(x0.device):
            predicted, scale = net.parts(diffusion.diffuse(x0, noise, t, net.schedule), t)
        return ((predicted - x0) / scale).square().mean()

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Image score, map and reconstruction: the mean x̂ over draws at the largest λ."""
        residuals, reconstruction = self._residuals(batch, seeds)
        maps = (residuals / self.error).mean(1)
        return Scores(*finish(maps, batch.foreground, self.config.pooling), reconstruction)

    def _residuals(self, batch: Batch, seeds: Seeds) -> tuple[Floats, Floats]:
        """|x − x̂| for each λ [N, L, H, W], and the reconstruction [N, C, H, W]."""
        residuals, reconstruction = in_micro_batches(self._residuals_of, batch.images, seeds, size=MICRO_BATCH)
        return residuals.astype(np.float32), reconstruction.astype(np.float32)

    @torch.no_grad()
    def _residuals_of(self, images: Floats, seeds: Seeds) -> tuple[Floats, Floats]:
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        residuals = []
        for step in self.config.lambdas:
            draws = [self._reconstruct(x, step, self._draw(seeds, x, draw)) for draw in range(self.config.draws)]
            mean = torch.stack(draws or [self._reconstruct(x, step, None)]).mean(0)
            residuals.append((x - mean).abs().mean(1))
        return torch.stack(residuals, 1).float().cpu().numpy(), mean.float().cpu().numpy()

    def _reconstruct(self, x: Tensor, step: int, noise: Tensor | None) -> Tensor:
        net = self.denoiser
        xt = diffusion.diffuse(x, torch.zeros_like(x) if noise is None else noise, self._at(x, step), net.schedule)
        with autocast(x.device):
            if self.config.mode == "single":
                return net(xt, self._at(x, step))  # type: ignore[no-any-return]
            if self.config.sampler == "ddim":
                return diffusion.ddim(net, xt, step, min(step, self.config.sampler_steps), net.schedule)
            # On the way back the paper adds the field it started from.
            back = torch.zeros_like(x) if noise is None else noise
            return diffusion.ancestral(net, xt, step, lambda at: back, net.schedule)

    @staticmethod
    def _at(x: Tensor, step: int) -> Tensor:
        return torch.full((len(x),), step, device=x.device)

    def _draw(self, seeds: Seeds, x: Tensor, draw: int) -> Tensor:
        return self.noise([int(seed) ^ draw for seed in seeds], x.shape[1]).to(x.device)

    def _tune_error(self, tune: Batch, context: TrainContext) -> Floats:
        """What normal images' maps are like: per pixel if that helps to find planted defects, else on average."""
        seeds = np.random.default_rng(context.seed).integers(2**63, size=len(tune), dtype=np.uint64)
        clean, _ = self._residuals(tune, seeds)
        inside = np.broadcast_to(tune.foreground[:, None], clean.shape)
        mean = (clean * inside).sum((0, 2, 3), dtype=np.float64) / np.maximum(inside.sum((0, 2, 3)), 1)
        flat: Floats = np.maximum(mean, 1e-6)[:, None, None].astype(np.float32)
        pixel: Floats = ndimage.gaussian_filter(clean.mean(0), (0, 1, 1)) + 0.1 * flat
        if self.config.pixel_error != "auto":
            return pixel if self.config.pixel_error == "on" else flat
        auroc = self._planted_auroc({"flat": flat, "pixel": pixel}, tune, clean, seeds)
        context.log({"planted_auroc_flat_error": auroc["flat"], "planted_auroc_pixel_error": auroc["pixel"]})
        return pixel if auroc["pixel"] > auroc["flat"] else flat

    def _planted_auroc(self, errors: dict[str, Floats], tune: Batch, clean: Floats, seeds: Seeds) -> dict[str, float]:
        """Image AUROC of PLANTINGS copies of tune with planted defects against tune, for each way to divide."""
        copies = [Batch(plant(tune.images, tune.foreground, seed=n), tune.foreground) for n in range(PLANTINGS)]
        defective = [self._residuals(copy, seeds)[0] for copy in copies]

        def image_scores(residuals: Floats, error: Floats) -> list[float]:
            scores: list[float] = finish((residuals / error).mean(1), tune.foreground, self.config.pooling)[0].tolist()
            return scores

        auroc = {}
        for name, error in errors.items():
            good, bad = image_scores(clean, error), [s for part in defective for s in image_scores(part, error)]
            auroc[name] = float(roc_auc_score([0] * len(good) + [1] * len(bad), good + bad))
        return auroc

    def state(self) -> State:
        tensors = {name: value.detach().cpu().numpy() for name, value in self.denoiser.state_dict().items()}
        return tensors | {"error": self.error, "size": np.array([self.noise.size])}

    def load_state(self, state: State, *, device: str) -> None:
        self.device = pick_device(device)
        size = int(state["size"][0])
        weights = {name: torch.from_numpy(a.copy()) for name, a in state.items() if name not in ("error", "size")}
        self.noise = self._noise_source(size)
        prior = None
        if self.config.prediction == "gaussian":
            prior = GaussianPrior(*weights["prior.basis"].shape)
        channels = weights["unet.net.out.2.conv.weight"].shape[0] // self.config.stem**2
        denoiser = Denoiser(self.config, channels, prior)
        denoiser.load_state_dict(weights)
        denoiser.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.error = state["error"]

    def _noise_source(self, size: int) -> NoiseSource:
        return NoiseSource(self.config.noise, size, unit=self.config.unit_variance)
