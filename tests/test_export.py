"""A run as one ONNX file: it scores as the run does, or is not written."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import anodetect
from anodetect.cli import app
from anodetect.commands import export as command
from anodetect.data.synthetic import images as synthetic_images
from anodetect.errors import ConfigError, DataError, RunError
from anodetect.imaging.preprocess import Preprocess, PreprocessConfig
from anodetect.imaging.resize import resize
from anodetect.model.graph import resampling, resized, scaled
from anodetect.record import runs

for package in ("onnx", "onnxruntime"):
    pytest.importorskip(package, reason="the extra `onnx` is not installed")

FAR = 0.2  # the finest rate of so few calibration images is 1 / 13
READER = Path(__file__).parents[1] / "examples" / "onnx_reader.py"


@pytest.fixture(scope="module")
def exported(pca_run, synthetic_folder, tmp_path_factory):
    """A file that was compared on the images of the synthetic folder."""
    file = tmp_path_factory.mktemp("export") / "pca.onnx"
    result = command.export(pca_run, file, data=str(synthetic_folder), far=FAR)
    return file, result


def opened(file):
    sys.path.insert(0, str(READER.parent))
    try:
        from onnx_reader import Exported, read_pixels
    finally:
        sys.path.remove(str(READER.parent))
    return Exported(file, threads=1), read_pixels


@pytest.mark.parametrize("shape", [(97, 130, 64, 64), (40, 33, 64, 64), (64, 64, 300, 201)])
def test_images_are_resampled_as_by_pillow(shape):
    height, width, rows, columns = shape
    image = np.random.default_rng(0).random((2, height, width)).astype(np.float32)
    found = resized(torch.from_numpy(image[None]), rows, columns)[0].numpy()
    assert np.allclose(found, resize(image, rows, columns), rtol=0, atol=1e-6)


def test_the_same_size_is_left_alone():
    assert torch.equal(resampling(50, 50), torch.eye(50))


@pytest.mark.parametrize(
    "settings",
    [
        {"intensity": "image"},
        {"intensity": "zscore"},
        {"intensity": "dataset"},
        {"window": (100.0, 80.0)},
    ],
)
@pytest.mark.parametrize("constant", [False, True])
def test_values_are_scaled_as_before_a_detector(settings, constant):
    preprocess = Preprocess(PreprocessConfig(**settings))
    preprocess.range = (20.0, 180.0)
    image = np.random.default_rng(1).normal(100, 50, (1, 31, 44)).astype(np.float32)
    if constant:
        image = np.full_like(image, 7.0)
    expected, _ = preprocess.apply(image)
    found = scaled(torch.from_numpy(image[None]), preprocess)[0].numpy()
    assert np.allclose(found, expected, rtol=0, atol=1e-5)


def test_scores_maps_and_p_values_are_those_of_a_scoring(
    exported, pca_run, synthetic_folder, tmp_path
):
    from anodetect.output.formats import map_reader
    from anodetect.record import directories

    file, result = exported
    assert result.comparison.score < 1e-5
    assert result.comparison.flags == 0
    out = tmp_path / "s"
    anodetect.score(pca_run, [str(synthetic_folder)], out, far=FAR, heatmaps=["tiff"], workers=1)
    reader, read_pixels = opened(file)
    rows = directories.read(out).rows[::7]
    assert {row.flagged for row in rows} == {True, False}
    for row in rows:
        found = reader.score(reader.prepared(read_pixels(synthetic_folder / row.path)))
        assert found.score == pytest.approx(row.score, rel=1e-5)
        assert found.p_value == pytest.approx(row.p_value, abs=1e-9)
        assert found.flagged == row.flagged
        heatmap = map_reader(row.heatmap, "image")(out / row.heatmap)
        assert np.allclose(found.heatmap, heatmap, rtol=0, atol=1e-5 * heatmap.max())


def test_a_network_with_a_range_for_each_image_scores_other_sizes_alike(
    anoddpm_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(command, "IMAGES", 6)
    result = command.export(anoddpm_run, tmp_path / "m.onnx")  # made images, of 48 to 319 pixels
    assert result.comparison.images == "made"
    assert result.comparison.count == command.IMAGES
    assert result.comparison.score < 1e-3


def test_the_reader_needs_neither_torch_nor_anodetect(exported, synthetic_folder):
    blocked = (
        "import runpy, sys; sys.modules.update(torch=None, anodetect=None); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    file, result = exported
    found = subprocess.run(
        [sys.executable, "-c", blocked, READER, file, "--check", synthetic_folder],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert f"{result.comparison.count} of {result.comparison.count} images" in found.stdout


def test_the_reader_repeats_a_comparison_on_made_images(pca_run, tmp_path):
    command.export(pca_run, tmp_path / "m.onnx")
    reader, _ = opened(tmp_path / "m.onnx")
    assert reader.check(None) < 1e-5
    reader.about["comparison"]["compared"][3]["score"] *= 1.5
    assert reader.check(None) == pytest.approx(1 / 3, rel=1e-3)


def test_metadata_have_the_calibration_and_no_names(exported, pca_run):
    file, _ = exported
    about, run = opened(file)[0].about, runs.read(pca_run)
    assert about["model_sha256"] == run.model_sha256
    assert about["calibration"]["scores"] == run.calibration.scores.tolist()
    assert about["calibration"]["threshold"] == pytest.approx(run.calibration.threshold(FAR))
    assert sum(about["calibration"]["weights"]) == pytest.approx(about["calibration"]["units"])
    assert not any(group in json.dumps(about) for group in run.calibration.groups)


def test_a_difference_above_the_tolerance_writes_nothing(pca_run, tmp_path, monkeypatch):
    honest = command._scored

    def other(model, name, image):
        found = honest(model, name, image)
        return command.ScoredByRun(name, image, found.score * 1.01, found.heatmap, found.seconds)

    monkeypatch.setattr(command, "_scored", other)
    with pytest.raises(RunError, match=r"differ by 9.9e-03 .* tolerance of 0.001.*written"):
        command.export(pca_run, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_grey_files_and_other_types_become_what_the_model_takes(exported):
    reader, _ = opened(exported[0])
    grey = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    assert reader.prepared(grey).shape == (1, 64, 64)
    assert np.array_equal(reader.prepared(np.stack([grey] * 3)), reader.prepared(grey))
    with pytest.raises(SystemExit, match="3 channels"):
        reader.prepared(np.stack([grey, grey, 255 - grey]))
    with pytest.raises(SystemExit, match="uint16 values"):
        reader.prepared(grey.astype(np.uint16))


def test_what_cannot_be_one_graph_is_refused(tmp_path):
    folder = tmp_path / "discs"
    folder.mkdir()
    rows, columns = np.mgrid[-1:1:48j, -1:1:48j]
    pixels, _ = synthetic_images(24, size=48)
    for number, each in enumerate(pixels):
        disc = np.where(rows**2 + columns**2 < 0.5, 100 + each[0] // 4, 0).astype(np.uint8)
        Image.fromarray(disc).save(folder / f"{number}.png")
    anodetect.train(str(folder), "pca", tmp_path / "run", values={"size": 32})
    with pytest.raises(ConfigError, match="foreground by its largest connected part"):
        command.export(tmp_path / "run", tmp_path / "m.onnx")


def test_the_command_refuses_what_is_there_and_empty_data(pca_run, exported, tmp_path):
    with pytest.raises(ConfigError, match="exists"):
        command.export(pca_run, exported[0])
    with pytest.raises(ConfigError, match="--tolerance"):
        command.export(pca_run, tmp_path / "m.onnx", tolerance=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        command.export(pca_run, tmp_path / "m.onnx", data=str(tmp_path / "empty"))


def test_json_has_the_differences(pca_run, tmp_path):
    args = ["export", str(pca_run), "--onnx", str(tmp_path / "m.onnx"), "--json"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said["comparison"]["count"] == 64
    assert said["comparison"]["tolerance"] == 0.001
    assert said["bytes"] == (tmp_path / "m.onnx").stat().st_size
