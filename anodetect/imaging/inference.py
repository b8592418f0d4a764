"""Where and how networks run: device and precision."""

import os

import torch

from anodetect.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """Return the device of this name, for "auto" the first of CUDA, MPS and CPU that is present.

    Under `torchrun` "cuda" is the process's own device. Raise ConfigError if a device is not
    available.
    """
    if name == "auto":
        name = _first_available()
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"

    try:
        values = torch.zeros(1, device=torch.device(name))
        values.cpu()  # the device "meta" has none
    except (RuntimeError, AssertionError, ImportError):
        raise ConfigError(
            f"--device {name}: not available here; --device auto takes {_first_available()}"
        ) from None
    return values.device


def _first_available() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def autocast(device: torch.device) -> torch.autocast:
    """Return a context of bfloat16 where the hardware multiplies it natively, else of float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=autocast_is_native(device))


def autocast_is_native(device: torch.device) -> bool:
    """Return whether the hardware multiplies bfloat16 natively."""
    if device.type == "cpu":
        native: bool = torch.cpu._is_avx512_bf16_supported()
        return native
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
