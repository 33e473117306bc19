"""The variational bound on the negative log-likelihood, in bits per dimension: Ho et al. 2020, Eq. 5.

Exact, with every term of every image, or by Monte Carlo over t. Along all T steps or along a coarser grid, which is
what progressive coding on that grid would cost. One network call serves all that is asked at (image, t): the KL, the
decoder, the errors of x_0 and eps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from undye import keyed
from undye.diffusion import likelihood
from undye.diffusion import variance as variances
from undye.diffusion.process import like
from undye.diffusion.schedule import NoiseSchedule
from undye.errors import UserError
from undye.keyed import Stream
from undye.metrics.inputs import Images, Inputs, check_inputs, check_variance, evaluating
from undye.metrics.rate_distortion import ImageCurves, RateDistortion
from undye.samplers import DenoiserLike
from undye.samplers.base import pairs as grid_pairs
from undye.samplers.grid import make_grid

GROUP = 200_000
"""Network calls planned at a time."""

UNIFORM_SHARE = 0.1
"""Share of the Monte Carlo draws that are uniform over t, so that no weight exceeds 10."""


@dataclass(frozen=True)
class Estimate:
    """A mean over images and its standard error; NaN where one image says nothing of the spread."""

    mean: float
    standard_error: float

    @classmethod
    def of(cls, values: Float64[np.ndarray, " n"]) -> "Estimate":
        """The mean of independent values."""
        n = len(values)
        return cls(float(values.mean()), float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan)


@dataclass(frozen=True)
class BitsPerDim:
    """The bound on -log2 p(x_0), for each image, in bits per dimension. N images, T timesteps.

    Attributes:
        prior: L_T, (N,).
        per_step: (N, T+1), L_{t-1} at index t for t = 2..T; 0 at the indices 0 and 1 and at times that are not on the
            grid. By Monte Carlo, an unbiased estimate of each (0 where t was not drawn), so that sums are unbiased too.
        decoder: L_0, (N,).
        x_0_mse: (N, T+1), mean squared error of the predicted x_0 (clipped, if the model's x_0 are) in [-1, 1] units at
            x_t; NaN where the network was not asked.
        eps_mse: (N, T+1), that of the predicted eps, never clipped.
        grid: the times of the chain, from the highest to 0.
        draws: Monte Carlo draws of t for each image; None: every t.
    """

    prior: np.ndarray
    per_step: np.ndarray
    decoder: np.ndarray
    x_0_mse: np.ndarray
    eps_mse: np.ndarray
    grid: np.ndarray
    draws: int | None = None

    @classmethod
    def joined(cls, parts: "Sequence[BitsPerDim]") -> "BitsPerDim":
        """Those of several sets of images as one; of one grid and number of draws."""
        names = ("prior", "per_step", "decoder", "x_0_mse", "eps_mse")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**arrays, grid=parts[0].grid, draws=parts[0].draws)

    @property
    def rate(self) -> Float64[np.ndarray, " n"]:
        """The sum of the L_{t-1}, (N,)."""
        return self.per_step.sum(1)

    @property
    def total(self) -> Float64[np.ndarray, " n"]:
        """prior + rate + decoder, (N,)."""  # noqa: D403
        return self.prior + self.rate + self.decoder

    def summary(self) -> dict[str, Estimate]:
        """Means over the images: total, prior, rate, decoder."""
        parts = {"total": self.total, "prior": self.prior, "rate": self.rate, "decoder": self.decoder}
        return {name: Estimate.of(values) for name, values in parts.items()}

    def rate_distortion(self) -> RateDistortion:
        """Bits spent against the error of x_0 on the way from T to 0: Ho et al. 2020, Fig. 5 and Table 4.

        Raises:
            ValueError: for a Monte Carlo estimate, which has no error at most times.
        """
        return self.image_curves().mean()

    def image_curves(self) -> ImageCurves:
        """The same of each image.

        Raises:
            ValueError: as `rate_distortion`.
        """
        if self.draws is not None:
            raise ValueError("a rate-distortion curve needs every step: leave draws out")
        return ImageCurves(self.prior, self.per_step, self.x_0_mse, self.grid[:-1].astype(np.int64))


def bits_per_dim(
    denoiser: DenoiserLike,
    images: Images,
    *,
    label: int | Sequence[int] | np.ndarray | None = None,
    draws: int | None = None,
    steps: int | None = None,
    grid: str | Tensor | Sequence[int] = "uniform",
    clip: bool | None = None,
    variance: str | None = None,
    seed: int = 0,
    first_index: int = 0,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BitsPerDim:
    """The variational bound on the negative log-likelihood of images.

    Args:
        denoiser: the model, or an oracle of `undye.testing`.
        images: uint8 (N, H, W, C); or a tensor of real numbers (N, C, H, W) in the model's units, whose likelihood is a
            density: the decoder is then the Gaussian's density, and the bound may be negative.
        label: one class for all, or one for each image; None: none.
        draws: times drawn for each image, spread by log(1 + SNR); the decoder's is always taken
            beside them. None: every time, which is exact but for the noise.
        steps: length of the chain; None: all T.
        grid: how its steps are spread (see `undye.samplers.grid`), or falling integer times from at most T to 0.
        clip: clip the predicted x_0 to [-1, 1]; None: as the model's config says.
        variance: of the reverse steps, see `undye.diffusion.variance`; None: the model's.
        seed: the noise of image i is a function of (seed, first_index + i) and the time alone.
        first_index: number of the first image.
        batch_size: network inputs at a time; None: chosen from their size.
        progress: called with (network calls done, network calls in all).

    Raises:
        UserError: for images, labels, steps or draws that do not fit the model.
    """
    inputs = check_inputs(denoiser, images, label)
    times = _times(denoiser.schedule, steps, grid)
    if draws is not None and draws < 1:
        raise UserError(f"the number of draws must be at least 1, got {draws}")
    clip = denoiser.config.clip_x_0 if clip is None else clip
    kind = variance or denoiser.config.variance
    check_variance(denoiser, kind)
    terms = _Terms.empty(len(inputs), denoiser.schedule.num_steps)
    size = inputs.batch_size(denoiser, batch_size)
    each = len(times) - 1 if draws is None else min(draws, (len(times) - 2) * draws) + 1
    done, total = 0, each * len(inputs)
    # a whole number of batches at a time: lists of all (image, t) would be as large as the answer
    group = max(1, GROUP // each)
    with evaluating(denoiser), torch.inference_mode():
        for low in range(0, len(inputs), group):
            rows = torch.arange(low, min(low + group, len(inputs)))
            visits = (
                _every_step(rows, times) if draws is None else _drawn(rows, times, denoiser, draws, seed, first_index)
            )
            for start in range(0, len(visits.image), size):
                some = visits.some(slice(start, start + size))
                _visit(denoiser, inputs, some, terms, clip, kind, seed, first_index)
                done += len(some.image)
                if progress is not None:
                    progress(done, total)
    top = denoiser.schedule.log_alpha_bar_at(times[:1]).expand(len(inputs))
    prior = likelihood.prior_kl(top, inputs.x_0.double().square().mean(dim=(1, 2, 3)))
    bits = likelihood.BITS_PER_NAT
    return BitsPerDim(
        prior.numpy() * bits, terms.kl * bits, terms.decoder * bits, terms.x_0_mse, terms.eps_mse, times.numpy(), draws
    )


@dataclass(frozen=True)
class _Visits:
    """What to ask the network: image number, times t -> s, the grid's time before t, draw number, weight; all (V,)."""

    image: Tensor
    t: Tensor
    s: Tensor
    before: Tensor
    draw: Tensor
    weight: Tensor

    def some(self, rows: slice) -> "_Visits":
        return _Visits(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class _Terms:
    """The answers in nats per dimension, filled in place."""

    kl: np.ndarray
    decoder: np.ndarray
    x_0_mse: np.ndarray
    eps_mse: np.ndarray

    @classmethod
    def empty(cls, n: int, num_steps: int) -> "_Terms":
        shape = (n, num_steps + 1)
        return cls(np.zeros(shape), np.zeros(n), np.full(shape, np.nan), np.full(shape, np.nan))


def _times(schedule: NoiseSchedule, steps: int | None, grid: str | Tensor | Sequence[int]) -> Tensor:
    """The chain's times, int64."""
    if isinstance(grid, str):
        return make_grid(grid, schedule.num_steps, steps)
    if steps is not None and steps != len(grid) - 1:
        raise UserError(f"the grid has {len(grid) - 1} steps, not {steps}: leave steps out")
    grid = torch.as_tensor(grid)
    try:
        whole = [(int(t), int(s)) == (t, s) for t, s in grid_pairs(grid, schedule)]
    except ValueError as error:
        raise UserError(str(error)) from None
    if not all(whole):
        raise UserError("the times of a likelihood's grid must be integers")
    return grid.long()


def _every_step(rows: Tensor, times: Tensor) -> _Visits:
    n, k = len(rows), len(times) - 1
    before = torch.cat([times[:1], times[:-2]])  # the first step has none before it, and says so by before = t
    image = rows.repeat_interleave(k)
    t, s, before = (column.repeat(n) for column in (times[:-1], times[1:], before))
    return _Visits(image, t, s, before, torch.zeros_like(t), torch.ones(n * k, dtype=torch.float64))


def _drawn(rows: Tensor, times: Tensor, denoiser: DenoiserLike, draws: int, seed: int, first: int) -> _Visits:
    """The last step of each image, and `draws` others, systematically drawn: a random start and even spacing.

    Steps are drawn by their length in log(1 + SNR): the KL of a step is half its length in log-SNR times the squared
    error of eps, and for normal data of variance 1 that error is SNR / (1 + SNR). So for them each step is drawn by the
    bits that it costs; real data cost less, but in like proportion.
    """
    n, k = len(rows), len(times) - 1
    # log(1 + SNR) = -log(1 - alpha_bar); of all steps but the last
    length = -(-denoiser.schedule.log_alpha_bar_at(times[:-1]).expm1()).log().diff()
    p = length / length.sum() * (1 - UNIFORM_SHARE) + UNIFORM_SHARE / max(1, k - 1)
    edges = p.cumsum(0).numpy()
    starts = np.array([keyed.uniform(seed, Stream.LIKELIHOOD_TIME, first + i) for i in rows.tolist()])
    if k == 1:
        draws = 0
    u = (starts[:, None] + np.arange(draws)) / max(1, draws)
    step = np.minimum(np.searchsorted(edges / edges[-1] if k > 1 else edges, u, side="right"), max(0, k - 2))
    step = np.concatenate([step, np.full((n, 1), k - 1)], axis=1)
    weight = np.ones((n, draws + 1))
    weight[:, :-1] = 1 / (draws * p.numpy()[step[:, :-1]]) if draws else 1.0
    index = torch.from_numpy(step).flatten()
    before = torch.cat([times[:1], times[:-2]])
    draw = torch.arange(draws + 1).repeat(n)
    return _Visits(
        rows.repeat_interleave(draws + 1),
        times[:-1][index], times[1:][index], before[index],
        draw * (times[1:][index] > 0), torch.from_numpy(weight).flatten(),
    )  # fmt: skip


def _visit(
    denoiser: DenoiserLike, inputs: Inputs, v: _Visits, terms: _Terms, clip: bool, kind: str, seed: int, first: int
) -> None:
    """Ask the network once for each visit, and enter all that follows from its answers."""
    x_0 = inputs.x_0[v.image].to(inputs.device)
    shape = tuple(inputs.x_0.shape[1:])
    eps = torch.from_numpy(
        np.stack(
            [
                keyed.generator(seed, Stream.LIKELIHOOD_NOISE, first + i, t, k).standard_normal(shape, np.float32)
                for i, t, k in zip(v.image.tolist(), v.t.tolist(), v.draw.tolist(), strict=True)
            ]
        )
    ).to(x_0)
    x_t = denoiser.process.q_sample(x_0, v.t, eps)
    out = inputs.ask(denoiser, v.image, x_t, v.t)
    x_0_hat = out.x_0.clamp(-1, 1) if clip else out.x_0
    error = x_0 - x_0_hat
    mse = error.square().mean(dim=(1, 2, 3))
    if not bool(mse.isfinite().all()):
        raise UserError("the network's answers are not finite: the model has diverged")
    log_var = variances.log_var(kind, denoiser.schedule, v.t, v.s, out.learned_variance, v.before)

    image, t, is_last = v.image.numpy(), v.t.numpy(), v.s == 0
    terms.x_0_mse[image, t] = mse.cpu().double().numpy()
    terms.eps_mse[image, t] = (eps - out.eps).square().mean(dim=(1, 2, 3)).cpu().double().numpy()

    if (rows := (~is_last).nonzero().flatten()).numel():
        here = rows.to(x_0.device)
        if log_var.ndim == 1:
            # the same variance everywhere: the KL is linear in the squared error, whose mean will do
            spread, wrong = log_var[rows], mse[here].cpu().double().sqrt().view(-1, 1, 1, 1)
        else:
            spread, wrong = log_var[here], error[here]
        kl = likelihood.step_kl(denoiser.schedule, wrong, v.t[rows], v.s[rows], spread).mean(dim=(1, 2, 3))
        np.add.at(terms.kl, (image[rows.numpy()], t[rows.numpy()]), (kl.cpu().double() * v.weight[rows]).numpy())
    if (rows := is_last.nonzero().flatten()).numel():
        here = rows.to(x_0.device)
        exact, mean = x_0[here].cpu().double(), x_0_hat[here].cpu().double()
        spread = like(log_var[rows], exact) if log_var.ndim == 1 else log_var[here].cpu().double()
        nll = likelihood.discretised_gaussian_nll if inputs.discrete else likelihood.gaussian_nll
        terms.decoder[image[rows.numpy()]] = nll(exact, mean, spread).mean(dim=(1, 2, 3)).numpy()
