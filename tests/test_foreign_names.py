"""Names with characters that mean something to a shell, a template, a page or a terminal."""

import csv
import io
import warnings
from xml.etree import ElementTree

import pytest
from markupsafe import Markup
from PIL import Image
from rich.console import Console

from anodetect.commands import terminal
from anodetect.commands.inspect import inspect, inspection_text
from anodetect.data.scan import scan
from anodetect.errors import DataError
from anodetect.files import as_code, as_shown, printable, shortened
from anodetect.output import figures, report
from anodetect.record.rows import SliceRow

NAMES = [
    "cost_$5_$6.nii",
    "$\\frac",
    "{x}%s%(y)d{{ 7*7 }}",
    "<script>alert(1)</script>&amp;",
    "*a* _b_ `c` [d](e) # f",
    "[red]x[/] [/nothing]",
    "$(touch x); `touch y` && z",
    "日本語 العربية ε",
    "a\nb\tc",
    "\x1b[31m\u202eexe.nii",
    "caf\udce9",
    "x" * 5000,
]


def slices(path):
    places = {"left_mm": 0.0, "posterior_mm": 0.0, "foreground": 1.0}
    row = {"path": path, "group": path, "axis": "axial"} | places
    return [
        SliceRow(**row, slice=number, superior_mm=float(number), score=float(number))
        for number in range(3)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_has_the_name_as_it_is(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = figures.profiles({name: slices(name)}, 1.0)
    texts = [each.text or "" for each in ElementTree.fromstring(page).iter()]
    shown = shortened(printable(" ".join(name.split())), 80)
    assert shown in texts
    assert "<script" not in page


def test_a_line_end_in_a_name_begins_no_message(tmp_path, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(terminal, "screen", Console(file=stream, width=80))
    reporter = terminal.RichReporter()
    reporter.say("lot\nrecord complete")
    reporter.warn("lot\nrecord complete")
    said = ["lot\\nrecord complete", "warning: lot\\nrecord complete"]
    assert stream.getvalue().splitlines() == said

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "manifest.csv").write_text('path,label,kind\na.png,0,"ok\nkept for tests: 9"\n')
    text = inspection_text(inspect(str(tmp_path)))
    assert "(ok\\nkept for tests: 9 1)" in text
    assert not any(line.startswith("kept for tests") for line in text.splitlines())


def test_a_page_shows_what_turns_text_as_an_escape():
    template = report.environment().from_string("<td>{{ name }}</td>{{ svg }}")
    page = template.render(name="<\u202egnp.exe\x1b", svg=Markup("<svg>\u202e</svg>"))
    assert page == "<td>&lt;\\u202egnp.exe\\x1b</td><svg>\u202e</svg>"


@pytest.mark.parametrize("value", ["\x1b[31m", "\x9b2J", "a\x08"])
@pytest.mark.parametrize("column", ["group", "kind", "acquired"])
def test_what_the_record_has_of_a_manifest_holds_no_control_characters(tmp_path, column, value):
    name = "x\ny.png"
    Image.new("L", (8, 8)).save(tmp_path / name)
    file = tmp_path / "manifest.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", column], [name, "two\nlines \u202e"]])
    assert [record.id for record in scan(tmp_path).records] == ["x%0Ay.png"]
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", column], [name, value]])
    with pytest.raises(DataError, match=f"line 2: {column} .* control character"):
        scan(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_terminal_shows_the_name_and_obeys_nothing_in_it(name, monkeypatch):
    stream = io.StringIO()
    screen = Console(file=stream, force_terminal=True, width=80, color_system="standard")
    monkeypatch.setattr(terminal, "screen", screen)
    reporter = terminal.RichReporter()
    reporter.say(name)
    reporter.progress(name, 1, 2, name)  # brackets are no style
    reporter.stop()
    said = stream.getvalue()
    assert printable(name).partition("\n")[0] in said
    assert not {"\u202e", "\udce9"} & set(said) and "\x1b[31m\u202e" not in said


def test_names_are_printable_in_one_way():
    assert printable("a\x1b[0m\u202e\udce9\r\tb\nü…") == "a\\x1b[0m\\u202e\\udce9\\r\tb\nü…"
    assert printable("a\u2028b\u061c") == "a\\u2028b\\u061c"
    assert as_shown(" a\n\tb\u2066c") == "a b\\u2066c"
    assert shortened("a" * 400) == "a" * 149 + "…" + "a" * 149


@pytest.mark.parametrize(
    ("name", "code"),
    [("tiles", "`tiles`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a\nb*", "`a b*`")],
)
def test_a_model_card_has_names_as_code(name, code):
    assert as_code(name) == code
