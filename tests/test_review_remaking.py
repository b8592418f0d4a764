"""Maps that were not kept, made again by a button of the app."""

import shutil
import sys
import time

import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import in_app
from streamlit.testing.v1 import AppTest

import anodetect
from anodetect.commands import review
from anodetect.errors import ConfigError
from anodetect.record import directories, made_maps
from apps.review import jobs, loading, routes
from apps.review.tickets import Office

MAKE = "remake"  # the key of the button


@pytest.fixture
def root(pca_run, synthetic_folder, tmp_path, monkeypatch):
    """A root with a run, images, and a score directory that kept the files of some."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    root = tmp_path / "work"
    shutil.copytree(pca_run, root / "run")
    (root / "images").mkdir()
    for file in sorted((synthetic_folder / "test/good").iterdir())[:6]:
        shutil.copyfile(file, root / "images" / file.name)
    images = [str(root / "images")]
    anodetect.score(root / "run", images, root / "scores", far=0.05, keep="flagged")
    return root


def open_app(root, path, monkeypatch, *options):
    in_app.serve(monkeypatch, root.parent)
    monkeypatch.setattr(sys, "argv", ["app.py", str(root / "scores"), *options])
    app = AppTest.from_file(str(review.app_file()), default_timeout=60)
    app.session_state["open"] = path
    return app.run()


def shown(app):
    assert not app.exception
    notes = routes.describe(in_app.sent(app)["open"]).notes
    return " ".join([*(each.value for each in app.text), *notes])


def test_the_button_makes_the_map_of_the_case_which_is_then_shown(root, monkeypatch):
    directory = directories.read(root / "scores")
    row = next(row for row in directory.rows if not row.heatmap)
    office = Office()
    before = office.ticket(directory, row, hidden=False)
    app = open_app(root, row.path, monkeypatch)
    assert MAKE not in [each.key for each in app.button]  # it may not work in any folder
    assert "make it with anodetect maps" in shown(app)

    app = open_app(root, row.path, monkeypatch, "--root", str(root))
    app.button(key=MAKE).click().run()
    (job,) = jobs.all_jobs([root])
    assert job.arguments[-2:] == ("--", row.path)
    start = time.monotonic()
    while jobs.state(job) == "running" and time.monotonic() - start < 120:
        time.sleep(0.1)
    assert jobs.state(job) == "done", (job.folder / jobs.LOG).read_text()

    app.run()
    assert MAKE not in [each.key for each in app.button]
    assert loading.MADE_AGAIN in shown(app)
    after = office.ticket(directory, row, hidden=False)
    assert after != before  # so that the browser fetches the case again
    assert office.find(after).row == office.find(before).row == row
    assert office.ticket(directory, row, hidden=True) != after


def test_only_what_lies_in_the_roots_is_scored_again(root, tmp_path):
    directory = directories.read(root / "scores")
    row = next(row for row in directory.rows if not row.heatmap)
    command = jobs.maps_command([root], directory, row.path)
    with pytest.raises(ConfigError, match="in none of the folders"):
        jobs.maps_command([root / "scores"], directory, row.path)
    shutil.move(root / "run", tmp_path / "run")
    with pytest.raises(ConfigError, match="is no run"):
        jobs.maps_command([root], directory, row.path)

    out = command.index("--out") + 1
    assert command[out] == str(made_maps.folder_of(root / "scores"))
    for place, wrong in ((out, str(root / "images")), (1, "scores"), (-1, "a\0"), (-2, "--json")):
        changed = list(command)
        changed[place] = wrong
        with pytest.raises(ConfigError, match="none that the app would give"):
            jobs.start(root, changed)
    assert not jobs.all_jobs([root])
