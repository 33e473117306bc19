"""A user's own network as a feature extractor: a torch module in Python, or an ONNX file.

It takes images (N, C, H, W), float32 in [-1, 1] (an ONNX file whose input is uint8: 0..255), and returns features
(N, D). One that has more to give returns a dict, an ONNX file names its outputs: `features` (N, D), `logits` (N, K),
`spatial` (N, ...). Archives of torch.export are not taken: torch.export.load unpickles weights, constants and example
inputs that ask for it, so such a file can run anything, while an ONNX file is a graph of known operations.
"""

import hashlib
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from undye.data.pixels import to_signed
from undye.errors import UserError
from undye.metrics.extractor import FeatureExtractor, Features

NAMES = ("features", "spatial", "logits")
TRIED_SIZES = (64, 32, 28, 224)
"""Squares that a network of unknown input size is asked once for its number of features."""


class ModuleExtractor(FeatureExtractor):
    """A torch module; its attributes `image_size` (height, width) and `channels`, where it has them, are what it takes.

    Attributes:
        module: the network; its mode (train or eval) is put back after each batch.
    """

    cacheable = False  # the code that a module calls is not all in its hash

    def __init__(self, module: nn.Module, device: torch.device | None = None):
        self.module = module if device is None else module.to(device)
        self.name, self.hash = type(module).__name__, _hash(module)
        self._device = next((p.device for p in module.parameters()), device or torch.device("cpu"))
        size, channels = (getattr(module, name, None) for name in ("image_size", "channels"))
        self.image_size = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, tuple) else None
        self.channels = channels if isinstance(channels, int) else None
        _measure(self)

    @property
    def device(self) -> torch.device:
        """See `FeatureExtractor.device`."""
        return self._device

    def recipe(self) -> dict[str, Any]:
        """See `FeatureExtractor.recipe`."""
        return super().recipe() | {"kind": "torch module", "resize": "none", "input_range": [-1, 1], "layer": "output"}

    @torch.inference_mode()
    def features(self, images: UInt8[np.ndarray, "n h w c"]) -> Features:
        """See `FeatureExtractor.features`."""
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        try:
            found = self.module(to_signed(images).to(self._device))
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"the module {self.name} cannot take these images: {_one_line(error)}") from error
        finally:
            for part, training in modes:
                part.training = training
        if isinstance(found, Tensor):
            found = {"features": found}
        if not isinstance(found, Mapping) or not all(isinstance(part, Tensor) for part in found.values()):
            raise UserError(f"the module {self.name} must return a tensor, or a dict of tensors with the key features")
        return _features(self.name, {key: part.float().cpu().numpy() for key, part in found.items()})


class OnnxExtractor(FeatureExtractor):
    """An ONNX file, run by onnxruntime on the CPU."""

    def __init__(self, name: str, blob: bytes):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        self.name, self.hash = name, hashlib.sha256(blob).hexdigest()
        try:
            self.session = onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception class for each of its codes, and no common one
            raise UserError(f"{name} is damaged, or no ONNX program: {_one_line(error)}") from None
        inputs = self.session.get_inputs()
        kinds = {"tensor(float)": [-1, 1], "tensor(uint8)": [0, 255]}
        if len(inputs) != 1 or inputs[0].type not in kinds or len(inputs[0].shape) != 4:
            has = ", ".join(f"{port.name}: {port.type} {port.shape}" for port in inputs)
            raise UserError(f"{name} must have one input, float32 or uint8 images (batch, C, H, W); it has {has}")
        self._input, self._range = inputs[0].name, kinds[inputs[0].type]
        batch, channels, height, width = (side if isinstance(side, int) else None for side in inputs[0].shape)
        if channels not in (None, 1, 3):
            raise UserError(f"{name} takes {channels} channels; images have 1 or 3: its input must be (batch, C, H, W)")
        self._batch, self.channels = batch, channels
        self.image_size = (height, width) if height and width else None
        if batch:
            self.batch_size = batch
        names = [port.name for port in self.session.get_outputs()]
        # without a name that says so, the first output is the features
        self._outputs = {key: key for key in NAMES if key in names}
        if "features" not in self._outputs:
            self._outputs["features"] = names[0]
        _measure(self)

    def recipe(self) -> dict[str, Any]:
        """See `FeatureExtractor.recipe`."""
        kind = {"kind": "ONNX file", "resize": "none", "input_range": self._range, "layer": self._outputs["features"]}
        return super().recipe() | kind

    def features(self, images: UInt8[np.ndarray, "n h w c"]) -> Features:
        """See `FeatureExtractor.features`."""
        parts = [images]
        if self._batch is not None:
            parts = [images[i : i + self._batch] for i in range(0, len(images), self._batch)]
        return Features.joined([self._run(part) for part in parts])

    def _run(self, images: np.ndarray) -> Features:
        n = len(images)
        if self._batch is not None and n < self._batch:  # the program takes no fewer
            images = np.concatenate([images, np.repeat(images[-1:], self._batch - n, axis=0)])
        signed = self._range == [-1, 1]
        x = to_signed(images).numpy() if signed else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        try:
            found = self.session.run(list(self._outputs.values()), {self._input: x})
        except Exception as error:  # as above
            raise UserError(f"{self.name} cannot take these images: {_one_line(error)}") from None
        named = zip(self._outputs, found, strict=True)
        return _features(self.name, {key: np.asarray(array, np.float32)[:n] for key, array in named})


