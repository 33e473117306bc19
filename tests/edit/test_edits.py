"""SDEdit, interpolation, progressive generation and denoising: what each promises, on oracles and on a tiny model."""

import numpy as np
import pytest
import torch

import undye
from tests.edit.models import LABELLED, MODEL, images, near
from undye.data.pixels import to_signed, to_uint8
from undye.diffusion.process import times
from undye.diffusion.schedule import NoiseSchedule
from undye.edit.denoise import add_noise, noise_time, scaled
from undye.edit.grid import times_from
from undye.edit.img2img import noise_and_denoise, start_time
from undye.edit.interpolate import between_latents, shared_noise, slerp
from undye.edit.noise import EditNoise
from undye.edit.progressive import way_down
from undye.samplers import DDIM, Ancestral, final
from undye.samplers.inversion import invert
from undye.testing import GaussianOracle

COSINE = NoiseSchedule.named("cosine", 1000)
MEAN = torch.tensor([[[0.4, -0.2]]], dtype=torch.float64)
COV = torch.tensor([[0.09, 0.05], [0.05, 0.16]], dtype=torch.float64)
ORACLE = GaussianOracle(COSINE, MEAN, COV)
TWO = torch.tensor([[[[0.9, 0.5]]], [[[-0.3, -0.6]]]], dtype=torch.float64)


def normal(n: int):
    generator = torch.Generator().manual_seed(n)
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def test_sdedit_from_the_top_is_the_prior():
    """Whatever the image: nothing of it is left at T."""
    x = noise_and_denoise(ORACLE, TWO[:1].expand(8000, -1, -1, -1), times_from(1000, 1000, 100), normal(1), DDIM())
    assert torch.allclose(x.mean(0), MEAN, atol=0.02)
    assert torch.allclose(x.flatten(1).T.cov(), COV, atol=0.012)


def test_sdedit_from_the_bottom_is_the_image():
    spread = []
    for t in (1, 10, 100):
        x = noise_and_denoise(ORACLE, TWO, times_from(t, 1000), EditNoise(0, [(0, 0), (1, 0)]), Ancestral())
        spread.append((x - TWO).abs().max().item())
    assert spread[0] < 0.01 < spread[1] < spread[2]


def test_sdedit_from_the_middle_has_the_moments_of_its_gaussian():
    """x_0 drawn from p(x_0 | x_t), x_t from q(x_t | the image): for a Gaussian both are known."""
    t = 400
    log_alpha_bar = COSINE.log_alpha_bar_at(torch.tensor(t))
    a, var = (0.5 * log_alpha_bar).exp(), -log_alpha_bar.expm1()
    gain = a * COV @ torch.linalg.inv(a**2 * COV + var * torch.eye(2))
    offset = TWO[0].flatten() - MEAN.flatten()
    mean = MEAN.flatten() + a * gain @ offset
    cov = var * gain @ gain.T + COV - a * gain @ COV
    grid = times_from(t, 1000, t)
    ancestral = Ancestral(variance="fixed_small")
    x = noise_and_denoise(ORACLE, TWO[:1].expand(3000, -1, -1, -1), grid, normal(2), ancestral).flatten(1)
    assert torch.allclose(x.mean(0), mean, atol=0.02)
    assert torch.allclose(x.T.cov(), cov, atol=0.01)


@pytest.mark.parametrize(("strength", "t"), [(1.0, 1000), (0.5, 500), (1e-9, 1), (0.0014, 1), (0.999, 999)])
def test_strength(strength, t):
    assert start_time(strength, 1000) == t


def test_img2img_is_a_function_of_seed_image_and_number():
    x = images(3)
    out = undye.img2img(MODEL, x, 0.5, variations=2, steps=4, seed=4)
    assert out.shape == (6, 8, 12, 3)
    assert near(undye.img2img(MODEL, x, 0.5, variations=2, steps=4, seed=4, batch_size=2), out)
    assert near(undye.img2img(MODEL, x[:2], 0.5, steps=4, seed=4), out[[0, 2]])
    assert not near(out[:1], out[1:2])
    assert not near(undye.img2img(MODEL, x, 0.5, variations=2, steps=4, seed=5), out)


def test_img2img_with_labels_and_guidance():
    x = images(2, 1)
    a, b = (undye.img2img(LABELLED, x, 0.6, steps=4, label=k, guidance=1.5) for k in ([0, 1], [0, 2]))
    assert near(a[:1], b[:1])
    assert not np.array_equal(a[1], b[1])


@pytest.mark.parametrize("sampler", ["ancestral", "dpm++2m", "heun"])
def test_img2img_by_every_kind_of_sampler(sampler):
    told = []
    out = undye.img2img(MODEL, images(2), 0.6, sampler=sampler, steps=4, progress=lambda *now: told.append(now))
    assert out.shape == (2, 8, 12, 3)
    assert told[-1][0] == told[-1][1]


