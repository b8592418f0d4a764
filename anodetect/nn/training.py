"""The only training loop in the project.

Under `torchrun` each process takes every n-th image of the same batches and gradients are averaged,
so losses are those of one process, as far as a loss takes each image by itself. Where a loss
diverges, training returns to the last good weights and continues at a lower rate, as often as its
settings allow; after that it ends with those weights.
"""

import itertools
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anodetect.config import Config
from anodetect.errors import AnodetectError, BudgetTooShort, ConfigError, Interrupted
from anodetect.imaging.backbones.cache import user_folder
from anodetect.imaging.transfer import copies_of, on_device
from anodetect.nn.augment import Augment, augmented
from anodetect.nn.divergence import DivergenceMonitor
from anodetect.nn.ema import EMA
from anodetect.nn.processes import Processes, join_processes
from anodetect.nn.state import module_state, tensors_under
from anodetect.record import checkpoint
from anodetect.types import Floats, State, TrainContext

CHECKPOINT_SECONDS = 60.0
PROGRESS_SECONDS = 1.0
NO_TIME = "the budget ended before the first step of training; give more minutes"
LOG_STEPS = 10
GOOD_STEPS = 50  # steps after which weights are kept as good ones, if the loss is stable
SLOWER = 0.3  # times the rate after each return to good weights


class Training(Config):
    """AdamW with warm-up, cosine decay and an exponential moving average of the weights.

    Training ends after `steps` or when the budget is spent. The learning rate falls with whichever
    of the two is further along, so that a training that its budget ends has been annealed too.
    """

    steps: PositiveInt = Field(
        default=3000, description="The steps of training at most; a budget may end it earlier."
    )
    batch: PositiveInt = Field(
        default=16, description="The images of one step, over all processes together."
    )
    learning_rate: PositiveFloat = Field(
        default=1e-3, description="The highest learning rate of AdamW, reached after the warm-up."
    )
    warmup: PositiveInt = Field(
        default=50, description="The steps over which the learning rate rises from 0."
    )
    momentum: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="The share of the mean gradient that a step of AdamW keeps, its β₁; 0 suits "
        "games between networks.",
    )
    weight_decay: NonNegativeFloat = Field(default=1e-2, description="The weight decay of AdamW.")
    clip: PositiveFloat = Field(
        default=1.0,
        description="The largest norm of the gradient of all weights; a longer one is shortened.",
    )
    ema: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="The limit of the decay of the weights' moving average, which is what is kept; "
        "at step n the decay is at most (1 + n) / (10 + n).",
    )
    augment: Augment = Field(default=Augment(), description="Random changes of training images.")
    returns: NonNegativeInt = Field(
        default=0,
        description="How often a training whose loss diverges may return to its last good weights "
        "and continue at 0.3 times the learning rate.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the network with torch.compile, which needs a C++ compiler and takes "
        "about a minute the first time; what it makes is kept in the user's cache folder.",
    )


@dataclass(frozen=True)
class TrainingBatch:
    """The images that one step learns from.

    `images` are [N, C, H, W] (or [N, C, D, H, W]), `generators` one for each, `rows` the images'
    row numbers among all. `progress` is the share of training that is over, in [0, 1), and
    `returns` how often training has returned to good weights so far. `visible` [N, 1, H, W] says
    which pixels are known; None for all of them.
    """

    images: Tensor
    generators: list[torch.Generator]
    progress: float
    rows: NDArray[np.int64]
    returns: int = 0
    visible: Tensor | None = None


@dataclass(frozen=True)
class Losses:
    """The values of a loss function, scalars.

    `total` is minimised. `watched` is positive and shows divergence. `facts` are written to
    train.jsonl.
    """

    total: Tensor
    watched: Tensor
    facts: Mapping[str, float] = field(default_factory=dict)


Net = TypeVar("Net", bound=nn.Module)
# A loss that is a tensor is both minimised and watched.
Loss = Callable[[Net, TrainingBatch], Tensor | Losses]
StoppedBy = Literal["steps", "budget", "divergence"]


@dataclass(frozen=True)
class Trained(Generic[Net]):
    """The network with its averaged weights, the steps they took, and what ended training."""

    net: Net
    steps: int
    stopped_by: StoppedBy

    def facts(self) -> dict[str, int | str]:
        """Return what the last line of train.jsonl has of a training."""
        return {"step": self.steps, "stopped_by": self.stopped_by}


