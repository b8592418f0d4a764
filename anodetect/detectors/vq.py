"""VQ: a vector-quantised autoencoder, and a prior over its codes.

    k_i = argmin_k ‖f(x)_i − e_k‖²,   A_i = −log p(k_i | other codes),   x̂ = g(e_k′)

The autoencoder (van den Oord et al., NeurIPS 2017) has an encoder f, a decoder g and a codebook e,
whose vectors are moving means (`nn/codebook.py`). The prior p predicts masked codes from the others
(`generative/masked.py`), an absorbing diffusion (Austin et al., D3PM, NeurIPS 2021; Bond-Taylor et
al., ECCV 2022). It is trained on the codes of a finished autoencoder. On features the codebook is
over the feature vectors themselves, without an encoder.

A code that the others do not suggest is surprising. Each is predicted once for each of a few random
divisions of the grid into halves. k′ are the codes in which the most surprising ones, above a
percentile of tune images, are masked and drawn anew (Marimont & Tarroni, ISBI 2021): their image is
what the image would be if it were normal, the reconstruction. There are two maps, the surprise and
(x − x̂)²; planted defects on tune images decide which of them count (`imaging/standardise.py`).
Larger = more anomalous.

Fails where a defect is larger than what is masked at once and like something normal elsewhere, and
where a texture is as random as its defects: then all codes are equally surprising. Cost: minutes to
train, six passes of the prior an image, 57 ms on features.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from anodetect.errors import DataError
from anodetect.generative import masked as masking
from anodetect.generative.masked import Codes
from anodetect.generative.noise import generators_of
from anodetect.generative.samples import chain_generators
from anodetect.imaging.standardise import (
    MICRO_BATCH,
    MapStandardizer,
    StandardizerConfig,
    in_parts,
    refuse_patterns,
)
from anodetect.nn.augment import SLIGHT, Augment
from anodetect.nn.batching import in_micro_batches, variance_of
from anodetect.nn.checks import check_multiple
from anodetect.nn.device_batches import in_device_batches
from anodetect.nn.inference import autocast, pick_device, to_tensor
from anodetect.nn.quantised import CodePrior, QuantisedAutoencoder
from anodetect.nn.state import load_weights, module_state, with_channels_last
from anodetect.nn.training import Losses, Training, TrainingBatch, optimize
from anodetect.nn.unet import Widths
from anodetect.types import Batch, Floats, Samples, Scores, Seeds, State, TrainContext
from anodetect.words import amount

STATES = 10  # of a chain that makes images
ON_FEATURES = {
    "code_values": 0,
    "stem": 1,
    "relative": "off",
    "pooling": {"smooth": 1.0},
    "training": {"augment": Augment().model_dump()},
}


class VQConfig(StandardizerConfig):
    """Codebook, networks, training and score."""

    codes: int = Field(default=256, ge=2, le=8192, description="The number of codes.")
    code_values: NonNegativeInt = Field(
        default=32,
        description="The values of a code's vector, which an encoder learns; 0 has no encoder, and "
        "codes stand for the channels of an image, for features.",
    )
    stem: PositiveInt = Field(
        default=4, description="The side of the squares of pixels that have one code."
    )
    width: PositiveInt = Field(default=64, description="The channels of encoder and decoder.")
    blocks: PositiveInt = Field(
        default=2, description="The residual blocks of the encoder, and of the decoder."
    )
    decay: float = Field(
        default=0.98,
        ge=0,
        lt=1,
        description="The share of a code's moving mean that a step of training keeps.",
    )
    commitment: NonNegativeFloat = Field(
        default=0.25,
        description="The weight of the squared distance between the encoder's output and its code.",
    )
    pretraining: float = Field(
        default=0.4,
        gt=0,
        lt=1,
        description="The share of training that the autoencoder has; the prior has the rest.",
    )
    widths: Widths = Field(
        default=(32, 64, 96),
        description="The channels of each level of the prior's U-Net, multiples of 16.",
    )
    attention: NonNegativeInt = Field(
        default=1, description="The number of deepest levels of the prior with self-attention."
    )
    draws: PositiveInt = Field(
        default=2,
        description="The random divisions of the codes into halves that are predicted from each "
        "other; surprise is the mean over them.",
    )
    resampled: float = Field(
        default=98,
        gt=0,
        lt=100,
        description="The percentile of surprise on tune images above which a code is drawn anew.",
    )
    resampling_steps: PositiveInt = Field(
        default=2, description="The steps in which surprising codes are drawn anew."
    )
    training: Training = Field(
        default=Training(steps=3000, augment=SLIGHT, returns=1),
        description="How autoencoder and prior are trained.",
    )


class VQNet(nn.Module):
    """The autoencoder and the prior over its codes."""

    def __init__(self, config: VQConfig, channels: int) -> None:
        super().__init__()
        self.autoencoder = QuantisedAutoencoder(
            channels,
            config.codes,
            code_values=config.code_values,
            width=config.width,
            blocks=config.blocks,
            stem=config.stem,
            decay=config.decay,
        )
        values = self.autoencoder.codebook.vectors.shape[1]
        self.prior = CodePrior(values, config.codes, config.widths, attention=config.attention)

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes int64 [N, h, w] of images [N, C, H, W]."""
        return self.autoencoder.codebook.nearest(self.autoencoder.encode(x))

    def decode(self, codes: Codes) -> Tensor:
        """Return the images [N, C, H, W] of codes; masked ones have the mean of all vectors."""
        book = self.autoencoder.codebook
        vectors = torch.where(
            codes.masked[:, None], book.vectors.mean(0)[:, None, None], book.look_up(codes.codes)
        )
        return self.autoencoder.decode(vectors)

    def predict(self, codes: Tensor, masked: Tensor) -> Tensor:
        """Return logits [N, K, h, w] of codes [N, h, w] from those that are not masked."""
        vectors = self.autoencoder.codebook.vectors
        scaled = (vectors - vectors.mean(0)) / vectors.std(0).clamp(min=1e-6)
        with autocast(codes.device):
            logits: Tensor = self.prior(scaled[codes].permute(0, 3, 1, 2), masked)
        return logits


