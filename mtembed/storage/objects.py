"""Object stores, through obstore: S3 and what speaks like it, Google Cloud Storage, Azure.  Credentials come from the
environment, where each of them keeps them (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_*)."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from mtembed.errors import StorageError
from mtembed.storage.address import Address
from mtembed.storage.store import Head, Listed, Missing, NotExclusive, TryAgain

STATUS = re.compile(r"status code: (\d{3})")
ADVICE = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
}
EXPIRED = "ExpiredToken"  # S3 says so with status 400
SLOW = "RequestTimeout"  # and this: the connection was idle, as after a pause of this machine
AZURE = "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"
ENDPOINTS = (
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
)  # fmt: skip
"""Variables that name another server than the cloud's own; one of http:// is taken at its word."""
WITH_ENDS = ("s3", "s3a", "gs")
"""Schemes of stores that can be asked for the last bytes of a file of unknown size; Azure cannot."""


class NothingThere(StorageError):
    """A range of an empty file was asked for."""


class Objects:
    """One bucket."""

    def __init__(self, root: str) -> None:
        from obstore.store import from_url

        self._has_ends = root.partition("://")[0] in WITH_ENDS
        self._store: Any = from_url(
            root,
            client_options={
                "connect_timeout": timedelta(seconds=10),
                "timeout": timedelta(seconds=120),
                "allow_http": any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS),
            },
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=10)},
        )

    def tail(self, address: Address, count: int) -> tuple[bytes, Head]:
        if not self._has_ends:
            head = self._told(address)
            return self.read(address, max(0, head.size - count), head.size) if head.size else (b"", head)
        try:
            return self._get(address, {"suffix": count})
        except NothingThere:
            return b"", self._told(address)

    def read(self, address: Address, start: int, stop: int) -> tuple[bytes, Head]:
        content, head = self._get(address, (start, stop))
        if len(content) != stop - start:
            raise TryAgain("an answer of another length than was asked for")
        return content, head

    def listed(self, folder: Address) -> dict[str, Listed]:
        import obstore

        prefix = folder.key.rstrip("/")
        start = len(prefix) + 1 if prefix else 0
        try:
            every = [one for page in obstore.list(self._store, prefix or None) for one in page]
        except Exception as error:
            if _status(error) == 404:  # the bucket
                raise Missing(str(folder)) from None
            raise _explained(folder, error) from None
        return {one["path"][start:]: Listed(_head(one), one["last_modified"].timestamp()) for one in every}

    def put(self, address: Address, content: bytes | Path) -> str:
        import obstore

        try:
            return _tag(obstore.put(self._store, address.key, content))
        except Exception as error:
            raise _explained(address, error, "written") from None

    def create(self, address: Address, content: bytes) -> bool:
        import obstore
        from obstore import exceptions

        try:
            obstore.put(self._store, address.key, content, mode="create")
        except exceptions.AlreadyExistsError:
            return False
        except Exception as error:
            if isinstance(error, exceptions.NotSupportedError) or _status(error) == 501:
                raise NotExclusive(str(address)) from None
            raise _explained(address, error, "written") from None
        return True

    def remove(self, address: Address) -> None:
        import obstore

        try:
            obstore.delete(self._store, address.key)
        except FileNotFoundError:
            return
        except Exception as error:
            raise _explained(address, error, "written") from None

    def files(self, folder: Address) -> list[Address]:
        import obstore

        try:
            prefix = folder.key.rstrip("/")
            listed = [one["path"] for page in obstore.list(self._store, prefix or None) for one in page]
        except Exception as error:
            raise _explained(folder, error) from None
        return [folder.below(path) for path in listed]

    def _told(self, address: Address) -> Head:
        import obstore

        try:
            return _head(obstore.head(self._store, address.key))
        except Exception as error:
            raise _explained(address, error) from None

    def _get(self, address: Address, wanted: Any) -> tuple[bytes, Head]:
        import obstore

        try:
            answer = obstore.get(self._store, address.key, options={"range": wanted})
            content = bytes(answer.bytes())
            meta = answer.meta
        except Exception as error:
            raise _explained(address, error) from None
        return content, _head(meta)


def _head(meta: Any) -> Head:
    return Head(meta["size"], _tag(meta) or str(meta["last_modified"]))


def _tag(meta: Any) -> str:
    """Some stores put it in quotes here and not there."""
    return str(meta["e_tag"] or "").strip('"')


def _status(error: Exception) -> int:
    """Of the answer; 0 where none came."""
    found = STATUS.search(str(error))
    return int(found[1]) if found else 0


def _explained(address: Address, error: Exception, doing: str = "read") -> Exception:
    """An error of obstore, whose own text may hold what nobody must see."""
    from obstore import exceptions

    if isinstance(error, FileNotFoundError):
        return Missing(str(address))
    status = _status(error)
    refused = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)
    if isinstance(error, refused) or status in (401, 403):
        advice = ADVICE.get(address.scheme.rstrip("a"), AZURE)
        return StorageError(f"{address} cannot be {doing} (access is refused): {advice}")
    if EXPIRED in str(error):
        return StorageError(f"{address} cannot be {doing} (the credentials have expired): renew them and run it again")
    if isinstance(error, exceptions.InvalidPathError):
        return StorageError(
            f"{address} cannot be {doing} (a name there has an empty part, .. or a control character): "
            "remove that file, or choose another address"
        )
    if SLOW in str(error):
        return TryAgain("the connection was idle")
    if status == 416:
        return NothingThere(f"{address} has fewer bytes than were asked for: check it")
    if 400 <= status < 500 and status not in (408, 429):
        return StorageError(f"{address} cannot be {doing} (status {status}): check bucket, region and name")
    if isinstance(error, exceptions.NotSupportedError):
        return StorageError(f"{address} is in a store that sends whole files only: download it first")
    return TryAgain(f"status {status}" if status else "the connection broke off, or could not be made")
