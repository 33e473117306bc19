"""What makes a set of samples what it is: the same recipe draws the same images."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch

from undye.denoiser import Denoiser
from undye.metrics.versions import undye_version
from undye.sampling import SampleRequest, plan
from undye.structure import unstructure

FORMAT = 1
"""Of the recipe: a change of its meaning is a change of its hash."""
_ELSEWHERE = {"n", "first_index", "label", "batch_size", "sampler", "steps", "grid", "times", "seed", "dtype"}
"""Of a request: what does not touch a sample, or is in the recipe by itself."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the pixels of a sample, but its number.

    Attributes:
        model: the SHA-256 of the model's settings and weights; None for a network that undye cannot name.
        weights: which of the checkpoint's: ema or raw; None where nobody said.
        sampler: its name and all its options.
        steps: of the grid; a network call each, or more, as the sampler does.
        grid: its name as it was asked for; None: the model's, or the sampler's own.
        times: the grid's, from T to 0.
        seed: sample i is a function of the recipe and i.
        labels: the rule by which sample i has its class: `i mod K`; None without classes.
        guidance: the weight of classifier-free guidance, and what else steers the sampling.
        dtype: what the model computes in.
        device: the kind of device; the last bits differ between kinds.
        undye: version.
    """

    model: str | None
    weights: str | None
    sampler: Mapping[str, Any]
    steps: int
    grid: str | None
    times: tuple[float, ...]
    seed: int
    labels: str | None
    guidance: Mapping[str, Any]
    dtype: str
    device: str
    undye: str

    @classmethod
    def of(cls, denoiser: Denoiser, request: SampleRequest, weights: str | None = None) -> "Recipe":
        """That of a request; its `n`, `first_index` and `batch_size` do not matter, and `label` is i mod K."""
        sampler, times = plan(denoiser, request)
        classes = denoiser.config.num_classes
        parameter = next(denoiser.parameters(), torch.empty(0))
        return cls(
            model=model_hash(denoiser), weights=weights, sampler={"name": sampler.name, **asdict(sampler)},
            steps=len(times) - 1, grid=request.grid, times=tuple(float(t) for t in times), seed=request.seed,
            labels=None if classes is None else f"i mod {classes}",
            guidance={k: v for k, v in vars(request).items() if k not in _ELSEWHERE},
            dtype=_dtype(parameter.dtype, request.dtype), device=parameter.device.type, undye=undye_version(),
        )  # fmt: skip

    @property
    def hash(self) -> str:
        """The SHA-256 of the recipe."""
        text = json.dumps({"format": FORMAT, **self.as_json()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return json.loads(json.dumps({f.name: getattr(self, f.name) for f in fields(self)}, default=repr))


def _dtype(weights: torch.dtype, network: str) -> str:
    """What the weights are in; and what the network computes in, where that was asked to be another."""
    own = str(weights).removeprefix("torch.")
    return own if network in (own, "float32") else f"{own}, network in {network}"


def model_hash(denoiser: Denoiser) -> str | None:
    """The SHA-256 of a model's settings and weights; None for a user's own module, whose code undye does not know."""
    if not type(denoiser.network).__module__.startswith("undye."):
        return None
    digest = hashlib.sha256(json.dumps(unstructure(denoiser.config), sort_keys=True).encode())
    for name, tensor in sorted(denoiser.network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def balanced_labels(denoiser: Denoiser, start: int, stop: int) -> np.ndarray | None:
    """The classes of samples `start` to `stop`: every class as often as the others; None for a model without."""
    classes = denoiser.config.num_classes
    return None if classes is None else np.arange(start, stop) % classes
