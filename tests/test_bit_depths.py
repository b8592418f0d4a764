"""Images of one scene in files of different bit depths."""

import imagecodecs
import numpy as np
import pytest
import tifffile

import anodetect
from anodetect.data import synthetic
from anodetect.errors import DataError, ImageError
from anodetect.imaging.intensities import sample_of
from anodetect.imaging.sample_types import SampleTypes, full_scale, learn_sample_types
from anodetect.record import directories, runs
from anodetect.types import Silent


class Heard(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def scenes(count, seed, **options):
    return synthetic.images(count, size=48, seed=seed, **options)[0][:, 0]


def write(folder, arrays, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, array in enumerate(arrays, start):
        if array.dtype == np.float32:
            tifffile.imwrite(folder / f"{number:03d}.tif", array)
        else:
            (folder / f"{number:03d}.png").write_bytes(imagecodecs.png_encode(array))
    return folder


def deep(array, factor=257):
    return array.astype(np.uint16) * np.uint16(factor)


def train(place, arrays, **options):
    heard = Heard()
    write(place / "data", arrays)
    values = {"components": 6}
    anodetect.train(str(place / "data"), "pca", place / "run", values=values, reporter=heard)
    return place / "run", heard.warnings


# -- The rule --------------------------------------------------------------------------------------


def test_the_full_scale_of_types():
    names = ("uint8", "uint16", "int16", "uint32", "float32", "bool")
    assert [full_scale(name) for name in names] == [255, 65535, 32767, 2**32 - 1, 1, 1]
    assert full_scale("uint16") / full_scale("uint8") == 257


def samples(**types):
    """Samples by their files' names, from arrays by their types' names."""
    found = {}
    for name, arrays in types.items():
        sample_type = name.split("_")[0]
        for number, array in enumerate(arrays):
            image = array[None].astype(np.float32)
            found[f"{name}{number}.png"] = sample_of(image, sample_type)
    return found


SCENES = scenes(8, 1)
DARK = [array // 12 for array in SCENES]
BLACK_GROUND = [np.where(np.eye(48, dtype=bool) | (array > 120), array, 0) for array in SCENES]


@pytest.mark.parametrize("images", [SCENES, DARK, BLACK_GROUND])
@pytest.mark.parametrize("factor", [256, 257])
def test_one_scene_in_8_and_16_bits_is_scaled(images, factor):
    some = images[:4]
    learned = learn_sample_types(samples(uint8=some, uint16=[deep(a, factor) for a in images[4:]]))
    assert learned == SampleTypes("uint16", {"uint8": 257.0, "uint16": 1.0})


def test_floats_from_0_to_1_are_scaled_as_well():
    floats = [array / 255 for array in SCENES[4:]]
    learned = learn_sample_types(samples(uint8=SCENES[:4], float32=floats))
    assert learned == SampleTypes("uint8", {"uint8": 1.0, "float32": 255.0})


def test_the_same_values_in_another_type_are_left_as_they_are():
    for other in ("uint16", "float32", "uint32", "int16"):
        found = learn_sample_types(samples(uint8=SCENES[:4], **{other: SCENES[4:]}))
        assert set(found.factors.values()) == {1.0}
    assert learn_sample_types(samples(uint8=SCENES)).factors == {"uint8": 1.0}
    assert learn_sample_types({"a": sample_of(SCENES[:1].astype(np.float32))}) == SampleTypes()


@pytest.mark.parametrize("factor", [4, 16, 60])
def test_other_relations_are_refused_with_two_names(factor):
    """Ten or twelve bits in a file of sixteen, beside eight."""
    twelve = [deep(array, factor) for array in SCENES[4:]]
    with pytest.raises(DataError, match=r"uint80\.png has uint8 values and uint160\.png uint16"):
        learn_sample_types(samples(uint8=SCENES[:4], uint16=twelve))


HIGH8, HIGH16 = 150.0, 150.0 * 257


@pytest.mark.parametrize(
    ("reference", "high", "sample_type", "values", "factor"),
    [
        ("uint16", HIGH16, "uint8", SCENES[0], 257),
        ("uint8", HIGH8, "uint16", deep(SCENES[0]), 1 / 257),
        ("uint8", HIGH8, "uint16", SCENES[0], 1),
        ("uint16", HIGH8, "uint8", SCENES[0], 1),
        ("uint8", HIGH8, "float32", SCENES[0] / 255, 255),
        ("uint8", HIGH8, "float32", SCENES[0], 1),
        ("float32", 0.6, "uint8", SCENES[0], 1 / 255),
        ("uint16", HIGH16, "uint16", SCENES[0], 1),  # a dark one, not another type
        ("uint16", HIGH16, "int16", deep(SCENES[0], 100), 1),
        ("uint16", HIGH16, "", SCENES[0], 1),
        ("", HIGH16, "uint8", SCENES[0], 1),
        ("uint16", HIGH16, "uint8", 0 * SCENES[0], 1),
    ],
)
def test_an_image_of_another_type_than_was_learned_from(
    reference, high, sample_type, values, factor
):
    types = SampleTypes(reference, {reference: 1.0} if reference else {})
    found = types.factor(values[None].astype(np.float32), sample_type, high)
    assert found == pytest.approx(factor)


def test_an_image_of_another_type_that_fits_in_no_way_is_refused():
    types = SampleTypes("uint16", {"uint16": 1.0})
    with pytest.raises(ImageError, match=r"uint8 values up to .*uint16 values up to 3500; convert"):
        types.factor(SCENES[:1].astype(np.float32), "uint8", 3500.0)


# -- From end to end -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A run of one scene, half in 8 bits and half in 16, and what training said."""
    arrays = scenes(60, 1)
    some = [array if number % 2 else deep(array) for number, array in enumerate(arrays)]
    return train(tmp_path_factory.mktemp("mixed"), some)


@pytest.mark.parametrize("depth", [8, 16])
def test_defects_are_found_in_both_depths(mixed, tmp_path, depth):
    run, warnings = mixed
    assert any("uint8 values are multiplied by 257" in text for text in warnings)
    preprocess = runs.read(run).header.preprocess
    assert preprocess["sample_type"] == "uint16"
    assert preprocess["sample_factors"] == {"uint8": 257.0, "uint16": 1.0}

    as_stored = (lambda array: array) if depth == 8 else deep
    write(tmp_path / "test/good", [as_stored(array) for array in scenes(12, 2)])
    write(tmp_path / "test/bad", [as_stored(array) for array in scenes(12, 3, defects=True)])
    heard = Heard()
    result = anodetect.evaluate(run, str(tmp_path), reporter=heard)
    said = "24 images: uint8 values scaled by 257 to the range of uint16"
    assert (said in heard.warnings) == (depth == 8)
    assert result.whole.image["auroc"].value > 0.95

    scored = anodetect.score(run, [str(tmp_path)], tmp_path / "s", far=0.1)
    rows = directories.read(tmp_path / "s").rows
    flagged = {
        kind: sum(row.flagged for row in rows if row.kind == kind) for kind in ("good", "bad")
    }
    assert scored.failed == 0
    assert flagged["bad"] >= 9
    assert flagged["good"] <= 4
    note = "uint8 values scaled by 257 to the range of uint16"
    assert all((note in row.differs) == (depth == 8) for row in rows)


def test_both_depths_of_one_image_score_alike(mixed, tmp_path):
    run, _ = mixed
    (array,) = scenes(1, 7, defects=True)
    write(tmp_path / "in", [array, deep(array)])
    anodetect.score(run, [str(tmp_path / "in")], tmp_path / "s", far=0.1)
    one, other = directories.read(tmp_path / "s").rows
    assert one.score == other.score


def test_a_model_of_one_depth_scores_the_other_scaled(tmp_path):
    run, warnings = train(tmp_path, [deep(array) for array in scenes(40, 1)])
    assert not any("multiplied" in text for text in warnings)
    (array,) = scenes(1, 7, defects=True)
    write(tmp_path / "in", [array, deep(array), array // 16])
    result = anodetect.score(run, [str(tmp_path / "in")], tmp_path / "s", far=0.2)
    one, other, refused = directories.read(tmp_path / "s").rows
    assert one.score == other.score
    assert "scaled by 257" in one.differs
    assert result.failed == 1
    assert "convert it to the bit depth" in refused.error

    names = [str(tmp_path / "in/002.png")]
    anodetect.score(run, names, tmp_path / "s2", far=0.2, accept_different=True)
    (row,) = directories.read(tmp_path / "s2").rows
    assert row.status == "ok"
    assert row.differs.startswith("8 bits, seen: 16")


def test_calibrate_says_what_it_scales(mixed, tmp_path):
    run, _ = mixed
    write(tmp_path / "new", scenes(22, 9))
    heard = Heard()
    anodetect.calibrate(run, str(tmp_path / "new"), tmp_path / "run2", reporter=heard)
    assert "22 images: uint8 values scaled by 257 to the range of uint16" in heard.warnings
    assert runs.read(tmp_path / "run2").header.preprocess["sample_type"] == "uint16"


def test_depths_that_do_not_agree_are_refused(tmp_path):
    arrays = scenes(30, 1)
    some = [array if number % 2 else deep(array, 16) for number, array in enumerate(arrays)]
    with pytest.raises(
        DataError, match=r"\d+\.png has uint8 values and \d+\.png uint16 ones"
    ) as found:
        train(tmp_path, some)
    assert "\n" not in str(found.value)
