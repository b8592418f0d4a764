"""Images through a backbone, in batches, on a device."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from anodetect.imaging.backbones.loading import Backbone
from anodetect.imaging.inference import autocast, pick_device
from anodetect.types import Encoded, Floats

BATCH_PIXELS = 2**19  # of the images in a batch: eight with 256 pixels a side
MOST = 16  # images in a batch
LARGEST = 65504.0  # the largest number that a float16 holds

Layers = list[Tensor]  # of one image: [c, h, w] each


class Extractor:
    """Runs a backbone on batches of images.

    The outputs of its layers are rounded to float16, so that they are the same whether they are
    kept on disk meanwhile or not. With `exact` they are not, as in releases that kept none.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.exact = backbone, False
        self.device = torch.device("cpu")

    def run_on(self, device: str) -> None:
        """Compute on this device from now on; ConfigError if there is none."""
        self.device = pick_device(device)
        self.backbone.net.to(self.device)

    def batches(self, prepared: Iterable[Encoded]) -> Iterator[tuple[list[Layers], list[Encoded]]]:
        """Yield the layers of a batch of images [C, side, side], with what they were made of."""
        items = iter(prepared)
        for first in items:
            size = self._together(first[0][0].size)
            batch = [first, *islice(items, size - 1)]
            yield self._layers([image for image, _ in batch], size), batch

    def _together(self, pixels: int) -> int:
        """Return how many images of so many pixels are computed together.

        Algorithms are chosen by the number of images, and the last bits depend on them. So it is
        always the same number, filled up with copies. A processor gains nothing from more than one,
        since its threads share the work on each.
        """
        return 1 if self.device.type == "cpu" else min(MOST, max(1, BATCH_PIXELS // pixels))

    def _layers(self, images: Sequence[Floats], size: int) -> list[Layers]:
        """Return the layers of each image, `size` at most."""
        stacked = np.stack(images)
        stacked = np.pad(stacked, ((0, size - len(images)), (0, 0), (0, 0), (0, 0)), "edge")

        outputs = []
        for layer in self._forward(torch.from_numpy(stacked).to(self.device)):
            outputs.append(layer.cpu())
        return [[layer[row] for layer in outputs] for row in range(len(images))]

    @torch.inference_mode()
    def _forward(self, images: Tensor) -> list[Tensor]:
        """Return the layers [N, c, h, w] of images [N, C, H, W]."""
        x = images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        if not self.backbone.halves or self.exact:
            outputs = self.backbone.net(x)
        else:
            with autocast(self.device):
                outputs = self.backbone.net(x)
        if self.exact:
            return [layer.float() for layer in outputs]
        return [layer.float().clamp(-LARGEST, LARGEST).half() for layer in outputs]
