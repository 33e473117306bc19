"""Random numbers that are a function of a key, not of a history.

A draw is named by a seed, a stream (what the numbers are for) and up to three counters (a sample's index, a step, ...).
The same name gives the same numbers whatever was drawn before, in whatever batch, on whatever device and process:
so a sample does not depend on its batch, and a run does not depend on how many processes it has.

The generator is Philox 4x64-10 (Salmon et al. 2011): a 128-bit key, here (seed, stream), and a 256-bit counter, whose
three upper words are ours and whose lowest word counts the blocks inside one draw. Distinct names never overlap.
"""

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

_WORD = 2**64


class Stream(IntEnum):
    """What a draw is for. The numbers are part of every seed's meaning: append, never reorder."""

    SAMPLE_NOISE = 0
    TRAIN_NOISE = 1
    TRAIN_TIME = 2
    TRAIN_FLIP = 3
    TRAIN_ORDER = 4
    TRAIN_TIME_START = 5
    LIKELIHOOD_NOISE = 6
    LIKELIHOOD_TIME = 7
    DEQUANTISATION = 8
    TRACE_PROBE = 9
    FORWARD_NOISE = 10
    EVAL_IMAGES = 11
    TRAIN_DROPOUT = 12
    TRAIN_CROP = 13
    TRAIN_BALANCE = 14
    BOOTSTRAP = 15
    METRIC_SUBSETS = 16
    FEATURES = 17
    EDIT_NOISE = 18
    TRAIN_BLOCKS = 19


def generator(seed: int, stream: Stream, *counters: int) -> np.random.Generator:
    """The generator named by `seed`, `stream` and at most three non-negative `counters`."""
    if len(counters) > 3:
        raise ValueError(f"at most 3 counters, got {len(counters)}")
    words = [*counters, *([0] * (3 - len(counters)))]
    key = np.array([int(seed) % _WORD, int(stream)], dtype=np.uint64)
    counter = np.array([0, *(int(w) % _WORD for w in words)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def normal(shape: tuple[int, ...], seed: int, stream: Stream, *counters: int) -> Tensor:
    """One standard normal draw of `shape`, float32, on the CPU."""
    return torch.from_numpy(generator(seed, stream, *counters).standard_normal(shape, dtype=np.float32))


def uniform(seed: int, stream: Stream, *counters: int) -> float:
    """One draw from [0, 1)."""
    return float(generator(seed, stream, *counters).random())


def permutation(n: int, seed: int, stream: Stream, *counters: int) -> np.ndarray:
    """A permutation of 0..n-1, int64."""
    return generator(seed, stream, *counters).permutation(n)
