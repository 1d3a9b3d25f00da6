"""Several files at once, in threads: the work is in libraries that let go of Python while they compute."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mtembed.machine import cores

A = TypeVar("A")
B = TypeVar("B")
MOST = 4  # threads: each holds a batch of vectors, and perhaps a matrix of dim x dim


def in_order(function: Callable[[A, threading.Event], B], items: Sequence[A], together: bool) -> Iterator[B]:
    """What ``function`` makes of each item, in the order of the items; as many at once as there are cores,
    with one thread of BLAS for each; or, unless ``together``, one by one with all threads of BLAS.

    The function is given an event that is set when nobody waits for it any more: then it is to end.
    An error of the function arrives where its result would have.
    """
    from threadpoolctl import threadpool_limits

    stopped = threading.Event()
    workers = max(1, min(cores(), MOST)) if together else 1
    waiting: deque[Future[B]] = deque()
    left = iter(items)
    with (
        threadpool_limits(1 if together else None, user_api="blas"),
        ThreadPoolExecutor(workers, "file") as pool,
    ):
        try:
            for item in left:
                waiting.append(pool.submit(function, item, stopped))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            stopped.set()
            for future in waiting:
                future.cancel()
