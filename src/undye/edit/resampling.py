"""Walking down a grid of times with steps back up: RePaint's resampling, which is also DDNM's time travel.

Lugmayr et al. 2022, section 4.2; Wang et al. 2023, section 3.3. What was put into an image at one noise level agrees
with the rest only after some steps of the model have seen both: so the walk goes back up, by noising, and down again.
"""

from collections.abc import Callable
from itertools import pairwise

from jaxtyping import Float, Real
from torch import Tensor

from undye.diffusion.process import times
from undye.errors import UserError
from undye.samplers import DenoiserLike, Noise, Sampler


def resampled(steps: int, jump: int, resamplings: int) -> list[int]:
    """The places 0..steps of a grid in turn, on a walk that goes each stretch of `jump` steps `resamplings` times.

    The stretches are counted from the last time above 0: the step to 0 takes the mean, and noising that would leave
    out the variance which a mean has lost. The first stretch, which may be shorter, is taken once: what is above it is
    noise in any case. A grid without a whole stretch after that is walked once.

    Raises:
        UserError: for a jump or a number of resamplings below 1.
    """
    if jump < 1 or resamplings < 1:
        raise UserError(f"the jump and the number of resamplings must be at least 1, got {jump} and {resamplings}")
    walk = [0]
    for place in range(1, steps + 1):
        walk.append(place)
        if place < steps and (steps - 1 - place) % jump == 0 and place > jump:
            for _ in range(resamplings - 1):
                walk.extend(range(place - jump, place + 1))
    return walk


def down_steps(walk: list[int]) -> int:
    """How many steps of a walk are the model's."""
    return sum(there > here for here, there in pairwise(walk))


def walk_down(
    denoiser: DenoiserLike,
    x: Float[Tensor, "b c h w"],
    grid: Real[Tensor, " n"],
    walk: list[int],
    noise: Noise,
    sampler: Sampler,
    put: Callable[[Tensor, float], Tensor] = lambda x, s: x,
) -> Float[Tensor, "b c h w"]:
    """The state at the end of a walk.

    Args:
        denoiser: the model.
        x: the state at the grid's first time.
        grid: falling times.
        walk: from `resampled`. One place on is a step of the sampler; back is a draw from q(x_t | x_s), over all the
            levels at once, for a chain of Gaussian steps is one.
        noise: source of standard normal draws.
        sampler: one whose steps need only the last state.
        put: called with each new state and its time, gives the state to go on with.
    """
    for here, there in pairwise(walk):
        t, s = float(grid[here]), float(grid[there])
        if there > here:
            # the generator takes the first step of the rest of the grid, and is dropped
            x = put(next(iter(sampler.steps(denoiser, x, grid[here:], noise))).x, s)
        else:
            x = denoiser.process.transition(x, times(s, x), times(t, x)).sample(noise(x))
    return x
