import os

import numpy as np
import pytest

from anodetect.data.scan import scan
from anodetect.data.walk import walk
from anodetect.errors import DataError

PIXELS = np.zeros((16, 16), np.uint8)


def manifest(folder, *lines):
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


def test_plain_folder_is_read_recursively_in_order(tmp_path, save_png):
    for name in ("b/2.png", "a/1.png", "c.PNG"):
        save_png(name, PIXELS)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    dataset = scan(tmp_path)
    assert [record.id for record in dataset.records] == ["c.PNG", "a/1.png", "b/2.png"]
    assert {record.group for record in dataset.records} == {record.id for record in dataset.records}
    assert len(dataset.training()) == 3
    assert dataset.labelled() == []


def test_mvtec_layout(tmp_path, save_png):
    for name in (
        "train/good/0.png",
        "test/good/1.png",
        "test/hole/2.png",
        "test/hole/3.png",
        "ground_truth/hole/2_mask.png",
    ):
        save_png(name, PIXELS)
    records = {record.id: record for record in scan(tmp_path).records}
    assert set(records) == {
        "train/good/0.png",
        "test/good/1.png",
        "test/hole/2.png",
        "test/hole/3.png",
    }
    assert records["test/hole/2.png"].masks == (tmp_path / "ground_truth/hole/2_mask.png",)
    assert records["test/hole/3.png"].masks == ()
    assert [records[name].label for name in sorted(records)] == [0, 1, 1, 0]
    assert records["test/hole/2.png"].kind == "hole"


def test_manifest_wins_over_folder_names(tmp_path, save_png):
    save_png("test/good/0.png", PIXELS)
    save_png("x/1.png", PIXELS)
    manifest(
        tmp_path,
        "path,split,label,kind,group,site",
        "x/1.png,train,0,good,p1,north",
        "test/good/0.png,test,1,odd,p2,south",
    )
    dataset = scan(tmp_path)
    assert [(r.id, r.split, r.label, r.group, dict(r.extra)) for r in dataset.records] == [
        ("x/1.png", "train", 0, "p1", {"site": "north"}),
        ("test/good/0.png", "test", 1, "p2", {"site": "south"}),
    ]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["name,split", "a.png,train"], "no column 'path'"),
        (["path,split", "a.png,training"], "neither 'train' nor 'test'"),
        (["path,label", "a.png,2"], "neither 0"),
        (["path,split,label", "a.png,train,1"], "normals only"),
        (["path", "a.png", "a.png"], "listed twice"),
        (["path", "../a.png"], "out of the folder"),
        (["path,mask", "a.png,/etc/passwd"], "out of the folder"),
        (["path,split", "a.png"], "fields"),
        (["path", "a.png", "./a.png"], "listed twice"),
        (["path,path", "a.png,b.png"], "occurs twice"),
    ],
)
def test_manifest_errors_name_the_line(tmp_path, lines, reason):
    manifest(tmp_path, *lines)
    with pytest.raises(DataError, match=reason):
        scan(tmp_path)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_nothing_to_read(tmp_path, make):
    make(tmp_path / "folder")
    with pytest.raises(DataError):
        scan(tmp_path / "folder")


def test_symlink_loops_end_and_outward_links_are_reported(tmp_path, save_png):
    save_png("inside/a.png", PIXELS)
    outside = save_png("outside.png", PIXELS)
    folder = tmp_path / "inside"
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "out.png").symlink_to(outside)
    walked = walk(folder)
    found, problems = walked.files, walked.problems
    assert [path.name for path in found] == ["a.png"]
    assert [problem.name for problem in problems] == ["loop", "out.png"]
    assert all("--follow-symlinks" in problem.reason for problem in problems)
    walked = walk(folder, follow_symlinks=True)
    found, problems = walked.files, walked.problems
    assert sorted(path.name for path in found) == ["a.png", "out.png"]
    assert problems == []


def test_names_that_are_not_utf8_become_printable(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9 %,\n.png"
    with open(path, "wb") as file:  # noqa: PTH123 — pathlib has no bytes
        file.write(b"x")
    assert [record.id for record in scan(tmp_path).records] == ["caf%E9 %25,%0A.png"]


def test_a_link_to_itself_and_a_linked_folder_are_no_tracebacks(tmp_path, save_png):
    save_png("in/a.png", PIXELS)
    save_png("elsewhere/b.png", PIXELS)
    (tmp_path / "in/loop.png").symlink_to(tmp_path / "in/loop.png")
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    walked = walk(tmp_path / "in")
    found, problems = walked.files, walked.problems
    assert [path.name for path in found] == ["a.png", "loop.png"]
    assert [problem.name for problem in problems] == ["linked"]


def test_hidden_folders_are_no_kinds(tmp_path, save_png):
    for name in ("test/good/1.png", "test/.ipynb_checkpoints/2.png"):
        save_png(name, PIXELS)
    assert [record.id for record in scan(tmp_path).records] == ["test/good/1.png"]
