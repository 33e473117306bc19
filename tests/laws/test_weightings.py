"""What a loss weight means does not depend on what the network predicts, and is what its paper says."""

from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undye.diffusion.likelihood import step_kl
from undye.diffusion.prediction import PREDICTIONS
from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule
from undye.diffusion.weighting import P2, SNR, VLB, WEIGHTINGS, MinSNR, Simple
from undye.objective import DISTANCES, OBJECTIVES
from undye.timesteps import TIMESTEPS
from undye.training.run import TrainingConfig

T = 1000
PROCESSES = {name: GaussianProcess(NoiseSchedule.named(name, T)) for name in SCHEDULES}
LINEAR = PROCESSES["linear"].schedule
ALL = torch.arange(1, T + 1)
EPS, X_0, V, MU = (PREDICTIONS[name] for name in ("eps", "x_0", "v", "mu"))

# the table's own, and their other settings
VARIANTS = {name: cls() for name, cls in WEIGHTINGS.items()} | {
    "vlb, fixed_small": VLB("fixed_small"),
    "min_snr, gamma 1": MinSNR(1.0),
    "p2, gamma 0.5, k 0.1": P2(gamma=0.5, k=0.1),
}
every_weighting = pytest.mark.parametrize("weighting", VARIANTS.values(), ids=VARIANTS)
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


def test_configurations_can_name_exactly_these():
    hints = get_type_hints(TrainingConfig)
    assert set(get_args(hints["weighting"])) == set(WEIGHTINGS)
    assert set(get_args(hints["distance"])) == set(DISTANCES)
    assert set(get_args(hints["objective"])) == set(OBJECTIVES)
    assert set(get_args(hints["timesteps"])) == set(TIMESTEPS)
    assert all(name == cls.name for name, cls in WEIGHTINGS.items())


@every_schedule
@pytest.mark.parametrize(
    "weighting",
    [w for w in VARIANTS.values() if w.name != "simple"],
    ids=[name for name in VARIANTS if name != "simple"],
)
@settings(max_examples=6)
@given(t=st.floats(0.5, T) | st.integers(1, T), seed=st.integers(0, 9))
def test_a_weighted_error_is_the_same_number_whatever_is_predicted(name, weighting, t, seed):
    """Two answers at one x_t, each said in every prediction: weight times squared distance is one number."""
    t, p = torch.tensor([t]), PROCESSES[name]
    x_t, first, second = torch.randn(3, 1, 1, 3, 3, dtype=torch.float64, generator=torch.manual_seed(seed))
    answers = [EPS.read(eps, x_t, p.schedule, t) for eps in (first, second)]
    expected = weighting.weight(p.schedule, EPS, t).item() * (first - second).square()
    for prediction in PREDICTIONS.values():
        said = [prediction.target(x_0, eps, p.schedule, t) for x_0, eps in answers]
        got = weighting.weight(p.schedule, prediction, t).item() * (said[0] - said[1]).square()
        # mu is what a small step leaves of two large terms
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-9 * expected.max().item())


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
def test_simple_is_one_whatever_is_predicted(prediction):
    """Ho et al. 2020, Eq. 14: for each quantity another weighting of the error of eps."""
    assert torch.equal(Simple().weight(LINEAR, prediction, ALL), torch.ones(T, dtype=torch.float64))


@every_schedule
def test_snr_is_the_snr_times_the_error_of_x_0(name):
    """Salimans and Ho 2022, section 4: ||eps - eps_hat||^2 = SNR ||x_0 - x_0_hat||^2."""
    s = PROCESSES[name].schedule
    alpha_bar = s.alpha_bar[1:]
    torch.testing.assert_close(SNR().weight(s, X_0, ALL), alpha_bar / (1 - alpha_bar), rtol=1e-9, atol=0)
    assert torch.equal(SNR().weight(s, EPS, ALL), torch.ones(T, dtype=torch.float64))
    # v = eps / a + ...: an error of v is one of eps times 1 / a
    torch.testing.assert_close(SNR().weight(s, V, ALL), alpha_bar, rtol=1e-12, atol=0)


@every_schedule
@pytest.mark.parametrize("gamma", [0.3, 5.0, 20.0])
def test_min_snr_in_the_papers_three_forms(name, gamma):
    """Hang et al. 2023, section 3.4: min(SNR, gamma) for x_0, over SNR for eps, over SNR + 1 for v."""
    s = PROCESSES[name].schedule
    snr = s.alpha_bar[1:] / (1 - s.alpha_bar[1:])
    least = snr.clamp(max=gamma)
    assert (snr > gamma).any()
    assert (snr < gamma).any()
    w = MinSNR(gamma)
    torch.testing.assert_close(w.weight(s, X_0, ALL), least, rtol=1e-9, atol=0)
    torch.testing.assert_close(w.weight(s, EPS, ALL), least / snr, rtol=1e-9, atol=0)
    torch.testing.assert_close(w.weight(s, V, ALL), least / (snr + 1), rtol=1e-9, atol=0)


