"""Networks from checkpoints of Hugging Face: a folder, or an entry of the hub's cache.

Nothing is downloaded here, no pickle is read, and no code of a checkpoint is run. The libraries are
those of the extra `backbones`.
"""

import importlib.util
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anodetect.errors import ConfigError
from anodetect.imaging.backbones.places import (
    NOT_STATED,
    Checkpoint,
    card_facts,
    weights_sha256,
)
from anodetect.imaging.backbones.table import BackboneFacts, Outline

INSTALL_BACKBONES = "pip install 'anodetect[backbones]'"
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
REFUSED = "transformers cannot build it: "
STAGE_MULTIPLE = 32  # of networks that halve the grid from stage to stage


# -- Describing ------------------------------------------------------------------------------------


def outline_of_checkpoint(checkpoint: Checkpoint) -> Outline:
    """Return what is known of a checkpoint before its weights are read.

    ConfigError if the extra is missing, or if it is no network of images with blocks or stages.
    """
    config = _image_config(checkpoint)
    stages = getattr(config, "depths", None)
    card = _model_card(checkpoint)
    about = {"name": checkpoint.name, "licence": card[0], "pretraining": card[1]}
    if stages:
        depth = len(stages)
        layers = (1, 2) if depth > 2 else tuple(range(depth))
        return Outline(depth=depth, layers=layers, multiple=STAGE_MULTIPLE, **about)

    blocks, patch = getattr(config, "num_hidden_layers", None), getattr(config, "patch_size", None)
    if not isinstance(blocks, int) or not isinstance(patch, int):
        raise _unknown_architecture(checkpoint, f"{config.model_type!r} has no blocks of patches")
    layers = tuple(sorted({blocks // 2, 3 * blocks // 4}))
    return Outline(depth=blocks, layers=layers, multiple=patch, **about)


def facts_of_checkpoint(
    checkpoint: Checkpoint, outline: Outline, layers: Sequence[int]
) -> BackboneFacts:
    """Return what a run notes of a checkpoint; ConfigError if its weights are not those that were
    fetched."""
    digest = weights_sha256(checkpoint.folder)
    expected = checkpoint.pinned.get("sha256", digest)
    if digest != expected:
        raise ConfigError(
            f"backbone {checkpoint.name}: the weights in {checkpoint.folder} have another hash "
            "than when they were fetched; remove the folder, and "
            f"`anodetect backbone get {checkpoint.name}` fetches them anew"
        )
    return BackboneFacts(
        name=checkpoint.name,
        revision=checkpoint.revision,
        layers=tuple(layers),
        licence=outline.licence,
        pretraining=outline.pretraining,
        sha256=digest,
    )


def _image_config(checkpoint: Checkpoint) -> Any:
    """Return the configuration of the part of a network that sees images."""
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(f"backbone {checkpoint.name}: {INSTALL_BACKBONES}")
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            checkpoint.folder, local_files_only=True, trust_remote_code=False
        )
    except (ValueError, OSError, KeyError) as error:
        raise _unknown_architecture(checkpoint, f"{REFUSED}{type(error).__name__}") from None
    return getattr(config, "vision_config", config)


def _unknown_architecture(checkpoint: Checkpoint, reason: str) -> ConfigError:
    return ConfigError(f"backbone {checkpoint.name}: unknown architecture ({reason})")


def _model_card(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return licence and pretraining data: as noted when fetched, or as a README.md says."""
    licence, pretraining = checkpoint.pinned.get("licence"), checkpoint.pinned.get("pretraining")
    if licence is None and (checkpoint.folder / "README.md").is_file():
        licence, pretraining = card_facts((checkpoint.folder / "README.md").read_text("utf-8"))
    return licence or NOT_STATED, pretraining or NOT_STATED


# -- Loading ---------------------------------------------------------------------------------------


class CheckpointNet(nn.Module):
    """Maps images [N, 3, H, W] from -1 to 1 to the outputs of some blocks or stages of a network.

    Tokens that stand for no place, as those of classes and registers, are left out; the others are
    laid out as a grid. Outputs of blocks are normalised as those of the last one are.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        net: Any,
        layers: Sequence[int],
        patch: int | None,
        scale: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__()
        self.net, self.layers, self.patch = net, tuple(layers), patch
        mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1) for values in scale)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

        parameters = inspect.signature(net.forward).parameters
        self.options: dict[str, bool] = {"output_hidden_states": True}
        if "interpolate_pos_encoding" in parameters:
            self.options["interpolate_pos_encoding"] = True
        self.norm: Any = nn.Identity()
        for name in ("layernorm", "post_layernorm", "norm"):
            if patch is not None and isinstance(getattr(net, name, None), nn.Module):
                self.norm = getattr(net, name)

    def forward(self, x: Tensor) -> list[Tensor]:
        height, width = x.shape[-2:]
        pixels = ((x + 1) / 2 - self.mean) / self.deviation
        found = self.net(pixels, **self.options)
        states = getattr(found, "reshaped_hidden_states", None) or found.hidden_states

        kept = []
        for layer in self.layers:
            state = states[layer + 1]  # the first are the embedded pixels
            if self.patch is not None:
                rows, columns = height // self.patch, width // self.patch
                tokens = self.norm(state)[:, -rows * columns :]
                state = tokens.transpose(1, 2).reshape(len(x), -1, rows, columns)
            kept.append(state)
        return kept


def load_checkpoint(checkpoint: Checkpoint, layers: Sequence[int]) -> CheckpointNet:
    """Return the network of a checkpoint, frozen.

    ConfigError if weights are missing in it: they would be random numbers.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        model, loading = transformers.AutoModel.from_pretrained(
            checkpoint.folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except (ValueError, OSError, RuntimeError) as error:
        raise _unknown_architecture(checkpoint, f"{REFUSED}{type(error).__name__}") from None
    _refuse_missing(checkpoint, loading)

    net = getattr(model, "vision_model", model)
    patch = None if getattr(net.config, "depths", None) else int(net.config.patch_size)
    scale = _input_scale(checkpoint.folder)
    return CheckpointNet(net, layers, patch, scale).requires_grad_(False).eval()


def _refuse_missing(checkpoint: Checkpoint, loading: Mapping[str, Any]) -> None:
    """Raise ConfigError if a checkpoint lacks weights; those after the last layer do not count."""
    missing = []
    for name in sorted(map(str, loading.get("missing_keys", ()))):
        if "pooler" not in name and "head" not in name.split(".")[0]:
            missing.append(name)
    mismatched = loading.get("mismatched_keys", ())
    if missing or mismatched:
        raise ConfigError(
            f"backbone {checkpoint.name}: the file of weights does not fit its config.json "
            f"({', '.join([*missing, *map(str, mismatched)][:3])})"
        )


def _input_scale(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the colours that a network expects: ImageNet's unless its
    preprocessing says otherwise."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return IMAGENET_MEAN, IMAGENET_DEVIATION
    content = json.loads(file.read_text("utf-8"))
    if content.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean = content.get("image_mean", IMAGENET_MEAN)
    deviation = content.get("image_std", IMAGENET_DEVIATION)
    return tuple(mean), tuple(deviation)
