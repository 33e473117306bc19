"""Every mistake listed in docs/errata.md fails here by the amount stated there, and what is right holds.

The model is an oracle: a network that could not be better. UNIT is one pixel distributed as N(0, 1), for which the
whole chain is known in closed form: every x_t is N(0, 1) too. TWO is a pixel that is -1 or 1, with equal chances.
"""

import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from undye.data.pixels import to_signed, to_uint8
from undye.diffusion.process import Gaussian, GaussianProcess
from undye.diffusion.schedule import NoiseSchedule
from undye.diffusion.variance import log_var
from undye.samplers import DDIM, Ancestral, final
from undye.testing import GaussianMixtureOracle, GaussianOracle

ROOT = Path(__file__).parents[2]
T = 1000
LINEAR = NoiseSchedule.named("linear", T)
PROCESS = GaussianProcess(LINEAR)
ALPHA, BETA, ALPHA_BAR = LINEAR.alpha, LINEAR.beta, LINEAR.alpha_bar
STEPS = torch.arange(1, T + 1)
"""All times of the chain, 1..T."""


def image(values) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


def at(*times: int) -> Tensor:
    return torch.tensor(times)


def log_normal(x, mean, var) -> Tensor:
    return -0.5 * ((x - mean) ** 2 / var + torch.as_tensor(var).log() + math.log(2 * math.pi))


def normal_data(var: float, schedule: NoiseSchedule = LINEAR) -> GaussianOracle:
    return GaussianOracle(schedule, [[[0.0]]], [[var]])


def two_points(weights=(1.0, 1.0), std: float = 0.0) -> GaussianMixtureOracle:
    return GaussianMixtureOracle(LINEAR, weights, [[-1.0], [1.0]], stds=[std, std], image_shape=(1, 1, 1))


UNIT, TWO = normal_data(1.0), two_points()


def step(t: int, x_t: Tensor, z: float = 0.0, variance: str = "fixed_large", oracle=UNIT) -> Tensor:
    """x_{t-1} as undye takes it: Algorithm 2's step from t, with the noise z."""
    grid = torch.tensor(sorted({t, t - 1, 0}, reverse=True))
    walk = Ancestral(variance=variance).steps(oracle, x_t, grid, lambda x: torch.full_like(x, z))
    return next(walk).x


def quadrature(n: int = 1601, width: float = 8.0) -> tuple[Tensor, Tensor]:
    """Points and weights that integrate against a standard normal."""
    x = torch.linspace(-width, width, n, dtype=torch.float64)
    weights = torch.exp(-0.5 * x**2)
    return x, weights / weights.sum()


def moments(x: Tensor, weights: Tensor) -> tuple[float, float, float]:
    """Mean, variance and kurtosis (3 for a normal, 1.8 for a uniform distribution)."""
    mean = (weights * x).sum()
    var = (weights * (x - mean) ** 2).sum()
    return mean.item(), var.item(), ((weights * (x - mean) ** 4).sum() / var**2).item()


def var_x_0(var: float, t: Tensor) -> Tensor:
    """Var(x_0 | x_t) for N(0, var) data, from the oracle's slope (Tweedie's formula of second order)."""
    oracle = normal_data(var)
    slope = (oracle(image(torch.ones(len(t))), t).x_0 - oracle(image(torch.zeros(len(t))), t).x_0).flatten()
    return slope * (1 - ALPHA_BAR[t]) / ALPHA_BAR[t].sqrt()


def posterior_weight_of_x_0(t: Tensor) -> Tensor:
    zero, one = image(torch.zeros(len(t))), image(torch.ones(len(t)))
    return PROCESS.posterior(one, zero, t).mean.flatten()


def bound(var: float, reverse_var: Tensor) -> tuple[float, Tensor, float]:
    """(L_T, [L_1 .. L_{T-1}], L_0) in nats for N(0, var) data, the perfect mean, and variances for t = 1..T."""
    last = ALPHA_BAR[T]
    prior = 0.5 * (last * var + (1 - last) - 1 - (1 - last).log())
    one, spread = image(torch.zeros(T)), posterior_weight_of_x_0(STEPS) ** 2 * var_x_0(var, STEPS)
    posterior_var = PROCESS.posterior(one, one, STEPS).var.flatten()
    ratio = posterior_var / reverse_var
    kl = 0.5 * (ratio + spread / reverse_var - 1 - ratio.log())
    decoder = 0.5 * ((2 * math.pi * reverse_var[0]).log() + spread[0] / reverse_var[0])
    return prior.item(), kl[1:], decoder.item()


def entropy(var: float) -> float:
    """Of N(0, var), in nats."""
    return 0.5 * math.log(2 * math.pi * math.e * var)


# ---- formulas


def test_algorithm_2_divides_by_the_root_of_one_minus_alpha_bar():
    x_t, z = image([1.0]), 0.7
    for t, off in [(100, 0.013), (500, 0.087), (1000, 0.123)]:
        eps_hat = UNIT(x_t, at(t)).eps

        def line_4(root, t=t, eps_hat=eps_hat):
            return (x_t - (1 - ALPHA[t]) / root.sqrt() * eps_hat) / ALPHA[t].sqrt() + BETA[t].sqrt() * z

        taken = step(t, x_t, z)
        torch.testing.assert_close(line_4(1 - ALPHA_BAR[t]), taken, rtol=1e-9, atol=1e-12)
        assert (taken - line_4(1 - ALPHA[t])).item() == pytest.approx(off, abs=1e-3)

    # what 1000 such steps leave of the variance 1 that the data have
    slope = UNIT(image(torch.ones(T)), STEPS).eps.flatten()

    def sample_variance(root: Tensor) -> float:
        scale, var = (1 - (1 - ALPHA[1:]) / root.sqrt() * slope) / ALPHA[1:].sqrt(), 1.0
        for t in range(T, 0, -1):
            var = scale[t - 1].item() ** 2 * var + (BETA[t].item() if t > 1 else 0.0)
        return var

    assert sample_variance(1 - ALPHA_BAR[1:]) == pytest.approx(1, abs=2e-4)
    assert sample_variance(1 - ALPHA[1:]) == pytest.approx(0.092, abs=5e-4)


