"""Every data card is complete, and a card's name leads to its data."""

import json
import re
import shlex

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from anodetect.data import cards
from anodetect.errors import AnodetectError, DataError

EXPECTED = {
    *("elpv", "magnetic_tile", "lgg_flair", "mvtec_ad", "bmad", "medmnist_plus", "mvtec_ad_2"),
    *("mvtec_loco", "mvtec_3d_ad", "visa", "btad", "real_iad", "brats", "ixi", "fastmri_plus"),
}
PAGES = cards.all_pages()


def test_the_cards_that_are_promised_are_there():
    assert set(PAGES) >= EXPECTED


@pytest.mark.parametrize("name", sorted(PAGES))
def test_card_is_complete(name):
    card = PAGES[name].card
    for key in (
        "title",
        "purpose",
        "origin",
        "citation",
        "licence",
        "obtain",
        "layout",
        "normal",
        "splits",
        "groups",
        "images",
    ):
        assert len(getattr(card, key)) > 10, key
    assert len(card.known_biases) >= 3
    assert card.folder or card.package
    assert PAGES[name].text
    if not card.baselines:
        assert "baselines were not measured" in PAGES[name].text
    for baseline in card.baselines:
        assert baseline.variant in ("", *card.variants)
        assert baseline.image_auroc is None or 0 <= baseline.image_auroc <= 1


def test_card_files_are_named_after_their_cards():
    assert {path.stem for path in cards.cards_folder().glob("*.md")} == set(PAGES)


def test_an_unknown_key_in_a_card_is_refused(tmp_path):
    text = (cards.cards_folder() / "elpv.md").read_text().replace("licence =", "license =", 1)
    (tmp_path / "elpv.md").write_text(text)
    with pytest.raises(AnodetectError, match="did you mean 'licence'"):
        cards.read_page(tmp_path / "elpv.md")


def test_elpv_split_is_the_cards(request):
    pytest.importorskip("elpv_dataset", reason="the demo extra is not installed")
    mono, poly = cards.open_data("elpv:mono"), cards.open_data("elpv:poly")
    counts = {
        name: (
            len(data.training()),
            sum(r.label == 0 for r in data.testing()),
            sum(r.label == 1 for r in data.testing()),
        )
        for name, data in (("mono", mono), ("poly", poly))
    }
    assert counts == {"mono": (462, 126, 313), "poly": (741, 179, 402)}
    assert all(record.path.is_file() for record in mono.records)


def test_sets_that_are_not_here_say_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv(cards.HOME, str(tmp_path))
    with pytest.raises(DataError, match=r"bmad is not here.*Follow the instructions"):
        cards.open_data("bmad:brain")


def test_home_folder_is_used(monkeypatch, synthetic_folder):
    synthetic_folder.parent.joinpath("mvtec_ad").mkdir(exist_ok=True)
    link = synthetic_folder.parent / "mvtec_ad/tile"
    link.exists() or link.symlink_to(synthetic_folder, target_is_directory=True)
    monkeypatch.setenv(cards.HOME, str(synthetic_folder.parent))
    dataset = cards.open_data("mvtec_ad:tile")
    assert dataset.name == "mvtec_ad:tile"
    assert len(dataset.training()) == 60


# -- The layouts that cards name -------------------------------------------------------------------


def png(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)


def nifti(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), path)


def volumes(root, *names):
    for name in names:
        nifti(root / name)


def images(root, *names):
    for name in names:
        png(root / name)


def visa(root):
    images(root, "candle/Data/Images/Normal/0000.JPG", "candle/Data/Images/Normal/0001.JPG")
    images(root, "candle/Data/Images/Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png")
    (root / "split_csv").mkdir()
    lines = ["object,split,label,image,mask"]
    for split, label, name, mask in (
        ("train", "normal", "Normal/0000.JPG", ""),
        ("test", "normal", "Normal/0001.JPG", ""),
        ("test", "anomaly", "Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png"),
    ):
        lines.append(f"candle,{split},{label},candle/Data/Images/{name},{mask}")
    (root / "split_csv/1cls.csv").write_text("\n".join(lines))


def real_iad(root):
    views = [f"audiojack/OK/S0001/audiojack_0001_OK_C{view}_1.jpg" for view in (1, 2)]
    bad = "audiojack/NG/HS/S0007/audiojack_0007_NG_C1_1"
    images(root, *views, f"{bad}.jpg", f"{bad}_mask.png")
    entries = {
        "meta": {"normal_class": "OK"},
        "train": [
            {"image_path": view.removeprefix("audiojack/"), "anomaly_class": "OK"} for view in views
        ],
        "test": [{"image_path": f"{bad.removeprefix('audiojack/')}.jpg", "anomaly_class": "HS"}],
    }
    place = root.parent / "realiad_jsons/realiad_jsons"
    place.mkdir(parents=True)
    (place / "audiojack.json").write_text(json.dumps(entries))


