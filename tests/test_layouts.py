"""Layouts of data sets: what is learned from, what is tested with, where masks are, and what is
passed over."""

import json
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from anodetect.commands.inspect import inspect
from anodetect.data import split
from anodetect.data.scan import counted, reasons, scan
from anodetect.errors import DataError

PIXELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
MASK = np.eye(16, dtype=np.uint8) * 255


@pytest.fixture
def tree(tmp_path, save_png):
    """Write images, masks (names with `mask` or in folders for them) and texts at these paths."""

    def write(*paths):
        for name in paths:
            target = tmp_path / "set" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith((".png", ".JPG", ".jpg", ".bmp", ".tif")):
                values = MASK if is_mask(name) else PIXELS
                Image.fromarray(values).save(target)
            else:
                target.write_bytes(b"")
        return tmp_path / "set"

    return write


def is_mask(name):
    lower = name.lower()
    return any(word in lower for word in ("mask", "ground_truth", "/gt/", "/label/")) or (
        lower.endswith(".png") and "imgs/" in lower
    )


def facts(dataset):
    """Return split, label, kind and the names of the masks by record."""
    found = {}
    for record in dataset.records:
        masks = [path.relative_to(dataset.root).as_posix() for path in record.masks]
        found[record.id] = (record.split, record.label, record.kind, *masks)
    return found


