"""The bound as a user meets it: shapes, seeds, batches, labels, errors. Its truth: tests/laws/test_bound.py."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import undye
from undye import keyed
from undye.config import CompactConfig, ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser
from undye.diffusion import likelihood, variance
from undye.metrics.nll import Estimate, bits_per_dim

T = 20
CONFIG = ModelConfig(
    network=CompactConfig(channels=(8, 16), blocks=(1, 1), head_channels=8),
    image_size=(8, 6),
    channels=1,
    prediction="v",
    variance="fixed_small",
    schedule=ScheduleConfig(name="cosine", num_steps=T),
    time_input="per_mille",
)


def model(**options) -> Denoiser:
    torch.manual_seed(1)
    denoiser = Denoiser.from_config(replace(CONFIG, **options))
    for p in denoiser.parameters():  # a fresh network says 0: shake it
        p.data += 0.05 * torch.randn_like(p)
    return denoiser


def pixels(n=5, seed=0, channels=1):
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 6, channels), dtype=np.uint8)


def test_shapes_and_parts():
    terms = undye.bits_per_dim(model(), pixels())
    assert isinstance(terms, undye.BitsPerDim)
    assert terms.prior.shape == terms.decoder.shape == terms.rate.shape == terms.total.shape == (5,)
    assert terms.per_step.shape == terms.x_0_mse.shape == terms.eps_mse.shape == (5, T + 1)
    assert terms.total.dtype == np.float64
    np.testing.assert_allclose(terms.total, terms.prior + terms.per_step.sum(1) + terms.decoder)
    # L_{t-1} at index t: none at 0, and L_0 is the decoder's
    assert (terms.per_step[:, :2] == 0).all()
    assert (terms.per_step[:, 2:] > 0).all()
    assert np.isnan(terms.x_0_mse[:, 0]).all()
    assert np.isfinite(terms.x_0_mse[:, 1:]).all()
    assert terms.grid.tolist() == list(range(T, -1, -1))
    summary = terms.summary()
    assert list(summary) == ["total", "prior", "rate", "decoder"]
    assert summary["total"].mean == pytest.approx(terms.total.mean())
    assert summary["total"].standard_error == pytest.approx(terms.total.std(ddof=1) / math.sqrt(5))


@pytest.mark.parametrize("kind", variance.VARIANCES)
@pytest.mark.parametrize("clip", [True, False])
def test_every_term_by_hand(kind, clip):
    """Each (image, t) on its own, through the posterior and the KL of two Gaussians."""
    denoiser = model(variance=kind, clip_x_0=clip)
    images = pixels(2)
    terms = bits_per_dim(denoiser, images)
    p, s = denoiser.process, denoiser.schedule
    x_0 = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 127.5 - 1
    for t in (1, 2, 11, T):
        eps = torch.stack([keyed.normal((1, 8, 6), 0, keyed.Stream.LIKELIHOOD_NOISE, i, t) for i in range(2)])
        t_, s_ = torch.full((2,), t), torch.full((2,), t - 1)
        x_t = p.q_sample(x_0.float(), t_, eps)
        with torch.no_grad():
            out = denoiser.eval()(x_t, t_)
        x_0_hat = (out.x_0.clamp(-1, 1) if clip else out.x_0).double()
        log_var = variance.log_var(kind, s, t_, s_, out.learned_variance).double()
        log_var = log_var if log_var.ndim == 4 else log_var.view(-1, 1, 1, 1)
        if t == 1:
            nats = likelihood.discretised_gaussian_nll(x_0, x_0_hat, log_var)
            got = terms.decoder
        else:
            true, ours = p.posterior(x_0, x_t.double(), t_, s_), p.posterior(x_0_hat, x_t.double(), t_, s_)
            nats = likelihood.gaussian_kl(true.mean, true.var.log(), ours.mean, log_var)
            got = terms.per_step[:, t]
        np.testing.assert_allclose(got, nats.mean((1, 2, 3)) / math.log(2), rtol=1e-4)
        np.testing.assert_allclose(terms.x_0_mse[:, t], (x_0 - x_0_hat).square().mean((1, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(terms.eps_mse[:, t], (eps - out.eps).square().mean((1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("draws", [None, 3])
def test_an_image_is_measured_alike_in_any_batch(draws):
    denoiser, images = model(), pixels(4)
    whole = bits_per_dim(denoiser, images, draws=draws)
    for options in ({"batch_size": 1}, {"batch_size": 7}, {"batch_size": 1000}):
        again = bits_per_dim(denoiser, images, draws=draws, **options)
        np.testing.assert_allclose(again.per_step, whole.per_step, rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(again.total, whole.total, rtol=1e-5)
    alone = bits_per_dim(denoiser, images[2:3], draws=draws, first_index=2)
    np.testing.assert_allclose(alone.total, whole.total[2:3], rtol=1e-5)
    np.testing.assert_array_equal(alone.per_step > 0, whole.per_step[2:3] > 0, "the same times are drawn")
    other = bits_per_dim(denoiser, images, draws=draws, seed=1)
    assert np.abs(other.total - whole.total).min() > 1e-6
    np.testing.assert_array_equal(other.prior, whole.prior)


@pytest.mark.parametrize("draws", [None, 3])
def test_planning_a_few_calls_at_a_time_changes_nothing(draws, monkeypatch):
    denoiser, images, ticks = model(), pixels(5), []
    whole = bits_per_dim(denoiser, images, draws=draws)
    monkeypatch.setattr("undye.metrics.nll.GROUP", 2 * T)
    parts = bits_per_dim(denoiser, images, draws=draws, progress=lambda done, total: ticks.append((done, total)))
    np.testing.assert_allclose(parts.per_step, whole.per_step, rtol=1e-4, atol=1e-9)
    np.testing.assert_array_equal(parts.grid, whole.grid)
    assert ticks[-1] == (5 * (T if draws is None else 4),) * 2


def test_a_time_that_is_drawn_twice_is_given_other_noise():
    """With two steps to draw from and many draws: the mean over them is the exact term's, closer than one draw's."""
    seen = []

    class Keeps(nn.Module):
        def forward(self, x, t, label=None):
            seen.extend(zip(t.tolist(), x.flatten(1).sum(1).tolist(), strict=True))
            return x

    bits_per_dim(Denoiser(Keeps(), CONFIG), pixels(1), grid=[20, 10, 0], draws=6)
    assert len([t for t, _ in seen if t == 1000]) == 6
    assert len({x for _, x in seen}) == 7


def test_half_precision_models_measure_the_same_pixels():
    """Pixels at 8 bits do not survive bfloat16: only what the network is shown is rounded."""

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Parameter(torch.ones((), dtype=torch.bfloat16))

        def forward(self, x, t, label=None):
            assert x.dtype == torch.bfloat16
            return 0.5 * x * self.one

    class Whole(Half):
        def forward(self, x, t, label=None):
            return 0.5 * x.bfloat16().to(x.dtype) * self.one.to(x.dtype)

    half, whole = Denoiser(Half(), CONFIG), Denoiser(Whole().float(), CONFIG)
    a, b = (bits_per_dim(d, pixels(3)) for d in (half, whole))
    np.testing.assert_allclose(a.x_0_mse[:, 1:], b.x_0_mse[:, 1:], rtol=0.02)
    np.testing.assert_allclose(a.prior, b.prior)


@pytest.mark.parametrize("measure", [bits_per_dim, undye.ode_bits_per_dim])
def test_a_model_that_has_diverged(measure):
    denoiser = model()
    next(denoiser.parameters()).data.fill_(float("nan"))
    with pytest.raises(undye.UserError, match="finite"):
        measure(denoiser, pixels(2))


def test_chains_along_grids():
    """Fewer, longer steps: the terms stand at their times, and a grid by name is that grid by numbers."""
    denoiser, images = model(), pixels(2)
    terms = bits_per_dim(denoiser, images, steps=5)
    assert terms.grid.tolist() == [20, 16, 12, 8, 4, 0]
    assert sorted(np.nonzero(terms.per_step[0])[0]) == [8, 12, 16, 20]
    assert np.isfinite(terms.x_0_mse[0, [4, 8, 12, 16, 20]]).all()
    same = bits_per_dim(denoiser, images, grid=torch.tensor([20, 16, 12, 8, 4, 0]))
    np.testing.assert_array_equal(same.total, terms.total)
    one = bits_per_dim(denoiser, images, steps=1)
    assert (one.rate == 0).all()
    np.testing.assert_allclose(bits_per_dim(denoiser, images, steps=1, draws=4).total, one.total)
    # a chain that starts lower costs more at its start: x_t is not noise yet
    low = bits_per_dim(denoiser, images, grid=torch.tensor([8, 4, 0]))
    assert (low.prior > terms.prior + 0.01).all()
    assert low.rate_distortion().t.tolist() == [8, 4]


def test_the_last_step_of_a_grid_has_the_variance_of_the_step_before():
    """design.md's edge rule: on 20, 9, 4, 0 the decoder's variance is that of 9 -> 4, not that of 8 -> 4."""
    denoiser, images = model(), pixels(1)
    terms = bits_per_dim(denoiser, images, grid=[20, 9, 4, 0])
    x_0 = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 127.5 - 1
    eps = keyed.normal((1, 8, 6), 0, keyed.Stream.LIKELIHOOD_NOISE, 0, 4)[None]
    with torch.no_grad():
        t = torch.tensor([4])
        x_0_hat = denoiser.eval()(denoiser.process.q_sample(x_0.float(), t, eps), t).x_0.clamp(-1, 1).double()
    zero = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    log_var = denoiser.process.posterior(zero, zero, torch.tensor([9]), torch.tensor([4])).var.log()
    nats = likelihood.discretised_gaussian_nll(x_0, x_0_hat, log_var).mean()
    assert terms.decoder[0] == pytest.approx(nats.item() / math.log(2), rel=1e-5)


def test_labels_reach_the_network():
    denoiser, images = model(num_classes=3), pixels(3)
    by_class = [bits_per_dim(denoiser, images, label=k).total for k in range(3)]
    assert np.abs(by_class[0] - by_class[1]).min() > 1e-7
    mixed = bits_per_dim(denoiser, images, label=[2, 0, 1], batch_size=7).total
    np.testing.assert_allclose(mixed, [by_class[2][0], by_class[0][1], by_class[1][2]], rtol=1e-5)
    none = bits_per_dim(denoiser, images).total
    assert np.abs(none - by_class[0]).min() > 1e-7


def test_one_network_call_serves_all_terms():
    calls = []

    class Counts(nn.Module):
        def forward(self, x, t, label=None):
            calls.append(len(x))
            return x

    denoiser = Denoiser(Counts(), replace(CONFIG, prediction="v"))
    ticks = []
    bits_per_dim(denoiser, pixels(3), batch_size=16, progress=lambda done, total: ticks.append((done, total)))
    assert sum(calls) == 3 * T
    assert max(calls) == 16
    assert ticks == [(16, 60), (32, 60), (48, 60), (60, 60)]
    calls.clear()
    bits_per_dim(denoiser, pixels(3), draws=4)
    assert sum(calls) == 3 * 5


def test_train_mode_is_given_back():
    denoiser = model(network=CompactConfig(channels=(8,), blocks=(1,), head_channels=8, dropout=0.5)).train()
    first, second = (bits_per_dim(denoiser, pixels(2)).total for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert denoiser.training


def test_real_numbers_have_a_density():
    denoiser = model()
    x = torch.randn(3, 1, 8, 6)
    terms = bits_per_dim(denoiser, x)
    assert np.isfinite(terms.total).all()
    # scaling the unit of the data moves a density's bits; pixels have no such freedom
    discrete = bits_per_dim(denoiser, pixels(3))
    assert (discrete.decoder > 0).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda d: bits_per_dim(d, pixels(2, channels=3)), "8x6 with 3 channels, the model is for 8x6 with 1 channel"),
        (lambda d: bits_per_dim(d, pixels(2)[:, :6]), "--image-size 8x6"),
        (lambda d: bits_per_dim(d, pixels(2).astype(np.float32)), "uint8"),
        (lambda d: bits_per_dim(d, pixels(2)[0]), "uint8"),
        (lambda d: bits_per_dim(d, torch.zeros(2, 1, 8, 6, dtype=torch.int64)), "real numbers"),
        (lambda d: bits_per_dim(d, pixels(0)), "no images"),
        (lambda d: bits_per_dim(d, 255 * torch.rand(2, 1, 8, 6)), "units"),
        (lambda d: bits_per_dim(d, pixels(2), variance="learned"), "has not learned"),
        (lambda d: bits_per_dim(d, pixels(2), variance="wide"), "unknown variance"),
        (lambda d: bits_per_dim(model(variance="learned_range"), pixels(2), variance="learned"), "has not learned"),
        (lambda d: bits_per_dim(model(num_classes=3), pixels(2), label=np.array([0.9, 1.0])), "whole numbers"),
        (lambda d: bits_per_dim(d, pixels(2), draws=0), "at least 1"),
        (lambda d: bits_per_dim(d, pixels(2), steps=21), r"1\.\.20"),
        (lambda d: bits_per_dim(d, pixels(2), grid="cubic"), "uniform"),
        (lambda d: bits_per_dim(d, pixels(2), grid=torch.tensor([20, 0]), steps=2), "leave steps out"),
        (lambda d: bits_per_dim(d, pixels(2), grid=torch.tensor([0, 20])), "fall"),
        (lambda d: bits_per_dim(d, pixels(2), grid=torch.tensor([20.0, 3.5, 0.0])), "integers"),
        (lambda d: bits_per_dim(d, pixels(2), label=0), "without labels"),
        (lambda d: bits_per_dim(d, pixels(2), batch_size=0), "at least 1"),
        (lambda d: bits_per_dim(model(num_classes=3), pixels(2), label=[0, 3]), r"0\.\.2"),
        (lambda d: bits_per_dim(model(num_classes=3), pixels(2), label=[0]), "2 images"),
        (lambda d: undye.ode_bits_per_dim(d, pixels(2), sigma_min=0), "sigma_min"),
        (lambda d: undye.ode_bits_per_dim(d, pixels(2), repeats=0), "repeats"),
        (lambda d: undye.ode_bits_per_dim(d, pixels(2), trace="guess"), "hutchinson"),
    ],
)
def test_requests_that_make_no_sense(call, says):
    with pytest.raises(undye.UserError, match=says):
        call(model())


def test_a_curve_needs_every_step():
    with pytest.raises(ValueError, match="every step"):
        bits_per_dim(model(), pixels(2), draws=2).rate_distortion()


def test_one_image_has_no_standard_error():
    assert math.isnan(Estimate.of(np.array([3.0])).standard_error)
    assert Estimate.of(np.array([1.0, 3.0])) == Estimate(2.0, 1.0)
