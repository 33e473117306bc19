"""What every reverse variance keeps, and the rule at the last step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule
from undye.diffusion.variance import LEARNED, VARIANCES, log_var, log_var_bounds

T = 100
PROCESSES = {name: GaussianProcess(NoiseSchedule.named(name, T)) for name in SCHEDULES}
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
some_times = st.tuples(st.floats(0, T) | st.integers(0, T), st.floats(0, T) | st.integers(0, T))


def at(kind, process, t, s, fraction=0.3, **options):
    fractions = torch.full((len(t), 1, 1, 1), fraction, dtype=torch.float64)
    return log_var(kind, process.schedule, t, s, fractions, **options).flatten()


not_offset = pytest.mark.parametrize("kind", [kind for kind in VARIANCES if kind != "learned"])


@every_schedule
@not_offset
@given(times=some_times)
def test_between_posterior_and_forward_variance(name, kind, times):
    s, t = sorted(times)
    if t - s < 1e-3 or 0 < s < 1e-3:
        return
    p, (t_, s_) = PROCESSES[name], torch.tensor([[t], [s]]).double()
    image = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    got = at(kind, p, t_, s_).exp().item()
    small, large = p.posterior(image, image, t_, s_).var.item(), p.transition(image, t_, s_).var.item()
    assert 0 < got < 1
    if s > 0:
        assert small * (1 - 1e-12) <= got <= large * (1 + 1e-12)


@every_schedule
def test_the_two_fixed_ones_are_the_ends_of_the_learned_range(name):
    p, t = PROCESSES[name], torch.arange(2, T + 1)
    image = torch.zeros(len(t), 1, 1, 1, dtype=torch.float64)
    small, large = p.posterior(image, image, t).var.flatten(), p.transition(image, t, t - 1).var.flatten()
    for kind, fraction, var in [
        ("fixed_small", 0.9, small),
        ("fixed_large", 0.1, large),
        ("learned_range", 0.0, small),
        ("learned_range", 1.0, large),
        ("learned_range", 0.5, (small * large).sqrt()),
    ]:
        torch.testing.assert_close(at(kind, p, t, t - 1, fraction).exp(), var, rtol=1e-12, atol=0)


@every_schedule
def test_edge_rule_of_the_original_code(name):
    """The original code puts index 1 of the posterior variance (t = 2) in the place of index 0 (t = 1).

    `np.append(posterior_variance[1], posterior_variance[1:])` for fixedsmall, and before `betas[1:]` for fixedlarge.
    """
    p, one, zero = PROCESSES[name], torch.tensor([1]), torch.tensor([0])
    s = p.schedule
    second = (s.beta[2] * (1 - s.alpha_bar[1]) / (1 - s.alpha_bar[2])).log()[None]
    torch.testing.assert_close(at("fixed_small", p, one, zero), second, rtol=1e-9, atol=0)
    torch.testing.assert_close(at("fixed_large", p, one, zero), second, rtol=1e-9, atol=0)
    # Nichol and Dhariwal: the lower end is clipped likewise, the upper is log beta throughout
    torch.testing.assert_close(at("learned_range", p, one, zero, 0.0), second, rtol=1e-9, atol=0)
    torch.testing.assert_close(at("learned_range", p, one, zero, 1.0), s.beta[1].log()[None], rtol=1e-9, atol=0)


@every_schedule
@not_offset
def test_edge_rule_on_other_grids(name, kind):
    """... 30, 10, 0: the last step has the posterior variance of the step before it, 30 -> 10."""
    p, zero = PROCESSES[name], torch.tensor([0])
    ten, thirty = torch.tensor([10]), torch.tensor([30])
    image = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    preceding = p.posterior(image, image, thirty, ten).var.log().flatten()
    torch.testing.assert_close(at(kind, p, ten, zero, 0.0, before=thirty), preceding, rtol=1e-12, atol=0)
    assert torch.equal(at(kind, p, ten, zero, 0.0, before=torch.tensor([20])), at(kind, p, ten, zero, 0.0))


@every_schedule
def test_a_grid_of_one_step_has_the_forward_variance(name):
    p, last, zero = PROCESSES[name], torch.tensor([T]), torch.tensor([0])
    forward = (-p.schedule.log_alpha_bar[-1:].expm1()).log()
    for bound in log_var_bounds(p.schedule, last, zero):
        torch.testing.assert_close(bound, forward, rtol=1e-13, atol=1e-300)


@every_schedule
@given(times=some_times, offset=st.floats(-3, 3))
def test_learned_is_the_forward_variance_times_what_the_network_says(name, times, offset):
    s, t = sorted(times)
    if t - s < 1e-3:
        return
    p, (t_, s_) = PROCESSES[name], torch.tensor([[t], [s]]).double()
    forward = p.transition(torch.zeros(1, 1, 1, 1, dtype=torch.float64), t_, s_).var.item()
    got = at("learned", p, t_, s_, offset).exp().item()
    assert got == pytest.approx(forward * torch.tensor(offset, dtype=torch.float64).exp().item(), rel=1e-12)


def test_each_example_has_its_own_rule():
    p = PROCESSES["linear"]
    t, s = torch.tensor([1, 10, T]), torch.tensor([0, 5, 0])
    together = at("fixed_large", p, t, s)
    alone = torch.cat([at("fixed_large", p, t[i : i + 1], s[i : i + 1]) for i in range(3)])
    assert torch.equal(together, alone)


def test_errors():
    s, t, z = PROCESSES["linear"].schedule, torch.tensor([2]), torch.tensor([1])
    with pytest.raises(ValueError, match="fixed_medium"):
        log_var("fixed_medium", s, t, z)
    for kind in LEARNED:
        with pytest.raises(ValueError, match=f"{kind} needs"):
            log_var(kind, s, t, z)
