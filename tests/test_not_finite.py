"""Scores, weights and calibrations that are not finite: a file fails, a run is refused."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import anodetect
from anodetect.detectors.pca import PCA
from anodetect.errors import RunError
from anodetect.model.model import Model
from anodetect.record import checkpoint, directories, runs


def test_a_file_with_a_score_that_is_not_finite_fails_and_takes_no_other_with_it(
    pca_run, synthetic_folder, tmp_path, monkeypatch
):
    files = sorted((synthetic_folder / "test/good").iterdir())[:4]
    for file in files:
        shutil.copy(file, tmp_path / file.name)
    plain = anodetect.score(pca_run, [str(tmp_path)], tmp_path / "plain", heatmaps=())
    assert plain.scored == 4
    scores = sorted(row.score for row in directories.read(tmp_path / "plain").rows)
    score = Model.score

    def broken(self, *arguments):
        found = score(self, *arguments)
        worst = np.isclose(found.image, scores[-1], rtol=1e-4)
        return replace(found, image=np.where(worst, np.nan, found.image))

    monkeypatch.setattr(Model, "score", broken)
    result = anodetect.score(pca_run, [str(tmp_path)], tmp_path / "s", heatmaps=())
    assert (result.scored, result.failed) == (3, 1)
    rows = directories.read(tmp_path / "s").rows
    assert [row.error for row in rows if row.status == "failed"] == [
        "the model's score or heatmap is not finite"
    ]
    assert all(np.isfinite(row.p_value) for row in rows if row.status == "ok")


def test_weights_that_do_not_fit_the_network_are_one_line(pca_run, monkeypatch):
    """PyTorch's text about a network's weights has a line for each of them."""
    network = nn.Sequential(*(nn.Linear(2, 2) for _ in range(40)))

    def load_state(self, state, *, device):
        network.load_state_dict({"0.weight": torch.zeros(3, 3), "other": torch.zeros(1)})

    monkeypatch.setattr(PCA, "load_state", load_state)
    with pytest.raises(RunError, match="not a usable model") as caught:
        Model.load(runs.read(pca_run), "cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300 + len(str(pca_run))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["calibration.scores", "detector."])
def test_a_run_that_is_not_finite_is_refused(pca_run, tmp_path, name, value):
    run = shutil.copytree(pca_run, tmp_path / "run")
    tensors, header = checkpoint.read(run / "model.safetensors")
    named = [each for each in tensors if each.startswith(name) and tensors[each].dtype.kind == "f"]
    chosen = max(named, key=lambda each: tensors[each].ndim)
    tensors[chosen] = tensors[chosen].copy()
    tensors[chosen].flat[0] = value
    checkpoint.write(run / "model.safetensors", tensors, header)
    with pytest.raises(RunError, match=f"{re.escape(chosen)} has values that are not finite"):
        runs.read(run)
