"""Whole trajectories against diffusers: one network, one x_T, one noise, and the final images. Their t is ours minus 1.

And where theirs is not what the papers say, a test each that states by how much.
"""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import nn

from undye.config import ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser
from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import NoiseSchedule
from undye.samplers import DDIM, Ancestral, final
from undye.samplers.grid import make_grid

T = 1000
SHAPE = (2, 3, 8, 8)
LINEAR = NoiseSchedule.named("linear", T)
EXACT = "float64, on our table"
SINGLE = "float32, on our table"
OWN = "float32, on their own table"
every_arithmetic = pytest.mark.parametrize("arithmetic", [EXACT, SINGLE, OWN])


class Network(nn.Module):
    """A small U-Net of theirs, predicting eps, added to what is right for standard normal data.

    Without that an untrained network would have the images grow a hundredfold, as 1 / sqrt(alpha_bar) does.
    """

    def __init__(self, num_steps: int = T):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.unet = UNet2DModel(
                sample_size=8,
                layers_per_block=1,
                block_out_channels=(16,),
                norm_num_groups=4,
                attention_head_dim=8,
                down_block_types=("DownBlock2D",),
                up_block_types=("UpBlock2D",),
            ).eval()
        schedule = NoiseSchedule.named("linear", num_steps)
        self.register_buffer("noise", (-schedule.log_alpha_bar.expm1()).sqrt()[1:].float())

    def forward(self, x, t, label=None):
        return self.noise[t.long()].view(-1, 1, 1, 1) * x + 0.3 * self.unet(x, t).sample


def theirs(cls, arithmetic, steps, num_steps=T, **options):
    """Their scheduler, with its own table of alpha_bar, which is float32, or with ours, which is float64."""
    made = cls(num_train_timesteps=num_steps, **options)
    if arithmetic != OWN:
        made.alphas_cumprod = NoiseSchedule.named("linear", num_steps).alpha_bar[1:]
        if not made.config.get("set_alpha_to_one", True):
            made.final_alpha_cumprod = made.alphas_cumprod[0]
    made.set_timesteps(steps)
    return made


def their_sample(scheduler, network, x, **options):
    with torch.no_grad():
        for t in scheduler.timesteps.tolist():
            out = network(x, torch.full((len(x),), float(t)))
            x = scheduler.step(out, t, x, **options).prev_sample
    return x


def our_walk(sampler, network, grid, x, generator=None, num_steps=T):
    config = ModelConfig(image_size=SHAPE[2:], schedule=ScheduleConfig(num_steps=num_steps))
    noise = lambda z: torch.randn(z.shape, dtype=z.dtype, generator=generator)  # noqa: E731
    return sampler.steps(Denoiser(network, config), x, torch.as_tensor(grid), noise)


def start(arithmetic, num_steps=T):
    dtype = torch.float64 if arithmetic == EXACT else torch.float32
    return Network(num_steps).to(dtype), torch.randn(SHAPE, generator=seeded(3), dtype=dtype)


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)


def assert_same_images(got, expected, arithmetic, on_their_table=1e-5):
    """Up to rounding. Where each step draws noise, their own table makes a difference of its own."""
    assert 0.3 < expected.abs().mean() < 3, "images, not zeros or an explosion"
    tolerance = {EXACT: 1e-9, SINGLE: 1e-5, OWN: on_their_table}[arithmetic]
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("arithmetic", "variance", "clip"),
    [
        (EXACT, "fixed_small", True),
        (EXACT, "fixed_large", True),
        (EXACT, "fixed_large", False),
        (SINGLE, "fixed_small", True),
        (OWN, "fixed_large", True),
    ],
)
def test_ancestral_sampling_on_the_full_grid(arithmetic, variance, clip):
    """Ho et al. 2020, Algorithm 2, all 100 steps of a schedule of that many."""
    network, x_T = start(arithmetic, 100)
    scheduler = theirs(DDPMScheduler, arithmetic, 100, 100, variance_type=variance, clip_sample=clip)
    assert scheduler.timesteps.tolist() == list(range(99, -1, -1))
    expected = their_sample(scheduler, network, x_T, generator=seeded())
    walk = our_walk(Ancestral(variance=variance, clip=clip), network, range(100, -1, -1), x_T, seeded(), 100)
    assert_same_images(final(walk), expected, arithmetic, on_their_table=3e-4)


