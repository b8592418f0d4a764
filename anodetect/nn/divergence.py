"""A watch over the loss of a training: has it diverged, and are the present weights good ones?"""

import math
from collections.abc import Sequence

DIVERGED = 4.0  # times the lowest smoothed loss so far
SMOOTHED_IMAGES = 400  # images that the loss is smoothed over
SETTLED = 0.9  # weight of the smoothed loss, at most 1, from which on it counts


class DivergenceMonitor:
    """Smooths the loss over some hundred images and compares it with the lowest it has been.

    The smoothed loss is `sum / weight`, an exponential moving average corrected for its start. It
    counts as diverged above DIVERGED times the lowest value so far.
    """

    def __init__(self, batch: int) -> None:
        self.decay = max(0.0, 1 - batch / SMOOTHED_IMAGES)
        self.sum, self.weight, self.best = 0.0, 0.0, math.inf

    def diverged(self, loss: float, gradient_norm: float) -> bool:
        """Take in the loss of a step; return True if training has diverged.

        It has where the loss or the gradient is not finite, or the loss is far above its lowest.
        """
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            return True
        self.sum = self.decay * self.sum + (1 - self.decay) * loss
        self.weight = self.decay * self.weight + (1 - self.decay) * 1.0
        if self.weight > SETTLED:
            self.best = min(self.best, self.sum / self.weight)
        return self._rise() > DIVERGED

    def is_stable(self) -> bool:
        """Return True if the loss is low enough to keep the present weights as good ones."""
        return self._rise() < math.sqrt(DIVERGED)

    def _rise(self) -> float:
        """Return the smoothed loss divided by its lowest value, 1 before there is one."""
        if not math.isfinite(self.best) or self.weight == 0:
            return 1.0
        return self.sum / self.weight / self.best

    def reset(self) -> None:
        """Set the smoothed loss to its lowest value, as after a return to good weights."""
        if math.isfinite(self.best):
            self.sum, self.weight = self.best, 1.0

    def state(self) -> list[float]:
        """Return [sum, weight, lowest smoothed loss]."""
        return [self.sum, self.weight, self.best]

    def load_state(self, state: Sequence[float]) -> None:
        """Continue from what `state` returned."""
        self.sum, self.weight, self.best = state
