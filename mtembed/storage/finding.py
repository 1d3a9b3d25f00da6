"""Which files an address stands for: itself, those of a folder, those that a pattern matches."""

from __future__ import annotations

import fnmatch

from mtembed.errors import UsageError
from mtembed.storage.address import WEB, Address
from mtembed.storage.patience import persist
from mtembed.storage.store import Missing
from mtembed.storage.stores import store_of


def files_of(address: Address, suffix: str) -> list[Address]:
    """One file whose name ends so, or all such files below a folder or matching a pattern, sorted.

    Raises UsageError for what a web server cannot list, StorageError.
    """
    if address.name.endswith(suffix) and not address.is_pattern:
        return [address]
    if address.scheme in WEB:
        raise UsageError(f"{address} is no {suffix} file, and web servers list no folders: name each file")
    every = below(_fixed(address))
    pattern = address.key if address.is_pattern else f"{address.key.rstrip('/')}/*".lstrip("/")
    return sorted(
        (one for one in every if one.name.endswith(suffix) and fnmatch.fnmatchcase(one.key, pattern)),
        key=lambda one: one.url,
    )


def below(folder: Address) -> list[Address]:
    """All files below a folder of a store that lists them; none where there is no folder.  Raises StorageError."""
    try:
        return persist(folder, lambda: store_of(folder).files(folder))
    except Missing:
        return []


def _fixed(address: Address) -> Address:
    """The folder above the first part of a path that is a pattern."""
    parts = address.key.split("/")
    fixed = next((i for i, part in enumerate(parts) if any(mark in part for mark in "*?[")), len(parts))
    return address.below("/".join(parts[:fixed]))
