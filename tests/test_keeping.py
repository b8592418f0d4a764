"""Which images keep their files, and maps that are made again."""

import json
import shutil
from hashlib import sha256

import numpy as np
import pytest

import anodetect
from anodetect.commands.maps import maps
from anodetect.commands.verify import verify
from anodetect.errors import ConfigError, RunError
from anodetect.output.images import read_map
from anodetect.output.regions import read_regions
from anodetect.record import directories, made_maps
from anodetect.record.keeping import Keep, keep_of
from anodetect.record.rows import OutputRow, rows_of
from anodetect.stats.calibration import Calibration
from apps.review.loading import MADE_AGAIN, load

FAR = 0.2


@pytest.fixture(scope="module")
def images(synthetic_folder, tmp_path_factory):
    """Normal and anomalous images without labels."""
    folder = tmp_path_factory.mktemp("keep") / "images"
    folder.mkdir()
    for part in ("good", "defect"):
        for file in sorted((synthetic_folder / "test" / part).iterdir())[:10]:
            shutil.copyfile(file, folder / f"{part}{file.name}")
    return folder


@pytest.fixture(scope="module")
def scored(pca_run, images, tmp_path_factory):
    """The images with all files, with those of the flagged, and with one in two others."""
    out = tmp_path_factory.mktemp("keep")
    for keep in ("all", "flagged", "sample=2"):
        anodetect.score(pca_run, [str(images)], out / keep, far=FAR, keep=keep)
    return out


def files_of(path):
    found = {}
    for output in rows_of(directories.read(path).outputs, OutputRow):
        if output.name.startswith("heatmaps/"):
            found.setdefault(output.path, set()).add(output.kind)
    return found


def outlines(path):
    found = {}
    for name, region in read_regions(path):
        found.setdefault(name, []).append(region)
    return found


def test_the_flagged_keep_their_files_and_of_others_a_sample(scored):
    whole, audit = directories.read(scored / "all"), directories.read(scored / "all").audit
    bounds = [audit.calibration.threshold(rate) for rate in (FAR, 2 * FAR)]
    near = {row.path for row in whole.rows if row.score > min(bounds)}
    flagged = {row.path for row in whole.rows if row.flagged}
    drawn = {row.path for row in whole.rows if int(row.sha256[-16:], 16) % 2 == 0}
    assert flagged <= near < {row.path for row in whole.rows} and drawn - near

    assert len(files_of(scored / "all")) == 20
    assert set(files_of(scored / "flagged")) == near
    assert set(files_of(scored / "sample=2")) == near | drawn
    for keep in ("flagged", "sample=2"):
        some = directories.read(scored / keep)
        assert some.audit.keep == keep
        for row, full in zip(some.rows, whole.rows, strict=True):
            assert (row.path, row.score, row.flagged) == (full.path, full.score, full.flagged)
            assert row.heatmap == (full.heatmap if row.path in files_of(scored / keep) else "")
        kept = {name: each for name, each in outlines(scored / "all").items() if name in near}
        found = {name: each for name, each in outlines(scored / keep).items() if name in near}
        assert found == kept


def test_verify_says_what_is_not_covered(scored):
    verdict = verify(scored / "flagged")
    assert verdict.intact, verdict.problems
    count = 20 - len(files_of(scored / "flagged"))
    assert f"maps, masks and outlines of {count} files" in " ".join(verdict.not_looked_at)
    assert not any("outlines of" in each for each in verify(scored / "all").not_looked_at)


