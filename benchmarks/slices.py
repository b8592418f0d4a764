"""The slices of a volume that the viewer shows in a second.

    python -m benchmarks.slices [--side 512] [--depth 120] [--json]

A volume in Hounsfield units of that size and its map, made up, are opened in the distribution's
Chromium (software rendering). Once the slices ahead have been fetched, the wheel is turned by one
notch a frame from the first slice to the last. Counted are the slices that the record of a verdict
then names: those that were painted in all three panels and stayed for two frames. Processor time is
that of the page's own thread, each slice painted twice with and twice without its map.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np

import anodetect
from anodetect.data import synthetic
from anodetect.files import sha256_of
from anodetect.record import directories, reviews
from anodetect.record.directories import ScoreDirectory
from anodetect.record.rows import OutputRow, ScoreRow, SliceRow, to_table
from benchmarks import common
from benchmarks.review import PAINTED, WAIT, browser, served

AFFINE = np.diag([-0.5, -0.5, 2.0, 1.0])
TURN = """async (count) => {
  const panels = document.querySelector('#viewer .panels .panel'), begun = performance.now();
  for (let n = 0; n < count; n++) {
    const turned = {deltaY: 120, bubbles: true, cancelable: true};
    panels.dispatchEvent(new WheelEvent('wheel', turned));
    await new Promise((resolve) => requestAnimationFrame(resolve));
  }
  return performance.now() - begun;
}"""


def write(folder: Path, few: ScoreDirectory, side: int, depth: int) -> Path:
    """Write a volume with its map and its score directory, which has the other facts of a row of
    `few`, and return its path."""
    random = np.random.default_rng(0)
    values = random.normal(40, 10, (side, side, 1)) + np.linspace(-9, 9, depth)
    values[: side // 8] = values[-side // 8 :] = -1000
    heatmap = np.zeros(values.shape, np.float32)
    heatmap[side // 3 : side // 2, side // 3 : side // 2] = few.audit.scale[1]

    out = folder / "scores"
    (folder / "images").mkdir(parents=True)
    (out / "heatmaps").mkdir(parents=True)
    volume, written = folder / "images/a.nii", out / "heatmaps/a_heatmap.nii"
    nibabel.save(nibabel.Nifti1Image(np.rint(values).astype(np.int16), AFFINE), volume)
    nibabel.save(nibabel.Nifti1Image(heatmap, AFFINE), written)

    name, found = "a.nii", few.rows[0]
    row = replace(found, path=name, group=name, sha256=sha256_of(volume))
    row = replace(row, heatmap="heatmaps/a_heatmap.nii", width=side, height=side, depth=depth)
    slices = []
    for number in range(depth):
        slices.append(
            SliceRow(
                path=name,
                group=name,
                axis="axial",
                slice=number,
                left_mm=0.0,
                posterior_mm=0.0,
                superior_mm=2.0 * number,
                foreground=1.0,
                score=float(-number),  # the first one is shown first
            )
        )
    output = OutputRow(name=row.heatmap, path=name, kind="nifti", sha256=sha256_of(written))

    tables = directories.Tables(
        to_table([row], ScoreRow),
        slices=to_table(slices, SliceRow),
        outputs=to_table([output], OutputRow),
    )
    audit = replace(few.audit, root=str(folder / "images"), heatmaps=("nifti",))
    directories.write(out, audit, tables)
    return out


def shown_in(scores: Path) -> int:
    """Return the number of slices that the only verdict names as shown."""
    (review,) = reviews.read(scores / reviews.FILE)
    count = 0
    for part in (review.shown or "").partition(" ")[2].split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def measure(scores: Path, depth: int) -> dict[str, float]:
    """Return the slices a second, and the milliseconds of the page's thread for each."""
    with served([scores]) as address, browser() as chromium:
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}?reviewer=Ada")
        page.wait_for_selector(PAINTED, timeout=WAIT)
        page.wait_for_timeout(5000)  # the slices ahead

        tools = page.context.new_cdp_session(page)
        tools.send("Performance.enable", {"timeDomain": "threadTicks"})
        used = []
        for _ in range(2):
            metrics = tools.send("Performance.getMetrics")["metrics"]
            used.append(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))
            if len(used) == 1:
                seconds = page.evaluate(TURN, depth - 1) / 1e3
        page.wait_for_selector(PAINTED, timeout=WAIT)
        page.keyboard.press("1")
        page.locator("#viewer .receipt", has_text="Saved").wait_for(timeout=WAIT)

    count = shown_in(scores)
    return {
        "slices shown": count,
        "slices a second": round((count - 1) / seconds, 1),
        "processor time for each, ms": round((used[1] - used[0]) * 1e3 / count, 1),
    }


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--depth", type=int, default=120)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        synthetic.write(folder / "set", train=40, test=2, size=64)
        anodetect.train(str(folder / "set"), "pca", folder / "run")
        anodetect.score(folder / "run", [str(folder / "set/test")], folder / "few")
        few = directories.read(folder / "few")
        result = measure(
            write(folder / "volume", few, arguments.side, arguments.depth), arguments.depth
        )
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    result["load of the machine per processor"] = round(load, 1)
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
