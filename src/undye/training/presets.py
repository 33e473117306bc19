"""The named runs: a model preset and how it is trained. Free of torch, so that `--help` can show the defaults."""

from collections.abc import Mapping

from undye.presets import MODEL_PRESETS, check_preset_name
from undye.training.run import CheckpointConfig, PreviewConfig, RunConfig, TrainingConfig

_RUNS: Mapping[str, tuple[TrainingConfig, CheckpointConfig, PreviewConfig]] = {
    "cpu": (
        TrainingConfig(
            steps=6_000,
            batch_size=64,
            optimizer="muon",
            lr=3e-3,
            warmup=50,
            decay="linear",
            beta2=0.99,
            ema_decay=0.999,
            timesteps="stratified",
        ),
        CheckpointConfig(every=500),
        PreviewConfig(),
    ),
    # Ho et al. 2020, appendix B, and the scripts of their code
    "ddpm-cifar10": (
        TrainingConfig(steps=800_000, batch_size=128, lr=2e-4, warmup=5_000, flip=True, precision="fp32"),
        CheckpointConfig(every=5_000),
        PreviewConfig(count=40, steps=50),
    ),
    "ddpm-256": (
        TrainingConfig(steps=500_000, batch_size=64, lr=2e-5, warmup=5_000, flip=True, precision="fp32"),
        CheckpointConfig(every=5_000),
        PreviewConfig(count=40, n=16, steps=50),
    ),
    "ddpm-256-large": (
        TrainingConfig(steps=1_150_000, batch_size=64, lr=2e-5, warmup=5_000, precision="fp32"),
        CheckpointConfig(every=5_000),
        PreviewConfig(count=40, n=16, steps=50),
    ),
}


def run_preset(name: str) -> RunConfig:
    """The run of a preset; its data is still to be named.

    Raises:
        UserError: for an unknown preset.
    """
    check_preset_name(name)
    training, checkpoint, preview = _RUNS[name]
    return RunConfig(preset=name, model=MODEL_PRESETS[name], training=training, checkpoint=checkpoint, preview=preview)
