"""Several processes that wait for the rows of a stream: together they go on, stop for a signal, or fail.

A batch is there in one process and not yet in another, and a signal may reach only one of them. So between two steps
they exchange, round after round, where each of them is: `LISTENS` seconds of waiting, then one small exchange. The step
is taken after the first round in which all have their batch. Within a round every process hears the same from all, so
all of them leave the rounds at the same one, and what comes next is the same exchange in all: none waits for another
that does something else. A process that has its batch waits in the exchange itself, for the slowest.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from enum import IntEnum
from typing import TypeVar

import torch

from undye.errors import SaidElsewhereError, UserError
from undye.world import World

T = TypeVar("T")


class SignalFirst(Exception):
    """What was being drawn, measured or waited for is left, for a signal waits."""

    def __init__(self, received: int):
        super().__init__(f"signal {received}")
        self.received = received


class _State(IntEnum):
    WAITING = 0
    READY = 1
    FAILED = 2


class Rounds:
    """One process's part in the rounds.

    Args:
        world: the processes.
        flag: the number of the signal that this process has received; 0: none.
    """

    def __init__(self, world: World, flag: Callable[[], int]):
        self._world, self._flag = world, flag
        self._over = False  # all know how this ends: nobody comes to another round

    def waiting(self) -> None:
        """A round of one who has no batch yet: called now and then while the rows are awaited.

        Raises:
            SignalFirst: one of the processes has received a signal; in all of them, with the same number.
            SaidElsewhereError: one of them has failed.
            UserError: one of them is gone.
        """
        self._round(_State.WAITING)

    def batches(self, batches: Generator[T]) -> Iterator[T]:
        """The batches, each once all processes have theirs; `waiting` must be what they call while they wait.

        Raises:
            SignalFirst: as `waiting`.
            SaidElsewhereError: as `waiting`.
            UserError: as `waiting`.
        """
        with closing(batches):
            while True:
                try:
                    batch = next(batches)
                except Exception as error:
                    if not self._over and self._told_before():
                        raise SaidElsewhereError(str(error)) from error
                    raise
                while not self._round(_State.READY):
                    pass
                yield batch

    def _told_before(self) -> bool:
        """A last round of one who has failed: whether one before it has failed as well, and tells the user."""
        try:
            failed, _ = self._exchange(_State.FAILED)
        except UserError:  # the others are gone: this one's own error says more
            return False
        return failed[0] < self._world.rank

    def _round(self, state: _State) -> bool:
        """Whether all are ready."""
        failed, ready = self._exchange(state)
        if failed:
            raise SaidElsewhereError(f"process {failed[0]} has failed")
        return ready

    def _exchange(self, state: _State) -> tuple[list[int], bool]:
        """The processes that have failed; and whether all are ready."""
        self._over = True  # if the exchange itself fails
        states, flags = self._world.gather(torch.tensor([int(state), self._flag()])).T
        if failed := (states == _State.FAILED).nonzero().flatten().tolist():
            return failed, False
        if received := int(flags.max()):
            raise SignalFirst(received)
        self._over = False
        return [], bool((states == _State.READY).all())
