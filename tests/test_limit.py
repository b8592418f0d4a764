"""The detection limit: what is planted, how it is scored, and how it is told."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, minimize
from sklearn.isotonic import isotonic_regression
from typer.testing import CliRunner

import anodetect
from anodetect.cli import app
from anodetect.commands import limit as command
from anodetect.data import cards, synthetic
from anodetect.errors import RunError
from anodetect.imaging.sample_types import SampleTypes
from anodetect.model.loading import load
from anodetect.model.model import Model
from anodetect.model.scoring import score_records
from anodetect.output import report, run_report
from anodetect.record import directories, runs
from anodetect.stats.calibration import Calibration
from anodetect.stats.limit import (
    DetectionLimit,
    PlantedCell,
    PlantedTrials,
    detection_limit,
    isotonic,
    limit_table,
    trials_of,
)
from anodetect.types import Silent

SERIES = {
    "scratches": (("scratch",), (0.2, 0.8)),
    "spots": (("blob", "lesion"), (0.8,)),
    "swapped texture": (("swap",), (None,)),
}


@pytest.fixture(autouse=True)
def few_series(monkeypatch):
    monkeypatch.setattr(command, "SERIES", SERIES)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run with its detection limit, and what was said in training."""
    folder = tmp_path_factory.mktemp("limit")
    synthetic.write(folder / "tiles", train=120, test=4, size=64)
    said = []

    class Listener(Silent):
        def say(self, text):
            said.append(text)

    from anodetect.commands.train import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "SERIES", SERIES)
        patch.setattr(command, "MOST_SECONDS", 1e6)
        options = {"representation": "pixels", "reporter": Listener()}
        train(str(folder / "tiles"), "pca", folder / "run", **options)
    return folder, said


def calibration_of(count=99):
    """Scores 1 to 99: at a false-alarm rate of .05 what is above 95 is flagged."""
    scores = np.arange(1, count + 1).astype(float)
    return Calibration(scores, scores, tuple(map(str, range(count))))


def cell(kind, size, contrast, found, of=8):
    return PlantedCell(kind, size, contrast, (100.0,) * found + (1.0,) * (of - found))


def test_shares_are_counted_above_the_threshold_and_rise_with_size():
    counts = [(0.01, 2), (0.02, 7), (0.04, 8), (0.08, 6), (0.16, 8)]
    trials = PlantedTrials(200.0, tuple(cell("spots", size, 0.2, hits) for size, hits in counts))
    limit = detection_limit(trials, calibration_of(), 0.05)
    assert [row.found for row in limit.rows] == [2, 7, 8, 6, 8]
    assert [row.pixels for row in limit.rows] == [2, 4, 8, 16, 32]
    assert [row.share for row in limit.rows] == pytest.approx([2 / 8, 7 / 8, 7 / 8, 7 / 8, 1])
    on_threshold = PlantedTrials(10.0, (PlantedCell("spots", 0.1, 0.2, (95.0, 95.5)),))
    assert detection_limit(on_threshold, calibration_of(), 0.05).rows[0].found == 1


