"""Addresses of files and folders: ``s3://``, ``gs://``, ``az://``, ``https://``, ``hf://`` and what else fsspec knows.

An address may carry a password or a signature.  What is shown of it, as text and as ``repr``, never does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from mtembed.errors import UsageError

SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
SHORT = re.compile(r"hf:(Core-[\w.-]+)((?:/.*)?)", re.DOTALL)
SHORT_FOR = "hf://datasets/Major-TOM/"
GLOB = re.compile(r"[*?\[]")
WEB = ("http", "https")
SECRETS = re.compile(r"[?#][^/]*=.*", re.DOTALL)  # a question mark alone stands for any letter
WEB_SECRETS = re.compile(r"[?#].*", re.DOTALL)


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """A file or a folder; ``url`` is all of it, with whatever secrets it holds."""

    url: str

    @classmethod
    def of(cls, name: str) -> Address:
        """From what a user gives.  Raises UsageError for what is none."""
        if match := SHORT.fullmatch(name):
            return cls(f"{SHORT_FOR}{match[1]}{match[2]}")
        scheme, separator, rest = name.partition("://")
        if not separator or not SCHEME.fullmatch(scheme) or not rest.strip("/"):
            raise UsageError(f"{shown(name)} is no address: give s3://BUCKET/..., https://..., or hf:Core-S2L2A")
        return cls(f"{scheme.lower()}://{rest}")

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]

    @property
    def root(self) -> str:
        """What names the store: scheme and host or bucket, with credentials where the address has them."""
        if self.scheme in WEB:
            parts = urlsplit(self.url)
            return f"{parts.scheme}://{parts.netloc}"
        return f"{self.scheme}://{self.url.partition('://')[2].partition('/')[0]}"

    @property
    def key(self) -> str:
        """The path below the root, without a leading slash; percent signs of a web address are kept."""
        return self._path.lstrip("/")

    @property
    def name(self) -> str:
        """The file's name."""
        last = PurePosixPath(self._path.rstrip("/")).name
        return unquote(last) if self.scheme in WEB else last

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def is_pattern(self) -> bool:
        return bool(GLOB.search(self._path))

    def above(self, levels: int, name: str = "") -> Address:
        """The folder so many levels above, or a file in it."""
        kept = self._path.rstrip("/").split("/")
        path = "/".join([*kept[: len(kept) - levels], *([quote(name) if self.scheme in WEB else name] if name else [])])
        return self._with(path)

    def below(self, key: str) -> Address:
        """Another file of the same store, by its path below the root."""
        return self._with("/" + key)

    def __str__(self) -> str:
        return shown(self.url)

    def __repr__(self) -> str:
        return f"Address({self})"

    @property
    def _path(self) -> str:
        if self.scheme in WEB:
            return urlsplit(self.url).path
        return self.url.partition("://")[2].partition("/")[2]

    def _with(self, path: str) -> Address:
        if self.scheme in WEB:
            return Address(urlunsplit(urlsplit(self.url)._replace(path=path)))
        return Address(f"{self.root}/{path.lstrip('/')}")


Place = Path | Address
"""Where a file is: on this machine, or behind an address."""


def place_of(name: str) -> Place:
    """What a word stands for.  Raises UsageError for what looks like an address and is none."""
    return Address.of(name) if is_address(name) else Path(name)


def is_address(name: str) -> bool:
    """Whether a word names something behind an address, and not a file or folder here."""
    return "://" in name or name.startswith("hf:")


def shown(url: str) -> str:
    """An address without user, password, query (tokens, signatures) and fragment; other words as they are."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return SECRETS.sub("", url) if is_address(url) else url
    host, slash, path = rest.partition("/")
    secret = WEB_SECRETS if scheme.lower() in WEB else SECRETS
    return f"{scheme}://{secret.sub('', host.rpartition('@')[2])}{slash}{secret.sub('', path)}"
