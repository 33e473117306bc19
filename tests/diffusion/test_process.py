import pytest
import torch

from undye.diffusion.process import GaussianProcess, like, times
from undye.diffusion.schedule import NoiseSchedule

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
