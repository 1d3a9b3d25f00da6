"""Worker processes, seen from the parent: start one, talk to it, notice its end.

Each worker is ``python -m mtembed.run.worker KIND`` with a socket of its own to the parent and the rings' descriptors
inherited.  Nothing is shared between workers but the rings' memory, so a process killed at any instruction leaves no
lock behind; its socket closes and the parent reads the end of the stream at once.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from mtembed import errors
from mtembed.errors import MtembedError, WorkerError
from mtembed.messages import Fatal
from mtembed.ring import RingShape
from mtembed.run.channel import Channel, pair, wait

MODULE = "mtembed.run.worker"
PACKAGE_PARENT = str(Path(__file__).resolve().parents[2])
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
"""What ends a run gracefully.  Workers never see them: they may be sent to the whole group, and the parent decides."""
START_PATIENCE_S = 900.0  # a worker that loads for longer hangs
END_PATIENCE_S = 10.0  # from the end of its stream: to let go of a GPU with much pinned memory takes seconds
CLOSE_PATIENCE_S = 5.0  # a process in an uninterruptible call is left behind then; its end is the system's business
PR_SET_PDEATHSIG = 1  # linux/prctl.h
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Job:
    """The first message to a worker: the rings' descriptors and shapes, and the job of its kind."""

    rings: tuple[tuple[int, RingShape], ...]
    work: Any


@dataclass(eq=False, slots=True)
class Worker:
    """One worker process and what it holds: ``tasks`` are the messages it has not answered yet, oldest first.

    A ``serial`` worker is sent one task at a time; those to come wait in its ``backlog``.  ``place`` is its lane, or
    its number among those of its kind.  ``ending_since`` is when its stream ended, ``cause`` why the parent ended it.
    """

    kind: str
    name: str
    process: subprocess.Popen[bytes]
    channel: Channel
    stderr: IO[bytes]
    place: int = 0
    ready: bool = False
    serial: bool = False
    tasks: dict[Any, Any] = field(default_factory=dict)
    backlog: deque[Any] = field(default_factory=deque)
    last_heard: float = field(default_factory=time.monotonic)
    busy_since: float = 0.0
    busy_s: float = 0.0
    ending_since: float | None = None
    cause: str = ""

    def send(self, message: object) -> None:
        """Never waits; the end of a worker that is gone is noticed by ``Channel.receive``."""
        self.channel.send(message)

    def stderr_tail(self, limit: int = 16000) -> str:
        """The end of what the process wrote to stderr."""
        self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, self.stderr.tell() - limit))
        return self.stderr.read().decode("utf-8", "replace").strip()

    def exit_reason(self) -> str:
        """A few words for an error message: why it was ended, or its signal or exit status with the error it wrote."""
        status = self.process.poll()
        if self.cause or status is None:
            return self.cause or "cannot be killed"
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        line = error_line(self.stderr_tail())
        return f"{how} ({line})" if line else how

    def ends(self, cause: str = "") -> None:
        """It has closed its stream and is about to end by itself, or is killed for a ``cause``."""
        if cause:
            self.kill()
        self.cause = cause
        self.ending_since = time.monotonic() - (END_PATIENCE_S if cause else 0.0)

    def gone(self, patience_s: float = 0.0) -> bool:
        """Whether a worker that ends is gone.  One that takes long is killed; one that outlives that counts as gone."""
        if self.ending_since is None:
            return False
        if self._wait(patience_s) is not None:
            return True
        waited = time.monotonic() - self.ending_since
        if waited > END_PATIENCE_S:
            self.kill()
        return waited > END_PATIENCE_S + CLOSE_PATIENCE_S

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        """Kill if alive, wait a while for its end, and close everything that belongs to it."""
        self.kill()
        self._wait(CLOSE_PATIENCE_S)
        self.release()

    def release(self) -> None:
        """Close the parent's ends of a worker, without waiting for anything."""
        self.channel.close()
        self.stderr.close()

    def _wait(self, patience_s: float) -> int | None:
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return None


