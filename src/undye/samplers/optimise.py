"""Step grids made for one model: the times and orders that bring few steps nearest to the many-step solution.

For a batch of x_T the flow's end is computed once, in many steps. Then the times (as lambda = log(signal / noise),
between T and t = 1) are moved by Levenberg and Marquardt's method, least squares over all numbers of all images: each
iteration asks how the end moves with each time, by differences. It starts at the best of the grids that need no search,
or at the one that undye brings for models like it. Last, the order of each step is tried. What a grid is worth is
measured on other x_T's than it was made with.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from undye.config_grids import OptimisedGrid
from undye.denoiser import Denoised, Denoiser
from undye.diffusion.schedule import NoiseSchedule, log_alpha_bar_at_log_snr, log_snr
from undye.errors import UserError
from undye.precision import at_least_single
from undye.samplers.base import DenoiserLike, Sampler, final
from undye.samplers.defaults import stored_sampler
from undye.samplers.dpm import DPM2M
from undye.samplers.grid import make_grid
from undye.samplers.known_grids import known_grids
from undye.samplers.multistep import orders
from undye.samplers.noise import SampleNoise
from undye.samplers.parts import InParts
from undye.samplers.unipc import UniPC

KNOWN: tuple[tuple[Sampler, str], ...] = tuple(
    (sampler, grid)
    for sampler in (UniPC(order=2), UniPC(order=3), DPM2M())
    for grid in ("karras", "log-snr", "uniform", "cosine")
)
"""The solvers and grids that need no search: where it starts, and what it has to beat."""
HELD_OUT = 10_000_000
"""Numbers of the samples that a grid is measured on: far from those that it was made with."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much work a search is.

    Attributes:
        images: x_T's that the times are fitted to.
        held_out: x_T's that the result is measured on.
        teacher_steps: network calls of the many-step solution.
        iterations: of the fit, at most.
        seed: names the x_T's.
    """

    images: int = 32
    held_out: int = 64
    teacher_steps: int = 100
    iterations: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise a UserError for numbers that make no search."""
        if min(self.images, self.held_out, self.iterations) < 1 or self.teacher_steps < 2:
            raise UserError(
                "a search needs at least 1 image to fit and to measure, 1 iteration and a teacher's 2 steps"
            )


def optimise_grid(
    denoiser: Denoiser,
    steps: int,
    settings: Settings = Settings(),
    progress: Callable[[str], None] | None = None,
) -> OptimisedGrid:
    """The times and orders with which `steps` network calls come nearest to the model's many-step solution.

    Args:
        denoiser: the model; one with classes is given each in turn.
        steps: of the grid.
        settings: how much work to put in.
        progress: told in words what was found.

    Returns:
        The grid; or the one that undye brings, or the best known one, in its form, where the search found none better.

    Raises:
        UserError: for a number of steps outside 2..T, or not below the teacher's; for a model that has diverged.
    """
    schedule, tell = denoiser.schedule, progress or (lambda text: None)
    check_steps(schedule, steps, settings)
    was_training = denoiser.training
    denoiser.eval()
    try:
        with torch.inference_mode():
            fitted, held_out = (
                _Task.of(denoiser, settings, n, first)
                for n, first in ((settings.images, 0), (settings.held_out, HELD_OUT))
            )
            known = [(sampler, name, make_grid(name, schedule, steps, real=True)) for sampler, name in KNOWN]
            starts = sorted(known, key=lambda k: fitted.distance(k[0], k[2]))
            measured = {i: held_out.distance(s, g) for i, (s, _, g) in enumerate(starts[:3])}
            best_known = min(measured, key=measured.__getitem__)
            if not measured[best_known] < inf:
                raise UserError("this model's predictions are not finite numbers: there is nothing to search for")
            first, name, grid = starts[best_known]
            best_name = f"{_words(first)} on {name}"
            tell(f"{steps} steps: {best_name} is {measured[best_known]:.4f} from the many-step solution")
            brought = _brought(denoiser, steps)
            start = min([(starts[0][0], starts[0][2]), *brought], key=lambda one: fitted.distance(*one))
            found = [_search(fitted, *start, settings, tell), *brought, (first, grid)]
            distances = [held_out.distance(*one) for one in found]
            distance = min(distances)
            sampler, times = found[distances.index(distance)]
    finally:
        denoiser.train(was_training)
    tell(f"{steps} steps: the optimised grid is {distance:.4f} from it")
    orders = _orders(sampler, steps)
    return OptimisedGrid(
        times=tuple(times.tolist()), sampler="dpm++2m" if orders is None else "unipc", orders=orders,
        distance=distance, best_known=measured[best_known], best_known_name=best_name,
    )  # fmt: skip


