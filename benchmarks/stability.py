"""Do all seeds end with a usable model?

    python benchmarks/stability.py DATA... --out DIR [--detectors ebm,jem] [--seeds 10] [--budget 1]

Short trainings of a detector's default with many seeds, in fresh processes, resumed where they
stopped; a row each with the range of image AUROC on the test part, how often training returned to
good weights, and how it ended.
"""

import argparse
from collections import Counter
from pathlib import Path

from anodetect.cli import reporting
from anodetect.commands import benchmark
from anodetect.errors import AnodetectError, Interrupted
from anodetect.record import runs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--detectors", default="ebm,jem")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=1.0)
    arguments = parser.parse_args()
    print(
        "| data set | detector | image AUROC, lowest | highest | returns | ended by |\n|---|---|---|---|---|---|"
    )
    with reporting() as reporter:
        for data in arguments.data:
            for detector in arguments.detectors.split(","):
                jobs = [
                    benchmark.Job(data, detector, seed, arguments.out)
                    for seed in range(arguments.seeds)
                ]
                values, returns, ended = [], 0, Counter()
                for job in jobs:
                    reporter.say(job.name)
                    try:
                        row = benchmark.finished(job, arguments.budget)
                    except Interrupted:
                        raise
                    except AnodetectError as error:
                        ended[f"failure: {error}"] += 1
                        continue
                    values.append(row["image_auroc"])
                    ended[row["stopped_by"]] += 1
                    returns += sum(
                        "returned_to_step" in record for record in runs.read_log(job.run)
                    )
                endings = ", ".join(f"{reason} {count}" for reason, count in ended.items())
                low, high = (
                    (f"{value:.3f}" for value in (min(values), max(values)))
                    if values
                    else ("–", "–")
                )
                print(
                    f"| {Path(data).name} | `{detector}` | {low} | {high} | {returns} | {endings} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
