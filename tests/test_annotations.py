"""Annotations as truth: COCO, LabelMe and YOLO."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

import anodetect
from anodetect.data.annotations import read_annotation
from anodetect.data.drawings import Drawing
from anodetect.data.records import Record
from anodetect.data.scan import scan
from anodetect.data.truth import read_truth
from anodetect.errors import ImageError

H, W = 40, 60
BOX = np.zeros((H, W), bool)
BOX[4:9, 3:17] = True  # rows 4 to 8, columns 3 to 16
SHAPE = np.zeros((H, W), bool)  # an L of two boxes
SHAPE[20:30, 10:14] = True
SHAPE[26:30, 10:40] = True
CORNERS = [[10, 20], [14, 20], [14, 26], [40, 26], [40, 30], [10, 30]]
BOTH = BOX | SHAPE
ROWS, COLUMNS = np.mgrid[:H, :W] + 0.5


def runs_of(mask):
    """Lengths of runs, column by column, the first of pixels that are not marked."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(np.concatenate([[False], flat, [not flat[-1]]])))
    return np.diff(np.concatenate([[0], ends])).tolist()


def compressed(counts):
    """The text of runs as COCO's own tools write it."""
    text = ""
    for number, count in enumerate(counts):
        value = count - counts[number - 2] if number > 2 else count
        more = True
        while more:
            digit, value = value & 31, value >> 5
            more = value != -1 if digit & 16 else value != 0
            text += chr(48 + digit + 32 * more)
    return text


def coco(annotations, names=("000.png",), size=(H, W)):
    images = [
        {"id": number, "file_name": name, "height": size[0], "width": size[1]}
        for number, name in enumerate(names, start=1)
    ]
    return {
        "images": images,
        "annotations": [{"image_id": 1, "category_id": 1, "id": 1} | each for each in annotations],
        "categories": [{"id": 1, "name": "scratch"}],
    }


def shape(kind, points, **more):
    return {"label": "defect", "shape_type": kind, "points": points, "group_id": None} | more


def labelme(*shapes, size=(H, W)):
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": "000.png",
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def voc(*boxes, size=(H, W), depth=3):
    sides = {"width": size[1], "height": size[0], "depth": depth}
    text = "".join(f"<{name}>{side}</{name}>" for name, side in sides.items())
    objects = ""
    for box in boxes:
        corners = "".join(f"<{name}>{value}</{name}>" for name, value in box.items())
        objects += f"<object><name>scratch</name><bndbox>{corners}</bndbox></object>\n"
    return f"<annotation><folder>a</folder><size>{text}</size>{objects}</annotation>"


def png(mask):
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def flat(points):
    return [value for point in points for value in point]


def shares(points):
    return " ".join(f"{x / W:.9f} {y / H:.9f}" for x, y in points)


