"""Where and how detectors' networks run, and arrays on their way there."""

import numpy as np
import torch
from torch import Tensor

from anodetect.imaging.inference import autocast, pick_device
from anodetect.types import Floats

__all__ = ["autocast", "pick_device", "to_tensor"]


def to_tensor(images: Floats, device: torch.device) -> Tensor:
    """Return an array, which may be a memory map or a view, as a tensor on a device."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device)
