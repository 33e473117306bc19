"""RunConfig and the time budget's notation."""

from dataclasses import replace

import pytest

from undye.errors import UserError
from undye.presets import MODEL_PRESETS
from undye.structure import structure, unstructure
from undye.training.presets import run_preset
from undye.training.run import CheckpointConfig, PreviewConfig, RunConfig, TrainingConfig, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("1h30m", 5400), ("2d", 172800), (" 5M ", 300)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "ten minutes", "-5m", "0s", "1..5h", "5m3", "1e3s"])
def test_unreadable_durations(text: str) -> None:
    with pytest.raises(UserError, match="90s"):
        parse_duration(text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RunConfig(training=TrainingConfig(steps=0)),
        lambda: RunConfig(training=TrainingConfig(batch_size=0)),
        lambda: RunConfig(training=TrainingConfig(lr=0.0)),
        lambda: RunConfig(training=TrainingConfig(lr=float("nan"))),
        lambda: RunConfig(training=TrainingConfig(ema_decay=1.0)),
        lambda: RunConfig(training=TrainingConfig(label_drop=-0.1)),
        lambda: RunConfig(training=TrainingConfig(grad_clip=-1.0)),
        lambda: RunConfig(checkpoint=CheckpointConfig(every=0)),
        lambda: RunConfig(preview=PreviewConfig(n=0)),
        lambda: RunConfig(budget_seconds=0.0),
        lambda: RunConfig(seed=-1),
    ],
)
def test_settings_out_of_range_are_errors(make) -> None:
    with pytest.raises(UserError):
        make()


@pytest.mark.parametrize("name", sorted(MODEL_PRESETS))
def test_presets_survive_plain_data(name: str) -> None:
    config = run_preset(name)
    assert structure(RunConfig, unstructure(config), "test") == config


def test_the_papers_training() -> None:
    training = run_preset("ddpm-cifar10").training
    assert (training.lr, training.warmup, training.batch_size, training.steps) == (2e-4, 5000, 128, 800_000)
    assert (training.ema_decay, training.grad_clip, training.flip) == (0.9999, 1.0, True)
    assert replace(run_preset("ddpm-256").training).lr == 2e-5
