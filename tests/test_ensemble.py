"""The ensemble: what its members are, how they are joined, and that their training can be
interrupted."""

import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from scipy import stats
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from test_detector_contract import TINY, shortened

import anodetect
from anodetect.commands.rescore import rescore
from anodetect.commands.train import outcome_lines
from anodetect.data import synthetic
from anodetect.detectors.dae import DAE
from anodetect.detectors.ensemble import PART, Ensemble, EnsembleConfig, proportional_weights
from anodetect.detectors.pca import PCA
from anodetect.errors import BudgetTooShort, ConfigError, Interrupted, RunError
from anodetect.imaging.pixels import Pixels, PixelsConfig
from anodetect.imaging.representations import Expert, features_installed
from anodetect.model.settings import create_detector, resolve
from anodetect.output import report
from anodetect.record import runs
from anodetect.types import Batch, PlantedCopies, Scores, TrainContext

SIZE = 32
QUICK = {"widths": [16, 32], "training": {"steps": 6}}


def batch(count, seed=0):
    pixels, _ = synthetic.images(count, size=SIZE, seed=seed)
    return Batch(pixels.astype(np.float32) / 127.5 - 1, np.ones((count, SIZE, SIZE), bool))


def context(folder, **options):
    return TrainContext(**{"seed": 0, "device": "cpu", "workdir": folder} | options)


@dataclass
class Power:
    """A member that learns nothing: scores are powers of an image's mean square."""

    exponent: float

    def fit(self, fit, tune, *, context):
        pass

    def score(self, images, *, seeds):
        energy = loudness(images)
        return Scores(
            energy.mean((1, 2)) ** self.exponent, energy**self.exponent * images.foreground
        )

    def state(self):
        return {}

    def load_state(self, state, *, device):
        pass


def loudness(images):
    return np.square(images.images).mean(1) + 0.01


def powers(*exponents, sizes=(SIZE, SIZE)):
    made = zip(sizes, exponents, strict=True)
    config = EnsembleConfig(members=tuple(f"power{n}" for n in range(len(exponents))))

    def build(name, settings):
        size, exponent = next(made)
        return Expert(Pixels(PixelsConfig(size=size)), Power(exponent))

    return Ensemble(config, build)


def test_scores_are_the_product_of_what_members_say_in_deviations_of_normal_images(tmp_path):
    detector, tune, new = powers(1.0, 3.0), batch(20, seed=1), batch(5, seed=2)
    detector.fit(batch(20), tune, context=context(tmp_path))
    scored = detector.score(new, seeds=np.zeros(5, np.uint64))
    # A power changes a logarithm's mean and deviation alike, so both members say the same of an
    # image.
    normal = np.log(loudness(tune).mean((1, 2)))
    z = (np.log(loudness(new).mean((1, 2))) - normal.mean()) / normal.std()
    assert np.allclose(scored.image, np.exp(z), rtol=1e-3)
    places = np.log(loudness(tune))
    z = (np.log(loudness(new)) - places.mean()) / places.std()
    assert np.allclose(scored.heatmap, np.exp(z), rtol=1e-3)


def test_a_slow_member_is_compared_on_fewer_images(tmp_path):
    seen = []

    class Slow(Power):
        def score(self, images, *, seeds):
            seen.append(len(images))
            time.sleep(0.3)
            return super().score(images, seeds=seeds)

    detector, tune = powers(1.0, 3.0), batch(40, seed=1)
    detector.experts[0] = Expert(Pixels(PixelsConfig(size=SIZE)), Slow(1.0))
    copies = PlantedCopies((tune,) * 5, np.arange(40))
    own = context(tmp_path, budget=2.0, planted=lambda: copies)
    detector.fit(batch(20), tune, context=own)
    assert seen == [PART] * 7  # of tune, and of tune and the five copies, in place of 10 + 60
    assert sum(detector.weights) == pytest.approx(1)


