"""docs/mathematics.md and its translation: every equation's references hold, and so do claims not tested elsewhere.

An equation is a display with a number, followed by the lines of code that compute it and the tests that prove it. Both
pages have the same equations with the same references. The last part tests the equations and numbers of the page for
which there is no better place.
"""

import ast
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from undye.diffusion import variance
from undye.diffusion.likelihood import BITS_PER_NAT, gaussian_kl, gaussian_nll, prior_kl, step_kl
from undye.diffusion.schedule import SCHEDULES, NoiseSchedule
from undye.diffusion.schedule_names import PROJECTS
from undye.samplers import Langevin
from undye.testing import GaussianMixtureOracle

ROOT = Path(__file__).parents[2]
PAGES = ("mathematics.md", "mathematics.zh-CN.md")
every_page = pytest.mark.parametrize("page", PAGES)

DISPLAY = re.compile(r"(?ms)^\$\$\n(.*?)\n\$\$$")
NUMBER = re.compile(r"\\tag\{(\d+)\}\Z")
CODE = re.compile(r"`code` \[([^\]]+)\]\(\.\./([^)]+)\) `([\w.]+)`: `([^`]+)`")
TEST = re.compile(r"`test` \[([^\]]+)\]\(\.\./([^)]+)\) `(\w+)`")


