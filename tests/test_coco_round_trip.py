"""Regions of reviewers through other programs' COCO and back: the pixels stay the same."""

import json

import numpy as np
import pytest
from PIL import Image
from test_annotations import compressed, runs_of

from anodetect.data.annotations import read_annotation
from anodetect.errors import ImageError
from anodetect.output import judged
from anodetect.output.judged import Marked
from anodetect.record import marks

SIZE = (64, 48)  # width, height
REGIONS = "4,6,10,20; 2,3 40,3 40,30 20,10; 0,0,64,1; 50,40,1,1"
NAME = "test/scratch/0000.png"


@pytest.fixture
def exported(tmp_path):
    """The file that `reviews export --as coco` writes of an image with regions and one without, and
    the pixels of the regions."""
    found = marks.parse(REGIONS)
    cases = [Marked(NAME, 1, found, SIZE), Marked("test/good/0000.png", 0, (), SIZE)]
    judged.write_coco(cases, tmp_path / "reviews.json")
    return json.loads((tmp_path / "reviews.json").read_text()), judged.mask_of(found, SIZE)


def read(folder, content, name=NAME):
    """The pixels that `evaluate` reads for an image from a COCO file."""
    (folder / "back.json").write_text(json.dumps(content))
    return read_annotation(folder / "back.json", folder / name, SIZE[::-1])


def test_pixels_of_regions_are_those_of_the_definition(exported):
    _, mask = exported
    y, x = np.mgrid[:48, :64] + 0.5
    expected = (x > 4) & (x < 14) & (y > 6) & (y < 26)
    assert mask[:, 45:].sum() == 45 + 0 - 45 + 19 + 1  # the line at the top, and one pixel
    assert (mask & expected).sum() == expected.sum() == 200


# -- CVAT ------------------------------------------------------------------------------------------


def as_cvat(content, *, masks):
    """What CVAT's export "COCO 1.0" makes of a file: other numbers, floats, attributes, and a run
    length for what was drawn with the brush."""
    images, annotations = [], []
    for number, image in enumerate(content["images"], start=1):
        kept = {name: image[name] for name in ("file_name", "width", "height")}
        more = {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
        images.append({"id": number} | kept | more)
    for each in content["annotations"]:
        found = {name: each[name] for name in ("id", "image_id", "category_id", "area", "iscrowd")}
        found["bbox"] = [float(value) for value in each["bbox"]]
        found["segmentation"] = [[float(value) for value in part] for part in each["segmentation"]]
        if masks:
            outline = np.reshape(each["segmentation"][0], (-1, 2)).tolist()
            text = " ".join(f"{x},{y}" for x, y in outline)
            runs = runs_of(judged.mask_of(marks.parse(text), SIZE))
            counts = compressed(runs) if each["id"] % 2 else runs
            found |= {"segmentation": {"size": list(SIZE[::-1]), "counts": counts}, "iscrowd": 1}
        annotations.append(found | {"attributes": {"occluded": False, "rotation": 0.0}})
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": ""},
        "categories": [{"id": 1, "name": "anomaly", "supercategory": ""}],
        "images": images,
        "annotations": annotations,
    }


@pytest.mark.parametrize("masks", [False, True])
def test_regions_come_back_from_cvat_as_documented(exported, tmp_path, masks):
    content, mask = exported
    assert (read(tmp_path, as_cvat(content, masks=masks)) == mask).all()
    assert not read(tmp_path, as_cvat(content, masks=masks), "test/good/0000.png").any()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # its own
