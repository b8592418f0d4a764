"""Verdicts as labels and regions as masks: what is exported is read back as it was marked."""

import json
import shutil

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

pytest.importorskip("sqlalchemy", reason="the extra `app` is not installed")

from test_dicom import write_series

import anodetect
from anodetect.commands.reviews import NO_LABEL, export
from anodetect.data import readers
from anodetect.data.annotations import read_annotation
from anodetect.data.geometry import along
from anodetect.data.scan import scan
from anodetect.errors import RunError
from anodetect.output import judged
from anodetect.output.judged import Marked
from anodetect.record import directories, marks
from anodetect.record.marks import Shown
from apps.review.store import Store

OUTLINE = "2,3 40,3 40,30 20,10"


@pytest.fixture(scope="module")
def reviewed(pca_run, synthetic_folder, tmp_path_factory):
    """A score directory with verdicts on five cases, and the rows of these."""
    out = tmp_path_factory.mktemp("reviewed") / "scores"
    anodetect.score(pca_run, [str(synthetic_folder)], out, far=0.2, heatmaps=())
    directory = directories.read(out)
    rows = [row for row in directory.rows if row.path.startswith("test/defect")][:2]
    rows += [row for row in directory.rows if row.path.startswith("test/good")][:3]
    kept = Store(out, directory.audit.head)

    def judge(row, reviewer, verdict, region=""):
        shown = [Shown(row.path, row.sha256, painted=True)]
        kept.add(row, reviewer, verdict, shown, region=region)

    judge(rows[0], "Ada", "anomalous", "4,6,10,20")
    judge(rows[0], "Ben", "anomalous", f"{OUTLINE}; 50,50,3,3")
    judge(rows[0], "Cyd", "normal", "0,0,64,64")  # she is outvoted, and so is her region
    judge(rows[1], "Ada", "anomalous")
    judge(rows[2], "Ada", "normal")
    judge(rows[3], "Ada", "unsure")
    judge(rows[4], "Ada", "normal")
    judge(rows[4], "Ben", "anomalous")
    kept.close()
    return out, rows


def expected():
    """The pixels of the regions, by the definition: a pixel counts if its centre lies inside."""
    mask = np.zeros((64, 64), bool)
    mask[6:26, 4:14] = mask[50:53, 50:53] = True
    for row, column in np.ndindex(mask.shape):
        mask[row, column] |= inside(column + 0.5, row + 0.5)
    return mask


