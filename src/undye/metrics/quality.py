"""The metrics of samples beside a reference set in features: the numbers of a report, with intervals and flags.

Each is a function of the features of both sides, one line of `IN_FEATURES`, and gives its entry of the report and the
bootstrap replicates of its numbers, by which two sets of samples are compared. The numbers that torch-fidelity has the
mathematics of are its own (`fidelity`).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from undye.errors import UserError
from undye.metrics import fidelity
from undye.metrics.bootstrap import (
    fid_replicates,
    inception_score_replicates,
    kid_replicates,
    prdc_replicates,
    resample_weights,
)
from undye.metrics.class_replicates import class_replicates, mean_of
from undye.metrics.feature_files import FeatureFiles
from undye.metrics.fid import expected_bias, fid_infinity, per_class, reported_distance
from undye.metrics.inception_score import inception_score
from undye.metrics.intervals import Replicates, entry_of
from undye.metrics.kid import kid, kid_subsets
from undye.metrics.moments import MomentSums
from undye.metrics.numbers import MEAN_OF_CLASSES, class_number
from undye.metrics.prdc import prdc
from undye.metrics.requests import ENOUGH
from undye.metrics.resampling import Resampling

RESAMPLES = 200
"""Of the bootstrap."""
SUBSET = 1000
"""Images in a subset of KID as papers report it; Binkowski et al. 2018."""
SPLITS = 10
"""Of the Inception Score; Salimans et al. 2016."""
K_PR, K_DC = 3, 5
"""Neighbours of precision and recall, and of density and coverage; as their papers."""
FEWEST = {"kid": 2, "is": SPLITS, "pr": max(K_PR, K_DC) + 1}
"""Images on each side, of the samples alone for the Inception Score, below which there is no such number."""
_ROWS = 8192

Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Sides:
    """What the metrics are given.

    Attributes:
        samples: features of what is measured.
        reference: features of the reference set.
        extractor: the features' name, for messages.
        sample_labels: (n,) classes of the samples, or None.
        reference_labels: classes of the reference images, by the same numbers, or None.
        class_names: of those numbers, or None.
        seed: of the bootstrap and of all subsets.
        draw: number of the bootstrap's draw: two sets of samples with the same one are paired.
    """

    samples: FeatureFiles
    reference: FeatureFiles
    extractor: str
    sample_labels: np.ndarray | None = None
    reference_labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    seed: int = 0
    draw: int = 0

    def weights(self) -> np.ndarray:
        """How often each sample is in each of the bootstrap's sets, (R, n)."""
        return resample_weights(len(self.samples), RESAMPLES, self.seed, self.draw)


@dataclass(frozen=True)
class Measured:
    """A metric's entry of the report, and the bootstrap's replicates of each of its numbers."""

    entry: dict[str, Any]
    replicates: dict[str, Replicates]


def measure(metric: str, sides: Sides, progress: Tick | None = None) -> Measured:
    """One of the metrics in features.

    Raises:
        UserError: for features that lack what it needs, or too few images.
    """
    measured = IN_FEATURES[metric](sides, progress)
    n, flags = len(sides.samples), list(measured.entry.pop("flags", ()))
    if n < ENOUGH:
        bias = measured.entry.get("expected_bias")
        says = f", which brings a bias of about {bias:+.3g}" if bias is not None else ""
        advice = "unbiased, but uncertain" if metric == "kid" else "compare only with numbers of the same n"
        flags.insert(0, f"n = {n:,} is below {ENOUGH:,}{says}: {advice}")
    drawn = {"seed": sides.seed, "draw": sides.draw}  # of the bootstrap, of subsets and splits
    entry = {"n": n, "reference_n": len(sides.reference), **measured.entry, **drawn, "flags": flags}
    return Measured(entry, measured.replicates)


def check_enough(metric: str, n: int | None, reference_n: int, dims: int | None = None) -> None:
    """Find too few images before anything is drawn.

    Args:
        metric: one of those in features.
        n: samples; None where that is not known yet.
        reference_n: reference images.
        dims: of the features that a covariance is made of.

    Raises:
        UserError: for fewer than the metric can be made of, or a covariance that would not have full rank.
    """
    fewest = FEWEST.get(metric, 1) if dims is None else dims + 1
    for what, count, advice in (
        ("samples", fewest if n is None else n, f"raise --n to {fewest:,} or more"),
        ("reference images", fewest if metric == "is" else reference_n, "give more --data"),
    ):
        if count < fewest:
            needs = f"{metric} needs at least {fewest:,} {what}"
            if dims is not None:
                needs += f" for the covariance of {dims:,} features"
                advice += ", or ask for kid, which is unbiased at any number"
            raise UserError(f"{needs}, there are {count:,}: {advice}")


def _fid(sides: Sides, progress: Tick | None) -> Measured:
    return _frechet("fid", sides, sides.samples.pooled, sides.reference.pooled, progress)


def _sfid(sides: Sides, progress: Tick | None) -> Measured:
    a, b = sides.samples.spatial, sides.reference.spatial
    if a is None or b is None:
        raise UserError(f"the features {sides.extractor} have no spatial part, which sfid compares: leave sfid out")
    return _frechet("sfid", sides, a, b, progress)


