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
BLOCK = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
BENCHMARK = re.compile(r"python -m benchmarks\.(\w+)([^`\n]*)")


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
    for block in BLOCK.findall(page.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.match(r"\s*(?:\w+=\S+ )*anodetect (\w.*)", line)
            if command:
                with_optional = re.sub(r"\[(--[^\]]*)\]", r"\1", command[1])
                found.append(re.split(r" [|&;>]", with_optional)[0])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_are_those_of_the_program(page):
    """Each has the arguments and options that it needs, and no other. Where dots stand for some of
    them, only the others are looked at."""
    for line in commands_of(page):
        if "…" in line or "..." in line:
            assert not unknown_in(line), line
            continue
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


def unknown_in(line):
    """Return the words of a command line, with or without its arguments, that name no command and
    no option."""
    command, words = typer.main.get_command(cli.app), shlex.split(line, comments=True)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        if name not in command.commands:
            return [name]
        command = command.commands[name]
    known = {"--help"}
    for parameter in command.params:
        known |= {*parameter.opts, *parameter.secondary_opts}
    options = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    return [option for option in options if option not in known]


def test_unknown_commands_and_options_are_found():
    assert unknown_in("score RUN --keep sample=100") == []
    assert unknown_in("score RUN --kept sample=100") == ["--kept"]
    assert unknown_in("reviews explain DIR") == ["explain"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_in_sentences_are_those_of_the_program(page):
    """What a page names beside its code blocks may leave arguments out. Names that are joined by a
    bar stand for one of them."""
    text = BLOCK.sub("", page.read_text("utf-8"))
    for code in re.findall(r"`(?:\w+=\S+\s)*anodetect\s(\w[^`]*)`", text):
        line = re.sub(r"[\[\]]|(?<=\w)\|[\w|]+", "", code)
        assert not unknown_in(line), code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_benchmarks_of_a_page_are_there(page):
    for name, rest in BENCHMARK.findall(page.read_text("utf-8")):
        source = (ROOT / "benchmarks" / f"{name}.py").read_text("utf-8")
        missing = [each for each in re.findall(r"--[a-z-]+", rest) if f'"{each}"' not in source]
        assert not missing, f"benchmarks.{name}"
