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
    """Return the context in which networks compute: of `half_type`, or of float32 where that is
    None."""
    half = half_type(device, gradients=torch.is_grad_enabled())
    return torch.autocast(device.type, half or torch.bfloat16, enabled=half is not None)


def half_type(device: torch.device, *, gradients: bool = False) -> torch.dtype | None:
    """Return the type of 16 bits that a device multiplies fast; None if there is none.

    That is bfloat16 where the hardware has it. Older GPUs have float16, in which small gradients
    vanish: with `gradients` they get None.
    """
    if device.type == "cpu":
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else None
    if device.type != "cuda":
        return None
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return None if gradients else torch.float16
