"""The review app as its pages show it, and how it is started."""

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from base64 import b64decode
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import in_app
from in_app import card, judge, receipt, said, sent, step, undo
from PIL import Image
from streamlit.testing.v1 import AppTest
from test_dicom import write_series

import anodetect
from anodetect import cli
from anodetect.commands import review
from anodetect.commands.rescore import rescore
from anodetect.data import geometry, synthetic
from anodetect.detectors import DETECTORS
from anodetect.errors import ConfigError
from anodetect.record import directories, reviews, verification
from anodetect.record.chain import head_of
from anodetect.record.marks import Shown
from anodetect.record.rows import ScoreRow, SliceRow, to_table
from anodetect.words import sentence
from apps.review import display, facts, jobs, known, loading, page, routes, store

pytestmark = pytest.mark.filterwarnings("default")  # Streamlit's own
HOSTILE = "<script>alert(1)</script> ![x](http://evil.example/x.png) **bold** :red[x] $x$"
HOSTILE += " :material/home:"


@pytest.fixture(scope="module")
def made(pca_run, synthetic_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("app") / "scores"
    anodetect.score(pca_run, [str(synthetic_folder)], out, far=0.2)
    return out


@pytest.fixture
def scores(made, tmp_path):
    return shutil.copytree(made, tmp_path / "scores")


@pytest.fixture
def opened(monkeypatch, tmp_path_factory):
    """Opens the app on score directories, with a viewer that does what a test says."""
    in_app.serve(monkeypatch, tmp_path_factory.mktemp("viewer"))

    def open_app(*folders, reviewer="Ada", options=()):
        monkeypatch.setattr(sys, "argv", ["app.py", *options, *map(str, folders)])
        app = AppTest.from_file(str(review.app_file()), default_timeout=20).run()
        if reviewer and any(field.key == "reviewer" for field in app.text_input):
            app.text_input(key="reviewer").set_value(reviewer).run()
        return app

    return open_app


def rewrite(scores, **changes):
    """A record that says something else, and holds together."""
    audit = json.loads((scores / "audit.json").read_text()) | changes
    (scores / "audit.json").write_text(json.dumps(audit | {"head": head_of(audit)}))


def texts(app):
    return [element.value for element in app.text]


def notes(app):
    """What the viewer says of the open case where something is missing."""
    return routes.describe(sent(app)["open"]).notes


def test_five_cases_are_judged_reloaded_and_verified(opened, scores):
    app = opened(scores)
    seen = [app.session_state["open"]]
    for verdict in ("anomalous", "normal", "unsure", "bad image", "anomalous"):
        judge(app, verdict)
        assert not app.exception
        seen.append(app.session_state["open"])
    by_p_value = sorted(
        directories.read(scores).rows, key=lambda row: (row.p_value, -row.score, row.path)
    )
    assert seen == [row.path for row in by_p_value[:6]]
    kept = reviews.read(scores / reviews.FILE)
    assert [review.path for review in kept] == seen[:5]
    assert [review.verdict for review in kept] == [
        "anomalous",
        "normal",
        "unsure",
        "bad image",
        "anomalous",
    ]
    assert {review.reviewer for review in kept} == {"Ada"}
    assert (
        kept[0].threshold == by_p_value[0].threshold
        and kept[0].image_sha256 == by_p_value[0].sha256
    )
    assert verification.verify(scores).intact

    again = opened(scores)
    again.selectbox(key="reviewed").set_value("by me").run()
    assert again.session_state["open"] == seen[0]
    again.segmented_control(key="page").set_value("Summary").run()
    assert ("cases judged", "5 of 40") in [(metric.label, metric.value) for metric in again.metric]
    assert any("5 records, unbroken" in text for text in texts(again))


def test_undo_takes_the_last_verdict_back_and_returns_to_it(opened, scores):
    app = opened(scores)
    first = app.session_state["open"]
    judge(app, "normal")
    undo(app)
    assert app.session_state["open"] == first
    assert [review.verdict for review in reviews.read(scores / reviews.FILE)] == [
        "normal",
        reviews.WITHDRAWN,
    ]
    undo(app)
    assert len(reviews.read(scores / reviews.FILE)) == 2 and not app.exception


def test_undo_says_what_it_undid_and_keeps_its_comment(opened, scores):
    app = opened(scores)
    path = app.session_state["open"]
    judge(app, "anomalous", comment="a scratch", region="1,2,3,4")
    undo(app)
    assert receipt(app) == f"took back anomalous on {path}, record 2"
    assert (card(app)["comment"], card(app)["region"]) == ("a scratch", "1,2,3,4")
    undo(app)
    assert receipt(app) == "there is no verdict of yours to take back"


# -- Seen before judged ----------------------------------------------------------------------------


def test_no_verdict_on_an_image_that_the_browser_did_not_paint(opened, scores):
    app = opened(scores)
    other = sent(app)["order"][1]
    for painted in ("", "another", other):
        judge(app, "normal", painted=painted)
        assert "not on the screen" in receipt(app)
    assert reviews.read(scores / reviews.FILE) == [] and not app.exception


def test_no_verdict_on_an_image_that_has_moved(opened, scores):
    rewrite(scores, root="/nowhere")
    app = opened(scores)
    assert routes.describe(sent(app)["open"]).layers == {}  # so that the viewer paints nothing


def test_a_verdict_records_that_the_image_was_painted(opened, scores):
    app = opened(scores)
    judge(app, "normal")
    (kept,) = reviews.read(scores / reviews.FILE)
    assert kept.shown == "image" and verification.verify(scores).intact


# -- Regions and others ----------------------------------------------------------------------------


def test_a_saved_region_is_drawn_again_and_changed_by_a_new_record(opened, scores):
    app = opened(scores)
    path = app.session_state["open"]
    judge(app, "anomalous", region="4,6,10,20", comment="a chip")
    step(app, -1)
    assert (card(app)["region"], card(app)["comment"]) == ("4,6,10,20", "a chip")
    judge(app, "anomalous", region="4,6,10,20; 30,30,5,5")
    old, new = reviews.read(scores / reviews.FILE)
    assert (old.region, new.region) == ("4,6,10,20", "4,6,10,20; 30,30,5,5")
    assert (new.path, new.verdict) == (path, "anomalous") and verification.verify(scores).intact


def test_a_second_reader_sees_the_first_ones_region_only_after_judging(opened, scores):
    one = opened(scores, reviewer="Ben")
    path = one.session_state["open"]
    judge(one, "anomalous", region="4,6,10,20")
    two = opened(scores)
    assert two.session_state["open"] == path and card(two)["others"] == ""
    judge(two, "normal")
    step(two, -1)
    assert card(two)["others"] == "4,6,10,20" and card(two)["region"] == ""


def test_next_previous_filter_and_search(opened, scores):
    app = opened(scores)
    first = app.session_state["open"]
    step(app, 1)
    assert app.session_state["open"] != first
    step(app, -1)
    assert app.session_state["open"] == first
    app.text_input(key="search").set_value("no such name").run()
    assert "No case passes the filters" in app.info[0].value
    app.text_input(key="search").set_value("good/").run()
    assert "no longer in the list" in said(app)


def test_nobody_judges_without_a_name(opened, scores):
    app = opened(scores, reviewer="")
    assert sent(app)["reviewer"] == ""  # the viewer's buttons are switched off
    judge(app, "normal")
    assert "needs the reviewer's name" in receipt(app)
    assert reviews.read(scores / reviews.FILE) == []


def test_blind_hides_everything_until_a_verdict(opened, scores):
    app = opened(scores)
    app.toggle(key="blind").set_value(True).run()
    path = app.session_state["open"]
    assert "score" not in " ".join(texts(app)) and path not in " ".join(texts(app))
    assert "score" not in said(app) and path not in json.dumps(sent(app))
    assert not any(each.label == "Sort by" for each in app.selectbox) and not any(
        each.label == "Kind" for each in app.multiselect
    )
    assert list(routes.describe(sent(app)["open"]).layers) == ["image"]
    judge(app, "normal")
    assert app.session_state["open"] == path and path in said(app)
    assert "heatmap" in routes.describe(sent(app)["open"]).layers
    assert any(
        text.startswith("p 0.") and "score" in text and "flagged" in text
        for text in card(app)["facts"]
    )
    judge(app, "anomalous")
    assert [review.blind for review in reviews.read(scores / reviews.FILE)] == [True, False]


def names_in(text, scores):
    """The paths that a text has, and names of files."""
    paths = {row.path for row in directories.read(scores).rows}
    names = paths | {path.rpartition("/")[2] for path in paths}
    return sorted(name for name in names if name in text)


@pytest.mark.parametrize("view", ["Case", "Gallery"])
def test_nothing_that_a_blind_reader_is_sent_names_an_image(opened, scores, monkeypatch, view):
    drawn = {}

    def component(name, **_):
        def draw(*, data=None, **_):
            drawn[name] = data

        return draw

    app = opened(scores)
    path = app.session_state["open"]
    judge(app, "normal", comment="a scratch")
    undo(app)
    assert f"took back normal on {path}" in receipt(app)
    assert path in names_in(in_app.everything_sent(app), scores)
    app.toggle(key="blind").set_value(True).run()
    assert receipt(app) == "took back normal, record 2"
    assert names_in(in_app.everything_sent(app), scores) == []

    monkeypatch.setattr(page.st.components.v2, "component", component)
    app.segmented_control(key="view").set_value(view).run()
    assert not app.exception
    assert names_in(json.dumps(drawn), scores) == []


def test_a_group_that_is_one_image_has_a_number_while_blind(opened, scores):
    tables = directories.read_tables(scores)
    rows = list(directories.read(scores).rows)
    lots = {0: "lot 7", 1: "lot 8"}
    grouped = [replace(row, group=lots.get(n % 4, row.path)) for n, row in enumerate(rows)]
    tables = replace(tables, scores=to_table(grouped, ScoreRow))
    directories.write(scores, directories.read(scores).audit, tables)
    app = opened(scores)
    app.toggle(key="by_group").set_value(True).run()
    app.multiselect(key="groups").set_value([rows[2].path, "lot 7"]).run()
    app.toggle(key="blind").set_value(True).run()
    assert not app.exception and names_in(in_app.everything_sent(app), scores) == []
    assert app.multiselect(key="groups").options == ["lot 7", "lot 8"]
    assert app.multiselect(key="groups").value == ["lot 7"]
    app.multiselect(key="groups").set_value([]).run()
    assert names_in(in_app.everything_sent(app), scores) == []
    shown = app.dataframe[0].value["patient or lot"]
    assert all(name in ("lot 7", "lot 8") or name.isdecimal() for name in shown)


def test_a_second_reader_sees_the_first_ones_verdict_only_after_judging(opened, scores):
    one = opened(scores, reviewer="Ben")
    path = one.session_state["open"]
    judge(one, "anomalous", comment="my secret opinion")
    two = opened(scores)
    assert two.session_state["open"] == path and "secret" not in " ".join(texts(two))
    assert "secret" not in json.dumps(sent(two))
    judge(two, "normal")
    step(two, -1)
    assert any("Ben: anomalous" in text and "my secret opinion" in text for text in texts(two))
    two.segmented_control(key="page").set_value("Summary").run()
    assert ("disagreements", "1") in [(metric.label, metric.value) for metric in two.metric]
    (pairs,) = (frame.value for frame in two.dataframe if "reviewers" in frame.value)
    assert list(pairs["cases in common"]) == [1] and list(pairs["first, blind"]) == [0]


def test_the_threshold_moves_what_is_flagged_and_nothing_on_record(opened, scores):
    before = (scores / "scores.parquet").read_bytes()
    app = opened(scores)
    app.segmented_control(key="page").set_value("Threshold").run()

    def flagged():
        return int(
            next(metric.value for metric in app.metric if metric.label == "flagged").split()[0]
        )

    recorded = sum(bool(row.flagged) for row in directories.read(scores).rows)
    assert flagged() == recorded
    app.radio(key="truth_from").set_value("labels").run()
    assert not app.warning
    app.select_slider(key="far").set_value(50.0).run()
    assert flagged() > recorded and not app.exception
    assert (scores / "scores.parquet").read_bytes() == before


def test_verdicts_on_what_is_flagged_alone_cannot_tell_how_much_is_found(opened, scores):
    """All flagged cases are judged: of these the precision is known, and nothing of the others
    until a random sample of them is judged, which the page offers."""
    rows = directories.read(scores).rows
    kept = store.Store(scores, directories.read(scores).audit.head)

    def judge(row):
        shown = [Shown(row.path, row.sha256, painted=True)]
        kept.add(row, "Ada", "anomalous" if row.label else "normal", shown)

    for row in rows:
        if row.flagged:
            judge(row)
    app = opened(scores)
    app.segmented_control(key="page").set_value("Threshold").run()
    app.radio(key="truth_from").set_value("verdicts").run()

    def metrics():
        return {metric.label: metric.value for metric in app.metric}

    assert metrics()["anomalous found"] == metrics()["normal flagged"] == "cannot tell"
    flagged = [row.label for row in rows if row.flagged]
    assert metrics()["flags that are right"] == f"{np.mean(flagged):.0%}"
    assert "cannot tell how much of the batch is found" in app.warning[0].value
    app.number_input(key="sample_size").set_value(5).run()
    app.button(key="open_sample").click().run()
    listed = app.session_state["listed"]
    assert [row.flagged for row in listed].count(False) == 5 and not app.exception
    for row in listed:
        if not row.flagged:
            judge(row)
    app.segmented_control(key="page").set_value("Threshold").run()
    missed = sum(row.label for row in listed if not row.flagged)
    others = sum(not row.flagged for row in rows)
    share = sum(flagged) / (sum(flagged) + missed * others / 5)
    assert metrics()["anomalous found"] == f"{share:.0%}" and not app.warning


def test_every_case_says_what_is_to_be_known(opened, scores, scored_volume):
    app = opened(scores)
    audit = directories.read(scores).audit
    step(app, 1)
    (strip,) = app.expander
    said = [text.value.removeprefix("⚠ ") for text in strip.text]
    assert audit.statement in said and {sentence(text) for text in audit.caveats} <= set(said)
    assert any("The model has learned from" in text for text in said)
    assert "of the heatmap count" in routes.describe(sent(app)["open"]).found
    app.toggle(key="blind").set_value(True).run()
    assert routes.describe(sent(app)["open"]).found == ""
    said = [text.value.removeprefix("⚠ ") for text in app.expander[0].text]
    assert audit.statement in said and audit.drift.batch.text not in said

    app = opened(scored_volume[0], reviewer="Uma")
    slices = directories.read_slices(scored_volume[0])
    flagged = sum(bool(each.flagged) for each in slices)
    profile = routes.describe(sent(app)["open"]).volume.profile
    assert f"{flagged} of {len(slices)} slices flagged" in profile.found

    (line,) = [text.value for text in app.expander[0].text if "This volume:" in text.value]
    assert profile.found.partition(" · ")[0] in line and flagged
    app.toggle(key="blind").set_value(True).run()
    assert not any("This volume:" in text.value for text in app.expander[0].text)


@pytest.mark.parametrize("turned", [(1, 1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_strip_numbers_slices_as_the_screen_does(plane, turned):
    affine = np.diag([*(3 * np.array(turned)), 1.0])
    shape = geometry.along((9, 10, 11), affine, plane)
    rows, depth = [], shape.sides[0]
    along = shape.axes[0]
    for number in range(depth):  # as on the screen
        left, posterior, superior = shape.position((number, 0, 0))
        row = SliceRow(
            path="v",
            group="v",
            axis=plane,
            slice=int(shape.source_index((number, 0, 0))[along]),
            left_mm=left,
            posterior_mm=posterior,
            superior_mm=superior,
            foreground=1.0,
            flagged=number in (1, 2),
        )
        rows.append(row)
    by_slice = sorted(rows, key=lambda each: each.slice)
    assert known.in_volume(by_slice) == f"2 of {depth} slices flagged: 2–3"


@pytest.mark.parametrize("name", page.PAGES)
def test_every_page_is_drawn(opened, scores, pca_run, tmp_path, name):
    shutil.copytree(pca_run, tmp_path / "work/run")
    needs_scores = isinstance(page.PAGES[name], page.ScorePage)
    app = opened(*([scores] if needs_scores else []), options=["--root", str(tmp_path / "work")])
    app.segmented_control(key="page").set_value(name).run()
    assert not app.exception and not app.error
    drawn = [element.type for element in app.main]
    assert set(drawn) & {"subheader", "plotly_chart", "text_area"}, drawn


# -- Bad input -------------------------------------------------------------------------------------


def nothing(scores):
    shutil.rmtree(scores)


def unfinished(scores):
    (scores / "audit.json").unlink()
    (scores / "journal.jsonl").write_text("{}")


def newer(scores):
    audit = json.loads((scores / "audit.json").read_text())
    (scores / "audit.json").write_text(json.dumps(audit | {"format": 99}))


def no_json(scores):
    (scores / "audit.json").write_text("{")


def no_database(scores):
    (scores / reviews.FILE).write_bytes(b"x" * 5000)


def vanished_rows(scores):
    (scores / "scores.parquet").write_bytes(b"PAR1 and nothing else")


def bad_groups(scores):
    (scores / "groups.parquet").write_bytes(b"\xff\xfe,")


def no_scale(scores):
    audit = json.loads((scores / "audit.json").read_text())
    (scores / "audit.json").write_text(json.dumps(audit | {"scale": None, "far": None}))


def bad_slices(scores):
    (scores / "slices.parquet").write_bytes(b"x" * 500)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (vanished_rows, "not a readable score directory"),
        (bad_groups, "groups.parquet changed or missing"),
        (bad_slices, "slices.parquet changed or missing"),
        (no_scale, "audit.json changed or missing"),
        (nothing, "not a finished score directory"),
        (unfinished, "being written"),
        (newer, "update anodetect"),
        (no_json, "not a readable score directory"),
        (no_database, "backup"),
    ],
)
def test_a_directory_that_cannot_be_used_is_a_message(opened, scores, spoil, message):
    spoil(scores)
    app = opened(scores)
    assert not app.exception and app.error
    assert message in texts(app)[0]


def test_a_network_drive_is_a_message_with_advice(opened, scores, monkeypatch):
    page.st.cache_resource.clear()
    monkeypatch.setattr(store, "network_drive", lambda _: "nfs4")
    app = opened(scores)
    assert (
        "network drive (nfs4)" in texts(app)[0]
        and "ANODETECT_REVIEWS" in texts(app)[0]
        and not app.exception
    )


def test_a_database_that_is_locked_while_judging_is_a_message(opened, scores, monkeypatch):
    page.st.cache_resource.clear()
    monkeypatch.setattr(store, "PATIENCE", 0.1)
    app = opened(scores)
    with closing(sqlite3.connect(scores / reviews.FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        judge(app, "normal")
    assert "another program holds the reviews" in receipt(app) and not app.exception
    assert reviews.read(scores / reviews.FILE) == []
    judge(app, "normal")
    assert len(reviews.read(scores / reviews.FILE)) == 1 and not app.error


def test_a_directory_that_goes_while_it_is_open_is_a_message(opened, scores):
    app = opened(scores)
    shutil.rmtree(scores)
    step(app, 1)
    assert "not a finished score directory" in texts(app)[0] and not app.exception


def test_a_huge_image_is_a_note(opened, scores, monkeypatch):
    monkeypatch.setattr(loading, "LARGEST", 100)
    app = opened(scores)
    assert any("viewer for large images" in note for note in notes(app)) and not app.exception


def test_a_bad_directory_does_not_hide_a_good_one(opened, scores, tmp_path):
    app = opened(tmp_path / "nowhere", scores)
    assert app.error and not app.exception
    app.selectbox(key="directory").set_value(scores).run()
    assert not app.error and not app.exception


def test_without_a_directory(opened):
    assert "anodetect review DIR" in texts(opened())[0]


def test_missing_heatmaps_and_moved_images_are_said(opened, scores):
    shutil.rmtree(scores / "heatmaps")
    app = opened(scores)
    assert any("is missing" in note for note in notes(app)) and not app.exception
    rewrite(scores, root="/nowhere")
    app = opened(scores)
    assert any("No image:" in note for note in notes(app)) and not app.exception


def test_names_comments_and_reviewers_are_only_ever_text(
    opened, made, pca_run, synthetic_folder, tmp_path
):
    name = HOSTILE.replace("/", "_") + ".png"
    (tmp_path / "in").mkdir()
    shutil.copy(synthetic_folder / "test/defect/0000.png", tmp_path / "in" / name)
    (tmp_path / "in/broken<b>.png").write_text("x")
    anodetect.score(pca_run, [str(tmp_path / "in")], tmp_path / "out", far=0.2)
    app = opened(tmp_path / "out", reviewer=HOSTILE)
    judge(app, "anomalous", comment=HOSTILE)
    step(app, -1)
    assert any(f"{HOSTILE}: anomalous" in text and text.endswith(HOSTILE) for text in texts(app))
    for name in ("Cases", "Threshold", "Summary"):
        app.segmented_control(key="page").set_value(name).run()
        assert not any("evil" in text or "<b>" in text for text in drawn_as_markdown(app))
        assert not any("evil" in chart.proto.spec for chart in app.get("plotly_chart"))
        assert not app.exception
    assert verification.verify(tmp_path / "out").intact


def drawn_as_markdown(app):
    """All that Streamlit would read Markdown in."""
    drawn = [*app.markdown, *app.error, *app.info, *app.warning, *app.caption, *app.subheader]
    found = [element.value for element in drawn]
    found += [element.proto.text for element in app.get("progress")]
    found += [element.proto.label for element in app.get("expander")]
    return found + [widget.label for widget in [*app.button, *app.checkbox, *app.radio]]


def test_the_last_line_of_a_job_is_no_markdown_and_bounded(opened, tmp_path, monkeypatch):
    out, line = tmp_path / "run", f"score: 1/3 {HOSTILE} {'x' * 5000}"
    job = jobs.Job(tmp_path / "1", tmp_path, ("score",), out, 1, 0.0, "2026-01-02T03:04:05")
    monkeypatch.setattr(jobs, "all_jobs", lambda _: [job])
    monkeypatch.setattr(jobs, "progress", lambda _: jobs.Progress(done=1, total=3, line=line))
    for state in ("running", "failed"):
        monkeypatch.setattr(jobs, "state", lambda _, state=state: state)
        app = opened(options=["--root", str(tmp_path)])
        app.segmented_control(key="page").set_value("Train").run()
        assert not app.exception and "evil" not in "".join(drawn_as_markdown(app))
        shown = [text for text in texts(app) if HOSTILE[:20] in text]
        assert [len(text) for text in shown] == [299]


def test_what_a_row_says_is_no_markdown_and_bounded(scores):
    row = directories.read(scores).rows[0]
    row = replace(row, path="a" * 4000, group="b" * 4000, status=HOSTILE, error=HOSTILE)
    found = facts.facts_of(row, [row.path], hidden=False)
    assert found.warning == "This file was not scored:" and found.reason == HOSTILE
    assert len(found.title) < 1000


def test_a_region_outside_the_image_is_refused_and_nothing_recorded(opened, scores):
    app = opened(scores)
    judge(app, "anomalous", region="60,60,10,10")
    assert "does not lie within the image" in receipt(app)
    assert reviews.read(scores / reviews.FILE) == []


# -- Patients, regions, second readers -------------------------------------------------------------


def test_images_of_a_patient_stand_together(opened, made, pca_run, synthetic_folder, tmp_path):
    shutil.copytree(synthetic_folder / "test", tmp_path / "in/test")
    names = [f"test/{kind}/{n:04}.png" for n in range(4) for kind in ("good", "defect")]
    lines = [f"{name},=P{n % 4},<s{n // 4}>" for n, name in enumerate(names)]
    (tmp_path / "in/manifest.csv").write_text("path,group,study\n" + "\n".join(lines))
    anodetect.score(pca_run, [str(tmp_path / "in")], tmp_path / "out", far=0.2)
    app = opened(tmp_path / "out")
    app.toggle(key="by_group").set_value(True).run()
    groups, images = (frame.value for frame in app.dataframe)
    assert sorted(groups["patient or lot"]) == [f"=P{n}" for n in range(4)]
    assert groups["p"].notna().all() and list(groups["judged"]) == ["0 of 2"] * 4
    assert len(images) == 2 and app.session_state["open"].endswith(images["image"][0])
    assert list(groups["studies"]) == [2] * 4 and list(images["study"]) == [1, 2]
    (said,) = (text for text in texts(app) if text.startswith("Studies: "))
    assert sorted(said.removeprefix("Studies: ").split(", ")) in (
        ["1 <s0>", "2 <s1>"], ["1 <s1>", "2 <s0>"]
    )  # fmt: skip
    judge(app, "normal")
    judge(app, "normal")
    judged = [review.path for review in reviews.read(tmp_path / "out" / reviews.FILE)]
    by_path = {row.path: row.group for row in directories.read(tmp_path / "out").rows}
    assert by_path[judged[0]] == by_path[judged[1]] and judged[0] != judged[1]
    assert list(app.dataframe[0].value["judged"]) == ["2 of 2", "0 of 2", "0 of 2", "0 of 2"]


def test_a_second_reader_gets_what_others_judged_and_sees_the_agreement(opened, scores):
    one = opened(scores, reviewer="Ben")
    for verdict in ("anomalous", "normal", "anomalous"):
        judge(one, verdict)
    two = opened(scores)
    two.selectbox(key="reviewed").set_value("by others only").run()
    assert any(caption.value == "3 cases listed" for caption in two.caption)
    for verdict in ("anomalous", "normal", "normal"):
        judge(two, verdict)
    assert any("2 of 3 as Ben judged; Cohen's κ 0.4" in text for text in texts(two))


def test_a_kappa_that_is_not_defined_is_a_dash_with_its_reason(opened, scores):
    for reader in ("Ada", "Ben"):
        app = opened(scores, reviewer=reader)
        for _ in range(2):
            judge(app, "normal")
    app.segmented_control(key="page").set_value("Summary").run()
    (shown,) = [each for each in app.dataframe if "Cohen's κ" in each.value]
    assert shown.value["Cohen's κ"].isna().all() and shown.proto.placeholder == "–"
    said = " ".join(each.value for each in app.caption)
    assert "it is not defined: both always gave one and the same verdict" in said
    assert "there is none on which both reviewers gave their first verdict blind" in said


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([0, 0, 0], "0 regions of the heatmap count"),
        ([1, 1, 0], "1 region of the heatmap counts"),
        ([1, 0, 1], "2 regions of the heatmap count"),
    ],
)
def test_numbers_and_words_agree(found, said):
    assert known.regions_text(np.array([found], bool), 1) == said


def test_one_slice_and_one_file_are_no_plurals():
    assert known.Found((), 1, (1,)).text == (
        "0 of 1 slice flagged · regions of the heatmap count on slice 1"
    )
    assert known.Found((1, 2), 3, (1, 2)).text == (
        "2 of 3 slices flagged: 1–2 · regions of the heatmap count on slices 1–2"
    )


def test_another_spelling_of_a_name_is_asked_about_once(opened, scores):
    app = opened(scores)
    judge(app, "normal")
    question = "Are you Ada, who has verdicts here?"
    assert question not in texts(app)

    app.text_input(key="reviewer").set_value("\u0410DA").run()  # with a Cyrillic A
    assert question in texts(app) and sent(app)["reviewer"] == ""
    app.button(key="same_reviewer").click().run()
    assert app.text_input(key="reviewer").value == "Ada" and question not in texts(app)
    judge(app, "normal")

    app.text_input(key="reviewer").set_value("ada").run()
    app.button(key="other_reviewer").click().run()
    assert question not in texts(app)
    judge(app, "normal")
    assert [review.reviewer for review in reviews.read(scores / reviews.FILE)] == [
        "Ada", "Ada", "ada"
    ]  # fmt: skip

    app = opened(scores, reviewer="ada")  # who is on record
    assert question not in texts(app) and sent(app)["reviewer"] == "ada"
    app.segmented_control(key="page").set_value("Summary").run()
    assert any("Ada, ada: these names look like spellings of one" in text for text in texts(app))


def test_the_name_comes_from_the_login_where_there_is_one(opened, scores, monkeypatch):
    monkeypatch.setattr(page.st, "user", {"is_logged_in": True, "email": "ada@example.org"})
    app = opened(scores, reviewer="")
    assert not any(field.key == "reviewer" for field in app.text_input)
    judge(app, "normal")
    assert [review.reviewer for review in reviews.read(scores / reviews.FILE)] == [
        "ada@example.org"
    ]
    monkeypatch.setattr(page.st, "user", {"is_logged_in": False})
    app = opened(scores, reviewer="")
    assert any(button.label == "Log in" for button in app.button) and sent(app)["reviewer"] == ""


# -- Volumes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volume_run(synthetic_folder, tmp_path_factory):
    """A model of images that scores volumes unlike them, too."""
    out = tmp_path_factory.mktemp("runs") / "pca"
    anodetect.train(str(synthetic_folder), "pca", out, values={"refuse_unseen": False})
    return out


@pytest.fixture(scope="module")
def scored_volume(volume_run, tmp_path_factory):
    """A volume of 9 axial slices on their heads, a defect in one of them, scored."""
    base = tmp_path_factory.mktemp("volume")
    clean, no_masks = synthetic.images(8, seed=3)
    defective, its_mask = synthetic.images(1, defects=True, seed=4)
    pictures = np.concatenate([clean[:, 0], defective[:, 0]])
    masks = np.concatenate([no_masks, its_mask])
    for name, array in (("in/head.nii.gz", pictures), ("in/truth.nii.gz", masks.astype(np.uint8))):
        (base / name).parent.mkdir(exist_ok=True)
        nibabel.save(
            nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([-1.0, -1.0, -4.0, 1.0])),
            base / name,
        )
    (base / "in/manifest.csv").write_text("path,mask\nhead.nii.gz,truth.nii.gz\n")
    anodetect.score(volume_run, [str(base / "in")], base / "scores", far=0.2)
    return base / "scores", pictures, masks


def test_a_volume_starts_at_the_slice_with_the_highest_score(opened, scored_volume):
    scores, pictures, masks = scored_volume
    app = opened(scores)
    assert not app.exception
    # The source's slices run toward the feet, those on the screen toward the head: the last one
    # comes first.
    directory = directories.read(scores)
    (row,) = directory.rows
    case = loading.load_volume(directory, row, "axial")
    assert (case.slices[0, 0] == pictures[-1]).all() and (case.mask[0] == masks[-1]).all()
    assert case.heatmap.shape == (9, 64, 64) and case.heatmap[0].max() > case.heatmap[1:].max()
    volume = routes.describe(sent(app)["open"]).volume
    slices = sorted(directories.read_slices(scores), key=lambda each: -each.slice)
    assert volume.start == 0 and volume.profile.scores == tuple(each.score for each in slices)
    app.toggle(key="blind").set_value(True).run()
    hidden = routes.describe(sent(app)["open"])
    assert list(hidden.layers) == ["image"] and hidden.volume.profile is None
    assert hidden.volume.start == 4
    judge(app, "anomalous", region="axial 4: 10,20,5,4", places=["axial 8", "axial 4"])
    assert verification.verify(scores).intact
    (kept,) = reviews.read(scores / reviews.FILE)
    assert kept.shown == "axial 4,8" and kept.region == "axial 4: 10,20,5,4"
    assert kept.region_mm.split(" ")[0] == "9.5,19.5,-16"


def test_the_thumbnail_of_a_volume_is_its_slice_with_the_highest_score(opened, scored_volume):
    scores, pictures, _ = scored_volume
    app = opened(scores, reviewer="Zoe")  # who has judged nothing

    def shown():  # the slice that the thumbnail is most like
        deadline = time.monotonic() + 20
        while not (seen := app.dataframe[0].value["seen"][0]) and time.monotonic() < deadline:
            time.sleep(0.2)  # it is made beside the page
            app.run()
        picture = np.asarray(
            Image.open(io.BytesIO(b64decode(seen.partition(",")[2]))).convert("L"), float
        )
        inner = np.s_[:48, 16:]  # where nothing is written over it
        alike = [
            np.corrcoef(picture[inner].ravel(), other[inner].ravel())[0, 1] for other in pictures
        ]
        assert picture.shape == (64, 64) and max(alike) > 0.95 and not app.exception
        direction, place_in_mm = np.s_[25:40, :8], np.s_[54:, 12:52]
        for part in (direction, place_in_mm):
            assert picture[part].std() > 2 * max(other[part].std() for other in pictures)
        return int(np.argmax(alike))

    slices = directories.read_slices(scores)
    highest = max(slices, key=lambda each: each.score).slice
    assert shown() == highest
    app.toggle(key="blind").set_value(True).run()
    assert shown() == slices[4].slice != highest  # the highest would tell where to look


def test_a_dicom_series_is_shown_as_the_volume_it_is(opened, volume_run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    voxels = synthetic.images(5, seed=6)[0][:, 0].astype(np.int16)
    voxels[2, 8:] = 0  # too little to be scored
    write_series(tmp_path / "in", voxels, order=[3, 0, 4, 1, 2])
    anodetect.score(volume_run, [str(tmp_path / "in")], tmp_path / "out", far=0.2)
    directory = directories.read(tmp_path / "out")
    (row,) = directory.rows
    plane = directories.read_slices(directory.path)[0].axis
    case = loading.load_volume(directory, row, plane)
    assert case.notes == () and case.heatmap.shape == case.slices.shape[1:]
    assert (case.geometry.to_source(case.slices[0]) == voxels).all()
    shown = [display.slice_view(case, number).heatmap is not None for number in range(5)]
    assert (
        shown
        == [row.score is not None for row in directories.read_slices(directory.path)]
        != [True] * 5
    )
    app = opened(directory.path)
    profile = routes.describe(sent(app)["open"]).volume.profile
    assert profile.unscored[shown.index(False)] == "too little foreground" and not app.exception


@pytest.mark.parametrize("listed", ["", "in", "in/IM000"])
def test_a_series_is_shown_as_scoring_found_it(volume_run, tmp_path, monkeypatch, listed):
    """In several folders side by side, or only in the one that a manifest names."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    voxels, root = synthetic.images(5, seed=6)[0][:, 0].astype(np.int16), tmp_path / "root"
    write_series(root / "in", voxels)
    (root / "more").mkdir()
    for name in ("IM003", "IM004"):
        (root / "in" / name).rename(root / "more" / name)
    if listed:
        (root / "manifest.csv").write_text(f"path\n{listed}\n")
    anodetect.score(volume_run, [str(root)], tmp_path / "out", far=0.2)
    directory = directories.read(tmp_path / "out")
    (row,) = directory.rows
    assert row.study.startswith("study-")
    volume = loading.read_volume(directory, row)
    assert np.array_equal(volume.voxels[0], voxels[:3] if listed else voxels)
    assert rescore(directory.path, 1) == []

    outside = root / ("in" if listed else "more") / "IM009"
    outside.symlink_to(write_series(tmp_path / "else", voxels[:1] + 1) / "IM000")
    assert np.array_equal(loading.read_volume(directory, row).voxels, volume.voxels)


def test_a_volume_that_was_changed_is_not_shown(opened, scored_volume, tmp_path):
    scores = shutil.copytree(scored_volume[0], tmp_path / "scores")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/head.nii.gz").write_bytes(b"else")
    rewrite(scores, root=str(tmp_path / "in"))
    app = opened(scores)
    assert any("was changed since it was scored" in note for note in notes(app))
    before = reviews.read(scores / reviews.FILE)
    judge(app, "normal", places=["axial 4"])
    assert "not on the screen" in receipt(app) and not app.exception
    assert reviews.read(scores / reviews.FILE) == before


# -- Train and score -------------------------------------------------------------------------------


def settings(folder, home):
    """What Streamlit is set to where the app is started in a folder."""
    command = review.app_command([], 8600)
    place = command.index("run")
    command[place : place + 2] = ["config", "show"]
    environment = {**os.environ, "HOME": str(home), "USERPROFILE": str(home)}
    found = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return [line.strip() for line in found.stdout.splitlines() if not line.startswith("#")]


def test_the_folder_it_is_started_in_sets_nothing(tmp_path):
    (tmp_path / "home/.streamlit").mkdir(parents=True)
    (tmp_path / "home/.streamlit/config.toml").write_text("[server]\nmaxUploadSize = 7\n")
    (tmp_path / "data/.streamlit").mkdir(parents=True)
    (tmp_path / "data/.streamlit/config.toml").write_text(
        """
        [server]
        address = "0.0.0.0"
        enableCORS = false
        enableXsrfProtection = false
        corsAllowedOrigins = ["http://evil.example"]
        trustedUserHeaders = '{"X-User": "email"}'
        enableStaticServing = true
        maxUploadSize = 9

        [client]
        allowedOrigins = ["http://evil.example"]
        """
    )
    found = settings(tmp_path / "data", tmp_path / "home")
    assert "evil" not in "".join(found) and "X-User" not in "".join(found)
    for line in (
        'address = "127.0.0.1"',
        "port = 8600",
        "enableCORS = true",
        "enableXsrfProtection = true",
        "maxUploadSize = 7",
    ):
        assert line in found
    assert "enableStaticServing = true" not in found


@pytest.mark.parametrize("url", ["sqlite:///all.db", "sqlite+pysqlite:///all.db"])
def test_a_relative_database_is_refused(tmp_path, monkeypatch, url):
    monkeypatch.setenv("ANODETECT_REVIEWS", url)
    with pytest.raises(ConfigError, match="absolute path"):
        review.serve([], port=8501, roots=[tmp_path])


def test_train_and_score_needs_roots(opened, scores):
    app = opened(scores)
    app.segmented_control(key="page").set_value("Train").run()
    assert "--root" in app.code[0].value and not app.exception


def test_the_page_lists_runs_and_starts_commands(opened, scores, pca_run, tmp_path, monkeypatch):
    root = tmp_path / "work"
    shutil.copytree(pca_run, root / "runs/pca")
    shutil.copytree(scores, root / "scores")
    (root / "images").mkdir()
    shutil.copy(next((scores / "heatmaps").rglob("*.png")), root / "images/a.png")
    started = []
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(jobs.Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(jobs, "_start", lambda *given: started.append(given))
    app = opened(options=["--root", str(root)])
    app.segmented_control(key="page").set_value("Train").run()
    table = app.dataframe[0].value
    assert list(table["detector"]) == ["pca"] and table["image AUROC"][0].endswith("on scores")
    app.selectbox(key="card").set_value(str(root / "runs/pca")).run()
    assert "# pca on" in app.code[0].value
    next(button for button in app.button if button.label == "Train").click().run()
    ((folder, own, command),) = started
    assert own == root and folder.is_relative_to(tmp_path) and not app.exception
    assert not folder.is_relative_to(root)
    assert command[:4] == [
        "train",
        str(root / "images"),
        "--out",
        str(root / f"images-{next(iter(DETECTORS))}"),
    ]
    next(field for field in app.text_input if field.label.startswith("Channels")).set_value("t1=a")
    next(button for button in app.button if button.label == "Train").click().run()
    assert any("2 to 12 are expected" in text for text in texts(app)) and len(started) == 1
    next(field for field in app.text_input if field.label.startswith("Channels")).set_value("")
    next(field for field in app.text_input if field.label == "Name of the run").set_value(
        "../outside"
    )
    next(button for button in app.button if button.label == "Train").click().run()
    assert (
        any("outside is in none of the folders" in text for text in texts(app))
        and len(started) == 1
    )
    app.segmented_control(key="page").set_value("Cases").run()
    assert app.selectbox(key="directory").value == root / "scores"


# -- Starting --------------------------------------------------------------------------------------


def test_review_starts_for_this_machine_only_and_without_a_shell(monkeypatch, tmp_path):
    started = []
    monkeypatch.chdir(tmp_path)
    for name in ("scores", "-x; rm -rf y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "audit.json").write_text('{"format": 3}')
    monkeypatch.setattr(
        review.os, "execv", lambda program, command: started.append((program, command))
    )
    monkeypatch.setattr(
        sys, "argv", ["anodetect", "review", "--port", "8765", "--", "scores", "-x; rm -rf y"]
    )
    with pytest.raises(SystemExit):
        cli.main()
    ((program, command),) = started
    assert program == sys.executable and command[:2] == [sys.executable, "-P"]
    assert (
        Path(command[2]).name == "serve.py" and command[3] == "run" and Path(command[4]).is_file()
    )
    assert {
        "--server.address=127.0.0.1",
        "--server.port=8765",
        "--server.enableXsrfProtection=true",
    } <= set(command)
    assert command[-3:] == ["--", str(tmp_path / "scores"), str(tmp_path / "-x; rm -rf y")]


def test_without_the_extra_review_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(review, "find_spec", lambda name: None if name == "plotly" else name)
    with pytest.raises(ConfigError, match=r"needs plotly: pip install 'anodetect\[app\]'"):
        review.serve([tmp_path], port=8501)


def test_the_app_imports_no_torch():
    code = "import sys, apps.review.page, anodetect.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(page.__file__).parents[2])
