"""A network computed by onnxruntime, as an nn.Module: for the Denoiser it is a network like any other."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from undye.config import ModelConfig
from undye.errors import UserError


class OnnxNetwork(nn.Module):
    """network(x, t, label), computed in float32 on the CPU by an onnxruntime session. It has no weights to change.

    Raises:
        UserError: when it is called with tensors of another device, or where gradients are asked for: it has none, and
            to leave them out in silence would make a wrong sampler of one that needs them.
    """

    def __init__(self, path: Path, config: ModelConfig):
        super().__init__()
        self.null = config.num_classes if config.null_label else None
        self.has_labels = config.num_classes is not None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        # between calls the same cores are the sampler's: threads that wait in a loop would take them from it
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], label: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b d h w"]:
        """As the network that it was made from; without labels, the null label where there is one."""
        if x.device.type != "cpu":
            raise UserError("a model of onnxruntime computes on the CPU: give it tensors that are there")
        if torch.is_grad_enabled() and x.requires_grad:
            raise UserError("a model of onnxruntime has no gradients: use the model that it was made from")
        return torch.from_numpy(self.session.run(["value"], feed(x, t, self._labels(label, len(x))))[0])

    def _labels(self, label: Tensor | None, batch: int) -> Tensor | None:
        if self.has_labels and label is None and self.null is not None:
            return torch.full((batch,), self.null)
        return label


def feed(x: Tensor, t: Tensor, label: Tensor | None) -> dict[str, np.ndarray]:
    """The inputs of a program by name."""
    named = {"x": x.detach().float().contiguous(), "t": t.detach().float()}
    if label is not None:
        named["label"] = label
    return {name: tensor.numpy() for name, tensor in named.items()}


def write_network(network: nn.Module, config: ModelConfig, path: Path) -> nn.Module:
    """Write a network as an ONNX file of any batch size; the network stays as it is.

    The network alone, not the whole model as `undye.export` does: what becomes of its answer is the Denoiser's.

    Returns:
        the network that was written: a copy on the CPU, in float32 and without dropout.

    Raises:
        UserError: if torch's exporter cannot express the network.
    """
    network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    inputs = [torch.zeros(2, config.channels, *config.image_size), torch.tensor([0.0, 1.0])]
    names = ["x", "t"]
    if config.num_classes is not None:
        inputs.append(torch.zeros(2, dtype=torch.int64))
        names.append("label")
    batch = torch.export.Dim("batch", min=1)
    try:
        with silence(), torch.no_grad():
            program = torch.onnx.export(
                network,
                tuple(inputs),
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=["value"],
                dynamic_shapes=[{0: batch} for _ in inputs],
            )
            assert program is not None  # it is, but for the exporter of old
            program.save(path, external_data=False)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the exporter raises all sorts for a network that it cannot express
        what = " ".join(str(error).split())[:200]
        raise UserError(
            f"torch's exporter cannot write a model of kind {config.network.kind} for onnxruntime "
            f"({type(error).__name__}: {what})"
        ) from error
    return network


@contextmanager
def silence() -> Iterator[None]:
    """Keep what the tools say while they work from the terminal; errors are raised as ever."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
