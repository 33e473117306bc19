import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undye.diffusion.prediction import PREDICTIONS
from undye.diffusion.process import GaussianProcess, like, times
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule
from undye.diffusion.variance import LEARNED, VARIANCES, log_var

PROCESS = GaussianProcess(NoiseSchedule.named("linear", 1000))


def test_q_sample_by_hand():
    s, t = PROCESS.schedule, torch.tensor([1, 700])
    x_0, eps = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64)
    x_t = PROCESS.q_sample(x_0, t, eps)
    for i in range(2):
        alpha_bar = s.alpha_bar[t[i]]
        torch.testing.assert_close(x_t[i], alpha_bar.sqrt() * x_0[i] + (1 - alpha_bar).sqrt() * eps[i])
        marginal = PROCESS.marginal(x_0, t)
        torch.testing.assert_close(x_t, marginal.sample(eps))


def test_shapes():
    x = torch.zeros(2, 3, 4, 5)
    for gaussian in (PROCESS.posterior(x, x, torch.tensor([3, 9])), PROCESS.marginal(x, torch.tensor([3, 9]))):
        assert gaussian.mean.shape == x.shape
        assert gaussian.var.shape == (2, 1, 1, 1)


def test_posterior_is_of_the_step_before_by_default():
    x_0, x_t = torch.randn(2, 1, 1, 2, 2)
    default, explicit = (PROCESS.posterior(x_0, x_t, torch.tensor([30]), *s) for s in ([], [torch.tensor([29])]))
    assert torch.equal(default.mean, explicit.mean)
    assert torch.equal(default.var, explicit.var)


@pytest.mark.parametrize("s", [5, 6])
def test_s_must_be_below_t(s):
    x = torch.zeros(2, 1, 1, 1)
    for call in (
        lambda t, s: PROCESS.posterior(x, x, t, s),
        lambda t, s: PROCESS.transition(x, t, s),
    ):
        with pytest.raises(ValueError, match="below"):
            call(torch.tensor([9, 5]), torch.tensor([3, s]))


def test_times_keep_integers():
    x = torch.zeros(3, 1, 1, 1)
    assert times(7.0, x).tolist() == [7, 7, 7]
    assert times(7.0, x).dtype == torch.int64
    assert times(7.5, x).tolist() == [7.5] * 3
    assert times(7.5, x).dtype == torch.float64


def test_like_takes_dtype_and_shape():
    got = like(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16))
    assert got.shape == (2, 1, 1, 1)
    assert got.dtype == torch.bfloat16


every_schedule = pytest.mark.parametrize("name", SCHEDULES)
PROCESSES = {name: GaussianProcess(NoiseSchedule.named(name, 1000)) for name in SCHEDULES}


@every_schedule
@given(
    times=st.tuples(st.floats(0, 1000) | st.integers(0, 1000), st.floats(0, 1000) | st.integers(0, 1000)),
    seed=st.integers(0, 9),
)
def test_the_posterior_mean_in_eps_is_the_one_in_x_0(name, times, seed):
    """Ho et al. 2020, Eqs. 10 and 11, for any two times: where x_t is made of x_0 and eps, both say the same."""
    s, t = sorted(times)
    if t - s < 1e-3:
        return
    p, t_, s_ = PROCESSES[name], torch.tensor([t]).double(), torch.tensor([s]).double()
    x_0, eps = torch.randn(2, 1, 1, 3, 3, dtype=torch.float64, generator=torch.manual_seed(seed))
    x_t = p.q_sample(x_0, t_, eps)
    got, expected = p.posterior_mean_from_eps(eps, x_t, t_, s_), p.posterior(x_0, x_t, t_, s_).mean
    # eps is taken from x_t and the rest divided by sqrt(alpha): the rounding of x_t grows by that
    log_alpha = p.schedule.log_alpha_bar_at(t_) - p.schedule.log_alpha_bar_at(s_)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-14 * (-0.5 * log_alpha).exp().item() + 1e-13)


def test_the_posterior_mean_in_eps_is_of_the_step_before_by_default():
    eps, x_t = torch.randn(2, 2, 1, 2, 2)
    t = torch.tensor([30, 1])
    assert torch.equal(
        PROCESS.posterior_mean_from_eps(eps, x_t, t), PROCESS.posterior_mean_from_eps(eps, x_t, t, t - 1)
    )
    with pytest.raises(ValueError, match="below"):
        PROCESS.posterior_mean_from_eps(eps, x_t, t, t)


GRID = [3, 10, 25.5, 60]


