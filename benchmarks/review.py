"""The speed of the review app in a browser: first paint, and from case to case.

    python -m benchmarks.review [--rows 20000] [--side 256] [--steps 30] [--json]

A score directory of that many rows is made of a few synthetic images under many names, in a
temporary folder, and opened in the distribution's Chromium. Times are the browser's own: of the
first paint with content and of the first case on the screen, with the server just started and once
it is warm; and from a key to the next image on the screen.
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

from playwright.sync_api import Browser, Page, sync_playwright

import anodetect
from anodetect.data import synthetic
from anodetect.record import directories
from anodetect.record.rows import OutputRow, ScoreRow, to_table
from benchmarks import common

IMAGES = 60  # distinct ones
KEYS = {"new case": "n", "case seen before": "p", "verdict, next case": "1"}
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
IMAGE = ".js-plotly-plot .imagelayer image"
# Milliseconds from a key to the next image on the screen: another picture in the first panel, and a
# frame drawn since.
WATCH = """() => { window.step = new Promise((resolve, reject) => {
  const shown = () => document.querySelector('.js-plotly-plot .imagelayer image')?.href.baseVal;
  const before = shown();
  window.addEventListener('click', () => {  // the key becomes a click at once
    const begun = performance.now();
    const look = () => shown() && shown() !== before
      ? requestAnimationFrame(() => resolve(performance.now() - begun))
      : requestAnimationFrame(look);
    look();
    setTimeout(() => reject('no other image'), 10000);
  }, {capture: true, once: true});
}); }"""


@contextmanager
def served(
    folders: Sequence[Path],
    *options: str,
    viewer: bool = False,
    port: int | None = None,
    home: Path | None = None,
) -> Iterator[str]:
    """Serve the app on score directories at this port or a free one, with or without its viewer,
    for the user or for one whose `home` this is, and yield its address."""
    port = port or free_port()
    command = [sys.executable, "-m", "anodetect.cli", "review", *map(str, folders), *options]
    command += ["--port", str(port)]
    address = f"http://127.0.0.1:{port}"

    environment = os.environ | {"ANODETECT_VIEWER": "on" if viewer else "off"}
    environment |= {"HOME": str(home)} if home else {}
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


def opened(page: Page, address: str) -> tuple[float, float]:
    """Return the seconds to the first paint, and to the first case on the screen."""
    page.goto(address)
    page.wait_for_selector(IMAGE)
    return page.evaluate(FIRST_PAINT) / 1e3, page.evaluate("performance.now()") / 1e3


def steps(page: Page, key: str, count: int) -> list[float]:
    """Press a key `count` times and return the milliseconds to the next image, the slowest last."""
    times = []
    for _ in range(count):
        page.wait_for_selector("body[aria-busy=false]", state="attached")
        page.wait_for_function("window.anodetect.painted === window.anodetect.data.key")
        page.evaluate(WATCH)
        page.keyboard.press(key)
        times.append(page.evaluate("window.step"))
        page.wait_for_timeout(700)  # a person looks at it
    return sorted(times)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        scores = large_directory(Path(scratch), arguments.rows, arguments.side)
        with served([scores]) as address, browser() as chromium:
            page = chromium.new_page(viewport={"width": 1280, "height": 900})
            cold, first = opened(page, f"{address}?reviewer=Ada")
            warm, again = opened(page, f"{address}?reviewer=Ada")
            result = {
                "first paint, s": round(cold, 2),
                "first case on the screen, s": round(first, 2),
                "first paint, server warm, s": round(warm, 2),
                "first case on the screen, server warm, s": round(again, 2),
            }
            for name, key in KEYS.items():
                times = steps(page, key, arguments.steps)
                result[f"{name}, median ms"] = round(median(times))
                result[f"{name}, slowest ms"] = round(times[-1])
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
