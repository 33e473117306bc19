"""Transitions, marginals and posteriors of every schedule are those of one Markov chain."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule

T = 1000
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
PROCESSES = {name: GaussianProcess(NoiseSchedule.named(name, T)) for name in SCHEDULES}


def image(values) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


def log_normal(x, mean, var) -> float:
    return (-0.5 * ((x - mean) ** 2 / var + var.log() + math.log(2 * math.pi))).item()


@every_schedule
def test_chained_transitions_have_the_marginals_moments(name):
    p, t = PROCESSES[name], torch.arange(1, T + 1)
    one = image(torch.ones(T))
    step, marginal = p.transition(one, t, t - 1), p.marginal(one, t)
    log_mean, var, variances = step.mean.flatten().log().cumsum(0), 0.0, []
    for scale, added in zip(step.mean.flatten().tolist(), step.var.flatten().tolist(), strict=True):
        var = scale**2 * var + added
        variances.append(var)
    torch.testing.assert_close(log_mean, marginal.mean.flatten().log(), rtol=1e-10, atol=0)
    torch.testing.assert_close(image(variances), marginal.var, rtol=1e-10, atol=0)


@every_schedule
def test_simulated_chain_has_the_marginals_moments(name):
    n, p = 40_000, GaussianProcess(NoiseSchedule.named(name, 60))
    x = image(torch.full((n,), 1.5))
    for t in range(1, 31):
        x = p.transition(x, torch.full((n,), t), torch.full((n,), t - 1)).sample(torch.randn_like(x))
    marginal = p.marginal(image([1.5]), torch.tensor([30]))
    var = marginal.var.item()
    # five standard errors of a mean, and of a variance, of n normal draws
    assert abs(x.mean().item() - marginal.mean.item()) < 5 * math.sqrt(var / n)
    assert abs(x.var().item() - var) < 5 * var * math.sqrt(2 / n)


@every_schedule
@given(
    first=st.floats(0.02, T) | st.integers(1, T),
    second=st.floats(0.02, T) | st.integers(1, T),
    x_0=st.floats(-1, 1),
    z=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
)
def test_bayes(name, first, second, x_0, z):
    """q(x_s | x_t, x_0) q(x_t | x_0) = q(x_t | x_s) q(x_s | x_0), pointwise."""
    s, t = sorted([first, second])
    if t - s < 0.01:
        return
    p = PROCESSES[name]
    t_, s_ = torch.tensor([t]).double(), torch.tensor([s]).double()
    x_0 = image([x_0])
    x_t = p.marginal(x_0, t_).sample(image([z[0]]))
    posterior, q_t, q_s = p.posterior(x_0, x_t, t_, s_), p.marginal(x_0, t_), p.marginal(x_0, s_)
    x_s = posterior.sample(image([z[1]]))
    q_ts = p.transition(x_s, t_, s_)
    left = log_normal(x_s, posterior.mean, posterior.var) + log_normal(x_t, q_t.mean, q_t.var)
    right = log_normal(x_t, q_ts.mean, q_ts.var) + log_normal(x_s, q_s.mean, q_s.var)
    assert abs(left - right) < 1e-7


@every_schedule
def test_posterior_in_both_of_the_papers_forms(name):
    """Eqs. 6 and 7 in x_0 and x_t; and Eq. 10's mean, in x_t and eps. Both written with the paper's letters."""
    p = PROCESSES[name]
    s = p.schedule
    # above, alpha_bar has all but gone and eps says nothing of x_0
    t = torch.arange(2, 301)
    x_0, eps = torch.rand(2, len(t), 1, 1, 1, dtype=torch.float64)
    x_t = p.q_sample(x_0, t, eps)
    beta, alpha, alpha_bar = image(s.beta[t]), image(s.alpha[t]), image(s.alpha_bar[t])
    alpha_bar_before = image(s.alpha_bar[t - 1])
    got = p.posterior(x_0, x_t, t)
    eq_7 = (alpha_bar_before.sqrt() * beta * x_0 + alpha.sqrt() * (1 - alpha_bar_before) * x_t) / (1 - alpha_bar)
    eq_10 = (x_t - beta / (1 - alpha_bar).sqrt() * eps) / alpha.sqrt()
    torch.testing.assert_close(got.mean, eq_7, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(got.mean, eq_10, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(got.var, (1 - alpha_bar_before) / (1 - alpha_bar) * beta, rtol=1e-8, atol=0)


@every_schedule
@given(times=st.tuples(st.floats(0.5, T - 1), st.floats(0.5, T - 1), st.floats(0.5, T - 1)))
def test_two_transitions_are_one(name, times):
    """A grid is a choice of times, not a new process: u -> s -> t is u -> t."""
    u, s, t = sorted(times)
    if s - u < 0.01 or t - s < 0.01:
        return
    p, (u_, s_, t_) = PROCESSES[name], torch.tensor([[u], [s], [t]]).double()
    one = image([1.0])
    first, second, both = p.transition(one, s_, u_), p.transition(one, t_, s_), p.transition(one, t_, u_)
    torch.testing.assert_close(first.mean * second.mean, both.mean, rtol=1e-10, atol=1e-300)
    torch.testing.assert_close(second.mean**2 * first.var + second.var, both.var, rtol=1e-9, atol=0)


@every_schedule
def test_at_the_data_everything_is_x_0(name):
    p, zero = PROCESSES[name], torch.tensor([0])
    x_0, x_t = torch.randn(2, 3, 2, 2)
    marginal, posterior = p.marginal(x_0[None], zero), p.posterior(x_0[None], x_t[None], torch.tensor([7]), zero)
    for gaussian in (marginal, posterior):
        assert torch.equal(gaussian.mean[0], x_0)
        assert gaussian.var.item() == 0
    assert torch.equal(p.q_sample(x_0[None], zero, x_t[None])[0], x_0)


@every_schedule
@pytest.mark.parametrize("num_steps", [1000, 10_000])
def test_float32_images_lose_nothing_to_cancellation(name, num_steps):
    """At both ends of T the float32 answer is the float64 answer on the same numbers, rounded."""
    p = GaussianProcess(NoiseSchedule.named(name, num_steps))
    t = torch.tensor([1, 2, 3, num_steps // 2, num_steps - 1, num_steps])
    x_0, x_t = (x.expand(len(t), 1, 4, 4) for x in torch.randn(2, 1, 1, 4, 4))
    wide_0, wide_t = x_0.double(), x_t.double()
    eps32 = torch.finfo(torch.float32).eps
    assert (p.q_sample(x_0, t, x_t) - p.q_sample(wide_0, t, wide_t)).abs().max() < 8 * eps32
    for got, exact in [
        (p.posterior(x_0, x_t, t), p.posterior(wide_0, wide_t, t)),
        (p.transition(x_0, t, t - 1), p.transition(wide_0, t, t - 1)),
        (p.marginal(x_0, t), p.marginal(wide_0, t)),
    ]:
        assert got.mean.dtype == got.var.dtype == torch.float32
        assert (got.mean - exact.mean).abs().max() < 8 * eps32
        torch.testing.assert_close(got.var.double(), exact.var, rtol=2 * eps32, atol=1e-40)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_early_noise(dtype):
    """1 - alpha_bar of the first steps, taken in half precision, would be 0."""
    p, t = PROCESSES["linear"], torch.tensor([1, 2])
    x_0, eps = torch.zeros(2, 1, 2, 2, dtype=dtype), torch.ones(2, 1, 2, 2, dtype=dtype)
    x_t = p.q_sample(x_0, t, eps)
    assert x_t.dtype == dtype
    torch.testing.assert_close(x_t[:, 0, 0, 0].double(), (1 - p.schedule.alpha_bar[1:3]).sqrt(), rtol=8e-3, atol=0)
