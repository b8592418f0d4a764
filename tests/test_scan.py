import os
import unicodedata

import nibabel as nib
import nrrd
import numpy as np
import pytest

from anodetect.data.manifest import manifest_of
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
        (["path", "a.png", "a.png"], "listed twice"),
        (["path", "../a.png"], "out of the folder"),
        (["path,mask", "a.png,/etc/passwd"], "out of the folder"),
        (["path,split", "a.png"], "line 2: 1 field, but the header has 2"),
        (["path", "a.png", "./a.png"], "listed twice"),
        (["path,path", "a.png,b.png"], "occurs twice"),
        (["path,Path ", "a.png,b.png"], "occurs twice"),
        (["path,Site,site", "a.png,b,c"], "occurs twice"),
        (["path,,split", "a.png,odd,train"], "'odd' stands in a column without a name"),
        (["path,split", "", ",,", "a.png,both"], "line 4: split 'both'"),
        (["path,kind,split", 'a.png,"two', 'lines",train', "b.png,c,both"], "line 4: split 'both'"),
        (["path,label", "a.png,maybe"], "line 2: label 'maybe' is neither 0"),
        (["path,label", "a.png,2"], "line 2: label '2' is neither 0"),
        (["path", r"..\a.png"], "out of the folder"),
        (["path", r"C:\images\a.png"], "out of the folder"),
        (["path", r"\\server\a.png"], "out of the folder"),
        (["split,path", "train,"], "line 2: no path"),
        (["path,lables", "a.png,0"], "'lables' is not known; did you mean 'label'"),
        (["path;Spilt", "a.png;train"], "'Spilt' is not known; did you mean 'split'"),
        (["path\tgrp", "a.png\tp1"], "'grp' is not known; did you mean 'group'"),
        (["path,masks", "a.png,m.png"], "'masks' is not known; did you mean 'mask'"),
        (["path,forground", "a.png,m.png"], "'forground' is not known; did you mean 'foreground'"),
        (["path,kinds", "a.png,m"], "did you mean 'kind'"),
        (["path,lable", "a.png,m"], "did you mean 'label'"),
        (["path,componant", "a.png,0"], "did you mean 'component'"),
        (["path,component", "a.png,0"], "line 2: a.png is an image"),
    ],
)
def test_manifest_errors_name_the_line(tmp_path, lines, reason):
    manifest(tmp_path, *lines)
    with pytest.raises(DataError, match=reason):
        scan(tmp_path)


@pytest.mark.parametrize("line", ["a.png,train,1", "a.png,Train ,NG"])
def test_anomalies_in_the_train_part_are_learned_from_on_request_only(tmp_path, line):
    manifest(tmp_path, "path,split,label", line, "b.png,train,0", "c.png,test,1", "d.png,,1")
    plain, asked = scan(tmp_path), scan(tmp_path, known_anomalies=True)
    with pytest.raises(DataError, match=r"line 2: 'a\.png' is anomalous .*normals only"):
        plain.training()
    assert plain.anomalies() == []
    assert [record.id for record in asked.training()] == ["b.png"]
    assert [record.id for record in asked.anomalies()] == ["a.png"]
    for dataset in (plain, asked):
        assert [record.id for record in dataset.labelled()] == ["c.png", "d.png"]


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


def listed(folder):
    return [(r.id, r.split, r.label, r.group) for r in scan(folder).records]


LISTED = [("a/0.png", "train", 0, "p1"), ("a/1.png", "test", 1, "p2")]