def test_members_get_planted_copies_as_they_see_images(tmp_path):
    seen = []

    class Curious(Power):
        def fit(self, fit, tune, *, context):
            seen.append((tune, context.planted(), context.planted()))

    made = iter([16, SIZE])
    config = EnsembleConfig(members=("coarse", "fine"))
    detector = Ensemble(
        config, lambda name, settings: Expert(Pixels(PixelsConfig(size=next(made))), Curious(1.0))
    )
    tune = batch(200, seed=1)  # more than are looked at
    rows = np.array([0, 12, 199])
    planted = PlantedCopies((batch(3, seed=2), batch(3, seed=3)), rows)
    detector.fit(batch(20), tune, context=context(tmp_path, planted=lambda: planted))

    assert len(seen) == 2
    for (own, copies, again), size in zip(seen, (16, SIZE), strict=True):
        assert copies is again
        assert (len(own), len(copies)) == (128, 3)
        for n, row in enumerate(copies.of):
            assert np.array_equal(own.images[row], as_seen(tune, rows[n], size))
            assert np.array_equal(copies.copies[1].images[n], as_seen(planted.copies[1], n, size))


def as_seen(images, row, size):
    return Pixels(PixelsConfig(size=size)).prepare(images.images[row], images.foreground[row])[0]


def test_members_that_contradict_each_other_cancel_out(tmp_path):
    detector = powers(1.0, -1.0)
    detector.fit(batch(20), batch(20, seed=1), context=context(tmp_path))
    assert np.allclose(
        detector.score(batch(5, seed=2), seeds=np.zeros(5, np.uint64)).image, 1, rtol=1e-3
    )


def test_a_coarse_members_map_reaches_its_foregrounds_rim_and_is_silent_where_it_saw_nothing(
    tmp_path,
):
    """Images of one brightness each, so that a map says the same wherever it says anything."""
    rows, columns = np.mgrid[:128, :128]
    disc = (rows - 64) ** 2 + (columns - 64) ** 2 < 40**2
    thread = (columns == 2) & (rows > 30) & (rows < 90)  # too thin for the coarse member's grid
    inside = np.broadcast_to(disc | thread, (20, 128, 128))
    brightness = np.random.default_rng(0).uniform(0.2, 1, (20, 1, 1, 1)).astype(np.float32)
    images = Batch(np.tile(brightness, (1, 1, 128, 128)), inside)
    detector = powers(1.0, 3.0, sizes=(32, 128))
    detector.fit(images, images, context=context(tmp_path))
    heatmap = detector.score(images, seeds=np.zeros(20, np.uint64)).heatmap
    both = heatmap[:, 64, 64][:, None]
    assert both.min() < 0.5 and both.max() > 1.5
    assert np.allclose(heatmap[:, disc], both, rtol=1e-3)
    assert np.allclose(heatmap[:, thread], np.sqrt(both), rtol=1e-3)  # the fine member's alone
    assert not heatmap[:, ~(disc | thread)].any()


def test_the_configuration_has_every_setting_of_every_member():
    members = {"members": ["dae/pixels", "pca/pixels"]}
    config = resolve(
        "ensemble", "auto", members | {"settings": {"pca/pixels": {"detector": {"components": 7}}}}
    )
    settings = config["detector"]["settings"]
    assert settings["dae/pixels"]["detector"]["training"]["steps"] > 0
    assert settings["pca/pixels"]["detector"]["components"] == 7
    assert settings["pca/pixels"]["representation"]["size"] == 64
    again = resolve(
        "ensemble", "auto", {name: config[name] for name in ("detector", "representation")}
    )
    assert again == config


