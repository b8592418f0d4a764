import csv
import json
from pathlib import Path

import numpy as np
import pytest

from anodetect.commands import benchmark, strips
from anodetect.commands.comparison import Estimate, Summary, differences
from anodetect.commands.results import metrics_of
from anodetect.errors import AnodetectError, Interrupted
from anodetect.record import directories, runs
from anodetect.types import Silent

COLUMNS = {
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
    "tpr_at_5_fpr",
}


def run(folder, out):
    return benchmark.run(
        [str(folder)], ["intensity", "pca"], out, seeds=1, budget=1.0, reporter=Silent()
    )


def test_benchmark_makes_one_table_and_repeats_nothing(synthetic_folder, tmp_path, monkeypatch):
    first = run(synthetic_folder, tmp_path / "b")
    with (tmp_path / "b/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["detector"] for row in rows] == ["intensity", "pca"]
    assert set(rows[0]) >= COLUMNS
    assert 0 <= float(rows[0]["tpr_at_5_fpr"]) <= 1
    assert json.dumps(first.as_json())
    monkeypatch.setattr(
        benchmark, "_call", lambda *arguments: pytest.fail("finished work was repeated")
    )
    assert run(synthetic_folder, tmp_path / "b") == first
    text = (tmp_path / "b/results.md").read_text()
    assert "### `tiles`" in text
    assert "intensity − pca" in text
    assert "tpr at 5 fpr" in text
    html = (tmp_path / "b/benchmark.html").read_text()
    assert html.count("data:image/png;base64,") == strips.STRIPS
    assert "TPR at 5 % FPR" in html
    difference = first.summary[1].differences[0]
    assert difference.other == "intensity"
    pixel_ap = difference.metrics["pixel_ap"]
    assert pixel_ap.low <= pixel_ap.value <= pixel_ap.high
    found = first.summary[0].summary.metrics["tpr_at_5_fpr"]
    assert found.low <= found.value <= found.high


def test_scores_of_an_older_release_have_no_rate_at_five_percent():
    old = directories.read(Path(__file__).parent / "data/scores-format-2").audit.evaluation
    found = metrics_of(old)
    assert found["tpr_at_5_fpr"] is None
    assert found["image_auroc"] == old.image["auroc"].value


def test_paired_differences_are_narrower_than_unpaired_ones():
    """Two detectors that err on the same images: their difference is known better than either."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=1000) * 0.1
    entries = []
    for name, value, draws in (
        ("a", 0.8, 0.8 + shared),
        ("b", 0.7, 0.7 + shared + rng.normal(size=1000) * 0.01),
    ):
        metrics = {"image_auroc": Estimate(value), "pixel_ap": Estimate(None)}
        draws_by_metric = {"image_auroc": draws}
        entries.append(Summary("d", "d", name, "pixels", 1, metrics, {}, draws_by_metric))
    (line,) = differences(entries[0], entries)
    assert line.other == "b"
    assert line.metrics["image_auroc"].value == pytest.approx(0.1)
    assert line.metrics["image_auroc"].high - line.metrics["image_auroc"].low < 0.06
    assert "pixel_ap" not in line.metrics


def test_a_failing_command_stops_the_benchmark(tmp_path, synthetic_folder):
    with pytest.raises(AnodetectError, match="failed"):
        benchmark._call("train", str(tmp_path), "--detector", "pca", "--out", str(tmp_path / "x"))
    with pytest.raises(AnodetectError, match="did you mean 'pca'"):
        benchmark.run(
            [str(synthetic_folder)], ["pac"], tmp_path, seeds=1, budget=1.0, reporter=Silent()
        )


@pytest.mark.parametrize(
    ("left", "resumed"), [("member0.safetensors", True), ("train.jsonl", False)]
)
def test_an_interrupted_training_is_gone_on_with_if_it_left_something_to_go_on_from(
    tmp_path, monkeypatch, left, resumed
):
    def stop(*arguments):
        assert ("--resume" in arguments) == resumed
        raise Interrupted("stopped")

    job = benchmark.Job("tiles", "ensemble", 0, tmp_path)
    runs.partial(job.run).mkdir(parents=True)
    (runs.partial(job.run) / left).touch()
    monkeypatch.setattr(benchmark, "_call", stop)
    with pytest.raises(Interrupted):
        benchmark.finished(job, 1.0)
