"""AnoDDPM in three dimensions: what `anoddpm` is with `--dims 3`, on patches of volumes.

    x_λ = √ᾱ_λ·x,   x̂ = denoised x_λ,   A = mean over λ of (x − x̂)² / e_λ

A 3-D U-Net learns to take noise away from patches of normal volumes, x̂_0 = √ᾱ·x_t − √(1−ᾱ)·F
(Salimans & Ho, ICLR 2022); one pass from each of several small steps λ restores what is normal. e_λ
is the mean squared residual on tune normals. The noise has the spectrum of AnoDDPM's simplex
octaves (Wyatt et al., CVPRW 2022). As in two dimensions the probe at scoring is the mean of x_λ,
without a random part, unless `draws` asks for some; then x̂ is the mean over them.

No plane is preferred, except by the patch: its sides and the stem's tell how deep voxels are, so
that slices 5 mm thick are neither folded nor blurred like pixels of 1 mm. A patch whose map is
quieter than those of all normal ones is raised as a whole (`imaging/quiet.py`), because what
is blurred is easy to restore. Nothing is left to planted defects. Larger = more anomalous.

Fails on patches of mere noise: a network that knows only smooth noise may leave them as they are.
Cost: minutes to train.
"""

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from anodetect.config import Config, Pooling
from anodetect.generative import denoiser, diffusion
from anodetect.generative.denoiser import Denoiser, NoisyImages
from anodetect.generative.noise import generator, octave_noise
from anodetect.imaging.heatmaps import pool, smooth
from anodetect.imaging.quiet import QuietLimits, levels, quiet_limits, quiet_raised
from anodetect.nn.augment import Augment
from anodetect.nn.device_batches import in_device_batches
from anodetect.nn.inference import autocast, pick_device
from anodetect.nn.training import Training, TrainingBatch, optimize
from anodetect.nn.unet import VolumeUNet, Widths, check_patch
from anodetect.types import Batch, Bools, Floats, Scores, Seeds, State, TrainContext

MICRO_BATCH = 4
MOST_TUNE = 64  # patches to learn e_λ from,
TUNE_SHARE = 0.1  # or as many as take this share of the budget


class AnoDDPM3DConfig(Config):
    """Steps, network, training and pooling."""

    trained_to: int = Field(
        default=250,
        ge=1,
        le=1000,
        description="The largest noise step that is trained, of a schedule of 1000.",
    )
    lambdas: tuple[int, ...] = Field(
        default=(10, 20),
        description="The noise steps λ from which images are restored, each in 1 to trained_to; "
        "small ones suit pixels, larger ones features.",
    )
    draws: NonNegativeInt = Field(
        default=0,
        description="The noise draws for each λ, whose restored images are averaged; 0 adds no "
        "noise and restores the mean of the noised image.",
    )
    widths: Widths = Field(
        default=(32, 64, 128),
        description="The channels of each level of the U-Net, multiples of 16.",
    )
    stem: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        default=(1, 4, 4),
        description="The voxels (slices, rows, columns) that the U-Net works on as one cell, which "
        "should be about as deep as wide.",
    )
    blocks: PositiveInt = Field(
        default=1, description="The residual blocks of each level of the U-Net."
    )
    training: Training = Field(
        default=Training(
            steps=4000,
            batch=8,
            learning_rate=5e-4,
            augment=Augment(rotation=10, scale=0.1, flip=0.5),
        ),
        description="How the U-Net is trained.",
    )
    pooling: Pooling = Field(
        default=Pooling(smooth=4.0),
        description="How a map becomes a score; `smooth` is in pixels of a slice, and the same "
        "share of the patch's side across slices.",
    )


