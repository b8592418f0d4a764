"""NCSN: a network that knows the score of normal images at ten levels of noise.

    s(x, σ) = (f(x, σ) − x) / σ² ≈ ∇ log p_σ(x),   p_σ = normal images blurred by noise σ

Song & Ermon, "Generative modeling by estimating gradients of the data distribution", NeurIPS 2019.
The network f is a denoiser (Tweedie's formula), and the levels are geometric. It learns by one of
three objectives (`generative/scores.py`), each weighted by σ²: "denoising", "sliced", or "exact",
for inputs of few values. The setting `score` is what an image is judged by:

    "msma"      q_i(p) = σ_i ‖s(x, σ_i)_p‖ at each place p of the clean image, for all levels i
                (Mahmood et al., ICLR 2021)
    "latent"    q(p) = ‖z_p‖ for z = (x_L − μ) / √(v + σ_L²), where x_L is the end of the
                probability flow from x up to the highest level (Song et al., ICLR 2021), and μ and
                v are mean and variance of normal images

A place may be too loud or too quiet, so the maps are two-sided: |q_i(p) − mean of q_i at p on fit
images|, each in units of its mean on tune; with `pattern` the first mean is that of all places.
Which levels count, planted defects decide. An image's score (`image`) is that of its map, or the
distance of the vector of ‖q_i‖ over the image from those of normal images: from a Gaussian mixture,
or to the nearest (`density`), or the geometric mean of both. Larger = more anomalous.

`sample` runs annealed Langevin dynamics from the highest level to the lowest.

Fails where normal images vary in how much texture they have: what is quiet in one is loud in
another. Cost: minutes to train, one pass a level to score, 18 for "latent".
"""

import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from anodetect.errors import ConfigError
from anodetect.generative import denoiser, diffusion, langevin, scores
from anodetect.generative.denoiser import Denoiser, NetworkConfig
from anodetect.generative.densities import Kind, VectorDensity
from anodetect.generative.langevin import Score
from anodetect.generative.samples import chain_generators, samples_of
from anodetect.imaging.arrays import array_in, check_array
from anodetect.imaging.choices import first_of_the_best
from anodetect.imaging.standardise import (
    MAX_TUNE,
    MICRO_BATCH,
    MapStandardizer,
    StandardizerConfig,
    most_affordable,
    survey,
)
from anodetect.nn.checks import check_fewest
from anodetect.nn.device_batches import in_device_batches
from anodetect.nn.filters import gaussian_blur
from anodetect.nn.inference import autocast, pick_device, to_tensor
from anodetect.nn.state import arrays_under
from anodetect.nn.training import Losses, Training, TrainingBatch, optimize
from anodetect.types import Batch, Floats, Samples, Scores, Seeds, State, TrainContext

MOST_EXACT = 256  # values of an image or window, for the objective that needs a pass for each
MOMENT_IMAGES = 1000  # that mean and variance are learned from
REFERENCE_SHARE = 0.1  # of the budget, for what maps are on fit images
SAMPLE_STEPS, SAMPLE_STEP = 15, 0.3  # of Langevin dynamics at each level; the second times σ²
IMAGE_SCORES = ("both", "map", "vector")  # the preferred one first; a stored model has its number


class NCSNConfig(NetworkConfig, StandardizerConfig):
    """Noise levels, objective and score, beside the settings of the network."""

    levels: int = Field(default=10, ge=2, le=100, description="The number of noise levels.")
    lowest: PositiveFloat = Field(
        default=0.01, description="The deviation σ of the noise at the lowest level."
    )
    highest: PositiveFloat = Field(
        default=1.0, description="The deviation σ of the noise at the highest level."
    )
    objective: Literal["denoising", "sliced", "exact"] = Field(
        default="denoising",
        description="How the score is learned: by 'denoising', along random directions ('sliced'), "
        "or with the 'exact' divergence, for images or windows (`crop`) of up to 256 values.",
    )
    score: Literal["msma", "latent"] = Field(
        default="msma",
        description="What an image is judged by: the size of its scores at all levels ('msma'), or "
        "the end of the probability flow ('latent').",
    )
    image: Literal["auto", "both", "map", "vector"] = Field(
        default="auto",
        description="What an image's score is: the peak of its 'map', the distance of the 'vector' "
        "of sizes over the image from those of normal images, or the geometric mean of 'both'; "
        "'auto' is 'both' unless another separates planted defects better.",
    )
    density: Kind = Field(
        default="mixture",
        description="What the distance of a vector is from: a Gaussian 'mixture', or the nearest "
        "normal vectors ('neighbours').",
    )
    scale: float = Field(
        default=1 / 64,
        ge=0,
        le=0.25,
        description="The deviation of the Gaussian over which sizes at a place are averaged, as a "
        "share of the image's side.",
    )
    training: Training = Field(default=denoiser.TRAINING, description="How the network is trained.")


