import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from undye.config import CompactConfig, ModelConfig
from undye.denoiser import Denoiser
from undye.diffusion.schedule import NoiseSchedule
from undye.errors import UserError
from undye.samplers import DenoiserLike
from undye.samplers.guidance import JOINED_UP_TO, ClassifierGuided, Conditioned, Thresholded, gradient_of
from undye.testing import GaussianMixtureOracle


class ByLabel(nn.Module):
    """Says the label's number as noise; without one, -1."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, t, label):
        self.calls += 1
        level = torch.full((len(x),), -1.0) if label is None else torch.where(label == 5, -1.0, label.to(x.dtype))
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


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range", "learned"])
def test_a_few_images_are_asked_for_with_and_without_label_in_one_call(variance):
    """And are what they are among many, which take two calls; the variance is the conditional model's."""
    network = CompactConfig(channels=(8,), blocks=(1,), head_channels=0)
    config = ModelConfig(network=network, image_size=(4, 6), channels=1, num_classes=5, variance=variance)
    denoiser = Denoiser.from_config(config).eval()
    for parameter in denoiser.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    sizes: list[int] = []
    denoiser.network.register_forward_hook(lambda network, inputs, out: sizes.append(len(out)))
    n = JOINED_UP_TO + 1
    label, x_t, t = torch.arange(n) % 5, torch.randn(n, 1, 4, 6), torch.arange(1, n + 1) * 50
    with torch.no_grad():
        many = Conditioned(denoiser, label, 3.0)(x_t, t)
        few = Conditioned(denoiser, label[:-1], 3.0)(x_t[:-1], t[:-1])
        plain = denoiser(x_t, t, label)
    assert sizes[:3] == [n, n, 2 * JOINED_UP_TO]
    for name in ("x_0", "eps", "learned_variance"):
        if (expected := getattr(many, name)) is not None:
            torch.testing.assert_close(getattr(few, name), expected[:-1], rtol=1e-4, atol=1e-4)
    if variance != "fixed_small":
        assert torch.equal(many.learned_variance, plain.learned_variance)


def test_is_what_samplers_take():
    denoiser = guided(1.0)[0]
    assert isinstance(denoiser, DenoiserLike)
    assert isinstance(Conditioned(denoiser, torch.tensor([0])), DenoiserLike)


def test_a_classifier_of_a_gaussian_class_gives_the_gaussians_own_model():
    """p(x_t | y) of one component is p(x_t) p(y | x_t): guiding the mixture by the exact classifier gives that one."""
    schedule = NoiseSchedule.named("linear", 100, beta_start=1e-3, beta_end=0.2)
    both = GaussianMixtureOracle(schedule, [0.3, 0.7], [[[[-0.6]]], [[[0.5]]]], stds=[0.15, 0.3])
    first = GaussianMixtureOracle(schedule, [1.0], [[[[-0.6]]]], stds=[0.15])
    x_t = torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1, 1)
    t = torch.arange(10, 100, 10)

    def mixture(x, t):
        return torch.stack([math.log(w) + log_normal(x, t, m, s) for w, m, s in ((0.3, -0.6, 0.15), (0.7, 0.5, 0.3))])

    def log_normal(x, t, mean, std):
        alpha_bar = schedule.alpha_bar[t]
        return Normal(alpha_bar.sqrt() * mean, (alpha_bar * std**2 + 1 - alpha_bar).sqrt()).log_prob(x.flatten())

    guide = gradient_of(lambda x, t: log_normal(x, t, -0.6, 0.15) - mixture(x, t).logsumexp(0))
    got, expected = ClassifierGuided(both, guide)(x_t, t), first(x_t, t)
    torch.testing.assert_close(got.x_0, expected.x_0, rtol=0, atol=1e-9)
    torch.testing.assert_close(got.eps, expected.eps, rtol=0, atol=1e-9)
    with torch.inference_mode():
        torch.testing.assert_close(ClassifierGuided(both, guide)(x_t.clone(), t).eps, expected.eps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_the_weight_is_a_number(weight):
    with pytest.raises(UserError, match="finite"):
        guided(weight)


def test_rescaled_x_0_has_the_conditional_ones_deviation():
    denoiser = Denoiser(ByLabel(), ModelConfig(image_size=(2, 2), channels=1, num_classes=5))
    label, x_t, t = torch.tensor([0, 4]), torch.randn(2, 1, 2, 2), torch.tensor([400, 600])
    plain, guided = Conditioned(denoiser, label)(x_t, t), Conditioned(denoiser, label, 7.0)(x_t, t)
    full = Conditioned(denoiser, label, 7.0, rescale=1.0)(x_t, t)
    std = lambda out: out.x_0.std(dim=(1, 2, 3))  # noqa: E731
    torch.testing.assert_close(std(full), std(plain))
    torch.testing.assert_close(denoiser.process.q_sample(full.x_0, t, full.eps), x_t, rtol=0, atol=1e-4)
    torch.testing.assert_close(full.x_0 / guided.x_0, (std(plain) / std(guided)).view(-1, 1, 1, 1).expand(2, 1, 2, 2))


def test_dynamic_thresholding():
    """Saharia et al. 2022: clip to the percentile and divide by it, if it is above 1; else as it was."""
    denoiser = Denoiser(ByLabel(), ModelConfig(image_size=(5, 5), channels=1))
    x_t, t = torch.randn(2, 1, 5, 5) * torch.tensor([30.0, 0.01]).view(2, 1, 1, 1), torch.tensor([500, 1])
    plain, got = denoiser(x_t, t), Thresholded(denoiser, 0.75)(x_t, t)
    s = plain.x_0[0].abs().flatten().sort().values[18]
    assert s > 1
    torch.testing.assert_close(got.x_0[0], plain.x_0[0].clamp(-s, s) / s)
    assert got.x_0.abs().max() <= 1
    assert plain.x_0[1].abs().max() < 1
    torch.testing.assert_close(got.x_0[1], plain.x_0[1])
    torch.testing.assert_close(denoiser.process.q_sample(got.x_0, t, got.eps), x_t, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="percentile"):
        Thresholded(denoiser, 1.5)
