"""Reader studies: their plan, what the store takes, what the pages hide, and their results."""

import csv
import json
import shutil
import sqlite3
import sys
from contextlib import closing
from dataclasses import asdict, replace
from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import in_app
from streamlit.testing.v1 import AppTest

import anodetect
from anodetect.commands import review
from anodetect.commands import study as command
from anodetect.commands.forget import forget
from anodetect.errors import ConfigError, RunError
from anodetect.record import directories, readings, reviews, study, verification
from anodetect.record.marks import Shown
from anodetect.record.rows import ScoreRow
from anodetect.stats import readings as stats
from anodetect.stats.readings import Reading
from apps.review import logins
from apps.review.store import Store

pytestmark = pytest.mark.filterwarnings("default")  # Streamlit's own
HEAD = "0" * 64
PEOPLE = {"readers": ["ada", "ben"], "adjudicators": ["cem"], "viewers": ["dan"]}


@pytest.fixture(scope="module")
def made(pca_run, synthetic_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "scores"
    anodetect.score(pca_run, [str(synthetic_folder)], out, far=0.2)
    return out


@pytest.fixture
def scores(made, tmp_path):
    return shutil.copytree(made, tmp_path / "scores")


def rows_of(count, of_a_group=1):
    rows = []
    for n in range(count):
        group = f"g{n // of_a_group}"
        row = ScoreRow(path=f"{n}.png", group=group, model_sha256="m", status="ok")
        rows.append(replace(row, sha256=f"{n:064x}"))
    return rows


def opened_store(folder):
    directory = directories.read(folder)
    rows = {row.path: row for row in directory.rows}
    return Store(folder, directory.audit.verdicts_start, rows=rows), rows


def judge(store, row, name, verdict, **more):
    shown = [Shown(row.path, row.sha256, painted=True)]
    return store.add(row, name, verdict, shown, **{"blind": True, **more})


# -- The plan --------------------------------------------------------------------------------------


def test_readers_have_equally_much_and_a_patients_images_the_same_readers():
    rows = rows_of(60, of_a_group=3)
    plan = study.make(rows, HEAD, name="", readers=list("abcd"), each=2, seed=5)
    load = [sum(name in plan.readers_of(row) for row in rows) for name in "abcd"]
    assert load == [30] * 4
    pairs = {plan.readers_of(row) for row in rows}
    assert len(pairs) > 2  # not always the same two
    for first in range(0, 60, 3):
        assert len({plan.readers_of(row) for row in rows[first : first + 3]}) == 1
    backwards = study.make(rows[::-1], HEAD, name="", readers=list("abcd"), each=2, seed=5)
    assert backwards == plan and backwards.hash == plan.hash
    assert study.make(rows, HEAD, name="", readers=list("abcd"), seed=6).cases != plan.cases


def test_each_reader_has_an_order_of_their_own_that_only_the_seed_changes():
    rows = rows_of(40)
    plan = study.make(rows, HEAD, name="", readers=["a", "b"], seed=1)
    orders = [[row.path for row in plan.in_order(rows, name)] for name in "ab"]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]
    assert orders[0] == [row.path for row in plan.in_order(rows[::-1], "a")]
    other = study.make(rows, HEAD, name="", readers=["a", "b"], seed=2)
    assert orders[0] != [row.path for row in other.in_order(rows, "a")]
    ranks = [orders[0].index(row.path) for row in rows]
    assert abs(np.corrcoef(ranks, range(40))[0, 1]) < 0.4  # nothing of the list's own order


def test_a_sample_is_random_and_of_the_size_asked_for():
    plan = study.make(rows_of(100), HEAD, name="", readers=["a", "b"], sample=30)
    cases = plan.cases_in(rows_of(100))
    assert len(cases) == 30 and [row.path for row in cases] != [f"{n}.png" for n in range(30)]


