"""One worker: a model that scores files and writes what there is to write of each, on this machine
or another."""

import re
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anodetect.data.records import Problem, Record
from anodetect.errors import (
    REPORT_IT,
    ConfigError,
    DiskFullError,
    ImageError,
    RunError,
    one_line,
)
from anodetect.files import printable, short_name
from anodetect.imaging.preprocess import PreparedVolume
from anodetect.imaging.regions import RegionOfInterest
from anodetect.model.devices import check_device, limit_memory
from anodetect.model.display import display_window
from anodetect.model.input_facts import facts_of
from anodetect.model.loading import Failed, LoadedVolume
from anodetect.model.model import Model
from anodetect.model.read_ahead import BATCH, PIXELS_AHEAD, pixels
from anodetect.model.scoring import Scored, ScoredImage, ScoredVolume, score_records
from anodetect.output.about import About
from anodetect.output.cases import Cases
from anodetect.output.formats import Source, Written, asks_for, float_map, write_files
from anodetect.output.images import ImageMap
from anodetect.output.regions import find_regions
from anodetect.output.volumes import VolumeMap
from anodetect.record import channel_files, environment, runs, threads
from anodetect.record.keeping import ALL, keep_of
from anodetect.record.rows import (
    FAILED,
    LITTLE_FOREGROUND,
    MOSTLY_UNSEEN,
    OK,
    SKIPPED,
    UNSEEN,
    JournalEntry,
    OutputRow,
    Region,
    ScoreRow,
    SliceRow,
)
from anodetect.record.runs import Run
from anodetect.remote.paths import RemotePath
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import Rule, decide_one
from anodetect.types import Reporter

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

UPLOADS = 8  # files that are on their way to a bucket at a time


@dataclass(frozen=True)
class Task:
    """All that a worker needs to score a file on any machine: the run, with the hash that its model
    had when scoring started, and which files to write where."""

    run: Path
    model_sha256: str
    out: Path
    heatmaps: tuple[str, ...]
    far: float
    fdr: float | None
    shard: str
    device: str
    keep_identifiers: bool
    accept_different: bool = False
    roi: RegionOfInterest | None = None  # if it is not the run's
    exact_grid: bool = False
    keep: str = ALL
    device_share: float = 1.0  # of a GPU's memory, which several processes may have to share
    upload: str = ""  # the URL to which files go from `out`

    def threshold(self, calibration: Calibration) -> float:
        """Return the score above which an image is flagged; infinity with `fdr`, as that score is
        known only when everything has been scored."""
        return calibration.threshold(self.far) if self.fdr is None else np.inf


# Entries as they are finished, in any order, each with what was scored, None where another process
# scored it.
ScoredEntries = Generator[tuple[Scored | None, JournalEntry], None, None]
# Takes the run, which has been read, the task, the records to score, and a text to show beside the
# progress.
Engine = Callable[[Run, Task, Sequence[Record], Reporter, Callable[[], str]], ScoredEntries]


def device_type(device: str) -> str:
    """Return the type of device, such as "cpu" or "cuda", of a device that may be "auto"."""
    if "torch" not in sys.modules:  # no detector needs it, so everything runs on the CPU
        return "cpu"
    from anodetect.nn.inference import pick_device

    return pick_device(device).type


