"""What every sampler keeps, whoever adds one to the table: run on oracles, where the right answer is known.

With one Gaussian as data an unclipped sampler is an affine map of everything random that it is fed: x_T and each draw
of noise. So its output is exactly Gaussian, and its moments are read off without any sampling: feed it nothing, then
each unit vector in turn.
"""

import math
from dataclasses import FrozenInstanceError, dataclass, replace

import pytest
import torch
from torch import Tensor

from undye.diffusion.schedule import NoiseSchedule
from undye.diffusion.score import log_alpha_bar_at_sigma, sigma_at
from undye.samplers import (
    DDIM,
    DPM2MSDE,
    RK45,
    SAMPLERS,
    Ancestral,
    Euler,
    Heun,
    Langevin,
    PredictorCorrector,
    SampleNoise,
    UniPC,
    final,
)
from undye.samplers.grid import make_grid
from undye.samplers.inversion import inversion_steps, invert
from undye.testing import GaussianMixtureOracle, GaussianOracle

T = 1000
LINEAR = NoiseSchedule.named("linear", T)
GAUSSIAN = GaussianOracle(
    LINEAR, torch.tensor([[[0.4, -0.2]]]), torch.tensor([[0.09, 0.05], [0.05, 0.16]], dtype=torch.float64)
)
WEIGHTS, CENTRES, STDS = [0.3, 0.7], [[[[-0.6, 0.2]]], [[[0.5, -0.1]]]], [0.15, 0.3]
MIXTURE = GaussianMixtureOracle(LINEAR, WEIGHTS, CENTRES, stds=STDS)

# the table's own, and their other settings
VARIANTS = {name: cls() for name, cls in SAMPLERS.items()} | {
    "ancestral, fixed_small": Ancestral(variance="fixed_small"),
    "ancestral, fixed_large": Ancestral(variance="fixed_large"),
    "ddim, eta 0.5": DDIM(eta=0.5),
    "ddim, eta 1": DDIM(eta=1.0),
    "langevin, longer": Langevin(step_size=0.5),
    "unipc, order 1": UniPC(order=1),
    "unipc, order 3": UniPC(order=3),
    "euler, churn": Euler(s_churn=10, s_tmin=0.05, s_tmax=50),
    "heun, churn": Heun(s_churn=10, s_tmin=0.05, s_tmax=50),
    "pc, ddim": PredictorCorrector(predictor="ddim", snr=0.05),
}
every_sampler = pytest.mark.parametrize("sampler", VARIANTS.values(), ids=VARIANTS)


def even(steps: int) -> Tensor:
    """A grid of real times."""
    return torch.linspace(T, 0, steps + 1, dtype=torch.float64)


@dataclass
class CountedNoise:
    """Zeros, and how often they were asked for."""

    calls: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.zeros_like(x)


@dataclass
class UnitNoise:
    """Draw k gives image `first` + k D + j of the batch the unit vector j, and all others nothing."""

    first: int
    calls: int = 0

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        d = x[0].numel()
        start = self.first + self.calls * d
        out[start : start + d] = torch.eye(d, dtype=x.dtype).view(-1, *x.shape[1:])
        self.calls += 1
        return out


