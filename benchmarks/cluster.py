"""The gain of more workers: scoring on this machine against one and two Ray workers.

    python -m benchmarks.cluster RUN [--images 300] [--workers 1,2] [--json]

Synthetic images in a temporary folder are scored, all of them and a third. The difference of the
two times gives images a second; the rest is the time to start.
"""

import tempfile
from pathlib import Path

import anodetect
from benchmarks import common
from benchmarks.audit import write_images


def seconds(run: Path, folder: Path, out: Path, workers: int) -> float:
    """Return the seconds to score a folder; 0 workers are this process alone."""
    how = {"engine": "ray", "workers": workers} if workers else {"workers": 1}
    return anodetect.score(run, [str(folder)], out, **how).seconds


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    result = {}
    sizes = {"all": arguments.images, "some": arguments.images // 3}
    with tempfile.TemporaryDirectory() as scratch:
        for name, count in sizes.items():
            write_images(Path(scratch, name), arguments.run, count, 256)

        for workers in [0, *map(int, arguments.workers.split(","))]:
            took = {}
            for name in sizes:
                out = Path(scratch, f"{name}{workers}")
                took[name] = seconds(arguments.run, Path(scratch, name), out, workers)
            rate = (sizes["all"] - sizes["some"]) / (took["all"] - took["some"])
            who = f"{workers} workers" if workers else "no cluster"
            result[f"images per second, {who}"] = round(rate, 1)
            result[f"seconds to start, {who}"] = round(took["some"] - sizes["some"] / rate, 1)
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
