"""When a run stops by itself: too many failures, or workers that die and die without getting anywhere."""

from __future__ import annotations

from collections import Counter

from mtembed.errors import TooManyFailures
from mtembed.types import CellTiming

FAILURE_SAMPLE = 100  # --max-failures is looked at from so many cells on
SHARD_SAMPLE = 20  # and from so many shards on
STARTS_ALLOWED = 3  # where workers die so often in a row without an answer, none can work
LEAST_DEATHS = 20  # in a row without progress that are no reason to stop


class FailureBudget:
    """``--max-failures``: the share of cells that may fail, and the share of shards that may be lost as a whole."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._seen: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._reasons: dict[str, Counter[str]] = {"cells": Counter(), "shards": Counter()}

    def cell(self, timing: CellTiming) -> None:
        """One more cell is settled.  Raises TooManyFailures."""
        self._count("cells", f"{timing.stage}: {timing.error}" if timing.status == "failed" else "", FAILURE_SAMPLE)

    def shard(self, problem: str = "") -> None:
        """One more shard is settled; ``problem`` says why it is lost.  Raises TooManyFailures."""
        self._count("shards", problem, SHARD_SAMPLE)

    def _count(self, what: str, problem: str, sample: int) -> None:
        self._seen[what] += 1
        if not problem:
            return
        self._failed[what] += 1
        self._reasons[what][problem] += 1
        seen, failed = self._seen[what], self._failed[what]
        if seen >= sample and failed > self._most * seen:
            top = "; ".join(f"{count} x {reason}" for reason, count in self._reasons[what].most_common(3))
            raise TooManyFailures(
                f"{failed} of {seen} {what} failed, more than --max-failures {self._most:g} allows ({top}): "
                "mend the cause, or raise --max-failures, and run the same command again"
            )


class RestartBudget:
    """How often workers may be replaced.

    ``place`` names where a worker works: its kind, and for device workers the lane.  Progress is what can happen only
    a finite number of times: a shard is opened, a cell is safe, a part is finished or given up.
    """

    def __init__(self, workers: int) -> None:
        self.most = max(LEAST_DEATHS, 4 * workers)
        self._fruitless: Counter[str] = Counter()
        self._since_progress = 0

    def died(self, place: str, *, speaks_against_place: bool) -> None:
        """One more death; it speaks against the place when no task can be the reason."""
        self._since_progress += 1
        self._fruitless[place] += speaks_against_place

    def answered(self, place: str) -> None:
        """A worker of this place has done work."""
        self._fruitless[place] = 0

    def progressed(self) -> None:
        self._since_progress = 0

    def spent(self, place: str) -> bool:
        """Whether no other worker should be started there."""
        return self._fruitless[place] >= STARTS_ALLOWED

    @property
    def exhausted(self) -> bool:
        """Whether workers keep dying and nothing comes of it."""
        return self._since_progress >= self.most