def test_a_reparameterised_draw_has_variance_sigma_squared():
    """The draws -1 and 1 of eps have the mean and variance of all of them, and z is linear in eps."""
    x = image([0.3, 0.3])
    g = PROCESS.transition(x, at(T, T), at(T - 1, T - 1))
    z = g.sample(image([-1.0, 1.0]))
    var, sigma = z.var(correction=0).item(), g.var[0].sqrt().item()
    assert var == pytest.approx(sigma**2, rel=1e-12)
    assert z.mean().item() == pytest.approx(g.mean[0].item(), rel=1e-12)
    assert sigma / var == pytest.approx(7.07, abs=0.01)
    # and a Gaussian is made of a variance, not of a standard deviation
    assert Gaussian(x, g.var).sample(image([1.0, 1.0]))[0].item() == pytest.approx(0.3 + sigma, rel=1e-12)


def test_one_step_of_the_chain_has_alpha_not_alpha_bar():
    """The expansion of x_t from x_{t-1}: what the coefficients multiply up to after 100 steps."""
    t = torch.arange(1, 101)
    one = image(torch.ones(100))
    signal = PROCESS.transition(one, t, t - 1).mean.prod().item()
    assert signal == pytest.approx(PROCESS.marginal(one[:1], at(100)).mean.item(), rel=1e-10)
    assert signal == pytest.approx(0.947, abs=5e-4)
    assert ALPHA_BAR[t].sqrt().prod().item() == pytest.approx(0.148, abs=5e-4)
    # two steps, as in the notes' second line, must have the marginal's factor
    for i in (2, 10, 100):
        right = (ALPHA[i] * ALPHA[i - 1] * ALPHA_BAR[i - 2]).sqrt()
        wrong = (ALPHA_BAR[i] * ALPHA_BAR[i - 1] * ALPHA_BAR[i - 2]).sqrt()
        marginal = PROCESS.marginal(one[:1], at(i)).mean.item()
        assert right.item() == pytest.approx(marginal, rel=1e-12)
        assert wrong.item() < marginal * (1 - 4e-5)


def test_the_marginals_mean_has_alpha_bar():
    one = image([1.0])
    q = PROCESS.marginal(one, at(T))
    assert q.mean.item() == pytest.approx(0.00635, abs=1e-5)
    assert ALPHA[T].sqrt().item() == pytest.approx(0.99, abs=1e-4)
    assert q.mean.item() == pytest.approx(PROCESS.transition(image(torch.ones(T)), STEPS, STEPS - 1).mean.prod().item())
    # of data of variance 1, the mixture of the two gives a variance of 1 at every t, the wrong mean up to 1.98
    var = ALPHA_BAR + PROCESS.marginal(image(torch.ones(T + 1)), torch.arange(T + 1)).var.flatten()
    torch.testing.assert_close(var, torch.ones_like(var), rtol=0, atol=1e-12)
    assert (ALPHA[T] + 1 - ALPHA_BAR[T]).item() == pytest.approx(1.98, abs=1e-3)


def test_the_reversed_forward_process_depends_on_the_data():
    """q(x_{t-1} | x_t) by Bayes' rule on a grid, for two data sets with the same forward process; t = 2."""
    x_2, x_1 = image([0.01]), torch.linspace(-0.12, 0.12, 20_001, dtype=torch.float64)
    means = []
    for oracle in (UNIT, normal_data(0.0)):
        step_back = oracle.process.transition(image(x_1), at(2).expand(len(x_1)), at(1).expand(len(x_1)))
        log_q = oracle.log_prob(image(x_1), at(1).expand(len(x_1)))
        log_q = log_q + log_normal(x_2, step_back.mean, step_back.var).flatten()
        means.append((log_q.softmax(0) * x_1).sum().item())
        learned = oracle.process.posterior(oracle(x_2, at(2)).x_0, x_2, at(2)).mean.item()
        assert means[-1] == pytest.approx(learned, rel=1e-6)
    assert means[0] / 0.01 == pytest.approx(0.99994, abs=1e-5)
    assert means[1] / 0.01 == pytest.approx(0.4547, abs=1e-4)


def test_bayes_rule_needs_the_marginal_of_the_earlier_time():
    """q(x_{t-1} | x_0) has the index t-1: with t in its place, the product of the factors is another Gaussian."""
    x_0, x_2, x_1 = image([0.4]), image([0.42]), image([0.41])
    posterior = PROCESS.posterior(x_0, x_2, at(2))

    def log_product(earlier: int) -> float:
        q_12, q_1, q_2 = (
            PROCESS.transition(x_1, at(2), at(1)),
            PROCESS.marginal(x_0, at(earlier)),
            PROCESS.marginal(x_0, at(2)),
        )
        product = log_normal(x_2, q_12.mean, q_12.var) + log_normal(x_1, q_1.mean, q_1.var)
        return (product - log_normal(x_2, q_2.mean, q_2.var)).item()

    right = log_normal(x_1, posterior.mean, posterior.var).item()
    assert log_product(1) == pytest.approx(right, abs=1e-9)
    assert abs(log_product(2) - right) > 0.1

    def variance(earlier: int) -> float:
        return (1 / (ALPHA[2] / BETA[2] + 1 / (1 - ALPHA_BAR[earlier]))).item()

    assert variance(1) == pytest.approx(posterior.var.item(), rel=1e-9)
    assert variance(2) / posterior.var.item() == pytest.approx(1.42, abs=0.005)


def test_the_posteriors_exponent_has_alpha():
    x_0, x_t, t = image([0.4]), image([0.9]), 500
    x = torch.linspace(-0.5, 1.5, 9, dtype=torch.float64)
    posterior = PROCESS.posterior(x_0, x_t, at(t))
    log_q = log_normal(x, posterior.mean.flatten(), posterior.var.flatten())

    def exponent(scale: Tensor) -> Tensor:
        first = (0.9 - scale.sqrt() * x) ** 2 / BETA[t]
        second = (x - ALPHA_BAR[t - 1].sqrt() * 0.4) ** 2 / (1 - ALPHA_BAR[t - 1])
        return -0.5 * (first + second)

    # equal up to a constant is what "proportional to" allows
    right, wrong = exponent(ALPHA[t]) - log_q, exponent(ALPHA_BAR[t]) - log_q
    assert (right.max() - right.min()).item() < 1e-9
    assert (wrong.max() - wrong.min()).item() > 10
    variance = 1 / (ALPHA_BAR[t] / BETA[t] + 1 / (1 - ALPHA_BAR[t - 1]))
    assert (variance / posterior.var).item() == pytest.approx(11.2, abs=0.05)