def optimize(
    net: Net,
    loss: Loss[Net],
    images: Floats,
    config: Training,
    context: TrainContext,
    *,
    device: torch.device,
    reserve: float = 0.0,
    useful_untrained: bool = False,
) -> Trained[Net]:
    """Minimise `loss(net, batch)` over random batches of `images` [N, C, H, W].

    Each image of a batch has its own generator, seeded by (seed, step, place in the batch), so that
    a resumed training repeats what an uninterrupted one does, and several processes what one does.
    `reserve` seconds of the budget are left to the caller. Raise Interrupted after a signal, with
    the checkpoint saved, and AnodetectError if the loss diverged before there were good weights, or
    if there was no time for a step and the network is not `useful_untrained`.
    """
    path = checkpoint_path(context)
    processes = _processes_that_share(config.batch, device)
    learner = Learner(net.to(device).train(), config, processes)
    seconds_before = learner.restore(path) if context.resume and path.exists() else 0.0
    if config.compile:
        _compile(net)

    stopped_by: StoppedBy = "steps"
    first_step, clock = learner.step, Clock(context.budget, reserve, seconds_before)
    progress_timer, checkpoint_timer = Timer(PROGRESS_SECONDS), Timer(CHECKPOINT_SECONDS)
    drawn = _drawn(images, learner, context.seed, device)
    with _collected_signals() as signals:
        # Processes must agree on when to stop: the slowest clock and any process's signal decide.
        budget_share, interrupted = processes.largest(device, clock.share(), len(signals))
        while learner.step < config.steps:
            if budget_share >= 1:
                stopped_by = "budget"
                break

            progress = min(1.0, max(learner.step / config.steps, budget_share))
            batch = _training_batch(next(drawn), learner, progress, context.seed)
            learner.backward(loss(net, batch))

            if learner.monitor.diverged(learner.loss, learner.gradient_norm):
                path.unlink(missing_ok=True)  # a resumed training must not start from bad weights
                if not learner.return_to_good():
                    stopped_by = "divergence"
                    break
                context.log(learner.facts_of_return())
                drawn = _drawn(images, learner, context.seed, device)
            else:
                learner.update(progress)
                if learner.step % LOG_STEPS == 0 or learner.step == config.steps:
                    context.log(learner.facts_of_step() | {"seconds": clock.spent()})

            budget_share, interrupted = processes.largest(device, clock.share(), len(signals))
            if progress_timer.is_due() or learner.step == config.steps:
                context.progress(*_expected_steps(learner, clock), learner.loss)
            due = learner.monitor.is_stable() and checkpoint_timer.is_due()
            if processes.rank == 0 and (interrupted or due):
                learner.save(path, clock.spent())
            if interrupted:
                raise Interrupted(f"stopped at step {learner.step}; continue with --resume")

    if learner.step == first_step == 0 and stopped_by == "budget" and not useful_untrained:
        raise BudgetTooShort(NO_TIME)
    learner.save_end(path, stopped_by, clock.spent())
    if stopped_by == "budget":
        context.log({"step": learner.step, "of_steps": config.steps})
    return Trained(learner.ema.average, learner.step, stopped_by)


def checkpoint_path(context: TrainContext) -> Path:
    """Return where a training keeps what is needed to resume it."""
    return context.workdir / checkpoint.CHECKPOINT_FILE


def _processes_that_share(batch: int, device: torch.device) -> Processes:
    """Return the processes that train together; ConfigError if `batch` is no multiple of them."""
    processes = join_processes(device)
    if batch % processes.count:
        raise ConfigError(
            f"training.batch: {batch} images cannot be shared evenly by {processes.count} processes"
        )
    return processes


# -- The network that learns -----------------------------------------------------------------------


class GoodWeights(NamedTuple):
    """Averaged weights from before the loss diverged, and the step they are from."""

    step: int
    weights: dict[str, Tensor]


