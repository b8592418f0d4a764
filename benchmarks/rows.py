"""Memory and time of `score` and its report in the process that keeps the table, by phase.

    python -m benchmarks.rows [--files 50000,200000,1000000] [--folder DIR] [--json]

Folders of so many empty files are listed and scored by a made-up engine: each file gets a row with
a score from its name and the names of three outputs that are not written. So there is no decoding,
no model and no map, and what is left is the list of files, the journal, the tables, the statistics
and the report. Each size is measured in a new process. The peak of a phase is the highest resident
memory while it runs, without the phases inside it; Linux alone can say it. The slope is that of the
last two sizes, and `10 million` what it extrapolates to.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest import mock

import anodetect
from anodetect.data.records import Record
from anodetect.engines.worker import ScoredEntries, Task
from anodetect.record import environment
from anodetect.record.rows import OK, JournalEntry, OutputRow, ScoreRow
from anodetect.record.runs import Run
from anodetect.types import Reporter
from benchmarks import common, null

SIZES = "50000,200000,1000000"
FAR = 10_000_000
IN_FOLDER = 1000
SUFFIXES = {"_heatmap.tiff": "tiff", "_heatmap.png": "png", "_mask.png": "mask"}
# What is measured apart: the name of a phase, and the function that is it.
PHASES = {
    "list": "anodetect.commands.score:collect",
    "rows to the journal": "anodetect.commands.score:_score_all",
    "tables and statistics": "anodetect.commands.score:finish",
    "write the record": "anodetect.record.directories:write",
    "report": "anodetect.output.report:write",
}


@dataclass
class Phases:
    """Seconds and peaks in MB of phases, without the phases inside them."""

    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)
    since: float = 0.0

    def enter(self, name: str) -> None:
        self._note()
        self.running.append(name)

    def leave(self) -> None:
        self._note()
        self.running.pop()

    def _note(self) -> None:
        """Credit the phase that runs with what was since the last change, and begin anew."""
        now = time.perf_counter()
        if self.running:
            name = self.running[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self.since
            self.peaks[name] = max(self.peaks.get(name, 0.0), environment.peak_memory_mb())
        self.since = now
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as a phase of this name."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.enter(name)
            try:
                return function(*arguments, **options)
            finally:
                self.leave()

        return call


@contextmanager
def observed() -> Iterator[Phases]:
    """Measure the phases of what this process does meanwhile."""
    phases = Phases()
    with ExitStack() as stack:
        for name, place in PHASES.items():
            target = place.replace(":", ".")
            wrapped = phases.around(name, resolve_name(place))
            stack.enter_context(mock.patch(target, wrapped))
        yield phases


def made_up(
    run: Run, task: Task, items: Sequence[Record], reporter: Reporter, note: Callable[[], str]
) -> ScoredEntries:
    """Score nothing: give each file a row, and the names of outputs that are not there."""
    for record in items:
        digest, outputs = sha256(record.id.encode()).hexdigest(), []
        for suffix, kind in SUFFIXES.items():
            name = f"heatmaps/{record.id}{suffix}"
            outputs.append(OutputRow(name=name, path=record.id, kind=kind, sha256=digest))
        row = ScoreRow(
            path=record.id,
            group=record.group,
            sha256=digest,
            score=int(digest[:12], 16) / 2**48,
            heatmap=outputs[0].name,
            width=256,
            height=256,
            model_sha256=task.model_sha256,
            status=OK,
            kind=record.kind,
            acquired="",
            pixels_sha256=digest,
        )
        yield (
            None,
            JournalEntry(row=row, seconds=0.01, threads=1, host="", outputs=tuple(outputs)),
        )


def write_files(folder: Path, count: int) -> None:
    """Write so many empty files, IN_FOLDER to a folder."""
    for start in range(0, count, IN_FOLDER):
        place = folder / f"lot-{start // IN_FOLDER:05}"
        place.mkdir(parents=True)
        for number in range(start, min(start + IN_FOLDER, count)):
            (place / f"part-{number:08}.png").touch()


def measure(run: Path, folder: Path, out: Path) -> dict[str, dict[str, float]]:
    """Return seconds and peaks of the phases of scoring a folder and of the whole."""
    start = time.perf_counter()
    with observed() as phases:
        anodetect.score(run, [str(folder)], out, engine=made_up)
    phases.seconds["all"] = time.perf_counter() - start
    phases.peaks["all"] = max(phases.peaks.values())
    return {"seconds": phases.seconds, "MB": phases.peaks}


def in_new_process(run: Path, folder: Path, out: Path) -> dict[str, dict[str, float]]:
    """Return what `measure` does in a new process."""
    command = [sys.executable, "-m", "benchmarks.rows", "--measure", str(run), str(folder)]
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


def slopes(few: int, many: int, before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Return for each phase its slope in bytes a file and the GB at FAR files, as texts."""
    found = []
    for name, peak in after.items():
        slope = (peak - before[name]) * 1e6 / (many - few)
        beyond = peak / 1e3 + slope * (FAR - many) / 1e9
        found.append(f"{name}: {slope:.0f} bytes a file, {beyond:.1f} GB at 10 million")
    return found


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--files", default=SIZES, help="numbers of files, separated by commas")
    parser.add_argument("--folder", type=Path, help="where temporary files lie")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=3, type=Path, metavar="PATH", help="in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
        return

    sizes, found = [int(each) for each in arguments.files.split(",")], {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        run = null.trained(null.KINDS["256² 8-bit PNG"], Path(name))
        for size in sizes:
            write_files(Path(name, f"in{size}"), size)
            found[size] = in_new_process(run, Path(name, f"in{size}"), Path(name, f"out{size}"))

    result: dict[str, object] = {}
    for size, values in found.items():
        for unit, phases in values.items():
            result |= {f"{size}, {phase}, {unit}": round(v, 1) for phase, v in phases.items()}
    if len(sizes) > 1:
        few, many = sizes[-2:]
        result["slope"] = slopes(few, many, found[few]["MB"], found[many]["MB"])
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