def test_members_see_tiles_in_their_own_size():
    config = resolve("ensemble", "auto", {"members": ["dae/pixels", "pca/pixels"], "tile": 96})
    assert config["representation"]["size"] == 96
    assert {each["representation"]["size"] for each in config["detector"]["settings"].values()} == {
        96
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"members": ["pcaa/pixels", "dae/pixels"]}, "no detector 'pcaa'; did you mean 'pca'"),
        ({"members": ["intensity/features", "dae/pixels"]}, "intensity works on pixels only"),
        ({"members": ["pca/pixels", "ensemble/pixels"]}, "ensemble has members of its own"),
        ({"members": ["pca/pixels"]}, "at least 2"),
        (
            {"members": ["pca/pixels", "dae/pixels"], "settings": {"dae/pixel": {}}},
            "no member 'dae/pixel'; did you mean 'dae/pixels'",
        ),
        (
            {
                "members": ["pca/pixels", "dae/pixels"],
                "settings": {"pca/pixels": {"detector": {"component": 3}}},
            },
            "unknown key 'component'; did you mean 'components'",
        ),
    ],
)
def test_wrong_members_and_settings_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        resolve("ensemble", "auto", values)


def test_a_member_named_twice_is_refused():
    twice = create_detector("ensemble", {"members": ["pca/pixels", "dae/pixels", "pca/pixels"]})
    with pytest.raises(ConfigError, match="'pca/pixels' is named twice"):
        twice.check((1, 64, 64))


def ensemble(first=QUICK, second=QUICK):
    sections = {
        "dae/pixels": {"detector": first},
        "anoddpm/pixels": {"detector": second | {"stem": 4, "prior": "off"}},
    }
    settings = {name: each | {"representation": {"size": SIZE}} for name, each in sections.items()}
    values = {"members": list(settings), "settings": settings}
    return create_detector("ensemble", values)


@pytest.mark.usefixtures("time_of_this_process")
def test_the_budget_is_shared_and_what_ended_training_is_recorded(tmp_path):
    records, endless = [], QUICK | {"training": {"steps": 10**6}}
    begun = time.monotonic()
    ensemble(QUICK, endless).fit(
        batch(40), batch(12, 1), context=context(tmp_path, budget=6.0, log=records.append)
    )
    assert time.monotonic() - begun < 6.0 * 1.1
    assert records[-1]["stopped_by"] == "budget"
    assert records[-1]["step"] > 6
    assert {record.get("member") for record in records} == {"dae/pixels", "anoddpm/pixels", None}


def test_a_member_without_time_for_a_step_is_left_out(tmp_path, monkeypatch):
    def too_short(fit, tune, *, context):
        raise BudgetTooShort("the budget ended")

    records = []
    detector = ensemble()
    monkeypatch.setattr(detector.experts[0].detector, "fit", too_short)
    detector.fit(batch(40), batch(12, 1), context=context(tmp_path, log=records.append))
    assert detector.weights == (0, 1)
    assert {"member": "dae/pixels", "left_out": "budget"} in records
    assert records[-1]["stopped_by"] == "budget"
    assert "dae/pixels: left out" in outcome_lines(records)[0]

    again, images = ensemble(), batch(5, 2)
    again.load_state(detector.state(), device="cpu")
    scores = [each.score(images, seeds=np.zeros(5, np.uint64)) for each in (detector, again)]
    assert np.array_equal(scores[0].image, scores[1].image)
    assert np.isfinite(scores[0].image).all()
    assert not [name for name in detector.state() if name.startswith("0.")]

    none = ensemble()
    for expert in none.experts:
        monkeypatch.setattr(expert.detector, "fit", too_short)
    with pytest.raises(BudgetTooShort):
        none.fit(batch(40), batch(12, 1), context=context(tmp_path))


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole, parts = ensemble(), ensemble()
    whole.fit(batch(40), batch(12, 1), context=context(folders[0]))

    def stop(fit, tune, *, context):
        raise Interrupted("stopped")

    monkeypatch.setattr(parts.experts[1].detector, "fit", stop)
    with pytest.raises(Interrupted):
        parts.fit(batch(40), batch(12, 1), context=context(folders[1]))
    again = ensemble()
    monkeypatch.setattr(
        again.experts[0].detector, "fit", stop
    )  # it is finished, and must not be trained again
    again.fit(batch(40), batch(12, 1), context=context(folders[1], resume=True))
    state = again.state()
    assert all(np.array_equal(array, state[name]) for name, array in whole.state().items())
    # What is finished stays until the run is complete, which takes longer than the members alone.
    kept = [f"member{number}.safetensors" for number in range(2)]
    assert sorted(file.name for file in folders[1].iterdir()) == kept


