"""Weights as named arrays, which is how runs and checkpoints keep them."""

import torch
from torch import Tensor, nn

from anodetect.types import State


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
