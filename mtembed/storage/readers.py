"""Threads that wait for stores.  Nobody waits for them at the end of the process, however long they would wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import lru_cache
from queue import SimpleQueue
from typing import Any, TypeVar

THREADS = 8
T = TypeVar("T")


@lru_cache(maxsize=1)
def _tasks() -> SimpleQueue[tuple[Future[Any], Callable[[], Any]]]:
    queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
    for number in range(THREADS):
        threading.Thread(target=_work, args=(queue,), name=f"storage-{number}", daemon=True).start()
    return queue


def submit(call: Callable[[], T]) -> Future[T]:
    """What the call will return, or raise."""
    future: Future[T] = Future()
    _tasks().put((future, call))
    return future


def in_order(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Results in order, of as many calls at a time as there are threads."""
    coming: deque[Future[T]] = deque()
    try:
        for call in calls:
            coming.append(submit(call))
            if len(coming) >= THREADS:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        for future in coming:
            future.cancel()


def _work(queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]]]) -> None:
    while True:
        future, call = queue.get()
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
        del future, call
