"""What a schedule leaves of the data at T, and that models are warned about it with advice that helps."""

import math
import re
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from undye.config import ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser, build_schedule, signal_warning
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule
from undye.diffusion.terminal import IMAGE_SECOND_MOMENT, SIGNAL_LIMIT, SignalLeftWarning, terminal
from undye.errors import UserError

STABLE_DIFFUSION = ScheduleConfig(name="scaled_linear", beta_start=0.00085, beta_end=0.012)
LEAVING = [
    ScheduleConfig(num_steps=200),
    ScheduleConfig(num_steps=1),
    ScheduleConfig(num_steps=10),
    ScheduleConfig(num_steps=21),
    ScheduleConfig(num_steps=500),
    ScheduleConfig(name="scaled_linear", num_steps=500),
    ScheduleConfig(name="sigmoid", num_steps=300),
    ScheduleConfig(name="sqrt", num_steps=50),
    STABLE_DIFFUSION,
    ScheduleConfig(beta_start=1e-7, beta_end=1e-6),
    ScheduleConfig(name="scaled_linear", num_steps=2000, beta_end=0.006),
    ScheduleConfig(name="linear", num_steps=1000, beta_end=0.01, rescale_betas=True),
]
ENDING = [
    ScheduleConfig(),
    ScheduleConfig(name="scaled_linear"),
    ScheduleConfig(name="cosine"),
    ScheduleConfig(name="cosine", num_steps=10),
    ScheduleConfig(name="sqrt"),
    ScheduleConfig(name="sigmoid"),
    ScheduleConfig(num_steps=200, rescale_betas=True),
    ScheduleConfig(num_steps=200, zero_terminal_snr=True),
    ScheduleConfig(name="scaled_linear", beta_start=0.00085, beta_end=0.012, zero_terminal_snr=True),
]


class Nothing(nn.Module):
    def forward(self, x, t, label=None):
        return torch.zeros_like(x)


def test_the_papers_schedule_leaves_next_to_nothing():
    """Ho et al. 2020, section 4: L_T is about 1e-5 bits/dim; of pixels whose mean square is 1/4, 7e-6."""
    end = terminal(NoiseSchedule.named("linear"))
    assert end.prior_bits_per_dim == pytest.approx(7.3e-6, rel=0.01)
    assert terminal(NoiseSchedule.named("linear"), 1 / 3).prior_bits_per_dim == pytest.approx(1e-5, rel=0.05)
    assert end.alpha_bar == pytest.approx(4.0358e-5, rel=1e-4)
    assert end.log_snr == pytest.approx(math.log(4.0358e-5), abs=1e-3)


@given(second_moment=st.floats(0, 1), seed=st.integers(0, 9))
def test_the_prior_term_is_the_divergence_from_a_standard_normal(second_moment, seed):
    """KL(N(sqrt(alpha_bar) x_0, 1 - alpha_bar) || N(0, 1)) by torch, averaged over x_0 of that mean square."""
    torch.manual_seed(seed)
    schedule = NoiseSchedule.from_beta(torch.rand(3, dtype=torch.float64) * 0.5 + 0.1)
    x_0 = torch.randn(50, dtype=torch.float64)
    x_0 *= (second_moment / x_0.square().mean()).sqrt()
    alpha_bar = schedule.alpha_bar[-1]
    q = torch.distributions.Normal(alpha_bar.sqrt() * x_0, (1 - alpha_bar).sqrt())
    nats = torch.distributions.kl_divergence(q, torch.distributions.Normal(torch.zeros(()).double(), 1.0)).mean()
    end = terminal(schedule, second_moment)
    assert end.prior_bits_per_dim == pytest.approx(nats.item() / math.log(2), rel=1e-9)
    assert end.leaves_signal == (end.prior_bits_per_dim > SIGNAL_LIMIT)


def test_200_of_the_papers_betas_leave_an_eighth():
    end = terminal(NoiseSchedule.named("linear", 200))
    assert end.alpha_bar == pytest.approx(0.132, abs=5e-4)
    assert end.prior_bits_per_dim == pytest.approx(0.03, rel=0.1)
    assert end.leaves_signal
    text = signal_warning(ScheduleConfig(num_steps=200))
    assert text is not None
    assert "the linear schedule of 200 steps leaves 0.13 of the signal's power" in text


def test_stable_diffusions_schedule_leaves_signal():
    """Lin et al. 2024, section 3.1: sqrt(alpha_bar_T) = 0.068."""
    end = terminal(build_schedule(STABLE_DIFFUSION))
    assert math.sqrt(end.alpha_bar) == pytest.approx(0.068265, abs=1e-5)
    assert end.leaves_signal
    text = signal_warning(STABLE_DIFFUSION)
    assert text is not None
    assert "rescale_betas" not in text, "at T = 1000 that changes nothing"