def test_along_one_line_it_is_the_isotonic_regression_of_scikit_learn():
    rng = np.random.default_rng(0)
    for count in (1, 2, 5):
        values, weights = rng.integers(0, 9, (1, 1, count)) / 8, rng.integers(1, 9, (1, count))
        expected = isotonic_regression(values[0, 0], sample_weight=weights[0])
        assert isotonic(values, weights)[0, 0] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_over_size_and_contrast_no_monotone_table_is_nearer(seed):
    """Against a general solver of the same quadratic programme; one cell has no images."""
    rng = np.random.default_rng(seed)
    values, weights = rng.integers(0, 9, (3, 4)) / 8, rng.integers(1, 9, (3, 4))
    weights[0, 3] = 0
    fitted = isotonic(values[None], weights)[0]

    rises = []
    cells = np.arange(12).reshape(3, 4)
    for low, high in ((cells[:-1], cells[1:]), (cells[:, :-1], cells[:, 1:])):
        for first, second in zip(low.ravel(), high.ravel(), strict=True):
            row = np.zeros(12)
            row[[first, second]] = -1, 1
            rises.append(row)
    solved = minimize(
        lambda x: np.sum(weights.ravel() * (x - values.ravel()) ** 2),
        np.full(12, 0.5),
        jac=lambda x: 2 * weights.ravel() * (x - values.ravel()),
        constraints=LinearConstraint(np.array(rises), 0, np.inf),
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    known = weights > 0
    assert fitted[known] == pytest.approx(solved.x.reshape(3, 4)[known], abs=1e-4)


SIZES, CONTRASTS = (0.01, 0.02, 0.04, 0.08, 0.16), (0.1, 0.2, 0.4, 0.8)


def simulated(middle, slope, seed):
    """Return the true shares [contrasts, sizes], logistic in log size + log contrast, and the
    limit from 8 images for each; found ones score 100, above the threshold."""
    strength = np.log2(SIZES)[None] + np.log2(CONTRASTS)[:, None]
    truth = 1 / (1 + np.exp(-slope * (strength - middle)))
    found = np.random.default_rng(seed).binomial(8, truth)
    cells = []
    for row, contrast in enumerate(CONTRASTS):
        for column, size in enumerate(SIZES):
            cells.append(cell("spots", size, contrast, int(found[row, column])))
    return truth, detection_limit(PlantedTrials(100, tuple(cells)), calibration_of(), 0.05)


@pytest.mark.parametrize(("middle", "slope"), [(-9, 1), (-8, 2), (-7, 1), (-6, 4)])
def test_shares_and_limits_are_near_those_that_the_counts_were_drawn_from(middle, slope):
    errors, raw_errors, covered, held = [], [], [], []
    for seed in range(12):
        truth, limit = simulated(middle, slope, seed)
        table = np.array([(row.share, row.found / 8, row.low, row.high) for row in limit.rows])
        share, raw, low, high = table.T.reshape(4, *truth.shape)
        assert (np.diff(share, axis=0) >= 0).all()
        assert (np.diff(share, axis=1) >= 0).all()
        assert (low <= share).all()
        assert (share <= high).all()
        errors.append(np.square(share - truth).mean())
        raw_errors.append(np.square(raw - truth).mean())
        covered.append((low - 0.01 <= truth) & (truth <= high + 0.01))

        (kind,) = limit.kinds
        assert kind.trials == 160
        sizes = [*SIZES, np.inf]
        true = sizes[int(np.sum(truth[CONTRASTS.index(kind.contrast)] < 0.9))]
        low, high = (np.inf if end is None else end / 100 for end in (kind.low, kind.high))
        held.append(low <= true <= high)
    assert np.mean(errors) <= np.mean(raw_errors)
    assert np.mean(covered) > 0.85
    assert np.mean(held) > 0.85


def test_a_lucky_cell_does_not_make_a_limit():
    """All 8 were found at one small size, 2 of 8 at larger ones: chance, and not the limit."""
    counts = [(0.01, 1), (0.02, 8), (0.04, 2), (0.08, 2), (0.16, 8)]
    cells = [cell("spots", size, 0.2, hits) for size, hits in counts]
    limit = detection_limit(PlantedTrials(100, tuple(cells)), calibration_of(), 0.05)
    assert [row.share for row in limit.rows] == pytest.approx([1 / 8, 0.5, 0.5, 0.5, 1])
    assert limit.kinds[0].pixels == 16
    assert "spots from 16 px" in limit.statement()


def test_the_sentence_names_the_faintest_contrast_with_a_size_and_what_is_not_found():
    cells = [
        *(cell("scratches", size, 0.1, 3) for size in (0.02, 0.08)),
        *(cell("scratches", size, 0.2, hits) for size, hits in ((0.02, 4), (0.08, 8))),
        *(cell("scratches", size, 0.8, 8) for size in (0.02, 0.08)),
        *(cell("swapped texture", size, None, 5) for size in (0.02, 0.08)),
    ]
    text = detection_limit(PlantedTrials(150, tuple(cells)), calibration_of(), 0.05).statement()
    assert text == (
        "At a false-alarm rate of 0.05 it finds 90% of planted scratches from 12 px (12 to above "
        "12) at contrast 0.2; it does not find 90% of planted swapped texture at any size tried "
        "(up to 12 px) (64 trials; 95% intervals in brackets)."
    )
    fewer = PlantedTrials(150, tuple(cells[2:4]), "from 2 in place of 8 images each, to save time")
    assert (
        "(16 trials, from 2 in place of 8 images each, to save time; 95%"
        in detection_limit(fewer, calibration_of(), 0.05).statement()
    )


def test_where_nothing_can_be_flagged_there_is_no_limit():
    trials = PlantedTrials(150, (cell("spots", 0.1, 0.2, 8),))
    few = detection_limit(trials, calibration_of(9), 0.05)
    assert few.rows == ()
    assert few.statement() == "No detection limit: nothing can be flagged at 0.05."
    assert detection_limit(trials, calibration_of(9), 0.1).rows


def test_trials_come_back_from_json():
    trials = PlantedTrials(
        150.5, (cell("spots", 0.1, 0.2, 8), cell("swapped texture", 0.1, None, 1)), "note"
    )
    assert trials_of(json.loads(json.dumps(trials.as_json()))) == trials
    assert trials_of(None) is None
    with pytest.raises(KeyError):
        trials_of({"side": 1})


def test_a_table_has_a_line_for_each_kind_and_contrast():
    trials = PlantedTrials(100, (cell("spots", 0.1, 0.2, 8), cell("swaps", 0.02, None, 1)))
    text = limit_table(detection_limit(trials, calibration_of(), 0.05))
    assert text.splitlines() == [
        "| planted | contrast | 2% (2 px) | 10% (10 px) |",
        "|---|---|---|---|",
        "| spots | 0.2 | – | 100% (8 of 8) |",
        "| swaps | as cut | 12% (1 of 8) | – |",
    ]


def test_each_round_has_every_cell_and_images_ascend():
    cells = command.empty_cells()
    trials = command.trials_of_rounds(cells, 3, 7)
    assert [trial.cell for trial in trials] == list(range(len(cells))) * 3
    numbers = [trial.image for trial in trials]
    assert set(numbers) == set(range(7))
    assert all(after - before in (0, 1) for before, after in pairwise(numbers))
    spots = {trial.defect.kind for trial in trials if cells[trial.cell].kind == "spots"}
    assert spots == {"blob", "lesion"}


def test_training_ends_with_a_limit_in_run_card_and_words(measured):
    folder, said = measured
    run = runs.read(folder / "run")
    planted = run.header.facts.planted
    assert planted.side == 64
    assert planted.note == ""
    assert {(each.kind, each.contrast) for each in planted.cells} == {
        (kind, contrast) for kind, (_, contrasts) in SERIES.items() for contrast in contrasts
    }
    assert {len(each.scores) for each in planted.cells} == {command.IMAGES}

    limit = runs.facts(folder / "run").limit
    assert limit == detection_limit(planted, run.calibration, 0.05)
    strong = [row.share for row in limit.rows if (row.kind, row.contrast) == ("spots", 0.8)]
    assert strong[-1] >= 0.9  # 10 pixels of 64, nearly as bright as bright gets
    assert strong[0] < 0.9  # less than a pixel
    assert limit.statement() in said
    card = (folder / "run" / "model_card.md").read_text()
    assert limit.statement() in card
    assert limit_table(limit) in card

    found = CliRunner().invoke(app, ["info", str(folder / "run"), "--json"])
    facts = json.loads(found.stdout)
    assert facts["limit"]["statement"] == limit.statement()
    assert len(facts["limit"]["rows"]) == len(limit.rows)
    assert "planted" not in facts


def test_altered_scores_of_planted_defects_are_noticed(measured, tmp_path):
    copied = shutil.copytree(measured[0] / "run", tmp_path / "run")
    content = bytearray((copied / "model.safetensors").read_bytes())
    place = content.index(b"scores", content.index(b"planted"))
    digits = re.compile(rb"\d\.\d+").search(content, place)
    content[digits.start() + 2] ^= 1  # another digit
    (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="do not match their hash"):
        runs.read(copied)


def test_the_report_has_the_limit_at_the_rate_of_the_scoring(measured, tmp_path):
    folder, _ = measured
    anodetect.score(folder / "run", [str(folder / "tiles")], tmp_path / "scores", far=0.2)
    page = report.html(tmp_path / "scores", [])
    audit = directories.read(tmp_path / "scores").audit
    limit = detection_limit(trials_of(audit.facts["planted"]), audit.calibration, 0.2)
    assert limit.statement() in page
    assert "Detection limit" in page


def test_the_report_of_a_run_has_the_limit_as_a_table(measured):
    folder, _ = measured
    page = run_report.html(runs.read(folder / "run"))
    limit = runs.facts(folder / "run").limit
    assert page.count(limit.statement()) == 1
    assert "|---" not in page
    for line in limit.table().lines:
        assert f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" in page


def test_a_new_calibration_has_its_own_limit(measured, tmp_path):
    folder, _ = measured
    synthetic.write(tmp_path / "new", train=40, test=1, size=64, seed=9)
    anodetect.calibrate(folder / "run", str(tmp_path / "new"), tmp_path / "again")
    old, new = runs.read(folder / "run"), runs.read(tmp_path / "again")
    assert new.header.facts.planted == old.header.facts.planted
    limit = runs.facts(tmp_path / "again").limit
    assert limit == detection_limit(old.header.facts.planted, new.calibration, 0.05)


def records_and_model(folder):
    records = cards.open_data(str(folder / "tiles")).training()[:6]
    return records, Model.load(runs.read(folder / "run"), "cpu")


def test_scores_are_those_of_files_with_the_same_pixels(measured, tmp_path, save_png):
    """A planted image that is written to a file gets the same score from `score`."""
    folder, _ = measured
    records, model = records_and_model(folder)
    cells = [PlantedCell("scratches", 0.2, 0.8, ()), PlantedCell("spots", 0.3, 0.8, ())]
    trials = command.trials_of_rounds(cells, 3, len(records))
    measuring = command.Measuring(model, records, 5, None)
    for planted in list(measuring._planted(trials)):
        pixels = planted.loaded.image[0].astype(np.uint8)
        assert np.array_equal(pixels, planted.loaded.image[0])
        clean = load(records[planted.trial.image], model.preprocess).image[0]
        assert not np.array_equal(pixels, clean)
        assert (pixels != clean)[planted.mask].mean() > 0.5
    scores = [scored.score for scored in measuring.scored(trials)]
    files = []
    for number, planted in enumerate(measuring._planted(trials)):
        path = save_png(f"{number}.png", planted.loaded.image[0].astype(np.uint8))
        files.append(replace(records[0], id=path.name, path=path))
    again = [found.score for found in score_records(model, files, Silent())]
    assert scores == pytest.approx(again, rel=1e-6)


def test_little_time_means_fewer_images_or_none_and_the_note_says_so(measured, monkeypatch):
    records, model = records_and_model(measured[0])
    cells = len(command.empty_cells())
    for seconds, rounds in ((30 / cells / 2.5, 2), (30.1 / cells, 0)):
        monkeypatch.setattr(
            command.Measuring, "seconds_of_a_trial", lambda self, cells, seconds=seconds: seconds
        )
        looked_at = []
        made = command.plant_and_score(
            model,
            records,
            Silent(),
            seed=0,
            budget=None,
            look_at=lambda heatmap, mask, seen=looked_at: seen.append((heatmap.shape, mask.any())),
        )
        assert {len(each.scores) for each in made.cells} == ({rounds} if rounds else set())
        assert min(command.LEAST_LOOKED_AT, cells) <= len(looked_at) <= command.MOST_LOOKED_AT
        assert set(looked_at) == {((64, 64), True)}
        assert "in place of 8" in made.note if rounds else "too long" in made.note
    short = 3 / cells / 1.5
    monkeypatch.setattr(command.Measuring, "seconds_of_a_trial", lambda self, cells: short)
    made = command.plant_and_score(model, records, Silent(), seed=0, budget=1.0)
    assert {len(each.scores) for each in made.cells} == {1}  # 3 seconds at least


def test_with_tiles_sizes_are_shares_of_a_tile(measured, monkeypatch):
    monkeypatch.setattr(command, "SERIES", {"spots": (("shift",), (0.8,))})
    records, model = records_and_model(measured[0])
    model.tiling = model.tiling.model_copy(update={"tile": 32})
    cells = [PlantedCell("spots", 0.5, 0.8, ())]
    measuring = command.Measuring(model, records, 0, None)
    for planted in measuring._planted(command.trials_of_rounds(cells, 6, 6)):
        clean = load(records[planted.trial.image], model.preprocess).image
        rows, columns = np.nonzero((planted.loaded.image != clean)[0])
        assert max(np.ptp(rows), np.ptp(columns)) + 1 <= 20  # of 32, not of 64
    assert measuring.side == 32


def test_three_dimensions_have_no_limit(measured):
    records, model = records_and_model(measured[0])
    model.tiling = model.tiling.model_copy(update={"dims": 3})
    made = command.plant_and_score(model, records, Silent(), seed=0, budget=None)
    assert "--dims 3" in DetectionLimit(0.05, (), note=made.note).statement()


def test_a_scaled_bit_depth_keeps_its_range(measured):
    records, model = records_and_model(measured[0])
    model.preprocess.sample_types = SampleTypes("uint16", {"uint8": 257.0})
    cells = [PlantedCell("spots", 0.3, 5.0, ())]
    measuring = command.Measuring(model, records, 0, None)
    for planted in measuring._planted(command.trials_of_rounds(cells, 4, 4)):
        image = planted.loaded.image
        assert 0 <= image.min() <= image.max() <= 65535
        assert not (image % 257).any()
