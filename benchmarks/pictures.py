"""Pictures of every page of the review app, for docs/: synthetic images only.

    python -m benchmarks.pictures docs/review [--widths 1280 1920]

Two data sets are made, trained on (`pca`) and scored in a temporary folder: photographs of parts in
lots and, as axial slices, heads. Two readers judge some of them; then each page is opened in the
distribution's Chromium, light at the first width and dark at the others.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
from playwright.sync_api import Page, ViewportSize

import anodetect
from anodetect.data import synthetic
from anodetect.record import directories
from apps.review import jobs
from apps.review.store import Store
from benchmarks.review import IMAGE, browser, served

WAIT = 120_000  # milliseconds, on a busy machine
HIGH = {1280: 900, 1920: 1080}


def make(root: Path) -> None:
    """Score directories of parts and of volumes, some of them judged."""
    synthetic.write(root / "parts", train=90, test=30, size=112, seed=5)
    names = sorted(
        file.relative_to(root / "parts").as_posix() for file in (root / "parts/test").rglob("*.png")
    )
    train = sorted(
        file.relative_to(root / "parts").as_posix()
        for file in (root / "parts/train").rglob("*.png")
    )
    lines = [f"{name},train,,,train-{n}" for n, name in enumerate(train)]
    for n, name in enumerate(names):
        defect = "/defect/" in name
        mask = f"ground_truth/defect/{Path(name).stem}_mask.png" if defect else ""
        lines.append(f"{name},test,{int(defect)},{mask},lot-{n % 12:02}")
    (root / "parts/manifest.csv").write_text(
        "path,split,label,mask,group\n" + "\n".join(lines) + "\n"
    )
    for number in range(60):
        _head(root / f"normal-heads/head-{number:02}.nii.gz", 6, seed=100 + number)
    for number in range(4):
        _head(
            root / f"heads/head-{number}.nii.gz",
            14,
            seed=40 + number,
            defect=(3 * number, 2) if number else None,
        )
    os.chdir(root)  # so that no machine's folders stand in the pictures
    anodetect.train("parts", "pca", Path("runs/pca"))
    anodetect.score(Path("runs/pca"), ["parts"], Path("scores"), far=0.1)
    anodetect.train("normal-heads", "pca", Path("runs/heads"))
    anodetect.score(Path("runs/heads"), ["heads"], Path("volumes"), far=0.1)
    scores = directories.read(Path("scores"))
    store = Store(scores.path, scores.audit["head"])
    ranked = sorted(scores.rows, key=lambda row: (row.p_value, -row.score, row.path))
    for reader, count in (("Ben", 25), ("Ada", 14)):
        for n, row in enumerate(ranked[:count]):
            doubtful = reader == "Ben" and n % 9 == 4
            store.add(row, reader, "unsure" if doubtful else "anomalous" if row.label else "normal")
    store.close()


def _head(file: Path, depth: int, *, seed: int, defect: tuple[int, int] | None = None) -> None:
    """A volume of so many axial slices, with a defect from one slice on for some slices."""
    slices = synthetic.images(depth, size=160, seed=seed)[0][:, 0]
    if defect:
        start, count = defect
        slices[start : start + count] = synthetic.images(count, size=160, defects=True, seed=seed)[
            0
        ][:, 0]
    file.parent.mkdir(exist_ok=True)
    voxels = slices.transpose(2, 1, 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-1.0, -1.0, 5.0, 1.0])), file)


def pages(page: Page, address: str) -> Iterator[str]:
    """Open page after page, and name what is to be seen."""
    page.goto(f"{address}?reviewer=Ada")
    page.wait_for_selector(IMAGE, timeout=WAIT)
    for label in ("Contours", "Truth"):
        page.get_by_text(label, exact=True).click()
        settle(page)
    yield "cases"
    page.get_by_text("By patient or lot").click()
    settle(page)
    yield "lots"
    page.get_by_text("By patient or lot").click()
    page.get_by_text("Blind until judged").click()
    settle(page)
    page.get_by_role("button", name="Sort and filter").or_(
        page.get_by_role("button", name="Filter")
    ).click()
    page.get_by_label("Reviewed").click()
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
    page.wait_for_selector(IMAGE, timeout=WAIT)
    page.get_by_label("Score directory").click()
    page.get_by_role("option").last.click()  # the volumes
    settle(page)
    page.wait_for_timeout(3000)  # thumbnails
    settle(page)
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
    page.wait_for_timeout(1500)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=list(HIGH))
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make(root)
        with (
            served([Path("scores"), Path("volumes")], "--root", ".") as address,
            browser() as chromium,
        ):
            views = {}
            for number, width in enumerate(arguments.widths):
                size: ViewportSize = {"width": width, "height": HIGH.get(width, 1080)}
                views[width] = chromium.new_page(
                    viewport=size, color_scheme="dark" if number else "light"
                )
                views[width].set_default_timeout(WAIT)
            command = jobs.train_command(
                [root], "parts", "anoddpm", root / "runs/denoiser", budget=30
            )
            job = jobs.start(root, command, root / "runs/denoiser")
            try:
                for width, page in views.items():
                    training(page, address)
                    page.screenshot(path=out / f"train-{width}.png")
            finally:
                jobs.cancel(job)
            for width, page in views.items():
                for name in pages(page, address):
                    page.mouse.move(0, 0)
                    page.screenshot(path=out / f"{name}-{width}.png")


if __name__ == "__main__":
    main()