@every_schedule
def test_a_forward_path_has_the_marginals_at_each_time_and_the_chains_correlations(name):
    """Ho et al. 2020, Eqs. 2 and 4: each x_t from the last, not drawn anew from x_0.

    Of n paths from one x_0, to five standard errors of a mean and of a covariance.
    """
    n, p = 20_000, GaussianProcess(NoiseSchedule.named(name, 60))
    path = list(p.forward(torch.full((n, 1, 1, 1), 1.5, dtype=torch.float64), GRID, torch.randn_like))
    assert [t for t, _ in path] == [0, *GRID]
    assert (path[0][1] == 1.5).all()
    alpha_bar = p.schedule.log_alpha_bar_at(torch.tensor(GRID, dtype=torch.float64)).exp()
    x = torch.stack([x_t.flatten() for _, x_t in path[1:]])
    var = 1 - alpha_bar
    assert ((x.mean(1) - 1.5 * alpha_bar.sqrt()).abs() < 5 * (var / n).sqrt()).all()
    # cov(x_s, x_t) = sqrt(alpha_bar_t / alpha_bar_s) var(x_s) for s < t
    ratio = alpha_bar[None, :] / alpha_bar[:, None]
    cov = torch.minimum(ratio, 1 / ratio).sqrt() * torch.minimum(var[:, None], var[None, :])
    error = ((var[:, None] * var[None, :] + cov**2) / n).sqrt()
    assert ((x.cov() - cov).abs() < 5 * error).all()
    assert (cov.tril(-1)[1:] > 10 * error.tril(-1)[1:]).any(), "there is a correlation to be missed"


def test_a_forward_path_without_noise_is_the_mean_and_with_equal_noise_the_sum_of_the_steps():
    x_0 = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    for t, x_t in PROCESS.forward(x_0, GRID, torch.zeros_like):
        alpha_bar = PROCESS.schedule.log_alpha_bar_at(torch.tensor([t], dtype=torch.float64)).exp()
        torch.testing.assert_close(x_t, alpha_bar.sqrt() * x_0, rtol=1e-12, atol=0)
    asked = []
    x = x_0
    walk = PROCESS.forward(x_0, torch.tensor([1, 2, 3]), lambda z: asked.append(z) or torch.ones_like(z))
    for (_, x_t), beta in zip(walk, PROCESS.schedule.beta[:4], strict=True):
        x = (1 - beta).sqrt() * x + beta.sqrt()
        torch.testing.assert_close(x_t, x, rtol=1e-12, atol=1e-13)
    assert len(asked) == 3, "one draw for each step"


@pytest.mark.parametrize("grid", [[5, 5], [5, 3], [0, 3], [-1], [5, 61], [float("nan")], [60.5]], ids=str)
def test_forward_needs_times_that_rise_within_the_schedule(grid):
    p = GaussianProcess(NoiseSchedule.named("linear", 60))
    with pytest.raises(ValueError, match=r"below|0\.\.60"):
        list(p.forward(torch.zeros(1, 1, 1, 1), grid, torch.randn_like))


@every_schedule
@pytest.mark.parametrize("num_steps", [1, 2])
def test_schedules_of_one_and_two_steps_are_schedules(name, num_steps):
    p, t = GaussianProcess(NoiseSchedule.named(name, num_steps)), torch.arange(1, num_steps + 1)
    s = p.schedule
    x_0, eps = torch.randn(2, num_steps, 1, 2, 2, dtype=torch.float64)
    alpha_bar = (1 - s.beta[1:]).cumprod(0).view(-1, 1, 1, 1)
    x_t = p.q_sample(x_0, t, eps)
    torch.testing.assert_close(x_t, alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps, rtol=1e-10, atol=1e-12)
    posterior = p.posterior(x_0, x_t, t)
    assert torch.equal(posterior.mean[0], x_0[0])
    assert posterior.var[0] == 0
    torch.testing.assert_close(p.posterior_mean_from_eps(eps, x_t, t), posterior.mean, rtol=1e-9, atol=1e-11)
    if num_steps == 2:
        expected = s.beta[2] * (1 - s.alpha_bar[1]) / (1 - s.alpha_bar[2])
        assert posterior.var[1].item() == pytest.approx(expected.item(), rel=1e-10)
    for kind in VARIANCES:
        word = torch.full_like(x_0, 0.4) if kind in LEARNED else None
        got = log_var(kind, s, t, t - 1, word)
        assert got.isfinite().all()
        assert (got < (0.4 if kind == "learned" else 0.0)).all(), "a variance below 1, and what the network adds"
    for prediction in PREDICTIONS.values():
        read = prediction.read(prediction.target(x_0, eps, s, t), x_t, s, t)
        for found, true in zip(read, (x_0, eps), strict=True):
            torch.testing.assert_close(found, true, rtol=0, atol=1e-9)
    assert [u for u, _ in p.forward(x_0, t, torch.randn_like)] == list(range(num_steps + 1))
