"""AnoDDPM: add noise up to a step λ, let a denoiser of normal images take it away, compare.

    x_λ = √ᾱ_λ·x + √(1−ᾱ_λ)·ε,   x̂ = denoised x_λ,   A = |x − x̂|      (Wyatt et al., CVPRW 2022)

With `mode="chain"` it walks back from λ step by step, as the paper does. With `mode="single"`
(default) it predicts x̂_0 from x_λ in one pass for each of several small λ, a hundred times faster.
With `mode="latent"` nothing is restored: the probability flow takes x up to λ, and A is the size of
the noise z_λ that it ends as. `generative/restoration.py` has all three.
What the network's output F stands for is `prediction`:

    "v"          x̂_0 = √ᾱ·x_t − √(1−ᾱ)·F          (Salimans & Ho, ICLR 2022)
    "epsilon"    x̂_0 = (x_t − √(1−ᾱ)·F) / √ᾱ      (Ho et al., NeurIPS 2020)

With `draws=0` (default) the probe is the mean of x_λ, √ᾱ_λ·x, without a random part: the denoiser,
trained on noisy images, takes everything for noise that is small and unlike a normal image. For a
denoiser that is linear in the noise this is the limit of many draws. It localises better than a few
draws and needs one pass per λ.

The difference is compared at several scales, |G_s ∗ (x − x̂)| with Gaussians G_s of growing width,
since what is coherent over a region weighs more than the same amount of noise. Beside the network's
x̂ stands that of the exact denoiser of a Gaussian model of the normals (`generative/prior.py`), hard
to beat where images are registered. `imaging/standardise.py` makes one map and one score of all
these maps; whether the Gaussian's are among them is the setting `prior`, by default left to planted
defects. Everything is learned on fit and tune and then frozen. Larger = more anomalous.

Fails on stationary texture under uneven light where it sees pixels: on magnetic tile its image
AUROC is about 0.7, on features 0.84. Tiles whose grey values are inverted, which differ little from
tiles, it takes for normal. Cost: minutes to train, 14 ms an image on pixels
and 50 ms on features.
"""

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from anodetect.errors import ConfigError
from anodetect.generative import denoiser, diffusion, restoration
from anodetect.generative.denoised_energy import without_noise
from anodetect.generative.denoiser import Denoiser, DenoiserConfig
from anodetect.generative.noise import NoiseSource, generator
from anodetect.generative.prior import GaussianPrior
from anodetect.generative.restoration import NewNoise, RestorationConfig
from anodetect.generative.samples import chain_generators, samples_of
from anodetect.imaging.standardise import MICRO_BATCH, MapStandardizer, StandardizerConfig
from anodetect.nn import single_pass
from anodetect.nn.augment import Augment
from anodetect.nn.device_batches import in_device_batches
from anodetect.nn.filters import gaussian_blur
from anodetect.nn.inference import autocast, pick_device, to_tensor
from anodetect.nn.single_pass import Pass
from anodetect.nn.state import module_state, tensors_under
from anodetect.nn.training import Training, TrainingBatch, optimize
from anodetect.types import Batch, Floats, Samples, Scores, Seeds, State, TrainContext

PRIOR_NOISE_FIELDS = 256
LEVELS = (1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.1, 0.04)  # of noise, to make images
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


class AnoDDPMConfig(DenoiserConfig, RestorationConfig, StandardizerConfig):
    """Comparison of images with what is restored, beside the settings of denoiser and
    restoration."""

    residual: Literal["absolute", "squared"] = Field(
        default="absolute",
        description="How the difference of image and restored image counts at each pixel: as its "
        "'absolute' value or 'squared'.",
    )
    scales: tuple[Annotated[float, Field(ge=0, le=0.25)], ...] = Field(
        default=(0, 1 / 64),
        min_length=1,
        description="The standard deviations of the Gaussians that smooth the difference before it "
        "is compared, as shares of the image's side.",
    )
    components: PositiveInt = Field(
        default=120,
        description="The number of components of the Gaussian model; at most half as many as fit "
        "images.",
    )
    prior: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether the maps of the Gaussian model count beside those of the network; "
        "'auto' takes what separates planted defects better.",
    )
    training: Training = Field(
        default=denoiser.TRAINING, description="How the denoiser is trained."
    )