def test_the_coefficients_of_the_exponent_are_a_precision_and_twice_a_mean_over_a_variance():
    x_0, x_2 = image([0.4]), image([0.42])
    posterior = PROCESS.posterior(x_0, x_2, at(2))
    square = ALPHA[2] / BETA[2] + 1 / (1 - ALPHA_BAR[1])
    linear = 2 * ALPHA[2].sqrt() / BETA[2] * 0.42 + 2 * ALPHA_BAR[1].sqrt() / (1 - ALPHA_BAR[1]) * 0.4
    assert (1 / square).item() == pytest.approx(posterior.var.item(), rel=1e-9)
    assert (linear / (2 * square)).item() == pytest.approx(posterior.mean.item(), rel=1e-9)
    assert square.item() == pytest.approx(18338, abs=10)
    assert posterior.var.item() == pytest.approx(5.45e-5, abs=1e-7)
    assert linear.item() == pytest.approx(14995, abs=30)


def test_the_posterior_mean_in_eps_has_one_over_root_alpha():
    x_0, eps = image([0.4]), image([-1.1])
    for t, factor in [(500, 3.55), (1000, 155.8)]:
        x_t = PROCESS.q_sample(x_0, at(t), eps)
        inner = x_t - BETA[t] / (1 - ALPHA_BAR[t]).sqrt() * eps
        mean = PROCESS.posterior(x_0, x_t, at(t)).mean.item()
        assert (inner / ALPHA[t].sqrt()).item() == pytest.approx(mean, rel=1e-9)
        assert (inner / ALPHA_BAR[t].sqrt()).item() / mean == pytest.approx(factor, abs=0.05)


def test_a_perfect_network_does_not_know_the_noise():
    """Its output is E[eps | x_t]; for unit variance data the error that remains is alpha_bar_t."""
    x, weights = quadrature(101)
    for t in (1, 100, 500):
        x_0, eps = (grid.reshape(-1, 1, 1, 1) for grid in torch.meshgrid(x, x, indexing="ij"))
        p = (weights[:, None] * weights[None, :]).flatten()
        times = at(t).expand(len(p))
        x_t = PROCESS.q_sample(x_0, times, eps)
        error = (p * (UNIT(x_t, times).eps - eps).flatten() ** 2).sum().item()
        assert error == pytest.approx(ALPHA_BAR[t].item(), abs=1e-6)
    assert ALPHA_BAR[100].item() == pytest.approx(0.897, abs=5e-4)


def test_the_two_variances_of_the_paper_differ():
    def ratio(t: int, s: int) -> float:
        small, large = (log_var(kind, LINEAR, at(t), at(s)) for kind in ("fixed_small", "fixed_large"))
        return (small - large).exp().item()

    assert ratio(2, 1) == pytest.approx(0.455, abs=5e-4)
    assert ratio(10, 9) == pytest.approx(0.853, abs=5e-4)
    assert ratio(100, 99) == pytest.approx(0.982, abs=5e-4)
    assert ratio(200, 100) == pytest.approx(0.302, abs=1e-3)  # 10 steps in place of 1000
    # the notes' code adds sqrt(beta_t) z, which is fixed_large, where their text says fixed_small
    x = image([0.5])
    for kind, t in [("fixed_small", 2), ("fixed_large", 2)]:
        added = (step(t, x, 1.0, kind) - step(t, x, 0.0, kind)).item()
        assert (added == pytest.approx(BETA[t].sqrt().item(), rel=1e-9)) is (kind == "fixed_large")


def test_the_decoder_term_counts_once():
    """For UNIT and variances beta_t the model is the reversed chain itself, so the bound is the entropy of the data."""
    prior, steps, decoder = bound(1.0, BETA[1:])
    assert prior + steps.sum().item() + decoder == pytest.approx(entropy(1.0), abs=1e-9)
    assert entropy(1.0) == pytest.approx(1.419, abs=5e-4)
    assert decoder == pytest.approx(-3.186, abs=5e-4)
    lumped = prior + (steps + decoder).sum().item()
    assert lumped == pytest.approx(-3178, abs=1)
    assert lumped < entropy(1.0)  # no bound on it


def test_the_terms_of_the_bound_have_one_index():
    """L_{t-1} belongs to the step t -> t-1. Called L_t, it takes the prior's name at T and is infinite at 1."""
    prior, steps, _ = bound(1.0, BETA[1:])
    assert prior == pytest.approx(2.02e-5, abs=1e-7)
    assert steps[-1].item() == pytest.approx(4.1e-7, abs=1e-8)
    x = image([0.3])
    to_the_data, to_x_1 = PROCESS.posterior(x, x, at(1)), PROCESS.posterior(x, x, at(2))
    assert to_the_data.var.item() == 0  # KL of a point from a density: infinite
    assert to_x_1.var.item() > 0
    assert len(steps) == T - 1


def test_the_weight_of_the_squared_error_has_a_variance_not_a_norm_squared():
    x = torch.zeros(1, 1, 1, 3, dtype=torch.float64)
    delta = torch.tensor([0.03, -0.01, 0.02], dtype=torch.float64)
    for t, right, wrong in [(1000, 25, 1250), (1, 5e3, 5e7)]:
        cov = PROCESS.transition(x, at(t), at(t - 1)).var.item() * torch.eye(3, dtype=torch.float64)
        kl = kl_divergence(MultivariateNormal(delta, cov), MultivariateNormal(torch.zeros_like(delta), cov))
        weight = (kl / delta.square().sum()).item()
        assert weight == pytest.approx(1 / (2 * cov[0, 0].item()), rel=1e-9)
        assert weight == pytest.approx(right, rel=1e-3)
        assert 1 / (2 * torch.linalg.matrix_norm(cov, ord=2).item() ** 2) == pytest.approx(wrong, rel=1e-3)


