"""Trying again: longer and longer waits with some chance in them, as long as a store asks for, until a deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mtembed.errors import StorageError
from mtembed.storage.store import TryAgain
from mtembed.storage.traffic import METER, Meter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: the ``first`` wait, twice as long each time up to ``most``, all tries and waits within ``deadline``.

    ``wait`` and ``clock`` are the machine's.
    """

    first: float = 0.25
    most: float = 15.0
    deadline: float = 55.0
    wait: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


PATIENCE = Patience()


def persist(
    what: object,
    attempt: Callable[[], T],
    patience: Patience | None = None,
    *,
    doing: str = "read",
    meter: Meter = METER,
) -> T:
    """What ``attempt`` returns, tried again whenever it raises TryAgain; ``meter`` counts the requests.

    Raises StorageError at the deadline, which says what was tried (``doing``).
    """
    rules = patience or PATIENCE
    end, pause, tries = rules.clock() + rules.deadline, rules.first, 0
    while True:
        tries += 1
        meter.count(requests=1, again=int(tries > 1))
        try:
            return attempt()
        except TryAgain as error:
            why, asked = str(error), error.after
        pause = min(rules.most, pause * 2) if tries > 1 else rules.first
        wait = pause * random.uniform(0.5, 1.0) if asked is None else asked
        if rules.clock() + wait > end:
            raise StorageError(
                f"{what} cannot be {doing} ({why}; {tries} tries): check the connection, and run the same command again"
            ) from None
        meter.count(waited=wait)
        rules.wait(wait)
