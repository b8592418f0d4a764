"""Detectors and representations that a caller has registered, for other processes that score."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from anodetect.detectors import DETECTORS, Entry, entry_named
from anodetect.imaging.representations import REPRESENTATIONS
from anodetect.model.settings import parts_of_member
from anodetect.record.runs import RunHeader

MAIN = "__main__"


@dataclass(frozen=True)
class Registered:
    """Everything that is registered here; another process knows only what the package has."""

    detectors: Mapping[str, Entry] = field(default_factory=lambda: dict(DETECTORS))
    representations: Mapping[str, str] = field(default_factory=lambda: dict(REPRESENTATIONS))

    def register(self) -> None:
        """Register the same in this process."""
        DETECTORS.update(self.detectors)
        REPRESENTATIONS.update(self.representations)


def main_is_script() -> bool:
    """Return whether this process was started with a script, or has none (in a notebook, for
    example), so that no other can import what it defines; it can import a module that was started
    by name, with `python -m`."""
    spec = getattr(sys.modules[MAIN], "__spec__", None)
    return spec is None or spec.name.rpartition(".")[2] == MAIN


def is_of_script(header: RunHeader) -> bool:
    """Return whether a run's model is of classes that this process's script defines."""
    if not main_is_script():
        return False
    members = map(parts_of_member, header.config["detector"].get("members", ()))
    targets = []
    for detector, representation, _ in [(header.detector, header.representation, ""), *members]:
        entry = entry_named(detector)
        targets += [entry.target, entry.volume_target, REPRESENTATIONS.get(representation, "")]
    return any(target.partition(":")[0] == MAIN for target in targets)
