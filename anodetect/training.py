"""The only training loop in the project."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from anodetect import checkpoint
from anodetect.config import Config
from anodetect.errors import AnodetectError, Interrupted
from anodetect.nn.ema import EMA
from anodetect.types import Floats, State, TrainContext

Loss = Callable[[nn.Module, Tensor, torch.Generator], Tensor]
CHECKPOINT_SECONDS = 60.0


class Training(Config):
    """AdamW with warm-up, cosine decay and an exponential moving average.

    Training ends after `steps` or when the budget is spent. The learning rate falls with whichever of the
    two is further along, so a run that its budget ends has been annealed too.
    """

    steps: PositiveInt = 3000
    batch: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-3
    warmup: PositiveInt = 50
    weight_decay: NonNegativeFloat = 1e-2
    clip: PositiveFloat = 1.0
    ema: float = Field(default=0.999, ge=0, lt=1)


@dataclass(frozen=True)
class Trained:
    net: nn.Module  # the averaged weights
    steps: int
    seconds: float
    stopped_by: str  # "steps" or "budget"


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
    """Minimise `loss(net, batch, generator)` over random batches of `images` [N, C, H, W].

    `reserve` seconds of the budget are left for what the caller still has to do. Step n draws everything
    from a generator seeded by (seed, n): a resumed run repeats what an uninterrupted one does.
    """
    path = context.workdir / "checkpoint.safetensors"
    net = net.to(device).train()
    ema = EMA(net, config.ema)
    optimizer = torch.optim.AdamW(
        net.parameters(), config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    first, before = 0, 0.0
    if context.resume and path.exists():
        first, before = _restore(path, net, ema, optimizer)
    limit = math.inf if context.budget is None else max(context.budget - reserve, 0.0)
    begun = saved = logged = time.monotonic()
    step, stopped_by = first, "steps"
    with _signals() as interrupted:
        while step < config.steps:
            spent = before + time.monotonic() - begun
            if spent >= limit:
                stopped_by = "budget"
                break
            rate = config.learning_rate * _schedule(step, spent / limit, config)
            rng = torch.Generator().manual_seed((context.seed * 1_000_003 + step) % 2**63)
            rows = torch.randint(len(images), (config.batch,), generator=rng).numpy()
            batch = torch.from_numpy(np.ascontiguousarray(images[rows])).to(device)

            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            value = loss(net, batch, rng)
            value.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(net.parameters(), config.clip)
            if not (math.isfinite(value.item()) and math.isfinite(float(norm))):
                raise AnodetectError(f"the loss is not finite at step {step}; lower training.learning_rate")
            optimizer.step()
            ema.update(net, step)

            step += 1
            now = time.monotonic()
            if now - logged > 1 or step == config.steps:
                logged = now
                context.log(
                    {
                        "step": step,
                        "loss": value.item(),
                        "gradient_norm": float(norm),
                        "learning_rate": rate,
                        "seconds": before + now - begun,
                    }
                )
                context.progress(*_progress(step, before + now - begun, limit, config), value.item())
            if now - saved > CHECKPOINT_SECONDS or interrupted:
                saved = now
                _save(path, net, ema, optimizer, step, before + now - begun)
            if interrupted:
                raise Interrupted(f"stopped at step {step}; continue with --resume")
    return Trained(ema.average, step, before + time.monotonic() - begun, stopped_by)


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
