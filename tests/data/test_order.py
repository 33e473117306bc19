"""Orders: permutations, whoever computes them, and as they always were up to ten million images."""

import itertools

import numpy as np
import pytest

from undye import keyed
from undye.data import order
from undye.data.order import BalancedOrder, permuted, shuffled_epochs
from undye.keyed import Stream


def test_the_order_of_existing_runs_is_what_it_was():
    places = np.arange(50)
    expected = np.concatenate([keyed.permutation(20, 5, Stream.TRAIN_ORDER, epoch) for epoch in range(3)])[:50]
    assert shuffled_epochs(places, 20, 5).tolist() == expected.tolist()
    assert (
        shuffled_epochs(np.array([0, 1, 2]), 9, 0).tolist()
        == keyed.permutation(9, 0, Stream.TRAIN_ORDER, 0)[:3].tolist()
    )


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 17, 99, 100, 101, 5000])
def test_computed_orders_are_permutations(n):
    found = permuted(np.arange(n), np.int64(n), np.uint64(7))
    assert sorted(found.tolist()) == list(range(n))
    if n > 20:
        assert found.tolist() != permuted(np.arange(n), np.int64(n), np.uint64(8)).tolist()


@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_permutation_is_as_likely(n):
    keys = keyed.generator(0, Stream.TRAIN_ORDER).integers(2**64, size=6000, dtype=np.uint64)
    found = np.stack([permuted(np.full(6000, k), np.int64(n), keys) for k in range(n)], axis=1)
    kinds = {p: 0 for p in itertools.permutations(range(n))}
    for row in found.tolist():
        kinds[tuple(row)] += 1
    expected = 6000 / len(kinds)
    chi2 = sum((count - expected) ** 2 / expected for count in kinds.values())
    assert chi2 < len(kinds) - 1 + 5 * (2 * len(kinds)) ** 0.5, kinds


def test_large_orders_look_shuffled(monkeypatch):
    monkeypatch.setattr(order, "MAX_STORED", 0)
    n = 40_000
    found = shuffled_epochs(np.arange(2 * n), n, 3)
    assert sorted(found[:n].tolist()) == sorted(found[n:].tolist()) == list(range(n))
    for one, other in ((found[:n], np.arange(n)), (found[1:n], found[: n - 1]), (found[:n], found[n:])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / n**0.5
    # where the first hundredth of the places leads: evenly over the images
    counts = np.histogram(found[:400], bins=10, range=(0, n))[0]
    assert ((counts - 40) ** 2 / 40).sum() < 35
    some = np.array([5, 77_777, 12_345, 5])
    assert shuffled_epochs(some, n, 3).tolist() == found[some].tolist(), "any place alone"


def test_a_huge_order_takes_no_memory_and_no_time():
    n = 3_000_000_000
    found = shuffled_epochs(np.arange(n - 500, n + 500), n, 1)
    assert len(set(found[:500].tolist())) == len(set(found[500:].tolist())) == 500
    assert 0 <= found.min() < n // 50
    assert n - n // 50 < found.max() < n
    assert order._stored.cache_info().currsize <= 2


def test_balanced_orders():
    labels = np.array([0] * 50 + [3] * 3 + [1] * 7)  # class 2 has no images
    stream = BalancedOrder(labels, seed=4)
    found = stream.at(np.arange(3 * 350))
    assert (np.sort(labels[found].reshape(350, 3), axis=1) == [0, 1, 3]).all(), "each class once in each three places"
    for k, n in ((0, 50), (1, 7), (3, 3)):
        mine = found[labels[found] == k]
        epochs = mine[: len(mine) // n * n].reshape(-1, n)
        assert (np.sort(epochs, axis=1) == np.flatnonzero(labels == k)).all(), (
            "each image once in an epoch of its class"
        )
        assert len({tuple(row) for row in epochs.tolist()}) > 1, "which is shuffled anew"
    assert len({tuple(row) for row in labels[found].reshape(350, 3).tolist()}) == 6, "classes in every order"
    some = np.array([1000, 3, 444])
    assert stream.at(some).tolist() == found[some].tolist()
    assert stream.at(some).tolist() != BalancedOrder(labels, seed=5).at(some).tolist()
