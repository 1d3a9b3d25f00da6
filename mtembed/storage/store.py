"""What every kind of store can do, and how it says that it cannot."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
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


class TryAgain(Exception):
    """A try failed and another one may not: why, in a few words; ``after`` how many seconds the store asked for."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Missing(Exception):
    """There is no such file."""
