"""Where and how detectors' networks run, and arrays on their way there."""

from anodetect.imaging.inference import autocast, pick_device
from anodetect.imaging.transfer import to_tensor

__all__ = ["autocast", "pick_device", "to_tensor"]
