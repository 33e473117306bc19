"""`undye sample --like PICTURE`: from a request to what a picture says of it, and back."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undye.checkpoint.imported import Settings
from undye.checkpoint.load import load
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.metrics.recipe import model_hash
from undye.metrics.versions import versions
from undye.provenance import Provenance
from undye.sampling import SampleRequest, plan, with_options
from undye.writers import ProvenanceOf

_STEERING = ("guidance", "guidance_interval", "guidance_rescale", "threshold")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Which model, and what computes it.

    Attributes:
        model: as the user named it.
        sha256: of its settings and weights; None for a network that undye cannot name.
        weights: ema or raw.
        set: what another project's file does not say, KEY=VALUE each.
        runtime: what computes the network.
        calibration: the images that an int8 runtime was fitted to.
    """

    model: str
    sha256: str | None = None
    weights: str = "ema"
    set: tuple[str, ...] = ()
    runtime: str = "pytorch"
    calibration: str = ""


def provenance_of(source: ModelSource, denoiser: Denoiser, request: SampleRequest) -> ProvenanceOf:
    """What the pictures of some of a request's samples say: exact times, so that no later default changes them."""
    sampler, times = plan(denoiser, request)
    common = {
        **versions(), "command": "sample", **asdict(source), "seed": request.seed,
        "sampler": sampler.name, "options": asdict(sampler),
        "times": [float(t) for t in times], **{name: getattr(request, name) for name in _STEERING},
        "dtype": request.dtype,
    }  # fmt: skip

    def of(numbers: range) -> Provenance:
        label = request.part(numbers.start, numbers.stop).label
        one = None if label is None else [int(k) for k in np.broadcast_to(label, len(numbers))]
        return {**common, "n": len(numbers), "first_index": request.first_index + numbers.start, "label": one}

    return of


def open_source(
    source: ModelSource, device: torch.device, like: str = "", instead: str = ""
) -> tuple[Denoiser, ModelSource]:
    """Load a model.

    Args:
        source: which.
        device: where to.
        like: the picture that names it; "": the user does.
        instead: the model that the user names in place of the picture's.

    Returns:
        the model, and what is now known of it.

    Raises:
        UserError: if it cannot be read, or is not the one that made the picture and not named in its place.
    """
    model = instead or source.model
    if not Path(model).exists():
        raise UserError(f"no model at {model}: give a run folder or a checkpoint folder")
    denoiser = load(model, device, Settings.parse(source.set).values, weights=source.weights)  # pyrefly: ignore
    sha256 = model_hash(denoiser)
    if like and not instead and source.sha256 != sha256:
        raise UserError(
            f"the model in {model} is not the one that made {like}: name that one, or name this one as MODEL "
            "to use the same settings with it"
        )
    return denoiser, replace(source, model=model, sha256=sha256)


def note_another(said: ModelSource, used: ModelSource, like: str) -> None:
    """Tell the user if a picture is made again by another model."""
    if said.sha256 != used.sha256:
        print(f"undye: note: another model than {like} was made by, with its settings", file=sys.stderr)


def source_in(found: Provenance) -> ModelSource:
    """The model that a picture names.

    Raises:
        UserError: if it says it otherwise than this version does.
    """
    with reading():
        given = {key: found[key] for key in ("model", "sha256", "weights", "runtime", "calibration")}
        if not all(isinstance(v, str) or (k == "sha256" and v is None) for k, v in given.items()):
            raise TypeError
        return ModelSource(**given, set=tuple(str(text) for text in found["set"]))


def request_in(found: Provenance, batch_size: int | None) -> SampleRequest:
    """The request that a picture says.

    Raises:
        UserError: if it says it otherwise than this version does.
    """
    with reading():
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(found["options"]).items()}
        steering: dict[str, Any] = {name: found[name] for name in _STEERING}
        steering |= {name: float(steering[name]) for name in ("guidance", "guidance_rescale")}
        if steering["threshold"] is not None:
            steering["threshold"] = float(steering["threshold"])
        if steering["guidance_interval"] is not None:
            low, high = steering["guidance_interval"]
            steering["guidance_interval"] = (float(low), float(high))
        n, label = int(found["n"]), None if found["label"] is None else [int(k) for k in found["label"]]
        if label is not None and len(label) != n:
            raise ValueError
        return SampleRequest(
            n=n, first_index=int(found["first_index"]), seed=int(found["seed"]),
            sampler=with_options(str(found["sampler"]), **options), times=[float(t) for t in found["times"]],
            label=label, dtype=str(found["dtype"]),
            batch_size=batch_size, **steering,
        )  # fmt: skip


def settings_in(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the pictures of one set of samples have in common: how they were made, not their numbers and classes."""
    apart = ("command", "n", "first_index", "label", "undye", "torch", "model")
    return {k: v for k, v in found.items() if k not in apart}


class reading:  # noqa: N801 - a context manager
    """Turns what a strange picture makes go wrong into words."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | OverflowError) and not isinstance(error, UserError):
            raise UserError("the picture was written by another version of undye, or was changed: it cannot be read")
