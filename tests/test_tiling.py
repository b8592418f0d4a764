import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import ndimage

import anodetect
from anodetect.cli import app
from anodetect.errors import ConfigError
from anodetect.imaging import tiling
from anodetect.imaging.tiling import TilingConfig
from anodetect.model.settings import resolve
from anodetect.record import directories
from anodetect.types import Batch, Scores

CONFIG = TilingConfig(tile=32)


def texture(height, width, seed=0):
    noise = np.random.default_rng(seed).normal(size=(1, height, width))
    return ndimage.gaussian_filter(noise, (0, 2, 2)).astype(np.float32)


def local_contrast(batch, seeds):
    """A detector whose map is wrong near a tile's borders, as a padded convolution's is."""
    maps = ndimage.gaussian_filter(np.abs(batch.images), (0, 0, 2, 2), mode="constant")[:, 0]
    return Scores(maps.max((1, 2)), maps * batch.foreground, batch.images)


def score(image, foreground=None, config=CONFIG, detect=local_contrast):
    inside = np.ones(image.shape[1:], bool) if foreground is None else foreground
    return tiling.score(
        image,
        inside,
        config,
        seed=1,
        encode=lambda tiles: tiles,
        detect=detect,
        decode=lambda heatmap, shape: heatmap,
    )


def test_a_detector_that_looks_at_single_pixels_sees_the_whole_image():
    image = texture(75, 110)

    def pixelwise(batch, seeds):
        return Scores(batch.images.max((1, 2, 3)), batch.images[:, 0], batch.images)

    scores = score(image, detect=pixelwise)
    assert np.allclose(scores.heatmap, image, atol=1e-6)
    assert np.allclose(scores.reconstruction, image[None], atol=1e-6)
    assert scores.image[0] == pytest.approx(image.max())


def test_maps_have_no_seams():
    heatmap = score(texture(1200, 200)).heatmap[0]
    steps = np.abs(np.diff(heatmap, axis=1)).mean(0)
    starts = np.arange(24, 200 - 32, 24)  # where a tile begins, with a quarter of overlap
    borders = np.unique(np.concatenate([starts - 1, starts + 31]))
    inside = np.setdiff1d(
        np.arange(8, len(steps) - 8), np.concatenate([borders - 1, borders, borders + 1])
    )
    assert steps[borders].mean() < 1.1 * steps[inside].mean()


def test_without_blending_the_same_test_sees_the_seams(monkeypatch):
    monkeypatch.setattr(
        tiling, "blending_weights", lambda config: np.ones((config.tile, config.tile), np.float32)
    )
    with pytest.raises(AssertionError):
        test_maps_have_no_seams()


def test_background_stays_zero_and_small_images_are_mirrored():
    image, foreground = texture(20, 50), np.ones((20, 50), bool)
    foreground[:, :10] = False
    scores = score(image, foreground)
    assert scores.heatmap.shape == (1, 20, 50)
    assert (scores.heatmap[0, :, :10] == 0).all()
    assert (scores.heatmap[0, :, 10:] > 0).any()


def test_tiles_of_nothing_but_background_do_not_count():
    image, foreground = texture(96, 96), np.zeros((96, 96), bool)
    foreground[:40] = True
    image[:, 60:] += 50
    assert score(image, foreground).image[0] < 5
    assert score(image).image[0] > 20
    assert score(image, np.zeros((96, 96), bool)).image[0] == 0


def test_every_tile_has_a_seed_of_its_own_and_the_same_each_time():
    seen = []

    def detect(batch: Batch, seeds):
        seen.extend(seeds.tolist())
        return local_contrast(batch, seeds)

    image = np.zeros((1, 96, 96), np.float32)
    score(image, detect=detect)
    first, count = list(seen), len(seen)
    score(image, detect=detect)
    assert len(set(first)) == count > 9
    assert seen[count:] == first


def test_small_images_are_not_repeated():
    image, foreground = texture(20, 32), np.ones((20, 32), bool)
    assert len(tiling.random_crops(image, foreground, CONFIG, 20, np.random.default_rng(0))) == 1


def test_random_crops_lie_inside_and_avoid_background():
    image = np.arange(64 * 64, dtype=np.float32).reshape(1, 64, 64)
    foreground = np.zeros((64, 64), bool)
    foreground[:, 40:] = True
    crops = tiling.random_crops(
        image, foreground, TilingConfig(tile=32), 9, np.random.default_rng(0)
    )
    assert len(crops) == 9
    assert all(
        tile.shape == (1, 32, 32) and inside.mean() >= tiling.EMPTY for tile, inside in crops
    )
    assert len({float(tile[0, 0, 0]) for tile, _ in crops}) > 5


FINE = {"components": 200, "pooling": {"top": 0.005}}


