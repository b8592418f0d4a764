"""Truth: what masks mark, and what is said of images without one."""

import io
import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

import anodetect
from anodetect.commands.texts import evaluation_text
from anodetect.data import readers
from anodetect.data.records import Record
from anodetect.data.scan import scan
from anodetect.data.truth import is_lossy, read_truth
from anodetect.errors import ImageError
from anodetect.record import directories
from anodetect.stats.mask_use import MaskUse, SeenMask, from_json, use_of

MARKED = np.zeros((16, 20), np.uint8)
MARKED[4:9, 3:17] = 1
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def palette_image(first, second):
    image = Image.fromarray(MARKED).convert("P")
    image.putpalette([*first, *second] + [7] * 762)
    return image


# -- What a mask marks -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0, 0, 0), (255, 255, 255)),
        ((254, 255, 255), (0, 0, 0)),
        ((120, 120, 120), (6, 230, 230)),
        ((0, 0, 0), (0, 0, 0)),
        ((128, 0, 0), (0, 0, 0)),
    ],
)
def test_in_a_palette_index_0_is_background_whatever_its_colour(tmp_path, suffix, first, second):
    path = tmp_path / f"mask{suffix}"
    image = palette_image(first, second)
    image.save(path)
    assert np.array_equal(readers.read_mask(path), MARKED > 0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".gif"])
def test_where_a_palette_shows_black_and_white_alone_white_is_marked(tmp_path, suffix):
    path = tmp_path / f"mask{suffix}"
    for entries in ((WHITE, BLACK), (BLACK, WHITE)):
        white = MARKED if entries[1] == WHITE else 1 - MARKED
        palette_image(*entries).save(path)
        assert np.array_equal(readers.read_mask(path), white > 0)
        image = Image.fromarray(0 * MARKED + entries.index(BLACK)).convert("P")
        image.putpalette([*entries[0], *entries[1]])
        image.save(path)
        assert not readers.read_mask(path).any()
    image = Image.fromarray(np.where(MARKED, 3, 7).astype(np.uint8)).convert("P")
    image.putpalette([9] * 9 + [255] * 3 + [9] * 9 + [0] * 3)
    image.save(path)
    assert np.array_equal(readers.read_mask(path), MARKED > 0)


def test_a_palette_with_a_third_class_beside_black_and_white_is_one_of_classes(tmp_path):
    classes = MARKED.copy()
    classes[0, 0] = 2
    image = Image.fromarray(classes).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "m.png")
    assert np.array_equal(readers.read_mask(tmp_path / "m.png"), classes > 0)


def test_a_palette_mask_with_several_classes_and_transparency(tmp_path):
    classes = MARKED.copy()
    classes[6, 5] = 9
    image = Image.fromarray(classes).convert("P")
    image.putpalette([50] * 768)
    image.save(tmp_path / "m.png", transparency=0)
    assert np.array_equal(readers.read_mask(tmp_path / "m.png"), MARKED > 0)


def test_where_a_mask_is_transparent_nothing_was_drawn(tmp_path):
    painted = np.zeros((*MARKED.shape, 4), np.uint8)
    painted[..., 0] = 200
    painted[..., 3] = 255 * MARKED
    Image.fromarray(painted).save(tmp_path / "m.png")
    assert np.array_equal(readers.read_mask(tmp_path / "m.png"), MARKED > 0)
    painted[..., 3] = 255
    painted[..., 0] *= MARKED
    Image.fromarray(painted).save(tmp_path / "opaque.png")
    assert np.array_equal(readers.read_mask(tmp_path / "opaque.png"), MARKED > 0)


