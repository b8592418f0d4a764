"""The training page: names, folders, time left, warnings, and what a job leads to."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import score_folders
from streamlit.testing.v1 import AppTest

from anodetect.commands import review
from apps.review import folders, jobs, rates, widgets

LOG = """warning: 3 of 20 files differ from what the model has seen
score: 1/20
warning: 57% of this batch look odder
warning: 3 of 20 files differ from what the model has seen
score: 5/20 2.0/s
"""


def job_of(root, out, subcommand="score"):
    folder = root / "kept" / out.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / jobs.LOG).write_text(LOG)
    return jobs.Job(folder, root, (subcommand,), out, 1, 0.0, "2026-01-02T03:04:05+00:00")


def test_rates_are_even_in_their_logarithm():
    steps = [b / a for a, b in zip(rates.PERCENT, rates.PERCENT[1:], strict=False)]
    assert rates.PERCENT[0] == 0.1 and rates.PERCENT[-1] == 50.0 and max(steps) < 1.16
    for usual in (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0):
        assert any(abs(rate / usual - 1) < 0.03 for rate in rates.PERCENT)
    assert {1.0, 5.0, 10.0} <= set(rates.PERCENT) and 12.34 in rates.with_rate(12.34)
    assert rates.with_rate(99.0) == rates.PERCENT and rates.text(0.5) == "0.5"


def test_suggested_names_are_free_and_usable(tmp_path):
    assert folders.suggested_name(tmp_path, "good parts (A)", "pca") == "good-parts-A-pca"
    (tmp_path / "parts-pca").mkdir()
    (tmp_path / "parts-pca-2").mkdir()
    assert folders.suggested_name(tmp_path, "parts", "pca") == "parts-pca-3"
    for strange in ("", "..", "-rf", "ü" * 300, "a" * 300):
        assert jobs.NAME.fullmatch(folders.suggested_name(tmp_path, strange))


def test_the_time_left_is_that_of_the_pace_so_far(tmp_path):
    job = job_of(tmp_path, tmp_path / "scores")
    progress = jobs.progress(job)
    assert (progress.done, progress.total) == (5, 20)
    assert progress.warnings == (
        "3 of 20 files differ from what the model has seen",
        "57% of this batch look odder",
    )
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC) + timedelta(seconds=60)
    assert jobs.remaining(job, progress, now) == pytest.approx(180)
    assert jobs.remaining(job, jobs.Progress(), now) is None
    assert [widgets.duration_text(each) for each in (40, 180, 9000)] == ["40 s", "3 min", "2.5 h"]


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """The page, with a job that is done and a score directory that it made."""
    out = score_folders.write(tmp_path / "work", 3)
    job = job_of(tmp_path, out)
    monkeypatch.setattr(jobs, "all_jobs", lambda _: [job])
    monkeypatch.setattr(jobs, "state", lambda _: "done")
    (tmp_path / "work" / "deep" / "er").mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["app.py", "--root", str(tmp_path / "work")])
    app = AppTest.from_file(str(review.app_file()), default_timeout=60)
    app.query_params["page"] = "Train"
    return app.run()


def test_a_finished_job_keeps_its_warnings_and_leads_to_its_cases(opened, tmp_path):
    shown = [each.value for each in opened.text]
    assert "⚠ 57% of this batch look odder" in shown
    next(each for each in opened.button if each.label == "Open its cases").click().run()
    assert not opened.exception
    assert opened.segmented_control(key="page").value == "Cases"
    assert opened.selectbox(key="directory").value == tmp_path / "work" / "scores"
    assert opened.session_state["open"] == "part-000.png"


def test_folders_are_browsed_below_the_roots_alone(opened, tmp_path):
    work = tmp_path / "work"
    opened.selectbox(key="inside_train_data").set_value("deep").run()
    opened.selectbox(key="inside_train_data").set_value("er").run()
    opened.button(key="use_train_data").click().run()
    assert opened.selectbox(key="train_data").value == str(work / "deep" / "er")
    name = next(each for each in opened.text_input if each.label == "Name of the run")
    assert name.value.startswith("er-")
    for _ in range(5):
        opened.button(key="up_train_data").click().run()
        assert Path(opened.session_state["browsed_train_data"]).is_relative_to(work)
    assert not opened.exception
