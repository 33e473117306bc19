"""Single steps by hand, and how the samplers relate to each other."""

import pytest
import torch
from torch import nn

from undye.config import ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser
from undye.diffusion.schedule import NoiseSchedule
from undye.diffusion.score import sigma_at
from undye.errors import UserError
from undye.samplers import DDIM, Ancestral, SampleNoise
from undye.samplers.grid import make_grid
from undye.testing import GaussianMixtureOracle

T = 1000
LINEAR = NoiseSchedule.named("linear", T)
MIXTURE = GaussianMixtureOracle(LINEAR, [0.3, 0.7], [[[[-0.6, 0.2]]], [[[0.5, -0.1]]]], stds=[0.15, 0.3])
X_T = torch.linspace(-2, 2, 24, dtype=torch.float64).view(6, 1, 2, 2)


class Says(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x, t, label=None):
        return self.value


def says(value, **options):
    """A model that predicts the same noise whatever it sees."""
    config = ModelConfig(image_size=(2, 2), channels=1, schedule=ScheduleConfig(num_steps=T), **options)
    return Denoiser(Says(value), config)


@pytest.mark.parametrize("grid", [make_grid("uniform", T, 40), make_grid("quadratic", T, 25)], ids=["uniform", "quad"])
def test_ddim_with_eta_1_is_ancestral_with_fixed_small_step_for_step(grid):
    x_T = torch.randn(5, 1, 1, 2, dtype=torch.float64)
    ddim, ancestral = (
        sampler.steps(MIXTURE, x_T, grid, SampleNoise(4, range(5)))
        for sampler in (DDIM(eta=1.0), Ancestral(variance="fixed_small"))
    )
    for ours, theirs in zip(ddim, ancestral, strict=True):
        torch.testing.assert_close(ours.x, theirs.x, rtol=0, atol=1e-11)
        torch.testing.assert_close(ours.x_0, theirs.x_0, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("t", "s"), [(700, 699), (700, 300), (2, 1), (1000, 1)])
def test_ancestral_step_as_the_papers_code(t, s):
    """x_0 is predicted, clipped, and put into the posterior mean; then noise of the forward variance."""
    eps, z = torch.randn(2, 6, 1, 2, 2, dtype=torch.float64)
    step = next(Ancestral().steps(says(eps), X_T, torch.tensor([t, s, 0]), lambda x: z))
    ab_t, ab_s = LINEAR.alpha_bar[t], LINEAR.alpha_bar[s]
    alpha, beta = ab_t / ab_s, 1 - ab_t / ab_s
    x_0 = ((X_T - (1 - ab_t).sqrt() * eps) / ab_t.sqrt()).clamp(-1, 1)
    mean = (ab_s.sqrt() * beta * x_0 + alpha.sqrt() * (1 - ab_s) * X_T) / (1 - ab_t)
    torch.testing.assert_close(step.x_0, x_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(step.x, mean + beta.sqrt() * z, rtol=1e-9, atol=1e-9)
    assert (step.x_0.abs() == 1).any()


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("clip", [True, False])
def test_ddim_step_by_hand(clip, eta):
    """Where x_0 was clipped eps is derived anew; elsewhere it is the network's."""
    eps, z = torch.randn(2, 6, 1, 2, 2, dtype=torch.float64)
    t, s = 800, 500
    step = next(DDIM(clip=clip, eta=eta).steps(says(eps), X_T, torch.tensor([t, s, 0]), lambda x: z))
    ab_t, ab_s = LINEAR.alpha_bar[t], LINEAR.alpha_bar[s]
    x_0 = (X_T - (1 - ab_t).sqrt() * eps) / ab_t.sqrt()
    if clip:
        x_0 = x_0.clamp(-1, 1)
        eps = (X_T - ab_t.sqrt() * x_0) / (1 - ab_t).sqrt()
    sigma = eta * ((1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)).sqrt()
    expected = ab_s.sqrt() * x_0 + (1 - ab_s - sigma**2).sqrt() * eps + sigma * z
    torch.testing.assert_close(step.x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(), DDIM(eta=1.0)])
