"""Detector `classifier`: a user's own classifier, in an ONNX file or as a callable."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.calibration import calibration_curve
from typer.testing import CliRunner

import anodetect
from anodetect.cli import app
from anodetect.commands.texts import evaluation_text
from anodetect.config import build
from anodetect.detectors.classifier import Classifier, ClassifierConfig
from anodetect.errors import ConfigError, DataError, ImageError
from anodetect.generative.classifiers import (
    calibrating_temperature,
    free_energy,
    softmax_doubt,
)
from anodetect.model.settings import resolve
from anodetect.record import runs
from anodetect.stats.reliability import reliability
from anodetect.types import Batch, TrainContext, image_seeds

SIDE = 8
SHAPE = [1, SIDE, SIDE]


@pytest.fixture(scope="module")
def models():
    """The module that writes ONNX files."""
    for module in ("onnx", "onnxruntime"):
        pytest.importorskip(module, reason="the extra `onnx` is not installed")
    import onnx_models

    return onnx_models


def logits_of(count=200, classes=5, spread=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, spread, (count, classes)), rng.integers(classes, size=count)


def images_of(count, channels=1, side=SIDE, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (count, channels, side, side)).astype(np.float32)
    return Batch(images, np.ones((count, side, side), bool))


def weights_of(classes=3, channels=1, side=SIDE, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.5, (classes, channels * side**2)), rng.normal(size=classes)


def configured(**values):
    return build(ClassifierConfig, values, "detector")


def fitted(detector, fit=None):
    detector.fit(fit or images_of(12, seed=9), images_of(4), context=TrainContext(0, "cpu", None))
    return detector


def scored(detector, images):
    return detector.score(images, seeds=image_seeds(list(images.images)))


def callable_of(weight, bias):
    """Return the same classifier as `onnx_models.linear` writes."""
    weight, bias = torch.tensor(weight).float(), torch.tensor(bias).float()
    return lambda x: x.flatten(1) @ weight.T + bias


# -- Scores of logits, and reliability -------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_scores_of_logits_are_those_of_their_equations(temperature):
    logits, _ = logits_of()
    found = free_energy(torch.from_numpy(logits), temperature)
    expected = -temperature * logsumexp(logits / temperature, axis=1)
    assert np.allclose(found, expected)
    doubt = softmax_doubt(torch.from_numpy(logits), temperature)
    assert np.allclose(doubt, 1 - softmax(logits / temperature, axis=1).max(1))


def test_doubt_is_not_lost_where_a_classifier_is_certain():
    logits = torch.tensor([[60.0, 0.0], [70.0, 0.0]])
    first, second = softmax_doubt(logits).tolist()
    assert first == pytest.approx(np.exp(-60))
    assert second == pytest.approx(np.exp(-70))


def test_the_best_temperature_is_the_one_with_the_lowest_cross_entropy():
    logits, _ = logits_of(2000, spread=1.0)
    rng = np.random.default_rng(1)
    classes = np.array([rng.choice(5, p=softmax(row)) for row in logits])

    def cross_entropy(log_temperature):
        values = log_softmax(3 * logits / np.exp(log_temperature), axis=1)
        return -values[np.arange(2000), classes].mean()

    best = np.exp(minimize_scalar(cross_entropy, bounds=(-3, 3), method="bounded").x)
    found = calibrating_temperature(torch.from_numpy(3 * logits), torch.from_numpy(classes))
    assert found == pytest.approx(best, rel=1e-3)
    assert found == pytest.approx(3, rel=0.1)  # which the logits were multiplied by


@pytest.mark.parametrize("bins", [5, 10])
def test_the_diagram_is_that_of_scikit_learn_and_the_error_that_of_its_definition(bins):
    rng = np.random.default_rng(0)
    confidences = np.concatenate([rng.uniform(0.2, 1, 300), [0.4, 0.6, 0.8, 1.0]])
    correct = rng.random(304) < confidences**2
    found = reliability(confidences, correct, bins)

    accuracy, confidence = calibration_curve(correct, confidences, n_bins=bins)
    filled = [each for each in found.bins if each.count]
    assert np.allclose([each.accuracy for each in filled], accuracy)
    assert np.allclose([each.confidence for each in filled], confidence)

    error = 0.0
    for number in range(bins):
        inside = [n for n, c in enumerate(confidences) if number / bins < c <= (number + 1) / bins]
        if inside:
            gap = np.mean(correct[inside]) - np.mean(confidences[inside])
            error += len(inside) / len(correct) * abs(gap)
    assert found.ece == pytest.approx(error)
    assert (found.count, found.accuracy) == (304, pytest.approx(correct.mean()))
    with pytest.raises(ValueError, match="no images"):
        reliability(confidences[:0], correct[:0])


# -- A file and a callable -------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["free_energy", "max_softmax"])
@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_a_file_scores_as_the_equation_and_as_a_callable(models, tmp_path, score, batch):
    weight, bias = weights_of()
    file = models.linear(tmp_path / "net.onnx", weight, bias, SHAPE, batch=batch)
    options = {"score": score, "temperature": 1.5, "grid": 3}
    detector = fitted(Classifier(configured(file=str(file), **options)))
    images = images_of(5)
    found = scored(detector, images)

    logits = (images.images.reshape(5, -1) + 1) / 2 @ weight.T + bias
    expected = -1.5 * logsumexp(logits / 1.5, axis=1)
    if score == "max_softmax":
        expected = 1 - softmax(logits / 1.5, axis=1).max(1)
    assert np.allclose(found.image, expected, rtol=1e-4)
    assert np.allclose(detector.logits(images.images), logits, atol=1e-4)

    other = fitted(Classifier(configured(**options), network=callable_of(weight, bias)))
    same = scored(other, images)
    assert np.allclose(same.image, found.image, rtol=1e-4)
    assert np.allclose(same.heatmap, found.heatmap, atol=1e-4)


def test_the_map_is_what_the_score_falls_by_without_a_square(models, tmp_path):
    weight, bias = weights_of()
    file = models.linear(tmp_path / "net.onnx", weight, bias, SHAPE)
    fit = images_of(12, seed=9)
    detector = fitted(Classifier(configured(file=str(file), grid=SIDE)), fit)
    images = images_of(2)
    found = scored(detector, images)

    mean = fit.images.mean(0)
    for row, column in [(0, 0), (3, 5), (7, 7)]:
        without = images.images.copy()
        without[:, :, row, column] = mean[:, row, column]
        logits = (without.reshape(2, -1) + 1) / 2 @ weight.T + bias
        fall = np.maximum(0, found.image + logsumexp(logits, axis=1))
        assert np.allclose(found.heatmap[:, row, column], fall, atol=1e-4)


def test_the_map_shows_the_square_that_matters(models, tmp_path):
    weight = np.zeros((2, SIDE, SIDE))
    weight[:, 2:4, 4:6] = -5
    file = models.linear(tmp_path / "net.onnx", weight.reshape(2, -1), [0, 0], SHAPE)
    dark = Batch(np.full((12, 1, SIDE, SIDE), -1, np.float32), np.ones((12, SIDE, SIDE), bool))
    detector = fitted(Classifier(configured(file=str(file), grid=4)), dark)
    images = images_of(3)
    images.images[:, :, 2:4, 4:6] = 1
    heatmap = scored(detector, images).heatmap
    row, column = np.unravel_index(heatmap[0].argmax(), (SIDE, SIDE))
    assert row in (2, 3)
    assert column in (4, 5)
    assert (heatmap[:, 5:] == 0).all()
    outside = replace(images, foreground=np.zeros((3, SIDE, SIDE), bool))
    assert (scored(detector, outside).heatmap == 0).all()


def test_the_gradient_is_that_of_the_equation_by_autograd_and_by_differences(models, tmp_path):
    weight, bias = weights_of()
    images = images_of(3)
    logits = (images.images.reshape(3, -1) + 1) / 2 @ weight.T + bias
    gradient = -softmax(logits, axis=1) @ weight / 2  # of grey values from −1 to 1
    expected = np.linalg.norm(gradient, axis=1)

    options = {"score": "gradient", "grid": 2, "directions": 200}
    exact = fitted(Classifier(configured(**options), network=callable_of(weight, bias)))
    found = scored(exact, images)
    assert np.allclose(found.image, expected, rtol=1e-4)
    first = gradient.reshape(3, SIDE, SIDE)[:, : SIDE // 2, : SIDE // 2]
    assert np.allclose(found.heatmap[:, 0, 0], np.linalg.norm(first, axis=(1, 2)), rtol=1e-4)

    file = models.linear(tmp_path / "net.onnx", weight, bias, SHAPE)
    detector = fitted(Classifier(configured(file=str(file), **options)))
    differences = scored(detector, images)
    assert np.allclose(differences.image, expected, rtol=0.15)
    again = detector.score(images, seeds=image_seeds(list(images.images)) + np.uint64(1))
    assert not np.array_equal(again.image, differences.image)
    alone = scored(detector, images[np.array([2])])
    assert np.array_equal(alone.image, differences.image[2:])


def test_images_become_what_the_classifier_takes(models, tmp_path):
    weight, bias = weights_of(channels=3)
    values = {"values": [0, 255], "mean": [100, 110, 120], "deviation": [50, 60, 70]}
    images = images_of(4, channels=3)
    taken = (images.images + 1) / 2 * 255
    taken = taken[:, ::-1] - np.array([100, 110, 120])[:, None, None]
    taken = taken / np.array([50, 60, 70])[:, None, None]
    expected = taken.reshape(4, -1) @ weight.T + bias

    first = models.linear(tmp_path / "first.onnx", weight, bias, [3, SIDE, SIDE])
    moved = weight.reshape(3, 3, SIDE, SIDE).transpose(0, 2, 3, 1).reshape(3, -1)
    last = models.linear(tmp_path / "last.onnx", moved, bias, [SIDE, SIDE, 3])
    for file in (first, last):
        detector = Classifier(configured(file=str(file), order="bgr", **values))
        assert np.allclose(detector.logits(images.images), expected, atol=1e-3)

    grey = images_of(4)
    as_colours = np.repeat(grey.images, 3, 1)
    detector = Classifier(configured(file=str(first)))
    assert np.array_equal(detector.logits(grey.images), detector.logits(as_colours))


def test_a_module_is_left_as_it_was():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(SIDE**2, 3))
    with pytest.raises(ConfigError, match=r"training mode; call its eval\(\) first"):
        fitted(Classifier(configured(), network=net))
    detector = fitted(Classifier(configured(score="gradient"), network=net.eval()))
    scored(detector, images_of(3))
    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert detector.source() is None


# -- What is refused -------------------------------------------------------------------------------


def no_onnx(models, path, content):
    path.write_bytes(content)


def pickled(models, path):
    torch.save({}, path)


def ending_in(models, path, end, sign=1, offset=0):
    weight, bias = weights_of()
    models.linear(path, sign * np.abs(weight), bias + offset, SHAPE, end=[end])


def of_shape(models, path, shape):
    weight = np.ones((3, int(np.prod(shape))))
    models.linear(path, weight, np.zeros(3), shape)


def one_logit(models, path):
    models.linear(path, np.ones((1, SIDE**2)), [0], SHAPE)


def weights_elsewhere(models, path):
    saving = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    models.linear(path, *weights_of(), SHAPE, **saving)


def two_inputs(models, path):
    ends = {"a": ["N", *SHAPE], "b": ["N", *SHAPE]}
    models.write(path, [("Add", ["a", "b"], ["f"], {})], ends, {"f": None}, {})


def two_outputs(models, path):
    nodes = [("Flatten", ["x"], ["f"], {}), ("Neg", ["f"], ["g"], {})]
    outputs = {"f": ["N", SIDE**2], "g": ["N", SIDE**2]}
    models.write(path, nodes, {"x": ["N", *SHAPE]}, outputs, {})


def a_map(models, path):
    nodes = [("Neg", ["x"], ["f"], {})]
    models.write(path, nodes, {"x": ["N", *SHAPE]}, {"f": ["N", *SHAPE]}, {})


REFUSED = [
    ("none.onnx", lambda models, path: None, "No such file"),
    ("net.pt2", pickled, r"may hold a pickle, which is never read; write it with torch.onnx.exp"),
    ("net.onnx", pickled, r"not an ONNX file, it may hold pickles; write it with torch.onnx.exp"),
    ("text.onnx", partial(no_onnx, content=b"no network"), "not a usable ONNX file"),
    ("empty.onnx", partial(no_onnx, content=b""), "not a usable ONNX file"),
    ("inputs.onnx", two_inputs, "one input is expected, it has a, b"),
    ("outputs.onnx", two_outputs, "several outputs, f, g; --set output=NAME"),
    ("flat.onnx", partial(of_shape, shape=[64]), r"\['N', 64\]; images are \[N, C, H, W\]"),
    ("four.onnx", partial(of_shape, shape=[4, 8, 8]), "with 1 or 3 channels"),
    ("weights.onnx", weights_elsewhere, "weights lie in another file; .*external_data=False"),
    ("softmax.onnx", partial(ending_in, end="Softmax"), "output is probabilities; take the logits"),
    ("nan.onnx", partial(ending_in, end="Log", sign=-1, offset=-100), "is not finite"),
    ("one.onnx", one_logit, "at least two classes"),
    ("map.onnx", a_map, r"shape \[2, 1, 8, 8\]; logits"),
]


@pytest.mark.parametrize(("name", "write", "reason"), REFUSED, ids=[each[0] for each in REFUSED])
def test_a_file_that_cannot_be_used_is_refused_in_one_line(models, tmp_path, name, write, reason):
    write(models, tmp_path / name)
    with pytest.raises(ConfigError, match=reason) as refused:
        Classifier(configured(file=str(tmp_path / name))).check((3, SIDE, SIDE))
    assert "\n" not in str(refused.value)
    assert str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"mean": [0.1, 0.2]}, "detector.mean: 2 values, but the classifier's input has 1 chan"),
        ({"deviation": [1, 2, 3]}, "detector.deviation: 3 values"),
        ({"classes": ["a", "b"]}, "2 names, but the classifier has 3 classes"),
        ({"grid": 9}, "9 squares along a side, but the classifier sees images of 8 × 8"),
        ({"output": "g"}, "no output 'g'; there are f"),
        ({"sha256": "0" * 64}, "000000000000… is expected"),
        ({"deviation": [0]}, "deviation"),
    ],
)
def test_settings_that_do_not_fit_the_file_are_refused(models, tmp_path, settings, reason):
    file = models.linear(tmp_path / "net.onnx", *weights_of(), SHAPE)
    with pytest.raises(ConfigError, match=reason):
        Classifier(configured(file=str(file), **settings)).check((3, SIDE, SIDE))


def test_one_classifier_has_to_be_named(models, tmp_path):
    file = models.linear(tmp_path / "net.onnx", *weights_of(), SHAPE)
    for named, network in (("", None), (str(file), callable_of(*weights_of()))):
        with pytest.raises(ConfigError, match="which one\\? --set file=PATH"):
            Classifier(configured(file=named), network=network)


def test_images_that_do_not_fit_the_classifier_are_refused(models, tmp_path):
    file = models.linear(tmp_path / "net.onnx", *weights_of(), SHAPE)
    with pytest.raises(DataError, match="takes grey images, and these are coloured"):
        fitted(Classifier(configured(file=str(file))), images_of(12, channels=3))
    bright = images_of(12)
    bright.images[:] = 1.5  # as all values of 16 bits are in a window of 8
    with pytest.raises(DataError, match=r"100% of all values lie outside preprocess.window"):
        fitted(Classifier(configured(file=str(file))), bright)


def test_what_makes_a_result_worse_is_said(models, tmp_path):
    file = models.linear(tmp_path / "net.onnx", *weights_of(), SHAPE)
    images = images_of(12, side=2 * SIDE)
    images.images[:, :, :4] = -1.5
    log = []
    context = TrainContext(0, "cpu", None, log=log.append)
    Classifier(configured(file=str(file))).fit(images, images, context=context)
    notes = " ".join(entry.get("note", "") for entry in log)
    assert "images of 16 × 16 are resampled once more, to the classifier's 8 × 8" in notes
    assert "25% of all values lie outside preprocess.window" in notes


def test_an_ensemble_cannot_have_a_classifier():
    members = {"members": ["classifier/pixels", "pca/pixels"]}
    with pytest.raises(ConfigError, match="classifier may be below 0"):
        resolve("ensemble", "pixels", members)


def test_an_image_of_which_nothing_can_be_said_is_refused(models, tmp_path):
    weight, bias = np.abs(weights_of()[0]), np.zeros(3)
    file = models.linear(tmp_path / "net.onnx", weight, bias, SHAPE, end=["Log"])
    detector = fitted(Classifier(configured(file=str(file))))
    images = images_of(2)
    images.images[1] = -1
    scored(detector, images[np.array([0])])
    with pytest.raises(ImageError, match="output for this image is not finite"):
        scored(detector, images)


# -- Runs ------------------------------------------------------------------------------------------

CLASSES = ["dark", "bright"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Grey squares of two kinds, dark and bright ones; anomalous ones have a stripe."""
    folder = tmp_path_factory.mktemp("classifier") / "squares"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["path,split,label,kind"]
    for number in range(80):
        bright, odd, test = number % 2, number >= 70, number >= 50
        pixels = rng.normal(120 + 20 * bright, 12, (16, 16)) + rng.normal(0, 8)
        pixels[4:6] = 0 if odd else pixels[4:6]
        name = f"{number:03d}.png"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name)
        kind = "stripe" if odd else CLASSES[bright]
        rows.append(f"{name},{'test' if test else 'train'},{int(odd)},{kind}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def file(models, data):
    """A classifier of dark and bright squares, by their mean."""
    weight = np.stack([np.full(256, -60 / 256), np.full(256, 60 / 256)])
    middle = 130 / 255 * 60
    return models.linear(data.parent / "net.onnx", weight, [middle, -middle], [1, 16, 16])


@pytest.fixture(scope="module")
def run(data, file):
    """A run of the command line with the classifier in it."""
    line = ["train", str(data), "-d", "classifier", "--out", str(data.parent / "run")]
    settings = [f"file={file}", "size=16", "grid=4", f"classes={json.dumps(CLASSES)}"]
    for each in settings:
        line += ["--set", each]
    done = CliRunner().invoke(app, [*line, "--embed-backbone", "--json"])
    assert done.exit_code == 0, done.output
    return data.parent / "run"


def scores_of(run, data, out):
    anodetect.score(run, [str(data)], out, heatmaps=())
    return pq.read_table(out / "scores.parquet")["score"].to_numpy()


def test_a_run_notes_the_file_and_refuses_another_one(data, file, tmp_path):
    own = Path(shutil.copy(file, tmp_path / "own.onnx"))
    values = {"file": str(own), "size": 16, "grid": 2}
    anodetect.train(str(data), "classifier", tmp_path / "run", values=values)
    facts = runs.facts(tmp_path / "run")
    digest = facts.config["detector"]["sha256"]
    assert [each.sha256 for each in facts.backbones] == [digest]
    card = (tmp_path / "run" / "model_card.md").read_text()
    assert f"`{own}`, as a whole; licence not stated" in card
    scores_of(tmp_path / "run", data, tmp_path / "scores")

    with own.open("ab") as changed:
        changed.write(b"\x00")
    with pytest.raises(ConfigError, match=f"{digest[:12]}… is expected: restore the file"):
        scores_of(tmp_path / "run", data, tmp_path / "again")
    own.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        scores_of(tmp_path / "run", data, tmp_path / "third")


def test_a_run_can_bring_the_classifier(run, data, file, tmp_path):
    expected = scores_of(run, data, tmp_path / "expected")
    hidden = file.rename(tmp_path / "hidden.onnx")
    try:
        moved = shutil.copytree(run, tmp_path / "moved")
        assert np.array_equal(scores_of(moved, data, tmp_path / "scores"), expected)
    finally:
        hidden.rename(file)
    (facts,) = runs.facts(run).backbones
    assert facts.embedded == facts.sha256
    (copy,) = (run / "backbones" / facts.embedded[:12]).iterdir()
    assert copy.name == "model.onnx"
    assert copy.read_bytes() == file.read_bytes()


def test_an_image_without_finite_logits_fails_alone(models, data, tmp_path):
    file = models.linear(tmp_path / "net.onnx", np.ones((2, 256)), [0, 0], [1, 16, 16], end=["Log"])
    values = {"file": str(file), "size": 16, "grid": 2}
    anodetect.train(str(data), "classifier", tmp_path / "run", values=values)
    new = tmp_path / "new"
    new.mkdir()
    for number in (50, 51):
        shutil.copy(data / f"{number:03d}.png", new)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(new / "black.png")

    anodetect.score(tmp_path / "run", [str(new)], tmp_path / "scores", heatmaps=())
    rows = pq.read_table(tmp_path / "scores" / "scores.parquet").to_pylist()
    status = {row["path"]: (row["status"], row["error"]) for row in rows}
    assert [status[f"{number:03d}.png"][0] for number in (50, 51)] == ["ok", "ok"]
    assert status["black.png"] == ("failed", "the classifier's output for this image is not finite")


def test_evaluate_says_how_reliable_the_classifier_is(run, data):
    result = anodetect.evaluate(run, str(data))
    confidences, correct = [], []
    for number in range(50, 70):
        pixels = np.asarray(Image.open(data / f"{number:03d}.png")) / 255
        difference = 120 * (pixels.mean() - 130 / 255)  # of the two logits
        bright = 1 / (1 + np.exp(-difference))
        confidences.append(max(bright, 1 - bright))
        correct.append((difference > 0) == number % 2)

    expected = reliability(np.array(confidences), np.array(correct))
    found = result.classifier.reliability
    assert (found.count, found.accuracy) == (20, expected.accuracy)
    assert found.ece == pytest.approx(expected.ece, abs=1e-4)
    content = json.loads(json.dumps(result.as_json()))["classifier"]
    assert content["ece"] == found.ece
    assert sum(each["count"] for each in content["bins"]) == 20
    assert f"accuracy {found.accuracy:.3f}" in evaluation_text(result)
    assert f"ECE {found.ece:.3f}" in evaluation_text(result)


def test_other_detectors_say_nothing_of_classes(data, tmp_path):
    anodetect.train(str(data), "pca", tmp_path / "run", values={"size": 16})
    result = anodetect.evaluate(tmp_path / "run", str(data))
    assert result.classifier is None
    assert "classifier" not in result.as_json()


def test_the_example_tells_known_digits_from_unknown_ones(models, tmp_path):
    from examples import classifier as example

    training, calibrating, tested = example.digits(0)
    net = example.trained(training, 0)
    example.write_onnx(net, tmp_path / "net.onnx")
    example.write_data(calibrating[np.arange(60)], tested[np.arange(0, 600, 4)], tmp_path / "data")
    result = example.measured(
        tmp_path / "net.onnx", tmp_path / "data", tmp_path / "run", "free_energy"
    )
    assert result.whole.image["auroc"].value > 0.8

    detector = Classifier(configured(file=str(tmp_path / "net.onnx")))
    pixels = tested.pictures[:20] / 255
    logits = detector.logits((2 * pixels[:, None] - 1).astype(np.float32))
    expected = net.predict_proba(pixels.reshape(20, -1))
    assert np.allclose(detector.probabilities(logits), expected, atol=1e-5)
    assert example.draw(result.classifier.reliability, np.arange(2.0), np.arange(2))