@pytest.mark.parametrize(
    "text",
    [
        "path, split, label, group\na/0.png, train, 0, p1\na/1.png, test, 1, p2\n",
        "Path,SPLIT,Label,Group\na/0.png,Train,Normal,p1\na/1.png,TEST,ANOMALOUS,p2\n",
        "\ufeffpath;split;label;group\r\na/0.png;train;good;p1\r\na/1.png;test;NG;p2\r\n",
        "path\tsplit\tlabel\tgroup\na/0.png\ttrain\tOK\tp1\na/1.png\ttest\tdefect\tp2\n",
        "sep=;\npath;split;label;group\na/0.png;train;0;p1\na/1.png;test;1;p2\n",
        "path,split,label,group\n\n,,,\na/0.png,train,0.0,p1\n ; , , ,\n".replace(" ;", "")
        + "a/1.png,test,1.0,p2\n,,,\n,,,",
        "path,split,label,group,,\na/0.png,train,0,p1,,\na/1.png,test,1,p2\t,,,,\n",
        "path,split,label,group\na\\0.png,train,0,p1\n.\\a\\1.png,test,1,p2\n",
        '"path","split","label","group"\n"a/0.png", "train", "0", "p1"\n"a/1.png",test,1,p2\n',
        "\n\npath,split,label,group\ra/0.png,train,0,p1\ra/1.png,test,1,p2\r",
    ],
)
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
def test_a_manifest_as_people_and_spreadsheets_write_it(tmp_path, save_png, text, encoding):
    for name in ("a/0.png", "a/1.png"):
        save_png(name, PIXELS)
    (tmp_path / "manifest.csv").write_bytes(text.removeprefix("\ufeff").encode(encoding))
    if text.startswith("\ufeff"):
        (tmp_path / "manifest.csv").write_bytes(text.encode("utf-8"))
    assert listed(tmp_path) == LISTED


def test_quoted_separators_and_newlines_stay_in_a_value(tmp_path):
    manifest(tmp_path, "path,kind,note", '"a, b.png","one', 'two","x;y"', "c.png,,")
    first, second = scan(tmp_path).records
    assert (first.id, first.kind, first.extra) == ("a, b.png", "one\ntwo", {"note": "x;y"})
    assert second.id == "c.png"


def test_other_columns_keep_their_names(tmp_path):
    names = ("Site", "scanner", "age", "lot", "lab", "comment", "task", "grade", "level", "batch")
    manifest(tmp_path, f"path,Acquired,{','.join(names)}", "a.png" + ",1" * 11)
    (record,) = scan(tmp_path).records
    assert record.extra == {"acquired": "1"} | dict.fromkeys(names, "1")


def test_a_column_beside_the_one_it_resembles_is_another(tmp_path):
    manifest(tmp_path, "path,label,labels", "a.png,1,scratch")
    (record,) = scan(tmp_path).records
    assert (record.label, record.extra) == (1, {"labels": "scratch"})


