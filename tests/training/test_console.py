"""What a person sees: loss, rate, memory, time left; spikes and measurements in a line each."""

import io
import math

import pytest

from undye.training import console
from undye.training.console import Console, show_bytes
from undye.training.events import Measured, Spiked, Started, StepDone


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, *events: object) -> str:
    view = Console()
    view.stream = stream
    for event in events:
        view(event)  # type: ignore[arg-type]
    return stream.getvalue()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step has its line."""
    monkeypatch.setattr(console, "LINE_EVERY", 0.0)
    monkeypatch.setattr(console, "REFRESH_EVERY", 0.0)


@pytest.mark.usefixtures("at_once")
def test_a_line_has_loss_rate_memory_and_time_left() -> None:
    text = shown(io.StringIO(), Started(0, 100, ("the data",)), StepDone(50, 0.25, 1e-3, 1.0, 8))
    assert text.startswith("the data\nstep 50 of 100 (50%), ")
    assert "s left: loss 0.2500, " in text
    assert "images/s, " in text
    assert text.rstrip().endswith("B")


@pytest.mark.usefixtures("at_once")
def test_a_bar_has_them_too() -> None:
    text = shown(Terminal(), Started(0, 10, ()), StepDone(1, 0.25, 1e-3, 1.0, 8))
    assert "loss=0.2500" in text
    assert "memory=" in text
    assert "img_s=" in text


@pytest.mark.usefixtures("at_once")
def test_skipped_steps_are_counted_and_spoil_no_mean() -> None:
    text = shown(
        io.StringIO(),
        Started(0, 100, ()),
        StepDone(1, math.nan, 1e-3, math.inf, 8, skipped=True),
        StepDone(2, 0.5, 1e-3, 1.0, 8),
    )
    first, second = text.splitlines()
    assert "loss nan" in first
    assert "loss 0.5000" in second
    assert second.endswith("1 steps skipped so far")


def test_spikes_and_measurements_are_lines() -> None:
    text = shown(io.StringIO(), Spiked(100, 0.9, 0.1), Measured(200, 3.25, 0.04, 256, 8, 1.5))
    assert text.splitlines() == [
        "step 100: the loss has jumped to 0.9, from about 0.1",
        "step 200: 3.250 +- 0.040 bits/dim on 256 held-out images",
    ]


@pytest.mark.parametrize(("count", "text"), [(640_400_000, "640 MB"), (3_210_000_000, "3.2 GB"), (0, "0 MB")])
def test_bytes_as_people_write_them(count: int, text: str) -> None:
    assert show_bytes(count) == text
