"""Known values, and what a schedule refuses."""

import math
import re
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from hypothesis import example, given
from hypothesis import strategies as st

from undye.diffusion.schedule import SCHEDULES, NoiseSchedule, log_snr

schedule = cache(NoiseSchedule.named)


def test_scaled_linear_of_ten_steps():
    alpha = NoiseSchedule.named("scaled_linear", 10).alpha[1:]
    expected = [0.9999, 0.9994, 0.9985, 0.9971, 0.9953, 0.9931, 0.9905, 0.9874, 0.9839, 0.9800]
    assert [round(a, 4) for a in alpha.tolist()] == expected


def test_the_papers_linear_schedule():
    s = NoiseSchedule.named("linear")
    assert s.num_steps == 1000
    assert s.alpha_bar[-1].item() == pytest.approx(4.0358e-5, rel=1e-5)
    assert s.beta[1].item() == pytest.approx(1e-4, rel=1e-12)
    assert s.beta[1000].item() == pytest.approx(0.02, rel=1e-12)


def test_linear_of_200_steps_leaves_signal():
    assert NoiseSchedule.named("linear", 200).alpha_bar[-1].item() == pytest.approx(0.132, abs=5e-4)


def test_sqrt_leaves_almost_nothing():
    s = NoiseSchedule.named("sqrt")
    assert s.alpha_bar[-1].item() == pytest.approx(3e-44, rel=0.2)
    assert s.beta[-1].item() == pytest.approx(0.1414, abs=5e-5)


def test_sigmoid_runs_between_its_ends():
    s = NoiseSchedule.named("sigmoid", 101)
    assert s.beta[51].item() == pytest.approx((1e-4 + 0.02) / 2)
    assert s.beta[1].item() == pytest.approx(1e-4 + (0.02 - 1e-4) / (1 + torch.e**6))


def test_cosine_is_eq_17_until_its_last_betas():
    s = NoiseSchedule.named("cosine", 100)
    f = lambda t: torch.cos(torch.tensor((t / 100 + 0.008) / 1.008 * torch.pi / 2, dtype=torch.float64)) ** 2  # noqa: E731
    for t in (1, 20, 50, 99):
        assert s.alpha_bar[t].item() == pytest.approx((f(t) / f(0)).item(), rel=1e-9)
    assert s.beta[100].item() == pytest.approx(0.999, rel=1e-12)


def test_options():
    s = NoiseSchedule.named("linear", 10, beta_start=0.1, beta_end=0.3)
    assert s.beta[[1, 10]].tolist() == pytest.approx([0.1, 0.3])
    assert NoiseSchedule.named("cosine", 10, max_beta=0.5).beta.max().item() == pytest.approx(0.5)


@pytest.mark.parametrize("beta", [[0.1, 1.0], [0.1, 1.5], [0.0, 0.1], [-0.1], [0.1, float("nan")], []])
def test_every_beta_lies_in_0_1(beta):
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        NoiseSchedule.from_beta(torch.tensor(beta))


@pytest.mark.parametrize(
    "entries", [[0.0], [-0.1, -0.2], [0.0, -0.1, -0.1], [0.0, 0.1], [0.0, -torch.inf], [0.0, float("nan")]]
)
def test_log_alpha_bar_falls_from_0(entries):
    with pytest.raises(ValueError, match="alpha_bar"):
        NoiseSchedule(torch.tensor(entries, dtype=torch.float64))


def test_log_alpha_bar_is_float64():
    with pytest.raises(ValueError, match="float64"):
        NoiseSchedule(torch.tensor([0.0, -1.0]))


@pytest.mark.parametrize(
    ("name", "num_steps", "options", "match"),
    [
        ("lienar", 10, {}, "unknown schedule 'lienar': choose from linear"),
        ("linear", 0, {}, "num_steps"),
        ("linear", 10, {"beta_end": 1.2}, "beta"),
        ("cosine", 10, {"beta_end": 0.02}, "cosine.*beta_end"),
    ],
)
def test_errors_of_named(name, num_steps, options, match):
    with pytest.raises(ValueError, match=match):
        NoiseSchedule.named(name, num_steps, **options)


@pytest.mark.parametrize("t", [-1, 11, -0.001, 10.001, float("nan"), float("inf")])
def test_times_outside_the_schedule(t):
    with pytest.raises(ValueError, match=r"0\.\.10"):
        NoiseSchedule.named("linear", 10).log_alpha_bar_at(torch.tensor([5, t]))


def test_log_snr_at_both_ends():
    # 1 - alpha_bar is 1e-30 here, which 1 - exp(-1e-30) would lose; and at -1000 alpha_bar itself is 0
    ends = log_snr(torch.tensor([-1e-30, -1000.0], dtype=torch.float64))
    assert ends.tolist() == pytest.approx([69.07755278982137, -1000.0])


def test_tiny_betas_come_back():
    # 1 - 1e-18 is 1 in float64
    beta = torch.tensor([1e-18, 1e-12, 1e-6, 0.5], dtype=torch.float64)
    torch.testing.assert_close(
        NoiseSchedule.from_beta(beta).beta[1:3], torch.tensor([1e-18, 1e-12]).double(), rtol=1e-4, atol=0
    )


