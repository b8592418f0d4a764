"""The command line as a stranger uses it: exit codes, JSON, one-line errors."""

import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from anodetect import cli
from anodetect.commands import terminal
from anodetect.commands.results import TrainResult
from anodetect.data import synthetic
from anodetect.detectors import RECOMMENDED
from anodetect.record import runs

PROJECT = Path(__file__).parents[1]
TINY = [
    "--representation",
    "pixels",
    "--set",
    "widths=[16,32]",
    "--set",
    "training.steps=30",
    "--set",
    "size=32",
]
SMALL = list(TINY)  # what every trained detector has
TINY += ["--set", "components=30"]


def call(capfd, monkeypatch, *arguments):
    """Run the command in this process; exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["anodetect", *map(str, arguments)])
    with pytest.raises(SystemExit) as leave:
        cli.main()
    out, err = capfd.readouterr()
    return leave.value.code or 0, out, err


@pytest.fixture
def anodetect(capfd, monkeypatch):
    return lambda *arguments: call(capfd, monkeypatch, *arguments)


def subprocess_call(*arguments, **options):
    code = "import sys; from anodetect.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_train_score_evaluate_report(anodetect, synthetic_folder, tmp_path):
    run, scores = tmp_path / "run", tmp_path / "scores"
    code, out, _ = anodetect(
        "train", synthetic_folder, "-d", "anoddpm", "--out", run, *TINY, "--json"
    )
    assert code == 0
    facts = json.loads(out)
    assert facts["detector"] == "anoddpm"
    assert facts["steps"] == 30
    assert facts["train_seconds"] > 0

    code, out, _ = anodetect("score", run, synthetic_folder, "--out", scores, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["scored"], result["failed"], result["skipped"]) == (40, 0, 0)
    assert len(result["head"]) == 64
    rows = pq.read_table(scores / "scores.parquet").to_pylist()
    first = next(row for row in rows if row["label"] == 1)
    heatmap = tifffile.imread(scores / first["heatmap"])
    assert heatmap.shape == (first["height"], first["width"]) == (64, 64)
    assert heatmap.dtype == np.float32
    assert (scores / first["heatmap"].replace(".tiff", ".jpg")).is_file()
    assert sum(row["flagged"] for row in rows) == result["flagged"]
    assert "<svg" in (scores / "report.html").read_text()

    code, out, _ = anodetect("evaluate", run, synthetic_folder, "--json")
    evaluation = json.loads(out)
    assert code == 0
    assert {"value", "low", "high"} <= set(evaluation["image"]["auroc"])
    assert {"value", "low", "high"} <= set(evaluation["image"]["tpr_at_5_fpr"])
    assert set(evaluation["pixel"]) == {"auroc", "ap", "aupro", "dice_best", "dice_at_threshold"}
    assert set(evaluation["operating_point"]) == {"far", "threshold", "tpr", "fpr"}
    assert evaluation["n_normal"] == evaluation["n_anomalous"] == 20
    assert evaluation["image"]["auroc"]["value"] == pytest.approx(
        result["evaluation"]["image"]["auroc"]["value"]
    )

    assert anodetect("report", scores)[0] == 0
    code, out, _ = anodetect("info", run, "--json")
    assert json.loads(out)["model_sha256"] == rows[0]["model_sha256"]


def test_another_process_gives_bit_equal_scores(anodetect, anoddpm_run, synthetic_folder, tmp_path):
    command = ["score", anoddpm_run, synthetic_folder, "--heatmaps", "none", "--out"]
    anodetect(*command, tmp_path / "here")
    other = subprocess_call(*command, tmp_path / "there")
    assert other.returncode == 0, other.stderr
    here, there = (tmp_path / name / "scores.csv" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


def test_scores_are_rows_in_native_order_with_calibrated_p_values(
    anodetect, pca_run, synthetic_folder, tmp_path
):
    anodetect(
        "score",
        pca_run,
        synthetic_folder,
        "--out",
        tmp_path / "s",
        "--far",
        "0.1",
        "--heatmaps",
        "none",
    )
    rows = pq.read_table(tmp_path / "s/scores.parquet").to_pylist()
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    for row in rows:
        assert row["flagged"] == (row["p_value"] <= 0.1) == (row["score"] > row["threshold"])
        assert row["heatmap"] == ""
    assert sum(row["flagged"] for row in rows if row["label"]) == 20


def test_an_audit_from_the_command_line(anodetect, pca_run, synthetic_folder, tmp_path):
    for index in (1, 2):
        code, _, err = anodetect(
            "score",
            pca_run,
            synthetic_folder,
            "--out",
            tmp_path / f"{index}",
            "--shard",
            f"{index}/2",
            "--resume",
        )
        assert code == 0, err
    code, out, _ = anodetect(
        "merge", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "all", "--json"
    )
    assert code == 0
    head = json.loads(out)["head"]
    assert json.loads(out)["scored"] == 40
    assert (tmp_path / "all/report.html").is_file()
    code, out, _ = anodetect("verify", tmp_path / "all")
    assert code == 0
    assert "record:   consistent: no head that was kept (--head) and no key (--key)" in out
    code, out, _ = anodetect("verify", tmp_path / "all", "--head", head, "--rescore", "3", "--json")
    assert code == 0
    assert json.loads(out)["authenticated"]
    assert "3 of 40 images were scored again, the others not read" in out
    (tmp_path / "all/groups.csv").write_text("group\n")
    code, out, _ = anodetect("verify", tmp_path / "all", "--head", head)
    assert code == 1
    assert "groups.csv was changed" in out
    code, _, err = anodetect("verify", synthetic_folder)
    assert code == 2
    assert "not a finished score directory" in err


def test_evaluation_by_columns(anodetect, pca_run, synthetic_folder):
    code, out, _ = anodetect("evaluate", pca_run, synthetic_folder, "--by", "kind", "--far", "0.2")
    assert code == 0
    assert "by kind:" in out
    assert "20 normal, 0 anomalous" in out


def test_false_discovery_rate_instead_of_false_alarms(
    anodetect, pca_run, synthetic_folder, tmp_path
):
    code, _, _ = anodetect(
        "score",
        pca_run,
        synthetic_folder,
        "--out",
        tmp_path / "s",
        "--fdr",
        "0.2",
        "--heatmaps",
        "none",
    )
    rows = pq.read_table(tmp_path / "s/scores.parquet").to_pylist()
    assert code == 0
    assert all(row["flagged"] == (row["q_value"] <= 0.2) for row in rows)
    assert any(row["flagged"] for row in rows)


def test_bad_files_become_rows_and_exit_one(anodetect, pca_run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    good, _ = synthetic.images(3, seed=9)
    for n, image in enumerate(good):
        Image.fromarray(image[0]).save(folder / f"good{n}.png")
    whole = (folder / "good0.png").read_bytes()
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes(whole[:200])
    (folder / "tiny.png").write_bytes(b"")
    Image.new("L", (1, 1)).save(folder / "tiny.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        folder / "colour.png"
    )
    Image.new("CMYK", (64, 64)).save(folder / "cmyk.jpg")
    Image.fromarray(good[0][0]).resize((300, 20)).save(folder / "wide.png")
    np.save(folder / "nan.npy", np.full((64, 64), np.nan))
    (folder / "away.png").symlink_to("/etc/hostname")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "=formula,\n.png").write_bytes(whole)
    code, out, _ = anodetect("score", pca_run, folder, "--out", tmp_path / "s", "--json")
    result = json.loads(out)
    assert code == 1
    assert (result["scored"], result["failed"], result["skipped"]) == (5, 7, 1)
    rows = {row["path"]: row for row in pq.read_table(tmp_path / "s/scores.parquet").to_pylist()}
    assert rows["empty.png"]["error"] == "the file is empty"
    assert "1×1" in rows["tiny.png"]["error"]
    assert "colour" in rows["colour.png"]["error"]
    assert rows["away.png"]["status"] == "skipped"
    assert rows["loop.png"]["error"] == "symbolic link that leads nowhere"
    assert rows["wide.png"]["width"] == 300
    assert tifffile.imread(tmp_path / "s" / rows["wide.png"]["heatmap"]).shape == (20, 300)
    assert "CMYK" in (tmp_path / "s/report.html").read_text()
    assert "'=formula" in (tmp_path / "s/scores.csv").read_text()


def test_several_inputs_share_a_root_and_stay_inside_the_output(
    anodetect, pca_run, tmp_path, monkeypatch
):
    for n, name in enumerate(("here/a", "there/" + "long" * 60)):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir()
        Image.fromarray(synthetic.images(1, seed=n)[0][0, 0]).save(path)
    monkeypatch.chdir(tmp_path / "here")
    code, _, err = anodetect("score", pca_run, "../there", "a.png", "--out", tmp_path / "s")
    assert code == 0, err
    rows = pq.read_table(tmp_path / "s/scores.parquet").to_pylist()
    assert [row["path"] for row in rows] == ["here/a.png", "there/" + "long" * 60 + ".png"]
    assert all(
        (tmp_path / "s" / row["heatmap"]).is_file() and ".." not in row["heatmap"] for row in rows
    )


def test_calibrate_says_which_images_it_could_not_score(anodetect, pca_run, tmp_path):
    folder = tmp_path / "new"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n, image in enumerate(synthetic.images(25, seed=78)[0]):
        Image.fromarray(image[0]).save(folder / f"{n}.png")
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "colour.png")
    code, out, _ = anodetect("calibrate", pca_run, folder, "--out", tmp_path / "run2", "--json")
    assert code == 1
    assert json.loads(out)["calibration_images"] == 25
    assert "colour.png" in json.loads(out)["failures"][0]


def test_calibrate_keeps_weights_and_refuses_training_images(
    anodetect, pca_run, synthetic_folder, tmp_path
):
    pictures, _ = synthetic.images(30, seed=77)
    for n, image in enumerate(pictures):
        (tmp_path / "new").mkdir(exist_ok=True)
        Image.fromarray(image[0]).save(tmp_path / f"new/{n}.png")
    code, out, _ = anodetect(
        "calibrate", pca_run, tmp_path / "new", "--out", tmp_path / "run2", "--json"
    )
    assert code == 0
    assert json.loads(out)["calibration_images"] == 30
    anodetect("score", pca_run, synthetic_folder, "--out", tmp_path / "a", "--heatmaps", "none")
    anodetect(
        "score", tmp_path / "run2", synthetic_folder, "--out", tmp_path / "b", "--heatmaps", "none"
    )
    a, b = (pq.read_table(tmp_path / name / "scores.parquet") for name in "ab")
    assert a["score"].equals(b["score"])
    assert not a["p_value"].equals(b["p_value"])
    code, _, err = anodetect("calibrate", pca_run, synthetic_folder, "--out", tmp_path / "run3")
    assert code == 2
    assert "leak" in err


@pytest.fixture
def few(tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    for n, image in enumerate(synthetic.images(19)[0]):
        Image.fromarray(image[0]).save(folder / f"{n}.png")
    return folder


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["train", "{data}", "-d", "anodpm", "--out", "{out}"], "did you mean 'anoddpm'"),
        (
            ["train", "{data}", "-d", "pca", "--out", "{out}", "--set", "componnets=3"],
            "did you mean 'components'",
        ),
        (
            ["train", "{data}", "-d", "pca", "--out", "{out}", "--set", "detector.componnets=3"],
            "did you mean 'components'",
        ),
        (["train", "{data}", "-d", "pca", "--out", "{out}", "--set", "components=many"], "integer"),
        (["train", "{data}", "-d", "pca", "--out", "{out}", "--set", "components"], "key=value"),
        (
            ["train", "{data}", "-d", "pca", "--out", "{out}", "--representation", "pixel"],
            "did you mean 'pixels'",
        ),
        (["train", "{data}", "-d", "pca", "--out", "{out}", "--budget", "0"], "minutes"),
        (
            ["train", "{data}", "-d", "pca", "--out", "{out}", "--config", "{data}/none.toml"],
            "none.toml",
        ),
        (["train", "{data}", "-d", "pca", "--out", "{run}"], "already exists"),
        (["train", "{data}", "-d", "pca", "--out", "{out}", "--resume"], "no checkpoint"),
        (
            ["train", "{data}", "-d", "anoddpm", "--out", "{out}", "--set", "lambdas=[900]"],
            "trained_to",
        ),
        (
            ["train", "{data}", "-d", "dae", "--out", "{out}", "--set", "size=50"],
            "multiple of",
        ),
        (
            ["train", "{data}", "-d", "anoddpm", "--out", "{out}", "--set", "widths=[20]"],
            "multiple of 16",
        ),
        (
            ["train", "{data}", "-d", "anoddpm", "--out", "{out}", "--set", "training.batch=0"],
            "greater than 0",
        ),
        (
            ["train", "{data}", "-d", "pca", "--out", "{out}", "--set", "pooling.top=2"],
            "less than or equal to 1",
        ),
        (["train", "{data}", "-d", "anoddpm", "--out", "{out}", "--device", "quantum"], "device"),
        (
            ["train", "{data}", "-d", "pca", "--out", "{out}", "--dims", "3"],
            "pca has no form for --dims 3",
        ),
        (["train", "{data}", "-d", "anoddpm", "--out", "{out}", "--dims", "3"], "is an image"),
        (["train", "{data}", "-d", "anoddpm", "--out", "{out}", "--dims", "4"], "should be 2 or 3"),
        (["train", "{few}", "-d", "pca", "--out", "{out}"], "at least 20"),
        (["train", "{empty}", "-d", "pca", "--out", "{out}"], "no images"),
        (["train", "{data}/nowhere", "-d", "pca", "--out", "{out}"], "no such"),
        (["train", "elvp:mono", "-d", "pca", "--out", "{out}"], "did you mean 'elpv'"),
        (["train", "elpv", "-d", "pca", "--out", "{out}"], "elpv:mono"),
        (["train", "mvtec_ad:bottle", "-d", "pca", "--out", "{out}"], "ANODETECT_DATA"),
        (["score", "{empty}", "{data}", "--out", "{out}"], "not a complete run"),
        (["score", "{run}", "{data}", "--out", "{run}"], "not an empty folder"),
        (["score", "{run}", "{data}", "--out", "{out}", "--far", "2"], "between 0 and 1"),
        (
            ["score", "{run}", "{data}", "--out", "{out}", "--heatmaps", "tif"],
            "did you mean 'tiff'",
        ),
        (["score", "{run}", "{empty}", "--out", "{out}"], "no images"),
        (["score", "{run}", "{data}/manifest.txt", "--out", "{out}"], "no such"),
        (["evaluate", "{run}", "{few}"], "no labelled images"),
        (["evaluate", "{run}", "{data}", "--far", "2"], "between 0 and 1"),
        (
            ["train", "{data}", "-d", "pca", "--out", "{out}", "--set", "pooling.smoth=1"],
            "did you mean 'pooling.smooth'",
        ),
        (
            ["train", "{data}", "-d", "pca", "--out", "{out}", "--set", "pooling.smooth=inf"],
            "finite",
        ),
        (["info", "{data}"], "not a complete run"),
        (["report", "{data}"], "neither a score directory"),
        (["data", "show", "elpw"], "did you mean 'elpv'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_two(
    anodetect, arguments, reason, synthetic_folder, pca_run, few, tmp_path
):
    (tmp_path / "empty").mkdir()
    places = {
        "data": synthetic_folder,
        "run": pca_run,
        "few": few,
        "empty": tmp_path / "empty",
        "out": tmp_path / "out",
    }
    code, out, err = anodetect(*(argument.format(**places) for argument in arguments))
    assert code == 2
    assert out == ""
    assert reason in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("anodetect: ")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_unknown_options_exit_two(anodetect):
    assert anodetect("train", "x", "--nonsense")[0] == 2


def test_a_folder_with_nothing_readable(anodetect, tmp_path):
    for n in range(25):
        (tmp_path / f"{n}.png").write_bytes(b"junk")
    code, _, err = anodetect("train", tmp_path, "-d", "pca", "--out", tmp_path / "out")
    assert code == 2
    assert "no readable normal image among 25" in err


def test_train_says_that_there_is_nothing_to_learn_from(anodetect, synthetic_folder, tmp_path):
    (tmp_path / "data").mkdir()
    rows = ["path,split,label"]
    for number, path in enumerate(sorted(synthetic_folder.rglob("*.png"))[:6]):
        shutil.copy(path, tmp_path / "data" / f"{number}.png")
        rows.append(f"{number}.png,test,{number % 2}")
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(rows), "utf-8")
    code, _, err = anodetect("train", tmp_path / "data", "-d", "pca", "--out", tmp_path / "run")
    assert code == 2
    assert "nothing to learn from; of its 6 images each is anomalous or of the test part" in err


def test_unreadable_training_files_are_left_out_by_name(anodetect, synthetic_folder, tmp_path):
    folder = shutil.copytree(synthetic_folder, tmp_path / "data")
    (folder / "train/good/broken.png").write_bytes(b"junk")
    code, out, _ = anodetect("train", folder, "-d", "pca", "--out", tmp_path / "run", "--json")
    assert code == 1
    assert json.loads(out)["failures"] == ["train/good/broken.png: not a readable image"]
    assert "train/good/broken.png,failed" in (tmp_path / "run/manifest.csv").read_text()


def test_the_same_bytes_in_train_and_test_are_a_leak(
    anodetect, synthetic_folder, pca_run, tmp_path
):
    folder = shutil.copytree(synthetic_folder, tmp_path / "data")
    shutil.copy(folder / "train/good/0003.png", folder / "test/good/copy.png")
    code, _, err = anodetect("train", folder, "-d", "pca", "--out", tmp_path / "run")
    assert code == 2
    assert "test/good/copy.png" in err
    assert "train/good/0003.png" in err
    code, _, err = anodetect("evaluate", pca_run, folder)
    assert code == 2
    assert "leak" in err


@pytest.mark.usefixtures("interruptible")
def test_interrupted_training_resumes_to_the_same_model(anodetect, synthetic_folder, tmp_path):
    long = [*SMALL, "--set", "training.steps=40"]
    train = ["train", synthetic_folder, "-d", "dae", *long, "--json"]
    code = "from anodetect.cli import main; main()"
    assert anodetect(*train, "--out", tmp_path / "whole")[0] == 0
    command = [sys.executable, "-c", code, *map(str, [*train, "--out", tmp_path / "parts"])]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "parts.partial/train.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err
    again, _, err = anodetect(*train, "--out", tmp_path / "parts")
    assert again == 2
    assert "--resume" in err
    other, _, err = anodetect(*train, "--seed", "1", "--out", tmp_path / "parts", "--resume")
    assert other == 2
    assert "other settings" in err
    assert anodetect(*train, "--out", tmp_path / "parts", "--resume")[0] == 0
    ends = [runs.read(tmp_path / name) for name in ("whole", "parts")]
    assert all(np.array_equal(array, ends[1].state[name]) for name, array in ends[0].state.items())
    assert np.array_equal(ends[0].calibration.scores, ends[1].calibration.scores)
    assert not (tmp_path / "parts.partial").exists()


def test_lists(anodetect):
    entries = json.loads(anodetect("detectors", "--json")[1])["detectors"]
    names = "anoddpm classifier dae ebm ensemble gan intensity jem"
    names += " nce ncsn padim patchcore pca rbm translate vq"
    assert " ".join(sorted(entry["name"] for entry in entries)) == names
    assert all(
        set(entry) == {"name", "summary", "citation", "cost", "representations"}
        for entry in entries
    )
    listed = json.loads(anodetect("data", "list", "--json")[1])["cards"]
    files = {file.stem for file in (PROJECT / "data_cards").glob("*.md")}
    assert {card["name"] for card in listed} == files and len(files) > 5
    assert "CC BY-NC-SA" in anodetect("data", "show", "elpv")[1]


def test_dry_run_lists_and_writes_nothing(anodetect, pca_run, synthetic_folder, tmp_path):
    code, out, _ = anodetect(
        "score", pca_run, synthetic_folder, "--out", tmp_path / "s", "--dry-run", "--json"
    )
    assert code == 0
    assert json.loads(out)["would_score"] == 40
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--far", "1.5"], "between 0 and 1"),
        (["--fdr", "0"], "between 0 and 1"),
        (["--far", "0.1", "--fdr", "0.1"], "leave the other out"),
        (["--heatmaps", "tif"], "no heatmap format 'tif'"),
        (["--heatmaps", "none,tiff"], "name it alone"),
        (["--keep", "some"], "--keep some"),
        (["--shard", "3/2"], "--shard 3/2"),
        (["--sign", "{none}"], "no usable private key"),
        (["--roi", "{none}"], "--roi"),
        (["--engine", "lokal"], "no engine 'lokal'"),
        (["--workers", "0"], "--workers 0"),
        (["--device", "gpu"], "--device gpu"),
        (["--out", "{run}"], "not an empty folder"),
        (["--out", "{finished}"], "not an empty folder"),
        (["--out", "{finished}", "--resume"], "is finished"),
        (["--out", "{begun}"], "continue it with --resume"),
        (["--out", "{begun}", "--resume"], "was started with another"),
        (["--out", "{file}/s"], "cannot be made"),
    ],
)
def test_a_dry_run_refuses_what_scoring_refuses(
    anodetect, pca_run, synthetic_folder, tmp_path, options, reason
):
    places = {"run": pca_run}
    for name in ("none", "finished", "begun", "file"):
        places[name] = tmp_path / name
    places["file"].touch()
    for name, file in (("finished", "audit.json"), ("begun", "journal.jsonl")):
        places[name].mkdir()
        (places[name] / file).write_text('{"options":{"far":0.3}}\n')
    before = sorted(tmp_path.rglob("*"))

    given = [option.format(**places) for option in options]
    if "--out" not in given:
        given += ["--out", tmp_path / "s"]
    for more in (["--dry-run"], []):
        code, out, err = anodetect("score", pca_run, synthetic_folder, *given, *more)
        assert (code, out) == (2, "")
        assert reason in err.splitlines()[-1]
        if more:
            assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_refuses_a_run_that_was_altered(anodetect, pca_run, synthetic_folder, tmp_path):
    run = shutil.copytree(pca_run, tmp_path / "run")
    (run / "model_card.md").write_text("another")
    code, _, err = anodetect("score", run, synthetic_folder, "--out", tmp_path / "s", "--dry-run")
    assert code == 2 and "was altered" in err


def test_a_dry_run_without_a_run_checks_the_rest(anodetect, synthetic_folder, tmp_path):
    arguments = ["score", tmp_path / "none", synthetic_folder, "--out", tmp_path / "s", "--dry-run"]
    code, out, err = anodetect(*arguments)
    assert code == 0 and len(out.splitlines()) == 40
    assert "files are listed one by one" in " ".join(err.split())
    code, out, err = anodetect(*arguments, "--far", "2")
    assert (code, out) == (2, "") and "between 0 and 1" in err


NO_TORCH = """
import json, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "monai"):
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, Block())
from anodetect.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as leave:
        assert not leave.code, arguments
