"""DDNM and DPS: what is exact, and how near the rest comes to the exact posterior."""

import numpy as np
import pytest
import torch

import undye
from tests.edit.models import MODEL, images, model, near
from undye.data.colour import to_channels
from undye.data.pixels import to_signed
from undye.diffusion.schedule import NoiseSchedule
from undye.edit.ddnm import Consistent, ddnm, into_box, project
from undye.edit.dps import dps
from undye.edit.grid import times_from
from undye.edit.operators import AveragePool, Grey
from undye.edit.resampling import resampled
from undye.errors import UserError
from undye.samplers import DDIM
from undye.testing import GaussianOracle

OPERATORS = [AveragePool(2), AveragePool(4), Grey()]


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_the_pseudo_inverse(operator):
    """A A^+ = I, and A^+ A is symmetric: an orthogonal projection."""
    x, z = torch.randn(2, 2, 3, 8, 12, dtype=torch.float64)
    y = operator.forward(x)
    assert torch.allclose(operator.forward(operator.pinv(y)), y, atol=1e-12)
    p, q = (operator.pinv(operator.forward(v)) for v in (x, z))
    assert (p * z).sum().item() == pytest.approx((x * q).sum().item(), rel=1e-9)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_what_the_model_says_is_made_consistent(operator):
    y = operator.forward(to_signed(images(2, seed=1)))
    x_t, t = torch.randn(2, 3, 8, 12), torch.tensor([20, 20])
    out = Consistent(MODEL, operator, y)(x_t, t)
    assert torch.allclose(operator.forward(out.x_0), y, atol=1e-6)
    # x_0 and eps still explain x_t
    assert torch.allclose(MODEL.process.q_sample(out.x_0, t, out.eps), x_t, atol=1e-5)


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_into_the_box(operator):
    """Within [-1, 1] and consistent, from far outside."""
    y = operator.forward(to_signed(images(3, seed=2)).double())
    x = into_box(project(2 * torch.randn(3, 3, 8, 12, dtype=torch.float64), operator, y), operator, y)
    assert x.abs().max() <= 1 + 1e-12
    assert (operator.forward(x) - y).abs().max() < 1e-12


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("kind", ["noise", "black and white", "grey"])
def test_super_resolution_reduces_to_the_image_given_pixel_for_pixel(factor, kind):
    full = {"noise": images(3), "black and white": images(3) // 128 * np.uint8(255), "grey": images(3) // 4 + 96}[kind]
    small = undye.degrade(MODEL, full, "super-resolution", factor)
    assert small.shape == (3, 8 // factor, 12 // factor, 3)
    out = undye.restore(MODEL, small, "super-resolution", factor=factor, variations=2, steps=6)
    assert out.shape == (6, 8, 12, 3)
    pooled = out.reshape(6, 8 // factor, factor, 12 // factor, factor, 3).astype(float).mean((2, 4))
    assert np.array_equal(pooled, small.repeat(2, 0).astype(float))
    assert not near(out[0], out[1])


def test_colourised_images_have_the_grey_that_was_given():
    full = np.concatenate([images(2), images(1) // 128 * np.uint8(255), np.full((1, 8, 12, 3), 255, np.uint8)])
    grey = undye.degrade(MODEL, full, "colourise")
    assert grey.shape == (4, 8, 12, 1)
    out = undye.restore(MODEL, grey, "colourise", steps=6)
    assert np.array_equal(to_channels(out, 1), grey)
    assert (out[0].max(-1) > out[0].min(-1)).any()


def test_a_result_is_its_seed_image_and_number_alone():
    small = undye.degrade(MODEL, images(2), "super-resolution")
    for method in ("ddnm", "dps"):
        out = undye.restore(MODEL, small, "super-resolution", method=method, variations=2, steps=4, seed=3)
        alone = undye.restore(MODEL, small, "super-resolution", method=method, steps=4, seed=3, batch_size=1)
        # largest remainders may fall on another pixel of a square, so a level more
        assert np.abs(alone.astype(int) - out[[0, 2]]).max() <= 2
        assert not near(undye.restore(MODEL, small, "super-resolution", method=method, steps=4, seed=4), out[[0, 2]])


def posterior(oracle_mean: torch.Tensor, cov: torch.Tensor, y: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Of four pixels, given their mean."""
    a = torch.full((1, 4), 0.25, dtype=torch.float64)
    gain = cov @ a.T / (a @ cov @ a.T)
    return oracle_mean.flatten() + (gain * (y - a @ oracle_mean.flatten())).flatten(), cov - gain @ a @ cov


COV = torch.tensor(
    [[0.2, 0.06, 0.05, 0.03], [0.06, 0.1, 0.03, 0.05], [0.05, 0.03, 0.1, 0.06], [0.03, 0.05, 0.06, 0.15]],
    dtype=torch.float64,
)
MEAN = torch.tensor([[[0.3, -0.1], [0.1, 0.0]]], dtype=torch.float64)
ORACLE = GaussianOracle(NoiseSchedule.named("linear", 1000), MEAN, COV)


@pytest.mark.parametrize("method", ["ddnm", "dps"])
def test_near_the_exact_posterior_of_a_gaussian(method):
    """Approximations both. Measured: means off by 0.02 to 0.03, of a prior's 0.3 to 0.45 standard deviation."""
    n = 2000
    generator = torch.Generator().manual_seed(0)

    def noise(x: torch.Tensor) -> torch.Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    y, operator = torch.full((n, 1, 1, 1), 0.35, dtype=torch.float64), AveragePool(2)
    x_T = noise(torch.zeros(n, 1, 2, 2, dtype=torch.float64))
    if method == "ddnm":
        grid = times_from(1000, 1000, 100)
        x = ddnm(ORACLE, y, operator, x_T, grid, noise, resampled(100, 1, 1), DDIM(eta=0.85))
    else:
        x = dps(ORACLE, y, operator.forward, x_T, times_from(1000, 1000, 100), noise, 0.3)
    mean, cov = posterior(MEAN, COV, 0.35)
    found = x.flatten(1)
    if method == "ddnm":
        assert (found.mean(1) - 0.35).abs().max() < 1e-12
    assert (found.mean(0) - mean).abs().max() < 0.06
    assert (found.T.cov() - cov).abs().max() < 0.2 * cov.max()


def test_dps_takes_any_measurement():
    """A curve and a crop: nothing linear about it. The measurement is met better than by chance, and the more so."""
    grey = model(channels=1)
    target = to_signed(images(2, 1) // 2 + 64)

    def measure(x: torch.Tensor) -> torch.Tensor:
        return (2 * x[:, :, 2:6, 3:9]).tanh()

    y = measure(target)
    errors = []
    for scale in (1e-9, 1.0):
        out = undye.restore_from(grey, y, measure, steps=30, scale=scale)
        errors.append((measure(to_signed(out)) - y).square().mean().item())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("method", ["ddnm", "dps"])
@pytest.mark.parametrize("variations", [0, -1])
def test_there_is_at_least_one_variation(method, variations):
    small = undye.degrade(MODEL, images(1), "super-resolution")
    with pytest.raises(UserError, match="variations must be at least 1"):
        undye.restore(MODEL, small, "super-resolution", method=method, variations=variations)


def test_dps_keeps_no_gradients_and_leaves_the_model_alone():
    undye.restore_from(MODEL, torch.zeros(1, 3), lambda x: x.mean((2, 3)), steps=2)
    assert all(p.grad is None for p in MODEL.parameters())
