"""How quick the review app is in a browser: first paint, and from case to case.

    python -m benchmarks.review [--rows 20000] [--side 256] [--steps 30] [--json]

A score directory of that many rows is made of a few synthetic images under many names, in a
temporary folder, and opened in the distribution's Chromium. Times are the browser's own: of the
first paint with content and of the first case on the screen, with the server just started and once
it is warm; and from a key to the next image on the screen.
"""

import argparse
import json
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
from anodetect.record.rows import ScoreRow, to_table

IMAGES = 60  # distinct ones
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
IMAGE = ".js-plotly-plot .imagelayer image"
# Milliseconds from a key to the next image on the screen: another picture in the first panel, and a
# frame drawn since.
WATCH = """() => { window.step = new Promise((resolve, reject) => {
  const shown = () => document.querySelector('.js-plotly-plot .imagelayer image')?.href.baseVal;
  const before = shown();
  window.addEventListener('click', () => {  // which the key is turned into at once
    const begun = performance.now();
    const look = () => shown() && shown() !== before
      ? requestAnimationFrame(() => resolve(performance.now() - begun))
      : requestAnimationFrame(look);
    look();
    setTimeout(() => reject('no other image'), 10000);
  }, {capture: true, once: true});
}); }"""


@contextmanager
def served(folders: Sequence[Path], *options: str) -> Iterator[str]:
    """The app on score directories, on a free port; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "anodetect.cli",
        "review",
        *map(str, folders),
        *options,
        "--port",
        str(port),
    ]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as app:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{address}/_stcore/health", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield address
        finally:
            app.terminate()


@contextmanager
def browser() -> Iterator[Browser]:
    """The distribution's Chromium."""
    with sync_playwright() as playwright:
        # A sandbox of its own cannot be had as root, as in most containers.
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


def large_directory(folder: Path, count: int, side: int) -> Path:
    """A score directory of `count` rows, whose images and heatmaps are IMAGES files under many
    names."""
    synthetic.write(folder / "set", train=60, test=IMAGES // 2, size=side)
    anodetect.train(str(folder / "set"), "pca", folder / "run")
    anodetect.score(folder / "run", [str(folder / "set")], folder / "few")
    few, out = directories.read(folder / "few"), folder / "scores"
    rows = []
    for number in range(count):
        row = few.rows[number % len(few.rows)]
        path, heatmap = (
            f"many/{number:05}/{Path(row.path).name}",
            f"heatmaps/{number:05}_heatmap.tiff",
        )
        rank = {
            "p_value": (number + 1) / count,
            "score": -float(number),
        }  # so that neighbours in the list look different
        rows.append(replace(row, path=path, heatmap=heatmap, group=str(number // 4), **rank))
        for source, target in (
            (folder / "set" / row.path, folder / path),
            (few.path / row.heatmap, out / heatmap),
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)
    made = ("format", "rows", "outputs", "chain", "head")
    audit = {key: value for key, value in few.audit.items() if key not in made} | {
        "root": str(folder)
    }
    directories.write(out, to_table(rows, ScoreRow), audit)
    return out


def opened(page: Page, address: str) -> tuple[float, float]:
    """Seconds to the first paint, and to the first case on the screen."""
    page.goto(address)
    page.wait_for_selector(IMAGE)
    return page.evaluate(FIRST_PAINT) / 1e3, page.evaluate("performance.now()") / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
            steps = {}
            for name, key in (
                ("new case", "n"),
                ("case seen before", "p"),
                ("verdict, next case", "a"),
            ):
                times = []
                for _ in range(arguments.steps):
                    page.wait_for_selector("body[aria-busy=false]", state="attached")
                    page.evaluate(WATCH)
                    page.keyboard.press(key)
                    times.append(page.evaluate("window.step"))
                    page.wait_for_timeout(700)  # a person looks at it
                steps[name] = sorted(times)
    result = {
        "first paint, s": round(cold, 2),
        "first case on the screen, s": round(first, 2),
        "first paint, server warm, s": round(warm, 2),
        "first case on the screen, server warm, s": round(again, 2),
    }
    for name, times in steps.items():
        result |= {
            f"{name}, median ms": round(median(times)),
            f"{name}, slowest ms": round(times[-1]),
        }
    print(
        json.dumps(result)
        if arguments.json
        else "\n".join(f"{name:>42}  {value}" for name, value in result.items())
    )


if __name__ == "__main__":
    main()
