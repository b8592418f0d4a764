"""Links and names in the documentation. `make docs` checks the rest when it builds the site."""

import re
import shlex
from pathlib import Path

import pytest
import typer

import anodetect
from anodetect import cli

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


def commands_of(page):
    """Return the command lines in the code blocks of a page, as the shell splits them."""
    found = []
    for block in re.findall(r"```\w*\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.match(r"\s*(?:\w+=\S+ )*anodetect (\w.*)", line)
            if command and "…" not in line and "..." not in line:
                with_optional = re.sub(r"\[(--[^\]]*)\]", r"\1", command[1])
                found.append(re.split(r" [|&;>]", with_optional)[0])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_are_those_of_the_program(page):
    """Each has the arguments and options that it needs, and no other."""
    for line in commands_of(page):
        command, context = typer.main.get_command(cli.app), None
        rest = shlex.split(line, comments=True)
        name = "anodetect"
        while rest:
            context = command.make_context(name, rest, parent=context)
            if not hasattr(command, "resolve_command"):
                break
            name, command, rest = command.resolve_command(
                context, [*context._protected_args, *context.args]
            )