def exact_moments(sampler, oracle: GaussianOracle, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the sampler's output, started from the exact q(x_T)."""
    d = oracle.mean.numel()
    counted = CountedNoise()
    final(sampler.steps(oracle, torch.zeros(1, *oracle.mean.shape, dtype=torch.float64), grid, counted))
    a2 = oracle.schedule.log_alpha_bar_at(grid[:1]).exp()
    root = torch.linalg.cholesky(a2 * oracle.cov + (1 - a2) * torch.eye(d))
    x_T = a2.sqrt() * oracle.mean.expand(1 + d + counted.calls * d, *oracle.mean.shape).clone()
    x_T[1 : 1 + d] += root.T.reshape(d, *oracle.mean.shape)
    x = final(sampler.steps(oracle, x_T, grid, UnitNoise(1 + d))).flatten(1)
    columns = x[1:] - x[0]
    return x[0], columns.T @ columns


def error(sampler, steps: int) -> float:
    mean, cov = exact_moments(sampler, GAUSSIAN, even(steps))
    return ((mean - GAUSSIAN.mean.flatten()).norm() + (cov - GAUSSIAN.cov).norm()).item()


@every_sampler
def test_moments_approach_the_datas_as_steps_grow(sampler):
    if isinstance(sampler, RK45):  # its steps are its own, not the grid's
        assert error(sampler, 4) < 1e-3
        return
    coarse, fine = (error(sampler, steps) for steps in (32, 128))
    assert coarse < 0.07
    # Langevin dynamics freezes where sigma falls faster than it mixes: less than order 1, see its docstring
    # the SDE solver's error on this grid changes its sign at some 32 steps; on one that suits it, see below
    assert fine < coarse / (1.6 if isinstance(sampler, Langevin | DPM2MSDE) else 2)


@pytest.mark.parametrize(("kind", "exact"), [("learned", True), ("fixed_small", False), ("fixed_large", False)])
def test_with_the_best_variance_a_chain_of_four_steps_has_the_right_moments(kind, exact):
    """Each reverse step of a Gaussian is Gaussian: its mean and variance are all there is to know, but for the last."""
    mean, std = torch.tensor([[[0.4, -0.2]]], dtype=torch.float64), 0.3
    schedule, grid = NoiseSchedule.named("cosine", 4), torch.arange(4, -1, -1)
    oracle = GaussianMixtureOracle(schedule, [1], mean[None], stds=[std], variance="learned")
    a2, d = schedule.log_alpha_bar_at(grid[:1]).exp(), 2
    x_T = a2.sqrt() * mean.expand(1 + d + 3 * d, *mean.shape).clone()
    x_T[1 : 1 + d] += (a2 * std**2 + 1 - a2).sqrt() * torch.eye(d).view(d, *mean.shape)
    *_, before, _ = Ancestral(variance=kind).steps(oracle, x_T, grid, UnitNoise(1 + d))
    columns = (before.x[1:] - before.x[0]).flatten(1)
    a2 = schedule.log_alpha_bar_at(torch.tensor([before.s])).exp()
    torch.testing.assert_close(before.x[0], a2.sqrt() * mean, rtol=1e-9, atol=1e-9)
    right, got = (a2 * std**2 + 1 - a2) * torch.eye(d), columns.T @ columns
    assert torch.allclose(got, right, rtol=1e-9) is exact
    assert exact or (got - right).abs().max() > 0.01 * right.max()


def test_the_sde_solvers_moments_are_of_second_order():
    """Where ancestral sampling, which is the same without the slope, is of first order."""
    steps = (32, 64, 128)
    for sampler, order in ((DPM2MSDE(), 2), (Ancestral(variance="fixed_small"), 1)):
        errors = []
        for n in steps:
            mean, cov = exact_moments(sampler, GAUSSIAN, make_grid("karras", LINEAR, n, real=True))
            errors.append(((mean - GAUSSIAN.mean.flatten()).norm() + (cov - GAUSSIAN.cov).norm()).item())
        assert abs(slope_of(errors, steps) - order) < 0.25, errors


@every_sampler
def test_a_mixture_is_sampled_with_its_weights_and_moments(sampler):
    """All 100 steps of a schedule as long as the paper's in noise, from a standard normal x_T.

    Five standard errors of n samples, and what 100 steps leave as an error: 0.025 in the covariance.
    """
    n, num_steps = 4000, 100
    schedule = NoiseSchedule.named("linear", num_steps, beta_start=1e-3, beta_end=0.2)
    data = GaussianMixtureOracle(schedule, WEIGHTS, CENTRES, stds=STDS)
    x_T = torch.randn(n, 1, 1, 2, dtype=torch.float64)
    grid = make_grid("uniform", num_steps, 5 if isinstance(sampler, RK45) else None)  # its steps are its own
    x = final(sampler.steps(data, x_T, grid, torch.randn_like)).flatten(1)
    std = data.cov.diagonal().sqrt()
    assert ((x.mean(0) - data.mean.flatten()).abs() < 5 * std / math.sqrt(n) + 0.005).all()
    assert ((x.T.cov() - data.cov).abs() < 5 * math.sqrt(2 / n) * std[:, None] * std + 0.025).all()
    left, expected = (x[:, 0] < -0.2).double().mean(), 0.3 * 0.996 + 0.7 * 0.0098
    assert abs(left - expected) < 5 * math.sqrt(0.3 * 0.7 / n) + 0.01


@every_sampler
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_zero_terminal_snr(sampler, kind):
    """From a sigma of 1e10 down to data as good as from elsewhere: no sampler may take its x_T for large."""
    schedule = NoiseSchedule.named(kind, T, zero_terminal_snr=True)
    data, x_T = replace_schedule(schedule), torch.randn(1000, 1, 1, 2)
    grid = make_grid("uniform", T, 2 if isinstance(sampler, RK45) else 20)
    x = final(sampler.steps(data, x_T, grid, torch.randn_like)).flatten(1)
    assert (x.mean(0) - data.mean.flatten()).abs().max() < 0.12
    assert (x.T.cov().double() - data.cov).abs().max() < 0.15


@every_sampler
@pytest.mark.parametrize("grid", ["uniform", "karras"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_one_step_for_each_pair_of_the_grid(sampler, grid, steps):
    grid = make_grid(grid, LINEAR, steps)
    x_T = torch.randn(3, 1, 1, 2, dtype=torch.float64)
    taken = list(sampler.steps(MIXTURE, x_T, grid, torch.randn_like))
    assert [step.index for step in taken] == list(range(steps))
    assert [step.t for step in taken] == grid[:-1].tolist()
    assert [step.s for step in taken] == grid[1:].tolist()
    assert all(step.x.shape == step.x_0.shape == x_T.shape for step in taken)
    assert all(step.x.dtype == torch.float64 for step in taken)


@every_sampler
def test_the_last_step_takes_the_mean(sampler):
    """Whatever noise there is to be had when s = 0, none of it is in the sample."""

    @dataclass
    class Tap:
        scale: float = 1.0

        def __call__(self, x):
            return torch.full_like(x, self.scale)

    def run(at_the_end: float) -> Tensor:
        noise, x_T = Tap(), torch.ones(1, 1, 1, 2, dtype=torch.float64)
        walk = sampler.steps(MIXTURE, x_T, make_grid("uniform", T, 5), noise)
        for _ in range(4):
            next(walk)
        noise.scale = at_the_end
        return next(walk).x

    assert torch.equal(run(0.0), run(1e6))


@every_sampler
def test_no_mutable_state(sampler):
    """One object in two interleaved walks gives what each walk alone gives."""
    x_T = torch.randn(2, 4, 1, 1, 2, dtype=torch.float64)
    grids = [make_grid("uniform", T, 6), make_grid("quadratic", T, 6)]

    def walk(i):
        return sampler.steps(MIXTURE, x_T[i], grids[i], SampleNoise(i, range(4)))

    alone = [final(walk(i)) for i in range(2)]
    pairs = list(zip(walk(0), walk(1), strict=True))
    assert torch.equal(pairs[-1][0].x, alone[0])
    assert torch.equal(pairs[-1][1].x, alone[1])
    with pytest.raises(FrozenInstanceError):
        sampler.clip = True
    assert hash(sampler) == hash(replace(sampler))


@every_sampler
def test_inputs_are_left_alone(sampler):
    x_T = torch.randn(2, 1, 1, 2, dtype=torch.float64)
    before, states = x_T.clone(), []
    for step in sampler.steps(MIXTURE, x_T, make_grid("uniform", T, 5), torch.randn_like):
        states.append((step.x, step.x.clone()))
    assert torch.equal(x_T, before)
    assert all(torch.equal(kept, then) for kept, then in states)


@every_sampler
@pytest.mark.parametrize("clip", [None, False, True])
def test_clipping_is_the_models_choice_unless_the_sampler_says(sampler, clip):
    far = GaussianMixtureOracle(LINEAR, [1], [[[[3.0]]]], stds=[0.1])
    grid = make_grid("uniform", T, 2 if isinstance(sampler, RK45) else 20)
    for model_clips in (False, True):
        far.config = replace(far.config, clip_x_0=model_clips)
        walk = replace(sampler, clip=clip).steps(
            far, torch.ones(1, 1, 1, 1, dtype=torch.float64), grid, torch.randn_like
        )
        *_, last = walk
        clips = model_clips if clip is None else clip
        assert last.x_0.abs().max() <= 1 if clips else last.x_0.min() > 2
        assert last.x.abs().max() <= 1 + 1e-12 if clips else last.x.min() > 2


@every_sampler
@pytest.mark.parametrize("grid", [[1000, 500], [0], [1001, 0], [500, 500, 0], [100, 200, 0]], ids=str)
def test_grids_that_do_not_fall_to_0(sampler, grid):
    with pytest.raises(ValueError, match="grid"):
        final(sampler.steps(MIXTURE, torch.zeros(1, 1, 1, 2), torch.tensor(grid), torch.randn_like))


def test_names_in_the_table_are_the_samplers_own():
    assert all(name == cls.name for name, cls in SAMPLERS.items())


# the order of an ODE sampler's error in the length of a step, as its paper states it; UniPC's corrector adds one to its
# predictor's
ORDERS = {
    "ddim": (DDIM(), 1),
    "euler": (Euler(), 1),
    "heun": (Heun(), 2),
    "dpm++2m": (SAMPLERS["dpm++2m"](), 2),
    "dpm++3m": (SAMPLERS["dpm++3m"](), 3),
    "unipc, order 1": (UniPC(order=1), 2),
    "unipc, order 2": (UniPC(order=2), 3),
    "unipc, order 3": (UniPC(order=3), 4),
}
every_ode_sampler = pytest.mark.parametrize(("sampler", "order"), ORDERS.values(), ids=ORDERS)
STEPS, FINE = (49, 65, 81, 97), (129, 161, 193, 225)


def test_every_sampler_without_noise_has_its_order_here():
    """rk45 keeps to a tolerance instead, below."""

    def draws(sampler) -> bool:
        noise = CountedNoise()
        final(sampler.steps(GAUSSIAN, torch.zeros(1, 1, 1, 2, dtype=torch.float64), even(5), noise))
        return noise.calls > 0

    ordered = {sampler.name for sampler, _ in ORDERS.values()}
    assert {name for name, cls in SAMPLERS.items() if not draws(cls())} - ordered == {"rk45"}


def to_the_last_level(sampler, oracle, x_T: Tensor, steps: int, rho: float) -> tuple[Tensor, float]:
    """Where a sampler is before its last step, and the time. The last step, to s = 0, is x_0's mean in all of them.

    The grid is even in sigma^(1 / rho), as Karras et al.'s, all the way from T to t = 1. The named grids begin at sigma
    = 80, and the step above it is as long for any number of steps: an error that does not fall.
    """
    schedule = oracle.schedule
    high, low = sigma_at(schedule.log_alpha_bar[[-1, 1]]) ** (1 / rho)
    root = torch.linspace(high, low, steps, dtype=torch.float64)
    # one more time near T, nearer with the square of the step: the first step, which is of order 1, leaves no trace
    second = root[0] + (root[1:2] - root[0]) / steps
    times = schedule.time_at(log_alpha_bar_at_sigma(torch.cat([second, root[1:]]) ** rho))
    ends = torch.tensor([T, 0], dtype=torch.float64)
    *_, before, _ = sampler.steps(oracle, x_T, torch.cat([ends[:1], times, ends[1:]]), CountedNoise())
    return before.x, before.s


@every_ode_sampler
def test_order_of_an_ode_sampler_on_a_gaussian(sampler, order):
    """The exact flow of a Gaussian is known: each path keeps its distance from the mean in standard deviations."""
    x_T = torch.randn(64, 1, 1, 2, dtype=torch.float64)
    exact = GAUSSIAN.flow(x_T, torch.full((64,), T))
    errors = []
    for steps in STEPS:
        x, t = to_the_last_level(sampler, GAUSSIAN, x_T, steps, rho=7)
        errors.append((GAUSSIAN.flow(x, torch.full((64,), t, dtype=torch.float64)) - exact).norm().item())
    assert abs(slope_of(errors, STEPS) - order) < 0.2, errors


@every_ode_sampler
def test_order_of_an_ode_sampler_on_a_mixture(sampler, order):
    """In one dimension the flow keeps quantiles: F_t(x_t) = F_T(x_T), for any data.

    The grid is as good as even in lambda. On it the slope between two neighbours in FINE is the same all along, for
    UniPC of order 3 from 3.9 to 4.1; on one of rho = 7 that is 4.3, and reaches 4.2 at 450 steps.
    """
    weights, means, stds = torch.tensor([[0.3, 0.7], [-0.6, 0.5], [0.15, 0.3]], dtype=torch.float64)
    oracle = GaussianMixtureOracle(LINEAR, weights, means[:, None], stds=stds, image_shape=(1, 1, 1))

    def quantile(x, alpha_bar):
        var = alpha_bar * stds**2 + 1 - alpha_bar
        return (weights * torch.special.ndtr((x.view(-1, 1) - alpha_bar.sqrt() * means) / var.sqrt())).sum(1)

    x_T = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64).view(-1, 1, 1, 1)
    exact = quantile(x_T, LINEAR.alpha_bar[T])
    errors = []
    for steps in FINE:
        x, t = to_the_last_level(sampler, oracle, x_T, steps, rho=1e4)
        alpha_bar = LINEAR.log_alpha_bar_at(torch.tensor(t, dtype=torch.float64)).exp()
        errors.append((quantile(x, alpha_bar) - exact).norm().item())
    assert abs(slope_of(errors, FINE) - order) < 0.2, errors


def slope_of(errors: list[float], steps: tuple[int, ...]) -> float:
    """The order of convergence: minus the slope of a straight line through log error over log steps."""
    x, y = torch.tensor(steps).double().log(), torch.tensor(errors).double().log()
    x, y = x - x.mean(), y - y.mean()
    return -((x * y).sum() / x.square().sum()).item()


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6])
def test_rk45_keeps_to_its_tolerance(tolerance):
    x_T = torch.randn(64, 1, 1, 2, dtype=torch.float64)
    exact = GAUSSIAN.flow(x_T, torch.full((64,), T))
    before, _ = RK45(tolerance=tolerance).steps(GAUSSIAN, x_T, torch.tensor([T, 1, 0]), CountedNoise())
    error = (GAUSSIAN.flow(before.x, torch.ones(64)) - exact).square().mean().sqrt()
    assert error < 5 * tolerance


