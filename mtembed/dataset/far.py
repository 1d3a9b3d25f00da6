"""A dataset that is made behind an address: parts, timings, manifest and card are put there when they are whole.

    ADDRESS/embeddings/STEM.parquet, ADDRESS/timings/STEM.parquet, ADDRESS/manifest.json, ...
    ADDRESS/.mtembed/             who is at work, and on what, for every machine to see
    CACHE/outputs/MARK/NAME/      on each machine, while it has open parts: their journals, copies of the manifest

A part is done when both of its files are there.  A part is put first, its timings second, and its journal is removed
last, so that a lost machine costs its open parts and nothing else; the copies here cost a request, if they are lost.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mtembed.dataset.atomic import MOST_BYTES, is_file_name
from mtembed.dataset.board import LOOK_S, FolderBoard, StoreBoard
from mtembed.dataset.folder import MANIFEST_NAME, WORK, Dataset
from mtembed.dataset.home import Home
from mtembed.dataset.members import BEATS, LEASE_S, Beat, at_work, steady_clock
from mtembed.errors import OutputError
from mtembed.storage import cache
from mtembed.storage.address import Address, Place, place_of
from mtembed.storage.readers import THREADS
from mtembed.storage.store import Head, Listed
from mtembed.storage.stores import require_writable

HUB_SAVE_S = 600.0  # where each file is a commit, of which few are taken in an hour


class FarDataset(Dataset):
    """Finished files are behind an address; ``root`` is where this machine keeps what is not finished."""

    turn_s = 0.5  # each look costs a request

    def __init__(self, address: Address, index: int = 0, count: int = 1, process: str = "") -> None:
        mark = hashlib.sha256(str(address).rstrip("/").encode()).hexdigest()[:16]
        name = address.name if is_file_name(address.name) else "dataset"
        super().__init__(cache.folder() / "outputs" / mark / name, index, count, process)
        self.home = Home(address)
        self.board = self._watched = StoreBoard(self.home, WORK)
        self._files: dict[str, Listed] = {}  # there, as far as this process knows
        self._looked = False
        self.save_s = HUB_SAVE_S if address.scheme == "hf" else super().save_s
        self._copies: dict[str, tuple[Head, object]] = {}  # versions of what lies here too, and of the copies

    @property
    def place(self) -> Place:
        return self.home.address

    @property
    def advice(self) -> str:
        if isinstance(self.board, StoreBoard) or self.count > 1:
            return ""
        return (
            f"{self.place} does not tell processes apart that take the same shard: let one machine at a time work on "
            "it, or deal the shards with --shard-index and --shard-count"
        )

    def of(self, manifest: Path) -> Dataset:
        other = Dataset.of_manifest(manifest)
        found = FarDataset(self.home.address, other.index, other.count, self.process)
        found.home, found._files, found._looked, found._copies = self.home, self._files, self._looked, self._copies
        return found

    # -- what is there ------------------------------------------------------------------------------------------------

    def look(self) -> None:
        found = self.home.listed()
        self._files.clear()
        self._files.update((name, one) for name, one in found.items() if not name.startswith("."))
        self._looked = True
        there = {name for name in self._files if MANIFEST_NAME.fullmatch(name)}
        try:
            for path in [path for path in super().manifests() if path.name not in there]:
                path.unlink(missing_ok=True)
            for name in there:
                if self._files[name].head.size > MOST_BYTES:
                    raise OutputError(
                        f"{name} of {self.place} has more than {MOST_BYTES} bytes: choose another --output"
                    )
                self._fetch(self.root / name)
        except OSError as error:
            raise OutputError(self.problem(error)) from error

    def look_at(self, stem: str) -> None:
        for path in (self.timings(stem), self.part(stem)):
            head = self.home.head(self._name(path))
            self._files.pop(self._name(path), None)
            if head is None:
                return
            self._files[self._name(path)] = Listed(head, 0.0)

    def manifests(self) -> list[Path]:
        paths = sorted(self.root / name for name in self._known() if MANIFEST_NAME.fullmatch(name))
        for path in paths:
            if not path.exists():  # put away by another process, which only looked
                self._fetch(path)
        return [path for path in paths if path.exists()]

    def done_stems(self) -> set[str]:
        names = [name.removesuffix(".parquet").partition("/") for name in self._known() if name.endswith(".parquet")]
        parts, timings = ({stem for folder, _, stem in names if folder == one} for one in ("embeddings", "timings"))
        return parts & timings

    def is_done(self, stem: str) -> bool:
        return self._made(stem)

    def _made(self, stem: str) -> bool:
        return all(self._name(path) in self._files for path in (self.part(stem), self.timings(stem)))

    def size_of(self, stem: str) -> int:
        path = self.part(stem)
        if not self.has(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self._files[self._name(path)].head.size

    def version_of(self, stem: str) -> object:
        found = self._files.get(self._name(self.timings(stem)))
        return found and found.head

    def has(self, path: Path) -> bool:
        return self._name(path) in self._known()

    def visible(self) -> list[str]:
        return sorted({name.partition("/")[0] for name in self._known()})

    def _known(self) -> dict[str, Listed]:
        if not self._looked:
            self.look()
        return self._files

    # -- copies here --------------------------------------------------------------------------------------------------

    def bring(self, stem: str) -> None:
        self.look_at(stem)
        for path in (self.part(stem), self.timings(stem)):
            if self._made(stem):
                self._fetch(path)
            else:
                path.unlink(missing_ok=True)

    def bring_timings(self, stems: Iterable[str]) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(self._fetch, [self.timings(stem) for stem in stems if self._made(stem)]):
                pass

    def _fetch(self, path: Path) -> None:
        """A copy of the file as it was when it was looked at, or of a later one.  Raises OSError, OutputError."""
        name = self._name(path)
        head = self._files[name].head
        if path.exists() and self._copies.get(name) == (head, _mark(path)):
            return
        if self.home.fetch(name, path):
            self._copies[name] = head, _mark(path)
        else:
            path.unlink(missing_ok=True)

    def wait_no_more(self) -> None:
        self.home.lost = True

    def put_away(self) -> None:
        if not self.work.exists():
            self._forget()

    def _forget(self) -> None:
        """Nothing is kept here any more."""
        shutil.rmtree(self.root, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.root.parent.rmdir()

    # -- files that become whole --------------------------------------------------------------------------------------

    def write(self, path: Path, text: str) -> None:
        content, name = text.encode(), self._name(path)
        head = Head(len(content), self.home.put(name, content))
        super().write(path, text)
        self._files[name], self._copies[name] = Listed(head, time.time()), (head, _mark(path))

    def publish(self, scratch: Path, path: Path, require: Callable[[], None] = lambda: None) -> None:
        self.home.put(self._name(path), scratch, require)
        for copy in (scratch, path):
            copy.unlink(missing_ok=True)

    def remove(self, paths: Iterable[Path]) -> None:
        every = [*paths]
        self.home.remove(name for path in every if (name := self._name(path)) in self._known())
        for path in every:
            self._files.pop(self._name(path), None)
            path.unlink(missing_ok=True)

    def problem(self, error: OSError) -> str:
        return (
            f"what is open of {self.place} cannot be kept in {cache.folder()} ({error.strerror}): make space there, or "
            "set XDG_CACHE_HOME to another folder"
        )

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    # -- the processes that work here ---------------------------------------------------------------------------------

    def is_exclusive(self) -> bool:
        """Whether of processes on many machines exactly one can take a shard: tried, with a file that would be swept as
        that of a dead process."""
        return self.home.is_exclusive(f"{WORK}/process.{secrets.token_hex(4)}")

    @contextlib.contextmanager
    def joined(self, lease_s: float = LEASE_S) -> Iterator[None]:
        far = StoreBoard(self.home, WORK, min(LOOK_S, lease_s / (2 * BEATS)), steady_clock)
        self.board = far if self.is_exclusive() else FolderBoard(self.work)
        with super().joined(lease_s):
            yield

    @contextlib.contextmanager
    def joining(self) -> Iterator[None]:
        with super().joining():
            self.look()
            yield

    def at_work(self) -> dict[str, Beat]:
        return at_work(self.work, far=self._watched)

    def _leave(self) -> None:
        mine = set(self.claims.mine)
        super()._leave()
        for stem in self.journals().keys() - mine:
            if self._made(stem):  # by another machine
                (self.work / f"{stem}.journal").unlink(missing_ok=True)

    def _tidy(self, made: Iterable[Path]) -> None:
        self.work.rmdir()  # not where journals or other processes are
        self._forget()


def _mark(path: Path) -> object:
    """What tells a file from one that another process has put into its place."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def dataset_of(name: str | Place, index: int = 0, count: int = 1, process: str = "") -> Dataset:
    """A dataset that is made in a folder, or behind an address.  Raises UsageError for what is neither."""
    place = place_of(name) if isinstance(name, str) else name
    if isinstance(place, Address) and place.scheme == "file":
        place = Path("/", place.key)
    if isinstance(place, Address):
        require_writable(place)
        return FarDataset(place, index, count, process)
    return Dataset(place, index, count, process)
