"""What a run costs beside its arithmetic: saving it every minute, and the loop around forward, backward and optimiser.

A real run of the cpu preset on fashion-mini. A save is paid for twice: the loop stands still while the state is copied
(wall time), and the thread that writes takes time from the processor (its own CPU time, whether or not the loop wanted
that processor). Their sum is the most that a save can cost, and other programs on the machine hardly disturb it.
Waiting for the disk costs the loop nothing.

    python -m benchmarks.checkpointing [--saves 12] [--every 25] [--threads 2] [--out FILE.md]
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import undye
from undye.device import set_threads
from undye.files import write_text
from undye.training.batches import BatchStream
from undye.training.ema import EMA
from undye.training.events import Event, StepDone
from undye.training.parallel import Losses
from undye.training.saver import Saver
from undye.training.session import _Session, run
from undye.training.trainer import Trainer

MINUTE = 60.0
NEAR = 8
"""Steps from a save on that may be slower for it, and are not counted in the shares of the loop."""
SETTLE = 10
"""Steps that are not counted: the first ones allocate."""


@dataclass
class Clock:
    """When each step ended, and the seconds of each of its parts."""

    ends: list[float] = field(default_factory=list)
    parts: list[Counter[str]] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    _now: Counter[str] = field(default_factory=Counter)
    _began: float = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepDone):
            self.ends.append(time.perf_counter())
            self.parts.append(self._now)
            self._now = Counter()

    def watch(self, owner: type, method: str, part: str) -> None:
        """Count the time of a method."""
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **more: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*args, **more)
            finally:
                self._now[part] += time.perf_counter() - start

        setattr(owner, method, timed)

    def watch_saves(self) -> None:
        """Note the wall time of each copy and the CPU time of each writing."""

        def timed(owner: type, method: str, clock: Callable[[], float], into: list[float]) -> None:
            original: Callable[..., Any] = getattr(owner, method)

            def call(*args: Any, **more: Any) -> Any:
                start = clock()
                result = original(*args, **more)
                into.append(clock() - start)
                return result

            setattr(owner, method, call)

        timed(_Session, "save", time.perf_counter, self.copies)
        timed(Saver, "_write", time.thread_time, self.writes)

    def watch_optimizers(self) -> None:
        """Count the time of all optimisers' steps."""

        def begin(*_: Any) -> None:
            self._began = time.perf_counter()

        def end(*_: Any) -> None:
            self._now["optimiser"] += time.perf_counter() - self._began

        register_optimizer_step_pre_hook(begin)
        register_optimizer_step_post_hook(end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=12)
    parser.add_argument("--every", type=int, default=25, help=f"steps between them, more than {2 * NEAR}")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", default="benchmarks/results/checkpointing.md")
    asked = parser.parse_args()
    set_threads(asked.threads or None)

    clock = Clock()
    for owner, method, part in (
        (Losses, "forward", "forward"),
        (torch.Tensor, "backward", "backward"),
        (Trainer, "draw", "noise and timesteps"),
        (BatchStream, "at", "batch"),
        (Trainer, "_clip", "norm of the gradient"),
        (EMA, "update", "average of the weights"),
    ):
        clock.watch(owner, method, part)
    clock.watch_optimizers()
    clock.watch_saves()

    config = undye.run_preset("cpu")
    config = replace(
        config,
        data="fashion-mini",
        training=replace(config.training, steps=(asked.saves + 1) * asked.every),
        checkpoint=replace(config.checkpoint, every=asked.every),
        preview=replace(config.preview, count=0),
    )
    with tempfile.TemporaryDirectory() as folder:
        run(config, Path(folder) / "run", device="cpu", listeners=[clock])
        size = sum(p.stat().st_size for p in (Path(folder) / "run/checkpoints" / str(config.training.steps)).rglob("*"))

    lost = [copy + write for copy, write in zip(clock.copies, clock.writes, strict=True)]
    # steps near a save are not counted here
    quiet = [
        k
        for k in range(SETTLE, len(clock.ends))
        if (k % asked.every or asked.every) > NEAR  # step k + 1 follows save k
    ]
    times = [clock.ends[k] - clock.ends[k - 1] for k in quiet]
    names = ["forward", "backward", "optimiser"]
    shares = [1 - sum(clock.parts[k][n] for n in names) / t for k, t in zip(quiet, times, strict=True)]
    others = sorted({name for part in clock.parts for name in part} - set(names))
    rows = {n: median(clock.parts[k][n] for k in quiet) for n in [*names, *others]}
    rest = median(t - sum(clock.parts[k].values()) for k, t in zip(quiet, times, strict=True))
    step = median(times)

    lines = [
        "# What a run costs beside its arithmetic",
        "",
        f"`python -m benchmarks.checkpointing`: the cpu preset on fashion-mini, {config.training.batch_size} images "
        f"per step, {torch.get_num_threads()} threads, torch {torch.__version__}; {len(clock.ends)} steps, "
        f"{len(lost)} saves, {len(quiet)} steps away from them.",
        "",
        "## Saving every minute",
        "",
        f"A checkpoint has {size / 1e6:.1f} MB. What one costs at most:",
        "",
        "| seconds | median | least | most |",
        "|---|---|---|---|",
        *(
            f"| {name} | {median(values):.3f} | {min(values):.3f} | {max(values):.3f} |"
            for name, values in (
                ("the loop stands still (wall)", clock.copies),
                ("writing in the background (CPU)", clock.writes),
                ("both", lost),
            )
        ),
        f"| both, of a minute | {median(lost) / MINUTE:.2%} | {min(lost) / MINUTE:.2%} | {max(lost) / MINUTE:.2%} |",
        "",
        "## The loop",
        "",
        f"A step takes {step * 1e3:.1f} ms (median; {min(times) * 1e3:.1f} to {max(times) * 1e3:.1f}). Outside "
        f"forward, backward and optimiser: {median(shares):.2%} of it (median over steps; quartiles "
        f"{sorted(shares)[len(shares) // 4]:.2%} to {sorted(shares)[3 * len(shares) // 4]:.2%}).",
        "",
        "| part | ms (median) | share |",
        "|---|---|---|",
        *(f"| {name} | {value * 1e3:.2f} | {value / step:.2%} |" for name, value in rows.items()),
        f"| all else (flags, log, listeners) | {rest * 1e3:.2f} | {rest / step:.2%} |",
        "",
    ]
    write_text(Path(asked.out), "\n".join(lines))
    print("\n".join(lines), file=sys.stdout)


if __name__ == "__main__":
    main()
