"""Images through a backbone, in batches, on a device."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from anodetect.imaging.backbones.cache import FeatureCache
from anodetect.imaging.backbones.loading import Backbone
from anodetect.imaging.inference import autocast, half_type, pick_device
from anodetect.imaging.transfer import to_tensor
from anodetect.types import Encoded, Floats, content_digest

BATCH_PIXELS = 2**19  # of the images in a batch: eight with 256 pixels a side
MOST = 16  # images in a batch
THREADS = 2  # that compute on a processor
LARGEST = 65504.0  # the largest number that a float16 holds

Layers = list[Tensor]  # of one image: [c, h, w] each


class Extractor:
    """Runs a backbone on batches of images.

    The outputs of its layers are rounded to float16, so that they are the same whether they come
    from `cache` or not. With `exact` they are not rounded, nor cached, as in releases that had no
    cache.
    """

    def __init__(self, backbone: Backbone, cache: FeatureCache | None) -> None:
        self.backbone, self.cache, self.exact = backbone, cache, False
        self.device, self.one_by_one = torch.device("cpu"), True

    def run_on(self, device: str) -> None:
        """Compute on this device from now on; ConfigError if there is none."""
        self.device = pick_device(device)
        self.one_by_one = self.device.type == "cpu"
        self.backbone.net.to(self.device)

    def batches(self, prepared: Iterable[Encoded]) -> Iterator[tuple[list[Layers], list[Encoded]]]:
        """Yield the layers of a batch of images [C, side, side], with what they were made of."""
        if self.one_by_one:
            yield from self._on_threads(prepared)
            return
        items = iter(prepared)
        for first in items:
            size = self._together(first[0][0].size)
            batch = [first, *islice(items, size - 1)]
            yield self._known_or_computed([image for image, _ in batch], size), batch

    def _on_threads(
        self, prepared: Iterable[Encoded]
    ) -> Iterator[tuple[list[Layers], list[Encoded]]]:
        """Yield images one by one, computed on two threads: a processor does less work for single
        images than for several at once, and two of them wait for each other less than its threads
        do within one."""
        with ThreadPoolExecutor(THREADS) as pool:
            waiting: deque[tuple[Encoded, Future[list[Layers]]]] = deque()
            for item in prepared:
                waiting.append((item, pool.submit(self._known_or_computed, [item[0]], 1)))
                if len(waiting) > THREADS:
                    first, future = waiting.popleft()
                    yield future.result(), [first]
            for first, future in waiting:
                yield future.result(), [first]

    def _known_or_computed(self, images: Sequence[Floats], size: int) -> list[Layers]:
        """Return the layers of each image, from the cache where they are there."""
        cache = None if self.exact else self.cache
        if cache is None:
            return self._layers(images, size)

        keys, found, missing = [self._key(image) for image in images], {}, []
        for row, key in enumerate(keys):
            known = cache.get(key)
            if known is None:
                missing.append(row)
            else:
                found[row] = known
        if missing:
            computed = self._layers([images[row] for row in missing], size)
            for row, layers in zip(missing, computed, strict=True):
                cache.put(keys[row], layers)
                found[row] = layers
        return [found[row] for row in range(len(images))]

    def _key(self, image: Floats) -> str:
        """Return a hash of all that the layers of an image depend on, to the last bit."""
        half = half_type(self.device) if self.backbone.halves else None
        how = (self.device.type, str(half), torch.get_num_threads(), torch.__version__)
        parts = repr((1, self.backbone.fingerprint, how)).encode()
        return sha256(content_digest(image) + parts).hexdigest()

    def _together(self, pixels: int) -> int:
        """Return how many images of so many pixels are computed together.

        Algorithms are chosen by the number of images, and the last bits depend on them. So it is
        always the same number, filled up with copies.
        """
        return min(MOST, max(1, BATCH_PIXELS // pixels))

    def _layers(self, images: Sequence[Floats], size: int) -> list[Layers]:
        """Return the layers of each image, `size` at most."""
        stacked = np.stack(images)
        stacked = np.pad(stacked, ((0, size - len(images)), (0, 0), (0, 0), (0, 0)), "edge")

        outputs = []
        for layer in self._forward(to_tensor(stacked, self.device)):
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