def test_a_run_stopped_between_members_goes_on_with_the_next(
    synthetic_folder, tmp_path, monkeypatch
):
    members = {
        name: {"representation": {"size": SIZE}, "detector": {}}
        for name in ("dae/pixels", "pca/pixels")
    }
    members["dae/pixels"]["detector"] = QUICK
    values = {"size": SIZE, "members": list(members), "settings": members}
    train = partial(
        anodetect.train, str(synthetic_folder), "ensemble", tmp_path / "run", values=values
    )

    def stop(*arguments, **context):
        raise Interrupted("stopped")

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(PCA, "fit", stop)
        train()
    with pytest.raises(RunError, match="continue it with --resume"):
        train()
    helping = runs.begin_helping(tmp_path / "run", resume=True)
    assert [file.name for file in helping.iterdir()] == ["member0.safetensors"]
    monkeypatch.setattr(DAE, "fit", stop)  # it is finished
    train(resume=True)
    found = sorted(file.name for file in (tmp_path / "run").iterdir())
    assert found == sorted([*runs.FILES, "odd.json"])


@pytest.mark.skipif(not features_installed(), reason="the extra `features` is not installed")
def test_pixels_and_features_together_come_back_bit_for_bit(tmp_path):
    settings = {
        "patchcore/features": {"representation": {"size": 64}, "detector": {"memory": 500}},
        "pca/pixels": {"representation": {"size": SIZE}, "detector": {"components": 10}},
    }
    values = {"members": list(settings), "settings": settings}
    detector, again = (create_detector("ensemble", values) for _ in range(2))
    detector.fit(batch(30), batch(12, 1), context=context(tmp_path))
    again.load_state({name: array.copy() for name, array in detector.state().items()}, device="cpu")
    images, seeds = batch(5, 2), np.zeros(5, np.uint64)
    first, second = detector.score(images, seeds=seeds), again.score(images, seeds=seeds)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.heatmap, second.heatmap)
    assert first.heatmap.shape == (5, SIZE, SIZE)


def test_a_folder_is_trained_on_scored_and_reported(synthetic_folder, tmp_path):
    quick = {"widths": [16, 32], "stem": 4, "training": {"steps": 20}}
    settings = {
        "anoddpm/pixels": {"representation": {"size": SIZE}, "detector": quick | {"prior": "off"}},
        "ebm/pixels": {"representation": {"size": SIZE}, "detector": quick | {"pretraining": 0.3}},
    }
    values = {"size": SIZE, "members": list(settings), "settings": settings}
    anodetect.train(str(synthetic_folder), "ensemble", tmp_path / "run", values=values)
    anodetect.score(
        tmp_path / "run", [str(synthetic_folder)], tmp_path / "scores", heatmaps=("tiff",)
    )
    assert rescore(tmp_path / "scores", 3) == []
    html = report.write(tmp_path / "scores").read_text()
    assert all(member in html for member in settings)  # each has a line in the training's figure
    assert "Langevin gradient" in html
    assert runs.facts(tmp_path / "run").representation == "pixels"
    header, members = runs.read(tmp_path / "run").header, ["anoddpm/pixels", "anoddpm/features"]
    assert replace(header, config={"detector": {"members": members}}).sees == "features + pixels"


