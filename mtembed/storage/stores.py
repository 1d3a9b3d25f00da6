"""Which kind of store is behind an address."""

from __future__ import annotations

from functools import lru_cache

from mtembed.storage.address import WEB, Address
from mtembed.storage.store import Store

OBJECT_STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "adl", "azure")


def store_of(address: Address) -> Store:
    """The store behind an address, kept for as long as the process lives."""
    return _store(address.scheme, address.root)


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
