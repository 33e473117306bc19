"""The timesteps of a batch: what importance sampling prefers, what it may not change, and what it remembers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undye import keyed
from undye.keyed import Stream
from undye.timesteps import TIMESTEPS, Importance, Stratified, Uniform, timestep_sampler

T = 6
NUMBERS = np.arange(32)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def fed(scale, history=10, uniform_share=1e-3, seed=0):
    """A sampler that has seen `history` losses at each t, of the given size at each."""
    sampler = Importance(len(scale), history, uniform_share)
    losses = np.random.default_rng(seed).exponential(scale, (history, len(scale)))
    for row in losses:
        sampler.observe(torch.arange(1, len(scale) + 1), torch.from_numpy(row))
    return sampler, losses


def test_the_table_makes_each_by_its_name():
    for name in TIMESTEPS:
        assert timestep_sampler(name, 5).name == name
    with pytest.raises(ValueError, match="unknown timestep sampler 'sobol': choose from uniform, stratified"):
        timestep_sampler("sobol", 5)


@pytest.mark.parametrize("history", [1, 3, 10])
def test_importance_is_uniform_until_every_time_has_been_seen_often_enough(history):
    sampler = Importance(T, history)
    for _ in range(5):
        sampler.observe(torch.arange(1, T), torch.full((T - 1,), 9.0))  # all but T
    for _ in range(history - 1):
        sampler.observe(torch.tensor([T]), torch.tensor([1.0]))
    for _ in range(history):
        sampler.observe(torch.arange(1, T), torch.full((T - 1,), 9.0))
    assert not sampler.warm
    assert sampler.probabilities().tolist() == [1 / T] * T
    t, weight = sampler.draw(np.linspace(0, 0.999, 60), T, 0, 0, np.arange(60), 60)
    assert np.bincount(t).tolist() == [0, *[10] * T]
    assert weight.tolist() == [1.0] * 60
    sampler.observe(torch.tensor([T]), torch.tensor([1.0]))
    assert sampler.warm
    assert sampler.probabilities()[-1] < sampler.probabilities()[0]


@given(
    scale=st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=12),
    share=st.floats(0, 1),
    history=st.integers(1, 12),
)
def test_importance_is_the_root_of_the_mean_squared_loss_and_a_uniform_share(scale, share, history):
    """Nichol and Dhariwal 2021, section 3.3, Eq. 18: p_t proportional to sqrt(E[L_t^2])."""
    sampler, losses = fed(scale, history, share)
    p, size = sampler.probabilities(), np.sqrt((losses**2).mean(0))
    np.testing.assert_allclose(p, (1 - share) * size / size.sum() + share / len(scale), rtol=1e-12)
    assert p.sum() == pytest.approx(1, rel=1e-12)
    assert (p >= share / len(scale)).all()


def test_losses_of_nothing_are_no_reason_to_prefer():
    """A loss that is 0 everywhere gives no proportions."""
    sampler, _ = fed([0.0] * T)
    assert sampler.warm
    assert sampler.probabilities().tolist() == [1 / T] * T


def midpoints(n):
    """n numbers that stand for all of [0, 1): their share in an interval is its length to 1 / n."""
    return (np.arange(n) + 0.5) / n


@given(scale=st.lists(st.floats(0.01, 10), min_size=2, max_size=8), seed=st.integers(0, 9))
def test_the_weights_give_back_the_uniform_mean(scale, seed):
    """E_p[loss / (T p)] = mean over t of the loss, exactly, as a sum over t, for any loss."""
    sampler, _ = fed(scale, seed=seed)
    num_steps, p = len(scale), sampler.probabilities()
    loss = np.random.default_rng(seed + 100).normal(size=num_steps)
    edges = np.concatenate([[0], p.cumsum()])
    middle = (edges[:-1] + edges[1:]) / 2
    t, weight = sampler.draw(middle, num_steps, 0, 0, np.arange(num_steps), num_steps)
    assert t.tolist() == list(range(1, num_steps + 1)), "each t is drawn by the numbers in its own share"
    assert (p * weight * loss).sum() == pytest.approx(loss.mean(), rel=1e-12, abs=1e-13)
    # and by drawing: as an average over the whole unit interval
    n = 20_000
    t, weight = sampler.draw(midpoints(n), num_steps, 0, 0, np.arange(n), n)
    bound = num_steps * np.abs(loss / (num_steps * p)).max() / n
    assert abs((weight * loss[t - 1]).mean() - loss.mean()) <= 2 * bound


def test_draws_follow_the_probabilities():
    """Pearson's chi-square of keyed draws, with T - 1 = 5 degrees of freedom; 30 has probability 1.5e-5."""
    sampler, _ = fed([1.0, 0.2, 3.0, 0.5, 0.05, 1.5])
    n, p = 20_000, sampler.probabilities()
    u = keyed.generator(3, Stream.TRAIN_TIME, 0).random(n)
    t, weight = sampler.draw(u, T, 3, 0, np.arange(n), n)
    assert t.dtype == np.int64
    counts = np.bincount(t, minlength=T + 1)
    assert counts[0] == 0
    assert ((counts[1:] - n * p) ** 2 / (n * p)).sum() < 30
    uniform = np.full(T, n / T)
    assert ((counts[1:] - uniform) ** 2 / uniform).sum() > 1000
    np.testing.assert_allclose(weight, 1 / (T * p[t - 1]), rtol=1e-14)


def test_importance_lowers_the_variance_of_the_loss():
    """What it is for. The bound's terms differ by orders of magnitude; p proportional to them makes all draws alike."""
    scale = np.array([100.0, 10.0, 1.0, 0.1, 0.1, 0.1])
    sampler, _ = fed(scale, history=200)
    u = midpoints(10_000)
    args = (u, T, 0, 0, np.arange(len(u)), len(u))
    spread = {}
    for chosen in (sampler, Uniform()):
        t, weight = chosen.draw(*args)
        spread[chosen.name] = (weight * scale[t - 1]).std()
    assert spread["importance"] < 0.1 * spread["uniform"]


