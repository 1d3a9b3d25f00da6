"""Buckets of S3 that can be written to: files are put whole, in parts, or only if they are not there; and removed."""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.tools.web import Handler, Server, bucket, tag_of

XML = "application/xml"
LOCK = threading.Lock()  # one file after the other, as if the store were one process


def writable(handler: Handler) -> bool:
    """What ``bucket`` answers, and what writes; a bucket is there where the folder has a folder of its name."""
    asked = urlsplit(handler.path)
    query, path = parse_qs(asked.query, keep_blank_values=True), unquote(asked.path).strip("/")
    root = handler.server.folder
    if (handler.command != "GET" or "list-type" in query) and not (root / path.partition("/")[0]).is_dir():
        handler.status(404)
        return True
    if handler.command == "PUT":
        return _put(handler, root / path, query)
    if handler.command == "POST" and "delete" in query:
        names = [name.decode() for name in re.findall(rb"<Key>(.*?)</Key>", handler.body)]
        with LOCK:
            for name in names:
                _remove(root / path, root / path / unescaped(name))
        gone = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
        return handler.say(f"<DeleteResult>{gone}</DeleteResult>".encode(), XML)
    if handler.command == "POST":
        return _in_parts(handler, root / path, query)
    if handler.command == "DELETE":
        handler.status(204)
        return True
    with LOCK:
        return bucket(handler)


def _put(handler: Handler, path: Path, query: Mapping[str, list[str]]) -> bool:
    if "uploadId" in query:
        part = _parts(handler.server, query["uploadId"][0]) / f"{int(query['partNumber'][0]):05}"
        part.write_bytes(handler.body)
        return handler.say(b"", XML, tag_of(part))
    with LOCK:
        if handler.headers.get("If-None-Match") == "*" and path.exists():
            handler.status(412)
            return True
        tag = _write(handler, path, handler.body)
    return handler.say(b"", XML, tag)


def _in_parts(handler: Handler, path: Path, query: Mapping[str, list[str]]) -> bool:
    if "uploads" in query:
        name = secrets.token_hex(8)
        _parts(handler.server, name).mkdir(parents=True)
        text = f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
    else:
        parts = sorted(_parts(handler.server, query["uploadId"][0]).iterdir())
        with LOCK:
            tag = _write(handler, path, b"".join(part.read_bytes() for part in parts))
        text = f"<CompleteMultipartUploadResult><ETag>&quot;{tag}&quot;</ETag></CompleteMultipartUploadResult>"
    return handler.say(text.encode(), XML)


def _write(handler: Handler, path: Path, content: bytes) -> str:
    scratch = handler.server.folder / f".{secrets.token_hex(8)}"
    scratch.write_bytes(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch.replace(path)
    return tag_of(path)


def _remove(bucket: Path, path: Path) -> None:
    """A store has no folders, so none stays that is empty."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for folder in path.parents[: len(path.relative_to(bucket).parts) - 1]:
            folder.rmdir()


def _parts(server: Server, upload: str) -> Path:
    return server.folder / ".uploads" / upload


def unescaped(name: str) -> str:
    """A key as XML has it."""
    return name.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
