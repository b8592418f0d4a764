"""How many threads compute: the last bits of a score depend on it. No torch of its own."""

import sys

from threadpoolctl import threadpool_info, threadpool_limits


def in_use() -> int:
    """The most threads that a library loaded until now computes with."""
    counts = [pool["num_threads"] for pool in threadpool_info()]
    if torch := sys.modules.get(
        "torch"
    ):  # its own settings count for it; a detector without it shall not load it
        counts.append(torch.get_num_threads())
    return max(counts, default=1)


def limit(count: int) -> None:
    """Let every library loaded until now compute with `count` threads."""
    threadpool_limits(count)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(count)
