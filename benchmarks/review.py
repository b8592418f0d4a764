"""The speed of the viewer in a browser: first paint, from case to case, and a large image.

    python -m benchmarks.review [--rows 5000] [--side 256] [--steps 30] [--megapixels 100] [--json]

A score directory of that many rows is made of a few synthetic images under many names, in a
temporary folder, and opened in the distribution's Chromium. Times are the browser's own: of the
first paint with content and of the first case on the screen, with the server just started and once
it is warm; from a key until the next case is painted; and from the request for a large image until
it is painted, the first time and once its pyramid is there.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import tifffile
from playwright.sync_api import Browser, Page, sync_playwright

import anodetect
from anodetect.data import synthetic
from anodetect.files import sha256_of
from anodetect.record import directories
from anodetect.record.directories import ScoreDirectory
from anodetect.record.rows import OutputRow, ScoreRow, to_table
from benchmarks import common

IMAGES = 60  # distinct ones
WAIT = 120_000  # milliseconds, on a busy machine
KEYS = {"new case": "n", "case seen before": "p", "verdict, next case": "1"}
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
PAINTED = "#viewer[data-painted=true]"
# Milliseconds from a key until the viewer says that another case is painted: all its tiles are
# drawn, and a frame has passed since.
WATCH = """() => { window.step = new Promise((resolve, reject) => {
  const root = document.querySelector('#viewer'), before = root.dataset.case;
  new MutationObserver((_, observer) => {
    if (root.dataset.painted !== 'true' || root.dataset.case === before) return;
    observer.disconnect();
    resolve(performance.now() - window.pressed);
  }).observe(root, {attributes: true});
  setTimeout(() => reject('no other case'), 30000);
}); }"""
# Before the viewer listens, which lets nobody else have its keys.
PRESSED = "addEventListener('keydown', (event) => { window.pressed = event.timeStamp; }, true)"
# Milliseconds from the request for a case until it is painted.
SHOWN = """() => performance.now() - performance.getEntriesByType('resource').find(
  (entry) => entry.name.includes('/viewer/case/')).startTime"""


@contextmanager
def served(
    folders: Sequence[Path],
    *options: str,
    port: int | None = None,
    home: Path | None = None,
) -> Iterator[str]:
    """Serve the app on score directories at this port or a free one, for the user or for one whose
    `home` this is, and yield its address."""
    port = port or free_port()
    command = [sys.executable, "-m", "anodetect.cli", "review", *map(str, folders), *options]
    command += ["--port", str(port)]
    address = f"http://127.0.0.1:{port}"

    environment = os.environ | ({"HOME": str(home)} if home else {})
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment) as app:
        try:
            _wait_for(address)
            yield address
        finally:
            app.terminate()


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _wait_for(address: str) -> None:
    """Wait up to a minute until the app answers."""
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the distribution's Chromium."""
    with sync_playwright() as playwright:
        # A sandbox of its own cannot be had as root, as in most containers.
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


