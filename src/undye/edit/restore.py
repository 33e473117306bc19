"""Restoration by posterior sampling: super-resolution, colourisation, and any measurement that torch differentiates."""

from collections.abc import Callable, Sequence
from typing import Literal, Unpack

import numpy as np
from jaxtyping import Float, Real, UInt8
from torch import Tensor

from undye.data.pixels import to_signed, to_uint8
from undye.denoiser import Denoiser
from undye.edit.ddnm import ddnm, into_box
from undye.edit.dps import dps
from undye.edit.grid import times_from
from undye.edit.inputs import check_pixels, check_variations, show
from undye.edit.job import Job, Varied, blank, named
from undye.edit.operators import AveragePool, Grey
from undye.edit.resampling import down_steps, resampled
from undye.errors import UserError
from undye.samplers import DenoiserLike, Noise
from undye.sampling import with_options

ETA = 0.85
"""Of the DDIM under DDNM: Wang et al. 2023's choice."""
JUMP, RESAMPLINGS = 5, 3
"""Of DDNM's time travel, in steps of the grid: without it the results are rough."""
DPS_STEPS = 250


def restore(
    denoiser: Denoiser,
    measured: np.ndarray,
    task: Literal["super-resolution", "colourise"],
    *,
    factor: int = 4,
    method: Literal["ddnm", "dps"] = "ddnm",
    variations: int = 1,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    scale: float = 1.0,
    jump: int = JUMP,
    resamplings: int = RESAMPLINGS,
    eta: float = ETA,
    **common: Unpack[Varied],
) -> UInt8[np.ndarray, "m h w c"]:
    """Images that a small, or a grey, one may have been made from.

    DDNM takes the measurement as exact: reduced again, a result is the image that was given, pixel for pixel. DPS comes
    near it and is for measurements with noise.

    Args:
        denoiser: the model.
        measured: uint8: for super-resolution (N, H / factor, W / factor, C), each pixel the mean of factor x factor
            ones; for colourise (N, H, W, 1), their luma.
        task: "super-resolution" or "colourise".
        factor: of super-resolution; must divide the model's height and width.
        method: "ddnm" or "dps".
        variations: results for each image.
        steps: steps of the grid; None: 50 for ddnm, of three network calls each but the first, 250 for dps, of one with
            its gradient.
        times: in place of steps: the falling times themselves, from T to 0.
        scale: dps: how strongly the measurement draws, the paper's zeta'.
        jump: ddnm: steps of the grid that its time travel goes back up.
        resamplings: ddnm: how often each stretch of `jump` steps is walked.
        eta: ddnm: how random the DDIM under it is, 0 to 1.
        **common: seed, label, guidance, batch_size, ..., see `undye.edit.job.Varied`. Result k of image i is a function
            of (seed, i, k).

    Returns:
        uint8 (N * variations, H, W, C), the variations of an image together.

    Raises:
        UserError: for images or numbers that do not fit the model, and for colourise with a greyscale model.
    """
    operator = operator_for(denoiser, task, factor)
    check_measured(denoiser, measured, task, factor)
    check_variations(variations)
    if method not in ("ddnm", "dps"):
        raise UserError(f"unknown method {method!r}: choose ddnm or dps")
    y = to_signed(measured).repeat_interleave(variations, 0)
    if method == "dps":
        return restore_from(
            denoiser, y, operator.forward, variations=variations, steps=steps, times=times, scale=scale, **common
        )
    grid = restoring_times(denoiser, method, steps, times)
    walk = resampled(len(grid) - 1, jump, resamplings)
    job = Job(denoiser=denoiser, keys=named(len(measured), variations), calls=down_steps(walk), **common)
    sampler = with_options("ddim", eta=eta)

    def edit(model: DenoiserLike, noise: Noise, x: Tensor, y: Tensor) -> Tensor:
        return ddnm(model, y, operator, noise(x), grid, noise, walk, sampler)

    # float64: what the projections leave must not show in the rounding to pixels
    x_0 = job.run(edit, blank(denoiser, len(y)), y).double()
    return operator.quantise(into_box(x_0, operator, y.double()), measured.repeat(variations, axis=0))