@pytest.fixture(scope="module")
def scratched(tmp_path_factory):
    """Textures of 320² to learn from; in half of the test images a scratch of 6 × 1 pixels."""
    folder = tmp_path_factory.mktemp("scratched")
    for number in range(60):
        pixels = 128 + 60 * texture(320, 320, seed=number)[0] / 0.28
        part = "train/good" if number < 36 else "test/good" if number < 48 else "test/scratch"
        if part == "test/scratch":
            row, column = np.random.default_rng(number).integers(10, 300, 2)
            pixels[row, column : column + 6] = 255 if pixels[row, column] < 128 else 0
        path = folder / part / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def tiled_run(scratched, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiled"
    anodetect.train(str(scratched), "pca", out, values={"tile": 64} | FINE)
    return out


def test_a_scratch_that_vanishes_in_the_shrunk_image_is_found_with_tiles(
    scratched, tiled_run, tmp_path
):
    anodetect.train(str(scratched), "pca", tmp_path / "whole", values={"size": 64} | FINE)
    tiled = anodetect.evaluate(tiled_run, str(scratched)).whole
    whole = anodetect.evaluate(tmp_path / "whole", str(scratched)).whole
    assert tiled.image["auroc"].value > 0.95
    assert whole.image["auroc"].value < 0.75


@pytest.mark.parametrize("detector", ["anoddpm", "dae"])
def test_networks_score_tiles_of_colour_images_of_any_size(tmp_path, detector):
    rng = np.random.default_rng(0)
    for number in range(24):
        height, width = rng.integers(20, 90, 2)
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
        (tmp_path / "data").mkdir(exist_ok=True)
        image.save(tmp_path / "data" / f"{number}.png")
    tiny = {"tile": 32, "widths": [16, 32], "stem": 4, "training": {"steps": 5}}
    anodetect.train(
        str(tmp_path / "data"), detector, tmp_path / "run", representation="pixels", values=tiny
    )
    result = anodetect.score(tmp_path / "run", [str(tmp_path / "data")], tmp_path / "scores")
    assert (result.scored, result.failed) == (24, 0)
    alone = anodetect.score(tmp_path / "run", [str(tmp_path / "data/7.png")], tmp_path / "alone")
    assert alone.scored == 1
    scores = {row.path: row.score for row in directories.read(tmp_path / "scores").rows}
    assert directories.read(tmp_path / "alone").rows[0].score == pytest.approx(
        scores["7.png"], rel=1e-5
    )


def test_a_large_image_is_scored_in_bounded_memory_and_its_own_grid(tiled_run, tmp_path):
    period = 960  # 20 times the distance of tiles: they fall on every repetition alike
    image = 128 + 60 * np.tile(texture(period, period)[0] / 0.28, (5, 5))[:4096, :4096]
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(tmp_path / "large.png")
    command = [
        sys.executable,
        "-m",
        "anodetect.cli",
        "score",
        str(tiled_run),
        str(tmp_path / "large.png"),
    ]
    command += ["--out", str(tmp_path / "scores"), "--json"]
    result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert result["scored"] == 1
    assert result["peak_memory_mb"] < 2500
    heatmap = tifffile.imread(next((tmp_path / "scores").rglob("*_heatmap.tiff")))
    assert heatmap.shape == (4096, 4096)
    assert heatmap.std() > 0.1 * heatmap.mean()
    assert np.allclose(
        heatmap[500:1500, 500:1500], heatmap[500 + period : 1500 + period, 500:1500], atol=1e-4
    )


def test_an_overlap_of_no_tiles_is_refused():
    with pytest.raises(ConfigError, match="overlap is of tiles; add --tile"):
        resolve("pca", "pixels", {"tiling": {"overlap": 0.5}})
    found = resolve("pca", "pixels", {"tiling": {"overlap": 0.5, "tile": 32}})
    assert (found["tiling"]["overlap"], found["tiling"]["tile"]) == (0.5, 32)


def test_a_tile_larger_than_every_image_is_refused(tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(22):
        shape = (40, 64) if number else (65, 48)
        pixels = np.random.default_rng(number).integers(0, 255, shape, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    reason = "--tile 66: every image is smaller, with sides of at most 65 pixels"
    with pytest.raises(ConfigError, match=reason):
        anodetect.train(str(folder), "pca", tmp_path / "run", values={"tile": 66})
    assert not (tmp_path / "run").exists()
    anodetect.train(str(folder), "pca", tmp_path / "run", values={"tile": 65, "components": 3})

    for given in (["--tile", "66"], ["--set", "tile=66"], ["--set", "tiling.tile=66"]):
        dry_run = ["train", str(folder), "--out", str(tmp_path / "new"), "--dry-run", *given]
        app(dry_run, standalone_mode=False)
        assert f"train would refuse it: {reason}" in capsys.readouterr().out.replace("\n", " ")
    app([*dry_run[:-2], "--tile", "65"], standalone_mode=False)
    assert "would refuse" not in capsys.readouterr().out