VOC_BOX = {"xmin": 4, "ymin": 5, "xmax": 17, "ymax": 9}  # counted from 1, the last one included
YOLO_BOX = f"0 {10 / W:.9f} {6.5 / H:.9f} {14 / W:.9f} {5 / H:.9f}\n"
DISC = (ROWS - 15) ** 2 + (COLUMNS - 31) ** 2 <= 25


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", coco([{"bbox": [3, 4, 14, 5]}]), BOX),
        ("a.json", coco([{"bbox": [3, 4, 14, 5], "segmentation": []}]), BOX),
        ("a.json", coco([{"bbox": [0, 0, 60, 40], "segmentation": [flat(CORNERS)]}]), SHAPE),
        ("a.json", coco([{"segmentation": [flat(CORNERS)]}, {"bbox": [3, 4, 14, 5]}]), BOTH),
        (
            "a.json",
            coco([{"segmentation": [[3, 4, 17, 4, 17, 9, 3, 9], flat(CORNERS)], "iscrowd": 0}]),
            BOTH,
        ),
        ("a.json", coco([{"segmentation": {"size": [H, W], "counts": runs_of(BOTH)}}]), BOTH),
        ("a.json", coco([{"segmentation": {"size": [H, W], "counts": runs_of(~BOX)}}]), ~BOX),
        (
            "a.json",
            coco([{"segmentation": {"size": [H, W], "counts": compressed(runs_of(BOTH))}}]),
            BOTH,
        ),
        ("a.json", coco([]), np.zeros((H, W), bool)),
        ("a.json", coco([{"caption": "a scratch"}]), np.zeros((H, W), bool)),
        ("000.json", labelme(shape("rectangle", [[17, 9], [3, 4]])), BOX),
        (
            "000.json",
            labelme(shape("polygon", CORNERS), shape("rectangle", [[3, 4], [17, 9]])),
            BOTH,
        ),
        ("000.json", labelme(shape(None, CORNERS)), SHAPE),
        ("000.json", labelme(shape("circle", [[31, 15], [34, 19]])), DISC),
        ("000.json", labelme(shape("mask", [[3, 4], [16, 8]], mask=png(BOX[4:9, 3:17]))), BOX),
        ("000.json", labelme(), np.zeros((H, W), bool)),
        ("000.txt", YOLO_BOX, BOX),
        ("000.txt", YOLO_BOX + f"3 {shares(CORNERS)}\n", BOTH),
        ("000.txt", "", np.zeros((H, W), bool)),
        ("000.xml", voc(VOC_BOX), BOX),
        ("000.XML", voc(VOC_BOX, size=(0, 0)), BOX),
        ("000.xml", '<?xml version="1.0" encoding="utf-8"?>\n<!-- x -->' + voc(VOC_BOX), BOX),
        (
            "000.xml",
            voc(VOC_BOX, {"xmin": 11.0, "ymin": 21, "xmax": 14, "ymax": 30},
                {"xmin": 11, "ymin": 27, "xmax": "40", "ymax": 30}),
            BOTH,
        ),
        ("000.xml", voc({"xmin": 1, "ymin": 1, "xmax": W, "ymax": H}), np.ones((H, W), bool)),
        ("000.xml", voc(), np.zeros((H, W), bool)),
        ("000.xml", "<annotation/>", np.zeros((H, W), bool)),
    ],
)  # fmt: skip
def test_annotations_mark_the_pixels_that_were_drawn(tmp_path, name, content, expected):
    path = write(tmp_path / name, content)
    record = Record("x/000.png", tmp_path / "x/000.png", masks=(path,))
    assert np.array_equal(read_truth(record, (H, W)), expected)