@pytest.mark.parametrize("marked", [MARKED, np.pad(np.ones((14, 18), np.uint8), 1)])
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("alpha", [1, 100, 255])
def test_what_is_drawn_on_a_transparent_background_is_marked(tmp_path, marked, colour, alpha):
    painted = np.zeros((16, 20, 4), np.uint8)
    painted[marked > 0] = (*colour, alpha)
    Image.fromarray(painted).save(tmp_path / "m.png")
    assert np.array_equal(readers.read_mask(tmp_path / "m.png"), marked > 0)
    grey = np.stack([painted[..., 0], painted[..., 3]], -1)
    Image.fromarray(grey).save(tmp_path / "m.png")
    assert np.array_equal(readers.read_mask(tmp_path / "m.png"), marked > 0)


def test_a_drawing_in_several_colours_and_an_opaque_background_with_a_transparent_edge(tmp_path):
    painted = np.zeros((16, 20, 4), np.uint8)
    painted[4:9, 3:17] = (0, 0, 0, 255)
    painted[5, 5] = (9, 9, 200, 90)
    Image.fromarray(painted).save(tmp_path / "m.png")
    assert np.array_equal(readers.read_mask(tmp_path / "m.png"), MARKED > 0)
    painted = np.dstack([255 * MARKED] * 3 + [np.full_like(MARKED, 255)])
    painted[:, :2, 3] = 0
    Image.fromarray(painted).save(tmp_path / "m.png")
    assert np.array_equal(readers.read_mask(tmp_path / "m.png"), MARKED > 0)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_masks_of_other_formats(tmp_path, suffix):
    Image.fromarray(255 * MARKED).save(tmp_path / f"m{suffix}", lossless=True)
    assert np.array_equal(readers.read_mask(tmp_path / f"m{suffix}"), MARKED > 0)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "f4"])
@pytest.mark.parametrize(("white", "black"), [(0, 1), (0, 100)])
def test_where_white_is_the_lowest_value_a_mask_marks_what_is_shown_white(
    tmp_path, dtype, white, black
):
    values = np.where(MARKED, white, black).astype(dtype)
    tifffile.imwrite(tmp_path / "m.tif", values, photometric="miniswhite")
    assert np.array_equal(readers.read_mask(tmp_path / "m.tif"), MARKED > 0)


def test_a_mask_of_one_bit_and_one_of_a_single_value_with_white_as_0(tmp_path):
    tifffile.imwrite(tmp_path / "bits.tif", MARKED == 0, photometric="miniswhite")
    assert np.array_equal(readers.read_mask(tmp_path / "bits.tif"), MARKED > 0)
    for value, marked in ((0, True), (255, False)):
        values = np.full((16, 20), value, np.uint8)
        tifffile.imwrite(tmp_path / "one.tif", values, photometric="miniswhite")
        assert (readers.read_mask(tmp_path / "one.tif") == marked).all()


def test_the_orientation_of_a_palette_mask_is_applied(tmp_path):
    image = palette_image((9, 9, 9), (200, 0, 0))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90° to the right
    image.save(tmp_path / "m.png", exif=exif)
    turned = np.rot90(MARKED, -1) > 0
    assert np.array_equal(readers.read_mask(tmp_path / "m.png"), turned)


def test_a_jpeg_mask_is_divided_in_the_middle_and_known_to_be_lossy(tmp_path):
    Image.fromarray(255 * MARKED).save(tmp_path / "m.jpg", quality=60)
    record = Record("a", tmp_path / "a.png", masks=(tmp_path / "m.jpg",))
    truth = read_truth(record, MARKED.shape)
    assert (truth != (MARKED > 0)).mean() < 0.01
    assert is_lossy(record)
    for name, lossless, lossy in (
        ("m.png", True, False),
        ("m.webp", True, False),
        ("n.webp", False, True),
    ):
        Image.fromarray(255 * MARKED).save(tmp_path / name, lossless=lossless)
        record = Record("a", tmp_path / "a.png", masks=(tmp_path / name,))
        assert is_lossy(record) == lossy
        assert (read_truth(record, MARKED.shape) != (MARKED > 0)).mean() < 0.01