class AnoDDPM:
    """Partial diffusion, with a Gaussian model beside the network."""

    Config = AnoDDPMConfig
    defaults: ClassVar[dict[str, Any]] = {
        "pixels": {"representation": {"size": 128}},
        "features": {"representation": {"neighbours": 3}, "detector": ON_FEATURES},
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

        # Maps of the network come first; the Gaussian model has as many.
        self.network_maps = count = len(config.lambdas) * len(config.scales)
        options = {"network": range(count), "both": range(2 * count)}
        if config.prior == "auto":
            options["gaussian"] = range(count, 2 * count)
        else:
            del options["network" if config.prior == "on" else "both"]
        self.standardizer = MapStandardizer(config, options)

    # -- Training ----------------------------------------------------------------------------------

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if images [C, H, W] of this shape do not fit the network, the noise or
        the settings of patterns."""
        denoiser.check(self.config, shape[-1])
        self.standardizer.check(shape[0])

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Learn the Gaussian model and train the denoiser, then what their maps are on tune."""
        started = time.monotonic()
        _, self.channels, size, _ = fit.images.shape
        self.check(fit.images.shape[1:])
        self.device = pick_device(context.device)
        self.noise = denoiser.noise_source(self.config, size)
        if self.config.prior != "off":
            self.prior = self._learn_prior(fit, tune, context).to(self.device)
        torch.manual_seed(context.seed)  # initial weights
        self.denoiser = denoiser.build(self.config, self.channels, self.device, fit)
        self.standardizer.prepare(fit, context)

        # Training leaves time to score tune images.
        seconds = restoration.passes(self.config) * self._seconds_of_a_pass(tune[:MICRO_BATCH])
        tune, context, reserve = self.standardizer.affordable(tune, context, seconds)
        trained = optimize(
            self.denoiser,
            self._loss,
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve + time.monotonic() - started,
            useful_untrained=self.config.start == "linear" or self.config.prior == "auto",
        )
        self.denoiser = trained.net
        if trained.steps == 0 and self.config.prior == "auto":
            gaussian = self.standardizer.options["gaussian"]
            self.standardizer.options = {"gaussian": gaussian}
        self.standardize(tune, context=context)
        context.log({"step": trained.steps, "stopped_by": trained.stopped_by})

    def _learn_prior(self, fit: Batch, tune: Batch, context: TrainContext) -> GaussianPrior:
        generators = [generator(seed) for seed in range(PRIOR_NOISE_FIELDS)]
        noise = self.noise(generators, self.channels)
        components = self.config.components
        return GaussianPrior.learn(
            fit.images, tune.images, noise, components=components, seed=context.seed
        )

    @torch.no_grad()
    def _seconds_of_a_pass(self, batch: Batch) -> float:
        """Return how long a pass of MICRO_BATCH images and the comparison of its result take."""
        rows = np.arange(MICRO_BATCH) % len(batch)
        x = to_tensor(batch.images[rows], self.device)
        started = time.monotonic()
        out = self.denoiser(x, diffusion.steps_for(x, self.config.lambdas[0]))
        for scale in self.config.scales:
            gaussian_blur(x - out, scale * x.shape[-1])
        float(out.sum())  # waits for devices that work asynchronously
        return time.monotonic() - started

    def _loss(self, net: Denoiser, batch: TrainingBatch) -> Tensor:
        return denoiser.denoising_loss(net, batch, self.config, self.noise)

    def standardize(self, tune: Batch, *, context: TrainContext) -> None:
        """Learn what maps are on tune normals, and make the choices left to planted defects.

        It is apart from training, so that settings of scoring can be compared on the same weights.
        """
        self.standardizer.learn(
            lambda batch, seeds: self._residuals(batch, seeds)[0], tune, context
        )
        only_network = max(self.standardizer.used()) < self.network_maps
        if only_network and self.standardizer.patterns is None:
            self.prior = None

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores, maps and reconstructions: the mean x̂ over draws at the last λ."""
        arrays = batch.images, seeds, batch.channel_weights
        residuals, reconstruction = in_device_batches(
            self._used_residuals_of, *arrays, size=MICRO_BATCH, device=self.device
        )
        return Scores(*self.standardizer.combine(residuals, batch), reconstruction)

    def one_pass(self, shape: Sequence[int]) -> Pass:
        """Return the pass for images of this shape; ConfigError for chains and random draws."""
        config, net = self.config, self.denoiser
        if config.mode == "chain":
            raise ConfigError("detector.mode: a chain is many passes; 'single' is one for each λ")
        if config.draws:
            raise ConfigError("detector.draws: noise is random; 0 adds none")
        weights = torch.ones(1, shape[0])

        def score(x: Tensor) -> tuple[Tensor, Tensor]:
            def compared(step: int) -> Tensor:
                if config.mode == "latent":
                    return restoration.carried(net, x, step, config)
                return x - without_noise(net, x, diffusion.steps_for(x, step))

            maps = self._maps_of(x, compared, weights, self.standardizer.used())
            return single_pass.combine(self.standardizer, torch.stack(maps, 1), x)

        return score

    def _residuals(self, batch: Batch, seeds: Seeds) -> tuple[Floats, Floats]:
        """Return the residuals for each λ and scale [N, M, H, W], and the last x̂ [N, C, H, W].

        The network's residuals come first, then the Gaussian model's if there is one.
        """
        arrays = batch.images, seeds, batch.channel_weights
        residuals, reconstruction = in_device_batches(
            self._residuals_of, *arrays, size=MICRO_BATCH, device=self.device
        )
        return residuals, reconstruction

    def _residuals_of(self, x: Tensor, seeds: Seeds, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return all residuals of x, and the last x̂."""
        return self._restored_maps(x, seeds, weights, set(range(2 * self.network_maps)))

    def _used_residuals_of(self, x: Tensor, seeds: Seeds, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residuals that count, 0 for the others, and the last x̂."""
        return self._restored_maps(x, seeds, weights, self.standardizer.used())

    @torch.no_grad()
    def _restored_maps(
        self, x: Tensor, seeds: Seeds, weights: Tensor, used: set[int]
    ) -> tuple[Tensor, Tensor]:
        config, net = self.config, self.denoiser
        at_once = self._restored_at_once(x, used)

        @cache
        def restore(step: int) -> Tensor:
            if step in at_once:
                return at_once[step]
            draws = self._draws(x, seeds)
            with autocast(x.device):
                return restoration.restored(net, x, step, config, draws)

        def compared(step: int) -> Tensor:
            if config.mode != "latent":
                return x - restore(step)
            with autocast(x.device):
                return restoration.carried(net, x, step, config)

        maps = self._maps_of(x, compared, weights, used)
        return torch.stack(maps, 1), restore(config.lambdas[-1])

    def _restored_at_once(self, x: Tensor, used: set[int]) -> dict[int, Tensor]:
        """Return x̂ of a single image by the steps λ that are used, and the last; nothing of
        several images, nor where there are chains, flows or draws."""
        config = self.config
        if len(x) > 1 or config.mode != "single" or config.draws:
            return {}
        needed = {config.lambdas[-1]}
        for number, step in enumerate(config.lambdas):
            if not used.isdisjoint(self._rows(number)):
                needed.add(step)
        with autocast(x.device):
            return restoration.restored_at_once(self.denoiser, x, sorted(needed))

    def _draws(self, x: Tensor, seeds: Seeds) -> list[NewNoise]:
        """Return a source of noise for each draw, none where there are to be none."""

        def source(draw: int) -> NewNoise:
            generators = [generator(int(seed) ^ draw) for seed in seeds]
            return lambda: self.noise(generators, x.shape[1]).to(x.device)

        return [source(draw) for draw in range(self.config.draws)]

    def _rows(self, number: int) -> range:
        """Return the numbers of the network's maps for a λ."""
        count = len(self.config.scales)
        return range(number * count, (number + 1) * count)

    def _maps_of(
        self, x: Tensor, compared: Callable[[int], Tensor], weights: Tensor, used: set[int]
    ) -> list[Tensor]:
        """Return the size [N, H, W] of what `compared` returns of x for each λ, x − x̂ or z_λ, at
        each scale; the network's first. Those of a λ none of which is used are 0, without a
        pass."""
        network: list[Tensor] = []
        gaussian: list[Tensor] = []
        for number, step in enumerate(self.config.lambdas):
            if used.isdisjoint(self._rows(number)):
                network += [torch.zeros_like(x[:, 0])] * len(self.config.scales)
            else:
                network += self._compare(compared(step), weights)
            if self.prior is not None:
                a = self.denoiser.schedule[diffusion.steps_for(x, step)]
                mean = a.sqrt()[:, None, None, None] * x
                gaussian += self._compare(x - self.prior.denoise(mean, a), weights)
        return network + gaussian

    def _compare(self, difference: Tensor, weights: Tensor) -> list[Tensor]:
        """Return the size of a difference [N, C, H, W] at each scale, [N, H, W] each: its mean
        over channels with `weights` [N, C]."""
        maps = []
        for scale in self.config.scales:
            smooth = gaussian_blur(difference, scale * difference.shape[-1])
            size = smooth.abs() if self.config.residual == "absolute" else smooth.square()
            maps.append((size * weights[:, :, None, None]).mean(1))
        return maps

    # -- Making images -----------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, count: int, *, seed: int, start: Floats | None = None) -> Samples:
        """Return images that the denoiser settles on under less and less noise.

        Without a `start` chains begin with images of the Gaussian model, and with noise alone where
        there is none.
        """
        generators = chain_generators(seed, count)
        if start is not None:
            x = to_tensor(np.stack([start] * count), self.device)
        elif self.prior is not None:
            x = self.prior.draw(generators, (self.channels, self.noise.size, self.noise.size))
        else:
            x = self.noise(generators, self.channels).to(self.device)

        net, levels = self.denoiser, [max(1, round(s * self.config.trained_to)) for s in LEVELS]
        states = diffusion.settle(
            net,
            x,
            lambda: self.noise(generators, self.channels).to(self.device),
            net.schedule,
            levels,
        )
        return samples_of([x, *states])

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the weights, the Gaussian model if it counts, and what was learned on tune."""
        state = denoiser.state_of(self.denoiser)
        if self.prior is not None:
            state |= module_state(self.prior, "prior.")
        state |= self.standardizer.state()
        return state | {
            "size": np.array([self.noise.size]),
            "channels": np.array([self.channels]),
        }

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose state this was."""
        self.device, self.channels = pick_device(device), int(state["channels"][0])
        self.noise = denoiser.noise_source(self.config, int(state["size"][0]))
        net = denoiser.build(self.config, self.channels, self.device)
        self.denoiser = denoiser.load_into(net, state)
        if prior := tensors_under(state, "prior."):
            self.prior = GaussianPrior(*prior["basis"].shape)
            self.prior.load_state_dict(prior)
            self.prior.to(self.device)
        self.standardizer.load_state(state)
