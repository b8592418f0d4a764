"""Where and how networks run: device and precision."""

import os

import torch

from anodetect.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """ "auto" is the first of CUDA, MPS and CPU that is there; ConfigError if a named device is not.

    Under `torchrun` "cuda" is the process's own device.
    """
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        return torch.zeros(1, device=torch.device(name)).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name}: not available here ({str(error).splitlines()[0]})"
        ) from None


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware multiplies it natively, else plain float32."""
    if device.type == "cpu":
        native = torch.cpu._is_avx512_bf16_supported()
    else:
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16, enabled=native)
