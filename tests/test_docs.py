"""Links and names in the documentation. `make docs` checks the rest when it builds the site."""

import re
from pathlib import Path

import pytest

import anodetect

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
MODULES = re.findall(
    r'```python\n(""".*?)```', (ROOT / "docs" / "architecture.md").read_text("utf-8"), re.DOTALL
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    targets = [target.partition("#")[0] for target in LINK.findall(page.read_text("utf-8"))]
    missing = [
        target
        for target in targets
        if target and "://" not in target and not (page.parent / target).is_file()
    ]
    assert not missing


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").split()) <= 1200


def test_the_reference_has_every_public_name():
    reference = (ROOT / "docs" / "api.md").read_text("utf-8")
    documented = {line.rpartition(".")[2] for line in reference.splitlines() if ":::" in line}
    assert set(anodetect.__all__) - {"__version__"} <= documented


@pytest.mark.parametrize("source", MODULES, ids=lambda source: source.split()[0].strip('":'))
def test_the_modules_of_the_recipes_find_what_they_import(source):
    if "streamlit" in source:
        pytest.importorskip("streamlit", reason="the extra `app` is not installed")
    names = {"__name__": "apps.review.example", "__package__": "apps.review"}
    exec(compile(source, "docs/architecture.md", "exec"), names)
