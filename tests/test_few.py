"""Fewer normals than a promise needs: trained, scored, measured and reviewed without p-values."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

import anodetect
from anodetect.commands.few import representation_of_few
from anodetect.commands.merge import merge
from anodetect.commands.results import MergeResult
from anodetect.commands.texts import evaluation_text, scores_text
from anodetect.commands.verify import verify
from anodetect.data import split, synthetic
from anodetect.data.records import Record
from anodetect.errors import ConfigError, DataError
from anodetect.imaging.representations import features_installed
from anodetect.record import audit, directories, rows, runs, verification
from anodetect.record.decisions import decide, decide_slices
from anodetect.stats.calibration import Calibration
from anodetect.stats.decision import Rule

SMALL = {"size": 64, "memory": 500}
COLUMNS = ("p_value", "q_value", "flagged", "threshold")
WHY = "too few normals for a promise"
NOTHING = Calibration(np.zeros(0), np.zeros(0), ())

needs_features = pytest.mark.skipif(
    not features_installed(), reason="the extra `features` is not installed"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder `few` with five normals, and `all` in the MVTec layout."""
    folder = tmp_path_factory.mktemp("few")
    synthetic.write(folder / "all", train=25, test=6, size=64)
    (folder / "few").mkdir()
    for file in sorted((folder / "all/train/good").iterdir())[:5]:
        shutil.copy(file, folder / "few")
    return folder


@pytest.fixture(scope="module")
def run(data):
    out = data / "run"
    anodetect.train(str(data / "few"), "patchcore", out, values=SMALL, allow_few=True)
    return out


@pytest.fixture(scope="module")
def scores(data, run):
    out = data / "scores"
    anodetect.score(run, [str(data / "all/test")], out)
    return out


def records(count):
    return [Record(str(number), None) for number in range(count)]


def test_the_split_takes_all_to_fit_or_refuses():
    roles = split.assign(records(19), few=True)
    assert (len(roles.fit), roles.tune, roles.calibrate) == (19, [], [])
    assert WHY in roles.dropped
    assert split.assign(records(20), few=True) == split.assign(records(20))
    with pytest.raises(DataError, match="--allow-few"):
        split.assign(records(19))
    with pytest.raises(DataError, match="at least 2"):
        split.assign(records(1), few=True)


@pytest.mark.parametrize(
    ("detector", "representation", "message"),
    [
        ("anoddpm", "auto", "take pca or patchcore"),
        ("intensity", "auto", "take pca or patchcore"),
        ("pca", "pixels", "the detector sees features"),
    ],
)
def test_what_needs_more_images_is_refused(detector, representation, message):
    with pytest.raises(ConfigError, match=message):
        representation_of_few(detector, representation)


@pytest.mark.parametrize("rule", [Rule(0.05), Rule(0.1, by_fdr=True)])
def test_nothing_is_decided_without_calibration(rule):
    found = []
    for number, status in enumerate(["ok", "ok", "failed"]):
        score = float(number) if status == "ok" else None
        found.append(
            rows.ScoreRow(path=f"{number}", group="g", model_sha256="", status=status, score=score)
        )
    table = rows.to_table([replace(row, flagged=True) for row in found], rows.ScoreRow)
    decided, groups, _ = decide(table, NOTHING, rule)
    for name in COLUMNS:
        assert decided[name].to_pylist() == [None] * 3
    assert groups.to_pylist() == [
        {"group": "g", "images": 2, "score": 1.0} | dict.fromkeys(COLUMNS[:3])
    ]
    rows.check_columns(groups, rows.GroupRow)
    assert decide_slices(rows.to_table([], rows.SliceRow), NOTHING, rule).num_rows == 0


@needs_features
def test_the_run_says_why_nothing_is_promised(run):
    facts = runs.facts(run)
    assert (facts.training.fit_images, facts.training.tune_images) == (5, 0)
    assert (facts.calibration_images, facts.representation) == (0, "features")
    assert WHY in facts.training.dropped
    assert (run / "model_card.md").read_text().count(WHY) == 2
    assert [row.role for row in runs.read_manifest(run)] == ["fit"] * 5
    low, high = facts.scale
    assert 0 < low < high, "learned from images outside the memory, where distances are not 0"


@needs_features
def test_scores_are_ranked_and_nothing_else(scores, run, data):
    table = pq.read_table(scores / "scores.parquet")
    for name in COLUMNS:
        assert table[name].null_count == len(table) == 12
    groups = pq.read_table(scores / "groups.parquet")
    assert groups["flagged"].null_count == groups["p_value"].null_count == 12
    assert ",,,,," in (scores / "scores.csv").read_text().splitlines()[1]

    evaluation = anodetect.evaluate(run, str(data / "all"), by=["kind"])
    content = json.loads(json.dumps(evaluation.as_json()))
    assert content["image"]["auroc"]["value"] > 0.9
    assert content["operating_point"] is None
    assert content["pixel"]["dice_at_threshold"] != content["pixel"]["dice_at_threshold"]
    assert "false_alarms" not in content["by"]["kind"]["defect"]
    assert WHY in content["statement"]
    text = evaluation_text(evaluation)
    assert WHY in text
    assert "at far" not in text
    assert "dice_at_threshold" not in text