def test_weights_are_those_of_the_best_linear_combination():
    """Against a discriminant analysis of independent Gaussian scores with these AUROCs."""
    auroc = (0.9, 0.7)
    rng = np.random.default_rng(0)
    normal, odd = rng.normal(size=(2, 200_000, 2))
    odd += np.sqrt(2) * stats.norm.ppf(auroc)
    labels = np.repeat([0, 1], len(normal))
    best = LinearDiscriminantAnalysis().fit(np.concatenate([normal, odd]), labels).coef_[0]
    assert np.allclose(proportional_weights(auroc), best / best.sum(), atol=0.01)

    assert proportional_weights((0.8, 0.8, 0.8)) == pytest.approx((1 / 3,) * 3)
    assert proportional_weights((0.9, 0.6)) == (1, 0)
    assert proportional_weights((0.9, 0.2)) == (1, 0)
    assert proportional_weights((0.4, 0.5)) == (0.5, 0.5)
    assert proportional_weights((1.0, 0.9))[1] > 0.2
    assert proportional_weights((0.9, 0.5), (True, True)) == pytest.approx((0.8, 0.2))
    assert proportional_weights((0.9, 0.5), (True, False)) == (1, 0)


def test_planted_defects_decide_what_members_count(tmp_path):
    """One member sees the defects, the other takes them for the most normal of all."""
    tune = batch(30, seed=1)
    defects = tune.images.copy()
    defects[:, :, 8:12, 8:12] += 3.0
    copies = PlantedCopies((Batch(defects, tune.foreground),) * 2, np.arange(30))

    def weights(settings, exponents=(1.0, -1.0)):
        detector = powers(*exponents)
        detector.config = detector.config.model_copy(update=settings)
        own = context(tmp_path, planted=lambda: copies)
        detector.fit(batch(20), tune, context=own)
        return detector.weights

    assert weights({})[0] > 0.7
    assert weights({"weights": "equal"}) == (0.5, 0.5)
    assert weights({}, exponents=(1.0, 2.0)) == (0.5, 0.5)  # both say the same


@pytest.mark.parametrize("name", ["ncsn", "rbm", "nce", "vq", "gan", "jem"])
def test_detectors_of_the_family_are_members(name, tmp_path):
    """An image's score and map are the geometric means of what both members say by themselves, in
    deviations of tune images."""
    member = f"{name}/pixels"
    settings = {
        "pca/pixels": {"detector": {"components": 10}},
        member: {"detector": shortened(TINY[name])},
    }
    for each in settings.values():
        each["representation"] = {"size": SIZE}
    values = {"members": list(settings), "settings": settings, "weights": "equal", "size": SIZE}
    config = resolve("ensemble", "auto", values)["detector"]
    detector, again = (create_detector("ensemble", config) for _ in range(2))
    records, tune, new = [], batch(12, 1), batch(5, 2)
    detector.fit(batch(40), tune, context=context(tmp_path, log=records.append))
    assert {record.get("member") for record in records} >= {member}

    seeds = np.arange(5, dtype=np.uint64)
    found = detector.score(new, seeds=seeds)
    image_z, map_z = [], []
    for expert in detector.experts:
        own, normal = expert.detector.score(new, seeds=seeds), []
        for first in range(0, 12, PART):
            rows = np.arange(first, first + PART)
            normal.append(expert.detector.score(tune[rows], seeds=rows.astype(np.uint64)))
        of_tune = np.log(np.concatenate([part.image for part in normal]))
        image_z.append((np.log(own.image) - of_tune.mean()) / of_tune.std())
        places = np.log(np.maximum(np.concatenate([part.heatmap for part in normal]), 1e-12))
        map_z.append((np.log(np.maximum(own.heatmap, 1e-12)) - places.mean()) / places.std())
    assert np.allclose(found.image, np.exp(np.mean(image_z, 0)), rtol=1e-2)
    assert np.allclose(found.heatmap, np.exp(np.mean(map_z, 0)), rtol=1e-2)

    again.load_state({key: array.copy() for key, array in detector.state().items()}, device="cpu")
    scored = again.score(new, seeds=seeds)
    assert np.array_equal(scored.image, found.image)
    assert np.array_equal(scored.heatmap, found.heatmap)
