"""A score directory of millions of rows in the review app: seconds until it is open, and memory.

    python -m benchmarks.large [--rows 10000000] [--pages] [--browser] [--json]

The tables are made up, in a temporary folder: every row has a path, a hash and scores of its own,
and a heatmap in outputs.parquet; the SHOWN rows with the highest scores have real images. Each step
is measured in a new process with the app's own modules: the directory, the list by p-value with the
rows of the first page, other orders and filters, a case by its path. Beside the clock stands the
time on processors, which other programs do not lengthen; until the hashes are compared it contains
the time of the thread that does so. `rss` is the resident memory of the process, of which the
mapped pages of the files can be given back. With --browser the app itself is opened in the
distribution's Chromium.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import psutil
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from anodetect.commands.review import app_file
from anodetect.files import sha256_of
from anodetect.record import audit as audits
from anodetect.record import directories, environment
from anodetect.record.chain import head_of
from anodetect.record.rows import ChainRow, GroupRow, OutputRow, ScoreRow, TimingRow, schema_of
from anodetect.record.tables import PART
from benchmarks import common
from benchmarks.review import browser, served

T = TypeVar("T")
SHOWN, SIDE = 60, 256
OLD = Path(__file__).parents[1] / "tests" / "data" / "scores-format-2"
MOST_RANKS = 1000  # different p-values: few ranks are possible


def write(folder: Path, count: int) -> Path:
    """Write a score directory of `count` rows, and return its path."""
    out = folder / "scores"
    out.mkdir()
    images = _images(folder)
    tables = {
        "scores": (ScoreRow, lambda start, stop: _scores(start, stop, count, images)),
        "outputs": (OutputRow, _outputs),
        "groups": (GroupRow, lambda start, stop: schema_of(GroupRow).empty_table()),
        "timings": (TimingRow, lambda start, stop: schema_of(TimingRow).empty_table()),
        "chain": (ChainRow, lambda start, stop: schema_of(ChainRow).empty_table()),
    }
    for name, (row_type, part) in tables.items():
        with parquet.ParquetWriter(out / f"{name}.parquet", schema_of(row_type)) as writer:
            for start in range(0, count, PART):
                writer.write_table(part(start, min(start + PART, count)))

    audit = replace(
        directories.read(OLD).audit,
        format=directories.FORMAT,
        root=str(folder),
        rows=count,
        tables={f"{name}.parquet": sha256_of(out / f"{name}.parquet") for name in tables},
    )
    content = audits.to_json(audit)
    content["head"] = head_of(content)
    (out / directories.AUDIT_FILE).write_text(json.dumps(content))
    return out


def _images(folder: Path) -> list[str]:
    """Write the images of the first rows, and return their hashes."""
    draw, hashes = np.random.default_rng(0), []
    for number in range(SHOWN):
        file = folder / _path(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (SIDE, SIDE), np.uint8)).save(file)
        hashes.append(sha256_of(file))
    return hashes


def _path(number: int) -> str:
    return f"lot-{number // 500:05}/part-{number:08}.png"


def _scores(start: int, stop: int, count: int, images: list[str]) -> pa.Table:
    """Return rows `start` to `stop`: the first ones have the highest scores, the others random
    ones."""
    numbers, n = range(start, stop), stop - start
    draw = np.random.default_rng(start)
    score = draw.random(n)
    score[np.arange(start, stop) < SHOWN] += 1
    p_value = np.ceil((1.0 - score.clip(0, 0.999)) * MOST_RANKS) / (MOST_RANKS + 1)
    hashes = [sha256(str(number).encode()).hexdigest() for number in numbers]
    for number in range(start, min(stop, SHOWN)):
        hashes[number - start] = images[number]

    values: dict[str, object] = {
        "path": [_path(number) for number in numbers],
        "sha256": hashes,
        "group": [f"lot-{number // 500:05}" for number in numbers],
        "score": score,
        "p_value": p_value,
        "q_value": np.minimum(p_value * 2, 1.0),
        "flagged": p_value <= 0.05,
        "threshold": np.full(n, 0.95),
        "heatmap": [""] * n,
        "width": np.full(n, SIDE),
        "height": np.full(n, SIDE),
        "model_sha256": ["m"] * n,
        "status": ["ok"] * n,
        "error": [""] * n,
        "kind": ["scratch" if number % 7 else "dent" for number in numbers],
    }
    columns = []
    for column in schema_of(ScoreRow):
        empty = [""] * n if column.type == pa.string() else [None] * n
        columns.append(pa.array(values.get(column.name, empty), column.type))
    return pa.table(columns, schema=schema_of(ScoreRow))


def _outputs(start: int, stop: int) -> pa.Table:
    paths = [_path(number) for number in range(start, stop)]
    names = [f"heatmaps/{path}_heatmap.tiff" for path in paths]
    hashes = [sha256(name.encode()).hexdigest() for name in names]
    n = stop - start
    columns = [names, paths, ["tiff"] * n, hashes, [""] * n]
    return pa.table([pa.array(each, pa.string()) for each in columns], schema=schema_of(OutputRow))


def measured(out: Path) -> dict[str, float]:
    """Return what each step takes, in this process."""
    from apps.review import large
    from apps.review.worklist import Filter

    process, found = psutil.Process(), dict[str, float]()
    found["rss before, MB"] = process.memory_info().rss / 2**20
    scores = timed(found, "directory", lambda: large.open_large(out))

    def listed(keep: Filter, *, blind: bool = False) -> Sequence[ScoreRow]:
        return scores.listed({}, "p-value", keep, "Ada", blind=blind)

    rows = timed(found, "list by p-value", lambda: listed(Filter()))
    timed(found, "rows of the first page", lambda: [row.path for row in rows[:24]])
    found["rss once open, MB"] = process.memory_info().rss / 2**20

    path = scores.catalogue.row(len(rows) // 2).path
    timed(found, "a case by its path", lambda: scores.by_path[path])
    name = f"heatmaps/{path}_heatmap.tiff"
    timed(found, "hash of a heatmap", lambda: scores.directory.output_hash(name))
    timed(found, "flagged", lambda: listed(Filter(flagged=True)))
    timed(found, "one lot", lambda: listed(Filter(groups=frozenset({"lot-00700"}))))
    timed(found, "search in names", lambda: listed(Filter(search="part-0000777")))
    timed(found, "not by me", lambda: listed(Filter(reviewed="not by me")))
    timed(found, "blind list", lambda: listed(Filter(), blind=True))
    paths = large.paths_of(rows)
    timed(found, "place of a case far down the list", lambda: paths.index(path))
    timed(found, "wait for the hashes", lambda: scores.check.require(wait=None))
    found["highest rss, MB"] = environment.peak_memory_mb()
    return found


def timed(found: dict[str, float], name: str, run: Callable[[], T]) -> T:
    """Return what a function returns, and note the seconds it took, of the clock and of this
    process's threads on processors."""
    start, processor = time.perf_counter(), time.process_time()
    result = run()
    found[f"{name}, s"] = time.perf_counter() - start
    found[f"{name}, s of processors"] = time.process_time() - processor
    return result


