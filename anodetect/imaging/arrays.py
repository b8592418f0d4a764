"""Arrays from a model file, which may come from anywhere: checked before they are used."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anodetect.types import State

Shape = tuple[int | None, ...]  # None stands for any length but 0


def array_in(
    state: State, name: str, shape: Shape, kind: type[np.generic] = np.float32
) -> NDArray[Any]:
    """Return the array of this name; KeyError if there is none, ValueError unless it has this type
    and shape."""
    check_array(name, state[name], shape, kind)
    return state[name]


def check_array(
    name: str, array: NDArray[Any], shape: Shape, kind: type[np.generic] = np.float32
) -> None:
    """Raise ValueError unless an array has this type and shape."""
    if len(array.shape) == len(shape) and array.dtype == np.dtype(kind):
        pairs = zip(array.shape, shape, strict=True)
        if all(side > 0 if wanted is None else side == wanted for side, wanted in pairs):
            return
    sides = ", ".join("…" if side is None else str(side) for side in shape)
    raise ValueError(
        f"{name} is {array.dtype} [{', '.join(map(str, array.shape))}], where {np.dtype(kind)} "
        f"[{sides}] is expected"
    )
