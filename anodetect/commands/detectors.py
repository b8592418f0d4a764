"""The list of detectors, and every setting of one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from anodetect.commands.texts import drawn
from anodetect.detectors import DETECTORS

SETTING_WIDTH = 42  # characters of the column of a setting's key, default and range


def listing() -> list[dict[str, Any]]:
    """Return name, summary, citation, cost and representations of each detector."""
    return [_entry(name) for name in DETECTORS]


def describe(name: str) -> dict[str, Any]:
    """Return a detector's entry of the listing, its uses, presets and settings.

    Each setting has a key, a meaning, a range in words, and a default for each use of the detector
    that has it. Raises ConfigError if there is no such detector.
    """
    from anodetect.commands.settings import settings_of  # needs torch, the listing does not

    found = settings_of(name)
    return _entry(name) | asdict(found)


def listing_text(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return two lines for each detector: what it does; where it comes from and what it costs."""
    lines = []
    for entry in entries:
        lines.append(f"{entry['name']:<12}{entry['summary']}")
        lines.append(f"{'':<12}{entry['citation']}. {entry['cost']}")
    return "\n".join(lines)


def description_text(described: Mapping[str, Any]) -> str:
    """Return a detector and all of its settings as a table."""
    from anodetect.commands.settings import default_texts

    lines = [listing_text([described])]
    if described["presets"]:
        lines.append(f"{'':<12}--set preset={' or '.join(described['presets'])}")

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    grid.add_column("--set", width=SETTING_WIDTH, overflow="fold")
    grid.add_column("meaning")
    for setting in described["settings"]:
        defaults = default_texts(setting["defaults"], described["uses"])
        lines_of_key = [setting["key"], *(f"  default {text}" for text in defaults)]
        grid.add_row("\n".join([*lines_of_key, f"  {setting['range']}"]), setting["meaning"])
    return "\n".join([*lines, "", drawn(grid)])


def _entry(name: str) -> dict[str, Any]:
    entry = DETECTORS[name]
    return {
        "name": name,
        "summary": entry.summary,
        "citation": entry.citation,
        "cost": entry.cost,
        "representations": list(entry.representations),
    }