# Each layout: its files and what is known of each image; what is not listed is passed over.
LAYOUTS = {
    "MVTec AD": {
        "train/good/0.png": ("train", 0, "good"),
        "test/good/0.png": ("test", 0, "good"),
        "test/hole/0.png": ("test", 1, "hole", "ground_truth/hole/0_mask.png"),
        "test/hole/1.png": ("test", 1, "hole"),
        "ground_truth/hole/0_mask.png": None,
    },
    "MVTec AD in capitals": {
        "Train/Good/0.JPG": ("train", 0, "Good"),
        "TEST/NORMAL/0.JPG": ("test", 0, "NORMAL"),
        "TEST/Hole/0.JPG": ("test", 1, "Hole", "Ground_Truth/hole/0.png"),
        "Ground_Truth/hole/0.png": None,
    },
    "MVTec AD 2": {
        "train/good/000_regular.png": ("train", 0, "good"),
        "validation/good/001_regular.png": ("train", 0, "good"),
        "test_public/good/000_regular.png": ("test", 0, "good"),
        "test_public/bad/000_shift_1.png": (
            "test", 1, "bad", "test_public/ground_truth/bad/000_shift_1_mask.png",
        ),
        "test_public/ground_truth/bad/000_shift_1_mask.png": None,
        "test_private/000_regular.png": ("test", None, ""),
        "test_private_mixed/000_mixed.png": ("test", None, ""),
    },
    "MVTec LOCO": {
        "train/good/0.png": ("train", 0, "good"),
        "validation/good/0.png": ("train", 0, "good"),
        "test/good/0.png": ("test", 0, "good"),
        "test/logical_anomalies/0.png": (
            "test", 1, "logical_anomalies",
            "ground_truth/logical_anomalies/0/000.png", "ground_truth/logical_anomalies/0/001.png",
        ),
        "ground_truth/logical_anomalies/0/000.png": None,
        "ground_truth/logical_anomalies/0/001.png": None,
    },
    "MVTec 3D": {
        "train/good/rgb/0.png": ("train", 0, "good"),
        "train/good/xyz/0.tif": None,
        "test/good/rgb/0.png": ("test", 0, "good"),
        "test/good/gt/0.png": None,
        "test/cut/rgb/0.png": ("test", 1, "cut", "test/cut/gt/0.png"),
        "test/cut/gt/0.png": None,
        "test/cut/xyz/0.tif": None,
    },
    "BTAD": {
        "train/ok/0.bmp": ("train", 0, "ok"),
        "test/ok/0.bmp": ("test", 0, "ok"),
        "test/ko/0.bmp": ("test", 1, "ko", "ground_truth/ko/0.png"),
        "ground_truth/ko/0.png": None,
    },
    "BMAD": {
        "train/good/0.png": ("train", 0, "good"),
        "valid/good/img/0.png": ("train", 0, "good"),
        "valid/Ungood/img/0.png": None,
        "valid/Ungood/label/0.png": None,
        "test/good/img/0.png": ("test", 0, "good"),
        "test/good/label/0.png": None,
        "test/Ungood/img/0.png": ("test", 1, "Ungood", "test/Ungood/label/0.png"),
        "test/Ungood/label/0.png": None,
    },
    "train and test of a chest X-ray set": {
        "train/NORMAL/0.jpg": ("train", 0, "NORMAL"),
        "train/PNEUMONIA/0.jpg": ("train", 1, "PNEUMONIA"),
        "val/PNEUMONIA/0.jpg": None,
        "test/NORMAL/1.jpg": ("test", 0, "NORMAL"),
        "test/PNEUMONIA/1.jpg": ("test", 1, "PNEUMONIA"),
    },
    "images and masks above the parts": {
        "images/train/good/0.png": ("train", 0, "good"),
        "images/test/bad/0.png": ("test", 1, "bad", "masks/test/bad/0.png"),
        "masks/train/good/0.png": None,
        "masks/test/bad/0.png": None,
    },
    "masks of the parts in a folder of their own": {
        "train/good/0.png": ("train", 0, "good"),
        "test/bad/0.png": ("test", 1, "bad", "ground_truth/test/bad/0.png"),
        "ground_truth/test/bad/0.png": None,
    },
    "masks above the parts beside a folder of any name": {
        "photos/train/0.png": ("train", None, ""),
        "photos/test/bad/0.png": ("test", 1, "bad", "masks/test/bad/0.png"),
        "masks/test/bad/0.png": None,
    },
    "parts and kinds in one name": {
        "train_good/0.png": ("train", 0, "good"),
        "test_good/0.png": ("test", 0, "good"),
        "test_defect/0.png": ("test", 1, "defect", "ground_truth/test_defect/0_mask.png"),
        "test_defect/1.png": ("test", 1, "defect", "ground_truth/defect/1_mask.png"),
        "ground_truth/test_defect/0_mask.png": None,
        "ground_truth/defect/1_mask.png": None,
    },
    "parts of the good images beside one of defects": {
        "good_train/0.png": ("train", 0, "good"),
        "good_test/0.png": ("test", 0, "good"),
        "defect/0.png": ("test", 1, "defect", "masks/defect/0.png"),
        "masks/defect/0.png": None,
    },
    "normals to train on beside defects": {
        "normal_train/lot1/0.png": ("train", 0, "normal"),
        "defect/0.png": ("test", 1, "defect"),
    },
    "a train part beside tests of each kind": {
        "train/0.png": ("train", None, ""),
        "test_ok/0.png": ("test", 0, "ok"),
        "NG_test/0.png": ("test", 1, "ng"),
    },
    "names in other languages": {
        "训练/良品/0.png": ("train", 0, "良品"),
        "测试/良品/0.png": ("test", 0, "良品"),
        "测试/划痕/0.png": ("test", 1, "划痕", "标注_mask/划痕/0.png"),
        "标注_mask/划痕/0.png": None,
    },
    "evaluation instead of test": {
        "training/normal/0.png": ("train", 0, "normal"),
        "evaluation/abnormal/0.png": ("test", 1, "abnormal"),
    },
    "train part without kinds": {
        "train/0.png": ("train", None, ""),
        "train/lot3/0.png": ("train", None, ""),
        "test/0.png": ("test", None, ""),
    },
    "normal and anomalous images with masks, as VisA": {
        "Data/Images/Normal/0.JPG": ("train", 0, "Normal"),
        "Data/Images/Normal/2.JPG": ("test", 0, "Normal"),
        "Data/Images/Anomaly/0.JPG": ("test", 1, "Anomaly", "Data/Masks/Anomaly/0.png"),
        "Data/Masks/Anomaly/0.png": None,
    },
    "kinds with masks beside images, as magnetic tile": {
        "MT_Free/Imgs/a.jpg": ("train", 0, "MT_Free"),
        "MT_Free/Imgs/a.png": None,
        "MT_Uneven/Imgs/b.jpg": ("test", 1, "MT_Uneven", "MT_Uneven/Imgs/b.png"),
        "MT_Uneven/Imgs/b.png": None,
    },
    "a folder of images": {
        "0.png": ("", None, ""),
        "patient 7/0.png": ("", None, ""),
        "2024-10-01/0.png": ("", None, ""),
        "label.png": ("", None, ""),
        "thumbnails/0.png": None,
        "@eaDir/0.png": None,
        "__MACOSX/0.png": None,
        ".trash/0.png": None,
        "notes.txt": None,
        "0_heatmap.png": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tree, name):
    expected = LAYOUTS[name]
    dataset = scan(tree(*expected))
    known = {path: each for path, each in expected.items() if each is not None}
    assert facts(dataset) == known
    assert sum(each.count for each in dataset.passed_over) == len(expected) - len(known)
    assert dataset.doubt == ""


# Folders from which nothing is learned as they stand, and a word of the reason.
DOUBTS = {
    "an anomalous name": (["ng/0.png", "lot1/0.png"], "ng (1) means anomalous"),
    "normal beside anomalous": (["healthy/0.png", "tumour/0.png"], "tumour (1) means anomalous"),
    "normal beside unknown": (["ok/0.png", "misc/0.png"], "misc (1) stands beside ok (1)"),
    "normal beside unknown in train": (
        ["train/good/0.png", "train/x/0.png", "test/good/0.png"],
        "in train, x (1) stands beside good (1)",
    ),
    "only anomalous in train": (["train/bad/0.png", "test/good/0.png"], "means anomalous"),
    "numbers that look like labels": (["0/0.png", "1/0.png"], "look like labels"),
    "labels in every patient's folder": (
        ["p1/0/0.png", "p1/1/0.png", "p2/0/0.png"],
        "folders 0 and 1 look like labels",
    ),
    "labels in the train part": (["train/0/0.png", "train/1/0.png"], "look like labels"),
    "parts by the ends of names": (["x_train/0.png", "x_test/0.png"], "call them train and test"),
    "results of tests": (
        ["positive_test/0.png", "negative_test/0.png"],
        "positive (1) means anomalous",
    ),
    "numbered kinds": (["good1/0.png", "defect1/0.png"], "defect1 (1) means anomalous"),
    "parts by the ends of names, with masks": (
        ["a_train/ok/0.png", "a_test/ok/0.png", "a_test/bad/0.png", "masks/a_test/bad/0.png"],
        "look like parts",
    ),
    "defects in another script": (["正常/0.png", "不良/0.png"], "不良 (1) means anomalous"),
    "defects beside lots": (["партия 1/0.png", "брак/0.png"], "брак (1) means anomalous"),
    "classes from 1 on": (["class1/0.png", "class2/0.png"], "class1 and class2"),
    "classes with numbers": (["class_0/0.png", "class_1/0.png"], "class_0 and class_1"),
    "files that are called NG": (["a/OK_01.png", "a/NG_02.png", "a/NG_03.png"], "called ng (2)"),
    "masks of some images": (["0.png", "1.png", "0_mask.png"], "1 of 2 images"),
    "several categories": (
        ["nut/train/good/0.png", "nut/test/hole/0.png", "cap/train/ok/0.png", "cap/test/ok/0.png"],
        "several data sets: cap, nut",
    ),
    "several categories as VisA": (
        [
            "a/Data/Images/Normal/0.JPG",
            "a/Data/Images/Anomaly/0.JPG",
            "b/Data/Images/Normal/0.JPG",
            "b/Data/Images/Anomaly/0.JPG",
        ],
        "--each",
    ),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_what_is_in_doubt_is_not_learned_from(tree, name):
    paths, reason = DOUBTS[name]
    dataset = scan(tree(*paths))
    with pytest.raises(DataError) as error:
        dataset.training()
    assert reason in str(error.value)
    assert len(dataset.testing()) >= 1  # scoring is another matter


@pytest.mark.parametrize("name", ["defects", "NG", "masks"])
def test_the_name_of_the_folder_itself_counts(tree, name):
    folder = tree(f"{name}/0.png").joinpath(name)
    with pytest.raises(DataError, match="--kind-normal"):
        scan(folder).training()


def test_what_the_user_calls_normal_is_normal(tree):
    root = tree("misc/0.png", "misc/1.png", "tumour/0.png", "other/0.png")
    dataset = scan(root, kind_normal=["Misc"])
    assert {record.id for record in dataset.training()} <= {"misc/0.png", "misc/1.png"}
    known = {record.id: record.label for record in dataset.records}
    assert known == {"misc/0.png": 0, "misc/1.png": 0, "tumour/0.png": 1, "other/0.png": None}
    assert not any(r.split in ("", "train") for r in dataset.records if r.label != 0)
    with pytest.raises(DataError, match="misc"):
        scan(root, kind_normal=["mics"])


def test_a_normal_images_part_does_not_depend_on_other_images(tree):
    names = [f"Normal/{number}.jpg" for number in range(40)]
    masks = ["Bad/0.jpg", "Masks/Bad/0.png"]
    few = facts(scan(tree(*names[:10], *masks)))
    many = facts(scan(tree(*names, *masks)))
    assert few.items() <= many.items()
    tested = sum(each[:2] == ("test", 0) for each in many.values())
    assert 3 <= tested <= 14  # of 40, a fifth expected


def test_visa_is_split_by_its_table(tree):
    root = tree(
        "candle/Data/Images/Normal/0.JPG",
        "candle/Data/Images/Normal/1.JPG",
        "candle/Data/Images/Normal/2.JPG",
        "candle/Data/Images/Anomaly/0.JPG",
        "candle/Data/Masks/Anomaly/0.png",
        "split_csv/1cls.csv",
    )
    (root / "split_csv/1cls.csv").write_text(
        "object,split,label,image,mask\n"
        "candle,train,normal,candle/Data/Images/Normal/0.JPG,\n"
        "candle,test,normal,candle/Data/Images/Normal/1.JPG,\n"
        "candle,test,anomaly,candle/Data/Images/Anomaly/0.JPG,candle/Data/Masks/Anomaly/0.png\n"
        "pcb1,train,normal,pcb1/Data/Images/Normal/2.JPG,\n"
    )
    dataset = scan(root / "candle")
    assert facts(dataset) == {
        "Data/Images/Normal/0.JPG": ("train", 0, "normal"),
        "Data/Images/Normal/1.JPG": ("test", 0, "normal"),
        "Data/Images/Anomaly/0.JPG": ("test", 1, "anomaly", "Data/Masks/Anomaly/0.png"),
    }
    assert "1 × images that 1cls.csv does not list" in counted(reasons(dataset.passed_over))


def test_real_iad_is_split_by_its_table_and_views_of_a_sample_are_a_group(tree):
    files = [
        "OK/S0001/toy_0001_OK_C1.jpg",
        "OK/S0001/toy_0001_OK_C2.jpg",
        "NG/BX/S0002/toy_0002_NG_C1.jpg",
    ]
    root = tree(*(f"realiad_256/toy/{name}" for name in files), "realiad_jsons/toy.json")
    rows = [{"image_path": name, "anomaly_class": name.split("/")[-3]} for name in files]
    rows[0]["anomaly_class"] = rows[1]["anomaly_class"] = "OK"
    table = {"meta": {"normal_class": "OK", "prefix": "toy/"}, "train": rows[:2], "test": rows[2:]}
    (root / "realiad_jsons/toy.json").write_text(json.dumps(table))

    dataset = scan(root / "realiad_256/toy")
    assert facts(dataset) == {
        files[0]: ("train", 0, "OK"),
        files[1]: ("train", 0, "OK"),
        files[2]: ("test", 1, "BX"),
    }
    assert len({record.group for record in dataset.records}) == 2


def test_lights_of_an_object_in_mvtec_ad_2_are_a_group(tree):
    root = tree("test_public/good/004_regular.png", "test_public/good/004_overexposed.png")
    assert {record.group for record in scan(root).records} == {"test_public/good/004"}


def test_real_iad_without_its_table_has_masks_beside_its_images(tree, save_png):
    root = tree("OK/S0001/a.jpg", "OK/S0003/c.jpg", "NG/BX/S0002/b.jpg")
    Image.fromarray(MASK).save(root / "NG/BX/S0002/b.png")
    known = facts(scan(root))
    assert known["NG/BX/S0002/b.jpg"] == ("test", 1, "NG", "NG/BX/S0002/b.png")
    assert {known[name][1] for name in ("OK/S0001/a.jpg", "OK/S0003/c.jpg")} == {0}


def test_copies_of_an_image_in_another_format_are_no_masks(tree):
    root = tree("0.png", "0.tif", "1.png", "1.tif")
    assert len(scan(root).records) == 4


def test_nnunet_does_not_say_what_is_normal(tree):
    root = tree(
        "imagesTr/liver_001_0000.nii.gz",
        "imagesTr/liver_001_0001.nii.gz",
        "labelsTr/liver_001.nii.gz",
        "imagesTs/liver_002_0000.nii.gz",
        "dataset.json",
    )
    dataset = scan(root)
    assert facts(dataset) == {
        "imagesTr/liver_001_0000.nii.gz": ("train", None, "", "labelsTr/liver_001.nii.gz"),
        "imagesTs/liver_002_0000.nii.gz": ("test", None, ""),
    }
    assert "1 × further channels of nnU-Net's images" in counted(reasons(dataset.passed_over))
    with pytest.raises(DataError, match="--kind-normal imagesTr"):
        dataset.training()


def test_bids_subjects_are_groups_and_derivatives_are_passed_over(tree):
    root = tree(
        "dataset_description.json",
        "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "derivatives/fsl/sub-01/sub-01_T1w.nii.gz",
    )
    dataset = scan(root)
    assert [record.group for record in dataset.training()] == ["sub-01", "sub-01", "sub-02"]
    assert [record.study for record in dataset.training()] == ["ses-1", "ses-2", ""]
    assert "1 × derivatives of a BIDS data set" in counted(reasons(dataset.passed_over))

    tree("sub-02/anat/sub-02_FLAIR.nii.gz")
    with pytest.raises(DataError, match=r"flair \(1\), t1w \(3\)"):
        scan(root).training()
    assert [record.kind for record in scan(root, kind_normal=["T1w"]).training()] == ["t1w"] * 3


def test_a_folder_that_means_something_is_the_kind_of_a_chosen_sequence(tree):
    names = [f"{kind}/p{n}/p{n}_{s}.nii.gz" for kind in ("healthy", "a1", "tumour")
             for n in (1, 2) for s in ("t1w", "flair")]  # fmt: skip
    records = scan(tree(*names), kind_normal=["flair"]).records
    assert [record.kind for record in records] == ["flair"] * 2 + ["healthy"] * 2 + ["tumour"] * 2


def test_the_recipe_for_healthy_scans_takes_a_bids_folder(tree, tmp_path):
    """As in docs/volumes.md: 30 subjects, a few with two sessions, and what lies beside them."""
    names = ["dataset_description.json", "participants.tsv"]
    for number in range(1, 31):
        for session in ("ses-1", "ses-2")[: 1 + (number % 10 == 0)]:
            stem = f"sub-{number:02}/{session}/anat/sub-{number:02}_{session}"
            names += [f"{stem}_T1w.nii.gz", f"{stem}_FLAIR.nii.gz", f"{stem}_T1w.json"]
    root = tree(*names, "derivatives/fmriprep/sub-01/anat/sub-01_T1w.nii.gz")
    scan_of_any = nib.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4))
    nib.save(scan_of_any, tmp_path / "any.nii.gz")
    for path in root.rglob("*.nii.gz"):
        path.write_bytes((tmp_path / "any.nii.gz").read_bytes())

    found, uses = inspect(str(root), kind_normal=["T1w"]), Counter()
    for row in found.rows:
        uses[row.use] += row.count
        assert not row.problem
        is_used = not row.use.startswith("passed over")
        assert (row.sizes, row.kind) == (("10×10×10", "t1w") if is_used else ("", ""))
    assert uses["learn"] + uses["calibrate"] == 33
    assert 4 <= uses["calibrate"] <= 9
    assert found.passed_over["derivatives of a BIDS data set"] == 1
    assert not found.doubt
    assert "flair (33), t1w (33)" in inspect(str(root)).doubt

    parts, groups = split.assign(scan(root, kind_normal=["T1w"]).training()), []
    for part in (parts.fit, parts.tune, parts.calibrate):
        groups.append({record.group for record in part})
    assert set.union(*groups) == {f"sub-{number:02}" for number in range(1, 31)}
    assert sum(map(len, groups)) == 30


