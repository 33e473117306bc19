"""What other projects call the noise schedules: the same word means different betas in different places.

The table, by project. Where a schedule has ends, beta_1 and beta_T, all of these take Ho et al.'s 1e-4 and 0.02 if none
are given; the models that were published with others are in `PUBLISHED_ENDS`.

| project                | their name         | here                                                       |
|------------------------|--------------------|------------------------------------------------------------|
| original               | linear             | linear                                                     |
|                        | quad               | scaled_linear                                              |
| improved-diffusion     | linear             | linear, rescale_betas                                      |
|                        | cosine             | cosine                                                     |
| latent-diffusion       | linear             | scaled_linear                                              |
|                        | sqrt_linear        | linear                                                     |
|                        | sqrt               | sqrt                                                       |
|                        | cosine             | cosine                                                     |
| diffusers              | linear             | linear                                                     |
|                        | scaled_linear      | scaled_linear                                              |
|                        | squaredcos_cap_v2  | cosine                                                     |
|                        | sigmoid            | sigmoid                                                    |
| lucidrains             | linear             | linear, rescale_betas                                      |
|                        | cosine             | cosine                                                     |
|                        | sigmoid            | sigmoid_alpha_bar                                          |
| annotated-diffusion    | linear             | linear                                                     |
|                        | quadratic          | scaled_linear                                              |
|                        | sigmoid            | sigmoid                                                    |
|                        | cosine             | cosine, betas between 1e-4 and 0.9999                      |

original is hojonathanho/diffusion, improved-diffusion stands for guided-diffusion too, lucidrains is
denoising-diffusion-pytorch. Their names without a counterpart here are in `WITHOUT_COUNTERPART`, with the reason.
"""

from collections.abc import Mapping
from typing import Any

from undye.diffusion.schedule import NoiseSchedule

Named = tuple[str, Mapping[str, float]]
"""A name of `undye.diffusion.schedule.SCHEDULES`, and the options that make it theirs."""

PROJECTS: Mapping[str, Mapping[str, Named]] = {
    "original": {"linear": ("linear", {}), "quad": ("scaled_linear", {})},
    "improved-diffusion": {"linear": ("linear", {"rescale_betas": True}), "cosine": ("cosine", {})},
    "latent-diffusion": {
        "linear": ("scaled_linear", {}),
        "sqrt_linear": ("linear", {}),
        "sqrt": ("sqrt", {}),
        "cosine": ("cosine", {}),
    },
    "diffusers": {
        "linear": ("linear", {}),
        "scaled_linear": ("scaled_linear", {}),
        "squaredcos_cap_v2": ("cosine", {}),
        "sigmoid": ("sigmoid", {}),
    },
    "lucidrains": {
        "linear": ("linear", {"rescale_betas": True}),
        "cosine": ("cosine", {}),
        "sigmoid": ("sigmoid_alpha_bar", {}),
    },
    "annotated-diffusion": {
        "linear": ("linear", {}),
        "quadratic": ("scaled_linear", {}),
        "sigmoid": ("sigmoid", {}),
        "cosine": ("cosine", {"min_beta": 1e-4, "max_beta": 0.9999}),
    },
}

PUBLISHED_ENDS: Mapping[str, tuple[str, float, float]] = {
    "ddpm": ("linear", 1e-4, 0.02),
    "latent-diffusion": ("scaled_linear", 0.0015, 0.0195),
    "stable-diffusion": ("scaled_linear", 0.00085, 0.012),
}
"""Models and the schedule they were trained with, in undye's words: (name, beta_start, beta_end), T = 1000."""

WITHOUT_COUNTERPART: Mapping[str, Mapping[str, str]] = {
    "original": {
        "const": "all betas alike",
        "warmup10": "linear over the first tenth, then constant",
        "warmup50": "linear over the first half, then constant",
        "jsd": "beta = 1 / (T - t + 1), whose last beta is 1",
    },
    "diffusers": {
        "laplace": "log-SNR spread as a Laplace distribution",
        "exp": "alpha_bar falls exponentially",
    },
}


def from_project(project: str, name: str, num_steps: int = 1000, **options: float) -> NoiseSchedule:
    """The schedule that `project` calls `name`; `options` go over the project's own (beta_start=0.00085, ...).

    Raises:
        ValueError: for an unknown project, a name that it has not, or one without a counterpart here.
    """
    ours, theirs = translate(project, name)
    merged: dict[str, Any] = {**theirs, **options}
    return NoiseSchedule.named(ours, num_steps, **merged)


def translate(project: str, name: str) -> Named:
    """What `project` calls `name`, in undye's words: (schedule, options).

    Raises:
        ValueError: for an unknown project, a name that it has not, or one without a counterpart here.
    """
    if project not in PROJECTS:
        raise ValueError(f"unknown project {project!r}: choose from {', '.join(PROJECTS)}")
    if (why := WITHOUT_COUNTERPART.get(project, {}).get(name)) is not None:
        raise ValueError(
            f"{project}'s {name!r} ({why}) is not among undye's schedules: build it with NoiseSchedule.from_beta"
        )
    if name not in PROJECTS[project]:
        raise ValueError(f"{project} has no schedule {name!r}: it has {', '.join(PROJECTS[project])}")
    return PROJECTS[project][name]


def called_in(project: str, name: str, **options: float) -> str:
    """What `project` calls undye's schedule `name` with these options (beta ends do not matter).

    Raises:
        ValueError: for an unknown project, or where that project has no such schedule.
    """
    if project not in PROJECTS:
        raise ValueError(f"unknown project {project!r}: choose from {', '.join(PROJECTS)}")
    kind = {k: v for k, v in options.items() if k not in ("beta_start", "beta_end") and v}
    for theirs, (ours, own) in PROJECTS[project].items():
        if ours == name and dict(own) == kind:
            return theirs
    raise ValueError(f"{project} has no name for the schedule {name!r} with {kind or 'no options'}")
