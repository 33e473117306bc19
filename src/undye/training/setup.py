"""What a run is made of, from its configuration: images, model, objective."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from undye.checkpoint.card import UNKNOWN_LICENSE, read_license
from undye.checkpoint.imported import Settings
from undye.checkpoint.load import is_foreign, load
from undye.checkpoint.native import find_checkpoint
from undye.config import ModelConfig
from undye.data import load_images
from undye.data.hub_stream import HubStream
from undye.data.names import HUB_STREAM
from undye.data.source import ImageSource
from undye.data.stream import StreamSource
from undye.denoiser import Denoiser
from undye.diffusion.variance import LEARNED
from undye.diffusion.weighting import VLB, WEIGHTINGS
from undye.errors import UserError
from undye.objective import HybridObjective, Objective, SimpleObjective, VLBObjective
from undye.timesteps import timestep_sampler
from undye.training.held_out import in_memory
from undye.training.run import RunConfig


def load_data(config: RunConfig, new: bool = True, progress: Callable[[int, int], None] | None = None) -> ImageSource:
    """The images of a run, in the shape that its model has, where it has one (`new` False, or --init)."""
    if not config.data:
        raise UserError("no data: give --data a name (fashion-mini, ...), a folder of images, or an .npz file")
    size = config.image_size
    channels: Literal[1, 3] | None = config.channels
    if not new:
        size = config.model.image_size
        channels = 1 if config.model.channels == 1 else 3
    elif config.init is not None:
        initial = _initial(config).config
        size = size or initial.image_size
        channels = channels or (1 if initial.channels == 1 else 3)
    if config.data.startswith(HUB_STREAM):
        return _load_stream(config, size, channels)
    return load_images(
        config.data,
        image_size=size,
        channels=channels,
        labels=config.labels,
        upscale=config.upscale,
        progress=progress,
        decode_late=config.training.crop == "random",
    )


def _initial(config: RunConfig) -> Denoiser:
    """The model to start from."""
    assert config.init is not None
    return load(config.init, settings=Settings.parse(config.init_settings).values)


def _load_stream(config: RunConfig, size: tuple[int, int] | None, channels: Literal[1, 3] | None) -> StreamSource:
    """A stream, unless something is asked for that needs all of its rows beforehand."""
    if config.labels == "folders":
        raise UserError("--labels folders is for folders and archives: a stream brings its own labels, --labels auto")
    if config.watch.held_out or config.watch.nll_every:
        raise UserError(
            "nothing can be held out of a stream, for the number of its images is not known: leave --watch.held-out "
            "and --watch.nll-every out and measure afterwards (undye eval), or pack the stream (undye data pack)"
        )
    return StreamSource(HubStream(config.data, "train", config.labels != "none"), size, channels, config.upscale)


def build_model(config: RunConfig, source: ImageSource) -> tuple[RunConfig, Denoiser]:
    """The model of a run, in the shape of its data; the config with that filled in."""
    if config.init is not None:
        denoiser = _initial(config)
        have = denoiser.config
        if (have.channels, have.num_classes) != (source.channels, source.num_classes):
            raise UserError(
                f"{config.init} has {have.channels} channel(s) and {have.num_classes or 'no'} classes, the data "
                f"{source.channels} and {source.num_classes or 'no'}: choose --channels and --labels to match"
            )
        model = replace(have, image_size=source.image_size, class_names=source.class_names)
        fresh = Denoiser.from_config(model)
        fresh.load_state_dict(denoiser.state_dict())
        return replace(config, model=model), fresh
    model = replace(
        config.model,
        image_size=source.image_size,
        channels=source.channels,
        num_classes=source.num_classes,
        class_names=source.class_names,
    )
    # the weights' random start belongs to the run's seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        denoiser = from_config(model)
    return replace(config, model=model), denoiser


def build_objective(config: RunConfig) -> Objective:
    """The objective that a run's configuration names.

    Raises:
        UserError: if it does not train all of the model.
    """
    training, model = config.training, config.model
    timesteps = timestep_sampler(training.timesteps, model.schedule.num_steps)
    if training.objective == "vlb":
        return VLBObjective(timesteps=timesteps, label_drop=training.label_drop)
    if training.objective == "simple" and model.variance in LEARNED:
        other = "" if config.init else ", or --model.variance fixed_small or fixed_large"
        raise UserError(
            f"the simple loss does not train {model.variance}: choose --training.objective hybrid or vlb{other}"
        )
    if training.objective == "hybrid" and model.variance not in LEARNED:
        raise UserError(f"the hybrid objective trains a variance, and this model's is {model.variance}: choose simple")
    if training.weighting == "vlb" and model.variance in LEARNED:
        raise UserError("the vlb weighting is for fixed variances: choose --training.objective vlb or hybrid")
    kind = HybridObjective if training.objective == "hybrid" else SimpleObjective
    weighting = VLB(model.variance) if training.weighting == "vlb" else WEIGHTINGS[training.weighting]()
    return kind(timesteps=timesteps, label_drop=training.label_drop, distance=training.distance, weighting=weighting)


def fingerprint(source: ImageSource) -> str:
    """A hash of what the images are: their names and classes, of 100,000 of them at most, and pixels that are at hand.

    It tells files that were added, removed or renamed; not a file whose pixels were changed under its old name. Of a
    stream it is a hash of its first rows.
    """
    if isinstance(source, StreamSource):
        return source.fingerprint()
    n = len(source)
    some = np.unique(np.linspace(0, n - 1, min(n, 100_000)).round().astype(np.int64))
    digest = hashlib.sha256(str(n).encode())
    for name in source.names(some):
        # a set that has no names for its images calls them by its own, which may be a path that has changed
        digest.update(name.removeprefix(source.name).encode("utf-8", "surrogateescape") + b"\0")
    if (labels := source.labels(some)) is not None:
        digest.update(labels.astype("<i8").tobytes())
    if in_memory(source):
        digest.update(source.images(some[:: max(1, len(some) // 64)]).tobytes())
    return digest.hexdigest()


def license_of(config: RunConfig) -> str:
    """That of the run's weights: what is said, else what the model that it started from says."""
    if config.license != UNKNOWN_LICENSE or config.init is None:
        return config.license
    source = Path(config.init)
    if not source.is_dir():
        return config.license
    folder = source if is_foreign(source) else find_checkpoint(source)
    return read_license(folder) or config.license


def from_config(model: ModelConfig) -> Denoiser:
    """A model with random weights.

    Raises:
        UserError: for settings that do not fit together.
    """
    try:
        return Denoiser.from_config(model)
    except ValueError as error:
        raise UserError(f"the model cannot be built: {error}") from None


def check_shape(model: ModelConfig, source: ImageSource) -> None:
    """Make sure that the data still has the shape that a run was started with.

    Raises:
        UserError: if it has not.
    """
    have = (source.image_size, source.channels, source.num_classes)
    if have != (model.image_size, model.channels, model.num_classes):
        size = f"{model.image_size[0]}x{model.image_size[1]}x{model.channels}"
        raise UserError(
            f"the data has become {source.describe()}; the run's model is for {size} and {model.num_classes or 'no'} "
            "classes: start a new run"
        )
