import numpy as np
import pytest
import torch

from undye import keyed
from undye.keyed import Stream

# A seed's meaning is a contract: images of published seeds, resumed runs and the codec rest on these numbers. If one of
# them changes, so does every picture that anyone has the seed of. Made with numpy's Philox, see `undye.keyed`.
KNOWN_NORMAL = [0.340237319, 0.436895907, 0.573943794, -0.923457384]
KNOWN_UNIFORM = 0.5178225698168961
KNOWN_PERMUTATION = [3, 5, 6, 4, 2, 1, 7, 0]


def test_known_answers():
    draw = keyed.normal((2, 2), 0, Stream.SAMPLE_NOISE, 7, 3)
    np.testing.assert_allclose(draw.flatten().numpy(), KNOWN_NORMAL, rtol=1e-6)
    assert keyed.uniform(123, Stream.TRAIN_FLIP, 10, 20, 30) == KNOWN_UNIFORM
    assert keyed.permutation(8, 5, Stream.TRAIN_ORDER, 2).tolist() == KNOWN_PERMUTATION


def test_the_generator_is_philox_4x64_10():
    """The block of key 0 and counter 0, from the reference implementation (Random123, kat_vectors)."""
    bits = np.random.Philox(key=[0, 0], counter=np.array([2**64 - 1] * 4, dtype=np.uint64)).random_raw(4)
    assert [f"{int(b):016x}" for b in bits] == [
        "16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b",
    ]  # fmt: skip
    ours = keyed.generator(9, Stream.TRAIN_TIME, 1, 2, 3).bit_generator.state["state"]
    assert ours["key"].tolist() == [9, Stream.TRAIN_TIME]
    assert ours["counter"].tolist() == [0, 1, 2, 3]


def test_streams_keep_their_numbers():
    """New ones may be appended; these stay."""
    published = ["SAMPLE_NOISE", "TRAIN_NOISE", "TRAIN_TIME", "TRAIN_FLIP", "TRAIN_ORDER", "TRAIN_TIME_START"]
    assert [s.name for s in sorted(Stream)][:6] == published
    assert [s.value for s in sorted(Stream)] == list(range(len(Stream)))


def test_distinct_names_give_distinct_draws():
    names = [
        (seed, stream, *counters)
        for seed in (0, 1, -1, 2**40)
        for stream in Stream
        for counters in ((), (1,), (0, 1), (0, 0, 1), (1, 1), (2**33,))
    ]
    draws = {keyed.uniform(*name) for name in names}
    assert len(draws) == len(names)


def test_long_draws_of_neighbours_do_not_overlap():
    a, b = (keyed.generator(0, Stream.SAMPLE_NOISE, i).integers(2**63, size=5000).tolist() for i in (0, 1))
    assert not set(a) & set(b)


def test_a_draw_does_not_depend_on_what_was_drawn_before():
    first = keyed.normal((3, 4, 4), 1, Stream.TRAIN_NOISE, 2)
    keyed.normal((100,), 1, Stream.TRAIN_NOISE, 2)
    np.random.default_rng().normal()
    torch.manual_seed(9)
    assert torch.equal(keyed.normal((3, 4, 4), 1, Stream.TRAIN_NOISE, 2), first)


def test_counters_left_out_are_zero():
    assert keyed.uniform(1, Stream.TRAIN_TIME) == keyed.uniform(1, Stream.TRAIN_TIME, 0, 0, 0)
    with pytest.raises(ValueError, match="3 counters"):
        keyed.uniform(1, Stream.TRAIN_TIME, 0, 0, 0, 0)


def test_distributions():
    x = keyed.normal((200, 500), 3, Stream.TRAIN_NOISE)
    assert x.dtype == torch.float32
    assert x.shape == (200, 500)
    assert abs(x.mean()) < 5 / 100_000**0.5
    assert abs(x.var() - 1) < 5 * (2 / 100_000) ** 0.5
    u = [keyed.uniform(3, Stream.TRAIN_FLIP, i) for i in range(2000)]
    assert 0 <= min(u) < max(u) < 1
    assert abs(np.mean(u) - 0.5) < 5 * (1 / 12 / 2000) ** 0.5
    assert sorted(keyed.permutation(50, 3, Stream.TRAIN_ORDER)) == list(range(50))
