"""One worker: a model that scores files and writes what there is to write of each, on this machine
or another."""

import re
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anodetect.data.scan import Problem, Record
from anodetect.errors import ConfigError, RunError
from anodetect.files import short_name
from anodetect.model.loading import BATCH, PIXELS_AHEAD, pixels, why
from anodetect.model.model import Model
from anodetect.model.scoring import Scored, score_records
from anodetect.output import images as image_writer
from anodetect.output import volumes as volume_writer
from anodetect.output.cases import Cases
from anodetect.output.formats import asks_for
from anodetect.record import directories, environment, runs, threads
from anodetect.record.decisions import LITTLE, UNSEEN
from anodetect.record.journal import Entry
from anodetect.stats.calibration import Calibration
from anodetect.types import Reporter


@dataclass(frozen=True)
class Task:
    """What it takes to score a file on any machine: the run, as it was when scoring began, and
    which files to write where."""

    run: Path
    model_sha256: str
    out: Path
    heatmaps: tuple[str, ...]
    far: float
    fdr: float | None
    shard: str
    device: str
    keep_identifiers: bool

    def threshold(self, calibration: Calibration) -> float:
        """The score above which an image is flagged; with --fdr known only when everything has been
        scored."""
        return calibration.threshold(self.far) if self.fdr is None else np.inf


# In any order; without the former where it was made by another process.
Made = Generator[tuple[Scored | None, Entry], None, None]


Engine = Callable[[Task, Sequence[Record], Reporter, Callable[[], str]], Made]


def device_type(device: str) -> str:
    """Return the type of device that `device`, perhaps "auto", stands for, such as "cpu" or "cuda"."""
    if (
        "torch" not in sys.modules
    ):  # no detector that needs it was loaded, so everything runs on the CPU
        return "cpu"
    from anodetect.nn.inference import pick_device

    return pick_device(device).type


class Worker:
    """A model that scores files and writes what there is to write of each, on `count` threads or
    those it finds."""

    def __init__(self, task: Task, count: int | None = None) -> None:
        self.task = task
        self.run = runs.read(task.run)
        if self.run.model_sha256 != task.model_sha256:
            raise RunError(f"{task.run} is not the model that this scoring was begun with")
        self.model = Model.load(self.run, task.device)
        self.host = environment.host(device_type(task.device))
        self.threads = count or threads.in_use()
        threads.limit(self.threads)  # of all libraries, now that they are loaded
        self.cases = Cases(task.out, task.threshold(self.run.calibration), self.run.scale)
        self.pixel_threshold = self.run.calibration.pixel_threshold(task.far)

    def work(
        self, items: Iterable[Record], reporter: Reporter, note: Callable[[], str] = str
    ) -> Made:
        """Score, and write files on two threads beside the model, a bounded number behind it."""
        with ThreadPoolExecutor(2) as pool:
            waiting: deque[tuple[Scored, Future[Entry]]] = deque()
            for scored in score_records(
                self.model, items, reporter, mine=shard_of(self.task.shard), note=note
            ):
                shown = scored.heatmap is not None and self.cases.admits(
                    scored.loaded.record.id, scored.score
                )
                waiting.append((scored, pool.submit(self._entry, scored, shown)))
                del scored  # a volume is not to stay until the next one has been scored
                while (
                    len(waiting) > BATCH
                    or sum(pixels(each.loaded) for each, _ in waiting) >= PIXELS_AHEAD
                ):
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())

    def _entry(self, scored: Scored, shown: bool) -> Entry:
        """Write one image's files, its picture too where it is to be shown; its line in the
        journal."""
        task, loaded, heatmap = self.task, scored.loaded, scored.heatmap
        row = _row(scored, self.run.model_sha256)
        entry: Entry = {
            "row": row,
            "seconds": scored.seconds,
            "threads": self.threads,
            "host": self.host,
            "files": [],
            "regions": [],
            "slices": _slice_rows(scored),
        }
        if heatmap is None or loaded.image is None:
            return entry
        if shown:
            self.cases.draw(row["path"], heatmap, loaded.volume, scored.grid)
        how = (self.run.scale, self.pixel_threshold)
        stem = task.out / "heatmaps" / short_name(row["path"])
        try:
            if loaded.volume is not None:
                patient = "" if task.keep_identifiers else row["group"]
                written = volume_writer.write(
                    stem, task.heatmaps, heatmap, loaded.volume, *how, patient, row["model_sha256"]
                )
            else:
                written = image_writer.write(stem, task.heatmaps, heatmap, loaded.image, *how)
                if asks_for(task.heatmaps, "regions"):
                    entry["regions"] = image_writer.regions(heatmap, self.pixel_threshold)
            entry["files"] = [each.path.relative_to(task.out).as_posix() for each in written]
            row["heatmap"] = next(iter(entry["files"]), "")
        except (
            Exception
        ) as error:  # also one that nobody thought of: a file must not end a night's work
            row["error"] = why(error)
        return entry


def _finished(scored: Scored, future: Future[Entry]) -> tuple[Scored | None, Entry]:
    """What was scored, when its files are written; of a volume only if it is to be compared with a
    truth."""
    entry = future.result()
    needed = not scored.loaded.is_volume or scored.loaded.record.label is not None
    return scored if needed else None, entry


def _slice_rows(scored: Scored) -> list[directories.Row]:
    """The profile of a volume: a row for every slice, in the order of the detector's slices."""
    if scored.slices is None or scored.loaded.volume is None:
        return []
    volume, record = scored.loaded.volume, scored.loaded.record
    found = dict(zip(scored.slices.numbers.tolist(), scored.slices.scores.tolist(), strict=True))
    share = volume.share.tolist()
    along = volume.geometry.axes[0]
    rows = []
    for number in range(len(share)):
        x, y, z = volume.geometry.centre(number)
        rows.append(
            {
                "path": record.id,
                "group": record.group,
                "axis": volume.geometry.plane,
                "slice": int(volume.geometry.source_index((number, 0, 0))[along]),
                "left_mm": x,
                "posterior_mm": y,
                "superior_mm": z,
                "foreground": share[number],
                "score": found.get(number),
                "unscored": "" if number in found else UNSEEN if volume.unseen[number] else LITTLE,
            }
        )
    return rows


def _row(scored: Scored, model_sha256: str) -> directories.Row:
    loaded = scored.loaded
    depth, height, width = (
        None,
        None,
        None,
        *(loaded.image.shape[1:] if loaded.image is not None else ()),
    )[-3:]
    return {
        "path": loaded.record.id,
        "sha256": loaded.sha256,
        "group": loaded.record.group,
        "score": scored.score,
        "heatmap": "",
        "width": width,
        "height": height,
        "depth": depth,
        "model_sha256": model_sha256,
        "status": "failed" if loaded.error else "ok",
        "error": loaded.error,
        "label": loaded.record.label,
        "kind": loaded.record.kind,
        "acquired": loaded.record.extra.get("acquired", ""),
    }


def problem_row(problem: Problem, model_sha256: str) -> directories.Row:
    status = "skipped" if "symbolic link" in problem.reason else "failed"
    return {
        "path": problem.name,
        "group": problem.name,
        "heatmap": "",
        "model_sha256": model_sha256,
        "status": status,
        "error": problem.reason,
    }


def shard_of(shard: str) -> Callable[[str], bool]:
    """Whether a file of this SHA-256 belongs to the shard."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise ConfigError(f"--shard {shard}: i/n with i from 1 to n is expected, for example 2/4")
    return lambda digest: int(digest[:16], 16) % count == index - 1