class Learner(Generic[Net]):
    """A network with its optimiser, its averaged weights and its divergence monitor.

    This is all that a checkpoint holds, beside the seconds spent.
    """

    def __init__(self, net: Net, config: Training, processes: Processes) -> None:
        self.net, self.config, self.processes = net, config, processes
        self.step, self.returns = 0, 0
        self.ema = EMA(net, config.ema)
        self.optimizer = self._new_optimizer()
        self.monitor = DivergenceMonitor(config.batch)
        self.good: GoodWeights | None = None

        # What train.jsonl has of the last step.
        self.loss = self.gradient_norm = self.rate = math.nan
        self.facts: Mapping[str, float] = {}

    def _new_optimizer(self) -> torch.optim.AdamW:
        rate, decay = self.config.learning_rate, self.config.weight_decay
        betas = self.config.momentum, 0.99
        return torch.optim.AdamW(
            self.net.parameters(), rate, betas=betas, weight_decay=decay, fused=True
        )

    def backward(self, losses: Tensor | Losses) -> None:
        """Compute the gradients, averaged over all processes and clipped."""
        if isinstance(losses, Tensor):
            losses = Losses(losses, losses)

        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.loss = self.processes.average(self.net, losses.watched.detach()).item()
        self.gradient_norm = float(
            nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip)
        )
        self.facts = losses.facts

    def update(self, progress: float) -> None:
        """Take one step of the optimiser, at the learning rate for this share of training."""
        config = self.config
        warmup = min(1.0, (self.step + 1) / config.warmup)
        decay = 0.5 + 0.5 * math.cos(math.pi * progress)
        self.rate = config.learning_rate * (warmup * decay) * SLOWER**self.returns
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate

        self.optimizer.step()
        self.ema.update(self.net, self.step)
        self.step += 1
        if self.step % GOOD_STEPS == 0 and self.monitor.is_stable():
            self.keep_as_good()

    def keep_as_good(self) -> None:
        """Keep a copy of the averaged weights as good ones."""
        average = self.ema.average.state_dict()
        self.good = GoodWeights(self.step, {name: value.clone() for name, value in average.items()})

    def return_to_good(self) -> bool:
        """Make the last good weights the averaged ones; return True if training may continue.

        It then continues from them at a lower rate, with a new optimiser. Raise AnodetectError if
        there are no good weights.
        """
        if self.good is None:
            raise AnodetectError(
                "the loss diverged before there were good weights; lower training.learning_rate"
            )
        self.step = self.good.step
        self.ema.average.load_state_dict(self.good.weights)
        if self.returns == self.config.returns:
            return False

        self.net.load_state_dict(self.ema.average.state_dict())
        self.returns += 1
        self.optimizer = self._new_optimizer()
        self.monitor.reset()
        return True

    def facts_of_step(self) -> dict[str, float]:
        """Return what train.jsonl has of the last step."""
        own = {
            "step": self.step,
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "learning_rate": self.rate,
        }
        return own | dict(self.facts)

    def facts_of_return(self) -> dict[str, float]:
        """Return what train.jsonl has of a return to good weights."""
        return {"returned_to_step": self.step, "rate_factor": SLOWER**self.returns}

    def save(self, path: Path, seconds: float) -> None:
        """Write a checkpoint; `seconds` is the time of training spent so far."""
        arrays = module_state(self.net, "net.") | module_state(self.ema.average, "ema.")
        for index, slots in self.optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                arrays[f"optimizer.{index}.{slot}"] = value.detach().cpu().numpy()
        if self.good is not None:
            for name, value in self.good.weights.items():
                arrays[f"good.{name}"] = value.detach().cpu().numpy()

        header = {
            "good": None if self.good is None else self.good.step,
            "step": self.step,
            "seconds": seconds,
            "watch": self.monitor.state(),
            "returns": self.returns,
        }
        checkpoint.write(path, arrays, header)

    def save_end(self, path: Path, stopped_by: StoppedBy, seconds: float) -> None:
        """Write a checkpoint of a training that ended after more `seconds` than lie between two:
        what follows, such as calibration, may take long, too, and be killed."""
        is_long = seconds >= CHECKPOINT_SECONDS
        if self.processes.rank == 0 and stopped_by != "divergence" and is_long:
            self.save(path, seconds)

    def restore(self, path: Path) -> float:
        """Continue from a checkpoint; return the seconds that training had taken until then."""
        arrays, header = checkpoint.read(path)
        self.net.load_state_dict(tensors_under(arrays, "net."))
        self.ema.average.load_state_dict(tensors_under(arrays, "ema."))
        self._restore_optimizer(arrays)

        self.step, self.returns = int(header["step"]), int(header["returns"])
        self.monitor.load_state(header["watch"])
        if header.get("good") is not None:
            self.good = GoodWeights(int(header["good"]), tensors_under(arrays, "good."))
        elif self.monitor.is_stable():
            self.keep_as_good()
        return float(header["seconds"])

    def _restore_optimizer(self, arrays: State) -> None:
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors_under(arrays, "optimizer.").items():
            index, slot = key.split(".")
            slots.setdefault(int(index), {})[slot] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": slots})

        # The fused kernel needs moments that are laid out in memory as the weights are.
        for weight, state in self.optimizer.state.items():
            for slot, value in state.items():
                if value.shape == weight.shape:
                    state[slot] = torch.empty_like(weight).copy_(value)


