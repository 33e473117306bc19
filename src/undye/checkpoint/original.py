"""Files of the PyTorch conversions of Ho et al.'s models, and of the projects with the same network code.

- pesser/pytorch_diffusion: a state dict, `model-790000.ckpt`; the EMA weights are files of their own.
- ermongroup/ddim: `ckpt.pth`, the list [model, optimizer, epoch, step, EMA]; the EMA unless weights=model is asked for.

Widths, blocks, attention, resampling and channels are read off the weights. What they do not show (image size,
variance, dropout, noise schedule) comes from the user's settings, else from the published model of the same shape; each
default that is taken is noted.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from undye.checkpoint.content import state_dict_of
from undye.checkpoint.imported import Imported, Settings
from undye.config import ModelConfig, ScheduleConfig, UNetConfig
from undye.denoiser import build_schedule
from undye.diffusion.variance import LEARNED
from undye.errors import UserError
from undye.networks.names_original import from_original_weights
from undye.networks.spec import UNetSpec

PROJECT = "Ho et al."
PUBLISHED: Mapping[tuple[int | float, ...], tuple[str, float]] = {
    (1, 2, 2, 2): ("fixed_large", 0.1),  # CIFAR-10
    (1, 2, 2, 2, 4): ("fixed_large", 0.1),  # CelebA at 64x64, of ddim
    (1, 1, 2, 2, 4, 4): ("fixed_small", 0.0),  # LSUN and CelebA-HQ at 256x256
}
"""Variance and dropout by channel_mult; other shapes are taken to be as the last."""
ATTENDED_SIZE = 16
"""Height and width of the map with self-attention, in all published models."""
MOST_LEVELS, MOST_BLOCKS, WIDEST = 12, 64, 65_536
"""Beyond, a number is a mistake: nothing that large is built to find that out."""


def knows(content: Any) -> bool:
    """Whether this is a state dict with their names, or ddim's list that starts with one."""
    first = content[0] if isinstance(content, list) and content else content
    return isinstance(first, dict) and any(str(name).startswith("temb.dense.") for name in first)


def read(path: Path, content: Any, settings: Settings) -> Imported:
    """A model from what a file holds.

    Raises:
        UserError: if it is damaged, of another kind, or says what undye cannot do.
    """
    weights = _weights(path, content, settings)
    spec = read_spec(weights, path)
    variance, dropout = PUBLISHED.get(spec.config.channel_mult, ("fixed_small", 0.0))
    said = settings.unsaid({"variance": variance, "dropout": dropout}, PROJECT)
    if "clip_x_0" not in settings.values:
        settings.note(
            "clip_x_0: the file does not say, true is Ho et al.'s default; ddim's own DDIM sampler does not clip "
            "(--set clip_x_0=...)"
        )
    model = read_process(settings, {"variance": variance, "clip_x_0": True}, PROJECT, path)
    config = replace(spec.config, dropout=said["dropout"])
    image_size = _image_size(config, settings, path)
    found = from_original_weights(weights, spec)
    return Imported.build(
        ModelConfig(network=config, image_size=image_size, channels=spec.channels, time_input="zero_based", **model),
        found,
        "original",
        settings,
    )


def _weights(path: Path, content: Any, settings: Settings) -> dict[str, Tensor]:
    """The state dict to read: of a list the EMA, if there is one."""
    if isinstance(content, list):
        has_ema = len(content) > 4
        kind = read_kind(settings, has_ema, path)
        content = content[4 if kind == "ema" else 0]
    return state_dict_of(content, path)


def read_kind(settings: Settings, has_ema: bool, path: Path) -> str:
    """Which of a file's two sets of weights to take, "ema" or "model": the setting `weights`, else the EMA if any.

    Raises:
        UserError: if the setting is neither, or asks for an EMA that is not there.
    """
    kind = settings.take("weights", "ema")
    if kind not in ("ema", "model"):
        raise UserError(f"--set weights: ema or model, not {kind!r}")
    if kind == "ema" and not has_ema:
        if "weights" in settings.values:
            raise UserError(f"{path} holds no EMA weights: leave --set weights=ema out")
        settings.note("weights: the file holds no EMA, these are the weights of the last training step")
        return "model"
    return kind