def in_app(out: Path) -> dict[str, float]:
    """Return the seconds on processors that the app takes to draw a page, without a browser: the
    first time, the next case, another filter, and back; medians of ten."""
    from streamlit.testing.v1 import AppTest

    sys.argv = ["app.py", str(out)]
    app = AppTest.from_file(str(app_file()), default_timeout=120)
    app.query_params["reviewer"] = "Ada"
    found = dict[str, float]()
    timed(found, "first page", app.run)

    steps: dict[str, Callable[[], object]] = {
        "next case": lambda: app.button(key="next").click(),
        "filter on": lambda: app.radio(key="flagged").set_value("yes"),
        "filter off": lambda: app.radio(key="flagged").set_value("all"),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(10):
        for name, step in steps.items():
            step()
            start = time.process_time()
            app.run()
            times[name].append(time.process_time() - start)
    return found | {f"{name}, s of processors": median(each) for name, each in times.items()}


def in_browser(out: Path) -> dict[str, float]:
    """Return the seconds until the first case is on the screen, with the server just started and
    once it is warm, and the memory of the server."""
    found = {}
    with served([out]) as address, browser() as chromium:
        for name in ("first case on the screen, s", "first case, server warm, s"):
            page = chromium.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"{address}?reviewer=Ada")
            page.wait_for_selector("#viewer[data-painted=true]", timeout=120_000)
            found[name] = page.evaluate("performance.now()") / 1e3
            page.close()
    return found


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--pages", action="store_true", help="also draw pages, without a browser")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", type=Path, help="measure this directory in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        measure = in_app if arguments.pages else measured
        print(json.dumps(measure(arguments.measure)))
        return

    with tempfile.TemporaryDirectory() as scratch:
        out = write(Path(scratch), arguments.rows)
        size = sum(file.stat().st_size for file in out.iterdir()) / 2**20
        result: dict[str, float] = {"rows": arguments.rows, "tables, MB": round(size)}
        for option in [[], ["--pages"]][: 1 + arguments.pages]:
            command = [sys.executable, "-m", "benchmarks.large", "--measure", str(out), *option]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            result |= {name: round(value, 3) for name, value in json.loads(answer.stdout).items()}
        if arguments.browser:
            result |= {name: round(value, 2) for name, value in in_browser(out).items()}
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
