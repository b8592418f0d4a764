"""The parts of a score directory that are verified one by one, and what is known of each."""

from dataclasses import dataclass
from typing import Literal

# authenticated: it is what a head that was kept, or a signature by a trusted key, stands for.
# consistent: it holds together, as whoever can write the directory can make it do.
# broken: it does not. not covered: it is not there, or nothing says what it should be.
State = Literal["authenticated", "consistent", "broken", "not covered"]


@dataclass(frozen=True)
class Part:
    """The state of a part, in `why` what that rests on, and its problems: none unless it is
    broken."""

    state: State
    why: str
    problems: tuple[str, ...] = ()


def part_of(problems: list[str], state: State, why: str) -> Part:
    """Return a part in this state, or, if it has problems, a broken one."""
    if not problems:
        return Part(state, why)
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return Part("broken", problems[0] + more, tuple(problems))
