"""The number of threads that compute, on which the last bits of a score depend. torch is used only
if it has been imported."""

import sys

from threadpoolctl import threadpool_info, threadpool_limits


def in_use() -> int:
    """Return the highest number of threads that a library loaded until now computes with."""
    counts = [pool["num_threads"] for pool in threadpool_info()]
    if torch := sys.modules.get("torch"):  # it has a setting of its own
        counts.append(torch.get_num_threads())
    return max(counts, default=1)


def limit(count: int) -> None:
    """Let every library loaded until now compute with `count` threads."""
    threadpool_limits(count)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(count)
