"""Loss spikes: found where there is one, once, and not where losses are only restless."""

import math

import numpy as np
import pytest
import torch

from undye.training.events import Logged, Spiked, StepDone
from undye.training.spikes import HISTORY, remember, usual_if_spike
from undye.training.window import Sums, Window


def alarms(losses) -> list[int]:
    history: list[float] = []
    found = []
    for i, loss in enumerate(losses):
        if usual_if_spike(loss, history) is not None:
            found.append(i)
        history = remember(history, loss)
    return found


def test_a_jump_is_found_and_what_is_usual_is_told() -> None:
    history = [0.10, 0.11, 0.09, 0.10, 0.10, 0.12]
    assert usual_if_spike(0.2, history) == pytest.approx(0.1)
    assert usual_if_spike(0.14, history) is None, "less than half above"
    assert usual_if_spike(0.2, history[:4]) is None, "too little is known"


def test_a_falling_loss_is_no_spike_and_a_spike_does_not_hide_the_next() -> None:
    falling = [1.0, *(0.5 * math.exp(-k / 10) + 0.05 for k in range(60))]
    assert alarms(falling) == []
    assert alarms([*falling, 0.3, 0.051, 0.3, 0.051]) == [61, 63]


def test_restless_losses_need_more() -> None:
    """Of small batches: log-normal, a factor of two either way in every line; one alarm in some thousands of lines."""
    losses = np.exp(np.random.default_rng(0).normal(0, 0.35, 4000)).tolist()
    assert len(alarms(losses)) <= 4
    assert alarms([*losses[:100], 50.0])[-1] == 100


@pytest.mark.parametrize("loss", [math.nan, 0.0, -1.0])
def test_what_has_no_logarithm_is_no_spike(loss: float) -> None:
    assert usual_if_spike(loss, [1.0] * 10) is None
    assert usual_if_spike(5.0, [loss] * 10) is None
    assert usual_if_spike(5.0, [1.0] * 10 + [0.0]) == pytest.approx(1.0)


def test_the_history_is_bounded_and_has_no_nan() -> None:
    history: list[float] = []
    for k in range(100):
        history = remember(history, math.nan if k % 2 else float(k))
    assert history == [float(k) for k in range(100 - 2 * HISTORY, 100, 2)]


def steps(window: Window, first: int, count: int, loss: float) -> list[Logged | Spiked]:
    t, losses = torch.arange(1, 5), torch.full((4,), loss, dtype=torch.float64)
    return [
        line for k in range(first, first + count) for line in window.add(StepDone(k, loss, 1e-3, 1.0, 4, t, losses))
    ]


def test_a_loss_that_stays_high_is_told_once_also_if_it_is_resumed_meanwhile() -> None:
    window = Window(10)
    quiet = steps(window, 1, 500, 0.1)
    assert not [line for line in quiet if isinstance(line, Spiked)]
    first = steps(window, 501, 75, 0.5)
    (spike,) = [line for line in first if isinstance(line, Spiked)]
    assert (spike.step, spike.loss, spike.usual) == (550, pytest.approx(0.5), pytest.approx(0.1))
    resumed = Window(10, Sums(**window.sums()))
    again = steps(resumed, 576, 74, 0.5)
    assert len(again) == 1, "a line, and no second alarm"
    assert isinstance(again[0], Logged)
