"""The loop's step: schedule of the learning rate, clipping, learning."""

import copy
import math
from dataclasses import replace
from itertools import islice

import pytest
import torch

from undye.denoiser import Denoiser
from undye.objective import SimpleObjective
from undye.timesteps import Importance
from undye.training.batches import BatchStream
from undye.training.run import RunConfig, TrainingConfig
from undye.training.setup import build_model, load_data
from undye.training.trainer import Trainer, dropout_seed
from undye.world import World


def trainer(config: RunConfig, **settings) -> tuple[Trainer, BatchStream]:
    source = load_data(config)
    config, denoiser = build_model(config, source)
    t = TrainingConfig(**{**vars(config.training), **settings})
    return (
        Trainer(denoiser, SimpleObjective(), t, config.seed, World("cpu")),
        BatchStream(source, t.batch_size, config.seed),
    )


def test_learning_rate(quiet: RunConfig) -> None:
    t, _ = trainer(quiet, steps=100, warmup=10, lr=1.0, decay="linear")
    assert [t.learning_rate(i) for i in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [t.learning_rate(i) for i in (10, 55, 99)] == pytest.approx([1.0, 0.5, 1 / 90])
    t.total_steps = None
    assert [t.learning_rate(i) for i in (0, 9)] == pytest.approx([0.1, 1.0]), "the warm-up does not need the total"
    c, _ = trainer(quiet, steps=100, warmup=0, lr=1.0, decay="cosine")
    assert [c.learning_rate(i) for i in (0, 50)] == pytest.approx([1.0, 0.5])
    assert c.learning_rate(99) < 1e-3
    n, _ = trainer(quiet, steps=100, warmup=0, lr=1.0, decay="none")
    assert n.learning_rate(99) == 1.0


def test_a_step_is_adam_on_the_clipped_gradient(quiet: RunConfig) -> None:
    t, stream = trainer(quiet, optimizer="adam", warmup=0, decay="none", grad_clip=1e-3)
    twin = Denoiser.from_config(t.denoiser.config)
    twin.load_state_dict(t.denoiser.state_dict())
    optimizer = torch.optim.Adam(twin.parameters(), lr=t.config.lr, betas=(0.9, t.config.beta2))
    batch = stream.at(0)
    draw = t.objective.draw((1, 8, 8), 100, 0, 0, batch.examples)
    torch.manual_seed(dropout_seed(0, 0, 0))
    t.objective.loss(twin.train(), batch.x_0, draw).mean().backward()
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in twin.parameters() if p.grad is not None))
    for p in twin.parameters():
        if p.grad is not None:
            p.grad *= 1e-3 / (norm + 1e-6)
    optimizer.step()
    done = next(iter(t.steps([batch])))
    assert done.grad_norm == pytest.approx(norm, rel=1e-4)
    assert norm > 1e-3, "the clipping must have had something to do"
    for a, b in zip(t.denoiser.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_losses_are_weighted_by_how_rarely_their_times_are_drawn(quiet: RunConfig) -> None:
    """1 / (T p(t)) in the mean and in the gradient, and not in what the sampler is told."""
    num_steps = 4
    config = replace(quiet, model=replace(quiet.model, schedule=replace(quiet.model.schedule, num_steps=num_steps)))
    t, stream = trainer(config, optimizer="adam", warmup=0, grad_clip=0.0)
    preferring = Importance(num_steps, history=1)
    preferring.observe(torch.arange(1, 5), torch.tensor([8.0, 4.0, 2.0, 1.0]))
    t.objective = SimpleObjective(timesteps=preferring)
    batch = stream.at(0)
    draw = t.objective.draw((1, 8, 8), num_steps, 0, 0, batch.examples)
    twin = copy.deepcopy(t.denoiser)
    torch.manual_seed(dropout_seed(0, 0, 0))
    losses = t.objective.loss(twin, batch.x_0, draw)
    weighted = (losses * draw.weight.float()).mean()
    weighted.backward()
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in twin.parameters() if p.grad is not None))
    done = next(iter(t.steps([batch])))
    assert done.loss == pytest.approx(weighted.item(), rel=1e-5)
    assert done.loss != pytest.approx(losses.mean().item(), rel=0.01), "the weights make a difference"
    assert done.grad_norm == pytest.approx(norm, rel=1e-4)
    told = preferring.state()["losses"].flatten()
    for time in draw.t.unique().tolist():
        last = losses[draw.t == time][-1].item()
        assert told[time - 1].item() == pytest.approx(last, rel=1e-5)


def test_the_loss_falls(quiet: RunConfig) -> None:
    t, stream = trainer(quiet, steps=150, lr=3e-3)
    losses = [event.loss for event in t.steps(islice(stream.since(0), 150))]
    assert sum(losses[-30:]) < 0.85 * sum(losses[:30])
    assert t.step == 150
