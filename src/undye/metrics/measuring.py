"""All metrics of one model or set of images in one pass: samples drawn once, features computed once."""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from undye.data.cache import dataset_cache
from undye.data.source import ImageSource
from undye.errors import UserError
from undye.metrics import quality
from undye.metrics.class_numbers import class_numbers
from undye.metrics.copying import measure_memorization
from undye.metrics.eval_data import EvalData, Rows
from undye.metrics.extractor import FeatureExtractor, default_extractor, help_for, load_extractor
from undye.metrics.feature_files import FeatureFiles, content_hash, feature_cache, features_of
from undye.metrics.findings import Findings, ProgressOf, ticker
from undye.metrics.inputs import check_shape
from undye.metrics.intervals import Replicates
from undye.metrics.likelihoods import check_likelihoods, chosen_rows, labels_for, measure_likelihoods
from undye.metrics.memorization import check_unseen
from undye.metrics.neighbour_report import measure_neighbours
from undye.metrics.quality import Sides, check_enough, check_labels
from undye.metrics.quality import measure as measure_quality
from undye.metrics.recipe import model_hash
from undye.metrics.requests import FROM_SAMPLES, IN_FEATURES, OF_MODEL, OF_SAMPLES, EvalRequest
from undye.metrics.resampling import Resampling
from undye.metrics.sample_set import SampleSet, draw
from undye.metrics.subject import Subject
from undye.metrics.versions import versions
from undye.sampling import SampleRequest
from undye.world import World

Extractor = str | PathLike[str] | nn.Module | FeatureExtractor | None


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where to put what is no number: see `undye.evaluate`."""

    samples: Path | None = None
    pairs: Path | None = None
    neighbours: Path | None = None


def sample_cache() -> Path:
    """`samples` in undye's cache folder: sets of samples by the hash of their recipe. May be removed at any time."""
    return dataset_cache().parent / "samples"


def measure(
    subject: Subject,
    data: EvalData,
    request: EvalRequest,
    found: Findings,
    *,
    features: Extractor = None,
    outputs: Outputs | None = None,
    world: World | None = None,
    progress: ProgressOf | None = None,
    draw_number: int = 0,
) -> dict[str, Replicates]:
    """Measure what is asked for, and put it into `found`; the arguments are those of `undye.evaluate`.

    Everything that can be wrong is looked for before the first sample is drawn.

    Returns:
        The bootstrap's replicates of each number that has them, in the main process; made with the draw `draw_number`.

    Raises:
        UserError: for what cannot be used, or the metrics cannot be measured on.
    """
    outputs, world = outputs or Outputs(), world or World.alone()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="undye-")))
        task = _Task(subject, data, request, features, outputs, scratch, progress)
        task.check()
        samples = task.samples(world) if request.asks(*FROM_SAMPLES) else None
        found.head["data"] = task.about_data()
        replicates: dict[str, Replicates] = {}
        resampling = Resampling(quality.RESAMPLES, request.seed, draw_number)
        if request.asks(*OF_MODEL):
            assert subject.denoiser is not None
            likelihoods = measure_likelihoods(
                subject.denoiser, data.likelihood(), request, found, progress, world,
                task.likelihood_recipe() if world.is_main else None, resampling,
            )  # fmt: skip
            found.head["data"], replicates = likelihoods.data, likelihoods.replicates
        if samples is not None and world.is_main:
            replicates |= task.beside_images(samples, found, resampling)
        return replicates