def check_steps(schedule: NoiseSchedule, steps: int, settings: Settings) -> None:
    """Raise a UserError for a number of steps that leaves nothing to search, or no better solution to come near to."""
    if schedule.num_steps < 3:
        raise UserError(f"there is nothing to optimise: all of this model's steps are {schedule.num_steps}")
    if not 2 <= steps < schedule.num_steps:
        raise UserError(f"a grid to optimise has 2..{schedule.num_steps - 1} steps, got {steps}")
    if steps >= settings.teacher_steps:
        raise UserError(
            f"the many-step solution takes {settings.teacher_steps} steps: for a grid of {steps} ask for more of them "
            "(--teacher-steps)"
        )


@dataclass
class _Task:
    """Some x_T's and where the flow takes them.

    Attributes:
        model: the model with its labels filled in, remembering its last walk.
        x_T: (B, C, H, W).
        end: (B, C, H, W), clamped to [-1, 1] as images are.
    """

    model: "_Remembering"
    x_T: Tensor  # noqa: N815 (the paper's letter)
    end: Tensor

    @classmethod
    def of(cls, denoiser: Denoiser, settings: Settings, n: int, first: int) -> "_Task":
        config, weights = denoiser.config, next(denoiser.parameters(), torch.empty(0))
        shape = (n, config.channels, *config.image_size)
        x_T = SampleNoise(settings.seed, range(first, first + n))(
            weights.new_empty(shape, dtype=at_least_single(weights.dtype))
        )
        classes = config.num_classes
        model = InParts(denoiser, None if classes is None else (torch.arange(n) % classes).to(weights.device))
        teacher = make_grid("log-snr", denoiser.schedule, min(settings.teacher_steps, denoiser.schedule.num_steps))
        end = final(UniPC(order=3).steps(model, x_T, teacher, torch.zeros_like)).clamp(-1, 1)
        return cls(_Remembering(model), x_T, end)

    def residual(self, sampler: Sampler, times: Tensor) -> Float[Tensor, " n"]:
        """How far each number of each image is off, on the CPU in float64."""
        self.model.rewind()
        x = final(sampler.steps(self.model, self.x_T, times, torch.zeros_like)).clamp(-1, 1)
        return (x - self.end).flatten().double().cpu()

    def distance(self, sampler: Sampler, times: Tensor) -> float:
        """The root mean square of that."""
        return self.residual(sampler, times).square().mean().sqrt().item()


class _Remembering:
    """A model that answers from memory as long as a walk is that of `keep`: walks that part late cost little."""

    def __init__(self, model: DenoiserLike):
        self.model, self.config, self.schedule, self.process = model, model.config, model.schedule, model.process
        self._kept: list[tuple[Tensor, Tensor, Denoised]] = []
        self._walk: list[tuple[Tensor, Tensor, Denoised]] = []

    def rewind(self) -> None:
        """A new walk begins."""
        self._walk = []

    def keep(self) -> None:
        """Remember the walk that was just made."""
        self._kept = self._walk

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Denoised:
        """The model's answer."""
        place = len(self._walk)
        known = self._kept[place] if place < len(self._kept) else None
        same = known is not None and torch.equal(known[0], x_t) and torch.equal(known[1], t)
        out = known[2] if known is not None and same else self.model(x_t, t)
        self._walk.append((x_t, t, out))
        return out


def _brought(denoiser: Denoiser, steps: int) -> list[tuple[Sampler, Tensor]]:
    """The grid that undye brings for models like this one, if it has one."""
    grid = known_grids(denoiser.config).get(steps)
    return [] if grid is None else [(stored_sampler(grid), torch.tensor(grid.times, dtype=torch.float64))]


