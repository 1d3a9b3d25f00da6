"""What is kept on this machine's disk: footers, and what was read of ``metadata.parquet``.  Losing it costs a read.

$XDG_CACHE_HOME/mtembed, else ~/.cache/mtembed
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from mtembed.storage.address import Address
from mtembed.storage.store import Head


def folder() -> Path:
    """Where it is."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtembed"


def place(address: Address, head: Head, kind: str) -> Path:
    """The file for something of one version of what lies behind an address."""
    mark = hashlib.sha256(f"{address}\n{head.size}\n{head.tag}".encode()).hexdigest()
    return folder() / kind / mark[:2] / mark


def kept(path: Path) -> bytes | None:
    """What is there."""
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return None


def keep(path: Path, content: bytes) -> None:
    """Whole or not at all; where there is no room for it, not at all."""
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(content)
        scratch.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink()
