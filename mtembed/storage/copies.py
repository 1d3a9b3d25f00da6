"""Whole files from behind addresses, kept on this machine's disk for as long as they are the same there."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from mtembed.errors import StorageError
from mtembed.storage import cache
from mtembed.storage.address import Address, Place
from mtembed.storage.readers import in_order
from mtembed.storage.remote import Replaced, read, tail
from mtembed.storage.store import Head

PIECE_BYTES = 1 << 24
TRIES = 10  # to copy a file that others replace
T = TypeVar("T")


def local(place: Place) -> Path:
    """The file itself, or a copy of what lies behind an address.  Raises StorageError, FileNotFoundError."""
    return place if isinstance(place, Path) else _again(partial(_local, place))


def _local(place: Address) -> Path:
    _, head = tail(place, 8)
    path = cache.place(place, head, "copies")
    try:
        if not (path.is_file() and path.stat().st_size == head.size):
            path.parent.mkdir(parents=True, exist_ok=True)
            _copy(place, head, path)
    except OSError as error:
        raise StorageError(
            f"{place} cannot be kept in {cache.folder()} ({error.strerror}): set XDG_CACHE_HOME to a folder with room"
        ) from None
    return path


def download(place: Place, path: Path) -> None:
    """A copy of a file at ``path``, whole or not at all.  Raises StorageError, OSError."""
    if isinstance(place, Address):
        _again(lambda: _copy(place, tail(place, 8)[1], path))
    else:
        shutil.copyfile(place, path)


def _again(call: Callable[[], T]) -> T:
    """Where a file was replaced while it was copied: a manifest is, by each of the machines that are at work."""
    for _ in range(TRIES - 1):
        with suppress(Replaced):
            return call()
    return call()


def _copy(address: Address, head: Head, path: Path) -> None:
    """Whole or not at all."""
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    starts = range(0, head.size, PIECE_BYTES)
    try:
        with scratch.open("wb") as file:
            for piece in in_order(
                partial(read, address, head, (at, min(head.size, at + PIECE_BYTES))) for at in starts
            ):
                file.write(piece)
        scratch.replace(path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
