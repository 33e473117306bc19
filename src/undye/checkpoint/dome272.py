""".pt files of dome272's Diffusion-Models-pytorch (ckpt.pt, ema_ckpt.pt): a state dict of its UNet or UNet_conditional.

The widths, the image's channels and the number of classes are read off the weights. The image size and the schedule are
the user's settings, under the names of the arguments of its `Diffusion`, else what its training scripts have; each
default that is taken is noted. The rest is the same for all its models: the network predicts eps, and is told the
0-based index of the step; samples are drawn with the variance beta, without clipping x_0. The user may say otherwise
under the names of ModelConfig's fields.

Their indices 1 to noise_steps - 1 are undye's t = 2 to T. Index 0 is never drawn in training, and their sampler ends
before it: its images still have the noise of t = 1, a hundredth of the pixels' range from -1 to 1. undye takes that
last step too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from undye.checkpoint.content import state_dict_of
from undye.checkpoint.imported import Imported, Settings
from undye.config import Dome272Config, ModelConfig, ScheduleConfig
from undye.denoiser import build_schedule
from undye.diffusion.variance import LEARNED
from undye.errors import UserError
from undye.networks.names_dome272 import dome272_shapes, from_dome272_weights

UNSAID: Mapping[str, Any] = {"image_size": (64, 64), "noise_steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
NUM_HEADS = 4
STEM, WIDEST = "inc.double_conv.0.weight", "bot2.double_conv.0.weight"
TIME, CLASSES = "down1.emb_layer.1.weight", "label_emb.weight"


def knows(content: Any) -> bool:
    """Whether this is a state dict of their U-Net, whole or not: other projects share its other names."""
    return isinstance(content, dict) and any(str(name).startswith("sa") and ".mha." in str(name) for name in content)


def read(path: Path, content: Any, settings: Settings) -> Imported:
    """A model from what a .pt file holds.

    Raises:
        UserError: if it is damaged, of another kind, or says what undye cannot do.
    """
    weights = state_dict_of(content, path)
    channels = _shape(weights, STEM, 4, path)[1]
    if channels not in (1, 3):
        raise UserError(f"{path} is for images of {channels} channels: undye's have 1 or 3")
    # read off the largest weight, the width cannot claim a network much larger than the file
    widest = _shape(weights, WIDEST, 4, path)
    width = widest[0] // 8
    if widest != (8 * width, 8 * width, 3, 3):
        raise UserError(f"{path}: weight {WIDEST!r} has shape {widest}: it is no such network")
    network = Dome272Config(
        base_channels=width,
        emb_channels=_shape(weights, TIME, 2, path)[1],
        num_heads=settings.take("num_heads", NUM_HEADS),
    )
    flags = settings.unsaid(UNSAID, "dome272")
    model = settings.over(
        {
            "prediction": "eps",
            "variance": "fixed_large",
            "clip_x_0": False,
            "time_input": "zero_based",
            "schedule": _schedule(flags),
        }
    )
    config = ModelConfig(
        network=network,
        image_size=flags["image_size"],
        channels=channels,
        num_classes=_shape(weights, CLASSES, 2, path)[0] if CLASSES in weights else None,
        **model,
    )
    _check(config.schedule, path)
    out_channels = channels * (2 if config.variance in LEARNED else 1)
    found = from_dome272_weights(weights, dome272_shapes(network, channels, out_channels, config.num_classes))
    settings.note("t = 1: dome272's training draws t from 2 on, so the network has not learned the last step")
    return Imported.build(config, found, "dome272", settings)


def _shape(weights: Mapping[str, Tensor], name: str, ndim: int, path: Path) -> tuple[int, ...]:
    """The shape of a weight that the widths are read off."""
    if name not in weights:
        raise UserError(f"{path}: weight {name!r} is missing: it is no network of Diffusion-Models-pytorch")
    weight = weights[name]
    if weight.ndim != ndim or not weight.numel():
        raise UserError(f"{path}: weight {name!r} has shape {tuple(weight.shape)}: it is no such network")
    return tuple(weight.shape)


def _schedule(flags: Mapping[str, Any]) -> ScheduleConfig:
    """Their linear schedule, with the ends left out where they are the paper's."""
    ends = {key: flags[key] for key in ("beta_start", "beta_end")}
    published = all(ends[key] == UNSAID[key] for key in ends)
    return ScheduleConfig(num_steps=flags["noise_steps"], **({} if published else ends))


def _check(schedule: ScheduleConfig, path: Path) -> None:
    try:
        build_schedule(schedule)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