@every_sampler
def test_network_calls_are_those_foretold(sampler):
    @dataclass
    class Counts:
        model: GaussianMixtureOracle
        calls: int = 0

        def __getattr__(self, name):
            return getattr(self.model, name)

        def __call__(self, x_t, t):
            self.calls += 1
            return self.model(x_t, t)

    cosine = replace_schedule(NoiseSchedule.named("cosine", T))
    for model in (MIXTURE, cosine):
        for grid in (make_grid("uniform", T, 7), make_grid("karras", model.schedule, 2), torch.tensor([T, 0])):
            counts, x_T = Counts(model), torch.randn(3, 1, 1, 2, dtype=torch.float64)
            final(sampler.steps(counts, x_T, grid, torch.randn_like))
            told = sampler.calls(model.schedule, grid)
            assert told == (None if isinstance(sampler, RK45) else counts.calls)


def replace_schedule(schedule: NoiseSchedule) -> GaussianMixtureOracle:
    return GaussianMixtureOracle(schedule, WEIGHTS, CENTRES, stds=STDS)


def round_trip(iterations: int, steps: int, oracle=MIXTURE) -> float:
    x_0, grid = oracle.sample(16, seed=1), make_grid("uniform", T, steps)
    x_T = invert(oracle, x_0, grid, iterations)
    return (final(DDIM().steps(oracle, x_T, grid, torch.zeros_like)) - x_0).abs().max().item()


