"""Write docs/settings.md: every setting of every detector, from the descriptions in the code.

python -m tools.settings
"""

from collections.abc import Sequence
from pathlib import Path

from anodetect.commands.settings import Setting, default_texts, settings_of
from anodetect.detectors import DETECTORS

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
TITLES = {
    "preprocess": "Intensities, foreground and slices: `preprocess`",
    "tiling": "Tiles and patches: `tiling`",
}
HEAD = """\
# Settings

This page is generated from the code by `python -m tools.settings`. `anodetect detectors NAME`
prints the same for one detector.

Give a setting to `anodetect train` as `--set key=value`, or in the TOML file of `--config`. The
first part of a key, its section, may be left out: `--set components=50` is
`--set detector.components=50`. Where defaults differ, the use of the detector stands beside them:
on `pixels`, on `features`, or on volumes with `--dims 3` (`dims 3`).
"""


def page() -> str:
    """Return the page: the sections that detectors share, then those of each detector."""
    found = {name: settings_of(name) for name in DETECTORS}
    widest = max(found.values(), key=lambda described: len(described.uses))
    parts = [HEAD]
    for section, title in TITLES.items():
        shared = [s for s in widest.settings if s.key.startswith(f"{section}.")]
        parts.append(f"## {title}\n\n{table(shared, widest.uses)}")

    for name, described in found.items():
        entry = DETECTORS[name]
        own = [s for s in described.settings if s.key.startswith(("detector.", "representation."))]
        text = f"## `{name}`\n\n{entry.summary} ({entry.citation})\n"
        if described.presets:
            text += f"\nPresets, as `--set preset=NAME`: {', '.join(described.presets)}.\n"
        parts.append(f"{text}\n{table(own, described.uses)}")
    return "\n".join(parts)


def table(settings: Sequence[Setting], uses: Sequence[str]) -> str:
    """Return settings as a Markdown table."""
    lines = ["| setting | default | values | meaning |", "|---|---|---|---|"]
    for setting in settings:
        default = "<br>".join(default_texts(setting.defaults, uses))
        cells = (f"`{setting.key}`", default, setting.range, setting.meaning)
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
