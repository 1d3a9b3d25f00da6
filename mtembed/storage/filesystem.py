"""Stores that fsspec knows, the hub of Hugging Face (``hf://``) among them."""

from __future__ import annotations

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from mtembed.errors import StorageError, UsageError
from mtembed.storage.address import Address
from mtembed.storage.store import Head, Listed, Missing, NotExclusive, TryAgain

VERSIONS = ("ETag", "etag", "blob_id", "md5", "checksum", "mtime", "created", "LastModified", "last_modified")
"""Keys under which file systems tell a file's version."""

AGAIN = (408, 409, 412, 429)  # the hub says 409 and 412 where another commit was taken meanwhile


class Filesystem:
    """One file system of fsspec."""

    def __init__(self, scheme: str) -> None:
        self._hub = scheme == "hf"
        try:
            self._files = _hub() if self._hub else _other(scheme)
        except (ImportError, ValueError) as error:
            known = (
                "install the package of fsspec for it" if isinstance(error, ImportError) else "no store is called so"
            )
            raise UsageError(f"{scheme}:// cannot be read: {known}") from None
        self._commits: dict[tuple[str, str, str], str] = {}
        self._heads: dict[str, Head] = {}  # of files in a commit, which never change
        self._made: set[str] = set()  # repositories that are there

    def tail(self, address: Address, count: int) -> tuple[bytes, Head]:
        path = self._told(address, lambda: self._path(address))
        head = self._told(address, lambda: self._head(path))
        if not head.size:
            return b"", head
        content = self._told(address, lambda: self._files.cat_file(path, max(0, head.size - count), head.size))
        return bytes(content), head

    def read(self, address: Address, start: int, stop: int) -> tuple[bytes, Head]:
        path = self._told(address, lambda: self._path(address))
        content = bytes(self._told(address, lambda: self._files.cat_file(path, start, stop)))
        if len(content) != stop - start:
            raise TryAgain("an answer of another length than was asked for")
        return content, self._told(address, lambda: self._head(path))

    def files(self, folder: Address) -> list[Address]:
        path = str(self._files._strip_protocol(folder.url)).rstrip("/")
        found = self._told(folder, lambda: self._files.find(path))
        return [Address(folder.url.rstrip("/") + name.removeprefix(path)) for name in found]

    def listed(self, folder: Address) -> dict[str, Listed]:
        path = str(self._files._strip_protocol(folder.url)).rstrip("/")
        self._files.invalidate_cache()
        found = self._told(folder, lambda: self._files.find(path, detail=True))
        return {name[len(path) + 1 :]: Listed(_head(info), 0.0) for name, info in found.items()}

    def put(self, address: Address, content: bytes | Path) -> str:
        path = str(self._files._strip_protocol(address.url))
        if self._hub:
            self._told(address, lambda: self._commit(path, content), "written")
        else:
            self._told(address, lambda: self._put(path, content), "written")
        return ""

    def create(self, address: Address, content: bytes) -> bool:
        raise NotExclusive(str(address))

    def remove(self, address: Address) -> None:
        path = str(self._files._strip_protocol(address.url))
        with suppress(Missing):
            self._told(address, lambda: self._files.rm_file(path), "written")
        self._commits.clear()

    def _put(self, path: str, content: bytes | Path) -> None:
        """Beside its place, then moved there: a copy of a file may end in the middle."""
        folder, _, name = path.rpartition("/")
        scratch = f"{folder}/.{name}.{secrets.token_hex(8)}.tmp"
        self._files.makedirs(folder, exist_ok=True)
        if isinstance(content, Path):
            self._files.put_file(str(content), scratch)
        else:
            self._files.pipe_file(scratch, content)
        self._files.mv(scratch, path)

    def _commit(self, path: str, content: bytes | Path) -> None:
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()
        kind, owner, named, inside = path.split("/", 3)
        name, _, revision = named.partition("@")
        api, where, kind = HfApi(), f"{owner}/{name}", kind.removesuffix("s")
        if where not in self._made:
            api.create_repo(where, repo_type=kind, exist_ok=True)
            self._made.add(where)
        operation, message = CommitOperationAdd(inside, content), f"Add {inside}"
        api.create_commit(where, [operation], commit_message=message, repo_type=kind, revision=revision or None)
        self._commits.clear()  # the next look is at what is there now

    def _path(self, address: Address) -> str:
        """The file's path; on the hub at the commit that its revision was when this process first asked."""
        path = str(self._files._strip_protocol(address.url))
        if not self._hub:
            return path
        from huggingface_hub import HfApi

        where = self._files.resolve_path(path)
        key = (where.repo_type, where.repo_id, where.revision)
        if key not in self._commits:
            self._commits[key] = str(HfApi().repo_info(where.repo_id, repo_type=key[0], revision=key[2]).sha)
        return f"{where.repo_type}s/{where.repo_id}@{self._commits[key]}/{where.path_in_repo}"

    def _head(self, path: str) -> Head:
        if path in self._heads:
            return self._heads[path]
        self._files.invalidate_cache()
        head = _head(self._files.info(path))
        if self._hub:
            self._heads[path] = head
        return head

    def _told(self, address: Address, call: Any, doing: str = "read") -> Any:
        try:
            return call()
        except FileNotFoundError:
            raise Missing(str(address)) from None
        except PermissionError:
            raise StorageError(f"{address} cannot be {doing} (access is refused): {self._advice}") from None
        except Exception as error:
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if status in (401, 403):
                raise StorageError(f"{address} cannot be {doing} (access is refused): {self._advice}") from None
            if status == 404:
                raise Missing(str(address)) from None
            if 400 <= status < 500 and status not in AGAIN:
                raise StorageError(f"{address} cannot be {doing} (status {status}): check the address") from None
            after = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
            wait = float(after) if after.isdigit() else None
            raise TryAgain(f"status {status}" if status else type(error).__name__, wait) from None

    @property
    def _advice(self) -> str:
        return "log in with hf auth login, or set HF_TOKEN" if self._hub else "give this machine its credentials"


def _head(info: Any) -> Head:
    """A file's version from what a file system says of it."""
    lfs = info.get("lfs")
    tag = (lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)) or next(
        (str(info[name]) for name in VERSIONS if info.get(name)), ""
    )
    return Head(int(info["size"]), tag)


def _hub() -> Any:
    from huggingface_hub import HfFileSystem

    return HfFileSystem(skip_instance_cache=True)


def _other(scheme: str) -> Any:
    import fsspec  # type: ignore[import-untyped]

    return fsspec.filesystem(scheme)
