"""A time budget becomes a number of steps, once, from the speed of the first ones."""

import time
from dataclasses import dataclass, field

SETTLE = 3
"""Steps that are not counted: the first ones allocate memory and choose kernels."""
SHARE = 0.05
"""Part of the budget after which the speed counts as known, even if the warm-up of the learning rate is not over."""
RESERVE = 0.02
"""Part of the budget kept for writing checkpoints and for steps that turn out slower."""


@dataclass
class BudgetPlanner:
    """Times steps until it knows the speed; see `plan`.

    Attributes:
        budget: seconds from the first step to the final weights.
        measured_steps: the most steps to time: the warm-up, during which the learning rate does not depend on the plan.
        spent: seconds used by earlier sessions of the run.
    """

    budget: float
    measured_steps: int
    spent: float = 0.0
    _start: float = field(default_factory=time.perf_counter)
    _times: list[float] = field(default_factory=list)

    def restart(self) -> None:
        """The first step is about to begin."""
        self._start = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of the budget that are used."""
        return self.spent + time.perf_counter() - self._start

    def tick(self) -> bool:
        """Note the end of a step; True once the speed is known."""
        self._times.append(self.elapsed())
        enough = len(self._times) > SETTLE and self.elapsed() > SHARE * self.budget
        return enough or len(self._times) >= max(self.measured_steps, SETTLE + 2) or self.elapsed() > self.budget

    @property
    def seconds_per_step(self) -> float:
        """The mean over the counted steps."""
        skip = min(SETTLE, len(self._times) - 1)
        times = self._times[skip:]
        if len(times) < 2:
            return self._times[-1] / len(self._times)
        return (times[-1] - times[0]) / (len(times) - 1)

    def plan(self, done: int, other_seconds: float) -> int:
        """The total number of steps, after `done` of them, if `other_seconds` go into other things than steps."""
        left = self.budget * (1 - RESERVE) - self.elapsed() - other_seconds
        return done + max(1, int(left / self.seconds_per_step))
