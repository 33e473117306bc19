"""The named models. A preset is a ModelConfig; `undye.training.presets` says how each is trained."""

import difflib
from collections.abc import Mapping
from dataclasses import replace

from undye.config import CompactConfig, ModelConfig, ScheduleConfig, UNetConfig
from undye.errors import UserError

MODEL_PRESETS: Mapping[str, ModelConfig] = {
    "cpu": ModelConfig(
        network=CompactConfig(),
        image_size=(28, 28),
        channels=1,
        prediction="v",
        variance="fixed_small",
        schedule=ScheduleConfig(name="cosine"),
        time_input="per_mille",
    ),
    "ddpm-cifar10": ModelConfig(network=UNetConfig(), image_size=(32, 32)),
    "ddpm-256": ModelConfig(
        network=UNetConfig(channel_mult=(1, 1, 2, 2, 4, 4), attention_levels=(4,), dropout=0.0),
        image_size=(256, 256),
        variance="fixed_small",
    ),
    # the larger model of LSUN Bedroom
    "ddpm-256-large": ModelConfig(
        network=UNetConfig(base_channels=192, channel_mult=(1, 1, 2, 2, 4, 4), attention_levels=(4,), dropout=0.0),
        image_size=(256, 256),
        variance="fixed_small",
    ),
}


def model_preset(
    name: str,
    image_size: tuple[int, int] | None = None,
    channels: int | None = None,
    num_classes: int | None = None,
) -> ModelConfig:
    """The preset's configuration, with the shape of the data where it is given.

    Raises:
        UserError: for an unknown preset.
    """
    check_preset_name(name)
    config = MODEL_PRESETS[name]
    return replace(
        config,
        image_size=tuple(image_size or config.image_size),
        channels=channels or config.channels,
        num_classes=num_classes,
    )


def check_preset_name(name: str) -> None:
    """Raise a UserError that lists the presets unless `name` is one."""
    if name not in MODEL_PRESETS:
        close = difflib.get_close_matches(name, MODEL_PRESETS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"unknown preset {name!r}: {hint}presets are {', '.join(MODEL_PRESETS)}")
