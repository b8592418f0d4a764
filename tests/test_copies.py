"""Copies are found by their pixels, in whatever format they are."""

import hashlib
import io
from dataclasses import replace

import nibabel as nib
import nrrd
import numpy as np
import pytest
import tifffile
from PIL import Image
from test_dicom import AFFINE, write_series

import anodetect
from anodetect.data import readers, synthetic
from anodetect.data.content_hash import content_hash
from anodetect.data.records import Record
from anodetect.data.scan import scan
from anodetect.errors import DataError
from anodetect.imaging.regions import Region
from anodetect.model.loading import load
from anodetect.record import directories, runs
from anodetect.record.rows import ScoreRow, to_table
from anodetect.types import Silent, content_digest

RNG = np.random.default_rng(8)
GREY = RNG.integers(0, 256, (12, 17), dtype=np.uint8)


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory, monkeypatch):
    """A key for pseudonyms of the tests' own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "config"))


def hash_of(content, name):
    found = readers.content_of(content, name)
    return content_hash(found.pixels, found.sample_type)


def saved(array, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


TURNED = Image.Exif()
TURNED[0x0112] = 6
COPIES = {
    "bmp": (saved(GREY, "bmp"), "a.bmp"),
    "gif": (saved(GREY, "gif"), "a.gif"),
    "pgm": (saved(GREY, "ppm"), "a.pgm"),
    "webp": (saved(np.dstack([GREY] * 3), "webp", lossless=True), "a.webp"),
    "tiff": (tiff(GREY, compression="zlib"), "a.tif"),
    "float": (tiff(GREY.astype(np.float32)), "a.tif"),
    "sixteen bits": (tiff(GREY.astype(np.uint16) * 257), "a.tif"),
    "same values in sixteen bits": (tiff(GREY.astype(np.uint16)), "a.tif"),
    "rgb": (saved(np.dstack([GREY] * 3), "png"), "a.png"),
    "alpha": (saved(np.dstack([GREY] * 3 + [GREY * 0 + 255]), "png"), "a.png"),
    "level": (saved(GREY, "png", compress_level=1), "a.png"),
    "turned": (saved(np.rot90(GREY), "png", exif=TURNED), "a.png"),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_have_one_hash(name):
    assert hash_of(*COPIES[name]) == hash_of(saved(GREY, "png"), "a.png")


def test_a_known_digest_is_that_of_the_image(save_png):
    grey = np.random.default_rng(0).integers(0, 250, (20, 24)).astype(np.uint8)
    coloured = np.stack([grey, grey.T[:20, :20].repeat(2, 1)[:, :24], grey], -1)
    for name, array, is_known in (
        ("grey", grey, True),
        ("deep", grey.astype(np.uint16), True),
        ("colour", coloured, True),
        ("eight", grey.astype(np.uint16) * 257, False),
        ("equal", np.stack([grey] * 3, -1), False),
    ):
        loaded = load(Record(name, save_png(f"{name}.png", array)))
        assert (loaded.digest is not None) == is_known, name
        assert loaded.digest in (None, content_digest(loaded.counted))
        assert replace(loaded, image=loaded.image + 1).digest is None
        inside = Region(np.ones((20, 24), bool))
        assert replace(loaded, region=inside).digest is None


def test_other_pixels_have_another_hash():
    other = GREY.copy()
    other[3, 4] ^= 1
    hashes = {hash_of(saved(array, "png"), "a.png") for array in (GREY, other, GREY.T, GREY[::-1])}
    hashes.add(hash_of(saved(np.dstack([GREY, GREY, other]), "png"), "a.png"))
    assert len(hashes) == 5


def test_copies_of_a_volume_have_one_hash_in_any_format_and_order_of_axes(tmp_path):
    stack = RNG.integers(0, 900, (9, 12, 14)).astype(np.int16)
    write_series(tmp_path / "dicom", stack)
    (record,) = scan(tmp_path / "dicom").records
    volume = readers.read_source(record).decode()
    flip = np.diag([-1.0, -1, 1, 1])
    for number, axes in enumerate([(0, 1, 2), (2, 1, 0), (1, 0, 2)]):
        order = np.eye(4)[[*axes, 3]].T
        image = nib.Nifti1Image(stack.transpose(axes), flip @ volume.affine @ order)
        image = image.as_reoriented([[0, -1], [1, 1], [2, -1]])
        nib.save(image, tmp_path / f"{number}.nii.gz")
    header = {
        "space": "left-posterior-superior",
        "space directions": AFFINE[:3, :3].T,
        "space origin": AFFINE[:3, 3],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), stack, header)

    hashes = {content_hash(volume)}
    for path in [*tmp_path.glob("*.nii.gz"), tmp_path / "a.nrrd"]:
        hashes.add(content_hash(readers.read_source(Record("a", path)).decode()))
    assert len(hashes) == 1


def test_the_digest_is_that_of_all_bytes_in_order():
    """Seeds of draws come from it: they must not change."""
    for shape in ((1, 9, 11), (3, 9, 11), (1, 4, 9, 11)):
        values = RNG.normal(size=shape[::-1]).astype(np.float32).T
        for number in (None, 3):
            text = repr(shape if number is None else (shape, number))
            plain = hashlib.sha256(text.encode() + values.tobytes())
            assert content_digest(values, number) == plain.digest()


# -- What is done about them -----------------------------------------------------------------------


class Heard(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def images(count, seed):
    return synthetic.images(count, size=32, seed=seed)[0][:, 0]


def write(folder, arrays, suffix=".png", start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for number, array in enumerate(arrays, start):
        Image.fromarray(array).save(folder / f"{number:03d}{suffix}")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 30 images, of which four are there again as TIFF or BMP; and the images."""
    place = tmp_path_factory.mktemp("copies")
    normals = images(30, 1)
    write(place / "data", normals)
    write(place / "data", normals[:3], ".tif", 100)
    write(place / "data", normals[3:4], ".bmp", 200)
    heard = Heard()
    anodetect.train(
        str(place / "data"), "pca", place / "run", values={"components": 4}, reporter=heard
    )
    return place / "run", normals, heard.warnings


