"""Images that are alike by a run's features: what is computed, kept, forgotten and shown."""

import os
import shutil
import sys

import numpy as np
import pytest

pytest.importorskip("streamlit", reason="the extra `app` is not installed")

import in_app
from PIL import Image
from streamlit.testing.v1 import AppTest

import anodetect
from anodetect.commands import review
from anodetect.commands.alike import alike_of
from anodetect.commands.forget import forget
from anodetect.data import synthetic
from anodetect.errors import ConfigError, RunError
from anodetect.imaging.representations import features_installed
from anodetect.record import alike, directories, verification
from anodetect.record.alike import Alike

pytestmark = [
    pytest.mark.filterwarnings("default"),  # Streamlit's own
    pytest.mark.skipif(not features_installed(), reason="the extra `features` is not installed"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A scoring with features of parts with two kinds of defects: six bright squares, and six dark
    lines, at places of their own; and the same line in the same bytes under another name."""
    folder = tmp_path_factory.mktemp("alike")
    synthetic.write(folder / "parts", train=24, test=1, size=64)
    inputs = folder / "in"
    inputs.mkdir()
    clean, rng = synthetic.images(12, size=64, seed=9)[0], np.random.default_rng(0)
    for number, image in enumerate(clean):
        pixels = np.moveaxis(np.asarray(image), 0, -1).astype(np.uint8).squeeze()
        top, left = rng.integers(8, 40, 2)
        if number % 2:
            pixels[top : top + 3, 4:60] = 0
        else:
            pixels[top : top + 14, left : left + 14] = 255
        kind = "line" if number % 2 else "square"
        Image.fromarray(pixels).save(inputs / f"{number:02}-{kind}.png")
    shutil.copy(inputs / "01-line.png", inputs / "copy-line.png")

    run, small = folder / "run", {"size": 64}
    anodetect.train(
        str(folder / "parts"), "patchcore", run, representation="features", values=small
    )
    anodetect.score(run, [str(inputs)], folder / "scores", far=0.2)
    alike_of(folder / "scores")
    return folder / "scores"


def test_images_with_the_same_kind_of_defect_are_alike(made):
    known = alike.read(made, directories.read(made).audit.head)
    assert np.allclose(np.linalg.norm(known.vectors, axis=1), 1, atol=1e-5)
    (path, cosine), *_ = known.nearest("01-line.png", 3)
    assert path == "copy-line.png" and cosine == pytest.approx(1, abs=1e-5)
    right = 0
    for each in known.paths:
        kind = each.split("-")[1]
        right += sum(path.endswith(kind) for path, _ in known.nearest(each, 4))
    assert right / (4 * len(known.paths)) > 0.8  # about a half by chance


def test_vectors_are_no_part_of_the_record_and_go_with_a_patient(made, tmp_path):
    scores = shutil.copytree(made, tmp_path / "scores")
    assert verification.verify(scores).intact
    forget(scores, directories.read(scores).rows[0].group)
    assert not (scores / alike.FILE).exists()
    shutil.copy(made / alike.FILE, scores)
    assert alike.read(scores, directories.read(scores).audit.head) is None  # of another record


def test_damaged_vectors_are_refused(tmp_path):
    alike.write(tmp_path, "head", Alike(("a", "b"), np.eye(2, dtype=np.float32)))
    assert alike.read(tmp_path, "head").nearest("a", 9) == [("b", 0.0)]
    assert alike.read(tmp_path, "head").nearest("c", 9) == []
    alike.write(tmp_path, "head", Alike(("a",), np.full((1, 2), np.nan, np.float32)))
    with pytest.raises(RunError, match="not readable"):
        alike.read(tmp_path, "head")
    (tmp_path / alike.FILE).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(RunError, match="not readable"):
        alike.read(tmp_path, "head")


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 here")
def test_vectors_are_read_in_a_folder_whose_name_is_not_utf_8(tmp_path):
    folder = tmp_path / os.fsdecode(b"m\xe4rz")
    folder.mkdir()
    alike.write(folder, "head", Alike(("a", "b"), np.eye(2, dtype=np.float32)))
    assert alike.read(folder, "head").paths == ("a", "b")


def test_a_run_that_sees_pixels_is_refused(pca_run, synthetic_folder, tmp_path):
    anodetect.score(pca_run, [str(synthetic_folder / "test/good")], tmp_path / "out", far=0.2)
    with pytest.raises(ConfigError, match="this run sees pixels"):
        alike_of(tmp_path / "out")


def test_the_page_shows_what_is_alike_and_nothing_that_is_hidden(made, monkeypatch, tmp_path):
    head = directories.read(made).audit.head
    found = alike.read(made, head)
    vectors = np.concatenate([found.vectors, found.vectors])
    others = tuple(f"other/{path}" for path in found.paths)  # that the record does not have
    alike.write(made, head, Alike((*found.paths, *others), vectors))
    in_app.serve(monkeypatch, tmp_path)
    monkeypatch.setattr(sys, "argv", ["app.py", str(made)])
    app = AppTest.from_file(str(review.app_file()), default_timeout=60).run()
    assert not app.exception
    first = app.session_state["open"]
    assert app.button(key="similar-0").label == found.nearest(first, 1)[0][0]
    app.button(key="similar-0").click().run()
    assert app.session_state["open"] == found.nearest(first, 1)[0][0]
    app.toggle(key="blind").set_value(True).run()
    assert not [each for each in app.button if str(each.key).startswith("similar")]