def restore_from(
    denoiser: Denoiser,
    y: Float[Tensor, "m ..."],
    measure: Callable[[Tensor], Tensor],
    *,
    variations: int = 1,
    steps: int | None = None,
    times: Sequence[float] | None = None,
    scale: float = 1.0,
    **common: Unpack[Varied],
) -> UInt8[np.ndarray, "m h w c"]:
    """Images that a measurement of any kind may have been made of, by DPS.

    Args:
        denoiser: the model.
        y: the measurements, one row for each result: those of one image `variations` times in a row.
        measure: what was done to an image: takes a batch (B, C, H, W) in [-1, 1], gives rows like those of y, and can
            be differentiated by torch: a blur, a mask, a crop, a tone curve.
        variations: rows of y that belong to one image.
        steps: network calls, each with a gradient; None: 250.
        times: in place of steps: the falling times themselves, from T to 0.
        scale: how strongly the measurement draws, the paper's zeta'.
        **common: seed, label, guidance, batch_size, ..., see `undye.edit.job.Varied`. Result k of image i is a function
            of (seed, i, k).

    Returns:
        uint8 (M, H, W, C), a result for each row of y.

    Raises:
        UserError: for numbers that do not fit.
    """
    check_variations(variations)
    if len(y) == 0 or len(y) % variations:
        raise UserError(f"give each image's measurement {variations} times: got {len(y)} rows")
    if not 0 < scale < float("inf"):
        raise UserError(f"the scale must be above 0, got {scale:g}")
    grid = restoring_times(denoiser, "dps", steps, times)
    job = Job(denoiser=denoiser, keys=named(len(y) // variations, variations), calls=len(grid) - 1, **common)

    def edit(model: DenoiserLike, noise: Noise, x: Tensor, rows: Tensor) -> Tensor:
        return dps(model, rows, measure, noise(x), grid, noise, scale)

    return to_uint8(job.run(edit, blank(denoiser, len(y)), y))


def restoring_times(
    denoiser: Denoiser, method: str, steps: int | None = None, times: Sequence[float] | None = None
) -> Real[Tensor, " n"]:
    """The falling times from T to 0 that a method takes; `times` themselves, if these are given.

    Raises:
        UserError: for times or steps that do not fit.
    """
    num_steps = denoiser.schedule.num_steps
    if method == "dps" and steps is None and times is None:
        steps = min(DPS_STEPS, num_steps)
    return times_from(num_steps, num_steps, steps, times)


def operator_for(denoiser: Denoiser, task: str, factor: int) -> AveragePool | Grey:
    """The measurement that a task undoes.

    Raises:
        UserError: for a task that there is not, or not for this model.
    """
    height, width = denoiser.config.image_size
    if task == "super-resolution":
        if factor < 2 or height % factor or width % factor:
            raise UserError(f"the factor must be at least 2 and divide the model's {height}x{width}, got {factor}")
        return AveragePool(factor)
    if task == "colourise":
        if denoiser.config.channels != 3:
            raise UserError("this model knows no colours: colourise needs a model of images with 3 channels")
        return Grey()
    raise UserError(f"unknown task {task!r}: choose super-resolution or colourise")


def measured_shape(denoiser: Denoiser, task: str, factor: int) -> tuple[int, int, int]:
    """(height, width, channels) of what a task starts from."""
    height, width = denoiser.config.image_size
    return (height, width, 1) if task == "colourise" else (height // factor, width // factor, denoiser.config.channels)


def check_measured(denoiser: Denoiser, measured: np.ndarray, task: str, factor: int) -> None:
    """Raise unless these are images that a task can start from."""
    check_pixels(measured)
    want = measured_shape(denoiser, task, factor)
    if measured.shape[1:] != want:
        raise UserError(
            f"the images are {show(measured.shape[1:])}, {task} with this model starts from {show(want)}: to try it on "
            "full images, --degrade them first"
        )


def degrade(
    denoiser: Denoiser, images: UInt8[np.ndarray, "n h w c"], task: str, factor: int = 4
) -> UInt8[np.ndarray, "n i j k"]:
    """What `restore` is to undo, made of full images: small ones, or grey ones, in whole pixels."""
    return to_uint8(operator_for(denoiser, task, factor).forward(to_signed(images)))
