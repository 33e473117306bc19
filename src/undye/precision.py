"""What a network computes in while it samples. The diffusion process itself never leaves float32."""

from contextlib import AbstractContextManager, nullcontext

import torch

from undye.errors import UserError

HALF = (torch.float16, torch.bfloat16)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """What the diffusion process computes in, around a network of this dtype: float32, or float64 where that is it."""
    return torch.float32 if dtype in HALF else dtype


def network_in(name: str, device: torch.device) -> AbstractContextManager:
    """Within it networks compute their products in this dtype (autocast); their answers come back as float32.

    Raises:
        UserError: for an unknown dtype, or float16 elsewhere than on a GPU, where it is slow and overflows.
    """
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}: choose from {', '.join(DTYPES)}")
    if name == "float32":
        return nullcontext()
    if name == "float16" and device.type == "cpu":
        raise UserError("float16 is for GPUs: use bfloat16 or float32 on the CPU")
    return torch.autocast(device.type, DTYPES[name])
