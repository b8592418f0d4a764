"""What a message says of a library's error: the kind, never its text, which may quote the file."""

import json
import re
import sqlite3
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pyarrow as pa
import pytest

from anodetect.errors import ConfigError, one_line

PACKAGE = Path(__file__).parents[1] / "anodetect"
SECRET = "Jane Doe"


def caught(call, *arguments):
    with pytest.raises(Exception) as raised:
        call(*arguments)
    return raised.value


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("size: too small"), "size: too small"),
        (MemoryError(), "does not fit into memory"),
        (FileNotFoundError(2, "No such file", SECRET), "No such file"),
        (caught(json.loads, '{\n"a": Jane Doe}'), "no JSON, see line 2, column 6"),
        (caught(tomllib.loads, "a = 1\nb = Jane Doe\n"), "no TOML, see line 2, column 5"),
        (caught(tomllib.loads, "a = "), "no TOML, see end of document"),
        (caught(ElementTree.fromstring, "<a>\n<Jane Doe</a>"), "no XML, see line 2"),
        (caught(b"\xff".decode), "no text in UTF-8"),
        (caught({}.__getitem__, "scores"), "it lacks 'scores'"),
        (caught(sqlite3.connect(":memory:").execute, f"'{SECRET}'"), "OperationalError"),
        (caught(pa.array([SECRET]).cast, pa.int32()), "ArrowInvalid"),
    ],
)
def test_a_reason_does_not_quote_a_file(error, text):
    assert one_line(error) == text


def test_what_is_unforeseen_is_reported_with_its_text():
    assert one_line(RuntimeError("a\nb"), "please report: ") == "please report: RuntimeError: a b"
    assert len(one_line(RuntimeError("x" * 999), "please report: ")) == 201


def test_no_module_cuts_an_error_to_a_line_by_itself():
    """`one_line` is the one place for it."""
    cut = re.compile(r"str\((error|problem)\)\.(strip\(\)\.)?(splitlines|split)\(")
    assert [file.name for file in PACKAGE.rglob("*.py") if cut.search(file.read_text())] == [
        "cli.py"  # where every message of this project ends
    ]