def test_the_rest_of_the_kl_is_constant_only_if_the_variance_is_fixed():
    t = at(2)
    posterior_var = log_var("fixed_small", LINEAR, t, t - 1).exp().item()
    error = 1e-5  # of the mean, squared

    def kl(var: float) -> float:
        cov = torch.tensor([[var]], dtype=torch.float64)
        q = MultivariateNormal(torch.tensor([error**0.5]).double(), torch.tensor([[posterior_var]]).double())
        return kl_divergence(q, MultivariateNormal(torch.zeros(1).double(), cov)).item()

    def rest(kind: str) -> float:
        var = log_var(kind, LINEAR, t, t - 1).exp().item()
        return kl(var) - error / (2 * var)

    assert rest("fixed_small") == pytest.approx(0, abs=1e-6)
    assert rest("fixed_large") == pytest.approx(0.121, abs=5e-4)
    # minimised over the variance: the squared error alone wants it infinite, the KL wants the expected square
    grid = posterior_var * torch.logspace(-1, 4, 2001, dtype=torch.float64)
    best = grid[torch.tensor([kl(v) for v in grid.tolist()[::10]]).argmin() * 10].item()
    assert best == pytest.approx(posterior_var + error, rel=0.06)
    assert (error / (2 * grid)).argmin() == len(grid) - 1


def weight_of_eq_12(t: int) -> float:
    """By the process: how the KL grows with the squared error of eps, reverse variance beta_t."""
    x_t, a, b = image([0.3]), ALPHA_BAR[t].sqrt(), (1 - ALPHA_BAR[t]).sqrt()
    means = [PROCESS.posterior((x_t - b * eps) / a, x_t, at(t)).mean for eps in (0.0, 1.0)]
    return ((means[0] - means[1]) ** 2 / (2 * BETA[t])).item()


def test_the_weight_of_eq_12_is_bracketed_around_alpha_bar_alone():
    for t, right, wrong in [(1, 0.5, 5.0e-9), (100, 0.0101, 2.15e-6), (1000, 0.0102, 2.04e-4)]:
        var = BETA[t]
        paper = BETA[t] ** 2 / (2 * var * ALPHA[t] * (1 - ALPHA_BAR[t]))
        notes = BETA[t] ** 2 / (2 * ALPHA[t] * (1 - ALPHA_BAR[t] * var**2))
        assert weight_of_eq_12(t) == pytest.approx(paper.item(), rel=1e-6)
        assert paper.item() == pytest.approx(right, rel=5e-3)
        assert notes.item() == pytest.approx(wrong, rel=5e-3)


def test_the_loss_is_the_square_of_the_norm():
    """Data -1 (0.3) and 1 (0.7), seen at x_500 = 0: the square asks for the mean, the norm for the median."""
    oracle, x_t = two_points([0.3, 0.7]), image([0.0])
    a, b = ALPHA_BAR[500].sqrt(), (1 - ALPHA_BAR[500]).sqrt()
    true_eps = torch.stack([a / b, -a / b])  # x_0 = -1, 1
    candidates = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64) * a / b
    miss = candidates[:, None] - true_eps
    probability = torch.tensor([0.3, 0.7], dtype=torch.float64)
    best = {name: candidates[(loss @ probability).argmin()] for name, loss in [("l2", miss**2), ("l1", miss.abs())]}
    out = oracle(x_t, at(500))
    assert out.eps.item() == pytest.approx(best["l2"].item(), abs=1e-9)
    assert out.x_0.item() == pytest.approx(0.4, abs=1e-12)
    assert (-b * best["l1"] / a).item() == pytest.approx(1.0, abs=1e-9)


# ---- code

LISTING = """
class Diffusion:
    def __init__(self):
        self.alpha_hat = torch.cumprod(1. - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), dim=0)
    def noise_images(self, x, t):
        sqrt_alpha_hat = torch.sqrt(self.alpha_hat[t]).[:, None, None, None]
        sqrt_one_minus_alpha_hat = torch.sqrt(1 - self.alpha_hat[t]).[:, None, None, None]
        eps = torch.randn_like(x)
        return sqrt_alpha_hat * x + sqrt_one_minus_alpha_hat * eps, eps
"""
SECOND_DEFINITION = """
    def noise_images(self, x, t):
        sqrt_alpha_hat = torch.sqrt(self.alpha_hat[t]).[:, None, None, None]
"""


def test_the_listing_of_the_class_does_not_run():
    def diffusion(source: str):
        names = {"torch": torch}
        exec(compile(source, "notes", "exec"), names)
        return names["Diffusion"]()

    with pytest.raises(SyntaxError):
        diffusion(LISTING)
    x, index = torch.randn(2, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 499])
    shadowed = diffusion((LISTING + SECOND_DEFINITION).replace(".[", "["))
    assert shadowed.noise_images(x, index) is None
    assert not hasattr(shadowed, "sample_timesteps")
    # the first definition, repaired: index i is the paper's t = i + 1
    x_t, eps = diffusion(LISTING.replace(".[", "[")).noise_images(x, index)
    torch.testing.assert_close(x_t, PROCESS.q_sample(x, index + 1, eps), rtol=1e-9, atol=1e-12)
    assert (x_t - PROCESS.q_sample(x, index, eps)).abs().max() > 1e-3


def test_a_loop_without_index_0_stops_one_step_early():
    """Data that are one point: the last step of Algorithm 2 returns it, the notes' loop leaves noise on it."""
    point = normal_data(0.0)
    zero, one = image(torch.zeros(T)), image(torch.ones(T))
    scale = PROCESS.posterior(zero, one, STEPS).mean.flatten().tolist()

    def std_after(last: int) -> float:
        """Of the sample, in pixel levels, if the loop's last step, without noise, is `last` -> `last` - 1."""
        var = 1.0
        for t in range(T, last - 1, -1):
            var = scale[t - 1] ** 2 * var + (BETA[t].item() if t > last else 0.0)
        return 127.5 * math.sqrt(var)

    assert std_after(2) == pytest.approx(1.03, abs=5e-3)
    assert std_after(1) == 0
    # undye's last two steps, from x_2; the last one takes no noise, whatever there is
    *_, before, last = Ancestral(variance="fixed_large").steps(point, image([0.02]), at(2, 1, 0), torch.ones_like)
    assert abs(before.x.item()) > 0.005
    assert last.x.item() == 0
    assert (before.s, last.s) == (1, 0)