def inside(x, y):
    """Whether a point lies in OUTLINE, by the even-odd rule."""
    points = [tuple(map(int, point.split(","))) for point in OUTLINE.split(" ")]
    odd = False
    for (x1, y1), (x2, y2) in zip(points, points[1:] + points[:1], strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            odd = not odd
    return odd


def test_a_manifest_has_labels_and_masks_as_evaluate_reads_them(reviewed, tmp_path):
    scores, rows = reviewed
    result = export(scores, "manifest", tmp_path / "out")
    assert (result.normal, result.anomalous, result.regions) == (1, 2, 3)
    assert result.left_out == {NO_LABEL: 2}
    records = {record.id: record for record in scan(tmp_path / "out").records}
    assert {path: each.label for path, each in records.items()} == {
        rows[0].path: 1,
        rows[1].path: 1,
        rows[2].path: 0,
    }
    assert {each.split for each in records.values()} == {"test"}
    (mask,) = records[rows[0].path].masks
    assert (readers.read_mask(mask) == expected()).all()
    assert records[rows[1].path].masks == ()
    for row in rows[:3]:
        assert readers.digest(records[row.path].path.read_bytes()) == row.sha256


def test_normals_join_those_to_learn_from_only_when_asked(reviewed, tmp_path):
    export(reviewed[0], "manifest", tmp_path / "out", join_normals=True)
    splits = {record.label: record.split for record in scan(tmp_path / "out").records}
    assert splits == {0: "train", 1: "test"}


def test_coco_is_read_back_as_it_was_marked(reviewed, tmp_path):
    scores, rows = reviewed
    export(scores, "coco", tmp_path / "out")
    file = tmp_path / "out/reviews.json"
    content = json.loads(file.read_text())
    # As pycocotools, CVAT and LabelMe's converters read it.
    ids = {image["id"]: image for image in content["images"]}
    assert len(ids) == len(content["images"]) == 3
    assert [each["id"] for each in content["annotations"]] == [1, 2, 3]
    for each in content["annotations"]:
        assert ids[each["image_id"]]["file_name"] == rows[0].path
        assert each["category_id"] in [category["id"] for category in content["categories"]]
        ((xs, ys),) = [(part[::2], part[1::2]) for part in each["segmentation"]]
        left, top, width, height = each["bbox"]
        assert (min(xs), min(ys), max(xs), max(ys)) == (left, top, left + width, top + height)
        assert each["iscrowd"] == 0 and 0 < each["area"] <= width * height
    assert content["annotations"][0]["area"] == 200
    path = tmp_path / rows[0].path
    assert (read_annotation(file, path, (64, 64)) == expected()).all()


def test_what_the_eraser_left_is_exported_with_its_hole(tmp_path):
    """The text is that of the viewer's shapes.test.ts: a box without four of its pixels."""
    text = "14,26 4,26 4,18 8,18 9,18 9,14 8,14 8,18 4,18 4,26 4,6 14,6"
    expected = np.zeros((64, 64), bool)
    expected[6:26, 4:14], expected[14:18, 8:9] = True, False
    case = Marked("a.png", 1, tuple(marks.parse(text)), (64, 64))
    assert (judged.mask_of(case.marks, case.size) == expected).all()
    judged.write_coco([case], tmp_path / "reviews.json")
    (found,) = json.loads((tmp_path / "reviews.json").read_text())["annotations"]
    assert found["area"] == 196 and found["bbox"] == [4, 6, 10, 20]
    assert (
        read_annotation(tmp_path / "reviews.json", tmp_path / "a.png", (64, 64)) == expected
    ).all()
    (file,) = judged.write_masks(case, tmp_path / "a")
    assert (np.asarray(Image.open(file)) == 255 * expected).all()


@pytest.mark.parametrize("scored", ["axial", "sagittal"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_mask_of_a_volume_lies_where_it_was_marked(plane, scored, tmp_path):
    """A region of a slice, in the source's voxels, is in the mask where the source has them,
    whichever plane was scored."""
    voxels = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    affine = np.array([[0, 0, 2.0, 5], [-1, 0, 0, 6], [0, -3, 0, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "a.nii")
    volume = readers.read_source(readers.Record("a.nii", tmp_path / "a.nii")).decode()
    geometry = volume.geometry(plane)
    _, height, width = volume.geometry(scored).sides
    mark = marks.box(1, 2, 3, 1, marks.place_of(plane, 3))
    case = Marked("a.nii", 1, (mark,), (width, height), volume, volume.geometry(scored))

    (file,) = judged.write_masks(case, tmp_path / "mask")
    mask = nibabel.load(file)
    expected = np.zeros(voxels.shape, np.uint8)
    index = [slice(None)] * 3
    depth, rows, columns = geometry.axes
    index[depth], index[rows], index[columns] = slice(3, 4), slice(2, 3), slice(1, 4)
    expected[tuple(index)] = 1
    assert (np.asarray(mask.dataobj) == expected).all()
    assert np.allclose(mask.affine, affine)
    assert (readers.volume_mask(file, volume, geometry) == geometry.to_slices(expected)).all()


def test_the_mask_of_a_dicom_series_is_a_segmentation_by_hand(tmp_path):
    pytest.importorskip("highdicom", reason="the extra `dicom` is not installed")
    voxels = np.arange(4 * 8 * 9, dtype=np.int16).reshape(4, 8, 9)
    write_series(tmp_path / "in", voxels)
    files = tuple(sorted((tmp_path / "in").iterdir()))
    volume = readers.read_source(readers.Record("a", files[0], files=files)).decode()
    geometry = volume.geometry("axial")
    place = marks.place_of("axial", marks.source_number(geometry, 2))
    case = Marked("a", 1, (marks.box(1, 2, 3, 1, place),), (9, 8), volume, geometry)

    nifti, segmentation = judged.write_masks(case, tmp_path / "out/mask", "P1")
    content = pydicom.dcmread(segmentation)
    assert content.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"
    assert str(content.PatientID) == "P1"
    expected = judged.volume_mask(case, geometry)
    assert expected.sum() == 3 and expected[2].sum() == 3
    for file in (nifti, segmentation):
        assert (readers.volume_mask(file, volume, geometry) == expected).all()


def test_slices_are_images_of_their_own_in_coco(tmp_path):
    places = [marks.place_of("axial", 3), marks.place_of("axial", 5)]
    found = (
        marks.box(1, 2, 3, 1, places[0]),
        *marks.parse("axial 5: 0,0 4,0 4,4; axial 3: 0,0,1,1; coronal 2: 6,7,1,1"),
    )
    case = Marked("a.nii", 1, found, (7, 6), None, along((7, 6, 8), np.eye(4), "axial"))
    assert judged.write_coco([case], tmp_path / "reviews.json") == 4
    content = json.loads((tmp_path / "reviews.json").read_text())
    named = {image["id"]: (image["file_name"], image["slice"]) for image in content["images"]}
    assert [named[each["image_id"]] for each in content["annotations"]] == [
        ("a.nii#axial-3", 3),
        ("a.nii#axial-3", 3),
        ("a.nii#axial-5", 5),
        ("a.nii#coronal-2", 2),
    ]
    sizes = [(image["width"], image["height"]) for image in content["images"]]
    assert sizes == [(7, 6), (7, 6), (7, 8)]  # columns, and rows or slices


def test_a_record_that_does_not_hold_is_not_exported(reviewed, tmp_path):
    scores = shutil.copytree(reviewed[0], tmp_path / "scores")
    kept = Store(scores, directories.read(scores).audit.head)
    with kept.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER reviews_no_update")
        connection.exec_driver_sql("UPDATE reviews SET verdict = 'normal' WHERE number = 1")
    kept.close()
    with pytest.raises(RunError, match="was changed"):
        export(scores, "masks", tmp_path / "out")
    (scores / "reviews.sqlite").unlink()
    with pytest.raises(RunError, match="no verdicts"):
        export(scores, "masks", tmp_path / "out")
    assert not (tmp_path / "out").exists()
