import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from anodetect.errors import AnodetectError, ConfigError, Interrupted
from anodetect.nn import divergence, training
from anodetect.nn.divergence import DivergenceMonitor
from anodetect.nn.processes import Processes
from anodetect.nn.training import Losses, Training, TrainingBatch, optimize
from anodetect.types import TrainContext

IMAGES = np.random.default_rng(0).normal(size=(32, 1, 4, 4)).astype(np.float32)
CPU = torch.device("cpu")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.SiLU(), nn.Linear(8, 16))


def conv_net():
    """With weights that are not contiguous, as the detectors' are."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 8, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Conv2d(8, 1, 3, padding=1),
    )
    return nn.Sequential(*layers, nn.Flatten()).to(memory_format=torch.channels_last)


def loss(model, batch):
    noise = torch.stack(
        [torch.randn(batch.images.shape[1:], generator=rng) for rng in batch.generators]
    )
    return (model(batch.images + noise) - batch.images.flatten(1)).square().mean()


def error(model):
    generators = [torch.Generator().manual_seed(n) for n in range(len(IMAGES))]
    return loss(
        model, TrainingBatch(torch.from_numpy(IMAGES), generators, 0.0, np.arange(len(generators)))
    ).item()


def run(folder, steps=20, make=net, **context):
    context = TrainContext(seed=1, device="cpu", workdir=folder, **context)
    return optimize(
        make(),
        loss,
        IMAGES,
        Training(steps=20, batch=4) if steps == 20 else Training(steps=steps),
        context,
        device=CPU,
    )


def weights(trained):
    return torch.cat([p.flatten() for p in trained.net.parameters()])


def test_same_seed_and_steps_give_the_same_weights(tmp_path):
    assert torch.equal(weights(run(tmp_path)), weights(run(tmp_path)))


@pytest.mark.parametrize("make", [net, conv_net])
def test_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, make):
    whole = run(tmp_path / "whole", make=make)
    folder = tmp_path / "parts"
    folder.mkdir()
    calls = []

    def stop_after_seven(model, batch):
        calls.append(1)
        if len(calls) == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(model, batch)

    context = TrainContext(seed=1, device="cpu", workdir=folder)
    with pytest.raises(Interrupted, match=r"step 7.*--resume"):
        optimize(make(), stop_after_seven, IMAGES, Training(steps=20, batch=4), context, device=CPU)
    resumed = run(folder, make=make, resume=True)
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
    before = error(model)
    context = TrainContext(seed=0, device="cpu", workdir=tmp_path)
    trained = optimize(
        model, loss, IMAGES, Training(steps=300, learning_rate=3e-3), context, device=CPU
    )
    assert error(trained.net) < 0.9 * before


def test_a_loss_that_diverges_at_once_is_an_error(tmp_path):
    context = TrainContext(seed=0, device="cpu", workdir=tmp_path)
    with pytest.raises(AnodetectError, match="diverged before there were good weights"):
        optimize(
            net(),
            lambda m, batch: loss(m, batch) * float("nan"),
            IMAGES,
            Training(),
            context,
            device=CPU,
        )


@pytest.mark.parametrize("factor", [float("nan"), 1e4])
def test_a_loss_that_diverges_later_leaves_the_last_good_weights(tmp_path, factor):
    calls = []

    def diverging(model, batch):
        calls.append(1)
        return loss(model, batch) * (factor if len(calls) > 120 else 1)

    context = TrainContext(seed=1, device="cpu", workdir=tmp_path)
    trained = optimize(net(), diverging, IMAGES, Training(steps=300, ema=0.9), context, device=CPU)
    assert trained.stopped_by == "divergence"
    assert trained.steps == 100
    assert error(trained.net) < 0.95 * error(net())


def test_training_goes_on_slower_from_good_weights_as_often_as_it_may(tmp_path):
    """Three bursts of nonsense are survived, a fourth ends training with the last good weights."""
    for bursts, stopped_by in ((3, "steps"), (4, "divergence")):
        calls, records, told = [], [], []

        def bursting(model, batch, calls=calls, bursts=bursts, told=told):
            calls.append(1)
            told.append(batch.returns)
            return loss(model, batch) * (
                float("nan") if len(calls) in (120, 240, 360, 480)[:bursts] else 1
            )

        context = TrainContext(seed=1, device="cpu", workdir=tmp_path, log=records.append)
        trained = optimize(
            net(), bursting, IMAGES, Training(steps=450, ema=0.9, returns=3), context, device=CPU
        )
        assert trained.stopped_by == stopped_by
        returns = [record for record in records if "returned_to_step" in record]
        assert [record["rate_factor"] for record in returns] == pytest.approx([0.3, 0.09, 0.027])
        assert returns[0]["returned_to_step"] == 100
        assert told == sorted(told) and set(told) == {0, 1, 2, 3}  # the loss knows of returns
        assert all(np.isfinite(record["loss"]) for record in records if "loss" in record)
        assert all(torch.isfinite(weights(trained)))
        assert error(trained.net) < 0.95 * error(net())


def test_what_a_loss_reports_is_logged_and_what_it_watches_tells_divergence(tmp_path):
    records = []

    def reporting(model, batch):
        value = loss(model, batch)
        return Losses(value - 5, value, {"energy_gap": batch.progress})

    context = TrainContext(seed=1, device="cpu", workdir=tmp_path, log=records.append)
    trained = optimize(net(), reporting, IMAGES, Training(steps=20), context, device=CPU)
    assert trained.stopped_by == "steps"
    assert [record["energy_gap"] for record in records] == pytest.approx([9 / 20, 19 / 20])
    assert all(record["loss"] > 0 for record in records)


def test_an_interrupted_diverging_run_still_ends_with_an_earlier_step(tmp_path):
    """The monitor is resumed too: what it saw rising before an interruption it still sees rising
    after it."""
    calls = []

    def rising(model, batch):
        calls.append(1)
        if len(calls) == 150:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(model, batch) * (1 if len(calls) <= 140 else 3 if len(calls) <= 150 else 9)

    config = Training(steps=400, learning_rate=1e-4)
    context = TrainContext(seed=1, device="cpu", workdir=tmp_path)
    with pytest.raises(Interrupted):
        optimize(net(), rising, IMAGES, config, context, device=CPU)
    trained = optimize(net(), rising, IMAGES, config, replace(context, resume=True), device=CPU)
    assert trained.stopped_by == "divergence"
    assert trained.steps == 150
    assert not (tmp_path / "checkpoint.safetensors").exists()


def rising_after(calm, stop):
    """A loss that is three times as large after so many calls, and nine times after those at which
    it interrupts."""
    calls = []

    def rising(model, batch):
        calls.append(1)
        if len(calls) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(model, batch) * (1 if len(calls) <= calm else 3 if len(calls) <= stop else 9)

    return rising


def test_a_run_interrupted_while_its_loss_is_up_still_has_its_good_weights(tmp_path):
    config, rising = Training(steps=400, learning_rate=1e-4), rising_after(calm=105, stop=145)
    context = TrainContext(seed=1, device="cpu", workdir=tmp_path)
    with pytest.raises(Interrupted, match="step 145"):
        optimize(net(), rising, IMAGES, config, context, device=CPU)
    trained = optimize(net(), rising, IMAGES, config, replace(context, resume=True), device=CPU)
    assert (trained.stopped_by, trained.steps) == ("divergence", 100)
    whole = optimize(
        net(),
        rising_after(calm=105, stop=0),
        IMAGES,
        config,
        replace(context, workdir=tmp_path / "other"),
        device=CPU,
    )
    assert torch.equal(weights(trained), weights(whole))


def test_a_run_without_good_weights_is_not_resumed_again(tmp_path):
    config, rising = (
        Training(steps=400, batch=divergence.SMOOTHED_IMAGES),
        rising_after(calm=5, stop=10),
    )
    context = TrainContext(seed=1, device="cpu", workdir=tmp_path)
    with pytest.raises(Interrupted, match="step 10"):
        optimize(net(), rising, IMAGES, config, context, device=CPU)
    with pytest.raises(AnodetectError, match="diverged before"):
        optimize(net(), rising, IMAGES, config, replace(context, resume=True), device=CPU)
    assert not list(tmp_path.iterdir())


def test_a_noisy_but_stationary_loss_is_not_taken_for_divergence():
    """Images alone in their batch, with losses over two decades, as the error of a noise level
    drawn at random."""
    rng = np.random.default_rng(0)
    monitor = DivergenceMonitor(batch=1)
    assert not any(monitor.diverged(float(10 ** rng.uniform(-2, 0)), 1.0) for _ in range(20_000))
    for _ in range(20):
        monitor.reset()
        assert not any(monitor.diverged(float(10 ** rng.uniform(-2, 0)), 1.0) for _ in range(200))


def test_a_budget_too_small_for_one_step_is_an_error(tmp_path):
    with pytest.raises(AnodetectError, match="before the first step"):
        optimize(
            net(),
            loss,
            IMAGES,
            Training(),
            TrainContext(1, "cpu", tmp_path, budget=1.0),
            device=CPU,
            reserve=2.0,
        )


def test_a_batch_that_processes_cannot_share_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "join_processes", lambda device: Processes(0, 3))
    with pytest.raises(ConfigError, match="16 images cannot be shared evenly by 3"):
        run(tmp_path, steps=5)


TWO_PROCESSES = """
import json, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import test_training as t
records = []
context = t.TrainContext(seed=1, device="cpu", workdir=Path(sys.argv[2]), log=records.append)
config = t.Training(steps=40, batch=8)
trained = t.optimize(t.net(), t.loss, t.IMAGES, config, context, device=t.CPU)
rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
answer = {"losses": [record["loss"] for record in records], "weights": t.weights(trained).tolist()}
Path(sys.argv[2], f"{rank}.json").write_text(json.dumps(answer))
"""


def test_two_processes_learn_what_one_does(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES)
    arguments = [str(script), str(Path(__file__).parent), str(tmp_path)]
    # The port that is found free for the two may be taken before they use it; then they begin
    # again.
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        "1",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], check=True, env=environment)
    one = json.loads((tmp_path / "0.json").read_text())
    done = subprocess.run(
        [sys.executable, *launch, *arguments], check=False, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    for rank in (0, 1):
        two = json.loads((tmp_path / f"{rank}.json").read_text())
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
        assert two["weights"] == pytest.approx(one["weights"], abs=1e-5)
