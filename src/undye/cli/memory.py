"""Whether what is asked for fits the memory, before it is full: the system would end the program without a word."""

import psutil

from undye.errors import UserError


def check_memory(count: int, each: int, what: str) -> None:
    """Make sure that so many things can be.

    Args:
        count: of them.
        each: bytes that one takes.
        what: they are.

    Raises:
        UserError: if they are more than this machine's memory.
    """
    need, have = count * each, psutil.virtual_memory().total
    if need > have:
        raise UserError(
            f"{count:,} {what} need at least {need / 1e9:,.0f} GB of memory, and there are {have / 1e9:,.0f}: ask for "
            "fewer at a time"
        )