def test_pixels_are_rounded_not_truncated():
    def truncated(x: Tensor) -> Tensor:
        return ((x.clamp(-1, 1) + 1) / 2 * 255).type(torch.uint8)

    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    x = to_signed(levels)
    assert (torch.from_numpy(to_uint8(x)) == levels).all()
    lost = levels.permute(0, 3, 1, 2).int() - truncated(x).int()
    assert lost.sum() == (lost == 1).sum() == 63
    # all values between 0 and 255, evenly: half a level too dark
    x = torch.linspace(-1, 1, 255_001).view(1, 1, 1, -1)
    exact = (x.double() + 1) * 127.5
    assert (truncated(x).double() - exact).mean().item() == pytest.approx(-0.5, abs=2e-3)
    rounded = torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2).double()
    assert (rounded - exact).mean().item() == pytest.approx(0, abs=2e-3)


def test_an_average_of_the_weights_is_less_noisy_than_the_last_ones():
    """Stochastic gradient descent on a parabola, stationary: exact covariance of the weight and its EMA, d = 0.9999."""
    rho, d = 0.99, 0.9999
    a = torch.tensor([[rho, 0.0], [(1 - d) * rho, d]], dtype=torch.float64)  # (weight, average) of the next step
    b = torch.tensor([[1.0], [1 - d]], dtype=torch.float64)
    cov = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - torch.kron(a, a), (b @ b.T).flatten()).view(2, 2)
    torch.testing.assert_close(a @ cov @ a.T + b @ b.T, cov, rtol=1e-6, atol=1e-9)
    assert (cov[0, 0] / cov[1, 1]).item() == pytest.approx(101.5, abs=0.5)


def make_beta(schedule: str, n: int) -> Tensor:
    """The notes' function, the branches with a linspace."""
    start, end = 1e-4, 2e-2
    if schedule == "linear":
        return torch.linspace(start**0.5, end**0.5, n, dtype=torch.float64) ** 2
    if schedule == "sqrt_linear":
        return torch.linspace(start, end, n, dtype=torch.float64)
    return torch.linspace(start, end, n, dtype=torch.float64) ** 0.5


def test_the_schedule_called_linear_is_linear_in_the_root():
    theirs = {name: make_beta(name, T) for name in ("linear", "sqrt_linear", "sqrt")}
    for name, ours in [("linear", "scaled_linear"), ("sqrt_linear", "linear"), ("sqrt", "sqrt")]:
        torch.testing.assert_close(NoiseSchedule.named(ours, T).beta[1:], theirs[name], rtol=1e-9, atol=0)
    assert (BETA[1:].diff() - BETA[1:].diff()[0]).abs().max().item() < 1e-14
    assert theirs["linear"].diff()[-1] / theirs["linear"].diff()[0] > 13
    assert (theirs["linear"] - BETA[1:]).abs().max().item() == pytest.approx(0.0043, abs=5e-5)
    scaled = NoiseSchedule.named("scaled_linear", T).alpha_bar
    assert (scaled[500] / ALPHA_BAR[500]).item() == pytest.approx(4.24, abs=0.01)
    assert (scaled[T] / ALPHA_BAR[T]).item() == pytest.approx(18.2, abs=0.05)


def test_the_ten_numbers_are_alphas_of_another_schedule():
    printed = torch.tensor([0.9999, 0.9994, 0.9985, 0.9971, 0.9953, 0.9931, 0.9905, 0.9874, 0.9839, 0.9800]).double()
    ten = NoiseSchedule.named("scaled_linear", 10)
    torch.testing.assert_close(ten.alpha[1:], printed, rtol=0, atol=5.1e-5)
    assert (ten.beta[1:] - printed).abs().min() > 0.95
    assert (NoiseSchedule.named("linear", 10).alpha[1:] - printed).abs().max().item() == pytest.approx(0.0043, abs=2e-4)
    assert ten.alpha_bar[10].item() == pytest.approx(0.927, abs=5e-4)


def test_alpha_bar_is_a_cumulative_product():
    alphas = 1 - make_beta("sqrt_linear", T)
    torch.testing.assert_close(alphas.cumprod(0), ALPHA_BAR[1:], rtol=1e-10, atol=0)
    assert len(alphas) == T
    assert len(ALPHA_BAR) == T + 1
    assert ALPHA_BAR[0] == 1
    assert (alphas[-1] / (1 - alphas[-1])).item() == pytest.approx(49, abs=0.01)
    assert LINEAR.snr[T].item() == pytest.approx(4.04e-5, abs=1e-7)


# ---- claims


def test_the_forward_step_shrinks_the_image_too():
    """Noise of variance beta_t that is only added ends at signal-to-noise ratio 0.0995, and at variance 11."""
    one = image(torch.ones(T))
    q = PROCESS.transition(one, STEPS, STEPS - 1)
    added = q.var.sum().item()
    assert added == pytest.approx(10.05, abs=1e-9)
    var = 1.0
    for scale, noise in zip(q.mean.flatten().tolist(), q.var.flatten().tolist(), strict=True):
        var = scale**2 * var + noise
    assert var == pytest.approx(1, abs=1e-12)
    assert 1 / added / LINEAR.snr[T].item() == pytest.approx(2465, abs=5)


def test_without_its_noise_the_reverse_process_does_not_reach_the_data():
    """p_theta is a distribution, of which the network gives the mean. The mean alone: deviation 0.0045, not 1."""
    oracle = normal_data(1.0, NoiseSchedule.named("linear", 100, beta_start=1e-3, beta_end=0.2))
    grid, x_T = torch.arange(100, -1, -1), image([1.0])
    x_0 = final(Ancestral(variance="fixed_large").steps(oracle, x_T, grid, torch.zeros_like)).item()
    assert x_0 == pytest.approx(oracle.schedule.alpha_bar[100].sqrt().item(), rel=1e-6)
    assert x_0 == pytest.approx(0.0045, abs=5e-5)
    # with it: each step keeps variance 1
    for t in (2, 500, T):
        scale, noise = step(t, x_T).item(), (step(t, x_T, 1.0) - step(t, x_T)).item()
        assert scale**2 + noise**2 == pytest.approx(1, abs=1e-12)