class Worker:
    """A model that scores files and writes what there is to write of each.

    It computes on `count` threads, or on as many as are set. Without `run` the run is read, without
    `model` its model is loaded; RunError if it is no longer the one that the task names.
    """

    def __init__(
        self,
        task: Task,
        count: int | None = None,
        run: Run | None = None,
        model: Model | None = None,
    ) -> None:
        check_device(task.device)
        limit_memory(task.device, task.device_share)
        self.task = task
        self.run = run or runs.read(task.run)
        if self.run.model_sha256 != task.model_sha256:
            raise RunError(f"{task.run} is not the model that this scoring was started with")
        self.model = model or Model.load(self.run, task.device)
        self.model.preprocess.roi = task.roi or self.model.preprocess.roi
        self.host = environment.host(device_type(task.device))
        self.threads = count or threads.in_use()
        threads.limit(self.threads)  # of all libraries, now that they are loaded
        self.cases = Cases(task.out, task.threshold(self.run.calibration), self.run.header.scale)
        self.rule = self.run.calibration.mask_rule(task.far)
        self.keep = keep_of(task.keep, self.run.calibration, task.far)

    def work(
        self, items: Iterable[Record], reporter: Reporter, note: Callable[[], str] = str
    ) -> ScoredEntries:
        """Score, and write files on threads beside the model, a bounded number behind it."""
        with ThreadPoolExecutor(UPLOADS if self.task.upload else 2) as pool:
            waiting: deque[tuple[Scored, Future[JournalEntry]]] = deque()
            in_shard = shard_of(self.task.shard)
            found = score_records(
                self.model,
                items,
                reporter,
                mine=in_shard,
                note=note,
                accept_different=self.task.accept_different,
                in_source=True,
            )
            for scored in found:
                shown = not isinstance(scored, Failed) and self.cases.admits(
                    scored.record.id, scored.score
                )
                waiting.append((scored, pool.submit(self._entry, scored, shown)))
                del scored  # a volume is not to stay until the next one has been scored
                while (
                    len(waiting) > BATCH
                    or sum(_pixels(each) for each, _ in waiting) >= PIXELS_AHEAD
                ):
                    yield _finished(*waiting.popleft())

            while waiting:
                yield _finished(*waiting.popleft())

    def write(self, scored: ScoredImage | ScoredVolume) -> JournalEntry:
        """Write one file's outputs; return its line in the journal."""
        return self._entry(scored, shown=False)

    def _entry(self, scored: Scored, shown: bool) -> JournalEntry:
        """Write one file's outputs, and its picture if it is to be shown; return its line in the
        journal."""
        if isinstance(scored, Failed):
            row = _failed_row(scored, self.run.model_sha256)
            return JournalEntry(row=row, seconds=0.0, threads=self.threads, host=self.host)

        row = _row(scored, self.run.model_sha256, self._differs(scored))
        if shown:
            self._draw(scored)
        if not self._keeps(row):
            return self._entry_of(scored, row)

        problems: list[str] = []
        content: ImageMap | VolumeMap | None = None
        with _noted(problems):
            content = self._shown(row, scored) if self.task.heatmaps else None
        written = [] if content is None else self._write(row, content, problems)
        regions = self._regions(scored, content, problems)

        outputs = tuple(self._output_row(row.path, each) for each in written)
        self._upload(outputs)
        shown_by = float_map(written)
        heatmap = "" if shown_by is None else outputs[written.index(shown_by)].name
        row = replace(row, error="; ".join(problems), heatmap=heatmap)
        return self._entry_of(scored, row, outputs, tuple(regions))

    def _entry_of(
        self,
        scored: ScoredImage | ScoredVolume,
        row: ScoreRow,
        outputs: tuple[OutputRow, ...] = (),
        regions: tuple[Region, ...] = (),
    ) -> JournalEntry:
        """Return the line in the journal of a file that was scored."""
        return JournalEntry(
            row=row,
            seconds=scored.seconds,
            threads=self.threads,
            host=self.host,
            outputs=outputs,
            regions=regions,
            slices=_slice_rows(scored) if isinstance(scored, ScoredVolume) else (),
        )

    def _keeps(self, row: ScoreRow) -> bool:
        """Return whether the files of a scored image or volume are kept."""
        if self.keep is None or row.score is None:
            return True
        return self.keep.keeps(row.score, row.sha256 or "", row.label, is_volume=row.is_volume)

    def _differs(self, scored: ScoredImage | ScoredVolume) -> str:
        """Return in words how a file differs from what the model has seen, "" if it does not."""
        if isinstance(scored, ScoredVolume):
            volume = scored.loaded.volume
            notes = self._uneven_notes(volume)
            notes += [volume.source.note] if volume.source.note else []
            if volume.unseen.sum() > volume.scored.sum():
                notes.append(MOSTLY_UNSEEN)
        else:
            notes = [scored.loaded.scaled] if scored.loaded.scaled else []
        notes += [scored.record.note] if scored.record.note else []
        notes += [f"{each.name} {each.note}" for each in scored.loaded.channels if each.note]
        notes += [f"{each.name} is absent" for each in scored.loaded.channels if not each.sha256]
        if self.model.seen is None:
            return "; ".join(notes)
        difference = self.model.seen.difference(facts_of(scored.loaded))
        accepted = difference.refused.partition(";")[0]
        return "; ".join([*([accepted] if accepted else []), *difference.notes, *notes])

    def _uneven_notes(self, volume: PreparedVolume) -> list[str]:
        """Return how a volume's slices lie if they are not even, and whether they were resampled
        for the model."""
        even = volume.geometry.even
        if even is None:
            return []
        notes = [volume.source.unevenness]
        if self.model.tiling.dims == 3 or volume.geometry.uneven_axis != 0:
            notes.append(f"resampled for the model to even slices {even.step:.3g} mm apart")
        return notes

    def _draw(self, scored: ScoredImage | ScoredVolume) -> None:
        """Write the picture of a case that is to be shown."""
        if isinstance(scored, ScoredVolume):
            window = display_window(self.model.preprocess, scored.loaded)
            volume = scored.loaded.volume
            self.cases.draw_volume(scored.record.id, scored.heatmap, volume, window)
        else:
            self.cases.draw_image(scored.record.id, scored.panels)

    def _write(
        self, row: ScoreRow, shown: ImageMap | VolumeMap, problems: list[str]
    ) -> list[Written]:
        """Write a heatmap in each of the formats that were asked for and that its kind of source
        has. Why a format could not be written is added to `problems`; the others are written."""
        stem = self.task.out / "heatmaps" / short_name(row.path)
        source: Source = "image" if isinstance(shown, ImageMap) else "volume"
        written: list[Written] = []
        for name in self.task.heatmaps:
            with _noted(problems, f"{name}: "):
                written += write_files(stem, (name,), source, shown)
        return written

    def _regions(
        self,
        scored: ScoredImage | ScoredVolume,
        shown: ImageMap | VolumeMap | None,
        problems: list[str],
    ) -> list[Region]:
        """Return the regions of an image if outlines were asked for; [] for a volume."""
        if isinstance(scored, ScoredImage) and asks_for(self.task.heatmaps, "regions"):
            with _noted(problems, "regions: "):
                known = shown.regions if isinstance(shown, ImageMap) else None
                return find_regions(scored.heatmap, self.rule, known)
        return []

    def _shown(self, row: ScoreRow, scored: ScoredImage | ScoredVolume) -> ImageMap | VolumeMap:
        """Return what the writers of all formats need of a scored file."""
        header = self._header(scored)
        heatmap, how = scored.heatmap, (self.run.header.scale, self.rule)
        window = display_window(self.model.preprocess, scored.loaded, header)
        about = self._about(row)
        if isinstance(scored, ScoredImage):
            return ImageMap(heatmap, scored.loaded.leading, *how, window, header, about)
        volume, exact_grid = scored.loaded.volume, self.task.exact_grid
        return VolumeMap(heatmap, volume, *how, window, about, exact_grid)

    def _about(self, row: ScoreRow) -> About:
        """Return what DICOM files say of a scored file."""
        pseudonym = "" if self.task.keep_identifiers else row.group
        if row.score is None or not asks_for(self.task.heatmaps, "report"):
            return About(pseudonym, row.model_sha256)
        rule = Rule.of(self.task.far, self.task.fdr)
        calibration = self.run.calibration
        decision = decide_one(row.score, calibration, rule, is_volume=row.is_volume)
        return About(pseudonym, row.model_sha256, decision)

    def _header(self, scored: ScoredImage | ScoredVolume) -> "Dataset | None":
        """Return the header of an image's DICOM file; None if it is another file, or a volume."""
        if isinstance(scored, ScoredVolume) or not scored.record.files:
            return None
        from anodetect.data import dicom  # with pydicom

        try:
            return dicom.header_of(scored.record.path)
        except ImageError:  # it was there when its pixels were read
            return None

    def _upload(self, outputs: Sequence[OutputRow]) -> None:
        """Bring files to where they are to be, if that is a bucket; they do not stay here."""
        if self.task.upload:
            for output in outputs:
                file = self.task.out / output.name
                (RemotePath(self.task.upload) / output.name).write_from(file)
                file.unlink()

    def _output_row(self, path: str, written: Written) -> OutputRow:
        folder = f"heatmaps/{short_name(path)}".rpartition("/")[0]
        name = f"{folder}/{written.path.name}"
        return OutputRow(
            name=name, path=path, kind=written.format, sha256=written.sha256, note=written.note
        )


