"""The processes at work in one output folder: each has a file there, which it holds and renews while it lives.

Clocks of two machines are never compared.  A process is *silent* when whoever looks has found the same bytes in its
file for the length of a lease, by the looker's own clock, which neither jumps nor stops with the machine.  It is *dead*
where the system says so: its file's lock is free, and it was started under the same boot of the same kernel.

Those that work on a dataset behind an address have such a file in the folder of this machine, and one on a board that
all machines see; there nothing has locks.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from mtembed.dataset.atomic import open_to_read
from mtembed.dataset.board import MOST_BYTES, StoreBoard
from mtembed.errors import OutputError

LEASE_S = 120.0  # twice what NFS clients keep a folder's entries for (acdirmax)
BEATS = 6  # in a lease, at least
MOST_BEAT_S = 5.0  # between two
MOST_FAR_BEAT_S = 30.0  # where each costs a request
FILE = re.compile(r"process\.([0-9a-f]{8})")
NO_LOCKS = "no locks"


class State(enum.Enum):
    """What is known of a process."""

    LIVING = enum.auto()
    SILENT = enum.auto()
    DEAD = enum.auto()


@dataclass(frozen=True, slots=True)
class Beat:
    """What a process says of itself: ``beat`` counts, ``boot`` names the kernel under which its file is locked.

    ``cells`` and ``failed`` are those of this start, ``cells_per_s`` of its last half minute; its ``opened`` shards,
    whose parts are not finished, have ``known`` cells.
    """

    pid: int
    host: str
    boot: str
    since: str
    beat: int = 0
    cells: int = 0
    failed: int = 0
    cells_per_s: float = 0.0
    known: int = 0
    opened: int = 0

    @classmethod
    def of(cls, content: bytes) -> Self | None:
        """What a file says; None where that is nothing that a process of ours writes."""
        try:
            found: Self = msgspec.json.decode(content, type=cls)
        except (ValueError, RecursionError):
            return None
        words = (found.host, found.since)
        return found if all(re.fullmatch(r"[\w.:-]{1,64}", word) for word in words) else None

    @property
    def name(self) -> str:
        """For a sentence."""
        return f"process {self.pid} on {self.host} since {self.since}"


def steady_clock() -> float:
    """Seconds that also pass while the machine sleeps, and never jump."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def boot() -> str:
    """The kernel that runs, and since when; the host's name where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


@dataclass(slots=True)
class Members:
    """This process, ``name``, among those that work in a folder; what it has seen of the others.

    ``fd`` is the held file's descriptor, which writers inherit: the process is not dead before the last of them.
    ``far`` is where processes on other machines see this one, unless they see the folder.
    """

    work: Path
    lease_s: float
    clock: Callable[[], float]
    name: str
    fd: int
    said: Beat
    far: StoreBoard | None
    _beaten: float
    _seen: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    @classmethod
    def enter(
        cls,
        work: Path,
        since: str,
        lease_s: float,
        clock: Callable[[], float] = steady_clock,
        far: StoreBoard | None = None,
    ) -> Members:
        """Begin to be one of them.  Raises OSError, OutputError."""
        name = secrets.token_hex(4)
        host = re.sub(r"[^\w.:-]", "-", socket.gethostname())[:64] or "unnamed"
        fd, locked = _held(work, name)
        said = Beat(os.getpid(), host, boot() if locked else NO_LOCKS, since)
        found = cls(work, lease_s, clock, name, fd, said, far, 0.0)
        try:
            found._write()
        except BaseException:
            _path(work, name, "entering").unlink()
            os.close(fd)
            raise
        _path(work, name, "entering").rename(_path(work, name))
        return found

    def due(self) -> bool:
        """Whether it is time to renew the file."""
        most = MOST_BEAT_S if self.far is None else MOST_FAR_BEAT_S
        return self.clock() - self._beaten >= min(most, self.lease_s / BEATS)

    def beat(self, **said: Any) -> None:
        """Renew the file; ``said`` are fields of ``Beat``.  Raises OSError, OutputError."""
        self.said = Beat(**{**asdict(self.said), **said, "beat": self.said.beat + 1})
        if os.fstat(self.fd).st_nlink == 0:  # somebody took this process for dead
            self.work.mkdir(exist_ok=True)
            fd, _ = _held(self.work, self.name)
            os.close(self.fd)
            self.fd = fd
            _path(self.work, self.name, "entering").rename(_path(self.work, self.name))
        self._write()

    def leave(self) -> None:
        """Be one of them no more.  Where a store does not hear of it, the file here says that this one is dead."""
        with contextlib.suppress(OSError, OutputError):
            if self.far:
                self.far.remove(_file(self.name))
            _path(self.work, self.name).unlink()
        os.close(self.fd)

    def others(self) -> list[str]:
        """Names of all other processes that have a file."""
        far = _names_of(self.far.names()) if self.far else []
        return sorted({*names(self.work), *far} - {self.name})

    def state(self, name: str) -> State:
        """Of another process; one without a file is silent.  Raises OSError, OutputError."""
        found = _read(self.work, name)
        if found is None:
            mark = self.far.mark(_file(name)) if self.far else None
            return State.SILENT if mark is None else self.unchanged(_file(name), mark)
        content, dead = found
        return State.DEAD if dead else self.unchanged(name, content)

    def bury(self, name: str) -> None:
        """Remove the file of a process that will not come back.  Raises OSError, OutputError."""
        if self.far:
            self.far.remove(_file(name))
        _path(self.work, name).unlink(missing_ok=True)

    def unchanged(self, key: str, content: bytes) -> State:
        """Silent, if these bytes were under that key for the length of a lease."""
        now = self.clock()
        if self._seen.get(key, (b"", 0.0))[0] != content or key not in self._seen:
            self._seen[key] = (content, now)
        return State.SILENT if now - self._seen[key][1] >= self.lease_s else State.LIVING

    def living(self) -> Iterator[Beat | None]:
        """Those others that prove to be alive; for one on another machine that takes up to a lease.

        Raises OSError, OutputError.
        """
        for name in self.others():
            first = None
            while (found := _read(self.work, name) or self._from_afar(name)) is not None and not found[1]:
                content, beat = found[0], Beat.of(found[0])
                if (beat and beat.boot == boot()) or first not in (None, content):
                    yield beat
                    break
                first = content
                if self.unchanged(name, content) is State.SILENT:
                    break
                time.sleep(min(0.5, self.lease_s / BEATS))

    def _from_afar(self, name: str) -> tuple[bytes, bool] | None:
        content = self.far.read(_file(name)) if self.far else b""
        return (content, False) if content else None

    def _write(self) -> None:
        content = json.dumps(asdict(self.said)).encode()[:MOST_BYTES]
        os.pwrite(self.fd, content, 0)
        os.ftruncate(self.fd, len(content))
        if self.far:
            self.far.write(_file(self.name), json.dumps({**asdict(self.said), "boot": NO_LOCKS}).encode())
        self._beaten = self.clock()


def names(work: Path) -> list[str]:
    """Names of the processes that have a file in a work folder."""
    try:
        return _names_of(os.listdir(work))  # noqa: PTH208
    except FileNotFoundError:
        return []


def at_work(work: Path, lease_s: float = LEASE_S, far: StoreBoard | None = None) -> dict[str, Beat]:
    """Processes that seem to be at work, by name, for somebody who only looks: those on other machines are judged by
    the age of their files.  Raises OSError, OutputError."""
    found: dict[str, Beat] = {}
    for name in names(work):
        read = _read(work, name)
        beat = Beat.of(read[0]) if read else None
        if read is None or beat is None or read[1]:
            continue
        with contextlib.suppress(FileNotFoundError):
            here = beat.boot == boot()
            if here or abs(time.time() - _path(work, name).stat().st_mtime) < 2 * lease_s:
                found[name] = beat
    for name in _names_of(far.names()) if far else ():
        recent = far and not _path(work, name).exists() and abs(far.age_s(_file(name))) < 2 * lease_s
        if far and recent and (beat := Beat.of(far.read(_file(name)))) is not None:
            found[name] = beat
    return found


def _names_of(files: Iterable[str]) -> list[str]:
    return sorted(match[1] for file in files if (match := FILE.fullmatch(file)))


def _file(name: str) -> str:
    return f"process.{name}"


def _path(work: Path, name: str, what: str = "process") -> Path:
    return work / f"{what}.{name}"


def _held(work: Path, name: str) -> tuple[int, bool]:
    """A new file, locked before anybody can see it under its name; whether the file system has locks."""
    fd = os.open(
        _path(work, name, "entering"), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
    )
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return fd, False
    return fd, True


def _read(work: Path, name: str) -> tuple[bytes, bool] | None:
    """What a process's file holds, and whether the process is certainly dead; None where there is no file."""
    try:
        fd = open_to_read(_path(work, name))
    except FileNotFoundError:
        return None
    try:
        content = os.pread(fd, MOST_BYTES, 0)
        beat = Beat.of(content)
        if beat is None or beat.boot != boot():
            return content, False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return content, False
        return content, True
    finally:
        os.close(fd)