"""


def test_commands_without_a_model_need_no_torch(pca_run, synthetic_folder, tmp_path):
    import anodetect

    scores = tmp_path / "scores"
    anodetect.score(pca_run, [str(synthetic_folder)], scores, heatmaps=())
    commands = [
        ["--help"],
        ["detectors"],
        ["info", pca_run],
        ["report", scores],
        ["verify", scores],
        ["data", "list"],
        ["data", "show", "elpv"],
        ["data", "inspect", synthetic_folder],
    ]
    given = json.dumps([list(map(str, command)) for command in commands])
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, given], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_modules_without_torch():
    """They are imported one after the other, so that the first that imports it is named."""
    modules = """
        stats.metrics stats.calibration stats.evaluation stats.agreement
        record.directories record.reviews record.verification record.runs
        output.report data.scan data.cards types config commands.score model.scoring cli
    """
    code = f"""
import importlib, sys
for module in {modules.split()!r}:
    importlib.import_module("anodetect." + module)
    assert not {{"torch", "monai"}} & set(sys.modules), module
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SLOW = (
    "torch",
    "monai",
    "sklearn",
    "scipy.stats",
    "pandas",
    "numba",
    "opensimplex",
    "matplotlib",
    "typer",
    "pydicom",
    "nibabel",
    "joblib",
)


