"""The command line, the clock and the output that benchmarks share."""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose --help prints a script's docstring as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def median_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Return the median of several calls in seconds, after one call that does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def show(result: Mapping[str, object], as_json: bool) -> None:
    """Print measured values, as JSON or a line each."""
    if as_json:
        print(json.dumps(result))
        return
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name:>{width}}  {value}")
