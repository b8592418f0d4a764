"""The only training loop in the project.

Under `torchrun` each process takes every n-th image of the same batches and gradients are averaged:
the losses are those of one process, as far as a loss takes each image by itself. Where a loss
diverges, training goes back to the last good weights and on at a lower rate, as often as it may;
then it ends with them.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, distributed, nn

from anodetect.config import Config
from anodetect.errors import AnodetectError, ConfigError, Interrupted
from anodetect.nn.augment import Augment, augmented
from anodetect.nn.ema import EMA
from anodetect.record import checkpoint
from anodetect.types import Floats, State, TrainContext

CHECKPOINT_SECONDS = 60.0
LOG_STEPS = 10
GOOD_STEPS = 50
DIVERGED = 4.0  # times the best smoothed loss so far
WATCHED = 400  # images that the loss is smoothed over
SLOWER = 0.3  # times the rate after each return to good weights
SETTLED = 0.9  # weight of a smoothed loss, of 1, from which on it counts


class Training(Config):
    """AdamW with warm-up, cosine decay and an exponential moving average.

    Training ends after `steps` or when the budget is spent. The learning rate falls with whichever
    of the two is further along, so a run that its budget ends has been annealed too. `returns` is
    how often training may go back to good weights when the loss diverges. `compile` hands the
    network to `torch.compile`, which needs a C++ compiler and a minute.
    """

    steps: PositiveInt = 3000
    batch: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-3
    warmup: PositiveInt = 50
    weight_decay: NonNegativeFloat = 1e-2
    clip: PositiveFloat = 1.0
    ema: float = Field(default=0.999, ge=0, lt=1)
    augment: Augment = Augment()
    returns: NonNegativeInt = 0
    compile: bool = False


@dataclass(frozen=True)
class Draw:
    """What one step learns from: images [N, C, H, W], a generator for each, the share of training
    that is over, the images' rows among all, and how often training has returned to good weights.
    """

    images: Tensor
    generators: list[torch.Generator]
    done: float
    rows: NDArray[np.int64]
    returns: int = 0


@dataclass(frozen=True)
class Losses:
    """`total` is minimised, `watched` is positive and tells divergence, `facts` go to train.jsonl."""

    total: Tensor
    watched: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)


Loss = Callable[[nn.Module, Draw], Tensor | Losses]  # a mere tensor is minimised and watched


@dataclass(frozen=True)
class Trained:
    net: nn.Module  # the averaged weights
    steps: int
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
    """Minimise `loss(net, draw)` over random batches of `images` [N, C, H, W].

    Each image of a batch has a generator of its own, seeded by (seed, step, place in the batch), so
    that a resumed run repeats what an uninterrupted one does, and several processes what one does.
    `reserve` seconds of the budget are left for what the caller still has to do.
    """
    path = checkpoint_of(context)
    rank, processes = join_processes(device)
    if config.batch % processes:
        raise ConfigError(
            f"training.batch: {config.batch} images cannot be shared evenly by {processes} processes"
        )
    learner = Learner(net.to(device).train(), config)
    before = learner.restore(path) if context.resume and path.exists() else 0.0
    if config.compile:
        net.compile()
    clock = Clock(
        before, math.inf if context.budget is None else max(context.budget - reserve, 0.0)
    )
    stopped_by, first = "steps", learner.step
    saved = shown = time.monotonic()
    with _signals() as signals:
        # Processes must agree on when to stop: the slowest clock and any process's signal decide.
        spent_share, interrupted = _largest(processes, device, clock.share(), len(signals))
        while learner.step < config.steps:
            if spent_share >= 1:
                stopped_by = "budget"
                break
            rows, generators = _draw(
                len(images), config.batch, context.seed, learner.step, rank, processes
            )
            batch = torch.from_numpy(np.ascontiguousarray(images[rows])).to(device)
            batch = augmented(batch, generators, config.augment)
            done = min(1.0, max(learner.step / config.steps, spent_share))
            losses = loss(net, Draw(batch, generators, done, rows, learner.returns))
            learner.backward(
                losses if isinstance(losses, Losses) else Losses(losses, losses), processes
            )
            if learner.watch.diverged(learner.loss, learner.norm):
                path.unlink(missing_ok=True)  # or --resume would go on from the bad weights
                learner.return_to_good()
                if learner.returns == config.returns:
                    stopped_by = "divergence"
                    break
                learner.go_on_slower()
                context.log(
                    {"returned_to_step": learner.step, "rate_factor": SLOWER**learner.returns}
                )
            else:
                learner.update(config.learning_rate * _schedule(learner.step, done, config))
                if learner.step % LOG_STEPS == 0 or learner.step == config.steps:
                    context.log(learner.record() | {"seconds": clock.spent()})

            spent_share, interrupted = _largest(processes, device, clock.share(), len(signals))
            now = time.monotonic()
            if now - shown > 1 or learner.step == config.steps:
                shown = now
                context.progress(*_progress(learner.step, clock, config), learner.loss)
            if rank == 0 and (
                interrupted or (now - saved > CHECKPOINT_SECONDS and learner.watch.calm())
            ):
                saved = now
                learner.save(path, clock.spent())
            if interrupted:
                raise Interrupted(f"stopped at step {learner.step}; continue with --resume")
    if learner.step == first == 0 and stopped_by == "budget":
        raise AnodetectError(
            "the budget ended before the first step of training; give more minutes"
        )
    return Trained(learner.ema.average, learner.step, stopped_by)


def checkpoint_of(context: TrainContext) -> Path:
    """Where a training is saved that is to be continued."""
    return context.workdir / checkpoint.CHECKPOINT_FILE


@dataclass(frozen=True)
class Clock:
    """Seconds of training, counting those before a resume, and the limit set to them."""

    before: float
    limit: float
    begun: float = field(default_factory=time.monotonic)

    def spent(self) -> float:
        return self.before + time.monotonic() - self.begun

    def share(self) -> float:
        return self.spent() / self.limit if self.limit else 1.0


class Learner:
    """A network with its optimiser, its average and the watch over them: all that a checkpoint
    holds."""

    def __init__(self, net: nn.Module, config: Training) -> None:
        self.net, self.config, self.step, self.returns = net, config, 0, 0
        self.ema = EMA(net, config.ema)
        self.optimizer = self._fresh_optimizer()
        self.watch = Watch(config.batch)
        self.facts: Mapping[str, float] = {}
        self.loss = self.norm = self.rate = math.nan
        self.good: tuple[int, dict[str, Tensor]] | None = None

    def _fresh_optimizer(self) -> torch.optim.AdamW:
        rate, decay = self.config.learning_rate, self.config.weight_decay
        return torch.optim.AdamW(
            self.net.parameters(), rate, betas=(0.9, 0.99), weight_decay=decay, fused=True
        )

    def backward(self, losses: Losses, processes: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.loss = _average(processes, self.net, losses.watched.detach()).item()
        self.norm = float(nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip))
        self.facts = losses.facts

    def update(self, rate: float) -> None:
        self.rate = rate * SLOWER**self.returns
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.step()
        self.ema.update(self.net, self.step)
        self.step += 1
        if self.step % GOOD_STEPS == 0 and self.watch.calm():
            self.keep()

    def keep(self) -> None:
        """Note the averaged weights as good."""
        self.good = (
            self.step,
            {name: value.clone() for name, value in self.ema.average.state_dict().items()},
        )

    def return_to_good(self) -> None:
        """Back to the last good averaged weights; AnodetectError if there are none."""
        if self.good is None:
            raise AnodetectError(
                "the loss diverged before there were good weights; lower training.learning_rate"
            )
        self.step, weights = self.good
        self.ema.average.load_state_dict(weights)

    def go_on_slower(self) -> None:
        """Continue from the averaged weights at a lower rate, with the optimiser's and the watch's
        memory cleared."""
        self.net.load_state_dict(self.ema.average.state_dict())
        self.returns += 1
        self.optimizer = self._fresh_optimizer()
        self.watch.forget()

    def record(self) -> dict[str, float]:
        own = {
            "step": self.step,
            "loss": self.loss,
            "gradient_norm": self.norm,
            "learning_rate": self.rate,
        }
        return own | dict(self.facts)

    def save(self, path: Path, seconds: float) -> None:
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.average.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{slot}": value for slot, value in slots.items()}
        good, weights = self.good or (None, {})
        tensors |= {f"good.{name}": value for name, value in weights.items()}
        arrays: State = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
        header = {
            "good": good,
            "step": self.step,
            "seconds": seconds,
            "watch": self.watch.state(),
            "returns": self.returns,
        }
        checkpoint.write(path, arrays, header)

    def restore(self, path: Path) -> float:
        """Become what was saved; the seconds it had taken."""
        arrays, header = checkpoint.read(path)
        self.net.load_state_dict(tensors_below(arrays, "net."))
        self.ema.average.load_state_dict(tensors_below(arrays, "ema."))
        slots: dict[int, dict[str, Any]] = {}
        for key, value in tensors_below(arrays, "optimizer.").items():
            index, slot = key.split(".")
            slots.setdefault(int(index), {})[slot] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})
        for (
            weight,
            state,
        ) in self.optimizer.state.items():  # the fused kernel needs moments laid out as weights are
            for slot, value in state.items():
                if value.shape == weight.shape:
                    state[slot] = torch.empty_like(weight).copy_(value)
        self.step, self.returns = int(header["step"]), int(header["returns"])
        self.watch.load_state(header["watch"])
        if header.get("good") is not None:
            self.good = int(header["good"]), tensors_below(arrays, "good.")
        elif self.watch.calm():
            self.keep()
        return float(header["seconds"])


def _draw(
    count: int, size: int, seed: int, step: int, rank: int, processes: int
) -> tuple[NDArray[np.int64], list[torch.Generator]]:
    """This process's share of batch `step` of `count` images, and a generator for each."""
    rows = np.random.default_rng([seed, step]).integers(count, size=size)
    mine = range(rank, size, processes)
    states = (np.random.SeedSequence([seed, step, place]).generate_state(2) for place in mine)
    generators = [
        torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1])) for state in states
    ]
    return rows[mine], generators


