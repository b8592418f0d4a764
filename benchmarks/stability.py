"""Do all seeds end with a usable model?

    python benchmarks/stability.py DATA... --out DIR [--detectors ebm,jem] [--seeds 10] [--budget 1]

Short trainings of a detector's default with many seeds, in fresh processes, resumed where they stopped; a row each with
the range of image AUROC on the test part, how often training returned to good weights, and how it ended.
"""

import argparse
from collections import Counter
from pathlib import Path

from anodetect import benchmark, runs
from anodetect.cli import reporting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--detectors", default="ebm,jem")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=1.0)
    arguments = parser.parse_args()
    detectors = arguments.detectors.split(",")
    with reporting() as reporter:
        result = benchmark.run(
            arguments.data,
            detectors,
            arguments.out,
            seeds=arguments.seeds,
            budget=arguments.budget,
            reporter=reporter,
        )
    rows = iter(result["rows"])  # in this order
    print("| data set | detector | image AUROC, lowest | highest | returns | ended by |\n|---|---|---|---|---|---|")
    for data in arguments.data:
        for detector in detectors:
            jobs = [benchmark.Job(data, detector, seed, arguments.out) for seed in range(arguments.seeds)]
            logs = [runs.read_log(job.run) for job in jobs]
            returns = sum("returned_to_step" in record for log in logs for record in log)
            ended = Counter(runs.facts(job.run)["stopped_by"] for job in jobs)
            values = [next(rows)["image_auroc"] for _ in jobs]
            endings = ", ".join(f"{reason} {count}" for reason, count in ended.items())
            print(
                f"| {Path(data).name} | `{detector}` | {min(values):.3f} | {max(values):.3f} | {returns} | {endings} |"
            )


if __name__ == "__main__":
    main()
