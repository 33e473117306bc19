"""What a network is, as plain data: one class for each kind. No torch here: the command line starts fast."""

from dataclasses import dataclass
from typing import Literal

from undye.errors import UserError

ResampleName = Literal["conv", "resblock", "pool"]
PaddingName = Literal["right_bottom", "symmetric"]
TimeOrder = Literal["sin_cos", "cos_sin"]
TimeDenominator = Literal["half-1", "half"]
DownsampleName = Literal["fold", "conv"]
InitName = Literal["fan_avg", "torch_zero", "torch"]


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The U-Net of Ho et al. 2020 and its descendants. The defaults are the paper's CIFAR-10 model."""

    kind: Literal["unet"] = "unet"
    base_channels: int = 128
    """Features of the time embedding; a quarter of the width of its two layers, and the unit of channel_mult."""
    channel_mult: tuple[int | float, ...] = (1, 2, 2, 2)
    """Width of each level, in units of base_channels; each level halves the map of the one before."""
    stem_channels: int | None = None
    """Width of the first convolution. None: base_channels."""
    num_res_blocks: int = 2
    """Residual blocks of a level on the way down; one more on the way up."""
    attention_levels: tuple[int, ...] = (1,)
    """Levels (0 is full resolution) with self-attention after each residual block."""
    middle_attention: bool = True
    """Self-attention between the two residual blocks of the lowest map."""
    num_heads: int = 1
    """Heads of each self-attention."""
    head_channels: int | None = None
    """Width of an attention head, the same at every level; then num_heads stays 1. None: num_heads counts them."""
    scale_shift_norm: bool = False
    """The embedding scales and shifts what the second norm of a residual block gives, instead of being added before."""
    resample: ResampleName = "conv"
    """Between levels: a strided convolution and nearest neighbours with a convolution; the same around the first
    convolution of a residual block, without their own (resblock); averages and nearest neighbours alone (pool)."""
    downsample_padding: PaddingName = "right_bottom"
    """Of the strided convolution: TensorFlow's SAME (right_bottom), or one pixel on each side (symmetric)."""
    time_order: TimeOrder = "sin_cos"
    """Which half of the time embedding comes first."""
    time_denominator: TimeDenominator = "half-1"
    """Frequencies are 10000^(-i / denominator), i < half; half is half of base_channels. half-1 includes 1/10000."""
    dropout: float = 0.1
    norm_groups: int = 32
    norm_eps: float = 1e-6
    init: InitName = "fan_avg"
    """Random start: the original code's (fan_avg), PyTorch's with zeros in the last layer of each residual branch and
    of the network, as OpenAI's (torch_zero), or PyTorch's alone, as diffusers' (torch)."""
    checkpointing: bool = False
    """Keep only the inputs of blocks for the backward pass and compute the rest again: less memory, a third slower."""

    def __post_init__(self) -> None:
        """Check that the settings fit together."""
        if (
            not self.channel_mult
            or min(self.base_channels, self.norm_groups) < 1
            or min(self.channel_mult) <= 0
            or self.base_channels < 4
            or self.num_res_blocks < 1
        ):
            raise UserError("a U-Net needs at least 4 base channels, one level, one block in each and one norm group")
        if self.base_channels % 2:
            raise UserError(f"base_channels must be even, for as many sines as cosines: got {self.base_channels}")
        if wrong := [
            m for m in self.channel_mult if abs(self.base_channels * m - round(self.base_channels * m)) > 1e-6
        ]:
            raise UserError(f"{self.base_channels} base channels times {wrong[0]} is not a whole number of channels")
        widths = self.widths
        if wrong := [w for w in (self.stem_width, *widths) if w < 1 or w % self.norm_groups]:
            raise UserError(f"a width of {wrong[0]} channels does not divide into {self.norm_groups} norm groups")
        if wrong := [level for level in self.attention_levels if not 0 <= level < len(widths)]:
            raise UserError(f"there is no level {wrong[0]} to attend at: levels are 0..{len(widths) - 1}")
        if self.head_channels is not None and self.num_heads != 1:
            raise UserError("attention heads are counted by num_heads or by head_channels, not by both")
        if self.num_heads < 1 or (self.head_channels is not None and self.head_channels < 1):
            raise UserError("num_heads and head_channels must be at least 1")
        if wrong := [w for w in self.attended_widths if w % (self.head_channels or self.num_heads)]:
            heads = f"{self.num_heads} heads" if self.head_channels is None else f"heads of {self.head_channels}"
            raise UserError(f"a width of {wrong[0]} channels does not divide into {heads}")
        if self.resample != "conv" and self.downsample_padding != "right_bottom":
            raise UserError(f"downsample_padding is for resample conv: leave it out with {self.resample}")
        if not self.norm_eps > 0:
            raise UserError(f"norm_eps must be above 0, got {self.norm_eps}")
        _check_dropout(self.dropout)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(round(self.base_channels * m) for m in self.channel_mult)

    @property
    def stem_width(self) -> int:
        """Channels of the first convolution."""
        return self.base_channels if self.stem_channels is None else self.stem_channels

    @property
    def attended_widths(self) -> tuple[int, ...]:
        """Channels of the levels with self-attention, and of the middle if it has it."""
        middle = self.widths[-1:] if self.middle_attention else ()
        return tuple(self.widths[level] for level in self.attention_levels) + middle

    def heads(self, width: int) -> int:
        """Heads of a self-attention on so many channels."""
        return self.num_heads if self.head_channels is None else width // self.head_channels


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
    """Width of an attention head in the lowest level (one head where the level is narrower); 0: no attention."""
    dropout: float = 0.0
    checkpointing: bool = False
    """Keep only the inputs of blocks for the backward pass and compute the rest again: less memory, a third slower."""

    def __post_init__(self) -> None:
        """Check that the settings fit together."""
        if len(self.channels) != len(self.blocks) or not self.channels:
            raise UserError("a compact network needs as many numbers of blocks as of channels, at least one")
        if min(self.channels) < 1 or min(self.blocks) < 0 or self.patch < 1 or self.head_channels < 0:
            raise UserError("channels and patch must be at least 1, blocks and head_channels at least 0")
        if self.head_channels and self.channels[-1] % min(self.head_channels, self.channels[-1]):
            raise UserError(f"{self.channels[-1]} channels do not divide into heads of {self.head_channels}")
        _check_dropout(self.dropout)


