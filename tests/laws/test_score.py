"""eps, the score and sigma space are one model in three languages; the ODE between them has the process's marginals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undye.diffusion import ode
from undye.diffusion.prediction import PREDICTIONS
from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule
from undye.diffusion.score import (
    eps_from_score,
    from_sigma_space,
    log_alpha_bar_at_sigma,
    probability_flow,
    score_from_eps,
    sigma_at,
    sigma_space_score,
    to_sigma_space,
)
from undye.testing import GaussianMixtureOracle, GaussianOracle

T = 1000
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
WEIGHTS, MEANS = [0.3, 0.7], [[[[-0.5, 0.3]]], [[[0.6, -0.1]]]]
COVS = torch.tensor([[[0.09, 0.05], [0.05, 0.04]], [[0.02, -0.01], [-0.01, 0.3]]], dtype=torch.float64)
SCHEDULE = {name: NoiseSchedule.named(name, T) for name in SCHEDULES}
MIXTURES = {name: GaussianMixtureOracle(s, WEIGHTS, MEANS, covs=COVS) for name, s in SCHEDULE.items()}


def gaussian(schedule: NoiseSchedule) -> GaussianOracle:
    return GaussianOracle(schedule, torch.tensor([[[0.4, -0.2]]]), [[0.09, 0.05], [0.05, 0.16]])


def float64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@every_schedule
@settings(max_examples=15)
@given(t=st.floats(0.5, T) | st.integers(1, T), seed=st.integers(0, 9))
def test_the_score_is_the_gradient_of_the_log_density(name, t, seed):
    """Song et al. 2021, section 3: -eps / sqrt(1 - alpha_bar), for the eps that a perfect network would say."""
    oracle, t = MIXTURES[name], torch.tensor([t] * 5)
    x_t = torch.randn(5, 1, 1, 2, dtype=torch.float64, generator=torch.manual_seed(seed)).requires_grad_()
    (score,) = torch.autograd.grad(oracle.log_prob(x_t, t).sum(), x_t)
    lab = oracle.schedule.log_alpha_bar_at(t)
    eps = oracle(x_t.detach(), t).eps
    torch.testing.assert_close(score_from_eps(eps, lab), score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(eps_from_score(score, lab), eps, rtol=1e-9, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("t", [1, 30.5, 400, 900])
def test_the_score_of_sigma_space_is_the_gradient_there(name, t):
    """Karras et al. 2022, Eq. 3: p(y; sigma) is the data's density with sigma^2 added, whatever alpha_bar is."""
    oracle, t = MIXTURES[name], torch.tensor([t] * 5)
    lab = oracle.schedule.log_alpha_bar_at(t)
    sigma = sigma_at(lab)[0]
    # data blurred by sigma, and points where that has some density
    blurred = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(float64(*WEIGHTS)),
        torch.distributions.MultivariateNormal(
            torch.tensor(MEANS, dtype=torch.float64).view(2, 2), COVS + sigma**2 * torch.eye(2, dtype=torch.float64)
        ),
    )
    y = (sigma * torch.randn(5, 2, dtype=torch.float64)).requires_grad_()
    (expected,) = torch.autograd.grad(blurred.log_prob(y).sum(), y)
    x_t = from_sigma_space(y.detach().view(5, 1, 1, 2), lab)
    score = score_from_eps(oracle(x_t, t).eps, lab)
    got = sigma_space_score(score, lab).view(5, 2)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9 / sigma.item())


@every_schedule
def test_sigma_space_is_the_data_plus_sigma_eps(name):
    s, t = SCHEDULE[name], torch.tensor([1, 100, 500, 900])
    x_0, eps = torch.randn(2, 4, 1, 3, 3, dtype=torch.float64)
    lab = s.log_alpha_bar_at(t)
    x_t = GaussianProcess(s).q_sample(x_0, t, eps)
    y = to_sigma_space(x_t, lab)
    sigma = sigma_at(lab).view(-1, 1, 1, 1)
    torch.testing.assert_close(y, x_0 + sigma * eps, rtol=1e-13, atol=1e-13 * sigma.max().item())
    torch.testing.assert_close(from_sigma_space(y, lab), x_t, rtol=1e-14, atol=1e-15)
    # sigma_space_score is -eps / sigma
    torch.testing.assert_close(sigma_space_score(score_from_eps(eps, lab), lab), -eps / sigma, rtol=1e-12, atol=0)


@every_schedule
def test_eps_and_score_are_each_others_inverse(name):
    lab = SCHEDULE[name].log_alpha_bar_at(torch.tensor([1, 2, 500, T]))
    eps = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(eps_from_score(score_from_eps(eps, lab), lab), eps, rtol=1e-14, atol=1e-15)


@every_schedule
@pytest.mark.parametrize("num_steps", [1000, 10_000])
def test_sigma_is_the_root_of_one_over_the_snr(name, num_steps):
    s = NoiseSchedule.named(name, num_steps)
    sigma = sigma_at(s.log_alpha_bar)
    assert sigma[0] == 0
    assert (sigma.diff() > 0).all()
    fits = s.log_snr[1:].abs() < 600
    torch.testing.assert_close(sigma[1:][fits] ** -2, s.snr[1:][fits], rtol=1e-12, atol=0)


