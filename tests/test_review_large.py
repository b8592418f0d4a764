"""Large score directories: pages of the table give what the whole table gives."""

import os
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import in_app
import score_folders
from streamlit.testing.v1 import AppTest

from anodetect.commands import review
from anodetect.errors import RunError
from anodetect.record import alike, directories
from anodetect.record.marks import Shown
from anodetect.record.rows import GroupRow, ScoreRow, to_table
from anodetect.stats.agreement import summary
from apps.review import large, large_list, scores, session, worklist
from apps.review.catalogue import Catalogue, Listed
from apps.review.store import Store
from apps.review.worklist import Filter

COUNT = 9000  # more than two row groups


def rows_made(count=COUNT):
    """Rows with ties, missing values, groups, kinds and failures, in the order of their paths."""
    draw = random.Random(3)
    rows = []
    for number in range(count):
        failed = draw.random() < 0.05
        score = None if failed else draw.choice([draw.random(), 0.5])
        rows.append(
            ScoreRow(
                path=f"lot-{number // 50:03}/ä{number:05}.png",
                sha256=f"{number:064x}",
                group="" if number % 97 == 0 else f"lot-{number // 50:03}",
                study=f"day {number % 3}" if number % 150 > 50 else "",
                score=score,
                p_value=None if failed else draw.choice([0.1, 0.2, 0.9]),
                q_value=None if failed else draw.random(),
                flagged=None if failed else draw.random() < 0.3,
                threshold=None if failed else 0.7,
                heatmap="",
                width=8,
                height=8,
                model_sha256="m",
                status="failed" if failed else "ok",
                kind=draw.choice([None, "Scratch", "dent"]),
                differs=draw.choice(["", "", "darker"]),
            )
        )
    return rows


