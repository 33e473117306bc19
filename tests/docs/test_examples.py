"""The code in the documentation runs."""

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def blocks(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [re.sub(r"(?m)^   ", "", b) for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def test_the_sampler_of_the_walkthrough_works() -> None:
    from undye.diffusion.schedule import NoiseSchedule
    from undye.samplers import DDIM, final
    from undye.samplers.grid import make_grid
    from undye.testing import GaussianMixtureOracle

    (code,) = blocks("CONTRIBUTING.md")
    names: dict = {}
    exec(code, names)  # the file is ours
    schedule = NoiseSchedule.named("cosine", 100)
    oracle = GaussianMixtureOracle(
        schedule,
        [0.3, 0.7],
        torch.randn(2, 1, 2, 2, dtype=torch.float64),
        stds=[0.2, 0.5],
    )
    x_T = torch.randn(4, 1, 2, 2, dtype=torch.float64)
    grid = make_grid("uniform", 100, 20)
    # in sigma, DDIM and Euler are the same step
    euler = final(names["Euler"]().steps(oracle, x_T, grid, torch.randn_like))
    ddim = final(DDIM().steps(oracle, x_T, grid, torch.randn_like))
    torch.testing.assert_close(euler, ddim)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_readme_programs_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    programs = blocks(name)
    assert programs
    for code in programs:
        # the same program, with a budget that a test can afford
        short, n = re.subn(r'budget="[^"]+"', "steps=2", code)
        assert n <= 1
        exec(short, {})
    assert list(tmp_path.rglob("*.png")), "the program promises a picture"


def test_both_readmes_show_the_same_commands() -> None:
    def commands(name: str) -> list[str]:
        text = (ROOT / name).read_text(encoding="utf-8")
        lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).splitlines()
        return [re.sub(r"\s*#.*", "", line) for line in lines]

    assert commands("README.md") == commands("README.zh-CN.md")


def test_every_documented_command_parses() -> None:
    """Flags in the README exist: each `undye` line gets past the parser."""
    import shlex
    import subprocess
    import sys

    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"(?m)^undye (.+?)(?:\s+#.*)?$", text)
    assert lines
    for line in lines:
        command, *flags = shlex.split(line)
        words = [command, flags[0]] if command == "data" else [command]
        known = subprocess.run(
            [sys.executable, "-m", "undye.cli.main", *words, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for flag in flags:
            if flag.startswith("--"):
                assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", known), f"undye {line}: {flag}"


DOCUMENTS = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere_and_nothing_is_left_to_fill_in(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        assert "://" in target or (path.parent / target).exists(), target
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    assert not re.findall(r"\b[A-Z]{4,}(?:_[A-Z]+|[0-9]+)\b", prose), "a placeholder"


def test_constraints_are_pins_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 20
    for pin in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", pin), pin
    for name in ("torch==2.14.1", "torchvision==0.29.1"):
        assert name in pins
