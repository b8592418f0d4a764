"""The steps of a training as train.jsonl logs them, and as audit.json repeats them."""

from collections.abc import Iterable, Mapping
from typing import Any

# What a step may have as numbers, beside `step` itself; null where it was not finite.
NUMBERS = ("loss", "energy_gap", "energy_scale", "langevin_gradient", "saturated")
LARGEST = 1e100  # beyond it nothing can be drawn


def check_steps(steps: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Return the steps of a training; ValueError if one is none that a training logs."""
    checked = tuple(steps)
    for entry in checked:
        if not _is_number(entry.get("step")):
            raise ValueError("a step of the training has no number")
        if not isinstance(entry.get("member", ""), str):
            raise ValueError("a step of the training names no member of an ensemble")
        for name in NUMBERS:
            if entry.get(name) is not None and not _is_number(entry[name]):
                raise ValueError(f"the {name} of a step of the training is no number")

    return checked


def _is_number(value: Any) -> bool:
    """Return whether a value is a number that can be drawn, or one that is not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return not LARGEST < abs(value) < float("inf")