def test_the_ends_of_an_interpolation_are_reconstructions_with_the_same_noise():
    """Of the oracle to rounding; of the model, what img2img gives with the same seed."""
    grid, down = times_from(500, 1000, 10), Ancestral()
    points = shared_noise(
        ORACLE, EditNoise(3, [(0, 0)] * 3), TWO[:1].expand(3, -1, -1, -1), TWO[1:].expand(3, -1, -1, -1),
        torch.tensor([0.0, 0.5, 1.0]), grid, down,
    )  # fmt: skip
    alone = noise_and_denoise(ORACLE, TWO, grid, EditNoise(3, [(0, 0)] * 2), down)
    assert torch.allclose(points[[0, 2]], alone, atol=1e-12)
    # everything is affine for a Gaussian, so the middle is the middle
    assert torch.allclose(points[1], alone.mean(0), atol=1e-12)

    x = images(4)
    out = undye.interpolate(MODEL, x[:2], x[2:], points=4, t=[10, 20], seed=7, steps=5)
    assert out.shape == (2, 2, 4, 8, 12, 3)
    for row, strength in enumerate((0.25, 0.5)):
        ends = [undye.img2img(MODEL, y, strength, sampler="ancestral", steps=5, seed=7) for y in (x[:2], x[2:])]
        assert near(out[:, row, 0], ends[0])
        assert near(out[:, row, -1], ends[1])
    assert near(undye.interpolate(MODEL, x[:2], x[2:], points=4, t=10, seed=7, steps=5, batch_size=3)[:, 0], out[:, 0])


def test_a_small_t_keeps_the_ends():
    x = images(2) // 4 + 96
    low, high = (undye.interpolate(MODEL, x[:1], x[1:], points=2, t=t)[0, 0] for t in (1, 30))
    error = [np.abs(ends.astype(float) - x).mean() for ends in (low, high)]
    assert error[0] < 0.3 * error[1]


def test_inverted_latents_give_the_images_back():
    grid = times_from(1000, 1000, 50)
    weight = torch.tensor([0.0, 0.5, 1.0])
    first, second = TWO[:1].expand(3, -1, -1, -1), TWO[1:].expand(3, -1, -1, -1)
    latents = (invert(ORACLE, x, grid, 3) for x in (first, second))
    out = between_latents(ORACLE, normal(0), *latents, weight, grid)
    assert torch.allclose(out[[0, 2]], TWO, atol=2e-3)
    assert (out[1] - TWO).abs().max() > 0.1

    x = to_uint8(to_signed(images(2)) / 2)
    ends = undye.interpolate(MODEL, x[:1], x[1:], points=3, method="inverted", steps=40)[0, 0, [0, 2]]
    assert np.abs(ends.astype(int) - x).max() <= 2


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_inverted_latents_of_each_pair_are_those_of_its_label(guidance, batch_size):
    """The same pair twice, with a label each: both ways of a pair go with its own."""
    x = to_uint8(to_signed(images(2, 1)) / 2)
    options = {"points": 3, "method": "inverted", "steps": 40, "guidance": guidance, "iterations": 6}
    told: list[tuple[int, int]] = []
    out = undye.interpolate(
        LABELLED, x[[0, 0]], x[[1, 1]], label=[0, 2], batch_size=batch_size,
        progress=lambda *now: told.append(now), **options,
    )[:, 0]  # fmt: skip
    for pair, label in enumerate((0, 2)):
        assert np.abs(out[pair, [0, 2]].astype(int) - x).max() <= 2
        assert near(out[pair], undye.interpolate(LABELLED, x[:1], x[1:], label=label, **options)[0, 0])
    assert np.abs(out[0, 1].astype(int) - out[1, 1]).max() > 2
    # four images up, each with 6 corrections, and six points down; guided, each call is two predictions
    assert told[-1] == (40 * (4 * 7 + 6),) * 2


def test_slerp():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4, 1, 30, 40, generator=generator)
    weight = torch.tensor([0.0, 0.3, 0.5, 1.0])
    mixed = slerp(a, b, weight)
    assert torch.equal(mixed[0], a[0])
    assert torch.equal(mixed[3], b[3])
    # as long as noise is, where a linear mixture of half and half has lost 30 %
    lengths = torch.lerp(a.flatten(1).norm(dim=1), b.flatten(1).norm(dim=1), weight)
    assert torch.allclose(mixed.flatten(1).norm(dim=1), lengths, rtol=1e-4)
    # equal angles: the middle is as far from both
    cosine = [(mixed[2] * x[2]).sum() / mixed[2].norm() / x[2].norm() for x in (a, b)]
    assert torch.allclose(cosine[0], cosine[1], atol=1e-5)
    assert torch.allclose(slerp(a, a, weight), a)


