"""NCE: a normalised density of normal places, learned by telling them from noise.

    A_p = −log p(x_p),   log p(x_p) = log q(v_p) − g(v_p) − log Z + log |∂v/∂x|

x_p is what is around the place p: a window of `window` × `window` pixels, or the feature vector of
the place, and v_p the same whitened (`generative.whitening`). q is the density of the noise. A
network g and the number log Z learn to tell normal places from draws of q, and p is then the
density of normal places (`generative.contrastive`; Gutmann & Hyvärinen, "Noise-contrastive
estimation of unnormalized statistical models", JMLR 2012). A_p is in nats and comparable between
models, which energies are not: `log_density` returns −A. The setting `noise` names q:

    "gaussian"   the Gaussian of normal places, so that g is what they are beyond that
    "flow"       a flow of affine couplings that learns in the same steps to be mistaken for normal
                 places (flow contrastive estimation, Gao et al., CVPR 2020)

Whitening takes a share of white noise for granted (`shrinkage`), so p is the density of places with
that noise. Components that vary less than the noise are left to the Gaussian. After training
train.jsonl has the mean log-likelihood of tune places beside that of a Gaussian, and log Z as it
was learned beside what draws of q give: where the two differ, p is not normalised.

Maps are A, bent to be positive, standardised on tune and pooled. Larger = more anomalous.

Fails where an anomaly is in the arrangement of places that are normal each by itself, and where
features are the pixels around a place also on constant images, whose places are among the
likeliest. In hundreds of dimensions a Gaussian is told from data with certainty, which teaches
nothing more: p is then too low on normal places, and log Z wrong. A flow comes closer. Far from all
data q decides. Cost: two minutes to train, 59 ms an image on features.
"""

import time
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from anodetect.config import refuse_idle
from anodetect.errors import ConfigError
from anodetect.generative.contrastive import (
    ContrastiveDensity,
    chance_level,
    density_loss,
    flow_loss,
)
from anodetect.generative.flows import log_normal
from anodetect.generative.langevin import standard_normal
from anodetect.generative.noise import generator
from anodetect.generative.samples import chain_generators
from anodetect.generative.sampling import log_mean
from anodetect.generative.whitening import (
    LOW,
    ON_FEATURES,
    Whitening,
    WindowsConfig,
    check_stride,
    check_window,
    energy_maps,
    energy_pass,
    noisy_windows,
    windows_to_learn_from,
)
from anodetect.imaging.standardise import MapStandardizer
from anodetect.nn.inference import pick_device, to_tensor
from anodetect.nn.single_pass import Pass
from anodetect.nn.softplus import Softplus
from anodetect.nn.state import load_weights, module_state
from anodetect.nn.training import Losses, Training, TrainingBatch, optimize
from anodetect.types import Batch, Floats, Scores, Seeds, State, TrainContext

LOG_Z_DRAWS = 10_000  # of the noise, that log Z is compared with


class NCEConfig(WindowsConfig):
    """The places, the network, the noise and the training."""

    shrinkage: float = Field(
        default=0.001,
        gt=0,
        lt=1,
        description="The variance of the white noise on places, as a share of the mean variance of "
        "their values.",
    )
    noise: Literal["gaussian", "flow"] = Field(
        default="flow",
        description="What places are told from: the 'gaussian' with their mean and covariance, or "
        "a 'flow' that learns to be mistaken for them.",
    )
    couplings: PositiveInt = Field(
        default=4,
        description="The affine couplings of the flow, each of which changes half of the values.",
    )
    width: PositiveInt = Field(default=128, description="The width of the networks.")
    blocks: PositiveInt = Field(
        default=2, description="The residual blocks of the network of the density."
    )
    noise_draws: PositiveInt = Field(
        default=1, description="The draws of noise for each place of a training step."
    )
    training: Training = Field(
        default=Training(steps=1500, learning_rate=1e-3, returns=3),
        description="How the networks are trained.",
    )


