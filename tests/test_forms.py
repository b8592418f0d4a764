"""Which form a detector is trained in, and that `auto` decides by planted defects."""

import json
from pathlib import Path

import numpy as np
import pytest

import anodetect
from anodetect.commands.train import outcome_lines
from anodetect.data import synthetic
from anodetect.errors import ConfigError
from anodetect.imaging.representations import features_installed
from anodetect.model.forms import form_of
from anodetect.record import runs
from anodetect.types import Silent

needs_weights = pytest.mark.skipif(not features_installed(), reason="the extra `features`")
BOTH = ["anoddpm/features", "anoddpm/pixels"]


@needs_weights
def test_auto_gives_pixels_and_features():
    form = form_of("anoddpm", "auto", {"training": {"steps": 7}, "foreground": "all"})
    assert (form.detector, form.representation) == ("ensemble", "pixels")
    settings = form.config["detector"]["settings"]
    assert form.config["detector"]["members"] == BOTH
    for member in BOTH:
        assert settings[member]["detector"]["training"]["steps"] == 7
    assert settings[BOTH[0]]["detector"]["network"] == "mlp"
    assert settings[BOTH[1]]["detector"]["network"] == "unet"
    assert form.config["preprocess"]["foreground"] == "all"
    # The ensemble's own grid is no coarser than that of any member.
    assert form.config["representation"]["size"] == 256


@needs_weights
@pytest.mark.parametrize(
    ("detector", "values", "expected"),
    [
        ("anoddpm", {"preset": "reference"}, "pixels"),
        ("anoddpm", {"dims": 3}, "pixels"),
        ("anoddpm", {"tile": 24}, "pixels"),
        ("anoddpm", {"layers": [4]}, "features"),
        ("pca", {}, "pixels"),
        ("jem", {}, "pixels"),
        ("padim", {}, "features"),
    ],
)
def test_where_there_is_nothing_to_compare_one_form_is_taken(detector, values, expected):
    form = form_of(detector, "auto", values)
    assert (form.detector, form.representation) == (detector, expected)


@needs_weights
def test_a_representation_that_is_asked_for_is_taken():
    for name in ("pixels", "features"):
        assert form_of("anoddpm", name, {}).representation == name


@needs_weights
def test_a_setting_that_no_form_knows_is_refused():
    with pytest.raises(ConfigError, match="unknown key 'lambda'"):
        form_of("anoddpm", "auto", {"lambda": [3]})


@needs_weights
def test_a_run_on_both_says_what_counts(tmp_path):
    synthetic.write(tmp_path / "tiles", train=40, test=8, size=64)
    values = {"size": 64, "widths": [16], "training": {"steps": 5}, "patterns": 100}
    trained = anodetect.train(str(tmp_path / "tiles"), "anoddpm", tmp_path / "run", values=values)
    assert trained.facts.detector == "ensemble"
    log = Path(tmp_path, "run", "train.jsonl").read_text().splitlines()
    (chosen,) = [json.loads(line) for line in log if '"weights"' in line]
    compared = [name for name in chosen if name.startswith("planted_auroc")]
    assert len(compared) == 3  # each member, and both together
    assert all(0 <= chosen[name] <= 1 for name in compared)

    run = runs.read(tmp_path / "run")
    facts, state = run.header.facts, run.state
    assert chosen["planted"] == facts.tune_images  # all, as there is no budget
    (said,) = outcome_lines([chosen])
    assert f"defects planted in {facts.tune_images} images" in said

    assert np.isclose(state["weights"].sum(), 1)
    result = anodetect.score(tmp_path / "run", [str(tmp_path / "tiles")], tmp_path / "scores")
    assert result.failed == 0


@needs_weights
def test_a_budget_too_short_to_train_ends_with_the_linear_model(tmp_path):
    synthetic.write(tmp_path / "tiles", train=40, test=16, size=64)
    said = []
    reporter = Silent()
    reporter.say = said.append

    def auroc(run, budget, steps):
        values = {"size": 64, "widths": [16], "training": {"steps": steps}, "patterns": 100}
        options = {"representation": "features", "budget": budget, "reporter": reporter}
        data = str(tmp_path / "tiles")
        trained = anodetect.train(data, "anoddpm", tmp_path / run, values=values, **options)
        result = anodetect.evaluate(tmp_path / run, data)
        return trained.facts.training, result.whole.image["auroc"].value

    facts, short = auroc("short", 0.001, 1000)
    assert (facts.steps, facts.stopped_by) == (0, "budget")
    assert any("the budget ended training after 0 of 1000 steps" in line for line in said)
    # One step of a rate that rises from 0 changes next to nothing.
    assert short >= auroc("one step", None, 1)[1] - 0.02
    assert short > 0.8


@needs_weights
def test_a_budget_too_short_to_train_on_pixels_ends_with_the_gaussian_model(tmp_path):
    synthetic.write(tmp_path / "tiles", train=40, test=16, size=64)
    data = str(tmp_path / "tiles")
    values = {"size": 64, "widths": [16], "stem": 4, "components": 10}
    trained = anodetect.train(
        data, "anoddpm", tmp_path / "run", values=values, representation="pixels", budget=0.001
    )
    assert trained.facts.training.steps == 0
    assert anodetect.evaluate(tmp_path / "run", data).whole.image["auroc"].value > 0.75


