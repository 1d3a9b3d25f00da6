"""Who gets a task, and when a worker that ends is gone."""

from __future__ import annotations

import io
import subprocess
import time
from pathlib import Path

import pytest

from mtembed.messages import DecodeTask, SlotRef
from mtembed.run.crew import Crew, CrewSpec
from mtembed.run.process import CLOSE_PATIENCE_S, END_PATIENCE_S, Worker, error_line
from mtembed.run.requeue import Suspects
from mtembed.types import Cell, Fingerprint

PLAIN = """Traceback (most recent call last):
  File "a.py", line 3, in <module>
    raise KeyError("nosuch")
KeyError: 'nosuch'
"""
CUDA = """Traceback (most recent call last):
  File "a.py", line 3, in <module>
    work()
  File "b.py", line 9, in work
    synchronize()
torch.AcceleratorError: CUDA error: an illegal memory access was encountered
CUDA kernel errors might be asynchronously reported at some other API call.

For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.
"""
FAULT = """Fatal Python error: Segmentation fault

Current thread 0x00007f (most recent call first):
  File "a.py", line 3 in <module>

Extension modules: numpy._core (total: 1)
"""


class Endless:
    """A process that takes no signal."""

    returncode = None
    killed = 0

    def kill(self) -> None:
        self.killed += 1

    def poll(self) -> None:
        return None

    def wait(self, timeout: float) -> int:
        raise subprocess.TimeoutExpired("endless", timeout)


class Deaf:
    """A channel that takes everything and gives nothing."""

    def send(self, message: object) -> None: ...


def worker(name: str = "decode-0") -> Worker:
    made = Worker("decode", name, Endless(), Deaf(), io.BytesIO(b""))  # type: ignore[arg-type]
    made.ready = True
    return made


def task(row: int) -> DecodeTask:
    return DecodeTask(SlotRef(0, row), Path("shard"), Cell(0, row), Fingerprint())


def test_workers_of_the_lane_come_first_and_others_help() -> None:
    crew = Crew("decode", CrewSpec(lambda name, place: worker(name), 4, 2), Suspects())
    crew.start_all(2)
    takers = []
    for row in range(6):
        taker = crew.least_loaded(near=1)
        assert taker is not None
        crew.give(taker, task(row))
        takers.append(taker.place)
    assert takers == [1, 1, 1, 1, 0, 0]


def test_a_worker_that_ends_gets_nothing_more() -> None:
    crew = Crew("decode", CrewSpec(lambda name, place: worker(name), 1, 2), Suspects())
    crew.start_all(1)
    crew.workers[0].ends()
    assert crew.least_loaded() is None


def test_a_worker_that_cannot_be_killed_is_given_up_without_waiting() -> None:
    made = worker()
    process: Endless = made.process  # type: ignore[assignment]
    assert not made.gone()
    made.ends()
    assert not made.gone()
    assert not process.killed  # it may be letting go of a GPU
    made.ending_since = time.monotonic() - END_PATIENCE_S - 1
    assert not made.gone()
    assert process.killed
    made.ending_since -= CLOSE_PATIENCE_S
    assert made.gone()
    assert made.exit_reason() == "cannot be killed"


def test_a_worker_that_is_ended_for_a_cause_is_killed_at_once() -> None:
    made = worker()
    made.ends("made no progress for 300 s")
    assert made.process.killed == 1  # type: ignore[attr-defined]
    assert made.exit_reason() == "made no progress for 300 s"


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        (PLAIN, "KeyError: 'nosuch'"),
        (CUDA, "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"),
        (FAULT, "Fatal Python error: Segmentation fault"),
        ("terminate called\nwhat(): out of memory", "what(): out of memory"),
        ('  File "a.py", line 3', 'File "a.py", line 3'),
        ("", ""),
    ],
)
def test_the_line_that_names_the_error(stderr: str, line: str) -> None:
    assert error_line(stderr) == line
