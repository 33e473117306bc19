"""What a model is, as plain data: enough to rebuild its Denoiser. No torch here: the command line starts fast."""

from dataclasses import dataclass, field
from typing import Literal

SCHEMA_VERSION = 1

PredictionName = Literal["eps", "x_0", "v"]
VarianceName = Literal["fixed_small", "fixed_large", "learned_range"]
ScheduleName = Literal["linear", "scaled_linear", "cosine", "sqrt", "sigmoid"]
TimeInput = Literal["zero_based", "per_mille"]


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """A named noise schedule, see `undye.NoiseSchedule.named`."""

    name: ScheduleName = "linear"
    num_steps: int = 1000
    """T."""
    beta_start: float | None = None
    """Where the schedule has one: the first beta. None: the published value."""
    beta_end: float | None = None
    """Where the schedule has one: the last beta. None: the published value."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The U-Net of Ho et al. 2020 (their `unet.py`). The defaults are the CIFAR-10 model."""

    kind: Literal["unet"] = "unet"
    base_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    """Width of each level, in units of base_channels; each level halves the map of the one before."""
    num_res_blocks: int = 2
    """Residual blocks of a level on the way down; one more on the way up."""
    attention_levels: tuple[int, ...] = (1,)
    """Levels (0 is full resolution) with self-attention after each residual block; the middle always has it."""
    dropout: float = 0.1
    norm_groups: int = 32
    norm_eps: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """undye's own network for CPUs: a U-Net on space-to-depth patches, see `undye.networks.compact`."""

    kind: Literal["compact"] = "compact"
    patch: int = 2
    """Side of the patches that the stem folds into channels; the first level's map is smaller by this factor."""
    channels: tuple[int, ...] = (48, 128)
    """Width of each level; each level halves the map of the one before."""
    blocks: tuple[int, ...] = (1, 4)
    """Residual blocks of each level on the way down (and again on the way up); the last level has these only once."""
    head_channels: int = 32
    """Width of an attention head in the lowest level; 0 for no attention."""
    dropout: float = 0.0


NetworkConfig = UNetConfig | CompactConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A denoising diffusion model: network, data shape, prediction, reverse variance and noise schedule."""

    network: NetworkConfig = field(default_factory=UNetConfig)
    image_size: tuple[int, int] = (32, 32)
    """Height and width in pixels."""
    channels: int = 3
    """1 (greyscale) or 3 (RGB)."""
    num_classes: int | None = None
    """Number of class labels, None for an unconditional model. Label `num_classes` is the null label."""
    class_names: tuple[str, ...] | None = None
    prediction: PredictionName = "eps"
    variance: VarianceName = "fixed_large"
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    clip_x_0: bool = True
    """Samplers clip the predicted x_0 to [-1, 1]."""
    time_input: TimeInput = "zero_based"
    """What the network is told of the time: t - 1 (as the original code), or 1000 t / T."""
