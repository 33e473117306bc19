"""What every named schedule keeps, whoever adds one to the table."""

from fractions import Fraction
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undye.config import ScheduleName
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule

LENGTHS = [1, 2, 3, 10, 200, 1000, 4000, 10_000]

every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def test_configurations_can_name_exactly_these():
    assert set(get_args(ScheduleName)) == set(SCHEDULES)


@every_schedule
@pytest.mark.parametrize("num_steps", LENGTHS)
def test_alpha_bar_decreases_from_one(name, num_steps):
    s = NoiseSchedule.named(name, num_steps)
    assert s.num_steps == num_steps
    for entries in (s.log_alpha_bar, s.alpha_bar, s.alpha, s.beta, s.snr, s.log_snr):
        assert entries.shape == (num_steps + 1,)
        assert entries.dtype == torch.float64
        assert not entries.isnan().any()
    assert s.alpha_bar[0] == 1
    assert s.alpha[0] == 1
    assert s.beta[0] == 0
    assert s.log_snr[0] == torch.inf
    assert (s.log_alpha_bar.diff() < 0).all()
    assert (s.log_snr.diff() < 0).all()
    assert ((s.beta[1:] > 0) & (s.beta[1:] < 1)).all()
    assert ((s.alpha[1:] > 0) & (s.alpha[1:] < 1)).all()
    # alpha_bar may underflow at the far end; its logarithm must not
    assert s.log_alpha_bar.isfinite().all()
    assert s.log_snr[1:].isfinite().all()


@every_schedule
@pytest.mark.parametrize("num_steps", [1000, 10_000])
def test_near_the_data_nothing_cancels(name, num_steps):
    """beta and 1 - alpha_bar of the first steps, held against exact rational arithmetic on the same log_alpha_bar."""
    s = NoiseSchedule.named(name, num_steps)
    left, noise = Fraction(1), -s.log_alpha_bar.expm1()
    for t in range(1, 6):
        left *= 1 - Fraction(s.beta[t].item())
        assert abs(noise[t].item() / float(1 - left) - 1) < 1e-13
        assert abs(s.snr[t].item() / float(left / (1 - left)) - 1) < 1e-12


@every_schedule
@pytest.mark.parametrize("num_steps", [1000, 10_000])
def test_from_its_own_beta_comes_the_same_schedule(name, num_steps):
    s = NoiseSchedule.named(name, num_steps)
    again = NoiseSchedule.from_beta(s.beta[1:])
    torch.testing.assert_close(again.log_alpha_bar, s.log_alpha_bar, rtol=1e-11, atol=0)
    torch.testing.assert_close(again.beta, s.beta, rtol=1e-10, atol=0)


@every_schedule
@given(data=st.data())
def test_real_times_lie_on_the_line_between_integers(name, data):
    s = NoiseSchedule.named(name, 50)
    t = data.draw(st.floats(0, 50))
    low = min(int(t), 49)
    between = s.log_alpha_bar[low] + (t - low) * (s.log_alpha_bar[low + 1] - s.log_alpha_bar[low])
    at = s.log_alpha_bar_at(torch.tensor([t], dtype=torch.float64))
    torch.testing.assert_close(at, between[None], rtol=1e-13, atol=1e-300)


@every_schedule
def test_integer_and_real_times_agree_at_integers(name):
    s = NoiseSchedule.named(name, 50)
    t = torch.arange(51)
    assert torch.equal(s.log_alpha_bar_at(t), s.log_alpha_bar)
    assert torch.equal(s.log_alpha_bar_at(t.double()), s.log_alpha_bar)
    assert torch.equal(s.log_alpha_bar_at(t.to(torch.int32).view(3, 17)), s.log_alpha_bar.view(3, 17))