class NCSN:
    """The noise-conditional score network."""

    Config = NCSNConfig
    defaults: ClassVar[dict[str, Any]] = {
        "pixels": {"representation": {"size": 128}},
        "features": {
            "representation": {"neighbours": 3},
            "detector": denoiser.NETWORK_ON_FEATURES | {"scale": 0.0},
        },
    }

    def __init__(self, config: NCSNConfig) -> None:
        if config.lowest >= config.highest:
            raise ConfigError(
                f"detector.lowest: {config.lowest:g} is not below highest ({config.highest:g})"
            )
        self.config = config
        self.device = torch.device("cpu")
        self.sigmas = scores.geometric_levels(config.lowest, config.highest, config.levels)
        self.net: Denoiser
        self.moments: Tensor  # mean and variance of normal images, [2, C, H, W]
        self.usual: Floats  # mean of each map on fit images, [M, H, W] or [M, 1, 1]
        self.vectors: VectorDensity
        self.units = np.ones(2, np.float32)  # mean score of map and vector on tune
        self.image = "both"

        options = {"latent": range(1)}
        if config.score == "msma":
            middle, count = config.levels // 2, config.levels
            options = {"all": range(count), "fine": range(middle), "coarse": range(middle, count)}
        self.standardizer = MapStandardizer(config, options)

    # -- Training ----------------------------------------------------------------------------------

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Train the network on fit images, then learn what its scores are on fit and tune."""
        started = time.monotonic()
        self.check(fit.images.shape[1:])
        check_fewest(fit, "a score")
        self.device = pick_device(context.device)
        self.moments = torch.from_numpy(_moments(fit)).to(self.device)
        torch.manual_seed(context.seed)  # initial weights
        net = self._build(fit.images.shape[1], fit)
        self.net = net.eval().requires_grad_(False)

        # Training leaves time to look at fit and tune images.
        self.standardizer.prepare(fit, context)
        seconds = self._seconds_of(tune)
        known = self._reference(fit, context, seconds)
        # The standardizer looks at tune images, and then what an image's score is.
        tune, context, reserve = self.standardizer.affordable(tune, context, 2 * seconds)
        reserve += 1.2 * seconds * len(known) / MICRO_BATCH

        trained = optimize(
            net.requires_grad_(True),
            self._loss,
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve + time.monotonic() - started,
            useful_untrained=self.config.start == "linear",
        )
        self.net = trained.net
        self._learn_sizes(known, tune, context)
        self.standardizer.learn(lambda batch, seeds: self._departures(batch), tune, context)
        self._choose_image_score(tune, context)
        context.log(trained.facts() | {"image": self.image})

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if images [C, H, W] of this shape do not fit the network, the objective
        or the settings of patterns."""
        config, size = self.config, shape[-1]
        denoiser.check_network(config, size)
        self.standardizer.check(shape[0])
        values = shape[0] * min(size, config.crop or size) ** 2
        if config.objective == "exact" and values > MOST_EXACT:
            raise ConfigError(
                f"detector.objective: exact is for {MOST_EXACT} values at most, and images or "
                f"windows have {values}; take sliced or denoising, or a smaller detector.crop"
            )

    def _build(self, channels: int, fit: Batch | None = None) -> Denoiser:
        schedule = scores.schedule_of(self.sigmas)
        return denoiser.build(self.config, channels, self.device, fit, schedule)

    @torch.no_grad()
    def _seconds_of(self, batch: Batch) -> float:
        """Return how long a micro-batch takes to score, from the second pass at one level."""
        rows = np.arange(MICRO_BATCH) % len(batch)
        x = to_tensor(batch.images[rows], self.device)
        self._score(x, self.sigmas[0])
        started = time.monotonic()
        float(self._score(x, self.sigmas[0]).sum())  # waits for devices that work asynchronously
        passes = len(self.sigmas) if self.config.score == "msma" else 2 * (len(self.sigmas) - 1)
        return passes * (time.monotonic() - started)

    def _reference(self, fit: Batch, context: TrainContext, seconds: float) -> Batch:
        """Return fit images, evenly spread, of which a micro-batch takes so many seconds."""
        count = min(len(fit), MAX_TUNE)
        if context.budget is not None:
            count = min(count, most_affordable(REFERENCE_SHARE * context.budget, seconds))
        return fit[np.linspace(0, len(fit) - 1, count).astype(np.int64)]

    def _loss(self, net: Denoiser, batch: TrainingBatch) -> Losses:
        """Return the objective at random levels, times σ²."""
        config, generators, x = self.config, batch.generators, batch.images
        if 0 < config.crop < x.shape[-1]:
            x = denoiser.random_windows(x, config.crop, generators)
        level = denoiser.random_steps(generators, config.levels).to(x.device)
        sigma = torch.tensor(self.sigmas, device=x.device)[level - 1]
        noise = langevin.standard_normal(x, generators)

        def score(noisy: Tensor) -> Tensor:
            return scores.denoiser_score(net, noisy, level)

        if config.objective == "denoising":
            with autocast(x.device):
                loss = scores.denoising(score, x, noise, sigma).mean()
            return Losses(loss, loss)

        noisy = x + sigma.reshape(-1, 1, 1, 1) * noise
        if config.objective == "sliced":
            losses = scores.sliced(score, noisy, langevin.standard_normal(x, generators))
        else:
            losses = scores.exact(score, noisy)
        loss = (sigma.square() * losses).mean()
        return Losses(loss, 1 + loss)  # at least 1/2, as `denoising` is at least 0

    # -- What is usual -----------------------------------------------------------------------------

    def _learn_sizes(self, known: Batch, tune: Batch, context: TrainContext) -> None:
        """Learn the mean of each map on fit images, and the density of vectors of fit and tune."""
        vectors = [self._sizes(tune)[1]]

        def sizes(batch: Batch, seeds: Seeds) -> Floats:
            places, whole = self._sizes(batch)
            vectors.append(whole)
            return places

        found = survey(sizes, known, side=known.images.shape[-1])
        # Patterns are looked at in no place of an image, so that all places must be judged alike.
        places_differ = self.standardizer.patterns is None
        self.usual = (found.place_means() if places_differ else found.flat).astype(np.float32)
        self.vectors = VectorDensity.learn(
            np.concatenate(vectors), self.config.density, context.seed
        )

    def _choose_image_score(self, tune: Batch, context: TrainContext) -> None:
        """Choose what an image's score is, with planted defects where it is left to them."""
        clean, _ = self._both_scores(tune)
        self.units = np.maximum(clean.mean(1), 1e-6).astype(np.float32)
        planted = context.planted() if self.config.image == "auto" else None
        if planted is None or len(planted) < 2:
            self.image = "both" if self.config.image == "auto" else self.config.image
            return

        found = [clean[:, planted.of]]
        for copy in planted.copies:
            found.append(self._both_scores(copy)[0])
        options = {}
        for name in IMAGE_SCORES:
            options[name] = np.stack([self._image_scores(both, name) for both in found])
        self.image, auroc = first_of_the_best(options, context.seed, planted.kinds())
        context.log({f"planted_auroc image {name}": auroc[name] for name in auroc})

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores and maps; nothing is random, and there is no reconstruction."""
        both, heatmap = self._both_scores(batch)
        return Scores(self._image_scores(both, self.image), heatmap)

    def _both_scores(self, batch: Batch) -> tuple[Floats, Floats]:
        """Return the scores of map and vector of each image [2, N], and the maps [N, H, W]."""
        sizes, vectors = self._sizes(batch)
        image, heatmap = self.standardizer.combine(np.abs(sizes - self.usual), batch)
        return np.stack([image, self.vectors.distance(vectors)]), heatmap

    def _image_scores(self, both: Floats, name: str) -> Floats:
        """Return image scores [N], by name, of those of map and vector [2, N]."""
        scaled: Floats = both / self.units[:, None]
        if name == "both":
            product: Floats = np.sqrt(scaled[0] * scaled[1])
            return product
        return np.asarray(scaled[0] if name == "map" else scaled[1])

    def _departures(self, batch: Batch) -> Floats:
        """Return how far sizes are from usual, [N, M, H, W]."""
        departures: Floats = np.abs(self._sizes(batch)[0] - self.usual)
        return departures

    def _sizes(self, batch: Batch) -> tuple[Floats, Floats]:
        """Return the sizes q_i at each place [N, M, H, W], and over the foreground [N, M]."""
        arrays = batch.images, batch.foreground.astype(np.float32), batch.channel_weights
        sizes, vectors = in_device_batches(
            self._sizes_of, *arrays, size=MICRO_BATCH, device=self.device
        )
        return sizes, vectors

    @torch.no_grad()
    def _sizes_of(self, x: Tensor, inside: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        inside, weights, squares = inside[:, None], weights[:, :, None, None], []
        if self.config.score == "latent":
            end = scores.probability_flow(self._score, x, self.sigmas)
            squares.append((weights * self._whitened(end).square()).mean(1))
        else:
            for sigma in self.sigmas:
                squares.append((weights * (sigma * self._score(x, sigma)).square()).mean(1))

        stacked = torch.stack(squares, 1)
        local = gaussian_blur(stacked, self.config.scale * x.shape[-1]).clamp_min(0).sqrt()
        count = inside.sum((2, 3)).clamp_min(1)
        whole = ((stacked * inside).sum((2, 3)) / count).sqrt()
        return local, whole

    def _score(self, x: Tensor, sigma: float) -> Tensor:
        """Return s(x, σ), [N, C, H, W]."""
        level = diffusion.steps_for(x, 1 + self.sigmas.index(sigma))
        with autocast(x.device):
            return scores.denoiser_score(self.net, x, level).float()

    def _whitened(self, x: Tensor) -> Tensor:
        """Return (x − μ) / √(v + σ_L²), standard normal for Gaussian images with noise σ_L."""
        mean, variance = self.moments
        whitened: Tensor = (x - mean) / (variance + self.sigmas[-1] ** 2).sqrt()
        return whitened

    # -- Making images -----------------------------------------------------------------------------

    @torch.no_grad()
    def sample(self, count: int, *, seed: int, start: Floats | None = None) -> Samples:
        """Return the ends of annealed Langevin dynamics, denoised at last.

        Without a `start` chains begin with noise and the mean of normal images, at the highest
        level; else with the start and noise, at the middle one.
        """
        generators = chain_generators(seed, count)
        mean, variance = self.moments
        sigmas = self.sigmas[::-1]
        x = mean.expand(count, *mean.shape)
        deviation = (variance + sigmas[0] ** 2).sqrt()
        if start is not None:
            sigmas = sigmas[len(sigmas) // 2 :]
            x = to_tensor(np.stack([start] * count), self.device)
            deviation = torch.full_like(mean, sigmas[0])

        def score_at(sigma: float) -> Score:
            return lambda x: self._score(x, sigma)

        states = langevin.annealed_states(
            score_at,
            x + deviation * langevin.standard_normal(x, generators),
            generators,
            sigmas=sigmas,
            steps=SAMPLE_STEPS,
            step=SAMPLE_STEP * sigmas[-1] ** 2,
        )
        denoised = states[-1] + sigmas[-1] ** 2 * self._score(states[-1], sigmas[-1])
        return samples_of([*states, denoised])

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the weights and what was learned on fit and tune."""
        state = denoiser.state_of(self.net) | self.standardizer.state()
        for name, array in self.vectors.state().items():
            state[f"vectors.{name}"] = array
        return state | {
            "moments": self.moments.cpu().numpy(),
            "usual": self.usual,
            "units": self.units,
            "image": np.array([IMAGE_SCORES.index(self.image)]),
        }

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose state this was."""
        self.device = pick_device(device)
        moments = array_in(state, "moments", (2, None, None, None))
        self.moments = torch.from_numpy(moments.copy()).to(self.device)
        self.net = denoiser.load_into(self._build(self.moments.shape[1]), state)
        self.usual = array_in(state, "usual", (None, None, None))
        self.units = array_in(state, "units", (2,))
        self.image = IMAGE_SCORES[int(state["image"][0])]
        self.vectors = VectorDensity.from_state(arrays_under(state, "vectors."))
        self.standardizer.load_state(state)

    def check_state(self, shape: Sequence[int]) -> None:
        """Raise ValueError if what was learned is not of images of this shape, or of as many maps
        as there are noise levels."""
        if tuple(self.moments.shape[1:]) != tuple(shape):
            raise ValueError(f"moments are of images {list(self.moments.shape[1:])}")
        maps = 1 if self.config.score == "latent" else len(self.sigmas)
        sides = (1, 1) if self.usual.shape[1:] == (1, 1) else tuple(shape[1:])
        check_array("usual", self.usual, (maps, *sides))
        check_array("vectors.scale", self.vectors.scale, (2, maps), np.float64)


def _moments(fit: Batch) -> Floats:
    """Return the mean and the variance of each value of fit images, float32 [2, C, H, W]."""
    rows = np.linspace(0, len(fit) - 1, min(len(fit), MOMENT_IMAGES)).astype(np.int64)
    total = np.zeros(fit.images.shape[1:])
    squares = np.zeros_like(total)
    for row in rows:
        total += fit.images[row]
        squares += np.square(fit.images[row], dtype=np.float64)

    mean = total / len(rows)
    variance = np.maximum(squares / len(rows) - mean**2, 0)
    return np.stack([mean, variance]).astype(np.float32)
