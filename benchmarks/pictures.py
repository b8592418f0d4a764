"""Pictures of every page of the review app, for docs/: synthetic images only.

    python -m benchmarks.pictures docs/review [--widths 1280 1920]

Two data sets are made, trained on (`pca`) and scored in a temporary folder: photographs of parts in
lots and, as axial slices, heads. Two readers judge some of them; then each page is opened in the
distribution's Chromium, light at the first width and dark at the others.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import nibabel
import numpy as np
from playwright.sync_api import Browser, Page, ViewportSize

import anodetect
from anodetect.data import synthetic
from anodetect.record import directories
from anodetect.record.marks import Shown
from anodetect.record.reviews import Judgement
from apps.review import jobs
from apps.review.store import Store
from benchmarks import common
from benchmarks.review import PAINTED, browser, served

WAIT = 120_000  # milliseconds, on a busy machine
HIGH = {820: 1180, 1280: 900, 1920: 1080}


def make(root: Path) -> None:
    """Write score directories of parts and of volumes, some of them judged."""
    write_parts(root / "parts")
    for number in range(60):
        _head(root / f"normal-heads/head-{number:02}.nii.gz", 6, seed=100 + number)
    for number in range(4):
        defect = (3 * number, 2) if number else None
        _head(root / f"heads/head-{number}.nii.gz", 14, seed=40 + number, defect=defect)

    os.chdir(root)  # so that no machine's folders stand in the pictures
    anodetect.train("parts", "pca", Path("runs/pca"))
    anodetect.score(Path("runs/pca"), ["parts"], Path("scores"), far=0.1)
    anodetect.train("normal-heads", "pca", Path("runs/heads"))
    anodetect.score(Path("runs/heads"), ["heads"], Path("volumes"), far=0.1)
    judge(Path("scores"))


def write_parts(folder: Path) -> None:
    """Write photographs of parts with a manifest that names their lots."""
    synthetic.write(folder, train=90, test=30, size=112, seed=5)
    lines = ["path,split,label,mask,group"]
    for number, file in enumerate(sorted((folder / "train").rglob("*.png"))):
        lines.append(f"{file.relative_to(folder).as_posix()},train,,,train-{number}")
    for number, file in enumerate(sorted((folder / "test").rglob("*.png"))):
        name = file.relative_to(folder).as_posix()
        defect = "/defect/" in name
        mask = f"ground_truth/defect/{file.stem}_mask.png" if defect else ""
        lines.append(f"{name},test,{int(defect)},{mask},lot-{number % 12:02}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


def judge(path: Path) -> None:
    """Record the verdicts of two readers on the first cases of a score directory."""
    scores = directories.read(path)
    store = Store(scores.path, scores.audit.verdicts_start)
    ranked = sorted(
        scores.scored(), key=lambda row: (row.p_value or 0.0, -(row.score or 0.0), row.path)
    )
    for reader, count in (("Ben", 25), ("Ada", 14)):
        for number, row in enumerate(ranked[:count]):
            verdict: Judgement = "anomalous" if row.label else "normal"
            if reader == "Ben" and number % 9 == 4:
                verdict = "unsure"
            shown = [Shown(row.path, row.sha256 or "", painted=True)]
            store.add(row, reader, verdict, shown)
    store.close()


def _head(file: Path, depth: int, *, seed: int, defect: tuple[int, int] | None = None) -> None:
    """Write a volume of so many axial slices; `defect` is the first slice with a defect and the
    number of those slices."""
    slices = synthetic.images(depth, size=160, seed=seed)[0][:, 0]
    if defect:
        start, count = defect
        defects, _ = synthetic.images(count, size=160, defects=True, seed=seed)
        slices[start : start + count] = defects[:, 0]

    file.parent.mkdir(exist_ok=True)
    voxels = slices.transpose(2, 1, 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 5.0, 1.0])), file)


def pages(page: Page, address: str) -> Iterator[str]:
    """Open page after page, and yield the name of each."""
    page.goto(f"{address}?reviewer=Ada")
    page.wait_for_selector(PAINTED, timeout=WAIT)
    for label in ("Contours", "Truth"):
        page.get_by_label(label, exact=True).check()
    settle(page)
    yield "cases"

    page.get_by_text("By patient or lot").click()
    settle(page)
    yield "lots"

    page.get_by_text("By patient or lot").click()
    page.get_by_text("Blind until judged").click()
    settle(page)
    filters = page.get_by_role("button", name="Filter")
    page.get_by_role("button", name="Sort and filter").or_(filters).click()
    page.get_by_label(re.compile("Judged$")).click()
    page.get_by_text("not by me", exact=True).click()
    page.keyboard.press("Escape")
    settle(page)
    page.keyboard.press("n")
    settle(page)
    yield "blind"

    page.get_by_text("Blind until judged").click()
    for name in ("Threshold", "Summary"):
        page.get_by_text(name, exact=True).first.click()
        settle(page)
        yield name.lower()

    page.goto(f"{address}?reviewer=Ada")
    page.wait_for_selector(PAINTED, timeout=WAIT)
    page.get_by_label("Score directory").click()
    page.get_by_role("option").last.click()  # the volumes
    settle(page)
    page.wait_for_timeout(3000)  # thumbnails
    settle(page)
    page.wait_for_selector(PAINTED, timeout=WAIT)
    yield "volume"


def training(page: Page, address: str) -> None:
    """Open the page to train on, while a training is under way."""
    page.goto(f"{address}?page=Train")
    page.get_by_role("figure", name="Loss by step").or_(
        page.locator("[data-testid=stVegaLiteChart]")
    ).wait_for()
    settle(page)


def settle(page: Page) -> None:
    """Wait until nothing is being drawn."""
    page.wait_for_timeout(700)
    page.wait_for_selector("[data-test-script-state=notRunning]", state="attached", timeout=WAIT)
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')", timeout=WAIT)
    page.wait_for_timeout(1500)


def views(chromium: Browser, widths: Sequence[int]) -> dict[int, Page]:
    """Return a page of each width, light at the first and dark at the others."""
    found = {}
    for number, width in enumerate(widths):
        size: ViewportSize = {"width": width, "height": HIGH.get(width, 1080)}
        found[width] = chromium.new_page(viewport=size, color_scheme="dark" if number else "light")
        found[width].set_default_timeout(WAIT)
    return found


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[1280, 1920])
    parser.add_argument("--only", nargs="+", default=None, help="names of pages; all without it")
    arguments = parser.parse_args()

    out = arguments.out.absolute()
    out.mkdir(exist_ok=True)
    root = Path(tempfile.gettempdir(), "pictures")  # the pages show it
    root.mkdir()
    try:
        make(root)
        folders = [Path("scores"), Path("volumes")]
        with served(folders, "--root", ".") as address, browser() as chromium:
            opened = views(chromium, arguments.widths)
            for width, page in opened.items():
                for name in pages(page, address):
                    page.mouse.move(0, 0)
                    if arguments.only is None or name in arguments.only:
                        page.screenshot(path=out / f"{name}-{width}.png")
            if arguments.only is None or "train" in arguments.only:
                picture_training(opened, address, root, out)
    finally:
        shutil.rmtree(root)


def picture_training(opened: Mapping[int, Page], address: str, root: Path, out: Path) -> None:
    """Take pictures of the page to train on."""
    run = root / "runs/denoiser"
    job = jobs.start(root, jobs.train_command([root], "parts", "anoddpm", run, budget=30))
    try:
        for width, page in opened.items():
            training(page, address)
            page.screenshot(path=out / f"train-{width}.png")
    finally:
        jobs.cancel(job)


if __name__ == "__main__":
    main()
