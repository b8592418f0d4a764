"""Score some files of a score directory again, and say what does not come out as recorded."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from anodetect.data.scan import MANIFEST, Record, is_volume, scan, series_of
from anodetect.engines.worker import device_type
from anodetect.errors import RunError
from anodetect.files import leads_out, path_of
from anodetect.model.loading import Failed
from anodetect.model.model import Model
from anodetect.model.scoring import Scored, score_records
from anodetect.record import directories, environment, runs, threads
from anodetect.record.rows import ScoreRow
from anodetect.types import Silent

CLOSE = 1e-4  # relative: what scores may differ by between machines


def rescore(
    path: Path,
    count: int,
    *,
    run_path: Path | None = None,
    root: Path | None = None,
    device: str = "auto",
) -> list[str]:
    """Score `count` random files of a score directory again; what does not come out as recorded.

    Bit for bit, with as many threads, where versions and machine are those of the record, else
    within CLOSE.
    """
    scored = directories.read(path)
    run = runs.read(run_path or Path(scored.audit["run_path"]))
    if run.model_sha256 != scored.audit["model_sha256"]:
        return [f"the model at {run.path} is not the one that scored"]
    model = Model.load(run, device)
    same_host = environment.host(device_type(device)) == scored.audit.get("host")
    known = scored.audit.get("threads", []) if same_host else []
    rows = scored.scored()
    chosen = np.random.default_rng().choice(len(rows), min(count, len(rows)), replace=False)
    root = root or Path(scored.audit["root"])
    manifests: dict[Path, dict[Path, Record]] = {}
    problems: dict[str, str] = {}
    to_come = [rows[place] for place in sorted(chosen)]
    before = threads.in_use()
    try:
        for used in known or [before]:  # a scoring that was resumed may have had several
            threads.limit(used)
            for row in to_come:
                record = _record_of(row.path, root, manifests)
                # A product's last bits depend on a row's place among the rows: one of these had the
                # same.
                copies = [record] * (1 if is_volume(record) else model.batch)
                again = list(score_records(model, copies, Silent()))
                problems[row.path] = _differs(row, again, exact=bool(known))
            to_come = [row for row in to_come if problems[row.path]]
    finally:
        threads.limit(before)
    return [problem for problem in problems.values() if problem]


def _differs(row: ScoreRow, again: Sequence[Scored], *, exact: bool) -> str:
    """How a file, scored at each place in a batch, differs from its record, "" if at one it does
    not."""
    scores = []
    for each in again:
        if isinstance(each, Failed):
            return f"{row.path}: cannot be scored again: {each.error}"
        if each.sha256 != row.sha256:
            return f"{row.path}: the file is not the one that was scored"
        scores.append(each.score)
    known = float("nan") if row.score is None else row.score
    if known in scores or (not exact and np.isclose(scores[0], known, rtol=CLOSE, atol=0)):
        return ""
    return f"{row.path}: scores {scores[0]!r} now, {known!r} in the record"


def _record_of(identity: str, root: Path, manifests: dict[Path, dict[Path, Record]]) -> Record:
    """A file, or a DICOM series, as it was scored; `manifests` keeps what those on the way to it
    say. RunError if it is outside `root`."""
    if leads_out(name := path_of(identity)):
        raise RunError(f"{identity!r} leads out of {root}; it is not read")
    path = root / name
    for folder in path.parents[: len(Path(name).parts)]:
        if folder not in manifests:
            listed = (
                scan(folder, follow_symlinks=True).records if (folder / MANIFEST).is_file() else ()
            )
            manifests[folder] = {folder / path_of(record.id): record for record in listed}
        if path in manifests[folder]:
            return replace(manifests[folder][path], id=identity)
    return Record(identity, path, files=series_of(path) if path.is_file() else ())
