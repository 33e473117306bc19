"""The models of which tests/golden/openai_*.npz hold the outputs, and the rule that makes their weights and inputs.

tests/golden/make_openai.py made the files with OpenAI's own code; tests/differential/test_openai_unet.py compares ours.
A weight is a function of its name in their state dict and its shape, so the files need to hold none.
"""

import zlib

import numpy as np

BATCH, NUM_CLASSES = 2, 7
TIMES = (0.0, 961.5)
LABELS = (2, 6)

# name: (project, their flags, what script_util does not pass on, height and width of the images)
MODELS = {
    # improved-diffusion's CIFAR-10 model, a quarter as wide
    "improved_cifar10": (
        "improved_diffusion",
        {"image_size": 32, "num_channels": 32, "num_res_blocks": 3, "learn_sigma": True, "dropout": 0.3},
        {},
        (16, 32),
    ),
    # with classes, and the embedding added instead of scaling; attention at 16 only
    "improved_classes": (
        "improved_diffusion",
        {"image_size": 64, "num_channels": 32, "num_res_blocks": 1, "class_cond": True}
        | {"use_scale_shift_norm": False, "attention_resolutions": "16", "num_heads": 2},
        {},
        (16, 32),
    ),
    # guided-diffusion's 64x64 model, a sixth as wide, with fewer blocks
    "guided_64": (
        "guided_diffusion",
        {"image_size": 64, "num_channels": 32, "num_res_blocks": 1, "class_cond": True, "learn_sigma": True}
        | {"attention_resolutions": "32,16,8", "num_head_channels": 16, "resblock_updown": True}
        | {"use_new_attention_order": True, "dropout": 0.1},
        {},
        (16, 32),
    ),
    # its 256x256 model, an eighth as wide, with fewer blocks and counted heads, as the 128x128 one
    "guided_256": (
        "guided_diffusion",
        {"image_size": 256, "num_channels": 32, "num_res_blocks": 1, "class_cond": True, "learn_sigma": True}
        | {"attention_resolutions": "32,16,8", "num_heads": 4, "resblock_updown": True},
        {},
        (32, 64),
    ),
    # the stem of its 512x512 model, half as wide as the time embedding; resampling without weights
    "guided_512_pool": (
        "guided_diffusion",
        {"image_size": 512, "num_channels": 64, "num_res_blocks": 1, "attention_resolutions": "128"},
        {"channel_mult": (0.5, 1, 1), "conv_resample": False},
        (16, 32),
    ),
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers, keyed by the name: of variance 1 / fan_in, around 1 for norms' scales, halved for biases."""
    numbers = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode()))).standard_normal(shape)
    if len(shape) > 1:
        return numbers / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.2 * numbers if name.endswith("weight") else 0.5 * numbers


def images(size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """The input."""
    return 2 * weight("images.bias", (BATCH * channels * size[0] * size[1],)).reshape(BATCH, channels, *size)


def part(images: np.ndarray) -> np.ndarray:
    """The rows and columns that the files hold: four rows, evenly spaced, and columns likewise."""
    step = images.shape[2] // 4
    return images[:, :, ::step, ::step]