@every_schedule
@pytest.mark.parametrize(("gamma", "k"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.1), (0.0, 1.0)])
def test_p2_is_the_papers(name, gamma, k):
    """Choi et al. 2022, Eq. 8: 1 / (k + SNR)^gamma on top of L_simple, for a network that predicts eps."""
    s = PROCESSES[name].schedule
    snr = s.alpha_bar[1:] / (1 - s.alpha_bar[1:])
    torch.testing.assert_close(P2(gamma=gamma, k=k).weight(s, EPS, ALL), (k + snr) ** -gamma, rtol=1e-9, atol=0)


@every_schedule
@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_vlb_is_eq_12(name, kind):
    """Ho et al. 2020, Eq. 12, and Eq. 8 for mu: 1 / (2 sigma^2), both times T."""
    s = PROCESSES[name].schedule
    beta, alpha, alpha_bar = s.beta[1:], s.alpha[1:], s.alpha_bar[1:]
    posterior = beta[1:] * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
    # at t = 1 both have the posterior variance of t = 2, as the original code
    sigma2 = torch.cat([posterior[:1], posterior if kind == "fixed_small" else beta[1:]])
    eq_12 = T * beta**2 / (2 * sigma2 * alpha * (1 - alpha_bar))
    torch.testing.assert_close(VLB(kind).weight(s, EPS, ALL), eq_12, rtol=1e-8, atol=0)
    torch.testing.assert_close(VLB(kind).weight(s, MU, ALL), T / (2 * sigma2), rtol=1e-8, atol=0)


@every_schedule
@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
def test_the_mean_of_the_vlb_weighted_error_is_the_bounds_sum(name, kind, prediction):
    """Over t = 2..T: what of the Kullback-Leibler divergences changes with the network, and nothing else."""
    s, t = PROCESSES[name].schedule, torch.arange(2, T + 1)
    true, said = torch.randn(2, len(t), 1, 2, 2, dtype=torch.float64)
    # an x_t of which x_0 can be told at all times: with alpha_bar near 0 an error of eps is an infinite one of x_0
    x_t = torch.randn(len(t), 1, 2, 2, dtype=torch.float64)
    pairs = [PREDICTIONS["v"].read(v, x_t, s, t) for v in (true, said)]
    values = [prediction.target(x_0, eps, s, t) for x_0, eps in pairs]
    weight = VLB(kind).weight(s, prediction, t)
    ours = (weight * (values[0] - values[1]).square().mean((1, 2, 3))).sum() / T
    beta, alpha_bar = s.beta[t], s.alpha_bar[t]
    var = beta if kind == "fixed_large" else beta * (1 - s.alpha_bar[t - 1]) / (1 - alpha_bar)
    error = pairs[0][0] - pairs[1][0]
    terms = [step_kl(s, e, t, t - 1, var.log()).mean((1, 2, 3)) for e in (error, torch.zeros_like(error))]
    assert ours > 0
    torch.testing.assert_close(ours, (terms[0] - terms[1]).sum(), rtol=1e-7, atol=0)


@every_weighting
@every_schedule
@pytest.mark.parametrize("num_steps", [1, 2, 1000, 10_000])
def test_weights_are_positive_and_finite_at_every_time(weighting, name, num_steps):
    """Also as float32, which is what the loss multiplies by, and with zero terminal SNR.

    For x_0 and v they may be too small for a number, where SNR is: with sqrt at T = 10,000 it is exp(-990).
    """
    plain, t = NoiseSchedule.named(name, num_steps), torch.arange(1, num_steps + 1)
    for s in (plain, plain.with_zero_terminal_snr()) if num_steps > 1 else (plain,):
        for prediction in PREDICTIONS.values():
            weight = weighting.weight(s, prediction, t)
            assert weight.shape == (num_steps,)
            assert weight.dtype == torch.float64
            assert weight.float().isfinite().all()
            log_weight = weighting.log_eps_weight(s, t) + 2 * prediction.log_error_ratio(s, t)
            assert log_weight.isfinite().all()
            assert (weight > 0)[log_weight > -700].all()
        assert (weighting.weight(s, EPS, t) > 0).all()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: MinSNR(0.0), "gamma"),
        (lambda: MinSNR(-1.0), "gamma"),
        (lambda: MinSNR(float("nan")), "gamma"),
        (lambda: P2(gamma=-0.1), "gamma"),
        (lambda: P2(k=0.0), "k > 0"),
        (lambda: P2(gamma=float("nan")), "gamma"),
        (lambda: VLB("learned_range"), "learned_range"),
        (lambda: VLB("fixed_medium"), "fixed_medium"),
    ],
)
def test_bad_hyperparameters_are_errors(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_times_are_not_changed_and_each_has_its_own_weight():
    t = torch.tensor([7, 1000, 7, 1])
    for weighting in VARIANTS.values():
        together = weighting.weight(LINEAR, X_0, t)
        alone = torch.cat([weighting.weight(LINEAR, X_0, t[i : i + 1]) for i in range(len(t))])
        assert torch.equal(together, alone)
        assert together[0] == together[2]
    assert t.tolist() == [7, 1000, 7, 1]