def test_sequences_of_one_patient_are_not_mixed_and_segmentations_are_truth(tree):
    root = tree(*(f"BraTS-{n}/BraTS-{n}-{s}.nii.gz" for n in (1, 2) for s in ("t1n", "t2f", "seg")))
    dataset = scan(root)
    assert {record.group for record in dataset.records} == {"BraTS-1", "BraTS-2"}
    assert all(len(record.masks) == 1 for record in dataset.records)
    with pytest.raises(DataError, match=r"t1n \(2\), t2f \(2\)"):
        dataset.training()
    chosen = scan(root, kind_normal=["t2f"]).training()
    assert [record.path.name for record in chosen] == ["BraTS-1-t2f.nii.gz", "BraTS-2-t2f.nii.gz"]


def test_what_anodetect_wrote_is_passed_over(tree):
    root = tree("0.png", "scores/audit.json", "scores/cases/0.png", "run/model.safetensors")
    dataset = scan(root)
    assert [record.id for record in dataset.records] == ["0.png"]
    text = counted(reasons(dataset.passed_over))
    assert "2 × in score directories of anodetect" in text
    assert "1 × in runs of anodetect" in text


def test_nothing_but_masks_is_said_so(tree):
    with pytest.raises(DataError, match="only 2 × masks and segmentations"):
        scan(tree("case/0_mask.png", "case/1_mask.png"))


