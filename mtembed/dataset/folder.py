"""The output folder: its paths, its lock, and what in it is done.

    DIR/embeddings/STEM.parquet, DIR/timings/STEM.parquet, DIR/failures.jsonl, DIR/manifest.json, DIR/README.md
    DIR/.mtembed/         only while a run is unfinished: the lock, journals of open parts, files before their rename

A part is done when both of its files exist and it has no journal.  No other state exists that could disagree.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mtembed.dataset.atomic import new_file, open_own, rename_whole
from mtembed.errors import LockedError, OutputError

WORK = ".mtembed"
FOLDERS = ("embeddings", "timings")
LOCK_PATIENCE_S = 5.0
MANIFEST_NAME = re.compile(r"manifest(?:-(\d{1,9})-of-(\d{1,9}))?\.json")


class Dataset:
    """Paths of one output folder, for process ``index`` of ``count`` that share it."""

    def __init__(self, root: Path, index: int = 0, count: int = 1) -> None:
        self.root = root
        self.index = index
        self.count = count
        self.work = root / WORK
        self._lock_fd: int | None = None

    @classmethod
    def of_manifest(cls, path: Path) -> Dataset:
        """The process whose manifest has this name.  Raises ValueError where it is not a manifest's name."""
        match = MANIFEST_NAME.fullmatch(path.name)
        if match is None:
            raise ValueError(f"{path.name} is not a manifest's name")
        return cls(path.parent, int(match[1] or 0), int(match[2] or 1))

    @property
    def _suffix(self) -> str:
        return f"-{self.index}-of-{self.count}" if self.count > 1 else ""

    @property
    def manifest_path(self) -> Path:
        return self.root / f"manifest{self._suffix}.json"

    @property
    def failures_path(self) -> Path:
        return self.root / f"failures{self._suffix}.jsonl"

    @property
    def card_path(self) -> Path:
        return self.root / "README.md"

    @property
    def lock_path(self) -> Path:
        return self.work / f"lock{self._suffix}"

    def part(self, stem: str) -> Path:
        return self.root / "embeddings" / f"{stem}.parquet"

    def timings(self, stem: str) -> Path:
        return self.root / "timings" / f"{stem}.parquet"

    def journal(self, stem: str) -> Path:
        return self.work / f"{stem}.journal"

    def manifests(self) -> list[Path]:
        """Manifests in the folder, of this and of other processes."""
        try:
            return sorted(path for path in self.root.iterdir() if MANIFEST_NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []

    def discard(self, stem: str) -> None:
        """Remove a part, so that it is made again; killed in between, it is no finished part.  Raises OSError."""
        for path in (self.timings(stem), self.part(stem)):
            path.unlink(missing_ok=True)

    def done_stems(self) -> set[str]:
        """Stems of all finished parts, from three folder listings."""
        whole = stems(self.root / "embeddings", ".parquet") & stems(self.root / "timings", ".parquet")
        return whole - stems(self.work, ".journal")

    # -- files that become whole ------------------------------------------------------------------------------------

    def unfinished(self) -> Path:
        """A new and empty file, where one of the dataset is written before its rename.  Raises OSError."""
        path = self.work / f"unfinished{self._suffix}-{secrets.token_hex(8)}.tmp"
        os.close(new_file(path))
        return path

    def write(self, path: Path, text: str) -> None:
        """A file of the dataset, complete or not at all.  Raises OSError."""
        scratch = self.unfinished()
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        rename_whole(scratch, path)

    def create(self) -> None:
        """Make the folders of parts.  Raises OSError."""
        for name in FOLDERS:
            (self.root / name).mkdir(parents=True, exist_ok=True)

    # -- the lock ---------------------------------------------------------------------------------------------------

    @property
    def lock_fd(self) -> int:
        """The lock's descriptor; the writers inherit it, so that the folder stays locked until the last has ended."""
        if self._lock_fd is None:
            raise RuntimeError("the dataset is not locked")
        return self._lock_fd

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process and its writers; made if need be, and removed if nothing came into it.

        Raises LockedError naming the holder, OutputError where the folder cannot be used.
        """
        try:
            made = _make(self.work)
            self._lock_fd = self._acquire()
        except OSError as error:
            raise OutputError(output_problem(self.root, error)) from error
        try:
            self._sweep()
            yield
        finally:
            with contextlib.suppress(OSError):
                self._sweep()
                self.lock_path.unlink()
                parts = () if self.manifests() else tuple(self.root / name for name in FOLDERS)
                for folder in (self.work, *parts, *reversed(made)):
                    with contextlib.suppress(OSError):
                        folder.rmdir()  # only where nothing is left in it
            os.close(self._lock_fd)
            self._lock_fd = None

    @contextlib.contextmanager
    def others_locked(self) -> Iterator[None]:
        """Hold the locks of all other processes that share, or shared, the folder.  Raises LockedError."""
        with contextlib.ExitStack() as stack:
            for path in sorted(self.work.glob("lock*")):
                if path == self.lock_path:
                    continue
                fd = open_own(path)
                stack.callback(os.close, fd)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    holder = _held_by(self.root, fd)
                    raise LockedError(f"{holder}: --fresh removes nothing beside it") from None
            yield

    def _acquire(self) -> int:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            self.work.mkdir(exist_ok=True)
            fd = open_own(self.lock_path)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = _held_by(self.root, fd)
                os.close(fd)
                if time.monotonic() > deadline:
                    raise LockedError(f"{holder}: wait for it, or choose another --output") from None
                time.sleep(0.1)
                continue
            if _same_file(fd, self.lock_path):
                self._sign(fd)
                return fd
            os.close(fd)  # the previous holder removed it while we waited: take the new one

    def _sign(self, fd: int) -> None:
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(who).encode(), 0)

    def _sweep(self) -> None:
        """Remove what a process of ours was writing when it was killed."""
        name = re.compile(rf"unfinished{re.escape(self._suffix)}-[0-9a-f]{{16}}\.tmp")
        for path in self.work.iterdir():
            if name.fullmatch(path.name):
                path.unlink(missing_ok=True)


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def output_problem(root: Path, error: OSError) -> str:
    """One sentence with the next step for an error of the output folder."""
    advice = {
        errno.ENOSPC: "make space and run the same command again",
        errno.EDQUOT: "make space and run the same command again",
        errno.EFBIG: "raise the file size limit (ulimit -f) and run the same command again",
        errno.ENOENT: "it was removed: run the same command again",
        errno.ENOTDIR: "a file stands in its way: choose another --output",
        errno.EEXIST: "a file stands in its way: choose another --output",
        errno.ELOOP: "a link stands in the way of one of its files: remove the link, or choose another --output",
        errno.ENAMETOOLONG: "choose a shorter --output",
    }.get(error.errno or 0, "check its permissions or choose another --output")
    return f"the output folder {root.name} cannot be written ({error.strerror}): {advice}"


def stems(folder: Path, suffix: str) -> set[str]:
    """Stems of the files of a folder that have a suffix; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name[: -len(suffix)] for entry in entries if entry.name.endswith(suffix)}
    except FileNotFoundError:
        return set()


def _make(work: Path) -> list[Path]:
    """Make the work folder and what is above it; returns those that were not there.  Raises OSError, also for a link
    in its place."""
    missing = [folder for folder in reversed(work.parents) if not folder.exists()]
    for folder in (*missing, work):
        folder.mkdir(exist_ok=True)
    if work.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(work))
    return missing


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _held_by(root: Path, fd: int) -> str:
    try:
        who = json.loads(os.pread(fd, 4096, 0))
        holder = f"process {int(who['pid'])} on {_word(who['host'])} since {_word(who['since'])}"
    except (ValueError, KeyError, TypeError, RecursionError):
        holder = "another process"
    return f"the output folder {root.name} is in use by {holder}"


def _word(text: object) -> str:
    """What somebody wrote into the lock, as far as it is a word.  Raises ValueError."""
    if not re.fullmatch(r"[\w.:-]{1,64}", str(text)):
        raise ValueError(text)
    return str(text)
