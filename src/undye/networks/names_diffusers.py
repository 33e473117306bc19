"""What diffusers' UNet2DModel calls the U-Net's weights and settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from undye.config import ResampleName, UNetConfig
from undye.errors import UserError
from undye.networks.spec import UNetSpec, nothing_left, take

MODULES = {
    "time_mlp.0": "time_embedding.linear_1",
    "time_mlp.2": "time_embedding.linear_2",
    "class_embedding.table": "class_embedding",
    "norm_out": "conv_norm_out",
    "middle1": "mid_block.resnets.0",
    "middle_attention": "mid_block.attentions.0",
    "middle2": "mid_block.resnets.1",
}
LAYERS = {
    "emb_proj": "time_emb_proj",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
LEGACY_LAYERS = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""What the layers of attention were called up to diffusers 0.16, also in the files of google/ddpm-cifar10-32."""

DEFAULTS: Mapping[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
"""UNet2DModel's settings and what a missing one means."""

ONE_VALUE: Mapping[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "freq_shift": (0, 1),
    "flip_sin_to_cos": (False, True),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (0, 1),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "add_attention": (False, True),
    "class_embed_type": (None,),
}
"""Settings of which undye's U-Net knows only some values."""

BLOCKS: Mapping[str, tuple[bool, ResampleName | None]] = {
    "DownBlock2D": (False, "conv"),
    "UpBlock2D": (False, "conv"),
    "ResnetDownsampleBlock2D": (False, "resblock"),
    "ResnetUpsampleBlock2D": (False, "resblock"),
    "AttnDownBlock2D": (True, None),
    "AttnUpBlock2D": (True, None),
}
"""Whether a block type attends, and how it resamples; None: as downsample_type and upsample_type say."""
RESAMPLES: Mapping[str | None, ResampleName] = {None: "conv", "conv": "conv", "resnet": "resblock"}


def diffusers_name(name: str) -> str:
    """Their name of one of our weights: down.0.blocks.1.conv1.bias is down_blocks.0.resnets.1.conv1.bias."""
    for ours, theirs in MODULES.items():
        if name.startswith(f"{ours}."):
            name = theirs + name.removeprefix(ours)
    words = name.split(".")
    if words[0] in ("down", "up"):
        sampler = f"{words[0]}samplers.0"
        words[2] = {"blocks": "resnets", "attentions": "attentions", "resample": sampler}[words[2]]
        words[0] += "_blocks"
    words[-2] = LAYERS.get(words[-2], words[-2])
    return ".".join(words)


def to_diffusers_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under their names; their layers of attention are linear, ours convolutions of one pixel."""
    linear = ("q", "k", "v", "proj_out")
    return {
        diffusers_name(name): w[:, :, 0, 0] if name.split(".")[-2] in linear and w.ndim == 4 else w
        for name, w in weights.items()
    }


def from_diffusers_weights(weights: Mapping[str, Tensor], spec: UNetSpec) -> dict[str, Tensor]:
    """Their weights under our names, also from files with the old names of attention's layers.

    Raises:
        UserError: naming the first weight that is missing, left over, or of another shape.
    """
    weights = {_modern(name): w for name, w in weights.items()}
    shapes = spec.shapes()
    found = {ours: take(weights, diffusers_name(ours), shape) for ours, shape in shapes.items()}
    nothing_left(weights, {diffusers_name(ours) for ours in shapes})
    return found


def _modern(name: str) -> str:
    words = name.split(".")
    if "attentions" in words:
        words[-2] = LEGACY_LAYERS.get(words[-2], words[-2])
    return ".".join(words)


def to_diffusers_config(spec: UNetSpec) -> dict[str, Any]:
    """The config.json of a UNet2DModel that computes the same, with every setting stated.

    Raises:
        UserError: naming what UNet2DModel cannot do.
    """
    config = spec.config
    if config.resample == "pool":
        raise UserError("diffusers' UNet2DModel has no resampling without weights: resample pool cannot be exported")
    if not config.base_channels == config.stem_width == config.widths[0]:
        raise UserError(
            f"diffusers' UNet2DModel needs base_channels ({config.base_channels}), the first convolution's width "
            f"({config.stem_width}) and the first level's ({config.widths[0]}) to be the same"
        )
    resblock = config.resample == "resblock"
    plain = {"Down": "ResnetDownsampleBlock2D", "Up": "ResnetUpsampleBlock2D"} if resblock else {}
    attends = [level in config.attention_levels for level in range(len(config.widths))]

    def block(way: str, attend: bool) -> str:
        return f"Attn{way}Block2D" if attend else plain.get(way, f"{way}Block2D")

    size = spec.image_size
    return {
        "_class_name": "UNet2DModel",
        "sample_size": None if size is None else size[0] if size[0] == size[1] else list(size),
        "in_channels": spec.channels,
        "out_channels": spec.out_channels,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "time_embedding_dim": None,
        "freq_shift": 1 if config.time_denominator == "half-1" else 0,
        "flip_sin_to_cos": config.time_order == "cos_sin",
        "down_block_types": [block("Down", attend) for attend in attends],
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": [block("Up", attend) for attend in reversed(attends)],
        "block_out_channels": list(config.widths),
        "layers_per_block": config.num_res_blocks,
        "mid_block_scale_factor": 1,
        "downsample_padding": 0 if config.downsample_padding == "right_bottom" else 1,
        "downsample_type": "resnet" if resblock else "conv",
        "upsample_type": "resnet" if resblock else "conv",
        "dropout": config.dropout,
        "act_fn": "silu",
        "attention_head_dim": _head_width(config),
        "norm_num_groups": config.norm_groups,
        "attn_norm_num_groups": config.norm_groups,
        "norm_eps": config.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift_norm else "default",
        "add_attention": config.middle_attention,
        "class_embed_type": None,
        "num_class_embeds": None if spec.num_classes is None else spec.num_classes + spec.null_label,
        "num_train_timesteps": None,
    }


def _head_width(config: UNetConfig) -> int | None:
    """Their attention_head_dim: the width of a head at all levels, None for one head."""
    if config.head_channels is not None or config.num_heads == 1:
        return config.head_channels
    if len(found := {w // config.num_heads for w in config.attended_widths}) > 1:
        raise UserError(
            f"diffusers' UNet2DModel has attention heads of one width, {config.num_heads} heads would be "
            f"{' and '.join(map(str, sorted(found)))} wide: it cannot be exported"
        )
    return next(iter(found), None)


def from_diffusers_config(data: Mapping[str, Any], null_label: bool = False) -> UNetSpec:
    """The U-Net that a UNet2DModel's config.json describes; missing settings mean what they mean to diffusers.

    Args:
        data: the settings; those that start with an underscore are no matter.
        null_label: whether the last row of its class table stands for no class. diffusers does not say.

    Raises:
        UserError: naming the setting that our U-Net cannot express, or that is no setting of UNet2DModel.
    """
    given = {k: v for k, v in data.items() if not k.startswith("_")}
    if unknown := sorted(set(given) - set(DEFAULTS)):
        raise UserError(f"{unknown[0]!r} is no setting of diffusers' UNet2DModel")
    s = {**DEFAULTS, **given}
    for key, values in ONE_VALUE.items():
        if not any(s[key] == v and (s[key] is None) == (v is None) for v in values):
            raise _cannot(s, key)
    widths = _numbers(s, "block_out_channels")
    base = widths[0]
    if s["time_embedding_dim"] not in (None, 4 * base):
        raise _cannot(s, "time_embedding_dim")
    groups, scale_shift = _number(s, "norm_num_groups"), s["resnet_time_scale_shift"] == "scale_shift"
    if s["add_attention"] and s["attn_norm_num_groups"] is None and scale_shift:
        raise UserError(
            "this diffusers model has scale_shift without attn_norm_num_groups, so no norm before the attention in "
            "the middle: undye's U-Net cannot"
        )
    if s["add_attention"] and s["attn_norm_num_groups"] not in (None, groups):
        raise _cannot(s, "attn_norm_num_groups")
    attention_levels, resample = _levels(s, len(widths))
    classes = None if s["num_class_embeds"] is None else _number(s, "num_class_embeds") - null_label
    size = s["sample_size"]
    return UNetSpec(
        config=UNetConfig(
            base_channels=base,
            channel_mult=tuple(w // base if w % base == 0 else w / base for w in widths),
            num_res_blocks=_number(s, "layers_per_block"),
            attention_levels=attention_levels,
            middle_attention=bool(s["add_attention"]),
            head_channels=None if s["attention_head_dim"] is None else _number(s, "attention_head_dim"),
            scale_shift_norm=scale_shift,
            resample=resample,
            downsample_padding="symmetric" if s["downsample_padding"] and resample == "conv" else "right_bottom",
            time_order="cos_sin" if s["flip_sin_to_cos"] else "sin_cos",
            time_denominator="half-1" if s["freq_shift"] else "half",
            dropout=_real(s, "dropout"),
            norm_groups=groups,
            norm_eps=_real(s, "norm_eps"),
            init="torch",
        ),
        channels=_number(s, "in_channels"),
        out_channels=_number(s, "out_channels"),
        num_classes=classes,
        null_label=classes is None or null_label,
        image_size=None if size is None else _size(s),
    )


def _levels(s: Mapping[str, Any], count: int) -> tuple[tuple[int, ...], ResampleName]:
    """The levels that attend, and what stands between levels, from the types of the blocks."""
    ways = {}
    for way, types, key in (
        ("Down", "down_block_types", "downsample_type"),
        ("Up", "up_block_types", "upsample_type"),
    ):
        names = s[types]
        if not isinstance(names, Sequence) or len(names) != count:
            raise _cannot(s, types)
        blocks = [BLOCKS.get(str(name).removeprefix("UNetRes")) for name in names]
        if any(b is None or way not in str(name) for b, name in zip(blocks, names, strict=True)) or (
            not _resamples(s, key) and any(b == (True, None) for b in blocks)
        ):
            raise _cannot(s, types if _resamples(s, key) else key)
        ways[way] = [(attends, kind or RESAMPLES[s[key]]) for attends, kind in filter(None, blocks)]
    down, up = ways["Down"], ways["Up"][::-1]
    if [attends for attends, _ in down] != [attends for attends, _ in up]:
        raise UserError("this diffusers model attends at other levels on the way up than down: undye's U-Net cannot")
    # the lowest level resamples in neither direction, whatever its types say: level 0 on the way up does not either
    kinds = {kind for _, kind in down[:-1]} | {kind for _, kind in up[1:]}
    if len(kinds) > 1:
        raise UserError(
            "this diffusers model resamples with convolutions at some levels and with residual blocks at others "
            "(downsample_type and upsample_type do not reach DownBlock2D and UpBlock2D): undye's U-Net cannot"
        )
    return tuple(level for level, (attends, _) in enumerate(down) if attends), next(iter(kinds), "conv")


def _resamples(s: Mapping[str, Any], key: str) -> bool:
    return s[key] is None or (isinstance(s[key], str) and s[key] in RESAMPLES)


def _cannot(s: Mapping[str, Any], key: str) -> UserError:
    return UserError(f"this diffusers model has {key} = {s[key]!r}, which undye's U-Net cannot express")


MOST = {"layers_per_block": 64, "num_class_embeds": 1_000_000}
"""Beyond, and for all else beyond 65,536, a number is a mistake: nothing that large is built to find that out."""


def _number(s: Mapping[str, Any], key: str) -> int:
    if not isinstance(s[key], int) or isinstance(s[key], bool) or not 1 <= s[key] <= MOST.get(key, 65_536):
        raise _cannot(s, key)
    return s[key]


def _real(s: Mapping[str, Any], key: str) -> float:
    if not isinstance(s[key], int | float) or isinstance(s[key], bool) or not abs(s[key]) < 1e6:
        raise _cannot(s, key)
    return float(s[key])


def _numbers(s: Mapping[str, Any], key: str) -> tuple[int, ...]:
    values = s[key]
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise _cannot(s, key)
    if len(values) > 16 or not all(isinstance(v, int) and not isinstance(v, bool) and 0 < v <= 65_536 for v in values):
        raise _cannot(s, key)
    return tuple(values)


def _size(s: Mapping[str, Any]) -> tuple[int, int]:
    if isinstance(s["sample_size"], int):
        return (_number(s, "sample_size"),) * 2
    return _pair(s, "sample_size")


def _pair(s: Mapping[str, Any], key: str) -> tuple[int, int]:
    values = _numbers(s, key)
    if len(values) != 2:
        raise _cannot(s, key)
    return values[0], values[1]
