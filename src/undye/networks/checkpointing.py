"""Activation checkpointing: less memory in training for a third more time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def maybe_again(again: bool, function: Callable[..., Tensor], *args: Tensor | int | None) -> Tensor:
    """function(*args); with `again`, its insides are not kept for the backward pass but computed again in it."""
    if again and torch.is_grad_enabled():
        return checkpoint(function, *args, use_reentrant=False)
    return function(*args)
