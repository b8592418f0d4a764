"""AnoDDPM in three dimensions: what `anoddpm` is with `--dims 3`, on patches of volumes.

    x_λ = √ᾱ_λ·x,   x̂ = denoised x_λ,   A = mean over λ of (x − x̂)² / e_λ

A 3-D U-Net learns to take noise away from patches of normal volumes, x̂_0 = √ᾱ·x_t − √(1−ᾱ)·F
(Salimans & Ho, ICLR 2022); one pass from each of several small steps λ restores what is normal. e_λ
is the mean squared residual on tune normals. The noise has the spectrum of AnoDDPM's simplex
octaves (Wyatt et al., CVPRW 2022). As in two dimensions the probe at scoring is the mean of x_λ,
without a random part, unless `draws` asks for some, of which x̂ is the mean.

No plane is preferred but by the patch: its sides and the stem's say what voxels are, so that 5 mm
thick slices are neither folded nor blurred like 1 mm pixels. A patch whose map is quieter than
those of all normal ones is raised as a whole (`generative/standard.py`): what is blurred is easy to
restore. Larger = more anomalous. It fails on patches of mere noise, which a network that knows only
smooth noise may leave as they are. Nothing is left to planted defects.
"""

import time
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from anodetect.config import Config, Pooling
from anodetect.generative import denoiser, diffusion
from anodetect.generative.denoiser import Denoiser
from anodetect.generative.noise import generator, of_octaves
from anodetect.imaging.heatmaps import pool, smooth
from anodetect.imaging.quiet import levels, quiet_limits, quiet_raised
from anodetect.nn.augment import Augment
from anodetect.nn.batching import in_micro_batches
from anodetect.nn.inference import autocast, pick_device
from anodetect.nn.training import Training, TrainingBatch, optimize
from anodetect.nn.unet import VolumeUNet, Widths, check_patch
from anodetect.types import Batch, Bools, Floats, Scores, Seeds, State, TrainContext

MICRO_BATCH = 4
MOST_TUNE = 64  # patches to learn e_λ from,
TUNE_SHARE = 0.1  # or as many as take this share of the budget


class AnoDDPM3DConfig(Config):
    """`lambdas` are steps of a schedule of 1000, of which `trained_to` is the largest trained;
    `draws` noise draws per λ, 0 for none; `stem` the voxels (slices, rows, columns) that are folded
    into one cell of the U-Net, `widths` its channels per level. `pooling.smooth` is in pixels of a
    slice; across slices it is the same share of the patch's side."""

    trained_to: int = Field(default=250, ge=1, le=1000)
    lambdas: tuple[int, ...] = (10, 20)
    draws: NonNegativeInt = 0
    widths: Widths = (32, 64, 128)
    stem: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 4, 4)
    blocks: PositiveInt = 1
    training: Training = Training(
        steps=4000, batch=8, learning_rate=5e-4, augment=Augment(rotation=10, scale=0.1, flip=0.5)
    )
    pooling: Pooling = Pooling(smooth=4.0)


