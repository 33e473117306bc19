"""Long schedules: so much noise at T that alpha_bar is no number any more, and sigma is infinite.

log_alpha_bar is -202 for the linear schedule of 20,000 steps, -10,016 for the sqrt one of 100,000: sqrt(alpha_bar) is 0
in float32 below -206, in float64 below -1,490. Everything that samplers do there has to be finite, and right.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from tests.laws.test_samplers import VARIANTS, WEIGHTS, exact_moments
from undye.config import ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser
from undye.diffusion.prediction import PREDICTIONS
from undye.diffusion.schedule import NoiseSchedule, log_alpha_bar_at_log_snr, log_snr
from undye.samplers import RK45
from undye.samplers.grid import GRIDS, make_grid
from undye.samplers.guidance import ClassifierGuided, Conditioned
from undye.samplers.inversion import invert
from undye.samplers.optimise import Settings, optimise_grid
from undye.testing import GaussianMixtureOracle, GaussianOracle

LONG = [(kind, num_steps) for kind in ("linear", "sqrt", "cosine") for num_steps in (20_000, 100_000)]
every_long_schedule = pytest.mark.parametrize(("kind", "num_steps"), LONG)
every_sampler = pytest.mark.parametrize("sampler", VARIANTS.values(), ids=VARIANTS)


@cache
def long(kind: str, num_steps: int) -> NoiseSchedule:
    return NoiseSchedule.named(kind, num_steps)


def fewer(sampler, steps: int) -> int:
    """RK45's steps are its own, not the grid's."""
    return 2 if isinstance(sampler, RK45) else steps


def test_these_schedules_are_as_bad_as_they_are_said_to_be():
    assert long("linear", 20_000).log_alpha_bar[-1] == pytest.approx(-202.35, abs=0.01)
    assert long("sqrt", 100_000).log_alpha_bar[-1] == pytest.approx(-10_016.2, abs=0.1)
    assert (0.5 * long("sqrt", 20_000).log_alpha_bar[-1]).exp() == 0


@every_long_schedule
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("real", [False, True])
def test_grids_fall_strictly(name, kind, num_steps, real):
    for steps in (1, 2, 3, 20, 1000):
        grid = make_grid(name, long(kind, num_steps), steps, real=real)
        assert (len(grid), grid[0], grid[-1]) == (steps + 1, num_steps, 0)
        assert (grid.diff() < 0).all()


@every_sampler
@every_long_schedule
def test_every_state_is_finite_on_every_grid(sampler, kind, num_steps):
    schedule = long(kind, num_steps)
    data = GaussianMixtureOracle(schedule, WEIGHTS, [[[[-0.6, 0.2]]], [[[0.5, -0.1]]]], stds=[0.15, 0.3])
    for name in ("uniform", "karras") if isinstance(sampler, RK45) else GRIDS:
        grid, x_T = make_grid(name, schedule, fewer(sampler, 6)), torch.randn(8, 1, 1, 2)
        for step in sampler.steps(data, x_T, grid, torch.randn_like):
            assert step.x.isfinite().all(), (name, step.t)
            assert step.x_0.isfinite().all(), (name, step.t)
        assert sampler.calls(schedule, grid) is None or sampler.calls(schedule, grid) >= len(grid) - 1


@every_sampler
@pytest.mark.parametrize(("kind", "num_steps"), [("linear", 20_000), ("sqrt", 100_000), ("cosine", 100_000)])
def test_the_moments_are_the_datas(sampler, kind, num_steps):
    """On a grid that spends its steps where the data is, whatever T; to what 40 steps leave as an error."""
    schedule = long(kind, num_steps)
    data = GaussianOracle(schedule, torch.tensor([[[0.4, -0.2]]]), torch.tensor([[0.09, 0.05], [0.05, 0.16]]))
    mean, cov = exact_moments(sampler, data, make_grid("karras", schedule, fewer(sampler, 40), real=True))
    assert (mean - data.mean.flatten()).abs().max() < 0.06
    assert (cov - data.cov).abs().max() < 0.06


class Perfect(nn.Module):
    """What is known of standard normal data: eps is noise x_t and x_0 is signal x_t, so that at T eps is x_t itself."""

    def forward(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        t = t.double() + 1
        log_ab = self.model.schedule.log_alpha_bar_at(t)
        a, b = ((v.view(-1, 1, 1, 1)) for v in ((0.5 * log_ab).exp(), (-log_ab.expm1()).sqrt()))
        x_0, eps = a * x.double(), b * x.double()
        return self.model.prediction.target(x_0, eps, self.model.schedule, t).to(x.dtype)


def perfect(kind: str, num_steps: int, prediction: str, clip: bool) -> Denoiser:
    schedule = ScheduleConfig(name=kind, num_steps=num_steps)
    model = Denoiser(
        Perfect(),
        ModelConfig(image_size=(4, 4), channels=1, schedule=schedule, prediction=prediction, clip_x_0=clip),
    )
    object.__setattr__(model.network, "model", model)  # not as a part of it, which would be a circle
    return model


@every_sampler
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("kind", "num_steps"), [("linear", 100_000), ("sqrt", 20_000)])
def test_every_prediction_is_read_in_single_precision(sampler, prediction, kind, num_steps):
    """eps, mu and the score say of x_0 only what is left when all is subtracted: nothing, divided by nothing."""
    for clip in (True, False):
        model = perfect(kind, num_steps, prediction, clip)
        x_T = torch.randn(16, 1, 4, 4)
        # the first step, from T itself, ends where half is noise
        middle = (model.schedule.log_alpha_bar < -0.7).nonzero()[0].item()
        grid = torch.tensor([num_steps, num_steps - 1, num_steps // 2, middle, middle // 2, 0])
        if isinstance(sampler, RK45):
            grid = torch.tensor([middle, middle // 2, 0])
        for step in sampler.steps(model, x_T, grid, torch.randn_like):
            assert step.x.isfinite().all(), (clip, step.t)
            assert step.x_0.isfinite().all(), (clip, step.t)
        if clip:
            assert step.x.abs().max() <= 1


def test_guidance_by_a_classifier_is_finite_without_signal():
    model = ClassifierGuided(perfect("sqrt", 20_000, "eps", False), lambda x, t: torch.ones_like(x), 2.0)
    out = model(torch.randn(2, 1, 4, 4), torch.tensor([20_000, 20_000]))
    assert out.x_0.isfinite().all()
    assert out.eps.isfinite().all()


def test_rescaled_guidance_is_finite_without_signal():
    schedule = ScheduleConfig(name="sqrt", num_steps=20_000)
    config = ModelConfig(image_size=(4, 4), channels=1, num_classes=2, prediction="eps", schedule=schedule)

    class Steered(nn.Module):
        def forward(self, x, t, label):
            return x * (1 + 0.1 * label.view(-1, 1, 1, 1))

    model = Conditioned(Denoiser(Steered(), config), torch.tensor([0, 1]), weight=3.0, rescale=0.7)
    out = model(torch.randn(2, 1, 4, 4), torch.tensor([20_000, 20_000]))
    assert out.x_0.isfinite().all()
    assert out.eps.isfinite().all()


def test_inversion():
    schedule = long("sqrt", 20_000)
    data = GaussianOracle(schedule, torch.tensor([[[0.4, -0.2]]]), torch.tensor([[0.09, 0.05], [0.05, 0.16]]))
    x_T = invert(data, data.sample(500, seed=1), make_grid("log-snr", schedule, 200, real=True), 2).flatten(1)
    assert x_T.mean(0).abs().max() < 0.2
    assert (x_T.T.cov() - torch.eye(2)).abs().max() < 0.3


def test_a_grid_is_optimised():
    model = perfect("sqrt", 20_000, "v", False)
    found = optimise_grid(model, 3, replace(Settings(), images=2, held_out=2, teacher_steps=8, iterations=1))
    assert found.distance < 1
    assert found.times[0] == 20_000


def test_the_way_back_from_log_snr():
    for kind, num_steps in [*LONG, ("linear", 1000)]:
        log_ab = long(kind, num_steps).log_alpha_bar[1:]
        torch.testing.assert_close(log_alpha_bar_at_log_snr(log_snr(log_ab)), log_ab, rtol=1e-13, atol=0)