def test_masks_of_one_image_are_joined_and_must_fit(tmp_path, save_png):
    left, right = MARKED.copy(), MARKED.copy()
    left[:, 10:], right[:, :10] = 0, 0
    paths = save_png("l.png", 236 * left), save_png("r.png", 240 * right)
    record = Record("a", tmp_path / "a.png", masks=paths)
    assert np.array_equal(read_truth(record, MARKED.shape), MARKED > 0)
    with pytest.raises(ImageError, match="is not the image's"):
        read_truth(record, (16, 21))
    assert read_truth(Record("a", tmp_path / "a.png"), MARKED.shape) is None


def test_a_damaged_mask_has_a_reason(tmp_path):
    stream = io.BytesIO()
    palette_image((1, 2, 3), (4, 5, 6)).save(stream, "PNG")
    (tmp_path / "m.png").write_bytes(stream.getvalue()[:60])
    with pytest.raises(ImageError, match=r"damaged or unreadable|not a readable image"):
        readers.read_mask(tmp_path / "m.png")


@pytest.mark.parametrize(
    "masks",
    [
        ["ground_truth/bad/caf\u00e9_mask_1.png", "ground_truth/bad/caf\u00e9_mask_2.png"],
        ["ground_truth/bad/caf\u00e9/x.png", "ground_truth/bad/caf\u00e9/y.png"],
        ["ground_truth/bad/cafe\u0301-Mask.PNG"],
        ["test/bad/CAFE\u0301_gt.tif"],
    ],
)
def test_masks_are_found_by_name(tmp_path, save_png, masks):
    for name in ("train/good/0.png", "test/good/0.png", "test/bad/caf\u00e9.png", *masks):
        save_png(name, MARKED)
    (record,) = (each for each in scan(tmp_path).records if each.label)
    assert [path.relative_to(tmp_path).as_posix() for path in record.masks] == masks


# -- What is said of masks -------------------------------------------------------------------------


def seen(states, lossy=0):
    return use_of([SeenMask(f"i{n}", state, n < lossy) for n, state in enumerate(states)])


@pytest.mark.parametrize(
    ("states", "statement"),
    [
        (["used"] * 31 + ["missing"] * 29, "pixel metrics over 31 of 60 anomalous images; "
         "29 have no mask"),
        (["used"], "pixel metrics over 1 of 1 anomalous image"),
        (["missing"] * 2, "no pixel metrics: none of 2 anomalous images has a mask"),
        (["used", "empty", "wrong"], "pixel metrics over 1 of 3 anomalous images; "
         "1 has a mask that marks nothing; 1 has a mask that cannot be read or does not fit"),
    ],
)  # fmt: skip
def test_the_statement_about_masks(states, statement):
    use = seen(states)
    assert use.statement() == statement
    assert use.as_json()["statement"] == statement
    assert from_json(json.loads(json.dumps(use.as_json()))) == use
    assert use.total == len(states)


def test_names_in_the_statement_are_the_first_ones():
    use = seen(["missing"] * 5 + ["used", "empty"], lossy=1)
    assert use.statement(2) == (
        "pixel metrics over 1 of 7 anomalous images; 5 have no mask (i0, i1 and 3 more); "
        "1 has a mask that marks nothing (i6); "
        "1 mask was compressed with loss: pixels brighter than the middle count"
    )
    assert MaskUse(used=3).in_part is False
    assert MaskUse(missing=("a",)).in_part is False
    assert use.in_part is True


def test_masks_that_mark_nearly_all_are_named_and_older_records_have_none():
    use = use_of([SeenMask("i0", "used", False, True), SeenMask("i1", "used", False)])
    assert (use.used, use.large) == (2, ("i0",))
    said = "; 1 mask marks more than 90% of the image and may be inverted (i0)"
    assert use.statement(2).endswith(said)
    assert from_json(json.loads(json.dumps(use.as_json()))) == use
    older = use.as_json()
    del older["large"], older["images"]["large"]
    assert from_json(older) == MaskUse(used=2)


