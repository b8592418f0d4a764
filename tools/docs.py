"""Build the documentation site into site/, and exit with 1 for every warning.

    python tools/docs.py

Zensical's strict mode ends the build on broken links and unknown names. What it only prints is an
error here too: warnings about docstrings, and pictures that are not there.
"""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SITE = Path("site")
BUILD = ("-m", "zensical", "build", "--strict", "--clean")
WARNING = re.compile(r"^(griffe|mkdocstrings|autorefs)\b|\bwarning\b", re.IGNORECASE)


class Pictures(HTMLParser):
    """Collect the addresses of a page's pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.sources.append(dict(attrs).get("src") or "")


def missing_pictures(page: Path) -> list[str]:
    """Return the pictures of a page that lie neither in the site nor on another server."""
    parser = Pictures()
    parser.feed(page.read_text("utf-8"))
    missing = []
    for source in parser.sources:
        address = urlsplit(source)
        if not address.scheme and not (page.parent / unquote(address.path)).is_file():
            missing.append(f"{page}: no picture {source!r}")
    return missing


def main() -> int:
    """Build the site, print what is wrong with it, and return the exit code."""
    done = subprocess.run([sys.executable, *BUILD], capture_output=True, text=True, check=False)
    print(done.stdout + done.stderr, end="")

    lines = (done.stdout + done.stderr).splitlines()
    problems = [line for line in lines if WARNING.search(line)]
    for page in sorted(SITE.rglob("*.html")):
        problems += missing_pictures(page)

    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return int(done.returncode != 0 or bool(problems))


if __name__ == "__main__":
    sys.exit(main())
