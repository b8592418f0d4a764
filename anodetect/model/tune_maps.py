"""Maps of tune normals that are kept in memory for a while, to choose with."""

from collections.abc import Iterable, Iterator

from anodetect.model.loading import Failed
from anodetect.model.scoring import Scored, ScoredImage
from anodetect.types import Floats

KEPT = 2**25  # pixels of all maps together, about


class TuneMaps:
    """Keeps the maps of scored images, in their own grids, that pass by: of `count` images as many,
    evenly spread, as have about KEPT pixels together. Of a volume every scored slice is an image.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.maps: list[Floats] = []
        self._step = 0

    def watch(self, scored: Iterable[Scored]) -> Iterator[Scored]:
        """Yield what was scored, and keep some of its maps."""
        for number, each in enumerate(scored):
            if not isinstance(each, Failed):
                self._step = self._step or max(1, self.count * each.heatmap.size // KEPT)
                if number % self._step == 0:
                    self._keep(each)
            yield each

    def _keep(self, scored: Scored) -> None:
        if isinstance(scored, ScoredImage):
            self.maps.append(scored.heatmap)
        elif not isinstance(scored, Failed):
            self.maps += [scored.heatmap[number].copy() for number in scored.slices.numbers]