@needs_weights
def test_shapes_before_a_flat_background_are_seen_as_pixels(tmp_path, save_png):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    disc = np.hypot(rows - 32, columns - 32) < 20
    for n in range(24):
        values = np.where(disc, rng.integers(90, 200, (64, 64)), 0)
        save_png(f"discs/{n}.png", values.astype(np.uint8))
    said = []
    reporter = Silent()
    reporter.say = said.append
    values = {"size": 32, "widths": [16], "stem": 4, "training": {"steps": 2}, "components": 5}
    trained = anodetect.train(
        str(tmp_path / "discs"), "anoddpm", tmp_path / "run", values=values, reporter=reporter
    )
    assert (trained.facts.detector, trained.facts.representation) == ("anoddpm", "pixels")
    assert "pixels, as images show a shape before a flat background" in said


@needs_weights
def test_only_what_restores_shapes_is_believed_on_them_without_evidence():
    for detector in ("rbm", "nce", "ncsn"):
        assert form_of(detector, "auto", {}).for_shapes is None
    for detector in ("anoddpm", "ebm", "vq", "gan"):
        assert form_of(detector, "auto", {}).for_shapes.representation == "pixels"


class OpenedError(Exception):
    """The data were opened, so work was begun."""


@pytest.fixture
def no_work(monkeypatch):
    """Training may not open its data before all settings are found to be right."""

    def opened(*arguments, **options):
        raise OpenedError

    monkeypatch.setattr("anodetect.commands.train.cards.open_data", opened)


REFUSED = [
    ("anoddpm", "pixels", {"size": 50}, "not a multiple of 32"),
    ("anoddpm", "pixels", {"crop": 40}, "detector.crop: 40 is not a multiple of 32"),
    ("anoddpm", "pixels", {"pattern": "on"}, "are for features"),
    ("anoddpm", "pixels", {"noise": "simplex", "wavelength": 500}, "larger than the image"),
    ("anoddpm", "pixels", {"lambdas": [2000]}, "must lie in"),
    ("anoddpm", "pixels", {"dims": 3, "patch": [15, 64, 64]}, "multiples of"),
    ("anoddpm", "pixels", {"tile": 40}, "not a multiple of 32"),
    ("ebm", "pixels", {"size": 50}, "not a multiple of 32"),
    ("ebm", "pixels", {"distance": "on"}, "are for features"),
    ("ebm", "pixels", {"network": "mlp", "score": "inpaint"}, "not an mlp"),
    ("jem", "pixels", {"size": 50}, "not a multiple of 16, detector.stem × 4"),
    ("jem", "pixels", {"size": 16}, "receptive field"),
    ("jem", "pixels", {"pattern": "on"}, "are for features"),
    ("dae", "pixels", {"size": 50}, "not a multiple of 16"),
    ("rbm", "pixels", {"size": 16, "window": 20}, "smaller than a window of 20"),
    ("rbm", "pixels", {"pattern": "on"}, "are for features"),
    ("nce", "pixels", {"size": 16, "window": 20}, "smaller than a window of 20"),
    ("nce", "pixels", {"pattern": "on"}, "are for features"),
    ("ncsn", "pixels", {"objective": "exact"}, "exact is for 256 values"),
    ("gan", "pixels", {"size": 50}, "not a multiple of 8, detector.stem"),
    ("vq", "pixels", {"size": 50}, "not a multiple of 4, detector.stem"),
    ("translate", "pixels", {"source": 1}, "there is nothing to translate"),
    ("translate", "pixels", {"size": 50}, "not a multiple of 8"),
    ("translate", "pixels", {"pattern": "on"}, "are for features"),
    ("vq", "features", {"pattern": "on"}, "vq judges a place by its surroundings"),
]


@pytest.mark.parametrize(("detector", "representation", "values", "reason"), REFUSED)
def test_what_does_not_fit_is_refused_before_any_work(
    detector, representation, values, reason, tmp_path, no_work
):
    with pytest.raises(ConfigError, match=reason):
        anodetect.train(
            "tiles", detector, tmp_path / "run", values=values, representation=representation
        )
    assert not list(tmp_path.iterdir())
    with pytest.raises(OpenedError):
        anodetect.train("tiles", detector, tmp_path / "run", representation=representation)


@needs_weights
@pytest.mark.parametrize(
    ("detector", "values", "reason"),
    [
        ("anoddpm", {"representation": {"size": 50}}, "anoddpm/pixels: .* not a multiple of 32"),
        ("ebm", {"pattern": "on"}, "ebm/pixels: .* are for features"),
        (
            "ensemble",
            {"settings": {"ebm/pixels": {"representation": {"size": 50}}}},
            "ebm/pixels: .* not a multiple of 32",
        ),
        (
            "ensemble",
            {
                "members": ["pca/features", "dae/pixels"],
                "settings": {"dae/pixels": {"representation": {"size": 40}}},
            },
            "dae/pixels: .* not a multiple of 16",
        ),
    ],
)
def test_what_does_not_fit_one_member_is_refused_before_any_work(
    detector, values, reason, tmp_path, no_work
):
    with pytest.raises(ConfigError, match=reason):
        anodetect.train("tiles", detector, tmp_path / "run", values=values)
    assert not list(tmp_path.iterdir())
