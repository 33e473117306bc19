"""Schedules and single steps against diffusers' schedulers. Their t is ours minus 1."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import nn

from undye.config import ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser
from undye.diffusion.schedule import NoiseSchedule
from undye.samplers import DDIM, Ancestral

T = 1000
SHAPE = (2, 3, 4, 4)
PREDICTIONS = {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}


@pytest.mark.parametrize("num_steps", [10, 1000])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2"), ("sigmoid", "sigmoid")],
)
def test_betas(ours, theirs, num_steps):
    s = NoiseSchedule.named(ours, num_steps)
    scheduler = DDPMScheduler(num_train_timesteps=num_steps, beta_schedule=theirs)
    torch.testing.assert_close(s.beta[1:], scheduler.betas.double(), rtol=2e-6, atol=1e-9)
    torch.testing.assert_close(s.alpha_bar[1:], scheduler.alphas_cumprod.double(), rtol=1e-3, atol=1e-7)


class Says(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x, t, label=None):
        return self.value


def ours(sampler, prediction, output, x_t, t, s, noise):
    """The step t -> s that a sampler takes, were the network to say `output`."""
    config = ModelConfig(
        image_size=SHAPE[2:],
        channels=output.shape[1] if output.shape[1] == 3 else 3,
        prediction=prediction,
        schedule=ScheduleConfig(num_steps=T),
        variance="learned_range" if output.shape[1] == 6 else "fixed_large",
    )
    walk = sampler.steps(Denoiser(Says(output), config), x_t, torch.tensor([t, s, 0][: 3 if s else 2]), lambda x: noise)
    step = next(walk)
    assert (step.t, step.s) == (t, s)
    return step.x


def scheduler(cls, steps, **options):
    """Theirs, with its formulas in float64: its float32 table of alpha_bar cancels at small t."""
    made = cls(num_train_timesteps=T, **options)
    made.alphas_cumprod = NoiseSchedule.named("linear", T).alpha_bar[1:]
    made.set_timesteps(steps)
    return made


def inputs(channels=3):
    output = torch.randn(SHAPE[0], channels, *SHAPE[2:], dtype=torch.float64)
    x_t = torch.randn(SHAPE, dtype=torch.float64)
    noise = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return output, x_t, noise


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("steps", "t"), [(1000, 1), (1000, 2), (1000, 500), (1000, 1000), (50, 21), (50, 981)])
def test_ancestral_step(steps, t, prediction, variance, clip):
    output, x_t, noise = inputs(6 if variance == "learned_range" else 3)
    theirs = scheduler(
        DDPMScheduler, steps, variance_type=variance, clip_sample=clip, prediction_type=PREDICTIONS[prediction]
    )
    expected = theirs.step(output, t - 1, x_t, generator=torch.Generator().manual_seed(5)).prev_sample
    got = ours(Ancestral(clip=clip, variance=variance), prediction, output, x_t, t, t - T // steps, noise)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("steps", "t"), [(1000, 2), (1000, 999), (50, 21), (50, 981), (10, 101)])
def test_ddim_step(steps, t, prediction, eta, clip):
    output, x_t, noise = inputs()
    theirs = scheduler(DDIMScheduler, steps, clip_sample=clip, prediction_type=PREDICTIONS[prediction])
    expected = theirs.step(
        output, t - 1, x_t, eta=eta, use_clipped_model_output=clip, variance_noise=noise if eta else None
    ).prev_sample
    got = ours(DDIM(clip=clip, eta=eta), prediction, output, x_t, t, t - T // steps, noise)
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("t", [100, 800])
def test_float32_steps_agree_with_their_own_tables(t):
    output, x_t, noise = (x.float() for x in inputs())
    made = DDPMScheduler(num_train_timesteps=T, variance_type="fixed_large")
    expected = made.step(output, t - 1, x_t, generator=torch.Generator().manual_seed(5)).pred_original_sample
    assert expected.abs().max() <= 1
    walk = Ancestral().steps(
        Denoiser(Says(output), ModelConfig(image_size=SHAPE[2:])), x_t, torch.tensor([t, t - 1, 0]), lambda x: noise
    )
    torch.testing.assert_close(next(walk).x_0, expected, rtol=1e-5, atol=1e-4)
