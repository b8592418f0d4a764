"""Maps of files that were scored without keeping them: scored again, and written as then."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anodetect.commands.recorded_maps import CLOSE
from anodetect.commands.rescore import RecordFinder, scored_again
from anodetect.engines.worker import Task, Worker
from anodetect.errors import ImageError, RunError, nearest
from anodetect.files import is_below, path_or_none, path_text, refuse_unwritable
from anodetect.imaging.regions import roi_of
from anodetect.model.scoring import ScoredImage, ScoredVolume
from anodetect.output.formats import DEFAULT
from anodetect.output.regions import write_regions
from anodetect.record import directories, made_maps, runs, threads
from anodetect.record.directories import ScoreDirectory
from anodetect.record.made_maps import MadeFile
from anodetect.record.partial import only_writer
from anodetect.record.rows import JournalEntry, ScoreRow
from anodetect.remote.paths import place
from anodetect.stats.calibration import DEFAULT_FAR
from anodetect.types import Reporter, Silent


@dataclass(frozen=True)
class MapsResult:
    """The files that were made again in the folder `out`, for the record with this head; `failures`
    say of which inputs there are none, and why."""

    out: Path
    head: str
    files: tuple[MadeFile, ...]
    failures: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return what `maps --json` prints."""
        files = [asdict(each) for each in self.files]
        failures = list(self.failures)
        return {"out": str(self.out), "head": self.head, "files": files, "failures": failures}


def maps(
    directory: Path | str,
    paths: Sequence[str],
    *,
    out: Path | str | None = None,
    run: Path | str | None = None,
    data: Path | str | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> MapsResult:
    """Score files of a score directory again, and write their maps, masks, pictures and outlines
    into `out`, by default beside the directory under its name with "-maps".

    `paths` are those of the rows, or where the files lie. `run` and `data` say where run and images
    are now, if they were moved. On the machine of the record, on as many threads, scores are the
    same to the last bit; elsewhere they may differ by CLOSE. The score directory is not touched.
    RunError if it is not finished, its model is another, or a path has no row with a score.
    """
    scored, reporter = directories.read(Path(directory)), reporter or Silent()
    out = path_or_none(out) or made_maps.folder_of(scored.path)
    if is_below(out, scored.path):
        raise RunError(f"{out} lies in {scored.path}, whose record has no room for more files")
    refuse_unwritable(out)
    root = place(data or scored.audit.root)
    rows = [_row_named(scored, name, root) for name in dict.fromkeys(paths)]

    worker = _worker(scored, path_or_none(run) or Path(scored.audit.run_path), out, device)
    same_host = worker.host == scored.audit.host
    counts = scored.audit.threads if same_host and scored.audit.threads else (threads.in_use(),)
    entries: list[tuple[JournalEntry, bool]] = []
    failures = []
    with _threads_kept():
        for done, row in enumerate(rows):
            reporter.progress("maps", done, len(rows))
            try:
                found, exact = _again(row, RecordFinder(root), worker, counts)
            except (RunError, ImageError) as error:
                failures.append(f"{row.path}: {error}")
                continue
            entry = worker.write(found)
            entries.append((entry, exact))
            if entry.row.error:
                failures.append(f"{row.path}: {entry.row.error}")
        reporter.progress("maps", len(rows), len(rows))

    files = tuple(_files(entries))
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out):
        _write_outlines(out, [entry for entry, _ in entries], worker)
        made_maps.add(out, scored.audit.head, files)
    return MapsResult(out, scored.audit.head, files, tuple(failures))


def _row_named(scored: ScoreDirectory, name: str, root: Path) -> ScoreRow:
    """Return the row with this path, or of the file that lies there; RunError if none with a score
    has it."""
    rows = {row.path: row for row in scored.scored()}
    if name in rows:
        return rows[name]
    file = place(name).absolute()
    if file.is_relative_to(root.absolute()):
        below = path_text(file.relative_to(root.absolute()))
        if below in rows:
            return rows[below]
    raise RunError(f"{scored.path} has no score of {name!r}; {nearest(name, rows)}")


def _worker(scored: ScoreDirectory, run_path: Path, out: Path, device: str) -> Worker:
    """Return a worker that writes what the scoring of a directory was asked to write, into `out`;
    RunError if the run is not the one that scored."""
    run, audit = runs.read(run_path), scored.audit
    if run.model_sha256 != audit.model_sha256:
        raise RunError(
            f"{run_path} is not the run that scored {scored.path}; --run says where it is"
        )
    task = Task(
        run=run_path.absolute(),
        model_sha256=run.model_sha256,
        out=out.absolute(),
        heatmaps=audit.heatmaps or DEFAULT,
        far=DEFAULT_FAR if audit.far is None else audit.far,
        fdr=audit.fdr,
        shard="1/1",
        device=device,
        keep_identifiers=audit.identifiers,
        accept_different=True,
        roi=roi_of(audit.roi) if "bits" in audit.roi else None,
        exact_grid=audit.exact_grid,
    )
    worker = Worker(task, run=run)
    worker.model.without_cache()
    return worker


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Restore the number of threads."""
    before = threads.in_use()
    try:
        yield
    finally:
        threads.limit(before)


def _again(
    row: ScoreRow, find: RecordFinder, worker: Worker, counts: Sequence[int]
) -> tuple[ScoredImage | ScoredVolume, bool]:
    """Score a row's file on each of some numbers of threads until it has the recorded score; return
    what was found, and whether it is that to the last bit. RunError if it is not even close."""
    record = find.with_channels(find.record(row.path), row.channels)
    found: list[ScoredImage | ScoredVolume] = []
    for count in counts:
        threads.limit(count)
        found = scored_again(row, record, worker.model)
        for each in found:
            if each.score == row.score:
                return each, True

    now, known = found[0].score, row.score
    assert known is not None
    if not np.isclose(now, known, rtol=CLOSE, atol=0):
        raise RunError(f"scores {now!r} now, {known!r} in the record")
    return found[0], False


def _files(entries: Sequence[tuple[JournalEntry, bool]]) -> Iterator[MadeFile]:
    for entry, exact in entries:
        for each in entry.outputs:
            yield MadeFile(each.path, each.name, each.kind, each.sha256, exact)


def _write_outlines(out: Path, entries: Sequence[JournalEntry], worker: Worker) -> None:
    """Write the outlines of all images into one file, if there are any."""
    images = [entry.row for entry in entries if not entry.row.is_volume]
    regions = [(entry.row.path, each) for entry in entries for each in entry.regions]
    if regions:
        shown = [(row.path, row.width or 0, row.height or 0) for row in images]
        write_regions(out, shown, lambda: regions, worker.rule)
