"""Energies have any sign, and maps may not: the softplus of standardised values, as arrays and as
operations that a graph can hold."""

from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from anodetect.types import Floats, State


class Softplus(NamedTuple):
    """Makes maps of values of any sign: x → softplus((x − bend) / spread)."""

    bend: float = 0.0
    spread: float = 1.0

    @classmethod
    def learn(cls, values: Floats, percentile: float | None = None) -> "Softplus":
        """Return the one that bends at a percentile of values, or without at their mean, in units
        of their deviation."""
        bend = values.mean() if percentile is None else np.percentile(values, percentile)
        return cls(float(bend), max(float(values.std()), 1e-6))

    def __call__(self, values: Floats) -> Floats:
        """Return positive maps of values of any shape."""
        maps: Floats = np.logaddexp(0, (values - self.bend) / self.spread).astype(np.float32)
        return maps

    def of_tensor(self, values: Tensor) -> Tensor:
        """Return what a call returns of an array, as operations of a graph."""
        return F.softplus((values - self.bend) / self.spread)

    def state(self, name: str) -> State:
        """Return both numbers as named arrays, the bend under a `name` of the detector's."""
        return {name: np.array([self.bend]), "spread": np.array([self.spread])}

    @classmethod
    def from_state(cls, state: State, name: str) -> "Softplus":
        """Return the one whose state this was."""
        return cls(float(state[name][0]), float(state["spread"][0]))
