"""The pictures of all detectors: what is drawn, and that the page shows one of each."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anodetect.data import synthetic
from anodetect.detectors import DETECTORS
from examples import gallery

PAGE = Path(__file__).parents[1] / "docs" / "detectors.md"


def panels(file):
    """Return the panels of a picture, without their titles."""
    with Image.open(file) as picture:
        pixels = np.asarray(picture.convert("L"))
    starts = range(0, pixels.shape[1], gallery.SIDE + gallery.GAP)
    return [pixels[gallery.TITLE :, start : start + gallery.SIDE] for start in starts]


@pytest.mark.parametrize(("name", "count"), [("intensity", 5), ("pca", 7)])
def test_a_picture_shows_image_truth_and_heatmap(tmp_path, monkeypatch, name, count):
    """Enlarged to twice the side, a mask is above a half where it is set and nowhere else."""
    monkeypatch.setattr(gallery, "IMAGES", 60)
    gallery.main([name, "--out", str(tmp_path), "--seed", "3"])
    shown = panels(tmp_path / f"{name}.png")
    assert len(shown) == count

    _, masks = synthetic.images(gallery.TESTED, defects=True, seed=32)
    mask = masks[gallery.SHOWN].repeat(2, 0).repeat(2, 1)
    assert np.array_equal(shown[1] > 127, mask)
    defect, normal = shown[2], shown[count - 1 if name == "intensity" else count - 2]
    assert defect[mask].mean() > 2 * defect[~mask].mean()  # its heatmap is bright where it is
    assert defect.max() > normal.max()


def test_scenes_in_two_lights_have_one_in_each_channel(tmp_path):
    gallery.write_images(tmp_path, 1, two_lights=True)
    files = sorted((tmp_path / "test/defect").iterdir())
    scenes, masks = synthetic.two_lights(gallery.TESTED, defects=True, seed=12)
    for file, scene, mask in zip(files, scenes, masks, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), scene.transpose(1, 2, 0))
        truth = tmp_path / "ground_truth/defect" / f"{file.stem}_mask.png"
        assert np.array_equal(np.asarray(Image.open(truth)), mask)


def test_every_detector_has_a_recipe_and_a_name_that_is_none_is_refused(tmp_path, capsys):
    assert set(gallery.RECIPES) == set(DETECTORS) - {"classifier"}
    with pytest.raises(SystemExit):
        gallery.main(["padin", "--out", str(tmp_path)])
    assert "did you mean 'padim'" in capsys.readouterr().err


def test_the_page_has_a_picture_beside_every_detector():
    sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    by_name = {section.partition("\n")[0]: section for section in sections}
    for name in DETECTORS:
        shown = re.search(r"!\[([^\]]+)\]\(([\w/-]+\.png)\)", by_name[name])
        assert shown, f"{name} has no picture"
        text, path = shown.groups()
        assert len(text) > 40
        assert (PAGE.parent / path).stat().st_size < 300_000
