"""The only training loop in the project.

Under `torchrun` each process takes every n-th image of the same batches and gradients are averaged: the losses
are those of one process. A loss that diverges ends training with the last good weights.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, distributed, nn

from anodetect import checkpoint
from anodetect.config import Config
from anodetect.errors import AnodetectError, ConfigError, Interrupted
from anodetect.nn.ema import EMA
from anodetect.types import Floats, State, TrainContext

Loss = Callable[[nn.Module, Tensor, Sequence[torch.Generator]], Tensor]
CHECKPOINT_SECONDS = 60.0
LOG_STEPS = 10
DIVERGED = 4.0  # times the best smoothed loss so far


class Training(Config):
    """AdamW with warm-up, cosine decay and an exponential moving average.

    Training ends after `steps` or when the budget is spent. The learning rate falls with whichever of the
    two is further along, so a run that its budget ends has been annealed too. `compile` hands the network to
    `torch.compile`, which needs a C++ compiler and a minute.
    """

    steps: PositiveInt = 3000
    batch: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-3
    warmup: PositiveInt = 50
    weight_decay: NonNegativeFloat = 1e-2
    clip: PositiveFloat = 1.0
    ema: float = Field(default=0.999, ge=0, lt=1)
    compile: bool = False


@dataclass(frozen=True)
class Trained:
    net: nn.Module  # the averaged weights
    steps: int
    seconds: float
    stopped_by: str  # "steps", "budget" or "divergence"


def optimize(
    net: nn.Module,
    loss: Loss,
    images: Floats,
    config: Training,
    context: TrainContext,
    *,
    device: torch.device,
    reserve: float = 0.0,
) -> Trained:
    """Minimise `loss(net, batch, generators)` over random batches of `images` [N, C, H, W].

    Each image of a batch has a generator of its own, seeded by (seed, step, place in the batch), so that a resumed
    run repeats what an uninterrupted one does, and several processes what one does. `reserve` seconds of the
    budget are left for what the caller still has to do. The loss has to be positive.
    """
    path = context.workdir / "checkpoint.safetensors"
    rank, processes = join_processes(device)
    if config.batch % processes:
        raise ConfigError(f"training.batch: {config.batch} images cannot be shared evenly by {processes} processes")
    net = net.to(device).train()
    ema = EMA(net, config.ema)
    optimizer = torch.optim.AdamW(
        net.parameters(), config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True
    )
    first, before = 0, 0.0
    if context.resume and path.exists():
        first, before = _restore(path, net, ema, optimizer)
    if config.compile:
        net.compile()
    watch = Watch(ema, first)
    limit = math.inf if context.budget is None else max(context.budget - reserve, 0.0)
    begun = saved = shown = time.monotonic()
    step, stopped_by = first, "steps"
    spent_share = before / limit if limit else 1.0
    with _signals() as signals:
        while step < config.steps:
            if spent_share >= 1:
                stopped_by = "budget"
                break
            rate = config.learning_rate * _schedule(step, spent_share, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch, generators = _draw(images, config.batch, context.seed, step, rank, processes)

            optimizer.zero_grad(set_to_none=True)
            value = loss(net, batch.to(device), generators)
            value.backward()  # type: ignore[no-untyped-call]
            value = _average(processes, net, value.detach())
            norm = nn.utils.clip_grad_norm_(net.parameters(), config.clip)
            if watch.diverged(value.item(), float(norm), step):
                step, stopped_by = watch.restore(), "divergence"
                break
            optimizer.step()
            ema.update(net, step)

            step += 1
            now = time.monotonic()
            # Processes must agree on when to stop: the slowest clock and any process's signal decide.
            spent = before + now - begun
            spent_share, interrupted = _largest(processes, spent / limit if limit else 1.0, len(signals))
            if step % LOG_STEPS == 0 or step == config.steps:
                context.log(
                    {
                        "step": step,
                        "loss": value.item(),
                        "gradient_norm": float(norm),
                        "learning_rate": rate,
                        "seconds": spent,
                    }
                )
            if now - shown > 1 or step == config.steps:
                shown = now
                context.progress(*_progress(step, spent, limit, config), value.item())
            if rank == 0 and (now - saved > CHECKPOINT_SECONDS or interrupted):
                saved = now
                _save(path, net, ema, optimizer, step, spent)
            if interrupted:
                raise Interrupted(f"stopped at step {step}; continue with --resume")
    return Trained(ema.average, step, before + time.monotonic() - begun, stopped_by)


def _draw(
    images: Floats, size: int, seed: int, step: int, rank: int, processes: int
) -> tuple[Tensor, list[torch.Generator]]:
    """This process's share of batch `step`, and a generator for each image of it."""
    rows = np.random.default_rng([seed, step]).integers(len(images), size=size)
    mine = range(rank, size, processes)
    states = (np.random.SeedSequence([seed, step, place]).generate_state(2) for place in mine)
    generators = [torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1])) for state in states]
    return torch.from_numpy(np.ascontiguousarray(images[rows[mine]])), generators


