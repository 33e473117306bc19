"""The arithmetic of the network in training. The noise process and the losses stay in float32 or better in any case."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from undye.errors import UserError

TYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """How forward and backward passes compute: plainly in float32 or float64, or by autocast in bf16 or fp16.

    fp16 has few exponents: its losses are scaled up before the backward pass, by a factor that is lowered whenever a
    gradient overflows (that step is left out) and raised after many that did not. It needs a GPU.

    Not accelerate's mixed precision: that is one setting for the whole process, and a process may train twice.
    """

    def __init__(self, name: str, device: torch.device):
        """name: fp64, fp32, bf16 or fp16.

        Raises:
            UserError: for fp16 without a GPU.
        """
        if name == "fp16" and device.type != "cuda":
            raise UserError(
                f"fp16 training needs a GPU, this is {device.type}: choose --training.precision bf16 or fp32"
            )
        if name == "fp64" and device.type == "mps":
            raise UserError("mps has no float64: choose --training.precision fp32")
        self.name, self.device = name, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    @property
    def weights(self) -> torch.dtype:
        """Of the weights and the images."""
        return torch.float64 if self.name == "fp64" else torch.float32

    @property
    def lowest(self) -> torch.dtype:
        """What matrix products may be computed in."""
        return TYPES[self.name]

    def autocast(self) -> AbstractContextManager:
        """Around the forward pass."""
        low = self.name in ("bf16", "fp16")
        return torch.autocast(self.device.type, self.lowest if low else None, enabled=low)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold."""
        return {k: torch.tensor(v, dtype=torch.float64) for k, v in self.scaler.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take `state` back up."""
        if self.scaler.is_enabled() and state:
            kinds = {"growth_interval": int, "_growth_tracker": int}
            self.scaler.load_state_dict({k: kinds.get(k, float)(v.item()) for k, v in state.items()})
