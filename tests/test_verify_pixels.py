"""Metrics of pixels are measured again where the maps and the true masks are at hand."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from interruptions import interrupted_after
from PIL import Image

import anodetect
from anodetect.commands.verify import verify
from anodetect.engines import worker
from anodetect.files import sha256_of
from anodetect.record import directories, reports
from anodetect.record.chain import head_of
from anodetect.record.rows import OutputRow, ScoreRow, rows_of, to_table

NOT_COVERED = "pixel metrics and their resamples: "


@pytest.fixture(scope="module")
def scored(pca_run, synthetic_folder, tmp_path_factory):
    """A record of images with masks, without its report, which changes are to leave alone."""
    out = tmp_path_factory.mktemp("pixels") / "scores"
    anodetect.score(pca_run, [str(synthetic_folder)], out, heatmaps=("tiff", "mask"), workers=1)
    for name in (reports.REPORT, reports.NOTE):
        (out / name).unlink()
    return out


def with_evaluation(folder, **changes):
    """Put other metrics into a record and make all hashes fit."""
    content = json.loads((folder / "audit.json").read_text())
    content["evaluation"] |= changes
    content["head"] = head_of(content)
    (folder / "audit.json").write_text(json.dumps(content))
    return folder


def not_covered(verdict):
    return [text for text in verdict.not_looked_at if text.startswith(NOT_COVERED)]


def test_metrics_of_pixels_come_out_as_recorded(scored, synthetic_folder):
    assert directories.read(scored).audit.evaluation.pixel is not None
    assert not_covered(verify(scored)) == [
        f"{NOT_COVERED}--data FOLDER says where the images and their masks are"
    ]
    verdict = verify(scored, data=synthetic_folder)
    assert verdict.problems == () and not_covered(verdict) == []


@pytest.mark.parametrize("name", ["aupro", "ap", "dice_best", "dice_at_threshold"])
def test_metrics_of_pixels_that_do_not_follow_are_named(scored, synthetic_folder, tmp_path, name):
    copy = shutil.copytree(scored, tmp_path / "copy")
    pixel = json.loads((copy / "audit.json").read_text())["evaluation"]["pixel"]
    with_evaluation(copy, pixel=pixel | {name: pixel[name] + 0.01})
    assert verify(copy).problems == ()  # nobody could say
    (problem,) = verify(copy, data=synthetic_folder).problems
    assert problem == (
        f"the evaluation's pixel does not follow from the maps and the masks in {synthetic_folder}"
    )


def test_resamples_of_pixels_that_do_not_follow_are_named(scored, synthetic_folder, tmp_path):
    copy = shutil.copytree(scored, tmp_path / "copy")
    draws = directories.read_draws(copy)
    directories.write_draws(copy, draws | {"pixel_aupro": draws["pixel_aupro"] * 0.99})
    tables = directories.read_tables(copy)
    outputs = []
    for row in rows_of(tables.outputs, OutputRow):
        outputs.append(replace(row, sha256=sha256_of(copy / row.name)))
    audit = directories.read(copy).audit
    directories.write(copy, audit, replace(tables, outputs=to_table(outputs, OutputRow)))
    assert verify(copy).problems == ()
    (problem,) = verify(copy, data=synthetic_folder).problems
    assert problem.startswith("bootstrap.npz: the resamples of pixel_aupro do not follow")


def test_a_mask_that_is_another_one_is_named_and_one_that_is_gone_is_not_covered(
    scored, synthetic_folder, tmp_path
):
    data = shutil.copytree(synthetic_folder, tmp_path / "data")
    mask = next((data / "ground_truth").rglob("*.png"))
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    problems = verify(scored, data=data).problems
    assert any(text.startswith("the evaluation's lesions does not follow") for text in problems)

    mask.unlink()
    verdict = verify(scored, data=data)
    assert verdict.problems == ()
    assert len(not_covered(verdict)) == 1 and "1 mask is not in" in not_covered(verdict)[0]
    verdict = verify(scored, data=tmp_path / "nowhere")
    assert "their masks cannot be found" in not_covered(verdict)[0]


def test_without_maps_pixels_are_not_covered(pca_run, synthetic_folder, tmp_path):
    anodetect.score(pca_run, [str(synthetic_folder)], tmp_path / "s", heatmaps=("png",), workers=1)
    verdict = verify(tmp_path / "s", data=synthetic_folder)
    assert verdict.problems == ()
    assert not_covered(verdict) == [f"{NOT_COVERED}40 labelled images have no float map"]


# -- True masks ------------------------------------------------------------------------------------


def by_definition(mask):
    """The hash of a true mask as docs/formats.md says."""
    marked = np.asarray(Image.open(mask)) > 0
    height, width = marked.shape
    return sha256(f"[{height},{width}]".encode() + bytes(marked.ravel().tolist())).hexdigest()


def masks_of(data):
    """The files of true masks by the names of their images."""
    masks = sorted((data / "ground_truth").rglob("*.png"))
    return {mask.name.replace("_mask", ""): mask for mask in masks}


def test_the_hash_of_each_true_mask_is_in_its_row(scored, synthetic_folder, pca_run, tmp_path):
    masks, found = masks_of(synthetic_folder), {}
    for row in directories.read(scored).rows:
        if row.truth_sha256:
            found[row.path.rpartition("/")[2]] = row.truth_sha256
        assert bool(row.truth_sha256) == (row.label == 1)
    assert found == {name: by_definition(mask) for name, mask in masks.items()}
    merged = tmp_path / "merged"
    anodetect.merge([scored], merged)
    assert [row.truth_sha256 for row in directories.read(merged).rows] == [
        row.truth_sha256 for row in directories.read(scored).rows
    ]
    assert verify(merged, data=synthetic_folder).problems == ()


def test_another_mask_is_named_although_all_metrics_follow_from_it(
    scored, pca_run, synthetic_folder, tmp_path
):
    """Whoever puts in other masks can put in their metrics, but not their hashes under the head."""
    data = shutil.copytree(synthetic_folder, tmp_path / "data")
    name, mask = next(iter(masks_of(data).items()))
    Image.fromarray(255 - np.asarray(Image.open(mask))).save(mask)
    other = tmp_path / "other"
    anodetect.score(pca_run, [str(data)], other, heatmaps=("tiff", "mask"), workers=1)
    assert verify(other, data=data).problems == ()

    rows = {row.path: row.truth_sha256 for row in directories.read(scored).rows}
    changed = [replace(row, truth_sha256=rows[row.path]) for row in directories.read(other).rows]
    tables = directories.read_tables(other)
    audit = directories.read(other).audit
    directories.write(other, audit, replace(tables, scores=to_table(changed, ScoreRow)))
    (problem,) = verify(other, data=data).record.problems  # the report is of the other head
    assert problem.startswith("true masks are not those that pixels were measured with: ")
    assert problem.endswith(name)


def test_masks_without_a_hash_in_the_record_are_not_covered(scored, synthetic_folder, tmp_path):
    copy = shutil.copytree(scored, tmp_path / "copy")
    rows = [replace(row, truth_sha256="") for row in directories.read(copy).rows]
    tables, audit = directories.read_tables(copy), directories.read(copy).audit
    directories.write(copy, audit, replace(tables, scores=to_table(rows, ScoreRow)))
    verdict = verify(copy, data=synthetic_folder)
    assert verdict.problems == ()
    said = f"true masks: {len(masks_of(synthetic_folder))} without a hash in the record"
    assert any(text.startswith(said) for text in verdict.not_looked_at)


def test_a_scoring_that_goes_on_has_the_hashes_of_all_masks(
    scored, pca_run, synthetic_folder, tmp_path, monkeypatch
):
    options = {"heatmaps": ("tiff", "mask"), "workers": 1}
    real = interrupted_after(monkeypatch, 38)
    with pytest.raises(anodetect.AnodetectError, match="--resume"):
        anodetect.score(pca_run, [str(synthetic_folder)], tmp_path / "s", **options)
    monkeypatch.setattr(worker, "score_records", real)
    anodetect.score(pca_run, [str(synthetic_folder)], tmp_path / "s", resume=True, **options)
    assert [row.truth_sha256 for row in directories.read(tmp_path / "s").rows] == [
        row.truth_sha256 for row in directories.read(scored).rows
    ]
