"""The way to a case: the page's address, conditions as chips, and the next case to judge."""

import shutil
import sys

import numpy as np
import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import in_app
import score_folders
from in_app import judge, step
from streamlit.testing.v1 import AppTest

from anodetect.commands import review
from anodetect.record import alike, directories
from apps.review import worklist


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    return score_folders.write(tmp_path_factory.mktemp("address"), 12)


@pytest.fixture
def visit(monkeypatch, scores, tmp_path_factory):
    """Open the app at an address, with a viewer that does what a test says."""
    in_app.serve(monkeypatch, tmp_path_factory.mktemp("viewer"))
    monkeypatch.setattr(sys, "argv", ["app.py", str(scores)])

    def open_page(**query):
        app = AppTest.from_file(str(review.app_file()), default_timeout=60)
        for name, text in query.items():
            app.query_params[name] = text
        return app.run()

    return open_page


def test_the_address_leads_back_to_case_filters_and_mode(visit):
    app = visit(reviewer="Ada", flagged="no", order="q-value")
    step(app, 1)
    case = app.session_state["open"]
    assert app.query_params["case"] == case

    # Another session, as after a restart. The browser itself writes what was chosen.
    again = visit(reviewer="Ada", flagged="no", order="q-value", case=case)
    assert again.session_state["open"] == case
    assert again.radio(key="flagged").value == "no"
    assert again.selectbox(key="order").value == "q-value"
    again.segmented_control(key="page").set_value("Summary").run()
    again.segmented_control(key="page").set_value("Cases").run()
    assert again.radio(key="flagged").value == "no" and again.session_state["open"] == case
    assert not again.exception


def test_the_address_of_a_hidden_case_names_it_by_a_number(visit, scores):
    app = visit(reviewer="Ada", blind="true")
    step(app, 1)
    case, asked = app.session_state["open"], app.query_params["case"]
    assert asked.startswith("~")
    ranked = sorted((row.path for row in directories.read(scores).rows), key=worklist.blind_rank)
    assert ranked[int(asked[1:]) - 1] == case
    assert visit(reviewer="Ada", blind="true", case=asked).session_state["open"] == case


@pytest.mark.parametrize("case", ["../../etc/passwd", "~0", "~99", "~", "~" + "9" * 5000, "~²"])
def test_an_address_of_no_case_is_said_and_opens_the_first(visit, scores, case):
    app = visit(reviewer="Ada", case=case)
    assert app.session_state["open"] == directories.read(scores).rows[0].path
    assert any("is not in this score directory" in each.value for each in app.text)
    assert not app.exception


def test_a_report_names_the_record_by_its_head(visit, scores, tmp_path, monkeypatch):
    other = score_folders.write(tmp_path, 3)
    monkeypatch.setattr(sys, "argv", ["app.py", str(scores), str(other)])
    head = directories.read(other).audit.head
    app = visit(reviewer="Ada", record=head[:12], case="part-002.png")
    assert app.selectbox(key="directory").value == other
    assert app.session_state["open"] == "part-002.png"
    assert any("is not open here" in each.value for each in visit(record="0" * 12).text)


def test_a_chip_takes_one_condition_off_and_the_cross_all(visit):
    app = visit(reviewer="Ada", flagged="no", search="part")
    chips = app.multiselect(key="chips")
    assert chips.value == ["flagged", "search"]
    assert chips.options == ["Flagged: no", "Search: part"]
    chips.set_value(["search"]).run()
    assert app.radio(key="flagged").value == "all" and app.text_input(key="search").value == "part"
    app.multiselect(key="chips").set_value([]).run()
    assert app.text_input(key="search").value == ""
    assert not any(each.key == "chips" for each in app.multiselect)

    app.text_input(key="search").set_value("nothing like it").run()
    app.button(key="clear").click().run()
    assert app.text_input(key="search").value == "" and not app.exception


