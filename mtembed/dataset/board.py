"""Where processes leave word for each other: small files with names, in a folder, or in a store for every machine.

What it needs of either: a file that is created exclusively, a list of names, and that what was written is read.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mtembed.dataset.atomic import new_file, read_regular
from mtembed.dataset.home import Home
from mtembed.storage.store import Listed

MOST_BYTES = 4096  # of a file on it
LOOK_S = 5.0  # a list of a store is as good as new for so long, where nothing depends on it


class Board(Protocol):
    """Files by name.  Every method raises OSError or OutputError."""

    def look(self) -> None:
        """What is asked for from now on is not older than this moment."""

    def names(self) -> Collection[str]:
        """All names."""

    def create(self, name: str, content: bytes) -> bool:
        """A file that did not exist; False where somebody was quicker.  Raises FileNotFoundError without the folder."""

    def read(self, name: str) -> bytes:
        """What a file holds; nothing where it is gone."""

    def remove(self, name: str) -> None:
        """A file is there no more."""


@dataclass(frozen=True, slots=True)
class FolderBoard:
    """A folder, for those who see it: of one machine, or of many by NFS."""

    folder: Path

    def look(self) -> None:
        pass

    def names(self) -> Collection[str]:
        try:
            return os.listdir(self.folder)  # noqa: PTH208
        except FileNotFoundError:
            return ()

    def create(self, name: str, content: bytes) -> bool:
        try:
            fd = new_file(self.folder / name)
        except FileExistsError:
            return False
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        return True

    def read(self, name: str) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            return read_regular(self.folder / name)
        return b""

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)


@dataclass(slots=True)
class StoreBoard:
    """A folder of a store that creates exclusively, for every machine.  Lists and files are kept for a while, because
    each costs a request."""

    home: Home
    folder: str
    every_s: float = LOOK_S
    clock: Callable[[], float] = time.monotonic
    _listed: dict[str, Listed] = field(default_factory=dict, repr=False)
    _looked: float | None = field(default=None, repr=False)
    _read: dict[str, tuple[Listed, bytes]] = field(default_factory=dict, repr=False)

    def look(self) -> None:
        self._looked = None

    def names(self) -> Collection[str]:
        if self._looked is None or self.clock() - self._looked > self.every_s:
            self._listed, self._looked = self.home.listed(self.folder), self.clock()
            self._read = {name: found for name, found in self._read.items() if name in self._listed}
        return self._listed

    def create(self, name: str, content: bytes) -> bool:
        self._looked = None
        return self.home.create(self._path(name), content)

    def read(self, name: str) -> bytes:
        if name not in self.names():
            return b""
        known, listed = self._read.get(name), self._listed[name]
        if known is None or known[0] != listed:
            known = self._read[name] = listed, self.home.read(self._path(name), MOST_BYTES)
        return known[1]

    def remove(self, name: str) -> None:
        self._looked = None
        self.home.remove([self._path(name)])

    def write(self, name: str, content: bytes) -> None:
        """A file, in the place of any that was there."""
        self.home.put(self._path(name), content)

    def mark(self, name: str) -> bytes | None:
        """What changes with a file's content, without reading it; None where there is no such file."""
        return repr(self._listed[name]).encode() if name in self.names() else None

    def age_s(self, name: str) -> float:
        """Seconds since a file was written, if the store's clock and this machine's agree."""
        return time.time() - self._listed[name].modified if name in self.names() else float("inf")

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"
