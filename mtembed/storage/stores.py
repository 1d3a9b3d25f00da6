"""Which kind of store is behind an address."""

from __future__ import annotations

from functools import lru_cache
from typing import cast

from mtembed.errors import UsageError
from mtembed.storage.address import WEB, Address
from mtembed.storage.store import Store, Writable

OBJECT_STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "adl", "azure")


def store_of(address: Address) -> Store:
    """The store behind an address, kept for as long as the process lives."""
    return _store(address.scheme, address.root)


def writable(address: Address) -> Writable:
    """The store behind the address of a file that is to be put there, see ``require_writable``."""
    return cast(Writable, store_of(address))


def require_writable(address: Address) -> None:
    """Raises UsageError for the address of a folder to which no files can be put."""
    if address.scheme in WEB:
        raise UsageError(f"{address} is on a web server, which takes no files: give a folder, or s3://BUCKET/FOLDER")
    if address.scheme == "memory":
        raise UsageError(f"{address} is the memory of one process, and many make a dataset: give a folder")
    if address.is_pattern:
        raise UsageError(f"{address} is a pattern: give the address of one folder")
    parts = address.key.strip("/").split("/")
    if address.scheme == "hf" and not (address.url.startswith("hf://datasets/") and len(parts) > 1):
        raise UsageError(f"{address} is no dataset of the hub: give hf://datasets/OWNER/NAME")


@lru_cache(maxsize=64)
def _store(scheme: str, root: str) -> Store:
    if scheme in WEB:
        from mtembed.storage.web import Web

        return Web()
    if scheme in OBJECT_STORES:
        from mtembed.storage.objects import Objects

        return Objects(root)
    from mtembed.storage.filesystem import Filesystem

    return Filesystem(scheme)