def _frechet(name: str, sides: Sides, samples: np.ndarray, reference: np.ndarray, progress: Tick | None) -> Measured:
    check_enough(name, len(samples), len(reference), samples.shape[1])
    a, b = (moments(x) for x in (samples, reference))
    replicates = fid_replicates(samples, b, sides.weights(), progress=progress)
    infinity = fid_infinity(samples, b, seed=sides.seed)
    flags = [] if infinity is not None else ["too few samples to extrapolate to FID-infinity"]
    entry = {
        "value": reported_distance(a, b),
        **entry_of(replicates),
        "expected_bias": expected_bias(a, b),
        "infinity": None if infinity is None else asdict(infinity),
        "flags": flags,
    }
    return Measured(entry, {} if replicates is None else {name: replicates})


def _kid(sides: Sides, progress: Tick | None) -> Measured:
    a, b = sides.samples.pooled, sides.reference.pooled
    found = kid(a, b)
    replicates = kid_replicates(a, b, sides.weights(), progress=progress)
    entry: dict[str, Any] = {"value": found.value, "standard_error": found.standard_error, **entry_of(replicates)}
    if min(len(a), len(b)) >= SUBSET:
        entry["subsets"] = {**asdict(kid_subsets(a, b, subset_size=SUBSET, seed=sides.seed)), "seed": sides.seed}
    return Measured(entry, {"kid": replicates})


def _inception_score(sides: Sides, progress: Tick | None) -> Measured:
    logits = sides.samples.logits
    if logits is None:
        raise UserError(f"the features {sides.extractor} have no classes, which is needs: leave is out")
    found = inception_score(logits, splits=SPLITS, seed=sides.seed)
    replicates = inception_score_replicates(logits, sides.weights(), splits=SPLITS, seed=sides.seed)
    entry = {"value": found.value, "std_of_splits": found.std, "splits": found.splits, "classes": logits.shape[1]}
    return Measured({**entry, **entry_of(replicates)}, {"is": replicates})


def _precision_recall(sides: Sides, progress: Tick | None) -> Measured:
    a, b = sides.samples.pooled, sides.reference.pooled
    found = prdc(a, b, k_pr=K_PR, k_dc=K_DC, progress=progress)
    precision, recall = fidelity.precision_recall(a, b, K_PR)
    values = {"precision": precision, "recall": recall, "density": found.density, "coverage": found.coverage}
    replicates = prdc_replicates(found, sides.weights())
    entry: dict[str, Any] = {name: {"value": value, **entry_of(replicates.get(name))} for name, value in values.items()}
    return Measured({**entry, "k_precision_recall": K_PR, "k_density_coverage": K_DC}, replicates)


def _per_class(sides: Sides, progress: Tick | None) -> Measured:
    check_labels(sides.sample_labels is not None, sides.reference_labels is not None)
    assert sides.sample_labels is not None
    assert sides.reference_labels is not None
    rows = per_class(
        sides.samples.pooled, sides.sample_labels, sides.reference.pooled, sides.reference_labels
    )  # fmt: skip
    found = class_replicates(
        rows, sides.samples.pooled, sides.sample_labels, sides.reference.pooled, sides.reference_labels,
        Resampling(RESAMPLES, sides.seed, sides.draw), progress,
    )  # fmt: skip
    names = sides.class_names
    called = {row.label: names[row.label] if names and row.label < len(names) else str(row.label) for row in rows}
    classes = [{"name": called[row.label], **asdict(row), **entry_of(found.get(row.label))} for row in rows]
    values = [row.value for row in rows if row.value is not None]
    absent = [row.label for row in rows if 0 in (row.n, row.reference_n)]
    few = [row.label for row in rows if row.rank_deficient and row.label not in absent]
    flags = [
        f"{what}: {', '.join(called[label] for label in some)}"
        for what, some in (
            ("not on both sides", absent), ("too few images for a covariance of full rank", few),
        )
        if some
    ]  # fmt: skip
    mean, of_mean = float(np.mean(values)) if values else None, mean_of(rows, found)
    entry = {"classes": classes, "mean": mean, "mean_interval": entry_of(of_mean)["interval"], "flags": flags}
    replicates = {class_number(called[label]): found[label] for label in found}
    return Measured(entry, replicates if of_mean is None else {MEAN_OF_CLASSES: of_mean, **replicates})


def check_labels(of_samples: bool, of_reference: bool) -> None:
    """What fid-per-class needs.

    Raises:
        UserError: if one of the sides has no classes.
    """
    if not of_samples:
        raise UserError(
            "fid-per-class needs samples with classes: a model that was trained with labels, or images with --labels"
        )
    if not of_reference:
        raise UserError("fid-per-class needs a reference set with classes: give --labels folders, or other --data")


IN_FEATURES: dict[str, Callable[[Sides, Tick | None], Measured]] = {
    "fid": _fid, "kid": _kid, "is": _inception_score, "pr": _precision_recall, "sfid": _sfid,
    "fid-per-class": _per_class,
}  # fmt: skip


def moments(features: np.ndarray) -> Any:
    """Mean and covariance, in pieces: the features may lie in a file."""
    sums = MomentSums()
    for start in range(0, len(features), _ROWS):
        sums.add(np.asarray(features[start : start + _ROWS]))
    return sums.moments()