def test_the_sample_is_the_last_prediction_of_x_0(sampler):
    *_, last = sampler.steps(MIXTURE, torch.randn(3, 1, 1, 2).double(), make_grid("uniform", T, 4), torch.randn_like)
    torch.testing.assert_close(last.x, last.x_0, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("sampler", "draws"), [(Ancestral(), 3), (DDIM(), 0), (DDIM(eta=0.1), 3)])
def test_how_much_noise_is_drawn(sampler, draws):
    """A film, a codec or an edit may count on it: one draw per step but the last, none where the path is fixed."""
    calls = []

    def noise(x):
        calls.append(x.shape)
        return torch.randn_like(x)

    list(sampler.steps(MIXTURE, torch.randn(3, 1, 1, 2).double(), make_grid("uniform", T, 4), noise))
    assert calls == [(3, 1, 1, 2)] * draws


def test_ancestral_takes_the_models_variance_unless_told():
    grid, noise = torch.tensor([600, 200, 0]), torch.ones_like
    eps = torch.randn(6, 1, 2, 2, dtype=torch.float64)

    def x(kind, told=None):
        return next(Ancestral(variance=told).steps(says(eps, variance=kind), X_T, grid, noise)).x

    assert torch.equal(x("fixed_small"), x("fixed_large", told="fixed_small"))
    assert (x("fixed_small") - x("fixed_large")).abs().min() > 1e-3


@pytest.mark.parametrize(("level", "fixed"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
def test_learned_range_reaches_both_fixed_variances(level, fixed):
    grid, noise, eps = torch.tensor([600, 200, 0]), torch.ones_like, torch.randn(6, 1, 2, 2, dtype=torch.float64)
    both = torch.cat([eps, torch.full_like(eps, level)], dim=1)
    learned = next(Ancestral().steps(says(both, variance="learned_range"), X_T, grid, noise)).x
    expected = next(Ancestral().steps(says(eps, variance=fixed), X_T, grid, noise)).x
    torch.testing.assert_close(learned, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_lies_in_0_1(eta):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        DDIM(eta=eta)


@pytest.mark.parametrize(
    ("name", "num_steps", "times"),
    [
        ("uniform", 1000, [1000, 800, 600, 400, 200, 0]),
        ("trailing", 1000, [1000, 800, 600, 400, 200, 0]),
        ("uniform", 10, [10, 7, 3, 0]),
        ("quadratic", 1000, [1000, 640, 360, 160, 40, 0]),
        ("quadratic", 10, [10, 8, 6, 5, 4, 3, 2, 1, 0]),
        ("cosine", 1000, [1000, 750, 250, 0]),
        ("leading", 1000, [1000, 751, 501, 251, 1, 0][1:]),
    ],
)
def test_known_grids(name, num_steps, times):
    expected = [num_steps, *times[1:]]
    assert make_grid(name, num_steps, len(times) - 1).tolist() == expected


def test_grids_of_noise_levels():
    """Karras et al. 2022, Eq. 5, and even log-SNR, from sigma = 80 to t = 1; the first step starts at T."""
    high, low = 80.0, sigma_at(LINEAR.log_alpha_bar[1:2]).item()
    for name, inverse in (("karras", lambda sigma: sigma ** (1 / 7)), ("log-snr", lambda sigma: sigma.log())):
        grid = make_grid(name, LINEAR, 9, real=True)
        assert (grid[0], grid[-1]) == (T, 0)
        places = inverse(sigma_at(LINEAR.log_alpha_bar_at(grid[1:-1])))
        ends = inverse(torch.tensor([high, low], dtype=torch.float64))
        torch.testing.assert_close(places, ends[0] + (ends[1] - ends[0]) * torch.arange(1, 9) / 8, rtol=1e-9, atol=0)
        assert grid[-2] == pytest.approx(1, abs=1e-9)
    assert make_grid("karras", LINEAR, 1).tolist() == [T, 0]
    with pytest.raises(UserError, match="needs the model's schedule"):
        make_grid("karras", T, 9)