@dataclass
class _Task:
    subject: Subject
    data: EvalData
    request: EvalRequest
    features: Extractor
    outputs: Outputs
    scratch: Path
    progress: ProgressOf | None
    extractor: FeatureExtractor | None = None

    def check(self) -> None:
        """Find what can be wrong before the work."""
        request, denoiser = self.request, self.subject.denoiser
        if denoiser is None:
            if models_only := [m for m in request.metrics if m in OF_MODEL]:
                raise UserError(
                    f"{models_only[0]} is what a model says of images, and {self.subject.name} holds images: ask for "
                    f"{', '.join(FROM_SAMPLES)}"
                )
        else:
            if request.asks(*OF_MODEL):
                check_likelihoods(denoiser, self.data.likelihood(), request)
            if self.outputs.samples is not None and request.asks(*FROM_SAMPLES) and model_hash(denoiser) is None:
                raise UserError(
                    "samples of a network of your own are not kept, undye has no name for it: leave samples"
                )
        if request.asks("memorization"):
            check_unseen(self.data.unseen(), self.data.train())
        if request.asks(*FROM_SAMPLES):
            self._check_shape(self._beside())
        if request.asks(*IN_FEATURES):
            self._check_features()

    def _check_features(self) -> None:
        request, beside = self.request, self._beside()
        self.extractor = load_extractor(self._chosen(), self._device())
        self.extractor.check(beside.image_size, beside.channels)
        if request.asks("fid-per-class"):
            self._check_classes()
        n = request.samples if self.subject.denoiser is not None else request.n
        dims = {"fid": self.extractor.dims, "sfid": self.extractor.spatial_dims}
        for metric in OF_SAMPLES:
            if request.asks(metric):
                check_enough(metric, n, len(self.data.reference()), dims.get(metric))

    def _check_classes(self) -> None:
        denoiser = self.subject.denoiser
        reference = self.data.reference(with_labels=True)
        check_labels(denoiser is None or denoiser.config.num_classes is not None, reference.class_names is not None)
        if denoiser is not None:
            labels_for(denoiser, reference, np.arange(len(reference)))

    def _chosen(self) -> Any:
        if self.features is not None:
            return self.features
        name = default_extractor(self.data.name)
        if name is None:
            raise UserError(help_for(self.data.name))
        return name

    def _device(self) -> str | None:
        parameter = None if self.subject.denoiser is None else next(self.subject.denoiser.parameters(), None)
        return None if parameter is None else str(parameter.device)

    def _check_shape(self, source: ImageSource) -> None:
        if self.subject.denoiser is not None:
            check_shape(self.subject.denoiser, source.image_size, source.channels)

    def _beside(self) -> ImageSource:
        """What the samples are compared with first: the reference set, else the training images."""
        return self.data.reference() if self.request.asks(*OF_SAMPLES) else self.data.train()

    def samples(self, world: World) -> ImageSource | None:
        """What is measured, in the main process: drawn, or loaded."""
        request, subject = self.request, self.subject
        if subject.denoiser is None:
            assert subject.images is not None
            per_class = request.asks("fid-per-class")
            found = self.data.measured(subject.images, self._beside(), request.n, request.seed, per_class)
            if per_class:
                check_labels(found.class_names is not None, True)
                _classes(subject, found, self.data.reference(with_labels=True))
            return found
        asked = SampleRequest(
            n=request.samples, sampler=request.sampler, steps=request.sample_steps, grid=request.sample_grid,
            seed=request.seed, guidance=request.guidance, batch_size=request.batch_size,
        )  # fmt: skip
        folder = self.outputs.samples or (self.scratch if model_hash(subject.denoiser) is None else sample_cache())
        tick = ticker(self.progress, "drawing")
        return draw(subject.denoiser, asked, folder, weights=subject.weights, world=world, progress=tick)

    def about_data(self) -> dict[str, Any]:
        """The report's `data`, where no likelihood is asked for."""
        source = self.data.likelihood() if self.request.asks(*OF_MODEL) else self._beside()
        return {
            "name": source.name, "images": len(source), "n": len(source), "image_size": list(source.image_size),
            "channels": source.channels, "labels": False,
        }  # fmt: skip

    def likelihood_recipe(self) -> dict[str, Any]:
        """What the likelihoods of a report have in common."""
        assert self.subject.denoiser is not None
        source = self.data.likelihood()
        chosen = Rows(source, chosen_rows(source, self.request.images, self.request.seed))
        model = {"sha256": model_hash(self.subject.denoiser), "weights": self.subject.weights, "ema": self._ema()}
        data = {**self._about(chosen), "of": len(source), "split": self.data.split, "chosen_by_seed": self.request.seed}
        return {"versions": versions(), "model": model, "data": data}

    def beside_images(self, samples: ImageSource, found: Findings, resampling: Resampling) -> dict[str, Replicates]:
        """The metrics of samples."""
        replicates: dict[str, Replicates] = {}
        recipe: dict[str, Any] = {"versions": versions(), "samples": self._about_samples(samples)}
        found.head["samples"] = recipe["samples"]
        request = self.request
        if request.asks("memorization"):
            with found.attempt("memorization"):
                how = recipe["samples"]
                how["sha256"] = content_hash(samples)
                beside = {"training": self._about(self.data.train()), "held_out": self._about(self.data.unseen())}
                how = {
                    "sampler": how.get("sampler", {}).get("name"), "steps": how.get("steps"),
                    "recipe": {**recipe, **beside},
                }  # fmt: skip
                measured = measure_memorization(
                    samples, self.data.train(), self.data.unseen(), resampling, how, self.progress, self.outputs.pairs,
                )  # fmt: skip
                found.add("memorization", measured.entry)
                replicates.update(measured.replicates)
        if self.extractor is None:
            return replicates
        asked = [m for m in request.metrics if m in IN_FEATURES]
        with found.attempt(*asked):
            mine = self._features(samples, "samples", samples.folder if isinstance(samples, SampleSet) else None)
            recipe["features"] = found.head["features"] = self.extractor.recipe()
            recipe["samples"]["sha256"] = mine.content
            if request.asks(*OF_SAMPLES):
                sides, recipe["reference"] = self._sides(samples, mine, resampling.draw)
                found.head["reference"] = recipe["reference"]
                for metric in (m for m in asked if m in OF_SAMPLES):
                    with found.attempt(metric):
                        measured = measure_quality(metric, sides, ticker(self.progress, metric))
                        found.add(metric, {**measured.entry, "recipe": {**recipe}})
                        replicates.update(measured.replicates)
            if request.asks("neighbours"):
                with found.attempt("neighbours"):
                    train = self.data.train()
                    theirs = self._features(train, "training images", None)
                    measured = measure_neighbours(
                        samples, mine, train, theirs, resampling, self.progress, self.outputs.neighbours
                    )  # fmt: skip
                    replicates.update(measured.replicates)
                    beside = {k: v for k, v in recipe.items() if k != "reference"}
                    found.add("neighbours", {
                        **measured.entry, "recipe": {**beside, "training": self._about(train, theirs)}
                    })  # fmt: skip
        return replicates

    def _features(self, source: ImageSource, what: str, folder: Path | None) -> FeatureFiles:
        """Kept beside the samples, else in the cache; nowhere for an extractor whose hash is not all of it."""
        assert self.extractor is not None
        place = feature_cache() if folder is None else folder / "features"
        place = place if self.extractor.cacheable else self.scratch
        return features_of(source, self.extractor, place, ticker(self.progress, f"features of the {what}"))

    def _sides(self, samples: ImageSource, mine: FeatureFiles, draw_number: int) -> tuple[Sides, dict[str, Any]]:
        assert self.extractor is not None
        per_class = self.request.asks("fid-per-class")
        reference = self.data.reference(with_labels=per_class)
        theirs = self._features(reference, "reference images", None)
        own, other, names = None, None, None
        if per_class:
            own, other, names = _classes(self.subject, samples, reference)
        sides = Sides(mine, theirs, self.extractor.name, own, other, names, self.request.seed, draw_number)
        return sides, {**self._about(reference, theirs), "split": self.data.split}

    def _about(self, source: ImageSource, features: FeatureFiles | None = None) -> dict[str, Any]:
        about = {
            "name": source.name, "n": len(source),
            "sha256": content_hash(source) if features is None else features.content,
            "image_size": list(source.image_size), "channels": source.channels, "resize": self.data.resize,
            "left_out": len(source.report.bad),
        }  # fmt: skip
        if features is not None:
            about |= {"features_kept": features.kept, "features_damaged": features.damaged}
        return about

    def _ema(self) -> dict[str, Any] | None:
        """What a checkpoint says of its average; None of another project's model, and of raw weights."""
        if self.subject.weights == "raw":
            return None
        return {k: v for k, v in self.subject.about.items() if k.startswith("ema")} or None

    def _about_samples(self, samples: ImageSource) -> dict[str, Any]:
        rounding = "uint8: clipped to [-1, 1], rounded to the nearest of 256 levels"
        if not isinstance(samples, SampleSet):
            return {
                "n": len(samples), "images": samples.name, "resize": self.data.resize, "rounding": "uint8 as given",
                "asked": self.request.n, "chosen_by_seed": self.request.seed, "left_out": len(samples.report.bad),
            }  # fmt: skip
        kept = None if samples.folder.is_relative_to(self.scratch) else str(samples.folder)
        return {
            "n": len(samples), **samples.recipe.as_json(), "recipe_sha256": samples.recipe.hash, "ema": self._ema(),
            "rounding": rounding, "folder": kept, "kept": samples.kept, "damaged": samples.damaged,
        }  # fmt: skip


def _classes(
    subject: Subject, samples: ImageSource, reference: ImageSource
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...] | None]:
    """Labels of the samples and of the reference by the same numbers, and what these are called."""
    own, rows = samples.labels(np.arange(len(samples))), np.arange(len(reference))
    if subject.denoiser is not None:
        names = subject.denoiser.config.class_names or reference.class_names
        return own, labels_for(subject.denoiser, reference, rows), names
    other, names = reference.labels(rows), reference.class_names
    if own is None or other is None or names is None or samples.class_names is None:
        return own, other, names
    return class_numbers(own, samples.class_names, names, samples.name), other, names
