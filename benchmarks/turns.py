"""Timing in turns: all contenders in each round, in random order: the machine's noise hits all of them alike."""

import random
import sys
import time
from collections.abc import Callable, Mapping


def take_turns(
    contenders: Mapping[str, Callable[[], None]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> list[dict[str, float]]:
    """Seconds of each contender, a dict for each round; each runs once before, for the first call allocates.

    With `time.process_time` as the clock these are CPU seconds of all threads, which a busy neighbour hardly changes.
    """
    for run in contenders.values():
        run()
    times = []
    for _ in range(rounds):
        taken = {}
        for name in random.sample(list(contenders), len(contenders)):
            start = clock()
            contenders[name]()
            taken[name] = clock() - start
        times.append(taken)
        print({name: round(seconds, 3) for name, seconds in taken.items()}, file=sys.stderr, flush=True)
    return times
