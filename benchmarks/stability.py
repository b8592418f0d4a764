"""Do all seeds end with a usable model?

    python -m benchmarks.stability DATA... --out DIR [--detectors ebm,jem] [--seeds 10] [--budget 1]

Short trainings of a detector's default with many seeds, in fresh processes, resumed where they
stopped; a row each with the range of image AUROC on the test part, how often training returned to
good weights, and how it ended.
"""

import argparse
from collections import Counter
from pathlib import Path

from anodetect.commands import benchmark
from anodetect.commands.terminal import reporting
from anodetect.errors import AnodetectError, Interrupted
from anodetect.record import runs
from anodetect.types import Reporter
from benchmarks import common

HEAD = """\
| data set | detector | image AUROC, lowest | highest | returns | ended by |
|---|---|---|---|---|---|"""


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--detectors", default="ebm,jem")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=1.0)
    arguments = parser.parse_args()

    print(HEAD)
    with reporting() as reporter:
        for data in arguments.data:
            for detector in arguments.detectors.split(","):
                print(row(data, detector, arguments, reporter), flush=True)


def row(data: str, detector: str, arguments: argparse.Namespace, reporter: Reporter) -> str:
    """Train with every seed and return the detector's row."""
    values: list[float] = []
    returns, ended = 0, Counter[str | None]()
    for seed in range(arguments.seeds):
        job = benchmark.Job(data, detector, seed, arguments.out)
        reporter.say(job.name)
        try:
            result = benchmark.finished(job, arguments.budget).row
        except Interrupted:
            raise
        except AnodetectError as error:
            ended[f"failure: {error}"] += 1
            continue

        if result.image_auroc is not None:
            values.append(result.image_auroc)
        ended[result.stopped_by] += 1
        returns += sum("returned_to_step" in entry for entry in runs.read_log(job.run))

    low = f"{min(values):.3f}" if values else "–"
    high = f"{max(values):.3f}" if values else "–"
    endings = ", ".join(f"{reason} {count}" for reason, count in ended.items())
    return f"| {Path(data).name} | `{detector}` | {low} | {high} | {returns} | {endings} |"


if __name__ == "__main__":
    main()
