"""What a user can set, as `anodetect detectors NAME` and docs/settings.md list it."""

import json
import sys

import pytest

from anodetect import cli
from anodetect.commands.settings import default_texts, range_text, settings_of
from anodetect.detectors import DETECTORS
from tools.settings import PAGE, page


def call(capfd, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["anodetect", *arguments])
    with pytest.raises(SystemExit) as leave:
        cli.main()
    return leave.value.code or 0, *capfd.readouterr()


@pytest.mark.parametrize("name", DETECTORS)
def test_every_setting_has_a_range_and_a_default_for_each_use(name):
    found = settings_of(name)
    assert {"tiling.tile", "preprocess.axis", "representation.size"} <= {
        setting.key for setting in found.settings
    }
    for setting in found.settings:
        assert setting.range, setting.key
        assert setting.defaults.keys() <= set(found.uses), setting.key
        json.dumps(setting.defaults)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_setting_says_what_it_means(name):
    for setting in settings_of(name).settings:
        assert setting.meaning.endswith("."), setting.key


def test_the_page_of_settings_is_the_one_that_is_generated():
    text = PAGE.read_text("utf-8") if PAGE.is_file() else ""
    assert text == page(), "python -m tools.settings writes docs/settings.md anew"


def test_a_detector_is_described_with_all_of_its_settings(capfd, monkeypatch):
    code, out, _ = call(capfd, monkeypatch, "detectors", "anoddpm", "--json")
    described = json.loads(out)
    assert code == 0
    assert described["uses"] == ["pixels", "features", "dims 3"]
    assert described["presets"] == ["reference"]
    settings = {setting["key"]: setting for setting in described["settings"]}
    assert settings["detector.pooling.top"]["defaults"]["pixels"] == 0.02
    assert settings["detector.pooling.top"]["range"] == "number above 0, at most 1"
    assert settings["detector.lambdas"]["defaults"]["features"] == [60, 100, 150]

    code, out, _ = call(capfd, monkeypatch, "detectors", "anoddpm")
    table = out.partition("meaning")[2].splitlines()
    assert code == 0
    assert max(map(len, table)) <= 100
    assert all(f"\n{key}" in out for key in settings)


def test_an_unknown_detector_is_not_described(capfd, monkeypatch):
    code, out, err = call(capfd, monkeypatch, "detectors", "anodpm")
    assert (code, out) == (2, "")
    assert "did you mean 'anoddpm'" in err


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer"}, "whole number"),
        ({"type": "number", "minimum": 0, "maximum": 0.5}, "number from 0 to 0.5"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "number at least 0, below 1"),
        ({"enum": ["auto", "on", "off"]}, "auto, on or off"),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "number or none"),
        (
            {"type": "array", "items": {"type": "integer"}, "minItems": 1},
            "list of at least 1: whole number",
        ),
        ({"type": "array", "prefixItems": [{"type": "string"}] * 2}, "list of 2: text"),
        ({"type": "boolean"}, "true or false"),
        ({"type": "object"}, "table"),
    ],
)
def test_ranges_in_words(schema, text):
    assert range_text(schema) == text


def test_defaults_in_words():
    uses = ("pixels", "features")
    assert default_texts({"pixels": 1, "features": 1}, uses) == ["1"]
    assert default_texts({"pixels": None}, uses) == ["none (pixels)"]
    assert default_texts({"pixels": "a", "features": 2}, uses) == ['"a" (pixels)', "2 (features)"]