def test_the_noisy_image_is_the_input_and_the_last_time_is_trained_too():
    """The target eps cannot be read off x_t, which as its own target could. And sampling asks first about t = T."""
    x, weights = quadrature(101)
    x_0, eps = (grid.reshape(-1, 1, 1, 1) for grid in torch.meshgrid(x, x, indexing="ij"))
    p, times = (weights[:, None] * weights[None, :]).flatten(), at(500).expand(len(x) ** 2)
    x_t = PROCESS.q_sample(x_0, times, eps)
    out = UNIT(x_t, times)
    again = PROCESS.q_sample(out.x_0, times, out.eps)  # a network's image "after t steps" is its input, whatever it is
    assert (p * (again - x_t).flatten() ** 2).sum().item() < 1e-20
    assert (p * (out.eps - eps).flatten() ** 2).sum().item() == pytest.approx(0.0786, abs=1e-4)
    asked = []

    class Asked:
        config, schedule, process = UNIT.config, LINEAR, PROCESS

        def __call__(self, x_t, t):
            asked.append(t.item())
            return UNIT(x_t, t)

    final(DDIM().steps(Asked(), image([1.0]), at(T, 500, 1, 0), torch.zeros_like))
    assert asked == [T, 500, 1]


def test_the_latents_have_the_shape_of_the_data():
    x_0 = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    oracle = GaussianMixtureOracle(LINEAR, [1.0], x_0[:1], stds=[0.5])
    x_t = PROCESS.q_sample(x_0, at(1, T), torch.randn_like(x_0))
    assert x_t.shape == x_0.shape
    assert all(s.x.shape == x_0.shape for s in DDIM().steps(oracle, x_t, at(T, 500, 0), torch.zeros_like))
    # no encoder to learn: the same x_0 and eps give the same x_t, a straight line in x_0 with the slope sqrt(alpha_bar)
    eps = torch.zeros_like(x_0)
    slope = (PROCESS.q_sample(2 * x_0, at(1, T), eps) - PROCESS.q_sample(x_0, at(1, T), eps)) / x_0
    torch.testing.assert_close(slope.amin((1, 2, 3)), ALPHA_BAR[at(1, T)].sqrt(), rtol=1e-9, atol=0)
    torch.testing.assert_close(slope.amax((1, 2, 3)), ALPHA_BAR[at(1, T)].sqrt(), rtol=1e-9, atol=0)


def prior_bits(schedule: NoiseSchedule, square: float = 0.25) -> float:
    """L_T per dimension, in bits, for data with E[x_0^2] = square."""
    t = torch.tensor([schedule.num_steps])
    q = GaussianProcess(schedule).marginal(image([square**0.5]), t)
    return (0.5 * (q.mean**2 + q.var - 1 - q.var.log()) / math.log(2)).item()


def test_what_is_left_at_the_end_decides_and_not_the_number_of_steps():
    assert prior_bits(LINEAR) == pytest.approx(7.3e-6, abs=1e-7)  # T = 1000 is not > 1000
    hundred = NoiseSchedule.named("linear", 100, beta_start=1e-3, beta_end=0.2)
    assert prior_bits(hundred) < prior_bits(LINEAR)
    assert hundred.alpha_bar[-1].item() == pytest.approx(2.04e-5, abs=1e-7)
    assert NoiseSchedule.named("cosine", 10).alpha_bar[-1].item() == pytest.approx(2.41e-5, abs=1e-7)
    # growing betas in (0, 1), T as large as one likes, and more than half of the signal's energy stays
    for num_steps, left in [(10, 0.5653), (1000, 0.5768), (100_000, 0.5769)]:
        schedule = NoiseSchedule.named("linear", num_steps, beta_start=0.1 / num_steps, beta_end=1 / num_steps)
        assert (schedule.beta.diff() > 0).all()
        assert schedule.alpha_bar[-1].item() == pytest.approx(left, abs=1e-4)
        assert prior_bits(schedule) > 0.29


def test_x_t_is_normal_given_x_0_and_without_only_near_the_end():
    """The kurtosis of x_t for data -1 and 1, by integration of the oracle's density: 3 - 2 alpha_bar_t^2."""
    x = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    for t, kurtosis in [(100, 1.39), (500, 2.988), (T, 3.0)]:
        density = TWO.log_prob(image(x), at(t).expand(len(x))).exp()
        got = moments(x, density / density.sum())
        assert got[0] == pytest.approx(0, abs=1e-9)
        assert got[1] == pytest.approx(1, abs=1e-9)
        assert got[2] == pytest.approx((3 - 2 * ALPHA_BAR[t] ** 2).item(), abs=1e-8)
        assert got[2] == pytest.approx(kurtosis, abs=1e-3)
        q = PROCESS.marginal(image([1.0]), at(t))
        conditional = log_normal(x, q.mean.item(), q.var.item()).exp()
        assert moments(x, conditional / conditional.sum())[2] == pytest.approx(3, abs=1e-6)


def test_diffusion_ends_at_a_normal_distribution_not_a_uniform_one():
    """And sampling that starts from a uniform one, of the same variance, keeps its shape."""
    x, weights = quadrature()
    edge = math.sqrt(3)
    flat = torch.linspace(-edge, edge, 2001, dtype=torch.float64)
    even = torch.full_like(flat, 1 / len(flat))
    grid = torch.linspace(T, 0, 21, dtype=torch.float64)

    def sample(x_T: Tensor) -> Tensor:
        return final(DDIM().steps(UNIT, image(x_T), grid, torch.zeros_like)).flatten()

    assert moments(sample(x), weights)[2] == pytest.approx(3, abs=1e-6)
    assert moments(sample(flat), even)[2] == pytest.approx(1.8, abs=2e-3)
    # the end itself: 8.3 % of x_T lie where the uniform distribution has nothing
    wide = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    density = TWO.log_prob(image(wide), at(T).expand(len(wide))).exp()
    outside = (density[wide.abs() > edge].sum() / density.sum()).item()
    assert outside == pytest.approx(math.erfc(edge / math.sqrt(2)), abs=1e-3)
    assert outside == pytest.approx(0.083, abs=5e-4)


def reverse(oracle, x_t: float, t: int, s: int) -> tuple[Tensor, Tensor]:
    """A grid of x_s and q(x_s | x_t) on it, by Bayes' rule."""
    x = torch.linspace(-6, 6, 24_001, dtype=torch.float64)
    q = oracle.process.transition(image(x), at(t).expand(len(x)), at(s).expand(len(x)))
    log_joint = oracle.log_prob(image(x), at(s).expand(len(x))) + log_normal(image([x_t]), q.mean, q.var).flatten()
    return x, log_joint.softmax(0)


