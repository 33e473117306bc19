"""The fast solvers against diffusers': one network, one x_T, one grid, and the final images.

Where definitions coincide: their schedulers compute sigmas from alphas_cumprod at their timesteps, ours minus 1, and
end at sigma 0 (final_sigmas_type zero), where the last step is of order 1 (lower_order_final, which they apply to any
grid of theirs below 15 steps and where the final sigma is zero). euler_at_final and solver_type stay at their defaults.
"""

import math

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from tests.differential.test_diffusers_trajectories import LINEAR, Network, T, our_walk, seeded
from undye.samplers import DPM2M, DPM2MSDE, Euler, Heun, UniPC, final
from undye.samplers.base import Levels
from undye.samplers.dpm import curvature
from undye.samplers.multistep import Seen, first_order

SHAPE = (2, 3, 8, 8)
STEPS = 10


def theirs(cls, steps=STEPS, **options):
    made = cls(num_train_timesteps=T, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **options)
    made.set_timesteps(steps)
    return made


def their_sample(scheduler, network, x, **options):
    with torch.no_grad():
        for t in scheduler.timesteps:
            out = network(scheduler.scale_model_input(x, t), torch.full((len(x),), float(t)))
            x = scheduler.step(out, t, x, **options).prev_sample
    return x


def grid_of(scheduler):
    """Our times of their steps; Heun's come twice."""
    times = [int(t) + 1 for t in scheduler.timesteps]
    return [*dict.fromkeys(times), 0]


def start():
    return Network(), torch.randn(SHAPE, generator=seeded(3))


def assert_same(got, expected):
    assert 0.3 < expected.abs().mean() < 3, "images, not zeros or an explosion"
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_dpm_solver_2m(steps):
    network, x_T = start()
    scheduler = theirs(DPMSolverMultistepScheduler, steps, timestep_spacing="trailing")
    expected = their_sample(scheduler, network, x_T)
    assert_same(final(our_walk(DPM2M(clip=False), network, grid_of(scheduler), x_T)), expected)


def test_dpm_solver_2m_sde():
    network, x_T = start()
    scheduler = theirs(DPMSolverMultistepScheduler, timestep_spacing="trailing", algorithm_type="sde-dpmsolver++")
    expected = their_sample(scheduler, network, x_T, generator=seeded())
    assert_same(final(our_walk(DPM2MSDE(clip=False), network, grid_of(scheduler), x_T, seeded())), expected)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [5, 10])
def test_unipc(order, steps):
    network, x_T = start()
    scheduler = theirs(
        UniPCMultistepScheduler, steps, solver_order=order, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    expected = their_sample(scheduler, network, x_T)
    assert_same(final(our_walk(UniPC(order=order, clip=False), network, grid_of(scheduler), x_T)), expected)


@pytest.mark.parametrize(("cls", "ours"), [(EulerDiscreteScheduler, Euler), (HeunDiscreteScheduler, Heun)])
def test_euler_and_heun(cls, ours):
    """Theirs walk in y = x / sqrt(alpha_bar), from sqrt(sigma^2 + 1) z: given x_T over sqrt(alpha_bar), as ours."""
    network, x_T = start()
    scheduler = theirs(cls, timestep_spacing="trailing")
    grid = grid_of(scheduler)
    a = LINEAR.alpha_bar[grid[0]].sqrt().float()
    expected = their_sample(scheduler, network, x_T / a)
    assert_same(final(our_walk(ours(clip=False), network, grid, x_T)), expected)


def test_dpm_solver_3m_halves_its_second_derivative():
    """Where x_0 is a parabola in lambda the third order's integral is exact: ours is, theirs misses half of a term."""
    scheduler = theirs(DPMSolverMultistepScheduler, 20, solver_order=3, timestep_spacing="trailing")
    levels = Levels.of(LINEAR, torch.tensor(grid_of(scheduler)))
    k, curve = 10, lambda lam: torch.full((1, 1, 1, 1), 0.3 - 0.2 * lam + 0.1 * lam**2, dtype=torch.float64)
    t, s = levels.lam[k], levels.lam[k + 1]
    # the integral of exp(h' - h) x_0 over the step, by Gauss and Legendre
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(20))
    lam = t + (s - t) * (nodes + 1) / 2
    exact = (weights * (lam - s).exp() * (0.3 - 0.2 * lam + 0.1 * lam**2)).sum() * (s - t) / 2 * levels.signal[k + 1]
    seen = [Seen(levels.lam[i], curve(levels.lam[i])) for i in (k - 2, k - 1, k)]
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    step = first_order(x, seen[-1].x_0, levels.signal[k + 1], levels.noise[k], levels.noise[k + 1], s - t)
    ours = step + levels.signal[k + 1] * curvature(s - t, seen, 3)
    assert ours.item() == pytest.approx(exact.item(), rel=1e-10)
    scheduler._step_index = k
    got = scheduler.multistep_dpm_solver_third_order_update([v.x_0 for v in seen], sample=x).item()
    h = s - t
    missing = levels.signal[k + 1] * 0.1 * h**2 * (0.5 - (math.expm1(-h) / h + 1) / h)
    assert got == pytest.approx(exact.item() - missing, rel=1e-5)
    assert abs(missing) > 1e-4 * abs(exact)