def error_line(stderr: str) -> str:
    """The line that names the error: the first one below the last traceback, or the last one.

    What CUDA's errors say below that line is the same for all of them.
    """
    lines = stderr.splitlines()
    fatal = [line for line in lines if line.startswith("Fatal Python error")]
    if fatal:
        return fatal[-1].strip()
    frames = [i for i, line in enumerate(lines) if line.startswith('  File "')]
    below = [line for line in lines[frames[-1] :] if not line.startswith(" ")] if frames else lines[-1:]
    return (below or lines)[0].strip() if lines else ""


def start_patience_s(stall_timeout_s: float) -> float:
    """How long a worker may load: much longer than it may be silent at work."""
    return max(START_PATIENCE_S, 3 * stall_timeout_s)


def start(
    kind: str,
    name: str,
    job: Job,
    inherited: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    module: str = MODULE,
) -> Worker:
    """Start a worker and hand it its job.  ``inherited`` descriptors keep their numbers in the child.

    ``module`` is what runs in it; another one than ours takes the same arguments and speaks the same messages.
    """
    ours, theirs = pair()
    stderr = tempfile.TemporaryFile(prefix="mtembed-")  # noqa: SIM115  lives as long as the worker
    env = {**os.environ, **ONE_THREAD, **(environment or {})}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [PACKAGE_PARENT, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", module, kind, name, str(theirs.fileno()), str(os.getpid())]
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # blocked signals stay blocked in the child
    try:
        process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno(), *inherited],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env=env,
            preexec_fn=_death_signal(os.getpid()),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        theirs.close()
    worker = Worker(kind, name, process, ours, stderr)
    worker.send(job)
    return worker


def close_all(workers: Iterable[Worker]) -> None:
    """End all at once, then wait for each."""
    doomed = list(workers)
    for worker in doomed:
        worker.kill()
    for worker in doomed:
        worker.close()


def ask(
    kind: str,
    job: Job,
    wanted: type[Answer],
    patience_s: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Start a worker of that kind for its first message alone.

    Raises WorkerError when it ends or is silent for ``patience_s`` seconds (None: for ever), else the error it names.
    """
    worker = start(kind, f"{kind}-0", job, (), environment)
    try:
        message = receive(worker, patience_s)
    finally:
        worker.close()
    if not isinstance(message, wanted):
        raise WorkerError(f"the {kind} worker answered with {type(message).__name__}, not {wanted.__name__}")
    return message


def receive(worker: Worker, patience_s: float | None) -> Any:
    """A worker's next message, for conversations with one worker that take turns.

    Raises WorkerError when it ended or is silent for ``patience_s`` seconds, else the error that it names.
    """
    deadline = None if patience_s is None else time.monotonic() + patience_s
    while not worker.backlog:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not wait([worker.channel], left):
            if deadline is not None and time.monotonic() >= deadline:
                raise WorkerError(f"the {worker.kind} worker did not answer within {patience_s:g} s")
            continue
        try:
            worker.backlog.extend(worker.channel.receive())
        except EOFError:
            worker.ends()
            worker.gone(END_PATIENCE_S)
            raise WorkerError(f"the {worker.kind} worker was {worker.exit_reason()}") from None
    message = worker.backlog.popleft()
    if isinstance(message, Fatal):
        raise error_of(message)
    return message


def error_of(message: Fatal) -> MtembedError:
    """The error that a worker named, to be raised in the parent."""
    kind = getattr(errors, message.error, WorkerError)
    error: MtembedError = kind(message.message)
    return error


def _death_signal(parent: int) -> Callable[[], None] | None:
    """What a child does between fork and exec so that it ends with its parent; nothing where the system cannot."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def set_signal() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return set_signal


def die_with_parent(parent: int) -> None:
    """Called first thing in a worker: its life ends with the parent's, however that ends."""
    if sys.platform != "linux":
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    os._exit(1)
