"""Worker processes, seen from the parent: start one, talk to it, notice its end.

Each worker is ``python -m mtembed.run.worker KIND`` with a socket of its own to the parent and the rings' descriptors
inherited.  Nothing is shared between workers but the rings' memory, so a process killed at any instruction leaves no
lock behind; its socket closes and the parent reads the end of the stream at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any

PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


@dataclass(eq=False, slots=True)
class Worker:
    """One worker process and what it holds: ``tasks`` are the messages it has not answered yet, oldest first."""

    kind: str
    name: str
    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    stderr: IO[bytes]
    ready: bool = False
    tasks: dict[Any, Any] = field(default_factory=dict)
    last_heard: float = field(default_factory=time.monotonic)
    busy_since: float = 0.0
    busy_s: float = 0.0

    def send(self, message: object) -> bool:
        """False when the worker is gone (its end is noticed by the reader)."""
        try:
            self.connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def last_words(self, limit: int = 4000) -> str:
        """The tail of what the process wrote to stderr."""
        self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, self.stderr.tell() - limit))
        return self.stderr.read().decode("utf-8", "replace").strip()

    def cause_of_death(self) -> str:
        """A few words for an error message: the signal or exit status, and the last line it wrote."""
        try:
            status = self.process.wait(1.0)  # its socket is closed: it is about to end by itself
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        words = self.last_words().splitlines()
        return f"{how} ({words[-1].strip()})" if words else how

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        """Kill if alive, reap, and close everything that belongs to it."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self.stderr.close()


def start(
    kind: str,
    name: str,
    job: object,
    inherited: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    module: str = "mtembed.run.worker",
) -> Worker:
    """Start a worker and hand it its job.  ``inherited`` descriptors keep their numbers in the child.

    ``module`` is what runs in it; another one than ours takes the same arguments and speaks the same messages.
    """
    ours, theirs = Pipe(duplex=True)
    stderr = tempfile.TemporaryFile(prefix="mtembed-")  # noqa: SIM115  lives as long as the worker
    env = {**os.environ, **ONE_THREAD, **(environment or {})}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [PACKAGE_PARENT, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", module, kind, name, str(theirs.fileno()), str(os.getpid())]
    # Signals that are blocked now stay blocked in the child: Ctrl-C and a scheduler's SIGTERM reach the whole group,
    # but only the parent decides what to do about them.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno(), *inherited],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env=env,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
    theirs.close()
    worker = Worker(kind, name, process, ours, stderr)
    worker.send(job)
    return worker


def die_with_parent(parent: int) -> None:
    """Called first thing in a worker: its life ends with the parent's, however that ends."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    os._exit(1)