@dataclass(frozen=True, kw_only=True)
class LucidrainsConfig:
    """The U-Nets of denoising-diffusion-pytorch, see `undye.networks.lucidrains`; the defaults are its Unet's."""

    kind: Literal["lucidrains"] = "lucidrains"
    base_channels: int = 64
    """Features of the time embedding; a quarter of the width of its two layers, and the unit of channel_mult."""
    channel_mult: tuple[int, ...] = (1, 2, 4, 8)
    """What each level hands on, in units of base_channels; each level but the last halves the map."""
    stem_channels: int | None = None
    """Width of the first convolution, and of the first level. None: base_channels."""
    attention_levels: tuple[int, ...] | None = None
    """Levels (0 is full resolution) with softmax attention; the others have linear attention. None: the last one."""
    num_heads: tuple[int, ...] = (4,)
    """Heads of each attention: one number for all levels, or one for each."""
    head_channels: tuple[int, ...] = (32,)
    """Width of an attention head: one number for all levels, or one for each."""
    middle_num_heads: int | None = None
    """Heads of the attention in the middle. None: as many as the last level's."""
    middle_head_channels: int | None = None
    """Width of a head of the attention in the middle. None: that of the last level's."""
    memory: int = 4
    """Learned keys and values that each attention has beside those of the map; 0 in the class-conditional network."""
    downsample: DownsampleName = "fold"
    """2x2 pixels become channels before a 1x1 convolution (fold), or a strided 4x4 convolution (conv), as in the
    class-conditional network."""
    max_period: float = 10000.0
    """Frequencies of the time embedding are max_period^(-i / (half - 1)), i < half; half is half of base_channels."""
    self_condition: bool = False
    """The network has an input for an earlier estimate of x_0 beside x_t; here zeros, as it is for the first step."""
    dropout: float = 0.0
    checkpointing: bool = False
    """Keep only the inputs of blocks for the backward pass and compute the rest again: less memory, a third slower."""

    def __post_init__(self) -> None:
        """Check that the settings fit together."""
        if not self.channel_mult or min(self.channel_mult) < 1 or self.stem_width < 1:
            raise UserError("a lucidrains network needs at least one level, and channels in each")
        if self.base_channels < 4 or self.base_channels % 2:
            raise UserError(f"base_channels must be even and at least 4, got {self.base_channels}")
        levels = len(self.channel_mult)
        for name, values in (("num_heads", self.num_heads), ("head_channels", self.head_channels)):
            if len(values) not in (1, levels) or min(values) < 1:
                raise UserError(f"{name} is one number or {levels}, one for each level, and at least 1: got {values}")
        if min(self.middle_heads) < 1:
            raise UserError("middle_num_heads and middle_head_channels must be at least 1")
        if wrong := [level for level in self.attention_levels or () if not 0 <= level < levels]:
            raise UserError(f"there is no level {wrong[0]} to attend at: levels are 0..{levels - 1}")
        if self.memory < 0:
            raise UserError(f"memory must be at least 0, got {self.memory}")
        if not 0 < self.max_period < float("inf"):
            raise UserError(f"max_period must be above 0, got {self.max_period}")
        _check_dropout(self.dropout)

    @property
    def stem_width(self) -> int:
        """Channels of the first convolution."""
        return self.base_channels if self.stem_channels is None else self.stem_channels

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels that the first convolution and then each level hand on: one more than there are levels."""
        return (self.stem_width, *(self.base_channels * m for m in self.channel_mult))

    @property
    def softmax_levels(self) -> tuple[int, ...]:
        """Levels with softmax attention."""
        return (len(self.channel_mult) - 1,) if self.attention_levels is None else self.attention_levels

    def heads(self, level: int) -> tuple[int, int]:
        """Number of heads and width of a head at a level."""
        heads, width = self.num_heads, self.head_channels
        return heads[level if len(heads) > 1 else 0], width[level if len(width) > 1 else 0]

    @property
    def middle_heads(self) -> tuple[int, int]:
        """Number of heads and width of a head in the middle."""
        heads, width = self.heads(len(self.channel_mult) - 1)
        return (
            heads if self.middle_num_heads is None else self.middle_num_heads,
            width if self.middle_head_channels is None else self.middle_head_channels,
        )


@dataclass(frozen=True, kw_only=True)
class Dome272Config:
    """The U-Net of dome272's Diffusion-Models-pytorch, see `undye.networks.dome272`. The defaults are its own."""

    kind: Literal["dome272"] = "dome272"
    base_channels: int = 64
    """Width at full resolution; the three levels below are 2, 4 and 4 times as wide, the middle 8 times."""
    emb_channels: int = 256
    """Sines and cosines that tell the time, and numbers that tell a class."""
    num_heads: int = 4
    """Heads of each self-attention."""

    def __post_init__(self) -> None:
        """Check that the settings fit together."""
        if min(self.base_channels, self.num_heads) < 1 or self.base_channels % self.num_heads:
            raise UserError(f"{self.base_channels} base channels do not divide into {self.num_heads} heads")
        if self.emb_channels < 2 or self.emb_channels % 2:
            raise UserError(f"emb_channels must be even, for as many sines as cosines: got {self.emb_channels}")


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise UserError(f"dropout must lie in [0, 1), got {dropout}")


NetworkConfig = UNetConfig | CompactConfig | LucidrainsConfig | Dome272Config