@cache
def text(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def equations(page: str) -> list[tuple[int, str, list[str]]]:
    """(number, LaTeX, the lines of references) of each numbered display, in order."""
    found = []
    for match in DISPLAY.finditer(text(page)):
        if number := NUMBER.search(match[1]):
            below = text(page)[match.end() :].lstrip("\n").partition("\n\n")[0]
            found.append((int(number[1]), match[1], [line.rstrip() for line in below.splitlines()]))
    return found


def references(pattern: re.Pattern, page: str = PAGES[0]) -> list[tuple[str, ...]]:
    """What `pattern` finds in the references, each once: (path, ...)."""
    found = {}
    for _, _, lines in equations(page):
        for line in lines:
            if match := pattern.fullmatch(line):
                assert match[1] == match[2], "the link's text is where it leads"
                found[match.groups()[1:]] = None
    return list(found)


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def lines_of(path: str, symbol: str) -> set[str]:
    """The source lines, stripped, of a function, class or method; without docstrings."""
    node: ast.AST = tree(path)
    for name in symbol.split("."):
        inside = [n for n in ast.iter_child_nodes(node) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        named = [n for n in inside if n.name == name]
        assert named, f"{path} has no {symbol}"
        node = named[0]
    assert isinstance(node, (ast.FunctionDef, ast.ClassDef))
    words = {
        line
        for n in ast.walk(node)
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) and isinstance(n.value.value, str)
        for line in range(n.lineno, (n.end_lineno or n.lineno) + 1)
    }
    source = (ROOT / path).read_text(encoding="utf-8").splitlines()
    return {source[i - 1].strip() for i in range(node.lineno, (node.end_lineno or node.lineno) + 1) if i not in words}


# ---- the pages


@every_page
def test_equations_are_numbered_without_gaps(page):
    numbers = [number for number, _, _ in equations(page)]
    assert len(numbers) >= 45
    assert numbers == list(range(1, len(numbers) + 1))
    assert text(page).count(r"\tag{") == len(numbers)


def test_both_languages_have_the_same_mathematics():
    """Numbered or not, and with the same references."""
    english, chinese = (DISPLAY.findall(text(page)) for page in PAGES)
    assert english == chinese
    assert equations(PAGES[0]) == equations(PAGES[1])


@every_page
def test_every_equation_has_code_and_a_test_and_no_other_line_below(page):
    for number, _, lines in equations(page):
        kinds = ["code" if CODE.fullmatch(line) else "test" if TEST.fullmatch(line) else line for line in lines]
        assert kinds == sorted(kinds), f"({number}): first the code, then the tests"
        assert set(kinds) == {"code", "test"}, f"({number})"


@every_page
def test_equations_that_the_text_speaks_of_exist(page):
    """(7) in the text is an equation of the page."""
    prose = re.sub(r"\$[^$]*\$|`[^`]*`", "", DISPLAY.sub("", text(page)))
    spoken_of = {int(number) for number in re.findall(r"(?<![\w\]])\((\d{1,3})\)", prose)}
    assert len(spoken_of) > 10
    assert spoken_of <= {number for number, _, _ in equations(page)}


@pytest.mark.parametrize(("path", "symbol", "line"), references(CODE), ids=lambda value: value[:60])
def test_the_code_of_an_equation_is_there(path, symbol, line):
    assert line in lines_of(path, symbol), f"{path} {symbol}: {line}"


@pytest.mark.parametrize(("path", "name"), references(TEST), ids=lambda value: value[:60])
def test_the_test_of_an_equation_is_there(path, name):
    assert name.startswith("test_")
    assert name in {n.name for n in tree(path).body if isinstance(n, ast.FunctionDef)}, f"{path} has no {name}"


@every_page
def test_other_projects_names_are_those_of_the_code(page):
    rows = re.findall(r"(?m)^\| ([\w-]+) \| `(\w+)` \| `(\w+)` \| (.*?) ?\|$", text(page))
    shown: dict[str, dict] = {}
    for project, theirs, ours, options in rows:
        pairs = (option.split("=") for option in re.findall(r"`([^`]+)`", options))
        shown.setdefault(project, {})[theirs] = (ours, {key: ast.literal_eval(value) for key, value in pairs})
    assert shown == PROJECTS
    assert len(rows) == sum(len(names) for names in PROJECTS.values())


@every_page
def test_mathematics_survives_markdown(page):
    """It holds nothing that Markdown would take for its own, whether or not it knows mathematics.

    An underscore after a bracket may open emphasis, a backslash before punctuation is taken away, and a line that
    starts with a sign may become a list, a heading or a quotation.
    """
    displays = DISPLAY.findall(text(page))
    outside = DISPLAY.sub("", text(page))
    inline = re.findall(r"\$([^$]+)\$", outside)
    assert text(page).count("$$") == 2 * len(displays)
    assert len(inline) > 100
    for latex in displays + inline:
        assert not re.search(r"[^A-Za-z0-9]_", latex), latex
        assert not re.search(r"\\[^A-Za-z]", latex), latex
        assert not re.search(r"[*<>~`#]|\n\n", latex), latex
        assert latex.count("{") == latex.count("}"), latex
        assert latex == latex.strip()
    assert not any("\n" in latex for latex in inline)
    for display in displays:
        assert not re.search(r"(?m)^([-+=] |[-=]+$|\d+[.)] )", display), display
    # GitHub takes a dollar for mathematics only beside a space or Latin punctuation
    edges = re.findall(r"(.)\$[^$]+\$(.)", outside.replace("\n", " "))
    assert all(before in " (" and after in " .,:;?!)-" for before, after in edges), edges


# ---- equations and numbers of the page that have no better place


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def image(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


LINEAR = NoiseSchedule.named("linear", 1000)


@pytest.mark.parametrize(("t", "s"), [(2, 1), (3, 1), (30, 20), (100, 99), (400, 100)])
@pytest.mark.parametrize("std", [0.0, 0.1, 1.0])
def test_the_entropy_of_a_reverse_step_lies_between_those_of_the_fixed_variances(t, s, std):
    """H(x_s | x_t), integrated: of N(0, 1), of one point, and of a mixture of two Gaussians, E[x_0^2] at most 1."""
    means = [[0.0]] if std in (0.0, 1.0) else [[-0.7], [0.5]]
    data = GaussianMixtureOracle(LINEAR, [1.0] * len(means), means, stds=[std] * len(means), image_shape=(1, 1, 1))
    assert (data.cov.squeeze() + data.mean.squeeze() ** 2).item() <= 1
    t_, s_ = torch.tensor([t]), torch.tensor([s])
    small, large = (variance.log_var(kind, LINEAR, t_, s_) for kind in ("fixed_small", "fixed_large"))
    x_t, u = torch.linspace(-4.5, 4.5, 1201, dtype=torch.float64), torch.linspace(-9, 9, 601, dtype=torch.float64)
    log_p_t = data.log_prob(image(x_t), torch.full((len(x_t),), t))
    # where x_s is: around x_t / sqrt(alpha), to within some deviations of the forward step
    alpha = LINEAR.alpha_bar[t] / LINEAR.alpha_bar[s]
    width = ((1 - alpha) / alpha).sqrt()
    x_s = x_t[:, None] / alpha.sqrt() + width * u
    log_p_s = data.log_prob(image(x_s), torch.full((x_s.numel(),), s)).view_as(x_s)
    log_forward = -0.5 * (u**2 + math.log(2 * math.pi) + (1 - alpha).log())
    log_p = log_p_s + log_forward - log_p_t[:, None]  # Bayes' rule
    conditional = -torch.trapezoid(log_p.exp() * log_p, x_s, dim=1)
    density = log_p_t.exp()
    entropy = torch.trapezoid(density * conditional, x_t).item()
    assert torch.trapezoid(density, x_t).item() == pytest.approx(1, abs=1e-4)
    low, high = (0.5 * (math.log(2 * math.pi * math.e) + v.item()) for v in (small, large))
    if std == 0.1:
        assert low < entropy < high
    else:
        assert entropy == pytest.approx(low if std == 0 else high, abs=1e-3)


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large", "learned"])
@pytest.mark.parametrize("v", [1.0, 0.25, 1e-3])
def test_the_gap_is_the_sum_of_the_misfits_of_the_reverse_steps(v, kind):
    """For data N(0, v): the bound, term by term, minus the entropy is the divergence of the two reverse chains."""
    schedule = NoiseSchedule.named("linear", 200, rescale_betas=True)
    t = torch.arange(1, 201)
    ab, before = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
    oracle = GaussianMixtureOracle(schedule, [1.0], [[0.0]], stds=[v**0.5], image_shape=(1, 1, 1), variance=kind)
    learned = oracle(torch.zeros(200, 1, 1, 1, dtype=torch.float64), t).learned_variance
    log_var = variance.log_var(kind, schedule, t, t - 1, learned).flatten()
    # of Gaussians, by their covariances alone
    var_t, var_s = ab * v + 1 - ab, before * v + 1 - before
    true_var = var_s - (ab / before) * var_s**2 / var_t
    x_0_error = image((v - ab * v**2 / var_t).sqrt())
    middle = step_kl(schedule, x_0_error[1:], t[1:], t[1:] - 1, log_var[1:]).sum()
    last = gaussian_nll(x_0_error[0].squeeze(), torch.zeros(()).double(), log_var[0])
    bound = prior_kl(schedule.log_alpha_bar[-1:], f64(v)).squeeze() + middle + last
    entropy = 0.5 * math.log(2 * math.pi * math.e * v)
    zero = torch.zeros((), dtype=torch.float64)
    misfits = gaussian_kl(zero, true_var.log(), zero, log_var)
    gap = gaussian_kl(zero, var_t[-1].log(), zero, zero) + misfits.sum()
    assert (bound - entropy).item() == pytest.approx(gap.item(), rel=1e-7, abs=1e-9)
    if kind == "learned":
        assert misfits.sum().item() < 1e-12
    else:
        assert misfits.sum().item() > 0.03


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_step_costs_half_the_loss_of_snr_times_the_error_of_x_0(name):
    """With the posterior's variance; and in the error of eps, half the step's length in log-SNR, to first order."""
    schedule = NoiseSchedule.named(name, 1000)
    t = torch.tensor([2, 3, 10, 350, 600, 20, 500])
    s = torch.tensor([1, 2, 9, 349, 599, 5, 100])
    error = torch.rand(len(t), 1, 2, 2, dtype=torch.float64) - 0.5
    got = step_kl(schedule, error, t, s, variance.log_posterior_var(schedule, t, s))
    gain = image(schedule.snr[s] - schedule.snr[t])
    torch.testing.assert_close(got, 0.5 * gain * error.square(), rtol=1e-9, atol=0)
    eps_error = error * image(schedule.snr[t]).sqrt()
    length = image(schedule.log_snr[s] - schedule.log_snr[t])
    torch.testing.assert_close(got, 0.5 * length.expm1() * eps_error.square(), rtol=1e-9, atol=0)
    short = length.flatten() < 0.4
    assert short.any()
    ratio = got[short] / (0.5 * length * eps_error.square())[short]
    assert ((ratio - 1).abs() < 0.6 * length[short]).all(), "off by half the length"


def test_lengths_of_the_papers_steps():
    length = -LINEAR.log_snr.diff()
    assert length[1].item() == pytest.approx(0.79, abs=0.005)
    assert length[349].item() == pytest.approx(0.0099, abs=5e-5)
    assert length[1:].min() == length[349]


def costs(schedule: NoiseSchedule) -> list[float]:
    """Bits for `fixed_small` at t >= 2, for the edge rule, and in all for `fixed_small` and `fixed_large`.

    For standard normal data, whose reverse step has the forward variance exactly.
    """
    t = torch.arange(1, schedule.num_steps + 1)
    zero = torch.zeros((), dtype=torch.float64)
    true = schedule.beta[1:].log()
    small, large = (
        gaussian_kl(zero, true, zero, variance.log_var(kind, schedule, t, t - 1)) * BITS_PER_NAT
        for kind in ("fixed_small", "fixed_large")
    )
    return [small[1:].sum().item(), small[0].item(), small.sum().item(), large.sum().item()]


def test_what_the_fixed_variances_cost_on_smooth_data():
    """The numbers of the page's table; Euler's gamma; and that most is spent in the first steps."""
    constant = costs(NoiseSchedule.from_beta(torch.full((100_000,), 1e-7, dtype=torch.float64)))
    rows = [constant, costs(LINEAR), costs(NoiseSchedule.named("cosine", 1000))]
    for page in PAGES:
        shown = re.findall(r"(?m)^\|.*?\|((?: \d\.\d{3} \|){4})$", text(page))
        assert [[float(x) for x in row.split("|")[:4]] for row in shown] == [[round(x, 3) for x in row] for row in rows]
    euler = 0.5772156649015329
    n = torch.arange(1, 1_000_001, dtype=torch.float64)
    assert (0.5 * (1 / n - (1 / n).log1p())).sum().item() == pytest.approx(euler / 2, abs=1e-6)
    assert constant[0] == pytest.approx(euler / 2 * BITS_PER_NAT, abs=1e-4)
    assert constant[1] == pytest.approx(0.5 * (1 - math.log(2)) * BITS_PER_NAT, abs=1e-4)
    t = torch.arange(2, 11)
    log_rho = variance.log_forward_var(LINEAR, t, t - 1) - variance.log_posterior_var(LINEAR, t, t - 1)
    assert (0.5 * (log_rho.expm1() - log_rho)).sum().item() * BITS_PER_NAT == pytest.approx(0.57, abs=0.005)
    # finer: the first steps look like the constant schedule's
    finer = costs(NoiseSchedule.named("linear", 100_000, rescale_betas=True))
    assert finer[2] == pytest.approx(constant[2], abs=0.01)


def test_a_langevin_step_climbs_the_density_of_its_level():
    """Against the gradient of the blurred data's log density by y, taken by automatic differentiation."""
    oracle = GaussianMixtureOracle(
        LINEAR, [0.3, 0.7], [[-0.6, 0.2], [0.5, -0.1]], stds=[0.15, 0.3], image_shape=(1, 1, 2)
    )
    t, s, delta, z = 400, 300, 0.2, 0.7
    x_t = f64(-0.4, 0.3, 1.1, 0.0).view(2, 1, 1, 2)
    a = LINEAR.alpha_bar[s].sqrt()
    sigma = ((1 - LINEAR.alpha_bar[s]) / LINEAR.alpha_bar[s]).sqrt()
    y = (x_t / LINEAR.alpha_bar[t].sqrt()).requires_grad_()
    (uphill,) = torch.autograd.grad(oracle.log_prob(a * y, torch.full((2,), s)).sum(), y)
    expected = a * (y + delta * sigma**2 * uphill + sigma * math.sqrt(2 * delta) * z)
    sampler = Langevin(repeats=1, step_size=delta)
    step = next(sampler.steps(oracle, x_t, torch.tensor([t, s, 0]), lambda x: torch.full_like(x, z)))
    torch.testing.assert_close(step.x, expected.detach(), rtol=1e-9, atol=1e-12)
