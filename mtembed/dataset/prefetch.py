"""Read ahead: an iterator whose next values are made in a thread while the caller works on the last one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")
WAIT_S = 0.2


def prefetched(values: Iterator[T], ahead: int = 2) -> Iterator[T]:
    """The same values in the same order, at most ``ahead`` of them waiting; errors arrive where they would have.

    Closing it, or leaving the loop, ends the thread.
    """
    queue: Queue[tuple[T | None, BaseException | None]] = Queue(ahead)
    stopped = threading.Event()

    def put(value: T | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return queue.put((value, error), timeout=WAIT_S)
            except Full:
                continue

    def fill() -> None:
        try:
            for value in values:
                put(value, None)
                if stopped.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    thread = threading.Thread(target=fill, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            value, error = queue.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        while thread.is_alive():
            try:
                queue.get_nowait()
            except Empty:
                thread.join(WAIT_S)
