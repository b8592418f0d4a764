"""Score some files of a score directory again, and say what does not come out as recorded."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from anodetect.commands.recorded_maps import CLOSE, RecordedMaps
from anodetect.data.manifest import manifest_of
from anodetect.data.records import Record, is_volume
from anodetect.data.scan import scan
from anodetect.data.series import series_of
from anodetect.engines.worker import device_type
from anodetect.errors import RunError
from anodetect.files import leads_out, path_of
from anodetect.imaging.regions import roi_of
from anodetect.model.loading import Failed
from anodetect.model.model import Model
from anodetect.model.scoring import ScoredImage, ScoredVolume, score_records
from anodetect.record import channel_files, directories, environment, runs, threads
from anodetect.record.decisions import is_ok
from anodetect.record.directories import StoredRows
from anodetect.record.rows import ScoreRow
from anodetect.remote.paths import place
from anodetect.types import Silent


def rescore(
    path: Path,
    count: int,
    *,
    run_path: Path | None = None,
    root: Path | None = None,
    device: str = "auto",
) -> list[str]:
    """Score `count` random files of a score directory again, and return what does not come out as
    recorded.

    Scores, heatmaps and masks must be the same to the last bit, on as many threads, where versions
    and machine are those of the record; elsewhere within CLOSE.
    """
    scored = directories.opened(path)
    run = runs.read(run_path or Path(scored.audit.run_path))
    if run.model_sha256 != scored.audit.model_sha256:
        return [f"the model at {run.path} is not the one that scored"]

    model = Model.load(run, device)
    model.without_cache()
    if "bits" in scored.audit.roi:
        model.preprocess.roi = roi_of(scored.audit.roi)
    same_host = environment.host(device_type(device)) == scored.audit.host
    left, problems = _chosen(scored, count), {}
    paths = {row.path for row in left}
    find, maps = RecordFinder(place(root or scored.audit.root)), RecordedMaps(scored, paths)
    before = threads.in_use()
    recorded = scored.audit.threads if same_host else ()
    try:
        for used in recorded or (before,):  # a scoring that was resumed may have used several
            threads.limit(used)
            for row in left:
                record = find.with_channels(find.record(row.path), row.channels)
                problems[row.path] = _problem(row, record, model, maps, bool(recorded))
            left = [row for row in left if problems[row.path]]
    finally:
        threads.limit(before)
    return [problem for problem in problems.values() if problem]


def _chosen(scored: StoredRows, count: int) -> list[ScoreRow]:
    """Return so many random rows with a score, all if they are fewer, in their order."""
    total = sum(int(is_ok(part).sum()) for part in scored.parts())
    chosen = np.random.default_rng().choice(total, min(count, total), replace=False)
    numbers = set(chosen.tolist())
    return [row for number, row in enumerate(scored.each_scored()) if number in numbers]


def _problem(row: ScoreRow, record: Record, model: Model, maps: RecordedMaps, exact: bool) -> str:
    """Return how a file's score, map or mask comes out now, if not as recorded; "" if it does."""
    try:
        found = scored_again(row, record, model)
    except RunError as error:
        return f"{row.path}: {error}"
    known, now = float("nan") if row.score is None else row.score, found[0].score
    same = [each for each in found if each.score == known]
    if same:
        return maps.problem(row, same, exact=exact)
    if not exact and np.isclose(now, known, rtol=CLOSE, atol=0):
        return maps.problem(row, found[:1], exact=False)
    return f"{row.path}: scores {now!r} now, {known!r} in the record"


def scored_again(row: ScoreRow, record: Record, model: Model) -> list[ScoredImage | ScoredVolume]:
    """Return what comes of a row's file now; RunError if it cannot be scored or is another one.

    The last bits of a product depend on a row's place among the rows, so an image is scored at each
    place in a batch: one of them is that of the record.
    """
    copies = [record] * (1 if is_volume(record) else model.batch_size)
    found: list[ScoredImage | ScoredVolume] = []
    for each in score_records(model, copies, Silent(), in_source=True):
        if isinstance(each, Failed):
            raise RunError(f"cannot be scored again: {each.error}")
        if each.sha256 != row.sha256:
            raise RunError("the file is not the one that was scored")
        if row.pixels_sha256 not in ("", each.loaded.pixels):
            raise RunError("the record has the hash of other pixels")
        found.append(each)
    return found


class RecordFinder:
    """Finds the records of files below `root`, with what the manifests on the way to them say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifests: dict[Path, dict[Path, Record]] = {}

    def record(self, identity: str) -> Record:
        """Return a file, or a DICOM series, as it was scored; RunError if it is outside the
        root."""
        name, path = path_of(identity), self._path(identity)
        for folder in path.parents[: len(Path(name).parts)]:
            listed = self._listed(folder)
            if path in listed:
                return replace(listed[path], id=identity)
        files = series_of(path, root=self.root) if path.is_file() else ()
        return Record(identity, path, files=files)

    def with_channels(self, record: Record, listed: str) -> Record:
        """Return a record with the channels that its row lists, if there are any."""
        return replace(record, channels=channel_files.files_of(listed, self._path, self.root))

    def _path(self, identity: str) -> Path:
        """Return where a file lies; RunError if that is outside the root."""
        name = path_of(identity)
        if leads_out(name):
            raise RunError(f"{identity!r} leads out of {self.root}; it is not read")
        return self.root / name

    def _listed(self, folder: Path) -> dict[Path, Record]:
        """Return the records in a folder's manifest; none if it has no manifest."""
        if folder not in self.manifests:
            records: Sequence[Record] = ()
            if manifest_of(folder):
                records = scan(folder, follow_symlinks=True).records
            self.manifests[folder] = {folder / path_of(record.id): record for record in records}
        return self.manifests[folder]
