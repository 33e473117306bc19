"""The forward process as pictures: images dissolving into noise."""

import numpy as np
import torch
from jaxtyping import UInt8

from undye import keyed
from undye.data.pixels import to_signed, to_uint8
from undye.diffusion.process import GaussianProcess
from undye.diffusion.schedule import NoiseSchedule
from undye.errors import UserError
from undye.keyed import Stream


def forward_film(
    images: UInt8[np.ndarray, "n h w c"],
    schedule: NoiseSchedule | None = None,
    frames: int = 10,
    seed: int = 0,
) -> list[UInt8[np.ndarray, "n h w c"]]:
    """One path of the Markov chain q for each image: the images, then `frames` states evenly spread over 1..T.

    Each state is drawn from the one before it (Ho et al. 2020, Eq. 2, over several steps at once), so it is a film, not
    a row of independent pictures.

    Args:
        images: uint8 (N, H, W, C).
        schedule: the noise schedule; None: the paper's.
        frames: states beside the images themselves, at most T of them.
        seed: the noise of image i is a function of (seed, i) and the frame alone.

    Raises:
        UserError: for a number of frames below 1.
    """
    if frames < 1:
        raise UserError(f"a film needs at least 1 frame, got {frames}")
    schedule = schedule or NoiseSchedule.named("linear")
    grid = torch.linspace(0, schedule.num_steps, min(frames, schedule.num_steps) + 1, dtype=torch.float64)[1:].round()
    drawn = iter(range(len(grid)))

    def noise(x: torch.Tensor) -> torch.Tensor:
        k, shape = next(drawn), tuple(x.shape[1:])
        return torch.stack([keyed.normal(shape, seed, Stream.FORWARD_NOISE, i, k) for i in range(len(x))]).to(x)

    path = GaussianProcess(schedule).forward(to_signed(images), grid, noise)
    return [to_uint8(x) for _, x in path]