@pytest.mark.parametrize("compress", [False, True])
def test_regions_come_back_from_the_library_under_the_converter_of_cvat(
    exported, tmp_path, compress
):
    """datumaro reads and writes masks with pycocotools, as CVAT does."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    runs = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    content, mask = exported
    known = coco.COCO(str(tmp_path / "reviews.json"))
    assert [each["name"] for each in known.loadCats(known.getCatIds())] == ["anomaly"]
    (number,) = known.getImgIds(catIds=known.getCatIds())  # the other image has no region
    assert known.loadImgs(number)[0]["file_name"] == content["images"][0]["file_name"]
    assert known.getAnnIds(areaRng=[199, 201]) == [content["annotations"][0]["id"]]

    # Its own rule decides which pixels on its edge an oblique outline marks; boxes stay the same.
    drawn = np.zeros_like(mask)
    back = {**content, "annotations": []}
    for each in content["annotations"]:
        own = known.annToMask(known.loadAnns(each["id"])[0]).astype(bool)
        text = " ".join(f"{x},{y}" for x, y in np.reshape(each["segmentation"][0], (-1, 2)))
        ours = judged.mask_of(marks.parse(text), SIZE)
        is_box = each["area"] == each["bbox"][2] * each["bbox"][3]
        assert (own != ours).sum() <= (0 if is_box else 25)
        drawn |= own

        counts = runs.encode(np.asfortranarray(ours.astype(np.uint8)))["counts"].decode()
        if not compress:
            counts = runs_of(ours)
        stored = {"size": list(SIZE[::-1]), "counts": counts}
        back["annotations"].append({**each, "segmentation": stored, "iscrowd": 1})
    assert (drawn != mask).sum() <= 25
    assert (read(tmp_path, back) == mask).all()


@pytest.mark.parametrize("masks", [False, True])
def test_regions_come_back_from_the_converter_of_cvat(exported, tmp_path, masks):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    content, mask = exported
    file = tmp_path / "in" / "annotations" / "instances_default.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(content))
    for image in content["images"]:
        picture = tmp_path / "in" / "images" / "default" / image["file_name"]
        picture.parent.mkdir(parents=True)
        Image.new("L", SIZE).save(picture)

    found = datumaro.Dataset.import_from(str(tmp_path / "in"), "coco_instances")
    mode = "mask" if masks else "guess"
    out = tmp_path / "out"
    found.export(str(out), "coco_instances", save_media=False, segmentation_mode=mode)
    back = json.loads((out / "annotations" / file.name).read_text())
    difference = read(tmp_path, back) != mask
    # With masks pycocotools decides which pixels on its edge an oblique outline marks.
    assert difference.sum() <= (25 if masks else 0)
    assert not read(tmp_path, back, "test/good/0000.png").any()


# -- LabelMe ---------------------------------------------------------------------------------------


def as_labelme(content, *, rectangles):
    """What LabelMe's own script labelme2coco.py makes of the outlines, drawn in LabelMe: images as
    JPEG by their last name, numbers from 0, boxes of the pixels with their edges. It writes a
    rectangle as its two corners."""
    annotations = []
    for number, each in enumerate(content["annotations"]):
        points = [float(value) for value in each["segmentation"][0]]
        x, y, width, height = each["bbox"]
        if rectangles and len(points) == 8 and each["area"] == width * height:
            points = [float(x), float(y), float(x + width), float(y + height)]
        box = [float(x), float(y), float(width + 1), float(height + 1)]
        found = {"id": number, "image_id": each["image_id"] - 1, "category_id": 0}
        shape = {"segmentation": [points], "area": 1.0, "bbox": box, "iscrowd": 0}
        annotations.append(found | shape)
    images = []
    for number, image in enumerate(content["images"]):
        stem = f"{image['path'].split('/')[-2]}.jpg"
        entry = {"license": 0, "url": None, "file_name": f"JPEGImages/{stem}"}
        size = {"height": SIZE[1], "width": SIZE[0], "date_captured": None, "id": number}
        images.append(entry | size)
    return {
        "info": {"description": None, "year": 2026},
        "licenses": [{"url": None, "id": 0, "name": None}],
        "type": "instances",
        "images": images,
        "categories": [{"supercategory": None, "id": 0, "name": "anomaly"}],
        "annotations": annotations,
    }


@pytest.mark.parametrize("rectangles", [False, True])
def test_regions_come_back_from_labelme(exported, tmp_path, rectangles):
    content, mask = exported
    back = as_labelme(content, rectangles=rectangles)
    assert (read(tmp_path, back, "JPEGImages/scratch.jpg") == mask).all()
    assert not read(tmp_path, back, "JPEGImages/good.jpg").any()


def test_two_points_that_are_no_rectangle_are_refused(tmp_path):
    image = {"id": 1, "file_name": NAME, "width": SIZE[0], "height": SIZE[1]}
    drawn = {"id": 1, "image_id": 1, "segmentation": [[4, 6, 14, 26]], "bbox": [30, 6, 11, 21]}
    content = {"images": [image], "annotations": [drawn], "categories": []}
    with pytest.raises(ImageError, match="fewer than three points"):
        read(tmp_path, content)
