"""eps, x_0 and v are one quantity in three coordinates; what a network predicts is passed on untouched."""

from itertools import permutations
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from undye.config import ModelConfig, PredictionName, ScheduleConfig, VarianceName
from undye.denoiser import Denoiser
from undye.diffusion.prediction import PREDICTIONS
from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule
from undye.diffusion.variance import VARIANCES

T = 1000
LINEAR = GaussianProcess(NoiseSchedule.named("linear", T))
every_prediction = pytest.mark.parametrize("name", PREDICTIONS)


class Says(nn.Module):
    """A network that says the same whatever it sees."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x, t, label=None):
        return self.value


def test_configurations_can_name_exactly_these():
    assert set(get_args(PredictionName)) == set(PREDICTIONS)
    assert set(get_args(VarianceName)) == set(VARIANCES)
    assert all(name == p.name for name, p in PREDICTIONS.items())


@every_prediction
@given(t=st.floats(0.01, T) | st.integers(1, T), seed=st.integers(0, 9))
def test_reading_the_target_gives_the_truth_back(name, t, seed):
    prediction, t = PREDICTIONS[name], torch.tensor([t])
    generator = torch.Generator().manual_seed(seed)
    x_0, eps = torch.randn(2, 1, 1, 3, 3, dtype=torch.float64, generator=generator)
    lab = LINEAR.schedule.log_alpha_bar_at(t.double())
    x_t = LINEAR.q_sample(x_0, t.double(), eps)
    got_x_0, got_eps = prediction.read(prediction.target(x_0, eps, LINEAR.schedule, t), x_t, LINEAR.schedule, t)
    # the division by sqrt(alpha_bar), or by sqrt(1 - alpha_bar), magnifies the rounding of x_t, no more
    smallest = min((0.5 * lab).exp().item(), (-lab.expm1()).sqrt().item())
    if name == "mu":
        # mu holds x_0 and eps only in the small share that a single step adds, beta against alpha_bar (1 - alpha_bar)
        log_alpha = lab - LINEAR.schedule.log_alpha_bar_at((t.double() - 1).clamp(min=0))
        smallest *= -log_alpha.expm1().item()
    torch.testing.assert_close(got_x_0, x_0, rtol=0, atol=1e-14 / smallest)
    torch.testing.assert_close(got_eps, eps, rtol=0, atol=1e-14 / smallest)


@pytest.mark.parametrize("cycle", list(permutations(PREDICTIONS, 3)))
def test_round_trip_through_all_of_them(cycle):
    """eps -> x_0 -> v -> eps and the like: from each one's reading the next one's target, back to the start."""
    t = torch.tensor([50, 300, 600, 900])
    x_0, eps = torch.randn(2, 4, 3, 4, 4, dtype=torch.float64)
    x_t = LINEAR.q_sample(x_0, t, eps)
    s = LINEAR.schedule
    first = value = PREDICTIONS[cycle[0]].target(x_0, eps, s, t)
    for now, then in zip(cycle, (*cycle[1:], cycle[0]), strict=True):
        value = PREDICTIONS[then].target(*PREDICTIONS[now].read(value, x_t, s, t), s, t)
    torch.testing.assert_close(value, first, rtol=0, atol=2e-10 if "mu" in cycle else 1e-11)


@every_prediction
def test_any_reading_explains_x_t(name):
    """Also of a value that is no truth at all: sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps is x_t."""
    t = torch.tensor([1, 10, 500, 900])
    x_t, value = torch.randn(2, 4, 3, 4, 4, dtype=torch.float64)
    x_0, eps = PREDICTIONS[name].read(value, x_t, LINEAR.schedule, t)
    torch.testing.assert_close(LINEAR.q_sample(x_0, t, eps), x_t, rtol=0, atol=1e-12)


@every_prediction
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1000, 10_000])
def test_float32_loses_no_more_than_the_inputs_rounding(name, schedule, num_steps):
    """At both ends of T; the bound is that of a sum of rounded terms over the divisor that the formula has."""
    process = GaussianProcess(NoiseSchedule.named(schedule, num_steps))
    t = torch.tensor([1, 2, num_steps // 2, num_steps - 1, num_steps])
    s = process.schedule
    lab = s.log_alpha_bar_at(t)
    x_t, value = torch.randn(2, 5, 1, 4, 4)
    got = PREDICTIONS[name].read(value, x_t, s, t)
    exact = PREDICTIONS[name].read(value.double(), x_t.double(), s, t)
    a, b = (0.5 * lab).exp().view(-1, 1, 1, 1), (-lab.expm1()).sqrt().view(-1, 1, 1, 1)
    beta, alpha_bar_before = s.beta[t].view(-1, 1, 1, 1), s.alpha_bar[t - 1].view(-1, 1, 1, 1)
    size = x_t.double().abs() + value.double().abs()
    bounds = {
        "eps": (size / a, size),
        "x_0": (size, size / b),
        "v": (size, size),
        "mu": (size * b**2 / (beta * alpha_bar_before.sqrt()), size * b / beta),
        "score": (size / a, size),
    }[name]
    for narrow, wide, bound in zip(got, exact, bounds, strict=True):
        # what float32 cannot hold at all (x_0 from eps, with sqrt at T = 10,000, from the middle on) is left out
        fits = wide.abs() < 1e30
        assert fits.sum() >= 32
        assert narrow.dtype == torch.float32
        assert ((narrow - wide).abs() <= 4 * torch.finfo(torch.float32).eps * bound)[fits].all()


@every_prediction
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_the_network_says_comes_back_untouched(name, schedule, dtype):
    """In x_t's dtype, but never less than float32."""
    value = torch.randn(4, 1, 4, 4, dtype=dtype)
    config = ModelConfig(
        image_size=(4, 4), channels=1, prediction=name, schedule=ScheduleConfig(name=schedule), variance="fixed_small"
    )
    denoiser = Denoiser(Says(value), config)
    t = torch.tensor([1, 2, T - 1, T])
    out = denoiser(10 * torch.randn_like(value), t)
    if name in ("eps", "x_0"):
        assert torch.equal(getattr(out, name), value.to(out.eps.dtype))
    elif dtype == torch.float64:
        target = denoiser.prediction.target(out.x_0, out.eps, denoiser.schedule, t)
        torch.testing.assert_close(target, value, rtol=1e-11, atol=1e-11)
    assert out.x_0.dtype == out.eps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@every_prediction