@pytest.fixture(scope="module")
def uneven(synthetic_folder, tmp_path_factory):
    """The synthetic set, where of 20 masks 2 are missing, 1 marks nothing, 1 does not fit and 1
    is inverted."""
    folder = shutil.copytree(synthetic_folder, tmp_path_factory.mktemp("uneven") / "in")
    masks = sorted((folder / "ground_truth/defect").iterdir())
    for mask in masks[:2]:
        mask.unlink()
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(masks[2])
    Image.fromarray(np.zeros((64, 65), np.uint8)).save(masks[3])
    inverted = np.full((64, 64), 255, np.uint8)
    inverted[:19, :20] = 0  # 9.3 %
    Image.fromarray(inverted).save(masks[4])
    return folder


class Heard:
    """A reporter that remembers its warnings."""

    def __init__(self):
        self.warnings = []

    def say(self, text): ...
    def progress(self, task, done, total, note=""): ...
    def warn(self, text):
        self.warnings.append(text)


NAMES = {
    "missing": ["test/defect/0000.png", "test/defect/0001.png"],
    "empty": ["test/defect/0002.png"],
    "wrong": ["test/defect/0003.png"],
    "large": ["test/defect/0004.png"],
}


def test_evaluate_counts_and_names_masks_that_cannot_be_used(pca_run, uneven):
    heard = Heard()
    result = anodetect.evaluate(pca_run, str(uneven), reporter=heard)
    masks = result.whole.masks.as_json()
    assert [masks[name] for name in ("used", "missing", "empty", "wrong")] == [16, 2, 1, 1]
    assert masks["large"] == 1
    assert masks["images"] == NAMES
    assert masks["statement"].startswith("pixel metrics over 16 of 20 anomalous images; 2 have no")
    assert masks["statement"] in evaluation_text(result)
    (said,) = (text for text in heard.warnings if "pixel metrics" in text)
    assert all(name in said for names in NAMES.values() for name in names)
    assert [failure.split(":")[0] for failure in result.failures] == [
        "mask of test/defect/0003.png"
    ]


def test_images_without_a_usable_mask_do_not_change_pixel_metrics(pca_run, uneven, tmp_path):
    folder = shutil.copytree(uneven, tmp_path / "in")
    for state in ("missing", "empty", "wrong"):
        for name in NAMES[state]:
            (folder / name).unlink()
    expected = anodetect.evaluate(pca_run, str(folder)).as_json()["pixel"]
    assert anodetect.evaluate(pca_run, str(uneven)).as_json()["pixel"] == expected


def test_score_and_its_report_say_the_same_of_masks(pca_run, uneven, tmp_path):
    heard = Heard()
    result = anodetect.score(pca_run, [str(uneven)], tmp_path / "s", reporter=heard, heatmaps=[])
    assert result.evaluation.masks.as_json()["images"] == NAMES
    assert any("pixel metrics over 16 of 20" in text for text in heard.warnings)
    html = (tmp_path / "s/report.html").read_text("utf-8")
    assert "Pixel metrics over 16 of 20 anomalous images" in html
    assert "test/defect/0002.png" in html
    evaluation = directories.read(tmp_path / "s").audit.evaluation
    assert evaluation.masks.empty == ("test/defect/0002.png",)


def test_without_any_mask_it_is_said_once_and_pixels_are_not_measured(
    pca_run, synthetic_folder, tmp_path
):
    folder = shutil.copytree(synthetic_folder, tmp_path / "in")
    shutil.rmtree(folder / "ground_truth")
    heard = Heard()
    result = anodetect.evaluate(pca_run, str(folder), reporter=heard)
    assert result.whole.pixel is None
    assert "none of 20 anomalous images has a mask" in evaluation_text(result)
    assert not any("mask" in text for text in heard.warnings)
