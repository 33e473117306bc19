"""The terms of the variational bound, held against integration, high precision and the paper's numbers."""

import math

import mpmath
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from undye.diffusion import likelihood, variance
from undye.diffusion.likelihood import (
    BITS_PER_NAT,
    discretised_gaussian_nll,
    gaussian_kl,
    gaussian_nll,
    log1mexp,
    prior_kl,
    step_kl,
)
from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule

T = 1000
PROCESSES = {name: GaussianProcess(NoiseSchedule.named(name, T)) for name in SCHEDULES}
LEVELS = torch.linspace(-1, 1, 256, dtype=torch.float64)
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def f64(value) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def log_normal(x, mean, log_var):
    return -0.5 * ((x - mean) ** 2 * (-log_var).exp() + log_var + math.log(2 * math.pi))


def integrated_kl(mean_1, log_var_1, mean_2, log_var_2) -> float:
    """KL of two normal distributions by the trapezoidal rule over 12 standard deviations of the first."""
    std = (0.5 * log_var_1).exp()
    x = mean_1 + std * torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    log_p, log_q = log_normal(x, mean_1, log_var_1), log_normal(x, mean_2, log_var_2)
    return torch.trapezoid(log_p.exp() * (log_p - log_q), x).item()


@given(
    mean=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    log_var=st.tuples(st.floats(-8, 1), st.floats(-8, 1)),
)
@example(mean=(0.3, 0.3), log_var=(-3.0, -3.0 + 1e-9))
def test_kl_agrees_with_integration(mean, log_var):
    m, v = f64(mean), f64(log_var)
    got = gaussian_kl(m[0], v[0], m[1], v[1]).item()
    assert got >= 0
    # the size of the terms that the integral subtracts
    scale = 1 + got
    assert got == pytest.approx(integrated_kl(m[0], v[0], m[1], v[1]), rel=1e-9, abs=1e-10 * scale)


def test_kl_of_nearly_equal_variances_keeps_its_digits():
    """d^2 / 4 for a ratio of variances 1 + d: below 1e-16 where the logarithms are of order 1."""
    got = gaussian_kl(f64(0.2), f64(-3.0), f64(0.2), f64(-3.0) - 1e-6).item()
    assert got == pytest.approx(1e-12 / 4, rel=1e-3)


