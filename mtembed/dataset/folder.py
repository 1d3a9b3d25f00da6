"""The output folder: its paths, the processes that work in it, and what in it is done.

    DIR/embeddings/STEM.parquet, DIR/timings/STEM.parquet, DIR/failures.jsonl, DIR/manifest.json, DIR/README.md
    DIR/.mtembed/         only while a run is unfinished: a file for each process, claims, journals of open parts,
                          files before their rename

A part is done when both of its files exist and it has no journal.  No other state exists that could disagree.  A
journal that a living process writes has the process's name; one that a process left behind has none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from mtembed.dataset.atomic import new_file, open_to_read, rename_whole
from mtembed.dataset.claims import Claims, forget, holds, owners
from mtembed.dataset.members import LEASE_S, Members, State, names, remove_dead
from mtembed.errors import LockedError, OutputError

WORK = ".mtembed"
FOLDERS = ("embeddings", "timings")
TURN_S = 0.02  # between two looks at whose turn it is to write the manifest
MANIFEST = "manifest"
JOURNAL = re.compile(r"(.+)\.journal(?:\.([0-9a-f]{8}))?", re.DOTALL)
MANIFEST_NAME = re.compile(r"manifest(?:-(\d{1,9})-of-(\d{1,9}))?\.json")


class Dataset:
    """Paths of one output folder, for ``index`` of ``count`` between which the shards are dealt.

    ``process`` names the process that works in it, once it has ``joined``.
    """

    claims: Claims

    def __init__(self, root: Path, index: int = 0, count: int = 1, process: str = "") -> None:
        self.root = root
        self.index = index
        self.count = count
        self.process = process
        self.work = root / WORK
        self._members: Members | None = None

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

    def part(self, stem: str) -> Path:
        return self.root / "embeddings" / f"{stem}.parquet"

    def timings(self, stem: str) -> Path:
        return self.root / "timings" / f"{stem}.parquet"

    def journal(self, stem: str) -> Path:
        """That of this process, or without one that which somebody left behind."""
        return self.work / f"{stem}.journal{'.' * bool(self.process)}{self.process}"

    def journals(self) -> dict[str, list[Path]]:
        """Journals of unfinished parts, by stem."""
        found: dict[str, list[Path]] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in self.work.iterdir():
                if match := JOURNAL.fullmatch(path.name):
                    found.setdefault(match[1], []).append(path)
        return found

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
        return whole - self.journals().keys()

    def is_done(self, stem: str) -> bool:
        """Whether one part is."""
        return self._made(stem) and stem not in self.journals()

    def _made(self, stem: str) -> bool:
        return self.part(stem).exists() and self.timings(stem).exists()

    def holds(self, stem: str) -> bool:
        """Whether a part is this process's to make; where no process has joined it is anybody's.  Raises OSError."""
        return not self.process or holds(self.work, "claim", stem, self.process)

    # -- files that become whole ------------------------------------------------------------------------------------

    def unfinished(self) -> Path:
        """A new and empty file, where one of the dataset is written before its rename.  Raises OSError."""
        path = self.work / f"unfinished-{self.process or 'nobody'}-{secrets.token_hex(8)}.tmp"
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

    # -- the processes that work here -------------------------------------------------------------------------------

    @property
    def members(self) -> Members:
        """Raises RuntimeError outside of ``joined``."""
        if self._members is None:
            raise RuntimeError("no process has joined the dataset")
        return self._members

    @contextlib.contextmanager
    def joined(self, lease_s: float = LEASE_S) -> Iterator[None]:
        """Be one of the processes that work here; the folder is made if need be, and removed if nothing came into it.

        Raises OutputError where the folder cannot be used.
        """
        try:
            made = _make(self.work)
            self._members = members = Members.enter(self.work, now(), lease_s)
            self.process, self.claims = members.name, Claims(self.work, "claim", members)
        except OSError as error:
            raise OutputError(output_problem(self.root, error)) from error
        try:
            self.sweep()
            yield
        finally:
            with contextlib.suppress(OSError):
                self._leave()
            members.leave()
            with contextlib.suppress(OSError):
                parts = () if self.manifests() or names(self.work) else tuple(self.root / name for name in FOLDERS)
                for folder in (self.work, *parts, *reversed(made)):
                    with contextlib.suppress(OSError):
                        folder.rmdir()  # only where nothing is left in it
            self._members, self.process = None, ""

    def adopt(self, stem: str) -> None:
        """What is safe of an unfinished part is this process's from now on: the journal that another one left or died
        over, or a copy of it, where that process may only be stopped.  Raises OSError."""
        mine = self.journal(stem)
        while found := [path for path in self.journals().get(stem, ()) if path != mine]:
            with contextlib.suppress(FileNotFoundError):  # somebody swept it: look again
                best = max([*found, *([mine] if mine.exists() else [])], key=lambda path: path.stat().st_size)
                if best != mine:
                    self._take_over(best, mine)
                for path in found:
                    path.unlink(missing_ok=True)

    def _take_over(self, journal: Path, mine: Path) -> None:
        owner = journal.name.rpartition(".journal")[2].strip(".")
        if not owner or self.members.state(owner) is State.DEAD:
            journal.rename(mine)
        else:
            scratch = self.unfinished()
            with os.fdopen(open_to_read(journal), "rb") as source, scratch.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            rename_whole(scratch, mine)

    def sweep(self) -> None:
        """Take away what processes left that are dead, or were found silent for a lease; what is safe of their parts
        stays.  Raises OSError."""
        for name in self.members.others():
            if (state := self.members.state(name)) is not State.LIVING:
                dead = state is State.DEAD
                self._sweep_after(name, keep=lambda stem, dead=dead: dead or not self._made(stem))  # type: ignore[misc]
                forget(self.work, name)
                remove_dead(self.work, name)

    def _leave(self) -> None:
        """What is safe of this process's parts is anybody's."""
        claimed = owners(self.work, "claim")
        self._sweep_after(self.process, keep=lambda stem: claimed.get(stem, self.process) == self.process)
        for name in list(self.claims.mine):
            self.claims.release(name)
        self.sweep()

    def _sweep_after(self, name: str, keep: Callable[[str], bool]) -> None:
        """Journals of a process that are not to be kept are removed, with whatever else it was writing.

        Those that are kept lose its name, but where it may come back and go on writing into them.
        """
        certain = name == self.process or self.members.state(name) is State.DEAD
        scratch = re.compile(rf"unfinished-{name}-[0-9a-f]{{16}}\.tmp")
        for path in [path for path in self.work.iterdir() if scratch.fullmatch(path.name)]:
            path.unlink(missing_ok=True)
        for stem, paths in self.journals().items():
            for path in paths:
                if path.name != f"{stem}.journal.{name}":
                    continue
                if not keep(stem):
                    path.unlink(missing_ok=True)
                elif certain:
                    path.rename(self.work / f"{stem}.journal")

    @property
    def others(self) -> list[str]:
        """Names of other processes that seem to be at work, where this one has joined."""
        return self._members.others() if self._members else []

    def require_alone(self, else_: str = "--fresh removes nothing beside it") -> None:
        """Raises LockedError that names who else is at work here, with what follows from that."""
        for beat in self.members.living():
            who = beat.name if beat else "another process"
            raise LockedError(f"the output folder {self.root.name} is in use by {who}: {else_}")

    @contextlib.contextmanager
    def joining(self) -> Iterator[None]:
        """While the manifest is read, changed and written: one process at a time.  Raises OSError."""
        turn = Claims(self.work, "join", self.members)
        while not turn.take(MANIFEST):
            if self.members.due():
                self.members.beat()
            time.sleep(TURN_S)
        try:
            yield
        finally:
            turn.release(MANIFEST)


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