def _finished(scored: Scored, future: Future[JournalEntry]) -> tuple[Scored | None, JournalEntry]:
    """Return what was scored when its files are written; a volume only if it is to be compared with
    a truth."""
    entry = future.result()
    needed = not isinstance(scored, ScoredVolume) or scored.record.label is not None
    return scored if needed else None, entry


def _pixels(scored: Scored) -> int:
    """Return as how many pixels a scored record counts in memory."""
    return pixels(scored if isinstance(scored, Failed) else scored.loaded)


def _slice_rows(scored: ScoredVolume) -> tuple[SliceRow, ...]:
    """Return a row for every slice of a volume, in the order of the detector's slices."""
    volume, record = scored.loaded.volume, scored.record
    scores = dict(zip(scored.slices.numbers.tolist(), scored.slices.scores.tolist(), strict=True))
    along = volume.geometry.axes[0]

    rows = []
    for number, share in enumerate(volume.share.tolist()):
        unscored = ""
        if number not in scores:
            unscored = UNSEEN if volume.unseen[number] else LITTLE_FOREGROUND
        left, posterior, superior = volume.geometry.centre(number)
        row = SliceRow(
            path=record.id,
            group=record.group,
            axis=volume.geometry.plane,
            slice=int(volume.geometry.source_index((number, 0, 0))[along]),
            left_mm=left,
            posterior_mm=posterior,
            superior_mm=superior,
            foreground=share,
            score=scores.get(number),
            unscored=unscored,
        )
        rows.append(row)
    return tuple(rows)


