"""A web server for a folder, with ranges and ETags, that fails when it is told to and remembers what it was asked.

with serving(folder) as server:
    server.faults = [Fault("500"), Fault("429", after="0"), Fault("cut")]     # for the next requests, in this order
    ... server.url("images/part_1.parquet") ...
    server.requests, server.sent
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, cast
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

What = Literal["500", "503", "429", "reset", "cut", "etag", "whole", "403", "401", "404"]


@dataclass(frozen=True)
class Fault:
    """What happens to a request: a status, a connection that is ``reset``, a body that is ``cut`` short, another
    ``etag``, a ``whole`` file where a range was asked for.  ``after`` is the Retry-After of a status."""

    what: What
    after: str = ""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str
    headers: dict[str, str] = field(default_factory=dict)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.faults: Iterable[Fault | None] = ()
        self.requests: list[Request] = []
        self.sent = 0
        self.answer: Callable[[Handler], bool] = lambda handler: False
        self._lock = threading.Lock()

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def fail_next(self, faults: Iterable[Fault | None]) -> None:
        with self._lock:
            self.faults = deque(faults)

    def fault(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            faults = cast("deque[Fault | None]", self.faults)
            return faults.popleft() if faults else None

    def count(self, number: int) -> None:
        with self._lock:
            self.sent += number

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients may leave when they like


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def do_POST(self) -> None:
        self._serve(body=True)

    def do_PUT(self) -> None:
        self._serve(body=True)

    def do_DELETE(self) -> None:
        self._serve(body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self, body: bool) -> None:
        wanted = self.headers.get("Range", "")
        self.body = self._body()
        path = unquote(urlsplit(self.path).path)
        fault = self.server.fault(Request(self.command, path, wanted, dict(self.headers)))
        if fault is not None and fault.what.isdigit():
            self.status(int(fault.what), fault.after)
        elif fault is not None and fault.what == "reset":
            self.reset()
        else:
            self._plan = (wanted, body, fault)
            if not self.server.answer(self):
                self.file(self.server.folder / path.lstrip("/"))

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while length := int(self.rfile.readline(), 16):
            found += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def status(self, status: int, after: str = "", size: int | None = None) -> None:
        """An answer without a body."""
        self.send_response(status)
        if size is not None:
            self.send_header("Content-Range", f"bytes */{size}")
        if after:
            self.send_header("Retry-After", after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def reset(self) -> None:
        """No answer: the connection ends."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def say(self, content: bytes, kind: str, tag: str = "", code: int = 200) -> bool:
        """A whole answer; True, as ``answer`` returns."""
        self.send_response(code)
        if tag:
            self.send_header("ETag", f'"{tag}"')
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return True

    def file(self, path: Path) -> None:
        """A file, or the range of it that was asked for."""
        wanted, body, fault = self._plan
        if not path.is_file():
            self.status(404)
            return
        found = path.stat()
        size = found.st_size
        if wanted and not size:
            self.status(416, size=0)
            return
        first, last = 0, size - 1
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
        if match and fault != Fault("whole"):
            if match[1]:
                first, last = int(match[1]), min(last, int(match[2] or last))
            else:
                first = max(0, size - int(match[2]))
        else:
            match = None
        tag = tag_of(path) if fault != Fault("etag") else "another"
        self.send_response(206 if match else 200)
        self.send_header("ETag", f'"{tag}"')
        self.send_header("Last-Modified", "Sat, 28 Nov 2026 00:00:00 GMT")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if match:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if body:
            with path.open("rb") as file:
                file.seek(first)
                piece = file.read(last + 1 - first)
            if fault == Fault("cut"):
                piece = piece[: len(piece) // 2]
                self.close_connection = True
            self.server.count(len(piece))
            self.wfile.write(piece)


def tag_of(path: Path) -> str:
    """The ETag of a file, without its quotes."""
    found = path.stat()
    return f"{found.st_size:x}-{found.st_mtime_ns:x}"


def bucket(handler: Handler) -> bool:
    """The folder's own folders as buckets of S3: their lists, ListObjectsV2."""
    asked = urlsplit(handler.path)
    query = parse_qs(asked.query)
    if "list-type" not in query:
        return False
    root = handler.server.folder / asked.path.strip("/")
    prefix = query.get("prefix", [""])[0]
    keys = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    contents = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{(root / key).stat().st_size}</Size>"
        f"<ETag>&quot;{tag_of(root / key)}&quot;</ETag><LastModified>{_stamp(root / key)}</LastModified></Contents>"
        for key in keys
        if key.startswith(prefix)
    )
    text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
    return handler.say(text.encode(), "application/xml")


def _stamp(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def hub(handler: Handler) -> bool:
    """The folder's own folders as datasets of Hugging Face: what is known of them, and their files."""
    path = unquote(urlsplit(handler.path).path)
    info = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/[^/]+)?", path)
    tree = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/]+/?(.*)", path)
    named = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/[^/]+", path)
    resolved = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.*)", path)
    found: object
    if resolved:
        handler.path = f"/{resolved[1]}/{resolved[2]}"
        handler.file(handler.server.folder / resolved[1] / resolved[2])
        return True
    if info:
        found = {
            "id": info[1],
            "sha": "0" * 40,
            "siblings": [],
            "private": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
    elif tree:
        root = handler.server.folder / tree[1]
        every = sorted((root / tree[2]).rglob("*") if "recursive=" in handler.path else (root / tree[2]).iterdir())
        found = [_entry(root, one) for one in every]
    elif named:
        body = handler.body
        names = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
        root = handler.server.folder / named[1]
        found = [_entry(root, root / name) for name in names if (root / name).exists()]
    else:
        return False
    return handler.say(json.dumps(found).encode(), "application/json")


def _entry(root: Path, path: Path) -> dict[str, object]:
    name = str(path.relative_to(root))
    if path.is_dir():
        return {"type": "directory", "path": name, "oid": "1" * 40, "size": 0}
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
    known = {"type": "file", "path": name, "oid": blob, "size": len(content)}
    return known | ({"lfs": large} if path.suffix == ".parquet" else {})


def container(handler: Handler) -> bool:
    """The folder's own folders as containers of Azure: their lists, List Blobs; no last bytes of unknown size."""
    asked = urlsplit(handler.path)
    query = parse_qs(asked.query)
    if handler.headers.get("Range", "").startswith("bytes=-"):
        raise AssertionError("Azure does not answer this")
    if query.get("comp") != ["list"]:
        return False
    root = handler.server.folder / asked.path.strip("/")
    prefix = query.get("prefix", [""])[0]
    keys = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    blobs = "".join(
        f"<Blob><Name>{escape(key)}</Name><Properties><Last-Modified>Sat, 28 Nov 2026 00:00:00 GMT</Last-Modified>"
        f"<Content-Length>{(root / key).stat().st_size}</Content-Length><Content-Type>x/y</Content-Type>"
        "<Etag>x</Etag></Properties></Blob>"
        for key in keys
        if key.startswith(prefix)
    )
    text = f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker /></EnumerationResults>"
    return handler.say(text.encode(), "application/xml")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """The folder's server, on a free port of this machine."""
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
