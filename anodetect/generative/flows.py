"""A normalising flow of affine couplings: a density that can be evaluated and drawn from exactly.

    z_b = (y_b − t(y_a)) · exp(−s(y_a)),   z_a = y_a          (Dinh et al., Real NVP, ICLR 2017)
    log q(y) = log N(z; 0, I) + log |∂z/∂y|

Each coupling leaves every other value as it is, in turn the even and the odd ones. A new flow is
the identity, so that its density is the standard normal one.
"""

import math

import torch
from torch import Tensor, nn

from anodetect.nn.mlp import plain_mlp

STEEPEST = 2.0  # |s| is below it: a value is stretched by at most e² a coupling


class Coupling(nn.Module):
    """Maps y [M, D] to z [M, D] and back; values with the given parity (0 or 1) are left alone."""

    def __init__(self, values: int, width: int, parity: int) -> None:
        super().__init__()
        kept = torch.arange(parity, values, 2)
        changed = torch.arange(1 - parity, values, 2)
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("changed", changed, persistent=False)
        self.kept: Tensor
        self.changed: Tensor
        self.net = plain_mlp(len(kept), 2 * len(changed), width, blocks=1)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z [M, D] and log |∂z/∂y| [M]."""
        stretch, shift = self._stretch_and_shift(y)
        z = y.clone()
        z[:, self.changed] = (y[:, self.changed] - shift) * torch.exp(-stretch)
        return z, -stretch.sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Return y [M, D]."""
        stretch, shift = self._stretch_and_shift(z)
        y = z.clone()
        y[:, self.changed] = z[:, self.changed] * torch.exp(stretch) + shift
        return y

    def _stretch_and_shift(self, y: Tensor) -> tuple[Tensor, Tensor]:
        stretch, shift = self.net(y[:, self.kept]).chunk(2, 1)
        return STEEPEST * torch.tanh(stretch / STEEPEST), shift


class Flow(nn.Module):
    """Couplings one after another; without any it is the standard normal density."""

    def __init__(self, values: int, width: int, couplings: int) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(
            Coupling(values, width, number % 2) for number in range(couplings)
        )

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return z [M, D] and log |∂z/∂y| [M] of y [M, D]."""
        log_determinant = torch.zeros(len(y), device=y.device)
        for coupling in self.couplings:
            y, change = coupling(y)
            log_determinant = log_determinant + change
        return y, log_determinant

    def inverse(self, z: Tensor) -> Tensor:
        """Return y [M, D] of z; for standard normal z it is a draw from the flow."""
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, Coupling)
            z = coupling.inverse(z)
        return z

    def log_density(self, y: Tensor) -> Tensor:
        """Return log q(y) [M] of y [M, D]."""
        z, log_determinant = self(y)
        density: Tensor = log_normal(z) + log_determinant
        return density


def log_normal(x: Tensor) -> Tensor:
    """Return the log-density of the standard normal at x [M, D], [M]."""
    return -(x.square() + math.log(2 * math.pi)).sum(1) / 2