RESCALED = [name for name in SCHEDULES if name not in ("cosine", "sigmoid_alpha_bar")]


@pytest.mark.parametrize("num_steps", [50, 200, 1000, 4000])
def test_rescaled_linear_betas_are_openais(num_steps):
    """`get_named_beta_schedule` of improved-diffusion and guided-diffusion."""
    scale = 1000 / num_steps
    expected = np.linspace(scale * 0.0001, scale * 0.02, num_steps, dtype=np.float64)
    s = NoiseSchedule.named("linear", num_steps, rescale_betas=True)
    np.testing.assert_allclose(s.beta[1:].numpy(), expected, rtol=1e-11)


@pytest.mark.parametrize(
    ("name", "num_steps"),
    # with 50 steps the last beta of sqrt would be 2.8
    [(name, n) for name in RESCALED for n in (50, 142, 200, 500, 2000, 4000) if (name, n) != ("sqrt", 50)],
)
def test_rescaled_betas_add_the_same_noise_for_any_number_of_steps(name, num_steps):
    """The sum of the betas is that of 1000 steps, and their product is nearly; plainly it goes as the steps."""
    whole = NoiseSchedule.named(name, 1000)
    s = NoiseSchedule.named(name, num_steps, rescale_betas=True)
    # up to how the ends of a curve are counted
    assert s.beta.sum().item() == pytest.approx(whole.beta.sum().item(), rel=0.01)
    # -log(1 - beta) is above beta: few and large betas take away more
    ratio = (s.log_alpha_bar[-1] / whole.log_alpha_bar[-1]).item()
    largest = s.beta.max().item()
    assert -math.log1p(-largest) / largest >= ratio >= (1.0 if num_steps < 1000 else 0.95)
    if name != "sqrt" and num_steps >= 200:
        assert ratio == pytest.approx(1, abs=0.04)
    plain = NoiseSchedule.named(name, num_steps)
    assert plain.beta.sum().item() == pytest.approx(whole.beta.sum().item() * num_steps / 1000, rel=0.01)


@pytest.mark.parametrize("name", RESCALED)
@pytest.mark.parametrize("beta_end", [0.02, 0.012, 0.3, 0.7, 0.995])
def test_too_few_rescaled_steps_are_an_error_that_says_how_many_do(name, beta_end):
    with pytest.raises(ValueError, match="rescale_betas") as error:
        NoiseSchedule.named(name, 2, beta_end=beta_end, rescale_betas=True)
    (least,) = re.findall(r"at least (\d+) steps", str(error.value))
    s = NoiseSchedule.named(name, int(least), beta_end=beta_end, rescale_betas=True)
    assert 0.8 < s.beta.max() < 1
    with pytest.raises(ValueError, match=f"rescale_betas.*{least}"):
        NoiseSchedule.named(name, int(least) - 1, beta_end=beta_end, rescale_betas=True)


@given(beta_end=st.integers(10, 9999).map(lambda k: k / 10_000))
@example(beta_end=0.995)
@example(beta_end=0.028999999999999998)
def test_the_number_of_steps_that_do_is_the_least(beta_end):
    """Also where beta_end is a rounding away from 0.029, of which 29 steps make a beta of 1."""
    with pytest.raises(ValueError, match="at least") as error:
        NoiseSchedule.named("linear", 1, beta_end=beta_end, rescale_betas=True)
    (least,) = re.findall(r"at least (\d+) steps", str(error.value))
    NoiseSchedule.named("linear", int(least), beta_end=beta_end, rescale_betas=True)
    if int(least) > 1:
        with pytest.raises(ValueError, match="at least"):
            NoiseSchedule.named("linear", int(least) - 1, beta_end=beta_end, rescale_betas=True)


def algorithm_1(betas):
    """Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", Algorithm 1, in float64."""
    alphas_bar_sqrt = np.sqrt(np.cumprod(1 - betas))
    first, last = alphas_bar_sqrt[0], alphas_bar_sqrt[-1]
    alphas_bar_sqrt = alphas_bar_sqrt - last
    return (alphas_bar_sqrt * first / (first - last)) ** 2


@pytest.mark.parametrize(
    ("name", "num_steps", "options"),
    [
        ("linear", 1000, {}),
        ("linear", 200, {}),
        ("linear", 10, {}),
        ("scaled_linear", 1000, {"beta_start": 0.00085, "beta_end": 0.012}),
        ("cosine", 1000, {}),
        ("sigmoid", 1000, {}),
        ("sqrt", 100, {}),
    ],
)
def test_zero_terminal_snr_is_algorithm_1(name, num_steps, options):
    plain = NoiseSchedule.named(name, num_steps, **options)
    s = NoiseSchedule.named(name, num_steps, zero_terminal_snr=True, **options)
    expected = torch.from_numpy(algorithm_1(plain.beta[1:].numpy()))
    assert (expected[:-1] - plain.alpha_bar[1:-1]).abs().max() > 1e-10
    # the end is 1e-10 in place of 0, for sqrt(alpha_bar)
    torch.testing.assert_close(s.alpha_bar[1:].sqrt(), expected.sqrt(), rtol=0, atol=1.1e-10)
    torch.testing.assert_close(s.alpha_bar[1:-1], expected[:-1], rtol=1e-6, atol=1e-12)
    assert s.alpha_bar[-1].item() == pytest.approx(1e-20, rel=1e-9, abs=0)


