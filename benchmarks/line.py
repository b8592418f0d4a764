"""The time from a file to its verdict in `anodetect watch`, and what is left when it is killed.

    python -m benchmarks.line [--run RUN] [--images 600] [--rate 10] [--kills 0] [--json]

Synthetic images of 256 × 256 pixels appear in a temporary folder at a rate a second, each renamed
when it is whole. A verdict counts from the moment when its line is in the journal, which is flushed
to the disk. Without --run a model of `anoddpm` on pixels at its defaults is trained for a few
steps, which costs as much to score as a trained one. With --kills the process is ended by SIGKILL
so many times, evenly spread, and started again; latencies are then left out. In the end every image
must be in one record exactly once. `core_ms` is the processor time of all threads for an image,
which does not depend on what else runs; latencies do: use a quiet machine.
"""

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

import anodetect
from anodetect.data import synthetic
from anodetect.record import directories
from benchmarks import common

SIDE = 256
DIFFERENT = 64  # images, which come again and again
PATIENCE = 300.0  # seconds without a verdict after which something is wrong


@dataclass
class Seen:
    """The moments when images were there and when their verdicts were, by their names, and bytes of
    memory with their moments."""

    there: dict[str, float] = field(default_factory=dict)
    verdict: dict[str, float] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)


class Follower(threading.Thread):
    """Reads the journals of all records as they grow."""

    def __init__(self, out: Path, seen: Seen) -> None:
        super().__init__(daemon=True)
        self.out, self.seen, self.ended = out, seen, threading.Event()
        self.read: dict[Path, int] = {}

    def run(self) -> None:
        while not self.ended.wait(0.003):
            for journal in self.out.glob("records/*/journal.jsonl"):
                try:
                    with journal.open("rb") as stream:
                        stream.seek(self.read.get(journal, 0))
                        content = stream.read()
                except OSError:  # it was closed
                    continue
                whole = content[: content.rfind(b"\n") + 1]
                self.read[journal] = self.read.get(journal, 0) + len(whole)
                self._note(whole)

    def _note(self, content: bytes) -> None:
        now = time.monotonic()
        for line in content.splitlines():
            row = json.loads(line).get("row")
            if row is not None:
                self.seen.verdict.setdefault(row["path"], now)


def small_run(folder: Path) -> Path:
    """Train the default network for a few steps on synthetic images; return the run."""
    data, out = folder / "data", folder / "run"
    synthetic.write(data, train=60, test=2, size=SIDE)
    values = {"training": {"steps": 3}}
    anodetect.train(str(data), "anoddpm", out, values=values, representation="pixels")
    return out


def started(run: Path, folder: Path, out: Path, count: int) -> subprocess.Popen[bytes]:
    """Start the command, and return when it watches."""
    command = [sys.executable, "-m", "anodetect.cli", "watch", run, folder, "--out", out]
    command += ["--count", str(count)]
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"watching"):
            break
    threading.Thread(target=process.stderr.read, daemon=True).start()
    return process


def measure(run: Path, count: int, rate: float, kills: int, close: int) -> dict[str, object]:
    """Let images appear, and return what became of them."""
    pixels, _ = synthetic.images(DIFFERENT, size=SIDE, seed=9)
    kill_at = set(np.linspace(0, count, kills + 2).astype(int)[1:-1].tolist())
    with tempfile.TemporaryDirectory() as name, ExitStack() as ending:
        folder, out = Path(name, "in"), Path(name, "out")
        folder.mkdir()
        seen = Seen()
        follower = Follower(out, seen)
        follower.start()
        process = started(run, folder, out, close)
        ending.callback(lambda: process.kill())  # noqa: PLW0108 — it may be another one
        first = psutil.Process(process.pid).cpu_times()

        due = time.monotonic()
        for number in range(count):
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))
            part = folder / f".{number:06}.png"
            Image.fromarray(pixels[number % DIFFERENT, 0]).save(part, compress_level=1)
            seen.there[part.name[1:]] = time.monotonic()
            part.rename(folder / part.name[1:])
            if number in kill_at:
                process.send_signal(signal.SIGKILL)
                process.wait()
                process = started(run, folder, out, close)
            if number % max(1, count // 50) == 0:
                used = psutil.Process(process.pid).memory_info().rss
                seen.memory.append((time.monotonic(), used))

        wait_for(seen, count)
        last = psutil.Process(process.pid).cpu_times()
        core = last.user + last.system - (0 if kills else first.user + first.system)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait()
        closing = time.monotonic() - began
        follower.ended.set()
        return found(seen, out, count, kills, core, closing)


def wait_for(seen: Seen, count: int) -> None:
    """Wait until every image has a verdict."""
    before, since = -1, time.monotonic()
    while len(seen.verdict) < count:
        if len(seen.verdict) != before:
            before, since = len(seen.verdict), time.monotonic()
        if time.monotonic() - since > PATIENCE:
            return
        time.sleep(0.05)


def found(
    seen: Seen, out: Path, count: int, kills: int, core: float, closing: float
) -> dict[str, object]:
    """Return what the records say, and how long verdicts took."""
    rows: Counter[str] = Counter()
    for record in (out / "records").iterdir():
        rows.update(row.path for row in directories.read(record).rows)
    late = [
        seen.verdict[name] - there for name, there in seen.there.items() if name in seen.verdict
    ]
    result: dict[str, object] = {
        "images": count,
        "kills": kills,
        "lost": sum(name not in rows for name in seen.there),
        "twice": sum(number > 1 for number in rows.values()),
        "records": len(list((out / "records").iterdir())),
        "closing_s": round(closing, 2),
        "load": round(psutil.getloadavg()[0], 1),
    }
    if not kills:
        p50, p95, most = np.quantile(late, (0.5, 0.95, 1.0)) * 1000
        result |= {"p50_ms": round(p50, 1), "p95_ms": round(p95, 1), "max_ms": round(most, 1)}
        result["core_ms"] = round(core / count * 1000, 1)
        memory = [each / 2**20 for _, each in seen.memory]
        result["memory_mb"] = [round(memory[len(memory) // 2], 1), round(memory[-1], 1)]
    return result


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = common.parser(__doc__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--close", type=int, default=10_000, help="files of a record")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = given.run or small_run(Path(folder))
        result = measure(run, given.images, given.rate, given.kills, given.close)
    common.show(result, given.json)


if __name__ == "__main__":
    main()