def test_the_reverse_of_a_step_is_gaussian_only_if_the_step_is_small():
    """KL from the normal distribution of the same mean and variance; data -1 and 1 with deviation 0.1, x_300 = 0."""
    oracle, t = two_points(std=0.1), 300
    for s, kl in [(299, 0.0), (250, 9.17e-4), (100, 0.378), (0, 1.611)]:
        x, p = reverse(oracle, 0.0, t, s)
        mean, var, _ = moments(x, p)
        log_p = (p / (x[1] - x[0])).clamp(min=1e-300).log()
        got = (p * (log_p - log_normal(x, mean, var))).sum().item()
        assert got == pytest.approx(kl, abs=max(2e-3 * kl, 1e-6)), s
        # given x_0 as well it is Gaussian for every s: Bayes' rule with a point in the oracle's place
        if s > 0:
            point = GaussianMixtureOracle(LINEAR, [1.0], [[1.0]], stds=[0.0], image_shape=(1, 1, 1))
            posterior = PROCESS.posterior(image([1.0]), image([0.0]), at(t), at(s))
            x, p = reverse(point, 0.0, t, s)
            assert moments(x, p) == pytest.approx((posterior.mean.item(), posterior.var.item(), 3), rel=1e-4)


def test_the_model_learns_the_moments_of_a_transition_not_of_the_data():
    """N(0, 1) and -1 or 1 have the same mean and variance at every t; the means of their reverse steps differ."""
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    for t in (100, 500, T):
        for oracle in (UNIT, TWO):
            density = oracle.log_prob(image(x), at(t).expand(len(x))).exp()
            mean, var, _ = moments(x, density / density.sum())
            assert (mean, var) == pytest.approx((0, 1), abs=1e-6)
    x_10 = image([0.5])
    step_unit, step_two = (step(10, x_10, oracle=oracle).item() for oracle in (UNIT, TWO))
    assert step_unit == pytest.approx(0.4999, abs=1e-4)
    assert step_two == pytest.approx(0.5736, abs=1e-4)
    assert step(10, 2 * x_10).item() == pytest.approx(2 * step_unit, rel=1e-9)  # and they depend on x_t


def test_one_z_does_for_one_time_only():
    """x_100 and x_1000 of the chain are all but independent given x_0; made from one z they are the same number."""
    zero, one = image([0.0]), image([1.0])
    x_s, step_on = PROCESS.marginal(zero, at(100)), PROCESS.transition(one, at(T), at(100))
    covariance = step_on.mean * x_s.var  # of x_1000 = slope x_100 + noise
    x_t = PROCESS.marginal(zero, at(T))
    assert (step_on.mean**2 * x_s.var + step_on.var).item() == pytest.approx(x_t.var.item(), rel=1e-12)
    assert (covariance / (x_s.var * x_t.var).sqrt()).item() == pytest.approx(0.00215, abs=1e-5)
    z = torch.randn(50, 1, 1, 1, dtype=torch.float64)
    both = [PROCESS.q_sample(0 * z, at(t).expand(50), z).flatten() for t in (100, T)]
    assert torch.corrcoef(torch.stack(both))[0, 1].item() == pytest.approx(1, abs=1e-12)


def test_training_sees_every_amount_of_noise_from_its_first_step():
    """t is uniform on 1..T at each step: on average 72 % of x_t's variance is noise; at beta_1 it would be 0.01 %."""
    noise = PROCESS.marginal(image(torch.ones(T)), STEPS).var.flatten()
    assert noise.mean().item() == pytest.approx(0.724, abs=5e-4)
    assert (noise > 0.9).double().mean().item() == pytest.approx(0.525, abs=1e-3)
    assert noise[0].item() == pytest.approx(1e-4, rel=1e-6)
    assert (BETA[1:].diff() > 0).all()  # what grows is beta along t


def test_a_collapsed_generator_makes_one_mode_not_the_average():
    """The average of two modes is where a discriminator sees at once that no data are."""
    data = two_points(std=0.1)
    average, mode = data.log_prob(image([data.mean.item(), 1.0])).tolist()
    assert mode - average == pytest.approx(49.3, abs=0.05)
    collapsed = image(1 + 0.1 * torch.linspace(-1, 1, 5, dtype=torch.float64))
    assert data.log_prob(collapsed).min().item() > mode - 0.51
    # the perfect answer to a squared error is the average, at full noise
    assert data(image([0.0]), at(T)).x_0.item() == pytest.approx(0, abs=1e-9)
    assert data.sample(400).mean().abs().item() < 5 / 20


def test_a_perfect_networks_loss_is_neither_zero_nor_steady():
    x, weights = quadrature(41)
    x_0, eps = (grid.reshape(-1, 1, 1, 1) for grid in torch.meshgrid(x, x, indexing="ij"))
    p, losses = (weights[:, None] * weights[None, :]).flatten(), []
    for t in (1, 100, 300, 500, T):
        times = at(t).expand(len(p))
        out = UNIT(PROCESS.q_sample(x_0, times, eps), times)
        losses.append((p * (out.eps - eps).flatten() ** 2).sum().item())
    assert losses == pytest.approx([0.9999, 0.897, 0.396, 0.0786, 4.04e-5], abs=5e-4)
    # the loss of a uniform t is alpha_bar_t, by the line above
    assert ALPHA_BAR[1:].mean().item() == pytest.approx(0.276, abs=5e-4)
    assert ALPHA_BAR[1:].std().item() == pytest.approx(0.343, abs=5e-4)


def test_the_papers_variances_are_fixed_and_the_best_one_lies_between_them():
    """E of (x_{t-1} - mu)^2 for a perfect mu: fixed_small for a point, fixed_large for unit variance data."""
    t = torch.arange(2, T + 1)
    small, large = (log_var(kind, LINEAR, t, t - 1).exp() for kind in ("fixed_small", "fixed_large"))
    weight = posterior_weight_of_x_0(t)
    for var in (0.0, 1e-4, 0.25, 1.0):
        best = small + weight**2 * var_x_0(var, t)
        assert (best >= small * (1 - 1e-9)).all()
        assert (best <= large * (1 + 1e-9)).all()
        if var in (0.0, 1.0):
            torch.testing.assert_close(best, small if var == 0 else large, rtol=1e-8, atol=0)
        # neither of them is best for data in between, at t = 2 and where the noise is of the size of the data
        if var == 1e-4:
            assert [(variance[0] / large[0]).item() for variance in (small, best)] == pytest.approx(
                [0.455, 0.625], abs=5e-4
            )


