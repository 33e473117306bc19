"""InceptionV3 as torch-fidelity has it: the features of published FIDs.

The weights are those of 2015 that Heusel et al. 2017 used, converted by torch-fidelity. The network takes uint8 RGB,
enlarges or shrinks it to 299x299 as TensorFlow 1 did (bilinear, not antialiased, corners not aligned) and scales it
itself, so nothing should be resized before. torch-fidelity would unpickle a given file; here it is read with
weights_only, and torch-fidelity gets a state dict that undye wrote.
"""

import hashlib
import io
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from undye.checkpoint.content import read_content, state_dict_of
from undye.errors import UserError
from undye.metrics.extractor import FeatureExtractor, Features

FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
SHA256_BEGINS = "6726825d"
"""Of the published file, as its name says."""
MEGABYTES = 96
BATCH = 50
SPATIAL_CHANNELS = 7


class InceptionExtractor(FeatureExtractor):
    """torch-fidelity's InceptionV3 with given weights.

    Attributes:
        network: in eval mode, on the CPU or where asked.
        published: whether the weights are those of published FIDs, by their hash.
    """

    dims, spatial_dims, num_classes = 2048, SPATIAL_CHANNELS * 17 * 17, 1008
    image_size, channels, batch_size = None, None, BATCH

    def __init__(self, name: str, digest: str, network: nn.Module, device: torch.device):
        self.name, self.hash, self._device = name, digest, device
        self.published = digest.startswith(SHA256_BEGINS)
        self.network = network.to(device).eval()
        self._spatial: list[Tensor] = []
        # what Nash et al. 2021 call mixed_6/conv: the 1x1 branch, after its ReLU
        branch = self.network.get_submodule("Mixed_6d.branch1x1")
        branch.register_forward_hook(lambda _module, _input, out: self._spatial.append(out[:, :SPATIAL_CHANNELS]))

    @property
    def device(self) -> torch.device:
        """See `FeatureExtractor.device`."""
        return self._device

    def recipe(self) -> dict[str, Any]:
        """See `FeatureExtractor.recipe`."""
        return super().recipe() | {
            "kind": "InceptionV3 of torch-fidelity",
            "published_weights": self.published,
            "resize": "to 299x299 inside the network: bilinear as TensorFlow 1, not antialiased",
            "input_range": [0, 255],
            "greyscale": "repeated to 3 channels",
            "layer": "2048: the last mean over places",
            "spatial_layer": f"first {SPATIAL_CHANNELS} channels of the 1x1 branch of Mixed_6d (17x17)",
            "logits": "without the bias (logits_unbiased)",
        }

    def features(self, images: UInt8[np.ndarray, "n h w c"]) -> Features:
        """See `FeatureExtractor.features`."""
        x = torch.from_numpy(np.array(images, order="C")).to(self._device).permute(0, 3, 1, 2)
        self._spatial.clear()
        pooled, logits = self.network(x.expand(-1, 3, -1, -1))
        spatial = self._spatial.pop().flatten(1)
        return Features(*(part.float().cpu().numpy() for part in (pooled, spatial, logits)))


def load_inception(file: str | None, device: torch.device) -> InceptionExtractor:
    """The extractor with the weights of `file`; None: the published ones, downloaded where they are not here yet.

    Raises:
        UserError: the weights are missing, or the file is not such weights.
    """
    path = Path(file).expanduser() if file else published_weights()
    if not path.is_file():
        raise UserError(f"no file {path}: {_by_hand()}")
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if not file and not digest.startswith(SHA256_BEGINS):
        raise UserError(f"{path} is damaged (its SHA-256 does not begin with {SHA256_BEGINS}): remove it and try again")
    state = state_dict_of(read_content(path), path)
    name = f"inception:{file}" if file else "inception"
    return InceptionExtractor(name, digest, build(state, path), device)


def build(state: dict[str, Tensor], path: Path) -> nn.Module:
    """torch-fidelity's network with the weights of a state dict.

    Raises:
        UserError: naming `path`, if they are another network's.
    """
    own = io.BytesIO()
    torch.save(state, own)  # torch-fidelity unpickles what it is given: these bytes are ours, plain tensors
    own.seek(0)
    try:
        return FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=own)
    except RuntimeError as error:
        what = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} does not hold the weights of torch-fidelity's InceptionV3 ({what}): {_by_hand()}"
        ) from None


def published_weights() -> Path:
    """The file of the published weights in torch's cache, where torch-fidelity looks too; downloaded if need be.

    Raises:
        UserError: it is not here and cannot be downloaded.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(path), hash_prefix=SHA256_BEGINS, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        why = " ".join(str(getattr(error, "reason", error)).split())[:120]
        raise UserError(
            f"Inception's weights are not on this machine and cannot be downloaded ({why}): {_by_hand()}"
        ) from None
    return path


def _by_hand() -> str:
    return (
        f"fetch {URL} (about {MEGABYTES} MB, its SHA-256 begins with {SHA256_BEGINS}) with another machine and give "
        f"--features inception:{FILE}"
    )