def test_an_image_and_its_mask_in_a_folder_of_each_case(tree):
    known = facts(scan(tree("a/image.png", "a/mask.png", "b/image.png")))
    assert known == {"a/image.png": ("", None, "", "a/mask.png"), "b/image.png": ("", None, "")}


def test_masks_in_a_folder_named_for_the_kind(tree):
    known = facts(scan(tree("good/0.png", "bad/0.png", "bad_mask/0.png")))
    assert known["bad/0.png"] == ("test", 1, "bad", "bad_mask/0.png")
    known = facts(scan(tree("images/3.png", "lesion_masks/3.png")))
    assert known["images/3.png"][3:] == ("lesion_masks/3.png",)


def test_numbered_lots_and_names_of_studies_are_no_labels(tree):
    assert scan(tree("0/0.png", "1/0.png", "2/0.png")).doubt == ""
    root = tree("anomaly_detection/lot 1/0.png", "anomaly_detection/lot 2/0.png")
    assert scan(root / "anomaly_detection").doubt == ""


def test_what_a_manifest_does_not_list_is_counted(tree):
    root = tree("a.png", "b.png", "b_mask.png", "notes.txt", "manifest.csv")
    (root / "manifest.csv").write_text("path,mask\na.png,\nb.png,b_mask.png\n")
    tree("c.png")
    counts = reasons(scan(root).passed_over)
    assert counts == {
        "images and masks that the manifest does not list as images": 2,
        "no image that can be read (.txt)": 1,
        "no image that can be read (.csv)": 1,
    }
    with pytest.raises(DataError, match="leave --kind-normal out"):
        scan(root, kind_normal=["a"])


