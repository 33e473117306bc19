"""What a model is, as plain data: enough to rebuild its Denoiser. No torch here: the command line starts fast."""

from dataclasses import dataclass, field
from typing import Literal

from undye.config_networks import (
    CompactConfig,
    Dome272Config,
    DownsampleName,
    InitName,
    LucidrainsConfig,
    NetworkConfig,
    PaddingName,
    ResampleName,
    TimeDenominator,
    TimeOrder,
    UNetConfig,
)
from undye.errors import UserError

SCHEMA_VERSION = 1

PredictionName = Literal["eps", "x_0", "v", "mu", "score"]
VarianceName = Literal["fixed_small", "fixed_large", "learned_range", "learned"]
ScheduleName = Literal["linear", "scaled_linear", "cosine", "sqrt", "sigmoid", "sigmoid_alpha_bar"]
TimeInput = Literal["zero_based", "per_mille", "zero_based_per_mille"]


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
    rescale_betas: bool = False
    """Multiply both ends by 1000 / T, as OpenAI's code does, so that any T adds the same noise in all."""
    zero_terminal_snr: bool = False
    """Shift and scale sqrt(alpha_bar) so that nothing of the data is left at T (Lin et al. 2024); needs v or x_0."""

    def __post_init__(self) -> None:
        """Check what does not need the schedule itself."""
        if self.num_steps < 1:
            raise UserError(f"a schedule needs at least 1 step, got {self.num_steps}")
        if self.num_steps > 1_000_000:
            raise UserError(f"a schedule has at most 1,000,000 steps, got {self.num_steps}")
        if self.without_ends and (self.beta_start, self.beta_end, self.rescale_betas) != (None, None, False):
            raise UserError(f"the {self.name} schedule has no beta_start, beta_end and rescale_betas: leave them out")

    @property
    def without_ends(self) -> bool:
        """Whether the schedule is one of alpha_bar, which has no first and last beta to choose."""
        return self.name in ("cosine", "sigmoid_alpha_bar")


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
    null_label: bool = True
    """Whether the table of classes has a row for no class, which classifier-free guidance needs."""
    class_names: tuple[str, ...] | None = None
    prediction: PredictionName = "eps"
    variance: VarianceName = "fixed_large"
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    clip_x_0: bool = True
    """Samplers clip the predicted x_0 to [-1, 1]."""
    time_input: TimeInput = "zero_based"
    """What the network is told of the time: t - 1 (the original code), 1000 t / T, or 1000 (t - 1) / T (OpenAI)."""

    def __post_init__(self) -> None:
        """Check that the settings fit together."""
        if self.num_classes is None and not self.null_label:
            raise UserError("null_label is for models with classes: leave it out, or give num_classes")
        if self.schedule.zero_terminal_snr and self.prediction not in ("v", "x_0"):
            raise UserError(
                f"with zero terminal SNR x_T holds nothing of the data, so x_0 does not follow from {self.prediction} "
                "there: predict v or x_0"
            )


__all__ = [
    "SCHEMA_VERSION",
    "CompactConfig",
    "Dome272Config",
    "DownsampleName",
    "InitName",
    "LucidrainsConfig",
    "ModelConfig",
    "NetworkConfig",
    "PaddingName",
    "PredictionName",
    "ResampleName",
    "ScheduleConfig",
    "ScheduleName",
    "TimeDenominator",
    "TimeInput",
    "TimeOrder",
    "UNetConfig",
    "VarianceName",
]