def test_copies_stay_on_one_side_of_a_split(trained):
    run, _, warnings = trained
    assert any(text.startswith("4 images are exact copies") for text in warnings)
    rows = {row.path: row for row in runs.read_manifest(run)}
    for first, copy in (("000.png", "100.tif"), ("002.png", "102.tif"), ("003.png", "200.bmp")):
        assert rows[first].pixels_sha256 == rows[copy].pixels_sha256
        assert rows[first].sha256 != rows[copy].sha256
        assert rows[first].role == rows[copy].role
        assert rows[first].group == rows[copy].group
    assert len({row.pixels_sha256 for row in rows.values()}) == 30


def test_of_few_images_copies_do_not_count(tmp_path):
    normals = images(20, 1)
    write(tmp_path / "data", normals[:19])
    for number in range(3):
        write(tmp_path / "data", normals[:5], ".bmp", 100 * (number + 1))
    heard, values = Heard(), {"components": 4}
    with pytest.raises(DataError, match="19 normal images are too few"):
        anodetect.train(str(tmp_path / "data"), "pca", tmp_path / "run", reporter=heard)
    said = "15 images are exact copies of others, pixel by pixel; so few images count once each"
    assert said in heard.warnings

    few = tmp_path / "few"
    anodetect.train(str(tmp_path / "data"), "pca", few, values=values, allow_few=True)
    assert len(runs.read_manifest(few)) == 19 and not len(runs.read(few).calibration.scores)
    write(tmp_path / "data", normals[19:], start=19)
    anodetect.train(str(tmp_path / "data"), "pca", tmp_path / "run", values=values)
    assert len(runs.read_manifest(tmp_path / "run")) == 35

    write(tmp_path / "new", images(19, 5))
    write(tmp_path / "new", images(2, 5), ".bmp")
    with pytest.raises(DataError, match="19 normal images are too few to calibrate with"):
        anodetect.calibrate(tmp_path / "run", str(tmp_path / "new"), tmp_path / "again")