@pytest.mark.parametrize(("ours", "theirs"), [("linear", "linear"), ("scaled_linear", "scaled_linear")])
@pytest.mark.parametrize("num_steps", [200, 1000])
def test_zero_terminal_snr_is_diffusers(ours, theirs, num_steps):
    """Their option; and their function of it, fed with betas that are not rounded to float32 first."""
    ends = {"beta_start": 0.00085, "beta_end": 0.012}
    options = {"num_train_timesteps": num_steps, "beta_schedule": theirs, **ends}
    plain = NoiseSchedule.named(ours, num_steps, **ends)
    s = plain.with_zero_terminal_snr()
    theirs = DDIMScheduler(rescale_betas_zero_snr=True, **options).alphas_cumprod
    torch.testing.assert_close(s.alpha_bar[1:-1], theirs[:-1].double(), rtol=0, atol=1e-6)
    assert theirs[-1] == 0
    exact = rescale_zero_terminal_snr(plain.beta[1:])
    torch.testing.assert_close(s.alpha_bar[1:-1], (1 - exact).cumprod(0)[:-1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [2, 10, 1000, 10_000])
def test_zero_terminal_snr_moves_the_end_and_keeps_the_start(name, num_steps):
    plain = NoiseSchedule.named(name, num_steps)
    s = plain.with_zero_terminal_snr()
    assert s.num_steps == num_steps
    assert s.log_alpha_bar[1] == plain.log_alpha_bar[1]
    assert s.alpha_bar[-1] <= 1e-20 * (1 + 1e-9)
    assert (s.log_alpha_bar.diff() < 0).all()
    # the last beta is 1 - 1e-20, which float64 cannot hold: alpha can
    assert ((s.beta[1:] > 0) & (s.beta[1:] <= 1)).all()
    assert ((s.alpha[1:] > 0) & (s.alpha[1:] < 1)).all()
    assert (s.log_alpha_bar <= plain.log_alpha_bar).all() or torch.equal(s.log_alpha_bar, plain.log_alpha_bar)
    again = s.with_zero_terminal_snr()
    torch.testing.assert_close(again.log_alpha_bar, s.log_alpha_bar, rtol=1e-9, atol=0)
    assert torch.equal(NoiseSchedule.named(name, num_steps, zero_terminal_snr=True).log_alpha_bar, s.log_alpha_bar)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_that_reaches_zero_by_itself_comes_back_as_it_is(name):
    plain = NoiseSchedule.named(name, 1000)
    assert plain.with_zero_terminal_snr(plain.alpha_bar[-1].item() * 1.01) is plain
    moved = plain.with_zero_terminal_snr(plain.alpha_bar[-1].item() / 100)
    assert moved.alpha_bar[-1].item() == pytest.approx(plain.alpha_bar[-1].item() / 100, rel=1e-9, abs=0)


def test_zero_terminal_snr_needs_two_steps():
    with pytest.raises(ValueError, match="at least 2 steps"):
        NoiseSchedule.named("linear", 1, zero_terminal_snr=True)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 1000, 10_000])
@given(data=st.data())
def test_the_time_of_a_log_alpha_bar_is_the_inverse(name, num_steps, data):
    s = schedule(name, num_steps)
    share = data.draw(st.lists(st.floats(0, 1), min_size=1, max_size=4))
    t = torch.tensor([0.0, *(num_steps * x for x in share), num_steps], dtype=torch.float64)
    wanted = s.log_alpha_bar_at(t)
    got = s.time_at(wanted)
    # a time is known as well as its log_alpha_bar, divided by the slope there
    slack = 1e-13 + 1e-15 * wanted.abs() / s.drift_at(t).abs() + 1e-15 * t
    assert ((got - t).abs() <= slack).all()
    assert got[0] == 0
    assert got[-1] == num_steps
    lowest = s.log_alpha_bar[-1].item()
    wanted = torch.tensor([[lowest * x for x in share]], dtype=torch.float64)
    torch.testing.assert_close(s.log_alpha_bar_at(s.time_at(wanted)), wanted, rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 2, 1000, 10_000])
def test_the_times_of_the_table_are_the_integers(name, num_steps):
    s = schedule(name, num_steps)
    assert torch.equal(s.time_at(s.log_alpha_bar), torch.arange(num_steps + 1).double())


@pytest.mark.parametrize("wrong", [1e-9, 1.0, -100.0, float("nan"), -torch.inf])
def test_a_log_alpha_bar_that_the_schedule_never_has(wrong):
    with pytest.raises(ValueError, match="log_alpha_bar must lie in"):
        schedule("linear", 1000).time_at(torch.tensor([-1.0, wrong], dtype=torch.float64))