# -- Divergence -----------------------------------------------------------------------------------------


class Watch:
    """Notices a loss that is not finite or several times its best, and keeps the last good averaged weights."""

    def __init__(self, ema: EMA, step: int, every: int = 50) -> None:
        self.ema, self.every, self.first = ema, every, step
        self.best = self.smoothed = math.inf
        self.good = (step, self._weights()) if step else None

    def diverged(self, loss: float, norm: float, step: int) -> bool:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return True
        self.smoothed = loss if math.isinf(self.smoothed) else 0.95 * self.smoothed + 0.05 * loss
        self.best = min(self.best, self.smoothed)
        if self.smoothed > DIVERGED * self.best:
            return True
        if step > self.first and step % self.every == 0 and self.smoothed < math.sqrt(DIVERGED) * self.best:
            self.good = step, self._weights()
        return False

    def restore(self) -> int:
        """Back to the last good weights; the step they are from. AnodetectError if there are none."""
        if self.good is None:
            raise AnodetectError("the loss diverged before anything was learned; lower training.learning_rate")
        step, weights = self.good
        self.ema.average.load_state_dict(weights)
        return step

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.ema.average.state_dict().items()}


# -- Several processes ----------------------------------------------------------------------------------


def join_processes(device: torch.device) -> tuple[int, int]:
    """(rank, number of processes) under `torchrun`, joining the others on first use; (0, 1) otherwise."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        return 0, 1
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return distributed.get_rank(), processes


def _largest(processes: int, *values: float) -> list[float]:
    """Each value's largest over all processes."""
    if processes == 1:
        return list(values)
    gathered: list[tuple[float, ...]] = [()] * processes
    distributed.all_gather_object(gathered, values)
    return [max(column) for column in zip(*gathered, strict=True)]


def _average(processes: int, net: nn.Module, value: Tensor) -> Tensor:
    """Average gradients in place, and the loss, over all processes."""
    if processes == 1:
        return value
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    flat = torch.cat([value.reshape(1), *(gradient.flatten() for gradient in gradients)])
    distributed.all_reduce(flat)
    flat /= processes
    for gradient, mean in zip(gradients, torch.split(flat[1:], [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
    return flat[0]


# -- Time and interruption ------------------------------------------------------------------------------


def _schedule(step: int, spent_share: float, config: Training) -> float:
    done = min(1.0, max(step / config.steps, spent_share))
    return min(1.0, (step + 1) / config.warmup) * (0.5 + 0.5 * math.cos(math.pi * done))


def _progress(step: int, spent: float, limit: float, config: Training) -> tuple[int, int]:
    """(done, total) steps, the total being what the budget will allow at the present pace."""
    allowed = step / max(spent, 1e-9) * limit if math.isfinite(limit) else config.steps
    return step, max(step, min(config.steps, round(allowed)))


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying, so that the loop can save first."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    kinds = (signal.SIGINT, signal.SIGTERM)
    try:
        old = [signal.signal(kind, note) for kind in kinds]
    except ValueError:  # not the main thread: signals are the caller's business
        yield received
        return
    try:
        yield received
    finally:
        for kind, handler in zip(kinds, old, strict=True):
            signal.signal(kind, handler)


def _save(
    path: os.PathLike[str], net: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, step: int, spent: float
) -> None:
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in ema.average.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
    arrays: State = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
    checkpoint.write(path, arrays, {"step": step, "seconds": spent})  # type: ignore[arg-type]


def _restore(path: os.PathLike[str], net: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    arrays, header = checkpoint.read(path)  # type: ignore[arg-type]
    net.load_state_dict(_part(arrays, "net."))
    ema.average.load_state_dict(_part(arrays, "ema."))
    slots: dict[int, dict[str, Any]] = {}
    for key, value in _part(arrays, "optimizer.").items():
        index, slot = key.split(".")
        slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})
    return int(header["step"]), float(header["seconds"])


def _part(arrays: State, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(a.copy()) for name, a in arrays.items() if name.startswith(prefix)
    }
