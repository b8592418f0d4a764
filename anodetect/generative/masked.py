"""A prior over codes on a grid, by predicting masked ones: training, surprise and sampling.

    loss = E_m [mean over the m masked places i of −log p(k_i | the codes that are not masked)]

With m uniform in 1 … n and m random places masked, the loss is a bound of −log p(k) / n, and equal
to it for exact conditionals: each order of the n places has a chain rule (Uria et al., ICML 2014;
Hoogeboom et al., ICLR 2022). It is the absorbing diffusion of Austin et al. (D3PM, NeurIPS 2021),
with Bond-Taylor et al. (ECCV 2022) for codes of images. Masks of blocks beside those of single
places weigh the same conditionals differently.

`predict` takes codes int64 [N, H, W] and what is masked, bool [N, H, W], and returns logits
[N, K, H, W]; what is masked it must not see. All randomness is from generators, one for each image.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Predict = Callable[[Tensor, Tensor], Tensor]

BLOCKS = (4, 1, 2)  # sides of the blocks of places that are masked together


class Codes(NamedTuple):
    """Codes int64 [N, H, W], and which of them are masked, bool [N, H, W]."""

    codes: Tensor
    masked: Tensor


def random_order(
    rng: torch.Generator, shape: tuple[int, int] | torch.Size, block: int = 1
) -> Tensor:
    """Return the rank of each place of a grid [H, W] in a random order, int64.

    The places of a block follow each other. The grid of blocks begins at a random place.
    """
    height, width = shape
    if block == 1:
        return ranks(torch.rand(height * width, generator=rng)).reshape(height, width)

    top, left = torch.randint(block, (2,), generator=rng).tolist()
    down, across = -(-(height + top) // block), -(-(width + left) // block)
    blocks = ranks(torch.rand(down * across, generator=rng)).reshape(down, across)
    of_place = blocks.repeat_interleave(block, 0).repeat_interleave(block, 1)
    of_place = of_place[top : top + height, left : left + width]
    within = torch.rand(height, width, generator=rng)
    return ranks((of_place + within).flatten()).reshape(height, width)


def ranks(values: Tensor) -> Tensor:
    """Return the rank of each value among those of its row, [..., n]."""
    return values.argsort(-1).argsort(-1)


def random_masks(generators: Sequence[torch.Generator], shape: torch.Size) -> Tensor:
    """Return masks bool [N, H, W] for training: of a random number of places, at least one, alone
    or in blocks."""
    masks = []
    for rng in generators:
        block = BLOCKS[int(torch.randint(len(BLOCKS), (), generator=rng))]
        count = int(torch.randint(1, shape.numel() + 1, (), generator=rng))
        masks.append(random_order(rng, shape, block) < count)
    return torch.stack(masks)


def masked_loss(logits: Tensor, codes: Tensor, masked: Tensor) -> Tensor:
    """Return the mean of −log p(k_i) over the masked places of each image, and over images."""
    minus_log_p = F.cross_entropy(logits, codes, reduction="none") * masked
    return (minus_log_p.sum((1, 2)) / masked.sum((1, 2)).clamp(min=1)).mean()


def surprise(
    predict: Predict, codes: Tensor, generators: Sequence[torch.Generator], draws: int
) -> Tensor:
    """Return −log p of each code given others, [N, H, W], the mean over `draws` divisions of each
    grid.

    A division is into two random halves, each of which is predicted from the other; they are of
    single places and of larger blocks in turn.
    """
    total = torch.zeros(codes.shape, device=codes.device)
    for draw in range(draws):
        block = BLOCKS[draw % len(BLOCKS)]
        orders = [random_order(rng, codes.shape[1:], block) for rng in generators]
        half = torch.stack(orders).to(codes.device) < codes[0].numel() // 2
        for masked in (half, ~half):
            logits = predict(codes, masked).movedim(1, -1)[masked].float()
            total[masked] += F.cross_entropy(logits, codes[masked], reduction="none")
    return total / draws


def unmask(
    predict: Predict, start: Codes, generators: Sequence[torch.Generator], steps: int
) -> list[Codes]:
    """Fill masked places with samples, in a random order; return `start` and the codes after each
    of `steps` steps, which fill about as many each.

    With as many steps as masked places the result is a sample of the model; with fewer, codes of a
    step are independent of each other.
    """
    shape = start.codes.shape[1:]
    orders, chances = [], []
    for rng in generators:
        orders.append(random_order(rng, shape))
        chances.append(torch.rand(shape, generator=rng))
    chance = torch.stack(chances).to(start.codes.device)

    # The rank among masked places alone.
    order = torch.stack(orders).to(start.codes.device) + shape.numel() * ~start.masked
    rank = ranks(order.flatten(1)).reshape(order.shape)
    count = start.masked.sum((1, 2), keepdim=True)

    states = [start]
    for step in range(1, steps + 1):
        codes, masked = states[-1]
        due = masked & (rank < torch.ceil(count * step / steps))
        codes = codes.clone()
        if due.any():
            logits = predict(codes, masked).movedim(1, -1)[due].float()
            codes[due] = draw(logits, chance[due])
        states.append(Codes(codes, masked & ~due))
    return states


def draw(logits: Tensor, chance: Tensor) -> Tensor:
    """Return a code for each row of logits [R, K]: the one where the cumulated probability passes
    `chance` [R], uniform in [0, 1)."""
    cumulated = logits.softmax(1).cumsum(1)
    below = cumulated <= chance[:, None] * cumulated[:, -1:]
    return below.sum(1).clamp(max=logits.shape[1] - 1)
