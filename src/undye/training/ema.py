"""Moving averages of the weights: the one that is saved, sampled and measured, and those for choosing one later."""

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.training.parallel import local, put, whole
from undye.training.profile import share_of_step


class EMA:
    """theta_ema <- d theta_ema + (1 - d) theta after each step (Ho et al. 2020, appendix B: d = 0.9999).

    d is warmed up, min(decay, (1 + step) / (10 + step)), so that a short run does not average over its random start.
    Buffers are copied, not averaged.
    """

    def __init__(self, model: Denoiser, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Denoiser, step: int) -> None:
        """Average in the weights after step number `step` (the first is 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = local(self.model.parameters())
        weights = local(w.detach() for w in model.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in _pairs(self.model, model):
            average.copy_(buffer)


def _pairs(a: Denoiser, b: Denoiser) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(a.buffers(), b.buffers(), strict=True)


class PowerEMA:
    """Averages of the weights over fixed parts of the run so far, from which `undye ema` makes those of other lengths.

    See `undye.training.profile`. After t steps such an average moves by about 1 / (std t) of its distance from the
    weights: too little for float32, which would hold it still in a long run; so they are kept in float64.

    Attributes:
        stds: their lengths, as standard deviations in parts of the run.
        averages: for each length, the averages by the parameters' names.
    """

    def __init__(self, network: nn.Module, stds: Sequence[float]):
        def zero(weight: Tensor) -> Tensor:
            # MPS has no float64: there the averages live on the CPU
            device = "cpu" if weight.device.type == "mps" else weight.device
            return torch.zeros_like(weight, dtype=torch.float64, device=device, requires_grad=False)

        self.stds = tuple(stds)
        self.averages = {std: {name: zero(w) for name, w in network.named_parameters()} for std in self.stds}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Average in the weights after step number `step` (the first is 1); every step counts, a skipped one too."""
        weights = [
            w.to(average.device, torch.float64)
            for w, average in zip(
                local(w.detach() for w in network.parameters()),
                local(self.averages[self.stds[0]].values()),
                strict=True,
            )
        ]
        for std, averages in self.averages.items():
            torch._foreach_lerp_(local(averages.values()), weights, share_of_step(std, step))

    def state(self) -> dict[str, Tensor]:
        """All of the averages, put together; all processes have to ask."""
        return {_key(std, name): whole(a) for std, averages in self.averages.items() for name, a in averages.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave.

        Raises:
            UserError: if something is missing.
        """
        for std, averages in self.averages.items():
            for name, average in averages.items():
                if _key(std, name) not in state:
                    raise UserError(f"the training state has no average {std} of {name!r}: the checkpoint is damaged")
                average.copy_(put(state[_key(std, name)], average))

    def network_states(self, network: nn.Module) -> dict[float, dict[str, Tensor]]:
        """For each length a state dict of the network, in the precision of its weights; all processes have to ask.

        They are copies, on the CPU; buffers are the network's own.
        """
        own = network.state_dict()
        return {
            std: {name: whole(averages.get(name, w)).to("cpu", w.dtype, copy=True) for name, w in own.items()}
            for std, averages in self.averages.items()
        }


def _key(std: float, name: str) -> str:
    return f"{std!r}.{name}"
