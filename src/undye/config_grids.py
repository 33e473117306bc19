"""A step grid that was made for one model, as plain data: what a checkpoint keeps of the search. No torch here."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OptimisedGrid:
    """Times and orders of a UniPC or DPM-Solver++ walk, found by `undye.samplers.optimise`.

    Attributes:
        times: falling from T to 0, real; the last but one is at least 1, the first that networks are trained on.
        sampler: which solver.
        orders: of each step, for unipc; None: the solver's own.
        distance: root mean square from the many-step solution, of x_0 in [-1, 1], on x_T's that were not searched with.
        best_known: the same of the best grid and solver that are not made for the model, with their names.
        best_known_name: such as "unipc on karras".
    """

    times: tuple[float, ...]
    sampler: Literal["unipc", "dpm++2m"]
    orders: tuple[int, ...] | None = None
    distance: float
    best_known: float
    best_known_name: str = ""

    def __post_init__(self) -> None:
        """Check the times and orders.

        Raises:
            UserError: for those that cannot be walked.
        """
        falls = all(t > s for t, s in pairwise(self.times))
        if len(self.times) < 2 or not falls or self.times[-1] != 0 or (len(self.times) > 2 and self.times[-2] < 1):
            raise UserError("an optimised grid's times must fall strictly to at least 1, and then to 0")
        if self.orders is not None and (
            self.sampler != "unipc" or len(self.orders) != self.steps or not set(self.orders) <= {1, 2, 3}
        ):
            raise UserError("an optimised grid's orders are for unipc, 1 to 3 for each step")

    @property
    def steps(self) -> int:
        """Steps of the grid: the network calls it takes."""
        return len(self.times) - 1
