"""Timing in turns: all contenders in each round, in random order: the machine's noise hits all of them alike."""

import random
import sys
import time
from collections.abc import Callable, Mapping


def take_turns(contenders: Mapping[str, Callable[[], None]], rounds: int) -> list[dict[str, float]]:
    """Seconds of each contender, a dict for each round; each runs once before, for the first call allocates."""
    for run in contenders.values():
        run()
    times = []
    for _ in range(rounds):
        taken = {}
        for name in random.sample(list(contenders), len(contenders)):
            start = time.perf_counter()
            contenders[name]()
            taken[name] = time.perf_counter() - start
        times.append(taken)
        print({name: round(seconds, 3) for name, seconds in taken.items()}, file=sys.stderr, flush=True)
    return times