class AnoDDPM3D:
    Config = AnoDDPM3DConfig
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: AnoDDPM3DConfig) -> None:
        denoiser.check_steps(config.trained_to, "lambdas", config.lambdas)
        self.config = config
        self.device = torch.device("cpu")
        self.denoiser: Denoiser
        self.channels = 1
        self.error: Floats  # e_λ
        self.quiet: Floats  # of quiet_limits

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        begun = time.monotonic()
        _, self.channels, *sides = fit.images.shape
        check_patch(sides, self.config.widths, self.config.stem)
        self.device = pick_device(context.device)
        torch.manual_seed(context.seed)  # initial weights
        self.denoiser = self._build()
        tune, reserve = self._affordable(tune, context)
        reserve += time.monotonic() - begun
        training = self.config.training
        trained = optimize(
            self.denoiser,
            self._loss,
            fit.images,
            training,
            context,
            device=self.device,
            reserve=reserve,
        )
        assert isinstance(trained.net, Denoiser)
        self.denoiser = trained.net
        self._standardise(tune)
        context.log({"step": trained.steps, "stopped_by": trained.stopped_by})

    def _build(self) -> Denoiser:
        config = self.config
        net = VolumeUNet(
            self.channels, self.channels, config.widths, stem=config.stem, blocks=config.blocks
        )
        return Denoiser(net, "v").to(self.device)

    def _affordable(self, tune: Batch, context: TrainContext) -> tuple[Batch, float]:
        """The tune patches, evenly spread, that can be looked at in a tenth of the budget, and the
        seconds to leave for them."""
        begun = time.monotonic()
        self._residuals(tune[:MICRO_BATCH])
        seconds = time.monotonic() - begun
        most = MOST_TUNE // MICRO_BATCH
        if context.budget is not None:
            most = max(1, min(most, int(TUNE_SHARE * context.budget / seconds)))
        rows = np.linspace(0, len(tune) - 1, min(len(tune), most * MICRO_BATCH)).astype(np.int64)
        return tune[rows], 1.0 + 1.5 * seconds * most

    def _loss(self, net: nn.Module, draw: TrainingBatch) -> Tensor:
        assert isinstance(net, Denoiser)
        x0 = draw.images
        _, channels, depth, height, width = x0.shape
        t = denoiser.random_steps(draw.generators, self.config.trained_to).to(x0.device)
        noise = of_octaves(draw.generators, channels, (depth, height, width)).to(x0.device)
        return denoiser.restoration_error(net, x0, noise, t)

    def _standardise(self, tune: Batch) -> None:
        """Learn e_λ, and how quiet a normal patch may be."""
        residuals = self._residuals(tune)
        total = (residuals * tune.foreground[:, None]).sum((0, 2, 3, 4), dtype=np.float64)
        self.error = np.maximum(total / max(1, tune.foreground.sum()), 1e-9).astype(np.float32)
        scores, heatmaps = self._finish(residuals, tune.foreground)
        self.quiet = quiet_limits(levels(heatmaps, tune.foreground), scores, tune.foreground)

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Scores and maps of patches. There is no reconstruction: nobody looks at patches."""
        scores, heatmaps = self._finish(self._residuals(batch, seeds), batch.foreground)
        return Scores(*quiet_raised(scores, heatmaps, batch.foreground, self.quiet))

    def _finish(self, residuals: Floats, foreground: Bools) -> tuple[Floats, Floats]:
        """[N, M, D, H, W] → (scores [N], smoothed maps [N, D, H, W])."""
        maps = (residuals / self.error[:, None, None, None]).mean(1)
        sides = foreground.shape[1:]
        heatmaps = smooth(
            maps, foreground, [self.config.pooling.smooth * side / sides[-1] for side in sides]
        )
        return pool(heatmaps, foreground, self.config.pooling), heatmaps

    def _residuals(self, batch: Batch, seeds: Seeds | None = None) -> Floats:
        """(x − x̂)², averaged over channels, for each λ, [N, M, D, H, W]."""
        seeds = np.arange(len(batch), dtype=np.uint64) if seeds is None else seeds
        (residuals,) = in_micro_batches(self._residuals_of, batch.images, seeds, size=MICRO_BATCH)
        return residuals.astype(np.float32)

    @torch.no_grad()
    def _residuals_of(self, images: Floats, seeds: Seeds) -> tuple[Floats]:
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        noises = [self._noise(seeds, draw, x) for draw in range(self.config.draws)] or [
            torch.zeros_like(x)
        ]
        maps = []
        for step in self.config.lambdas:
            t = torch.full((len(x),), step, device=x.device)
            with autocast(x.device):
                restored = [
                    self.denoiser(diffusion.diffuse(x, e, t, self.denoiser.schedule), t)
                    for e in noises
                ]
            maps.append((x - torch.stack(restored).mean(0).float()).square().mean(1))
        return (torch.stack(maps, 1).cpu().numpy(),)

    @staticmethod
    def _noise(seeds: Seeds, draw: int, x: Tensor) -> Tensor:
        _, channels, depth, height, width = x.shape
        generators = [generator(int(seed) ^ draw) for seed in seeds]
        return of_octaves(generators, channels, (depth, height, width)).to(x.device)

    def state(self) -> State:
        tensors = {
            name: value.detach().cpu().numpy()
            for name, value in denoiser.to_tensors(self.denoiser).items()
        }
        return tensors | {
            "error": self.error,
            "quiet": self.quiet,
            "channels": np.array([self.channels]),
        }

    def load_state(self, state: State, *, device: str) -> None:
        self.device, self.channels = pick_device(device), int(state["channels"][0])
        self.denoiser = denoiser.restore(self._build(), state)
        self.error, self.quiet = state["error"], state["quiet"]