def large_directory(folder: Path, count: int, side: int) -> Path:
    """Write a score directory of `count` rows, whose images and heatmaps are IMAGES files under
    many names, and return its path."""
    synthetic.write(folder / "set", train=60, test=IMAGES // 2, size=side)
    anodetect.train(str(folder / "set"), "pca", folder / "run")
    anodetect.score(folder / "run", [str(folder / "set")], folder / "few")
    few, out = directories.read(folder / "few"), folder / "scores"

    rows, outputs = [], []
    for number in range(count):
        row = few.rows[number % len(few.rows)]
        path = f"many/{number:05}/{Path(row.path).name}"
        heatmap = f"heatmaps/{number:05}_heatmap.tiff"
        _link(folder / "set" / row.path, folder / path)
        _link(few.path / row.heatmap, out / heatmap)
        # Ranked by number, so that neighbours in the list look different.
        ranked = replace(row, p_value=(number + 1) / count, score=-float(number))
        rows.append(replace(ranked, path=path, heatmap=heatmap, group=str(number // 4)))
        digest = few.output_hash(row.heatmap)
        outputs.append(OutputRow(name=heatmap, path=path, kind="tiff", sha256=digest))

    tables = directories.Tables(to_table(rows, ScoreRow), outputs=to_table(outputs, OutputRow))
    directories.write(out, replace(few.audit, root=str(folder)), tables)
    return out


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, target)


def huge_directory(folder: Path, few: ScoreDirectory, megapixels: int) -> Path:
    """Write a score directory of one 8-bit image of so many megapixels with its map, which has the
    other facts of a row of `few`, and return its path."""
    side, row = round((megapixels * 1e6) ** 0.5), few.rows[0]
    random = np.random.default_rng(0)
    tile = random.integers(0, 200, (500, 500), np.uint8)
    image = np.tile(tile, (side // 500 + 1, side // 500 + 1))[:side, :side]
    heatmap = np.zeros((side, side), np.float32)
    heatmap[side // 2 : side // 2 + 300, side // 2 : side // 2 + 300] = 2 * few.audit.scale[1]

    out = folder / "scores"
    (folder / "images").mkdir(parents=True)
    (out / "heatmaps").mkdir(parents=True)
    tifffile.imwrite(folder / "images/a.tiff", image)
    tifffile.imwrite(out / "heatmaps/a.tiff", heatmap)
    digest = sha256_of(folder / "images/a.tiff")
    row = replace(row, path="a.tiff", heatmap="heatmaps/a.tiff", sha256=digest, group="a")
    row = replace(row, width=side, height=side)
    digest = sha256_of(out / "heatmaps/a.tiff")
    output = OutputRow(name="heatmaps/a.tiff", path="a.tiff", kind="tiff", sha256=digest)

    tables = directories.Tables(to_table([row], ScoreRow), outputs=to_table([output], OutputRow))
    directories.write(out, replace(few.audit, root=str(folder / "images")), tables)
    return out


def opened(page: Page, address: str) -> tuple[float, float]:
    """Return the seconds to the first paint, and to the first case on the screen."""
    page.goto(address)
    page.wait_for_selector(PAINTED, timeout=WAIT)
    return page.evaluate(FIRST_PAINT) / 1e3, page.evaluate("performance.now()") / 1e3


def steps(page: Page, key: str, count: int) -> list[float]:
    """Press a key `count` times and return the milliseconds to the next case, the slowest last."""
    times = []
    for _ in range(count):
        page.wait_for_selector(PAINTED, timeout=WAIT)
        page.wait_for_selector("[data-test-script-state=notRunning]", state="attached")
        page.evaluate(WATCH)
        page.keyboard.press(key)
        times.append(page.evaluate("window.step"))
        page.wait_for_timeout(700)  # a person looks at it
    return sorted(times)


def of_rows(scores: Path, count: int) -> dict[str, float]:
    """Return the times with a score directory of many small images, each key pressed `count`
    times."""
    result = {}
    with served([scores]) as address, browser() as chromium:
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(PRESSED)
        for name in ("", ", server warm"):
            paint, first = opened(page, f"{address}?reviewer=Ada")
            result[f"first paint{name}, s"] = round(paint, 2)
            result[f"first case on the screen{name}, s"] = round(first, 2)
        for name, key in KEYS.items():
            times = steps(page, key, count)
            result[f"{name}, median ms"] = round(median(times))
            result[f"{name}, slowest ms"] = round(times[-1])
    return result


def of_pixels(scores: Path, megapixels: int) -> dict[str, float]:
    """Return the seconds from the request for a large image until it is painted, the first time and
    once its pyramid is there, and the seconds of processor time that the app took meanwhile."""
    result = {}
    with served([scores]) as address, browser() as chromium:
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        for name in ("first time", "again"):
            before = _processor_seconds()
            opened(page, f"{address}?reviewer=Ada")
            what = f"{megapixels} megapixels, {name}"
            result[f"{what}, s"] = round(page.evaluate(SHOWN) / 1e3, 2)
            result[f"{what}, processor s"] = round(_processor_seconds() - before, 2)
    return result


def _processor_seconds() -> float:
    """Return the processor time that the app has taken so far."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("python"):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--megapixels", type=int, default=100, help="0 leaves this out")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        scores = large_directory(folder, arguments.rows, arguments.side)
        result = of_rows(scores, arguments.steps)
        if arguments.megapixels:
            few = directories.read(folder / "few")
            huge = huge_directory(folder / "huge", few, arguments.megapixels)
            result |= of_pixels(huge, arguments.megapixels)
    result["load of the machine per processor"] = round(
        os.getloadavg()[0] / (os.cpu_count() or 1), 1
    )
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