@every_schedule
@pytest.mark.parametrize("num_steps", [1000, 10_000])
def test_sigma_leads_back_to_log_alpha_bar_and_to_the_time(name, num_steps):
    """At every t, from the first, where alpha_bar is nearly 1, to the last, where it may be exp(-990)."""
    s, t = NoiseSchedule.named(name, num_steps), torch.arange(num_steps + 1)
    back = log_alpha_bar_at_sigma(sigma_at(s.log_alpha_bar))
    torch.testing.assert_close(back, s.log_alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(s.time_at(back.clamp(min=s.log_alpha_bar[-1])), t.double(), rtol=0, atol=1e-7)


@given(log_sigma=st.floats(-300, 300))
def test_log_alpha_bar_and_sigma_are_inverse_without_cancellation(log_sigma):
    sigma = float64(log_sigma).exp()
    lab = log_alpha_bar_at_sigma(sigma)
    assert lab < 0
    torch.testing.assert_close(sigma_at(lab), sigma, rtol=1e-12, atol=0)
    if log_sigma < -20:
        torch.testing.assert_close(lab, -sigma.square(), rtol=1e-12, atol=0)
    if log_sigma > 20:
        torch.testing.assert_close(lab, float64(-2 * log_sigma), rtol=1e-12, atol=0)


def test_without_noise_sigma_is_0_and_log_alpha_bar_0():
    assert sigma_at(float64(0.0)).item() == 0
    assert log_alpha_bar_at_sigma(float64(0.0)).item() == 0


@every_schedule
@given(low=st.integers(0, T - 1), inside=st.floats(0.01, 0.99))
def test_drift_is_the_slope_of_log_alpha_bar(name, low, inside):
    """Song et al. 2021, Eq. 11: minus beta(t); log_alpha_bar is minus its integral."""
    s, h = SCHEDULE[name], 0.005
    t = float64(low + inside)
    slope = (s.log_alpha_bar_at(t + h) - s.log_alpha_bar_at(t - h)) / (2 * h)
    # the rounding of log_alpha_bar over the step
    atol = 1e-13 * (1 + s.log_alpha_bar_at(t).abs().item())
    torch.testing.assert_close(s.drift_at(t), slope, rtol=1e-12, atol=atol)
    at_integer = torch.tensor([low + 1])
    torch.testing.assert_close(s.drift_at(at_integer), s.drift_at(t), rtol=0, atol=0)
    assert s.drift_at(t) < 0


@every_schedule
def test_the_integral_of_the_drift_is_log_alpha_bar(name):
    s = SCHEDULE[name]
    middles = torch.arange(T, dtype=torch.float64) + 0.5
    torch.testing.assert_close(s.drift_at(middles).cumsum(0), s.log_alpha_bar[1:], rtol=1e-11, atol=0)


@pytest.mark.parametrize("t", [-0.1, 10.1, float("nan")])
def test_drift_outside_the_schedule(t):
    with pytest.raises(ValueError, match=r"0\.\.10"):
        NoiseSchedule.named("linear", 10).drift_at(float64(t))


@every_schedule
def test_the_probability_flow_in_t_keeps_the_distance_in_standard_deviations(name):
    """Song et al. 2021, Eq. 13: solved from T to near the data, it is the exact flow of a Gaussian.

    beta(t) jumps at integers, which a solver that adapts its steps does not see coming: so it is solved between them.
    """
    oracle = gaussian(NoiseSchedule.named(name, 60))
    s, last = oracle.schedule, 0.01
    x_T = x = torch.randn(4, 1, 1, 2, dtype=torch.float64)
    for k in range(60, 0, -1):
        end = max(k - 1, last)

        def derivative(u, state, end=end):
            t = torch.full((4,), max(u, end + 1e-12), dtype=torch.float64)
            return (probability_flow(state[0], oracle(state[0], t).eps, s, t),)

        (x,) = ode.solve(derivative, (x,), float(k), end, tolerance=1e-9, first_step=1.0).state
    there, here = oracle.flow(x_T, torch.full((4,), 60)), oracle.flow(x, torch.full((4,), last))
    assert (x_T - x).abs().max() > 0.3
    torch.testing.assert_close(here, there, rtol=0, atol=1e-7)


@every_schedule
def test_in_sigma_space_the_flow_is_eps(name):
    """dy/dsigma = eps (Karras et al. 2022, Eq. 1), all the way to the data; the times come from `time_at`."""
    oracle = gaussian(SCHEDULE[name])
    s, start = oracle.schedule, torch.full((4,), 600)
    lab = s.log_alpha_bar_at(start)
    x = torch.randn(4, 1, 1, 2, dtype=torch.float64)

    def derivative(sigma, state):
        here = log_alpha_bar_at_sigma(torch.full((4,), sigma, dtype=torch.float64))
        return (oracle(from_sigma_space(state[0], here), s.time_at(here)).eps,)

    solution = ode.solve(derivative, (to_sigma_space(x, lab),), sigma_at(lab)[0].item(), 0.0, tolerance=1e-9)
    torch.testing.assert_close(solution.state[0], oracle.flow(x, start), rtol=0, atol=1e-6)


@every_schedule
def test_probability_flow_is_half_the_drift_times_x_plus_score(name):
    """And with the score said by a network that predicts it, read through its prediction."""
    s, t = SCHEDULE[name], torch.tensor([1.0, 30.5, 500.0, T], dtype=torch.float64)
    x_t, score = torch.randn(2, 4, 1, 2, 2, dtype=torch.float64)
    _, eps = PREDICTIONS["score"].read(score, x_t, s, t)
    # f - g^2 score / 2, with f = -beta x / 2 and g^2 = beta
    beta = -s.drift_at(t).view(-1, 1, 1, 1)
    expected = -0.5 * beta * x_t - 0.5 * beta * score
    torch.testing.assert_close(probability_flow(x_t, eps, s, t), expected, rtol=1e-11, atol=1e-12)