def test_the_next_unjudged_case_is_opened_from_every_page(visit):
    app = visit(reviewer="Zoe")
    first, second, third = (f"part-00{n}.png" for n in range(3))
    judge(app, "normal")
    assert app.session_state["open"] == second
    judge(app, "normal")
    step(app, -1)
    step(app, -1)
    assert app.session_state["open"] == first
    app.segmented_control(key="page").set_value("Summary").run()
    app.button(key="unjudged").click().run()
    assert app.segmented_control(key="page").value == "Cases"
    assert app.session_state["open"] == third
    app.button(key="unjudged").click().run()
    assert app.session_state["open"] == "part-003.png"


@pytest.mark.parametrize("name", ["Threshold", "Summary", "Compare", "Batches", "Train"])
def test_every_page_leads_to_the_next_unjudged_case_of_the_open_directory(
    visit, scores, tmp_path, monkeypatch, name
):
    other = score_folders.write(tmp_path, 12)
    monkeypatch.setattr(sys, "argv", ["app.py", str(scores), str(other)])
    app = visit(reviewer="Yan", directory=str(other))
    judge(app, "normal")
    app.segmented_control(key="page").set_value(name).run()
    (button,) = [each for each in app.button if each.key == "unjudged"]
    button.click().run()
    assert not app.exception and app.segmented_control(key="page").value == "Cases"
    assert app.session_state["open"] == "part-002.png"
    assert app.session_state["directory"] == other and app.session_state["reviewer"] == "Yan"


def test_equal_q_values_are_sorted_by_score(scores):
    rows = directories.read(scores).rows
    keep = worklist.Filter()
    listed = worklist.worklist(rows[::-1], {}, order="q-value", keep=keep, reviewer="")
    assert [row.score for row in listed] == sorted((row.score for row in rows), reverse=True)


def test_novelty_is_the_distance_from_all_that_was_judged(scores, visit, tmp_path, monkeypatch):
    rng, rows = np.random.default_rng(0), directories.read(scores).rows
    made = rng.normal(size=(len(rows), 5)).astype(np.float32)
    vectors = made / np.linalg.norm(made, axis=1, keepdims=True)
    paths = tuple(row.path for row in rows)
    known = alike.Alike(paths, vectors)
    assert known.novelty(["gone"]) is None
    monkeypatch.setattr(alike, "AT_ONCE", 2)
    found = known.novelty([*paths[:3], "gone"])
    for place in range(len(rows)):  # by brute force
        assert found[place] == pytest.approx(1 - max(vectors[place] @ vectors[:3].T), abs=1e-6)

    copy = shutil.copytree(scores, tmp_path / "scores")
    (copy / "reviews.sqlite").unlink(missing_ok=True)
    alike.write(copy, directories.read(copy).audit.head, known)
    monkeypatch.setattr(sys, "argv", ["app.py", str(copy)])
    app = visit(reviewer="Ada", order="novelty")
    assert app.session_state["open"] == paths[0]  # by p-value
    judge(app, "normal")
    app.button(key="unjudged").click().run()
    listed = [row.path for row in app.session_state["listed"]]
    distance = 1 - vectors @ vectors[0]
    assert listed == [paths[place] for place in np.argsort(-distance, kind="stable")]
    assert listed[-1] == paths[0] and not app.exception


def test_the_audit_sample_is_in_the_address_and_is_the_same_again(visit):
    app = visit(reviewer="Ada", page="Threshold")
    app.number_input(key="sample_size").set_value(3).run()
    app.button(key="open_sample").click().run()
    sample = app.session_state["audit_sample"]
    assert len(sample) == 2 + 3  # two are flagged
    assert app.query_params["sample"] == "3"
    again = visit(reviewer="Ada", sample="3")
    assert again.session_state["audit_sample"] == sample
    assert {row.path for row in again.session_state["listed"]} == sample
    again.checkbox(key="only_sample").set_value(False).run()
    assert "sample" not in again.query_params and not again.exception
    for size in ("0", "-1", "99999", "x"):
        assert not visit(reviewer="Ada", sample=size).session_state["audit_sample"]
