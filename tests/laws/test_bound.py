"""The variational bound of a perfect model, whose data's true density is known: `undye.testing`'s oracles.

In one dimension every expectation is integrated, so the gap between the bound and the truth is known to many digits; in
the plane and on 8x8 images it is sampled, with its standard error.
"""

import math

import numpy as np
import pytest
import torch

from undye.data.pixels import to_uint8
from undye.diffusion import likelihood, variance
from undye.diffusion.likelihood import BITS_PER_NAT
from undye.diffusion.process import like
from undye.diffusion.schedule import NoiseSchedule
from undye.metrics.nll import bits_per_dim
from undye.testing import GaussianMixtureOracle

WEIGHTS, MEANS, STDS = [0.25, 0.75], [-0.6, 0.4], [0.1, 0.3]
KINDS = ("fixed_small", "fixed_large", "learned")


def line(schedule, kind):
    return GaussianMixtureOracle(
        schedule, WEIGHTS, [[m] for m in MEANS], stds=STDS, image_shape=(1, 1, 1), variance=kind
    )


def plane(schedule, kind):
    covs = torch.tensor([[[0.09, 0.05], [0.05, 0.04]], [[0.02, -0.01], [-0.01, 0.3]]], dtype=torch.float64)
    return GaussianMixtureOracle(schedule, [0.3, 0.7], [[[[-0.5, 0.3]]], [[[0.6, -0.1]]]], covs=covs, variance=kind)


def images(schedule, kind):
    """8x8 images of two kinds, with correlated pixels: covariances that fall with the pixels' distance."""
    place = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij"), -1).view(64, 2).double()
    distance = torch.cdist(place, place)
    covs = torch.stack([0.05 * torch.exp(-distance / 2), 0.02 * torch.exp(-distance)])
    means = torch.stack([place[:, 0] / 14 - 0.3, 0.4 - place[:, 1] / 10])
    return GaussianMixtureOracle(
        schedule, [0.4, 0.6], means, covs=covs + 1e-3 * torch.eye(64), image_shape=(1, 8, 8), variance=kind
    )


