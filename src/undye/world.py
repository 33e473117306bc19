"""The processes that work together: one, or as many as accelerate launch, torchrun or SLURM have started.

Every process computes the same things from the same numbers, but for its own part of each batch; what has to be agreed
on goes through here.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from undye.device import pick_device
from undye.errors import SaidElsewhereError, UserError

T = TypeVar("T")

LOST = "another process of this run has ended or cannot be reached: look into its output, and start again"
TIMEOUT = timedelta(hours=2)
"""How long the others wait while one of them samples, decodes or saves."""


class World:
    """This process among the others.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        device: where this one computes.
    """

    def __init__(self, device: str | None = None):
        """Join the others.

        Args:
            device: "cpu", "cuda", "mps"; None: the best there is.

        Raises:
            UserError: if the device is not there, or this process has already joined on another.
        """
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        wanted = pick_device(device)
        if not launched:
            # accelerate's state is for good; a single process may train on one device and then on another
            self.rank, self.size = 0, 1
            self.device: torch.device = wanted
            if wanted.type == "cuda" and wanted.index is not None:
                torch.cuda.set_device(wanted)
            return
        cpu = wanted.type == "cpu"
        try:
            state = PartialState(cpu=cpu, timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the processes of this run do not find each other: {_line(error)}") from None
        assert state.device is not None
        self.rank, self.size, self.device = state.process_index, state.num_processes, state.device
        if self.device.type != wanted.type:
            raise UserError(f"this process has already trained on {self.device.type}: use another for {wanted.type}")

    @classmethod
    def alone(cls) -> "World":
        """This process by itself, whatever started it."""
        world = object.__new__(cls)
        world.rank, world.size, world.device = 0, 1, torch.device("cpu")
        return world

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def share(self, n: int) -> range:
        """This process's part of n things, which must be a multiple of `size`."""
        each = n // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def rows(self, n: int) -> range:
        """This process's part of n things, any number of them."""
        return range(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def collect(self, value: T) -> list[T] | None:
        """What all processes have, in the order of their ranks, in the main one; None in the others. Picklable.

        Raises:
            UserError: if another process is gone.
        """
        if self.size == 1:
            return [value]
        box: list[Any] | None = [None] * self.size if self.is_main else None
        try:
            dist.gather_object(value, box, dst=0)
        except RuntimeError as error:
            raise UserError(f"{LOST} ({_line(error)})") from None
        return box

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, stacked in the order of their ranks, on the CPU. All have the same shape.

        Raises:
            UserError: if another process is gone.
        """
        if self.size == 1:
            return tensor.detach().cpu()[None]
        here = tensor.detach().to(self.device).contiguous()
        parts = [torch.empty_like(here) for _ in range(self.size)]
        try:
            dist.all_gather(parts, here)
        except RuntimeError as error:
            raise UserError(f"{LOST} ({_line(error)})") from None
        return torch.stack(parts).cpu()

    def broadcast(self, value: T) -> T:
        """The main process's value, for all; it must be picklable.

        Raises:
            UserError: if another process is gone.
        """
        if self.size == 1:
            return value
        box: list[Any] = [value]
        try:
            dist.broadcast_object_list(box, src=0, device=self.device if self.device.type == "cuda" else None)
        except RuntimeError as error:
            raise UserError(f"{LOST} ({_line(error)})") from None
        return box[0]

    def on_main(self, function: Callable[[], T]) -> T:
        """What the function gives in the main process, for all; the others wait.

        Raises:
            UserError: if it raised one there; in the others a SaidElsewhereError.
        """
        value, error = None, None
        if self.is_main:
            try:
                value = function()
            except UserError as problem:
                error = problem
        value, said = self.broadcast((value, None if error is None else str(error)))
        if error is not None:
            error.told = True
            raise error
        if said is not None:
            raise SaidElsewhereError(said)
        return cast(T, value)

    def agreed(self, function: Callable[[], T]) -> T:
        """What the function gives in this process, once it has given something in all of them.

        It may wait for other processes, but first of all through an `agreed` of its own: where this one fails before
        it gets there, its word reaches the others in theirs.

        Raises:
            UserError: if it raised one in this process, and in none before it; a SaidElsewhereError if in another one.
        """
        value, error = None, None
        try:
            value = function()
        except UserError as problem:
            if problem.told:
                raise  # the others have heard of it in an `agreed` within this one
            error = problem
        failed = self.gather(torch.tensor(float(error is not None))).tolist()
        if error is not None and 1.0 not in failed[: self.rank]:
            error.told = True
            raise error
        if 1.0 in failed:
            raise SaidElsewhereError(f"process {failed.index(1.0)} has failed")
        return cast(T, value)

    def wait(self) -> None:
        """Until all processes are here."""
        self.gather(torch.zeros(()))

    def close(self) -> None:
        """Leave the others; without it a launcher warns."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
