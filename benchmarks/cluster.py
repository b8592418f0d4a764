"""The gain of more workers: scoring on this machine against one and two Ray workers.

    python -m benchmarks.cluster RUN [--images 300] [--workers 1,2] [--json]

Synthetic images in a temporary folder are scored, all of them and a third. The difference of the
two times gives images a second; the rest is the time to start. The same difference of the calling
process's own CPU time is what an image costs where everything is put together, however many workers
there are; without a cluster it has the model in it. --heatmaps none writes no maps.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import anodetect
from anodetect.output.formats import DEFAULT
from benchmarks import common
from benchmarks.audit import write_images


@dataclass(frozen=True)
class Cost:
    """The seconds that a scoring took, and those that the calling process computed."""

    seconds: float
    own: float


def cost(run: Path, folder: Path, out: Path, workers: int, heatmaps: tuple[str, ...]) -> Cost:
    """Score a folder; 0 workers are this process alone."""
    how = {"engine": "ray", "workers": workers} if workers else {"workers": 1}
    start = time.process_time()
    took = anodetect.score(run, [str(folder)], out, heatmaps=heatmaps, **how).seconds
    return Cost(took, time.process_time() - start)


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--heatmaps", default=",".join(DEFAULT))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    heatmaps = () if arguments.heatmaps == "none" else tuple(arguments.heatmaps.split(","))
    result = {}
    sizes = {"all": arguments.images, "some": arguments.images // 3}
    with tempfile.TemporaryDirectory() as scratch:
        for name, count in sizes.items():
            write_images(Path(scratch, name), arguments.run, count, 256)

        for workers in [0, *map(int, arguments.workers.split(","))]:
            took = {}
            for name in sizes:
                out = Path(scratch, f"{name}{workers}")
                took[name] = cost(arguments.run, Path(scratch, name), out, workers, heatmaps)
            more, all_took, some_took = sizes["all"] - sizes["some"], took["all"], took["some"]
            rate = more / (all_took.seconds - some_took.seconds)
            own = 1000 * (all_took.own - some_took.own) / more
            who = f"{workers} workers" if workers else "no cluster"
            result[f"images per second, {who}"] = round(rate, 1)
            result[f"seconds to start, {who}"] = round(some_took.seconds - sizes["some"] / rate, 1)
            result[f"core-ms an image of the calling process, {who}"] = round(own, 2)
    common.show(result, arguments.json)


if __name__ == "__main__":
    main()