@pytest.mark.parametrize(
    ("modules", "needed"),
    [
        ("commands.score data.readers engines.local detectors.pca imaging.pixels", ()),
        ("engines.local detectors.pca imaging.pixels output.images output.regions", ()),
        (
            "commands.score engines.local imaging.pixels "
            "detectors.anoddpm detectors.ebm detectors.jem",
            ("torch",),
        ),
    ],
)
def test_what_takes_seconds_is_not_imported_before_the_first_score(modules, needed):
    slow = [name for name in SLOW if name not in needed]
    imports = "; ".join(f"import anodetect.{module}" for module in modules.split())
    code = f"import sys; {imports}; print(*[name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_a_network_of_monais_is_made_without_all_of_monai_which_can_be_had_later():
    code = """
import sys
from anodetect.nn.unet import UNet
net = UNet(1, 1, (16, 32)).net
print(*{"transformers", "scipy.stats", "pandas", "monai.data"} & set(sys.modules))
import monai
from monai.inferers import SlidingWindowInferer
assert sys.modules["monai.inferers"].SlidingWindowInferer is SlidingWindowInferer
assert monai.transforms.Resize and monai.losses.DiceLoss and monai.__version__
assert sys.modules["monai"].inferers.SlidingWindowInferer is SlidingWindowInferer
assert [*UNet(1, 1, (16, 32)).net.state_dict()] == [*net.state_dict()]
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


PUBLIC = {
    "train",
    "score",
    "evaluate",
    "calibrate",
    "merge",
    "verify",
    "TrainResult",
    "ScoreResult",
    "EvaluateResult",
    "CalibrateResult",
    "MergeResult",
    "Verdict",
    "Calibration",
    "Batch",
    "Scores",
    "Detector",
    "TrainContext",
    "DETECTORS",
    "AnodetectError",
    "__version__",
}


def test_public_names_are_pinned():
    import anodetect

    assert set(anodetect.__all__) == set(dir(anodetect)) == PUBLIC
    for name in anodetect.__all__:
        assert getattr(anodetect, name) is not None
    with pytest.raises(AttributeError):
        anodetect.nonsense  # noqa: B018


def test_importing_the_package_imports_nothing_else():
    code = "import sys, anodetect; print(*[name for name in sys.modules if 'anodetect.' in name])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_version(anodetect):
    code, out, _ = anodetect("--version")
    assert code == 0
    assert out == f"anodetect {version('anodetect')}\n"


def test_without_a_detector_the_recommended_one_is_trained(
    anodetect, monkeypatch, pca_run, tmp_path
):
    trained, facts = [], runs.facts(pca_run)
    facts = replace(facts, training=replace(facts.training, train_seconds=1.0))

    def train(data, detector, out, **options):
        trained.append((data, detector, out))
        return TrainResult(facts, (), None)

    monkeypatch.setattr(importlib.import_module("anodetect.commands.train"), "train", train)
    code, out, err = anodetect("train", "images", "--out", tmp_path / "run")
    assert code == 0, err
    assert trained == [("images", "anoddpm", tmp_path / "run")]
    assert RECOMMENDED == "anoddpm"
    assert "no --detector given: anoddpm" in err
    assert "anoddpm trained in 1.0 s" in out


def test_help_names_every_command():
    result = CliRunner().invoke(cli.app, ["--help"])
    for name in (
        "demo",
        "train",
        "score",
        "merge",
        "verify",
        "calibrate",
        "evaluate",
        "info",
        "detectors",
        "report",
        "data",
    ):
        assert name in result.output


def test_two_processes_train_one_run(anodetect, synthetic_folder, tmp_path):
    """`torchrun` gives the loss curve and, within rounding, the scores of one process."""
    arguments = ["train", str(synthetic_folder), "-d", "dae", *SMALL, "--seed", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "anodetect.cli",
    ]
    code, _, err = anodetect(*arguments, "--out", tmp_path / "one")
    assert code == 0, err
    command = [sys.executable, *launch, *arguments, "--out", str(tmp_path / "two")]
    subprocess.run(command, check=True, capture_output=True, env=environment)

    curves = []
    for name in ("one", "two"):
        log = runs.read_log(tmp_path / name)
        curves.append([entry["loss"] for entry in log if "loss" in entry])
    assert len(curves[0]) == 3
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}
    one, two = (runs.read(tmp_path / name).calibration.scores for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_a_bar_with_rate_and_counts_on_a_terminal_and_plain_lines_elsewhere(
    monkeypatch, is_terminal
):
    written = io.StringIO()
    monkeypatch.setattr(
        terminal, "screen", Console(file=written, force_terminal=is_terminal, width=120)
    )
    with terminal.reporting() as reporter:
        for done in range(16, 65, 16):
            reporter.progress("score", done, 64, f"{done // 8} flagged, 1 failed")
            time.sleep(0.15)
    text = written.getvalue()
    if is_terminal:
        assert all(
            part in text for part in ("score", "48/64", "6 flagged, 1 failed", "/s", "0:00:0")
        )
    else:
        assert text == "score: 16/64 2 flagged, 1 failed\n"  # and then every ten seconds


def commands_of(command, name=""):
    """Yield a command's name and itself, and those of the commands below it."""
    for own, each in getattr(command, "commands", {}).items():
        yield f"{name} {own}", each
        yield from commands_of(each, f"{name} {own}")


def test_every_command_option_and_argument_says_what_it_is_for():
    for name, command in commands_of(typer.main.get_command(cli.app)):
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"
