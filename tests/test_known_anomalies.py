"""Known anomalies in a training: used on request only, and never among the normals."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from test_cli import call

import anodetect
from anodetect.commands.anomalies import check_can_learn
from anodetect.commands.inspect import inspect
from anodetect.detectors import DETECTORS
from anodetect.errors import ConfigError, DataError, RunError
from anodetect.output import run_report
from anodetect.record import runs

SMALL = {
    "size": 32,
    "width": 8,
    "blocks": 1,
    "stem": 2,
    "labels": "position",
    "pretraining": 0.0,
    "training": {"steps": 20, "batch": 8},
}


def picture(seed, *, hole=False):
    rng = np.random.default_rng(seed)
    image = 100 + 60 * np.abs(np.linspace(-1, 1, 32))[:, None] + rng.normal(0, 4, (32, 32))
    if hole:
        image[10:18, 10:18] = 20
    return image.astype(np.uint8)


@pytest.fixture(autouse=True)
def no_backbone(monkeypatch):
    """Look for odd normals by their pixels, which takes less time."""
    monkeypatch.setattr("anodetect.model.odd.features_installed", lambda: False)


@pytest.fixture
def parts(tmp_path, save_png):
    """A folder of 40 normal images of 20 lots and four known anomalies, two of them of lot 3, and
    a test part."""
    rows = ["path,split,label,kind,group"]
    for n in range(40):
        save_png(f"data/{n:02}.png", picture(n))
        rows.append(f"{n:02}.png,train,0,,lot {n // 2}")
    for n in range(4):
        save_png(f"data/bad{n}.png", picture(100 + n, hole=True))
        rows.append(f"bad{n}.png,train,1,hole,{'lot 3' if n < 2 else ''}")
    for n in range(6):
        save_png(f"data/test{n}.png", picture(200 + n, hole=n % 2 == 0))
        rows.append(f"test{n}.png,test,{1 - n % 2},,")
    (tmp_path / "data/manifest.csv").write_text("\n".join(rows))
    return tmp_path / "data"


def settings():
    return [part for key, value in SMALL.items() for part in ("--set", f"{key}={spelled(value)}")]


def spelled(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {each}" for key, each in value.items()) + "}"
    return value


def rewritten(folder, old, new):
    file = folder / "manifest.csv"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_known_anomalies_are_learned_from_and_recorded(parts, tmp_path, capfd, monkeypatch):
    run = tmp_path / "run"
    train = ("train", parts, "-d", "jem", "--out", run, "--json", *settings())
    code, _, err = call(capfd, monkeypatch, *train)
    assert code == 2
    assert "'bad0.png' is anomalous" in " ".join(err.split())
    assert "--known-anomalies" in err

    code, out, err = call(capfd, monkeypatch, *train, "--known-anomalies")
    assert code == 0, err
    assert json.loads(out)["known_anomalies"] == 4
    assert json.loads((run / "config.json").read_text())["known_anomalies"] == 4
    assert "Known anomalies: 4 images" in (run / "model_card.md").read_text()
    with (run / "manifest.csv").open() as file:
        roles = {row["path"]: row["role"] for row in csv.DictReader(file)}
    assert {path for path, role in roles.items() if role == "anomaly"} == {
        f"bad{n}.png" for n in range(4)
    }
    normals = {path for path, role in roles.items() if role in ("fit", "tune", "calibrate")}
    assert normals == {f"{n:02}.png" for n in range(40)}
    assert roles["06.png"] == roles["07.png"] == "fit", "a lot of which anomalies are known"
    facts = runs.facts(run)
    assert facts.training.fit_images + facts.training.tune_images == 40 - facts.calibration_images

    code, out, err = call(capfd, monkeypatch, "evaluate", run, parts, "--json")
    assert (code, "4 anomalous images of the train part are not" in err) == (0, True)
    found = json.loads(out)
    assert (found["n_normal"], found["n_anomalous"]) == (3, 3)
    code, out, err = call(
        capfd, monkeypatch, "score", run, parts, "--out", tmp_path / "scores", "--heatmaps", "none"
    )
    assert (code, "6 scored" in out) == (0, True)
    audit = json.loads((tmp_path / "scores/audit.json").read_text())
    assert "known_anomalies" in json.dumps(audit)


def test_the_weights_depend_on_them(parts, tmp_path):
    trained = []
    for name, values in (("one", SMALL), ("other", SMALL | {"margin": "energy"})):
        anodetect.train(str(parts), "jem", tmp_path / name, values=values, known_anomalies=True)
        trained.append(runs.read(tmp_path / name).state["net.last.weight"])
    rewritten(parts, "train,1", "test,1")
    rewritten(parts, "hole,lot 3", "hole,")
    anodetect.train(str(parts), "jem", tmp_path / "without", values=SMALL)
    trained.append(runs.read(tmp_path / "without").state["net.last.weight"])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(trained[first], trained[second])


@pytest.mark.parametrize("detector", [name for name in DETECTORS if name != "jem"])
def test_detectors_that_cannot_learn_from_them_say_so(detector):
    with pytest.raises(ConfigError, match=f"{detector} learns from normal images alone; take jem"):
        check_can_learn(detector, {"tile": 0, "dims": 2})


def test_the_option_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="--known-anomalies: pca learns"):
        anodetect.train(str(tmp_path / "nowhere"), "pca", tmp_path / "run", known_anomalies=True)
    assert not (tmp_path / "run.partial").exists()


OF_MEMBER = {"jem/pixels": {"detector": {"margin": "energy"}}}


@pytest.mark.parametrize(
    ("detector", "values"),
    [
        ("jem", {"margin": "perceptron"}),
        ("jem", {"margin_weight": 0.2}),
        ("jem", {"margin_width": 2.0}),
        ("ensemble", {"members": ["pca/pixels", "jem/pixels"], "settings": OF_MEMBER}),
    ],
)
def test_settings_for_them_are_refused_without_them(detector, values, tmp_path):
    with pytest.raises(ConfigError, match=r"detector\.margin\w*: it is for known anomalies; add"):
        anodetect.train(str(tmp_path / "nowhere"), detector, tmp_path / "run", values=values)
    assert not (tmp_path / "run.partial").exists()


@pytest.mark.parametrize("tiling", [{"tile": 16, "dims": 2}, {"tile": 0, "dims": 3}])
def test_parts_of_anomalous_images_are_not_learned_from(tiling):
    with pytest.raises(ConfigError, match="whole images"):
        check_can_learn("jem", tiling)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("train,1", "test,1", "no row of a manifest.csv has the split train and the label 1"),
        ("test0.png,test,1,,", "test0.png,test,1,,lot 3", "'lot 3' is in train"),
        ("bad0.png,train", "05 copy.png,train", "same pixels as 05.png"),
        ("bad3.png,train", "test0 copy.png,train", "test0.png in test has the same bytes"),
        ("bad", "gone", "none of 4 known anomalies can be read"),
    ],
)
def test_anomalies_that_cannot_be_used_are_refused(parts, tmp_path, old, new, message):
    for name in ("05", "test0"):
        (parts / f"{name} copy.png").write_bytes((parts / f"{name}.png").read_bytes())
    rewritten(parts, old, new)
    if old == "train,1":
        rewritten(parts, "hole,lot 3", "hole,")
    with pytest.raises(DataError, match=message):
        anodetect.train(str(parts), "jem", tmp_path / "run", values=SMALL, known_anomalies=True)


def test_calibration_refuses_them(parts, tmp_path):
    anodetect.train(str(parts), "jem", tmp_path / "run", values=SMALL, known_anomalies=True)
    new = tmp_path / "new"
    new.mkdir()
    for n in range(24):
        Image.fromarray(picture(300 + n)).save(new / f"{n}.png")
    (new / "x.png").write_bytes((parts / "bad2.png").read_bytes())
    with pytest.raises(DataError, match=r"leak: x.png has the same bytes as bad2.png"):
        anodetect.calibrate(tmp_path / "run", str(new), tmp_path / "calibrated")


def test_what_a_folder_holds_names_known_anomalies(parts):
    plain, asked = inspect(str(parts)), inspect(str(parts), known_anomalies=True)
    assert "--known-anomalies" in plain.doubt
    assert not asked.doubt
    assert "known anomalies: 4 images, learned from as such" in asked.summary
    assert {(row.use, row.count) for row in asked.rows if row.kind == "hole"} == {
        ("learn as anomalous", 4)
    }


# -- Kinds and clusters in a training --------------------------------------------------------------


def test_one_kind_is_refused_before_an_image_is_read(parts, tmp_path):
    rewritten(parts, "train,1", "test,1")
    rewritten(parts, "hole,lot 3", "hole,")
    rewritten(parts, "00.png,train,0,,", "00.png,train,0,good,")
    for n in range(40):
        (parts / f"{n:02}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="labels=kind needs normal images of several kinds"):
        anodetect.train(str(parts), "jem", tmp_path / "run", values=SMALL | {"labels": "kind"})
    assert not (tmp_path / "run.partial").exists()


def test_kinds_that_are_lost_in_the_split_are_refused_before_training(parts, tmp_path, monkeypatch):
    rewritten(parts, "train,1", "test,1")
    rewritten(parts, "hole,lot 3", "hole,")
    anodetect.train(str(parts), "pca", tmp_path / "pca", values={"size": 32})
    tuned = [row.path for row in runs.read_manifest(tmp_path / "pca") if row.role == "tune"]
    for name in (f"{n:02}.png" for n in range(40)):
        rewritten(parts, f"{name},train,0,,", f"{name},train,0,{'b' if name in tuned else 'a'},")
    monkeypatch.setattr("anodetect.commands.odd.fit_and_look", None)  # it must not come so far
    with pytest.raises(DataError, match="labels=kind needs normal images of several kinds"):
        anodetect.train(str(parts), "jem", tmp_path / "run", values=SMALL | {"labels": "kind"})


def test_kinds_of_some_images_are_the_classes(parts, tmp_path):
    rewritten(parts, "train,1", "test,1")
    rewritten(parts, "hole,lot 3", "hole,")
    for n in range(0, 40, 4):
        rewritten(parts, f"{n:02}.png,train,0,,", f"{n:02}.png,train,0,{'ab'[n // 4 % 2]},")
    anodetect.train(str(parts), "jem", tmp_path / "run", values=SMALL | {"labels": "auto"})
    run = runs.read(tmp_path / "run")
    assert len(run.state["net.last.weight"]) == 2
    labelled = [entry["labels"] for entry in runs.read_log(tmp_path / "run") if "labels" in entry]
    assert labelled == ["kind"]


def test_clusters_are_in_the_report_of_a_run(tmp_path, save_png):
    for n in range(60):
        image = picture(n)
        if n % 3 == 0:
            image[:, ::2] //= 2  # another product
        save_png(f"data/{n:02}.png", image)
    values = SMALL | {"labels": "clusters"}
    result = anodetect.train(str(tmp_path / "data"), "jem", tmp_path / "run", values=values)
    found = result.components
    assert len(found.clusters) == 2
    assert sum(each.images for each in found.clusters) + found.outside == 42 or found.outside < 9
    for each, rest in zip(found.clusters, ({1, 2}, {0}), strict=True):
        assert {int(name[:2]) % 3 for name in each.examples} <= rest
    page = run_report.write(runs.read(tmp_path / "run")).read_text()
    assert "<h2>Components</h2>" in page
    assert ", ".join(found.clusters[0].examples) in page

    (tmp_path / "run/components.json").write_text("{}")
    with pytest.raises(RunError, match="altered"):
        runs.read(tmp_path / "run")
