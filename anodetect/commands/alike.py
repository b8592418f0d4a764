"""Alike: compute by which features the images of a score directory are like one another, for the
review app."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anodetect.commands.rescore import RecordFinder
from anodetect.errors import RunError
from anodetect.model import likeness
from anodetect.model.loading import LoadedImage, Reader
from anodetect.model.model import Model
from anodetect.model.read_ahead import LOOK_AHEAD, in_chunks, read_ahead
from anodetect.record import alike, directories, runs
from anodetect.record.partial import only_writer
from anodetect.remote.paths import place
from anodetect.types import Reporter, Silent
from anodetect.words import amount


@dataclass(frozen=True)
class AlikeResult:
    """The file that was written, how many images it has, and how many could not be taken: volumes,
    and files that are no longer those that were scored."""

    file: Path
    images: int
    left_out: int

    def as_json(self) -> dict[str, Any]:
        """Return what `alike --json` prints."""
        return asdict(self) | {"file": str(self.file)}

    def text(self) -> str:
        left = f", {self.left_out} left out" if self.left_out else ""
        return f"{self.file}: {amount(self.images, 'image')}{left}"


def alike_of(
    directory: Path,
    *,
    run_path: Path | None = None,
    data: Path | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> AlikeResult:
    """Write the vectors of all scored images of a score directory beside its record.

    Raises ConfigError for a run without features, and RunError where the run is not the one that
    scored, or where no image could be taken.
    """
    scored = directories.read_as_written(directory)
    run = runs.read(run_path or Path(scored.audit.run_path))
    if run.model_sha256 != scored.audit.model_sha256:
        raise RunError(f"the model at {run.path} is not the one that scored {directory}")
    model, reporter = Model.load(run, device), reporter or Silent()
    likeness.encoder(model)  # refuses before anything is read

    find = RecordFinder(place(data or scored.audit.root))
    rows = {row.path: row for row in scored.scored() if not row.is_volume}
    records = [find.with_channels(find.record(path), rows[path].channels) for path in rows]
    reader = Reader(model.preprocess, model.prepare)
    loaded = read_ahead(reader.read, records, LOOK_AHEAD * model.batch_size)
    paths, parts, done = list[str](), [], 0
    for chunk in in_chunks(loaded, model.batch_size):
        images = []
        for each in chunk:
            if isinstance(each, LoadedImage) and each.sha256 == rows[each.record.id].sha256:
                images.append(each)
        if images:
            paths += [each.record.id for each in images]
            parts.append(likeness.vectors(model, images))
        done += len(chunk)
        reporter.progress("alike", done, len(records), "")
    if not parts:
        raise RunError(f"{directory}: none of its images could be read as it was scored")

    found = alike.Alike(tuple(paths), np.concatenate(parts))
    with only_writer(directory):
        file = alike.write(directory, scored.audit.head, found)
    return AlikeResult(file, len(paths), len(scored.scored()) - len(paths))
