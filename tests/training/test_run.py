"""RunConfig and the time budget's notation."""

from dataclasses import replace

import pytest

from undye.config import ModelConfig
from undye.diffusion.variance import LEARNED
from undye.diffusion.weighting import VLB, WEIGHTINGS
from undye.errors import UserError
from undye.objective import DISTANCES, OBJECTIVES, HybridObjective, SimpleObjective
from undye.presets import MODEL_PRESETS
from undye.structure import structure, unstructure
from undye.timesteps import TIMESTEPS, Importance
from undye.training.presets import run_preset
from undye.training.run import CheckpointConfig, PreviewConfig, RunConfig, TrainingConfig, parse_duration
from undye.training.setup import build_objective


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


def run_config(variance: str, **training) -> RunConfig:
    return RunConfig(model=ModelConfig(variance=variance), training=TrainingConfig(**training))


@pytest.mark.parametrize(
    ("variance", "training", "match"),
    [
        ("fixed_small", {"objective": "hybrid"}, "learned_range or learned"),
        ("fixed_large", {"objective": "hybrid"}, "learned_range or learned"),
        ("learned_range", {"weighting": "vlb", "objective": "hybrid"}, "fixed variances"),
        ("learned", {"weighting": "vlb", "objective": "hybrid"}, "fixed variances"),
        ("fixed_large", {"objective": "vlb", "distance": "l1"}, "its own distance"),
        ("learned", {"objective": "vlb", "distance": "huber"}, "its own distance"),
        ("fixed_large", {"objective": "vlb", "weighting": "min_snr"}, "its own distance"),
        ("fixed_large", {"objective": "vlb", "weighting": "vlb"}, "its own distance"),
    ],
)
def test_objectives_that_do_not_fit_the_model_are_errors(variance: str, training: dict, match: str) -> None:
    with pytest.raises(UserError, match=match):
        run_config(variance, **training)


@pytest.mark.parametrize("variance", LEARNED)
def test_the_simple_loss_does_not_train_a_variance(variance: str) -> None:
    """Not at once: a run that only begins with --init may be given its variance by the model."""
    with pytest.raises(UserError, match=f"does not train {variance}"):
        build_objective(run_config(variance))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("timesteps", TIMESTEPS)
def test_the_objective_is_the_one_that_was_asked_for(objective: str, timesteps: str) -> None:
    variance = "learned" if objective == "hybrid" else "fixed_small"
    built = build_objective(run_config(variance, objective=objective, timesteps=timesteps, label_drop=0.3))
    assert (built.name, built.timesteps.name, built.label_drop) == (objective, timesteps, 0.3)
    if isinstance(built.timesteps, Importance):
        assert len(built.timesteps.probabilities()) == 1000


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_distance_and_the_weighting_are_those_that_were_asked_for(weighting: str, distance: str) -> None:
    for variance in ("fixed_small", "fixed_large"):
        built = build_objective(run_config(variance, weighting=weighting, distance=distance))
        assert isinstance(built, SimpleObjective)
        assert (built.weighting.name, built.distance) == (weighting, distance)
        if isinstance(built.weighting, VLB):
            assert built.weighting.variance == variance, "Eq. 12 has the model's variance in it"
    if weighting != "vlb":
        built = build_objective(run_config("learned", weighting=weighting, distance=distance, objective="hybrid"))
        assert isinstance(built, HybridObjective)
        assert (built.weighting.name, built.distance) == (weighting, distance)


@pytest.mark.parametrize("name", sorted(MODEL_PRESETS))
def test_presets_survive_plain_data(name: str) -> None:
    config = run_preset(name)
    assert structure(RunConfig, unstructure(config), "test") == config


def test_the_papers_training() -> None:
    training = run_preset("ddpm-cifar10").training
    assert (training.lr, training.warmup, training.batch_size, training.steps) == (2e-4, 5000, 128, 800_000)
    assert (training.ema_decay, training.grad_clip, training.flip) == (0.9999, 1.0, True)
    assert replace(run_preset("ddpm-256").training).lr == 2e-5