@pytest.mark.parametrize(
    ("people", "problem"),
    [
        ({"readers": ["a", "a"]}, "named twice"),
        ({"readers": ["a", "b"], "viewers": ["a"]}, "one role"),
        ({"readers": ["Ada", "ada"]}, "spellings"),
        ({"readers": ["a"]}, "2 readers for each case: the study has 1"),
        ({"readers": ["a", " b"]}, "without spaces"),
        ({"readers": ["a", "b"], "sample": 9}, "there are 4 scored images"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(people, problem):
    with pytest.raises(ConfigError, match=problem):
        study.make(rows_of(4), HEAD, name="", **people)


def test_a_plan_is_read_as_it_was_written_and_checked(tmp_path):
    plan = study.make(rows_of(4), HEAD, name="x", readers=["a", "b"], login=True)
    study.write(tmp_path, plan)
    assert study.read(tmp_path, HEAD) == plan
    with pytest.raises(RunError, match="another record"):
        study.read(tmp_path, "1" * 64)
    content = json.loads((tmp_path / study.FILE).read_text())
    for change in ({"more": 1}, {"each": 0}, {"cases": {"a": [0, 1]}}, {"readers": ["a", "A"]}):
        (tmp_path / study.FILE).write_text(json.dumps(content | change))
        with pytest.raises(RunError, match=study.FILE):
            study.read(tmp_path, HEAD)
    key = next(iter(content["cases"]))
    for places in ([0], [0, 0], [0, 2], [-1, 0]):
        cases = content["cases"] | {key: places}
        (tmp_path / study.FILE).write_text(json.dumps(content | {"cases": cases}))
        with pytest.raises(RunError, match="2 different readers"):
            study.read(tmp_path, HEAD)


def test_a_study_begins_without_verdicts_and_its_plan_stays(scores):
    store, rows = opened_store(scores)
    judge(store, next(iter(rows.values())), "ada", "normal", blind=False)
    store.close()
    with pytest.raises(RunError, match="verdicts already"):
        command.plan(scores, **PEOPLE)
    for file in scores.glob("reviews.sqlite*"):
        file.unlink()
    planned = command.plan(scores, **PEOPLE)
    assert planned.cases == 40 and planned.to_read == {"ada": 40, "ben": 40}
    with pytest.raises(ConfigError, match="is not changed"):
        command.plan(scores, **PEOPLE)


# -- What is recorded ------------------------------------------------------------------------------


def test_the_store_takes_only_what_the_plan_allows(scores):
    command.plan(scores, readers=["ada", "ben", "eve"], adjudicators=["cem"], viewers=["dan"])
    store, rows = opened_store(scores)
    row = next(iter(rows.values()))
    first, second = store.plan.readers_of(row)
    (third,) = {"ada", "ben", "eve"} - {first, second}

    for name, why in (("eva", "no part"), ("dan", "may look"), (third, "not"), ("cem", "not")):
        with pytest.raises(ConfigError, match=why):
            judge(store, row, name, "normal")
    with pytest.raises(ConfigError, match="scores were shown"):
        judge(store, row, first, "normal", blind=False)
    assert store.read() == []

    given = judge(store, row, first, "normal", seconds=12.345)
    assert (given.study, given.seconds) == (store.plan.hash, 12.3)
    judge(store, row, second, "normal")
    with pytest.raises(ConfigError, match="not cem's"):  # they agree
        judge(store, row, "cem", "normal")
    judge(store, row, second, "anomalous")
    decided = judge(store, row, "cem", "unsure")
    with pytest.raises(ConfigError, match="no longer"):
        judge(store, row, first, "anomalous")
    with pytest.raises(ConfigError, match="no longer"):
        store.withdraw(given, first)
    assert store.withdraw(decided, "cem").seconds is None
    judge(store, row, first, "anomalous")
    store.close()


def finished(scores, differ=6):
    """A complete study; ben misses the first anomalous cases, and cem finds half of them."""
    command.plan(scores, **PEOPLE, seed=4)
    store, rows = opened_store(scores)
    missed = [row for row in rows.values() if row.label == 1][:differ]
    for row in rows.values():
        truth = "anomalous" if row.label else "normal"
        judge(store, row, "ada", truth, seconds=2.0)
        judge(store, row, "ben", "normal" if row in missed else truth, seconds=4.0)
    for number, row in enumerate(missed):
        judge(store, row, "cem", "anomalous" if number % 2 else "unsure", seconds=6.0)
    return store, rows


def test_where_a_study_stands_is_known_record_by_record_as_if_read_anew(complete):
    directory = directories.read(complete)
    plan, rows = study.read(complete, directory.audit.verdicts_start), directory.rows
    chain = reviews.read(complete / reviews.FILE)
    random, more = np.random.default_rng(0), []
    for number in range(len(chain) + 1, len(chain) + 60):
        one = [*chain, *more][random.integers(number - 1)]
        said = random.choice(["normal", "anomalous", reviews.WITHDRAWN])
        withdrawn = one.number if said == reviews.WITHDRAWN else None
        more.append(replace(one, number=number, verdict=str(said), withdraws=withdrawn))

    stands, seen, all_reviews = readings.Progress(plan, rows), set(), [*chain, *more]
    for count, each in enumerate(all_reviews, start=1):
        stands.add([each])
        if count < len(chain) - 3:
            continue
        given = readings.verdicts(all_reviews[:count])
        assert stands.is_complete == readings.is_complete(plan, rows, given)
        assert {row.path: stands.verdicts(row.path) for row in rows} == {
            row.path: given.get(row.path, {}) for row in rows
        }
        seen.add(stands.is_complete)
    assert seen == {True, False}


def test_a_further_record_reads_those_alone_that_are_new(scores, monkeypatch):
    store, rows = finished(scores)
    (row,) = [row for row in rows.values() if row.path == store.read()[0].path]
    read, original = [], Store.read

    def counting(self, after=0):
        found = original(self, after)
        read.append(len(found))
        return found

    monkeypatch.setattr(Store, "read", counting)
    other, _ = opened_store(scores)  # another machine's
    for each in (store, other, store):
        with pytest.raises(ConfigError, match="final"):
            judge(each, row, "ada", "normal")
    assert read == [2, 86, 1]  # the last known one, and its own

    # A chain that was put back from before is read anew.
    edit(scores, "DELETE FROM reviews WHERE number > 80")
    judge(store, row, "ada", "normal")
    assert read[-2:] == [0, 80]
    store.close(), other.close()


def test_a_complete_study_is_final_verified_and_exported(scores, tmp_path):
    store, rows = finished(scores)
    with pytest.raises(ConfigError, match="final"):
        judge(store, next(iter(rows.values())), "ada", "normal")
    store.close()
    assert verification.verify(scores).intact

    done = command.export(scores, tmp_path / "out")
    found = done.results
    assert (found.cases, found.complete, found.disputed, found.adjudicated) == (40, 40, 6, 6)
    ada, ben, cem = found.readers
    assert (ben.sensitivity.hits, ben.sensitivity.total) == (14, 20)
    assert (ben.specificity.hits, ben.specificity.total) == (20, 20)
    assert (ada.sensitivity.hits, cem.undecided, cem.sensitivity.total) == (20, 3, 3)
    assert (ada.times.median, ben.times.total) == (2.0, 160.0)
    assert found.outcome.sensitivity.total == 17 and found.outcome.undecided == 3
    (pair,) = found.pairs
    assert (pair.cases, pair.agreed) == (40, 34)
    assert pair.kappa.value == pytest.approx(1 - 6 / 40 / 0.5)

    with (tmp_path / "out" / command.TABLE).open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 86 == done.readings
    decided = [line for line in table if line["decided_by"] == "adjudication"]
    assert len(decided) == 18 and {line["outcome"] for line in decided} == {"anomalous", "unsure"}
    assert [int(line["place"]) for line in table if line["reader"] == "ada"] == [*range(1, 41)]
    assert json.loads((tmp_path / "out" / command.RESULTS).read_text()) == found.as_json()
    with pytest.raises(RunError, match="choose another"):
        command.export(scores, tmp_path / "out")


def edit(scores, change):
    """Change the reviews behind the app's back, without the triggers that refuse it."""
    with closing(sqlite3.connect(scores / reviews.FILE)) as connection, connection:
        for action in ("UPDATE", "DELETE"):
            connection.execute(f"DROP TRIGGER reviews_no_{action}")
        connection.execute(change)


def forge(scores, **changes):
    """Write the chain anew with a last verdict that says something else, and holds together."""
    chain = reviews.read(scores / reviews.FILE)
    last = replace(chain[-1], **changes)
    last = replace(last, hash=reviews.hash_of(last))
    values = ", ".join(f"{name} = ?" for name in asdict(last))
    with closing(sqlite3.connect(scores / reviews.FILE)) as connection, connection:
        for action in ("UPDATE", "DELETE"):
            connection.execute(f"DROP TRIGGER reviews_no_{action}")
        where = f"WHERE number = {last.number}"
        connection.execute(f"UPDATE reviews SET {values} {where}", list(asdict(last).values()))


def verdicts_problem(scores):
    part = verification.verify(scores).verdicts
    assert part.state == "broken"
    return part.problems[0]


@pytest.fixture(scope="module")
def complete(made, tmp_path_factory):
    scores = shutil.copytree(made, tmp_path_factory.mktemp("complete") / "scores")
    finished(scores)[0].close()
    return scores


@pytest.fixture
def ended(complete, tmp_path):
    return shutil.copytree(complete, tmp_path / "scores")


@pytest.mark.parametrize("column", ["study", "seconds"])
def test_plan_and_time_stand_in_the_chain(ended, column):
    edit(ended, f"UPDATE reviews SET {column} = NULL WHERE number = 2")
    assert "review 2" in verdicts_problem(ended) and "was changed" in verdicts_problem(ended)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"reviewer": "dan"}, "somebody else's"),
        ({"study": None}, "not given under the plan"),
        ({"study": "0" * 64}, "not given under the plan"),
        ({"blind": False}, "was not blind"),
    ],
)
def test_verdicts_that_the_plan_does_not_allow_break_the_record(ended, changes, problem):
    forge(ended, **changes)
    assert problem in verdicts_problem(ended)


