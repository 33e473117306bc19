"""The Denoiser: all that samplers, likelihood, editing and codec know of a model."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, Real
from torch import Tensor, nn

from undye.config import ModelConfig, ScheduleConfig
from undye.diffusion.prediction import PREDICTIONS
from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import NoiseSchedule
from undye.networks import build_network
from undye.presets import model_preset


@dataclass(frozen=True)
class Denoised:
    """What a model says of x_t: unclipped x_0 and eps, (B, C, H, W); var_fraction, as large in [0, 1], or None."""

    x_0: Tensor
    eps: Tensor
    var_fraction: Tensor | None = None


class Denoiser(nn.Module):
    """A network with its noise process: (x_t, t, label) -> Denoised. It never clips.

    The network may be any module (x, t, label) -> tensor of x's shape (twice the channels for learned_range): x is
    (B, C, H, W), t is float (B,) as `config.time_input` says, label int64 (B,) or None.

    Attributes:
        config: what the model is; enough, with the weights, to rebuild it.
        schedule: its NoiseSchedule.
        process: its GaussianProcess.
    """

    def __init__(self, network: nn.Module, config: ModelConfig):
        super().__init__()
        self.network = network
        self.config = config
        self.schedule = build_schedule(config.schedule)
        self.process = GaussianProcess(self.schedule)
        self.prediction = PREDICTIONS[config.prediction]

    @classmethod
    def from_config(cls, config: ModelConfig) -> "Denoiser":
        """A model with random weights."""
        out_channels = config.channels * (2 if config.variance == "learned_range" else 1)
        return cls(build_network(config.network, config.channels, out_channels, config.num_classes), config)

    @classmethod
    def from_preset(
        cls,
        name: str,
        image_size: tuple[int, int] | None = None,
        channels: int | None = None,
        num_classes: int | None = None,
    ) -> "Denoiser":
        """A preset (see `undye.presets`) with random weights; None keeps the preset's size and channels.

        Raises:
            UserError: for an unknown preset.
        """
        return cls.from_config(model_preset(name, image_size=image_size, channels=channels, num_classes=num_classes))

    def forward(
        self, x_t: Float[Tensor, "b c h w"], t: Real[Tensor, " b"], label: Int64[Tensor, " b"] | None = None
    ) -> Denoised:
        """x_0 and eps as the model sees them in x_t at times t in (0, T], integers or reals."""
        log_alpha_bar = self.schedule.log_alpha_bar_at(t)
        value, var_fraction = self.predict(x_t, t, label)
        x_0, eps = self.prediction.read(value, x_t, log_alpha_bar)
        return Denoised(x_0, eps, var_fraction)

    def predict(
        self, x_t: Float[Tensor, "b c h w"], t: Real[Tensor, " b"], label: Int64[Tensor, " b"] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The network's own output, in x_t's dtype: the predicted quantity, and the variance fraction if any."""
        if label is not None:
            if self.config.num_classes is None:
                raise ValueError("this model is unconditional: it takes no label")
            if not bool(((label >= 0) & (label <= self.config.num_classes)).all()):
                raise ValueError(
                    f"labels must lie in 0..{self.config.num_classes - 1} ({self.config.num_classes}: none)"
                )
        value = self.network(x_t, self._time_input(t, x_t), label).to(x_t.dtype)
        if self.config.variance != "learned_range":
            return value, None
        value, fraction = value.chunk(2, dim=1)
        return value, (fraction + 1) / 2

    def _time_input(self, t: Real[Tensor, " b"], x_t: Tensor) -> Float[Tensor, " b"]:
        """The one place where timesteps 1..T become what a network is fed."""
        seen = t.double() - 1 if self.config.time_input == "zero_based" else t * (1000 / self.schedule.num_steps)
        return seen.float().to(x_t.device)


def build_schedule(config: ScheduleConfig) -> NoiseSchedule:
    """The schedule that a configuration names."""
    options = {"beta_start": config.beta_start, "beta_end": config.beta_end}
    return NoiseSchedule.named(config.name, config.num_steps, **{k: v for k, v in options.items() if v is not None})


def channels_last(denoiser: Denoiser) -> Denoiser:
    """The same model with its weights laid out as CPUs and tensor cores like them; the numbers do not change."""
    denoiser.to(memory_format=torch.channels_last)  # pyrefly: ignore
    return denoiser
