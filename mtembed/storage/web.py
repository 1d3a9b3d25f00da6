"""Files on web servers that answer ranges.  (obstore keeps the Retry-After of an answer to itself, so ``requests``.)"""

from __future__ import annotations

import email.utils
import re
import threading
import time
from typing import Any

from mtembed.errors import StorageError
from mtembed.storage.address import Address
from mtembed.storage.store import Head, Missing, TryAgain

TIMEOUT_S = (10.0, 30.0)  # to connect, and between two pieces of an answer
BUSY = (408, 425, 429, 500, 502, 503, 504)
REFUSED = {401: "it wants credentials", 403: "it refuses access"}
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Web:
    """Every web server; a session for each thread, so that connections are used again."""

    def __init__(self) -> None:
        self._sessions = threading.local()

    def tail(self, address: Address, count: int) -> tuple[bytes, Head]:
        return self._get(address, f"bytes=-{count}", None)

    def read(self, address: Address, start: int, stop: int) -> tuple[bytes, Head]:
        return self._get(address, f"bytes={start}-{stop - 1}", stop - start)

    def files(self, folder: Address) -> list[Address]:
        raise StorageError(f"{folder}: web servers have no folders that can be listed: name files")

    def _get(self, address: Address, wanted: str, length: int | None) -> tuple[bytes, Head]:
        import requests
        import urllib3

        headers = {"Range": wanted, "Accept-Encoding": "identity"}
        try:
            with self._session().get(address.url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
                if answer.status_code == 416 and answer.headers.get("Content-Range", "").endswith("*/0"):
                    return b"", Head(0, _tag(answer))  # an empty file has no last bytes
                _require_range(address, answer)
                found = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
                if found is None:
                    raise TryAgain("an answer without its range")
                content = answer.raw.read(decode_content=False)
                tag = _tag(answer)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise _explained(address, error) from None
        first, last, size = map(int, found.groups())
        if len(content) != last - first + 1 or (length is not None and len(content) != min(length, size - first)):
            raise TryAgain("an answer of another length than was asked for")
        return content, Head(size, tag)

    def _session(self) -> Any:
        import requests

        if not hasattr(self._sessions, "one"):
            self._sessions.one = requests.Session()
        return self._sessions.one


def _tag(answer: Any) -> str:
    return str(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")


def _require_range(address: Address, answer: Any) -> None:
    """Raises TryAgain, Missing or StorageError for an answer without the bytes that were asked for."""
    status = answer.status_code
    if status == 206:
        return
    if status in BUSY:
        raise TryAgain(f"status {status}", _seconds(answer.headers.get("Retry-After", "")))
    if status in (404, 410):
        raise Missing(str(address))
    if status in REFUSED:
        raise StorageError(f"{address} cannot be read ({REFUSED[status]}): put user and password into ~/.netrc")
    if status == 200:
        raise StorageError(f"{address} is on a server that sends whole files only: download it first")
    raise StorageError(f"{address} cannot be read (status {status}): check the address")


def _seconds(after: str) -> float | None:
    """A Retry-After, in seconds or as a date; None for anything else."""
    if after.strip().isdigit():
        return float(after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _explained(address: Address, error: Exception) -> Exception:
    """What went wrong below HTTP, in words without an address."""
    import requests

    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema)):
        return StorageError(f"{address} is no address of a web server: check it")
    if isinstance(error, requests.exceptions.SSLError):
        return StorageError(
            f"{address} has a certificate that is not trusted: check the address, or the machine's clock"
        )
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return StorageError(f"{address} leads in a circle: check the address")
    timed_out = isinstance(error, requests.exceptions.Timeout)
    return TryAgain("no answer in time" if timed_out else "the connection broke off, or could not be made")
