"""Labels of the locations of images, which an image was given, or which it gives itself.

"kind", "clusters"   the number of the image, which `Batch.kinds` has
"transformation"     which of the eight rotations and reflections was applied (Golan & El-Yaniv,
                     NeurIPS 2018)
"position"           which of 4 × 4 parts of the image a location is in, for registered images
"""

import torch
from torch import Tensor

from anodetect.nn.inference import autocast
from anodetect.nn.local import LocalNet
from anodetect.nn.training import TrainingBatch
from anodetect.types import Batch

OF_IMAGES = ("kind", "clusters")
TRANSFORMATIONS = 8
PARTS = 4  # of the image, along each side


def count_classes(labels: str, fit: Batch) -> int:
    """Return how many classes a label has."""
    if labels in OF_IMAGES:
        assert fit.kinds is not None
        return int(fit.kinds.max()) + 1
    return TRANSFORMATIONS if labels == "transformation" else PARTS**2


def assign_labels(
    labels: str, batch: TrainingBatch, fit: Batch, stem: int
) -> tuple[Tensor, Tensor]:
    """Return the images to classify [N, C, H, W] and the class of each location, int64 [N, h, w].

    It is −1 where the number of an image is not known. With transformations as labels the images
    are transformed at random.
    """
    x = batch.images
    if labels == "position":
        return x, positions(x, stem)

    if labels in OF_IMAGES:
        assert fit.kinds is not None
        y = torch.from_numpy(fit.kinds[batch.rows]).to(x.device)
    else:
        numbers = [int(torch.randint(TRANSFORMATIONS, (), generator=g)) for g in batch.generators]
        pairs = zip(x, numbers, strict=True)
        x = torch.stack([transformed(image, number) for image, number in pairs])
        y = torch.tensor(numbers, device=x.device)
    side = x.shape[-1] // stem
    return x, y[:, None, None].expand(-1, side, side)


def positions(x: Tensor, stem: int) -> Tensor:
    """Return the number of the part of the image that each location is in, int64 [N, h, w]."""
    side = x.shape[-1] // stem
    part = torch.arange(side, device=x.device) * PARTS // side
    return (PARTS * part[:, None] + part).expand(len(x), -1, -1)


def transformed(x: Tensor, number: int) -> Tensor:
    """Return images [..., H, W] rotated by `number` · 90°, transposed before from 4 on."""
    return torch.rot90(x.mT if number >= 4 else x, number % 4, (-2, -1))


def transformed_back(x: Tensor, number: int) -> Tensor:
    """Return images [..., H, W] as they were before `transformed`."""
    x = torch.rot90(x, -(number % 4), (-2, -1))
    return x.mT if number >= 4 else x


# -- What a network makes of them ------------------------------------------------------------------


@torch.no_grad()
def label_accuracy(net: LocalNet, labels: str, images: Tensor, stem: int) -> float:
    """Return the share of locations of images [N, C, H, W] that are classified correctly.

    `labels` are "position" or "transformation".
    """
    cases: list[tuple[Tensor, Tensor | int]] = [(images, positions(images, stem))]
    if labels == "transformation":
        # Every image in all transformations: the random ones of a few images could be guessed
        # without having learned anything.
        numbers = range(TRANSFORMATIONS)
        cases = [(transformed(images, number), number) for number in numbers]

    total = 0.0
    for x, y in cases:
        with autocast(images.device):
            total += float((net(x).argmax(1) == y).float().mean())
    return total / len(cases)


def label_surprise(net: LocalNet, labels: str, x: Tensor, stem: int) -> Tensor:
    """Return −log p of the true label at each location, [N, h, w], that of the likeliest one where
    images of unknown number are classified."""
    if labels in OF_IMAGES:
        return minus_log_p(net, x).amin(1)
    if labels == "position":
        y = positions(x, stem)
        return minus_log_p(net, x).gather(1, y[:, None])[:, 0]

    total = torch.zeros(1, device=x.device)
    for number in range(TRANSFORMATIONS):
        surprise = minus_log_p(net, transformed(x, number))[:, number]
        total = total + transformed_back(surprise, number)
    return total / TRANSFORMATIONS


def minus_log_p(net: LocalNet, x: Tensor) -> Tensor:
    """Return −log p of each class at each location, [N, classes, h, w]."""
    with autocast(x.device):
        logits: Tensor = net(x)
    return -logits.float().log_softmax(1)
