"""Trouble of a cluster that a run outlives: a bell that cannot be reached, a process that was told to stop."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from mtembed.cluster import member
from mtembed.cluster.on_ray import Tasks
from mtembed.errors import OutputError
from mtembed.types import RunSummary

ray = pytest.importorskip("ray", reason="ray is not installed")


class Answers:
    """A bell of the given answers, and a run that can be stopped."""

    def __init__(self, *answers: Any) -> None:
        self.left = list(answers)
        self.stopped = False
        self.state = SimpleNamespace(remote=lambda: SimpleNamespace(future=lambda: self))

    def result(self) -> str:
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    def stop(self) -> None:
        self.stopped = True


def listened(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> Answers:
    monkeypatch.setattr(member, "ASK_EVERY_S", 0.001)
    bell = Answers(*answers)
    member._listen(bell, bell, threading.Event())  # type: ignore[arg-type]
    return bell


def test_a_bell_that_cannot_be_reached_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = ray.exceptions.ActorUnavailableError("busy", None)
    bell = listened(monkeypatch, "", busy, busy, "over", "stop")
    assert bell.stopped and not bell.left


def test_a_bell_that_is_gone_means_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    assert listened(monkeypatch, "", ray.exceptions.ActorDiedError(), "never asked").left == ["never asked"]


class Cluster:
    """Where every task has come back with what ``said`` says of it."""

    exceptions = ray.exceptions

    def __init__(self, *said: Any) -> None:
        self._said = list(said)

    def wait(self, tasks: list[int], timeout: float) -> tuple[list[int], list[int]]:
        return tasks, []

    def get(self, task: int) -> Any:
        if isinstance(self._said[task], Exception):
            raise self._said[task]
        return self._said[task]


def back(*said: Any) -> Tasks:
    tasks = Tasks(Cluster(*said), iter(range(99)).__next__, lambda: 0)
    tasks.begin(len(said))
    tasks.wait()
    return tasks


DONE, STOPPED = (RunSummary("out", "rcf", "S1RTC", exit_code=code) for code in (0, 130))
LOST = ray.exceptions.WorkerCrashedError()


def test_a_process_that_was_told_to_stop_is_not_the_end_of_the_run() -> None:
    tasks = back(STOPPED)
    assert tasks.last is None and tasks.error is None  # so another is begun
    assert back(STOPPED, DONE, STOPPED, None).last == DONE


def test_lost_machines_are_an_error_only_where_no_process_came_to_the_end() -> None:
    assert "was lost" in str(back(LOST).error) and back(LOST, DONE).error is None


def test_what_a_process_names_is_the_error_of_the_run() -> None:
    error = ray.exceptions.RayTaskError("work", "Traceback", OutputError("node-1: no space"))
    assert str(back(error.as_instanceof_cause(), DONE).error) == "node-1: no space"
