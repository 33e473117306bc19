"""The Denoiser: all that samplers, likelihood, editing and codec know of a model."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, Real
from torch import Tensor, nn

from undye.config import ModelConfig, ScheduleConfig
from undye.config_grids import OptimisedGrid
from undye.diffusion.prediction import PREDICTIONS
from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import NoiseSchedule
from undye.diffusion.terminal import IMAGE_SECOND_MOMENT, SignalLeftWarning, terminal
from undye.diffusion.variance import LEARNED
from undye.errors import UserError
from undye.networks import build_network
from undye.precision import HALF, at_least_single
from undye.presets import model_preset


@dataclass(frozen=True)
class Denoised:
    """What a model says of x_t: unclipped x_0 and eps, (B, C, H, W), and of the reverse variance if it learned that.

    Attributes:
        x_0: the clean image.
        eps: the noise.
        var_fraction: for learned_range, as large: 0 is the posterior variance, 1 the forward variance; else None.
        log_var_offset: for learned, as large: what to add to the log of the forward variance; else None.
    """

    x_0: Tensor
    eps: Tensor
    var_fraction: Tensor | None = None
    log_var_offset: Tensor | None = None

    @property
    def learned_variance(self) -> Tensor | None:
        """Whichever of the two there is: what `variance.log_var` asks for."""
        return self.var_fraction if self.var_fraction is not None else self.log_var_offset


class Denoiser(nn.Module):
    """A network with its noise process: (x_t, t, label) -> Denoised. It never clips.

    The network may be any module (x, t, label) -> tensor of x's shape (twice the channels for a learned variance): x is
    (B, C, H, W), t is float32 (B,) as `config.time_input` says, label int64 (B,) or None. It is given x in the dtype of
    its own weights and computes in that (`denoiser.half()`, `.bfloat16()`, `.double()`); what is made of its answer is
    in x_t's dtype, and never less than float32.

    Attributes:
        config: what the model is; enough, with the weights, to rebuild it.
        schedule: its NoiseSchedule.
        process: its GaussianProcess.
        grids: the step grids that were made for it, by their number of steps: see `undye.optimise_grid`.

    Warns:
        SignalLeftWarning: if the schedule leaves signal at T.
    """

    def __init__(self, network: nn.Module, config: ModelConfig):
        super().__init__()
        self.network = network
        self.config = config
        self.schedule = build_schedule(config.schedule)
        self.process = GaussianProcess(self.schedule)
        self.prediction = PREDICTIONS[config.prediction]
        self.grids: dict[int, OptimisedGrid] = {}
        if (warning := signal_warning(config.schedule)) is not None:
            warnings.warn(warning, SignalLeftWarning, stacklevel=2)

    @classmethod
    def from_config(cls, config: ModelConfig) -> "Denoiser":
        """A model with random weights."""
        out_channels = config.channels * (2 if config.variance in LEARNED else 1)
        network = build_network(config.network, config.channels, out_channels, config.num_classes, config.null_label)
        return cls(network, config)

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
        """x_0 and eps as the model sees them in x_t at times t in (0, T], integers or reals; float32 or better.

        Raises:
            UserError: as `predict`.
        """
        x_t = x_t.to(at_least_single(x_t.dtype))
        value, learned = self.predict(x_t, t, label)
        return self.read(value, learned, x_t, t)

    def read(self, value: Tensor, learned: Tensor | None, x_t: Tensor, t: Tensor) -> Denoised:
        """What `predict` gave, in terms of x_0, eps and the reverse variance."""
        x_0, eps = self.prediction.read(value, x_t, self.schedule, t)
        if self.config.variance == "learned_range":
            return Denoised(x_0, eps, var_fraction=learned)
        return Denoised(x_0, eps, log_var_offset=learned)

    def predict(
        self, x_t: Float[Tensor, "b c h w"], t: Real[Tensor, " b"], label: Int64[Tensor, " b"] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The network's own output, in x_t's dtype: the predicted quantity, and its word on the variance if any.

        For learned_range that is the fraction, the network's -1..1 moved to 0..1; for learned the offset.

        Raises:
            UserError: without labels, if the model has classes but no null label; for a network in half precision on
                a device that cannot compute so.
            ValueError: for labels that are not the model's.
        """
        self._check(label, x_t)
        value = self._ask_network(x_t, self.time_input(t, x_t), label).to(x_t.dtype)
        if self.config.variance not in LEARNED:
            return value, None
        value, learned = value.chunk(2, dim=1)
        return value, (learned + 1) / 2 if self.config.variance == "learned_range" else learned

    def _ask_network(self, x_t: Tensor, seen: Tensor, label: Tensor | None) -> Tensor:
        """The network's output, in its own dtype: that of its weights."""
        own = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), x_t.dtype)
        if own not in HALF:
            return self.network(x_t.to(own), seen, label)
        try:
            return self.network(x_t.to(own), seen, label)
        except RuntimeError as error:
            if "not implemented for" not in str(error):
                raise
            where, what = x_t.device.type, str(own).removeprefix("torch.")
            raise UserError(f"this network cannot compute in {what} on the {where} ({error}): use .float()") from None

    def _check(self, label: Tensor | None, x_t: Tensor) -> None:
        """Raise unless these labels, or none, are what the model takes."""
        classes, null = self.config.num_classes, self.config.null_label
        if label is None:
            if classes is not None and not null:
                raise UserError(f"this model knows no null label: give it the class of each image, 0..{classes - 1}")
        elif classes is None:
            raise ValueError("this model is unconditional: it takes no label")
        elif label.shape != x_t.shape[:1]:
            raise ValueError(f"give a label for each of the {len(x_t)} images, got {tuple(label.shape)}")
        elif not bool(((label >= 0) & (label < classes + null)).all()):
            raise ValueError(f"labels must lie in 0..{classes - 1}" + (f" ({classes}: none)" if null else ""))

    def time_input(self, t: Real[Tensor, " b"], x_t: Tensor) -> Float[Tensor, " b"]:
        """The one place where timesteps 1..T become what a network is fed."""
        kind, per_mille = self.config.time_input, 1000 / self.schedule.num_steps
        t = t.cpu().double()
        seen = t * per_mille if kind == "per_mille" else t - 1
        if kind == "zero_based_per_mille":
            seen = seen * per_mille
        return seen.float().to(x_t.device)


