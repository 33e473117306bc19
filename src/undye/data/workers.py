"""A few threads for decoding: Pillow lets go of the interpreter's lock while it works."""

import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[int, int], None]  # (done, total)
_BATCH = 2048  # handed to the threads at a time: a million waiting tasks would fill the memory
_THREADS = min(4, os.cpu_count() or 1)


def in_threads(
    work: Callable[[T], R], items: Sequence[T], progress: Callable[[int], None] | None = None, batch: int = _BATCH
) -> Iterator[R]:
    """Yields `work(item)` in the order of `items`.

    `progress` is told how many are done, in the caller's thread. At most `batch` results wait for the caller.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            done = 0
            for start in range(0, len(items), batch):
                for result in pool.map(work, items[start : start + batch]):
                    yield result
                    done += 1
                    if progress is not None:
                        progress(done)
        except BaseException:  # Ctrl-C, or the caller has seen enough: do not work through the rest first
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def quiet_pillow() -> Generator[None, None, None]:
    """Silences Pillow's remarks on odd metadata, and on large images, which the decoder judges itself.

    Python's warning filters belong to the whole process: for the caller's thread, around the threads, not in them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield
