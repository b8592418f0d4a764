"""Weights: as named arrays, which is how runs and checkpoints keep them, and in a network."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from anodetect.types import State

Net = TypeVar("Net", bound=nn.Module)


def module_state(module: nn.Module, prefix: str = "") -> State:
    """Return the weights and buffers of a module as NumPy arrays, `prefix` before each name."""
    tensors = module.state_dict().items()
    return {f"{prefix}{name}": tensor.detach().cpu().numpy() for name, tensor in tensors}


def arrays_under(state: State, prefix: str) -> State:
    """Return the arrays whose names begin with `prefix`, which is taken off."""
    names = [name for name in state if name.startswith(prefix)]
    return {name.removeprefix(prefix): state[name] for name in names}


def tensors_under(state: State, prefix: str) -> dict[str, Tensor]:
    """Return what `arrays_under` does, as tensors with memory of their own."""
    arrays = arrays_under(state, prefix)
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def load_weights(net: Net, state: State, prefix: str = "") -> Net:
    """Load what `module_state` returned into a network built alike; return it, ready to score."""
    net.load_state_dict(tensors_under(state, prefix))
    return net.eval().requires_grad_(False)


def with_channels_last(net: Net, device: torch.device) -> Net:
    """Move a network of images to a device, its weights as convolutions take them fastest; return
    it."""
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net
