"""The model file: safetensors with a JSON header. No pickle is read or written, and no torch is
needed.

Every value in the safetensors metadata is a string. `format` is the version, `header` a JSON
object, `sha256` the hash of the header and of all arrays (name, type, shape, bytes, in name order),
so that a changed byte is noticed.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from anodetect.config import canonical
from anodetect.errors import RunError
from anodetect.files import write_atomic
from anodetect.types import State

MODEL_FILE = "model.safetensors"  # of a finished run
CHECKPOINT_FILE = "checkpoint.safetensors"  # of a training that can be resumed
FORMAT = 6
OLDEST = 4  # the oldest format that is read; it is that of before volumes


def _digest(tensors: State, header: dict[str, Any]) -> str:
    """Return the hash of the header and of all arrays."""
    digest = sha256(canonical(header))
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write(path: Path, tensors: State, header: dict[str, Any]) -> None:
    """Write a model file; a full disk or a crash leaves the old file as it was."""
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    metadata = {
        "format": str(FORMAT),
        "header": json.dumps(header),
        "sha256": _digest(tensors, header),
    }
    write_atomic(path, save(tensors, metadata))


def read_header(path: Path) -> dict[str, Any]:
    """Return the header alone, without reading the arrays and without checking their hash."""
    return _open(path, arrays=False)[1]


def read(path: Path) -> tuple[State, dict[str, Any]]:
    """Return all arrays and the header; RunError if the file is damaged, altered or from a newer
    release."""
    return _open(path, arrays=True)


def _open(path: Path, *, arrays: bool) -> tuple[State, dict[str, Any]]:
    tensors: State = {}
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_format(path, int(metadata["format"]))
            header = json.loads(metadata["header"])
            if arrays:
                for name in file.keys():  # noqa: SIM118 — the file is no mapping
                    tensors[name] = file.get_tensor(name)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise RunError(
            f"{path}: not a readable anodetect model file ({error or type(error).__name__})"
        ) from None

    if not isinstance(header, dict):
        raise RunError(f"{path}: not a readable anodetect model file (header)")
    if arrays and _digest(tensors, header) != metadata.get("sha256"):
        raise RunError(f"{path}: contents do not match their hash; the file was altered or damaged")
    return tensors, header


def _check_format(path: Path, version: int) -> None:
    """Raise RunError if a file of this format is not read."""
    if version > FORMAT:
        raise RunError(
            f"{path}: format {version} is newer than this release reads ({FORMAT}); update "
            "anodetect"
        )
    if version < OLDEST:
        raise RunError(
            f"{path}: format {version} is that of a version before the first release; train anew"
        )
