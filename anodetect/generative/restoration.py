"""What becomes of an image x, by a denoiser f of normal images, at a noise step λ.

    "single"    x − x̂,   x̂ = f(x_λ, λ)                      one pass
    "chain"     x − x̂,   x̂ from x_λ step by step             (Wyatt et al., CVPRW 2022)
    "latent"    z_λ, where the probability flow takes x      (Song et al., ICLR 2021, eq. 13)

x_λ = √ᾱ_λ·x + √(1−ᾱ_λ)·ε has the noise of a draw, or none: then it is the mean of x_λ. The flow
takes data to noise without a random part, so that z_λ of a normal image is as likely as any other
noise, and what no normal image has ends far out. Up to the steps of an ordinary differential
equation it is a density: all that is left of x is in z_λ.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from anodetect.config import Config
from anodetect.generative import diffusion, scores
from anodetect.generative.denoised_energy import without_noise
from anodetect.generative.denoiser import Denoiser

NewNoise = Callable[[], Tensor]  # returns noise of the shape of the images


class RestorationConfig(Config):
    """The steps λ, and what is done at each."""

    mode: Literal["single", "chain", "latent"] = Field(
        default="single",
        description="What images are compared with: what is restored in one pass from each λ "
        "('single') or step by step ('chain'), as in the paper; or nothing, where the size of the "
        "noise counts that the probability flow up to λ makes of them ('latent').",
    )
    sampler: Literal["ddim", "ancestral"] = Field(
        default="ddim",
        description="The sampler of a chain: 'ddim', deterministic in a few steps (Song et al., "
        "2021), or 'ancestral', random in all steps (Ho et al., 2020).",
    )
    sampler_steps: PositiveInt = Field(
        default=10,
        description="The steps of a chain of the sampler 'ddim', or of the flow of 'latent', two "
        "passes each; never more than λ.",
    )
    lambdas: tuple[int, ...] = Field(
        default=(5, 10, 20),
        description="The noise steps λ from which images are restored, each in 1 to trained_to; "
        "small ones suit pixels, larger ones features.",
    )
    draws: NonNegativeInt = Field(
        default=0,
        description="The noise draws for each λ, whose restored images are averaged; 0 adds no "
        "noise and restores the mean of the noised image.",
    )


def passes(config: RestorationConfig) -> int:
    """Return how many passes through the network an image takes."""
    draws = max(1, config.draws)
    count = draws if config.mode == "latent" else 0  # a restored image is shown, too
    for step in config.lambdas:
        if config.mode == "single":
            count += draws
        elif config.mode == "latent":
            count += 2 * min(step - 1, config.sampler_steps)
        elif config.sampler == "ddim":
            count += draws * min(step, config.sampler_steps)
        else:
            count += draws * step
    return count


def restored(
    net: Denoiser, x: Tensor, step: int, config: RestorationConfig, draws: Sequence[NewNoise]
) -> Tensor:
    """Return x̂ of images x [N, C, H, W] from x_λ at a step λ, the mean over draws of noise.

    Without draws there is no noise. With the mode "latent", which restores nothing, x̂ is that of a
    single pass.
    """
    if not draws:
        draws = [lambda: torch.zeros_like(x)]
    return torch.stack([_restored(net, x, step, config, draw) for draw in draws]).mean(0).float()


def _restored(
    net: Denoiser, x: Tensor, step: int, config: RestorationConfig, new_noise: NewNoise
) -> Tensor:
    t = diffusion.steps_for(x, step)
    xt = diffusion.diffuse(x, new_noise(), t, net.schedule)
    if config.mode != "chain":
        predicted: Tensor = net(xt, t)
        return predicted
    if config.sampler == "ddim":
        return diffusion.ddim(net, xt, step, min(step, config.sampler_steps), net.schedule)
    return diffusion.ancestral(net, xt, step, lambda _: new_noise(), net.schedule)


def restored_at_once(net: Denoiser, x: Tensor, steps: Sequence[int]) -> dict[int, Tensor]:
    """Return x̂ of a single image [1, C, H, W] in one pass without noise, by the steps λ: all of
    them together take half the time of one each."""
    rows = x.expand(len(steps), -1, -1, -1)
    together = without_noise(net, rows, torch.tensor(steps, device=x.device)).float()
    return {step: together[place : place + 1] for place, step in enumerate(steps)}


def carried(net: Denoiser, x: Tensor, step: int, config: RestorationConfig) -> Tensor:
    """Return z_λ [N, C, H, W], where the probability flow takes images x up to a step λ, in the
    scale of x_λ."""
    up = scores.flow_steps(step, min(step - 1, config.sampler_steps))[::-1]
    scaled: Tensor = net.schedule[step].sqrt() * scores.flow(net, x, up)
    return scaled.float()