# -- Divergence ------------------------------------------------------------------------------------


class Watch:
    """Notices a loss that is not finite, or several times the best it was on average over some
    hundred images."""

    def __init__(self, batch: int) -> None:
        self.decay = max(0.0, 1 - batch / WATCHED)
        self.sum, self.weight, self.best = 0.0, 0.0, math.inf

    def diverged(self, loss: float, norm: float) -> bool:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return True
        self.sum, self.weight = (
            self.decay * old + (1 - self.decay) * new
            for old, new in ((self.sum, loss), (self.weight, 1.0))
        )
        if self.weight > SETTLED:
            self.best = min(self.best, self.sum / self.weight)
        return self._rise() > DIVERGED

    def calm(self) -> bool:
        """Whether weights may be kept as good ones."""
        return self._rise() < math.sqrt(DIVERGED)

    def _rise(self) -> float:
        return (
            self.sum / self.weight / self.best
            if math.isfinite(self.best) and self.weight > 0
            else 1.0
        )

    def forget(self) -> None:
        """Take it that the loss is at its best again."""
        if math.isfinite(self.best):
            self.sum, self.weight = self.best, 1.0

    def state(self) -> list[float]:
        return [self.sum, self.weight, self.best]

    def load_state(self, state: Sequence[float]) -> None:
        self.sum, self.weight, self.best = state


