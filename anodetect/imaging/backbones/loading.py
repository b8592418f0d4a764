"""A backbone from its name: the network, and what is to be known of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from anodetect.imaging.backbones.efficientnet import pretrained
from anodetect.imaging.backbones.table import BACKBONES, check_layers, outline_of


@dataclass(frozen=True)
class Backbone:
    """A frozen network.

    `net` maps images [N, 3, H, W] from -1 to 1 to grids [N, c, h, w], one for each of its layers.
    The sides of images must be a multiple of `multiple` pixels.
    """

    net: nn.Module
    multiple: int


def load_backbone(name: str, layers: Sequence[int]) -> Backbone:
    """Return the backbone of this name, with the features of these layers.

    ConfigError if there is none, if it has no such layers, if its packages are not installed, or if
    its weights have another hash.
    """
    outline = outline_of(name)
    check_layers(outline, layers)
    return Backbone(pretrained(BACKBONES[name], layers), outline.multiple)