def test_inversion_without_correction_is_of_first_order():
    steps = (100, 200, 400)
    errors = [round_trip(0, n) for n in steps]
    assert abs(slope_of(errors, steps) - 1) < 0.2, errors


@pytest.mark.parametrize("oracle", [GAUSSIAN, MIXTURE, replace_schedule(NoiseSchedule.named("cosine", T))])
def test_inversion_with_correction_is_undone_by_ddim(oracle):
    assert round_trip(0, 200, oracle) > 1e-3
    assert round_trip(3, 200, oracle) < 1e-3
    assert round_trip(8, 200, oracle) < 1e-7


def test_inverted_data_are_noise():
    """x_T of data is standard normal, as what samples start from; and the states on the way have the marginals."""
    x_0 = MIXTURE.sample(4000, seed=2)
    states = list(inversion_steps(MIXTURE, x_0, make_grid("uniform", T, 100), 2))
    assert [step.t for step in states] == list(range(10, T + 1, 10))
    assert states[0].s == 0
    x_T = states[-1].x.flatten(1)
    assert x_T.mean(0).abs().max() < 5 / math.sqrt(4000)
    assert (x_T.T.cov() - torch.eye(2)).abs().max() < 5 * math.sqrt(2 / 4000)
    middle = states[29]
    a2 = LINEAR.alpha_bar[300]
    assert (middle.x.flatten(1).T.cov() - (a2 * MIXTURE.cov + (1 - a2) * torch.eye(2))).abs().max() < 0.08
