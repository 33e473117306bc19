"""The likelihood of the probability-flow ODE: Song et al. 2021 (score-based SDEs), section 4.3; Chen et al. 2018.

The ODE carries the prior's density to the data's, and the change of variables follows it along: the log-density changes
by the trace of the flow's Jacobian. It is the density of another model than the variational bound's (the deterministic
sampler's), so the two are independent witnesses of the same network.

The path is followed in sigma space, y = x / sqrt(alpha_bar) = x_0 + sigma eps, where the flow is dy / d log sigma =
sigma eps(y): nothing of the schedule's own bends is in it. It starts at a small sigma, not at 0, where the density of
pixels has no limit; what is measured is the density of y there, which is x_0 with noise of that sigma on it. And it
ends at T, where the model's own starting point is a standard normal: what the schedule leaves of the data there is
neglected. Both are systematic, and in no error bar.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from undye import keyed
from undye.diffusion import score
from undye.diffusion.likelihood import LEVELS
from undye.diffusion.ode import State, solve
from undye.diffusion.process import like
from undye.diffusion.schedule import NoiseSchedule
from undye.errors import UserError
from undye.keyed import Stream
from undye.metrics.inputs import Images, check_inputs, evaluating
from undye.samplers import DenoiserLike


@dataclass(frozen=True)
class OdeBitsPerDim:
    """-log2 p(x) for each image in bits per dimension, (N,), and the network calls that it took for each.

    For pixels it is an upper bound, by uniform dequantisation; for real numbers a density.

    Attributes:
        total: (N,).
        standard_error: (N,), of the trace's estimate and the dequantisation, over the repeats; NaN for one repeat.
        calls: network calls for each image and repeat, on average.
    """

    total: np.ndarray
    standard_error: np.ndarray
    calls: float

    @classmethod
    def joined(cls, parts: "Sequence[OdeBitsPerDim]") -> "OdeBitsPerDim":
        """Those of several sets of images as one."""
        counts = np.array([len(part.total) for part in parts])
        calls = float(np.average([part.calls for part in parts], weights=counts))
        total, error = (np.concatenate([getattr(p, name) for p in parts]) for name in ("total", "standard_error"))
        return cls(total, error, calls)


def ode_bits_per_dim(
    denoiser: DenoiserLike,
    images: Images,
    *,
    label: int | Sequence[int] | np.ndarray | None = None,
    trace: str = "hutchinson",
    repeats: int = 1,
    tolerance: float = 1e-3,
    sigma_min: float = 3e-3,
    seed: int = 0,
    first_index: int = 0,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> OdeBitsPerDim:
    """The negative log-likelihood of images under the probability-flow ODE.

    Args:
        denoiser: the model, or an oracle of `undye.testing`.
        images: uint8 (N, H, W, C), to which uniform noise of one level is added (Theis et al. 2016); or a tensor of
            real numbers (N, C, H, W) in the model's units, taken as it is.
        label: one class for all, or one for each image; None: none.
        trace: hutchinson, an unbiased estimate from one random vector; exact, one backward pass for each dimension.
        repeats: independent repetitions, with other dequantisation noise and another random vector each.
        tolerance: of the solver, for a step.
        sigma_min: the noise where the path starts, in the model's units: 0.003 is 0.4 of a pixel's 255 levels. Below
            t = 1 the network answers for times that it was never trained on.
        seed: the noise of image i and repeat k is a function of (seed, first_index + i, k) alone.
        first_index: number of the first image.
        batch_size: images at a time; None: chosen from their size. It touches the result within the tolerance only.
        progress: called with (image repeats done, image repeats in all), and between, as paths are followed.

    Raises:
        UserError: for images, labels or settings that do not fit the model.
    """
    inputs = check_inputs(denoiser, images, label)
    check_settings(denoiser.schedule, trace, repeats, tolerance, sigma_min)
    total, calls, size = np.zeros((repeats, len(inputs))), 0, inputs.batch_size(denoiser, batch_size)
    with evaluating(denoiser):
        for k in range(repeats):
            for start in range(0, len(inputs), size):
                rows = torch.arange(start, min(start + size, len(inputs)))
                numbers = [first_index + i for i in rows.tolist()]
                y = inputs.x_0[rows].double()
                if inputs.discrete:
                    y = y + _noise(y, seed, Stream.DEQUANTISATION, numbers, k, "uniform") * (2 / (LEVELS - 1))
                probe = _noise(y, seed, Stream.TRACE_PROBE, numbers, k, "sign") if trace == "hutchinson" else None
                before, total_images = k * len(inputs) + start, repeats * len(inputs)

                def along(share: float, before: int = before, here: int = len(rows), n: int = total_images) -> None:
                    if progress is not None:
                        progress(before + int(share * here), n)

                log_p, took = log_density(
                    inputs.model(denoiser, rows), y, probe, sigma_min, tolerance, inputs.dtype, inputs.device, along
                )
                if inputs.discrete:
                    log_p = log_p + inputs.dims * math.log(2 / (LEVELS - 1))
                total[k, start : start + len(rows)] = -log_p.numpy() / (inputs.dims * math.log(2))
                calls += took * len(rows)
    error = total.std(0, ddof=1) / math.sqrt(repeats) if repeats > 1 else np.full(len(inputs), math.nan)
    return OdeBitsPerDim(total.mean(0), error, calls / total.size)


def check_settings(schedule: NoiseSchedule, trace: str, repeats: int, tolerance: float, sigma_min: float) -> None:
    """Catch settings that make no sense before the work.

    Raises:
        UserError: for the first of them.
    """
    highest = score.sigma_at(schedule.log_alpha_bar[-1:]).item()
    if not 0 < sigma_min < highest:
        raise UserError(f"sigma_min must lie between 0 and the noise at T, {highest:.3g}: got {sigma_min}")
    if trace not in ("hutchinson", "exact"):
        raise UserError(f"unknown trace {trace!r}: choose hutchinson or exact")
    if repeats < 1 or not tolerance > 0:
        raise UserError("repeats must be at least 1 and the tolerance above 0")


def log_density(
    model: DenoiserLike,
    y: Tensor,
    probe: Tensor | None,
    sigma_min: float,
    tolerance: float,
    dtype: torch.dtype,
    device: torch.device,
    along: Callable[[float], None] | None = None,
) -> tuple[Tensor, int]:
    """(log p(y) in nats, (B,); network calls) of the ODE's density at sigma_min.

    Args:
        model: the model.
        y: (B, C, H, W), float64 on the CPU.
        probe: (B, C, H, W) of random signs for Hutchinson's estimate of the trace; None: the exact trace.
        sigma_min: where the path starts; it ends at T.
        tolerance: of the solver.
        dtype: what the model computes in.
        device: where it does.
        along: told, as the path is followed, how much of it is done, 0 to 1.
    """
    schedule, dims = model.schedule, y[0].numel()
    last = schedule.log_alpha_bar[-1:]
    start, end, lowest = math.log(sigma_min), score.sigma_at(last).log().item(), last.item()

    def derivative(u: float, state: State) -> State:
        sigma = math.exp(u)
        log_alpha_bar = score.log_alpha_bar_at_sigma(torch.full((len(y),), sigma, dtype=torch.float64))
        t = schedule.time_at(log_alpha_bar.clamp(min=lowest))
        with torch.enable_grad():
            here = state[0].to(device, dtype).detach().requires_grad_()
            eps = model(score.from_sigma_space(here, log_alpha_bar), t).eps
            trace = _trace(eps, here, None if probe is None else probe.to(here))
        return sigma * eps.detach().cpu().double(), sigma * trace.cpu().double()

    def on_step(u: float) -> None:
        if along is not None:
            along((u - start) / (end - start))

    nothing = torch.zeros(len(y), dtype=torch.float64)
    try:
        solution = solve(derivative, (y, nothing), start, end, tolerance, on_step=on_step)
    except ArithmeticError as error:
        raise UserError(f"the probability-flow ODE cannot be followed: {error}") from None
    y_T, change = solution.state
    a = like((0.5 * last).exp().expand(len(y)), y_T)
    log_prior = -0.5 * (a * y_T).square().sum(dim=(1, 2, 3)) - 0.5 * dims * math.log(2 * math.pi)
    return log_prior + dims * 0.5 * lowest + change, solution.calls


def _trace(value: Tensor, at: Tensor, probe: Tensor | None) -> Tensor:
    """The trace of d value / d at for each example, (B,): exact, or Hutchinson's estimate with a probe."""
    if probe is not None:
        (product,) = torch.autograd.grad((value * probe).sum(), at)
        return (product * probe).flatten(1).sum(1)
    total = torch.zeros(len(at), dtype=at.dtype, device=at.device)
    outputs = value.flatten(1)
    for i in range(outputs.shape[1]):
        # the examples of a batch do not touch each other, so one backward pass serves all of them
        (row,) = torch.autograd.grad(outputs[:, i].sum(), at, retain_graph=True)
        total = total + row.flatten(1)[:, i]
    return total


def _noise(
    x: Tensor, seed: int, stream: Stream, numbers: list[int], repeat: int, kind: Literal["uniform", "sign"]
) -> Tensor:
    """Centred uniform noise of width 1, or random signs; each image's own. Float64."""
    shape = tuple(x.shape[1:])
    drawn = np.stack([keyed.generator(seed, stream, i, repeat).random(shape) for i in numbers]) - 0.5
    return torch.from_numpy(drawn if kind == "uniform" else np.where(drawn < 0, -1.0, 1.0))
