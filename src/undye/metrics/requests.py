"""What `undye.evaluate` is asked for: the metrics by name, and how each is measured."""

from dataclasses import dataclass

from undye.errors import UserError
from undye.samplers import Sampler

OF_MODEL = ("nll", "rate-distortion", "ode")
"""Of a model and images: what it says of them. A folder of images has none."""
OF_SAMPLES = ("fid", "kid", "is", "pr", "sfid", "fid-per-class")
"""Of samples beside a reference set, in features."""
BESIDE_TRAINING = ("memorization", "neighbours")
"""Of samples beside the training images."""
METRICS = (*OF_MODEL, *BESIDE_TRAINING[:1], *OF_SAMPLES, *BESIDE_TRAINING[1:])
IN_FEATURES = (*OF_SAMPLES, "neighbours")
FROM_SAMPLES = (*OF_SAMPLES, *BESIDE_TRAINING)

ENOUGH = 10_000
"""Samples below which a distance in features says more of their number than a table can leave unsaid."""


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What to measure, and how.

    Attributes:
        metrics: any of `METRICS`.
        n: images, drawn from the data without replacement; all of them where there are fewer. And samples, drawn from
            the model. None: 1,000, but 10,000 samples where a metric in features is asked for.
        draws: times drawn for each image by nll; None: every time (which rate-distortion always takes).
        steps: length of the chain of nll and rate-distortion; None: all T.
        grid: how its steps are spread.
        clip: clip the predicted x_0; None: as the model says.
        variance: of the reverse steps; None: the model's.
        tolerance: of the ODE's solver.
        sigma_min: noise where the ODE's path starts.
        repeats: dequantisations of each image by ode.
        sampler: of the samples; None: as `undye.sample`, as the next two.
        sample_steps: of the samples.
        sample_grid: how those are spread.
        guidance: of the samples of a model with classes.
        seed: names the images that are drawn, and all noise.
        batch_size: network inputs at a time; None: chosen from their size.
    """

    metrics: tuple[str, ...] = ("nll",)
    n: int | None = None
    draws: int | None = 16
    steps: int | None = None
    grid: str = "uniform"
    clip: bool | None = None
    variance: str | None = None
    tolerance: float = 1e-3
    sigma_min: float = 3e-3
    repeats: int = 1
    sampler: str | Sampler | None = None
    sample_steps: int | None = None
    sample_grid: str | None = None
    guidance: float = 1.0
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check what does not need the model."""
        if not self.metrics:
            raise UserError(f"no metric is asked for: choose from {', '.join(METRICS)}")
        if unknown := [m for m in self.metrics if m not in METRICS]:
            raise UserError(f"unknown metric {unknown[0]!r}: choose from {', '.join(METRICS)}")
        if self.n is not None and self.n < 1:
            raise UserError(f"the number of images must be at least 1, got {self.n}")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"the seed must lie in 0..2^63-1, got {self.seed}")
        if self.draws is not None and self.draws < 1:
            raise UserError(f"the number of draws must be at least 1, got {self.draws}")

    @property
    def images(self) -> int:
        """Images of the data that the likelihoods look at, at most."""
        return 1000 if self.n is None else self.n

    @property
    def samples(self) -> int:
        """Samples that are drawn."""
        if self.n is not None:
            return self.n
        return ENOUGH if self.asks(*IN_FEATURES) else 1000

    def asks(self, *names: str) -> bool:
        """Whether one of these metrics is asked for."""
        return not set(names).isdisjoint(self.metrics)
