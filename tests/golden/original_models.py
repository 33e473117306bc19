"""The models of which tests/golden/original_*.npz hold the outputs.

tests/golden/make_original.py made the files with the public projects' own code, and
tests/differential/test_original_unet.py compares ours. Weights and inputs are made by the rule of openai_models.py.
"""

import numpy as np

TIMES = (0, 700)
"""Of the two images, 0-based as theirs."""
STEPS = (0, 1, 10, 500, 999)
"""0-based times at which a step of their sampler is compared."""

# name: (project, the arguments of their Model)
MODELS = {
    # the CIFAR-10 model, a quarter as wide
    "cifar10": (
        "pytorch_diffusion",
        {"ch": 32, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 2, "attn_resolutions": (16,), "dropout": 0.1}
        | {"in_channels": 3, "out_ch": 3, "resolution": 32},
    ),
    # the 256x256 model, a quarter as wide, for images of 64x64: it attends at the same level
    "lsun": (
        "pytorch_diffusion",
        {"ch": 32, "ch_mult": (1, 1, 2, 2, 4, 4), "num_res_blocks": 2, "attn_resolutions": (4,), "dropout": 0.0}
        | {"in_channels": 3, "out_ch": 3, "resolution": 64},
    ),
    # resampling without weights, greyscale, attention at two levels; ddim's copy of the code
    "pool": (
        "ddim",
        {"ch": 64, "ch_mult": (1, 2, 3), "num_res_blocks": 1, "attn_resolutions": (8, 4), "dropout": 0.0}
        | {"in_channels": 1, "out_ch": 1, "resolution": 16, "resamp_with_conv": False},
    ),
}
PUBLISHED = {
    "cifar10": {"ch": 128, "ch_mult": (1, 2, 2, 2), "resolution": 32, "dropout": 0.1},
    "lsun": {"ch": 128, "ch_mult": (1, 1, 2, 2, 4, 4), "resolution": 256, "dropout": 0.0},
}
"""What their from_pretrained passes to Model, beside 3 channels, 2 blocks and attention at 16."""


def features(t: np.ndarray, dim: int, denominator: str) -> np.ndarray:
    """Sines, then cosines of t in float64, which both projects' code and ours make in float32."""
    half = dim // 2
    frequency = 1e4 ** -(np.arange(half) / (half - 1 if denominator == "half-1" else half))
    angle = np.asarray(t, np.float64)[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def shape_lines(state) -> np.ndarray:
    """Names and shapes of a state dict, as bytes for a file."""
    return np.frombuffer("\n".join(f"{k} {' '.join(map(str, v.shape))}" for k, v in state.items()).encode(), np.uint8)


def read_shapes(lines: np.ndarray) -> dict[str, tuple[int, ...]]:
    """The inverse of `shape_lines`."""
    words = [line.split() for line in lines.tobytes().decode().splitlines()]
    return {name: tuple(map(int, shape)) for name, *shape in words}