def test_maps_are_made_again_as_they_were(scored, pca_run, images, tmp_path):
    rows = {row.path: row for row in directories.read(scored / "all").rows}
    left = sorted(set(rows) - set(files_of(scored / "flagged")))
    before = {file: file.read_bytes() for file in (scored / "flagged").iterdir() if file.is_file()}
    first = maps(scored / "flagged", [left[0]], out=tmp_path / "made")
    found = maps(scored / "flagged", [str(images / left[1]), left[1]], out=tmp_path / "made")
    assert before == {file: file.read_bytes() for file in before}

    assert not first.failures and not found.failures
    assert {each.path for each in found.files} == {left[1]}
    assert all(each.exact for each in found.files)
    for name in left[:2]:
        made = read_map(tmp_path / "made" / rows[name].heatmap)
        assert np.array_equal(made, read_map(scored / "all" / rows[name].heatmap), equal_nan=True)
    listed = made_maps.read(tmp_path / "made", first.head)
    assert {each.path for each in listed} == set(left[:2])
    for each in listed:
        content = (tmp_path / "made" / each.name).read_bytes()
        assert each.sha256 == sha256(content).hexdigest()
    assert made_maps.read(tmp_path / "made", "another") == ()


def test_maps_of_what_has_no_score_or_has_changed_are_not_made(scored, images, tmp_path):
    with pytest.raises(RunError, match="no score of"):
        maps(scored / "flagged", ["nowhere.png"], out=tmp_path / "made")
    with pytest.raises(RunError, match="no room for more files"):
        maps(scored / "flagged", [], out=scored / "flagged/more")

    moved = shutil.copytree(images, tmp_path / "images")
    name = directories.read(scored / "flagged").rows[0].path
    shutil.copyfile(next(file for file in images.iterdir() if file.name != name), moved / name)
    found = maps(scored / "flagged", [name], data=moved, out=tmp_path / "made")
    assert found.failures == (f"{name}: the file is not the one that was scored",)
    assert not found.files


def test_the_review_app_shows_a_map_that_was_made_again_and_says_so(scored, tmp_path):
    path = shutil.copytree(scored / "flagged", tmp_path / "scores")
    directory = directories.read(path)
    row = next(row for row in directory.rows if not row.heatmap)
    case = load(directory, row)
    assert case.heatmap is None
    assert f"anodetect maps {path} {row.path}" in " ".join(case.notes)

    maps(path, [row.path])
    case = load(directory, row)
    whole = directories.read(scored / "all")
    known = load(whole, next(each for each in whole.rows if each.path == row.path))
    assert np.array_equal(case.heatmap, known.heatmap)
    assert MADE_AGAIN in case.notes and MADE_AGAIN not in known.notes

    (file,) = (tmp_path / "scores-maps").rglob("*_heatmap.tiff")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert "was changed since" in " ".join(load(directory, row).notes)


def test_parts_with_the_same_choice_are_joined(scored, pca_run, images, tmp_path):
    for number in (1, 2):
        out = tmp_path / str(number)
        anodetect.score(pca_run, [str(images)], out, far=FAR, keep="sample=2", shard=f"{number}/2")
    anodetect.merge([tmp_path / "1", tmp_path / "2"], tmp_path / "whole")
    assert files_of(tmp_path / "whole") == files_of(scored / "sample=2")
    assert verify(tmp_path / "whole").intact
    audit = tmp_path / "1" / "audit.json"
    assert json.loads(audit.read_text())["keep"] == "sample=2"


def test_choices_that_are_none_are_refused():
    calibration = Calibration(np.arange(30.0), np.arange(30.0), tuple(map(str, range(30))))
    assert keep_of("all", calibration, 0.1) is None
    for text in ("none", "sample=0", "sample=", "sample=1e3", "flagged=2"):
        with pytest.raises(ConfigError, match="all, flagged or sample=N"):
            keep_of(text, calibration, 0.1)
    with pytest.raises(ConfigError, match="no calibration"):
        keep_of("flagged", Calibration(np.zeros(0), np.zeros(0), ()), 0.1)


def test_labelled_files_are_kept_and_about_one_in_n_of_others():
    rule = Keep(1.0, 2.0, 10)
    hashes = [sha256(str(number).encode()).hexdigest() for number in range(2000)]
    drawn = [rule.keeps(0.5, each, None, is_volume=False) for each in hashes]
    assert 150 < sum(drawn) < 250
    assert all(rule.keeps(0.5, each, 0, is_volume=False) for each in hashes)
    assert all(rule.keeps(1.5, each, None, is_volume=False) for each in hashes)
    assert [rule.keeps(1.5, each, None, is_volume=True) for each in hashes] == drawn