def hermite(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights of the expectation over a standard normal number."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


def integrated_gap(num_steps: int, kind: str, **options) -> float:
    """Bound minus entropy of the one-dimensional data in bits, for the linear schedule of this length."""
    schedule = NoiseSchedule.named("linear", num_steps, **options)
    oracle = line(schedule, kind)
    z, weight = hermite()
    w, m, s = (torch.tensor(v, dtype=torch.float64) for v in (WEIGHTS, MEANS, STDS))
    x_0 = (m[:, None] + s[:, None] * z).flatten()
    p_0 = (w[:, None] * weight).flatten()
    data, noise = (grid.reshape(-1, 1, 1, 1) for grid in torch.meshgrid(x_0, z, indexing="ij"))
    p = (p_0[:, None] * weight).flatten()

    def term(t: int) -> torch.Tensor:
        t_, s_ = torch.full((len(data),), t), torch.full((len(data),), t - 1)
        out = oracle(schedule_process.q_sample(data, t_, noise), t_)
        log_var = variance.log_var(kind, schedule, t_, s_, out.learned_variance)
        if t == 1:
            return likelihood.gaussian_nll(data, out.x_0, log_var if log_var.ndim == 4 else like(log_var, data))
        return likelihood.step_kl(schedule, data - out.x_0, t_, s_, log_var)

    schedule_process = oracle.process
    prior = (p_0 * likelihood.prior_kl(schedule.log_alpha_bar[-1:].expand(len(x_0)), x_0.square())).sum()
    bound = prior + sum((p * term(t).flatten()).sum() for t in range(1, num_steps + 1))
    entropy = -(p_0 * oracle.log_prob(x_0.view(-1, 1, 1, 1))).sum()
    return ((bound - entropy) * BITS_PER_NAT).item()


def test_gap_falls_with_the_steps_for_the_exact_variance():
    """With the exact variance of the reverse step the gap is what is not Gaussian in it: it goes to 0 as 1 / T."""
    gaps = [integrated_gap(num_steps, "learned", rescale_betas=True) for num_steps in (40, 160, 640)]
    assert all(gap > 0 for gap in gaps)
    assert gaps[0] < 0.05
    assert gaps[1] < gaps[0] / 3
    assert gaps[2] < gaps[1] / 3


def sampled_gap(data, num_steps: int, n: int) -> tuple[float, float]:
    """The same for any oracle, by sampling: (gap in bits, its standard error).

    The gap is the sum over steps of E[log q(x_s | x_t) - log p(x_s | x_t)], and the true reverse density is known:
    q(x_s | x_t) = q(x_t | x_s) q(x_s) / q(x_t). The two nearly agree, so their difference has little variance.
    """
    schedule = NoiseSchedule.named("cosine", num_steps)
    oracle = data(schedule, "learned")
    x_0 = oracle.sample(n, seed=num_steps)
    total = torch.zeros(n, dtype=torch.float64)
    for t in range(1, num_steps + 1):
        t_, s_ = torch.full((n,), t), torch.full((n,), t - 1)
        x_s = oracle.process.marginal(x_0, s_).sample(torch.randn_like(x_0)) if t > 1 else x_0
        forward = oracle.process.transition(x_s, t_, s_)
        x_t = forward.sample(torch.randn_like(x_0))
        out = oracle(x_t, t_)
        log_var = variance.log_var("learned", schedule, t_, s_, out.learned_variance)
        mean = oracle.process.posterior(out.x_0, x_t, t_, s_).mean
        q = -likelihood.gaussian_nll(x_t, forward.mean, forward.var.log().expand_as(x_t)).flatten(1).sum(1)
        q = q + oracle.log_prob(x_s, s_) - oracle.log_prob(x_t, t_)
        p = -likelihood.gaussian_nll(x_s, mean, log_var).flatten(1).sum(1)
        total += q - p
    return total.mean().item() * BITS_PER_NAT, total.std().item() / math.sqrt(n) * BITS_PER_NAT


@pytest.mark.parametrize("data", [plane, images])
def test_gap_falls_with_the_steps_on_the_plane_and_on_images(data):
    """In bits for the whole point or image: also with correlated pixels it is gone with enough steps."""
    n, dims = {plane: (3000, 2), images: (400, 64)}[data]
    gaps, errors = zip(*(sampled_gap(data, num_steps, n) for num_steps in (20, 80, 320)), strict=True)
    assert gaps[0] > 4 * errors[0]
    assert gaps[1] < gaps[0] / 2
    assert gaps[2] < gaps[1] / 2
    assert gaps[2] / dims < 0.02, (gaps, errors)


def plateau(schedule: NoiseSchedule, kind: str) -> float:
    """The cost in bits of a fixed variance where the data are smooth at the scale of the first steps' noise.

    There the reverse step's true variance is the forward one, beta_t, and each step costs (rho - 1 - log rho) / 2 nats
    with rho = beta_t / sigma_t^2.
    """
    t = torch.arange(1, schedule.num_steps + 1)
    log_rho = schedule.beta[1:].log() - variance.log_var(kind, schedule, t, t - 1)
    return (0.5 * (log_rho.expm1() - log_rho)).sum().item() * BITS_PER_NAT


@pytest.mark.parametrize(
    ("kind", "theory", "this_mixture"), [("fixed_small", 0.835, 0.799), ("fixed_large", 0.164, 0.170)]
)
def test_plateau_of_fixed_variances(kind, theory, this_mixture):
    """Fixed variances only bound: the gap stands at the first steps' misfit, and theory says how high.

    The theory is for data that are smooth at the noise of every step that counts. This mixture is narrower than that
    (0.1) from about t = 28 on, where fixed_small's steps still cost something.
    """
    schedule = NoiseSchedule.named("linear", 1000)
    assert plateau(schedule, kind) == pytest.approx(theory, abs=5e-4)
    gap = integrated_gap(1000, kind)
    assert gap == pytest.approx(this_mixture, abs=5e-4)
    assert gap == pytest.approx(theory, abs=0.04)
    # more steps do not help: the ratios of neighbouring betas are what counts
    finer = NoiseSchedule.named("linear", 2000, rescale_betas=True)
    assert integrated_gap(2000, kind, rescale_betas=True) == pytest.approx(plateau(finer, kind), abs=0.02)
    # where they tend to 1, t = 2, 3, ... cost Euler's gamma / 2 nats with fixed_small and nothing with fixed_large
    constant = NoiseSchedule.from_beta(torch.full((100_000,), 1e-7, dtype=torch.float64))
    first = 0.5 * (2 - 1 - math.log(2)) * BITS_PER_NAT
    rest = 0.5772156649 / 2 * BITS_PER_NAT if kind == "fixed_small" else 0.0
    assert plateau(constant, kind) == pytest.approx(first + rest, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("data", [plane, images])
def test_the_bound_is_above_the_truth(data, kind):
    """Sampled: the mean gap is positive by more than its error where a variance is wrong, and never below 0 by it."""
    schedule = NoiseSchedule.named("linear", 100, rescale_betas=True)
    oracle = data(schedule, kind)
    x = oracle.sample(300, seed=1)
    terms = bits_per_dim(oracle, x)
    truth = -oracle.log_prob(x).numpy() * BITS_PER_NAT / x[0].numel()
    gap = terms.total - truth
    mean, error = gap.mean(), gap.std(ddof=1) / math.sqrt(len(gap))
    assert error < 0.25
    assert mean > -4 * error
    if kind == "fixed_small":
        assert mean > 4 * error
    if kind == "learned":
        assert mean < 0.06 + 4 * error


def test_exact_variance_is_the_best_on_the_same_noise():
    schedule = NoiseSchedule.named("linear", 100, rescale_betas=True)
    for data in (plane, images):
        x = data(schedule, "learned").sample(200, seed=2)
        totals = {kind: bits_per_dim(data(schedule, kind), x).total.mean() for kind in KINDS}
        assert totals["learned"] < totals["fixed_large"] < totals["fixed_small"]


def test_bound_on_pixels_is_above_their_entropy():
    """Data at the 256 levels: the true mass of each level is known, and the bound, in bits, is never below it."""
    schedule = NoiseSchedule.named("linear", 60, rescale_betas=True)
    weights, means, stds = [0.3, 0.7], [-0.4, 0.3], [0.15, 0.08]
    oracle = GaussianMixtureOracle(
        schedule, weights, [[m] for m in means], stds=stds, image_shape=(1, 1, 1), variance="learned"
    )
    pixels = to_uint8(oracle.sample(1000, seed=4))
    terms = bits_per_dim(oracle, pixels)
    level = torch.from_numpy(pixels).double().view(-1, 1) / 127.5 - 1
    spread = 2 * torch.tensor(stds, dtype=torch.float64).log().expand(len(level), 2)
    mean = torch.tensor(means, dtype=torch.float64).expand(len(level), 2)
    log_mass = -likelihood.discretised_gaussian_nll(level.expand(-1, 2), mean, spread)
    truth = -(log_mass + torch.tensor(weights, dtype=torch.float64).log()).logsumexp(1).numpy() * BITS_PER_NAT
    gap = terms.total - truth
    error = gap.std(ddof=1) / math.sqrt(len(gap))
    assert -4 * error < gap.mean() < 0.1
    assert truth.mean() > 4  # bits: this is about pixels, not about a density
    assert (terms.decoder >= 0).all()


@pytest.mark.parametrize("draws", [1, 6])
@pytest.mark.parametrize("steps", [None, 20])
def test_monte_carlo_agrees_with_every_step(draws, steps):
    """Unbiased: over 1,000 images the two differ by less than four standard errors, in every part."""
    oracle = plane(NoiseSchedule.named("linear", 40, rescale_betas=True), "fixed_large")
    x = oracle.sample(1000, seed=5)
    exact, drawn = bits_per_dim(oracle, x, steps=steps), bits_per_dim(oracle, x, steps=steps, draws=draws)
    np.testing.assert_array_equal(exact.prior, drawn.prior)
    np.testing.assert_allclose(exact.decoder, drawn.decoder, rtol=0, atol=1e-12)
    difference = drawn.rate - exact.rate
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / math.sqrt(len(x))
    # each L_{t-1} too, not only their sum, where it was drawn often enough for a normal error
    times = exact.grid[:-2].astype(int)
    times = times[(drawn.per_step[:, times] > 0).sum(0) > 15 * draws]
    assert len(times) > 5
    each = (drawn.per_step - exact.per_step)[:, times]
    assert (np.abs(each.mean(0)) < 4.5 * each.std(0, ddof=1) / math.sqrt(len(x))).all()


def test_rate_distortion_of_a_known_model():
    """Of one Gaussian of variance v: the error of x_0 at t is v b^2 / (a^2 v + b^2), and the rate's end is the sum."""
    schedule = NoiseSchedule.named("linear", 200, rescale_betas=True)
    v = 0.09
    oracle = GaussianMixtureOracle(schedule, [1], torch.zeros(1, 1, 4, 4), stds=[v**0.5], variance="learned")
    terms = bits_per_dim(oracle, oracle.sample(150, seed=6))
    curve = terms.rate_distortion()
    assert curve.t.tolist() == list(range(200, 0, -1))
    alpha_bar = schedule.alpha_bar.numpy()[curve.t]
    expected = 127.5 * np.sqrt(v * (1 - alpha_bar) / (alpha_bar * v + 1 - alpha_bar))
    np.testing.assert_allclose(curve.rmse, expected, rtol=0.06)
    assert (np.diff(curve.rate) > -1e-9).all()
    assert curve.rate[0] == pytest.approx(terms.prior.mean())
    assert curve.rate[-1] == pytest.approx((terms.prior + terms.rate).mean())
    # sending x_t of a Gaussian takes its mutual information with x_0, a bit more for the steps' misfit; here there is
    # none, so the rate is exactly that: log(1 + v SNR) / 2
    information = 0.5 * np.log2(1 + v * schedule.snr.numpy()[curve.t])
    np.testing.assert_allclose(curve.rate[20:], information[20:], rtol=0.05, atol=0.02)
