import pytest
import torch
from torch import nn

from undye.config import ModelConfig
from undye.denoiser import Denoiser
from undye.samplers import DenoiserLike
from undye.samplers.guidance import Conditioned


class ByLabel(nn.Module):
    """Says the label's number as noise; without one, -1."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, t, label):
        self.calls += 1
        level = torch.full((len(x),), -1.0) if label is None else label.to(x.dtype)
        return level.view(-1, 1, 1, 1).expand_as(x)


def guided(weight):
    denoiser = Denoiser(ByLabel(), ModelConfig(image_size=(2, 2), channels=1, num_classes=5))
    model = Conditioned(denoiser, torch.tensor([0, 4]), weight)
    x_t, t = torch.randn(2, 1, 2, 2), torch.tensor([10, 600])
    return denoiser, x_t, t, model(x_t, t)


@pytest.mark.parametrize(("weight", "expected"), [(1.0, [0, 4]), (0.0, [-1, -1]), (3.0, [2, 14]), (0.5, [-0.5, 1.5])])
def test_eps_is_mixed_and_x_0_follows(weight, expected):
    denoiser, x_t, t, out = guided(weight)
    assert out.eps[:, 0, 0, 0].tolist() == expected
    torch.testing.assert_close(denoiser.process.q_sample(out.x_0, t, out.eps), x_t, rtol=0, atol=1e-5)


def test_weight_1_costs_one_network_call():
    assert guided(1.0)[0].network.calls == 1
    assert guided(2.0)[0].network.calls == 2


def test_is_what_samplers_take():
    denoiser = guided(1.0)[0]
    assert isinstance(denoiser, DenoiserLike)
    assert isinstance(Conditioned(denoiser, torch.tensor([0])), DenoiserLike)
