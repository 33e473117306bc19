"""Other projects' schedules under their own names, each against that project's own formula, written here in numpy."""

import math
import re

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from undye.diffusion import schedule_names
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule
from undye.diffusion.schedule_names import (
    PROJECTS,
    PUBLISHED_ENDS,
    WITHOUT_COUNTERPART,
    called_in,
    from_project,
    translate,
)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_alpha_bar(num_steps, alpha_bar, max_beta=0.999):
    """`betas_for_alpha_bar` of improved-diffusion's `gaussian_diffusion.py`."""
    betas = []
    for i in range(num_steps):
        t1, t2 = i / num_steps, (i + 1) / num_steps
        betas.append(min(1 - alpha_bar(t2) / alpha_bar(t1), max_beta))
    return np.array(betas)


def by_table(num_steps, low, high, s=0.008):
    """`cosine_beta_schedule` of denoising-diffusion-pytorch, and so of the annotated diffusion model."""
    x = np.linspace(0, num_steps, num_steps + 1)
    alphas_cumprod = np.cos(((x / num_steps) + s) / (1 + s) * np.pi * 0.5) ** 2
    alphas_cumprod = alphas_cumprod / alphas_cumprod[0]
    return np.clip(1 - (alphas_cumprod[1:] / alphas_cumprod[:-1]), low, high)


def latent_cosine(num_steps, cosine_s=8e-3):
    """`make_beta_schedule` of latent-diffusion's `util.py`, branch cosine."""
    timesteps = np.arange(num_steps + 1) / num_steps + cosine_s
    alphas = np.cos(timesteps / (1 + cosine_s) * np.pi / 2) ** 2
    alphas = alphas / alphas[0]
    return np.clip(1 - alphas[1:] / alphas[:-1], 0, 0.999)


def linear(n, start=1e-4, end=0.02):
    return np.linspace(start, end, n)


def rooted(n, start=1e-4, end=0.02):
    return np.linspace(start**0.5, end**0.5, n) ** 2


def cosine(t):
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def lucidrains_sigmoid(n, start=-3, end=3):
    """`sigmoid_beta_schedule` in float64; theirs has its two ends in float32."""
    t = np.linspace(0, 1, n + 1)
    alpha_bar = (sigmoid(end) - sigmoid(t * (end - start) + start)) / (sigmoid(end) - sigmoid(start))
    return np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0, 0.999)


FORMULAS = {
    "original": {"linear": linear, "quad": rooted},
    "improved-diffusion": {
        "linear": lambda n: np.linspace(1000 / n * 0.0001, 1000 / n * 0.02, n),
        "cosine": lambda n: by_alpha_bar(n, cosine),
    },
    "latent-diffusion": {
        "linear": lambda n: rooted(n, 1e-4, 2e-2),
        "sqrt_linear": lambda n: linear(n, 1e-4, 2e-2),
        "sqrt": lambda n: linear(n, 1e-4, 2e-2) ** 0.5,
        "cosine": latent_cosine,
    },
    "lucidrains": {
        "linear": lambda n: np.linspace(1000 / n * 0.0001, 1000 / n * 0.02, n),
        "cosine": lambda n: by_table(n, 0, 0.999),
        "sigmoid": lucidrains_sigmoid,
    },
    "annotated-diffusion": {
        "linear": linear,
        "quadratic": rooted,
        "sigmoid": lambda n: sigmoid(np.linspace(-6, 6, n)) * (0.02 - 0.0001) + 0.0001,
        "cosine": lambda n: by_table(n, 0.0001, 0.9999),
    },
}
ENTRIES = [(project, name) for project, names in PROJECTS.items() for name in names]
every_entry = pytest.mark.parametrize(("project", "name"), ENTRIES)


@every_entry
@pytest.mark.parametrize("num_steps", [40, 300, 1000])
def test_each_name_is_what_its_project_computes(project, name, num_steps):
    got = from_project(project, name, num_steps).beta[1:].numpy()
    if project == "diffusers":
        theirs = DDPMScheduler(num_train_timesteps=num_steps, beta_schedule=name).betas.double().numpy()
        np.testing.assert_allclose(got, theirs, rtol=2e-6, atol=1e-9)
    else:
        np.testing.assert_allclose(got, FORMULAS[project][name](num_steps), rtol=0, atol=1e-12)


def test_the_formulas_here_are_of_all_entries():
    assert {p: set(names) for p, names in PROJECTS.items() if p != "diffusers"} == {
        p: set(names) for p, names in FORMULAS.items()
    }


@every_entry
def test_the_name_comes_back(project, name):
    ours, options = translate(project, name)
    assert ours in SCHEDULES
    assert called_in(project, ours, **options) == name
    assert called_in(project, ours, beta_start=0.01, beta_end=0.2, **options) == name