def test_a_copy_in_the_test_part_is_a_leak(tmp_path):
    normals = images(22, 1)
    write(tmp_path / "train/good", normals)
    write(tmp_path / "test/good", [np.dstack([normals[7]] * 3)], ".bmp")
    with pytest.raises(DataError, match=r"test/good/000\.bmp in test has the same pixels as train"):
        anodetect.train(str(tmp_path), "pca", tmp_path / "run", values={"components": 4})


def test_copies_are_left_out_where_the_test_part_is_our_choice(tmp_path):
    """Folders of classes name no test part: nobody could know what to remove."""
    normals, defects = images(30, 1), images(6, 6)
    write(tmp_path / "data/good", [*normals, normals[3], normals[8], defects[0]])
    write(tmp_path / "data/good", normals[10:20], ".bmp", 100)
    write(tmp_path / "data/bad", defects)
    mask = np.zeros((32, 32), np.uint8)
    mask[10:20, 10:20] = 255
    write(tmp_path / "data/bad", [mask] * len(defects), "_mask.png")
    dataset = scan(tmp_path / "data")
    assert dataset.own_split
    heard = Heard()
    anodetect.train(
        str(tmp_path / "data"), "pca", tmp_path / "run", values={"components": 4}, reporter=heard
    )
    tested = set()
    for record in dataset.records:
        if record.split == "test":
            found = readers.read_source(record).content()
            tested.add(content_hash(found.pixels, found.sample_type))
    used = {row.pixels_sha256 for row in runs.read_manifest(tmp_path / "run")}
    assert not used & tested
    (said,) = [text for text in heard.warnings if "kept for testing" in text]
    assert said.endswith(": left out")
    anodetect.evaluate(tmp_path / "run", str(tmp_path / "data"))  # finds no leak


def role_of(run, role):
    name = next(row.path for row in runs.read_manifest(run) if row.role == role)
    return int(name[:3]) % 100


@pytest.mark.parametrize("role", ["fit", "calibrate"])
def test_evaluate_refuses_copies_of_what_the_run_was_made_from(trained, tmp_path, role):
    run, normals, _ = trained
    write(tmp_path / "test/good", [*images(2, 5), normals[role_of(run, role)]], ".pgm")
    write(tmp_path / "test/bad", images(2, 6))
    with pytest.raises(DataError, match=r"002\.pgm has the same pixels as \d+\.\w+"):
        anodetect.evaluate(run, str(tmp_path))


def test_calibrate_refuses_copies_of_what_the_model_learned_from(trained, tmp_path):
    run, normals, _ = trained
    write(tmp_path / "new", [*images(22, 5), normals[role_of(run, "fit")]], ".pgm")
    with pytest.raises(DataError, match=r"022\.pgm has the same pixels as"):
        anodetect.calibrate(run, str(tmp_path / "new"), tmp_path / "run2")


def test_score_counts_copies(trained, tmp_path):
    run, normals, _ = trained
    batch = images(3, 5)
    write(tmp_path / "in", [*batch, normals[0]])
    write(tmp_path / "in", [*batch[:2], batch[0]], ".tif", 10)
    heard = Heard()
    result = anodetect.score(run, [str(tmp_path / "in")], tmp_path / "s", far=0.3, reporter=heard)
    assert result.copies == 3
    audit = directories.read(tmp_path / "s").audit
    assert audit.copies == 3
    assert any(
        text.startswith("3 of these files have exactly the pixels") for text in audit.caveats
    )
    assert any(
        text.startswith("1 of these images took part in training") for text in heard.warnings
    )