def build_schedule(config: ScheduleConfig) -> NoiseSchedule:
    """The schedule that a configuration names.

    Raises:
        ValueError: if its settings make no schedule.
    """
    options = {"beta_start": config.beta_start, "beta_end": config.beta_end, "rescale_betas": config.rescale_betas}
    given = {k: v for k, v in options.items() if v not in (None, False)}
    return NoiseSchedule.named(config.name, config.num_steps, zero_terminal_snr=config.zero_terminal_snr, **given)


def signal_warning(config: ScheduleConfig, second_moment: float = IMAGE_SECOND_MOMENT) -> str | None:
    """What is wrong with a schedule that leaves signal at T, with its measure and the fix; None if nothing is.

    Args:
        config: the schedule.
        second_moment: mean square of the data's numbers in [-1, 1].
    """
    end = terminal(build_schedule(config), second_moment)
    if not end.leaves_signal:
        return None
    fixes = [words for words, fixed in _fixes(config, second_moment) if not _leaves_signal(fixed, second_moment)]
    choice = " or ".join(part for part in (", ".join(fixes[:-1]), *fixes[-1:]) if part)
    advice = f": use {choice}" if choice else ""
    return (
        f"the {config.name} schedule of {config.num_steps} steps leaves {end.alpha_bar:.2g} of the signal's power at T "
        f"(log-SNR {end.log_snr:.1f}, prior term {end.prior_bits_per_dim:.2g} bits/dim), but samples start from pure "
        f"noise{advice}"
    )


def _fixes(config: ScheduleConfig, second_moment: float) -> Iterator[tuple[str, ScheduleConfig]]:
    """What may be done about a schedule that leaves signal, in words and as a schedule; not all helps every one."""
    if not config.without_ends:
        if not config.rescale_betas:
            yield "rescale_betas", replace(config, rescale_betas=True)
        if (enough := _enough_steps(config, second_moment)) is not None:
            yield f"at least {enough} steps", replace(config, num_steps=enough)
        yield "the cosine schedule", ScheduleConfig(name="cosine", num_steps=config.num_steps)
    yield "zero_terminal_snr with v or x_0 prediction", replace(config, zero_terminal_snr=True)


def _leaves_signal(config: ScheduleConfig, second_moment: float) -> bool:
    """Whether a schedule leaves signal at T, or is none."""
    try:
        return terminal(build_schedule(config), second_moment).leaves_signal
    except ValueError:
        return True


def _enough_steps(config: ScheduleConfig, second_moment: float) -> int | None:
    """The smallest number of steps with these betas that leaves no signal; None if it is above 100,000."""
    low, high = config.num_steps, 100_000
    # rescaled betas add the same noise for any number of steps
    if config.rescale_betas or low >= high or _leaves_signal(replace(config, num_steps=high), second_moment):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        leaves = _leaves_signal(replace(config, num_steps=middle), second_moment)
        low, high = (middle, high) if leaves else (low, middle)
    return high


def channels_last(denoiser: Denoiser) -> Denoiser:
    """The same model with its weights laid out as CPUs and tensor cores like them; the numbers do not change."""
    denoiser.to(memory_format=torch.channels_last)  # pyrefly: ignore
    return denoiser
