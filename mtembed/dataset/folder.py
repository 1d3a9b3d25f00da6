"""The output folder: its paths, the processes that work in it, and what in it is done.

    DIR/embeddings/STEM.parquet, DIR/timings/STEM.parquet, DIR/failures.jsonl, DIR/manifest.json, DIR/README.md
    DIR/.mtembed/         only while a run is unfinished: a file for each process, claims, journals of open parts,
                          files before their rename

A part is done when both of its files exist and it has no journal.  No other state exists that could disagree.  A
journal that a living process writes has the process's name; one that a process left behind has none.

What ``far.FarDataset`` does otherwise, whose finished files lie behind an address, is a method here.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from mtembed.dataset.atomic import make_folders, new_file, open_to_read, output_problem, rename_whole, stems, sync
from mtembed.dataset.board import Board, FolderBoard, StoreBoard
from mtembed.dataset.claims import Claims, forget, holds, owners
from mtembed.dataset.members import LEASE_S, Beat, Members, State, at_work, names
from mtembed.errors import LockedError, OutputError
from mtembed.storage.address import Place

WORK = ".mtembed"
FOLDERS = ("embeddings", "timings")
MANIFEST = "manifest"
JOURNAL = re.compile(r"(.+)\.journal(?:\.([0-9a-f]{8}))?", re.DOTALL)
MANIFEST_NAME = re.compile(r"manifest(?:-(\d{1,9})-of-(\d{1,9}))?\.json")


class Dataset:
    """Paths of one output folder, for ``index`` of ``count`` between which the shards are dealt.

    ``process`` names the process that works in it, once it has ``joined``.
    """

    claims: Claims
    turn_s, save_s = 0.02, 30.0  # between two looks at whose turn it is to write the manifest; between two of these

    def __init__(self, root: Path, index: int = 0, count: int = 1, process: str = "") -> None:
        self.root = root
        self.index = index
        self.count = count
        self.process = process
        self.work = root / WORK
        self.board: Board = FolderBoard(self.work)
        self._members: Members | None = None

    @property
    def place(self) -> Place:
        """Where it is."""
        return self.root

    @property
    def advice(self) -> str:
        """What those who start several processes must know of this place; nothing of most."""
        return ""

    def of(self, manifest: Path) -> Dataset:
        """The process of this dataset whose manifest that is."""
        return Dataset.of_manifest(manifest)

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
            self.remove([path])

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
        self.board.look()
        return not self.process or holds(self.board, "claim", stem, self.process)

    def look(self) -> None:
        """What is asked for from now on is not older than this moment."""

    def look_at(self, stem: str) -> None:
        """The same for one part."""

    def bring(self, stem: str) -> None:
        """A part that was made earlier, and its timings, have their paths on this machine."""

    def bring_timings(self, stems: Iterable[str]) -> None:
        """The timings of parts that are done have their paths on this machine."""

    def wait_no_more(self) -> None:
        """A store that cannot be reached is not tried again and again."""

    def put_away(self) -> None:
        """Nothing is kept on this machine for somebody who only looked."""

    def size_of(self, stem: str) -> int:
        """Bytes of a part.  Raises OSError."""
        return self.part(stem).stat().st_size

    def version_of(self, stem: str) -> object:
        """What is another one when a part's timings are written again; None where there are none."""
        with contextlib.suppress(FileNotFoundError):
            state = self.timings(stem).stat()
            return state.st_ino, state.st_mtime_ns
        return None

    def has(self, path: Path) -> bool:
        """Whether there is a file, or a link, of the dataset with this path."""
        return os.path.lexists(path)

    def visible(self) -> list[str]:
        """Names in the folder, but for hidden ones and empty folders of ours."""
        if not self.root.exists():
            return []
        found = sorted(path for path in self.root.iterdir() if not path.name.startswith("."))
        return [path.name for path in found if not (path.name in FOLDERS and path.is_dir() and not any(path.iterdir()))]

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

    def publish(self, scratch: Path, path: Path, require: Callable[[], None] = lambda: None) -> None:
        """Give a file that is written and synced its final name, unless ``require`` raises.  Raises OSError."""
        require()
        scratch.replace(path)
        sync(path.parent)

    def remove(self, paths: Iterable[Path]) -> None:
        """Files of the dataset.  Raises OSError."""
        for path in paths:
            path.unlink(missing_ok=True)

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
            made = make_folders(self.work)
            far = self.board if isinstance(self.board, StoreBoard) else None
            self._members = members = Members.enter(self.work, now(), lease_s, far=far)
            self.process, self.claims = members.name, Claims(self.board, "claim", members)
        except OSError as error:
            raise OutputError(self.problem(error)) from error
        try:
            self.sweep()
            yield
        finally:
            with contextlib.suppress(OSError, OutputError):
                self._leave()
            members.leave()
            with contextlib.suppress(OSError):
                self._tidy(made)
            self._members, self.process = None, ""

    def _tidy(self, made: Iterable[Path]) -> None:
        """Leave no folder behind into which nothing came; those above were ``made``."""
        parts = () if self.manifests() or names(self.work) else tuple(self.root / name for name in FOLDERS)
        for folder in (self.work, *parts, *reversed([*made])):
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where nothing is left in it

    def at_work(self) -> dict[str, Beat]:
        """Processes that seem to be at work, by name, for somebody who only looks.  Raises OSError."""
        return at_work(self.work)

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
        """Take away what dead and silent processes left; what is safe of their parts stays.  Raises OSError."""
        for name in self.members.others():
            if (state := self.members.state(name)) is not State.LIVING:
                dead = state is State.DEAD
                self._sweep_after(name, keep=lambda stem, dead=dead: dead or not self._made(stem))  # type: ignore[misc]
                forget(self.board, name)
                self.members.bury(name)

    def _leave(self) -> None:
        """What is safe of this process's parts is anybody's."""
        claimed = owners(self.board, "claim")
        self._sweep_after(self.process, keep=lambda stem: claimed.get(stem, self.process) == self.process)
        for name in list(self.claims.mine):
            self.claims.release(name)
        self.sweep()

    def _sweep_after(self, name: str, keep: Callable[[str], bool]) -> None:
        """Journals of a process that are not to be kept are removed, with whatever else it was writing; those that are
        kept lose its name, but where it may come back and go on writing into them."""
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
        """Raises LockedError that names who else is at work here, with what follows; what is asked for later is new."""
        self.board.look()
        for beat in self.members.living():
            who = beat.name if beat else "another process"
            raise LockedError(f"the output folder {self.place.name} is in use by {who}: {else_}")
        self.look()

    def problem(self, error: OSError) -> str:
        """One sentence with the next step for an error of the folder."""
        return output_problem(self.root, error)

    @contextlib.contextmanager
    def joining(self) -> Iterator[None]:
        """While the manifest is read, changed and written: one process at a time.  Raises OSError."""
        turn = Claims(self.board, "join", self.members)
        while not turn.take(MANIFEST):
            if self.members.due():
                self.members.beat()
            time.sleep(self.turn_s)
            self.board.look()
        try:
            yield
        finally:
            turn.release(MANIFEST)


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