def test_a_plan_that_was_taken_away_or_changed_breaks_the_record(ended):
    file = ended / study.FILE
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"seed": 5}))
    assert "not given under the plan" in verdicts_problem(ended)
    file.unlink()
    assert f"{study.FILE} is missing" in verdicts_problem(ended)


def test_a_patient_is_forgotten_and_the_study_holds(ended):
    before = study.read(ended, directories.read(ended).audit.verdicts_start)
    row = directories.read(ended).rows[0]
    forget(ended, row.group)
    assert verification.verify(ended).intact
    assert row.path not in (ended / study.FILE).read_text()
    after = directories.read(ended)
    assert study.read(ended, after.audit.verdicts_start).hash == before.hash
    found = readings.results(before, after.rows, reviews.read(ended / reviews.FILE))
    assert (found.cases, found.complete) == (39, 39)


# -- Results ---------------------------------------------------------------------------------------


def test_kappa_has_an_interval_that_stays_wide_where_nobody_differed():
    rng = np.random.default_rng(0)
    one = rng.choice(["normal", "anomalous", "unsure"], 60)
    other = np.where(rng.random(60) < 0.8, one, "normal")
    pairs, groups = list(zip(one, other, strict=True)), [str(n) for n in range(60)]
    found = stats.kappa_interval(pairs, groups)
    assert found.value == pytest.approx(cohen_kappa_score(one, other))
    assert found.low < found.value < found.high and found.high - found.low < 0.5

    alike = stats.kappa_interval([(each, each) for each in one[:20]], groups[:20])
    assert (alike.value, alike.high) == (1, 1) and 0.6 < alike.low < 0.85
    few = stats.kappa_interval(pairs[:9], groups[:9])
    assert np.isnan(few.low) and "9 groups" in few.note
    same = stats.kappa_interval([("normal", "normal")] * 20, groups[:20])
    assert np.isnan(same.value) and "not defined" in same.note


