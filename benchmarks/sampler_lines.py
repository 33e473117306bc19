"""The lines of `benchmarks.samplers`: every sampler of ours and of diffusers', by network calls."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from undye.denoiser import Denoiser
from undye.samplers import (
    DDIM,
    DPM2M,
    DPM2MSDE,
    DPM3M,
    RK45,
    Ancestral,
    DenoiserLike,
    Euler,
    Heun,
    Langevin,
    PredictorCorrector,
    SampleNoise,
    Sampler,
    UniPC,
    final,
)  # fmt: skip
from undye.samplers.defaults import choose
from undye.samplers.grid import make_grid

CALLS = (5, 8, 10, 15, 20, 50)
MANY = (100, 1000)
Walk = Callable[[DenoiserLike, Tensor, range], Tensor]
"""(the model with the samples' classes filled in, x_T, the numbers of the samples) -> x_0."""


def ours(denoiser: Denoiser, sampler: Sampler | None, calls: int, grid: str | None = None) -> Walk | None:
    """A sampler of ours that makes this many network calls, or one less where its steps take two; else None."""
    for steps in range(min(calls, denoiser.schedule.num_steps), 0, -1):
        chosen, times = choose(denoiser, sampler, grid, steps)
        made = chosen.calls(denoiser.schedule, times)
        if made is None or calls - 1 <= made <= calls:
            return lambda model, x_T, rows: final(chosen.steps(model, x_T, times, SampleNoise(1, rows)))
        if made < calls:
            return None
    return None


def theirs(denoiser: Denoiser, cls_name: str, calls: int, **options: Any) -> Walk | None:
    """A scheduler of diffusers' on our model, which tells it eps; trailing times, so that it starts at T.

    Heun's makes 2n - 1 calls: one less than asked for, where that is even.
    """
    import diffusers

    betas = denoiser.schedule.beta[1:].numpy()
    steps = (calls + 1) // 2 if cls_name.startswith("Heun") else calls

    def walk(model: DenoiserLike, x: Tensor, rows: range) -> Tensor:
        made = getattr(diffusers, cls_name)(
            num_train_timesteps=len(betas), trained_betas=betas, timestep_spacing="trailing", **options
        )
        made.set_timesteps(steps)
        if hasattr(made, "set_begin_index"):
            # with Karras' sigmas the first timesteps may be equal, and it would begin at the second
            made.set_begin_index(0)
        generator = torch.Generator().manual_seed(rows.start)
        x = x * made.init_noise_sigma
        for t in made.timesteps:
            seen = made.scale_model_input(x, t)
            eps = model(seen, torch.full((len(x),), min(float(t) + 1, len(betas)))).eps
            arguments = {"generator": generator} if "generator" in made.step.__code__.co_varnames else {}
            x = made.step(eps, t, x, **arguments).prev_sample
        return x

    return walk


def contenders(denoiser: Denoiser) -> Iterator[tuple[str, int, Walk | None]]:
    """(name, network calls, how) for every line of the table."""
    named: dict[str, tuple[Sampler | None, str | None]] = {
        "default": (None, None),
        "unipc of order 2, karras": (UniPC(), "karras"),
        "unipc of order 3, karras": (UniPC(order=3), "karras"),
        "dpm++2m, karras": (DPM2M(), "karras"),
        "dpm++3m, karras": (DPM3M(), "karras"),
        "dpm++2m-sde, karras": (DPM2MSDE(), "karras"),
        "ddim, uniform": (DDIM(), "uniform"),
        "ancestral, uniform": (Ancestral(), "uniform"),
        "euler with churn, karras": (Euler(s_churn=5), "karras"),
        "heun, karras": (Heun(), "karras"),
        "pc, uniform": (PredictorCorrector(), "uniform"),
        "langevin, log-snr": (Langevin(repeats=1), "log-snr"),
    }
    for name, (sampler, grid) in named.items():
        for calls in (*CALLS, *(MANY if name.startswith(("ddim", "ancestral")) else ())):
            yield name, calls, ours(denoiser, sampler, calls, grid)
    plain: dict[str, tuple[str, dict[str, Any]]] = {
        "diffusers DDIM": ("DDIMScheduler", {"clip_sample": True}),
        "diffusers DDPM": ("DDPMScheduler", {"clip_sample": True}),
        "diffusers DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
        "diffusers DPM++ 2M, karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        "diffusers DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        "diffusers DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
        "diffusers UniPC": ("UniPCMultistepScheduler", {}),
        "diffusers UniPC, karras": ("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
        "diffusers Euler": ("EulerDiscreteScheduler", {}),
        "diffusers Heun": ("HeunDiscreteScheduler", {}),
        "diffusers Heun, karras": ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    }
    for name, (cls_name, options) in plain.items():
        for calls in (*CALLS, *(MANY if name in ("diffusers DDIM", "diffusers DDPM") else ())):
            yield name, calls, theirs(denoiser, cls_name, calls, **options)


def adaptive(denoiser: Denoiser) -> Iterator[tuple[str, int, Walk | None]]:
    """Those whose calls are as many as it takes: 0 in the table."""
    for tolerance in (1e-3, 1e-2):
        yield f"rk45, tolerance {tolerance:g}", 0, ours(denoiser, RK45(tolerance=tolerance), 10)


def aims(denoiser: Denoiser) -> dict[str, Walk]:
    """The many-step solutions that the others are held against: of the ODE, and of ancestral sampling."""
    num_steps = denoiser.schedule.num_steps

    def walk(sampler: Sampler, grid: str, steps: int) -> Walk:
        times = make_grid(grid, denoiser.schedule, min(steps, num_steps))
        return lambda model, x_T, rows: final(sampler.steps(model, x_T, times, SampleNoise(1, rows)))

    return {"ode": walk(UniPC(order=3), "log-snr", 500), "ancestral": walk(Ancestral(), "uniform", num_steps)}
