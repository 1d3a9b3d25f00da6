"""The output folder: its paths, its lock, its manifest, and what in it is done.

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
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtembed.errors import LockedError, OutputError

WORK = ".mtembed"
LOCK_PATIENCE_S = 5.0


class Dataset:
    """Paths of one output folder, for process ``index`` of ``count`` that share it."""

    def __init__(self, root: Path, index: int = 0, count: int = 1) -> None:
        self.root = root
        self.index = index
        self.count = count
        self.work = root / WORK
        self._lock_fd: int | None = None

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
    def lock_path(self) -> Path:
        return self.work / f"lock{self._suffix}"

    def part(self, stem: str) -> Path:
        return self.root / "embeddings" / f"{stem}.parquet"

    def timings(self, stem: str) -> Path:
        return self.root / "timings" / f"{stem}.parquet"

    def journal(self, stem: str) -> Path:
        return self.work / f"{stem}.journal"

    def unfinished(self, final: Path) -> Path:
        """Where a file of the dataset is written before it is renamed to ``final``."""
        return self.work / f"{final.parent.name}-{final.name}.tmp"

    def done_stems(self) -> set[str]:
        """Stems of all finished parts, from three folder listings."""
        return (_stems(self.root / "embeddings", ".parquet") & _stems(self.root / "timings", ".parquet")) - _stems(
            self.work, ".journal"
        )

    def create(self) -> None:
        """Make the folders.  Raises OutputError with the cause."""
        try:
            for folder in (self.root / "embeddings", self.root / "timings", self.work):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(output_problem(self.root, error)) from error

    @property
    def lock_fd(self) -> int:
        """The lock's descriptor; the writers inherit it, so that the folder stays locked until the last has ended."""
        if self._lock_fd is None:
            raise RuntimeError("the dataset is not locked")
        return self._lock_fd

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process and its writers.  Raises LockedError naming the holder."""
        self._lock_fd = self._acquire()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self.lock_path.unlink()
                self.work.rmdir()  # only when nothing is left to resume
            os.close(self._lock_fd)
            self._lock_fd = None

    def _acquire(self) -> int:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                self.work.mkdir(exist_ok=True)
                fd = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise OutputError(output_problem(self.root, error)) from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = os.pread(fd, 4096, 0).decode("utf-8", "replace")
                os.close(fd)
                if time.monotonic() > deadline:
                    raise LockedError(_held_by(self.root, holder)) from None
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

    def clear(self, stems: Iterable[str] | None = None) -> None:
        """``--fresh``: remove the parts of ``stems`` (None: of every stem) and this process's manifest."""
        everything = _stems(self.root / "embeddings", ".parquet") | _stems(self.root / "timings", ".parquet")
        everything |= _stems(self.work, ".journal")
        for stem in everything if stems is None else stems:
            for path in (self.part(stem), self.timings(stem), self.journal(stem)):
                path.unlink(missing_ok=True)
        manifests = self.siblings() if stems is None else [self.manifest_path]
        for path in (*manifests, self.failures_path):
            path.unlink(missing_ok=True)

    def siblings(self) -> list[Path]:
        """Manifests in the folder, of this and of other processes."""
        return sorted(self.root.glob("manifest*.json"))


def write_atomically(path: Path, text: str) -> None:
    """Write beside and rename, so that no reader ever sees half a file.  Raises OSError."""
    scratch = path.with_name(f".{path.name}.tmp")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises OutputError where the file cannot be read as one."""
    try:
        if not path.is_file():  # a pipe of that name would never end
            raise ValueError("it is no file")
        return json_object(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path.name} cannot be read ({error}): restore it, or start over with --fresh") from error


def json_object(text: str | bytes) -> dict[str, Any]:
    """The object that a JSON text holds, whoever wrote it.  Raises ValueError for any other text."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


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
    }.get(error.errno or 0, "check its permissions or choose another --output")
    return f"the output folder {root.name} cannot be written ({error.strerror}): {advice}"


def _stems(folder: Path, suffix: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name[: -len(suffix)] for entry in entries if entry.name.endswith(suffix)}
    except FileNotFoundError:
        return set()


def _same_file(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _held_by(root: Path, text: str) -> str:
    try:
        who = json.loads(text)
        holder = f"process {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):
        holder = "another process"
    return f"the output folder {root.name} is in use by {holder}: wait for it, or choose another --output"