def test_copies_count_once_where_drift_is_looked_for(trained, tmp_path):
    """Twelve images of which one is there nine times more, in other formats and groups."""
    run, _, _ = trained
    batch = images(12, 5)
    write(tmp_path / "once", batch)
    write(tmp_path / "often", batch)
    for number, suffix in enumerate([".tif", ".pgm", ".bmp"] * 3):
        write(tmp_path / "often", batch[:1], suffix, 20 + number)
    once, often = (
        anodetect.score(run, [str(tmp_path / name)], tmp_path / f"s-{name}", heatmaps=())
        for name in ("once", "often")
    )
    assert (often.scored, often.copies) == (21, 9)
    assert often.drift.batch == once.drift.batch


def test_copies_in_other_shards_and_formats_are_copies_for_merge_verify_and_metrics(
    trained, tmp_path
):
    """One rule: equal pixels. What is merged is what one machine would have written."""
    run, _, _ = trained
    batch, rows = images(12, 5), ["path,label"]
    write(tmp_path / "in", batch)
    for number, suffix in enumerate([".tif", ".pgm", ".bmp"] * 3):
        write(tmp_path / "in", batch[:1], suffix, 20 + number)
    for file in sorted((tmp_path / "in").iterdir()):
        rows.append(f"{file.name},{int(file.stem > '005')}")
    (tmp_path / "in/manifest.csv").write_text("\n".join(rows))

    whole = anodetect.score(run, [str(tmp_path / "in")], tmp_path / "whole", heatmaps=())
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, 1):
        shard = f"{number}/2"
        anodetect.score(run, [str(tmp_path / "in")], part, heatmaps=(), shard=shard)
    merged = anodetect.merge(parts, tmp_path / "merged")
    of_parts = [directories.read(part).audit.copies for part in parts]
    assert sum(of_parts) < merged.copies == whole.copies == 9
    assert merged.drift.batch == whole.drift.batch
    audits = [directories.read(tmp_path / name).audit for name in ("whole", "merged")]
    assert audits[0].repeated == audits[1].repeated
    assert merged.evaluation.n_groups == whole.evaluation.n_groups == 12
    assert anodetect.verify(tmp_path / "merged").problems == ()

    rewritten = [replace(row, pixels_sha256="ab" * 32) for row in directories.read(parts[0]).rows]
    scored = directories.read(parts[0])
    assert len(rewritten) > 1
    tables = replace(directories.read_tables(parts[0]), scores=to_table(rewritten, ScoreRow))
    directories.write(parts[0], scored.audit, tables)
    verdict = anodetect.verify(parts[0], rescore=1)
    assert any("the copies in audit.json" in text for text in verdict.problems)
    assert any("the record has the hash of other pixels" in text for text in verdict.problems)


def test_known_patients_are_named_though_their_images_are_new(tmp_path):
    """Lots of two images each; of seven lots other images are scored."""
    write(tmp_path / "train", images(24, 1))
    lines = [f"{number:03}.png,train,0,lot{number // 2:02}" for number in range(24)]
    manifest = "\n".join(["path,split,label,group", *lines])
    (tmp_path / "train/manifest.csv").write_text(manifest)
    anodetect.train(str(tmp_path / "train"), "pca", tmp_path / "run", values={"components": 4})
    for name, count, first in (("seven", 7, 0), ("none", 3, 50)):
        write(tmp_path / name, images(count, 5))
        lines = [f"{number:03}.png,lot{first + number:02}" for number in range(count)]
        (tmp_path / name / "manifest.csv").write_text("\n".join(["path,group", *lines]))
        heard = Heard()
        out = tmp_path / f"s-{name}"
        anodetect.score(tmp_path / "run", [str(tmp_path / name)], out, heatmaps=(), reporter=heard)
        said = [text for text in heard.warnings if text.startswith("these patients or lots")]
        if name == "none":
            assert not said
        else:
            (text,) = said
            assert "lot00, lot01, lot02, lot03, lot04 and 2 more; their p-values" in text