def test_a_slanted_polygon_marks_the_pixels_whose_centres_it_holds(tmp_path):
    corners = [[5.2, 3.1], [50.7, 12.4], [22.3, 35.9]]
    inside = np.ones((H, W), bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        inside &= (x1 - x0) * (ROWS - y0) - (y1 - y0) * (COLUMNS - x0) > 0
    path = write(tmp_path / "a.json", coco([{"segmentation": [flat(corners)]}]))
    assert np.array_equal(read_annotation(path, tmp_path / "000.png", (H, W)), inside)


def test_runs_as_text_of_another_program_fill_their_image():
    from anodetect.data.annotations import _run_lengths

    text = (
        "0g05b08J4M2N2NA^O1`0OCO=0E090H080IO68DH;>@C>a0_O_O`0j0OWOF<:CM72I24NL43JM92FN;1ENKO72L0LO91J0M"
        "O92INO0NO122OO0M031O000NO31OO11MO40N011MO41MO21L06OL021L06OL021L06OL021L060J040L060J040L060J0"
        "40L060J040L060J040L060J040L060KO31L060KO31L06OL021L06OL021L06OL021MO41MO21MO40N100NO310O00M03"
        "10O00NO1220NO92IONO91KOMO72M0<1EO:2GN63KM34OLM73JF<;=1G_O_Ob0=AC`07EH=1IO71H090F0:1DO>1_O1b0>"
        "2N2N3L6H]O"
    )
    lengths = _run_lengths(text)
    assert lengths.sum() == 50 * 70
    assert (lengths >= 0).all()
    assert _run_lengths(compressed([7, 1000, 3, 40, 5, 0, 99])).tolist() == [
        7, 1000, 3, 40, 5, 0, 99,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", "{", "not readable"),
        ("a.json", {"a": 1}, "neither COCO"),
        ("a.json", coco([{"bbox": [1, 2, 3, 4]}], size=(H, W + 1)), "is not the image's"),
        ("a.json", coco([{"segmentation": [[1, 2, 3, 4]]}]), "fewer than three points"),
        ("a.json", coco([{"segmentation": {"size": [H, W], "counts": [5]}}]), "do not fill"),
        ("a.json", coco([{"segmentation": {"size": [H, 9], "counts": [H * 9]}}]), "size"),
        ("a.json", coco([{"segmentation": {"size": [H, W], "counts": " "}}]), "none of compress"),
        ("a.json", coco([{"area": 3}]), "it lacks 'bbox'"),
        ("a.json", {"images": [{"id": 1}], "annotations": []}, "it lacks 'file_name'"),
        ("a.json", coco([], names=["000.png", "000.png"]), "several entries"),
        ("000.json", labelme(shape("line", [[1, 2], [3, 4]])), "'line' marks no area"),
        ("000.json", labelme(shape("polygon", CORNERS), size=(W, H)), "is not the image's"),
        ("000.json", labelme({"points": [["a", 1]]}), "damaged"),
        ("000.txt", "0 0.5 0.5 0.1\n", "line 1 has 3 numbers"),
        ("000.txt", YOLO_BOX + "0 12 20 4 5\n", "line 2 is not in shares"),
        ("000.txt", "a note\n", "none of YOLO's"),
        ("none.txt", None, "No such file"),
        ("000.xml", "<annotation>", "not readable"),
        ("000.xml", "<ImageMetadata/>", "XML of 'ImageMetadata'"),
        ("000.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "with declarations"),
        ("000.xml", voc({"xmin": 1}), "it lacks 'ymin'"),
        ("000.xml", "<annotation><object/></annotation>", "it lacks 'xmin'"),
        ("000.xml", voc(VOC_BOX | {"xmin": "a"}), "damaged"),
        ("000.xml", voc(VOC_BOX | {"xmax": 2}), "whose end lies before its start"),
        ("000.xml", voc(VOC_BOX, size=(W, H)), "is not the image's"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_has_a_reason_that_names_the_file(tmp_path, name, content, reason):
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(ImageError, match=reason) as caught:
        read_annotation(tmp_path / name, tmp_path / "000.png", (H, W))
    assert name in str(caught.value)


def test_an_image_that_a_coco_file_does_not_list_has_no_truth(tmp_path):
    path = write(tmp_path / "a.json", coco([{"bbox": [1, 2, 3, 4]}], names=["001.png"]))
    assert read_annotation(path, tmp_path / "000.png", (H, W)) is None
    record = Record("000.png", tmp_path / "000.png", masks=(path,))
    assert read_truth(record, (H, W)) is None


def test_a_drawing_beyond_the_image_is_cut_off():
    corners = np.array([[-5.0, 35], [70, 35], [70, 50], [-5, 50]])
    marked = Drawing(polygons=(corners,)).marked((H, W))
    assert marked.sum() == 5 * W
    assert marked[35:].all()
    assert Drawing().is_empty


# -- Where they are found --------------------------------------------------------------------------


def put_images(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 255, (H, W), np.uint8)
        Image.fromarray(pixels).save(root / name)


def truths(root):
    """The number of marked pixels of each anomalous image, None without truth."""
    marked = {}
    for record in scan(root).records:
        if record.label:
            truth = read_truth(record, (H, W))
            marked[record.id] = None if truth is None else int(truth.sum())
    return marked


MVTEC = ("train/good/0.png", "test/good/000.png", "test/bad/000.png", "test/bad/001.png")


@pytest.mark.parametrize(
    "name", ["test/bad/000", "ground_truth/bad/000", "annotations/bad/000", "labels/test/bad/000"]
)
@pytest.mark.parametrize("suffix", [".json", ".txt", ".TXT", ".xml"])
def test_annotations_of_one_image_are_found_by_its_name(tmp_path, name, suffix):
    put_images(tmp_path, *MVTEC)
    rectangle = labelme(shape("rectangle", [[3, 4], [17, 9]]))
    content = {".json": rectangle, ".xml": voc(VOC_BOX)}.get(suffix, YOLO_BOX)
    write(tmp_path / f"{name}{suffix}", content)
    write(tmp_path / "test/bad/notes.txt", "made on Monday")
    write(tmp_path / "test/good/000.txt", "")
    assert truths(tmp_path) == {"test/bad/000.png": 70, "test/bad/001.png": None}
    passed_over = {each.reason: each.count for each in scan(tmp_path).passed_over}
    assert passed_over["annotations"] == 1
    assert "no image that can be read (.txt)" in passed_over


@pytest.mark.parametrize(
    ("place", "names"),
    [
        ("coco.json", ["test/bad/000.png", "test/bad/001.png"]),
        ("annotations/instances.json", ["bad/000.png", "bad/001.png"]),
        ("ground_truth/bad/any.json", ["000.png", "001.png"]),
        ("test/bad/_annotations.coco.json", ["000.png", "001.png"]),
        ("labels/all.json", ["C:\\\\data\\\\bad\\\\000.PNG", "bad\\\\001.png"]),
    ],
)
def test_a_coco_file_is_asked_by_file_name(tmp_path, place, names):
    put_images(tmp_path, *MVTEC)
    names = [name.replace("\\\\", "\\") for name in names]
    write(tmp_path / place, coco([{"bbox": [3, 4, 14, 5]}], names=names))
    # the second image is listed without annotations: nothing is drawn on it
    assert truths(tmp_path) == {"test/bad/000.png": 70, "test/bad/001.png": None}


def test_a_name_that_fits_several_images_is_said(tmp_path):
    put_images(tmp_path, *MVTEC, "test/odd/000.png")
    write(tmp_path / "coco.json", coco([{"bbox": [3, 4, 14, 5]}]))
    assert set(truths(tmp_path).values()) == {None}
    (problem,) = scan(tmp_path).problems
    assert problem.name == "coco.json"
    assert "000.png is the name of several images" in problem.reason


def test_annotated_images_are_anomalous_and_others_are_not_by_that(tmp_path):
    put_images(tmp_path, *(f"images/train/{n}.png" for n in range(4)), "images/val/9.png")
    write(tmp_path / "labels/train/0.txt", YOLO_BOX)
    for n in (1, 2):
        write(tmp_path / f"labels/train/{n}.txt", "")
    write(tmp_path / "labels/val/9.txt", YOLO_BOX)
    labels = {record.id: record.label for record in scan(tmp_path).records}
    assert labels["images/train/0.png"] == 1
    assert [labels[f"images/train/{n}.png"] for n in (1, 2, 3)] == [None] * 3
    listing = coco([{"bbox": [3, 4, 14, 5]}], names=[f"{n}.png" for n in range(3)])
    write(tmp_path / "other/x.json", "[]")
    for folder in ("labels/train", "labels/val"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    write(tmp_path / "annotations/train.json", listing)
    labels = {record.id: record.label for record in scan(tmp_path).records}
    assert labels["images/train/0.png"] == 1
    assert labels["images/train/1.png"] is None


def test_in_a_folder_of_images_those_with_annotations_are_not_learned_from(tmp_path):
    put_images(tmp_path, "a.png", "b.png", "c.png")
    write(tmp_path / "a.json", labelme())
    write(tmp_path / "b.json", labelme(shape("polygon", CORNERS)))
    dataset = scan(tmp_path)
    assert [record.id for record in dataset.training()] == ["a.png", "c.png"]
    assert [record.id for record in dataset.labelled()] == ["b.png"]


@pytest.mark.parametrize(
    ("name", "content", "label"),
    [
        ("0.xml", voc(VOC_BOX), 1),
        ("0.xml", voc({"xmin": 1}), 1),
        ("0.json", labelme(shape("linestrip", [[1, 2], [3, 4]])), 1),
        ("0.xml", voc(), None),
        ("0.xml", "<metadata/>", None),
        ("0.json", {"exposure": 3}, None),
    ],
)
def test_annotations_beside_images_of_a_plain_folder_keep_them_from_being_learned(
    tmp_path, name, content, label
):
    folder = tmp_path / "in"
    put_images(folder, *(f"{number}.png" for number in range(4)))
    write(folder / name, content)
    dataset = scan(folder)
    assert [record.label for record in dataset.records] == [label, None, None, None]
    assert len(dataset.training()) == (3 if label else 4)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"test/a.json": coco([{"bbox": [3, 4, 14, 5]}], names=["1.png", "2.png"])}, [1, 0, None]),
        ({"all.json": coco([{"bbox": [3, 4, 14, 5]}], names=["1.png", "2.png"])}, [1, 0, None]),
        ({"all.json": coco([], names=["1.png", "2.png", "3.png"])}, [None, None, None]),
        ({"test/labels/1.txt": YOLO_BOX, "test/labels/2.txt": ""}, [1, 0, None]),
        ({"labels/test/1.txt": "", "labels/test/2.txt": ""}, [None, None, None]),
        ({"test/1.json": labelme(), "test/3.json": labelme(shape("polygon", CORNERS))},
         [0, None, 1]),
        ({"test/1.xml": voc(VOC_BOX), "test/2.xml": voc()}, [1, 0, None]),
        ({"test/1.xml": voc(VOC_BOX), "labels/test/2.txt": ""}, [1, None, None]),
        ({"labels/test/1.txt": "", "labels/test/2.txt": YOLO_BOX,
          "all.json": coco([{"bbox": [3, 4, 14, 5]}], names=["1.png"])}, [1, 1, None]),
        ({"train/a.json": coco([{"bbox": [3, 4, 14, 5]}], names=["0.png", "9.png"])}, [None] * 3),
    ],
)  # fmt: skip
@pytest.mark.parametrize("train", ["train", "train/good"])
def test_images_of_a_test_part_that_are_listed_beside_marked_ones_are_normal(
    tmp_path, train, annotations, expected
):
    folder = tmp_path / "in"
    put_images(folder, f"{train}/0.png", f"{train}/9.png", *(f"test/{n}.png" for n in "123"))
    for name, content in annotations.items():
        write(folder / name, content)
    labels = {record.id: record.label for record in scan(folder).records}
    assert [labels[f"test/{n}.png"] for n in "123"] == expected
    assert labels[f"{train}/9.png"] == (0 if train == "train/good" else None)


def test_a_coco_file_with_a_folder_in_its_name_is_of_the_images_below_it(tmp_path):
    names = [f"{number:03d}.png" for number in range(3)]
    put_images(tmp_path, *(f"train2017/{name}" for name in names), "val2017/000.png")
    put_images(tmp_path, "val2017/002.png")
    first = coco([{"bbox": [3, 4, 14, 5]}], names=names)
    second = coco([{"bbox": [0, 0, 2, 2]}], names=[names[1], names[2]])
    write(tmp_path / "annotations/instances_train2017.json", first)
    write(tmp_path / "annotations/instances_val2017.json", second)
    dataset = scan(tmp_path)
    assert dataset.problems == ()
    # 001.png of val2017 is not there, and the one of train2017 is another image
    assert truths(tmp_path) == {"train2017/000.png": 70}
    second = coco([{"bbox": [0, 0, 2, 2]}], names=["train2017/001.png", names[2]])
    write(tmp_path / "annotations/instances_val2017.json", second)
    assert truths(tmp_path) == {"train2017/000.png": 70, "train2017/001.png": 4}


def test_a_manifest_names_annotations_and_folders_of_masks(tmp_path):
    put_images(tmp_path, "a/000.png", "a/001.png", "b/002.png")
    write(tmp_path / "coco.json", coco([{"bbox": [3, 4, 14, 5]}], names=["000.png", "a/001.png"]))
    for number, part in enumerate((BOX, SHAPE)):
        (tmp_path / "m").mkdir(exist_ok=True)
        Image.fromarray(part).save(tmp_path / f"m/{number}.png")
    write(
        tmp_path / "manifest.csv",
        "path,label,mask\na/000.png,1,coco.json\na/001.png,1,coco.json\nb/002.png,1,m\n",
    )
    assert truths(tmp_path) == {"a/000.png": 70, "a/001.png": 0, "b/002.png": int(BOTH.sum())}


def test_evaluate_measures_with_annotations_as_with_masks(pca_run, synthetic_folder, tmp_path):
    with_masks = anodetect.evaluate(pca_run, str(synthetic_folder))
    images, annotations = [], []
    for number, path in enumerate(sorted((synthetic_folder / "ground_truth/defect").iterdir())):
        name = path.name.replace("_mask", "")
        images.append({"id": number, "file_name": name, "height": 64, "width": 64})
        mask = np.asarray(Image.open(path)) > 0
        runs = {"size": [64, 64], "counts": compressed(runs_of(mask))}
        annotations.append({"image_id": number, "segmentation": runs})
    folder = tmp_path / "in"
    for part in ("test/good", "test/defect"):
        (folder / part).mkdir(parents=True)
        for path in (synthetic_folder / part).iterdir():
            (folder / part / path.name).write_bytes(path.read_bytes())
    write(folder / "ground_truth/defect/a.json", {"images": images, "annotations": annotations})
    result = anodetect.evaluate(pca_run, str(folder))
    assert result.as_json()["pixel"] == with_masks.as_json()["pixel"]
    assert result.whole.masks.used == 20
