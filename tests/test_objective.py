from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from undye.config import ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser
from undye.diffusion.prediction import PREDICTIONS
from undye.objective import Draw, SimpleObjective
from undye.timesteps import TIMESTEPS, timestep_sampler

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