def fastmri_plus(root):
    volumes(root, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    lines = ["path,split,label,kind,group", "a.nii.gz,train,0,,a", "b.nii.gz,test,0,,b"]
    lines.append("c.nii.gz,test,1,Meniscus Tear,c")
    (root / "manifest.csv").write_text("\n".join(lines))


def mvtec(root, category, test="test", masks="ground_truth"):
    """The layout of MVTec AD and of its kin."""
    images(root / category, "train/good/000.png", f"{test}/good/000.png", f"{test}/bad/000.png")
    png(root / category / masks / "bad/000_mask.png")


def mvtec_ad_2(root):
    mvtec(root, "can", "test_public", "test_public/ground_truth")
    images(root / "can", "validation/good/001_regular.png", "validation/good/001_shift_1.png")
    png(root / "can/test_private/000_regular.png")


def mvtec_loco(root):
    images(root / "pushpins", "train/good/000.png", "validation/good/000.png", "test/good/000.png")
    images(root / "pushpins", "test/logical_anomalies/000.png")
    for number in range(2):
        png(root / f"pushpins/ground_truth/logical_anomalies/000/{number:03}.png")


def mvtec_3d_ad(root):
    for part in ("train/good", "validation/good", "test/good", "test/hole"):
        images(root / "bagel" / part, "rgb/000.png", "xyz/000.tiff", "gt/000.png")


def btad(root):
    images(root / "01", "train/ok/0000.bmp", "test/ok/0000.bmp", "test/ko/0000.bmp")
    png(root / "01/ground_truth/ko/0000.png")


def bmad(root):
    brain = root / "brain"
    images(brain, "train/good/img/00003_60.png", "valid/good/img/00025_99.png")
    images(brain, "valid/Ungood/img/00124_60.png", "valid/Ungood/label/00124_60.png")
    images(brain, "test/good/img/00000_96.png", "test/Ungood/img/00002_60.png")
    png(brain / "test/Ungood/label/00002_60.png")


# What is written, which variant is opened, and of that: how many images there are to learn from, to
# test with that are normal and anomalous, and the masks of the anomalous ones.
LAYOUTS = {
    "mvtec_ad": (lambda root: mvtec(root, "bottle"), "bottle", (1, 1, 1), [1]),
    "mvtec_ad_2": (mvtec_ad_2, "can", (3, 1, 1), [1]),
    "mvtec_loco": (mvtec_loco, "pushpins", (2, 1, 1), [2]),
    "mvtec_3d_ad": (mvtec_3d_ad, "bagel", (2, 1, 1), [1]),
    "visa": (visa, "candle", (1, 1, 1), [1]),
    "btad": (btad, "01", (1, 1, 1), [1]),
    "real_iad": (real_iad, "audiojack", (2, 0, 1), [1]),
    "bmad": (bmad, "brain", (2, 1, 1), [1]),
    "ixi": (
        lambda root: volumes(root, *(f"IXI-T1/IXI{n:03}-HH-{n}-T1.nii.gz" for n in (2, 12, 13))),
        "IXI-T1",
        (3, 0, 0),
        [],
    ),
    "fastmri_plus": (fastmri_plus, "", (1, 1, 1), [0]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_a_card_names_is_recognised_in_its_own_layout(monkeypatch, tmp_path, name):
    write, variant, counts, masks = LAYOUTS[name]
    card = PAGES[name].card
    write(tmp_path / card.folder)
    monkeypatch.setenv(cards.HOME, str(tmp_path))

    data = cards.open_data(f"{name}:{variant}" if variant else name)
    tested = [record for record in data.labelled() if record.split == "test"]
    normal = [record for record in tested if record.label == 0]
    anomalous = [record for record in tested if record.label == 1]
    assert not data.doubt
    assert (len(data.training()), len(normal), len(anomalous)) == counts
    assert [len(record.masks) for record in anomalous] == masks


def test_pictures_of_one_object_are_a_group_where_the_cards_say_so(monkeypatch, tmp_path):
    real_iad(tmp_path / PAGES["real_iad"].card.folder)
    mvtec_ad_2(tmp_path / PAGES["mvtec_ad_2"].card.folder)
    monkeypatch.setenv(cards.HOME, str(tmp_path))
    groups = [record.group for record in cards.open_data("real_iad:audiojack").training()]
    assert groups == ["OK/S0001"] * 2
    lights = cards.open_data("mvtec_ad_2:can").training()
    assert len({record.group for record in lights if "validation" in record.id}) == 1


def test_nothing_is_learned_from_patients_with_a_tumour(monkeypatch, tmp_path):
    """A folder of BraTS holds no healthy person; with the manifest that its card asks for it is a
    test."""
    root = tmp_path / PAGES["brats"].card.folder
    for number in (0, 2):
        patient = f"BraTS2021_{number:05}"
        for end in ("flair", "t1", "t1ce", "t2", "seg"):
            nifti(root / patient / f"{patient}_{end}.nii.gz")
    monkeypatch.setenv(cards.HOME, str(tmp_path))
    assert "several kinds" in cards.open_data("brats").doubt

    lines = ["path,split,label,mask,group"]
    for folder in sorted(root.iterdir()):
        start = f"{folder.name}/{folder.name}"
        lines.append(f"{start}_flair.nii.gz,test,1,{start}_seg.nii.gz,{folder.name}")
    (root / "manifest.csv").write_text("\n".join(lines))
    data = cards.open_data("brats")
    assert data.training() == []
    assert [(r.label, r.group, len(r.masks)) for r in data.labelled()] == [
        (1, "BraTS2021_00000", 1),
        (1, "BraTS2021_00002", 1),
    ]


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_command_of_a_card_trains_on_a_card(name):
    """It is one command, and its data set is one that the named card has."""
    start, command, data, *options = shlex.split(PAGES[name].card.command)
    assert (start, command, options) == ("anodetect", "train", ["--out", "RUN"])
    other, _, variant = data.partition(":")
    assert other == (name if name != "brats" else "bmad")
    variants = PAGES[other].card.variants
    assert variant in variants if variants else not variant


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_checksum_is_one_and_has_a_source(name):
    card = PAGES[name].card
    if card.checksum:
        assert re.fullmatch(r"(SHA-256 [0-9a-f]{64}|MD5 [0-9a-f]{32}) of [\w.]+", card.checksum)
        assert "hecksum" in " ".join(card.sources)