def test_a_manifest_that_is_neither_utf8_nor_utf16_names_the_line(tmp_path):
    (tmp_path / "manifest.csv").write_bytes("path\na.png\nb\u00e9.png\n".encode("cp1252"))
    with pytest.raises(DataError, match="line 3: not UTF-8; save it as CSV UTF-8"):
        scan(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le"])
def test_a_manifest_with_nul_characters_names_the_line(tmp_path, encoding):
    (tmp_path / "manifest.csv").write_bytes("path\na.png\nb\0.png\n".encode(encoding))
    with pytest.raises(DataError, match="line 3: holds a NUL character"):
        scan(tmp_path)
    (tmp_path / "manifest.csv").write_bytes(bytes(200))
    with pytest.raises(DataError, match="line 1: holds a NUL character"):
        scan(tmp_path)


@pytest.mark.parametrize(("on_disk", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_put_together_otherwise_name_the_same_file(tmp_path, save_png, on_disk, written):
    disk = unicodedata.normalize(on_disk, "s\u00fcd/t\u00e9st.png")
    save_png(disk, PIXELS)
    save_png(unicodedata.normalize(on_disk, "m/\u00fc.png"), PIXELS)
    line = unicodedata.normalize(written, "s\u00fcd\\t\u00e9st.png,m\\\u00fc.png")
    manifest(tmp_path, "path,mask", line)
    (record,) = scan(tmp_path).records
    assert record.id == disk
    assert record.path.is_file()
    assert record.masks[0].is_file()


def test_a_backslash_in_a_name_on_the_disk_is_kept(tmp_path, save_png):
    save_png("a\\b.png", PIXELS)
    manifest(tmp_path, "path", r"a\b.png")
    assert [record.id for record in scan(tmp_path).records] == [r"a\b.png"]


@pytest.mark.parametrize("name", ["Manifest.csv", "MANIFEST.CSV", "manifest.csv"])
def test_the_manifest_is_found_in_any_case(tmp_path, save_png, name):
    save_png("a.png", PIXELS)
    (tmp_path / name).write_text("path,label\na.png,1\n")
    assert [record.label for record in scan(tmp_path).records] == [1]
    assert manifest_of(tmp_path) == tmp_path / name


def test_two_manifests_are_refused_by_name(tmp_path):
    for name in ("Manifest.csv", "manifest.csv"):
        (tmp_path / name).write_text("path\na.png\n")
    with pytest.raises(DataError, match=r"Manifest.csv and manifest.csv: two manifests"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("shape", "component", "reason"),
    [
        ((8, 9, 10), 0, "holds one volume"),
        ((8, 9, 10, 3), 2, ""),
        ((8, 9, 10, 3), 3, "no component 3 in a file of 3"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_component_is_of_a_file_with_several_volumes(tmp_path, shape, component, reason, suffix):
    path, values = tmp_path / f"v{suffix}", np.zeros(shape, np.int16)
    if suffix == ".nrrd":
        directions = np.vstack([np.eye(3), np.full((len(shape) - 3, 3), np.nan)])
        header = {"space": "left-posterior-superior", "space directions": directions}
        nrrd.write(str(path), values, header)
    else:
        nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    manifest(tmp_path, "path,component", f"{path.name},{component}")
    if not reason:
        assert scan(tmp_path).records[0].component == component
        return
    with pytest.raises(DataError, match=f"line 2: .*{reason}"):
        scan(tmp_path)


# -- Columns of other names ------------------------------------------------------------------------


def table(folder, header, *rows):
    """Write a manifest of images a.png, b.png …, with one row of further values for each."""
    lines = [f"{chr(97 + number)}.png,{row}" for number, row in enumerate(rows)]
    manifest(folder, f"path,{header}", *lines)


@pytest.mark.parametrize(
    ("header", "rows", "name"),
    [
        ("class", ("good", "bad"), "label"),
        ("Quality check", ("OK", "", "NOK"), "label"),
        ("target", ("0", "1"), "label"),
        ("y", ("0", "0"), "label"),
        ("is_anomaly", ("False", "True"), "label"),
        ("defective", ("0", "1"), "label"),
        ("abnormal", ("0.0", "1.0"), "label"),
        ("ground_truth_label", ("0", "1"), "label"),
        ("has defect,split", ("0,train", "1,test"), "label"),
        ("class", ("good", "hole"), "kind"),
        ("set", ("train", "test"), "split"),
        ("Subset,label", ("Training,0", "testing,1"), "split"),
        ("phase", ("train", "val"), "split"),
        ("partition", ("valid", "validation"), "split"),
        ("fold", ("train", "train"), "split"),
        ("part", ("", "test"), "split"),
        ("use of it", ("train", "test"), "split"),
    ],
)
def test_a_column_of_labels_or_parts_by_another_name_is_refused(tmp_path, header, rows, name):
    table(tmp_path, header, *rows)
    column = header.split(",")[0]
    with pytest.raises(DataError, match=f"the column {column!r} holds .*call it {name!r}"):
        scan(tmp_path)


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("class,label", ("good,0", "bad,1")),
        ("contrast,label", ("yes,", "no,")),
        ("fold,set", ("1,north", "2,south")),
        ("site,rater", ("dev,1", "dev,0")),
        ("set,split", ("train,train", "test,test")),
        ("diagnosis", ("", "")),
    ],
)
def test_other_columns_stay_what_they_are(tmp_path, header, rows):
    table(tmp_path, header, *rows)
    own = {"label", "split"}
    names = [name for name in header.split(",") if name not in own]
    assert [list(record.extra) for record in scan(tmp_path).records] == [names, names]


@pytest.mark.parametrize(
    ("kinds", "labels"),
    [
        (("good", "scratch", "hole", ""), [0, 1, 1, None]),
        (("OK", "bad", "good"), [0, 1, 0]),
        (("scratch", "wood", "wood"), [1, None, None]),
        (("metal", "wood"), [None, None]),
    ],
)
def test_without_labels_kinds_say_what_is_normal(tmp_path, kinds, labels):
    table(tmp_path, "kind", *kinds)
    dataset = scan(tmp_path)
    assert [record.label for record in dataset.records] == labels
    assert [record.label for record in dataset.training()] == [each for each in labels if each != 1]
    table(tmp_path, "kind,split", *(f"{kind},test" for kind in kinds))
    assert [record.label for record in scan(tmp_path).records] == labels
    table(tmp_path, "kind,label", *(f"{kind}," for kind in kinds))
    assert [record.label for record in scan(tmp_path).records] == [None] * len(kinds)


def test_a_kind_that_is_anomalous_is_refused_in_the_train_split(tmp_path):
    table(tmp_path, "kind,split", "good,train", "hole,train")
    with pytest.raises(DataError, match=r"line 3: 'b.png' is anomalous \(kind 'hole'\) but in the"):
        scan(tmp_path).training()


def test_labels_that_are_true_or_false(tmp_path):
    table(tmp_path, "label", "FALSE", "TRUE", "false", "True")
    assert [record.label for record in scan(tmp_path).records] == [0, 1, 0, 1]


@pytest.mark.parametrize("split", ["val", "valid", "validation", "Training"])
def test_other_words_for_the_split_say_what_to_write(tmp_path, split):
    table(tmp_path, "split", split)
    with pytest.raises(DataError, match=r"line 2: .*write train for normals .*, test for all othe"):
        scan(tmp_path)


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_first_column_that_numbers_the_lines_is_left_out(tmp_path, separator):
    lines = [",path,label", "0,a.png,0", "1,b.png,1"]
    manifest(tmp_path, *(line.replace(",", separator) for line in lines))
    records = scan(tmp_path).records
    assert [(r.id, r.label, r.extra) for r in records] == [("a.png", 0, {}), ("b.png", 1, {})]
    manifest(tmp_path, ",path,label", "0,a.png,0", "5,b.png,1")
    with pytest.raises(DataError, match="line 3: '5' stands in a column without a name"):
        scan(tmp_path)


@pytest.mark.parametrize("value", ["nan", "NaN", "None", "-", "NULL"])
def test_masks_that_programs_write_as_empty_are_none(tmp_path, value):
    table(tmp_path, "mask,foreground", f"{value},{value}")
    (record,) = scan(tmp_path).records
    assert (record.masks, record.foreground) == ((), None)


@pytest.mark.parametrize("value", ["nan", "None", "NULL", "-", "<NA>"])
def test_empty_values_that_programs_write_are_no_names(tmp_path, value):
    table(tmp_path, "group,kind,split,component", *[",".join([value] * 4)] * 2)
    records = scan(tmp_path).records
    assert [(r.group, r.kind, r.split) for r in records] == [("a.png", "", ""), ("b.png", "", "")]


def test_a_label_that_is_missing_is_unknown_and_none_is_refused(tmp_path):
    table(tmp_path, "label", "NaN", "0", "1")
    assert [record.label for record in scan(tmp_path).records] == [None, 0, 1]
    table(tmp_path, "label", "none", "1")
    with pytest.raises(DataError, match="label 'none' is neither 0"):
        scan(tmp_path)


@pytest.mark.parametrize("column", ["is_test", "train", "in_train", "Test set"])
@pytest.mark.parametrize("values", [("0", "1"), ("yes", "no"), ("True", "False"), ("", "x")])
def test_columns_that_say_which_images_are_in_a_part_are_refused(tmp_path, column, values):
    table(tmp_path, column, *values)
    with pytest.raises(DataError, match=f"{column!r} says which images are in a part"):
        scan(tmp_path)
    table(tmp_path, f"{column},split", *(f"{value},train" for value in values))
    assert len(scan(tmp_path).training()) == 2


@pytest.mark.parametrize("column", ["class", "target", "defects", "n_defects"])
def test_numbers_of_classes_and_of_defects_are_refused(tmp_path, column):
    table(tmp_path, column, "0", "2", "3")
    with pytest.raises(DataError, match=f"{column!r} holds labels"):
        scan(tmp_path)
    table(tmp_path, column, "12.5", "2", "3")
    assert len(scan(tmp_path).training()) == 3


def test_what_a_table_without_paths_begins_with_is_said(tmp_path):
    manifest(tmp_path, "a.png train", "b.png train")
    with pytest.raises(DataError, match=r"no column 'path'; its first line is 'a\.png train'"):
        scan(tmp_path)


@pytest.mark.parametrize("name", ["filename", "Image", "file", "image_path", "file name"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_another_name_of_the_column_path_is_said(tmp_path, name, separator):
    manifest(tmp_path, separator.join((name, "split")), separator.join(("a.png", "train")))
    with pytest.raises(DataError, match=f"no column 'path'; call the column {name!r} 'path'"):
        scan(tmp_path)


@pytest.mark.parametrize(("one", "other"), [("P1", "p1"), ("lot 7", "lot7")])
def test_groups_that_differ_in_case_or_spaces_are_refused(tmp_path, one, other):
    table(tmp_path, "group", one, "p2", one, other)
    with pytest.raises(DataError, match=f"the groups {one!r} and {other!r} differ only in case"):
        scan(tmp_path)


def test_paths_in_another_case_are_found_if_they_are_unique(tmp_path, save_png):
    for name in ("img/a.png", "img/B.PNG", "img/c.png", "img/C.png", "m/x.png"):
        save_png(name, PIXELS)
    manifest(tmp_path, "path,mask", r"IMG\A.PNG,M/X.png", "Img/b.png,", "img/c.PNG,", "img/C.png,")
    records = scan(tmp_path).records
    assert [r.id for r in records] == ["img/a.png", "img/B.PNG", "img/c.PNG", "img/C.png"]
    assert records[0].masks == (tmp_path / "m/x.png",)
    assert not records[2].path.exists()
    manifest(tmp_path, "path", "img/a.png", "IMG/a.png")
    with pytest.raises(DataError, match=r"line 3: .*listed twice"):
        scan(tmp_path)


def test_a_pattern_is_refused(tmp_path, save_png):
    save_png("img/a.png", PIXELS)
    manifest(tmp_path, "path,label", "img/*.png,0")
    with pytest.raises(DataError, match=r"line 2: 'img/\*.png' is a pattern; list each file"):
        scan(tmp_path)
    save_png("img/*.png", PIXELS)
    assert len(scan(tmp_path).records) == 1


def test_images_with_a_mask_and_no_label_are_not_learned_from_unasked(tmp_path):
    table(tmp_path, "mask", "", "m.png", "n.png")
    reason = r"2 images have a mask, no label and no split 'test' \(the first: b.png\); write label"
    with pytest.raises(DataError, match=reason):
        scan(tmp_path).training()
    table(tmp_path, "mask,label,split", ",,", "m.png,0,", "n.png,,test", "o.png,1,")
    assert [record.id for record in scan(tmp_path).training()] == ["a.png", "b.png"]
