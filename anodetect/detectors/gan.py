"""GAN: a discriminator as an energy, and an encoder into the generator's latents.

    loss of E:  E(x) − E(G(z)) + weight · (‖∇E(x̃)‖₂ − 1)²         (WGAN-GP, Gulrajani et al. 2017)
    loss of G:  E(G(z)),   z ~ N(0, I)
    loss of F:  |F(G(z)) − z|², then |x − x̂|² + κ·|h(x) − h(x̂)|²,   x̂ = G(F(x))
                                                                  (f-AnoGAN, Schlegl et al. 2019)

The discriminator E is fully convolutional, so every location has an energy, and their map is one
heatmap. Its gradient penalty keeps it close to 1-Lipschitz (`generative/adversarial.py`). The other
map is f-AnoGAN's score: the squared residual of the reconstruction x̂ and κ times that of the
discriminator's last hidden values h. During the game the encoder F learns to find the latents of
made images; when it is over, to restore real ones, with G and E as they are. Latents are a few
values for each square of pixels; those of F are bounded, so that x̂ stays among what G makes.
Planted defects on tune images decide which maps count. Larger = more anomalous.

Training is watched as that of the other energies is: it returns to good weights where energies run
away or where the made images are all alike. Samples are the ends of Langevin chains on the latents'
own energy plus the discriminator's (Che et al., NeurIPS 2020).

Fails where the generator has not learned in its few minutes what normal images look like: x̂ then
lacks fine structure everywhere. It is here to be compared with. Cost: minutes to train, 18 ms
an image on features.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anodetect.errors import ConfigError
from anodetect.generative import adversarial, langevin
from anodetect.generative.adversarial import frozen
from anodetect.generative.chains import contrastive_divergence
from anodetect.generative.samples import chain_generators, samples_of
from anodetect.imaging.standardise import (
    MICRO_BATCH,
    MapStandardizer,
    StandardizerConfig,
    refuse_patterns,
)
from anodetect.nn import single_pass
from anodetect.nn.augment import SLIGHT, Augment
from anodetect.nn.batching import variance_of
from anodetect.nn.checks import check_fewest, check_multiple
from anodetect.nn.device_batches import in_device_batches
from anodetect.nn.inference import autocast, pick_device, to_tensor
from anodetect.nn.local import LocalNet, receptive_field
from anodetect.nn.single_pass import Pass
from anodetect.nn.softplus import Softplus
from anodetect.nn.state import load_weights, module_state, with_channels_last
from anodetect.nn.training import Losses, Training, TrainingBatch, optimize
from anodetect.types import Batch, Floats, Samples, Scores, Seeds, State, TrainContext

FARTHEST = 3.0  # a latent value of the encoder, in standard deviations
DRIFT = 0.001  # the weight of squared energies, which keeps them near 0
STATES = 10  # of a chain that makes images
LANGEVIN_STEP = 0.01
ON_FEATURES = {
    "stem": 1,
    "critic_stem": 1,
    "blocks": 2,
    "relative": "off",
    "pooling": {"smooth": 1.0},
    "training": {"augment": Augment().model_dump()},
}


class GANConfig(StandardizerConfig):
    """Networks, game and score."""

    latents: PositiveInt = Field(
        default=8, description="The latent values of each square of `stem` pixels."
    )
    stem: PositiveInt = Field(
        default=8, description="The side of the squares of pixels that have latents of their own."
    )
    critic_stem: PositiveInt = Field(
        default=4,
        description="The side of the squares of pixels that are one location of the discriminator.",
    )
    width: PositiveInt = Field(default=64, description="The channels of all three networks.")
    blocks: PositiveInt = Field(
        default=3,
        description="The residual blocks of each network; each widens what a location sees by two "
        "locations.",
    )
    penalty: PositiveFloat = Field(
        default=10.0, description="The weight of the gradient penalty in the discriminator's loss."
    )
    critic_steps: PositiveInt = Field(
        default=2,
        description="The steps of the discriminator for one of the generator.",
    )
    pretraining: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="The share of training that the game of generator and discriminator takes; in "
        "the rest the encoder learns to restore normal images.",
    )
    kappa: NonNegativeFloat = Field(
        default=1.0,
        description="The weight κ of the residual of the discriminator's hidden values.",
    )
    training: Training = Field(
        default=Training(
            steps=4000,
            learning_rate=5e-4,
            momentum=0.0,
            clip=10.0,
            augment=SLIGHT,
            returns=3,
        ),
        description="How the networks are trained.",
    )


class Generator(nn.Module):
    """Maps latents [N, L, h, w] to images [N, channels, h · stem, w · stem].

    It also sees where each place is, so that registered images can be made.
    """

    def __init__(self, latents: int, channels: int, width: int, *, blocks: int, stem: int) -> None:
        super().__init__()
        self.net = LocalNet(latents + 2, channels * stem**2, width, blocks=blocks, stem=1)
        self.unfold = nn.PixelShuffle(stem)

    def forward(self, z: Tensor) -> Tensor:
        height, width = z.shape[2:]
        down = torch.linspace(-1, 1, height, device=z.device)[:, None].expand(height, width)
        across = torch.linspace(-1, 1, width, device=z.device).expand(height, width)
        place = torch.stack([down, across]).expand(len(z), -1, -1, -1)
        images: Tensor = self.unfold(self.net(torch.cat([z, place], 1)))
        return images


class GANNet(nn.Module):
    """Generator, discriminator and encoder, and how many steps the game has had."""

    steps: Tensor

    def __init__(self, config: GANConfig, channels: int) -> None:
        super().__init__()
        width, blocks, stem = config.width, config.blocks, config.stem
        self.generator = Generator(config.latents, channels, width, blocks=blocks, stem=stem)
        self.critic = LocalNet(channels, 1, width, blocks=blocks, stem=config.critic_stem)
        self.encoder = LocalNet(channels, config.latents, width, blocks=blocks, stem=stem)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def encode(self, x: Tensor) -> Tensor:
        """Return latents [N, L, h, w] of images, within ±FARTHEST."""
        z: Tensor = self.encoder(x)
        return FARTHEST * torch.tanh(z / FARTHEST)

    def local_energy(self, x: Tensor) -> Tensor:
        """Return the energy of each location of x [N, C, H, W], [N, h, w]."""
        energies: Tensor = self.critic(x)[:, 0]
        return energies

    def image_energy(self, x: Tensor) -> Tensor:
        """Return E(x) [N], the sum over P locations divided by √P."""
        return adversarial.image_energy(self.local_energy(x))


class GAN:
    """The energy of a discriminator, and what an encoder misses."""

    Config = GANConfig
    defaults: ClassVar[dict[str, Any]] = {
        "pixels": {"representation": {"size": 128}},
        "features": {"representation": {"neighbours": 3}, "detector": ON_FEATURES},
    }

    def __init__(self, config: GANConfig) -> None:
        refuse_patterns(config, "gan")
        self.config = config
        self.device = torch.device("cpu")
        self.net: GANNet
        self.channels, self.grid = 1, 1  # squares with latents along a side
        self.positive = Softplus()  # of local energies
        options = {"both": [0, 1], "energy": [0], "residual": [1]}
        self.standardizer = MapStandardizer(config, options)

    # -- Training ----------------------------------------------------------------------------------

    def check(self, shape: Sequence[int]) -> None:
        """Raise ConfigError if images [C, H, W] of this shape do not fit the networks or the
        settings of patterns."""
        config, size = self.config, shape[-1]
        self.standardizer.check(shape[0])
        field = receptive_field(config.blocks, config.critic_stem)
        if size < field:
            raise ConfigError(
                f"images of {size} pixels are smaller than the discriminator's receptive field of "
                f"{field}"
            )
        for name in ("stem", "critic_stem"):
            check_multiple(size, getattr(config, name), f"detector.{name}")

    def fit(self, fit: Batch, tune: Batch, *, context: TrainContext) -> None:
        """Train generator and discriminator, then the encoder; learn what maps are on tune."""
        started = time.monotonic()
        _, self.channels, size, _ = fit.images.shape
        self.check(fit.images.shape[1:])
        check_fewest(fit, "gan")
        self.grid = size // self.config.stem
        self.device = pick_device(context.device)
        torch.manual_seed(context.seed)  # initial weights
        net = self._build()
        self.net = net.eval().requires_grad_(False)

        # Training leaves time to score tune images, once more than usual for the mean of energies.
        tune, context, reserve = self.standardizer.plan(
            lambda batch, seeds: self._maps(batch), fit, tune, context, more=1
        )
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

        self.positive = Softplus.learn(self._maps(tune)[0][:, 0][tune.foreground])
        self.standardizer.learn(lambda batch, seeds: self._positive_maps(batch)[0], tune, context)
        context.log(trained.facts())

    def _build(self) -> GANNet:
        return with_channels_last(GANNet(self.config, self.channels), self.device)

    def _loss(self, net: GANNet, batch: TrainingBatch, variance: float) -> Losses:
        if batch.progress < self.config.pretraining:
            return self._game(net, batch)
        return self._encoding(net, batch, variance)

    def _game(self, net: GANNet, batch: TrainingBatch) -> Losses:
        """Return the loss of the discriminator and the encoder, and every `critic_steps` steps also
        the generator's; each leaves the others' weights alone."""
        config, real = self.config, batch.images
        net.steps += 1
        with_generator = int(net.steps) % config.critic_steps == 0
        z = self._latents(batch.generators).to(real.device)
        with torch.set_grad_enabled(with_generator):
            made = net.generator(z)

        # Energies are means over locations, and √P is what `image_energy` multiplies them by.
        positive = net.local_energy(real)
        contrast, energies = contrastive_divergence(
            positive.mean((1, 2)), net.local_energy(made.detach()).mean((1, 2)), DRIFT
        )
        slopes = adversarial.slopes_between(net.image_energy, real, made.detach(), batch.generators)
        penalty = adversarial.gradient_penalty(slopes)
        total = math.sqrt(positive[0].numel()) * contrast + config.penalty * penalty
        total = total + (net.encode(made.detach()) - z).square().mean()
        if with_generator:
            with frozen(net.critic):
                total = total + net.image_energy(made).mean()

        slope, varied = slopes.mean().item(), adversarial.variety(real, made)
        unstable = adversarial.game_instability(energies, slope, varied)
        watched = 1 + torch.tensor(unstable, device=real.device)
        return Losses(total, watched, energies._asdict() | {"slope": slope, "variety": varied})

    def _latents(self, generators: Sequence[torch.Generator]) -> Tensor:
        """Return standard normal latents [N, L, h, w]."""
        shape = self.config.latents, self.grid, self.grid
        return torch.stack([torch.randn(shape, generator=rng) for rng in generators])

    def _encoding(self, net: GANNet, batch: TrainingBatch, variance: float) -> Losses:
        """Return the loss of the encoder; what is watched is 1 + the share of the images' variance
        that it misses."""
        x = batch.images
        with frozen(net.generator, net.critic), autocast(x.device):
            restored = net.generator(net.encode(x))
            missed = (restored.float() - x).square().mean() / variance
            hidden = (net.critic.hidden(restored) - net.critic.hidden(x)).float().square().mean()
        facts = {"missed": missed.item(), "hidden": hidden.item()}
        return Losses(missed + self.config.kappa * hidden, 1 + missed.detach(), facts)

    # -- Scoring -----------------------------------------------------------------------------------

    def score(self, batch: Batch, *, seeds: Seeds) -> Scores:
        """Return image scores, maps and reconstructions; nothing is random."""
        maps, reconstruction = self._positive_maps(batch)
        return Scores(*self.standardizer.combine(maps, batch), reconstruction)

    def _positive_maps(self, batch: Batch) -> tuple[Floats, Floats]:
        """Return the maps with the softplus of standardised energies, and reconstructions."""
        maps, restored = self._maps(batch)
        maps[:, 0] = self.positive(maps[:, 0])
        return maps, restored

    def _maps(self, batch: Batch) -> tuple[Floats, Floats]:
        """Return local energies and f-AnoGAN's score [N, 2, H, W], and x̂ [N, C, H, W]."""
        maps, restored = in_device_batches(
            self._maps_of, batch.images, size=MICRO_BATCH, device=self.device
        )
        return maps, restored

    @torch.no_grad()
    def _maps_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(x.device):
            coarse, restored = self._coarse_maps(x)
        return self._enlarged(coarse, x, restored), restored

    def _coarse_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return local energies and what hidden values miss on the critic's grid [N, 2, h, w], and
        x̂ [N, C, H, W]."""
        net = self.net
        restored = net.generator(net.encode(x)).float()
        hidden = net.critic.hidden(x)
        energy = net.critic.last(hidden)
        missed = (hidden - net.critic.hidden(restored)).float().square().mean(1, keepdim=True)
        return torch.cat([energy.float(), missed], 1), restored

    def _enlarged(self, coarse: Tensor, x: Tensor, restored: Tensor) -> Tensor:
        """Return the maps of `_maps` on the grid of x, [N, 2, H, W]."""
        height, width = map(int, x.shape[2:])  # where a graph is traced, they are tensors
        maps = F.interpolate(coarse, (height, width), mode="bilinear")
        residual = (x - restored).square().mean(1) + self.config.kappa * maps[:, 1]
        return torch.stack([maps[:, 0], residual], 1)

    def one_pass(self, shape: Sequence[int]) -> Pass:
        """Return the pass for images of this shape."""

        def score(x: Tensor) -> tuple[Tensor, Tensor]:
            coarse, restored = self._coarse_maps(x)
            energy, residual = self._enlarged(coarse, x, restored).unbind(1)
            stacked = torch.stack([self.positive.of_tensor(energy), residual], 1)
            return single_pass.combine(self.standardizer, stacked, x)

        return score

    # -- Making images -----------------------------------------------------------------------------

    def sample(self, count: int, *, seed: int, start: Floats | None = None) -> Samples:
        """Return images of latents after Langevin steps, from normal latents or those of `start`.

        The latents' energy is |z|²/2 + E(G(z)).
        """
        generators = chain_generators(seed, count)
        states, net = [], self.net
        if start is None:
            z = self._latents(generators).to(self.device)
        else:
            x = to_tensor(np.stack([start] * count), self.device)
            states.append(x)
            with torch.no_grad():
                z = net.encode(x)

        def energy(z: Tensor) -> Tensor:
            return z.square().flatten(1).sum(1) / 2 + net.image_energy(net.generator(z))

        for _ in range(STATES):
            with torch.no_grad():
                states.append(net.generator(z))
            z = langevin.sgld(energy, z, generators, step=LANGEVIN_STEP)
        with torch.no_grad():
            states.append(net.generator(z))
        return samples_of(states)

    # -- State -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the weights, and what was learned on tune."""
        state = module_state(self.net, "net.") | self.standardizer.state()
        return (
            state
            | self.positive.state("middle")
            | {
                "channels": np.array([self.channels]),
                "grid": np.array([self.grid]),
            }
        )

    def load_state(self, state: State, *, device: str) -> None:
        """Become the detector whose state this was."""
        self.device = pick_device(device)
        self.positive = Softplus.from_state(state, "middle")
        self.channels, self.grid = int(state["channels"][0]), int(state["grid"][0])
        self.net = load_weights(self._build(), state, "net.")
        self.standardizer.load_state(state)
