"""`data inspect`, `train --dry-run` and `--each`: what a folder is said to hold is what is used."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

import anodetect
from anodetect.cli import app
from anodetect.commands import inspect as command
from anodetect.commands.fold_plan import CalibrationPlan
from anodetect.commands.train import train_each
from anodetect.data import split, synthetic
from anodetect.errors import ConfigError, DataError
from anodetect.record import directories, runs
from anodetect.types import Silent


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """25 normals to learn from, 4 good and 4 with masks to test with, and what is passed over."""
    folder = tmp_path_factory.mktemp("inspect") / "tiles"
    synthetic.write(folder, train=25, test=4, size=64)
    (folder / "train/good/notes.txt").write_text("")
    (folder / "train/thumbnails").mkdir()
    Image.new("L", (16, 16)).save(folder / "train/thumbnails/0.png")
    return folder


def test_the_rows_count_every_file_once(tiles):
    found = command.inspect(str(tiles))
    assert found.doubt == ""
    uses = Counter()
    for row in found.rows:
        uses[row.use] += row.count
    assert uses == {
        "learn": 20,
        "calibrate": 5,
        "test": 8,
        "mask": 4,
        "passed over: no image that can be read (.txt)": 1,
        "passed over: thumbnails": 1,
    }
    (defects,) = (row for row in found.rows if row.kind == "defect")
    assert (defects.masks, defects.sizes, defects.channels) == (4, "64×64", "1")
    assert sum(found.passed_over.values()) == 4 + 2
    files = [path for path in tiles.rglob("*") if path.is_file()]
    assert len(files) == sum(row.count for row in found.rows)


def test_training_uses_what_was_said_and_keeps_it(tiles, tmp_path):
    found = command.inspect(str(tiles))
    said = {row.use: row.count for row in found.rows if row.folder == "train/good"}
    run = tmp_path / "run"
    anodetect.train(str(tiles), "pca", run, values={"components": 3})
    roles = Counter(row.role for row in runs.read_manifest(run))
    assert roles["calibrate"] == said["calibrate"]
    assert roles["fit"] + roles["tune"] == said["learn"]
    kept = runs.facts(run).as_json()["found"]
    assert kept == list(found.summary)
    assert 3 <= len(kept) <= 5


def test_a_scored_folder_has_a_row_or_a_reason_for_every_file(pca_run, tmp_path):
    folder = tmp_path / "in"
    synthetic.write(folder, train=1, test=1, size=64)
    for number in range(30):
        (folder / f"{number}.xyz").write_bytes(b"unknown")
    out = tmp_path / "out"
    anodetect.score(pca_run, [str(folder)], out)
    audit = directories.read(out).audit
    assert audit.passed_over == {
        "no image that can be read (.xyz)": 30,
        "masks and segmentations": 1,
        "images of the train part": 1,
    }
    assert "30 × no image that can be read (.xyz)" in (out / "report.html").read_text("utf-8")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == len(directories.read(out).rows) + sum(audit.passed_over.values())
    assert json.loads((out / "audit.json").read_text())["passed_over"] == audit.passed_over


def test_in_doubt_inspect_says_why_and_training_refuses(tmp_path):
    synthetic.write(tmp_path, train=40, test=4, size=64)
    shutil.move(tmp_path / "train/good", tmp_path / "ok")
    shutil.move(tmp_path / "test/defect", tmp_path / "ng")
    for rest in ("train", "test", "ground_truth"):
        shutil.rmtree(tmp_path / rest)
    found = command.inspect(str(tmp_path))
    assert "ng (4) means anomalous" in found.doubt
    with pytest.raises(DataError, match="--kind-normal"):
        anodetect.train(str(tmp_path), "pca", tmp_path / "run")

    anodetect.train(
        str(tmp_path), "pca", tmp_path / "run", kind_normal=["ok"], values={"components": 3}
    )
    assert {row.path.split("/")[0] for row in runs.read_manifest(tmp_path / "run")} == {"ok"}


def test_files_that_a_manifest_lists_and_that_are_not_there_are_named(tmp_path):
    synthetic.write(tmp_path, train=8, test=1, size=32)
    names = [f"train/good/{number:04}.png" for number in range(8)]
    lines = ["path,label,mask", *[f"{name},0," for name in names], "train/good/0000x.png,0,"]
    lines.append("test/defect/0000.png,1,none/0.png")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    assert (tmp_path / "test/defect/0000.png").exists() and (tmp_path / names[7]).exists()
    said = command.inspect(str(tmp_path)).summary
    missing = "missing: 2 files that manifest.csv lists: train/good/0000x.png, none/0.png"
    assert missing in said
    plan = CalibrationPlan("pca", allow_few=True)
    assert missing in command.inspect(str(tmp_path), plan=plan).summary

    (tmp_path / "manifest.csv").write_text("\n".join(lines[:9]))
    assert not any("missing" in line for line in command.inspect(str(tmp_path)).summary)


def test_one_run_for_each_data_set(tiles, tmp_path):
    for name in ("bolt", "nut"):
        shutil.copytree(tiles, tmp_path / "all" / name)
    with pytest.raises(DataError, match="several data sets"):
        train_each(str(tiles), "pca", tmp_path / "runs")
    answers = train_each(str(tmp_path / "all"), "pca", tmp_path / "runs", values={"components": 3})
    assert list(answers) == ["bolt", "nut"]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"bolt", "nut"}


def test_the_page_has_pictures_of_every_folder(tiles, tmp_path):
    page = tmp_path / "page.html"
    command.inspect(str(tiles), page=page)
    text = page.read_text("utf-8")
    for name in ("train/good", "test/good", "test/defect"):
        assert f"<h2>{name}" in text
    assert text.count("<img") >= 3 * 3


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no PNG")
    np.save(tmp_path / "1.npy", np.zeros((32, 24), np.float32))
    (row,) = command.inspect(str(tmp_path)).rows
    assert row.problem.startswith("0.png: ")
    assert row.sizes == "24×32"


def test_calibration_takes_what_is_said_to_be_normal(pca_run, tmp_path):
    synthetic.write(tmp_path, train=40, test=4, size=64, seed=77)
    shutil.move(tmp_path / "train/good", tmp_path / "all/lot 1")
    shutil.move(tmp_path / "test/defect", tmp_path / "all/ng")
    with pytest.raises(DataError, match="--kind-normal"):
        anodetect.calibrate(pca_run, str(tmp_path / "all"), tmp_path / "run")
    anodetect.calibrate(pca_run, str(tmp_path / "all"), tmp_path / "again", kind_normal=["lot 1"])
    rows = runs.read_manifest(tmp_path / "again")
    assert {row.path.split("/")[0] for row in rows if row.role == "calibrate"} == {"lot 1"}


# -- What would calibrate --------------------------------------------------------------------------


def lots(folder, count):
    """A folder with so many lots of two normals each."""
    synthetic.write(folder, train=2 * count, test=2, size=32)
    names = sorted(file.name for file in (folder / "train/good").iterdir())
    lines = [f"train/good/{name},train,0,lot{place // 2}" for place, name in enumerate(names)]
    (folder / "manifest.csv").write_text("\n".join(["path,split,label,group", *lines]))
    return folder


def dry_run(capsys, *arguments):
    """What `train --dry-run` says, in lines."""
    arguments = [*map(str, arguments), "--out", "no-such-run", "--dry-run", "--json"]
    app(["train", *arguments], standalone_mode=False)
    return json.loads(capsys.readouterr().out)


def test_a_dry_run_says_what_folds_cost_and_promise(capsys, tmp_path, monkeypatch):
    """30 lots: a fifth is too few for a promise at 5 %, all of them are enough."""
    monkeypatch.setattr(split, "FOLDS", 5)
    folder = lots(tmp_path / "lots", 30)
    planned = dry_run(capsys, folder, "--detector", "anoddpm", "--folds", "4", "--budget", "2")
    text = "\n".join(planned["summary"])
    assert "--folds 4: 5 models learn, of which one is kept; each has 0.4 of the 2 min" in text
    assert "60 images in 30 groups calibrate: p-values from 0.0323" in text
    assert "no theorem says so" in text and "all to learn from and, in 4 folds" in text
    assert planned["rows"][0]["use"] == "learn and calibrate"

    alone = "\n".join(dry_run(capsys, folder, "--detector", "anoddpm")["summary"])
    assert "in 6 groups calibrate" in alone and "too few for a promise by groups at 5%" in alone
    assert "with --folds 5 all 30 groups calibrate, enough for that" in alone


def test_inspect_says_what_training_does_with_and_without_folds(tmp_path, monkeypatch):
    monkeypatch.setattr(split, "FOLDS", 5)
    folder, said = lots(tmp_path / "lots", 30), []
    reporter = Silent()
    reporter.say = said.append
    summary = command.inspect(str(folder)).summary
    default = next(line for line in summary if line.startswith("normal: 60 images"))
    assert "48 to learn from and 12 to calibrate with" in default
    quick = "all to learn from and, in 5 folds, to calibrate with"
    assert (
        f"so with anoddpm, the default; with pca, patchcore, padim, intensity: {quick}" in summary
    )

    out = tmp_path / "run"
    anodetect.train(str(folder), "pca", out, values={"components": 3}, reporter=reporter)
    assert f"normal: 60 images, {quick}" in said
    assert not any("the default" in line for line in said)
    plan = CalibrationPlan("anoddpm")
    assert default in command.inspect(str(folder), plan=plan).summary

    said.clear()
    synthetic.write(tmp_path / "more", train=40, test=2, size=32, seed=1)
    anodetect.calibrate(out, str(tmp_path / "more"), tmp_path / "new", reporter=reporter)
    assert "normal: 40 images (good 40), all to calibrate with" in said


def test_the_promise_of_a_dry_run_is_that_of_the_run(tmp_path):
    folder = lots(tmp_path / "lots", 30)
    plan = CalibrationPlan("pca", folds=3)
    summary = "\n".join(command.inspect(str(folder), plan=plan).summary)
    anodetect.train(str(folder), "pca", tmp_path / "run", values={"components": 3}, folds=3)
    calibration = runs.read(tmp_path / "run").calibration
    assert f"{len(calibration.scores)} images in {calibration.n_groups} groups" in summary
    realised = calibration.realised(0.05)
    assert f"{realised.most:.2%} of new" in summary or realised.most > realised.mean
    assert f"at most {realised.bound():.2%} after 19 of 20" in summary
    with pytest.raises(ConfigError, match="--drop-odd"):
        command.inspect(str(folder), plan=CalibrationPlan("pca", folds=3, drops_odd=True))
    refused = command.inspect(str(folder), plan=CalibrationPlan("pca", folds=31)).summary
    assert any(line.startswith("train would refuse it: --folds 31") for line in refused)
