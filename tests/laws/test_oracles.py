"""The oracles themselves, held against numerical integration and against the identities of a posterior mean."""

import math

import pytest
import torch

from undye.denoiser import Denoised
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule
from undye.samplers import DenoiserLike
from undye.testing import GaussianMixtureOracle, GaussianOracle

LINEAR = NoiseSchedule.named("linear", 1000)
COVS = torch.tensor([[[0.09, 0.05], [0.05, 0.04]], [[0.02, -0.01], [-0.01, 0.3]]], dtype=torch.float64)
MEANS = [[[[-0.5, 0.3]]], [[[0.6, -0.1]]]]


def scalar(schedule=LINEAR):
    return GaussianMixtureOracle(schedule, [1, 3], [[-0.6], [0.4]], stds=[0.1, 0.3], image_shape=(1, 1, 1))


def plane():
    return GaussianMixtureOracle(LINEAR, [0.3, 0.7], MEANS, covs=COVS)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("t", [1, 2.5, 100, 437.25, 900])
def test_posterior_mean_by_quadrature(schedule, t):
    oracle = scalar(NoiseSchedule.named(schedule, 1000))
    alpha_bar = oracle.schedule.log_alpha_bar_at(torch.tensor([t], dtype=torch.float64)).exp()
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x_t = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)
    x_0 = torch.linspace(-4, 4, 200_001, dtype=torch.float64)
    log_joint = oracle.log_prob(x_0.view(-1, 1, 1, 1)) - 0.5 * ((x_t[:, None] - a * x_0) / b) ** 2
    posterior = log_joint.softmax(1)
    out = oracle(x_t.view(-1, 1, 1, 1), torch.full((7,), t))
    torch.testing.assert_close(out.x_0.flatten(), posterior @ x_0, rtol=0, atol=1e-8)
    eps = (posterior * (x_t[:, None] - a * x_0) / b).sum(1)
    torch.testing.assert_close(out.eps.flatten(), eps, rtol=0, atol=1e-6)


@pytest.mark.parametrize("t", [0, 3, 250.5])
def test_density_integrates_to_one_with_the_stated_moments(t):
    oracle = scalar()
    x = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    density = oracle.log_prob(x.view(-1, 1, 1, 1), torch.full((len(x),), float(t))).exp() * (x[1] - x[0])
    alpha_bar = oracle.schedule.log_alpha_bar_at(torch.tensor([t], dtype=torch.float64)).exp()
    mean = (density * x).sum()
    assert abs(density.sum() - 1) < 1e-9
    assert abs(mean - alpha_bar.sqrt() * oracle.mean.item()) < 1e-9
    assert abs((density * (x - mean) ** 2).sum() - (alpha_bar * oracle.cov.item() + 1 - alpha_bar)) < 1e-9


def test_log_density_of_correlated_components():
    x = torch.randn(5, 1, 1, 2, dtype=torch.float64)
    parts = [
        math.log(w)
        + torch.distributions.MultivariateNormal(torch.tensor(m).double().flatten(), c).log_prob(x.view(5, 2))
        for w, m, c in zip([0.3, 0.7], MEANS, COVS, strict=True)
    ]
    torch.testing.assert_close(plane().log_prob(x), torch.stack(parts).logsumexp(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("t", [1, 30.5, 400, 1000])
def test_eps_is_the_score_and_explains_x_t(t):
    """Tweedie: eps = -sqrt(1 - alpha_bar) grad log q_t(x_t). x_t is sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps."""
    oracle, t = plane(), torch.full((6,), t, dtype=torch.float64)
    x_t = torch.randn(6, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(oracle.log_prob(x_t, t).sum(), x_t)
    out = oracle(x_t.detach(), t)
    b = (-oracle.schedule.log_alpha_bar_at(t).expm1()).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(out.eps, -b * score, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(oracle.process.q_sample(out.x_0, t, out.eps), x_t.detach(), rtol=0, atol=1e-12)


def test_samples_have_the_stated_moments():
    n, oracle = 100_000, plane()
    x = oracle.sample(n, seed=3).flatten(1)
    std = oracle.cov.diagonal().sqrt()
    assert ((x.mean(0) - oracle.mean.flatten()).abs() < 5 * std / math.sqrt(n)).all()
    assert ((x.T.cov() - oracle.cov).abs() < 5 * math.sqrt(3 / n) * std[:, None] * std).all()
    assert torch.equal(oracle.sample(5, seed=3), oracle.sample(5, seed=3))
    assert not torch.equal(oracle.sample(5, seed=3), oracle.sample(5, seed=4))
    # the average of -log p over the data is the entropy, which has to agree with an independent set of samples
    first, second = (-oracle.log_prob(oracle.sample(20_000, seed)) for seed in (0, 1))
    assert abs(first.mean() - second.mean()) < 5 * math.sqrt(2 / 20_000) * first.std()


def test_points_have_a_posterior_mean_too():
    oracle = GaussianMixtureOracle(LINEAR, [1, 1], [[-1], [1]], stds=[0, 0], image_shape=(1, 1, 1))
    x_t, t = torch.tensor([-0.3, 0.0, 0.3]).double().view(-1, 1, 1, 1), torch.full((3,), 300)
    alpha_bar = LINEAR.alpha_bar[300]
    expected = (alpha_bar.sqrt() * x_t / (1 - alpha_bar)).tanh()
    torch.testing.assert_close(oracle(x_t, t).x_0, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(oracle.sample(100).abs(), torch.ones(100, 1, 1, 1, dtype=torch.float64))


def test_one_gaussian_is_a_mixture_of_one():
    mean, cov = torch.randn(3, 2, 2, dtype=torch.float64), torch.randn(12, 12, dtype=torch.float64)
    cov = cov @ cov.T
    oracle = GaussianOracle(LINEAR, mean, cov)
    torch.testing.assert_close(oracle.mean, mean)
    torch.testing.assert_close(oracle.cov, cov)
    x_t, t = torch.randn(4, 3, 2, 2, dtype=torch.float64), torch.tensor([1, 10, 500, 1000])
    for i in range(4):
        a2 = LINEAR.alpha_bar[t[i]]
        gain = a2.sqrt() * cov @ torch.linalg.inv(a2 * cov + (1 - a2) * torch.eye(12))
        expected = mean.flatten() + gain @ (x_t[i].flatten() - a2.sqrt() * mean.flatten())
        torch.testing.assert_close(oracle(x_t, t).x_0[i].flatten(), expected, rtol=1e-7, atol=1e-7)


def test_answers_in_the_dtype_asked_and_is_what_samplers_take():
    oracle = plane()
    assert isinstance(oracle, DenoiserLike)
    assert oracle.config.clip_x_0 is False
    assert oracle.config.image_size == (1, 2)
    out = oracle(torch.zeros(2, 1, 1, 2), torch.tensor([1, 5]))
    assert isinstance(out, Denoised)
    assert out.x_0.dtype == out.eps.dtype == torch.float32
    assert oracle.log_prob(torch.zeros(2, 1, 1, 2)).dtype == torch.float64


def test_shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match="2 components in 2 dimensions"):
        GaussianMixtureOracle(LINEAR, [1, 2, 3], MEANS, stds=[1, 1])
    with pytest.raises(ValueError, match="either"):
        GaussianMixtureOracle(LINEAR, [1, 2], MEANS)
    with pytest.raises(ValueError, match="image_shape"):
        GaussianMixtureOracle(LINEAR, [1, 2], [[0.1], [0.2]], stds=[1, 1])