class VQ:
    """Surprise of the codes of a vector-quantised autoencoder."""

    Config = VQConfig
    defaults: ClassVar[dict[str, Any]] = {
        "pixels": {"representation": {"size": 128}},
        "features": {"representation": {"neighbours": 3}, "detector": ON_FEATURES},
    }

    def __init__(self, config: VQConfig) -> None:
        refuse_patterns(config, "vq")
        self.config = config
        self.device = torch.device("cpu")
        self.net: VQNet
        self.channels, self.grid = 1, 1  # places of the codes' grid along a side
        self.limit = math.inf  # surprise above which a code is drawn anew
        options = {"both": [0, 1], "surprise": [0], "residual": [1]}
        self.standardizer = MapStandardizer(config, options)

    # -- Training ----------------------------------------------------------------------------------

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if images [C, H, W] of this shape do not fit the stem, or the settings
        of patterns."""
        self.standardizer.check(shape[0])
        check_multiple(shape[-1], self.config.stem, "detector.stem")

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Train the autoencoder, then the prior; learn what their maps are on tune images."""
        started = time.monotonic()
        _, self.channels, size, _ = fit.images.shape
        self.check(fit.images.shape[1:])
        self.grid = size // self.config.stem
        places = len(fit) * self.grid**2
        if places < self.config.codes:
            have = amount(len(fit), f"image of {size} pixels has", f"images of {size} pixels have")
            raise DataError(
                f"{have} {places} places, too few for {self.config.codes} codes; lower "
                "detector.codes or detector.stem"
            )
        self.device = pick_device(context.device)
        torch.manual_seed(context.seed)  # initial weights
        net = self._build()
        self.net = net.eval().requires_grad_(False)

        # Training leaves time to score tune images, once more than usual for the limit of surprise.
        tune, context, reserve = self.standardizer.plan(self._maps, fit, tune, context, more=1)
        variance = variance_of(fit.images)
        trained = optimize(
            net.requires_grad_(True),
            lambda net, batch: self._loss(net, batch, variance),
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve + time.monotonic() - started,
        )
        self.net = trained.net

        surprises = []
        for _, maps in in_parts(self._surprise, tune):
            surprises.append(maps)
        self.limit = float(np.percentile(np.concatenate(surprises), self.config.resampled))
        self.standardizer.learn(lambda batch, seeds: self._maps(batch, seeds)[0], tune, context)
        used = trained.net.autoencoder.codebook.used()
        context.log(trained.facts() | {"codes_used": used})

    def _build(self) -> VQNet:
        return with_channels_last(VQNet(self.config, self.channels), self.device)

    def _loss(self, net: VQNet, batch: TrainingBatch, variance: float) -> Losses:
        """Return the loss of the autoencoder, and later that of the prior.

        What is watched is 1 + the error as a share of that of a guess, so that the second part does
        not look like a divergence of the first.
        """
        if batch.progress < self.config.pretraining:
            return self._autoencoding(net.autoencoder, batch, variance)

        with torch.no_grad():
            codes = net.codes(batch.images)
        masked = masking.random_masks(batch.generators, codes.shape[1:]).to(codes.device)
        loss = masking.masked_loss(net.predict(codes, masked).float(), codes, masked)
        watched = 1 + loss.detach() / math.log(self.config.codes)
        return Losses(loss, watched, {"surprise": loss.item()})

    def _autoencoding(
        self, net: QuantisedAutoencoder, batch: TrainingBatch, variance: float
    ) -> Losses:
        x = batch.images
        with autocast(x.device):
            z = net.encode(x)
        z = z.float()
        net.codebook.learn(z, batch.generators)
        vectors = net.codebook.look_up(net.codebook.nearest(z))

        # The gradient of the decoder's input goes to the encoder as it is (straight through).
        with autocast(x.device):
            restored = net.decode(z + (vectors - z).detach())
        error = (restored.float() - x).square().mean() / variance
        committed = (z - vectors).square().mean()
        facts = {"error": error.item(), "codes_used": net.codebook.used()}
        return Losses(error + self.config.commitment * committed, 1 + error.detach(), facts)

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores, maps, and what images are with surprising codes drawn anew."""
        maps, reconstruction = self._maps(batch, seeds)
        return Scores(*self.standardizer.combine(maps, batch), reconstruction)

    def _maps(self, batch: Batch, seeds: Seeds) -> tuple[Floats, Floats]:
        """Return surprise and squared residual [N, 2, H, W], and reconstructions [N, C, H, W]."""
        maps, restored = in_device_batches(
            self._maps_of, batch.images, seeds, size=MICRO_BATCH, device=self.device
        )
        return maps, restored

    def _surprise(self, batch: Batch, seeds: Seeds) -> Floats:
        """Return the surprise of each code, [N, h, w]."""
        (values,) = in_device_batches(
            self._surprise_of, batch.images, seeds, size=MICRO_BATCH, device=self.device
        )
        return values

    @torch.no_grad()
    def _surprise_of(self, x: Tensor, seeds: Seeds) -> tuple[Tensor]:
        return (self._surprise_at(self.net.codes(x), generators_of(seeds)),)

    @torch.no_grad()
    def _maps_of(self, x: Tensor, seeds: Seeds) -> tuple[Tensor, Tensor]:
        generators, codes = generators_of(seeds), self.net.codes(x)
        surprise = self._surprise_at(codes, generators)
        erased = Codes(codes, surprise > self.limit)
        steps = self.config.resampling_steps
        states = masking.unmask(self.net.predict, erased, generators, steps)
        restored = self.net.decode(states[-1])

        residual = (x - restored).square().mean(1)
        enlarged = F.interpolate(surprise[:, None], x.shape[2:], mode="bilinear")[:, 0]
        return torch.stack([enlarged, residual], 1), restored

    def _surprise_at(self, codes: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return masking.surprise(self.net.predict, codes, generators, self.config.draws)

    # -- Making images -----------------------------------------------------------------------------

    def sample(self, count: int, *, seed: int, start: Floats | None = None) -> Samples:
        """Return images of codes that the prior fills in, from none at all or from those codes of
        `start` that are not surprising."""

        def make(rows: NDArray[np.int64]) -> tuple[Floats]:
            generators = [chain_generators(seed, count)[row] for row in rows]
            return (self._chains(generators, start),)

        (chains,) = in_micro_batches(make, np.arange(count), size=MICRO_BATCH)
        return Samples(chains[:, -1], chains.swapaxes(0, 1))

    @torch.no_grad()
    def _chains(self, generators: Sequence[torch.Generator], start: Floats | None) -> Floats:
        """Return the images after each step of chains, [N, T, C, H, W]; the first is `start`."""
        before = []
        shape = len(generators), self.grid, self.grid
        if start is None:
            codes = torch.zeros(shape, dtype=torch.long, device=self.device)
            masked = torch.ones_like(codes, dtype=torch.bool)
        else:
            before.append(to_tensor(np.stack([start] * len(generators)), self.device))
            codes = self.net.codes(before[0])
            masked = self._surprise_at(codes, generators) > self.limit

        states = masking.unmask(self.net.predict, Codes(codes, masked), generators, STATES)
        images = before + [self.net.decode(each) for each in states]
        return torch.stack(images, 1).float().cpu().numpy()

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the weights, the codebook, and what was learned on tune."""
        state = module_state(self.net, "net.") | self.standardizer.state()
        return state | {
            "limit": np.array([self.limit]),
            "channels": np.array([self.channels]),
            "grid": np.array([self.grid]),
        }

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose state this was."""
        self.device = pick_device(device)
        self.limit = float(state["limit"][0])
        self.channels, self.grid = int(state["channels"][0]), int(state["grid"][0])
        self.net = load_weights(self._build(), state, "net.")
        self.standardizer.load_state(state)
