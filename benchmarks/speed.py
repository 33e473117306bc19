"""Images trained per second: all contenders in turns, so that the machine's noise hits all of them alike."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import median

import torch

import undye
from benchmarks.contenders import PEERS, Peer
from benchmarks.data import Images, batches, say
from undye.device import supports_bf16
from undye.training.batches import BatchStream
from undye.training.setup import build_objective
from undye.training.trainer import Trainer
from undye.world import World

PEER_BATCH = 128
WARM_UP = 3


@dataclass
class Runner:
    """One contender in one setting. rates: images per second, one entry per round."""

    project: str
    precision: str
    batch: int
    parameters: int
    advance: Callable[[int], None]
    steps: int = 1
    rates: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Project, precision and batch size."""
        return f"{self.project} {self.precision} batch {self.batch}"


def measure(
    images: Images, batch: int | None, rounds: int, seconds: float, seed: int, peer_bf16: bool
) -> dict[str, object]:
    """Time training steps of every contender.

    Args:
        images: the data.
        batch: images per step; None: that of undye's preset. The peers are also timed at 128.
        rounds: how often every contender has its turn, each time in another order.
        seconds: how long a turn should take.
        seed: names the orders.
        peer_bf16: time the peers under bf16 autocast too.

    Returns:
        What peers.json holds under "speed".
    """
    batch = batch or undye.run_preset("cpu").training.batch_size
    bf16 = supports_bf16(torch.device("cpu"))
    runners = [_undye(images, precision, batch, seed) for precision in ("fp32", *(["bf16"] if bf16 else []))]
    for peer in PEERS:
        for size in sorted({batch, PEER_BATCH}):
            runners += [_peer(peer, images, size, seed, low) for low in ((False, True) if peer_bf16 else (False,))]
    for runner in runners:
        runner.advance(WARM_UP)
        runner.steps = max(1, round(seconds / _time(runner)))
        say(f"speed: {runner.name}, {runner.steps} steps a turn")
    order = random.Random(seed)
    for i in range(rounds):
        for runner in order.sample(runners, len(runners)):
            runner.rates.append(runner.steps * runner.batch / _time(runner))
        rates = ", ".join(f"{r.project.split('-')[0]} {r.precision}/{r.batch} {r.rates[-1]:.0f}" for r in runners)
        say(f"speed: round {i + 1}/{rounds}, images/s: {rates}")
    auto = "bf16" if bf16 else "fp32"
    return {
        "batch": batch,
        "rounds": rounds,
        "auto_precision": auto,
        "contenders": [_row(runner) for runner in runners],
        "ratios": _ratios(runners, auto),
    }


def _time(runner: Runner) -> float:
    start = time.perf_counter()
    runner.advance(runner.steps)
    return time.perf_counter() - start


def _undye(images: Images, precision: str, batch: int, seed: int) -> Runner:
    """The `cpu` preset in undye's own Trainer, with its own batches."""
    run = undye.run_preset("cpu")
    config = replace(run.training, batch_size=batch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = undye.Denoiser.from_preset("cpu", image_size=(28, 28), channels=1)
    objective = build_objective(run)
    trainer = Trainer(denoiser, objective, config, seed, World("cpu"), precision)
    trainer.total_steps = None
    steps = trainer.steps(BatchStream(images.source, batch, seed).since(0))

    def advance(n: int) -> None:
        for _ in islice(steps, n):
            pass

    return Runner("undye", precision, batch, sum(p.numel() for p in trainer.parameters), advance)


def _peer(kind: type[Peer], images: Images, batch: int, seed: int, bf16: bool) -> Runner:
    torch.manual_seed(seed)
    peer = kind(bf16=bf16)
    stream = batches(images.train, batch, seed)

    def advance(n: int) -> None:
        for x in islice(stream, n):
            peer.step(x)

    return Runner(kind.name, "bf16" if bf16 else "fp32", batch, peer.parameters, advance)


def _row(runner: Runner) -> dict[str, object]:
    return {
        "name": runner.name,
        "project": runner.project,
        "precision": runner.precision,
        "batch": runner.batch,
        "parameters": runner.parameters,
        "steps_per_turn": runner.steps,
        "images_per_second": runner.rates,
        "median": median(runner.rates),
    }


def _ratios(runners: list[Runner], auto: str) -> list[dict[str, object]]:
    """How undye compares with each peer's fastest setting, within each round."""
    return [
        {
            "undye": own.precision,
            "peer": best.name,
            "is_default": own.precision == auto and best.precision == "fp32",
            "per_round": (per_round := [a / b for a, b in zip(own.rates, best.rates, strict=True)]),
            "median": median(per_round),
            "range": [min(per_round), max(per_round)],
        }
        for best in _best(runners)
        for own in runners
        if own.project == "undye"
    ]


def _best(runners: list[Runner]) -> Iterator[Runner]:
    """For each peer and precision the batch size with the most images per second."""
    for key in dict.fromkeys((r.project, r.precision) for r in runners if r.project != "undye"):
        yield max((r for r in runners if (r.project, r.precision) == key), key=lambda r: median(r.rates))
