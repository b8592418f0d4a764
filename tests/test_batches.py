"""Several score directories: two of them side by side, all of them over time, and what is prepared
to calibrate anew."""

import shutil
import sys
from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest
from scipy.stats import binomtest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import in_app
import score_folders
from streamlit.testing.v1 import AppTest

from anodetect.commands import review
from anodetect.errors import ConfigError
from anodetect.record import directories
from anodetect.record.audit import DriftChecks
from anodetect.record.marks import Shown
from anodetect.record.rows import ScoreRow, to_table
from anodetect.stats.batches import flagged_share, jumps
from anodetect.stats.paired_flags import mcnemar, paired_flags
from apps.review import batches, comparison, jobs
from apps.review.store import Store

pytestmark = pytest.mark.filterwarnings("default")  # Streamlit's own


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three scorings of the same ten images by date; the last one flags others, and more."""
    folder = tmp_path_factory.mktemp("batches")
    first = score_folders.write(folder, 10)
    read, days = directories.read(first), []
    for day, flags in enumerate(({0, 1}, {1, 2}, set(range(8)))):
        out = folder / f"day-{day}"
        shutil.copytree(first, out, ignore=lambda *_: ["audit.json"])
        rows = []
        for number, row in enumerate(read.rows):
            p_value = 0.01 if number in flags else 0.5
            rows.append(replace(row, flagged=number in flags, p_value=p_value, label=number % 2))
        tables = replace(directories.read_tables(first), scores=to_table(rows, ScoreRow))
        ended = f"2026-11-0{day + 1}T12:00:00+00:00"
        audit = replace(read.audit, ended=ended, far=0.05, run=f"run-{day}", drift=DriftChecks())
        directories.write(out, audit, tables)
        days.append(out)
    return days


# -- Side by side ----------------------------------------------------------------------------------


def row(path, content, p_value=0.5, flagged=False, **more):
    return ScoreRow(
        path=path,
        sha256=content,
        group=path,
        p_value=p_value,
        flagged=flagged,
        model_sha256="m",
        status=more.pop("status", "ok"),
        **more,
    )


def test_images_are_the_same_by_their_contents():
    first = [row("a", "1"), row("b", "2"), row("c", "2"), row("d", "3"), row("e", "4")]
    second = [row("c", "2"), row("x", "1"), row("b", "2"), row("d", "9"), row("e", "4")]
    second[-1] = replace(second[-1], status="failed")
    pairs = comparison.matched(first, second)
    assert [(p.first.path, p.second.path) for p in pairs] == [("a", "x"), ("b", "b"), ("c", "c")]


def test_the_filter_and_the_order_are_by_disagreement():
    pairs = comparison.matched(
        [row("a", "1", 0.4), row("b", "2", 0.01, True), row("c", "3", 0.04, True), row("d", "4")],
        [row("a", "1", 0.001, True), row("b", "2", 0.1), row("c", "3", 0.04, True), row("d", "4")],
    )
    paths = {
        which: [pair.first.path for pair in comparison.listed(pairs, which)]
        for which in comparison.WHICH
    }
    assert paths == {
        "all": ["a", "b", "c", "d"],
        "flags differ": ["a", "b"],
        "only the first flags": ["b"],
        "only the second flags": ["a"],
        "both flag": ["c"],
        "no flag": ["d"],
    }


def test_mcnemar_is_the_exact_test_of_a_fair_coin():
    for one, other in ((0, 0), (1, 0), (3, 9), (8, 8), (0, 12)):
        expected = binomtest(one, one + other).pvalue if one + other else 1.0
        assert mcnemar(one, other) == pytest.approx(expected)
    found = paired_flags([(True, True)] + 2 * [(True, False)] + 4 * [(False, False)])
    assert (found.both, found.only_first, found.only_second, found.neither) == (1, 2, 0, 4)
    assert found.images == 7


# -- Over time -------------------------------------------------------------------------------------


def test_a_share_is_above_the_rate_only_with_its_whole_interval():
    assert not flagged_share(2, 20, 0.05).above  # 1.2 % to 32 %
    assert flagged_share(6, 20, 0.05).above
    assert not flagged_share(6, 20, None).above
    assert isnan(flagged_share(0, 0, 0.05).value) and not flagged_share(0, 0, 0.05).above


def test_a_batch_jumps_if_its_share_is_another_than_all_before():
    shares = [flagged_share(*each, 0.05) for each in ((5, 100), (6, 100), (40, 100), (5, 100))]
    assert jumps(shares) == [False, False, True, False]
    assert jumps([flagged_share(0, 0, 0.05), flagged_share(90, 100, 0.05)]) == [False, False]


def test_batches_are_in_the_order_of_their_scoring_with_what_verdicts_say(made, tmp_path):
    days = [shutil.copytree(each, tmp_path / each.name) for each in made]
    store = Store(days[1], directories.read(days[1]).audit.verdicts_start)
    rows = directories.read(days[1]).rows
    for number, verdict in ((1, "anomalous"), (2, "normal"), (5, "normal")):
        shown = [Shown(rows[number].path, rows[number].sha256, painted=True)]
        store.add(rows[number], "Ada", verdict, shown)
    store.close()

    found = batches.all_of([days[2], days[0], tmp_path / "none", days[1]])
    assert [each.folder.name for each in found.batches] == ["day-0", "day-1", "day-2"]
    assert [each.share.flagged for each in found.batches] == [2, 2, 8]
    assert found.jumped == (False, False, True)
    assert [each.share.above for each in found.batches] == [False, False, True]
    precision = found.batches[1].precision
    assert (precision.hits, precision.total, precision.chosen) == (1, 2, False)
    assert [each.judged for each in found.batches] == [0, 3, 0]
    assert len(found.problems) == 1 and "none" in found.problems[0]
    assert not (days[0] / "reviews.sqlite").exists()  # to look changes nothing


def test_models_and_rates_are_compared_with_their_own_kind_alone(made):
    one, _, other = (batches.read(each) for each in made)
    apart = batches.in_order([one, replace(other, model="another")])
    assert apart.jumped == (False, False)
    assert batches.in_order([one, replace(other, far=0.5)]).jumped == (False, False)


# -- Calibrate anew --------------------------------------------------------------------------------


def test_a_calibration_is_a_job_of_the_app_like_others(tmp_path):
    for name in ("run", "normals"):
        (tmp_path / name).mkdir()
    command = jobs.calibrate_command(
        [tmp_path], str(tmp_path / "run"), str(tmp_path / "normals"), tmp_path / "anew"
    )
    assert command[0] == "calibrate" and command[-1] == "--json"
    assert jobs._places(command).out == tmp_path / "anew"
    with pytest.raises(ConfigError, match="none that the app would give"):
        jobs._places([*command[:-1], "--roi", "/x", "--json"])
    with pytest.raises(ConfigError, match="in none of the folders"):
        jobs.calibrate_command([tmp_path], "/elsewhere", str(tmp_path / "normals"), tmp_path / "b")
    with pytest.raises(ConfigError, match="already exists"):
        jobs.calibrate_command([tmp_path], command[1], command[2], tmp_path / "run")


def test_batches_of_one_name_are_told_apart_by_the_folders_above():
    folders = [Path(text) for text in ("/a/monday/scores", "/a/tuesday/scores", "/b/wednesday")]
    names = ["monday/scores", "tuesday/scores", "wednesday"]
    assert list(batches.names_of(folders).values()) == names
    inside = [Path("/x/y"), Path("/z/x/y")]
    assert list(batches.names_of(inside).values()) == ["/x/y", "z/x/y"]


# -- The pages -------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch, tmp_path):
    in_app.serve(monkeypatch, tmp_path)

    def open_app(page, *arguments):
        monkeypatch.setattr(sys, "argv", ["app.py", *map(str, arguments)])
        app = AppTest.from_file(str(review.app_file()), default_timeout=60)
        app.query_params["page"] = page
        return app.run()

    return open_app


def test_the_pages_show_two_runs_on_one_case_and_all_batches(opened, made):
    app = opened("Compare", *made)
    assert not app.exception
    counts = app.dataframe[0].value
    assert counts["only the first"].tolist() == [1, 0, 1]  # all, anomalous, normal
    assert app.dataframe[1].value["image"].tolist() == ["part-000.png", "part-002.png"]
    assert len(app.get("plotly_chart")) == 2
    assert any("run-0" in text.value for text in app.text)
    assert any("run-1" in text.value for text in app.text)
    app.button(key="open-Second").click().run()
    assert not app.exception
    assert (app.session_state["open"], app.session_state["page"]) == ("part-000.png", "Cases")
    assert app.session_state["directory"] == made[1]

    app = opened("Batches", *made)
    assert not app.exception
    table = app.dataframe[0].value
    assert table["batch"].tolist() == ["day-0", "day-1", "day-2"]
    assert table[""].tolist() == ["", "", "⚠↕"]
    assert app.code[0].value.startswith("anodetect calibrate ")
    assert not [each for each in app.button if each.key == "calibrate"]  # no --root, no job


def test_blind_reading_leaves_no_comparison(opened, made):
    app = opened("Cases", *made[:2])
    app.toggle(key="blind").set_value(True).run()
    app.segmented_control(key="page").set_value("Compare").run()
    assert not app.dataframe and any("Blind" in each.value for each in app.info)
