"""The list of detectors, and every setting of one of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from anodetect.commands.texts import drawn
from anodetect.detectors import DETECTORS, entry_named

if TYPE_CHECKING:  # it imports torch, which the listing does not need
    from anodetect.commands.settings import DetectorSettings

SETTING_WIDTH = 42  # characters of the column of a setting's key, default and range


@dataclass(frozen=True)
class ListedDetector:
    """A detector as `anodetect detectors` lists it."""

    name: str
    summary: str
    citation: str
    cost: str
    representations: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return an entry of what `detectors --json` prints."""
        return asdict(self) | {"representations": list(self.representations)}


@dataclass(frozen=True)
class DescribedDetector:
    """A detector with its uses, presets and settings."""

    listed: ListedDetector
    settings: "DetectorSettings"

    def as_json(self) -> dict[str, Any]:
        """Return what `detectors NAME --json` prints."""
        return self.listed.as_json() | asdict(self.settings)


def listing() -> list[ListedDetector]:
    """Return all detectors."""
    return [_listed(name) for name in DETECTORS]


def describe(name: str) -> DescribedDetector:
    """Return a detector with its uses, presets and settings.

    Each setting has a key, a meaning, a range in words, and a default for each use of the detector
    that has it. Raises ConfigError if there is no such detector.
    """
    from anodetect.commands.settings import settings_of  # needs torch, the listing does not

    settings = settings_of(name)
    return DescribedDetector(_listed(name), settings)


def listing_text(detectors: Sequence[ListedDetector]) -> str:
    """Return two lines for each detector: what it does; where it comes from and what it costs."""
    lines = []
    for each in detectors:
        lines.append(f"{each.name:<12}{each.summary}")
        lines.append(f"{'':<12}{each.citation}. {each.cost}")
    return "\n".join(lines)


def description_text(described: DescribedDetector) -> str:
    """Return a detector and all of its settings as a table."""
    from anodetect.commands.settings import default_texts

    found = described.settings
    lines = [listing_text([described.listed])]
    if found.presets:
        lines.append(f"{'':<12}--set preset={' or '.join(found.presets)}")

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    grid.add_column("--set", width=SETTING_WIDTH, overflow="fold")
    grid.add_column("meaning")
    for setting in found.settings:
        defaults = default_texts(setting.defaults, found.uses)
        lines_of_key = [setting.key, *(f"  default {text}" for text in defaults)]
        grid.add_row("\n".join([*lines_of_key, f"  {setting.range}"]), setting.meaning)
    return "\n".join([*lines, "", drawn(grid)])


def _listed(name: str) -> ListedDetector:
    entry = entry_named(name)
    return ListedDetector(name, entry.summary, entry.citation, entry.cost, entry.representations)
