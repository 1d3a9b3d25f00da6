"""What every kind of store can do, and how it says that it cannot."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mtembed.storage.address import Address


@dataclass(frozen=True, slots=True)
class Head:
    """A file as it is now: its bytes, and what a store calls its version (ETag, hash, revision; empty: unknown)."""

    size: int
    tag: str

    @property
    def stamp(self) -> int:
        """The version as a number of 63 bits, in the place of a local file's time stamp."""
        return int.from_bytes(hashlib.sha256(self.tag.encode()).digest()[:8], "big") >> 1


class Store(Protocol):
    """One kind of store.  Its methods try once: they raise ``TryAgain`` where another try may help, ``Missing`` where
    there is no such file, else StorageError; no text of an error has a credential."""

    def tail(self, address: Address, count: int) -> tuple[bytes, Head]:
        """The last bytes of a file, at most so many."""

    def read(self, address: Address, start: int, stop: int) -> tuple[bytes, Head]:
        """Bytes from ``start`` up to, but not including, ``stop``."""

    def files(self, folder: Address) -> list[Address]:
        """All files below a folder."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file in a list of files: as it was then, and when it came to be, in seconds since 1970 by the store's clock (0
    where it does not say)."""

    head: Head
    modified: float


class Writable(Store, Protocol):
    """A store that also takes files.  A file that is put is there whole or not at all."""

    def listed(self, folder: Address) -> dict[str, Listed]:
        """All files below a folder, by their path below it."""

    def put(self, address: Address, content: bytes | Path) -> str:
        """A file, whether or not there was one; ``content`` may be one of this machine.  Returns its tag."""

    def create(self, address: Address, content: bytes) -> bool:
        """A file, if there was none: of many that create it at once, exactly one is told True.

        Raises NotExclusive where the store cannot do that.
        """

    def remove(self, address: Address) -> None:
        """A file is there no more, or never was."""


class TryAgain(Exception):
    """A try failed and another one may not: why, in a few words; ``after`` how many seconds the store asked for."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Missing(Exception):
    """There is no such file, or no such bucket."""


class NotExclusive(Exception):
    """The store cannot tell many that create one file which of them did."""
