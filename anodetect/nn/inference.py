"""Where and how networks run: device, precision, and one fixed batch size for scoring."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from anodetect.errors import ConfigError

Arrays = tuple[NDArray[np.generic], ...]


def in_micro_batches(function: Callable[..., Arrays], *arrays: NDArray[np.generic], size: int) -> Arrays:
    """Apply `function` to `size` rows of all arrays at a time, the last part padded by repetition, so that an
    image's result does not depend on its company."""
    count = len(arrays[0])
    parts = []
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        kept = min(size, count - start)
        parts.append([out[:kept] for out in function(*(array[rows] for array in arrays))])
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def pick_device(name: str) -> torch.device:
    """ "auto" is the first of CUDA, MPS and CPU that is there; ConfigError if a named device is not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros(1, device=torch.device(name)).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: not available here ({str(error).splitlines()[0]})") from None


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware multiplies it natively, else plain float32."""
    native = torch.cpu._is_avx512_bf16_supported() if device.type == "cpu" else device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16, enabled=native)
