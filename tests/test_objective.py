import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from undye.config import CompactConfig, ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser, build_schedule
from undye.diffusion.likelihood import gaussian_kl
from undye.diffusion.prediction import PREDICTIONS
from undye.diffusion.process import GaussianProcess
from undye.diffusion.variance import LEARNED, VARIANCES
from undye.diffusion.weighting import WEIGHTINGS
from undye.objective import DISTANCES, Draw, HybridObjective, SimpleObjective, VLBObjective
from undye.timesteps import TIMESTEPS, Importance, timestep_sampler

SHAPE = (1, 2, 2)


class Notes(nn.Module):
    """Says nothing, and keeps what it was shown."""

    def forward(self, x, t, label=None):
        self.x, self.t, self.label = x, t, label
        return torch.full_like(x, 0.25)


def model(**options):
    return Denoiser(Notes(), ModelConfig(**{"image_size": (2, 2), "channels": 1, **options}))


def draw(examples, seed=0, step=5, num_steps=1000, objective=None, **options):
    return (objective or SimpleObjective()).draw(SHAPE, num_steps, seed, step, np.asarray(examples), **options)


@pytest.mark.parametrize("name", TIMESTEPS)
@pytest.mark.parametrize("num_steps", [1, 2, 10])
def test_timesteps_are_uniform(num_steps, name):
    n, objective = 20, SimpleObjective(timesteps=timestep_sampler(name, num_steps))
    t = torch.cat([draw(np.arange(n), step=step, num_steps=num_steps, objective=objective).t for step in range(200)])
    assert t.dtype == torch.int64
    counts = torch.bincount(t, minlength=num_steps + 2)
    assert counts[0] == counts[num_steps + 1] == 0
    expected = len(t) / num_steps
    assert ((counts[1:-1] - expected).abs() < 5 * expected**0.5).all()


