"""The workers of one kind: how they are started, which of them takes a task, what is left when one dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from mtembed.messages import Task, TaskAnswer
from mtembed.run.process import Worker
from mtembed.run.requeue import Suspect, Suspects, suspect_of


@dataclass(frozen=True, slots=True)
class CrewSpec:
    """How to start workers of one kind: ``start(name, lane)``, how many there are, how many tasks each may hold."""

    start: Callable[[str, int], Worker]
    count: int
    credit: int


@dataclass(frozen=True, slots=True)
class Reaped:
    """A worker that is gone: what it was working on (``tasks``) and what it had not been sent yet (``backlog``)."""

    worker: Worker
    tasks: tuple[Task, ...]
    backlog: tuple[Task, ...]
    cause: str
    stderr: str

    @property
    def suspects(self) -> frozenset[Suspect]:
        """What its death may be counted against."""
        return frozenset(suspect_of(task) for task in self.tasks)

    @property
    def alone(self) -> bool:
        """Whether all that it worked on is one cell, or one step of one part."""
        return len(self.suspects) == 1


class Crew:
    """Workers of one kind.  Each has a place: its lane, or its number among those that have no lane."""

    def __init__(self, kind: str, spec: CrewSpec, suspects: Suspects) -> None:
        self.kind = kind
        self._spec = spec
        self._suspects = suspects
        self._started = 0
        self.workers: list[Worker] = []

    def start_all(self, lanes: int) -> None:
        """As many as the crew should have, spread over the lanes; writers have places of their own."""
        for number in range(self._spec.count):
            self.start(number if self.kind == "write" else number % lanes)

    def start(self, place: int) -> Worker:
        worker = self._spec.start(f"{self.kind}-{self._started}", place)
        self._started += 1
        worker.place = place
        self.workers.append(worker)
        return worker

    @property
    def count(self) -> int:
        return self._spec.count

    def at(self, place: int) -> Worker:
        """The first worker of a place."""
        return next(worker for worker in self.workers if worker.place == place)

    def least_loaded(self, lane: int | None = None, *, near: int | None = None, alone: bool = False) -> Worker | None:
        """Of the workers that may take one more task (of one ``lane`` only), the one with the fewest; those whose place
        is ``near`` come first, they have its shards open.  A task that must be ``alone`` needs an empty worker."""
        credit = 1 if alone else self._spec.credit
        able = [
            worker
            for worker in self.workers
            if worker.ready
            and worker.ending_since is None
            and len(worker.tasks) < credit
            and (lane is None or worker.place == lane)
            and not self._reserved(worker)
        ]
        return min(able, key=lambda worker: (near not in (None, worker.place), len(worker.tasks)), default=None)

    def _reserved(self, worker: Worker) -> bool:
        """Whether it holds a task that must be alone."""
        return any(self._suspects.must_be_alone(suspect_of(task)) for task in worker.tasks.values())

    def give(self, worker: Worker, task: Task) -> None:
        """Send a task, or keep it until a serial worker has answered the one before."""
        if worker.serial and worker.tasks:
            worker.backlog.append(task)
            return
        if not worker.tasks:
            worker.last_heard = worker.busy_since = time.monotonic()
        worker.tasks[task.key, type(task)] = task
        worker.send(task)

    def answered(self, worker: Worker, answer: TaskAnswer) -> Task:
        """The task that an answer belongs to, which the worker no longer holds."""
        task: Task = worker.tasks.pop((answer.key, answer.answers))
        if worker.serial and not worker.tasks:
            worker.serial = bool(worker.backlog)
            if worker.backlog:
                self.give(worker, worker.backlog.popleft())
        if not worker.tasks:
            worker.busy_s += time.monotonic() - worker.busy_since
        return task

    def drop(self, shard: int) -> list[Task]:
        """Take the tasks of a shard out of all backlogs; returns them."""
        dropped: list[Task] = []
        for worker in self.workers:
            dropped += [task for task in worker.backlog if task.key[0] == shard]
            kept = [task for task in worker.backlog if task.key[0] != shard]
            worker.backlog.clear()
            worker.backlog.extend(kept)
        return dropped

    def reap(self, worker: Worker) -> Reaped:
        """Take a worker that is gone out of the crew."""
        self.workers.remove(worker)
        tasks, backlog = tuple(worker.tasks.values()), tuple(worker.backlog)
        reaped = Reaped(worker, tasks, backlog, worker.exit_reason(), worker.stderr_tail())
        worker.release()
        return reaped
