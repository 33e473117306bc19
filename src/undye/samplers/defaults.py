"""Which sampler and which times, where nobody says."""

import torch
from jaxtyping import Real
from torch import Tensor

from undye.config_grids import OptimisedGrid
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.samplers.base import Sampler
from undye.samplers.dpm import DPM2M
from undye.samplers.grid import make_grid
from undye.samplers.known_grids import known_grids
from undye.samplers.unipc import UniPC

DEFAULT_GRIDS = {"unipc": "karras", "dpm++2m": "karras", "dpm++3m": "karras", "heun": "karras"}
"""Where a sampler is named and no grid: what serves it best in few steps; else uniform."""


ORDER_3_FROM = 15
"""Steps from which order 3 is nearer than order 2."""


def choose(
    denoiser: Denoiser, sampler: Sampler | None, grid: str | None, steps: int | None
) -> tuple[Sampler, Real[Tensor, " n"]]:
    """A sampler and its times: what is asked for, and the best that is known where nothing is.

    With neither a sampler nor a grid named, the model's optimised grid for this number of steps, if it has one; or one
    that the package knows to suit models like it. Without those UniPC, of order 3 where there are steps enough for it.

    Raises:
        UserError: for an unknown grid, an optimised one that the model does not have, or a number of steps outside
            1..T.
    """
    num_steps = denoiser.schedule.num_steps
    if steps is None:
        default = (sampler or UniPC()).default_steps
        steps = num_steps if default is None else min(default, num_steps)
    stored = denoiser.grids.get(steps) or known_grids(denoiser.config).get(steps)
    if grid == "optimised" and stored is None:
        have = f"it has {', '.join(map(str, sorted(denoiser.grids)))}" if denoiser.grids else "it has none"
        raise UserError(
            f"this model has no optimised grid of {steps} steps ({have}): make one with undye optimise-grid"
        )
    if stored is not None and (grid == "optimised" or (grid is None and sampler is None)):
        return stored_sampler(stored) if sampler is None else sampler, torch.tensor(stored.times, dtype=torch.float64)
    sampler = sampler or UniPC(order=3 if steps >= ORDER_3_FROM else 2)
    return sampler, make_grid(grid or DEFAULT_GRIDS.get(sampler.name, "uniform"), denoiser.schedule, steps)


def stored_sampler(grid: OptimisedGrid) -> Sampler:
    """The solver that a stored grid is for."""
    if grid.sampler == "dpm++2m":
        return DPM2M()
    return UniPC() if grid.orders is None else UniPC(order=grid.orders)