@pytest.mark.parametrize("u", [0.0, np.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("name", TIMESTEPS)
@pytest.mark.parametrize("num_steps", [1, 3, 1000])
def test_the_ends_of_the_unit_interval_are_times_too(name, u, num_steps):
    sampler = timestep_sampler(name, num_steps)
    t, weight = sampler.draw(np.full(4, u), num_steps, 0, 0, np.arange(4), 4)
    assert ((t >= 1) & (t <= num_steps)).all()
    assert (weight == 1).all()
    if isinstance(sampler, Importance):
        for _ in range(10):
            sampler.observe(torch.arange(1, num_steps + 1), torch.linspace(1, 2, num_steps))
        t, _ = sampler.draw(np.full(4, u), num_steps, 0, 0, np.arange(4), 4)
        assert (t == (1 if u == 0 else num_steps)).all()


@given(values=st.lists(st.floats(0.1, 100), min_size=3, max_size=20), history=st.integers(1, 5))
def test_the_last_losses_are_remembered_the_older_forgotten(values, history):
    """Of t = 2; t = 1 always had 1."""
    sampler = Importance(2, history)
    for _ in range(history):
        sampler.observe(torch.tensor([1, 2]), tensor(1.0, 1000.0))
    for value in values:
        sampler.observe(torch.tensor([2]), tensor(value))
    kept = [*([1000.0] * history), *values][-history:]
    size = np.array([1.0, np.sqrt(np.mean(np.square(kept)))])
    np.testing.assert_allclose(sampler.probabilities(), 0.999 * size / size.sum() + 0.001 / 2, rtol=1e-12)


def test_a_time_that_is_twice_in_a_batch_is_seen_twice():
    one, two = Importance(2, 2), Importance(2, 2)
    one.observe(torch.tensor([1, 1, 2, 2]), tensor(3.0, 4.0, 1.0, 1.0))
    for t, loss in ((1, 3.0), (1, 4.0), (2, 1.0), (2, 1.0)):
        two.observe(torch.tensor([t]), tensor(loss))
    assert one.warm
    assert one.probabilities().tolist() == two.probabilities().tolist()


def test_what_is_observed_carries_no_gradient_and_may_be_half_precision():
    loss = torch.tensor([2.0, 3.0], dtype=torch.bfloat16, requires_grad=True)
    sampler = Importance(2, 1)
    sampler.observe(torch.tensor([1, 2]), loss * 1)
    assert sampler.state()["losses"].flatten().tolist() == [2.0, 3.0]
    assert not sampler.state()["losses"].requires_grad


def test_the_state_goes_there_and_back():
    sampler, _ = fed([1.0, 0.2, 3.0, 0.5, 0.05, 1.5], history=4)
    sampler.observe(torch.tensor([2, 2, 5]), tensor(7.0, 8.0, 9.0))
    twin = Importance(T, 4)
    twin.load_state(sampler.state())
    # they go on alike, also where the next loss is written
    for each in (sampler, twin):
        each.observe(torch.tensor([2, 3]), tensor(0.1, 0.2))
    assert twin.probabilities().tolist() == sampler.probabilities().tolist()
    for a, b in zip(sampler.state().values(), twin.state().values(), strict=True):
        assert torch.equal(a, b)


def test_the_state_is_a_copy():
    sampler, _ = fed([1.0, 2.0, 3.0])
    state, before = sampler.state(), sampler.probabilities()
    twin = Importance(3)
    twin.load_state(state)
    for value in state.values():
        value.zero_()
    assert sampler.probabilities().tolist() == before.tolist()
    assert twin.probabilities().tolist() == before.tolist()
    twin.observe(torch.tensor([1]), tensor(1e6))
    assert sampler.probabilities().tolist() == before.tolist()


def test_the_state_of_another_number_of_times_is_refused():
    with pytest.raises(ValueError, match="another number of timesteps"):
        Importance(5).load_state(Importance(6).state())
    with pytest.raises(ValueError, match="another number of timesteps"):
        Importance(5, history=3).load_state(Importance(5, history=4).state())


@pytest.mark.parametrize("sampler", [Uniform(), Stratified()], ids=lambda s: s.name)
def test_the_others_have_no_memory(sampler):
    args = (np.linspace(0, 0.99, 32), 50, 0, 7, NUMBERS, 32)
    before = sampler.draw(*args)
    sampler.observe(torch.tensor([3]), torch.tensor([1e9]))
    sampler.load_state(sampler.state())
    after = sampler.draw(*args)
    assert sampler.state() == {}
    for a, b in zip(before, after, strict=True):
        assert a.tolist() == b.tolist()
    assert before[1].tolist() == [1.0] * 32


@pytest.mark.parametrize("name", TIMESTEPS)
def test_split_batches_draw_the_same(name):
    """After it has learned, too: what an example is given depends on its number, not on who draws it."""
    sampler = timestep_sampler(name, T) if name != "importance" else fed([1.0, 0.2, 3.0, 0.5, 0.05, 1.5])[0]
    u = keyed.generator(0, Stream.TRAIN_TIME, 1).random(32)
    whole = sampler.draw(u, T, 5, 1, NUMBERS, 32)
    for part in (slice(0, 9), slice(9, 32), slice(0, 32, 2), slice(31, 32)):
        got = sampler.draw(u[part], T, 5, 1, NUMBERS[part], 32)
        for a, b in zip(got, whole, strict=True):
            assert a.tolist() == b[part].tolist()