def _compile(net: nn.Module) -> None:
    """Compile a network, and keep what was compiled for the next training of one like it."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(user_folder("compiled")))
    net.compile()


# -- Batches ---------------------------------------------------------------------------------------


def _places(learner: Learner[Net]) -> range:
    """Return this process's places in a batch."""
    processes = learner.processes
    return range(processes.rank, learner.config.batch, processes.count)


def _drawn(
    images: Floats, learner: Learner[Net], seed: int, device: torch.device
) -> Iterator[tuple[Tensor | NDArray[Any], ...]]:
    """Yield this process's images of each step from the present one on, on the device, and their
    rows. While a step learns from some, the next ones are copied."""
    places, first_step = _places(learner), learner.step

    def of_steps() -> Iterator[tuple[NDArray[Any], ...]]:
        for step in itertools.count(first_step):
            chosen = np.random.default_rng([seed, step])
            rows = chosen.integers(len(images), size=learner.config.batch)[places]
            yield images[rows], rows

    return on_device(of_steps(), copies_of(device))


def _training_batch(
    drawn: tuple[Tensor | NDArray[Any], ...], learner: Learner[Net], progress: float, seed: int
) -> TrainingBatch:
    """Return images that were drawn, changed at random, as the batch of the present step."""
    images, rows = drawn
    assert isinstance(images, Tensor) and isinstance(rows, np.ndarray)
    generators = [_generator(seed, learner.step, place) for place in _places(learner)]
    changed = augmented(images, generators, learner.config.augment)
    return TrainingBatch(changed, generators, progress, rows, learner.returns)


def _generator(seed: int, step: int, place: int) -> torch.Generator:
    high, low = np.random.SeedSequence([seed, step, place]).generate_state(2)
    return torch.Generator().manual_seed(int(high) << 31 ^ int(low))


# -- Time and interruption -------------------------------------------------------------------------


class Clock:
    """Seconds of training, those before a resume included, and the budget set to them."""

    def __init__(self, budget: float | None, reserve: float, seconds_before: float) -> None:
        self.limit = math.inf if budget is None else max(budget - reserve, 0.0)
        self.seconds_before = seconds_before
        self.started = time.monotonic()

    def spent(self) -> float:
        """Return the seconds spent."""
        return self.seconds_before + time.monotonic() - self.started

    def share(self) -> float:
        """Return the share of the budget that is spent; above 1 where there is none left."""
        return self.spent() / self.limit if self.limit else 1.0


class Timer:
    """Says when something that is done every `seconds` is due."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.last = time.monotonic()

    def is_due(self) -> bool:
        """Return True if `seconds` have passed since the last time this was True."""
        now = time.monotonic()
        if now - self.last <= self.seconds:
            return False
        self.last = now
        return True


def _expected_steps(learner: Learner[Net], clock: Clock) -> tuple[int, int]:
    """Return the steps done, and those expected in all at the present pace."""
    most, step = learner.config.steps, learner.step
    if math.isfinite(clock.limit):
        affordable = step / max(clock.spent(), 1e-9) * clock.limit
        most = min(most, round(affordable))
    return step, max(step, most)


@contextmanager
def _collected_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying, so that the loop can save first."""
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
