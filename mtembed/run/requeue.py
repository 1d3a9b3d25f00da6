"""What becomes of the tasks of a worker that died.

A death speaks against a task only when the worker held nothing else: then it is counted, and a task that two workers
died of has failed.  A worker that held several tasks says nothing about any one of them, so each is tried again alone.
Good starts, and answers to other tasks, never lower a count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from enum import Enum

from mtembed.messages import AppendTask, ClosePart, DecodeTask, EmbedTask, FinishTask, Key, OpenPart, PlanTask, Task

DEATHS_ALLOWED = 2  # a task that kills so many workers while alone in them has failed
Suspect = tuple[str, Key]
"""What a death is counted against: the kind of work, and the cell or shard."""

_WORK: dict[type[Task], str] = {
    PlanTask: "opening the shard",
    DecodeTask: "the cell",
    EmbedTask: "the cell",
    OpenPart: "opening the part",
    AppendTask: "writing the cell",
    ClosePart: "closing the part",
    FinishTask: "finishing the part",
}


def cell(key: Key) -> Suspect:
    """A cell, whether it is decoded or embedded."""
    return ("the cell", key)


class Verdict(Enum):
    """What to do with a cell whose worker died: the same again, in another lane, or give it up."""

    RETRY = "retry"
    OTHER_LANE = "other lane"
    FAILED = "failed"


def suspect_of(task: Task) -> Suspect:
    """Decoding and embedding count against the same cell; noting a failed cell is other work than writing one."""
    if isinstance(task, AppendTask) and task.record is None:
        return ("writing the failure", task.key)
    return (_WORK[type(task)], task.key)


def verdict(deaths: int, *, alone: bool, device_error: bool, lane_gone: bool, other_lanes: bool) -> Verdict:
    """For a cell that ``deaths`` workers died of alone.  After an error of its device that it was alone with, it is
    tried on another one, if there is one."""
    if deaths >= DEATHS_ALLOWED:
        return Verdict.FAILED
    if lane_gone or (device_error and alone and other_lanes):
        return Verdict.OTHER_LANE
    return Verdict.RETRY


class Suspects:
    """Deaths counted by task, over one start; and which tasks must be alone in their worker."""

    def __init__(self) -> None:
        self._deaths: Counter[Suspect] = Counter()
        self._alone: set[Suspect] = set()

    def died(self, held: Collection[Suspect]) -> None:
        """A worker that was at work died with these tasks."""
        self._alone.update(held)
        if len(set(held)) == 1:
            self._deaths.update(set(held))

    def deaths(self, task: Task) -> int:
        return self._deaths[suspect_of(task)]

    def failed(self, task: Task) -> bool:
        return self.deaths(task) >= DEATHS_ALLOWED

    def must_be_alone(self, suspect: Suspect) -> bool:
        return suspect in self._alone