def test_of_the_difference_in_float32_theirs_is_the_error():
    """Against float64 with the same weights and the same noise: their float32 table costs 1e-4 of the final images."""
    network, x_T = start(OWN, 100)
    sampler, grid = Ancestral(variance="fixed_small", clip=True), range(100, -1, -1)
    ours = final(our_walk(sampler, network, grid, x_T, seeded(), 100))
    scheduler = theirs(DDPMScheduler, OWN, 100, 100, variance_type="fixed_small", clip_sample=True)
    expected = their_sample(scheduler, network, x_T, generator=seeded())
    # the noise is float32 here too, so that it is the same
    draws = seeded()
    config = ModelConfig(image_size=SHAPE[2:], schedule=ScheduleConfig(num_steps=100))
    walk = sampler.steps(
        Denoiser(network.double(), config),
        x_T.double(),
        torch.as_tensor(grid),
        lambda z: torch.randn(z.shape, generator=draws).double(),
    )
    truth = final(walk)
    assert (ours - truth).abs().max() < 5e-6
    assert (expected - truth).abs().max() > 5e-5


@every_arithmetic
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_in_50_of_1000_steps(arithmetic, eta, clip):
    """Song et al. 2021, Eq. 12. Their grid is 980, 960, ..., 0: ours with x_T at 981."""
    network, x_T = start(arithmetic)
    scheduler = theirs(DDIMScheduler, arithmetic, 50, clip_sample=clip)
    grid = [*(scheduler.timesteps + 1).tolist(), 0]
    assert grid == [*range(981, 0, -20), 0]
    expected = their_sample(
        scheduler, network, x_T, eta=eta, use_clipped_model_output=clip, generator=seeded() if eta else None
    )
    walk = our_walk(DDIM(eta=eta, clip=clip), network, grid, x_T, seeded())
    assert_same_images(final(walk), expected, arithmetic)


@every_arithmetic
def test_their_trailing_grid_is_our_uniform_one(arithmetic):
    network, x_T = start(arithmetic)
    scheduler = theirs(DDIMScheduler, arithmetic, 50, clip_sample=False, timestep_spacing="trailing")
    grid = make_grid("uniform", T, 50)
    assert grid.tolist() == [*(scheduler.timesteps + 1).tolist(), 0]
    expected = their_sample(scheduler, network, x_T)
    assert_same_images(final(our_walk(DDIM(clip=False), network, grid, x_T)), expected, arithmetic)


