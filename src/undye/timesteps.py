"""Which timesteps a training batch is given: uniform, stratified, or in proportion to how hard they have been.

Each draws from a random number that belongs to (seed, step, example), so that a batch may be split over processes.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from undye import keyed
from undye.keyed import Stream


class TimestepSampler(ABC):
    """Draws t in 1..T for the examples of a batch, with the weight that keeps the mean over t what it was."""

    name: ClassVar[str]

    @abstractmethod
    def draw(
        self, u: Float64[np.ndarray, " b"], num_steps: int, seed: int, step: int, examples: np.ndarray, batch_size: int
    ) -> tuple[Int64[np.ndarray, " b"], Float64[np.ndarray, " b"]]:
        """(t, 1 / (T p(t))) from uniform numbers `u` of examples numbered `examples` in a batch of `batch_size`."""

    def observe(self, t: Int64[Tensor, " b"], loss: Float[Tensor, " b"]) -> None:
        """Learn from the unweighted losses of a step."""
        return

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take `state` back up."""
        return


class Uniform(TimestepSampler):
    """Each t alike, independently: Ho et al. 2020, Algorithm 1."""

    name: ClassVar[str] = "uniform"

    def draw(self, u, num_steps, seed, step, examples, batch_size):
        """T = 1 + floor(u T)."""
        return _from_unit(u, num_steps), np.ones(len(u))


class Stratified(TimestepSampler):
    """Spread evenly over 1..T from a random start: each t is still uniform, the batch's mean loss varies less."""

    name: ClassVar[str] = "stratified"

    def draw(self, u, num_steps, seed, step, examples, batch_size):
        """Evenly spaced numbers in place of `u`: Kingma et al. 2021, appendix I.1."""
        start = keyed.uniform(seed, Stream.TRAIN_TIME_START, step)
        return _from_unit((start + examples / batch_size) % 1.0, num_steps), np.ones(len(u))


class Importance(TimestepSampler):
    """In proportion to sqrt(E[loss^2]) of the last losses at each t: Nichol and Dhariwal 2021, section 3.3.

    Uniform until every t has been seen `history` times; afterwards still uniform in one draw of a thousand, so that no
    t is lost. The weights undo the preference, so the expected loss is the same and only its variance falls: for the
    variational bound, whose terms differ by orders of magnitude, by a lot.

    Args:
        num_steps: T.
        history: losses remembered for each t.
        uniform_share: share of the draws that stay uniform.
    """

    name: ClassVar[str] = "importance"

    def __init__(self, num_steps: int, history: int = 10, uniform_share: float = 1e-3):
        self.uniform_share = uniform_share
        self._losses = np.zeros((num_steps, history))
        self._seen = np.zeros(num_steps, dtype=np.int64)

    @property
    def warm(self) -> bool:
        """Whether every t has been seen often enough."""
        return bool((self._seen >= self._losses.shape[1]).all())

    def probabilities(self) -> Float64[np.ndarray, " T"]:
        """p(t) for t = 1..T."""
        num_steps = len(self._seen)
        size = np.sqrt((self._losses**2).mean(1))
        if not self.warm or not size.sum() > 0:
            return np.full(num_steps, 1 / num_steps)
        return (1 - self.uniform_share) * size / size.sum() + self.uniform_share / num_steps

    def draw(self, u, num_steps, seed, step, examples, batch_size):
        """The t whose share of the unit interval holds u."""
        p = self.probabilities()
        edges = p.cumsum()
        index = np.minimum(np.searchsorted(edges / edges[-1], u, side="right"), num_steps - 1)
        return index + 1, 1 / (num_steps * p[index])

    def observe(self, t: Int64[Tensor, " b"], loss: Float[Tensor, " b"]) -> None:
        """Remember the losses, each in the place of the oldest of its t."""
        for index, value in zip((t - 1).tolist(), loss.detach().cpu().double().tolist(), strict=True):
            self._losses[index, self._seen[index] % self._losses.shape[1]] = value
            self._seen[index] += 1

    def state(self) -> dict[str, Tensor]:
        """The losses (T, history) and how many were seen of each t (T,)."""
        return {"losses": torch.from_numpy(self._losses.copy()), "seen": torch.from_numpy(self._seen.copy())}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take `state` back up."""
        if state["losses"].shape != self._losses.shape or state["seen"].shape != self._seen.shape:
            raise ValueError("the history of losses is of another number of timesteps")
        self._losses, self._seen = state["losses"].numpy().copy(), state["seen"].numpy().copy()


TIMESTEPS = ("uniform", "stratified", "importance")


def timestep_sampler(name: str, num_steps: int) -> TimestepSampler:
    """A timestep sampler by name, for 1..`num_steps`.

    Raises:
        ValueError: for an unknown name.
    """
    match name:
        case "uniform":
            return Uniform()
        case "stratified":
            return Stratified()
        case "importance":
            return Importance(num_steps)
    raise ValueError(f"unknown timestep sampler {name!r}: choose from {', '.join(TIMESTEPS)}")


def _from_unit(u: Float64[np.ndarray, " b"], num_steps: int) -> Int64[np.ndarray, " b"]:
    """1..T from [0, 1); a sum that rounds up to 1 must not become T + 1."""
    return np.minimum(1 + np.floor(u * num_steps).astype(np.int64), num_steps)
