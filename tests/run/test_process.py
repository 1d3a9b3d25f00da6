"""Worker processes from outside: they end with their parent, answer once when asked, and hold nobody at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtembed.errors import UsageError, WorkerError
from mtembed.messages import Ready, WeightsFound
from mtembed.run.process import Job, ask, start
from tests.tools.commands import ROOT

STOPPED_AT_ONCE = """
import os, signal, sys
from mtembed.run.process import Job, start
worker = start("fetch", "fetch-0", Job((), "rcf"))
worker.process.send_signal(signal.SIGSTOP)
print(worker.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot end a stopped child with its parent")
def test_a_worker_that_was_stopped_at_its_first_instruction_ends_with_its_parent() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_AT_ONCE], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        os.sched_yield()
    assert not alive(pid)


def test_an_answer_is_typed() -> None:
    with pytest.raises(WorkerError, match="answered with Ready, not WeightsFound"):
        ask("write", Job((), None), WeightsFound)
    assert ask("write", Job((), None), Ready) == Ready()


def test_an_error_of_a_worker_is_the_same_error_here() -> None:
    with pytest.raises(UsageError, match="nosuch"):
        ask("fetch", Job((), "nosuch"), WeightsFound)


def test_a_worker_that_says_nothing_is_not_waited_for() -> None:
    with pytest.raises(WorkerError, match="did not answer within 0 s"):
        ask("write", Job((), None), Ready, patience_s=0.0)


def test_a_worker_that_dies_says_how() -> None:
    with pytest.raises(WorkerError, match=r"the nosuch worker was ended with status 1 \(KeyError: 'nosuch'\)"):
        ask("nosuch", Job((), None), Ready)


def test_mail_to_a_stopped_worker_is_kept() -> None:
    """More than a socket holds; the parent does not wait."""
    worker = start("write", "write-0", Job((), None))
    try:
        worker.process.send_signal(signal.SIGSTOP)
        worker.send(b"x" * (1 << 24))
        assert worker.channel.unsent > 0
    finally:
        worker.close()
    assert worker.process.returncode == -signal.SIGKILL