@pytest.mark.parametrize("config", ENDING, ids=str)
def test_schedules_that_end_in_noise_are_not_warned_about(config):
    assert not terminal(build_schedule(config)).leaves_signal
    assert signal_warning(config) is None


def advice(config, second_moment=IMAGE_SECOND_MOMENT):
    """The fixes that the warning names, each with the schedule that it leads to."""
    text = signal_warning(config, second_moment)
    assert text is not None
    named = re.split(r", | or (?=the|zero|rescale|at least)", text.partition(": use ")[2])
    for fix in filter(None, named):
        options = {k: v for k, v in vars(config).items() if k != "zero_terminal_snr"}
        if match := re.fullmatch(r"at least (\d+) steps", fix):
            options["num_steps"] = int(match[1])
        elif fix == "rescale_betas":
            options["rescale_betas"] = True
        elif fix == "the cosine schedule":
            options = {"name": "cosine", "num_steps": config.num_steps}
        else:
            assert fix == "zero_terminal_snr with v or x_0 prediction"
            options["zero_terminal_snr"] = True
        yield fix, ScheduleConfig(**options)


@pytest.mark.parametrize("config", LEAVING, ids=str)
def test_each_fix_that_the_warning_names_helps(config):
    fixes = dict(advice(config))
    assert len(fixes) >= 2
    for fixed in fixes.values():
        assert not terminal(build_schedule(fixed)).leaves_signal
        assert signal_warning(fixed) is None
    for fix, fixed in fixes.items():
        if fix.startswith("at least"):
            fewer = ScheduleConfig(**{**vars(fixed), "num_steps": fixed.num_steps - 1})
            assert terminal(build_schedule(fewer)).leaves_signal, "one less is too few"


def test_the_fixes_are_those_that_there_are():
    # 583 betas from 1e-4 to 0.02 sum to 5.86, and exp(-5.9) is the alpha_bar of 5e-4 bits/dim
    assert list(dict(advice(ScheduleConfig(num_steps=200)))) == [
        "rescale_betas",
        "at least 583 steps",
        "the cosine schedule",
        "zero_terminal_snr with v or x_0 prediction",
    ]
    assert "rescale_betas" not in dict(advice(ScheduleConfig(num_steps=10))), "its last beta would be 2"
    tiny = dict(advice(ScheduleConfig(beta_start=1e-7, beta_end=1e-6)))
    assert not any(fix.startswith("at least") for fix in tiny), "more than 100,000 steps are no advice"


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 7, 90, 1500])
@pytest.mark.parametrize("second_moment", [0.25, 1.0, 30.0])
def test_advice_is_only_what_helps_also_for_other_data(name, num_steps, second_moment):
    config = ScheduleConfig(name=name, num_steps=num_steps)
    if terminal(build_schedule(config), second_moment).leaves_signal:
        for _, fixed in advice(config, second_moment):
            assert not terminal(build_schedule(fixed), second_moment).leaves_signal
    else:
        assert signal_warning(config, second_moment) is None


def test_a_denoiser_warns():
    with pytest.warns(SignalLeftWarning, match="the linear schedule of 200 steps leaves 0.13") as seen:
        Denoiser(Nothing(), ModelConfig(schedule=ScheduleConfig(num_steps=200)))
    assert len(seen) == 1
    with pytest.warns(SignalLeftWarning, match="scaled_linear"):
        Denoiser(Nothing(), ModelConfig(schedule=STABLE_DIFFUSION))


@pytest.mark.parametrize("config", ENDING, ids=str)
def test_a_denoiser_whose_schedule_ends_in_noise_is_silent(config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Denoiser(Nothing(), ModelConfig(schedule=config, prediction="v"))


@pytest.mark.parametrize("prediction", ["eps", "mu", "score"])
def test_zero_terminal_snr_cannot_be_had_with_a_prediction_that_loses_x_0(prediction):
    """Lin et al. 2024, section 3.2: at T eps is x_T itself, and x_0 does not follow from it."""
    with pytest.raises(UserError, match="predict v or x_0"):
        ModelConfig(schedule=ScheduleConfig(zero_terminal_snr=True), prediction=prediction)


@pytest.mark.parametrize("prediction", ["v", "x_0"])
def test_with_zero_terminal_snr_x_0_is_read_at_the_end_too(prediction):
    config = ModelConfig(schedule=ScheduleConfig(zero_terminal_snr=True), prediction=prediction)
    denoiser = Denoiser(Nothing(), config)
    x_0, eps = torch.randn(2, 2, 3, 32, 32, dtype=torch.float64)
    t = torch.full((2,), denoiser.schedule.num_steps)
    x_T = denoiser.process.q_sample(x_0, t, eps)
    value = denoiser.prediction.target(x_0, eps, denoiser.schedule, t)
    torch.testing.assert_close(x_T, eps, rtol=0, atol=1e-9)
    torch.testing.assert_close(denoiser.read(value, None, x_T, t).x_0, x_0, rtol=0, atol=1e-12)
