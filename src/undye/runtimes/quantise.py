"""Convolutions in 8-bit integers: half the time of float32 where the CPU multiplies bytes, for a little of the quality.

Weights are int8 with a scale for each output channel; what they multiply is uint8 with one scale and zero for the whole
tensor, found by calibration: the mean over batches of the smallest and the largest number seen (outliers are clipped).
Three kinds of layers stay in float32. The first and the last face the image, where a rounded number is a visible one.
1x1 convolutions read the residual stream, whose range is many times its spread: rounding them costs more accuracy than
all the others, and they are no faster for it. Everything that is no convolution takes little time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from jaxtyping import UInt8
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from torch import Tensor

from undye.data.pixels import to_signed
from undye.denoiser import Denoiser
from undye.runtimes.onnx_network import feed, silence

BATCHES, BATCH = 16, 16
"""How many x_t calibration looks at: 256."""

Inputs = tuple[Tensor, Tensor, Tensor | None]


def quantise(path: Path, out: Path, inputs: Iterator[Inputs]) -> None:
    """Write the network in `path`, an ONNX file, with its inner convolutions in 8 bits.

    Args:
        path: the network in float32.
        out: the new file.
        inputs: batches of (x, time as the network is told it, label): what it will be fed.
    """
    with silence():
        quantize_static(
            path,
            out,
            _Reader(inputs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_in_float32(onnx.load(path)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibMovingAverage": True},
        )


def calibration_inputs(denoiser: Denoiser, images: UInt8[np.ndarray, "n h w c"], seed: int = 0) -> Iterator[Inputs]:
    """Images with the noise of all times 1..T, spread evenly in every batch; with any label that the model has."""
    config, generator = denoiser.config, torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    for i in range(BATCHES):
        x_0 = to_signed(images[order[torch.arange(i * BATCH, (i + 1) * BATCH) % len(order)].numpy()])
        place = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH
        t = (place * denoiser.schedule.num_steps).long() + 1
        x_t = denoiser.process.q_sample(x_0, t, torch.randn(x_0.shape, generator=generator))
        label = None
        if config.num_classes is not None:
            label = torch.randint(config.num_classes + config.null_label, (BATCH,), generator=generator)
        yield x_t, denoiser.time_input(t, x_t), label


def _in_float32(model: onnx.ModelProto) -> Sequence[str]:
    """The names of the convolutions that stay as they are."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    ends = {convolutions[0].name, convolutions[-1].name} if convolutions else set()
    inner = [node for node in convolutions if max(shapes.get(node.input[1], (1, 1, 1))[2:]) > 1]
    kept = {node.name for node in inner} - ends
    return [node.name for node in convolutions if node.name not in kept]


class _Reader(CalibrationDataReader):
    """What onnxruntime's calibration asks for batches."""

    def __init__(self, inputs: Iterator[Inputs]):
        self.inputs = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyrefly: ignore
        """The next batch, None after the last."""
        return next((feed(*batch) for batch in self.inputs), None)