def covered(right, anomalous, cases, studies, resamples=500):
    """The share of simulated studies whose interval holds the true κ, the same of the bootstrap
    alone, the mean width, and the true κ: two readers see a share of `anomalous` cases, and each
    is `right` in so many."""
    rng, names = np.random.default_rng(0), np.array(["normal", "anomalous"])
    truth = np.array([1 - anomalous, anomalous])
    agreed, called = right**2 + (1 - right) ** 2, truth * right + truth[::-1] * (1 - right)
    kappa = (agreed - called @ called) / (1 - called @ called)

    held, alone, widths = [], [], []
    groups = [str(n) for n in range(cases)]
    for _ in range(studies):
        kind = rng.random(cases) < anomalous
        first, second = (kind ^ (rng.random(cases) > right) for _ in range(2))
        pairs = list(zip(names[first * 1], names[second * 1], strict=True))
        found = stats.kappa_interval(pairs, groups, resamples)
        if np.isnan(found.value):
            continue
        held.append(found.low <= kappa <= found.high)
        widths.append(found.high - found.low)
        draws = stats.kappa_draws(pairs, groups, resamples)
        low, high = np.percentile(draws[~np.isnan(draws)], (2.5, 97.5))
        alone.append(low <= kappa <= high)
    return float(np.mean(held)), float(np.mean(alone)), float(np.mean(widths)), float(kappa)