def read_spec(weights: Mapping[str, Tensor], path: Path) -> UNetSpec:
    """The network that the weights show.

    Raises:
        UserError: if they are not of their Model.
    """
    base, channels, *_ = shape_of(weights, "conv_in.weight", 4, path)
    outputs = shape_of(weights, "conv_out.weight", 4, path)[0]

    def count(name: str, most: int) -> int:
        found = 0
        while found <= most and name.format(found) in weights:
            found += 1
        if found > most:
            raise UserError(f"{path}: weight {name.format(most)!r} is one too many: such networks are not read")
        return max(found, 1)

    levels = count("down.{}.block.0.conv1.weight", MOST_LEVELS)
    blocks = count("down.0.block.{}.conv1.weight", MOST_BLOCKS)
    widths = [shape_of(weights, f"down.{level}.block.0.conv1.weight", 4, path)[0] for level in range(levels)]
    convolves = levels == 1 or any(".downsample.conv." in name for name in weights)
    config = UNetConfig(
        base_channels=base,
        channel_mult=channel_mult(widths, base),
        num_res_blocks=blocks,
        attention_levels=tuple(level for level in range(levels) if f"down.{level}.attn.0.q.weight" in weights),
        resample="conv" if convolves else "pool",
    )
    check_channels(channels, outputs, path)
    return UNetSpec(config=config, channels=channels, out_channels=outputs)


def shape_of(weights: Mapping[str, Tensor], name: str, ndim: int, path: Path) -> tuple[int, ...]:
    """The shape of a weight that must be there, with so many dimensions, none of them 0 or huge.

    Raises:
        UserError: if it is not so.
    """
    if name not in weights:
        raise UserError(f"{path}: weight {name!r} is missing")
    shape = tuple(weights[name].shape)
    if len(shape) != ndim or not all(1 <= n <= WIDEST for n in shape):
        raise UserError(f"{path}: weight {name!r} has shape {shape}: it is no such network")
    return shape


def channel_mult(widths: list[int], base: int) -> tuple[int | float, ...]:
    """Widths in units of the base, whole numbers where they are."""
    return tuple(width // base if width % base == 0 else width / base for width in widths)


def check_channels(channels: int, outputs: int, path: Path) -> None:
    """Raise a UserError unless the network maps images that undye has to as many channels."""
    if channels not in (1, 3):
        raise UserError(f"{path} is for images of {channels} channels: undye's have 1 or 3")
    if outputs != channels:
        raise UserError(f"{path} has {outputs} outputs for images of {channels} channels: it should have as many")


def read_process(
    settings: Settings, usual: Mapping[str, Any], project: str, path: Path, **schedule: Any
) -> dict[str, Any]:
    """Fields of ModelConfig on the noise process: prediction, variance, clip_x_0 and schedule, each open to the user.

    Args:
        settings: the user's.
        usual: the project's variance and clip_x_0.
        project: its name, for the notes on the schedule.
        path: of the file, for errors.
        schedule: what the file does say of the schedule.

    Raises:
        UserError: for settings that make no such process.
    """
    unsaid: dict[str, Any] = {"schedule.name": "linear", "schedule.num_steps": 1000}
    if settings.take("schedule.name", "linear") == "linear":
        unsaid |= {"schedule.beta_start": 1e-4, "schedule.beta_end": 0.02}
    settings.unsaid({k: v for k, v in unsaid.items() if k.removeprefix("schedule.") not in schedule}, project)
    model = settings.over({"prediction": "eps", **usual, "schedule": ScheduleConfig(**schedule)})
    if model["variance"] in LEARNED:
        raise UserError(f"--set variance={model['variance']}: this network has no outputs for a variance")
    if wrong := [key for key, value in schedule.items() if getattr(model["schedule"], key) != value]:
        raise UserError(f"--set schedule.{wrong[0]}: the file says {schedule[wrong[0]]}, leave it out")
    try:
        build_schedule(model["schedule"])
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return model


def _image_size(config: UNetConfig, settings: Settings, path: Path) -> tuple[int, int]:
    """The user's, else that at which the one level with attention has maps of 16x16."""
    attends = config.attention_levels
    if "image_size" not in settings.values and len(attends) == 1:
        size = ATTENDED_SIZE << attends[0]
        settings.note(f"image_size: the file does not say, at {size} level {attends[0]} attends to maps of "
                      f"{ATTENDED_SIZE}x{ATTENDED_SIZE}, as {PROJECT}'s (--set image_size=...)")  # fmt: skip
        return size, size
    height, width = settings.needed_image_size(f"{path}, which attends at {len(attends)} levels,")
    if height != width:
        raise UserError("these networks are for square images: give --set image_size=H")
    return height, width