class NCE:
    """The normalised density of places."""

    Config = NCEConfig
    defaults: ClassVar[dict[str, Any]] = {
        "pixels": {"representation": {"size": 128}},
        "features": {"representation": {"neighbours": 3}, "detector": ON_FEATURES},
    }

    def __init__(self, config: NCEConfig) -> None:
        check_stride(config.stride, config.window)
        if config.noise == "gaussian":
            refuse_idle(
                config, ["couplings"], "only a flow has any; leave it out, or noise=gaussian"
            )
        self.config = config
        self.device = torch.device("cpu")
        self.net: ContrastiveDensity
        self.whitening: Whitening
        self.learned = 0  # components of whitened places that the net sees, the last ones
        self.positive = Softplus()
        self.standardizer = MapStandardizer(config, {"density": [0]})

    # -- Training ----------------------------------------------------------------------------------

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Learn the whitening, train the density, then learn what its maps are on tune images."""
        started = time.monotonic()
        self.check(fit.images.shape[1:])
        self.device = pick_device(context.device)
        vectors = windows_to_learn_from(fit, self.config.window, context.seed)
        self.whitening = Whitening.learn(vectors, self.config.shrinkage).to(self.device)
        torch.manual_seed(context.seed)  # initial weights
        self.net = self._build()

        # Training leaves time to score tune images.
        tune, context, reserve = self.standardizer.plan(
            lambda batch, seeds: self._positive_maps(batch), fit, tune, context
        )
        trained = optimize(
            self.net,
            lambda net, batch: self._loss(net, batch, fit),
            fit.images,
            self.config.training,
            context,
            device=self.device,
            reserve=reserve + time.monotonic() - started,
            useful_untrained=True,
        )
        self.net = trained.net
        self.positive = Softplus.learn(self._energies(tune)[:, 0][tune.foreground], LOW)
        self.standardizer.learn(lambda batch, seeds: self._positive_maps(batch), tune, context)
        self._log_likelihood(tune, context)
        context.log(trained.facts())

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if images [C, H, W] of this shape are smaller than a window, have a
        single value in it, or do not fit the settings of patterns."""
        self.standardizer.check(shape[0])
        check_window(self.config.window, shape)
        if shape[0] * self.config.window**2 == 1:
            raise ConfigError(
                "detector.window: the density of single values says nothing of what is around "
                "them; take 2 or more"
            )

    def _build(self) -> ContrastiveDensity:
        config = self.config
        couplings = config.couplings if config.noise == "flow" else 0
        varied = self.whitening.noise.square() < 0.5  # more than the noise
        self.learned = max(2, int(varied.sum()))
        net = ContrastiveDensity(
            self.learned, config.width, blocks=config.blocks, couplings=couplings
        )
        return net.to(self.device)

    def _loss(self, net: ContrastiveDensity, batch: TrainingBatch, fit: Batch) -> Losses:
        config, rngs = self.config, batch.generators
        foreground = fit.foreground[batch.rows]
        v = noisy_windows(self.whitening, batch.images, foreground, config, rngs)
        data = v[..., -self.learned :]
        z = standard_normal(data.repeat(1, config.noise_draws, 1), rngs).flatten(0, 1)
        data = data.flatten(0, 1)

        density = density_loss(net, data, z)
        chance = chance_level(config.noise_draws)
        facts = {"of_chance": density.item() / chance, "log_z": net.log_z.item()}
        # A loss that rises from nothing to chance, as it may where a flow learns, is no divergence.
        watched = 2 * chance + density.detach()
        if config.noise == "gaussian":
            return Losses(density, watched, facts)
        return Losses(density + flow_loss(net, data, z), watched, facts)

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores and maps; nothing is random, and there is no reconstruction."""
        return Scores(*self.standardizer.combine(self._positive_maps(batch), batch))

    def one_pass(self, shape: Sequence[int]) -> Pass:
        """Return the pass for images of this shape."""
        return energy_pass(self._energy, self.config, self.positive, self.standardizer)

    def log_density(self, batch: Batch) -> Floats:
        """Return the log-density of what is around each pixel, in nats, [N, H, W]."""
        return -self._energies(batch)[:, 0]

    def _positive_maps(self, batch: Batch) -> Floats:
        """Return the softplus of standardised −log p, [N, 1, H, W]."""
        return self.positive(self._energies(batch))

    def _energies(self, batch: Batch) -> Floats:
        """Return −log p of what is around each pixel, [N, 1, H, W]."""
        return energy_maps(self._energy, batch, self.config, self.device)

    def _energy(self, x: Tensor) -> Tensor:
        """Return −log p of windows x [L, D], [L]."""
        log_volume = -self.whitening.scale.log().sum()  # log |∂v/∂x|
        return -(self._whitened_log_density(self.whitening(x)) + log_volume)

    def _whitened_log_density(self, v: Tensor) -> Tensor:
        """Return log p of whitened places v [M, D], [M]."""
        rest, seen = v[:, : -self.learned], v[:, -self.learned :]
        density: Tensor = log_normal(rest) + self.net(seen)
        return density

    @torch.no_grad()
    def _log_likelihood(self, tune: Batch, context: TrainContext) -> None:
        """Log the mean log-likelihood of tune places with noise, whitened, in nats, and that under
        a Gaussian; and log Z as it was learned and by importance sampling."""
        config, rngs = self.config, chain_generators(context.seed, len(tune))
        images = to_tensor(tune.images, self.device)
        v = noisy_windows(self.whitening, images, tune.foreground, config, rngs).flatten(0, 1)

        z = torch.randn(LOG_Z_DRAWS, self.learned, generator=generator(context.seed))
        ratios = self.net.log_ratio(self.net.flow.inverse(z.to(self.device)))
        drawn = log_mean(ratios + self.net.log_z)
        entry = {
            "log_likelihood": float(self._whitened_log_density(v).mean()),
            "log_likelihood_of_a_gaussian": float(log_normal(v).mean()),
            "log_z": self.net.log_z.item(),
            "log_z_drawn": drawn.value,
            "log_z_drawn_error": drawn.error,
        }
        context.log(entry)

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the weights, the whitening, and what was learned on tune."""
        networks = module_state(self.net, "net.") | self.whitening.state()
        return networks | self.standardizer.state() | self.positive.state("low")

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose state this was."""
        self.device = pick_device(device)
        self.positive = Softplus.from_state(state, "low")
        self.whitening = Whitening.from_state(state, self.device)
        self.net = load_weights(self._build(), state, "net.")
        self.standardizer.load_state(state)
