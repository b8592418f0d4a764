"""Folders of very many images whose names say nothing are listed as the layouts list them."""

import shutil

import numpy as np
import pytest
from PIL import Image

from anodetect.commands import inputs
from anodetect.data import listing as listings
from anodetect.data.listing import Listing, list_plain
from anodetect.data.scan import reasons, scan
from anodetect.data.walk import walk

LETTERS = "bdfhjklmopqsuvwz"
PLAIN = {
    "numbers": ["lot-1/a 001.png", "lot-1/a 002.png", "lot-22/a 003.png", "b.png/x"],
    "words": [f"images/x{one}{other}.png" for one in LETTERS for other in "aeo"],
    "percent": ["x%1.png", "x%02.png", "notes.docx"],
    "not UTF-8": ["x\udce91.png", "x\udce922.png", ".x\udce9.png"],
    "control characters": ["x\t5/1.png", "x\t5/2.png", "x\t6/2_heatmap.png"],
    "hashes": ["0123456789ab.png", "deadbeef0123.png", ".hidden/0123456789ab.png"],
}
TELLING = {
    "a mask": ["1.png", "1_mask.png"],
    "a mask by its first word": ["12345678.png", "mask_12345678.png"],
    "masks alone": ["1_mask.png", "2_mask.png"],
    "a mask among many names": [*PLAIN["words"], "images/xba_mask.png"],
    "masks": ["images/1.png", "masks/1.png"],
    "parts": ["train/1.png", "test/2.png"],
    "kinds": ["good/1.png", "scratch/1.png"],
    "two formats": ["1.png", "1.jpg"],
    "two spellings": ["1.png", "2.PNG"],
    "a volume": ["1.png", "2.nii.gz"],
    "a series": ["1.dcm", "2.dcm"],
    "two families": ["a_1.png", "b_1.png"],
    "families of folders": ["cam/1.png", "lot/1.png"],
    "annotations": ["1.png", "1.json"],
    "a manifest": ["1.png", "manifest.csv"],
    "subjects": ["sub-1/1.png", "sub-2/2.png"],
    "a small copy": ["1.png", "1_thumb.png"],
    "depth": ["rgb/1.png", "xyz/1.png"],
}


def tree(folder, names):
    for place, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name == "manifest.csv":
            file.write_text("path\n1.png\n")
        else:
            Image.fromarray(np.full((4, 4), place, np.uint8)).save(file, "png")
    return folder


@pytest.mark.parametrize("name", PLAIN)
def test_a_folder_whose_names_say_nothing_is_listed_as_by_its_layout(tmp_path, name):
    root = tree(tmp_path / "data", PLAIN[name])
    found, walked = list_plain(root, many=1)
    expected = scan(root)
    assert list(found) == list(expected.records)
    assert [found[place] for place in range(len(found))] == found[:] == list(expected.records)
    assert reasons(walked.passed_over.all()) == reasons(expected.passed_over)
    assert tuple(walked.problems) == expected.problems


@pytest.mark.parametrize("name", TELLING)
def test_a_folder_whose_names_say_something_is_left_to_the_layouts(tmp_path, name):
    assert list_plain(tree(tmp_path / "data", TELLING[name]), many=1) is None


def test_every_folder_of_few_files_is_left_to_the_layouts(tmp_path):
    root = tree(tmp_path / "data", PLAIN["numbers"])
    assert list_plain(root, many=3) is not None
    assert list_plain(root, many=4) is None
    assert len(walk(root).files) == 3


def test_records_are_found_by_their_ids_and_left_out(tmp_path):
    listing = Listing(tmp_path)
    for folder in range(3):
        listing.add(f"{folder}/", [f"{number}.png" for number in range(1000)])
    assert listing.get("2/999.png") == listing[-1]
    assert listing.get("2/999.png").path == tmp_path / "2/999.png"
    assert listing.get("3/1.png") is None
    ids = [record.id for record in listing]
    rest = listing.without(set(ids[500:2900]))
    assert [record.id for record in rest] == ids[:500] + ids[2900:]
    with pytest.raises(IndexError):
        listing[3000]


def test_what_is_scored_is_the_same_either_way(tmp_path, monkeypatch):
    root = tree(tmp_path / "data", PLAIN["numbers"])
    few = inputs.collect([str(root)], tmp_path / "out", follow_symlinks=False)
    monkeypatch.setattr(listings, "MANY", 1)
    many = inputs.collect([str(root)], tmp_path / "out", follow_symlinks=False)
    assert isinstance(many.records, Listing)
    assert list(many.records) == list(few.records)
    assert many.passed_over == few.passed_over
    inside = inputs.collect([str(root)], root / "out", follow_symlinks=False)
    assert not isinstance(inside.records, Listing)
    shutil.rmtree(root)