@every_schedule
@given(
    times=st.tuples(st.integers(1, T), st.integers(1, T)),
    x=st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-3, 3)),
    shift=st.floats(-1, 1),
    as_image=st.booleans(),
)
def test_step_kl_is_the_kl_of_the_two_posteriors(name, times, x, shift, as_image):
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)), both with Eq. 7's mean, the second with x_0's prediction."""
    s, t = sorted(times)
    if s == t:
        return
    p, t_, s_ = PROCESSES[name], torch.tensor([t]), torch.tensor([s])
    x_0, x_0_hat, x_t = (f64(value).view(1, 1, 1, 1) for value in x)
    true, model = p.posterior(x_0, x_t, t_, s_), p.posterior(x_0_hat, x_t, t_, s_)
    log_var = variance.log_var("fixed_large", p.schedule, t_, s_) + shift
    expected = gaussian_kl(true.mean, true.var.log(), model.mean, log_var.view(1, 1, 1, 1)).item()
    got = step_kl(p.schedule, x_0 - x_0_hat, t_, s_, log_var.view(1, 1, 1, 1) if as_image else log_var).item()
    # the two means differ by far less than their size at late times: there the reference cancels, not step_kl
    cancelled = 1e-15 * (true.mean.abs() / (0.5 * log_var).exp().view(1, 1, 1, 1)).item()
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-12 + 10 * cancelled * (1 + math.sqrt(2 * expected)))


@every_schedule
@pytest.mark.parametrize("num_steps", [2, 1000, 10_000])
def test_step_kl_in_float32_is_that_of_float64(name, num_steps):
    """From float32 errors, at both ends of T: the coefficients do not cancel."""
    schedule = NoiseSchedule.named(name, num_steps)
    t = torch.tensor([2, min(3, num_steps), num_steps])
    error = torch.rand(3, 1, 2, 2) * 2 - 1
    for kind in ("fixed_small", "fixed_large"):
        log_var = variance.log_var(kind, schedule, t, t - 1)
        narrow, wide = (step_kl(schedule, e, t, t - 1, log_var) for e in (error, error.double()))
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-38)


@every_schedule
@given(x_0=st.floats(-1, 1), t=st.integers(1, T))
def test_prior_agrees_with_integration(name, x_0, t):
    """L_T, and what it would be were sampling started at another t."""
    marginal = PROCESSES[name].marginal(f64(x_0).view(1, 1, 1, 1), torch.tensor([t]))
    log_ab = PROCESSES[name].schedule.log_alpha_bar_at(torch.tensor([t]))
    got = prior_kl(log_ab, f64([x_0**2])).item()
    zero = f64(0.0)
    expected = integrated_kl(marginal.mean.squeeze(), marginal.var.squeeze().log(), zero, zero)
    assert got == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_the_papers_prior_term():
    """Ho et al. 2020, section 4: "L_T is 1e-5 bits/dim" or less for the linear schedule, T = 1000, on CIFAR-10."""
    log_ab_T = NoiseSchedule.named("linear", 1000).log_alpha_bar[-1:]
    bits = [prior_kl(log_ab_T, f64([m])).item() * BITS_PER_NAT for m in (0.0, 0.25, 1.0)]
    assert bits[1] == pytest.approx(7.3e-6, rel=0.01)
    assert all(0 < b < 3e-5 for b in bits)
    # no cancellation: alpha_bar E[x^2] / 2 and alpha_bar^2 / 4 nats are all there is
    alpha_bar = log_ab_T.exp().item()
    assert bits[0] == pytest.approx(alpha_bar**2 / 4 * BITS_PER_NAT, rel=1e-3)
    assert bits[2] - bits[0] == pytest.approx(alpha_bar / 2 * BITS_PER_NAT, rel=1e-9)


@given(mean=st.floats(-3, 3), log_std=st.floats(-12, 12))
def test_bins_sum_to_one(mean, log_std):
    nll = discretised_gaussian_nll(LEVELS, f64(mean).expand(256), f64(2 * log_std).expand(256))
    assert abs((-nll).exp().sum().item() - 1) < 1e-12


@given(
    level=st.integers(0, 255), mean=st.floats(-3, 3), log_std=st.floats(-7, 12), dtype=st.sampled_from(["f64", "f32"])
)
@example(level=255, mean=1.0, log_std=-5.0, dtype="f64")
@example(level=0, mean=1.0, log_std=-5.0, dtype="f64")
@example(level=255, mean=-1.0, log_std=-7.0, dtype="f32")
def test_bins_agree_with_high_precision(level, mean, log_std, dtype):
    """Against 1,000 digits. Bins far from the mean have their true cost: no floor as 1e-12."""
    kind = torch.float64 if dtype == "f64" else torch.float32
    x, m, log_var = LEVELS[level].to(kind), f64(mean).to(kind), f64(2 * log_std).to(kind)
    got = discretised_gaussian_nll(x, m, log_var).item()
    with mpmath.workdps(50):
        half, std = mpmath.mpf(1) / 255, mpmath.exp(mpmath.mpf(log_var.item()) / 2)
        low = (mpmath.mpf(x.item()) - half - m.item()) / std
        high = (mpmath.mpf(x.item()) + half - m.item()) / std
        if low + high > 0:
            low, high, opens_low, opens_high = -high, -low, level == 255, level == 0
        else:
            opens_low, opens_high = level == 0, level == 255

        def cdf(z: mpmath.mpf) -> mpmath.mpf:
            return mpmath.erfc(-z / mpmath.sqrt(2)) / 2

        mass = (1 if opens_high else cdf(high)) - (0 if opens_low else cdf(low))
        expected = float(-mpmath.log(mass))
    if dtype == "f64":
        assert got == pytest.approx(expected, rel=1e-10, abs=1e-11)
    else:
        # an edge of the bin is known to float32's rounding, in standard deviations
        z = abs(float(low)) + abs(float(high))
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-4 + 1e-6 * z / math.exp(log_std))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("log_var", [-20.0, -9.8, 0.0, 20.0, 60.0])
def test_decoder_gradients_are_finite_and_right(log_var, dtype):
    """Wherever the mean is, at every level, also where a branch that is not taken would be infinite."""
    x = LEVELS.to(dtype).view(1, -1)
    mean = torch.linspace(-30, 30, 41, dtype=dtype).view(-1, 1).expand(-1, 256).clone().requires_grad_()
    spread = torch.full_like(mean, log_var).requires_grad_()
    nll = discretised_gaussian_nll(x, mean, spread)
    assert nll.isfinite().all()
    assert (nll >= 0).all()
    by_mean, by_spread = torch.autograd.grad(nll.sum(), (mean, spread))
    assert by_mean.isfinite().all()
    assert by_spread.isfinite().all()
    if dtype == torch.float64 and -10 < log_var < 30:
        h = 1e-6
        with torch.no_grad():
            numeric = (
                discretised_gaussian_nll(x, mean + h, spread) - discretised_gaussian_nll(x, mean - h, spread)
            ) / (2 * h)
        torch.testing.assert_close(by_mean, numeric, rtol=1e-4, atol=1e-5)


@given(level=st.integers(1, 254), mean=st.floats(-1, 1))
def test_a_wide_decoder_is_a_density(level, mean):
    """Where the bin is narrow, its mass is the density times its width."""
    x, m, log_var = LEVELS[level], f64(mean), f64(4.0)
    discrete, density = discretised_gaussian_nll(x, m, log_var), gaussian_nll(x, m, log_var)
    assert (discrete - density).item() == pytest.approx(-math.log(2 / 255), abs=1e-6)


@given(x=st.floats(-800, -1e-300))
@example(x=-1e-20)
@example(x=-math.log(2))
def test_log1mexp(x):
    with mpmath.workdps(400):
        expected = float(mpmath.log(-mpmath.expm1(mpmath.mpf(x))))
    assert log1mexp(f64(x)).item() == pytest.approx(expected, rel=1e-14, abs=0)


def test_the_last_variance_of_the_paper_makes_the_decoder_a_sensible_one():
    """sigma_1 at s = 0 is the posterior's of t = 2: 0.0074, about a level's width, for the paper's schedule."""
    schedule = PROCESSES["linear"].schedule
    one, zero = torch.tensor([1]), torch.tensor([0])
    for kind in ("fixed_small", "fixed_large"):
        std = (0.5 * variance.log_var(kind, schedule, one, zero)).exp().item()
        assert std == pytest.approx(0.00738, abs=1e-5)
    mass = (-discretised_gaussian_nll(LEVELS[100:101], LEVELS[100:101], f64([2 * math.log(0.00738)]))).exp()
    assert mass.item() == pytest.approx(math.erf(1 / 255 / 0.00738 / math.sqrt(2)), rel=1e-12)
    assert likelihood.LEVELS == 256
