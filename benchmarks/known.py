"""What a few known anomalies are worth to `jem`, by each loss for them.

    python -m benchmarks.known [KIND...] [--known 5,20,50] [--steps 400] [--seeds 3] [--out FILE]

KIND is `mono` or `poly` of the solar cells, by default `mono`. Known are cells with a defect
probability of 2/3, which are in no test part; the test part is the card's. All rows have the same
number of steps. Differences are to no known anomalies with the same seed, paired over images.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import anodetect
from anodetect.data import cards
from anodetect.data.records import Record
from anodetect.model.model import Model
from anodetect.record import runs
from anodetect.types import Floats
from benchmarks import common, sanity
from benchmarks.recipes import row, shown, write_rows

MARGINS = ("energy", "perceptron", "hinge")


def doubtful(kind: str) -> list[Path]:
    """Return the files of cells with a defect probability of 2/3, in a fixed random order."""
    root = cards.open_data(f"elpv:{kind}").root
    found = []
    for line in (root / "labels.csv").read_text("utf-8").splitlines():
        name, probability, own = line.split()
        if own == kind and 0.5 < float(probability) < 1:
            found.append(root / name)
    return [found[n] for n in np.random.default_rng(0).permutation(len(found))]


def write_folder(folder: Path, normal: Sequence[Record], known: Sequence[Path]) -> None:
    """Write normal images and known anomalies to learn from, with a manifest."""
    lines = ["path,split,label,kind"]
    parts = [(record.path, "0,good") for record in normal] + [
        (path, "1,defective") for path in known
    ]
    for path, answer in parts:
        name = f"{len(lines)}{path.suffix}"
        shutil.copyfile(path, folder / name)
        lines.append(f"{name},train,{answer}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n", "utf-8")


def scores(
    folder: Path, values: Mapping[str, Any], known: int, seeds: int, images: Sequence[Floats]
) -> NDArray[np.float64]:
    """Return the scores [seeds, images] of detectors that learned from a folder."""
    found = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as place:
            run = Path(place) / "run"
            anodetect.train(
                str(folder), "jem", run, values=values, seed=seed, known_anomalies=known > 0
            )
            found.append(sanity.scores(Model.load(runs.read(run), "cpu"), images))
    return np.array(found)


def main() -> None:
    """Print a row for each loss and number of known anomalies."""
    parser = common.parser(__doc__)
    parser.add_argument("kinds", nargs="*", default=["mono"])
    parser.add_argument("--known", default="5,20,50")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.known.split(",")]
    cases = [(0, "hinge"), *((count, margin) for count in counts for margin in MARGINS)]

    rows = []
    for kind in arguments.kinds:
        dataset, odd = cards.open_data(f"elpv:{kind}"), doubtful(kind)
        images = sanity.images_of(dataset.labelled())
        labels = np.array([record.label for record in dataset.labelled()])
        usual: NDArray[np.float64] | None = None
        for count, margin in cases:
            values = {"training": {"steps": arguments.steps}, "margin": margin}
            with tempfile.TemporaryDirectory() as folder:
                write_folder(Path(folder), dataset.training(), odd[:count])
                found = scores(Path(folder), values, count, arguments.seeds, images)
            usual = found if usual is None else usual
            name = f"{count} known, {margin}" if count else "none known"
            rows.append(row(kind, name, labels, found, usual))
            print(shown(rows[-1]), flush=True)
    if arguments.out:
        write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
