"""The quick demo end to end, and the real sets where they are."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import anodetect
from anodetect import cli
from anodetect.commands import demo
from anodetect.data import cards, split
from anodetect.output import report
from anodetect.record import runs
from anodetect.types import Silent

ROW_KEYS = {
    "dataset",
    "detector",
    "representation",
    "seed",
    "image_auroc",
    "image_auroc_low",
    "image_auroc_high",
    "image_ap",
    "pixel_auroc",
    "pixel_ap",
    "pixel_aupro",
    "train_seconds",
    "score_ms_per_image",
    "peak_memory_mb",
    "model_mb",
}


README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
QUICK_START = README.partition("\n## Quick start\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    return demo.run(out, quick=True, reporter=Silent()), out


def test_quick_demo_makes_everything(quick):
    result, out = quick
    assert [row.detector for row in result.rows] == ["intensity", "pca", "anoddpm"]
    assert all(set(row) >= ROW_KEYS for row in result.as_json()["rows"])
    assert all(row.image_auroc > 0.9 for row in result.rows)
    assert all(runs.read(out / "runs" / row.detector) for row in result.rows)
    assert (out / "scores/anoddpm/heatmaps").is_dir()


def test_report_is_self_contained_and_shows_everything(quick):
    _, out = quick
    html = (out / "report.html").read_text()
    for text in (
        "Highest scores",
        "Nearest to the threshold",
        "To repeat it",
        "anodetect train",
        "threshold",
        "95 % interval",
    ):
        assert text in html
    assert html.count("<svg") == 5
    assert html.count("data:image/jpeg;base64,") >= 12
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)
    assert report.write(out) == out / "report.html"


def test_report_escapes_what_it_shows(quick, tmp_path):
    _, out = quick
    audit = json.loads((out / "scores/pca/audit.json").read_text())
    audit["data"] = "<script>alert(1)</script>"
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "audit.json").write_text(json.dumps(audit))
    for name in ("scores.parquet", "outputs.parquet"):
        (folder / name).write_bytes((out / "scores/pca" / name).read_bytes())
    html = report.write(folder).read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_the_quick_start_finds_in_real_images_what_the_readme_says(monkeypatch, tmp_path, capfd):
    """Its numbers are those of the extra `demo` alone, without `features`."""
    pytest.importorskip("elpv_dataset", reason="the extra `demo` is not installed")
    for module in ("forms", "odd"):
        monkeypatch.setattr(f"anodetect.model.{module}.features_installed", lambda: False)
    monkeypatch.setattr(split, "FOLDS", 5)  # as outside of tests
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^anodetect (.*elpv:mono.*)$", QUICK_START, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["train", "score", "evaluate"]

    for command in commands:
        monkeypatch.setattr(sys, "argv", ["anodetect", *shlex.split(command)])
        with pytest.raises(SystemExit) as leave:
            cli.main()
        assert not leave.value.code
    printed = "".join(capfd.readouterr())
    begin = r"normal:|kept for|elpv:mono: fit|126 normal|image (?:auroc|ap|fpr|tpr)|at far"
    lines = re.findall(rf"^(?:{begin}).*$", QUICK_START, re.MULTILINE)
    lines += re.findall(r"^439 scored, .* 0 failed", QUICK_START, re.MULTILINE)
    assert len(lines) == 10
    for line in lines:
        assert line in printed
    assert (tmp_path / "scores/cells/report.html").is_file()


@pytest.mark.parametrize(
    ("name", "counts", "flat"),
    [("lgg_flair", (303, 119, 168), True), ("magnetic_tile", (558, 145, 201), False)],
)
def test_shared_sets_train_and_evaluate(shared_data, monkeypatch, tmp_path, name, counts, flat):
    monkeypatch.setenv(cards.HOME, str(shared_data))
    dataset = cards.open_data(name)
    testing = dataset.testing()
    assert (
        len(dataset.training()),
        sum(r.label == 0 for r in testing),
        sum(r.label == 1 for r in testing),
    ) == counts
    facts = anodetect.train(name, "pca", tmp_path / "run").facts
    assert facts.preprocess["flat_background"] == flat
    evaluation = anodetect.evaluate(tmp_path / "run", name).whole
    # Near the published figures for PCA (LGG .69/.16, magnetic tile .71/.16): the path is the right
    # one.
    assert 0.6 < evaluation.image["auroc"].value < 0.85
    ap = evaluation.pixel["ap"]
    assert ap.value > 0.08
    assert ap.low < ap.value < ap.high
