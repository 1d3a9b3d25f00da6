"""A whole dataset on this machine's disk: its folder, or copies of the files that lie behind an address."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from mtembed.dataset.board import MOST_BYTES
from mtembed.dataset.finding import PARTS, Name, listed, names_below
from mtembed.dataset.folder import WORK
from mtembed.errors import StorageError, UsageError
from mtembed.storage import cache, writing
from mtembed.storage.address import Address, is_address
from mtembed.storage.copies import local
from mtembed.storage.readers import THREADS


@contextmanager
def at_hand(name: Name, parts: bool = True) -> Iterator[Path]:
    """The folder itself, or a temporary one of copies from behind an address; without embeddings unless ``parts``.

    Copies stay in the cache for as long as the files are the same.  Raises UsageError where nothing is behind the
    address, StorageError.
    """
    if not is_address(str(name)):
        yield Path(name)
        return
    address = Address.of(str(name))
    files = listed(address)
    if not files:
        raise UsageError(f"nothing is behind {address}: check the address, and that it may be read")
    with _scratch(address) as root:
        every = [(file, name) for file, name in zip(files, names_below(address, files), strict=True) if _inside(name)]
        wanted = [(file, name) for file, name in every if not name.startswith(f"{WORK}/")]
        if len(wanted) < len(every):
            _copy_work(address.above(0, WORK), root / WORK)
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(
                lambda one: _link(one[0], root / one[1]),
                [one for one in wanted if parts or not one[1].startswith(f"{PARTS}/")],
            ):
                pass
        yield root


@contextmanager
def _scratch(address: Address) -> Iterator[Path]:
    """A temporary folder where links to copies can be made, called as the dataset is."""
    try:
        cache.folder().mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=cache.folder(), prefix="dataset-")
    except OSError as error:
        raise StorageError(
            f"{address} cannot be kept in {cache.folder()} ({error.strerror}): set XDG_CACHE_HOME to a folder with room"
        ) from None
    with scratch:
        yield Path(scratch.name) / address.name


def _copy_work(address: Address, work: Path) -> None:
    """Who is at work, in files that are as old as they are there: by that it is judged who still lives."""
    work.mkdir(parents=True)
    for name, found in writing.listed(address).items():
        (work / name).write_bytes(writing.read(address.above(0, name), MOST_BYTES))
        os.utime(work / name, (found.modified, found.modified))


def _inside(name: str) -> bool:
    return ".." not in Path(name).parts


def _link(file: Address, path: Path) -> None:
    """Nothing where the file is not there."""
    try:
        copy = local(file)
    except FileNotFoundError:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(copy, path)
