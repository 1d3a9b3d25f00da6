"""Files put behind addresses, whole or not at all, again when a try fails; and what lies in a folder there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mtembed.errors import StorageError
from mtembed.storage.address import Address
from mtembed.storage.patience import PATIENCE, Patience, persist
from mtembed.storage.store import Head, Listed, Missing
from mtembed.storage.stores import writable
from mtembed.storage.traffic import Meter

T = TypeVar("T")
WRITING = replace(PATIENCE, deadline=35.0)
OUTPUT = Meter()  # what is asked of an output is not the traffic that a run waits for
SLOWEST = 1 << 20  # bytes a second; a file that takes longer is not sent again


def listed(folder: Address, patience: Patience = WRITING) -> dict[str, Listed]:
    """All files below a folder, by their path below it; none where there is no folder.  Raises StorageError."""
    try:
        return _persist(folder, lambda: writable(folder).listed(folder), patience)
    except Missing:
        return {}


def put(
    address: Address, content: bytes | Path, patience: Patience = WRITING, require: Callable[[], None] = lambda: None
) -> str:
    """A file, in the place of any that was there.  ``require`` raises where it must not be put any more: it is asked
    before each try, as a machine may sleep between two.  Returns its tag.  Raises StorageError."""

    def attempt() -> str:
        require()
        return writable(address).put(address, content)

    length = content.stat().st_size if isinstance(content, Path) else len(content)
    enough = replace(patience, deadline=patience.deadline + length / SLOWEST)
    try:
        return _persist(address, attempt, enough, "written")
    except Missing:
        raise _nowhere(address) from None


def create(address: Address, content: bytes, patience: Patience = WRITING) -> bool:
    """A file, if there was none; whether it is ours.  ``content`` is like nobody else's.

    Raises NotExclusive where the store does not say who was first, StorageError.
    """
    try:
        made = _persist(address, lambda: writable(address).create(address, content), patience, "written")
        return made or read(address, len(content), patience) == content  # an answer that got lost was a yes
    except Missing:
        raise _nowhere(address) from None


def remove(address: Address, patience: Patience = WRITING) -> None:
    """A file is there no more.  Raises StorageError."""
    _persist(address, lambda: writable(address).remove(address), patience, "removed")


def read(address: Address, most: int, patience: Patience = WRITING) -> bytes:
    """A small file, of at most so many bytes; nothing where it is gone.  Raises StorageError."""
    try:
        return _persist(address, lambda: writable(address).tail(address, most), patience)[0]
    except Missing:
        return b""


def head(address: Address, patience: Patience = WRITING) -> Head | None:
    """A file as it is now, if it is there.  Raises StorageError."""
    try:
        return _persist(address, lambda: writable(address).tail(address, 8), patience)[1]
    except Missing:
        return None


def _persist(address: Address, attempt: Callable[[], T], patience: Patience, doing: str = "read") -> T:
    return persist(address, attempt, patience, doing=doing, meter=OUTPUT)


def _nowhere(address: Address) -> StorageError:
    return StorageError(f"{address} cannot be written (there is no such bucket): make it, or choose another --output")