def test_between_samples():
    """The ends are the samples themselves."""
    for sampler in ("ddim", "unipc"):
        out = undye.interpolate_samples(MODEL, 2, 5, points=3, sampler=sampler, steps=6, seed=3)
        assert out.shape == (3, 8, 12, 3)
        for end, number in ((0, 2), (2, 5)):
            sample = undye.sample(MODEL, 1, sampler, 6, seed=3, first_index=number)
            assert near(out[end : end + 1], sample)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "heun", "unipc"])
def test_progressive_ends_in_the_sample(sampler):
    frames = undye.progressive(MODEL, 3, 4, sampler=sampler, steps=8, seed=2, batch_size=2)
    assert len(frames) == 4
    assert near(frames[-1], undye.sample(MODEL, 3, sampler, 8, seed=2))
    assert not near(frames[0], frames[-1])


def test_progressive_begins_with_the_mean_of_the_data():
    """What a perfect model predicts from pure noise is the mean; the last prediction is the sample."""
    steps = list(
        DDIM().steps(ORACLE, torch.full((1, 1, 1, 2), 1.3, dtype=torch.float64), times_from(1000, 1000, 20), normal(0))
    )
    assert torch.allclose(steps[0].x_0[0], MEAN, atol=1e-3)
    assert torch.equal(steps[-1].x_0, steps[-1].x)


def test_shared_latents():
    """One way down: the smaller t, the more alike; the latents are states of the one way."""
    found = undye.shared_latents(MODEL, 2, 3, [40, 25, 8], steps=10, seed=1)
    assert found.times.tolist() == [40, 25, 8]
    assert found.latents.shape == (2, 3, 8, 12, 3)
    assert found.samples.shape == (2, 3, 3, 8, 12, 3)
    spread = found.samples.astype(float).std(axis=2).mean(axis=(0, 2, 3, 4))
    assert spread[0] > spread[1] > spread[2] > 0
    again = undye.shared_latents(MODEL, 1, 3, [40, 25, 8], steps=10, seed=1, batch_size=1)
    assert near(again.samples[0], found.samples[0])


def test_way_down():
    grid = times_from(1000, 1000, 10)
    x_T = torch.ones(2, 1, 1, 2, dtype=torch.float64)
    states = way_down(ORACLE, x_T, grid, EditNoise(0, [(0, 0), (1, 0)]), [0, 4, 9])
    assert torch.equal(states[:, 0], x_T)
    walked = [s.x for s in Ancestral().steps(ORACLE, x_T, grid, EditNoise(0, [(0, 0), (1, 0)]))]
    assert torch.equal(states[:, 1], walked[3])
    assert torch.equal(states[:, 2], walked[8])


@pytest.mark.parametrize("sigma", [0.05, 0.4, 2.0])
def test_denoising_is_the_exact_posterior_mean(sigma):
    """E[x_0 | y] of a Gaussian under Gaussian noise, from textbooks."""
    y = TWO + sigma * normal(5)(TWO)
    t = noise_time(COSINE, sigma)
    found = ORACLE(scaled(COSINE, y, t), times(t, y)).x_0
    gain = COV @ torch.linalg.inv(COV + sigma**2 * torch.eye(2))
    exact = MEAN.flatten() + (y.flatten(1) - MEAN.flatten()) @ gain.T
    assert torch.allclose(found.flatten(1), exact, atol=1e-9)


def test_draws_of_denoising_are_of_the_posterior():
    sigma = 0.4
    t = noise_time(COSINE, sigma)
    y = TWO[:1].expand(4000, -1, -1, -1)
    grid = times_from(t, 1000, 40)
    x = final(DDIM(eta=1.0).steps(ORACLE, scaled(COSINE, y, t), grid, normal(3))).flatten(1)
    gain = COV @ torch.linalg.inv(COV + sigma**2 * torch.eye(2))
    assert torch.allclose(x.mean(0), MEAN.flatten() + gain @ (TWO[0] - MEAN).flatten(), atol=0.02)
    assert torch.allclose(x.T.cov(), COV - gain @ COV, atol=0.012)


def test_denoise_takes_one_call_and_draws_differ():
    told, x = [], add_noise(images(2), 20.0)
    mean = undye.denoise(MODEL, x, 20.0, progress=lambda *now: told.append(now))
    assert told == [(2, 2)]
    assert near(undye.denoise(MODEL, x, 20.0, batch_size=1), mean)
    draws = undye.denoise(MODEL, x, 20.0, draw=True, variations=2, steps=3)
    assert draws.shape == (4, 8, 12, 3)
    assert not near(draws[0], draws[1])


def test_added_noise_is_of_the_level_said():
    grey = np.full((4, 60, 60, 1), 128, np.uint8)
    noisy = add_noise(grey, 20.0, seed=3)
    assert (noisy.astype(float) - 128).std() == pytest.approx(20, rel=0.02)
    assert np.array_equal(add_noise(grey[:1], 20.0, seed=3)[0], noisy[0])
    assert not np.array_equal(noisy[0], noisy[1])