# -- Several processes -----------------------------------------------------------------------------


def join_processes(device: torch.device) -> tuple[int, int]:
    """(rank, number of processes) under `torchrun`, joining the others on first use; (0, 1)
    otherwise."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        return 0, 1
    if not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return distributed.get_rank(), processes


def _largest(processes: int, device: torch.device, *values: float) -> list[float]:
    """Each value's largest over all processes."""
    if processes == 1:
        return list(values)
    largest = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return largest.tolist()


def _average(processes: int, net: nn.Module, value: Tensor) -> Tensor:
    """Average gradients in place, and the loss, over all processes."""
    if processes == 1:
        return value
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    flat = torch.cat([value.reshape(1), *(gradient.flatten() for gradient in gradients)])
    distributed.all_reduce(flat)
    flat /= processes
    for gradient, mean in zip(
        gradients, torch.split(flat[1:], [g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_(mean.view_as(gradient))
    return flat[0]


# -- Time and interruption -------------------------------------------------------------------------


def _schedule(step: int, done: float, config: Training) -> float:
    return min(1.0, (step + 1) / config.warmup) * (0.5 + 0.5 * math.cos(math.pi * done))


def _progress(step: int, clock: Clock, config: Training) -> tuple[int, int]:
    """(done, total) steps, the total being what the budget will allow at the present pace."""
    allowed = (
        step / max(clock.spent(), 1e-9) * clock.limit
        if math.isfinite(clock.limit)
        else config.steps
    )
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


def below(arrays: State, prefix: str) -> State:
    """The arrays whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def tensors_below(arrays: State, prefix: str) -> dict[str, Tensor]:
    """The arrays whose names begin with `prefix`, without it, as tensors of their own."""
    return {name: torch.from_numpy(array.copy()) for name, array in below(arrays, prefix).items()}