@needs_features
def test_report_and_verification_say_why(scores, run):
    page = (scores / "report.html").read_text()
    assert page.count(WHY) == 3  # the statement, again where it is printed, and what was given up
    assert "there is no calibration" in page
    assert "Nearest to the threshold" not in page

    verdict = verify(scores, rescore=3)
    assert verdict.intact, verdict.problems
    assert any(WHY in note for note in verdict.notes)
    read = directories.read(scores)
    content = audit.to_json(read.audit)
    assert audit.to_json(audit.from_json(content)) == content
    assert read.audit.evaluation.operating_point is None


@needs_features
def test_a_decision_that_was_added_breaks_the_record(scores, tmp_path):
    changed = shutil.copytree(scores, tmp_path / "scores")
    table = pq.read_table(changed / "scores.parquet")
    for name, value in (("p_value", 0.01), ("flagged", True)):
        place = table.schema.get_field_index(name)
        column = table[name].to_pylist()
        column[3] = value
        other = table.set_column(place, table.schema.field(place), [column])
        pq.write_table(other, changed / "scores.parquet")
        problems = verification.verify(changed).problems
        assert any("record 4" in problem and "decision" in problem for problem in problems)


@needs_features
def test_records_of_older_releases_hold(scores):
    """They have False and infinity where there is nothing now."""
    read = directories.read(scores)
    older = read.table
    for name, value in (("flagged", False), ("threshold", np.inf), ("p_value", np.nan)):
        place = older.schema.get_field_index(name)
        older = older.set_column(place, older.schema.field(place), [[value] * len(older)])
    assert not list(verification._decisions(replace(read, table=older)))


@needs_features
def test_shards_are_merged_and_fdr_and_the_text_say_so(run, data, tmp_path):
    parts = []
    for index in (1, 2):
        parts.append(tmp_path / f"part{index}")
        anodetect.score(run, [str(data / "all/test")], parts[-1], fdr=0.1, shard=f"{index}/2")
    result = merge(parts, tmp_path / "merged")
    assert isinstance(result, MergeResult)
    assert result.flagged is None
    assert result.as_json()["flagged"] is None
    assert (result.drift.batch, result.drift.time) == (None, None)
    assert "12 scored, nothing decided, 0 failed" in scores_text(result)
    assert anodetect.verify(tmp_path / "merged").intact


@needs_features
def test_calibrate_gives_promises_later(run, data, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    for file in sorted((data / "all/train/good").iterdir())[5:]:
        shutil.copy(file, more)
    anodetect.calibrate(run, str(more), tmp_path / "calibrated")
    facts = runs.facts(tmp_path / "calibrated")
    assert (facts.calibration_images, facts.training.dropped) == (20, "")

    scored = tmp_path / "scored"
    result = anodetect.score(tmp_path / "calibrated", [str(data / "all/test")], scored)
    assert result.flagged is not None
    assert pq.read_table(scored / "scores.parquet")["p_value"].null_count == 0


@needs_features
def test_two_images_are_enough_for_the_linear_model(data, tmp_path):
    two = tmp_path / "two"
    two.mkdir()
    for file in sorted((data / "few").iterdir())[:2]:
        shutil.copy(file, two)
    values = {"size": 64}
    anodetect.train(str(two), "pca", tmp_path / "run", values=values, allow_few=True)
    found = anodetect.evaluate(tmp_path / "run", str(data / "all"))
    assert found.whole.image["auroc"].value > 0.7


@needs_features
@pytest.mark.filterwarnings("default")  # Streamlit's own
def test_the_review_app_shows_what_is_not_decided(scores, tmp_path, monkeypatch):
    testing = pytest.importorskip("streamlit.testing.v1", reason="the extra `app` is missing")
    import in_app

    from anodetect.commands import review

    in_app.serve(monkeypatch, tmp_path)
    folder = shutil.copytree(scores, tmp_path / "scores")
    monkeypatch.setattr(sys, "argv", ["app.py", str(folder)])
    app = testing.AppTest.from_file(str(review.app_file()), default_timeout=20).run()
    app.text_input(key="reviewer").set_value("Ada").run()
    assert "not decided" in in_app.said(app)
    in_app.judge(app, "anomalous")
    assert not app.exception
    for page in ("Threshold", "Summary", "Cases"):
        app.segmented_control(key="page").set_value(page).run()
        assert not app.exception
        if page == "Threshold":
            assert any(WHY in element.value for element in app.text)
    verdict = anodetect.verify(folder)
    assert verdict.intact, verdict.problems
