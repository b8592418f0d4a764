import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn

from anodetect.errors import AnodetectError, Interrupted
from anodetect.training import Training, optimize
from anodetect.types import TrainContext

IMAGES = np.random.default_rng(0).normal(size=(32, 1, 4, 4)).astype(np.float32)
CPU = torch.device("cpu")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.SiLU(), nn.Linear(8, 16))


def loss(model, batch, rng):
    noise = torch.randn(batch.shape, generator=rng)
    return (model(batch + noise) - batch.flatten(1)).square().mean()


def run(folder, steps=20, **context):
    context = TrainContext(seed=1, device="cpu", workdir=folder, **context)
    return optimize(
        net(), loss, IMAGES, Training(steps=20, batch=4) if steps == 20 else Training(steps=steps), context, device=CPU
    )


def weights(trained):
    return torch.cat([p.flatten() for p in trained.net.parameters()])


def test_same_seed_and_steps_give_the_same_weights(tmp_path):
    assert torch.equal(weights(run(tmp_path)), weights(run(tmp_path)))


def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    whole = run(tmp_path / "whole")
    folder = tmp_path / "parts"
    folder.mkdir()
    calls = []

    def stop_after_seven(model, batch, rng):
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(model, batch, rng)

    context = TrainContext(seed=1, device="cpu", workdir=folder)
    with pytest.raises(Interrupted, match=r"step 7.*--resume"):
        optimize(net(), stop_after_seven, IMAGES, Training(steps=20, batch=4), context, device=CPU)
    resumed = run(folder, resume=True)
    assert resumed.steps == 20
    assert torch.equal(weights(resumed), weights(whole))


def test_budget_ends_training_and_says_so(tmp_path):
    records = []
    begun = time.monotonic()
    trained = run(tmp_path, steps=10**7, budget=1.5, log=records.append)
    assert trained.stopped_by == "budget"
    assert time.monotonic() - begun < 1.5 * 1.1 + 0.2
    assert 0 < trained.steps < 10**7
    assert all(json.dumps(record) for record in records)


def test_loss_falls(tmp_path):
    model = net()
    batch = torch.from_numpy(IMAGES)
    before = loss(model, batch, torch.Generator().manual_seed(0)).item()
    context = TrainContext(seed=0, device="cpu", workdir=tmp_path)
    trained = optimize(model, loss, IMAGES, Training(steps=300, learning_rate=3e-3), context, device=CPU)
    assert loss(trained.net, batch, torch.Generator().manual_seed(0)).item() < 0.9 * before


def test_a_loss_that_is_not_finite_is_an_error(tmp_path):
    context = TrainContext(seed=0, device="cpu", workdir=tmp_path)
    with pytest.raises(AnodetectError, match="not finite at step 0"):
        optimize(net(), lambda m, b, r: loss(m, b, r) * float("nan"), IMAGES, Training(), context, device=CPU)
