"""Several processes that train together under `torchrun`, with equal weights in all of them."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Processes:
    """The number of processes that train together, and this one's `rank` among them, from 0."""

    rank: int = 0
    count: int = 1

    def largest(self, device: torch.device, *values: float) -> list[float]:
        """Return the largest of each value over all processes."""
        if self.count == 1:
            return list(values)
        largest = torch.tensor(values, dtype=torch.float64, device=device)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return largest.tolist()

    def average(self, net: nn.Module, loss: Tensor) -> Tensor:
        """Replace the gradients of `net` by their means over processes; return the mean loss."""
        if self.count == 1:
            return loss

        # One message for the loss and all gradients.
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        message = torch.cat([loss.reshape(1), *(gradient.flatten() for gradient in gradients)])
        distributed.all_reduce(message)
        message /= self.count

        means = torch.split(message[1:], [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        return message[0]


def join_processes(device: torch.device) -> Processes:
    """Return the processes that `torchrun` started, joining them on first use; otherwise one."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes()

    if not distributed.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Processes(distributed.get_rank(), count)


def summed(values: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes that train together."""
    if not distributed.is_initialized():
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total


def from_first_process(values: Tensor) -> Tensor:
    """Return the first process's tensor; all have one of this shape."""
    if not distributed.is_initialized():
        return values
    first = values.clone()
    distributed.broadcast(first, 0)
    return first
