"""The order in which a run sees its images, as functions: which image comes at a place, for any place at once.

Each epoch is a permutation of all images. Up to `MAX_STORED` images it is drawn and held (4 bytes an image); beyond, it
is computed where it is asked for, by a keyed network of Feistel rounds on numbers (row, column) of a square just large
enough, walking on along the cycle where it leads beyond the last image (Black and Rogaway 2002): no memory, and the
same cost at any place. Both kinds are a function of (seed, epoch) alone.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Int64, UInt64

from undye import keyed
from undye.keyed import Stream

MAX_STORED = 10_000_000
_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: the step of SplitMix64


def shuffled_epochs(places: Int64[np.ndarray, " m"], n: int, seed: int) -> Int64[np.ndarray, " m"]:
    """The images at `places` of an endless row of epochs, each with all of 0..n-1 once."""
    epochs, offsets = np.divmod(places, n)
    images = np.empty(len(places), dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        if n <= MAX_STORED:
            images[here] = _stored(n, seed, int(epoch))[offsets[here]]
        else:
            key = keyed.generator(seed, Stream.TRAIN_ORDER, int(epoch)).integers(2**64, dtype=np.uint64)
            images[here] = permuted(offsets[here], np.int64(n), key)
    return images


class BalancedOrder:
    """Every class equally often, and within a class every image equally often.

    Each run of K places, K the number of classes that have images, shows each class once, in an order of its own; so
    the q-th image of a class is the one at place q of the class's own row of epochs. A large class takes more rounds
    until all of it was seen than a small one.
    """

    def __init__(self, labels: Int64[np.ndarray, " n"], seed: int) -> None:
        """From the class of each image."""
        counts = np.bincount(labels)
        self._by_class = np.argsort(labels, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[counts > 0]
        self._counts = counts[counts > 0]
        draw = keyed.generator(seed, Stream.TRAIN_BALANCE)
        self._class_key, self._image_key = draw.integers(2**64, size=2, dtype=np.uint64)

    def at(self, places: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
        """The images at these places."""
        classes = len(self._counts)
        rounds, offsets = np.divmod(places, classes)
        chosen = permuted(offsets, np.int64(classes), _mixed(rounds, self._class_key))
        counts = self._counts[chosen]
        epochs, within = np.divmod(rounds, counts)
        keys = _mixed(epochs, _mixed(chosen, self._image_key))
        return self._by_class[self._starts[chosen] + permuted(within, counts, keys)]


def permuted(
    places: Int64[np.ndarray, " m"], n: Int64[np.ndarray, " m"] | np.int64, key: UInt64[np.ndarray, " m"] | np.uint64
) -> Int64[np.ndarray, " m"]:
    """The permutation of 0..n-1 that `key` names, at `places`; each place may have its own `n` and `key`."""
    n = np.broadcast_to(np.asarray(n), places.shape)
    key = np.broadcast_to(np.asarray(key), places.shape)
    side = np.ceil(np.sqrt(n)).astype(np.int64)
    side += side * side < n  # the root may have been rounded down
    found = places.astype(np.int64)
    walking = np.arange(len(found))
    while len(walking):
        found[walking] = _feistel(found[walking], side[walking], key[walking])
        walking = walking[found[walking] >= n[walking]]
    return found


def _feistel(x: Int64[np.ndarray, " m"], side: Int64[np.ndarray, " m"], key: UInt64[np.ndarray, " m"]) -> np.ndarray:
    """A permutation of 0..side^2-1: (left, right) becomes (right, left + f(right)), round after round."""
    left, right = np.divmod(x, side)
    for number in range(_ROUNDS):
        noise = _mixed(right, key ^ np.uint64((number + 1) * int(_GOLDEN) % 2**64))
        left, right = right, (left + (noise % side.astype(np.uint64)).astype(np.int64)) % side
    return left * side + right


def _mixed(value: np.ndarray, key: UInt64[np.ndarray, " m"] | np.uint64) -> UInt64[np.ndarray, " m"]:
    """SplitMix64's finaliser of a whole number and a key, twice: every bit of both moves every bit."""
    x = value.astype(np.uint64)
    with np.errstate(over="ignore"):
        for salt in (key, _GOLDEN):
            x = (x ^ salt) * _GOLDEN + _GOLDEN
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            x = x ^ (x >> np.uint64(31))
    return x


@lru_cache(maxsize=2)
def _stored(n: int, seed: int, epoch: int) -> np.ndarray:
    """An epoch; two are kept because a batch may span their border."""
    return keyed.permutation(n, seed, Stream.TRAIN_ORDER, epoch).astype(np.uint32)
