"""A run knows what it has learned from, and says what is unlike that."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import anodetect
from anodetect.data import synthetic
from anodetect.model.input_facts import InputFacts
from anodetect.model.seen import Seen
from anodetect.record import directories, runs
from anodetect.types import Silent

MR = InputFacts(
    modality="MR",
    description="ax flair",
    maker="Siemens",
    plane="axial",
    spacing=(0.9, 0.9, 5.0),
    size=(256, 192, 30),
    channels=1,
    bits=16,
)
SEEN = Seen.of([MR, replace(MR, size=(320, 240, 24), maker="GE")])

DIFFERENCES = {
    "series": ({"description": "ax t1"}, "series ax t1, seen: ax flair"),
    "maker": ({"maker": "Philips"}, "maker Philips, seen: GE, Siemens"),
    "plane": ({"plane": "coronal"}, "plane coronal, seen: axial"),
    "bits": ({"bits": 8}, "8 bits, seen: 16"),
    "spacing": ({"spacing": (0.9, 0.9, 1.0)}, "spacing 0.9×0.9×1 mm, seen: 0.9×0.9×5 mm"),
    "size": ({"size": (1024, 768, 30)}, "size 1024×768×30, seen: 256–320×192–240×24–30"),
    "aspect": ({"size": (256, 120, 30)}, "aspect ratio 2.13, seen: 1.33"),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_each_difference_is_said(name):
    change, note = DIFFERENCES[name]
    difference = SEEN.difference(replace(MR, **change))
    assert difference.refused == ""
    assert difference.notes == (note,)


def test_what_is_alike_or_not_known_is_no_difference():
    for same in (MR, replace(MR, maker="GE", size=(300, 225, 27), spacing=(1.0, 1.0, 4.0))):
        assert SEEN.difference(same) == ("", ())
    unknown = replace(MR, modality="", description="", maker="", plane="", spacing=(), bits=0)
    assert SEEN.difference(unknown) == ("", ())
    assert Seen.of([unknown]).difference(replace(MR, size=unknown.size)) == ("", ())


def test_another_modality_is_refused_but_radiographs_are_alike():
    assert SEEN.difference(replace(MR, modality="CT")).refused == (
        "a CT image, and the model has seen MR; --accept-different scores it all the same"
    )
    radiographs = Seen.of([replace(MR, modality="CR")])
    assert radiographs.difference(replace(MR, modality="DX")).refused == ""
    assert radiographs.difference(replace(MR, modality="MG")).refused


def test_very_many_different_descriptions_tell_nothing():
    many = Seen.of(replace(MR, description=f"series {chr(97 + n)}") for n in range(26))
    assert many.difference(MR).notes
    more = Seen.of(replace(MR, description=f"s{n}") for n in range(40))
    assert more.difference(MR).notes == ()


def test_a_run_keeps_what_it_saw_and_rows_say_what_differs(pca_run, tmp_path):
    seen = runs.read(pca_run).header.seen
    assert seen["channels"] == [1]
    assert seen["sizes"] == [[64.0, 64.0], [64.0, 64.0]]

    folder = tmp_path / "in"
    synthetic.write(folder, train=1, test=1, size=64)
    image = Image.open(next((folder / "test/good").iterdir()))
    (folder / "more").mkdir()
    image.save(folder / "more/same.png")
    image.resize((64, 640)).save(folder / "more/long.png")
    out = tmp_path / "out"
    anodetect.score(pca_run, [str(folder / "more")], out)
    rows = {row.path: row for row in directories.read(out).rows}
    assert rows["same.png"].differs == ""
    assert rows["long.png"].differs == "size 64×640, seen: 64×64; aspect ratio 0.1, seen: 1"
    assert "aspect ratio 0.1" in (out / "report.html").read_text("utf-8")
    assert anodetect.verify(out).intact


@pytest.fixture(scope="module")
def mr_run(tmp_path_factory):
    """A run of T2 volumes named so, and a folder with one more of them and one T1."""
    folder = tmp_path_factory.mktemp("seen")
    rng = np.random.default_rng(0)
    columns, rows, _ = np.ogrid[-1:1:20j, -1:1:18j, -1:1:8j]
    inside = np.broadcast_to(columns**2 + rows**2 < 0.8, (20, 18, 8))
    for place, number, sequence in [("train", n, "t2") for n in range(8)] + [
        ("score", 9, "t2"),
        ("score", 9, "t1"),
    ]:
        voxels = inside * (300 + 60 * rng.normal(size=inside.shape))
        (folder / place).mkdir(exist_ok=True)
        volume = nib.Nifti1Image(voxels.astype(np.int16), np.diag([1, 1, 3, 1]))
        nib.save(volume, folder / place / f"case{number}_{sequence}.nii.gz")
    values = {"size": 16, "components": 3}
    anodetect.train(str(folder / "train"), "pca", folder / "run", values=values)
    return folder


def test_a_sequence_that_was_not_seen_is_named(mr_run, tmp_path):
    anodetect.score(mr_run / "run", [str(mr_run / "score")], tmp_path / "out")
    rows = {row.path: row for row in directories.read(tmp_path / "out").rows}
    assert rows["case9_t2.nii.gz"].differs == ""
    assert rows["case9_t1.nii.gz"].differs == "series t1, seen: t2"


def test_a_long_image_is_a_warning_and_letterboxing_keeps_its_shape(tmp_path, capsys):
    rng = np.random.default_rng(0)
    folder = tmp_path / "strips"
    folder.mkdir()
    for number in range(24):
        strip = 120 + rng.normal(0, 3, (16, 128))
        Image.fromarray(strip.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")

    warnings = []
    reporter = Silent()
    reporter.warn = warnings.append

    values = {"size": 32, "components": 3}
    anodetect.train(str(folder), "pca", tmp_path / "a", values=values, reporter=reporter)
    (squeezed,) = (text for text in warnings if "squeezed" in text)
    assert "up to 8 times as long as wide" in squeezed
    assert "--tile 16" in squeezed

    warnings.clear()
    values |= {"preprocess": {"letterbox": True}}
    anodetect.train(str(folder), "pca", tmp_path / "b", values=values, reporter=reporter)
    assert not any("squeezed" in text for text in warnings)

    # A defect is found where it is: rows of the heatmap are rows of the image.
    strip = np.full((16, 128), 120, np.uint8)
    strip[4:12, 90:106] = 250
    (tmp_path / "in").mkdir()
    Image.fromarray(strip).save(tmp_path / "in/0.png")
    anodetect.score(tmp_path / "b", [str(tmp_path / "in")], tmp_path / "out", heatmaps=["tiff"])
    row = directories.read(tmp_path / "out").rows[0]
    from anodetect.output.images import read_map

    heatmap = read_map(tmp_path / "out" / row.heatmap)
    assert heatmap.shape == (16, 128)
    assert 86 <= np.unravel_index(heatmap.argmax(), heatmap.shape)[1] <= 110


def test_grey_and_coloured_images_are_a_warning(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(24):
        shape = (32, 32, 3) if number % 2 else (32, 32)
        Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)).save(folder / f"{number}.png")
    warnings = []
    reporter = Silent()
    reporter.warn = warnings.append
    values = {"size": 16, "components": 3}
    anodetect.train(str(folder), "pca", tmp_path / "run", values=values, reporter=reporter)
    assert any("grey and coloured images are mixed" in text for text in warnings)
