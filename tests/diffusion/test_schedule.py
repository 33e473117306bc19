"""Known values, and what a schedule refuses."""

import pytest
import torch

from undye.diffusion.schedule import NoiseSchedule, log_snr


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