def test_the_interval_of_kappa_holds_where_the_bootstrap_fails():
    held, alone, _, kappa = covered(0.985, 0.5, cases=20, studies=60, resamples=200)
    assert kappa == pytest.approx(0.94, abs=0.005)
    assert held > 0.93 and alone < 0.7


def test_images_of_one_patient_make_no_interval_narrower():
    rng = np.random.default_rng(1)
    one = rng.choice(["normal", "anomalous"], 40)
    other = np.where(rng.random(40) < 0.8, one, "normal")
    alone = stats.kappa_interval(list(zip(one, other, strict=True)), [str(n) for n in range(40)])
    pairs = [pair for pair in zip(one, other, strict=True) for _ in range(5)]
    repeated = stats.kappa_interval(pairs, [str(n // 5) for n in range(200)])
    assert repeated.value == pytest.approx(alone.value)
    assert repeated.high - repeated.low > 0.85 * (alone.high - alone.low)

    def sensitivity(times):
        given = []
        for n in range(40 * times):
            verdict = "anomalous" if n // times % 4 else "normal"
            given.append(Reading(str(n), str(n // times), "a", verdict, truth=1))
        return stats.reader_result("a", given).sensitivity.interval

    once, often = sensitivity(1), sensitivity(5)
    assert (once.low, once.high) == pytest.approx((0.5880, 0.8731), abs=1e-4)  # 30 of 40, exact
    assert often.high - often.low > 0.85 * (once.high - once.low)


# -- The pages -------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Opens the app with a viewer that does what a test says."""
    in_app.serve(monkeypatch, tmp_path)

    def open_app(*folders, reviewer="", page=""):
        monkeypatch.setattr(sys, "argv", ["app.py", *map(str, folders)])
        app = AppTest.from_file(str(review.app_file()), default_timeout=20)
        for name, value in (("reviewer", reviewer), ("page", page)):
            if value:
                app.query_params[name] = value
        return app.run()

    return open_app


def everything(app):
    """All that the page says, with the data of its parts."""
    found = []
    waiting = list(app)
    while waiting:
        element = waiting.pop()
        waiting += getattr(element, "children", {}).values()
        found.append(str(element.proto) if hasattr(element, "proto") else "")
    if in_app.DATA in app.session_state:
        found.append(json.dumps(in_app.sent(app)))
    return "\n".join(found)


def test_a_reader_sees_the_images_of_their_own_cases_and_nothing_else(opened, scores, made):
    command.plan(scores, readers=["ada", "ben", "eve"], adjudicators=["cem"], viewers=["dan"])
    store, rows = opened_store(scores)
    mine = readings.to_do(store.plan, rows.values(), {}, "ada")
    judge(store, mine[0], next(n for n in store.plan.readers_of(mine[0]) if n != "ada"), "unsure")

    for page in ("", "Summary", "Threshold", "Train"):
        app = opened(scores, made, reviewer="ada", page=page)
        assert not app.exception
        assert app.session_state["open"] == mine[0].path
        said = everything(app)
        for hidden in ("/defect", "/good", "p_value", "unsure (", "Verdicts of", str(made)):
            assert hidden not in said, (page, hidden)
        assert "Case 1 of " + str(len(mine)) in said
        assert not [each for each in app.selectbox if each.key in ("order", "groups", "kinds")]
        assert not [each for each in app.segmented_control if each.key == "page"]

    for row, after in list(pairwise(mine))[:3]:
        assert app.session_state["open"] == row.path
        in_app.judge(app, "normal")
        assert app.session_state["open"] == after.path
    in_app.undo(app)
    assert app.session_state["open"] == mine[2].path
    assert mine[2].path not in everything(app)
    own = [review for review in store.read() if review.reviewer == "ada"]
    assert all(review.blind and review.study == store.plan.hash for review in own)
    assert all(review.seconds is not None for review in own[:3])
    store.close()


def test_whoever_is_not_in_a_study_sees_nothing_and_a_viewer_everything(opened, scores):
    command.plan(scores, **PEOPLE)
    for name in ("", "eva", "cem"):
        app = opened(scores, reviewer=name)
        assert not app.exception and in_app.DATA not in app.session_state and not app.button
    app = opened(scores, reviewer="dan", page="Summary")
    assert any("0 of 40 cases complete" in text.value for text in app.text)
    app.segmented_control(key="page").set_value("Cases").run()
    in_app.judge(app, "normal")
    assert "may look at this study" in in_app.receipt(app)
    assert not reviews.read(scores / reviews.FILE)


def test_a_disputed_case_goes_to_the_adjudicator_without_what_readers_said(opened, scores):
    command.plan(scores, **PEOPLE)
    store, rows = opened_store(scores)
    row = list(rows.values())[7]
    judge(store, row, "ada", "normal", comment="a scratch")
    judge(store, row, "ben", "anomalous")
    store.close()
    app = opened(scores, reviewer="cem")
    said = everything(app)
    assert app.session_state["open"] == row.path and "Case 1 of 1" in said
    assert "scratch" not in said and row.path not in said and "ben" not in said
    in_app.judge(app, "anomalous")
    assert reviews.read(scores / reviews.FILE)[-1].reviewer == "cem"
    reader = opened(scores, reviewer="ada")
    assert reader.session_state["open"] != row.path


def test_when_a_study_is_complete_everything_is_shown(opened, ended):
    app = opened(ended, reviewer="ada", page="Summary")
    assert any("40 of 40 cases complete" in text.value for text in app.text)
    app.segmented_control(key="page").set_value("Cases").run()
    in_app.judge(app, "normal")
    assert "its verdicts are final" in in_app.receipt(app)


def test_a_study_by_login_takes_no_name_that_was_typed(opened, scores):
    command.plan(scores, **PEOPLE, login=True)
    app = opened(scores, reviewer="ada")
    assert any("from a login alone" in info.value for info in app.info)
    assert not app.button


def test_a_login_names_somebody_by_an_address_that_was_checked():
    assert logins.name_of({"email": "a@b.org", "email_verified": True, "name": "Ada"}) == "a@b.org"
    assert logins.name_of({"email": "a@b.org"}) == "a@b.org"
    assert logins.name_of({"name": " Ada "}) == "Ada"
    for claims in ({"email": "a@b.org", "email_verified": False}, {}, {"name": " "}):
        with pytest.raises(ConfigError):
            logins.name_of(claims)