def test_one_word_means_different_betas():
    """latent-diffusion's linear is not the paper's, and OpenAI's depends on the number of steps."""
    paper, latent = (from_project(p, "linear") for p in ("original", "latent-diffusion"))
    assert latent.alpha_bar[-1] / paper.alpha_bar[-1] == pytest.approx(18.2, abs=0.1)
    assert torch.equal(from_project("improved-diffusion", "linear").beta, paper.beta)
    short = [from_project(p, "linear", 200).alpha_bar[-1].item() for p in ("original", "improved-diffusion")]
    assert short == pytest.approx([0.132, 3e-5], rel=0.1)
    annotated, others = (from_project(p, "cosine") for p in ("annotated-diffusion", "lucidrains"))
    # between 1e-4 and 0.9999 where the others have 4e-5 and 0.999
    assert annotated.beta[1].item() == pytest.approx(1e-4)
    assert others.beta[1].item() == pytest.approx(4.1e-5, rel=0.02)
    assert others.alpha_bar[-1] / annotated.alpha_bar[-1] == pytest.approx(10, rel=0.1)


def test_published_ends():
    """The paper's, and those of latent diffusion's and Stable Diffusion's models, which leave signal at T."""
    left = {
        model: NoiseSchedule.named(name, 1000, beta_start=start, beta_end=end).alpha_bar[-1].item()
        for model, (name, start, end) in PUBLISHED_ENDS.items()
    }
    assert left["ddpm"] == NoiseSchedule.named("linear").alpha_bar[-1].item()
    assert left["stable-diffusion"] == pytest.approx(0.0047, abs=5e-5)
    assert left["latent-diffusion"] == pytest.approx(1.42e-4, rel=0.01)


def test_options_go_over_the_projects_own():
    """Stable Diffusion 1: linear in latent-diffusion's words, scaled_linear in those of diffusers."""
    ends = {"beta_start": 0.00085, "beta_end": 0.012}
    for project, name in (("latent-diffusion", "linear"), ("diffusers", "scaled_linear")):
        s = from_project(project, name, 1000, **ends)
        assert s.alpha_bar[-1].item() == pytest.approx(0.0047, abs=5e-5)
        np.testing.assert_allclose(s.beta[1:].numpy(), rooted(1000, 0.00085, 0.012), rtol=1e-10)
    cut = from_project("annotated-diffusion", "cosine", max_beta=0.5)
    assert cut.beta.max().item() == pytest.approx(0.5)
    assert cut.beta[1].item() == pytest.approx(1e-4), "the project's other option stays"
    plain = from_project("improved-diffusion", "linear", 200, rescale_betas=False)
    assert torch.equal(plain.beta, NoiseSchedule.named("linear", 200).beta)


@pytest.mark.parametrize("call", [from_project, translate, called_in])
def test_unknown_projects(call):
    with pytest.raises(ValueError, match="unknown project 'ddpm-jax': choose from original, improved-diffusion"):
        call("ddpm-jax", "linear")


@pytest.mark.parametrize("call", [from_project, translate])
def test_names_that_a_project_has_not(call):
    with pytest.raises(ValueError, match="latent-diffusion has no schedule 'quad': it has linear, sqrt_linear"):
        call("latent-diffusion", "quad")


@pytest.mark.parametrize(
    ("project", "name"), [(project, name) for project, names in WITHOUT_COUNTERPART.items() for name in names]
)
def test_names_without_a_counterpart_say_what_to_do(project, name):
    with pytest.raises(ValueError, match=rf"{project}'s '{name}' .*NoiseSchedule\.from_beta"):
        from_project(project, name)
    assert name not in PROJECTS[project]


@pytest.mark.parametrize(
    ("project", "name", "options"),
    [
        ("original", "cosine", {}),
        ("original", "linear", {"rescale_betas": True}),
        ("lucidrains", "linear", {}),
        ("diffusers", "cosine", {"max_beta": 0.9999}),
        ("diffusers", "sqrt", {}),
    ],
)
def test_schedules_that_a_project_has_no_name_for(project, name, options):
    with pytest.raises(ValueError, match=f"{project} has no name for the schedule '{name}'"):
        called_in(project, name, **options)


def test_the_table_in_the_docs_is_the_table_in_the_code():
    """Project, their name and ours, with the options, row by row."""
    rows, project = [], ""
    for line in (schedule_names.__doc__ or "").splitlines():
        if match := re.fullmatch(r"\| (\S*) *\| (\w+) *\| (.+?) *\|", line):
            project = match[1] or project
            rows.append((project, match[2], match[3]))
    rows = [row for row in rows if row[0] != "project"]
    assert [row[:2] for row in rows] == ENTRIES
    for project, name, said in rows:
        ours, options = PROJECTS[project][name]
        words = {"rescale_betas": "rescale_betas", "min_beta": "betas between 1e-4 and 0.9999"}
        assert said.split(", ", 1) == [ours, *(words[o] for o in options if o in words)]
