"""What more workers bring: scoring on this machine against one and two Ray workers.

    python -m benchmarks.cluster RUN [--images 300] [--workers 1,2] [--json]

Synthetic images in a temporary folder, all of them and a third; what the difference takes gives
images a second, the rest is what it takes to start.
"""

import argparse
import json
import tempfile
from pathlib import Path

import anodetect
from benchmarks.audit import write_images


def seconds(run: Path, folder: Path, out: Path, workers: int) -> float:
    """What it takes to score a folder; without workers here."""
    how = {"engine": "ray", "workers": workers} if workers else {"workers": 1}
    return float(anodetect.score(run, [str(folder)], out, **how)["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = {}
    with tempfile.TemporaryDirectory() as scratch:
        sizes = {name: arguments.images // part for name, part in (("all", 1), ("some", 3))}
        for name, count in sizes.items():
            write_images(Path(scratch, name), arguments.run, count, 256)
        for workers in [0, *map(int, arguments.workers.split(","))]:
            took = {
                name: seconds(
                    arguments.run, Path(scratch, name), Path(scratch, f"{name}{workers}"), workers
                )
                for name in sizes
            }
            rate = (sizes["all"] - sizes["some"]) / (took["all"] - took["some"])
            who = f"{workers} workers" if workers else "no cluster"
            result[f"images per second, {who}"] = round(rate, 1)
            result[f"seconds to start, {who}"] = round(took["some"] - sizes["some"] / rate, 1)
    print(
        json.dumps(result)
        if arguments.json
        else "\n".join(f"{name:>34}  {value}" for name, value in result.items())
    )


if __name__ == "__main__":
    main()