def load_onnx(path: Path) -> OnnxExtractor:
    """An ONNX file as an extractor.

    Raises:
        UserError: onnxruntime is missing, or the file is missing, damaged or not of images to features.
    """
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"features from an ONNX file need {' and '.join(missing)}: pip install 'undye[onnx]'")
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if _has_external_data(blob):
        raise UserError(f"{path} keeps its weights in another file, which no hash would cover: export it as one file")
    return OnnxExtractor(str(path), blob)


def _has_external_data(blob: bytes) -> bool:
    import onnx
    from onnx.external_data_helper import uses_external_data

    try:
        program = onnx.load_model_from_string(blob)
    except Exception:  # of a damaged file onnxruntime tells more
        return False
    return any(uses_external_data(tensor) for tensor in program.graph.initializer)


def _features(name: str, found: Mapping[str, np.ndarray]) -> Features:
    """Named arrays, checked.

    Raises:
        UserError: if there are no features (N, D) among them.
    """
    pooled = found.get("features")
    if pooled is None or pooled.ndim != 2:
        has = "nothing of that name" if pooled is None else f"shape {pooled.shape}"
        raise UserError(f"the output `features` of {name} must be (N, D), with pooling done: it has {has}")
    spatial, logits = found.get("spatial"), found.get("logits")
    if logits is not None and logits.ndim != 2:
        raise UserError(f"the output `logits` of {name} must be (N, K): it has shape {logits.shape}")
    return Features(pooled, None if spatial is None else spatial.reshape(len(spatial), -1), logits)


def _measure(extractor: FeatureExtractor) -> None:
    """Fill in the numbers of features, and the channels where the network takes one kind alone, by asking it once.

    Raises:
        UserError: if no image of the usual sizes goes through.
    """
    sizes = [extractor.image_size] if extractor.image_size else [(side, side) for side in TRIED_SIZES]
    kinds = [extractor.channels] if extractor.channels else [3, 1]
    found, taken, error = None, [], None
    for size in sizes:
        for channels in kinds:
            try:
                found = extractor.features(np.full((1, *size, channels), 127, np.uint8))
                taken.append(channels)
            except UserError as refused:
                error = refused
        if found is not None:
            break
    if found is None:
        raise UserError(
            f"{error}; the image size and channels that it takes must be known: set `image_size` and `channels`"
        )
    if len(taken) == 1:
        extractor.channels = taken[0]
    extractor.dims = found.pooled.shape[1]
    extractor.spatial_dims = None if found.spatial is None else found.spatial.shape[1]
    extractor.num_classes = None if found.logits is None else found.logits.shape[1]


def _hash(module: nn.Module) -> str:
    """SHA-256 of a module's structure, its classes' source where Python has it, and its weights."""
    digest = hashlib.sha256(repr(module).encode())
    for kind in sorted(
        {type(part) for part in module.modules()}, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"
    ):
        if not kind.__module__.startswith("torch."):
            try:
                digest.update(inspect.getsource(kind).encode())
            except (OSError, TypeError):
                digest.update(f"{kind.__module__}.{kind.__qualname__}".encode())
    for name, tensor in sorted(module.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
