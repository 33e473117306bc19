"""The probability-flow ODE's likelihood of a perfect model is the data's own density."""

import math

import numpy as np
import pytest
import torch

from undye.data.pixels import to_uint8
from undye.diffusion import likelihood
from undye.diffusion.likelihood import BITS_PER_NAT
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule
from undye.metrics.ode_nll import ode_bits_per_dim
from undye.testing import GaussianMixtureOracle, GaussianOracle

from .test_bound import images, plane


def truth(oracle, x) -> np.ndarray:
    return -oracle.log_prob(x).numpy() * BITS_PER_NAT / x[0].numel()


@pytest.mark.parametrize("name", SCHEDULES)
def test_exact_trace_gives_the_true_density(name):
    """To the solver's tolerance, where nothing is left of the data at T and the path starts next to them."""
    schedule = NoiseSchedule.named(
        name, 1000, **({} if name in ("cosine", "sigmoid_alpha_bar") else {"beta_end": 0.04})
    )
    oracle = plane(schedule, "fixed_large")
    x = oracle.sample(32, seed=1)
    got = ode_bits_per_dim(oracle, x, trace="exact", sigma_min=3e-4, tolerance=1e-7)
    np.testing.assert_allclose(got.total, truth(oracle, x), rtol=0, atol=3e-4)
    assert np.isnan(got.standard_error).all()
    assert 50 < got.calls < 4000


@pytest.mark.parametrize("name", SCHEDULES)
def test_default_settings_are_right_to_a_hundredth_of_a_bit(name):
    """For every schedule, as published: the start by sigma means the same for all of them."""
    oracle = plane(NoiseSchedule.named(name, 1000), "fixed_large")
    x = oracle.sample(32, seed=1)
    # sqrt goes on to sigma = 1e22, and every step of so long a path may err
    got = ode_bits_per_dim(oracle, x, trace="exact", **({"tolerance": 1e-4} if name == "sqrt" else {}))
    left = {"scaled_linear": 0.03}.get(name, 0.01)  # it leaves 7e-4 of the signal's power at T
    np.testing.assert_allclose(got.total, truth(oracle, x), rtol=0, atol=left)


def test_error_falls_with_the_tolerance():
    oracle = plane(NoiseSchedule.named("cosine", 1000), "fixed_large")
    x = oracle.sample(16, seed=2)
    runs = [ode_bits_per_dim(oracle, x, trace="exact", sigma_min=1e-3, tolerance=tol) for tol in (1e-2, 1e-4, 1e-6)]
    errors = [np.abs(run.total - truth(oracle, x)).mean() for run in runs]
    assert errors[2] < errors[1] < errors[0]
    assert runs[0].calls < runs[1].calls < runs[2].calls


@pytest.mark.parametrize("data", [plane, images])
def test_hutchinson_agrees_within_its_error_bar(data):
    """The paper's schedule, default settings: each image within 4.5 of its own standard errors, most within two."""
    oracle = data(NoiseSchedule.named("linear", 1000), "fixed_large")
    x = oracle.sample(12, seed=3)
    got = ode_bits_per_dim(oracle, x, repeats=24)
    off = (got.total - truth(oracle, x)) / got.standard_error
    assert np.abs(off).max() < 4.5
    assert (np.abs(off) < 2).mean() > 0.6
    assert got.standard_error.mean() < 0.2


def test_starting_later_measures_the_data_with_that_noise_on_them():
    """At sigma_min the density is that of x_0 + sigma eps, known for a Gaussian: variance v + sigma^2."""
    schedule = NoiseSchedule.named("linear", 1000)
    oracle = GaussianOracle(schedule, torch.zeros(1, 1, 3), 0.04 * torch.eye(3))
    x, sigma = oracle.sample(8, seed=4), schedule.snr[60].item() ** -0.5
    var = 0.04 + sigma**2
    expected = 0.5 * (x.square().mean((1, 2, 3)) / var + math.log(2 * math.pi * var)).numpy() * BITS_PER_NAT
    got = ode_bits_per_dim(oracle, x, trace="exact", sigma_min=sigma, tolerance=1e-7)
    np.testing.assert_allclose(got.total, expected, rtol=0, atol=1e-3)


def test_dequantised_bound_is_above_the_truth():
    """Uniform dequantisation (Theis et al. 2016): E[-log2 p(x + u)] minus the bins' size bounds -log2 P(x)."""
    oracle = GaussianMixtureOracle(NoiseSchedule.named("cosine", 500), [1], [[0.1]], stds=[0.01], image_shape=(1, 1, 1))
    pixels = to_uint8(oracle.sample(500, seed=5))
    got = ode_bits_per_dim(oracle, pixels, trace="exact", sigma_min=3e-4, tolerance=1e-4, repeats=4)
    level = torch.from_numpy(pixels).double().flatten() / 127.5 - 1
    spread = torch.full_like(level, 2 * math.log(0.01))
    mass = likelihood.discretised_gaussian_nll(level, torch.full_like(level, 0.1), spread)
    true = mass.numpy() * BITS_PER_NAT
    gap = got.total - true
    error = gap.std(ddof=1) / math.sqrt(len(gap))
    # a bin is 0.78 standard deviations wide, so the price of dequantising is visible: by Jensen, variance / 2
    assert gap.mean() > 4 * error
    assert gap.mean() < 0.1
    # what is taken is the width of a bin in the model's units, 2 / 255
    assert true.mean() == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * 0.01**2) + math.log2(255 / 2), abs=0.15)


def test_images_keep_their_numbers_in_any_batch():
    oracle = images(NoiseSchedule.named("cosine", 100), "fixed_large")
    x = oracle.sample(5, seed=6)
    whole = ode_bits_per_dim(oracle, x, tolerance=1e-6)
    parts = [ode_bits_per_dim(oracle, x[i : i + 1], tolerance=1e-6, first_index=i).total[0] for i in range(5)]
    np.testing.assert_allclose(whole.total, parts, rtol=0, atol=1e-4)
    split = ode_bits_per_dim(oracle, x, tolerance=1e-6, batch_size=2)
    np.testing.assert_allclose(whole.total, split.total, rtol=0, atol=1e-4)
    other = ode_bits_per_dim(oracle, x, tolerance=1e-6, seed=1)
    assert np.abs(other.total - whole.total).min() > 1e-4
