"""ckpt.pt of w86763777/pytorch-ddpm: {net_model, ema_model, sched, optim, step, x_T}; also one of its two state dicts.

The EMA weights are taken unless weights=model is asked for. Widths, blocks, attention, channels and the number of
timesteps are read off the weights, the image size off x_T, the noise that their sample grids start from. Their flags
for the rest stay in a flagfile.txt beside the file, which is not read: it comes from the user's settings, else from the
flags' defaults, each of which is noted.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undye.checkpoint.content import state_dict_of
from undye.checkpoint.imported import Imported, Settings
from undye.checkpoint.original import (
    MOST_BLOCKS,
    MOST_LEVELS,
    WIDEST,
    channel_mult,
    check_channels,
    read_kind,
    read_process,
    shape_of,
)
from undye.config import ModelConfig, UNetConfig
from undye.errors import UserError
from undye.networks.names_w86763777 import TABLE, from_w86763777_weights
from undye.networks.spec import UNetSpec

PROJECT = "w86763777"
KINDS = {"ema": "ema_model", "model": "net_model"}
IMAGE_SIZE = (32, 32)


def knows(content: Any) -> bool:
    """Whether this is their ckpt.pt, or a state dict of their UNet."""
    parts = [content, *map(content.get, KINDS.values())] if isinstance(content, dict) else []
    prefix = "time_embedding.timembedding."
    return any(isinstance(part, dict) and any(str(name).startswith(prefix) for name in part) for part in parts)


def read(path: Path, content: Any, settings: Settings) -> Imported:
    """A model from what a file holds.

    Raises:
        UserError: if it is damaged, of another kind, or says what undye cannot do.
    """
    whole = any(part in content for part in KINDS.values())
    part = content[KINDS[_kind(content, settings, path)]] if whole else content
    weights = state_dict_of(part, path)
    spec, num_steps = read_spec(weights, path)
    said = settings.unsaid({"variance": "fixed_large", "prediction": "eps", "dropout": 0.1}, PROJECT)
    if "clip_x_0" not in settings.values:
        settings.note(
            f"clip_x_0: the file does not say, false is what {PROJECT}'s code comes to: it clips x_0 only after taking "
            "the mean from it (--set clip_x_0=...)"
        )
    usual = {"variance": "fixed_large", "clip_x_0": False}
    model = read_process(settings, usual, PROJECT, path, num_steps=num_steps)
    config = replace(spec.config, dropout=said["dropout"])
    size = _size_of(content.get("x_T"), spec.channels) if whole else None
    if size is None:
        size = settings.unsaid({"image_size": IMAGE_SIZE}, PROJECT)["image_size"]
    return Imported.build(
        ModelConfig(
            network=config,
            image_size=settings.take("image_size", size),
            channels=spec.channels,
            time_input="zero_based",
            **model,
        ),
        from_w86763777_weights(weights, spec),
        "w86763777",
        settings,
    )


def _kind(content: Mapping[str, Any], settings: Settings, path: Path) -> str:
    kind = read_kind(settings, KINDS["ema"] in content, path)
    if KINDS[kind] not in content:
        raise UserError(f"{path} holds no {KINDS[kind]}: leave --set weights={kind} out")
    return kind


def read_spec(weights: Mapping[str, Tensor], path: Path) -> tuple[UNetSpec, int]:
    """The network that the weights show, and the number of timesteps.

    Raises:
        UserError: if they are not of their UNet.
    """
    base, channels, *_ = shape_of(weights, "head.weight", 4, path)
    outputs = shape_of(weights, "tail.2.weight", 4, path)[0]
    if TABLE not in weights or weights[TABLE].ndim != 2 or weights[TABLE].shape[1] != base:
        raise UserError(f"{path}: weight {TABLE!r} is missing or has not {base} columns")

    # residual blocks, and after each level but the last what halves the map
    halves: list[bool] = []
    for k in range(MOST_LEVELS * (MOST_BLOCKS + 1)):
        if f"downblocks.{k}.main.weight" not in weights and f"downblocks.{k}.block1.2.weight" not in weights:
            break
        halves.append(f"downblocks.{k}.main.weight" in weights)
    blocks = halves.index(True) if True in halves else len(halves)
    levels, rest = divmod(len(halves) + 1, blocks + 1)
    if blocks < 1 or rest or levels > MOST_LEVELS or blocks > MOST_BLOCKS:
        raise UserError(f"{path}: the downblocks of the network do not form levels: weights are missing")
    firsts = [f"downblocks.{level * (blocks + 1)}" for level in range(levels)]
    widths = [shape_of(weights, f"{first}.block1.2.weight", 4, path)[0] for first in firsts]
    config = UNetConfig(
        base_channels=base,
        channel_mult=channel_mult(widths, base),
        num_res_blocks=blocks,
        attention_levels=tuple(level for level, f in enumerate(firsts) if f"{f}.attn.proj_q.weight" in weights),
        downsample_padding="symmetric",
        time_denominator="half",
        norm_eps=1e-5,
    )
    check_channels(channels, outputs, path)
    return UNetSpec(config=config, channels=channels, out_channels=outputs), weights[TABLE].shape[0]


def _size_of(x_T: Any, channels: int) -> tuple[int, int] | None:
    """Height and width of the noise that samples start from, None if it is nothing like that."""
    if not isinstance(x_T, Tensor) or x_T.layout != torch.strided or x_T.is_nested or x_T.ndim != 4:
        return None
    _, seen, height, width = x_T.shape
    return (height, width) if seen == channels and all(1 <= n <= WIDEST for n in (height, width)) else None
