"""The classifier in a file, and as a feature extractor.

The file is a safetensors file: the fused weights as float16 (half a megabyte; they are what the accuracy was measured
with), and one JSON text `undye` of the metadata: the network's configuration, the classes, how it was trained, and the
SHA-256 of the weights, by which damage is found.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from undye.data.pixels import to_signed
from undye.errors import UserError
from undye.files import atomic_path
from undye.metrics.classifier import DIMS, SPATIAL_CHANNELS, SPATIAL_SIDE, Classifier, ClassifierConfig
from undye.metrics.extractor import FeatureExtractor, Features
from undye.structure import structure, unstructure

SUFFIX = ".safetensors"
SCHEMA = 1
BATCH = 500
LIMIT = 1 << 24
"""Bytes; a file of features has half a million, and a little for each class."""
EMBEDDED = {"fashion-mnist": "ed4c8420bb2885f910acb1052fb96337f2dffcd59f748371eec9b20b02d03361"}
"""The classifiers that ship with the package, and the SHA-256 of their files."""


@dataclass(frozen=True, kw_only=True)
class _Info:
    """What a file says of its network, but for what it is and its hash."""

    config: ClassifierConfig
    class_names: tuple[str, ...]
    trained: Any


class ClassifierExtractor(FeatureExtractor):
    """A classifier that `undye features` trained.

    Attributes:
        network: fused, in eval mode.
        trained: how it was trained, and its accuracy; plain data.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        network: Classifier,
        class_names: tuple[str, ...],
        trained: dict[str, Any],
        device: torch.device,
    ):
        self.name, self.hash, self.class_names, self.trained = name, digest, class_names, trained
        self.dims, self.spatial_dims = DIMS, SPATIAL_CHANNELS * SPATIAL_SIDE**2
        self.num_classes = network.config.num_classes
        self.image_size, self.channels = network.config.image_size, network.config.channels
        self._device, self.batch_size = device, BATCH
        self.network = network.to(device, memory_format=torch.channels_last)  # pyrefly: ignore

    @property
    def device(self) -> torch.device:
        """See `FeatureExtractor.device`."""
        return self._device

    def recipe(self) -> dict[str, Any]:
        """See `FeatureExtractor.recipe`."""
        config = self.network.config
        shrunk = f"antialiased bilinear to {config.input_size[0]}x{config.input_size[1]}"
        return super().recipe() | {
            "kind": "classifier of undye",
            "resize": "none" if config.input_size == config.image_size else shrunk,
            "input_range": [-1, 1],
            "layer": "mean over places of the last convolution, after ReLU",
            "spatial_layer": f"first {SPATIAL_CHANNELS} channels of the middle, means on a "
            f"{SPATIAL_SIDE}x{SPATIAL_SIDE} grid",
            "weights": "float16, computed in float32",
            "trained": self.trained,
        }

    def features(self, images: UInt8[np.ndarray, "n h w c"]) -> Features:
        """See `FeatureExtractor.features`."""
        pooled, spatial, logits = self.network(network_input(images, self.network.config, self._device))
        return Features(*(part.float().cpu().numpy() for part in (pooled, spatial, logits)))


def network_input(
    images: UInt8[np.ndarray, "n h w c"], config: ClassifierConfig, device: torch.device
) -> Float32[Tensor, "n c height width"]:
    """Pixels to what the network sees: [-1, 1], shrunk (bilinear, antialiased) where the longer side is above 256."""
    x = to_signed(torch.from_numpy(np.array(images, order="C")).to(device))
    if config.input_size != config.image_size:
        x = F.interpolate(x, config.input_size, mode="bilinear", antialias=True, align_corners=False)
    return x.contiguous(memory_format=torch.channels_last)


def save_classifier(out: Path, network: Classifier, class_names: tuple[str, ...], trained: dict[str, Any]) -> None:
    """Write a fused network, whole or not at all.

    Raises:
        UserError: if a weight does not fit float16: the training went wrong.
        OSError: as the disk says.
    """
    tensors = {name: tensor.cpu().half().contiguous() for name, tensor in network.state_dict().items()}
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError("the classifier's weights are not finite: its training diverged, try another seed")
    about = {
        "schema_version": SCHEMA,
        "kind": "classifier",
        "config": unstructure(network.config),
        "class_names": list(class_names),
        "trained": trained,
        "weights_sha256": _digest(tensors),
    }
    blob = save_tensors(tensors, {"undye": json.dumps(about)})
    with atomic_path(out, durable=True) as temporary:
        temporary.write_bytes(blob)


def load_classifier(path: Path, device: torch.device, name: str | None = None) -> ClassifierExtractor:
    """Read what `save_classifier` wrote.

    Raises:
        UserError: if it is not there, damaged, or another kind of file.
    """
    try:
        if path.stat().st_size > LIMIT:
            raise UserError(f"{path} is too large for a file of features: give one that `undye features` wrote")
        blob = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"no file of features at {path}: `undye features --data NAME_OR_PATH --out {path}`") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return _read(blob, str(path), name or str(path), device)


def load_embedded(name: str, device: torch.device) -> ClassifierExtractor:
    """One of the classifiers that ship with undye.

    Raises:
        UserError: if the installed file is damaged.
    """
    blob = (resources.files("undye.metrics") / "embedded" / f"{name}{SUFFIX}").read_bytes()
    if hashlib.sha256(blob).hexdigest() != EMBEDDED[name]:
        raise UserError(f"the embedded {name}{SUFFIX} is damaged: install undye again")
    return _read(blob, f"the embedded {name}{SUFFIX}", name, device)


def _read(blob: bytes, where: str, name: str, device: torch.device) -> ClassifierExtractor:
    try:
        tensors = load_tensors(blob)
        header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
        about = json.loads(header.get("__metadata__", {}).get("undye", "null"))
    except (SafetensorError, ValueError, RecursionError, AttributeError, TypeError) as error:
        what = " ".join(str(error).split())[:120]
        raise UserError(f"{where} is damaged or cut off ({what}): train it again, or copy it again") from None
    if not isinstance(about, dict) or about.get("kind") != "classifier":
        raise UserError(
            f"{where} holds no features: give a file that `undye features` wrote, an .onnx file or inception"
        )
    if about.get("schema_version") != SCHEMA:
        raise UserError(f"{where}: schema version {about.get('schema_version')!r} is not {SCHEMA}: use a newer undye")
    if about.get("weights_sha256") != _digest(tensors):
        raise UserError(f"{where} is damaged (its weights are not those that were written): train or copy it again")
    info = structure(_Info, {key: about.get(key) for key in ("config", "class_names", "trained")}, where)
    if len(info.class_names) != info.config.num_classes or not isinstance(info.trained, dict):
        raise UserError(f"{where} is damaged (its description does not fit its network): train it again")
    network = Classifier.empty(info.config)
    try:
        network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    except RuntimeError as error:
        what = " ".join(str(error).split())[:120]
        raise UserError(f"{where} does not hold the weights of its network ({what}): train it again") from None
    return ClassifierExtractor(name, hashlib.sha256(blob).hexdigest(), network, info.class_names, info.trained, device)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
