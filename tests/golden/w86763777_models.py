"""The models of which tests/golden/w86763777_*.npz hold the outputs.

tests/golden/make_w86763777.py made the files with the public project's own code;
tests/differential/test_w86763777_unet.py compares ours. Weights and inputs are made by the rule of openai_models.py.
"""

TIMES = (0, 200)
"""Of the two images, 0-based as theirs."""
STEPS = (0, 1, 10, 500, 999)
"""0-based times at which a step of their sampler is compared."""

# name: (the arguments of their UNet, height and width of the images)
MODELS = {
    # their CIFAR-10 model, a quarter as wide
    "cifar10": (
        {"T": 1000, "ch": 32, "ch_mult": [1, 2, 2, 2], "attn": [1], "num_res_blocks": 2, "dropout": 0.1},
        (32, 32),
    ),
    # as deep as the 256x256 models, not square
    "deep": (
        {"T": 1000, "ch": 32, "ch_mult": [1, 1, 2, 2, 4, 4], "attn": [4], "num_res_blocks": 2, "dropout": 0.0},
        (32, 64),
    ),
    # attention at two levels, another number of timesteps
    "short": (
        {"T": 250, "ch": 64, "ch_mult": [1, 3, 2], "attn": [1, 2], "num_res_blocks": 1, "dropout": 0.0},
        (32, 16),
    ),
}
PUBLISHED = {"T": 1000, "ch": 128, "ch_mult": [1, 2, 2, 2], "attn": [1], "num_res_blocks": 2, "dropout": 0.1}
"""Their flags' defaults, and config/CIFAR10.txt."""