class AnoDDPM3D:
    """Partial diffusion of volumes."""

    Config = AnoDDPM3DConfig
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: AnoDDPM3DConfig) -> None:
        denoiser.check_steps(config.trained_to, "lambdas", config.lambdas)
        self.config = config
        self.device = torch.device("cpu")
        self.denoiser: Denoiser
        self.channels = 1
        self.error: Floats  # e_λ
        self.quiet: QuietLimits

    # -- Training ----------------------------------------------------------------------------------

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if patches [C, D, H, W] of this shape do not fit the network."""
        check_patch(shape[1:], self.config.widths, self.config.stem)

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Train the U-Net on fit patches, then learn what its residuals are on tune patches."""
        started = time.monotonic()
        self.channels = fit.images.shape[1]
        self.check(fit.images.shape[1:])
        self.device = pick_device(context.device)
        torch.manual_seed(context.seed)  # initial weights
        self.denoiser = self._build()

        tune, reserve = self._affordable(tune, context)
        trained = optimize(
            self.denoiser,
            self._loss,
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve + time.monotonic() - started,
        )
        self.denoiser = trained.net
        self._standardize(tune)
        context.log(trained.facts())

    def _build(self) -> Denoiser:
        config, channels = self.config, self.channels
        net = VolumeUNet(channels, channels, config.widths, stem=config.stem, blocks=config.blocks)
        return Denoiser(net, "v").to(self.device)

    def _affordable(self, tune: Batch, context: TrainContext) -> tuple[Batch, float]:
        """Return the tune patches to look at, evenly spread, and the seconds to leave for them.

        They are as many as a tenth of the budget allows, and at most MOST_TUNE.
        """
        started = time.monotonic()
        self._residuals(tune[:MICRO_BATCH])
        seconds = time.monotonic() - started

        batches = MOST_TUNE // MICRO_BATCH
        if context.budget is not None:
            batches = max(1, min(batches, int(TUNE_SHARE * context.budget / seconds)))
        count = min(len(tune), batches * MICRO_BATCH)
        rows = np.linspace(0, len(tune) - 1, count).astype(np.int64)
        return tune[rows], 1.0 + 1.5 * seconds * batches

    def _loss(self, net: Denoiser, batch: TrainingBatch) -> Tensor:
        x0 = batch.images
        t = denoiser.random_steps(batch.generators, self.config.trained_to).to(x0.device)
        noise = noise_like(x0, batch.generators)
        return denoiser.denoising_error(net, NoisyImages(x0, noise, t))

    def _standardize(self, tune: Batch) -> None:
        """Learn e_λ, and how quiet the map of a normal patch may be."""
        residuals = self._residuals(tune)
        inside = residuals * tune.foreground[:, None]
        total = inside.sum((0, 2, 3, 4), dtype=np.float64)
        self.error = np.maximum(total / max(1, tune.foreground.sum()), 1e-9).astype(np.float32)
        scores, heatmaps = self._finish(residuals, tune.foreground)
        self.quiet = quiet_limits(levels(heatmaps, tune.foreground), scores, tune.foreground)

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return scores and maps of patches, without reconstructions."""
        scores, heatmaps = self._finish(self._residuals(batch, seeds), batch.foreground)
        return Scores(*quiet_raised(scores, heatmaps, batch.foreground, self.quiet))

    def _finish(self, residuals: Floats, foreground: Bools) -> tuple[Floats, Floats]:
        """Return scores [N] and smoothed maps [N, D, H, W] of residuals [N, M, D, H, W]."""
        maps = (residuals / self.error[:, None, None, None]).mean(1)
        sides, pooling = foreground.shape[1:], self.config.pooling
        widths = [pooling.smooth * side / sides[-1] for side in sides]
        heatmaps = smooth(maps, foreground, widths)
        return pool(heatmaps, foreground, pooling), heatmaps

    def _residuals(self, batch: Batch, seeds: Seeds | None = None) -> Floats:
        """Return (x − x̂)², averaged over channels, for each λ, [N, M, D, H, W]."""
        seeds = np.arange(len(batch), dtype=np.uint64) if seeds is None else seeds
        arrays = batch.images, seeds, batch.channel_weights
        (residuals,) = in_device_batches(
            self._residuals_of, *arrays, size=MICRO_BATCH, device=self.device
        )
        return residuals

    @torch.no_grad()
    def _residuals_of(self, x: Tensor, seeds: Seeds, weights: Tensor) -> tuple[Tensor]:
        weights = weights[:, :, None, None, None]
        noises = [torch.zeros_like(x)]
        if self.config.draws:
            noises = [self._noise(x, seeds, draw) for draw in range(self.config.draws)]

        maps = []
        for step in self.config.lambdas:
            t = diffusion.steps_for(x, step)
            restored = torch.stack([self._denoise(x, noise, t) for noise in noises])
            squares = (x - restored.mean(0).float()).square()
            maps.append((squares * weights).mean(1))
        return (torch.stack(maps, 1),)

    def _denoise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x̂_0 from x_t."""
        with autocast(x.device):
            xt = diffusion.diffuse(x, noise, t, self.denoiser.schedule)
            restored: Tensor = self.denoiser(xt, t)
        return restored

    @staticmethod
    def _noise(x: Tensor, seeds: Seeds, draw: int) -> Tensor:
        return noise_like(x, [generator(int(seed) ^ draw) for seed in seeds])

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the weights and what was learned on tune."""
        return denoiser.state_of(self.denoiser) | {
            "error": self.error,
            "quiet": np.array(self.quiet, np.float32),
            "channels": np.array([self.channels]),
        }

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose state this was."""
        self.device, self.channels = pick_device(device), int(state["channels"][0])
        self.denoiser = denoiser.load_into(self._build(), state)
        self.error, self.quiet = state["error"], QuietLimits(*state["quiet"])


def noise_like(x: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Return noise for patches [N, C, D, H, W], a field from each generator."""
    _, channels, depth, height, width = x.shape
    return octave_noise(generators, channels, (depth, height, width)).to(x.device)