def groups_made():
    """Rows of every other lot."""
    found = []
    for number in range(0, COUNT // 50, 2):
        p, flagged = number / 1000, number % 3 == 0
        more = {"images": 50, "score": 1.0, "p_value": p, "q_value": p, "flagged": flagged}
        found.append(GroupRow(group=f"lot-{number:03}", **more))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("large")
    audit = directories.read(score_folders.OLD).audit
    tables = directories.Tables(
        to_table(rows_made(), ScoreRow), groups=to_table(groups_made(), GroupRow)
    )
    directories.write(out, replace(audit, root=""), tables)
    return out


@pytest.fixture(scope="module")
def catalogue(folder):
    return Catalogue(folder / "scores.parquet")


class Said:
    """A verdict, as far as the worklist looks at it."""

    def __init__(self, verdict, blind=False):
        self.verdict, self.blind, self.reviewer = verdict, blind, ""


def judged_by_two():
    draw = random.Random(5)
    judgements = {}
    for row in draw.sample(rows_made(), 200):
        names = draw.choice([["Ada"], ["Ben"], ["Ada", "Ben"]])
        judgements[row.path] = {name: Said(draw.choice(["normal", "anomalous"])) for name in names}
    return judgements


@pytest.mark.parametrize("order", worklist.ORDERS)
@pytest.mark.parametrize("foremost", [10, 3000, 200_000])
def test_every_order_is_that_of_the_whole_table(catalogue, monkeypatch, order, foremost):
    monkeypatch.setattr(large_list, "FOREMOST", foremost)
    judgements, rows = judged_by_two(), rows_made()
    ranking = large_list.ordered(catalogue, order)
    if order == "disagreement":
        ranking = large_list.by_disagreement(ranking, catalogue, judgements)
    expected = worklist.worklist(rows, judgements, order=order, keep=Filter(), reviewer="Ada")
    expected = [row.path for row in expected]
    first = [rows[place].path for place in ranking.first]
    assert len(ranking) == COUNT and len(first) >= 10 and first == expected[: len(first)]
    assert [rows[place].path for place in ranking.all()] == expected


def test_what_is_far_down_a_list_is_found(catalogue, monkeypatch):
    monkeypatch.setattr(large_list, "FOREMOST", 10)
    listed = Listed(catalogue, large_list.ordered(catalogue, "score"))
    last = rows_made()[int(listed.order.all()[-1])].path
    again = Listed(catalogue, large_list.ordered(catalogue, "score"))
    assert len(again.order.first) < COUNT
    assert again.place_of(last) == COUNT - 1 and again[COUNT - 1].path == last
    assert [row.path for row in again[-3:]] == [row.path for row in listed[-3:]]


FILTERS = [
    Filter(),
    Filter(status=frozenset({"failed"})),
    Filter(kinds=frozenset({"", "dent"}), flagged=True),
    Filter(flagged=False, search=" SCRATCH "),
    Filter(groups=frozenset({"lot-007", "lot-170"})),
    Filter(search="Ä0012"),
    Filter(verdicts=frozenset({"normal"})),
    Filter(verdicts=frozenset({"normal"}), reviewed="not by me"),
    Filter(paths=frozenset({"lot-000/ä00003.png", "lot-179/ä08999.png", "gone"})),
    *[Filter(reviewed=progress) for progress in worklist.PROGRESS],
]


@pytest.mark.parametrize("keep", FILTERS)
def test_every_filter_leaves_what_it_leaves_of_the_whole_table(catalogue, keep):
    judgements, rows = judged_by_two(), rows_made()
    fits = large_list.fitting(catalogue, judgements, keep, "Ada")
    found = Listed(catalogue, large_list.ordered(catalogue, "name", fits))
    expected = worklist.filtered(rows, judgements, keep, "Ada")
    assert [rows[place].path for place in found.order.all()] == [row.path for row in expected]
    assert [row.path for row in found[:3]] == [row.path for row in expected[:3]]
    by_score = large_list.ordered(catalogue, "score", fits)
    ranked = worklist.worklist(rows, {}, order="score", keep=Filter(), reviewer="")
    left = {row.path for row in expected}
    places = [rows[place].path for place in by_score.all()]
    assert places == [row.path for row in ranked if row.path in left]


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 here")
def test_a_table_in_a_folder_whose_name_is_not_utf_8_is_read(folder, tmp_path):
    place = tmp_path / os.fsdecode(b"m\xe4rz")
    place.mkdir()
    catalogue = Catalogue(Path(shutil.copy(folder / "scores.parquet", place)))
    assert catalogue.row(COUNT - 1) == rows_made()[COUNT - 1]
    assert sum(len(batch) for _, batch in catalogue.parts(["path"])) == COUNT


def test_rows_and_paths_are_found_in_every_row_group(catalogue):
    rows = rows_made()
    assert catalogue.count == COUNT
    for place in (0, 4095, 4096, COUNT - 1):
        assert catalogue.row(place) == rows[place]
        assert catalogue.place(rows[place].path) == place
    assert catalogue.place("lot-007") == catalogue.place("zz") == catalogue.place("") == -1
    with pytest.raises(IndexError):
        catalogue.row(COUNT)
    paths = large.paths_of(Listed(catalogue, large_list.ordered(catalogue, "score")))
    assert paths.index(paths[777]) == 777 and paths[777] in paths and "zz" not in paths
    with pytest.raises(ValueError, match="not listed"):
        paths.index("zz")


def test_the_counts_of_the_review_are_those_of_the_whole_table(folder):
    opened, judgements = large.open_large(folder), judged_by_two()
    flags = {row.path: bool(row.flagged) for row in rows_made()}
    found, expected = opened.summary(judgements, {}), summary(flags, judgements, {})
    assert sorted(found.disagreements) == sorted(expected.disagreements)
    assert replace(found, disagreements=(), by_reviewer={}, verdicts={}) == replace(
        expected, disagreements=(), by_reviewer={}, verdicts={}
    )


@pytest.mark.parametrize("order", ["name", "p-value"])
def test_patients_and_lots_are_put_together_as_those_of_the_whole_table(folder, order):
    opened, judgements = large.open_large(folder), judged_by_two()
    recorded = {group.group: group for group in groups_made()}
    assert opened.has_groups
    for keep in (Filter(), Filter(flagged=True), Filter(search="00")):
        listed = opened.listed(judgements, order, keep, "Ada", blind=False)
        rows = worklist.worklist(rows_made(), judgements, order=order, keep=keep, reviewer="Ada")
        expected = worklist.Groups(worklist.grouped(rows, recorded, judgements, "Ada"))
        found = opened.grouped(listed, judgements, "Ada")
        assert found is opened.grouped(listed, judgements, "Ada")  # nothing is sorted twice
        assert len(found) == len(expected)
        assert [row.path for row in found.rows] == [row.path for row in expected.rows]
        for place in (0, 1, 7, len(expected) // 2, -1):
            one, other = found[place], expected[place]
            assert list(one.rows) == list(other.rows)
            assert replace(one, rows=()) == replace(other, rows=())
        last = expected[-1].rows[-1].path
        assert found.place_of(last) == len(expected) - 1 and found.place_of("none") == 0
        assert [each.name for each in found[2:5]] == [each.name for each in expected[2:5]]


def test_what_the_threshold_page_looks_at_is_a_random_sample(folder, monkeypatch):
    monkeypatch.setattr(large, "SAMPLED", 900)
    rows = {row.path: row for row in rows_made()}
    sample = large.open_large(folder).sample
    assert sample == large.open_large(folder).sample  # everybody's
    assert len({row.path for row in sample}) == 900
    for each in sample:
        whole = rows[each.path]
        for name in large.COLUMNS:
            assert getattr(each, name) == getattr(whole, name)
    # Rows are as often flagged, and come from everywhere.
    share = sum(bool(row.flagged) for row in sample) / 900
    assert abs(share - sum(bool(row.flagged) for row in rows.values()) / COUNT) < 0.05
    thirds = [sum(row.path.startswith(f"lot-{start}") for row in sample) for start in "01"]
    assert 400 < thirds[0] < 600 and 300 < thirds[1] < 500


def test_the_blind_order_is_everyones_and_its_numbers_lead_back(folder):
    one, two = large.open_large(folder), large.open_large(folder)
    first = one.listed({}, "score", Filter(search="no such", flagged=True), "Ada", blind=True)
    second = two.listed({}, "name", Filter(), "Ben", blind=True)
    assert len(first) == COUNT and (first.order.all() == second.order.all()).all()
    path = first[17].path
    assert one.number_of(path) == 18 and two.path_of_number(18) == path
    assert one.path_of_number(0) == one.path_of_number(COUNT + 1) == ""


def test_no_verdict_on_a_table_that_was_changed(folder, tmp_path):
    out = tmp_path / "changed"
    out.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (out / file.name).write_bytes(file.read_bytes())
    with (out / "outputs.parquet").open("ab") as file:
        file.write(b" ")
    opened = large.open_large(out)
    with pytest.raises(RunError, match=r"outputs\.parquet changed or missing"):
        opened.check.require(wait=60)
    store, row = Store(tmp_path, opened.directory.audit.head), rows_made()[0]
    store.guard = opened.check.require
    with pytest.raises(RunError, match="changed or missing"):
        store.add(row, "Ada", "normal", [Shown(row.path, row.sha256, painted=True)])
    assert store.read() == []


def test_pages_say_what_is_not_for_a_large_directory(tmp_path, monkeypatch):
    out = score_folders.write(tmp_path, 30)
    shutil.copytree(out, tmp_path / "other")
    (out / alike.FILE).write_bytes(b"")
    monkeypatch.setattr(session, "LARGE", 20)
    in_app.serve(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "argv", ["app.py", str(out), str(tmp_path / "other")])
    app = AppTest.from_file(str(review.app_file()), default_timeout=60).run()
    assert "novelty" not in app.selectbox(key="order").options
    assert any("there is no order by novelty" in each.value for each in app.caption)
    app.segmented_control(key="page").set_value("Compare").run()
    (said,) = [each.value for each in app.info]
    assert "up to 100 000 rows each. This one has 30" in said
    assert not app.exception and not app.error


def test_the_app_opens_a_large_directory_without_reading_the_table(tmp_path, monkeypatch):
    out = score_folders.write(tmp_path, 30)
    monkeypatch.setattr(session, "LARGE", 20)
    monkeypatch.setattr(scores, "LARGE", 20)
    monkeypatch.setattr(directories, "read_table", None)  # whatever reads a whole table fails
    in_app.serve(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "argv", ["app.py", str(out)])
    app = AppTest.from_file(str(review.app_file()), default_timeout=60)
    app.query_params["reviewer"] = "Ada"
    app.run()
    session.open_session(out, "", "Ada").scores.check.require(wait=60)
    in_app.judge(app, "anomalous")
    assert app.session_state["open"] == "part-001.png" and not app.exception
    app.selectbox(key="reviewed").set_value("not by me").run()
    assert any("29 cases listed" in each.value for each in app.caption)
    app.segmented_control(key="page").set_value("Summary").run()
    assert next(each.value for each in app.metric) == "1 of 30" and not app.exception
    app.segmented_control(key="page").set_value("Threshold").run()
    assert any("a random sample of 30 of the 30 rows" in each.value for each in app.caption)
    assert [each.label for each in app.metric][:2] == ["score threshold", "flagged"]
    assert not app.exception
