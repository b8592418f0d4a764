"""Does a short budget cost more accuracy than it has to?

    python -m benchmarks.anytime DATA... --out DIR [--budgets 0.25,0.5,1,5] [--seed 0]

Trains the recommended detector within each budget, and beside it the two models that need no
training to speak of: `pca` and `patchcore`. A row each with the minutes given and taken, the steps,
the image AUROC with its interval, the pixel AP, and what planted defects decided. No budget should
end below the linear model that training starts from.
"""

import time
from pathlib import Path

import anodetect
from anodetect.commands.train import outcome_lines
from anodetect.detectors import RECOMMENDED
from anodetect.imaging.representations import features_installed
from anodetect.record import runs
from benchmarks import common

HEAD = """\
| data set | detector | minutes given | taken | steps | image AUROC | pixel AP | decided |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budgets", default="0.25,0.5,1,5")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    budgets = [float(text) for text in arguments.budgets.split(",")]

    print(HEAD)
    for number, data in enumerate(arguments.data):
        folder = arguments.out / str(number)
        print(row(data, "pca", None, folder, arguments.seed), flush=True)
        if features_installed():
            print(row(data, "patchcore", None, folder, arguments.seed), flush=True)
        for budget in budgets:
            print(row(data, RECOMMENDED, budget, folder, arguments.seed), flush=True)


def row(data: str, detector: str, budget: float | None, folder: Path, seed: int) -> str:
    """Train a detector within a budget of minutes, evaluate it, and return its row."""
    run = folder / f"{detector}-{budget}"
    started = time.monotonic()
    trained = anodetect.train(data, detector, run, budget=budget, seed=seed)
    minutes = (time.monotonic() - started) / 60
    assert trained is not None

    evaluation = anodetect.evaluate(run, data).whole
    auroc = evaluation.image["auroc"]
    pixel = "–" if evaluation.pixel is None else f"{evaluation.pixel['ap']:.3f}"
    decided = "; ".join(outcome_lines(runs.read_log(run)))
    cells = [
        data,
        f"`{detector}`",
        "–" if budget is None else f"{budget:g}",
        f"{minutes:.2f}",
        str(trained.facts.training.steps or 0),
        f"{auroc.value:.3f} ({auroc.low:.3f}–{auroc.high:.3f})",
        pixel,
        decided,
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
