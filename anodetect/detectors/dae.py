"""DAE: a denoising autoencoder with coarse noise. x̂ = f(x), A_p = mean over channels of |x_p −
x̂_p|.

Kascenas et al., "Denoising autoencoders for unsupervised anomaly detection in brain MRI", MIDL
2022: f is a U-Net trained to take coarse noise away, ‖f(x + σn) − x‖², n standard normal on a 16 ×
16 grid, enlarged to the image; the image itself, without noise, is reconstructed in one pass. Noise
as coarse as the lesions matters more than the sampler: one pass beats the published AnoDDPM by far
on brain tumours. Larger = more anomalous. It finds what differs from normal at the scale of the
noise; finer defects pass through, and it fails on blurred images: they lack only fine texture,
which the network was never asked to restore.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from anodetect.config import Config, Pooling
from anodetect.generative.noise import NoiseSource
from anodetect.imaging.heatmaps import finish
from anodetect.nn.batching import in_micro_batches
from anodetect.nn.inference import autocast, pick_device
from anodetect.nn.training import Training, TrainingBatch, optimize
from anodetect.nn.unet import UNet, Widths, check_size
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

MICRO_BATCH = 16
NOISE_GRID = 16
RESERVE = 0.02  # of the budget: nothing is left to do after training


class DAEConfig(Config):
    """`noise` is the noise's standard deviation on images of [-1, 1] (the paper's .2 on [0, 1])."""

    noise: PositiveFloat = 0.4
    widths: Widths = (64, 96, 128)
    stem: PositiveInt = 4
    blocks: PositiveInt = 1
    training: Training = Training(steps=800)
    pooling: Pooling = Pooling()


class DAE:
    Config = DAEConfig
    defaults: ClassVar[dict[str, Any]] = {"pixels": {"representation": {"size": 64}}}

    def __init__(self, config: DAEConfig) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.net: nn.Module

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        _, channels, size, _ = fit.images.shape
        check_size(size, self.config.widths, self.config.stem)
        self.device = pick_device(context.device)
        source = NoiseSource("coarse", size, cell=max(1, size // NOISE_GRID))

        def loss(net: nn.Module, draw: TrainingBatch) -> Tensor:
            x = draw.images
            noise = source(draw.generators, channels).to(x.device)
            with autocast(x.device):
                return (self._reconstruct(net, x + self.config.noise * noise) - x).square().mean()

        torch.manual_seed(context.seed)  # initial weights
        net = self._build(channels)
        reserve = RESERVE * (context.budget or 0.0)
        trained = optimize(
            net,
            loss,
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve,
        )
        self.net = trained.net
        context.log({"step": trained.steps, "stopped_by": trained.stopped_by})

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        (passed,) = in_micro_batches(self._pass, batch.images, size=MICRO_BATCH)
        reconstruction = passed.astype(np.float32)
        residual: Floats = np.abs(batch.images - reconstruction).mean(1)
        return Scores(*finish(residual, batch.foreground, self.config.pooling), reconstruction)

    @torch.no_grad()
    def _pass(self, images: Floats) -> tuple[Floats]:
        x = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        with autocast(x.device):
            return (self._reconstruct(self.net, x).float().cpu().numpy(),)

    @staticmethod
    def _reconstruct(net: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = net(x, torch.zeros(len(x), dtype=torch.long, device=x.device))
        return out

    def _build(self, channels: int) -> nn.Module:
        return UNet(
            channels, channels, self.config.widths, stem=self.config.stem, blocks=self.config.blocks
        )

    def state(self) -> State:
        return {name: value.detach().cpu().numpy() for name, value in self.net.state_dict().items()}

    def load_state(self, state: State, *, device: str) -> None:
        self.device = pick_device(device)
        net = self._build(state["net.conv_in.conv.weight"].shape[1] // self.config.stem**2)
        net.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
        self.net = net.to(self.device).eval().requires_grad_(False)
