"""`train --folds`: all groups calibrate, each scored by a model that has not seen it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import anodetect
from anodetect.commands import fold_plan, odd
from anodetect.commands import folds as folds_command
from anodetect.commands.calibrate import Calibrated
from anodetect.commands.normals import LeftOut
from anodetect.data import split
from anodetect.data.records import Record
from anodetect.errors import ConfigError, DataError
from anodetect.model.fitting import Training
from anodetect.record import runs
from anodetect.stats.calibration import Calibration, joined
from anodetect.stats.fold_check import fold_p_value
from anodetect.types import Silent
from benchmarks import folds as simulated

SIZES = [1, 2, 3, 6, 12] * 5  # images in groups


def records(sizes=SIZES):
    return [
        Record(id=f"{group}-{number}.png", path=None, group=f"g{group}")
        for group, size in enumerate(sizes)
        for number in range(size)
    ]


# -- Who learns and who calibrates -----------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 5, 25])
def test_every_group_calibrates_once_by_a_model_that_has_not_seen_it(count):
    roles = split.assign_folds(records(), count)
    everyone = sorted(record.id for record in records())
    assert sorted(record.id for fold in roles.folds for record in fold.calibrate) == everyone
    assert sorted(record.id for record in [*roles.fit, *roles.tune]) == everyone
    assert sorted(record.id for record in roles.calibrate) == everyone
    for fold in roles.folds:
        fit, tune, held = (
            {record.group for record in part} for part in (fold.fit, fold.tune, fold.calibrate)
        )
        assert fit and tune and held
        assert not (fit & tune) and not ((fit | tune) & held)
        assert len(fold.fit) + len(fold.tune) + len(fold.calibrate) == len(everyone)


def test_folds_have_about_as_many_images_each():
    sizes = [len(fold.calibrate) for fold in split.assign_folds(records(), 5).folds]
    assert max(sizes) - min(sizes) <= max(SIZES)


def test_groups_with_known_anomalies_are_fitted_in_every_fold_and_calibrate_in_none():
    roles = split.assign_folds(records(), 4, to_fit={"g4", "g9"})
    assert not {"g4", "g9"} & roles.fold_of().keys()
    for each in (roles, *roles.folds):
        assert {"g4", "g9"} <= {record.group for record in each.fit}


def test_what_cannot_be_cut_into_folds_is_refused():
    for count in (1, 2, 26):
        with pytest.raises(DataError, match="from 3 to that of the groups of normals, 25, is"):
            split.assign_folds(records(), count)
    with pytest.raises(DataError, match="too few for --folds"):
        split.assign_folds(records([1] * 19), 5)
    with pytest.raises(DataError, match="as a few groups hold most of them"):
        split.assign_folds(records([30, 1, 1, 1, 1, 1]), 3)


def test_folds_are_usual_where_they_cost_little(monkeypatch):
    monkeypatch.setattr(split, "FOLDS", 5)

    def wanted(detector, sizes=SIZES, asked=None, drops_odd=False):
        return fold_plan.folds_of(asked, detector, records(sizes), (), drops_odd=drops_odd)

    for detector in ("pca", "patchcore", "padim", "intensity"):
        assert wanted(detector) == 5
    assert wanted("anoddpm") == 0
    assert wanted("anoddpm", asked=7) == 7
    assert wanted("pca", asked=0) == 0
    assert wanted("pca", sizes=[1] * 19) == wanted("pca", sizes=[30, *[1] * 20]) == 0
    assert wanted("pca", drops_odd=True) == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert wanted("pca") == 0


# -- Statistics ------------------------------------------------------------------------------------


def test_one_model_of_all_keeps_the_promise_with_a_narrower_spread():
    rates = {"split of today": [], "refitted": []}
    found = {"split of today": [], "refitted": []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        normals = simulated.draw(rng, [*SIZES, *SIZES])
        fresh, shift = simulated.draw(rng, [1] * 200), np.zeros(simulated.DIMENSIONS)
        shift[0] = simulated.SHIFT
        new = np.concatenate([fresh.images, simulated.draw(rng, [1] * 200).images + shift])
        for way, flagged in simulated.ways(normals, new, simulated.residual, 5, rng).items():
            if way in rates:
                rates[way].append(flagged[:200].mean())
                found[way].append(flagged[200:].mean())

    mean = np.mean(rates["refitted"])
    assert mean <= 0.05 + 3 * np.std(rates["refitted"]) / np.sqrt(60)
    assert np.std(rates["refitted"]) < 0.75 * np.std(rates["split of today"])
    assert np.mean(found["refitted"]) > 0.9 * np.mean(found["split of today"])


def test_comparing_each_image_with_its_own_folds_score_is_brute_force():
    rng = np.random.default_rng(0)
    groups, fold = np.repeat(np.arange(40), 2), np.repeat(np.arange(4), 20)
    calibration, scores = rng.normal(size=80), rng.normal(size=(4, 300)) + 1.5
    flagged = simulated.together(calibration, groups, fold, scores)
    for place in range(300):
        reached = 1.0
        for group in range(40):
            own = calibration[groups == group] >= scores[fold[2 * group], place]
            reached += own.mean()
        assert flagged[place] == (reached / 41 <= 0.05 + 1e-12)
    assert 0 < flagged.mean() < 1


def test_folds_are_compared_as_by_scipy():
    rng = np.random.default_rng(1)
    folds = np.repeat([1, 2, 3], [20, 30, 25])
    groups = [str(number) for number in range(75)]
    for shift in (0.0, 0.5, 2.0):
        scores = np.round(rng.normal(size=75) + shift * (folds == 2), 1)  # with ties
        expected = stats.kruskal(*(scores[folds == number] for number in (1, 2, 3))).pvalue
        assert fold_p_value(scores, groups, folds) == pytest.approx(expected, rel=1e-9)
    assert fold_p_value(np.ones(75), groups, folds) == 1.0


def test_folds_that_differ_are_said():
    rng = np.random.default_rng(2)
    parts = []
    for number in range(4):
        scores, names = rng.normal(10, 1, 25), tuple(f"{number}-{place}" for place in range(25))
        parts.append(Calibration(scores, scores, names))
    alike = joined(parts, None)
    assert "one of 4 models that had not seen its group" in alike.statement(0.05)
    assert "no theorem says so" in alike.statement(0.05)
    assert alike.pooled().n_folds == 4

    parts[1] = replace(parts[1], scores=1.3 * parts[1].scores)
    text = joined(parts, None).statement(0.05)
    assert "the scores of these models differ by more than chance explains" in text
    assert "folds" not in Calibration(alike.scores, alike.peaks, alike.groups).statement(0.05)


def test_a_calibration_of_folds_is_restored_from_its_snapshot():
    parts = [Calibration(np.arange(3.0), np.arange(3.0), tuple("abc"))] * 3
    calibration = joined(parts, None)
    again = Calibration.restore(json.loads(json.dumps(calibration.snapshot())))
    np.testing.assert_array_equal(again.folds, [1, 1, 1, 2, 2, 2, 3, 3, 3])


# -- Runs ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folds_run(synthetic_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("folds") / "run"
    anodetect.train(str(synthetic_folder), "pca", out, folds=4)
    return out


def test_a_run_of_folds_says_so_everywhere(folds_run):
    run = runs.read(folds_run)
    assert (run.calibration.n_groups, run.calibration.n_folds) == (60, 4)
    facts = runs.facts(folds_run)
    assert facts.as_json()["calibration_folds"] == 4
    assert facts.training.fit_images + facts.training.tune_images == 60
    card = (folds_run / "model_card.md").read_text()
    assert "60 to calibrate (60 groups) in 4 folds" in card
    assert "one of 4 models that had not seen its group" in card
    assert not list(folds_run.glob("fold*"))

    rows = runs.read_manifest(folds_run)
    assert {row.role for row in rows} == {"fit", "tune"}
    assert {row.fold for row in rows} == {"1", "2", "3", "4"}
    fold_of = dict(zip(run.calibration.groups, run.calibration.folds.tolist(), strict=True))
    assert all(row.fold == str(fold_of[row.group]) for row in rows)


def test_an_image_is_scored_by_a_model_that_has_not_seen_it(synthetic_folder, folds_run, tmp_path):
    """A fold's part of the calibration is what a run without folds gives that calibrates with the
    same images."""
    run = runs.read(folds_run)
    listed = [row for row in runs.read_manifest(folds_run) if row.fold == "2"]
    others = [row for row in runs.read_manifest(folds_run) if row.fold != "2"]
    roles = split.assign_folds(
        [Record(id=row.path, path=None, group=row.group) for row in [*listed, *others]], 4
    )
    use = {record.id: "fit" for record in roles.folds[1].fit}
    use |= {record.id: "tune" for record in roles.folds[1].tune}
    use |= {record.id: "calibrate" for record in roles.folds[1].calibrate}
    assert sorted(path for path, of in use.items() if of == "calibrate") == sorted(
        row.path for row in listed
    )

    def as_in_fold(normals, **_):
        parts = {of: [each for each in normals if use[each.id] == of] for of in use.values()}
        order = {record.id: place for place, record in enumerate(roles.folds[1].fit)}
        return split.Roles(
            sorted(parts["fit"], key=lambda record: order[record.id]),
            parts["tune"],
            parts["calibrate"],
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "assign", as_in_fold)
        anodetect.train(str(synthetic_folder), "pca", tmp_path / "apart", folds=0)
    apart = runs.read(tmp_path / "apart").calibration
    expected = dict(zip(apart.groups, apart.scores.tolist(), strict=True))
    own = run.calibration.folds == 2
    groups = np.array(run.calibration.groups)[own]
    assert sorted(groups) == sorted(expected)
    np.testing.assert_allclose(
        run.calibration.scores[own], [expected[group] for group in groups], rtol=1e-5
    )


def test_a_record_of_folds_is_verified_and_calibrated_anew(folds_run, synthetic_folder, tmp_path):
    good = synthetic_folder / "test" / "good"
    result = anodetect.score(folds_run, [str(good)], tmp_path / "scores", heatmaps=())
    assert "one of 4 models that had not seen its group" in result.statement
    content = json.loads((tmp_path / "scores" / "audit.json").read_text())
    assert sorted(set(content["calibration"]["folds"])) == [1, 2, 3, 4]
    assert anodetect.verify(tmp_path / "scores").intact
    merged = anodetect.merge([tmp_path / "scores"], tmp_path / "merged")
    assert merged.statement == result.statement

    calibrated = anodetect.calibrate(folds_run, str(good), tmp_path / "again")
    assert calibrated.facts.calibration_folds == 0
    assert "models" not in runs.read(tmp_path / "again").calibration.statement(0.05)


def test_models_of_folds_share_the_budget(synthetic_folder, tmp_path, monkeypatch):
    budgets, fit = [], folds_command.fit_model

    def spy(model, roles, training, *rest):
        budgets.append(training.budget)
        fit(model, roles, training, *rest)

    monkeypatch.setattr(folds_command, "fit_model", spy)
    monkeypatch.setattr(odd, "fit_model", spy)
    anodetect.train(str(synthetic_folder), "intensity", tmp_path / "run", folds=3, budget=2)
    assert budgets == [30.0] * 4


def test_an_interrupted_training_keeps_the_folds_that_are_finished(tmp_path, monkeypatch):
    """Those of a detector that learns in seconds are fitted again: the same command does."""
    fitted = []

    def calibrate(model, part, *_):
        fitted.append(part)
        if len(fitted) == 2:
            raise KeyboardInterrupt
        scores = np.array([float(record.id.split("-")[0]) for record in part])
        names = tuple(record.group for record in part)
        return Calibrated(Calibration(scores, scores, names), [LeftOut("ä.png", "broken")])

    monkeypatch.setattr(folds_command, "fit_model", lambda model, roles, training, *_: None)
    monkeypatch.setattr(folds_command, "calibrate_model", calibrate)
    monkeypatch.setattr(runs, "read_log", lambda path: [{"fit_seconds": 1.0}])
    training = Training(tmp_path, 0, None, "cpu", resume=False)
    roles = split.assign_folds(records(), 3).folds

    def train(*, resume, keep=True):
        given = replace(training, resume=resume)
        return folds_command.calibrate_folds(
            roles, lambda fold: None, given, None, None, Silent(), keep=keep
        )

    with pytest.raises(KeyboardInterrupt):
        train(resume=False)
    assert [file.name for file in runs.checkpoints(tmp_path)] == ["fold-1.npz"]
    whole = train(resume=True)
    assert fitted == [each.calibrate for each in (roles[0], roles[1], roles[1], roles[2])]
    assert whole.calibration.groups == tuple(r.group for fold in roles for r in fold.calibrate)
    assert whole.left_out == [LeftOut("ä.png", "broken")] * 3
    for file in runs.checkpoints(tmp_path):
        file.unlink()
    train(resume=False, keep=False)
    assert runs.checkpoints(tmp_path) == []


def test_what_folds_cannot_be_had_with_is_refused(synthetic_folder, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="take --folds 0"):
        anodetect.train(str(synthetic_folder), "pca", tmp_path / "run", folds=4, drop_odd=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        anodetect.train(str(synthetic_folder), "pca", tmp_path / "run", folds=4)