def _row(scored: ScoredImage | ScoredVolume, model_sha256: str, differs: str) -> ScoreRow:
    """Return the row of a file that was scored, before anything is written of it."""
    record, loaded = scored.record, scored.loaded
    *depth, height, width = scored.heatmap.shape
    return ScoreRow(
        path=record.id,
        sha256=scored.sha256,
        group=record.group,
        score=scored.score,
        width=width,
        height=height,
        depth=depth[0] if depth else None,
        model_sha256=model_sha256,
        status=OK,
        label=record.label,
        kind=record.kind,
        acquired=record.extra.get("acquired", ""),
        differs=differs,
        channels=channel_files.to_text(loaded.channels),
        pixels_sha256=loaded.pixels,
        study=record.study,
        prepared=loaded.prepared if isinstance(loaded, LoadedVolume) else "",
    )


def _failed_row(failed: Failed, model_sha256: str) -> ScoreRow:
    """Return the row of a file that could not be scored."""
    record = failed.record
    return ScoreRow(
        path=record.id,
        sha256=failed.sha256,
        group=record.group,
        model_sha256=model_sha256,
        status=FAILED,
        error=printable(failed.error),
        label=record.label,
        kind=record.kind,
        acquired=record.extra.get("acquired", ""),
        study=record.study,
    )


@contextmanager
def _noted(problems: list[str], what: str = "") -> Iterator[None]:
    """Add the reason of what goes wrong to `problems`, after `what`: one file must not end a long
    scoring. Where the disk is full it does, as no further file would be written."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:  # also an unforeseen one
        problems.append(what + printable(one_line(error, REPORT_IT)))


def problem_row(problem: Problem, model_sha256: str) -> ScoreRow:
    """Return the row of a file that could not even be looked at."""
    return ScoreRow(
        path=problem.name,
        group=problem.name,
        model_sha256=model_sha256,
        status=SKIPPED if "symbolic link" in problem.reason else FAILED,
        error=printable(problem.reason),
    )


def shard_of(shard: str) -> Callable[[str], bool]:
    """Return the function that says whether a file with this SHA-256 belongs to the shard "i/n";
    ConfigError if it is none."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise ConfigError(f"--shard {shard}: i/n with i from 1 to n is expected, for example 2/4")
    return lambda digest: int(digest[:16], 16) % count == index - 1
