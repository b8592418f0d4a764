"""Inputs that are odd, but not damaged: each is read as what it is, or refused with the reason."""

import os

import numpy as np
import pytest
import tifffile

import anodetect
from anodetect.data import cards, readers, scan
from anodetect.errors import DataError, ImageError


def test_complex_numbers_are_no_image(tmp_path):
    """Their imaginary part was dropped in silence, but for a warning of NumPy."""
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, np.full((16, 16), 3 + 4j, np.complex64))
    with pytest.raises(ImageError, match="values of type complex64; numbers are expected"):
        readers.read_image(file)


@pytest.mark.parametrize("text", ['{"version": 1}', "[1, 2]", "", "no JSON", "\ufeff{}"])
@pytest.mark.parametrize("place", ["parts.json", "parts/parts.json"])
def test_a_json_file_called_as_the_folder_is_no_table_of_real_iad(save_png, tmp_path, place, text):
    save_png("parts/0.png", np.zeros((16, 16), np.uint8))
    (tmp_path / place).write_text(text)
    assert [record.id for record in scan.scan(tmp_path / "parts").records] == ["0.png"]


def test_a_damaged_table_of_real_iad_is_refused(save_png, tmp_path):
    save_png("parts/OK/0.png", np.zeros((16, 16), np.uint8))
    (tmp_path / "parts.json").write_text('{"meta": {"normal_class": "OK"}, "train": [')
    with pytest.raises(DataError, match="not a table of Real-IAD \\(no JSON, see line 1"):
        scan.scan(tmp_path / "parts")


def test_copies_of_one_image_are_not_a_set_of_normals(save_png, tmp_path):
    """Their one group was learned from, with a warning of scikit-learn about a variance of 0."""
    for number in range(24):
        save_png(f"parts/{number}.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    with pytest.raises(DataError, match="all 24 normal images are one, pixel by pixel"):
        anodetect.train(str(tmp_path / "parts"), "pca", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("target", ["nothing.png", "link.png", "other.png"])
def test_a_link_that_leads_nowhere_is_not_called_a_missing_file(tmp_path, target):
    (tmp_path / "link.png").symlink_to(target)
    (tmp_path / "other.png").symlink_to("link.png")
    with pytest.raises(ImageError, match="symbolic link that leads nowhere"):
        readers.read_image(tmp_path / "link.png")


@pytest.mark.parametrize(
    ("data", "reason"),
    [("", "an empty path"), (os.devnull, "neither a file nor a folder"), ("no/where", "no such")],
)
def test_what_is_no_place_of_images_is_called_what_it_is(data, reason):
    """An empty path, as of a variable that is not set, was the folder one stands in."""
    with pytest.raises(DataError, match=reason):
        cards.open_data(data)


def test_a_run_is_no_data_set(pca_run):
    """Its manifest lists the images that it was made from, by paths that are not in it."""
    with pytest.raises(DataError, match="a run of anodetect, not images"):
        cards.open_data(str(pca_run))
