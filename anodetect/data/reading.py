"""The choices that a run makes of how its files are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Component = int | str | None  # the number of a volume in a file or series, or its name in a series


@dataclass(frozen=True, slots=True)
class Reading:
    """Which part of a file is read. `component` is the volume to take of a file or series that
    holds several, unless the record names one. With `frames` a DICOM file of several frames that
    are no slices of a volume is a stack of pictures. With `flip_right` a DICOM image of a right
    breast, hand or knee is mirrored, so that it looks like one of the left."""

    component: Component = None
    frames: bool = False
    flip_right: bool = False


AS_IT_IS = Reading()


def reading_of(config: Mapping[str, Any]) -> Reading:
    """Return the choices in the configuration of a run, which an older one may lack."""
    section = config.get("preprocess", {})
    return Reading(
        component=section.get("component"),
        frames=bool(section.get("frames", False)),
        flip_right=bool(section.get("flip_right", False)),
    )


def component_of(cell: str) -> Component:
    """Return the number or the name of a component in a manifest's cell, None if that is empty."""
    return int(cell) if cell.isdecimal() else cell or None
