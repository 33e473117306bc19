"""A run small enough for tests: a tiny network on a few images, seconds on one core."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from undye.config import CompactConfig, ModelConfig, ScheduleConfig
from undye.training.run import CheckpointConfig, PreviewConfig, RunConfig, TrainingConfig


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An .npz of 20 images, 8x8 greyscale, with labels in 2 classes."""
    rng = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    labels = np.arange(20) % 2
    base = np.where(labels[:, None, None, None] == 0, 40, 200)
    np.savez(path, images=(base + rng.integers(0, 40, (20, 8, 8, 1))).astype(np.uint8), labels=labels)
    return path


@pytest.fixture
def config(images: Path) -> RunConfig:
    """12 steps of a tiny v-predicting model with dropout, so that torch's own random state matters too."""
    return RunConfig(
        preset="cpu",
        data=str(images),
        model=ModelConfig(
            network=CompactConfig(channels=(8, 16), blocks=(1, 1), head_channels=8, dropout=0.1),
            prediction="v",
            variance="fixed_small",
            schedule=ScheduleConfig(name="cosine", num_steps=100),
            time_input="per_mille",
        ),
        training=TrainingConfig(
            optimizer="muon", steps=12, batch_size=6, lr=2e-3, warmup=3, decay="linear", flip=True, precision="fp32"
        ),
        checkpoint=CheckpointConfig(every=4, keep=2),
        preview=PreviewConfig(count=1, n=4, steps=3),
    )


@pytest.fixture
def quiet(config: RunConfig) -> RunConfig:
    """The same without sample grids."""
    return replace(config, preview=replace(config.preview, count=0))