def _search(
    task: _Task, sampler: Sampler, times: Tensor, settings: Settings, tell: Callable[[str], None]
) -> tuple[Sampler, Tensor]:
    """The fit of the times, of the orders, and of the times again."""
    times = _fit(task, sampler, times, settings.iterations)
    if isinstance(sampler, UniPC):
        sampler = _fit_orders(task, sampler, times)
        times = _fit(task, sampler, times, max(1, settings.iterations // 3))
    tell(f"{len(times) - 1} steps: {task.distance(sampler, times):.4f} on the images of the search")
    return sampler, times


def _fit(task: _Task, sampler: Sampler, times: Tensor, iterations: int) -> Tensor:
    """Levenberg and Marquardt's method on the lambdas of the times between T and 0."""
    schedule = task.model.schedule
    lam, damping, moved, gain = _lambdas(schedule, times), 1e-2, True, 0.0
    residual = task.residual(sampler, times)
    for _ in range(iterations):
        task.residual(sampler, times)
        task.model.keep()
        if moved:
            # a difference must stay between its neighbours, so it is a part of the way to the next
            room = torch.cat([lam, 0.5 * log_snr(schedule.log_alpha_bar[1:2]) + 1]).diff()
            eps = 0.05 * room.clamp(max=1.0)
            columns = []
            for i in range(len(lam)):
                there = lam.clone()
                there[i] += eps[i] if i < len(lam) - 1 else -eps[i]
                columns.append((task.residual(sampler, _times(schedule, there)) - residual) / (there - lam)[i])
            jacobian = torch.stack(columns, dim=1)
            normal, gradient = jacobian.T @ jacobian, jacobian.T @ residual
        for _ in range(4):
            step = torch.linalg.solve(normal + damping * normal.diagonal().clamp(min=1e-12).diag(), -gradient)
            there = _sorted(schedule, lam, step)
            tried = _times(schedule, there)
            found = task.residual(sampler, tried)
            moved = bool(found.square().sum() < residual.square().sum())
            if moved:
                gain = 1 - (found.square().sum() / residual.square().sum()).item()
                lam, times, residual, damping = there, tried, found, damping / 5
                break
            damping *= 8
        if not moved or gain < 1e-3:
            break
    return times


def _fit_orders(task: _Task, sampler: UniPC, times: Tensor) -> UniPC:
    """The order of each step that helps, tried one after another from the end."""
    steps = len(times) - 1
    best = replace(sampler, order=_orders(sampler, steps) or sampler.order)
    distance = task.distance(best, times)
    for index in range(steps - 2, 0, -1):
        task.distance(best, times)
        task.model.keep()
        for order in {1, 2, 3} - {best.order[index]}:  # pyrefly: ignore
            if order > index + 1:
                continue
            other = replace(best, order=(*best.order[:index], order, *best.order[index + 1 :]))  # pyrefly: ignore
            if (found := task.distance(other, times)) < distance:
                best, distance = other, found
    return best


def _orders(sampler: Sampler, steps: int) -> tuple[int, ...] | None:
    """The order that each step is taken with; None for another solver than UniPC."""
    if not isinstance(sampler, UniPC):
        return None
    return sampler.order if isinstance(sampler.order, tuple) else tuple(orders(sampler.order, steps))


def _words(sampler: Sampler) -> str:
    return f"{sampler.name} of order {sampler.order}" if isinstance(sampler, UniPC) else sampler.name


def _lambdas(schedule: NoiseSchedule, times: Tensor) -> Tensor:
    """Of the times that may be moved: all but T and 0."""
    return 0.5 * log_snr(schedule.log_alpha_bar_at(times[1:-1].double()))


def _times(schedule: NoiseSchedule, lam: Tensor) -> Tensor:
    """The grid with these lambdas between T and 0."""
    inner = schedule.time_at(log_alpha_bar_at_log_snr(2 * lam)).clamp(min=1)
    ends = torch.tensor([schedule.num_steps, 0], dtype=torch.float64)
    return torch.cat([ends[:1], inner, ends[1:]])


def _sorted(schedule: NoiseSchedule, lam: Tensor, step: Tensor) -> Tensor:
    """Lam + step, shortened as far as it takes to stay in order, a quarter of each gap at least being left."""
    low, high = (0.5 * log_snr(schedule.log_alpha_bar[[i]]) for i in (-1, 1))
    gaps, change = torch.cat([low, lam]).diff(), torch.cat([low * 0, step]).diff()
    shrink = torch.where(change < 0, 0.75 * gaps / -change.clamp(max=-1e-12), torch.ones(())).min().clamp(max=1)
    # none above that of t = 1, and none of those that would be there meets another
    ceiling = high - 1e-3 * torch.arange(len(lam) - 1, -1, -1)
    return torch.minimum(lam + shrink * step, ceiling)