def test_the_denoiser_does_not_clip(name):
    config = ModelConfig(image_size=(4, 4), channels=1, prediction=name, clip_x_0=True)
    out = Denoiser(Says(torch.full((1, 1, 4, 4), -7.0)), config)(torch.full((1, 1, 4, 4), 5.0), torch.tensor([800]))
    assert out.x_0.abs().min() > 1


@every_prediction
@given(t=st.floats(0.5, T) | st.integers(1, T))
def test_errors_are_multiples_of_each_other(name, t):
    """`log_error_ratio`: what an error of the value makes of eps. Loss weights rest on it."""
    t = torch.tensor([t])
    x_t, value, error = torch.randn(3, 1, 1, 3, 3, dtype=torch.float64)
    p, s = PREDICTIONS[name], LINEAR.schedule
    difference = p.read(value + error, x_t, s, t)[1] - p.read(value, x_t, s, t)[1]
    ratio = p.log_error_ratio(s, t).exp().item()
    torch.testing.assert_close(difference.abs(), ratio * error.abs(), rtol=1e-8, atol=1e-11 * max(1, ratio))


@pytest.mark.parametrize("t", [1, 2, 500, 1000])
def test_mu_is_the_posterior_mean(t):
    """Both ways: its target is Eq. 7's mean, and what is read off it has that mean."""
    t = torch.tensor([t])
    x_0, eps, value = torch.randn(3, 1, 1, 4, 4, dtype=torch.float64)
    x_t, mu = LINEAR.q_sample(x_0, t, eps), PREDICTIONS["mu"]
    expected = LINEAR.posterior(x_0, x_t, t).mean
    torch.testing.assert_close(mu.target(x_0, eps, LINEAR.schedule, t), expected, rtol=1e-12, atol=1e-13)
    read_x_0, read_eps = mu.read(value, x_t, LINEAR.schedule, t)
    torch.testing.assert_close(LINEAR.posterior(read_x_0, x_t, t).mean, value, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(LINEAR.posterior_mean_from_eps(read_eps, x_t, t), value, rtol=1e-9, atol=1e-10)