@every_arithmetic
def test_with_set_alpha_to_one_off_they_stop_at_1(arithmetic):
    """Stable Diffusion's settings: the last step goes to the alpha_bar of their time 0, which is our t = 1.

    So the sample is x_1, with the noise of the first step left in; ours goes on to x_0.
    """
    network, x_T = start(arithmetic)
    scheduler = theirs(DDIMScheduler, arithmetic, 50, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    grid = [*(scheduler.timesteps + 1).tolist(), 1, 0]
    assert grid[:2] == [982, 962]
    expected = their_sample(scheduler, network, x_T)
    with torch.no_grad():
        *_, at_1, at_0 = [step.x for step in our_walk(DDIM(clip=False), network, grid, x_T)]
    assert_same_images(at_1, expected, arithmetic)
    assert (at_0 - expected).abs().max() > 1e-3


def test_clipping_without_deriving_eps_again_leaves_a_pair_that_does_not_explain_x_t():
    """Their default, use_clipped_model_output=False: x_0 is clipped and eps stays.

    sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps then misses x_t by sqrt(alpha_bar) times what was clipped, and x_s is
    not on the line of x_0 and x_t. Song et al. 2021, Eq. 12, has x_0 and eps of one x_t.
    """
    t, s = 101, 81
    a_t, b_t = LINEAR.alpha_bar[t].sqrt(), (1 - LINEAR.alpha_bar[t]).sqrt()
    a_s, b_s = LINEAR.alpha_bar[s].sqrt(), (1 - LINEAR.alpha_bar[s]).sqrt()
    x_t = torch.randn(SHAPE, dtype=torch.float64)
    eps = torch.randn(SHAPE, dtype=torch.float64)
    x_0 = (x_t - b_t * eps) / a_t
    clipped = a_t * (x_0 - x_0.clamp(-1, 1))
    assert clipped.abs().max() > 1

    def missed(x_s):
        """x_t less what the x_0 and eps behind x_s make of it."""
        implied = (x_s - a_s * x_0.clamp(-1, 1)) / b_s
        return x_t - (a_t * x_0.clamp(-1, 1) + b_t * implied)

    scheduler = theirs(DDIMScheduler, EXACT, 50, clip_sample=True)
    default = scheduler.step(eps, t - 1, x_t).prev_sample
    torch.testing.assert_close(missed(default), clipped, rtol=1e-9, atol=1e-10)
    asked = scheduler.step(eps, t - 1, x_t, use_clipped_model_output=True).prev_sample

    class Says(nn.Module):
        def forward(self, x, t, label=None):
            return eps

    ours = next(our_walk(DDIM(clip=True), Says(), [t, s, 0], x_t)).x
    for x_s in (ours, asked):
        assert missed(x_s).abs().max() < 1e-9
    # by how much the two differ: the clipped part, in units of the noise
    torch.testing.assert_close(ours - default, b_s / b_t * clipped, rtol=1e-9, atol=1e-10)


def test_default_clipping_ends_in_other_images():
    """The same over a whole trajectory: a quarter of the pixels move by more than five levels of 255."""
    network, x_T = start(EXACT)
    grid = [*range(981, 0, -20), 0]
    ours = final(our_walk(DDIM(clip=True), network, grid, x_T))
    default = their_sample(theirs(DDIMScheduler, EXACT, 50, clip_sample=True), network, x_T)
    assert ((ours - default).abs() > 5 * 2 / 255).double().mean() > 0.25


@pytest.mark.parametrize("t", [2, 500, 1000])
def test_fixed_large_log_is_not_a_number(t):
    """They take the root of a logarithm, which is negative; fixed_small_log is the standard deviation, as is ours."""
    x, noise = torch.randn(2, *SHAPE, dtype=torch.float64)
    wrong = theirs(DDPMScheduler, EXACT, T, variance_type="fixed_large_log").step(noise, t - 1, x).prev_sample
    assert wrong.isnan().all()
    steps = [
        theirs(DDPMScheduler, EXACT, T, variance_type=kind).step(noise, t - 1, x, generator=seeded()).prev_sample
        for kind in ("fixed_small", "fixed_small_log")
    ]
    torch.testing.assert_close(*steps, rtol=1e-12, atol=1e-12)


def test_their_table_loses_digits_near_the_data():
    """alphas_cumprod is a float32 product near 1: 1 - alpha_bar_1 = 1e-4 has three digits left.

    Ours, rounded to float32 once at the end, has seven everywhere.
    """
    table = DDPMScheduler(num_train_timesteps=T).alphas_cumprod
    assert table.dtype == torch.float32
    exact = -LINEAR.log_alpha_bar.expm1()[1:]
    error = ((1 - table).double() - exact).abs() / exact
    assert 1e-4 < error[:2].max() < 3e-4
    assert error[100:].max() < 3e-6, "far from the data they are right"
    ours = (exact.float().double() - exact).abs() / exact
    assert ours.max() < 1e-7
    # so their posterior variance of t = 2 is off by as much, and ours is not
    beta_tilde = LINEAR.beta[2] * exact[0] / exact[1]
    got = theirs(DDPMScheduler, OWN, T)._get_variance(1).double()
    assert 2e-5 < abs(got / beta_tilde - 1) < 1e-3


@pytest.mark.parametrize(("dtype", "last"), [(torch.float16, 2), (torch.bfloat16, 10)])
def test_in_half_precision_their_first_steps_add_no_noise(dtype, last):
    """add_noise casts the table first, and 1 - alpha_bar becomes 0: at t <= 2 in float16, at t <= 10 in bfloat16."""
    scheduler = DDPMScheduler(num_train_timesteps=T)
    assert ((1 - scheduler.alphas_cumprod.to(dtype)) == 0).nonzero().flatten().tolist() == list(range(last))
    t = torch.arange(1, last + 1)
    x_0, eps = torch.zeros(last, 1, 2, 2, dtype=dtype), torch.ones(last, 1, 2, 2, dtype=dtype)
    assert scheduler.add_noise(x_0, eps, t - 1).abs().max() == 0
    ours = GaussianProcess(LINEAR).q_sample(x_0, t, eps)[:, 0, 0, 0].double()
    torch.testing.assert_close(ours, (1 - LINEAR.alpha_bar[t]).sqrt(), rtol=4e-3, atol=0)
    assert ours.min() > 0.0099


@pytest.mark.parametrize(("steps", "first", "ratio"), [(50, 981, 1.46), (20, 951, 2.62), (10, 901, 6.70)])
def test_leading_grids_do_not_start_at_the_end(steps, first, ratio):
    """Their default: with 50 steps standard normal noise is taken for x_981, whose SNR is 1.5 times that of x_T.

    Lin et al. 2024, section 3.3. Ours starts at T on every grid.
    """
    scheduler = theirs(DDIMScheduler, OWN, steps)
    assert scheduler.timesteps[0] + 1 == first
    assert (LINEAR.snr[first] / LINEAR.snr[T]).item() == pytest.approx(ratio, rel=0.005)
    assert make_grid("uniform", T, steps)[0] == T


@pytest.mark.parametrize(("spacing", "steps", "off"), [("linspace", 50, 19), ("trailing", 30, 10), ("leading", 50, 0)])
def test_ddim_steps_to_other_times_than_it_goes_on_from(spacing, steps, off):
    """DDIMScheduler takes s = t - T // steps, whatever the next time of its grid is.

    Where T / steps is no whole number x_s is made for one time and shown to the network as another; ours goes from each
    time to the next, and what that makes of the same grid differs.
    """
    network, x_T = start(EXACT)
    scheduler = theirs(DDIMScheduler, EXACT, steps, clip_sample=False, timestep_spacing=spacing)
    times = scheduler.timesteps.tolist()
    assert sum(t - T // steps != s for t, s in pairwise(times)) == off
    expected = their_sample(scheduler, network, x_T)
    got = final(our_walk(DDIM(clip=False), network, [*(t + 1 for t in times), 0], x_T))
    if off:
        assert 1e-3 < (got - expected).abs().max() < 0.5
    else:
        assert_same_images(got, expected, EXACT)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_trailing_ancestral_sampling_adds_noise_to_the_sample(variance):
    """Their last step takes the mean only at their time 0; a trailing grid of 50 ends at 19, with s = 0.

    There fixed_large is 1 - alpha_bar_20: noise with a deviation of 0.076, ten levels of 255, in the final image. Ho et
    al. 2020, Algorithm 2: z = 0 in the last step, as ours.
    """
    network, x_T = start(EXACT)
    scheduler = theirs(DDPMScheduler, EXACT, 50, variance_type=variance, clip_sample=True, timestep_spacing="trailing")
    expected = their_sample(scheduler, network, x_T, generator=seeded())
    walk = our_walk(Ancestral(variance=variance, clip=True), network, make_grid("uniform", T, 50), x_T, seeded())
    left = expected - final(walk)
    if variance == "fixed_small":
        assert left.abs().max() < 1e-8
    else:
        std = math.sqrt(1 - LINEAR.alpha_bar[20])
        assert std == pytest.approx(0.076, abs=5e-4)
        assert left.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * left.numel()))
        assert expected.abs().max() > 1, "out of the range that was clipped to"


def test_zero_terminal_snr_with_eps_is_not_finite_there():
    """Lin et al. 2024, section 3.2: x_0 does not follow from eps at T. They divide by 0; our config refuses it."""
    scheduler = DDIMScheduler(
        num_train_timesteps=T, rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(50)
    x_T = torch.randn(SHAPE)
    assert not scheduler.step(0.9 * x_T, T - 1, x_T).prev_sample.isfinite().any()
    v = DDIMScheduler.from_config(scheduler.config, prediction_type="v_prediction")
    v.set_timesteps(50)
    expected = v.step(0.9 * x_T, T - 1, x_T).prev_sample
    schedule = ScheduleConfig(num_steps=T, zero_terminal_snr=True)
    with pytest.raises(ValueError, match="predict v or x_0"):
        ModelConfig(schedule=schedule)

    class Says(nn.Module):
        def forward(self, x, t, label=None):
            return 0.9 * x

    config = ModelConfig(image_size=SHAPE[2:], schedule=schedule, prediction="v")
    walk = DDIM(clip=False).steps(Denoiser(Says(), config), x_T, torch.tensor([T, 980, 0]), torch.zeros_like)
    torch.testing.assert_close(next(walk).x, expected, rtol=0, atol=1e-5)