def test_the_bound_is_minimised_down_to_the_entropy():
    """It bounds the cross entropy from above; what is lowest where the model is the data is no entropy maximised."""
    x, weights = quadrature()

    def cross_entropy(model_std: float) -> float:
        return -(weights * normal_data(model_std**2).log_prob(image(x))).sum().item()

    stds = [0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 2.0]
    values = [cross_entropy(std) for std in stds]
    assert min(values) == values[3] == pytest.approx(entropy(1.0), abs=1e-6)
    assert values[-1] == pytest.approx(1.737, abs=5e-4)
    assert [entropy(std**2) for std in stds] == sorted(entropy(std**2) for std in stds)  # the model's own: grows
    small = log_var("fixed_small", LINEAR, STEPS, STEPS - 1).exp()
    for var, gaps in [(1.0, [0.0, 0.579]), (0.25, [0.0011, 0.570])]:
        bounds = [bound(var, reverse_var) for reverse_var in (BETA[1:], small)]
        totals = [prior + steps.sum().item() + decoder for prior, steps, decoder in bounds]
        assert [total - entropy(var) for total in totals] == pytest.approx(gaps, abs=5e-4)
        assert min(totals) > entropy(var) - 1e-9


def test_x_0_itself_is_what_makes_the_reverse_step_known():
    """Given x_0 the variance is the posterior's; without x_0 it is nine times that, with two humps."""
    t, s = 300, 100
    posterior_var = PROCESS.posterior(image([1.0]), image([0.0]), at(t), at(s)).var.item()
    x, p = reverse(TWO, 0.0, t, s)
    _, var, kurtosis = moments(x, p)
    weight = PROCESS.posterior(image([1.0]), image([0.0]), at(t), at(s)).mean.item()
    assert var == pytest.approx(posterior_var + weight**2, rel=1e-6)  # Var(x_0 | x_t = 0) is 1
    assert posterior_var == pytest.approx(0.095, abs=5e-4)
    assert var == pytest.approx(0.862, abs=5e-4)
    assert kurtosis == pytest.approx(1.417, abs=1e-3)  # a normal distribution has 3


def test_l_simple_plays_down_the_small_t():
    """Relative to Eq. 12, whose weight at t = 1 is 49 times that at T; L_simple weighs all alike."""
    weights = [weight_of_eq_12(t) for t in (1, 349, T)]
    assert weights == pytest.approx([0.5, 0.00497, 0.0102], rel=5e-3)
    assert weights[0] / weights[2] == pytest.approx(49, abs=0.05)


def test_a_reverse_step_is_a_gaussian_around_a_mean_that_depends_on_x_t():
    """Conditional Gaussian noise alone would forget x_t; the correlation of x_499 with x_500 is 0.995."""
    slope = (step(500, image([1.0]), 0.3) - step(500, image([0.0]), 0.3)).item()
    noise = (step(500, image([1.0]), 1.0) - step(500, image([1.0]), 0.0)).item()
    assert slope / math.sqrt(slope**2 + noise**2) == pytest.approx(0.995, abs=5e-4)
    assert noise**2 == pytest.approx(BETA[500].item(), rel=1e-9)


def test_noise_is_added_along_t_and_sampling_runs_against_it():
    assert (LINEAR.snr.diff()[1:] < 0).all()
    assert LINEAR.snr[1].item() == pytest.approx(9999, abs=0.01)
    assert LINEAR.snr[T].item() == pytest.approx(4.04e-5, abs=1e-7)
    walk = list(Ancestral().steps(UNIT, image([1.0]), at(T, 500, 1, 0), torch.randn_like))
    assert [(s.t, s.s) for s in walk] == [(T, 500), (500, 1), (1, 0)]


def test_the_equivalence_is_with_denoising_score_matching_and_langevin_dynamics():
    """eps = -sqrt(1 - alpha_bar) score, and a step is (x + beta score) / sqrt(alpha) + sigma z."""
    oracle, z = two_points([0.3, 0.7], std=0.3), 0.7
    for t in (1, 100, 500, T):
        x_t = image([-0.4, 0.1, 1.3]).requires_grad_(True)
        times = at(t).expand(3)
        (score,) = torch.autograd.grad(oracle.log_prob(x_t, times).sum(), x_t)
        x_t = x_t.detach()
        torch.testing.assert_close(oracle(x_t, times).eps, -(1 - ALPHA_BAR[t]).sqrt() * score, rtol=1e-9, atol=1e-11)
        if t > 1:
            langevin = (x_t + BETA[t] * score) / ALPHA[t].sqrt() + BETA[t].sqrt() * z
            torch.testing.assert_close(step(t, x_t, z, oracle=oracle), langevin, rtol=1e-7, atol=1e-9)
            assert (step(t, x_t, z, oracle=oracle) - (x_t + BETA[t] * score)).abs().min() > 1e-4


# ---- the pages

ENTRY = re.compile(r"(?m)^### (\d+)\. .*$")
REFERENCE = re.compile(r"tests/docs/test_errata\.py::(\w+)")


def entries(page: str) -> dict[int, list[str]]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    parts = ENTRY.split(text)[1:]
    numbers = [int(number) for number in parts[::2]]
    assert numbers == list(range(1, len(numbers) + 1))
    return {number: REFERENCE.findall(body) for number, body in zip(numbers, parts[1::2], strict=True)}


def test_both_pages_have_the_same_entries_and_every_entry_a_test_that_exists():
    english, chinese = entries("errata.md"), entries("errata.zh-CN.md")
    assert english == chinese
    words_only = [number for number, tests in english.items() if not tests]
    assert words_only == list(range(48, len(english) + 1))  # the last section
    here = {name for name in dir(sys.modules[__name__]) if name.startswith("test_")}
    named = {test for tests in english.values() for test in tests}
    assert named == here - {"test_both_pages_have_the_same_entries_and_every_entry_a_test_that_exists"}
