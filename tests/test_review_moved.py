"""Starting the app: images that were moved are found again, and a browser is opened."""

import os
import shutil
import sys

import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import in_app
import score_folders
from streamlit.testing.v1 import AppTest

from anodetect.commands import review
from anodetect.errors import ConfigError
from anodetect.record import moved
from anodetect.types import Silent
from apps.review import routes


@pytest.fixture
def scores(tmp_path):
    out = score_folders.write(tmp_path / "old", 5)
    (tmp_path / "new" / "other").mkdir(parents=True)
    shutil.move(tmp_path / "old" / "images", tmp_path / "new" / "parts")
    return out


@pytest.mark.parametrize("named", ["new", "new/parts"])
def test_the_folder_and_the_one_above_it_are_found(scores, tmp_path, named):
    assert moved.root_in(scores, tmp_path / named) == tmp_path / "new" / "parts"


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 here")
def test_a_score_directory_whose_name_is_not_utf_8_is_looked_for(scores, tmp_path):
    renamed = scores.rename(scores.with_name(os.fsdecode(b"m\xe4rz")))
    assert moved.root_in(renamed, tmp_path / "new" / "parts") == tmp_path / "new" / "parts"


def test_other_folders_are_refused_in_the_terminal(scores, tmp_path):
    assert moved.root_in(scores, tmp_path / "new" / "other") is None
    for folder, reason in (("new/other", "has the images of"), ("gone", "not a folder")):
        with pytest.raises(ConfigError, match=reason):
            review.serve([scores], port=8501, data=tmp_path / folder)


def texts(app):
    notes = routes.describe(in_app.sent(app)["open"]).notes
    return " ".join([*(each.value for each in app.text), *notes])


def test_the_app_shows_them_where_they_are_now(scores, tmp_path, monkeypatch):
    in_app.serve(monkeypatch, tmp_path)
    command = review.app_command([scores], 8501, data=tmp_path / "new")
    arguments = command[command.index("--") + 1 :]
    for given, is_found in ((arguments[1:], False), (arguments, True)):
        monkeypatch.setattr(sys, "argv", ["app.py", *given])
        app = AppTest.from_file(str(review.app_file()), default_timeout=60).run()
        assert ("no longer there" not in texts(app)) == is_found and not app.exception


@pytest.mark.parametrize(
    ("opens", "display", "is_opened"), [(1, ":0", 1), (1, "", 0), (0, ":0", 0)]
)
def test_a_browser_is_opened_only_where_there_is_a_display(
    scores, monkeypatch, opens, display, is_opened
):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", review.OPENED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setenv(review.OPENED, "")
    monkeypatch.setattr(review.os, "execv", lambda *_: None)
    monkeypatch.setattr(review, "_check_port", lambda _: None)
    review.serve([scores], port=8765, opens=bool(opens), reporter=Silent())
    assert (review.os.environ[review.OPENED] == "http://127.0.0.1:8765") == bool(is_opened)