def test_stratified_timesteps_cover_the_range_in_every_batch():
    objective = SimpleObjective(timesteps=timestep_sampler("stratified", 1000))
    batches = [draw(np.arange(20), step=step, objective=objective).t for step in range(4)]
    for t in batches:
        assert torch.equal((t.sort().values - 1) // 50, torch.arange(20))
    assert not torch.equal(batches[0], batches[1])


@pytest.mark.parametrize("name", TIMESTEPS)
def test_a_draw_does_not_depend_on_how_the_batch_is_split(name):
    objective = SimpleObjective(label_drop=0.5, timesteps=timestep_sampler(name, 1000))
    whole = draw(range(12), objective=objective)
    for split in ([range(5), range(5, 12)], [range(0, 12, 2), range(1, 12, 2)], [[i] for i in range(12)]):
        for part in split:
            got = draw(part, objective=objective, batch_size=12)
            index = torch.tensor(list(part))
            assert torch.equal(got.t, whole.t[index])
            assert torch.equal(got.eps, whole.eps[index])
            assert torch.equal(got.keep_label, whole.keep_label[index])


def test_draws_differ_by_example_step_and_seed():
    a, b, c = draw([0, 1]), draw([0, 1], step=6), draw([0, 1], seed=1)
    values = torch.cat([x.eps for x in (a, b, c)]).flatten(1)
    assert (torch.cdist(values, values) + 9 * torch.eye(6)).min() > 0.1
    assert len(torch.cat([x.t for x in (a, b, c)]).unique()) > 4


def test_noise_is_standard_normal():
    eps = SimpleObjective().draw((3, 16, 16), 1000, 0, 0, np.arange(100)).eps
    assert eps.shape == (100, 3, 16, 16)
    assert eps.dtype == torch.float32
    n = eps.numel()
    assert abs(eps.mean()) < 5 / n**0.5
    assert abs(eps.var() - 1) < 5 * (2 / n) ** 0.5


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_label_drop_is_per_example(fraction):
    n = 2000
    dropped = ~draw(np.arange(n), objective=SimpleObjective(label_drop=fraction)).keep_label
    assert abs(dropped.float().mean() - fraction) <= 5 * (fraction * (1 - fraction) / n) ** 0.5
    t = draw(np.arange(n), objective=SimpleObjective(label_drop=fraction)).t.float()
    if 0 < fraction < 1:
        assert abs(t[dropped].mean() - t[~dropped].mean()) < 5 * 289 * (1 / (fraction * (1 - fraction) * n)) ** 0.5


@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_loss_by_hand(prediction):
    denoiser = model(prediction=prediction)
    x_0 = torch.rand(3, *SHAPE) * 2 - 1
    given = Draw(
        torch.tensor([1, 300, 1000]), torch.randn(3, *SHAPE), torch.ones(3, dtype=torch.bool), torch.ones(3).double()
    )
    loss = SimpleObjective().loss(denoiser, x_0, given)
    for i, t in enumerate(given.t):
        alpha_bar = denoiser.schedule.alpha_bar[t].item()
        a, b = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
        eps = given.eps[i]
        target = {"eps": eps, "x_0": x_0[i], "v": a * eps - b * x_0[i]}[prediction]
        assert loss[i].item() == pytest.approx(((0.25 - target) ** 2).mean().item(), rel=1e-5)
        torch.testing.assert_close(denoiser.network.x[i], a * x_0[i] + b * eps, rtol=1e-5, atol=1e-6)
    assert loss.dtype == torch.float32
    assert denoiser.network.t.tolist() == [0, 299, 999]
    assert denoiser.network.label is None


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_network_has_no_loss(prediction):
    denoiser, x_0 = model(prediction=prediction), torch.randn(3, *SHAPE)
    given = draw(range(3))
    target = denoiser.prediction.target(x_0, given.eps, denoiser.schedule, given.t)
    denoiser.network.forward = lambda x, t, label=None: target
    assert SimpleObjective().loss(denoiser, x_0, given).tolist() == [0, 0, 0]


def test_dropped_labels_become_the_null_label():
    denoiser = model(num_classes=7)
    given = replace(draw(range(4)), keep_label=torch.tensor([True, False, True, False]))
    label = torch.tensor([6, 5, 0, 1])
    SimpleObjective().loss(denoiser, torch.zeros(4, *SHAPE), given, label)
    assert denoiser.network.label.tolist() == [6, 7, 0, 7]
    assert label.tolist() == [6, 5, 0, 1]


def test_gradients_flow():
    denoiser = Denoiser.from_preset("cpu", image_size=(4, 4))
    loss = SimpleObjective().loss(
        denoiser, torch.zeros(2, 1, 4, 4), SimpleObjective().draw((1, 4, 4), 9, 0, 0, np.arange(2))
    )
    loss.mean().backward()
    assert denoiser.network.head.weight.grad.abs().max() > 0


def test_learned_range_is_trained_on_the_mean_alone():
    denoiser = model(variance="learned_range", schedule=ScheduleConfig(num_steps=10))
    denoiser.network.forward = lambda x, t, label=None: torch.cat([x, 99 * torch.ones_like(x)], dim=1)
    given = draw(range(2), num_steps=10)
    x_t = denoiser.process.q_sample(torch.zeros(2, *SHAPE), given.t, given.eps)
    expected = (x_t - given.eps).square().mean((1, 2, 3))
    torch.testing.assert_close(SimpleObjective().loss(denoiser, torch.zeros(2, *SHAPE), given), expected)


class Says(nn.Module):
    """Says the same whatever it sees; what it says can be learned."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, x, t, label=None):
        return self.value


def saying(value, **options):
    config = {"image_size": value.shape[2:], "channels": 1, **options}
    return Denoiser(Says(value), ModelConfig(**config))


def at(t, eps):
    """The draw of times t with this noise."""
    n = len(t)
    return Draw(t, eps, torch.ones(n, dtype=torch.bool), torch.ones(n, dtype=torch.float64))


def test_distances_by_hand():
    """l1: |e|. huber: e^2 / 2 up to 1, |e| - 1/2 beyond."""
    errors = [0.5, -0.25, 2.0, -3.0]
    given = at(torch.tensor([5]), torch.zeros(1, *SHAPE))
    denoiser = saying(torch.tensor(errors).view(1, *SHAPE))
    x_0 = torch.rand(1, *SHAPE)
    expected = {
        "l2": (0.25 + 0.0625 + 4 + 9) / 4,
        "l1": (0.5 + 0.25 + 2 + 3) / 4,
        "huber": (0.125 + 0.03125 + 1.5 + 2.5) / 4,
    }
    assert set(expected) == set(DISTANCES)
    for name, value in expected.items():
        assert SimpleObjective(distance=name).loss(denoiser, x_0, given).item() == pytest.approx(value)
    with pytest.raises(ValueError, match="unknown distance 'l3': choose from l2, l1, huber"):
        SimpleObjective(distance="l3")


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("weighting", [cls() for cls in WEIGHTINGS.values()], ids=lambda w: w.name)
def test_the_weight_of_its_time_multiplies_each_loss(weighting, prediction, distance):
    t = torch.tensor([1, 2, 300, 1000])
    x_0, eps, value = torch.randn(3, 4, *SHAPE)
    denoiser = saying(value, prediction=prediction)
    plain = SimpleObjective(distance=distance).loss(denoiser, x_0, at(t, eps))
    weighted = SimpleObjective(distance=distance, weighting=weighting).loss(denoiser, x_0, at(t, eps))
    weight = weighting.weight(denoiser.schedule, PREDICTIONS[prediction], t)
    torch.testing.assert_close(weighted.double(), plain.double() * weight, rtol=1e-5, atol=0)
    assert weighted.dtype == torch.float32


def bound_by_hand(denoiser, x_0, t, eps):
    """L_{t-1} and L_0 (Ho et al. 2020, Eqs. 5, 7 and 13) of each example in bits/dim, float64, one by one."""
    s, p, out = denoiser.schedule, denoiser.process, []
    x_0, eps, said = (x.detach().double() for x in (x_0, eps, denoiser.network.value))
    for i in range(len(t)):
        now = t[i : i + 1]
        true, word = x_0[i : i + 1], said[i : i + 1]
        beta, beta_tilde = s.beta[now], (s.beta[1:] * (1 - s.alpha_bar[:-1]) / (1 - s.alpha_bar[1:]))[now - 1]
        if now == 1:
            beta_tilde = s.beta[2] * (1 - s.alpha_bar[1]) / (1 - s.alpha_bar[2])
        kind, raw = denoiser.config.variance, word[:, 1:]
        log_var = {
            "fixed_small": beta_tilde.log(),
            "fixed_large": beta_tilde.log() if now == 1 else beta.log(),
            "learned_range": (raw + 1) / 2 * beta.log() + (1 - raw) / 2 * beta_tilde.log(),
            "learned": beta.log() + raw,
        }[kind].expand_as(true)
        x_t = p.q_sample(true, now, eps[i : i + 1])
        x_0_hat, _ = denoiser.prediction.read(word[:, :1], x_t, s, now)
        if now == 1:
            spread = (0.5 * log_var).exp()
            upper = torch.where(true > 0.999, 1.0, torch.special.ndtr((true + 1 / 255 - x_0_hat) / spread))
            lower = torch.where(true < -0.999, 0.0, torch.special.ndtr((true - 1 / 255 - x_0_hat) / spread))
            term = -(upper - lower).log()
        else:
            q, mean = p.posterior(true, x_t, now), p.posterior(x_0_hat, x_t, now).mean
            term = gaussian_kl(q.mean, beta_tilde.log().expand_as(true), mean, log_var)
        out.append(term.mean() / math.log(2))
    return torch.stack(out)


def pixels(n, *shape):
    """Images of the 256 levels, the lowest and the highest among them."""
    levels = torch.randint(0, 256, (n, *shape))
    levels[:, ..., 0, 0], levels[:, ..., 0, 1] = 0, 255
    return levels * (2 / 255) - 1


def answers(denoiser_options, x_0, t, eps, off):
    """A denoiser that is off by so much in eps, and whose variance channel, if it has one, is random in [-1, 1]."""
    schedule = build_schedule(denoiser_options.get("schedule", ScheduleConfig()))
    x_0, eps = x_0.double(), eps.double()
    x_t = GaussianProcess(schedule).q_sample(x_0, t, eps)
    said = PREDICTIONS["eps"].read(eps + off * torch.randn_like(eps), x_t, schedule, t)
    target = PREDICTIONS[denoiser_options["prediction"]].target(*said, schedule, t).float()
    if denoiser_options["variance"] in LEARNED:
        target = torch.cat([target, torch.rand_like(target) * 2 - 1], dim=1)
    return saying(target, **denoiser_options)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_vlb_is_the_bounds_term_times_the_number_of_steps(prediction, variance):
    """Every kind of term: the decoder, the step from 2, where variances differ most, steps with much and no noise."""
    t = torch.tensor([1, 1, 2, 3, 10, 100, 300, 900, 1000])
    x_0, eps = pixels(len(t), 1, 4, 4), torch.randn(len(t), 1, 4, 4)
    denoiser = answers({"prediction": prediction, "variance": variance}, x_0, t, eps, off=0.5)
    loss = VLBObjective().loss(denoiser, x_0, at(t, eps))
    expected = 1000 * bound_by_hand(denoiser, x_0, t, eps)
    assert loss.dtype == torch.float32
    assert (expected > 0.1).all()
    torch.testing.assert_close(loss.double(), expected, rtol=5e-4, atol=0)


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_weighted_mean_of_vlb_over_t_is_the_whole_sum(variance):
    """Ho et al. 2020, Eq. 5, without L_T: uniform in t, and with probabilities and weights that are not."""
    num_steps = 20
    t = torch.arange(1, num_steps + 1)
    x_0 = pixels(1, 1, 4, 4).expand(num_steps, 1, 4, 4)
    eps = torch.randn(num_steps, 1, 4, 4)
    options = {"prediction": "v", "variance": variance, "schedule": ScheduleConfig(name="cosine", num_steps=num_steps)}
    denoiser = answers(options, x_0, t, eps, off=0.3)
    loss = VLBObjective().loss(denoiser, x_0, at(t, eps)).detach().double()
    total = bound_by_hand(denoiser, x_0, t, eps).sum()
    torch.testing.assert_close(loss.mean(), total, rtol=1e-4, atol=0)
    preferring = Importance(num_steps, history=1)
    preferring.observe(t, loss)
    p = preferring.probabilities()
    edges = np.concatenate([[0], p.cumsum()])
    drawn, weight = preferring.draw((edges[1:] + edges[:-1]) / 2, num_steps, 0, 0, np.arange(num_steps), num_steps)
    assert drawn.tolist() == t.tolist()
    assert (p * weight * loss.numpy()).sum() == pytest.approx(total.item(), rel=1e-4)


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("size", [0.01, 1.0, 20.0])
def test_gradients_are_finite_at_every_time(size, prediction, variance):
    """All t of T = 1000 in one batch; a variance channel of 20 is ten times the range, or a factor of e^20."""
    t = torch.arange(1, 1001)
    value = size * torch.randn(1000, 2 if variance in LEARNED else 1, 2, 2).sign() * torch.rand(1000, 1, 2, 2)
    value[::2, 1:] = size
    value[1::2, 1:] = -size
    denoiser = saying(value, prediction=prediction, variance=variance)
    x_0, given = pixels(1000, 1, 2, 2), at(t, torch.randn(1000, 1, 2, 2))
    objectives = [VLBObjective(), *([HybridObjective()] if variance in LEARNED else [])]
    for objective in objectives:
        denoiser.network.value.grad = None
        loss = objective.loss(denoiser, x_0, given)
        assert loss.isfinite().all()
        loss.mean().backward()
        gradient = denoiser.network.value.grad
        assert gradient.isfinite().all()
        assert (gradient.abs().sum((1, 2, 3)) > 0).all(), "and each t has one"


def test_real_networks_get_finite_gradients_from_the_bound():
    config = ModelConfig(
        network=CompactConfig(channels=(8, 16), blocks=(1, 1), head_channels=8),
        image_size=(4, 4),
        channels=1,
        variance="learned",
    )
    denoiser, t = Denoiser.from_config(config), torch.arange(1, 1001, 9)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.5)
    loss = VLBObjective().loss(denoiser, pixels(len(t), 1, 4, 4), at(t, torch.randn(len(t), 1, 4, 4)))
    loss.mean().backward()
    gradients = [p.grad for p in denoiser.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("variance", LEARNED)
@pytest.mark.parametrize("vlb_weight", [1e-3, 0.5])
def test_in_hybrid_the_bound_teaches_the_variance_alone(variance, vlb_weight):
    """Nichol and Dhariwal 2021, section 3.1: L_simple + lambda L_vlb, with a stop-gradient on the mean in L_vlb."""
    t = torch.tensor([1, 2, 50, 400, 1000])
    x_0, eps = pixels(5, 1, 2, 2), torch.randn(5, 1, 2, 2)
    denoiser = answers({"prediction": "eps", "variance": variance}, x_0, t, eps, off=0.4)
    losses, gradients = {}, {}
    hybrid = HybridObjective(vlb_weight=vlb_weight)
    for objective in (SimpleObjective(), VLBObjective(), hybrid):
        denoiser.network.value.grad = None
        losses[objective.name] = objective.loss(denoiser, x_0, at(t, eps))
        losses[objective.name].sum().backward()
        gradients[objective.name] = denoiser.network.value.grad
    torch.testing.assert_close(losses["hybrid"], losses["simple"] + vlb_weight * losses["vlb"])
    mean, word = slice(0, 1), slice(1, 2)
    assert torch.equal(gradients["hybrid"][:, mean], gradients["simple"][:, mean])
    assert gradients["vlb"][:, mean].abs().min() > 0, "there was something to stop"
    assert gradients["simple"][:, word].abs().max() == 0
    torch.testing.assert_close(gradients["hybrid"][:, word], vlb_weight * gradients["vlb"][:, word])
    assert gradients["vlb"][:, word].abs().min() > 0


def test_hybrid_takes_the_distance_and_weighting_of_simple():
    t, x_0, eps = torch.tensor([3, 700]), pixels(2, 1, 2, 2), torch.randn(2, 1, 2, 2)
    denoiser = answers({"prediction": "v", "variance": "learned_range"}, x_0, t, eps, off=0.4)
    options = {"distance": "l1", "weighting": WEIGHTINGS["min_snr"]()}
    simple = SimpleObjective(**options).loss(denoiser, x_0, at(t, eps))
    hybrid = HybridObjective(**options, vlb_weight=0.0).loss(denoiser, x_0, at(t, eps))
    assert torch.equal(hybrid, simple)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_hybrid_needs_a_learned_variance(variance):
    with pytest.raises(ValueError, match="learned_range or learned"):
        HybridObjective().loss(model(variance=variance), torch.zeros(2, *SHAPE), draw(range(2)))


def test_draws_are_weighted_as_the_timesteps_say():
    """The objective hands on t and weight as drawn, example by example, and leaves the losses unweighted."""
    preferring = Importance(4, history=1)
    preferring.observe(torch.arange(1, 5), torch.tensor([8.0, 4.0, 2.0, 1.0]))
    objective = SimpleObjective(timesteps=preferring)
    given = draw(range(400), num_steps=4, objective=objective)
    p = torch.from_numpy(preferring.probabilities())
    torch.testing.assert_close(given.weight, 1 / (4 * p[given.t - 1]))
    assert given.weight.unique().numel() == 4
    denoiser = model(schedule=ScheduleConfig(name="cosine", num_steps=4))
    x_0 = torch.zeros(400, *SHAPE)
    unweighted = replace(given, weight=torch.ones(400, dtype=torch.float64))
    assert torch.equal(objective.loss(denoiser, x_0, given), objective.loss(denoiser, x_0, unweighted))


def test_without_a_null_label_none_is_dropped():
    """A class table as OpenAI's: there is no row that a dropped label could become."""
    denoiser = model(num_classes=7, null_label=False)
    given = replace(draw(range(4)), keep_label=torch.zeros(4, dtype=torch.bool))
    label = torch.tensor([6, 5, 0, 1])
    SimpleObjective().loss(denoiser, torch.zeros(4, *SHAPE), given, label)
    assert denoiser.network.label.tolist() == label.tolist()
