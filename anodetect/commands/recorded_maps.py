"""The heatmaps and masks in a score directory, compared with those of files scored again.

DICOM objects and pictures are not compared: they show the same values.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pyarrow import compute as pc

from anodetect.errors import RunError
from anodetect.model.scoring import ScoredImage, ScoredVolume
from anodetect.output import recorded
from anodetect.output.formats import Source, write_files
from anodetect.output.images import ImageMap
from anodetect.output.volumes import VolumeMap
from anodetect.record.directories import StoredRows
from anodetect.record.rows import OutputRow, ScoreRow, rows_of
from anodetect.record.tables import parts_of
from anodetect.types import Floats

# The relative difference of scores that is accepted between machines, and of a map's values as a
# share of its highest.
CLOSE = 1e-4
MASK = "mask"  # the output format, as in --heatmaps
MASK_SHARE = 0.01  # of the pixels marked: those that may differ between machines without a map
Scored = ScoredImage | ScoredVolume


class RecordedMaps:
    """The heatmaps and masks of the files of a score directory with these `paths`."""

    def __init__(self, directory: StoredRows, paths: Collection[str]) -> None:
        self.directory = directory
        self.masks: dict[str, str] = {}
        for part in parts_of(directory.stored_outputs):
            for row in rows_of(part.filter(pc.equal(part["kind"], MASK)), OutputRow):
                if row.path in paths:
                    self.masks[row.path] = row.name

    def problem(self, row: ScoreRow, found: Sequence[Scored], *, exact: bool) -> str:
        """Return how the map or the mask of a row differs from each of those that were `found`, ""
        if one of them is as recorded: with `exact` to the last bit, else within CLOSE."""
        first = ""
        for scored in found:
            difference = self._difference(row, scored, exact=exact)
            if not difference:
                return ""
            first = first or difference
        return first

    def _difference(self, row: ScoreRow, scored: Scored, *, exact: bool) -> str:
        """Return how a row's map or mask differs from that of a file scored again."""
        heatmap = scored.heatmap
        try:
            known = recorded.read_map(self.directory.path, row)
            if known is not None:
                if isinstance(scored, ScoredVolume) and known.ndim == 3:
                    known = scored.loaded.volume.geometry.to_slices(known)
                if difference := _of_maps(heatmap, known, exact=exact):
                    return f"{row.path}: its heatmap {row.heatmap} {difference}"
                heatmap, exact = known, True  # of which the mask was made
            name = self.masks.get(row.path, "")
            difference = self._of_masks(name, scored, heatmap, exact=exact) if name else ""
            return f"{row.path}: its mask {name} {difference}" if difference else ""
        except RunError as error:
            return f"{row.path}: its map or mask cannot be compared: {error}"

    def _of_masks(self, name: str, scored: Scored, heatmap: Floats, *, exact: bool) -> str:
        """Return how a recorded mask differs from that of a heatmap, "" if it does not."""
        source: Source = "image" if isinstance(scored, ScoredImage) else "volume"
        known = recorded.read_mask(self.directory.path, name, source)
        rule, scale = self.directory.audit.mask_rule, (0.0, 1.0)
        shown: ImageMap | VolumeMap
        if isinstance(scored, ScoredImage):
            shown = ImageMap(heatmap, scored.loaded.leading, scale, rule)
        else:
            exact_grid = self.directory.audit.exact_grid
            shown = VolumeMap(heatmap, scored.loaded.volume, scale, rule, exact_grid=exact_grid)

        with TemporaryDirectory() as folder:
            (written,) = write_files(Path(folder, "again"), [MASK], source, shown)
            again = recorded.read_mask(Path(folder), written.path.name, source)
        if again.shape != known.shape:
            return "has another size"
        different, marked = int((again != known).sum()), int((again | known).sum())
        allowed = 0 if exact else MASK_SHARE * marked
        return f"differs in {different} of {marked} pixels" if different > allowed else ""


def _of_maps(heatmap: Floats, recorded: Floats, *, exact: bool) -> str:
    """Return how a recorded map differs from a heatmap, "" if it does not."""
    if heatmap.shape != recorded.shape:
        return "has another size"
    scored = np.isfinite(recorded)
    if not np.array_equal(scored, np.isfinite(heatmap)):
        return "was scored in other places"
    off = np.abs(heatmap[scored] - recorded[scored]).max(initial=0)
    highest = np.abs(recorded[scored]).max(initial=0)
    if off <= (0 if exact else CLOSE * highest):
        return ""
    return f"differs by up to {off:.3g} (its highest value is {highest:.3g})"
