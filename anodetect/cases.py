"""Pictures of the images worth looking at, chosen while a batch is scored; a bounded number is kept."""

from pathlib import Path

import numpy as np

from anodetect.files import write_atomic
from anodetect.model import Scored
from anodetect.writers.images import case_strip

KEPT = 12


class Cases:
    """The most anomalous images, and those nearest to the threshold, as PNG strips."""

    def __init__(self, threshold: float, scale: tuple[float, float]) -> None:
        self.threshold, self.scale = threshold, scale
        self.kept: dict[str, list[tuple[float, str, bytes]]] = {"highest": [], "borderline": []}

    def offer(self, scored: Scored) -> None:
        """Keep the image if it ranks among the first by score or by nearness to the threshold."""
        assert scored.grid is not None
        ranks = {"highest": -scored.score, "borderline": abs(scored.score - self.threshold)}
        for name, rank in ranks.items():
            kept = self.kept[name]
            if np.isfinite(rank) and (len(kept) < KEPT or rank < kept[-1][0]):
                image, heatmap, reconstruction = scored.grid
                strip = case_strip(image, heatmap, reconstruction, self.scale)
                self.kept[name] = sorted([*kept, (rank, scored.loaded.record.id, strip)])[:KEPT]

    def write(self, out: Path) -> dict[str, list[str]]:
        """Write cases/<name>-NN.png and return the images' ids in that order."""
        for name, kept in self.kept.items():
            for number, (_, _, strip) in enumerate(kept):
                write_atomic(out / "cases" / f"{name}-{number:02d}.png", strip)
        return {name: [identity for _, identity, _ in kept] for name, kept in self.kept.items()}
