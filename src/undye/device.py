"""Which device to compute on, and what it can do."""

import torch

from undye.errors import UserError


def pick_device(name: str | None = None) -> torch.device:
    """The device called `name`, or the best there is: CUDA, then MPS, then the CPU.

    Raises:
        UserError: for a device that is unknown, or not here.
    """
    if name is None:
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device {name!r}: choose cpu, cuda or mps") from None
    here = {"cpu": lambda: True, "cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device.type not in here:
        raise UserError(f"unknown device {name!r}: choose cpu, cuda or mps")
    if not here[device.type]() or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"there is no {name} on this machine: leave --device out for the best there is")
    return device


def supports_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is fast there: GPUs since Ampere, CPUs with matrix units (AMX)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("amx_tile") and capabilities.get("amx_bf16"))
    return False


def set_threads(threads: int | None) -> None:
    """Use this many CPU threads; None: torch's own choice, one per core.

    Raises:
        UserError: unless it is at least 1.
    """
    if threads is None:
        return
    if threads < 1:
        raise UserError(f"--threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)


def default_batch(height: int, width: int) -> int:
    """Images that go through a network together where nobody says: their features should fit a small machine.

    No result depends on it, but for float32 rounding.
    """
    return min(256, max(1, 2**18 // (height * width)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory; torch has many words for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    # the last two are oneDNN's
    words = (
        "not enough memory", "can't allocate memory", "bad_alloc", "could not create a primitive",
        "could not create a memory",
    )  # fmt: skip
    return isinstance(error, RuntimeError) and any(word in text for word in words)
