"""`accelerated`: a model whose network an optimised runtime computes, on the CPU."""

import importlib.util
import tempfile
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from undye.checkpoint.programs import ONNX_LIMIT, TOLERANCE, disagreement, outputs_of
from undye.denoiser import Denoiser
from undye.diffusion.terminal import SignalLeftWarning
from undye.errors import UserError

PRECISIONS = ("float32", "int8")


def accelerated(
    denoiser: Denoiser,
    *,
    precision: Literal["float32", "int8"] = "float32",
    calibration: UInt8[np.ndarray, "n h w c"] | None = None,
) -> Denoiser:
    """The same model with its network computed by onnxruntime, for sampling and measuring on the CPU.

    What each brings is in `benchmarks/results/runtimes.md`: float32 gives the model's own numbers but for rounding, and
    pays for small batches; int8 takes about half the time at any batch size, and changes the images a little.

    Args:
        denoiser: the model; it stays as it is, and later changes of its weights do not reach the new one.
        precision: "float32", or "int8" for 8-bit convolutions, see `undye.runtimes.quantise`.
        calibration: for int8, images of the kind that the model makes, of its size: a few hundred of the training data.

    Returns:
        a Denoiser without weights and gradients, which uses as many threads as torch does now.

    Raises:
        UserError: if packages are missing, the precision is unknown, images for int8 are missing or of another size,
            the network is too large, or the exporter cannot express it.
        RuntimeError: if the runtime does not compute in float32 what the model does.
    """
    if precision not in PRECISIONS:
        raise UserError(f"unknown precision {precision!r}: choose from {', '.join(PRECISIONS)}")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"the runtime needs {' and '.join(missing)}: pip install 'undye[onnx]'")
    if precision == "int8":
        _check_images(denoiser, calibration)
    elif calibration is not None:
        raise UserError("calibration images are for int8: leave them out")
    size = sum(4 * tensor.numel() for tensor in denoiser.network.state_dict().values())
    if size > ONNX_LIMIT:
        raise UserError(f"this model has {size / 1e9:.1f} GB of weights, the runtime takes 2 GB")
    from undye.runtimes.onnx_network import OnnxNetwork, write_network

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "network.onnx"
        network = write_network(denoiser.network, denoiser.config, path)
        fast = _denoiser(OnnxNetwork(path, denoiser.config), denoiser)
        error = disagreement(lambda inputs: outputs_of(fast(*inputs)), _denoiser(network, denoiser))
        if error > TOLERANCE:
            raise RuntimeError(f"the runtime differs from the model by {error:.2g} of its scale: a bug in undye")
        if calibration is None:
            return fast
        from undye.runtimes.quantise import calibration_inputs, quantise

        quantise(path, path := Path(folder) / "int8.onnx", calibration_inputs(denoiser, calibration))
        return _denoiser(OnnxNetwork(path, denoiser.config), denoiser)


def _denoiser(network: nn.Module, like: Denoiser) -> Denoiser:
    """Another network in a model's place, with the step grids that were made for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SignalLeftWarning)  # the model has said that already
        denoiser = Denoiser(network, like.config).eval()
    denoiser.grids = dict(like.grids)
    return denoiser


def _check_images(denoiser: Denoiser, images: np.ndarray | None) -> None:
    """Raise unless there are images that the model could have made."""
    height, width = denoiser.config.image_size
    wanted = (height, width, denoiser.config.channels)
    if images is None or len(images) == 0:
        raise UserError("int8 needs images to calibrate with: give a few hundred of the training data")
    if images.dtype != np.uint8 or images.shape[1:] != wanted:
        raise UserError(
            f"images to calibrate with must be uint8 of {height}x{width} with {denoiser.config.channels} channels, got "
            f"{images.dtype} {tuple(images.shape[1:])}"
        )