def pictures(root, *names, values=PIXELS):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(root / name)


# Folders whose names do not say that they hold masks; pixels do.
DRAWN = {
    "before": ("img_{}.png", "mask_{}.png"),
    "joined": ("img{}.png", "label{}.png"),
    "beside": ("{}.png", "{}_bw.png"),
    "folder": ("Bilder/{}.png", "Masken/{}.png"),
    "contour": ("images/{}.png", "contour/{}.png"),
    "manual": ("images/{}_training.tif", "1st_manual/{}_manual1.gif"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_what_pixels_show_to_be_a_drawing_is_no_image(tmp_path, name):
    image, mask = DRAWN[name]
    for number in range(4):
        pictures(tmp_path, image.format(f"{number:03}"))
        pictures(tmp_path, mask.format(f"{number:03}"), values=MASK)
    dataset = scan(tmp_path)
    assert sorted(record.id for record in dataset.records) == [
        image.format(f"{number:03}") for number in range(4)
    ]
    assert reasons(dataset.passed_over) == {"masks and segmentations": 4}
    if name != "manual":
        assert all(len(record.masks) == 1 for record in dataset.records)


def test_images_of_few_values_are_images_where_all_are(tmp_path):
    pictures(tmp_path, "a/0.png", "a/1.png", "b_/0.png", values=MASK)
    assert len(scan(tmp_path).records) == 3


def test_volumes_of_labels_are_no_images(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):
        for name, values in (
            ("brain", rng.integers(0, 3000, (12, 12, 12))),
            ("aparcish", rng.integers(0, 30, (12, 12, 12))),
        ):
            (tmp_path / f"p{number}").mkdir(exist_ok=True)
            volume = nib.Nifti1Image(values.astype(np.int16), np.eye(4))
            nib.save(volume, tmp_path / f"p{number}/{name}.nii.gz")
    dataset = scan(tmp_path)
    assert {record.path.name for record in dataset.records} == {"brain.nii.gz"}
    assert reasons(dataset.passed_over) == {"masks and segmentations": 3}


def test_an_anomalous_name_below_a_normal_one_counts(tree):
    known = facts(
        scan(tree("train/good/lot1/0.png", "train/good/lot1/rejected/0.png", "test/0.png"))
    )
    assert known["train/good/lot1/0.png"][1] == 0
    assert known["train/good/lot1/rejected/0.png"][1] == 1


def test_folders_above_the_parts_are_no_kinds(tree):
    root = tree(
        "OCT2017/train/NORMAL/0.png", "OCT2017/test/NORMAL/1.png", "OCT2017/test/DRUSEN/0.png"
    )
    known = facts(scan(root))
    assert known["OCT2017/test/DRUSEN/0.png"] == ("test", 1, "DRUSEN")


def test_a_blank_mask_says_normal_where_no_folder_does(tmp_path):
    """As KolektorSDD2 is distributed: every image has a mask, most are blank."""
    for part in ("train", "test"):
        for number in range(3):
            pictures(tmp_path, f"{part}/{number}.png")
            drawn = MASK if number == 2 else 0 * MASK
            pictures(tmp_path, f"{part}/{number}_GT.png", values=drawn)
    dataset = scan(tmp_path)
    labels = {record.id: record.label for record in dataset.records}
    assert [labels[f"test/{number}.png"] for number in range(3)] == [0, 0, 1]
    assert sorted(record.id for record in dataset.training()) == ["train/0.png", "train/1.png"]


def test_a_product_that_is_called_a_mask_is_one(tree):
    known = facts(scan(tree("face_mask/train/good/0.png", "face_mask/test/torn/0.png")))
    assert set(known) == {"face_mask/train/good/0.png", "face_mask/test/torn/0.png"}


def test_a_product_that_is_called_a_mask_is_one_beside_others(tmp_path):
    pictures(tmp_path, "face_mask/train/good/0.png", "face_mask/test/torn/0.png")
    pictures(tmp_path, "bottle/train/good/0.png", "bottle/test/x/0.png")
    assert scan(tmp_path).categories == ("bottle", "face_mask")


def test_a_blank_mask_of_the_train_part_is_not_learned_from(tmp_path):
    for number in range(3):
        pictures(tmp_path, f"parts/train/{number}.png")
        pictures(tmp_path, f"masks/train/{number}.png", values=np.zeros((16, 16), np.uint8))
    learned = {record.id for record in scan(tmp_path).training()}
    assert learned == {f"parts/train/{number}.png" for number in range(3)}


def test_small_copies_and_depth_beside_colours_are_passed_over(tree):
    root = tree("a.jpg", "a_thumb.jpg", "0/RGB/0.png", "0/XYZ/0.tif", "b_depth.png", "b.png")
    assert {record.id for record in scan(root).records} == {"a.jpg", "0/RGB/0.png", "b.png"}


def test_the_truth_of_the_test_part_stays_when_normals_are_named(tree):
    root = tree("train/good/0.png", "test/good/0.png", "test/zz/0.png")
    known = facts(scan(root, kind_normal=["good"]))
    assert known["test/zz/0.png"] == ("test", 1, "zz")


def test_subjects_keep_their_groups_in_folders_of_sequences(tree):
    root = tree("IXI-T1/001-T1.nii.gz", "IXI-T1/002-T1.nii.gz", "IXI-T2/001-T2.nii.gz")
    records = scan(root, kind_normal=["t1"]).training()
    assert len({record.group for record in records}) == 2


def test_sequences_are_told_by_folders_and_within_names(tree):
    for names in (["T1/a.nii.gz", "T2/a.nii.gz"], ["P1_T1_brain.nii.gz", "P1_T2_brain.nii.gz"]):
        with pytest.raises(DataError, match=r"t1 \(1\), t2 \(1\)"):
            scan(tree(*names)).training()
        for name in names:
            tree(name).joinpath(name).unlink()


def test_pictures_beside_volumes_are_not_learned_from_with_them(tree):
    root = tree("a/0.nii.gz", "a/preview.png")
    with pytest.raises(DataError, match="1 single image beside 1 volume"):
        scan(root).training()
